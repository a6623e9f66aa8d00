//! Writers outside of the cluster, each with one write under way at a time, whose journal is kept on
//! another file system than any node's data: who wrote what at which level, when it was sent, and what was
//! answered when.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::target::{Attempt, Target};
use crate::client::Client;
use crate::deadline::Deadline;

/// Keys asked for in one command when the journal is compared.
const KEYS_AT_ONCE: usize = 500;
/// How long no node may take a write.
const SERVED_DEADLINE: Duration = Duration::from_secs(30);
/// Losses that are named.
const NAMED_MAX: usize = 5;

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged at its level.
    Acknowledged,
    /// It was refused, so that it must not be there.
    Refused(String),
    /// It may be there or not.
    Undecided(String),
}

/// A write.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its key, written once only; the value is the same.
    pub id: String,
    /// Just before it was sent.
    pub sent: Instant,
    /// When its outcome was known.
    pub known: Instant,
    /// What that is.
    pub outcome: Outcome,
}

/// Writers at work.
#[derive(Debug)]
pub struct Writers {
    threads: Vec<JoinHandle<Result<Vec<Entry>>>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Writers {
    /// Starts writers, who go from node to node until one takes their writes. `level` is what they
    /// ask for and what the journals say; `name` begins the keys.
    ///
    /// # Errors
    /// When a journal cannot be made.
    pub fn start(
        nodes: &[SocketAddr],
        count: usize,
        name: &str,
        level: &'static str,
        journals: &Path,
    ) -> Result<Self> {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut threads = Vec::new();
        for lane in 0..count {
            let writer = Writer {
                target: Target::new(nodes.to_vec(), vec!["KV.ACK", level]),
                name: format!("{name}:{lane}"),
                level,
                journal: File::create(journals.join(format!("{name}-{lane}.journal")))?,
                began: Instant::now(),
                stop: stop.clone(),
                acknowledged: acknowledged.clone(),
                entries: Vec::new(),
            };
            threads.push(std::thread::spawn(move || writer.run()));
        }
        Ok(Self { threads, stop, acknowledged })
    }

    /// How many writes have been acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` writes have been acknowledged from now on.
    ///
    /// # Errors
    /// When they are not within `allowed`.
    pub fn wait_for_more(&self, more: usize, allowed: Duration) -> Result<()> {
        let goal = self.acknowledged() + more;
        Deadline::after(allowed).wait_for("acknowledged writes", || {
            if self.threads.iter().any(JoinHandle::is_finished) {
                bail!("a writer has ended");
            }
            Ok((self.acknowledged() >= goal).then_some(()))
        })
    }

    /// Stops, and returns what was written.
    ///
    /// # Errors
    /// When a writer found no node to write to.
    pub fn finish(self) -> Result<Book> {
        self.stop.store(true, Ordering::Relaxed);
        let mut entries = Vec::new();
        for thread in self.threads {
            entries.extend(thread.join().map_err(|_| anyhow!("a writer panicked"))??);
        }
        entries.sort_by_key(|entry| entry.known);
        Ok(Book { entries })
    }
}

struct Writer {
    target: Target,
    name: String,
    level: &'static str,
    journal: File,
    began: Instant,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    entries: Vec<Entry>,
}

impl Writer {
    fn run(mut self) -> Result<Vec<Entry>> {
        while !self.stop.load(Ordering::Relaxed) {
            Deadline::after(SERVED_DEADLINE).wait_for("a node that takes writes", || {
                let goes_on = self.write()? || self.stop.load(Ordering::Relaxed);
                Ok(goes_on.then_some(()))
            })?;
        }
        Ok(self.entries)
    }

    /// Writes the next key. Returns whether it was acknowledged.
    fn write(&mut self) -> Result<bool> {
        let id = format!("{}:{}", self.name, self.entries.len());
        let sent = Instant::now();
        writeln!(self.journal, "{id} {} sent {}", self.level, self.micros(sent))?;
        let attempt = self.target.attempt(&["SET", &id, &id]);
        let known = Instant::now();
        let outcome = match attempt {
            Attempt::NotSent => return Ok(false),
            Attempt::Done(_) => Outcome::Acknowledged,
            Attempt::Refused(why) => Outcome::Refused(why),
            Attempt::Unknown(why) => Outcome::Undecided(why),
        };
        writeln!(self.journal, "{id} {outcome} {}", self.micros(known))?;
        let is_acknowledged = outcome == Outcome::Acknowledged;
        if is_acknowledged {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.entries.push(Entry { id, sent, known, outcome });
        Ok(is_acknowledged)
    }

    fn micros(&self, at: Instant) -> u128 {
        at.duration_since(self.began).as_micros()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acknowledged => f.write_str("acknowledged"),
            Self::Refused(why) => write!(f, "refused ({why})"),
            Self::Undecided(why) => write!(f, "undecided ({why})"),
        }
    }
}

/// All that was written, in the order in which the outcomes became known.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// The writes.
    pub entries: Vec<Entry>,
}

