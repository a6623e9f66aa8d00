//! What two replies to one command must have in common: within transactions, and where a server
//! picks at random.

use anyhow::Result;

use super::commands::Planned;
use super::compare::{Rule, compare};
use super::run::Run;
use crate::reply::{Reply, quoted};

impl Run {
    pub(super) fn judge(
        &mut self,
        connection: usize,
        command: &Planned,
        reference: &Reply,
        subject: &Reply,
    ) -> Result<()> {
        let name = command.spec.name;
        self.counts.sent(name, reference.is_error());
        let verdict = match &mut self.connections[connection].queue {
            Some(queue) if reference.is_simple("QUEUED") => {
                queue.push(command.clone());
                compare(Rule::Exact, reference, subject)
            }
            Some(queue) if name == "EXEC" && !reference.items().is_empty() => {
                let queue = std::mem::take(queue);
                self.judge_exec(&queue, reference, subject)
            }
            _ => compare(command.spec.rule, reference, subject),
        };
        if let Err(why) = verdict
            && !self.hits.covers(name, reference, subject)
        {
            let replies = [reference.describe(), subject.describe()];
            return Err(self.mismatch(connection, &command.args, [&replies[0], &replies[1]], &why));
        }
        self.follow_transaction(connection, name, reference);
        Ok(())
    }

    fn judge_exec(
        &mut self,
        queue: &[Planned],
        reference: &Reply,
        subject: &Reply,
    ) -> Result<(), String> {
        let (a, b) = (reference.items(), subject.items());
        if a.len() != b.len() || a.len() != queue.len() || reference.kind() != subject.kind() {
            return Err(format!(
                "{} were queued, {} and {} answered",
                queue.len(),
                a.len(),
                b.len()
            ));
        }
        for ((command, a), b) in queue.iter().zip(a).zip(b) {
            if a.is_error() {
                self.counts.failed_in_exec(command.spec.name);
            }
            compare(command.spec.rule, a, b).map_err(|why| {
                let args = command.args.iter().map(|arg| quoted(arg));
                format!(
                    "in EXEC, {}: {why}: {} against {}",
                    args.collect::<Vec<_>>().join(" "),
                    a.describe(),
                    b.describe()
                )
            })?;
        }
        Ok(())
    }

    fn follow_transaction(&mut self, connection: usize, name: &str, reference: &Reply) {
        let queue = &mut self.connections[connection].queue;
        let aborted = reference.text().starts_with(b"EXECABORT");
        match name {
            "MULTI" if reference.is_simple("OK") => *queue = Some(Vec::new()),
            "EXEC" if aborted || !reference.is_error() => *queue = None,
            "DISCARD" | "RESET" if !reference.is_error() => *queue = None,
            _ => {}
        }
    }

    /// Whether what a server picked at random was there to be picked. Asked of the reference,
    /// whose contents are the measure.
    pub(super) fn judge_membership(
        &mut self,
        connection: usize,
        command: &Planned,
        replies: [&Reply; 2],
    ) -> Result<()> {
        if command.spec.rule != Rule::Member || replies.iter().any(|r| r.is_error() || r.is_null())
        {
            return Ok(());
        }
        let is_key = command.spec.name == "RANDOMKEY";
        let known: Vec<Reply> = if is_key {
            self.control.reference.expect_ok(&["KEYS", "*"])?.items().to_vec()
        } else {
            self.control
                .reference
                .expect_ok(&[b"HGETALL", command.args[1].as_slice()])?
                .items()
                .to_vec()
        };
        for reply in replies {
            let drawn = flattened(reply);
            let with_values = command.args.len() == 4;
            let holds = if with_values {
                drawn.chunks(2).all(|pair| known.chunks(2).any(|known| known == pair))
            } else if is_key {
                drawn.iter().all(|one| known.contains(one))
            } else {
                drawn.iter().all(|one| known.chunks(2).any(|pair| pair[0] == *one))
            };
            if !holds {
                let known = format!(
                    "one or more of {:?}",
                    known.iter().map(Reply::describe).collect::<Vec<_>>()
                );
                return Err(self.mismatch(
                    connection,
                    &command.args,
                    [&known, &reply.describe()],
                    "what was picked is not there",
                ));
            }
        }
        Ok(())
    }
}

fn flattened(reply: &Reply) -> Vec<Reply> {
    match reply {
        Reply::Items { items, .. } => items.iter().flat_map(flattened).collect(),
        one => vec![one.clone()],
    }
}
