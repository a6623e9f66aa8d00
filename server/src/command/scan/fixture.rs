//! For tests: commands run against a real store, without connections and threads of a shard.

use std::{
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use larder_resp::{
    Decoder, Limits, Protocol, Replies, ReplyDecoder, ReplyLimits, ReplyWriter, Value,
    encode_request,
};
use larder_storage::{
    Directory, Store, StoreOptions, Syncer, View, Writer, open, state::DatabaseOptions,
};

use crate::command::{Handler, REPLY_BYTES_MAX, lookup};

/// A store in a directory of its own, and the clock that its requests see.
pub(in crate::command) struct Fixture {
    writer: Writer,
    syncer: Syncer,
    store: Store,
    folding: Option<JoinHandle<()>>,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub(in crate::command) now_ms: u64,
    _directory: Directory,
    _scratch: tempfile::TempDir,
}

impl Fixture {
    pub(in crate::command) fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let directory = Directory::open(scratch.path()).unwrap();
        let mut options = StoreOptions::new(DatabaseOptions::new(8 << 20, 8 << 20));
        options.reserve_bytes = 0;
        let now_ms = 1_700_000_000_000;
        let opened = open(&directory, options, now_ms, 1).unwrap();
        let folder = opened.folder;
        Self {
            writer: opened.writer,
            syncer: opened.syncer,
            store: opened.store,
            folding: Some(std::thread::spawn(|| folder.run().unwrap())),
            now_ms,
            _directory: directory,
            _scratch: scratch,
        }
    }

    /// Runs one command and answers its reply; a refusal is an error's text.
    pub(in crate::command) fn run<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Value {
        self.run_within(REPLY_BYTES_MAX, arguments)
    }

    /// As [`Fixture::run`] where the reply has only so much room.
    pub(in crate::command) fn run_within<A: AsRef<[u8]>>(
        &mut self,
        room: usize,
        arguments: &[A],
    ) -> Value {
        let mut replies = BytesMut::from(&self.replies(room, arguments).to_vec()[..]);
        ReplyDecoder::new(ReplyLimits::default()).decode(&mut replies).unwrap().unwrap()
    }

    /// The same as it is written.
    pub(in crate::command) fn replies<A: AsRef<[u8]>>(
        &mut self,
        room: usize,
        arguments: &[A],
    ) -> Replies {
        let mut wire = BytesMut::new();
        encode_request(&mut wire, arguments);
        let mut decoder = Decoder::new(Limits::AFTER_AUTH);
        let pipeline = decoder.decode(&mut wire, 1).unwrap();
        let request = pipeline.request(0);
        let mut out = Replies::default();
        let mut reply = ReplyWriter::new(&mut out, Protocol::Resp2);
        reply.set_room(room);
        let command = lookup(request.arg(0)).unwrap();
        assert!(command.accepts(request.len()), "{}", command.name);
        let outcome = match command.handler {
            Handler::Read(read) | Handler::ReadMany(read) => {
                read(request, &self.view(), &mut reply)
            }
            Handler::Write(write) => {
                let mut txn = self.writer.transaction(self.now_ms);
                let outcome = write(request, &mut txn, &mut reply);
                txn.commit();
                outcome
            }
            Handler::Session(_) | Handler::Loop(_) => panic!("{} needs a session", command.name),
        };
        if let Err(refusal) = outcome {
            reply.truncate(0);
            reply.error(&refusal.to_string());
        }
        out
    }

    /// What a command that only reads sees.
    pub(in crate::command) fn view(&self) -> View<'_> {
        self.writer.view(self.now_ms)
    }

    /// As [`Fixture::run`] for words between spaces.
    pub(in crate::command) fn words(&mut self, line: &str) -> Value {
        self.run(&line.split(' ').collect::<Vec<_>>())
    }

    /// Makes everything written so far durable and folds it into RocksDB.
    pub(in crate::command) fn fold(&mut self) {
        self.writer.seal();
        if let Some(batch) = self.writer.take_batch() {
            self.syncer.commit(batch).unwrap();
        }
        let last = self.writer.last().seq.as_u64();
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.store.watermarks().applied < last {
            assert!(Instant::now() < deadline, "nothing is folded: {:?}", self.store.failure());
            std::thread::yield_now();
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.store.stop_folding();
        if let Some(folding) = self.folding.take() {
            let _ = folding.join();
        }
    }
}
