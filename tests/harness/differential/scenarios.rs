//! Steps that are more than a pipeline: scans to their end, keys that expire, connections that
//! are muted, closed or abused.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};

use super::bad_protocol::BAD_REQUESTS;
use super::commands::planned;
use super::draw::{Args, args};
use super::run::Run;
use crate::client::{Client, encode_into};
use crate::deadline::Deadline;
use crate::reply::Reply;

/// A key that expires after [`SHORT_EXPIRY_MS`] must be gone on both sides within this.
const EXPIRY_DEADLINE: Duration = Duration::from_secs(5);
const SHORT_EXPIRY_MS: &str = "20";
/// A scan that has not ended after so many calls runs in a circle.
const SCAN_CALLS_MAX: usize = 10_000;
/// So many elements make a scan take several pages on either side.
const MANY: usize = 700;

impl Run {
    /// SCAN or HSCAN from 0 to 0, each side by its own cursors: the same elements are seen.
    pub(super) fn scan_to_its_end(&mut self, connection: usize) -> Result<()> {
        let of_hash = self.draw.chance(50);
        let key = if self.draw.chance(30) { args!["many"] } else { args![self.draw.hash_key()] };
        let populate = self.draw.chance(25);
        if populate {
            self.populate(connection, of_hash)?;
        }
        let (name, before) = if of_hash { ("HSCAN", key) } else { ("SCAN", args![]) };
        let mut after = args![];
        if self.draw.chance(40) {
            after.extend(args![
                "MATCH",
                self.draw.pick(&["*", "f*", "k*", "*1*", "nosuch", "h[1-3]"])
            ]);
        }
        if self.draw.chance(50) {
            after.extend(args!["COUNT", self.draw.pick(&["1", "7", "100", "100000"])]);
        }
        if !of_hash && self.draw.chance(30) {
            after.extend(args!["TYPE", self.draw.pick(&["string", "hash", "zset"])]);
        }
        let group = if of_hash { 2 } else { 1 };
        let both = &mut self.connections[connection].both;
        let reference = scanned(&mut both.reference, name, &before, &after, group)?;
        let subject = scanned(&mut both.subject, name, &before, &after, group);
        let mut command = args![name];
        command.extend(before);
        command.extend(args!["0"]);
        command.extend(after);
        let first = reference.clone().unwrap_or_else(|error| error);
        self.history.push(connection, &command, &first);
        self.counts.sent(name, reference.is_err());
        let subject = match subject {
            Ok(subject) => subject,
            Err(error) => {
                let shown = format!("{error:#}");
                return Err(self.mismatch(
                    connection,
                    &command,
                    [&first.describe(), &shown],
                    "scan",
                ));
            }
        };
        if reference != subject {
            let shown = |side: &Result<Reply, Reply>| match side {
                Ok(reply) | Err(reply) => reply.describe(),
            };
            let replies = [shown(&reference), shown(&subject)];
            let why = "a scan to its end saw other elements";
            return Err(self.mismatch(connection, &command, [&replies[0], &replies[1]], why));
        }
        if populate {
            self.depopulate(connection)?;
        }
        Ok(())
    }

    fn populate(&mut self, connection: usize, of_hash: bool) -> Result<()> {
        let pairs = (0..MANY).flat_map(|i| args![format!("many:{i}"), "v"]);
        let command = if of_hash {
            planned("HSET", args!["many"].into_iter().chain(pairs).collect())
        } else {
            planned("MSET", pairs.collect())
        };
        self.exchange(connection, vec![command], false)
    }

    fn depopulate(&mut self, connection: usize) -> Result<()> {
        let mut keys: Args = (0..MANY).map(|i| format!("many:{i}").into_bytes()).collect();
        keys.push(b"many".to_vec());
        self.exchange(connection, vec![planned("UNLINK", keys)], false)
    }

    /// A key with a short expiry: once both sides report it gone, it is gone for every command.
    pub(super) fn key_that_expires(&mut self, connection: usize) -> Result<()> {
        let key = self.draw.string_key();
        let ms = SHORT_EXPIRY_MS;
        let ending = match self.draw.below(4) {
            0 => planned("SET", args![&key, "v", "PX", ms]),
            1 => planned("PSETEX", args![&key, ms, "v"]),
            2 => planned("PEXPIRE", args![&key, ms]),
            _ => planned("GETEX", args![&key, "PX", ms]),
        };
        self.exchange(connection, vec![planned("SET", args![&key, "v"]), ending], false)?;
        for (client, side) in self.control.each().into_iter().zip(["reference", "subject"]) {
            let what = format!("the expiry of a key at the {side}");
            Deadline::after(EXPIRY_DEADLINE).wait_for(&what, || {
                Ok((client.call(&[b"EXISTS", key.as_slice()])?.integer() == Some(0)).then_some(()))
            })?;
        }
        let after = ["GET", "TTL", "TYPE", "STRLEN", "PERSIST"];
        let after = after.iter().map(|name| planned(name, args![&key])).collect();
        self.exchange(connection, after, false)?;
        self.exchange(connection, vec![planned("DBSIZE", args![])], false)
    }

