//! The two servers under comparison.

use std::net::SocketAddr;

use anyhow::Result;

use crate::client::Client;

/// Where the two servers are.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The one whose replies are right.
    pub reference: SocketAddr,
    /// The one under test.
    pub subject: SocketAddr,
}

/// One connection to each.
#[derive(Debug)]
pub(crate) struct Both {
    pub(crate) reference: Client,
    pub(crate) subject: Client,
}

impl Pair {
    pub(crate) fn connect(&self) -> Result<Both> {
        Ok(Both {
            reference: Client::connect(self.reference)?,
            subject: Client::connect(self.subject)?,
        })
    }
}

impl Both {
    pub(crate) fn each(&mut self) -> [&mut Client; 2] {
        [&mut self.reference, &mut self.subject]
    }

    /// Sends the same bytes to both.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.reference.send_raw(bytes)?;
        self.subject.send_raw(bytes)
    }
}
