//! Snapshots over streams of their own: made once for several slaves, verified, gone on with after a
//! break.
//!
//! The slave opens the stream and names its session (u64). The master answers with the manifest, or
//! with an empty frame where the slave begins with an empty log;
//! the slave with the file and the offset (two u64) where it wants to begin, or `u64::MAX` twice
//! where it has everything; then pieces follow: file, offset (two u64), bytes. Little-endian.

use std::{sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use larder_net::{Connection, FrameReceiver, FrameSender, StreamKind};
use larder_storage::{
    Directory, StateError, Store,
    snapshot::{Incoming, Manifest, Snapshot, SnapshotError},
};
use larder_types::{LogId, Position, SequenceNumber};
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::{
    runtime::Handle,
    sync::{Mutex as Turns, OwnedMutexGuard, mpsc},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::engine::Input;
use crate::core::{Link, Session};

/// Bytes of a file in one piece: to send one takes so little time that others hardly wait.
const PIECE_BYTES: usize = 128 << 10;
/// Pieces that were received and are not written yet.
const PIECES_WAITING_MAX: usize = 64;
/// Sent at most, of all snapshots together: clients of a busy machine wait behind what goes faster
/// (docs/adr/0012-paced-snapshots.md).
const BYTES_PER_SECOND: u64 = 112 << 20;
/// What was not sent in time is made up for as far as this.
const BEHIND_MAX: Duration = Duration::from_millis(5);
/// A peer must say what it wants, and then take or send a piece, within this time. Where it first has
/// to read all that there is of a state, on either side, no time would be right: who waits for that
/// does so as long as the connection lives.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a store may take until it has folded something; what is made of it then may take longer.
const FOLD_TIME_MAX: Duration = Duration::from_secs(20);
const FLUSH_STEP: Duration = Duration::from_millis(10);
/// Bytes of file and offset before a piece.
const PIECE_HEADER_BYTES: usize = 16;
/// "Everything is here": a file and an offset that none has.
const NOTHING: u64 = u64::MAX;

/// A stream on which a slave waits for a snapshot.
pub(super) type Stream = (FrameSender, FrameReceiver);

/// A snapshot, let go of on a thread that may block: its files are removed then.
pub(super) struct Held(Option<Snapshot>);

impl Held {
    fn snapshot(&self) -> &Snapshot {
        self.0.as_ref().expect("it is taken at the end alone")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let snapshot = self.0.take();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(snapshot));
        }
    }
}

/// What a slave is given.
#[derive(Clone)]
pub(super) enum Given {
    /// A state, and the log from there on.
    State(Arc<Held>),
    /// Nothing: the whole log is there, from its first record on.
    Nothing,
}

impl Given {
    pub(super) fn state(snapshot: Snapshot) -> Self {
        Self::State(Arc::new(Held(Some(snapshot))))
    }

    /// The last record in it.
    pub(super) fn at(&self) -> Option<Position> {
        match self {
            Self::State(held) => Some(held.snapshot().manifest().applied().position),
            Self::Nothing => None,
        }
    }

    /// The first record that is not in it.
    pub(super) fn goes_on_at(&self) -> SequenceNumber {
        self.at().map_or(SequenceNumber::FIRST, |at| at.seq.next())
    }
}

/// Whose turn it is to gather a snapshot: there is one place for it, and who writes there may go on for a
/// while after its connection broke.
pub(super) type Gathering = Arc<Turns<()>>;

/// A turn, until it is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

/// What a slave has fetched. The turn lasts until it is installed.
pub(super) enum Fetched {
    State(Incoming, Turn),
    Nothing(Turn),
}

