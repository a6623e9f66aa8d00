//! Runs requests: here, on the shard's writer, or as part of a transaction.

use larder_resp::{Pipeline, ReplyWriter, Request};
use larder_types::AckLevel;

use super::{Connection, End, Next};
use crate::{
    clock::wall_ms,
    command::{Command, CommandError, Handler, LoopCommand, Outcome, REPLY_BYTES_MAX},
    shard::{Run, Task, Work, undecided},
};

/// Requests handed to the shard's writer at once.
const RUN_MAX: usize = 256;

impl Connection {
    /// Runs the request at `index`, and those behind it that go to the writer with it. The
    /// pipeline is handed through, because the writer may need it on its own thread.
    pub(super) async fn step(
        &mut self,
        pipeline: Pipeline,
        index: &mut usize,
    ) -> Result<(Pipeline, Next), End> {
        let request = pipeline.request(*index);
        let command = match self.admit(request) {
            Ok(command) => command,
            Err(refusal) => {
                *index += 1;
                self.refuse(request, &refusal);
                return Ok((pipeline, Next::Command));
            }
        };
        if self.multi.is_some() && !command.is_never_queued() {
            self.queue(command, request);
            *index += 1;
            return Ok((pipeline, Next::Command));
        }
        match command.handler {
            Handler::ReadMany(_) if self.reads_what_others_commit() => {
                self.run_here(command, request);
                *index += 1;
                Ok((pipeline, Next::Command))
            }
            Handler::Write(_) | Handler::ReadMany(_) => {
                let pipeline = self.run_on_writer(pipeline, index).await?;
                Ok((pipeline, Next::Command))
            }
            Handler::Read(_) => {
                self.run_here(command, request);
                *index += 1;
                Ok((pipeline, Next::Command))
            }
            Handler::Session(_) => {
                self.run_here(command, request);
                *index += 1;
                Ok((pipeline, Next::Command))
            }
            Handler::Loop(loop_command) => {
                *index += 1;
                let next = self.run_loop_command(loop_command, command, request).await?;
                Ok((pipeline, next))
            }
        }
    }

