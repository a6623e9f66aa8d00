//! One seed's run: drawing pipelines, sending them to both servers, comparing the replies.

use anyhow::{Context, Result};

use super::commands::{Planned, Spec, planned, spec, specs};
use super::compare::Rule;
use super::counts::Counts;
use super::draw::{Args, Draw, args};
use super::exceptions::ExceptionHits;
use super::history::History;
use super::pair::{Both, Pair};
use crate::client::encode_into;
use crate::reply::Reply;

/// Connections of a run; the odd ones begin with HELLO 3.
const CONNECTIONS: usize = 4;
/// After so many steps the contents of both servers are compared, besides at the end.
const STEPS_BETWEEN_CONTENTS: usize = 400;

/// Commands that a run has drawn less often than this are preferred; beyond it their weights rule.
const ENOUGH_OF_EACH: u64 = 60;

/// Which commands a run draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// All of them, and the scenarios.
    All,
    /// Commands on keys, outside transactions: each reply is compared byte for byte or as a set.
    Data,
}

/// A run of one seed.
pub struct Run {
    pub(super) pair: Pair,
    pub(super) seed: u64,
    pub(super) draw: Draw,
    pub(super) connections: Vec<Connection>,
    /// Used for questions that are no part of what is compared.
    pub(super) control: Both,
    pub(super) history: History,
    mix: Mix,
    taken: usize,
    /// What was compared so far.
    pub counts: Counts,
    /// Which deliberate differences were met.
    pub hits: ExceptionHits,
}

/// A connection to each server, and what is queued in its transaction.
pub(super) struct Connection {
    pub(super) both: Both,
    pub(super) queue: Option<Vec<Planned>>,
}

impl Run {
    /// Connects to both servers and empties them.
    ///
    /// # Errors
    /// When either cannot be reached.
    pub fn new(pair: Pair, seed: u64, mix: Mix) -> Result<Self> {
        let mut run = Self {
            pair,
            seed,
            draw: Draw::new(seed),
            connections: Vec::new(),
            control: pair.connect()?,
            history: History::default(),
            mix,
            taken: 0,
            counts: Counts::default(),
            hits: ExceptionHits::default(),
        };
        run.start_afresh()?;
        Ok(run)
    }

    /// Empties both servers and connects anew: what a run needs at its start, and after a
    /// difference if it is to go on and look for more.
    ///
    /// # Errors
    /// When either server cannot be reached, or they differ in HELLO.
    pub fn start_afresh(&mut self) -> Result<()> {
        self.control = self.pair.connect()?;
        for client in self.control.each() {
            client.expect_ok(&["FLUSHALL"])?;
        }
        self.connections.clear();
        for i in 0..CONNECTIONS {
            let connection = self.fresh_connection()?;
            self.connections.push(connection);
            if i % 2 == 1 {
                self.exchange(i, vec![planned("HELLO", args!["3"])], false)?;
            }
        }
        Ok(())
    }

    pub(super) fn fresh_connection(&self) -> Result<Connection> {
        Ok(Connection { both: self.pair.connect()?, queue: None })
    }

    /// Goes on until `steps` steps were taken, comparing the contents now and then and at the end.
    ///
    /// # Errors
    /// A [`super::Mismatch`] where the servers differ; another error where one cannot be used.
    pub fn steps(&mut self, steps: usize) -> Result<()> {
        while self.taken < steps {
            self.taken += 1;
            self.step().with_context(|| format!("seed {}, step {}", self.seed, self.taken))?;
            if self.taken.is_multiple_of(STEPS_BETWEEN_CONTENTS) {
                self.compare_contents()?;
            }
        }
        self.compare_contents()
    }

    fn step(&mut self) -> Result<()> {
        let connection = self.draw.below(self.connections.len());
        if self.mix == Mix::All && self.connections[connection].queue.is_none() {
            match self.draw.below(100) {
                0..=2 => return self.scan_to_its_end(connection),
                3 => return self.key_that_expires(connection),
                4 | 5 => return self.replies_switched_off(connection),
                6 | 7 => return self.quit(connection),
                8 => return self.bad_request(),
                _ => {}
            }
        }
        let pipeline = self.drawn_pipeline(connection);
        let inline = self.draw.chance(12) && pipeline.iter().all(|one| has_inline_form(&one.args));
        self.exchange(connection, pipeline, inline)
    }

    fn drawn_pipeline(&mut self, connection: usize) -> Vec<Planned> {
        let length = match self.draw.below(20) {
            0..=11 => 1,
            12..=18 => 2 + self.draw.below(8),
            _ => 40 + self.draw.below(60),
        };
        let mut in_transaction = self.connections[connection].queue.is_some();
        let mut pipeline = Vec::new();
        for _ in 0..length {
            let spec = self.drawn_spec(in_transaction);
            let mut command = spec.command(&mut self.draw);
            let spoilt = self.draw.chance(14);
            if spoilt {
                command.spoil(&mut self.draw);
            } else {
                match spec.name {
                    "MULTI" => in_transaction = true,
                    "EXEC" | "DISCARD" | "RESET" => in_transaction = false,
                    _ => {}
                }
            }
            let probe = probe_of_a_past_expiry(&command).or_else(|| probe_of_a_setting(&command));
            pipeline.push(command);
            pipeline.extend(probe);
        }
        pipeline
    }