/// Makes a snapshot, which takes as long as it takes to read the state. `flush` asks for everything to
/// be folded, without which there may be nothing to give.
pub(super) async fn make(
    store: Store,
    directory: Arc<Directory>,
    flush: impl Fn(),
) -> Result<Given, String> {
    let take = || {
        let (store, directory) = (store.clone(), directory.clone());
        async move {
            let is_whole = store.log().first() == SequenceNumber::FIRST;
            let id = rand::rng().random();
            let made = spawn_blocking(move || store.snapshot(&directory, id)).await;
            match made.map_err(|error| error.to_string())? {
                Err(SnapshotError::State(StateError::NothingApplied { .. })) => {
                    Ok(is_whole.then_some(Given::Nothing))
                }
                made => made.map(Given::state).map(Some).map_err(|error| error.to_string()),
            }
        }
    };
    once_folded(take, flush).await
}

/// Takes what is there once something is folded: for that alone the time is bounded.
async fn once_folded<T, F>(take: impl Fn() -> F, flush: impl Fn()) -> Result<T, String>
where
    F: Future<Output = Result<Option<T>, String>>,
{
    let until = Instant::now() + FOLD_TIME_MAX;
    loop {
        match take().await? {
            Some(taken) => return Ok(taken),
            None if Instant::now() < until => {
                flush();
                sleep(FLUSH_STEP).await;
            }
            None => return Err("the state was not folded in time".to_owned()),
        }
    }
}

/// What a slave that opened a stream wants.
pub(super) async fn wanted(
    link: Link,
    sender: FrameSender,
    mut receiver: FrameReceiver,
) -> Option<Input> {
    let frame = timeout(PATIENCE, receiver.next()).await.ok()?.ok()??;
    let session = Session(u64::from_le_bytes(frame.as_ref().try_into().ok()?));
    Some(Input::SnapshotWanted { link, session, stream: Box::new((sender, receiver)) })
}

/// When the next piece may be sent, of whichever snapshot.
#[derive(Clone, Default)]
pub(super) struct Pace(Arc<Mutex<Option<Instant>>>);

impl Pace {
    async fn wait_for(&self, bytes: usize) {
        let takes = Duration::from_nanos(bytes as u64 * 1_000_000_000 / BYTES_PER_SECOND);
        let now = Instant::now();
        let due = {
            let mut next = self.0.lock();
            let due = next.map_or(now, |next| next.max(now - BEHIND_MAX));
            *next = Some(due + takes);
            due
        };
        sleep_until(due).await;
    }
}

/// Sends a slave what it is given.
pub(super) async fn send(given: Given, mut stream: Stream, pace: Pace) -> Result<(), String> {
    match given {
        Given::State(held) => send_state(&held, stream, pace).await,
        Given::Nothing => {
            let text = |error: larder_net::Error| error.to_string();
            stream.0.send(Bytes::new()).await.map_err(text)?;
            stream.0.finish().await.map_err(text)
        }
    }
}

async fn send_state(
    held: &Held,
    (mut sender, mut receiver): (FrameSender, FrameReceiver),
    pace: Pace,
) -> Result<(), String> {
    let text = |error: larder_net::Error| error.to_string();
    let snapshot = held.snapshot();
    let manifest = snapshot.manifest();
    let sizes: Vec<u64> = manifest.files.iter().map(|file| file.bytes).collect();
    let encoded = manifest.encode().map_err(|error| error.to_string())?;
    sender.send(encoded.into()).await.map_err(text)?;
    let begin = receiver.next().await.map_err(text)?.ok_or("the slave has ended the stream")?;
    let Some((mut file, mut offset)) = place(&begin) else {
        return Err("the slave asks for no place".to_owned());
    };
    let mut next = piece(snapshot, &sizes, &mut file, &mut offset);
    while let Some(reading) = next {
        let piece = reading.await.map_err(|error| error.to_string())??;
        next = self::piece(snapshot, &sizes, &mut file, &mut offset);
        pace.wait_for(piece.len()).await;
        let sent = timeout(PATIENCE, sender.send(piece)).await;
        sent.map_err(|_| "the slave takes nothing")?.map_err(text)?;
    }
    sender.finish().await.map_err(text)
}

type Reading = tokio::task::JoinHandle<Result<Bytes, String>>;

