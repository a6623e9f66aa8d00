//! What the connection runs itself: transactions, watches, and what concerns the whole node.

use std::{
    borrow::Cow,
    collections::HashSet,
    sync::{Arc, atomic::AtomicBool},
};

use larder_resp::{Pipeline, Protocol, Replies, ReplyWriter, Request};

use super::{Connection, End, Next, wait::reply_shown};
use crate::{
    clock::wall_ms,
    command::{
        Command, CommandError, Foresight, Handler, LoopCommand, Outcome, REPLY_BYTES_MAX,
        SessionHandler, is_word,
    },
    replica::touches_keys,
    shard::{Task, Transaction, WatchedKeys, Work, evaluate_reads},
};

/// A transaction being queued.
#[derive(Default)]
pub(super) struct Multi {
    /// The queued requests, each in bytes of its own: those that it came in may be of megabytes.
    requests: Vec<Pipeline>,
    commands: Vec<&'static Command>,
    bytes: usize,
    /// What all of it takes, about.
    memory_bytes: usize,
    failed: bool,
    /// Whether it failed for want of room and the client is yet to be told.
    is_untold: bool,
}

/// What a queued request takes beside its arguments, and each of these beside its bytes: their
/// places, and what the allocator adds.
const QUEUED_BYTES: usize = 256;
const ARGUMENT_BYTES: usize = 24;
/// The same of a watched key, here and where changes look for it.
const WATCHED_BYTES: usize = 256;
/// What an argument takes on the wire beside its bytes: its length, and two line ends.
const ARGUMENT_SENT_BYTES: usize = 6;

impl Multi {
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// A command was refused while queueing: EXEC will be, too, and what is queued, which is answered, is of no use.
    #[must_use]
    pub(super) fn fail(&mut self) -> Vec<Pipeline> {
        (self.failed, self.is_untold, self.memory_bytes) = (true, false, 0);
        std::mem::take(&mut self.requests)
    }

    /// There is no room to receive the next command: answers what is queued. The next command is refused
    /// for it.
    #[must_use]
    pub(super) fn give_up(&mut self) -> Vec<Pipeline> {
        if self.memory_bytes == 0 {
            return Vec::new();
        }
        let queued = self.fail();
        self.is_untold = true;
        queued
    }

    pub(super) const fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    fn push(&mut self, command: &'static Command, request: Request<'_>) {
        self.bytes += sent_bytes(request);
        self.memory_bytes += queued_bytes(request);
        self.requests.push(Pipeline::of(request));
        self.commands.push(command);
    }
}

/// What a request takes on the wire, about.
fn sent_bytes(request: Request<'_>) -> usize {
    request.iter().map(|argument| argument.len() + ARGUMENT_SENT_BYTES).sum()
}

/// What a request takes while it is queued, about.
fn queued_bytes(request: Request<'_>) -> usize {
    QUEUED_BYTES + request.iter().map(|argument| argument.len() + ARGUMENT_BYTES).sum::<usize>()
}

/// Keys that one connection may watch.
const WATCHED_KEYS_MAX: usize = 65_536;
/// Bytes of keys that one connection may watch.
const WATCHED_BYTES_MAX: usize = 4 << 20;

/// What a connection watches.
#[derive(Default)]
pub(super) struct Watched {
    keys: WatchedKeys,
    /// Of the keys.
    bytes: usize,
    touched: Arc<AtomicBool>,
}

impl Watched {
    /// Those of the keys that are not watched yet, each once.
    ///
    /// # Errors
    /// When all together would be too many; none is to be watched then.
    fn fresh<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<Arc<[u8]>>, CommandError> {
        let (mut fresh, mut bytes) = (HashSet::new(), self.bytes);
        for key in keys.filter(|key| !self.keys.contains_key(*key)) {
            if fresh.insert(key) {
                bytes += key.len();
            }
            if self.keys.len() + fresh.len() > WATCHED_KEYS_MAX || bytes > WATCHED_BYTES_MAX {
                return Err(CommandError::Message(Cow::Owned(format!(
                    "ERR a connection may watch {WATCHED_KEYS_MAX} keys, of {WATCHED_BYTES_MAX} \
                     bytes together; UNWATCH, or watch fewer"
                ))));
            }
        }
        Ok(fresh.into_iter().map(Arc::from).collect())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes + self.keys.len() * WATCHED_BYTES
    }

