//! Judges what a store holds after a fault, against what the lanes sent and were answered.
//!
//! For every lane there must be a number of operations, at least the acknowledged ones and at most
//! those sent, that leads to exactly what is there: nothing missing, nothing out of order, nothing
//! invented. Between lanes, the shared count must be the sum of the counting operations that
//! survived, and the chain must hold just the survivors' entries, each lane's in its order.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::operation::{CHAIN_PREFIX, COUNT_KEY, Operation, lane_prefix};
use super::traffic::Journal;
use crate::faults::contents::{Contents, Value, described};
use crate::reply::quoted;

/// Which of the operations must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// All that were acknowledged.
    Acknowledged,
    /// None of this round; but what is there must still be a prefix of what was sent.
    Prefix,
}

/// What the oracle knows to be there.
#[derive(Debug)]
pub struct Oracle {
    lanes: Vec<Contents>,
    /// The value of [`COUNT_KEY`].
    count: u64,
    /// Chains of all rounds.
    shared: Contents,
}

/// What became of a round.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Operations that were acknowledged.
    pub acknowledged: usize,
    /// Operations that were sent and not acknowledged in time.
    pub unacknowledged: usize,
    /// How many of those are there.
    pub unacknowledged_kept: usize,
    /// Operations that were acknowledged and are not there.
    pub lost: usize,
    /// When the first of those was acknowledged.
    pub first_loss: Option<Instant>,
}

impl Oracle {
    /// Knows an empty store.
    pub fn new(lanes: usize) -> Self {
        Self { lanes: vec![Contents::new(); lanes], count: 0, shared: Contents::new() }
    }

    /// What a lane holds by the last verdict.
    pub fn lane(&self, id: usize) -> &Contents {
        &self.lanes[id]
    }

    /// Compares what was `found` with the journals of a round, and takes it as the state from
    /// which the next round begins. Acknowledgements that came after `until` promised nothing.
    ///
    /// # Errors
    /// When what is there is not what a correct store can hold; says which key is wrong, and how.
    pub fn settle(
        &mut self,
        journals: &[Journal],
        mut found: Contents,
        promise: Promise,
        until: Instant,
    ) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        let mut survivors = Vec::new();
        for (id, journal) in journals.iter().enumerate() {
            let mine = take_prefix(&mut found, &lane_prefix(id));
            let kept = self
                .settle_lane(id, journal, &mine, promise, until)
                .with_context(|| format!("lane {id}"))?;
            account(journal, kept, until, &mut verdict);
            survivors.push(&journal[..kept]);
        }
        self.settle_shared(&survivors, found)?;
        Ok(verdict)
    }

    /// Finds out how many operations of a lane took effect.
    fn settle_lane(
        &mut self,
        id: usize,
        journal: &Journal,
        found: &Contents,
        promise: Promise,
        until: Instant,
    ) -> Result<usize> {
        let required = match promise {
            Promise::Prefix => 0,
            // The answers come in order, so those acknowledged last count for all before.
            Promise::Acknowledged => journal
                .iter()
                .rposition(|entry| entry.acknowledged(until).is_some())
                .map_or(0, |last| last + 1),
        };
        let lane = &mut self.lanes[id];
        for entry in &journal[..required] {
            entry.operation.apply(lane);
        }
        let mut wrong: std::collections::BTreeSet<Vec<u8>> = lane
            .keys()
            .chain(found.keys())
            .filter(|key| lane.get(*key) != found.get(*key))
            .cloned()
            .collect();
        let first = wrong.first().cloned();
        for (index, entry) in journal.iter().enumerate().skip(required) {
            if wrong.is_empty() {
                return Ok(index);
            }
            entry.operation.apply(lane);
            for key in entry.operation.keys() {
                if lane.get(key) == found.get(key) {
                    wrong.remove(key);
                } else {
                    wrong.insert(key.clone());
                }
            }
        }
        if wrong.is_empty() {
            return Ok(journal.len());
        }
        // A key that no unanswered operation touches is wrong whatever the prefix.
        let touched = |key: &Vec<u8>| {
            journal[required..].iter().any(|entry| entry.operation.keys().contains(&key))
        };
        let worst = wrong.iter().find(|key| !touched(key)).cloned().or(first);
        let worst = worst.unwrap_or_default();
        bail!(
            "no prefix of the {} operations sent, of which {required} must be there, leads to what \
             was found: {} keys are wrong, for example {}: found {}, after all of them it would be \
             {}; operations on it: {}",
            journal.len(),
            wrong.len(),
            quoted(&worst),
            described(found.get(&worst)),
            described(lane.get(&worst)),
            history(journal, &worst),
        );
    }

    fn settle_shared(
        &mut self,
        survivors: &[&[super::traffic::Entry]],
        found: Contents,
    ) -> Result<()> {
        let mut found = found;
        let counted = survivors
            .iter()
            .flat_map(|entries| entries.iter())
            .filter(|entry| matches!(entry.operation, Operation::Count { .. }))
            .count();
        self.count += counted as u64;
        let count = match found.remove(COUNT_KEY).map(|stored| stored.value) {
            None => 0,
            Some(Value::Text(text)) => std::str::from_utf8(&text)?.parse().context("the count")?,
            Some(other) => bail!("the shared count is {other:?}"),
        };
        ensure!(
            count == self.count,
            "the shared count is {count}, but {} of the operations that count are there",
            self.count
        );
        let (name, entries) = chained(survivors);
        if let Some(name) = name {
            let chain = match found.get(&name).map(|stored| &stored.value) {
                Some(Value::Text(text)) => text.as_slice(),
                _ => b"",
            };
            check_chain(chain, &entries)?;
            if let Some(stored) = found.get(&name) {
                self.shared.insert(name, stored.clone());
            }
        }
        let differing = crate::faults::contents::differences(&self.shared, &found);
        ensure!(differing.is_empty(), "keys that no lane owns: {}", differing.join("; "));
        Ok(())
    }
}

