//! Stories of two or three cores in memory, one file a duty.
