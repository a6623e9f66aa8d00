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
