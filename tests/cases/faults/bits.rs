//! Flipped bits: one, anywhere in any file of a data directory. `kvd` may refuse it (and says
//! where), or serve exactly the right data, or, where the bit is in the last batch of the log,
//! report that batch as torn. It never serves anything else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use larder_storage::log::format::{MARK_BYTES, MARK_MAGIC};
use larder_tests::client::Client;
use larder_tests::faults::contents::{Contents, Stored, Value, differences, read_contents};
use larder_tests::faults::flips::{FileKind, Flip, copy_directory, files_by_kind};
use larder_tests::faults::store::{Engine, Setup, flush, terminate};
use larder_tests::powercut::operation::Generator;
use larder_tests::reply::{Reply, quoted};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;

use crate::EXIT_DAMAGED;
use crate::refusals::{Attempt, attempt};

/// What a panic ends with.
const CODE_PANIC: i32 = 101;
/// Flips a run, at least.
const FLIPS: usize = 480;
/// Flips of each kind of file a run, at least.
const FLIPS_OF_A_KIND: usize = 40;
/// What flips must have come to in a run.
const MUST_OCCUR: [(FileKind, Outcome); 10] = [
    (FileKind::Format, Outcome::Refused),
    (FileKind::SealedSegment, Outcome::Refused),
    (FileKind::LastSegment, Outcome::Refused),
    (FileKind::LastSegment, Outcome::Right),
    (FileKind::LastSegment, Outcome::Torn),
    (FileKind::Table, Outcome::RefusedReads),
    (FileKind::Manifest, Outcome::Refused),
    (FileKind::Current, Outcome::Refused),
    (FileKind::Options, Outcome::Right),
    (FileKind::Other, Outcome::Right),
];
/// Small, so that a directory has sealed segments and copies fast.
const SEGMENT_BYTES: u64 = 64 << 10;
/// Operations before the flush of the state, and after it.
const OPERATIONS: usize = 600;

/// A data directory whose contents are known.
struct Prepared {
    name: &'static str,
    data: PathBuf,
    /// What it holds.
    contents: Contents,
    /// What it would hold without its last batch.
    without_last_batch: Contents,
}

/// What a flip came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Refused at the start.
    Refused,
    /// Started, and reads of what is damaged are answered with an error.
    RefusedReads,
    /// Exactly the right data.
    Right,
    /// The last batch is reported as torn; the rest is right.
    Torn,
}

pub(crate) fn flipped_bits(binary: &Path, seed: u64) -> Result<()> {
    let scratch = TempDir::with_prefix("larder-flips-")?;
    let setup = Setup {
        segment_bytes: SEGMENT_BYTES,
        reserve_bytes: 0,
        ..Setup::new(Engine::Kvd(binary.to_path_buf()))
    };
    let mut random = StdRng::seed_from_u64(seed);
    let prepared = [
        prepare(&setup, scratch.path(), seed, "stopped", true, true)?,
        prepare(&setup, scratch.path(), seed, "killed", true, false)?,
        prepare(&setup, scratch.path(), seed, "killed, unflushed", false, false)?,
    ];
    forget_last_mark(&prepared[2].data)?;
    let mut outcomes = BTreeMap::<(FileKind, Outcome), usize>::new();
    let mut wrong = Vec::new();
    let mut flips = 0;
    while flips < FLIPS {
        for original in &prepared {
            let files = files_by_kind(&original.data)?;
            for kind in files.keys() {
                let Some(flip) = Flip::choose(&files, *kind, &mut random) else { continue };
                flips += 1;
                match judge(&setup, scratch.path(), original, &flip) {
                    Ok(outcome) => *outcomes.entry((*kind, outcome)).or_default() += 1,
                    Err(error) => wrong.push(format!("{} ({flip}): {error:#}", original.name)),
                }
            }
        }
    }
    println!("  {flips} flips");
    for ((kind, outcome), count) in &outcomes {
        println!("  {kind:?}: {outcome:?} {count}");
    }
    ensure!(wrong.is_empty(), "{} flips went wrong:\n{}", wrong.len(), wrong.join("\n"));
    for kind in FileKind::ALL {
        let of_kind = outcomes.iter().filter(|((it, _), _)| *it == kind);
        let flips: usize = of_kind.map(|(_, count)| count).sum();
        ensure!(flips >= FLIPS_OF_A_KIND, "only {flips} flips in files of the kind {kind:?}");
    }
    for must in MUST_OCCUR {
        ensure!(outcomes.contains_key(&must), "{must:?} did not occur");
    }
    Ok(())
}

/// Takes off the mark that says that the last batch is durable, if it was written before the kill. It was
/// not synced: a loss of power may have left the log so.
fn forget_last_mark(data: &Path) -> Result<()> {
    let files = files_by_kind(data)?;
    let last = files.get(&FileKind::LastSegment).and_then(|files| files.first());
    let last = last.context("a last segment")?;
    let path = data.join(&last.path);
    let mut content = fs::read(&path)?;
    let written = content.get_mut(..usize::try_from(last.written)?).context("what was written")?;
    let mark = written.last_chunk_mut::<MARK_BYTES>().context("a mark")?;
    if mark.starts_with(&MARK_MAGIC) {
        mark.fill(0);
        fs::write(&path, content)?;
    }
    Ok(())
}

