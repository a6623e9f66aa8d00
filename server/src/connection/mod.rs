//! A client's connection, from its first byte to its last.
//!
//! Requests are taken out of the read buffer a pipeline at a time. Reads of one key are answered
//! here, against what is visible; from the first write on, the rest of the pipeline goes to the
//! shard's writer, so that each command sees those before it. Replies are sent before more is
//! read: a client that does not take its replies stops its own requests, and nobody else's.

mod accept;
mod exec;
#[cfg(test)]
mod patience_tests;
mod run;
mod turn;
mod wait;
mod workers;

use std::{
    future::{Future, poll_fn},
    io,
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, BufMut as _, BytesMut};
use larder_resp::{Decoder, Limits, Pipeline, ProtocolError, Replies, ReplyWriter};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

pub use accept::{Stop, serve};
use exec::Multi;
use turn::{Turn, after_those_ready};
pub use workers::Workers;

use crate::{
    budget::Share,
    node::Node,
    session::Session,
    shard::{Shard, Work},
};

/// Requests taken out of the buffer at a time. Larger pipelines come in parts.
const COMMANDS_MAX: usize = 1024;
/// The read buffer of an idle connection: small, because ten thousand may be idle.
const READ_BYTES: usize = 4 << 10;
/// Bytes wanted of one read of a busy connection: redis-benchmark at pipeline 16 sends 2 KiB.
const READ_BYTES_BUSY: usize = 16 << 10;
/// Bytes read at a time: the memory of a large request is new, and a machine may take 20 us for each of its pages.
const PIECE_BYTES: usize = 32 << 10;
/// A read buffer above this is one for large requests, and given back after them.
const LARGE_BYTES: usize = 32 << 10;
/// Replies are sent once there is this much of them, even within a pipeline, and so many bytes at a time.
const REPLY_BYTES: usize = 256 << 10;
/// A client that has begun a request must finish it, and one that has not authenticated must,
/// within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for a client that has not authenticated.
const PATIENCE_BEFORE_AUTH: Duration = Duration::from_secs(10);

