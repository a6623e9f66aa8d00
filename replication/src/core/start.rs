//! How a core starts: from what is on the disk, as the master it was, or as the first of a new
//! cluster.

use std::{collections::BTreeMap, collections::VecDeque, time::Duration};

use larder_types::{AckLevel, LogId, NodeId, Position};

use super::{
    Action, Boot, Config, Core, Marker, Part, ReadGate, Role, Time, following::Following,
    lease::Grants, links::Dial, log_view::LogView, retention::Retained,
};

/// How long a master that starts again asks for a newer term, at most.
const RESUME_ASK: Duration = Duration::from_secs(1);

/// Draws ids out of the random bits of a start (splitmix64; Steele et al., 2014).
#[derive(Debug)]
pub(super) struct Ids(u64);

impl Ids {
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 0 stands for no session.
        (mixed ^ (mixed >> 31)).max(1)
    }
}

/// What is known to be committed: above `local` nothing else is folded, but a state that a rewind is to
/// mend may hold more. What was folded at `local` before the level was raised counts as well, as it was
/// acknowledged.
fn committed_before(level: AckLevel, marker: Option<Marker>, log: &LogView) -> Option<Position> {
    let is_told = level != AckLevel::Local && marker.is_none();
    log.applied.filter(|_| is_told).and_then(|applied| log.position_at(applied))
}

impl Core {
    /// A core at a start of its node, and the first things to do.
    pub fn new(config: Config, boot: Boot, now: Time, out: &mut Vec<Action>) -> Self {
        let log = boot.log.map(LogView::new);
        let known = |log| committed_before(config.level, boot.marker, log);
        let committed = log.as_ref().and_then(known);
        // A log that was given up for another one leaves none behind, and the promises.
        let is_blank = log.is_none() && boot.standing.promised == 0;
        let dialled = config.peers.iter().filter(|peer| config.node < peer.node);
        let dials = dialled.map(|peer| Dial::new(peer.node.clone())).collect();
        let mut core = Self {
            grants: Grants::at_start(&config, is_blank, now),
            config,
            ids: Ids(boot.entropy),
            now,
            out: Vec::new(),
            known_before: boot.standing.promised,
            standing: boot.standing,
            tokens: 0,
            storing: VecDeque::new(),
            log,
            committed,
            part: Part::Following(Following::default()),
            role: Role::Joining,
            gate: ReadGate::Closed,
            links: BTreeMap::new(),
            dials,
            heard_term: 0,
            heard_tail: None,
            owed: None,
            promotion: None,
            handing: None,
            retained: Retained::default(),
            creating_log: false,
        };
        match (core.standing.leads, boot.marker) {
            (_, Some(marker)) => core.resume_rewind(marker),
            (Some(_), None) => core.part = Part::Resuming { until: now + RESUME_ASK },
            (None, None) => core.part = Part::Following(core.at_start()),
        }
        core.dial();
        core.go_on();
        core.show_changes(0);
        std::mem::swap(&mut core.out, out);
        core
    }

    /// A slave; one that was the master last, and whose log may part from that of its successor,
    /// shows nothing before it has joined it.
    fn at_start(&self) -> Following {
        let led = self.standing.led;
        let wrote_last = self.log.as_ref().is_some_and(|log| led > 0 && log.last_term() == led);
        if wrote_last { Following::after_leading() } else { Following::default() }
    }

    /// Goes on as the master it was, once every peer was heard or time is over.
    pub(super) fn resume(&mut self) {
        let Part::Resuming { until } = self.part else { return };
        let heard =
            |node: &NodeId| self.links.values().any(|it| it.peer == *node && it.log.is_some());
        let all = self.config.peers.iter().all(|peer| heard(&peer.node));
        match self.standing.leads {
            Some(term) if all || until <= self.now => self.begin_epoch(term, None),
            _ => {}
        }
    }

    /// Makes the log of a new cluster: the configuration says that it is this node's to make, and
    /// every other node says that it has none.
    pub(super) fn bootstrap(&mut self) {
        let first = self.config.first_master == self.config.node;
        if !first || self.creating_log || !self.is_blank() {
            return;
        }
        let blank =
            |node: &NodeId| self.links.values().any(|it| it.peer == *node && it.log == Some(None));
        if !self.config.peers.iter().all(|peer| blank(&peer.node)) {
            return;
        }
        self.creating_log = true;
        match &self.log {
            Some(log) => self.on_log_created(log.id),
            None => self.out.push(Action::CreateLog),
        }
    }

    /// Whether this node has never had anything; an empty log that it made and did not get to lead
    /// is nothing either.
    fn is_blank(&self) -> bool {
        let nothing = self.log.as_ref().is_none_or(|log| log.tail.last.is_none());
        let idle = matches!(&self.part, Part::Following(following)
            if following.rewind.is_none() && following.upstream.link().is_none());
        nothing && idle && self.standing.promised == 0 && self.standing.leads.is_none()
    }

    pub(super) fn on_log_created(&mut self, log: LogId) {
        if !self.creating_log || !matches!(self.part, Part::Following(_)) {
            return;
        }
        self.log = Some(LogView::empty(log));
        self.standing.promised_to = Some(self.config.node.clone());
        self.lead(1, None);
    }
}
