//! Histories known to be right and known to be wrong, and the search against trying every order.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Action, Operation, STEPS_MAX, Summary, Verdict, check};

fn write(value: u64, called: u64, answered: u64) -> Operation {
    Operation { action: Action::Write(value), called, answered: Some(answered) }
}

fn unknown(value: u64, called: u64) -> Operation {
    Operation { action: Action::Write(value), called, answered: None }
}

fn read(value: u64, called: u64, answered: u64) -> Operation {
    Operation { action: Action::Read(Some(value)), called, answered: Some(answered) }
}

fn read_nothing(called: u64, answered: u64) -> Operation {
    Operation { action: Action::Read(None), called, answered: Some(answered) }
}

fn is_right(history: &[Operation]) -> bool {
    match check(history, STEPS_MAX) {
        Verdict::Linearizable => true,
        Verdict::Violation(_) => false,
        Verdict::Undecided => panic!("{history:?} was given up"),
    }
}

#[test]
fn a_read_sees_the_write_before_it_or_beside_it() {
    assert!(is_right(&[]));
    assert!(is_right(&[read_nothing(0, 1), write(1, 2, 3), read(1, 4, 5)]));
    assert!(is_right(&[write(1, 0, 10), read_nothing(1, 2), read(1, 3, 4)]));
    assert!(is_right(&[write(1, 0, 10), write(2, 0, 10), read(2, 11, 12), read(2, 13, 14)]));
}

#[test]
fn an_acknowledged_write_that_is_gone_is_found() {
    assert!(!is_right(&[write(1, 0, 1), read_nothing(2, 3)]));
    assert!(!is_right(&[write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)]));
}

#[test]
fn a_stale_read_after_a_fresh_one_is_found() {
    let seen_then_not = [write(1, 0, 10), read(1, 1, 2), read_nothing(3, 4)];
    assert!(!is_right(&seen_then_not));
    let back_and_forth =
        [write(1, 0, 10), write(2, 0, 10), read(1, 1, 2), read(2, 3, 4), read(1, 5, 6)];
    assert!(!is_right(&back_and_forth));
}

#[test]
fn a_value_that_nobody_wrote_or_wrote_only_later_is_found() {
    assert!(!is_right(&[read(7, 0, 1)]));
    assert!(!is_right(&[read(1, 0, 1), write(1, 2, 3)]));
}

#[test]
fn a_write_of_unknown_outcome_may_take_effect_late_or_never_but_not_twice() {
    assert!(is_right(&[unknown(1, 0), read_nothing(5, 6)]));
    assert!(is_right(&[unknown(1, 0), read_nothing(5, 6), read(1, 7, 8)]));
    assert!(is_right(&[unknown(1, 0), write(2, 1, 2), read(2, 3, 4), read(1, 50, 60)]));
    assert!(!is_right(&[unknown(1, 0), read(1, 5, 6), read_nothing(7, 8)]));
    let again = [unknown(1, 0), read(1, 5, 6), write(2, 7, 8), read(1, 9, 10)];
    assert!(!is_right(&again));
}

#[test]
fn a_violation_says_what_could_not_be_placed() {
    let Verdict::Violation(place) = check(&[write(1, 0, 1), read_nothing(2, 3)], STEPS_MAX) else {
        panic!("it is a violation")
    };
    assert!(place.contains("still to read it: [Operation { action: Read(None)"), "{place}");
}

#[test]
fn a_search_that_takes_too_long_is_undecided_and_counted() {
    // All at once, and two of them are read as the last: every order of the others is tried.
    let mut history: Vec<_> = (1..=12).map(|value| write(value, 0, 100)).collect();
    history.push(read(1, 200, 201));
    history.push(read(2, 200, 201));
    assert_eq!(check(&history, 20), Verdict::Undecided);
    let histories = BTreeMap::from([("k".to_owned(), history)]);
    let summary = Summary::of(&histories, 20);
    assert_eq!((summary.keys, summary.undecided), (1, 1));
    assert!(!summary.passes(), "one of one is more than one in a hundred");
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut random = StdRng::seed_from_u64(1);
    let (mut right, mut wrong) = (0, 0);
    for _ in 0..4_000 {
        let history = small_history(&mut random);
        let expected = every_order(&history, None);
        assert_eq!(is_right(&history), expected, "{history:?}");
        *(if expected { &mut right } else { &mut wrong }) += 1;
    }
    assert!(right > 400 && wrong > 400, "{right} right and {wrong} wrong: too few of one kind");
}

#[test]
fn a_long_history_of_a_register_is_right_and_wrong_with_one_read_changed() {
    let mut random = StdRng::seed_from_u64(2);
    for _ in 0..20 {
        let mut history = register(&mut random, 600);
        assert!(is_right(&history));
        let last = history.iter().map(|it| it.called).max().unwrap_or(0) + 1_000;
        let first_written = history.iter().find_map(|it| match it.action {
            Action::Write(value) if it.answered.is_some() => Some(value),
            _ => None,
        });
        history.push(read(first_written.expect("there are writes"), last, last + 1));
        assert!(!is_right(&history), "the first value was overwritten long ago");
    }
}

/// Up to six operations at random times, which may well contradict each other.
fn small_history(random: &mut StdRng) -> Vec<Operation> {
    let count = random.random_range(1..=6);
    let operation = |at: u64| {
        let called = random.random_range(0..12);
        let answered = random.random_bool(0.85).then(|| called + random.random_range(0..6));
        let action = if random.random_bool(0.5) {
            Action::Write(at)
        } else {
            Action::Read(Some(random.random_range(0..=count)).filter(|value| *value > 0))
        };
        Operation { action, called, answered }
    };
    (1..=count).map(operation).collect()
}

/// Whether some order of the operations is one of a register; unknown ones may be left out.
fn every_order(left: &[Operation], value: Option<u64>) -> bool {
    if left.iter().all(|operation| operation.answered.is_none()) {
        return true;
    }
    left.iter().enumerate().any(|(at, next)| {
        let is_first =
            left.iter().all(|other| other.answered.is_none_or(|answered| answered >= next.called));
        let mut rest = left.to_vec();
        rest.remove(at);
        is_first
            && match next.action {
                Action::Write(written) => every_order(&rest, Some(written)),
                Action::Read(read) => {
                    (read == value || next.answered.is_none()) && every_order(&rest, value)
                }
            }
    })
}

/// What three clients saw of a register: each operation takes effect within its interval.
fn register(random: &mut StdRng, count: u64) -> Vec<Operation> {
    let (mut value, mut moment) = (None, 100);
    let mut history = Vec::new();
    for at in 1..=count {
        moment += random.random_range(1..10);
        let called = moment - random.random_range(1..25);
        let is_known = random.random_bool(0.97);
        let action = if random.random_bool(0.5) {
            // Of those of unknown outcome, some have none.
            if is_known || random.random_bool(0.5) {
                value = Some(at);
            }
            Action::Write(at)
        } else {
            Action::Read(value)
        };
        let answered = is_known.then(|| moment + random.random_range(1..25));
        history.push(Operation { action, called, answered });
    }
    history
}