    /// The command of a request, if the client may run it with these arguments.
    fn admit(&self, request: Request<'_>) -> Result<&'static Command, CommandError> {
        let command = Command::admit(request)?;
        if self.session.must_authenticate(&self.node) && !command.needs_no_authentication() {
            return Err(CommandError::message("NOAUTH Authentication required."));
        }
        if self.multi.is_some() && matches!(command.handler, Handler::Loop(LoopCommand::Shutdown)) {
            return Err(CommandError::message("ERR Command not allowed inside a transaction"));
        }
        if let Some(replica) = &self.node.replica {
            replica.admit(command, request, &self.session)?;
        }
        Ok(command)
    }

    /// Whether records that this node has may not be read yet, and it cannot commit them itself: the
    /// writer, which sees them, is then not asked.
    pub(super) fn reads_what_others_commit(&self) -> bool {
        self.node
            .replica
            .as_ref()
            .is_some_and(|replica| replica.level > AckLevel::Local && !replica.duty().is_master())
    }

    /// Runs a command that needs no writer.
    pub(super) fn run_here(&mut self, command: &'static Command, request: Request<'_>) {
        let Self { node, session, replies, turn, .. } = self;
        let start = replies.len();
        let mut writer = ReplyWriter::new(replies, session.protocol);
        writer.set_room(REPLY_BYTES_MAX);
        let outcome = match command.handler {
            Handler::Read(_) | Handler::ReadMany(_) if node.replies.excess() > 0 => {
                Err(CommandError::Message(node.replies.refusal().into()))
            }
            Handler::Read(read) | Handler::ReadMany(read) => {
                turn.count_read();
                let store = node.store().expect("reads are refused until there is a store");
                let now_ms = wall_ms();
                let outcome = match command.handler {
                    Handler::ReadMany(_) => read(request, &store.steady_view(now_ms), &mut writer),
                    _ => read(request, &store.view(now_ms), &mut writer),
                };
                let replica = node.replica.as_ref();
                outcome.and_then(|()| replica.map_or(Ok(()), |replica| replica.stands_by_reads()))
            }
            Handler::Session(run) => run(request, session, node, &mut writer),
            Handler::Write(_) | Handler::Loop(_) => {
                unreachable!("these run elsewhere")
            }
        };
        self.finish(command, start, outcome);
    }

    /// Ends a command: writes its refusal, counts it, and drops a reply that is not wanted.
    pub(super) fn finish(&mut self, command: &'static Command, start: usize, outcome: Outcome) {
        let refused = outcome.is_err();
        if let Err(refusal) = outcome {
            let mut writer = self.writer();
            writer.truncate(start);
            refusal.reply(&mut writer);
        }
        self.end_command(start);
        self.session.count(&self.node, command, refused);
    }

    /// Drops the present command's reply if it is not wanted.
    fn end_command(&mut self, start: usize) {
        if self.session.is_muted() {
            self.replies.truncate(start);
        }
        self.session.finish_command();
    }

    /// Answers a request that was not admitted. A transaction that is being queued fails with it,
    /// and ends with it if it was its EXEC.
    fn refuse(&mut self, request: Request<'_>, refusal: &CommandError) {
        let start = self.replies.len();
        if request.arg(0).eq_ignore_ascii_case(b"exec") {
            self.discard_multi();
            self.unwatch();
            let why = refusal.to_string();
            let why = why.strip_prefix("ERR ").unwrap_or(&why);
            let text = format!("EXECABORT Transaction discarded because of: {why}");
            self.writer().error(&text);
        } else {
            if let Some(multi) = &mut self.multi {
                self.discarded = multi.fail();
            }
            refusal.reply(&mut self.writer());
        }
        self.end_command(start);
    }

    /// Lets the others be served where commands of one pipeline or transaction have taken long, each by itself
    /// or all together. The replies that wait meanwhile, these and `others`, are counted, and beyond half
    /// of what all clients may hold nobody rests: who rests is not one that reads too slowly, and so is not closed
    /// where they are too many.
    pub(super) async fn rest_after_long(&mut self, others: usize) {
        if !self.turn.is_long() {
            return;
        }
        let share = self.reply_share.as_mut().expect("the writer has given it back");
        share.hold(self.replies.len() + others);
        if share.budget().is_half_free() {
            self.turn.rest_after_long().await;
        }
    }

    /// Hands the request at `index`, and those behind it that touch keys, to the writer.
    async fn run_on_writer(
        &mut self,
        pipeline: Pipeline,
        index: &mut usize,
    ) -> Result<Pipeline, End> {
        let commands = self.run_of(&pipeline, *index);
        let run =
            Run { refused: Vec::with_capacity(commands.len()), pipeline, next: *index, commands };
        let mut work = Work::of(Task::Run(run));
        work.replies = std::mem::take(&mut self.replies);
        work.reply_share = self.reply_share.take();
        work.protocol = self.session.protocol;
        let start = work.replies.len();
        let mut work = self.submit(work).await?;
        self.settle(&mut work).await;
        self.replies = work.replies;
        self.reply_share = work.reply_share;
        let Task::Run(mut run) = work.task else { unreachable!("work comes back as it went") };
        if let Some(refusal) = work.refusal {
            self.refuse_run(&mut run, start, &refusal);
        }
        *index = run.next;
        if self.session.is_muted() {
            self.replies.truncate(start);
        }
        for (command, refused) in run.commands.iter().zip(&run.refused) {
            self.session.count(&self.node, command, *refused);
        }
        self.session.finish_command();
        Ok(run.pipeline)
    }

    /// Ends work that came back: notes what it wrote, and waits until that has got as far as this
    /// connection asks for.
    pub(super) async fn settle(&mut self, work: &mut Work) {
        self.session.last_write = work.written.or(self.session.last_write);
        let Some(replica) = &self.node.replica else { return };
        if work.refusal.is_some() {
            return;
        }
        // What was evaluated together with a write that is committed stands by that.
        if work.written.is_none()
            && let Err(refusal) = replica.stands_by_reads()
        {
            work.refusal = Some(refusal.to_string().into());
            return;
        }
        let level = self.session.ack_level;
        if level <= replica.level {
            return;
        }
        if let Some(written) = work.written
            && !replica.reach(written, level).await
        {
            let within = format!("within {} ms", replica.ack_timeout.as_millis());
            work.refusal = Some(undecided(level, &within));
        }
    }

    /// Answers the commands that ran, or all of them where none did, with a refusal.
    fn refuse_run(&mut self, run: &mut Run, start: usize, refusal: &str) {
        self.replies.truncate(start);
        if run.refused.is_empty() {
            run.next += run.commands.len();
            run.refused.resize(run.commands.len(), true);
        }
        run.refused.fill(true);
        for _ in 0..run.refused.len() {
            self.writer().error(refusal);
        }
    }

    /// The commands from `first` on that the writer can run in one go. With CLIENT REPLY in force
    /// each command goes alone, because its reply may have to be dropped.
    fn run_of(&self, pipeline: &Pipeline, first: usize) -> Vec<&'static Command> {
        let most = if self.session.plain_replies() { RUN_MAX } else { 1 };
        (first..pipeline.len())
            .take(most)
            .map_while(|index| {
                let command = self.admit(pipeline.request(index)).ok()?;
                let is_for_the_writer = matches!(
                    command.handler,
                    Handler::Read(_) | Handler::ReadMany(_) | Handler::Write(_)
                );
                is_for_the_writer.then_some(command)
            })
            .collect()
    }
}
