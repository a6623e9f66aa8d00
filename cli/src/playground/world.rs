//! The playground in the foreground: starts the nodes, takes orders, tells of nodes that end, and
//! leaves nothing running.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use larder_types::ClusterId;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::control::{Answer, Asker, Request};
use super::layout::{Ports, Region};
use super::links::Links;
use super::node::NodeProcess;
use super::place::{Claim, Place, State, TEMPORARY};
use super::{NODE_TIMEOUT, config, guide};
use crate::admin::Admin;
use crate::args::Run;
use crate::cluster::{self, Replication};
use crate::failure::Failure;
use crate::output;

/// The cluster's name.
const CLUSTER: &str = "playground";
/// How long the nodes may take until all stream. They take about a second.
const READY: Duration = Duration::from_secs(30);
/// Between two looks at a node that starts.
const PAUSE: Duration = Duration::from_millis(20);
/// How long nodes may take to end in order before they are killed.
const END: Duration = Duration::from_secs(10);

/// Runs the playground until it is told to stop.
///
/// # Errors
/// Another one runs, kvd is not there, or a node does not start; everything is ended and removed
/// then too.
pub(crate) async fn run(settings: &Run) -> Result<(), Failure> {
    let started = Instant::now();
    let kvd = find_kvd(settings)?;
    let claim = Place::find()?.claim().await?;
    let mut stops = Stops::new()?;
    let (mut world, listener) = World::new(settings, kvd, claim)?;
    let outcome = tokio::select! {
        biased;
        () = stops.next() => Ok(()),
        outcome = world.live(&listener, started) => outcome,
    };
    world.end().await?;
    outcome
}

/// The daemon: the one given, or the one beside this program.
fn find_kvd(settings: &Run) -> Result<PathBuf, Failure> {
    let (path, hint) = match &settings.kvd {
        Some(path) => (path.clone(), ""),
        None => {
            let kv = std::env::current_exe()
                .map_err(|error| Failure::local("cannot tell where kv is", error))?;
            (kv.with_file_name("kvd"), "; build it, or name it with --kvd")
        }
    };
    // Absolute, because a node is started anew after the directory of this process is forgotten.
    match path.canonicalize() {
        Ok(path) => Ok(path),
        Err(error) => Err(Failure::Process(format!("no kvd at {}: {error}{hint}", path.display()))),
    }
}

/// The signals that end the playground.
struct Stops([Signal; 3]);

impl Stops {
    fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::local("cannot await signals", error));
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Everything that runs. Dropped in the order of the fields: the nodes end first.
struct World {
    nodes: [Option<NodeProcess>; 3],
    kvd: PathBuf,
    ends: Signal,
    state: State,
    claim: Claim,
}

impl World {
    /// Makes directories, certificates and configuration files, or takes those that are there.
    fn new(settings: &Run, kvd: PathBuf, claim: Claim) -> Result<(Self, UnixListener), Failure> {
        let (data, temporary) = match &settings.data {
            Some(dir) => (existing(dir)?, false),
            None => (temporary_directory()?, true),
        };
        let links = Links::new(settings.wan());
        let state = State::new(Ports(settings.port()), settings.level(), data, temporary, links);
        claim.publish(&state)?;
        let socket = claim.place().socket();
        let listener = UnixListener::bind(&socket).map_err(|error| {
            Failure::local(format!("cannot take orders at {}", socket.display()), error)
        })?;
        let ends = signal(SignalKind::child())
            .map_err(|error| Failure::local("cannot await the end of nodes", error))?;
        let world = Self { nodes: [const { None }; 3], kvd, ends, state, claim };
        world.prepare()?;
        Ok((world, listener))
    }

