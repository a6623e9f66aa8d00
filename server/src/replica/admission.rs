//! Which commands a node of a cluster runs, and where it sends the others.

use larder_resp::Request;
use larder_types::Unit;

use super::{Duty, Replica};
use crate::{
    command::{Command, CommandError, Handler, LoopCommand},
    session::{Redirect, Session},
};

/// What a command does with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touches {
    Nothing,
    Reads,
    Writes,
}

const fn touches(command: &Command) -> Touches {
    match command.handler {
        Handler::Write(_) => Touches::Writes,
        Handler::Read(_)
        | Handler::ReadMany(_)
        | Handler::Loop(LoopCommand::Dbsize | LoopCommand::Watch) => Touches::Reads,
        Handler::Session(_) | Handler::Loop(_) => Touches::Nothing,
    }
}

/// Whether a command reads keys or writes them.
pub const fn touches_keys(command: &Command) -> bool {
    !matches!(touches(command), Touches::Nothing)
}

/// Whether a client that was promised to be sent to the master for some commands is, for this one.
const fn is_redirected(redirect: Redirect, touches: Touches) -> bool {
    match redirect {
        Redirect::Nothing => false,
        Redirect::Writes => matches!(touches, Touches::Writes),
        Redirect::All => !matches!(touches, Touches::Nothing),
    }
}

impl Replica {
    /// Whether this node runs the command now, for this session.
    ///
    /// # Errors
    /// What the client is told instead.
    pub fn admit(
        &self,
        command: &'static Command,
        request: Request<'_>,
        session: &Session,
    ) -> Result<(), CommandError> {
        let touches = touches(command);
        if let Some(why) = self.loading()
            && command.needs_store(request)
        {
            let moved = is_redirected(session.redirect, touches)
                .then(|| self.moved(&self.duty(), command, request));
            return Err(moved.flatten().unwrap_or(CommandError::Message(why)));
        }
        if touches == Touches::Nothing {
            return Ok(());
        }
        let duty = self.duty();
        if touches == Touches::Writes {
            return match duty.refuses_writes() {
                None => Ok(()),
                Some(why) if session.redirect == Redirect::Nothing => Err(self.refusal(&duty, why)),
                Some(why) => Err(self
                    .moved(&duty, command, request)
                    .unwrap_or_else(|| CommandError::message(why))),
            };
        }
        if session.redirect == Redirect::All
            && !duty.is_master()
            && let Some(moved) = self.moved(&duty, command, request)
        {
            return Err(moved);
        }
        self.admit_reads(session)
    }

    /// Whether reads of this session are answered now.
    ///
    /// # Errors
    /// What the client is told instead.
    pub fn admit_reads(&self, session: &Session) -> Result<(), CommandError> {
        let duty = self.duty();
        if session.redirect == Redirect::All && !duty.is_master() {
            return Err(CommandError::message(
                "TRYAGAIN this node is not the master, and does not know where it is; try again",
            ));
        }
        if !self.driver.may_read() {
            return Err(CommandError::message(if duty.is_master() {
                "TRYAGAIN this master has not heard from enough of its followers, so that there may be a \
                 newer one; try again"
            } else {
                "LOADING this node has not caught up with the master; try again"
            }));
        }
        let Some(lag_max) = session.lag_max.filter(|_| !duty.is_master()) else { return Ok(()) };
        match self.driver.staleness() {
            Some(lag) if lag <= lag_max => Ok(()),
            lag => Err(stale(lag, lag_max)),
        }
    }

    /// Whether what was just read could still be answered: the lease may have ended meanwhile.
    pub fn stands_by_reads(&self) -> Result<(), CommandError> {
        if self.driver.may_read() {
            return Ok(());
        }
        Err(CommandError::message("TRYAGAIN this node ceased to answer reads meanwhile; try again"))
    }

    /// Sends a cluster-aware client to the master; `None` where it is not known, or the command
    /// names no key.
    fn moved(&self, duty: &Duty, command: &Command, request: Request<'_>) -> Option<CommandError> {
        let Duty::Slave { master: Some(master) } = duty else { return None };
        let key = usize::try_from(command.first_key).ok().filter(|position| *position > 0)?;
        let unit = Unit::of_key(request.get(key)?);
        let address = self.resp_of(master)?;
        Some(CommandError::Message(format!("MOVED {unit} {address}").into()))
    }

    fn refusal(&self, duty: &Duty, why: &'static str) -> CommandError {
        match duty {
            Duty::Slave { master: Some(master) } => match self.resp_of(master) {
                Some(address) => {
                    let text = format!("{why} The master is {master} at {address}.");
                    CommandError::Message(text.into())
                }
                None => CommandError::message(why),
            },
            _ => CommandError::message(why),
        }
    }
}

fn stale(lag: Option<std::time::Duration>, lag_max: std::time::Duration) -> CommandError {
    let by = lag.map_or_else(
        || "this node does not know how stale it is".to_owned(),
        |lag| format!("this node may be {} ms behind the master", lag.as_millis()),
    );
    let text = format!("STALE {by}; KV.MAXLAG allows {} ms", lag_max.as_millis());
    CommandError::Message(text.into())
}
