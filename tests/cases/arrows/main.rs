//! What must hold of the repository itself: which crate may depend on which, the rules of its
//! sources, and that its documents say what is there. Reads text and `cargo metadata`; builds
//! nothing. Every check has a test that it can fail.

mod commands;
mod dependencies;
mod limits;
mod links;
mod operating;
mod scripts;
mod sources;
mod table;
mod traps;
mod tree;

use anyhow::{Result, ensure};

/// Fails with every violation on a line of its own.
fn none(violations: &[String]) -> Result<()> {
    ensure!(violations.is_empty(), "\n{}", violations.join("\n"));
    Ok(())
}

/// Fails unless one of the violations speaks of `what`.
fn reported(violations: &[String], what: &str) -> Result<()> {
    let told = violations.iter().any(|violation| violation.contains(what));
    ensure!(told, "{what} is not among {violations:?}");
    Ok(())
}