    fn add(&mut self, keys: Vec<Arc<[u8]>>, present: Vec<bool>) {
        self.bytes += keys.iter().map(|key| key.len()).sum::<usize>();
        self.keys.extend(keys.into_iter().zip(present));
    }
}

impl Connection {
    /// Queues a command of a transaction.
    pub(super) fn queue(&mut self, command: &'static Command, request: Request<'_>) {
        let bytes_max = self.node.config.limits.transaction_bytes.0 as usize;
        let start = self.replies.len();
        let multi = self.multi.as_ref().expect("only asked inside of a transaction");
        let refusal = if multi.bytes + sent_bytes(request) > bytes_max {
            Some(format!(
                "ERR the queued commands are larger than {bytes_max} bytes together; send a shorter transaction"
            ))
        } else if multi.is_untold
            || !multi.failed && !self.share.resize(self.held_bytes() + queued_bytes(request))
        {
            Some(self.node.requests.refusal())
        } else {
            None
        };
        let multi = self.multi.as_mut().expect("only asked inside of a transaction");
        let outcome = match refusal {
            Some(text) => {
                self.discarded = multi.fail();
                Err(CommandError::Message(text.into()))
            }
            None => {
                if !multi.failed {
                    multi.push(command, request);
                }
                self.writer().simple("QUEUED");
                Ok(())
            }
        };
        self.finish(command, start, outcome);
    }

    /// Runs a command that touches neither keys nor the session alone.
    pub(super) async fn run_loop_command(
        &mut self,
        loop_command: LoopCommand,
        command: &'static Command,
        request: Request<'_>,
    ) -> Result<Next, End> {
        let mut start = self.replies.len();
        let outcome = match loop_command {
            LoopCommand::Bgsave => self.bgsave(request).await?,
            LoopCommand::Dbsize => self.dbsize().await?,
            LoopCommand::Discard => self.discard(),
            LoopCommand::Exec => self.exec().await?,
            LoopCommand::Multi => self.begin_multi(),
            LoopCommand::Quit => {
                self.writer().simple("OK");
                self.finish(command, start, Ok(()));
                return Ok(Next::Close);
            }
            LoopCommand::Reset => {
                self.discard_multi();
                self.unwatch();
                self.session.reset(&self.node);
                self.writer().simple("RESET");
                Ok(())
            }
            LoopCommand::Shutdown => match self.shutdown(request) {
                Ok(()) => return Ok(Next::Close),
                refused => refused,
            },
            LoopCommand::Unwatch => {
                self.unwatch();
                self.writer().simple("OK");
                Ok(())
            }
            LoopCommand::After => {
                let shown = self.after(request, true).await?;
                // What was replied before may have been sent meanwhile.
                start = self.replies.len();
                shown.map(|is_shown| reply_shown(is_shown, &mut self.writer()))
            }
            LoopCommand::Wait => {
                let have = self.wait(request, true).await?;
                start = self.replies.len();
                have.map(|have| self.writer().integer(have.into()))
            }
            LoopCommand::Watch => self.watch(request).await?,
        };
        self.finish(command, start, outcome);
        Ok(Next::Command)
    }

    /// Ends the transaction that is queued, if one is.
    pub(super) fn discard_multi(&mut self) {
        if let Some(multi) = self.multi.take() {
            self.discarded = multi.requests;
        }
    }

    /// Gives back the memory of what is of no use any more, and lets the others be served where that takes long: it may
    /// be of megabytes, in thousands of pieces of their own.
    pub(super) async fn give_back_discarded(&mut self) {
        while let Some(request) = self.discarded.pop() {
            drop(request);
            self.turn.rest_after_long().await;
        }
        self.discarded = Vec::new();
    }

    fn begin_multi(&mut self) -> Outcome {
        if self.multi.is_some() {
            return Err(CommandError::message("ERR MULTI calls can not be nested"));
        }
        self.multi = Some(Multi::default());
        self.writer().simple("OK");
        Ok(())
    }

