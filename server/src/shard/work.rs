//! What connections hand to the shard's writer.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use larder_resp::{Pipeline, Protocol, Replies};
use larder_storage::{View, parted::PartedRecord};
use larder_types::Position;
use tokio::sync::oneshot;

use super::{mailbox::Mailbox, watch::WatchedKeys};
use crate::{
    budget::Share,
    command::{Command, Handler},
};

/// A piece of work, which comes back to its connection when it is done and durable.
pub struct Work {
    /// What to do.
    pub task: Task,
    /// The replies, written behind what is there already.
    pub replies: Replies,
    /// What the replies take of what those of all clients may; nothing where no client waits.
    pub reply_share: Option<Share>,
    /// What the replies are written in.
    pub protocol: Protocol,
    /// The position of the last record that this work wrote, or sealed.
    pub written: Option<Position>,
    /// What the client is told instead of the replies: of all commands where none ran, else of those
    /// that did.
    pub refusal: Option<Cow<'static, str>>,
    /// Where the work goes when it is done; taken by the shard.
    pub(super) done: Option<oneshot::Sender<Self>>,
    /// By way of the thread that waits for it, where that serves connections.
    pub(super) mailbox: Option<Arc<Mailbox>>,
}

impl Work {
    /// Work whose replies begin empty.
    pub fn of(task: Task) -> Self {
        Self {
            task,
            replies: Replies::default(),
            reply_share: None,
            protocol: Protocol::default(),
            written: None,
            refusal: None,
            done: None,
            mailbox: None,
        }
    }

    /// Gives the work to whom waits for it, on this thread or another.
    pub(super) fn deliver(mut self) {
        if let Some(done) = self.done.take() {
            let _ = done.send(self);
        }
    }
}

/// The kinds of work.
pub enum Task {
    /// Commands, one after the other, each a record of its own.
    Run(Run),
    /// The commands of a MULTI, one record together.
    Transaction(Transaction),
    /// Watches keys, so that EXEC can tell whether they changed.
    Watch {
        /// The keys.
        keys: Vec<Arc<[u8]>>,
        /// Set when one of them changes.
        touched: Arc<AtomicBool>,
        /// For each key, once done, whether it was there.
        present: Vec<bool>,
    },
    /// Writes the effects of records that parted from the log once more, each a record of its own.
    Reapply {
        /// The records.
        records: Vec<PartedRecord>,
        /// How many were written.
        applied: usize,
        /// What one was refused with, after which none was written.
        failed: Option<String>,
    },
    /// Seals the top layer, so that all there is now gets folded.
    Seal,
}

impl Task {
    /// Whether any of its commands only reads: their replies may be large, and nothing is lost with
    /// them.
    pub(super) fn reads(&self) -> bool {
        let (Self::Run(Run { commands, .. }) | Self::Transaction(Transaction { commands, .. })) =
            self
        else {
            return false;
        };
        let mut handlers = commands.iter().map(|command| command.handler);
        handlers.any(|handler| matches!(handler, Handler::Read(_) | Handler::ReadMany(_)))
    }

    /// Whether its answer rests on records, so that it waits for them to be committed. What is watched
    /// is read by its client next, who is to see what was there when it was watched.
    pub(super) const fn rests_on_records(&self) -> bool {
        match self {
            Self::Run(_) | Self::Transaction(_) | Self::Watch { .. } | Self::Reapply { .. } => true,
            Self::Seal => false,
        }
    }
}

/// Commands of one connection, in their order.
pub struct Run {
    /// Where the commands are.
    pub pipeline: Pipeline,
    /// Which request of the pipeline is next. The shard may stop early, when the replies have
    /// grown large; the connection sends them and hands the rest in again.
    pub next: usize,
    /// The commands of the requests from the first `next` on.
    pub commands: Vec<&'static Command>,
    /// For each command that ran, whether it was refused.
    pub refused: Vec<bool>,
}

/// The commands of a MULTI.
pub struct Transaction {
    /// The queued requests, each alone in its pipeline.
    pub requests: Vec<Pipeline>,
    /// Their commands. Those that touch no keys are left out by the shard: the connection runs
    /// them when it puts the replies together.
    pub commands: Vec<&'static Command>,
    /// For each command, what its reply is written in: a HELLO changes it for those behind.
    pub protocols: Vec<Protocol>,
    /// Where each command's reply ends in the replies; equal to the one before for those left out.
    pub reply_ends: Vec<usize>,
    /// For each command, whether it was refused.
    pub refused: Vec<bool>,
    /// The keys watched.
    pub watched: WatchedKeys,
    /// Whether a watched key changed.
    pub touched: Arc<AtomicBool>,
    /// Whether the transaction was given up because of it.
    pub aborted: bool,
}

impl Transaction {
    /// Whether some of its commands write keys.
    pub fn writes(&self) -> bool {
        self.commands.iter().any(|command| matches!(command.handler, Handler::Write(_)))
    }

    /// Whether a watched key changed, or, as this view shows, has expired.
    pub(super) fn is_overtaken(&self, view: &View<'_>) -> bool {
        let is_gone = |key: &[u8]| !view.row(key).is_ok_and(|row| row.is_some());
        self.touched.load(Ordering::Acquire)
            || self.watched.iter().any(|(key, present)| *present && is_gone(key))
    }
}

#[cfg(test)]
impl Work {
    /// A pipeline of `SET`s, as a connection hands it in.
    pub(super) fn sets(pairs: &[(&str, &str)]) -> Self {
        let mut wire = bytes::BytesMut::new();
        for (key, value) in pairs {
            larder_resp::encode_request(&mut wire, ["SET", key, value]);
        }
        let mut decoder = larder_resp::Decoder::new(larder_resp::Limits::AFTER_AUTH);
        let pipeline = decoder.decode(&mut wire, pairs.len()).unwrap();
        let commands = vec![crate::command::lookup(b"SET").unwrap(); pipeline.len()];
        Self::of(Task::Run(Run { pipeline, next: 0, commands, refused: Vec::new() }))
    }
}
