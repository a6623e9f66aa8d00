//! Evaluates work with the shard's writer: commands become replies and log records.

use std::borrow::Cow;

use larder_resp::{ReplyWriter, Request};
use larder_storage::{Position, Touched, Txn, View, parted::PartedRecord};

use super::{
    combine::Desk,
    watch::Watches,
    work::{Run, Task, Transaction, Work},
};
use crate::command::{Command, CommandError, Handler, LoopCommand, Outcome, REPLY_BYTES_MAX};

/// A run stops when its replies have grown beyond this; the connection sends them first.
const REPLY_BYTES: usize = 1 << 20;

/// Does the work at this wall clock, in milliseconds since the Unix epoch.
pub(super) fn evaluate(work: &mut Work, desk: &mut Desk, watches: &Watches, now_ms: u64) {
    if lacks_room(work) {
        return;
    }
    let Work { task, replies, protocol, written, .. } = work;
    let mut replies = ReplyWriter::new(replies, *protocol);
    match task {
        Task::Run(run) => evaluate_run(run, desk, watches, now_ms, &mut replies, written),
        Task::Transaction(transaction) => {
            evaluate_transaction(transaction, desk, watches, now_ms, &mut replies, written);
        }
        Task::Watch { keys, touched, present } => {
            let view = desk.writer.view(now_ms);
            for key in keys {
                // A key that cannot be read counts as there: EXEC then aborts rather than errs.
                let there = view.row(key).map_or(true, |row| row.is_some());
                watches.add(key, touched, there);
                present.push(there);
            }
        }
        Task::Reapply { records, applied, failed } => {
            *failed = reapply(records, applied, desk, watches, now_ms, written).err();
        }
        Task::Seal => *written = desk.writer.seal(),
    }
    hold_room(work);
}

/// Does the work of a transaction that writes nothing, in this view: all of it is read as of what the
/// view shows, and waits for nothing.
pub(crate) fn evaluate_reads(work: &mut Work, view: &View<'_>) {
    if lacks_room(work) {
        return;
    }
    let Work { task: Task::Transaction(transaction), replies, protocol, .. } = work else {
        return;
    };
    // What the view shows has told the watchers before.
    if transaction.is_overtaken(view) {
        transaction.aborted = true;
        return;
    }
    let mut replies = ReplyWriter::new(replies, *protocol);
    run_each(transaction, &mut replies, |command, request, replies| {
        read(command, request, view, replies)
    });
    hold_room(work);
}

/// Whether the replies of all clients take so much that this work is refused.
fn lacks_room(work: &mut Work) -> bool {
    let Some(share) = &work.reply_share else { return false };
    let lacks = share.budget().excess() > 0 && work.task.reads();
    if lacks {
        work.refusal = Some(share.budget().refusal().into());
    }
    lacks
}

fn hold_room(work: &mut Work) {
    if let Some(share) = &mut work.reply_share {
        share.hold(work.replies.len());
    }
}

/// Writes the records' effects once more, until one is refused.
fn reapply(
    records: &[PartedRecord],
    applied: &mut usize,
    desk: &mut Desk,
    watches: &Watches,
    now_ms: u64,
    written: &mut Option<Position>,
) -> Result<(), String> {
    for record in records {
        admit(desk)?;
        let mut txn = desk.writer.transaction(now_ms);
        let reapplied = record.reapply(&mut txn);
        // Also where one of its effects was refused: those before it are in the transaction.
        finish(txn, watches, written);
        reapplied.map_err(|error| error.to_string())?;
        *applied += 1;
    }
    Ok(())
}

fn evaluate_run(
    run: &mut Run,
    desk: &mut Desk,
    watches: &Watches,
    now_ms: u64,
    replies: &mut ReplyWriter<'_>,
    written: &mut Option<Position>,
) {
    let started_at = replies.position();
    let mut admitted = None;
    while let Some(command) = run.commands.get(run.refused.len()) {
        let request = run.pipeline.request(run.next);
        let start = replies.position();
        replies.set_room(REPLY_BYTES_MAX);
        let outcome = match command.handler {
            Handler::Read(read) | Handler::ReadMany(read) => {
                read(request, &desk.writer.view(now_ms), replies)
            }
            Handler::Write(write) => match admitted.get_or_insert_with(|| admit(desk)).clone() {
                Ok(()) => {
                    let mut txn = desk.writer.transaction(now_ms);
                    let outcome = write(request, &mut txn, replies);
                    finish(txn, watches, written);
                    outcome
                }
                Err(refusal) => Err(CommandError::Message(refusal)),
            },
            Handler::Session(_) | Handler::Loop(_) => unreachable!("the connection runs these"),
        };
        run.refused.push(outcome.is_err());
        write_refusal(outcome, start, replies);
        run.next += 1;
        if replies.position() - started_at > REPLY_BYTES {
            break;
        }
    }
}

