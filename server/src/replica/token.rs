//! Session tokens: the place of a write in its log, opaque to clients, and whether a reader here has
//! it.

use std::fmt;

use larder_storage::Store;
use larder_types::{Epoch, EpochStart, LogId, Position, SequenceNumber};

/// A place in a log: what KV.TOKEN answers and KV.AFTER takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The log.
    pub log: LogId,
    /// The record.
    pub position: Position,
}

/// Where a token's record stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// Readers see it.
    Visible,
    /// It may still come.
    Awaited,
    /// It is not in this history, and will never be.
    Lost,
    /// It is older than what this node remembers of its history.
    Forgotten,
}

impl Token {
    /// Reads a token; `None` for what is none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let [log, epoch, seq] = text.split(':').collect::<Vec<_>>().try_into().ok()?;
        let (numbers, id) = epoch.split_once('-')?;
        let (term, run) = numbers.split_once('.')?;
        let epoch = Epoch {
            term: term.parse().ok()?,
            run: run.parse().ok()?,
            id: u64::from_str_radix(id, 16).ok()?,
        };
        let seq = SequenceNumber::new(seq.parse().ok()?)?;
        let token = Self { log: log_of(log)?, position: Position { epoch, seq } };
        // One text for one token.
        (token.to_string() == text).then_some(token)
    }

    /// Where the record stands in this store.
    pub fn whereabouts(&self, store: &Store) -> Whereabouts {
        let log = store.log();
        if log.id() != self.log {
            return Whereabouts::Lost;
        }
        whereabouts(&log.epochs(), self.position, store.watermarks().visible)
    }
}

fn log_of(text: &str) -> Option<LogId> {
    let digits = text.as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(LogId::from_bytes(bytes))
}

/// By the epochs of this node's history: a number alone says nothing.
fn whereabouts(epochs: &[EpochStart], at: Position, visible: u64) -> Whereabouts {
    let Some(index) = epochs.iter().position(|start| start.epoch == at.epoch) else {
        let newest = epochs.last().map(|start| start.epoch);
        let oldest = epochs.first().map(|start| start.epoch);
        return match (oldest, newest) {
            (Some(oldest), _) if at.epoch.order(oldest).is_some_and(|order| order.is_lt()) => {
                Whereabouts::Forgotten
            }
            // This history goes on without it.
            (_, Some(newest)) if at.epoch.order(newest).is_none_or(|order| order.is_le()) => {
                Whereabouts::Lost
            }
            _ => Whereabouts::Awaited,
        };
    };
    match epochs.get(index + 1) {
        Some(next) if at.seq >= next.first => Whereabouts::Lost,
        _ if at.seq.as_u64() <= visible => Whereabouts::Visible,
        _ => Whereabouts::Awaited,
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { epoch, seq } = self.position;
        write!(f, "{}:{epoch}:{seq}", self.log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(term: u32, run: u32) -> Epoch {
        Epoch { term, run, id: u64::from(term * 10 + run) }
    }

    fn at(epoch: Epoch, seq: u64) -> Position {
        Position { epoch, seq: SequenceNumber::new(seq).unwrap() }
    }

    fn history() -> Vec<EpochStart> {
        let start = |epoch, first| EpochStart { epoch, first: SequenceNumber::new(first).unwrap() };
        vec![start(epoch(2, 1), 100), start(epoch(4, 1), 200)]
    }

    #[test]
    fn a_token_is_read_as_it_was_written_and_in_no_other_form() {
        let log = LogId::from_bytes(*b"0123456789jklmno");
        let token = Token { log, position: at(epoch(3, 2), 77) };
        let text = token.to_string();
        assert_eq!(Token::parse(text.as_bytes()), Some(token));
        for wrong in ["", "a:b:c", &text.to_uppercase(), &format!("{text} "), &text[1..]] {
            assert_eq!(Token::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(Token::parse(b"\xff:1.1-00:1"), None);
    }

    #[test]
    fn a_record_of_this_history_is_awaited_until_it_is_visible() {
        assert_eq!(whereabouts(&history(), at(epoch(4, 1), 250), 249), Whereabouts::Awaited);
        assert_eq!(whereabouts(&history(), at(epoch(4, 1), 250), 250), Whereabouts::Visible);
        assert_eq!(whereabouts(&history(), at(epoch(2, 1), 150), 250), Whereabouts::Visible);
    }

    #[test]
    fn a_record_of_a_parted_history_is_lost_whatever_its_number() {
        // Written by the old master beyond where the new epoch begins.
        assert_eq!(whereabouts(&history(), at(epoch(2, 1), 200), 250), Whereabouts::Lost);
        // Of an epoch that this history never had, though a newer one has begun.
        assert_eq!(whereabouts(&history(), at(epoch(3, 1), 150), 250), Whereabouts::Lost);
        let same_number = Epoch { id: 99, ..epoch(4, 1) };
        assert_eq!(whereabouts(&history(), at(same_number, 220), 250), Whereabouts::Lost);
    }

    #[test]
    fn an_epoch_that_is_still_to_come_is_awaited_and_one_long_gone_is_said_to_be() {
        assert_eq!(whereabouts(&history(), at(epoch(5, 1), 300), 250), Whereabouts::Awaited);
        assert_eq!(whereabouts(&[], at(epoch(5, 1), 300), 0), Whereabouts::Awaited);
        assert_eq!(whereabouts(&history(), at(epoch(1, 1), 50), 250), Whereabouts::Forgotten);
    }
}
