//! What must be on the disk before something else is said or done.

use super::{Action, Core, Link, Token};
use crate::message::Fence;

/// What to do once a standing is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    /// Answer a fence: another node's, or this node's own.
    AnswerFence {
        to: Option<Link>,
        fence: Fence,
        known: u32,
    },
    /// Begin an epoch of a term, for the node that ran the promotion.
    Lead {
        term: u32,
        by: Option<Link>,
    },
    /// Say that this master has stepped down.
    StepDown,
}

impl Core {
    /// Puts the standing as it is now on the disk.
    pub(super) fn persist(&mut self, after: After) {
        self.tokens += 1;
        let token = Token(self.tokens);
        self.storing.push_back((token, after));
        self.out.push(Action::Persist { standing: self.standing.clone(), token });
    }

    /// Whether the disk has the standing as it is now.
    pub(super) fn is_stored(&self) -> bool {
        self.storing.is_empty()
    }

    /// A standing is on the disk, and with it every one before.
    pub(super) fn on_stored(&mut self, token: Token) {
        while self.storing.front().is_some_and(|(stored, _)| *stored <= token) {
            let Some((_, after)) = self.storing.pop_front() else { return };
            match after {
                After::Nothing => {}
                After::AnswerFence { to, fence, known } => self.owe_answer(to, fence, known),
                After::Lead { term, by } => self.begin_epoch(term, by),
                After::StepDown => self.stepped_down(),
            }
        }
    }
}
