//! What a node of a cluster does now, in the words that clients are told.

use larder_replication::core::Role;
use larder_types::NodeId;

/// What clients may ask of this node, beside what the lease and the state allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It has nothing to serve yet.
    Joining,
    /// It writes the log.
    Master,
    /// It writes the log, and takes no writes for the moment in which it hands the log over.
    HandingOver,
    /// It copies the log.
    Slave {
        /// From this node, where one is known.
        master: Option<NodeId>,
    },
    /// It was the master, and is no longer.
    Fenced,
}

impl Duty {
    /// The duty of a role.
    pub fn of(role: &Role) -> Self {
        match role {
            Role::Joining => Self::Joining,
            Role::Master { .. } => Self::Master,
            Role::Slave { master } => Self::Slave { master: master.clone() },
            Role::Fenced => Self::Fenced,
        }
    }

    /// What a pause of writes makes of it; `None` where nothing is to be done. Who has ceased to be
    /// the master is closed to writes already, and stays so when the pause ends.
    pub fn paused(&self) -> Option<Self> {
        (*self == Self::Master).then_some(Self::HandingOver)
    }

    /// What the end of a pause makes of it; `None` where nothing is to be done.
    pub fn resumed(&self) -> Option<Self> {
        (*self == Self::HandingOver).then_some(Self::Master)
    }

    /// The word of the admin port.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Master | Self::HandingOver => "master",
            Self::Slave { .. } => "slave",
            Self::Fenced => "fenced",
        }
    }

    /// Whether it writes the log.
    pub const fn is_master(&self) -> bool {
        matches!(self, Self::Master | Self::HandingOver)
    }

    /// What a write is refused with; `None` where it is taken.
    pub const fn refuses_writes(&self) -> Option<&'static str> {
        match self {
            Self::Master => None,
            Self::Joining => {
                Some("LOADING this node has no log yet: it has not found the master; try again")
            }
            Self::HandingOver => {
                Some("TRYAGAIN the master is handing over to another node; try again in a moment")
            }
            Self::Slave { .. } | Self::Fenced => {
                Some("READONLY You can't write against a read only replica.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_that_pauses_takes_writes_again_afterwards() {
        let paused = Duty::Master.paused().expect("a master pauses");
        assert!(paused.is_master() && paused.refuses_writes().is_some());
        assert_eq!(paused.resumed(), Some(Duty::Master));
    }

    #[test]
    fn whoever_has_ceased_to_be_the_master_never_takes_writes_because_a_pause_ends() {
        for duty in [Duty::Fenced, Duty::Joining, Duty::Slave { master: None }] {
            assert_eq!((duty.paused(), duty.resumed()), (None, None));
        }
        assert_eq!(Duty::Master.resumed(), None, "no pause was begun");
    }
}
