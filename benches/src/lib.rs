//! What the measuring programs share: lines with a delay, a client that blocks, values that look
//! like documents, and the arithmetic of percentiles.

pub mod client;
pub mod delay;
pub mod document;
pub mod figures;
pub mod timer;
