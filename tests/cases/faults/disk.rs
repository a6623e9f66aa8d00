//! A disk that fills up: a small file system with ballast that can be thrown out.

use std::collections::BTreeMap;
use std::io::Write as _;
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
/// The one that is overwritten again and again: compactions need as much of it as the data take.
const OVERWRITTEN_DISK_BYTES: u64 = 128 << 20;
/// What is kept free there, well above what is written between two looks at the disk.
const OVERWRITTEN_RESERVE_BYTES: u64 = 32 << 20;
/// Keys that are overwritten there: 22 MiB of values.
const OVERWRITTEN_KEYS: u64 = 480;
/// What is in the way grows by this at a time.
const BALLAST_STEP_BYTES: usize = 1 << 20;
/// Writes between two steps.
const WRITES_A_STEP: u64 = 10;
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
/// The same, for the disk that is overwritten.
const OVERWRITES_DEADLINE: Duration = Duration::from_secs(40);
/// How long it may take until writes are accepted again.
const ROOM_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn a_disk_that_fills_up(binary: &Path, _seed: u64) -> Result<()> {
    let Some(mount) = mounted(DISK_BYTES)? else {
        return Ok(());
    };
    let setup = Setup::new(Engine::Kvd(binary.to_path_buf()));
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

/// Others take the disk, a step at a time, while the same keys are overwritten: when writes are
/// refused, what flushes and compactions still need is there.
pub(crate) fn a_disk_of_overwrites(binary: &Path, _seed: u64) -> Result<()> {
    let Some(mount) = mounted(OVERWRITTEN_DISK_BYTES)? else {
        return Ok(());
    };
    let setup = Setup {
        reserve_bytes: OVERWRITTEN_RESERVE_BYTES,
        ..Setup::new(Engine::Kvd(binary.to_path_buf()))
    };
    let data = mount.path().join("data");
    let mut server = setup.start(&data)?;
    let mut client = server.client()?;
    let mut writes = Writes { keys: OVERWRITTEN_KEYS, ..Writes::default() };
    let ballast = mount.path().join("ballast");
    let mut in_the_way = std::fs::File::create(&ballast)?;
    let mut least_free = u64::MAX;
    let (mut accepted, mut accepted_last) = (0_u64, Instant::now());
    Deadline::after(OVERWRITES_DEADLINE).wait_for("writes to be refused for good", || {
        if writes.write(&mut client)?.is_none() {
            (accepted, accepted_last) = (accepted + 1, Instant::now());
            if accepted > 2 * OVERWRITTEN_KEYS && accepted.is_multiple_of(WRITES_A_STEP) {
                in_the_way.write_all(&vec![7; BALLAST_STEP_BYTES])?;
                in_the_way.sync_all()?;
            }
        }
        least_free = least_free.min(free_bytes(&mount)?);
        Ok((accepted_last.elapsed() >= REFUSED_FOR).then_some(()))
    })?;
    server.expect_alive()?;
    ensure!(least_free > OVERWRITTEN_RESERVE_BYTES / 4 * 3, "only {least_free} bytes were left");
    ensure!(!server.stderr().contains("opened again"), "the state failed:\n{}", server.stderr());
    std::fs::remove_file(ballast)?;
    drop(in_the_way);
    Deadline::after(ROOM_DEADLINE).wait_for("writes to be accepted again", || {
        Ok(writes.write(&mut client)?.is_none().then_some(()))
    })?;
    check(&writes.acknowledged, &read_contents(&mut client)?)?;
    println!("  {accepted} overwrites, {least_free} bytes were always free");
    Ok(())
}

fn free_bytes(mount: &LoopMount) -> Result<u64> {
    let stat = rustix::fs::statvfs(mount.path())?;
    Ok(stat.f_bavail * stat.f_frsize)
}

pub(crate) fn a_full_disk(binary: &Path, _seed: u64) -> Result<()> {
    let Some(mount) = mounted(DISK_BYTES)? else {
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

fn mounted(bytes: u64) -> Result<Option<LoopMount>> {
    if let Err(missing) = loopmount::available() {
        skip("faults: full disks", &missing);
        return Ok(None);
    }
    LoopMount::create(bytes).map(Some)
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

/// Writes of keys, one after the other.
struct Writes {
    next: u64,
    /// How many there are before it begins again with the first.
    keys: u64,
    acknowledged: Contents,
    unacknowledged: BTreeMap<Vec<u8>, Stored>,
}

impl Default for Writes {
    fn default() -> Self {
        let (acknowledged, unacknowledged) = (Contents::new(), BTreeMap::new());
        Self { next: 0, keys: u64::MAX, acknowledged, unacknowledged }
    }
}

impl Writes {
    /// Writes the next key. Returns the error with which it was refused, if it was.
    fn write(&mut self, client: &mut Client) -> Result<Option<String>> {
        let key = format!("key:{}", self.next % self.keys).into_bytes();
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