    fn drawn_spec(&mut self, in_transaction: bool) -> &'static Spec {
        if self.mix == Mix::All {
            match (in_transaction, self.draw.below(100)) {
                (true, 0..=21) => return spec("EXEC"),
                (true, 22..=24) => return spec("DISCARD"),
                (false, 0..=4) => return spec("MULTI"),
                (false, 5..=7) => return spec("WATCH"),
                _ => {}
            }
        }
        let allowed: Vec<&'static Spec> = specs()
            .filter(|spec| spec.weight > 0)
            .filter(|spec| self.mix == Mix::All || (spec.data && is_strict(spec.rule)))
            .filter(|spec| !in_transaction || spec.queues)
            .collect();
        if self.draw.chance(30) {
            let rarest = allowed.iter().min_by_key(|spec| self.counts.of(spec.name));
            if let Some(rarest) = rarest
                && self.counts.of(rarest.name) < ENOUGH_OF_EACH
            {
                return rarest;
            }
        }
        let total: usize = allowed.iter().map(|spec| spec.weight).sum();
        let mut at = self.draw.below(total);
        for spec in &allowed {
            if at < spec.weight {
                return spec;
            }
            at -= spec.weight;
        }
        allowed[0]
    }

    /// Sends a pipeline to both servers in one piece each, and compares the replies.
    pub(super) fn exchange(
        &mut self,
        connection: usize,
        pipeline: Vec<Planned>,
        inline: bool,
    ) -> Result<()> {
        let mut wire = Vec::new();
        for command in &pipeline {
            if inline {
                encode_inline(&mut wire, &command.args);
            } else {
                encode_into(&mut wire, &command.args);
            }
        }
        self.connections[connection].both.send_raw(&wire)?;
        let is_alone = pipeline.len() == 1;
        let mut verdict = Ok(());
        for command in pipeline {
            // After a difference the rest is read all the same: what was sent has then been done.
            let (reference, subject) = self.reply_pair(connection, &command.args)?;
            if verdict.is_err() {
                continue;
            }
            verdict = self.judge(connection, &command, &reference, &subject);
            let queues = self.connections[connection].queue.is_some();
            if verdict.is_ok() && is_alone && !queues {
                verdict = self.judge_membership(connection, &command, [&reference, &subject]);
            }
        }
        verdict
    }

    /// The next reply of both sides of a connection. A missing one of the subject is a mismatch.
    pub(super) fn reply_pair(&mut self, connection: usize, args: &Args) -> Result<(Reply, Reply)> {
        let both = &mut self.connections[connection].both;
        let reference = both.reference.reply().context("the reference")?.reply;
        self.history.push(connection, args, &reference);
        match both.subject.reply() {
            Ok(subject) => Ok((reference, subject.reply)),
            Err(error) => {
                let replies = [reference.describe(), format!("none: {error:#}")];
                Err(self.mismatch(connection, args, [&replies[0], &replies[1]], "no reply"))
            }
        }
    }

    pub(super) fn mismatch(
        &self,
        connection: usize,
        args: &Args,
        replies: [&str; 2],
        why: &str,
    ) -> anyhow::Error {
        self.history.mismatch(self.seed, connection, args, replies, why).into()
    }
}

/// Whether two different replies can never count as equal but for their order.
fn is_strict(rule: Rule) -> bool {
    matches!(rule, Rule::Exact | Rule::Multiset | Rule::Pairs)
}

/// Redis keeps a key that was SET with an expiry in the past until it is next looked at. Looking
/// at once keeps DBSIZE and KEYS comparable.
fn probe_of_a_past_expiry(command: &Planned) -> Option<Planned> {
    let names_a_moment =
        |arg: &Vec<u8>| arg.eq_ignore_ascii_case(b"EXAT") || arg.eq_ignore_ascii_case(b"PXAT");
    let is_candidate = command.spec.name == "SET" && command.args.iter().any(names_a_moment);
    is_candidate.then(|| planned("EXISTS", vec![command.args[1].clone()]))
}

/// What a parameter is after it was set, or not.
fn probe_of_a_setting(command: &Planned) -> Option<Planned> {
    let name = command.args.get(2).filter(|_| command.spec.name == "CONFIG SET")?;
    Some(planned("CONFIG GET", vec![name.clone()]))
}

/// Whether a command can be sent as a line. A first byte of `*` or `$` would begin something else.
fn has_inline_form(args: &Args) -> bool {
    args.iter().map(Vec::len).sum::<usize>() < 4_000
}

fn encode_inline(out: &mut Vec<u8>, args: &Args) {
    for (i, arg) in args.iter().enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        if i == 0 {
            out.extend_from_slice(arg);
            continue;
        }
        out.push(b'"');
        for &byte in arg {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                0x20..=0x7e => out.push(byte),
                _ => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
            }
        }
        out.push(b'"');
    }
    out.extend_from_slice(b"\r\n");
}