    fn discard(&mut self) -> Outcome {
        if self.multi.is_none() {
            return Err(CommandError::message("ERR DISCARD without MULTI"));
        }
        self.discard_multi();
        self.unwatch();
        self.writer().simple("OK");
        Ok(())
    }

    async fn watch(&mut self, request: Request<'_>) -> Result<Outcome, End> {
        if self.multi.is_some() {
            return Ok(Err(CommandError::message("ERR WATCH inside MULTI is not allowed")));
        }
        let keys = match self.watched.fresh(request.iter().skip(1)) {
            Ok(keys) => keys,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let bytes = keys.iter().map(|key| key.len() + WATCHED_BYTES).sum::<usize>();
        if !self.share.resize(self.held_bytes() + bytes) {
            let refusal = self.node.requests.refusal();
            return Ok(Err(CommandError::Message(refusal.into())));
        }
        let touched = self.watched.touched.clone();
        let work = Work::of(Task::Watch { keys, touched, present: Vec::new() });
        let work = self.submit(work).await?;
        let Task::Watch { keys, present, touched } = work.task else {
            unreachable!("work comes back as it went")
        };
        if let Some(refusal) = work.refusal {
            // Watched they may be all the same.
            let keys = keys.into_iter().map(|key| (key, false)).collect();
            self.shard().watches().remove(&keys, &touched);
            return Ok(Err(CommandError::Message(refusal)));
        }
        self.watched.add(keys, present);
        self.writer().simple("OK");
        Ok(Ok(()))
    }

    /// Forgets what is watched. A new flag is made: a change may still be on its way to the old.
    pub(super) fn unwatch(&mut self) {
        let watched = std::mem::take(&mut self.watched);
        // Before there is a shard, nothing is watched.
        if let Some(shard) = self.node.shard() {
            shard.watches().remove(&watched.keys, &watched.touched);
        }
    }

    async fn exec(&mut self) -> Result<Outcome, End> {
        let Some(multi) = self.multi.take() else {
            return Ok(Err(CommandError::message("ERR EXEC without MULTI")));
        };
        if multi.failed {
            self.unwatch();
            let text = "EXECABORT Transaction discarded because of previous errors.";
            return Ok(Err(CommandError::message(text)));
        }
        let protocols = self.foresee(&multi).await;
        let Watched { keys: watched, touched, .. } = std::mem::take(&mut self.watched);
        let transaction = Transaction {
            protocols,
            requests: multi.requests,
            commands: multi.commands,
            reply_ends: Vec::new(),
            refused: Vec::new(),
            watched,
            touched,
            aborted: false,
        };
        let touches_keys = transaction.commands.iter().any(|command| touches_keys(command));
        let reads_here = !transaction.writes() && self.reads_what_others_commit();
        let mut work = Work::of(Task::Transaction(transaction));
        work.reply_share = self.reply_share.take();
        let mut work = if reads_here {
            self.read_here(work, touches_keys).await?
        } else {
            self.submit(work).await?
        };
        if let Task::Transaction(done) = &work.task {
            self.shard().watches().remove(&done.watched, &done.touched);
        }
        if touches_keys {
            self.settle(&mut work).await;
        }
        self.reply_share = work.reply_share.take();
        let Task::Transaction(done) = work.task else { unreachable!("work comes back as it went") };
        let outcome = match work.refusal {
            Some(refusal) => Err(CommandError::Message(refusal)),
            None if done.aborted => {
                self.writer().null_array();
                Ok(())
            }
            None => {
                self.session.executing = Some(done.commands.len());
                let assembled = self.assemble(&done, &work.replies).await;
                self.session.executing = None;
                assembled?
            }
        };
        self.discarded = done.requests;
        Ok(outcome)
    }

    /// What the reply of each queued command is written in.
    async fn foresee(&mut self, multi: &Multi) -> Vec<Protocol> {
        let mut foresight = Foresight::of(&self.session, &self.node);
        let mut protocols = Vec::with_capacity(multi.commands.len());
        for (command, queued) in multi.commands.iter().zip(&multi.requests) {
            protocols.push(foresight.next(command, queued.request(0)));
            self.rest_after_long(0).await;
        }
        protocols
    }

    /// Evaluates a transaction that writes nothing, where others commit. What it was admitted by when it
    /// was queued may be long ago.
    async fn read_here(&self, mut work: Work, touches_keys: bool) -> Result<Work, End> {
        if touches_keys
            && let Some(replica) = &self.node.replica
            && let Err(refusal) = replica.admit_reads(&self.session)
        {
            work.refusal = Some(refusal.to_string().into());
            return Ok(work);
        }
        let shard = self.shard().clone();
        // On a thread that may block: nobody bounds what a transaction reads.
        let read = move || {
            evaluate_reads(&mut work, &shard.store().steady_view(wall_ms()));
            work
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| End::ShardEnded)
    }

    /// Puts the replies of a transaction together: those of the writer, and those of the commands
    /// that it left to the connection.
    async fn assemble(&mut self, done: &Transaction, replies: &Replies) -> Result<Outcome, End> {
        let begin = self.replies.len();
        self.writer().array(done.commands.len());
        let (mut reply_start, mut is_as_foreseen) = (0, true);
        for (index, command) in done.commands.iter().enumerate() {
            let request = done.requests[index].request(0);
            let start = self.replies.len();
            let outcome = match command.handler {
                Handler::Session(run) => self.run_queued(run, request, begin),
                Handler::Loop(LoopCommand::Bgsave) => self.bgsave(request).await?,
                Handler::Loop(LoopCommand::After) => {
                    let shown = self.after(request, false).await?;
                    shown.map(|is_shown| reply_shown(is_shown, &mut self.writer()))
                }
                Handler::Loop(LoopCommand::Wait) => {
                    let have = self.wait(request, false).await?;
                    have.map(|have| self.writer().integer(have.into()))
                }
                Handler::Loop(LoopCommand::Unwatch) => {
                    self.writer().simple("OK");
                    Ok(())
                }
                Handler::Read(_)
                | Handler::ReadMany(_)
                | Handler::Write(_)
                | Handler::Loop(LoopCommand::Dbsize) => {
                    self.replies.append_range(replies, reply_start..done.reply_ends[index]);
                    Ok(())
                }
                Handler::Loop(_) => {
                    Err(CommandError::message("ERR Command not allowed inside a transaction"))
                }
            };
            reply_start = done.reply_ends[index];
            let refused = outcome.is_err() || done.refused[index];
            if let Err(refusal) = outcome {
                let mut writer = self.writer();
                writer.truncate(start);
                refusal.reply(&mut writer);
            }
            self.session.count(&self.node, command, refused);
            is_as_foreseen &= self.session.protocol == done.protocols[index];
            self.rest_after_long(replies.len()).await;
        }
        // Another client may have set a password since.
        let lost = "ERR settings that a HELLO depends on were changed while the transaction ran: it was \
                    done, and its replies are lost";
        Ok(if is_as_foreseen { Ok(()) } else { Err(CommandError::message(lost)) })
    }

    /// Runs a queued command that touches no keys. The replies of its transaction start at `begin`.
    fn run_queued(&mut self, run: SessionHandler, request: Request<'_>, begin: usize) -> Outcome {
        let Self { node, session, replies, .. } = self;
        let room = REPLY_BYTES_MAX.saturating_sub(replies.len() - begin);
        let mut writer = ReplyWriter::new(replies, session.protocol);
        writer.set_room(room);
        run(request, session, node, &mut writer)?;
        if replies.len() - begin > REPLY_BYTES_MAX {
            return Err(CommandError::ReplyTooLarge);
        }
        Ok(())
    }

    /// Counts the keys on a thread that may block: it reads every key.
    async fn dbsize(&mut self) -> Result<Outcome, End> {
        let shard = self.shard().clone();
        let count = move || shard.store().view(wall_ms()).count_keys();
        let Ok(counted) = tokio::task::spawn_blocking(count).await else {
            return Err(End::ShardEnded);
        };
        Ok(counted.map_err(CommandError::from).map(|keys| {
            self.writer().integer(i64::try_from(keys).unwrap_or(i64::MAX));
        }))
    }

    /// Has everything up to now folded and flushed, so that a start need not replay it.
    async fn bgsave(&mut self, request: Request<'_>) -> Result<Outcome, End> {
        match request.get(1) {
            None => {}
            Some(word) if is_word(word, "schedule") && request.len() == 2 => {}
            Some(_) => return Ok(Err(CommandError::Syntax)),
        }
        let asked_ms = wall_ms();
        let sealed = self.submit(Work::of(Task::Seal)).await?;
        self.shard().store().request_flush();
        self.node.note_save(sealed.written.map(|last| last.seq), asked_ms);
        self.writer().simple("Background saving started");
        Ok(Ok(()))
    }

    fn shutdown(&self, request: Request<'_>) -> Outcome {
        if aborts_shutdown(request)? {
            return Err(CommandError::message("ERR No shutdown in progress."));
        }
        self.stop.request();
        Ok(())
    }
}

const SHUTDOWN_WORDS: [&str; 5] = ["abort", "save", "nosave", "now", "force"];

/// Whether a SHUTDOWN is to end another one.
fn aborts_shutdown(request: Request<'_>) -> Result<bool, CommandError> {
    let mut given = [false; SHUTDOWN_WORDS.len()];
    for argument in request.iter().skip(1) {
        let known = SHUTDOWN_WORDS.iter().position(|word| is_word(argument, word));
        given[known.ok_or(CommandError::Syntax)?] = true;
    }
    match given {
        [true, false, false, false, false] => Ok(true),
        [true, ..] | [_, true, true, ..] => Err(CommandError::Syntax),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::BytesMut;
    use larder_resp::{Decoder, Limits};

    use super::*;
    use crate::connection::patience_tests::connected;

    fn decoded(line: &str) -> Pipeline {
        let mut wire = BytesMut::from(format!("{line}\r\n").as_bytes());
        Decoder::new(Limits::AFTER_AUTH).decode(&mut wire, 1).unwrap()
    }

    #[tokio::test]
    async fn replies_in_another_protocol_than_the_one_that_a_hello_left_are_not_sent() {
        use Protocol::{Resp2, Resp3};
        let (mut connection, _client) = connected().await;
        for (protocols, is_sent) in [([Resp3, Resp3], true), ([Resp2, Resp2], false)] {
            connection.session.protocol = Resp2;
            let requests = vec![decoded("HELLO 3"), decoded("PING")];
            let commands = requests.iter().map(|queued| Command::admit(queued.request(0)));
            let transaction = Transaction {
                commands: commands.map(Result::unwrap).collect(),
                requests,
                protocols: protocols.to_vec(),
                reply_ends: vec![0; 2],
                refused: vec![false; 2],
                watched: WatchedKeys::default(),
                touched: Arc::default(),
                aborted: false,
            };
            let outcome = connection.assemble(&transaction, &Replies::default()).await.unwrap();
            assert_eq!(outcome.is_ok(), is_sent, "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn what_was_queued_is_given_back_and_others_are_served_meanwhile() {
        let (mut connection, _client) = connected().await;
        let mut multi = Multi::default();
        let queued = decoded("SET key value");
        for _ in 0..2 {
            let request = queued.request(0);
            multi.push(Command::admit(request).unwrap(), request);
        }
        connection.multi = Some(multi);
        connection.discard_multi();
        assert_eq!(connection.discarded.len(), 2);
        let served = tokio::spawn(async {});
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1) {
            std::hint::spin_loop();
        }
        connection.give_back_discarded().await;
        assert!(served.is_finished(), "what takes long is not done in one go");
        assert!(connection.discarded.is_empty());
    }

    #[test]
    fn the_words_of_a_shutdown_are_read_as_redis_reads_them() {
        for (line, expected) in [
            ("SHUTDOWN", Some(false)),
            ("SHUTDOWN NOSAVE now FORCE", Some(false)),
            ("SHUTDOWN abort ABORT", Some(true)),
            (r#"SHUTDOWN "ABORT\x00x""#, Some(true)),
            (r#"SHUTDOWN "abort\x00" now"#, None),
            ("SHUTDOWN save nosave", None),
            ("SHUTDOWN later", None),
        ] {
            let aborts = aborts_shutdown(decoded(line).request(0)).ok();
            assert_eq!(aborts, expected, "{line}");
        }
    }
}
