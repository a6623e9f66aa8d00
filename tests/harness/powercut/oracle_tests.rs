//! The oracle must convict: each kind of wrong state is made by hand, and must not pass.

use std::time::Instant;

use super::*;
use crate::faults::contents::Stored;
use crate::powercut::operation::Generator;
use crate::powercut::traffic::Entry;

/// Two lanes that sent 200 operations each, of which all but the last 20 were acknowledged.
fn journals() -> Vec<Journal> {
    (0..2)
        .map(|id| {
            let mut generator = Generator::new(id, 7);
            generator.begin_round(0, &Contents::new());
            (0..200)
                .map(|index| Entry {
                    operation: generator.operation(),
                    sent: Instant::now(),
                    answer: (index < 180).then(|| (Instant::now(), None)),
                })
                .collect()
        })
        .collect()
}

/// What a correct store holds after `kept` operations of each lane.
fn after(journals: &[Journal], kept: usize) -> Contents {
    let mut contents = Contents::new();
    let text = |text: String| Stored { value: Value::Text(text.into_bytes()), expires_at: None };
    let (mut count, mut chain, mut name) = (0, String::new(), Vec::new());
    for journal in journals {
        for entry in &journal[..kept] {
            entry.operation.apply(&mut contents);
            match &entry.operation {
                Operation::Count { .. } => count += 1,
                Operation::Chain { chain: key, value, .. } => {
                    name.clone_from(key);
                    chain.push_str(&format!("{};", String::from_utf8_lossy(value)));
                }
                _ => {}
            }
        }
    }
    contents.insert(COUNT_KEY.to_vec(), text(count.to_string()));
    contents.insert(name, text(chain));
    contents
}

fn verdict(found: Contents, promise: Promise) -> Result<Verdict> {
    Oracle::new(2).settle(&journals(), found, promise, Instant::now())
}

#[test]
fn any_prefix_beyond_the_acknowledged_passes() {
    for kept in [180, 187, 200] {
        let verdict = verdict(after(&journals(), kept), Promise::Acknowledged).unwrap();
        assert_eq!((verdict.lost, verdict.unacknowledged_kept), (0, 2 * (kept - 180)));
    }
}

#[test]
fn a_prefix_that_lacks_an_acknowledged_operation_is_convicted_or_counted() {
    let found = after(&journals(), 179);
    verdict(found.clone(), Promise::Acknowledged).unwrap_err();
    assert_eq!(verdict(found, Promise::Prefix).unwrap().lost, 2);
}

#[test]
fn a_hole_an_invention_and_a_torn_transaction_are_convicted() {
    let correct = after(&journals(), 190);
    let unique = correct.keys().find(|key| key.starts_with(b"0:u")).unwrap().clone();
    let mut hole = correct.clone();
    hole.remove(&unique);
    let mut invented = correct.clone();
    invented.insert(b"0:u:99999".to_vec(), correct[&unique].clone());
    let mut foreign = correct.clone();
    foreign.insert(b"nobody's".to_vec(), correct[&unique].clone());
    let mut torn = correct.clone();
    torn.insert(b"0:a".to_vec(), correct[&unique].clone());
    for wrong in [hole, invented, foreign, torn] {
        verdict(wrong.clone(), Promise::Acknowledged).unwrap_err();
        verdict(wrong, Promise::Prefix).unwrap_err();
    }
}

#[test]
fn a_count_or_a_chain_that_disagrees_with_the_lanes_is_convicted() {
    let correct = after(&journals(), 190);
    for key in correct.keys().filter(|key| key.starts_with(b"shared:")) {
        let mut wrong = correct.clone();
        let Some(Stored { value: Value::Text(text), .. }) = wrong.get_mut(key) else {
            panic!("shared keys are strings");
        };
        *text = if key == COUNT_KEY { b"1".to_vec() } else { text[text.len() / 2..].to_vec() };
        verdict(wrong, Promise::Acknowledged).unwrap_err();
    }
}