    fn prepare(&self) -> Result<(), Failure> {
        let ca = self.state.data.join("ca");
        let name = ClusterId::new(CLUSTER).expect("letters are a name");
        cluster::ensure_authority(&ca, &name)?;
        let certificates = self.state.data.join("certificates");
        for region in Region::ALL {
            let issued = cluster::ensure_certificate(&ca, &region.node(), &certificates)?;
            let dir = self.directory(region);
            let write = |path: &Path, text: &str| {
                let made = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(path, text));
                let failed = |e| Failure::local(format!("cannot write {}", path.display()), e);
                made.map_err(failed)
            };
            let paths = config::Paths {
                data: &dir.join("data"),
                ca: &ca.join("ca.pem"),
                certificate: &issued.certificate,
                key: &issued.key,
            };
            let text = config::of(region, self.state.ports(), self.state.level, &paths)?;
            write(&self.config(region), &text)?;
        }
        Ok(())
    }

    fn directory(&self, region: Region) -> PathBuf {
        self.state.data.join(region.name())
    }

    fn config(&self, region: Region) -> PathBuf {
        self.directory(region).join("kvd.toml")
    }

    fn admin(&self, region: Region) -> Admin {
        Admin::at(self.state.ports().admin(region), NODE_TIMEOUT)
    }

    /// Brings the nodes up, then takes orders until one says stop.
    async fn live(&mut self, listener: &UnixListener, started: Instant) -> Result<(), Failure> {
        output::note("starting three nodes ...");
        // Whoever has connected stays in it while something else comes first.
        let mut order = pin!(next_order(listener));
        let master = {
            let mut bring_up = pin!(self.bring_up());
            loop {
                let (asker, request) = tokio::select! {
                    master = &mut bring_up => break master?,
                    asked = &mut order => asked?,
                };
                order.set(next_order(listener));
                asker.answer(&while_starting(request)).await;
                if request == Request::Stop {
                    return Ok(());
                }
            }
        };
        output::print_line(&guide::text(&self.state, master, started.elapsed()))?;
        loop {
            let (asker, request) = tokio::select! {
                asked = &mut order => asked?,
                _ = self.ends.recv() => {
                    self.tell_of_ends()?;
                    continue;
                }
            };
            order.set(next_order(listener));
            let answer = self.obey(request).await.into();
            asker.answer(&answer).await;
            if request == Request::Stop {
                return Ok(());
            }
        }
    }

    /// Starts all nodes; the region of the master once it streams to all others.
    async fn bring_up(&mut self) -> Result<Region, Failure> {
        for region in Region::ALL {
            self.start_process(region)?;
        }
        let ready = timeout(READY, self.until_all_stream()).await;
        let late = || Failure::Process(format!("not ready within {} s", READY.as_secs()));
        let master = ready.map_err(|_| late()).flatten().inspect_err(|_| self.tell_of_nodes())?;
        for region in Region::ALL {
            self.shape(region).await?;
        }
        Ok(master)
    }

    async fn obey(&mut self, request: Request) -> Result<String, Failure> {
        match request {
            Request::Cut { between: (a, b) } => self.cut(a, b).await,
            Request::Heal => self.heal().await,
            Request::Kill { region } => self.kill(region),
            Request::Start { region } => self.start(region).await,
            Request::Stop => Ok("ending".to_owned()),
        }
    }

    async fn cut(&mut self, a: Region, b: Region) -> Result<String, Failure> {
        if !self.state.links.cut(a, b) {
            return Err(Failure::Unmet(format!("the link between {a} and {b} is cut already")));
        }
        self.reshape().await?;
        Ok(format!("{a} and {b} do not reach each other; kv playground heal ends that"))
    }

    async fn heal(&mut self) -> Result<String, Failure> {
        let cuts = self.state.links.heal();
        self.reshape().await?;
        let mut text = if cuts.is_empty() {
            "no link was cut".to_owned()
        } else {
            let healed: Vec<_> = cuts.iter().map(|(a, b)| format!("{a}-{b}")).collect();
            format!("whole again: {}", healed.join(", "))
        };
        for region in Region::ALL.into_iter().filter(|region| self.node(*region).is_none()) {
            text.push_str(&format!("; {region} is down: kv playground start {region}"));
        }
        Ok(text)
    }

    fn kill(&mut self, region: Region) -> Result<String, Failure> {
        let Some(mut node) = self.nodes[region.index()].take() else {
            return Err(Failure::Unmet(format!("{region} is down already")));
        };
        let pid = node.pid();
        node.kill();
        self.state.set_pid(region, None);
        self.claim.publish(&self.state)?;
        let text = format!("{region} (pid {pid}) was killed; kv playground start {region}");
        output::note(&format!("kv: {text}"));
        Ok(text)
    }

    async fn start(&mut self, region: Region) -> Result<String, Failure> {
        if self.node(region).is_some() {
            return Err(Failure::Unmet(format!("{region} runs already")));
        }
        self.start_process(region)?;
        let answered = timeout(READY, self.until_it_answers(region)).await;
        let late = || Failure::Process(format!("{region} is not up in {} s", READY.as_secs()));
        let view = answered.map_err(|_| late()).flatten()?;
        self.shape(region).await?;
        let text = format!("{region} is up again: {}, term {}", view.role, view.term);
        output::note(&format!("kv: {text}"));
        Ok(text)
    }

    fn node(&mut self, region: Region) -> Option<&mut NodeProcess> {
        self.nodes[region.index()].as_mut()
    }

    fn start_process(&mut self, region: Region) -> Result<(), Failure> {
        let log = self.directory(region).join("kvd.log");
        let node = NodeProcess::start(&self.kvd, &self.config(region), &log)?;
        self.state.set_pid(region, Some(node.pid()));
        self.nodes[region.index()] = Some(node);
        self.claim.publish(&self.state)
    }

    /// Waits until there is a master that streams to all others; which region it is in.
    async fn until_all_stream(&mut self) -> Result<Region, Failure> {
        loop {
            for region in Region::ALL {
                self.expect_alive(region)?;
                if let Ok(view) = Replication::ask(&self.admin(region)).await
                    && view.streams_to_all(Region::ALL.len())
                {
                    return Ok(region);
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn until_it_answers(&mut self, region: Region) -> Result<Replication, Failure> {
        loop {
            self.expect_alive(region)?;
            if let Ok(view) = Replication::ask(&self.admin(region)).await {
                return Ok(view);
            }
            sleep(PAUSE).await;
        }
    }

    /// Fails when a node that starts has ended, with what it wrote.
    fn expect_alive(&mut self, region: Region) -> Result<(), Failure> {
        let Some(node) = self.node(region) else { return Ok(()) };
        let Some(status) = node.exit_status() else { return Ok(()) };
        let words = node.last_words();
        self.nodes[region.index()] = None;
        self.state.set_pid(region, None);
        self.claim.publish(&self.state)?;
        let text = format!("{region} ended before it was ready ({status}); {words}");
        Err(Failure::Process(text))
    }

    /// Tells the node of a region of its links.
    async fn shape(&self, region: Region) -> Result<(), Failure> {
        for other in region.others() {
            let shape = self.state.links.shape(region, other);
            self.admin(region).put("/lab/shapes", &shape).await?;
        }
        Ok(())
    }

    /// Tells all nodes that run of their links, and others of the state.
    async fn reshape(&mut self) -> Result<(), Failure> {
        self.claim.publish(&self.state)?;
        let mut outcome = Ok(());
        for region in Region::ALL {
            if self.node(region).is_some() {
                outcome = outcome.and(self.shape(region).await);
            }
        }
        outcome
    }

    /// Tells of nodes that have ended by themselves.
    fn tell_of_ends(&mut self) -> Result<(), Failure> {
        for region in Region::ALL {
            let Some(node) = self.node(region) else { continue };
            let Some(status) = node.exit_status() else { continue };
            let (pid, words) = (node.pid(), node.last_words());
            output::note(&format!(
                "kv: {region} (pid {pid}) has ended: {status}; kv playground start {region} brings \
                 it back; {words}"
            ));
            self.nodes[region.index()] = None;
            self.state.set_pid(region, None);
        }
        self.claim.publish(&self.state)
    }

    /// What the nodes wrote last, where they did not get ready.
    fn tell_of_nodes(&self) {
        for node in self.nodes.iter().flatten() {
            output::note(&node.last_words());
        }
    }

    /// Ends all nodes in order, and those at once that do not.
    async fn end(mut self) -> Result<(), Failure> {
        for node in self.nodes.iter_mut().flatten() {
            node.terminate();
        }
        let all_ended = async {
            while self.nodes.iter_mut().flatten().any(|node| node.exit_status().is_none()) {
                self.ends.recv().await;
            }
        };
        if timeout(END, all_ended).await.is_err() {
            output::note(&format!("kv: nodes did not end in {} s and are killed", END.as_secs()));
        }
        if !self.state.is_temporary() {
            output::note(&format!("kv: the data are in {}", self.state.data.display()));
        }
        Ok(())
    }
}

/// The answer as long as nodes are starting: no order is taken but to stop.
fn while_starting(request: Request) -> Answer {
    if request == Request::Stop {
        return Answer::Done("ending".to_owned());
    }
    Answer::Refused("the nodes are still starting: try again".to_owned())
}

/// The next order, and who waits for its answer. Who connects without one is let go.
async fn next_order(listener: &UnixListener) -> Result<(Asker, Request), Failure> {
    loop {
        let (stream, _) =
            listener.accept().await.map_err(|error| Failure::local("cannot take orders", error))?;
        if let Some(order) = Asker::read(stream).await {
            return Ok(order);
        }
    }
}

fn temporary_directory() -> Result<PathBuf, Failure> {
    TempDir::with_prefix(TEMPORARY)
        .and_then(|dir| dir.keep().canonicalize())
        .map_err(|error| Failure::local("cannot make a temporary directory", error))
}

fn existing(dir: &Path) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(dir)
        .and_then(|()| dir.canonicalize())
        .map_err(|error| Failure::local(format!("cannot use {}", dir.display()), error))
}
