//! `kv playground` as a person uses it: three regions, a write, a region lost and taken back.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use larder_tests::client::Client;
use larder_tests::deadline::Deadline;
use larder_tests::process::{kv_path, kvd_path, lasting_address, printed_by, skip};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::support::{SOON, alone};

/// From the start until everything streams, on a machine that does nothing else.
const READY_MAX: Duration = Duration::from_secs(5);
/// Admin ports are so far above those of clients.
const TO_ADMIN: u16 = 10_000;
/// Above it, admin ports would be among those that the system gives to connections.
const FIRST_MAX: u16 = 22_000;

#[test]
fn the_playground_loses_a_region_takes_it_back_and_leaves_nothing_running() -> Result<()> {
    let _alone = alone();
    let (kv, kvd) = match (kv_path(), kvd_path()) {
        (Ok(kv), Ok(kvd)) => (kv, kvd),
        (Err(missing), _) | (_, Err(missing)) => {
            skip("replication: playground", &missing);
            return Ok(());
        }
    };
    let began = Instant::now();
    let mut playground = Playground::start(&kv, &kvd)?;
    let ready = playground.wait_until_ready()?;
    let [mut shenzhen, mut tianjin] = [playground.client(0)?, playground.client(1)?];
    shenzhen.expect_ok(&["SET", "greeting", "hello"])?;
    wait_for(&mut tianjin, "greeting", "hello")?;

    playground.kv(&["playground", "cut", "shenzhen", "tianjin"])?;
    playground.kv(&["playground", "cut", "shenzhen", "shanghai"])?;
    shenzhen.expect_ok(&["SET", "orphan", "only shenzhen has this"])?;
    playground.kv(&["playground", "kill", "shenzhen"])?;
    let refused = playground.kv(&["playground", "promote", "tianjin", "--yes"]);
    let refusal = refused.err().context("a promotion that may lose was not refused")?.to_string();
    let term = refusal.split("--term ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let term = term.with_context(|| format!("no term is named: {refusal}"))?;
    playground.kv(&["playground", "promote", "tianjin", "--force", "--term", term])?;
    let master = playground.wait_for_master()?;
    playground.client(master)?.expect_ok(&["SET", "greeting", "hello again"])?;

    playground.kv(&["playground", "heal"])?;
    playground.kv(&["playground", "start", "shenzhen"])?;
    let mut shenzhen = playground.client(0)?;
    wait_for(&mut shenzhen, "greeting", "hello again")?;
    ensure!(shenzhen.call(&["GET", "orphan"])?.is_null(), "what parted is taken back");
    let admin = playground.admin(0);
    let files = playground.json(&["-o", "json", "--admin", &admin, "log", "parted", "list"])?;
    let name = files[0]["name"].as_str().with_context(|| format!("no export: {files}"))?;
    let shown = playground.kv(&["-o", "json", "--admin", &admin, "log", "parted", "show", name])?;
    ensure!(shown.contains("orphan"), "{shown}");

    playground.stop()?;
    println!(
        "replication: playground: ready in {ready:?}, a region lost and taken back, nothing left; \
         {:.1} s",
        began.elapsed().as_secs_f64()
    );
    ensure!(ready <= READY_MAX, "ready only after {ready:?}");
    Ok(())
}

/// A playground in directories of its own.
struct Playground {
    kv: PathBuf,
    child: Child,
    port: u16,
    began: Instant,
    scratch: TempDir,
}

impl Playground {
    fn start(kv: &Path, kvd: &Path) -> Result<Self> {
        let scratch = TempDir::with_prefix("larder-playground-test-")?;
        for dir in ["tmp", "run"] {
            std::fs::create_dir(scratch.path().join(dir))?;
        }
        let port = free_ports()?;
        let output = File::create(scratch.path().join("output"))?;
        let mut command = command(kv, scratch.path());
        command.args(["playground", "--port", &port.to_string(), "--kvd"]).arg(kvd);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let began = Instant::now();
        let child = command.spawn()?;
        Ok(Self { kv: kv.to_owned(), child, port, began, scratch })
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("output")).unwrap_or_default()
    }

    /// How long it took until it printed its lines to try.
    fn wait_until_ready(&mut self) -> Result<Duration> {
        let waited = Deadline::after(2 * SOON).wait_for("the playground", || {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            Ok(self.output().contains("Ctrl-C ends all of it").then(|| self.began.elapsed()))
        });
        waited.with_context(|| self.output())
    }

    /// Waits until a region other than the first leads, and the third follows it.
    fn wait_for_master(&self) -> Result<u16> {
        Deadline::after(SOON).wait_for("a master with a slave", || {
            let status = self.json(&["-o", "json", "playground", "status"])?;
            let role = |index: u16| status["regions"][usize::from(index)]["role"].as_str();
            let found = [1_u16, 2].into_iter().find(|index| role(*index) == Some("master"));
            Ok(found.filter(|master| role(3 - master) == Some("slave")))
        })
    }

    fn client(&self, index: u16) -> Result<Client> {
        Client::connect(([127, 0, 0, 1], self.port + index).into())
    }

    fn admin(&self, index: u16) -> String {
        format!("127.0.0.1:{}", self.port + TO_ADMIN + index)
    }

    /// Runs kv, and returns what it printed.
    fn kv(&self, arguments: &[&str]) -> Result<String> {
        printed_by(command(&self.kv, self.scratch.path()).args(arguments))
    }

    fn json(&self, arguments: &[&str]) -> Result<Json> {
        let said = self.kv(arguments)?;
        serde_json::from_str(&said).with_context(|| format!("no JSON: {said}"))
    }

    /// Ends it as Ctrl-C does, and looks for what it left.
    fn stop(mut self) -> Result<()> {
        let status = self.json(&["-o", "json", "playground", "status"])?;
        let regions = status["regions"].as_array().context("regions")?;
        let pids: Vec<_> = regions.iter().filter_map(|region| region["pid"].as_u64()).collect();
        ensure!(pids.len() == 3, "three nodes run: {status}");
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a process")?;
        kill_process(pid, Signal::INT)?;
        let status = Deadline::after(SOON).wait_for("its end", || Ok(self.child.try_wait()?))?;
        ensure!(status.success(), "it ended with {status}:\n{}", self.output());
        for pid in pids {
            ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "node {pid} still runs");
        }
        let left = std::fs::read_dir(self.scratch.path().join("tmp"))?.count();
        ensure!(left == 0, "{left} directories are left");
        Ok(())
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        // Its nodes end with it. Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(kv: &Path, scratch: &Path) -> Command {
    let mut command = Command::new(kv);
    command.env("TMPDIR", scratch.join("tmp")).env("XDG_RUNTIME_DIR", scratch.join("run"));
    command
}

/// The first of ports that all seem to be free.
fn free_ports() -> Result<u16> {
    Deadline::after(SOON).wait_for("free ports", || {
        let first = loop {
            let first = lasting_address()?.port();
            if first < FIRST_MAX {
                break first;
            }
        };
        let near = [first, first.saturating_add(1), first.saturating_add(2)];
        let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        let all =
            near.iter().all(|port| free(*port) && port.checked_add(TO_ADMIN).is_some_and(free));
        Ok(all.then_some(first))
    })
}

fn wait_for(client: &mut Client, key: &str, value: &str) -> Result<()> {
    Deadline::after(SOON).wait_for("a value to arrive", || {
        Ok((client.call(&["GET", key])?.text() == value.as_bytes()).then_some(()))
    })
}
