//! The gate tests everything, whatever its environment says.

use std::process::Command;

use anyhow::{Result, ensure};

/// Whether the suites would be run, and what is said of it.
fn listed(variables: &[(&str, &str)]) -> Result<(bool, String)> {
    let mut command = Command::new("bash");
    command.args(["../scripts/test.sh", "--list"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let inherited = std::env::vars_os().map(|(name, _)| name);
    for name in inherited.filter(|name| name.to_string_lossy().starts_with("LARDER_")) {
        command.env_remove(name);
    }
    let output = command.env_remove("CI").envs(variables.iter().copied()).output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn with_ci_nothing_may_alter_what_is_tested() -> Result<()> {
    for name in ["LARDER_SEED", "LARDER_CUTS", "LARDER_CRASH_IMAGES", "LARDER_FAULT"] {
        let (runs, said) = listed(&[("CI", "true"), (name, "1")])?;
        ensure!(!runs && said.contains(&format!("unset {name}")), "{name}: {said}");
        ensure!(listed(&[(name, "1")])?.0, "{name} is for whoever repeats a run");
    }
    let (runs, said) = listed(&[("CI", "true"), ("LARDER_ROCKSDB", "/somewhere")])?;
    ensure!(runs, "{said}");
    Ok(())
}