/// Makes a data directory of operations on one connection, the last of which is alone in its batch.
fn prepare(
    setup: &Setup,
    scratch: &Path,
    seed: u64,
    name: &'static str,
    flushed: bool,
    stopped: bool,
) -> Result<Prepared> {
    let data = scratch.join(format!("original {name}"));
    let mut server = setup.start(&data)?;
    let mut client = server.client()?;
    let mut generator = Generator::new(0, seed);
    generator.begin_round(0, &Contents::new());
    write(&mut client, &mut generator)?;
    if flushed {
        flush(&mut client)?;
    }
    write(&mut client, &mut generator)?;
    let without_last_batch = read_contents(&mut client)?;
    client.expect_ok(&["SET", "last", "write"])?;
    if stopped {
        terminate(&server)?;
        server.wait_until_ended()?;
    } else {
        server.kill();
    }
    let mut contents = without_last_batch.clone();
    let last = Stored { value: Value::Text(b"write".to_vec()), expires_at: None };
    contents.insert(b"last".to_vec(), last);
    Ok(Prepared { name, data, contents, without_last_batch })
}

fn write(client: &mut Client, generator: &mut Generator) -> Result<()> {
    for _ in 0..OPERATIONS {
        let operation = generator.operation();
        let mut wire = Vec::new();
        operation.encode(&mut wire);
        client.send_raw(&wire)?;
        for _ in 0..operation.replies() {
            let reply = client.reply()?.reply;
            ensure!(!reply.is_error(), "{operation:?} was answered with {}", reply.describe());
        }
    }
    Ok(())
}

fn judge(setup: &Setup, scratch: &Path, original: &Prepared, flip: &Flip) -> Result<Outcome> {
    let copy = TempDir::with_prefix_in("flipped-", scratch)?;
    let data = copy.path().join("data");
    copy_directory(&original.data, &data)?;
    flip.apply(&data)?;
    let noticed = inspect(setup, &data, flip)?;
    let outcome = match attempt(setup, &data)? {
        Attempt::Refused(code, said) => {
            ensure!(code > 0 && code != CODE_PANIC, "it ended with code {code}: {said}");
            let name = flip.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let in_log = matches!(flip.kind, FileKind::SealedSegment | FileKind::LastSegment);
            ensure!(
                said.contains(&name)
                    // A state that lost its newest tables shows as a gap before the log.
                    || (!in_log && (said.contains("state") || said.contains("the log holds"))),
                "the refusal does not name the place: {said}"
            );
            ensure!(
                !in_log || code == EXIT_DAMAGED,
                "it ended with code {code} over a damaged log: {said}"
            );
            Outcome::Refused
        }
        Attempt::Serves(server) => served(original, flip, &server)?,
    };
    let harmful = matches!(outcome, Outcome::Refused | Outcome::RefusedReads);
    ensure!(!harmful || noticed, "inspect found nothing wrong, but it was {outcome:?}");
    ensure!(
        flip.kind != FileKind::SealedSegment || noticed,
        "inspect found nothing wrong in a sealed segment"
    );
    Ok(outcome)
}

fn served(
    original: &Prepared,
    flip: &Flip,
    server: &larder_tests::process::Server,
) -> Result<Outcome> {
    let found = match read_contents(&mut server.client()?) {
        Ok(found) => found,
        // An answer that is an error is no wrong data; the connection must have lived, though.
        Err(error) => {
            check_readable(original, &mut server.client()?)
                .with_context(|| format!("after {error:#}"))?;
            return Ok(Outcome::RefusedReads);
        }
    };
    if found == original.contents {
        return Ok(Outcome::Right);
    }
    if found == original.without_last_batch && flip.kind == FileKind::LastSegment {
        ensure!(server.stderr().contains("torn"), "a batch is gone and nothing was said");
        return Ok(Outcome::Torn);
    }
    bail!("wrong data: {}", differences(&original.contents, &found).join("; "))
}

/// Whatever can still be read must be right.
fn check_readable(original: &Prepared, client: &mut Client) -> Result<()> {
    for (key, stored) in &original.contents {
        let (command, expected) = match &stored.value {
            Value::Text(text) => ("GET", vec![text.as_slice()]),
            Value::Hash(fields) => {
                ("HGETALL", fields.iter().flat_map(|(k, v)| [k.as_slice(), v]).collect())
            }
        };
        let reply = client.call(&[command.as_bytes(), key])?;
        if reply.is_error() {
            continue;
        }
        let mut found: Vec<&[u8]> = match &stored.value {
            Value::Text(_) => vec![reply.text()],
            Value::Hash(_) => reply.items().iter().map(Reply::text).collect(),
        };
        let mut expected = expected;
        // Every value is unique and no field is a value, so order tells nothing here.
        found.sort_unstable();
        expected.sort_unstable();
        ensure!(found == expected, "{} is {}", quoted(key), reply.describe());
    }
    Ok(())
}

/// Whether `kvd inspect` finds something wrong with a damaged directory.
fn inspect(setup: &Setup, data: &Path, flip: &Flip) -> Result<bool> {
    let Engine::Kvd(binary) = &setup.engine else {
        bail!("only kvd can be inspected");
    };
    let in_log = matches!(flip.kind, FileKind::SealedSegment | FileKind::LastSegment);
    let subject = if in_log { "log" } else { "state" };
    let output = Command::new(binary)
        .args(["inspect", subject, "--verify", "--data"])
        .arg(data)
        .output()
        .context("running kvd inspect")?;
    ensure!(output.status.code().is_some(), "inspect ended with {}", output.status);
    Ok(!output.status.success())
}