    /// CLIENT REPLY OFF and SKIP: commands are carried out, their replies are not sent.
    pub(super) fn replies_switched_off(&mut self, connection: usize) -> Result<()> {
        let (key, value) = (self.draw.string_key(), self.draw.value());
        let off = self.draw.chance(50);
        let silent = if off {
            vec![
                args!["CLIENT", "REPLY", "OFF"],
                args!["SET", &key, value],
                args!["INCR", &key],
                args!["NOSUCHCOMMAND"],
            ]
        } else {
            let skipped = if self.draw.chance(50) {
                args!["SET", &key, value]
            } else {
                args!["WAIT", "1", "1"]
            };
            vec![args!["CLIENT", "REPLY", "SKIP"], skipped]
        };
        let before = planned("PING", args![]);
        let mut wire = Vec::new();
        encode_into(&mut wire, &before.args);
        for command in &silent {
            encode_into(&mut wire, command);
            let none = Reply::Line { kind: b'+', text: b"(not sent)".to_vec() };
            self.history.push(connection, command, &none);
        }
        self.connections[connection].both.send_raw(&wire)?;
        self.counts.sent("CLIENT REPLY", false);
        let (reference, subject) = self.reply_pair(connection, &before.args)?;
        self.judge(connection, &before, &reference, &subject)?;
        let mut answered = vec![planned("GET", args![&key])];
        if off {
            answered.insert(0, planned("CLIENT REPLY", args!["ON"]));
        }
        self.exchange(connection, answered, false)
    }

    /// QUIT in a pipeline: what is before it is answered, it is answered, the rest is not.
    pub(super) fn quit(&mut self, connection: usize) -> Result<()> {
        let key = self.draw.key();
        let mut quit = planned("QUIT", args![]);
        if self.draw.chance(20) {
            quit.args.push(b"now".to_vec());
        }
        let mut wire = Vec::new();
        let answered = vec![planned("TYPE", args![key]), quit];
        for command in &answered {
            encode_into(&mut wire, &command.args);
        }
        encode_into(&mut wire, &["SET", "k1", "after QUIT"]);
        let both = &mut self.connections[connection].both;
        both.send_raw(&wire)?;
        let (reference, subject) = (both.reference.until_closed()?, both.subject.until_closed());
        let command = &answered[1].args;
        let line = Reply::Line { kind: b'+', text: reference.clone() };
        self.history.push(connection, command, &line);
        self.counts.sent("QUIT", false);
        self.expect_same_bytes(connection, command, &reference, subject)?;
        self.connections[connection] = self.fresh_connection()?;
        if self.draw.chance(50) {
            self.exchange(connection, vec![planned("HELLO", args!["3"])], false)?;
        }
        Ok(())
    }

    /// Bytes that are no request, on connections of their own.
    pub(super) fn bad_request(&mut self) -> Result<()> {
        let request = if self.draw.chance(20) {
            [b"*1\r\n", &[self.draw.byte_but(b'$')][..], b"3\r\nGET\r\n"].concat()
        } else {
            BAD_REQUESTS[self.draw.below(BAD_REQUESTS.len())].to_vec()
        };
        let mut both = self.pair.connect()?;
        both.send_raw(&request)?;
        for client in both.each() {
            client.finish_sending()?;
        }
        let reference = both.reference.until_closed()?;
        let subject = both.subject.until_closed();
        self.expect_same_bytes(usize::MAX, &vec![request], &reference, subject)
    }

    fn expect_same_bytes(
        &self,
        connection: usize,
        command: &Args,
        reference: &[u8],
        subject: Result<Vec<u8>>,
    ) -> Result<()> {
        let shown = match subject {
            Ok(subject) if subject == reference => return Ok(()),
            Ok(subject) => crate::reply::quoted(&subject),
            Err(error) => format!("{error:#}"),
        };
        let why = "what came before the connection was closed differs";
        Err(self.mismatch(connection, command, [&crate::reply::quoted(reference), &shown], why))
    }
}

/// All that a scan yields, without repetitions and sorted; or the error that ended it.
fn scanned(
    client: &mut Client,
    name: &str,
    before: &Args,
    after: &Args,
    group: usize,
) -> Result<Result<Reply, Reply>> {
    let mut cursor = b"0".to_vec();
    let mut seen: BTreeSet<Vec<Reply>> = BTreeSet::new();
    for _ in 0..SCAN_CALLS_MAX {
        let mut command = args![name];
        command.extend(before.iter().cloned());
        command.push(cursor);
        command.extend(after.iter().cloned());
        let reply = client.call(&command)?;
        if reply.is_error() {
            return Ok(Err(reply));
        }
        let [next, page] = reply.items() else {
            bail!("a scan answered {}", reply.describe());
        };
        seen.extend(page.items().chunks(group).map(<[Reply]>::to_vec));
        cursor = next.text().to_vec();
        if cursor == b"0" {
            let items = seen.into_iter().flatten().collect();
            return Ok(Ok(Reply::Items { kind: b'*', items }));
        }
    }
    bail!("a scan has not ended after {SCAN_CALLS_MAX} calls")
}
