//! Evaluates work with the shard's writer: commands become replies and log records.

use std::{borrow::Cow, sync::atomic::Ordering};

use larder_resp::ReplyWriter;
use larder_storage::{Position, Touched, Txn, parted::PartedRecord};

use super::{
    combine::Desk,
    watch::Watches,
    work::{Run, Task, Transaction, Work},
};
use crate::command::{CommandError, Handler, LoopCommand, Outcome, REPLY_BYTES_MAX};

/// A run stops when its replies have grown beyond this; the connection sends them first.
const REPLY_BYTES: usize = 1 << 20;

/// Does the work at this wall clock, in milliseconds since the Unix epoch.
pub(super) fn evaluate(work: &mut Work, desk: &mut Desk, watches: &Watches, now_ms: u64) {
    let Work { task, replies, reply_share, protocol, written, refusal, .. } = work;
    if let Some(share) = reply_share
        && share.budget().excess() > 0
        && task.reads()
    {
        *refusal = Some(share.budget().refusal().into());
        return;
    }
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
    if let Some(share) = reply_share {
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
        record.reapply(&mut txn).map_err(|error| error.to_string())?;
        finish(txn, watches, written);
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
    let expired = transaction
        .watched
        .iter()
        .any(|(key, present)| *present && !txn.view().row(key).is_ok_and(|row| row.is_some()));
    if expired || transaction.touched.load(Ordering::Acquire) {
        transaction.aborted = true;
        return;
    }
    replies.set_room(REPLY_BYTES_MAX);
    for (index, command) in transaction.commands.iter().enumerate() {
        let request = transaction.requests[index].request(0);
        let start = replies.position();
        replies.set_protocol(transaction.protocols[index]);
        let outcome = match command.handler {
            Handler::Read(read) | Handler::ReadMany(read) => read(request, &txn.view(), replies),
            Handler::Write(write) => match &admitted {
                Ok(()) => write(request, &mut txn, replies),
                Err(refusal) => Err(CommandError::Message(refusal.clone())),
            },
            Handler::Loop(LoopCommand::Dbsize) => txn.view().count_keys().map_or_else(
                |error| Err(error.into()),
                |keys| {
                    replies.integer(i64::try_from(keys).unwrap_or(i64::MAX));
                    Ok(())
                },
            ),
            Handler::Session(_) | Handler::Loop(_) => Ok(()),
        };
        transaction.refused.push(outcome.is_err());
        write_refusal(outcome, start, replies);
        transaction.reply_ends.push(replies.position());
    }
    finish(txn, watches, written);
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
