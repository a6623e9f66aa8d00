//! `kv playground`: what it does with processes and files, with a kvd that is none.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::fixture::{Admin, Asked};
use crate::support::{outcome, stderr};

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Directories for temporary files and for the state, of a test's own.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        let scratch = Self(TempDir::with_prefix("larder-kv-").unwrap());
        for dir in ["tmp", "run"] {
            fs::create_dir(scratch.path(dir)).unwrap();
        }
        scratch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kv"));
        command.env("TMPDIR", self.path("tmp")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.arg("playground").args(arguments).stdin(Stdio::null());
        command
    }

    fn kv(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A program in place of kvd.
    fn program(&self, script: &str) -> String {
        let path = self.path("program");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Starts a playground whose nodes run and never answer; waits until all three are there.
    fn start(&self, port: u16) -> (Child, Vec<u32>) {
        let kvd = self.program("exec tail -f /dev/null");
        let mut command = self.command(&["--kvd", &kvd, "--port", &port.to_string()]);
        let child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        (child, wait_for(|| self.pids().into_iter().collect()))
    }

    /// The processes of the nodes, in the order of their ports.
    fn pids(&self) -> Vec<Option<u32>> {
        let state = fs::read(self.path("run/larder-playground/state.json")).ok();
        let state: Option<Json> = state.and_then(|text| serde_json::from_slice(&text).ok());
        let Some(state) = state else { return vec![None; 3] };
        let pids = state["pids"].as_array().unwrap().iter();
        pids.map(|pid| pid.as_u64().map(|pid| u32::try_from(pid).unwrap())).collect()
    }

    /// Asserts that no temporary data and no state are left.
    fn expect_clean(&self) {
        let listed = |dir: PathBuf| -> Vec<_> {
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(listed(self.path("tmp")), Vec::<std::ffi::OsString>::new());
        assert_eq!(listed(self.path("run/larder-playground")), ["lock"]);
    }
}

/// Asks until there is an answer.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "it never came to what is awaited");
        std::thread::yield_now();
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn orders_need_a_playground_that_runs() {
    let scratch = Scratch::new();
    for order in [
        &["status"][..],
        &["stop"],
        &["lag"],
        &["heal"],
        &["cut", "tianjin", "shanghai"],
        &["kill", "shenzhen"],
        &["start", "shenzhen"],
        &["promote", "tianjin"],
    ] {
        let output = scratch.kv(order);
        assert_eq!(output.status.code(), Some(1), "{order:?}");
        assert!(stderr(&output).contains("no playground runs"), "{}", stderr(&output));
    }
}

#[test]
fn without_kvd_it_says_where_it_looked() {
    let scratch = Scratch::new();
    let missing = scratch.path("nowhere").to_str().unwrap().to_owned();
    let output = scratch.kv(&["--kvd", &missing]);
    assert_eq!(output.status.code(), Some(7));
    assert!(stderr(&output).contains(&missing), "{}", stderr(&output));
}

#[test]
fn a_node_that_ends_at_once_is_told_with_its_words_and_nothing_is_left() {
    let scratch = Scratch::new();
    let kvd = scratch.program("echo the port is taken >&2; exit 73");
    let output = scratch.kv(&["--kvd", &kvd]);
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(told.contains("exit status: 73") && told.contains("the port is taken"), "{told}");
    scratch.expect_clean();
}

#[test]
fn data_stay_where_they_were_asked_for_and_are_used_again() {
    let scratch = Scratch::new();
    let kvd = scratch.program("exit 1");
    let data = scratch.path("data");
    let run = || scratch.kv(&["--kvd", &kvd, "--data", data.to_str().unwrap(), "--port", "7000"]);
    assert_eq!(run().status.code(), Some(7));
    let read = |file: &str| fs::read_to_string(data.join(file)).unwrap();
    let config: toml::Table = read("tianjin/kvd.toml").parse().unwrap();
    assert_eq!(config["resp"].as_str(), Some("127.0.0.1:7001"));
    for key in ["ca", "certificate", "key"] {
        let file = config["node"][key].as_str().unwrap();
        assert!(fs::read_to_string(file).unwrap().starts_with("-----BEGIN "), "{file}");
    }
    let key = read("certificates/tianjin-1.key");
    assert_eq!(run().status.code(), Some(7));
    assert_eq!(read("certificates/tianjin-1.key"), key);
}

#[test]
fn a_signal_or_an_order_ends_all_of_it() {
    let scratch = Scratch::new();
    for signalled in [Some(Signal::INT), Some(Signal::TERM), None] {
        let (child, pids) = scratch.start(free_ports().1);
        assert!(pids.iter().all(|pid| runs(*pid)));
        match signalled {
            Some(number) => signal(child.id(), number),
            None => {
                let stopped = scratch.kv(&["stop"]);
                assert_eq!(outcome(&stopped), (0, "the playground has ended\n".to_owned()));
            }
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(!pids.iter().any(|pid| runs(*pid)), "{pids:?}");
        scratch.expect_clean();
    }
}

#[test]
fn only_one_runs_and_takes_orders_once_it_is_up() {
    let scratch = Scratch::new();
    let (child, pids) = scratch.start(free_ports().1);
    let second = scratch.kv(&["--kvd", "/bin/true"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("runs already"), "{}", stderr(&second));
    let early = scratch.kv(&["kill", "shenzhen"]);
    assert_eq!(early.status.code(), Some(1));
    assert!(stderr(&early).contains("still starting"), "{}", stderr(&early));
    let (code, text) = outcome(&scratch.kv(&["status"]));
    assert!(
        code == 0 && text.contains("no answer") && text.contains(&pids[0].to_string()),
        "{text}"
    );
    let anywhere = outcome(&scratch.kv(&["-o", "json", "status"]));
    let (code, text) = outcome(&scratch.kv(&["status", "-o", "json"]));
    assert_eq!((code, &text), (anywhere.0, &anywhere.1));
    let status: Json = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &status["regions"][2]["region"]), (0, &"shanghai".into()));
    assert_eq!(status["regions"][2]["pid"], pids[2]);
    assert_eq!(scratch.kv(&["stop"]).status.code(), Some(0));
    child.wait_with_output().unwrap();
    scratch.expect_clean();
}

#[test]
fn nothing_outlives_a_playground_that_is_killed() {
    let scratch = Scratch::new();
    let (mut child, pids) = scratch.start(free_ports().1);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for(|| (!pids.iter().any(|pid| runs(*pid))).then_some(()));
    let output = scratch.kv(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("killed one had left"), "{}", stderr(&output));
    scratch.expect_clean();
}

const REGIONS: [&str; 3] = ["shenzhen", "tianjin", "shanghai"];

/// What the node of a region says of a cluster that is whole.
fn replication(region: &str) -> Json {
    let members = REGIONS.map(|member| {
        let state = if member == "shenzhen" { "master" } else { "streaming" };
        json!({"node": format!("{member}-1"), "region": member, "voter": true, "state": state})
    });
    let role = if region == "shenzhen" { "master" } else { "slave" };
    json!({
        "node": format!("{region}-1"), "region": region, "role": role, "term": 1, "tail": 5,
        "durable": 5, "committed": 5, "level": "local", "members": members,
    })
}

/// Admin ports for the nodes of a playground, and the playground's first port.
fn free_ports() -> (Vec<TcpListener>, u16) {
    wait_for(|| {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let next = |offset: u16| TcpListener::bind(("127.0.0.1", port.checked_add(offset)?)).ok();
        let listeners = [Some(first), next(1), next(2)].into_iter().collect::<Option<Vec<_>>>()?;
        let base = port.checked_sub(10_000).filter(|base| (1024..=55_000).contains(base))?;
        Some((listeners, base))
    })
}

/// Admin ports in place of those of a playground's nodes, which are up once `ready`, and the
/// playground's first port.
fn admin_ports(ready: &Arc<AtomicBool>) -> (Vec<Admin>, u16) {
    let (listeners, base) = free_ports();
    let ports = listeners.into_iter().zip(REGIONS).map(|(listener, region)| {
        let ready = Arc::clone(ready);
        Admin::start_on(listener, move |asked| match asked.path.as_str() {
            "/replication" if ready.load(Ordering::SeqCst) => (200, replication(region)),
            "/lab/shapes" => (200, json!({})),
            _ => (404, json!({"error": "there is no such thing"})),
        })
    });
    (ports.collect(), base)
}

/// The links that nodes have been told of since `told`: from, to, delay, whether it is cut.
fn links(ports: &[Admin], told: &mut [usize; 3]) -> Vec<(&'static str, String, f64, bool)> {
    let mut links = Vec::new();
    for ((admin, region), told) in ports.iter().zip(REGIONS).zip(told) {
        let asked = admin.asked();
        for Asked { body, .. } in asked.iter().skip(*told).filter(|asked| asked.method == "PUT") {
            assert_eq!(body["cut_send"], body["cut_receive"]);
            let peer = body["peer"].as_str().unwrap().to_owned();
            let cut = body["cut_send"].as_bool().unwrap();
            links.push((region, peer, body["delay_ms"].as_f64().unwrap(), cut));
        }
        *told = asked.len();
    }
    links
}

#[test]
fn whoever_connects_before_the_nodes_are_ready_and_asks_after_it_is_answered() {
    let scratch = Scratch::new();
    let ready = Arc::new(AtomicBool::new(false));
    let (ports, base) = admin_ports(&ready);
    let (child, _) = scratch.start(base);
    let early = wait_for(|| UnixStream::connect(scratch.path("run/larder-playground/orders")).ok());
    let asked = |method| {
        let requests = ports.iter().flat_map(Admin::asked);
        requests.filter(|request| request.method == method).count()
    };
    // As many looks at the nodes as leave no doubt that the connection was accepted meanwhile.
    let looks = asked("GET");
    wait_for(|| (asked("GET") > looks + 3).then_some(()));
    ready.store(true, Ordering::SeqCst);
    wait_for(|| (asked("PUT") == 6).then_some(()));
    (&early).write_all(b"{\"order\":\"heal\"}\n").unwrap();
    let mut answer = String::new();
    (&early).read_to_string(&mut answer).unwrap();
    // The last node may have been told before the playground knows that it is ready.
    let answers = [
        "{\"done\":\"no link was cut\"}\n",
        "{\"refused\":\"the nodes are still starting: try again\"}\n",
    ];
    assert!(answers.contains(&answer.as_str()), "{answer:?}");
    assert_eq!(scratch.kv(&["stop"]).status.code(), Some(0));
    child.wait_with_output().unwrap();
    scratch.expect_clean();
}

#[test]
fn links_nodes_and_ends_are_as_ordered() {
    let scratch = Scratch::new();
    let (ports, base) = admin_ports(&Arc::new(AtomicBool::new(true)));
    let (child, pids) = scratch.start(base);
    let order = |arguments: &[&str]| {
        wait_for(|| {
            let output = scratch.kv(arguments);
            (!stderr(&output).contains("still starting")).then(|| outcome(&output))
        })
    };
    let mut told = [0; 3];
    assert_eq!(order(&["heal"]), (0, "no link was cut\n".to_owned()));
    let link = |from, to: &str, delay, cut| (from, format!("{to}-1"), delay, cut);
    let whole = links(&ports, &mut told).into_iter().take(2).collect::<Vec<_>>();
    let near =
        [link("shenzhen", "tianjin", 20.0, false), link("shenzhen", "shanghai", 15.0, false)];
    assert_eq!(whole, near);

    assert_eq!(order(&["cut", "shanghai", "tianjin"]).0, 0);
    let cut = links(&ports, &mut told).into_iter().filter(|link| link.3).collect::<Vec<_>>();
    let both = [link("tianjin", "shanghai", 12.5, true), link("shanghai", "tianjin", 12.5, true)];
    assert_eq!(cut, both);
    assert_eq!(order(&["cut", "tianjin", "shanghai"]).0, 1, "it is cut already");

    assert_eq!(order(&["kill", "tianjin"]).0, 0);
    assert!(!runs(pids[1]) && runs(pids[0]) && runs(pids[2]));
    assert_eq!(order(&["kill", "tianjin"]).0, 1, "it is down already");
    links(&ports, &mut told);
    assert_eq!(
        order(&["start", "tianjin"]),
        (0, "tianjin is up again: slave, term 1\n".to_owned())
    );
    let again = [link("tianjin", "shenzhen", 20.0, false), link("tianjin", "shanghai", 12.5, true)];
    assert_eq!(links(&ports, &mut told), again, "a node that starts is told of the links");
    assert_eq!(order(&["start", "tianjin"]).0, 1, "it runs already");
    assert_eq!(order(&["heal"]), (0, "whole again: tianjin-shanghai\n".to_owned()));
    assert!(links(&ports, &mut told).iter().all(|link| !link.3));

    signal(pids[2], Signal::KILL);
    wait_for(|| scratch.pids()[2].is_none().then_some(()));
    assert_eq!(order(&["stop"]).0, 0);
    let output = child.wait_with_output().unwrap();
    let (text, told) = (String::from_utf8_lossy(&output.stdout), stderr(&output));
    assert!(
        text.contains("Three regions are up, ready in") && text.contains("playground cut"),
        "{text}"
    );
    assert!(told.contains("shanghai") && told.contains("SIGKILL"), "{told}");
    assert!(told.contains("kv playground start shanghai"), "{told}");
    scratch.expect_clean();
}