/// Begins to read the piece at a place, and moves the place on; `None` at the end.
fn piece(snapshot: &Snapshot, sizes: &[u64], file: &mut u64, offset: &mut u64) -> Option<Reading> {
    let mut at = usize::try_from(*file).ok().filter(|at| *at < sizes.len())?;
    while *offset >= sizes[at] {
        at += 1;
        (*file, *offset) = (at as u64, 0);
        if at == sizes.len() {
            return None;
        }
    }
    let (snapshot, from) = (snapshot.clone(), *offset);
    *offset = sizes[at].min(from + PIECE_BYTES as u64);
    let wanted = (*offset - from) as usize;
    Some(spawn_blocking(move || {
        let bytes = snapshot.read(at, from, wanted).map_err(|error| error.to_string())?;
        if bytes.len() != wanted {
            return Err(format!(
                "a file of the snapshot ends {} bytes early",
                wanted - bytes.len()
            ));
        }
        let mut piece = BytesMut::with_capacity(PIECE_HEADER_BYTES + bytes.len());
        piece.put_u64_le(at as u64);
        piece.put_u64_le(from);
        piece.extend_from_slice(&bytes);
        Ok(piece.freeze())
    }))
}

/// Fetches a snapshot from the master, going on with what is there of it.
pub(super) async fn fetch(
    connection: Connection,
    session: Session,
    log: LogId,
    (directory, gathering): (Arc<Directory>, Gathering),
) -> Result<Fetched, String> {
    let text = |error: larder_net::Error| error.to_string();
    let (mut sender, mut receiver) = connection.open(StreamKind::Snapshot).await.map_err(text)?;
    sender.send(Bytes::copy_from_slice(&session.0.to_le_bytes())).await.map_err(text)?;
    // The master may have to make it first.
    let manifest = tokio::select! {
        manifest = receiver.next() => manifest.map_err(text)?,
        error = connection.closed() => return Err(error.to_string()),
    };
    let manifest = manifest.ok_or("the master gives no snapshot")?;
    // Who waits for a turn that it cannot use any more would keep those behind it from theirs.
    if manifest.is_empty() {
        return tokio::select! {
            turn = gathering.lock_owned() => Ok(Fetched::Nothing(turn)),
            error = connection.closed() => Err(error.to_string()),
        };
    }
    let manifest = Manifest::decode(&manifest).map_err(|error| error.to_string())?;
    let of = manifest.head().map_err(|error| error.to_string())?.id;
    if of != log {
        return Err(format!("a snapshot of log {of}, not of {log}"));
    }
    let (incoming, turn, missing) = tokio::select! {
        begun = begin(directory, gathering, manifest) => begun?,
        error = connection.closed() => return Err(error.to_string()),
    };
    let (file, offset) = missing.map_or((NOTHING, NOTHING), |(file, offset)| (file as u64, offset));
    let mut begin = BytesMut::with_capacity(PIECE_HEADER_BYTES);
    begin.put_u64_le(file);
    begin.put_u64_le(offset);
    sender.send(begin.freeze()).await.map_err(text)?;

    let (pieces, waiting) = mpsc::channel(PIECES_WAITING_MAX);
    let writing = spawn_blocking(move || write_all(incoming, turn, waiting));
    while let Some(piece) = next(&mut receiver).await? {
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    drop(pieces);
    writing.await.map_err(|error| error.to_string())?
}

/// What is there of a snapshot, the turn to go on with it, and the place of what comes next.
type Begun = (Incoming, Turn, Option<(usize, u64)>);

async fn begin(
    directory: Arc<Directory>,
    gathering: Gathering,
    manifest: Manifest,
) -> Result<Begun, String> {
    let turn = gathering.lock_owned().await;
    let begun = spawn_blocking(move || {
        let mut incoming = Incoming::begin(&directory, manifest)?;
        let missing = incoming.missing()?;
        Ok::<_, SnapshotError>((incoming, turn, missing))
    });
    begun.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Writes what comes, also what came before the connection broke.
fn write_all(
    mut incoming: Incoming,
    turn: Turn,
    mut waiting: mpsc::Receiver<Bytes>,
) -> Result<Fetched, String> {
    while let Some(mut piece) = waiting.blocking_recv() {
        let (file, offset) = place(&piece).ok_or("a piece of a snapshot without its place")?;
        piece.advance(PIECE_HEADER_BYTES);
        let file = usize::try_from(file).map_err(|error| error.to_string())?;
        incoming.write(file, offset, &piece).map_err(|error| error.to_string())?;
        // A file that has come whole is verified before the next begins.
        incoming.missing().map_err(|error| error.to_string())?;
    }
    match incoming.missing().map_err(|error| error.to_string())? {
        None => Ok(Fetched::State(incoming, turn)),
        Some((file, offset)) => Err(format!("the snapshot ends in file {file} at byte {offset}")),
    }
}

async fn next(receiver: &mut FrameReceiver) -> Result<Option<Bytes>, String> {
    let received = timeout(PATIENCE, receiver.next()).await;
    received.map_err(|_| "the master is silent")?.map_err(|error| error.to_string())
}

/// File and offset at the beginning of a frame.
fn place(frame: &[u8]) -> Option<(u64, u64)> {
    let (file, rest) = frame.split_first_chunk::<8>()?;
    let (offset, _) = rest.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*file), u64::from_le_bytes(*offset)))
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
        time::SystemTime,
    };

    use larder_net::{
        Endpoint, Identity, Shaper,
        ca::{self, Validity},
    };
    use larder_storage::{StoreOptions, open, state::DatabaseOptions};
    use larder_types::NodeId;

    use super::*;

    /// How long something is looked for that must not happen.
    const A_WHILE: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_snapshot_is_gone_on_with_once_all_is_written_that_came_before_the_break() {
        let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let theirs = Directory::open(theirs.path()).unwrap();
        let mut options = StoreOptions::new(DatabaseOptions::new(8 << 20, 8 << 20));
        options.reserve_bytes = 0;
        let opened = open(&theirs, options, 1, 1).unwrap();
        let (mut writer, mut syncer) = (opened.writer, opened.syncer);
        let mut txn = writer.transaction(1);
        txn.put_string(b"key", b"value", None).unwrap();
        txn.commit().unwrap();
        writer.seal();
        syncer.commit(writer.take_batch().unwrap()).unwrap();
        opened.store.stop_folding();
        opened.folder.run().unwrap();
        let snapshot = opened.store.snapshot(&theirs, 1).unwrap();
        let manifest = snapshot.manifest().clone();
        let sizes: Vec<u64> = manifest.files.iter().map(|file| file.bytes).collect();
        let whole = piece(&snapshot, &sizes, &mut 0, &mut 0).unwrap().await.unwrap().unwrap();

        let (directory, gathering) =
            (Arc::new(Directory::open(ours.path()).unwrap()), Gathering::default());
        let begin_again = || begin(directory.clone(), gathering.clone(), manifest.clone());
        let (incoming, turn, missing) = begin_again().await.unwrap();
        assert_eq!(missing, Some((0, 0)));
        let (pieces, waiting) = mpsc::channel(PIECES_WAITING_MAX);
        let writing = spawn_blocking(move || write_all(incoming, turn, waiting));
        let next = begin_again();
        tokio::pin!(next);
        assert!(timeout(A_WHILE, &mut next).await.is_err(), "the one before is not over");
        pieces.send(whole.clone()).await.unwrap();
        drop(pieces);
        let (.., missing) = next.await.unwrap();
        assert_ne!(missing, Some((0, 0)), "what came is written");
        assert!(writing.await.unwrap().is_err(), "it is not whole");
    }

    /// Lets time pass, on a paused clock alone.
    async fn pass(span: Duration) {
        timeout(span, pending::<()>()).await.expect_err("it never comes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_may_take_hours_to_make_while_its_state_has_to_be_folded_soon() {
        let hours = || async {
            pass(Duration::from_secs(8 * 3_600)).await;
            Ok(Some("made"))
        };
        assert_eq!(once_folded(hours, || panic!("nothing is missing")).await, Ok("made"));
        let (begin, flushes) = (Instant::now(), AtomicUsize::new(0));
        let never = || async { Ok(None::<()>) };
        let flush = || {
            flushes.fetch_add(1, Ordering::Relaxed);
        };
        assert!(once_folded(never, flush).await.is_err());
        assert_eq!(begin.elapsed().as_secs(), FOLD_TIME_MAX.as_secs());
        assert!(flushes.into_inner() > 1);
    }

    /// A connection on loopback as the slave and as the master have it, and their endpoints.
    async fn connected() -> (Connection, Connection, [Endpoint; 2]) {
        let root = tempfile::tempdir().unwrap();
        let from = SystemTime::now() - Duration::from_secs(60);
        let validity = Validity { from, lasting: Duration::from_secs(3_600) };
        let authority = ca::init(root.path(), &"test".parse().unwrap(), validity).unwrap();
        let names: [NodeId; 2] = ["master", "slave"].map(|name| name.parse().unwrap());
        let [master, slave] = names.clone().map(|node| {
            let files = ca::issue_node(root.path(), &node, root.path(), validity).unwrap();
            let identity = Identity::load(&authority.certificate, &files.certificate, &files.key);
            let allowed = names.iter().cloned().collect();
            let options = larder_net::Options { allowed, ..larder_net::Options::default() };
            let address = ([127, 0, 0, 1], 0).into();
            Endpoint::bind(address, Arc::new(identity.unwrap()), &Shaper::new(1), options).unwrap()
        });
        let address = master.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(slave.connect(address, &names[0]), master.accept());
        (ours.unwrap(), theirs.unwrap().unwrap(), [master, slave])
    }

    #[tokio::test]
    async fn a_slave_waits_for_its_snapshot_to_be_made_as_long_as_the_connection_lives() {
        let ours = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::open(ours.path()).unwrap());
        let (slave, master, _ends) = connected().await;
        let log = LogId::from_bytes([7; 16]);
        for is_made in [true, false] {
            let place = (directory.clone(), Gathering::default());
            let fetching = fetch(slave.clone(), Session(1), log, place);
            let serving = async {
                let (_, sender, mut receiver) = master.accept().await.unwrap();
                receiver.next().await.unwrap().expect("the session");
                tokio::time::pause();
                pass(2 * PATIENCE).await;
                tokio::time::resume();
                if is_made {
                    send(Given::Nothing, (sender, receiver), Pace::default()).await.unwrap();
                } else {
                    master.close(0, "the master ends");
                }
            };
            let (fetched, ()) = tokio::join!(fetching, serving);
            assert_eq!(matches!(fetched, Ok(Fetched::Nothing(_))), is_made);
        }
    }

    /// Sends for a while, and returns how much that was.
    async fn send_for(pace: &Pace, lasting: Duration) -> u64 {
        let until = Instant::now() + lasting;
        let mut bytes = 0;
        while Instant::now() < until {
            pace.wait_for(PIECE_BYTES).await;
            bytes += PIECE_BYTES as u64;
        }
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn all_snapshots_together_keep_the_pace_and_make_up_for_little() {
        let pace = Pace::default();
        let second = Duration::from_secs(1);
        let one = send_for(&pace, second).await;
        assert!(one.abs_diff(BYTES_PER_SECOND) <= 2 * PIECE_BYTES as u64, "{one} bytes");
        let (one, other) = tokio::join!(send_for(&pace, second), send_for(&pace, second));
        let both = one + other;
        assert!(both.abs_diff(BYTES_PER_SECOND) <= 4 * PIECE_BYTES as u64, "{both} bytes");
        assert!(one.abs_diff(other) <= PIECE_BYTES as u64, "{one} and {other} bytes");
        // Nothing was sent for an hour.
        tokio::time::advance(3_600 * second).await;
        let after = send_for(&pace, second).await;
        let made_up = BYTES_PER_SECOND * BEHIND_MAX.as_millis() as u64 / 1_000;
        let most = BYTES_PER_SECOND + made_up + 2 * PIECE_BYTES as u64;
        assert!(after <= most, "{after} bytes");
    }
}
