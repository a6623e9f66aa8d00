//! Stories of a few cores in memory, one file a duty.
//!
//! Messages arrive at once and disks are instant, unless a story says otherwise; the simulator
//! (`tests/simulation`) is where everything is late, lost and broken.

mod committing;
mod comparing;
mod electing;
mod following;
mod joining;
mod leasing;
mod resyncing;
mod rewinding;
mod switching;
mod twins;
mod world;
