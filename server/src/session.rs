//! A session: what one connection knows of itself between two requests.
//!
//! Only the connection's own task touches it, so nothing here is shared: what others may see is
//! published to the [`Client`] of the connection, and counters are handed to the node, once a
//! batch of requests.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use larder_resp::Protocol;
use larder_types::{AckLevel, Position};

use crate::{
    clients::{Blocked, Client, Registration},
    command::Command,
    node::Node,
};

/// Whether replies are sent, as CLIENT REPLY sets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// Every reply is sent.
    #[default]
    On,
    /// No reply is sent until CLIENT REPLY ON.
    Off,
    /// The reply to the command after the present one is not sent.
    SkipNext,
    /// The reply to the present command is not sent.
    Skip,
}

impl ReplyMode {
    const fn is_muted(self) -> bool {
        matches!(self, Self::Off | Self::Skip)
    }

    const fn after_command(self) -> Self {
        match self {
            Self::SkipNext => Self::Skip,
            Self::Skip | Self::On => Self::On,
            Self::Off => Self::Off,
        }
    }

    /// RESET itself may be the command whose reply is skipped.
    const fn after_reset(self) -> Self {
        match self {
            Self::Skip => Self::Skip,
            Self::On | Self::Off | Self::SkipNext => Self::On,
        }
    }
}

/// Where a slave sends this connection's commands that touch keys, as READONLY and READWRITE set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redirect {
    /// Nowhere: reads are answered and writes refused, as a replica of Redis without cluster does.
    #[default]
    Nothing,
    /// Writes go to the master; reads are answered: READONLY.
    Writes,
    /// Both go to the master: READWRITE.
    All,
}

/// One connection's state.
pub struct Session {
    registration: Registration,
    /// What the replies are written in.
    pub protocol: Protocol,
    /// Whether the client may run commands, once a password is set.
    pub authenticated: bool,
    /// Whether replies are sent.
    pub reply_mode: ReplyMode,
    /// Where the last write of this connection stands in the log; what KV.TOKEN answers.
    pub last_write: Option<Position>,
    /// Where its writes must be durable before they are answered, where that is more than the
    /// namespace asks for: KV.ACK.
    pub ack_level: AckLevel,
    /// What a slave does not answer itself.
    pub redirect: Redirect,
    /// Reads at a slave that may be staler than this are refused: KV.MAXLAG.
    pub lag_max: Option<Duration>,
    /// How many commands the transaction has that is being run, while one is.
    pub executing: Option<usize>,
    tally: Tally,
}

/// What this connection did since it last handed its counts to the node.
#[derive(Default)]
struct Tally {
    command: Option<&'static Command>,
    subcommand: &'static str,
    /// Of the command that is not counted yet.
    noted: &'static str,
    calls: u64,
    failures: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Session {
    /// The session of a new connection.
    pub fn new(registration: Registration, node: &Node) -> Self {
        Self {
            registration,
            protocol: Protocol::default(),
            authenticated: !node.settings.load().is_password_set(),
            reply_mode: ReplyMode::default(),
            last_write: None,
            ack_level: AckLevel::Local,
            redirect: Redirect::default(),
            lag_max: None,
            executing: None,
            tally: Tally::default(),
        }
    }

    /// The client's id: CLIENT ID.
    pub fn id(&self) -> u64 {
        self.client().id
    }

    /// What others see of this connection.
    pub fn client(&self) -> &Arc<Client> {
        self.registration.client()
    }

    /// Shows the client as blocked in this command, until what it answers is dropped.
    pub fn block(&self, command: &'static str) -> Blocked {
        self.registration.block(command)
    }

    /// Whether the client must authenticate before it may do anything else.
    pub fn must_authenticate(&self, node: &Node) -> bool {
        !self.authenticated && node.settings.load().is_password_set()
    }

    /// Whether the reply to the present command must not be sent. Asked after the command ran,
    /// because CLIENT REPLY ON is answered.
    pub const fn is_muted(&self) -> bool {
        self.reply_mode.is_muted()
    }

    /// Ends the present command as far as CLIENT REPLY SKIP is concerned.
    pub const fn finish_command(&mut self) {
        self.reply_mode = self.reply_mode.after_command();
    }

    /// Whether every reply is sent, so that commands can be run in batches.
    pub const fn plain_replies(&self) -> bool {
        matches!(self.reply_mode, ReplyMode::On)
    }

    /// Brings the session back to what it was when the connection was made: RESET.
    pub fn reset(&mut self, node: &Node) {
        self.protocol = Protocol::default();
        self.authenticated = !node.settings.load().is_password_set();
        self.reply_mode = self.reply_mode.after_reset();
        self.ack_level = AckLevel::Local;
        self.redirect = Redirect::default();
        self.lag_max = None;
        self.client().update(|details| {
            details.name.clear();
            details.protocol = Protocol::default();
            details.queued = None;
        });
    }

    /// Counts one command and whether it was refused.
    pub fn count(&mut self, node: &Node, command: &'static Command, failed: bool) {
        if self.tally.command.is_none_or(|last| !std::ptr::eq(last, command)) {
            self.hand_over_calls(node);
            self.tally.command = Some(command);
        }
        self.tally.subcommand = std::mem::take(&mut self.tally.noted);
        self.tally.calls += 1;
        self.tally.failures += u64::from(failed);
    }

    /// Says which subcommand the present command is, before it is counted: for CLIENT LIST.
    pub const fn note_subcommand(&mut self, name: &'static str) {
        self.tally.noted = name;
    }

    /// Counts bytes that were read from and written to the client.
    pub const fn count_bytes(&mut self, read: usize, written: usize) {
        self.tally.bytes_in += read as u64;
        self.tally.bytes_out += written as u64;
    }

    /// Hands the counts to the node and shows others the last command. Called once for a batch
    /// of requests.
    pub fn publish(&mut self, node: &Node, queued: Option<usize>) {
        let last = self.tally.command;
        let subcommand = self.tally.subcommand;
        self.hand_over_calls(node);
        node.counters.count_bytes(
            std::mem::take(&mut self.tally.bytes_in),
            std::mem::take(&mut self.tally.bytes_out),
        );
        let protocol = self.protocol;
        self.client().update(|details| {
            if let Some(command) = last {
                details.command = command.name;
                details.subcommand = subcommand;
            }
            details.active = Instant::now();
            details.protocol = protocol;
            details.queued = queued;
        });
    }

    fn hand_over_calls(&mut self, node: &Node) {
        let calls = std::mem::take(&mut self.tally.calls);
        let failures = std::mem::take(&mut self.tally.failures);
        if let Some(command) = self.tally.command.take() {
            node.counters.count_calls(command, calls, failures);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn muted(first: ReplyMode, commands: usize) -> Vec<bool> {
        let modes = std::iter::successors(Some(first), |mode| Some(mode.after_command()));
        modes.skip(1).take(commands).map(ReplyMode::is_muted).collect()
    }

    #[test]
    fn skip_mutes_exactly_the_next_reply() {
        assert_eq!(muted(ReplyMode::SkipNext, 3), [true, false, false]);
        assert_eq!(muted(ReplyMode::Off, 2), [true, true]);
    }

    #[test]
    fn a_reset_ends_muting_but_is_itself_not_answered_where_its_reply_is_skipped() {
        assert!(ReplyMode::Skip.after_reset().is_muted());
        assert_eq!(ReplyMode::Skip.after_reset().after_command(), ReplyMode::On);
        assert_eq!(ReplyMode::Off.after_reset(), ReplyMode::On);
    }
}