/// A client that has not authenticated is disconnected after so many commands: nobody who means well
/// sends more, and each costs a reply, or is another guess of the password.
const COMMANDS_BEFORE_AUTH_MAX: u32 = 64;

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// The client closed it, or asked for it.
    Closed,
    /// The client broke the protocol; it was told so.
    Protocol,
    /// It held most of the replies of all clients, which took too much.
    Evicted,
    /// The requests of all clients took too much for too long; it was told so.
    NoRoom,
    /// The client took too long.
    TooSlow,
    /// The shard has ended, so nothing can be answered.
    ShardEnded,
    /// The socket failed.
    Io(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What comes after a command.
enum Next {
    Command,
    Close,
}

/// One client's connection.
struct Connection {
    stream: TcpStream,
    node: Arc<Node>,
    /// Of the thread that serves this connection.
    turn: Arc<Turn>,
    stop: Arc<Stop>,
    /// What the replies take of what those of all may; `None` while the writer has it. Given back
    /// before others see that the client is gone, so that nobody else is closed for it.
    reply_share: Option<Share>,
    session: Session,
    decoder: Decoder,
    unread: BytesMut,
    /// Whether the last read took all the room there was: the client has sent more.
    was_filled: bool,
    /// Bytes of the memory that `unread` is the end of, at most.
    unread_bytes: usize,
    /// What this connection's requests take of what those of all may.
    share: Share,
    replies: Replies,
    /// The transaction being queued, between MULTI and EXEC.
    multi: Option<Multi>,
    /// What was queued and is of no use any more: given back before the next command.
    discarded: Vec<Pipeline>,
    watched: exec::Watched,
    /// Commands of a client that had not authenticated.
    before_auth: u32,
    /// When the client must have finished the request that it has begun, or have authenticated.
    until: Option<Instant>,
}

impl Connection {
    fn new(
        stream: TcpStream,
        node: Arc<Node>,
        turn: Arc<Turn>,
        stop: Arc<Stop>,
        session: Session,
    ) -> Self {
        let limits = limits_of(&session, &node);
        let share = Share::of(&node.requests);
        let reply_share = Some(Share::of(&node.replies));
        Self {
            stream,
            node,
            turn,
            stop,
            session,
            decoder: Decoder::new(limits),
            unread: BytesMut::new(),
            was_filled: false,
            unread_bytes: 0,
            share,
            replies: Replies::default(),
            reply_share,
            multi: None,
            discarded: Vec::new(),
            watched: exec::Watched::default(),
            before_auth: 0,
            until: None,
        }
    }

    /// Serves the client until one side ends it.
    async fn serve(&mut self) -> End {
        let turn = self.turn.clone();
        let mut serving = Box::pin(self.serve_requests());
        let served = poll_fn(|context| {
            turn.goes_on();
            serving.as_mut().poll(context)
        });
        let ended = served.await;
        drop(serving);
        self.unwatch();
        // What nobody will read is not counted while the rest is given back.
        (self.replies, self.reply_share) = (Replies::default(), None);
        self.discard_multi();
        self.give_back_discarded().await;
        ended.err().unwrap_or(End::Closed)
    }

    async fn serve_requests(&mut self) -> Result<(), End> {
        let stop = self.stop.clone();
        // Held until all that was read is answered: a stop waits for that.
        let mut busy = None;
        loop {
            self.decoder.set_limits(limits_of(&self.session, &self.node));
            let commands_max = self.commands_max();
            match self.decoder.decode(&mut self.unread, commands_max) {
                Ok(pipeline) if pipeline.is_empty() => {
                    drop(busy.take());
                    if stop.is_requested() {
                        return Ok(());
                    }
                    let bytes = self.read().await?;
                    busy = Some(stop.busy());
                    if bytes == PIECE_BYTES {
                        self.turn.rest_after_long().await;
                    }
                }
                Ok(pipeline) => {
                    let next = self.run(pipeline).await?;
                    self.send().await?;
                    if let Next::Close = next {
                        return Ok(());
                    }
                    if !self.session.must_authenticate(&self.node) {
                        self.until = None;
                    }
                }
                Err(error) => return self.refuse_protocol(&error).await,
            }
        }
    }

    /// Before authentication requests are taken one by one, because AUTH changes the limits.
    fn commands_max(&self) -> usize {
        if self.session.must_authenticate(&self.node) { 1 } else { COMMANDS_MAX }
    }

    async fn refuse_protocol(&mut self, error: &ProtocolError) -> Result<(), End> {
        if !matches!(error, ProtocolError::CrossProtocol) {
            self.say_last(&error.reply()).await?;
        }
        Err(End::Protocol)
    }

    /// Tells the client why its connection ends, unless CLIENT REPLY has it told nothing.
    async fn say_last(&mut self, refusal: &[u8]) -> Result<(), End> {
        if !self.session.is_muted() {
            self.writer().error_bytes(refusal);
        }
        self.send().await
    }

    /// Reads a piece of what the client has sent; answers of how many bytes.
    async fn read(&mut self) -> Result<usize, End> {
        let must_authenticate = self.session.must_authenticate(&self.node);
        let patience = if must_authenticate { PATIENCE_BEFORE_AUTH } else { PATIENCE };
        self.make_room(patience).await?;
        if must_authenticate || !self.unread.is_empty() {
            // However little comes at a time, it does not begin anew.
            self.until.get_or_insert_with(|| Instant::now() + patience);
        } else {
            // What had begun was an empty line.
            self.until = None;
        }
        let mut piece = (&mut self.unread).limit(PIECE_BYTES);
        let read = self.stream.read_buf(&mut piece);
        let bytes = match self.until {
            None => read.await?,
            Some(until) => timeout_at(until, read).await.map_err(|_| End::TooSlow)??,
        };
        self.was_filled = bytes == PIECE_BYTES || self.unread.len() == self.unread.capacity();
        self.session.count_bytes(bytes, 0);
        if bytes == 0 { Err(End::Closed) } else { Ok(bytes) }
    }

    /// Makes room for a read in the buffer. Where that makes it large, waits until the requests of all
    /// clients leave room for it; nobody waits and holds a transaction meanwhile.
    async fn make_room(&mut self, patience: Duration) -> Result<(), End> {
        let length = self.unread.len();
        if length <= READ_BYTES && self.unread_bytes > LARGE_BYTES {
            // What was large has been taken out of it.
            self.unread = BytesMut::from(&self.unread[..]);
            self.unread_bytes = length;
        }
        let is_busy = self.was_filled || self.unread.capacity() > READ_BYTES;
        let room = self.decoder.wanted().max(if is_busy { READ_BYTES_BUSY } else { READ_BYTES });
        let grows = self.unread.capacity() - length < room && length + room > LARGE_BYTES;
        if grows {
            self.unread_bytes = (length + room).max(2 * length);
        } else {
            self.unread.reserve(room);
            self.unread_bytes = self.unread_bytes.max(self.unread.capacity());
        }
        if !self.share.resize(self.held_bytes()) {
            if let Some(multi) = &mut self.multi {
                self.discarded = multi.give_up();
                self.give_back_discarded().await;
            }
            let held = self.held_bytes();
            if timeout(patience, self.share.resize_when_possible(held)).await.is_err() {
                let refusal = self.node.requests.refusal();
                self.say_last(refusal.as_bytes()).await?;
                return Err(End::NoRoom);
            }
        }
        if grows {
            let mut larger = BytesMut::with_capacity(self.unread_bytes);
            for piece in self.unread.chunks(PIECE_BYTES) {
                larger.extend_from_slice(piece);
                self.turn.rest_after_long().await;
            }
            self.unread = larger;
        }
        Ok(())
    }

    /// Bytes that the requests of this connection take, and the keys that it watches.
    fn held_bytes(&self) -> usize {
        let queued = self.multi.as_ref().map_or(0, Multi::memory_bytes);
        let received = self.unread_bytes + self.decoder.memory_bytes();
        received + queued + self.watched.memory_bytes()
    }

    /// Sends what has been replied so far.
    async fn send(&mut self) -> Result<(), End> {
        let share = self.reply_share.as_mut().expect("the writer has given it back");
        share.hold(self.replies.len());
        if !self.replies.is_empty() {
            if share.bytes() > 0 {
                self.send_counted().await?;
            } else {
                after_those_ready().await;
                match self.replies.as_one_piece() {
                    Some(replies) => self.stream.write_all(replies).await?,
                    None => self.stream.write_all_buf(&mut self.replies.unsent()).await?,
                }
            }
            self.session.count_bytes(0, self.replies.len());
            self.replies.clear();
            if self.replies.memory_bytes() > REPLY_BYTES {
                self.replies = Replies::default();
            }
        }
        let queued = self.multi.as_ref().map(Multi::len);
        self.session.publish(&self.node, queued);
        Ok(())
    }

    /// Sends replies of which there are more than a few: the client may take its time to read them,
    /// and be closed meanwhile for it.
    async fn send_counted(&mut self) -> Result<(), End> {
        let share = self.reply_share.as_mut().expect("the writer has given it back");
        let client = self.session.client();
        let evicted = client.reads(share.bytes());
        self.node.clients.evict(|| self.node.replies.excess());
        tokio::select! {
            biased;
            Ok(()) = evicted => return Err(End::Evicted),
            sent = write_in_pieces(&mut self.stream, &self.replies, &self.turn) => sent?,
        }
        // In this order: what is counted is somebody's.
        share.hold(0);
        client.has_read();
        Ok(())
    }

    /// Has the shard do the work, and waits until it is done.
    async fn submit(&self, work: Work) -> Result<Work, End> {
        self.shard().submit(work, Some(self.turn.mailbox())).await.map_err(|_| End::ShardEnded)
    }

    /// The shard, for a command that was admitted.
    fn shard(&self) -> &Arc<Shard> {
        self.node.shard().expect("commands that need the store are refused until it is there")
    }

    fn writer(&mut self) -> ReplyWriter<'_> {
        ReplyWriter::new(&mut self.replies, self.session.protocol)
    }

    async fn run(&mut self, pipeline: Pipeline) -> Result<Next, End> {
        let mut rest = Some(pipeline);
        let mut index = 0;
        while let Some(pipeline) = rest.take() {
            if !self.discarded.is_empty() {
                self.send().await?;
                self.give_back_discarded().await;
            }
            if index == pipeline.len() {
                self.decoder.recycle(pipeline);
                break;
            }
            if self.replies.len() > REPLY_BYTES {
                self.send().await?;
            }
            match self.step(pipeline, &mut index).await? {
                (pipeline, Next::Command) => rest = Some(pipeline),
                (_, Next::Close) => return Ok(Next::Close),
            }
            self.rest_after_long(0).await;
            if self.session.must_authenticate(&self.node) {
                self.before_auth += 1;
                if self.before_auth == COMMANDS_BEFORE_AUTH_MAX {
                    return Ok(Next::Close);
                }
            }
        }
        Ok(Next::Command)
    }
}

/// Writes all of it, a piece at a time, and lets the others of this thread be served where that takes long.
async fn write_in_pieces(stream: &mut TcpStream, replies: &Replies, turn: &Turn) -> io::Result<()> {
    let mut unsent = replies.unsent();
    loop {
        stream.write_all_buf(&mut Buf::take(&mut unsent, REPLY_BYTES)).await?;
        // Who has taken all of it is not kept waiting, nor counted any longer.
        if !unsent.has_remaining() {
            return Ok(());
        }
        turn.rest_after_long().await;
    }
}

fn limits_of(session: &Session, node: &Node) -> Limits {
    if session.must_authenticate(node) { Limits::BEFORE_AUTH } else { Limits::AFTER_AUTH }
}
