//! Comparing everything that the two servers hold.

use anyhow::Result;

use super::compare::{Rule, compare};
use super::draw::args;
use super::run::Run;
use crate::reply::Reply;

impl Run {
    /// Compares number, names, types, values and expiries of all keys.
    ///
    /// # Errors
    /// A [`super::Mismatch`] naming the first key that differs.
    pub fn compare_contents(&mut self) -> Result<()> {
        let keys = self.ask(Rule::Multiset, &[b"KEYS", b"*"])?;
        self.ask(Rule::Exact, &[b"DBSIZE"])?;
        for key in keys.items() {
            let key = key.text();
            let kind = self.ask(Rule::Exact, &[b"TYPE", key])?;
            match kind.text() {
                b"string" => self.ask(Rule::Exact, &[b"GET", key])?,
                b"hash" => self.ask(Rule::Pairs, &[b"HGETALL", key])?,
                other => anyhow::bail!("a key of type {}", String::from_utf8_lossy(other)),
            };
            self.ask(Rule::UntilMs, &[b"PEXPIRETIME", key])?;
        }
        self.counts.contents += 1;
        Ok(())
    }

    fn ask(&mut self, rule: Rule, command: &[&[u8]]) -> Result<Reply> {
        let reference = self.control.reference.call(command)?;
        let subject = self.control.subject.call(command)?;
        match compare(rule, &reference, &subject) {
            Ok(()) => Ok(reference),
            Err(why) => {
                let mut args = args![];
                args.extend(command.iter().map(|arg| arg.to_vec()));
                let replies = [reference.describe(), subject.describe()];
                let why = format!("the contents differ: {why}");
                Err(self.mismatch(usize::MAX, &args, [&replies[0], &replies[1]], &why))
            }
        }
    }
}
