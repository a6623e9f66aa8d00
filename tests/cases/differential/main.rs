//! Random commands against kvd and Debian's redis-server side by side.
//!
//! `LARDER_SEED` runs one seed, `LARDER_SEEDS` so many random ones besides the fixed ones,
//! `LARDER_STEPS` sets the steps of each, `LARDER_KEEP_GOING` goes on after so many differences to
//! report more of them in one run (it still fails). `LARDER_DIFFERENTIAL_PEER=redis` compares
//! redis-server with another redis-server, which must be clean: it tests the comparison itself.

mod authentication;
mod coverage;
mod limits;
mod self_test;

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use larder_tests::differential::{Counts, ExceptionHits, Mix, Pair, Run, exceptions};
use larder_tests::process::{Missing, Server, kvd_path, skip, start_kvd};
use larder_tests::redis::{redis_path, start_redis};

const FIXED_SEEDS: [u64; 3] = [1, 2, 3];
const STEPS: usize = 4_000;
/// What a run of all seeds must at least have compared of each command.
const LEAST_OF_EACH: u64 = 100;
const LEAST_ERROR_PERCENT: u64 = 20;

/// The binaries in use. `kvd` is `None` where a second redis-server stands in for it.
pub(crate) struct Binaries {
    pub(crate) redis: PathBuf,
    pub(crate) kvd: Option<PathBuf>,
}

pub(crate) fn binaries() -> std::result::Result<Binaries, Missing> {
    let redis = redis_path()?;
    if std::env::var("LARDER_DIFFERENTIAL_PEER").as_deref() == Ok("redis") {
        return Ok(Binaries { redis, kvd: None });
    }
    Ok(Binaries { redis, kvd: Some(kvd_path()?) })
}

/// Both servers, empty and without a password.
pub(crate) struct Servers {
    pub(crate) reference: Server,
    pub(crate) subject: Server,
}

impl Servers {
    pub(crate) fn start(binaries: &Binaries) -> Result<Self> {
        let reference = start_redis(&binaries.redis, None)?;
        let subject = match &binaries.kvd {
            Some(kvd) => start_kvd(kvd)?,
            None => start_redis(&binaries.redis, None)?,
        };
        Ok(Self { reference, subject })
    }

    pub(crate) fn pair(&self) -> Pair {
        Pair { reference: self.reference.address(), subject: self.subject.address() }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")))
}

fn seeds() -> Vec<u64> {
    if let Some(seed) = number("LARDER_SEED") {
        return vec![seed];
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let now = since.as_micros() as u64;
    let more = number("LARDER_SEEDS").unwrap_or(1);
    FIXED_SEEDS.into_iter().chain((0..more).map(|i| now.wrapping_add(i))).collect()
}

#[test]
fn random_commands_are_answered_as_redis_answers_them() {
    let binaries = match binaries() {
        Ok(binaries) => binaries,
        Err(missing) => return skip("differential", &missing),
    };
    let started = Instant::now();
    let mut servers = Servers::start(&binaries).unwrap();
    let (mut counts, mut hits) = (Counts::default(), ExceptionHits::default());
    let tolerated = number("LARDER_KEEP_GOING").unwrap_or(0);
    let mut differences = 0;
    let steps = number("LARDER_STEPS").map_or(STEPS, |steps| steps as usize);
    let seeds = seeds();
    for seed in &seeds {
        println!("differential: seed {seed}, {steps} steps");
        let mut run = Run::new(servers.pair(), *seed, Mix::All).unwrap();
        while let Err(error) = run.steps(steps) {
            println!("{error:#}\n");
            differences += 1;
            servers.subject.expect_alive().unwrap();
            assert!(differences <= tolerated, "{differences} differences");
            run.start_afresh().unwrap_or_else(|e| panic!("{e:#}\n{}", servers.subject.stderr()));
        }
        counts.add(&run.counts);
        hits.add(&run.hits);
    }
    assert_eq!(differences, 0, "each is reported above");
    shut_down(&mut servers).unwrap();
    println!("{counts}");
    println!("differential: {} seeds in {:.1} s", seeds.len(), started.elapsed().as_secs_f64());
    if seeds.len() > 1 {
        assert_eq!(counts.rarer_than(LEAST_OF_EACH), Vec::<&str>::new());
        assert!(counts.error_percent() >= LEAST_ERROR_PERCENT);
        for (exception, hits) in exceptions().iter().zip(&hits.0) {
            println!(
                "deliberate difference {}: {hits} times ({})",
                exception.name, exception.reason
            );
            assert!(*hits > 0 || binaries.kvd.is_none(), "{} is never met", exception.name);
        }
    }
}

/// SHUTDOWN answers nothing, closes the connection and ends the process with success.
fn shut_down(servers: &mut Servers) -> Result<()> {
    for server in [&mut servers.reference, &mut servers.subject] {
        let mut client = server.client()?;
        client.send_raw(b"SHUTDOWN NOSAVE\r\n")?;
        let last = client.until_closed().context("after SHUTDOWN")?;
        anyhow::ensure!(last.is_empty(), "SHUTDOWN was answered");
        let status = server.wait_until_ended()?;
        anyhow::ensure!(status.success(), "SHUTDOWN ended it with {status}");
    }
    Ok(())
}
