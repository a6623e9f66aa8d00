//! No text makes the parser of the configuration panic or hang.

use std::time::{Duration, Instant};

use larder_config::Config;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

const EXAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kvd.toml"));

/// Mutates the example: bytes, lines, numbers, nesting. Bounded by `LARDER_FUZZ_SECONDS` (3), and
/// repeatable by `LARDER_FUZZ_SEED`, which a failure prints.
#[test]
fn no_text_makes_the_parser_panic_or_hang() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = variable("LARDER_FUZZ_SEED").unwrap_or_else(|| StdRng::from_os_rng().random());
    let seconds = variable("LARDER_FUZZ_SECONDS").unwrap_or(3);
    let mut random = StdRng::seed_from_u64(seed);
    let start = Instant::now();
    let (mut accepted, mut refused) = (0u64, 0u64);
    println!("LARDER_FUZZ_SEED={seed}");
    while start.elapsed() < Duration::from_secs(seconds) {
        let text = mutated(&mut random);
        let begun = Instant::now();
        match Config::parse(&text, "fuzz") {
            Ok(config) => {
                accepted += 1;
                // Refused or not: it must not panic.
                let _ = config.validate();
                let printed = config.to_toml().expect("what was parsed can be printed");
                let again = Config::parse(&printed, "again").expect("what was printed parses");
                assert_eq!(again.to_toml().expect("it can be printed"), printed, "{text}");
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().starts_with("fuzz:"), "{error}");
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "seed {seed}: slow on {text:?}");
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > 0 && refused > 0, "the mutations reach both outcomes");
}

fn mutated(random: &mut StdRng) -> String {
    const PIECES: [&str; 14] = [
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'''",
        "=",
        ".",
        "\n",
        "\u{0}",
        "-9223372036854775808",
        "\"interval:18446744073709551616\"",
        "\u{1f980}",
        "[[log]]\n",
    ];
    let mut text = EXAMPLE.to_owned();
    for _ in 0..random.random_range(0..6) {
        let at = (0..=text.len()).filter(|&at| text.is_char_boundary(at)).collect::<Vec<_>>();
        let from = *at.choose(random).expect("a text has a boundary");
        match random.random_range(0..4) {
            0 => text.insert_str(from, PIECES.choose(random).expect("there are pieces")),
            1 => {
                let to = *at.choose(random).expect("a text has a boundary");
                text.replace_range(from.min(to)..from.max(to), "");
            }
            2 => {
                let deep = random.random_range(1..2_000);
                text.insert_str(from, &"[".repeat(deep));
            }
            _ => {
                let lines: Vec<&str> = EXAMPLE.lines().collect();
                text.insert_str(from, lines.choose(random).expect("the example has lines"));
            }
        }
    }
    text
}