/// What a node has of a book.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Of these, those that are not there.
    pub lost: usize,
    /// These.
    pub missing: Vec<String>,
    /// Writes that were refused.
    pub refused: usize,
    /// Of these, those that are there.
    pub refused_kept: usize,
    /// Writes of which nobody knew what becomes.
    pub undecided: usize,
    /// Of these, those that are there.
    pub undecided_kept: usize,
}

impl Book {
    /// Compares with what a node answers now.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn compare(&self, client: &mut Client) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        for entries in self.entries.chunks(KEYS_AT_ONCE) {
            let mut command = vec!["MGET"];
            command.extend(entries.iter().map(|entry| entry.id.as_str()));
            let reply = client.expect_ok(&command)?;
            for (entry, found) in entries.iter().zip(reply.items()) {
                verdict.count(entry, found.text() == entry.id.as_bytes());
            }
        }
        Ok(verdict)
    }

    /// Takes the acknowledgements that came between two moments for undecided: nobody would have
    /// heard of them.
    pub fn doubt(&mut self, from: Instant, until: Instant) {
        for entry in &mut self.entries {
            let is_doubtful = entry.known >= from && entry.sent <= until;
            if is_doubtful && entry.outcome == Outcome::Acknowledged {
                entry.outcome = Outcome::Undecided("acknowledged without power".into());
            }
        }
    }

    /// The longest time without an acknowledgement between the first and the last one.
    pub fn longest_silence(&self) -> Duration {
        let acknowledged = self.entries.iter().filter(|it| it.outcome == Outcome::Acknowledged);
        let known: Vec<_> = acknowledged.map(|entry| entry.known).collect();
        known.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// What an acknowledged write took at most, of those sent between two moments.
    pub fn slowest(&self, from: Instant, until: Instant) -> Duration {
        let within = self.entries.iter().filter(|entry| {
            entry.outcome == Outcome::Acknowledged && entry.sent >= from && entry.sent < until
        });
        within.map(|entry| entry.known - entry.sent).max().unwrap_or_default()
    }
}

impl Verdict {
    fn count(&mut self, entry: &Entry, is_there: bool) {
        let kept = usize::from(is_there);
        match &entry.outcome {
            Outcome::Acknowledged => {
                self.acknowledged += 1;
                self.lost += 1 - kept;
                if !is_there {
                    self.missing.push(entry.id.clone());
                }
            }
            Outcome::Refused(_) => {
                self.refused += 1;
                self.refused_kept += kept;
            }
            Outcome::Undecided(_) => {
                self.undecided += 1;
                self.undecided_kept += kept;
            }
        }
    }

    /// Fails unless everything acknowledged is there and nothing refused is.
    ///
    /// # Errors
    /// With the counts.
    pub fn expect_nothing_lost(&self) -> Result<()> {
        if self.lost > 0 || self.refused_kept > 0 {
            let named = &self.missing[..self.missing.len().min(NAMED_MAX)];
            bail!("{self}; lost: {}", named.join(", "));
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged writes, {} lost; {} refused, {} of them there; {} undecided, {} of them \
             there",
            self.acknowledged,
            self.lost,
            self.refused,
            self.refused_kept,
            self.undecided,
            self.undecided_kept
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, outcome: Outcome) -> Entry {
        let now = Instant::now();
        Entry { id: id.to_owned(), sent: now, known: now, outcome }
    }

    #[test]
    fn an_acknowledged_write_that_is_missing_fails_and_so_does_a_refused_one_that_is_there() {
        let mut verdict = Verdict::default();
        verdict.count(&entry("a", Outcome::Acknowledged), true);
        verdict.count(&entry("b", Outcome::Undecided("timeout".into())), true);
        verdict.count(&entry("c", Outcome::Undecided("timeout".into())), false);
        verdict.count(&entry("d", Outcome::Refused("READONLY".into())), false);
        verdict.expect_nothing_lost().unwrap();
        let mut lost = verdict.clone();
        lost.count(&entry("e", Outcome::Acknowledged), false);
        let error = lost.expect_nothing_lost().unwrap_err().to_string();
        assert!(error.contains("2 acknowledged writes, 1 lost") && error.ends_with("lost: e"));
        verdict.count(&entry("f", Outcome::Refused("READONLY".into())), true);
        assert!(verdict.expect_nothing_lost().is_err());
    }
}
