//! Values that look like what services store as JSON: fixed names of fields, numbers, times, a few
//! words of a small vocabulary, and tokens that no compression helps with.

use std::fmt::Write as _;

use rand::{Rng as _, rngs::SmallRng};

const STATES: [&str; 4] = ["active", "pending", "shipped", "cancelled"];
const CITIES: [&str; 6] = ["Shenzhen", "Tianjin", "Shanghai", "Chengdu", "Hangzhou", "Xiamen"];
const TAGS: [&str; 6] = ["new", "mobile", "gift", "priority", "returning", "wholesale"];

/// Writes an order of about 450 bytes into `out`, which is emptied first.
pub fn write_order(out: &mut String, random: &mut SmallRng) {
    out.clear();
    let user: u32 = random.random_range(0..10_000_000);
    let (state, city) = (pick(&STATES, random), pick(&CITIES, random));
    let (day, second, ms) =
        (random.random_range(1..=28), random.random_range(0..60), random.random_range(0..1000));
    // Writing to a string does not fail.
    let _ = write!(
        out,
        r#"{{"id":{},"user":{{"id":"u{user:08}","email":"u{user:08}@example.com","city":"{city}"}},"#,
        random.random_range(0..1_000_000_000_u64)
    );
    let _ = write!(
        out,
        r#""status":"{state}","created_at":"2026-03-{day:02}T08:22:{second:02}.{ms:03}Z","#
    );
    out.push_str(r#""items":["#);
    for item in 0..3 {
        let comma = if item == 0 { "" } else { "," };
        let _ = write!(
            out,
            r#"{comma}{{"sku":"SKU-{:06}","quantity":{},"price_cents":{}}}"#,
            random.random_range(0..100_000),
            random.random_range(1..10),
            random.random_range(100..100_000)
        );
    }
    let _ = write!(
        out,
        r#"],"tags":["{}","{}"],"currency":"CNY","gift":false,"session":"{:032x}"}}"#,
        pick(&TAGS, random),
        pick(&TAGS, random),
        random.random::<u128>()
    );
}

fn pick<'a>(words: &[&'a str], random: &mut SmallRng) -> &'a str {
    words[random.random_range(0..words.len())]
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn an_order_is_json_of_about_its_size_and_no_two_are_the_same() {
        let mut random = SmallRng::seed_from_u64(1);
        let (mut order, mut last) = (String::new(), String::new());
        for _ in 0..100 {
            write_order(&mut order, &mut random);
            assert!(serde_json::from_str::<serde_json::Value>(&order).is_ok(), "{order}");
            assert!((380..520).contains(&order.len()), "{}: {order}", order.len());
            assert_ne!(order, last);
            last.clone_from(&order);
        }
    }
}
