//! One run: a phase of faults in which nothing may go wrong, then all is healed, and everything
//! has to come right within a bound.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
};

use larder_replication::core::{Planted, Request, Role};

use crate::{
    cluster::Cluster,
    history::{Fact, Reply},
    invariants::{self, Invariant},
    marks::Marks,
    node::newest_set,
    queue::{MS, SECOND, Time},
    trace::Trace,
};

/// How long a healed cluster may take until all its nodes agree.
const SETTLE_MAX: Time = 90 * SECOND;
/// How long clients go on after all was healed, at most.
const CLIENTS_MAX: Time = 5 * SECOND;
/// How long an operator waits for an answer at most.
const ANSWER_MAX: Time = 30 * SECOND;
/// Between two looks of the invariants at everything.
const SWEEP: Time = 50 * MS;

/// What a run that found nothing has seen.
pub(crate) struct Seen {
    pub(crate) marks: Marks,
    pub(crate) trace: u64,
    pub(crate) acknowledged: u64,
    pub(crate) reads: u64,
}

/// What a run has found.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) at: Time,
    /// The invariant that does not hold, or that the cluster does not come to rest.
    pub(crate) what: &'static str,
    pub(crate) why: String,
}

/// Runs a seed.
pub(crate) fn run(seed: u64, planted: Option<Planted>, traced: bool) -> Result<Seen, Failure> {
    let trace = if traced { Trace::wanted() } else { Trace::default() };
    let mut run = Run { cluster: Cluster::new(seed, planted, trace), judges: invariants::every() };
    let outcome = catch_unwind(AssertUnwindSafe(|| run.whole())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        Err(("panic", text.unwrap_or_default()))
    });
    let cluster = run.cluster;
    if let Ok(lines) = env::var("LARDER_SIM_TRACE").map(|lines| lines.parse().unwrap_or(200)) {
        let all: Vec<_> = cluster.trace.lines().collect();
        println!("{:#?}", cluster.options);
        all[all.len().saturating_sub(lines)..].iter().for_each(|line| println!("{line}"));
        for (index, node) in cluster.nodes.iter().enumerate() {
            println!("{index}: {:?}", node.running().map(|process| &process.core));
        }
    }
    match outcome {
        Ok(()) => Ok(Seen {
            marks: cluster.all_marks(),
            acknowledged: cluster.acknowledged().count() as u64,
            reads: cluster.clients.reads,
            trace: cluster.trace.hash(),
        }),
        Err((what, why)) => Err(Failure { seed, at: cluster.queue.now(), what, why }),
    }
}

struct Run {
    cluster: Cluster,
    judges: Vec<Box<dyn Invariant>>,
}

