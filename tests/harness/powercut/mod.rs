//! Parts of the power cut suite: several connections that write without pause and keep a journal
//! of what they sent and what was acknowledged, and the oracle that judges what is there
//! afterwards. The storms of kill -9 use them as well.

pub mod operation;
pub mod oracle;
pub mod traffic;
