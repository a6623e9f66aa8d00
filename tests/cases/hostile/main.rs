//! Hostile clients against kvd: its memory stays bounded, it stays alive, nobody else is cut off,
//! and a well-behaved client's p99 stays within five times what it is without the attack, or what little
//! counts as that. A machine that gives no memory in time is not asked for the last: the test says so.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder_tests::hostile::{Attack, Bounds, Target, attacks, raise_open_files, trial};
use larder_tests::process::{Missing, Server, kvd_path, skip, start_kvd_configured};
use tempfile::TempDir;

const PASSWORD: &str = "correct horse battery staple";
/// Ten thousand connections here, and some room. The server inherits the bound.
const OPEN_FILES: u64 = 10_500;
const MIB: u64 = 1 << 20;

/// Latencies are measured: one trial at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Starts kvd with its data in memory where that is possible: what an attack does to the disk's own
/// p99 is nothing, and what else uses the disk would be measured.
fn start(limits: &str) -> Result<(Server, TempDir), Missing> {
    let binary = kvd_path()?;
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let started = TempDir::with_prefix_in("larder-hostile-", place).map_err(anyhow::Error::from);
    let started = started.and_then(|data| {
        let server = start_kvd_configured(&binary, |_, address| {
            format!(
                "data = \"{}\"\nresp = \"{address}\"\nrequirepass = \"{PASSWORD}\"\n\
                 max_clients = 12000\n{limits}",
                data.path().join("data").display()
            )
        })?;
        Ok((server, data))
    });
    Ok(started.unwrap_or_else(|error| panic!("{error:#}")))
}

fn attempt(name: &str, attack: Attack, bounds: Bounds) {
    attempt_within("", name, attack, bounds);
}

/// With limits of its own, as the configuration has them.
fn attempt_within(limits: &str, name: &str, attack: Attack, bounds: Bounds) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let started = Instant::now();
    let (mut server, _data) = match start(limits) {
        Ok(started) => started,
        Err(missing) => return skip(name, &missing),
    };
    let target = Target { address: server.address(), password: PASSWORD };
    if let Err(error) = trial(name, &mut server, &target, attack, bounds) {
        panic!("{name}: {error:#}\n{}", server.stderr());
    }
    println!("hostile: {name}: {:.1} s", started.elapsed().as_secs_f64());
}

#[test]
fn gigabytes_declared_before_auth_take_no_memory() {
    let bounds = Bounds::of(32 * MIB, 500);
    attempt("declared gigabytes before AUTH", attacks::declared_gigabytes_before_auth, bounds);
}

#[test]
fn gigabytes_declared_after_auth_take_no_memory() {
    let bounds = Bounds::of(96 * MIB, 500);
    attempt("declared gigabytes after AUTH", attacks::declared_gigabytes_after_auth, bounds);
}

#[test]
fn ten_thousand_idle_connections_take_little_memory() {
    if let Err(reason) = raise_open_files(OPEN_FILES) {
        return skip("ten thousand idle connections", &Missing(reason));
    }
    // 13 KiB a connection, buffers and task included.
    let bounds = Bounds::of(128 * MIB, 30_000);
    attempt("10,000 idle connections", attacks::idle_connections, bounds);
}

#[test]
fn a_thousand_connections_that_send_a_byte_a_second_hold_nobody_up() {
    if let Err(reason) = raise_open_files(OPEN_FILES) {
        return skip("a byte a second", &Missing(reason));
    }
    let bounds = Bounds::of(64 * MIB, 1_000);
    attempt("1,000 connections, a byte a second", attacks::one_byte_a_second, bounds);
}

#[test]
fn a_pipeline_that_is_never_read_is_not_answered_without_bound() {
    let bounds = Bounds::of(64 * MIB, 100);
    attempt("pipelines never read", attacks::pipelines_unread, bounds);
}

#[test]
fn a_pipeline_before_auth_that_is_never_read_is_not_answered_without_bound() {
    let bounds = Bounds::of(32 * MIB, 4);
    attempt("pipelines never read, before AUTH", attacks::pipelines_unread_before_auth, bounds);
}

#[test]
fn big_replies_to_slow_readers_are_not_piled_up() {
    // The value is held a few times, and each of the 16 connections may hold one or two replies.
    let bounds = Bounds::of(96 * MIB, 500);
    attempt("slow readers of big replies", attacks::big_replies_unread, bounds);
}

#[test]
fn big_replies_that_a_hundred_never_read_are_bounded_together() {
    // Those of one window would hold some 190 MiB. The budget, and as much as is being made or ends.
    let bounds = Bounds::of(128 * MIB, 400);
    let limits = "[limits]\nreplies_bytes = \"64 MiB\"\n";
    attempt_within(limits, "big replies never read", attacks::big_replies_never_read, bounds);
}

#[test]
fn what_is_not_resp_is_refused_cheaply() {
    let bounds = Bounds::of(48 * MIB, 500);
    attempt("garbage", attacks::garbage, bounds);
}

#[test]
fn patterns_that_backtrack_do_not_stall_the_server() {
    let bounds = Bounds::of(48 * MIB, 500);
    attempt("glob bombs", attacks::glob_bombs, bounds);
}

#[test]
fn long_work_lets_others_be_served_also_behind_a_large_reply() {
    // The server never rests from this attack, and who is to run beside it waits until the system's scheduler takes
    // one of two processors from somebody, 3 ms at times. Where the attack does not let others in, that is 90 ms
    // and more.
    let quiet_least = Duration::from_millis(2);
    let bounds = Bounds { quiet_least, ..Bounds::of(48 * MIB, 5) };
    let attack = attacks::long_work_behind_a_large_reply;
    attempt("long work behind a large reply", attack, bounds);
}

#[test]
fn offsets_and_counts_at_the_end_of_their_range_are_refused() {
    let bounds = Bounds::of(48 * MIB, 500);
    attempt("giant offsets", attacks::giant_offsets, bounds);
}

#[test]
fn a_random_field_asked_for_without_end_is_bounded() {
    let bounds = Bounds::of(160 * MIB, 10);
    attempt("fields without end", attacks::fields_without_end, bounds);
}

#[test]
fn a_transaction_queued_without_end_is_bounded() {
    // Four connections may queue 16 MiB each; twice that leaves room for the queues themselves.
    let bounds = Bounds::of(128 * MIB, 100);
    attempt("transactions without end", attacks::transactions_without_end, bounds);
}

#[test]
fn keys_watched_without_end_are_bounded() {
    let bounds = Bounds::of(32 * MIB, 500);
    attempt("watches without end", attacks::watches_without_end, bounds);
}

#[test]
fn wrong_passwords_hold_nobody_up() {
    let bounds = Bounds::of(32 * MIB, 500);
    attempt("wrong passwords", attacks::wrong_passwords, bounds);
}
