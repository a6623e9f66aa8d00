//! The kv tool.

fn main() {}