/// The chain of the round and, lane by lane, the entries that must be in it.
fn chained(survivors: &[&[super::traffic::Entry]]) -> (Option<Vec<u8>>, Vec<Vec<Vec<u8>>>) {
    let mut name = None;
    let mut entries = Vec::new();
    for journal in survivors {
        let mut mine = Vec::new();
        for entry in *journal {
            if let Operation::Chain { chain, value, .. } = &entry.operation {
                debug_assert!(chain.starts_with(CHAIN_PREFIX));
                name = Some(chain.clone());
                mine.push(value.clone());
            }
        }
        entries.push(mine);
    }
    (name, entries)
}

fn check_chain(chain: &[u8], expected: &[Vec<Vec<u8>>]) -> Result<()> {
    let mut found = vec![Vec::new(); expected.len()];
    for entry in chain.split(|&byte| byte == b';').filter(|entry| !entry.is_empty()) {
        let lane =
            entry.split(|&byte| byte == b'/').next().and_then(|id| std::str::from_utf8(id).ok());
        let lane: usize = lane.and_then(|id| id.parse().ok()).context("an entry of no lane")?;
        found.get_mut(lane).context("an entry of an unknown lane")?.push(entry.to_vec());
    }
    for (lane, (expected, found)) in expected.iter().zip(&found).enumerate() {
        ensure!(
            expected == found,
            "the chain holds {} entries of lane {lane}, of which {} survived by its own keys: a \
             hole in the history, or an entry that came back",
            found.len(),
            expected.len()
        );
    }
    Ok(())
}

fn account(journal: &Journal, kept: usize, until: Instant, verdict: &mut Verdict) {
    for (index, entry) in journal.iter().enumerate() {
        match entry.acknowledged(until) {
            Some(at) => {
                verdict.acknowledged += 1;
                if index >= kept {
                    verdict.lost += 1;
                    verdict.first_loss = Some(verdict.first_loss.map_or(at, |first| first.min(at)));
                }
            }
            None => {
                verdict.unacknowledged += 1;
                verdict.unacknowledged_kept += usize::from(index < kept);
            }
        }
    }
}

fn take_prefix(contents: &mut Contents, prefix: &[u8]) -> Contents {
    let mut from = contents.split_off(prefix);
    let end = from.keys().find(|key| !key.starts_with(prefix)).cloned();
    if let Some(end) = end {
        contents.append(&mut from.split_off(&end));
    }
    from
}

/// The last operations on a key, for people.
fn history(journal: &Journal, key: &[u8]) -> String {
    let of_key = journal
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.operation.keys().iter().any(|touched| *touched == key));
    let mut lines: Vec<String> = of_key
        .map(|(index, entry)| {
            let fate = match &entry.answer {
                None => "unanswered".to_owned(),
                Some((_, None)) => "acknowledged".to_owned(),
                Some((_, Some(error))) => error.clone(),
            };
            let mut shown = format!("{:?}", entry.operation);
            shown.truncate(120);
            format!("#{index} {fate} {shown}")
        })
        .collect();
    lines.split_off(lines.len().saturating_sub(4)).join(", ")
}

#[cfg(test)]
#[path = "oracle_tests.rs"]
mod tests;
