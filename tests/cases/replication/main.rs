//! Real processes that replicate: what is written in one region is read in another, and what happens
//! when a node, a line or a region is lost.

mod reading;
mod support;
mod taking_over;