type Judged = Result<(), (&'static str, String)>;

impl Run {
    fn whole(&mut self) -> Judged {
        self.cluster.begin();
        self.until(self.cluster.options.faulty)?;
        self.cluster.heal();
        self.settle()?;
        self.judge(Fact::Settled)
    }

    fn until(&mut self, end: Time) -> Judged {
        while self.cluster.now() < end {
            let sweep = (self.cluster.now() + SWEEP).min(end);
            while self.cluster.step(sweep) {
                for fact in std::mem::take(&mut self.cluster.facts) {
                    self.judge(fact)?;
                }
            }
            self.judge(Fact::Swept)?;
        }
        Ok(())
    }

    fn judge(&mut self, fact: Fact) -> Judged {
        for judge in &mut self.judges {
            judge.see(&fact, &self.cluster).map_err(|why| (judge.name(), why))?;
        }
        Ok(())
    }

    /// Waits until all agree, with an operator who does what the alerts ask for. Clients go on
    /// for a while, and their last writes have to be acknowledged.
    fn settle(&mut self) -> Judged {
        let healed = self.cluster.now();
        loop {
            self.until(self.cluster.now() + 500 * MS)?;
            let waited = self.cluster.now() - healed;
            let unsettled = self.unsettled();
            if unsettled.is_none() && self.cluster.clients.resting {
                break;
            }
            if waited > SETTLE_MAX {
                let why = unsettled.unwrap_or_default();
                return Err((
                    "settles",
                    format!("{} s after all was healed: {why}", waited / SECOND),
                ));
            }
            if unsettled.is_none() || waited > CLIENTS_MAX {
                self.cluster.clients.resting = true;
            }
            self.operate(waited);
        }
        self.cluster.write();
        self.until(self.cluster.now() + self.cluster.options.ack_timeout + 2 * SECOND)?;
        if let Some(unsettled) = self.unsettled() {
            return Err(("settles", format!("after one more write: {unsettled}")));
        }
        let last = self.cluster.clients.writes.last();
        if last.is_some_and(|write| write.reply != Reply::Acknowledged) {
            return Err(("settles", format!("the last write was not acknowledged: {last:?}")));
        }
        if self.cluster.overdue() > 0 {
            return Err(("settles", "a question of a client was never answered".to_owned()));
        }
        match self.cluster.unanswered(ANSWER_MAX).first() {
            Some(what) => Err(("settles", format!("never answered: {what}"))),
            None => Ok(()),
        }
    }

    /// What is not as it should be in the end.
    fn unsettled(&self) -> Option<String> {
        let cluster = &self.cluster;
        let masters = cluster.masters();
        let &[master] = masters.as_slice() else {
            return Some(format!("the masters are {masters:?}"));
        };
        let end = cluster.nodes[master].disk.log.last();
        let Some(placed) = newest_set(&cluster.book, end) else {
            return Some("there is no replica set".to_owned());
        };
        for (index, node) in cluster.nodes.iter().enumerate() {
            let Some(process) = node.running() else { return Some(format!("{index} is down")) };
            if index != master && process.role != slave_of(&cluster.nodes[master].name) {
                return Some(format!("node {index} is {:?}", process.role));
            }
            if placed.set.member(&node.replica()).is_none() {
                return Some(format!("node {index} is not in the replica set"));
            }
            if node.disk.rewind.is_some() {
                return Some(format!("node {index} rewinds"));
            }
            let lag = |id| {
                cluster.book.number(end) - cluster.book.number(id).min(cluster.book.number(end))
            };
            let (behind, unread) = (lag(node.disk.log.last_durable()), lag(process.state.applied));
            let bound = if cluster.clients.resting { 0 } else { 1_000 };
            if behind > bound || unread > bound {
                return Some(format!("node {index} lacks {behind} records, readers {unread}"));
            }
        }
        None
    }

    /// An operator looks every few seconds whether there is a master, and whether all are members.
    /// Where two histories have the same number, a new term decides.
    fn operate(&mut self, waited: Time) {
        if !waited.is_multiple_of(3 * SECOND) {
            return;
        }
        let cluster = &mut self.cluster;
        let masters = cluster.masters();
        if let &[master] = masters.as_slice() {
            let end = cluster.nodes[master].disk.log.last();
            let Some(placed) = newest_set(&cluster.book, end) else { return };
            let missing = |index: &usize| placed.set.on_node(&cluster.nodes[*index].name).is_none();
            let missing = (0..cluster.nodes.len()).find(missing);
            if let Some(index) = missing {
                let voter = index < cluster.nodes.len() - cluster.options.learners;
                let node = cluster.nodes[index].name.clone();
                cluster.request(master, Request::AddReplica { node, voter });
            }
        }
        let conflict = std::mem::take(&mut cluster.operator.conflict);
        if (masters.len() != 1 || conflict) && waited > 9 * SECOND {
            let force = cluster.operator.could_force.take();
            let node = cluster.random.below(cluster.nodes.len() as u64) as usize;
            match force {
                Some((node, term)) => {
                    cluster.request(node, Request::Promote { force_term: Some(term) });
                }
                None => cluster.request(node, Request::Promote { force_term: None }),
            }
        }
    }
}

fn slave_of(master: &larder_types::NodeId) -> Role {
    Role::Slave { master: Some(master.clone()) }
}
