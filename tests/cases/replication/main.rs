//! Real processes that replicate: what is written in one region is read in another, and what happens
//! when a node, a line, a disk or a region is lost.
//!
//! Whoever writes keeps a journal in another directory than any node's. Each story prints what was
//! acknowledged, and what of it was lost.

mod certificates;
mod cutting;
mod differing;
mod disks;
mod handing_over;
mod killing;
mod load;
mod losing;
mod parting;
mod playground;
mod reading;
mod resuming;
mod returning;
mod rewinding;
mod shaking;
mod stalling;
mod storming;
mod support;