fn evaluate_transaction(
    transaction: &mut Transaction,
    desk: &mut Desk,
    watches: &Watches,
    now_ms: u64,
    replies: &mut ReplyWriter<'_>,
    written: &mut Option<Position>,
) {
    let admitted = admit(desk);
    let mut txn = desk.writer.transaction(now_ms);
    if transaction.is_overtaken(&txn.view()) {
        transaction.aborted = true;
        return;
    }
    run_each(transaction, replies, |command, request, replies| match command.handler {
        Handler::Write(write) => match &admitted {
            Ok(()) => write(request, &mut txn, replies),
            Err(refusal) => Err(CommandError::Message(refusal.clone())),
        },
        _ => read(command, request, &txn.view(), replies),
    });
    finish(txn, watches, written);
}

/// Runs the commands of a transaction one after the other.
fn run_each(
    transaction: &mut Transaction,
    replies: &mut ReplyWriter<'_>,
    mut run: impl FnMut(&Command, Request<'_>, &mut ReplyWriter<'_>) -> Outcome,
) {
    replies.set_room(REPLY_BYTES_MAX);
    for (index, command) in transaction.commands.iter().enumerate() {
        let start = replies.position();
        replies.set_protocol(transaction.protocols[index]);
        let outcome = run(command, transaction.requests[index].request(0), replies);
        transaction.refused.push(outcome.is_err());
        write_refusal(outcome, start, replies);
        transaction.reply_ends.push(replies.position());
    }
}

/// Runs a command of a transaction that writes nothing; those that touch no keys are left to the
/// connection.
fn read(
    command: &Command,
    request: Request<'_>,
    view: &View<'_>,
    replies: &mut ReplyWriter<'_>,
) -> Outcome {
    match command.handler {
        Handler::Read(read) | Handler::ReadMany(read) => read(request, view, replies),
        Handler::Loop(LoopCommand::Dbsize) => {
            let keys = view.count_keys()?;
            replies.integer(i64::try_from(keys).unwrap_or(i64::MAX));
            Ok(())
        }
        Handler::Session(_) | Handler::Loop(_) | Handler::Write(_) => Ok(()),
    }
}

/// Ends a transaction: tells the watchers, then appends the record.
fn finish(txn: Txn<'_>, watches: &Watches, written: &mut Option<Position>) {
    if watches.any() {
        txn.touched(|touched| match touched {
            Touched::Key(key) => watches.touch(key),
            Touched::All => watches.touch_all(),
        });
    }
    if let Some(position) = txn.commit() {
        *written = Some(position);
    }
}

/// Whether writes are taken now; else what to refuse them with.
fn admit(desk: &Desk) -> Result<(), Cow<'static, str>> {
    if let Some(refusal) = &desk.closed_to_clients {
        return Err(refusal.clone());
    }
    if desk.waits_for_others && !desk.writer.has_room() {
        return Err("TRYAGAIN too many writes wait for other nodes; try again".into());
    }
    desk.writer.admit().map_err(|refusal| format!("ERR {refusal}").into())
}

/// Replaces what a refused command wrote by its refusal.
fn write_refusal(outcome: Outcome, start: usize, replies: &mut ReplyWriter<'_>) {
    if let Err(refusal) = outcome {
        replies.truncate(start);
        refusal.reply(replies);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::BytesMut;
    use larder_resp::{Decoder, Limits, Protocol};
    use larder_storage::{Directory, StoreOptions, open, state::DatabaseOptions};

    use super::*;
    use crate::{clock::wall_ms, shard::WatchedKeys};

    fn transaction(lines: &[&str]) -> Transaction {
        let mut wire = BytesMut::from(lines.join("\r\n").as_bytes());
        wire.extend_from_slice(b"\r\n");
        let mut decoder = Decoder::new(Limits::AFTER_AUTH);
        let requests: Vec<_> =
            lines.iter().map(|_| decoder.decode(&mut wire, 1).unwrap()).collect();
        let commands = requests.iter().map(|queued| Command::admit(queued.request(0)).unwrap());
        Transaction {
            commands: commands.collect(),
            protocols: vec![Protocol::Resp2; lines.len()],
            requests,
            reply_ends: Vec::new(),
            refused: Vec::new(),
            watched: WatchedKeys::default(),
            touched: Arc::default(),
            aborted: false,
        }
    }

    #[test]
    fn a_transaction_needs_the_writer_only_where_it_writes() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = Directory::open(scratch.path()).unwrap();
        let mut options = StoreOptions::new(DatabaseOptions::new(8 << 20, 8 << 20));
        options.reserve_bytes = 0;
        let store = open(&directory, options, wall_ms(), 1).unwrap().store;
        for (lines, expected) in [
            (&[][..], ""),
            (&["PING", "ECHO x"], ""),
            (&["DBSIZE"], ":0\r\n"),
            (&["GET a", "PING", "DBSIZE", "MGET a b"], "$-1\r\n:0\r\n*2\r\n$-1\r\n$-1\r\n"),
        ] {
            let transaction = transaction(lines);
            assert!(!transaction.writes(), "{lines:?}");
            let mut work = Work::of(Task::Transaction(transaction));
            evaluate_reads(&mut work, &store.steady_view(wall_ms()));
            assert_eq!(work.replies.to_vec(), expected.as_bytes());
            let Task::Transaction(done) = work.task else { unreachable!() };
            assert!(!done.aborted && done.reply_ends.len() == lines.len());
        }
        assert!(transaction(&["GET a", "SET a 1"]).writes());
    }
}
