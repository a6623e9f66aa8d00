//! A disk that fills up: a file system of 96 MiB with ballast that can be thrown out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use larder_tests::client::Client;
use larder_tests::deadline::Deadline;
use larder_tests::faults::contents::{Contents, Stored, Value, differences, read_contents};
use larder_tests::faults::store::{Engine, Setup};
use larder_tests::loopmount::{self, LoopMount};
use larder_tests::process::skip;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use crate::EXIT_IO;

/// The file system.
const DISK_BYTES: u64 = 96 << 20;
/// What is in the way at first.
const BALLAST_BYTES: usize = 32 << 20;
/// Values are this large, so that the disk fills up soon.
const VALUE_BYTES: usize = 48 << 10;
/// More writes than the disk can hold.
const WRITES_MAX: u64 = 4 * DISK_BYTES / VALUE_BYTES as u64;
/// Writes that have been refused for so long are refused for good.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// How long it may take until they are.
const FULL_DEADLINE: Duration = Duration::from_secs(30);
/// How long it may take until writes are accepted again.
const ROOM_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn a_disk_that_fills_up(binary: &Path, _seed: u64) -> Result<()> {
    let Some(mount) = mounted()? else {
        return Ok(());
    };
    // Nothing is folded here, so that the log alone fills the disk: what RocksDB's compactions need
    // for a while is not held back by the reserve, and may use it up.
    let setup = Setup { layer_bytes: 64 << 20, ..Setup::new(Engine::Kvd(binary.to_path_buf())) };
    let data = mount.path().join("data");
    let mut server = setup.start(&data)?;
    let ballast = put_ballast(&mount)?;
    let mut client = server.client()?;
    let mut writes = Writes::default();
    let refusal = loop {
        ensure!(writes.next < WRITES_MAX, "{WRITES_MAX} writes were accepted");
        if let Some(refusal) = writes.write(&mut client)? {
            break refusal;
        }
    };
    let before = writes.acknowledged.len();
    ensure!(refusal.contains("disk"), "the refusal does not say why: {refusal}");
    server.expect_alive()?;
    let found = read_contents(&mut client).context("reading while writes are refused")?;
    check(&writes.acknowledged, &found)?;
    // Flushing and trimming may make room once more, until there is nothing left to trim.
    let mut accepted_last = Instant::now();
    Deadline::after(FULL_DEADLINE).wait_for("writes to be refused for good", || {
        let written = writes.write(&mut client).with_context(|| {
            format!("the store, {:?}, said:\n{}", server.exit_status(), server.stderr())
        })?;
        if written.is_none() {
            accepted_last = Instant::now();
        }
        Ok((accepted_last.elapsed() >= REFUSED_FOR).then_some(()))
    })?;
    std::fs::remove_file(ballast)?;
    Deadline::after(ROOM_DEADLINE).wait_for("writes to be accepted again", || {
        Ok(writes.write(&mut client)?.is_none().then_some(()))
    })?;
    server.expect_alive()?;
    server.kill();
    let server = setup.start(&data)?;
    check(&writes.acknowledged, &read_contents(&mut server.client()?)?)?;
    println!("  refused after {before} writes: {refusal}");
    Ok(())
}

pub(crate) fn a_full_disk(binary: &Path, _seed: u64) -> Result<()> {
    let Some(mount) = mounted()? else {
        return Ok(());
    };
    let setup = Setup { reserve_bytes: 0, ..Setup::new(Engine::Kvd(binary.to_path_buf())) };
    let data = mount.path().join("data");
    let mut server = setup.start(&data)?;
    let ballast = put_ballast(&mount)?;
    let mut client = server.client()?;
    let mut writes = Writes::default();
    let mut refusals = 0;
    loop {
        ensure!(writes.next < WRITES_MAX, "{WRITES_MAX} writes were accepted");
        match writes.write(&mut client) {
            Ok(None) => ensure!(refusals == 0, "acknowledged after a write had failed"),
            Ok(Some(_)) => refusals += 1,
            // The connection has ended: the rest is said by the exit status.
            Err(_) => break,
        }
    }
    let status = server.wait_until_ended()?;
    ensure!(status.code() == Some(EXIT_IO), "it ended with {status}:\n{}", server.stderr());
    std::fs::remove_file(ballast)?;
    let server = setup.start(&data)?;
    let mut found = read_contents(&mut server.client()?)?;
    // What was in flight at the end was not acknowledged; it may be there.
    for (key, value) in &writes.unacknowledged {
        if found.get(key) == Some(value) {
            found.remove(key);
        }
    }
    check(&writes.acknowledged, &found)?;
    println!("  ended after {} writes, all there", writes.acknowledged.len());
    Ok(())
}

fn mounted() -> Result<Option<LoopMount>> {
    if let Err(missing) = loopmount::available() {
        skip("faults: full disks", &missing);
        return Ok(None);
    }
    LoopMount::create(DISK_BYTES).map(Some)
}

fn put_ballast(mount: &LoopMount) -> Result<PathBuf> {
    let ballast = mount.path().join("ballast");
    write_synced(&ballast, &vec![7; BALLAST_BYTES])?;
    Ok(ballast)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes)?;
    Ok(std::fs::File::open(path)?.sync_all()?)
}

/// Writes of distinct keys, one after the other.
#[derive(Default)]
struct Writes {
    next: u64,
    acknowledged: Contents,
    unacknowledged: BTreeMap<Vec<u8>, Stored>,
}

impl Writes {
    /// Writes the next key. Returns the error with which it was refused, if it was.
    fn write(&mut self, client: &mut Client) -> Result<Option<String>> {
        let key = format!("key:{}", self.next).into_bytes();
        let mut value = format!("value {} ", self.next).into_bytes();
        // Random, so that compression does not make room.
        let start = value.len();
        value.resize(start + VALUE_BYTES, 0);
        StdRng::seed_from_u64(self.next).fill_bytes(&mut value[start..]);
        self.next += 1;
        let stored = Stored { value: Value::Text(value.clone()), expires_at: None };
        self.unacknowledged.insert(key.clone(), stored.clone());
        let reply = client.call(&[b"SET".as_slice(), &key, &value])?;
        if reply.is_error() {
            return Ok(Some(String::from_utf8_lossy(reply.text()).into_owned()));
        }
        self.unacknowledged.remove(&key);
        self.acknowledged.insert(key, stored);
        Ok(None)
    }
}

fn check(expected: &Contents, found: &Contents) -> Result<()> {
    let differences = differences(expected, found);
    if differences.is_empty() {
        return Ok(());
    }
    bail!("not what was acknowledged: {}", differences.join("; "))
}
