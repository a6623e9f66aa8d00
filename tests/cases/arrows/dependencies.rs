//! The arrows of ARCHITECTURE.md: which crate may depend on which.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{none, reported, table, tree::Tree};

/// Packages that one crate alone may name, whatever else it is built of.
const RESERVED: [(&str, &str); 2] = [("rocksdb", "storage"), ("quinn", "net")];

/// Folders, and the folders that each may depend on; `None` for any.
type Arrows = BTreeMap<String, Option<Vec<String>>>;

/// Reads the map of the architecture: the rows whose first cell is a folder.
fn arrows(architecture: &str) -> Arrows {
    table::rows(architecture)
        .filter_map(|cells| {
            let [folder, _, targets] = cells.as_slice() else { return None };
            let folder = folder.strip_prefix('`')?.strip_suffix("/`")?.to_owned();
            let named = targets.split(',').map(|target| target.trim().to_owned());
            let named = named.filter(|target| !target.is_empty()).collect();
            Some((folder, (targets != "all").then_some(named)))
        })
        .collect()
}

fn violations(metadata: &Value, arrows: &Arrows) -> Vec<String> {
    let mut found = Vec::new();
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let folders: BTreeMap<&str, String> = packages.iter().map(|p| (name(p), folder(p))).collect();
    for package in packages {
        let from = &folders[name(package)];
        let Some(allowed) = arrows.get(from) else {
            found.push(format!("{from} is not in the map of ARCHITECTURE.md"));
            continue;
        };
        for dependency in package["dependencies"].as_array().map_or(&[][..], Vec::as_slice) {
            let to = name(dependency);
            if let Some((_, owner)) = RESERVED.iter().find(|(reserved, _)| *reserved == to)
                && owner != from
            {
                found.push(format!("{from} names {to}, which is for {owner} alone"));
            }
            let Some(to) = folders.get(to) else { continue };
            let is_allowed = allowed.as_ref().is_none_or(|allowed| allowed.contains(to));
            // A crate's tests may turn on features of the crate itself.
            if to != from && !is_allowed {
                found.push(format!("{from} depends on {to}"));
            }
        }
    }
    let known = |folder: &&String| folders.values().any(|known| known == *folder);
    let gone = arrows.keys().filter(|folder| !known(folder));
    found.extend(gone.map(|folder| format!("ARCHITECTURE.md maps {folder}, which is no member")));
    found
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap_or_default()
}

/// The folder that a package's manifest lies in.
fn folder(package: &Value) -> String {
    let manifest = package["manifest_path"].as_str().unwrap_or_default();
    manifest.rsplit('/').nth(1).unwrap_or_default().to_owned()
}

fn metadata() -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("reading cargo metadata")
}

#[test]
fn crates_depend_as_the_map_says() -> Result<()> {
    let tree = Tree::of_the_repository()?;
    let arrows = arrows(tree.file("ARCHITECTURE.md")?);
    ensure!(arrows.len() >= 7, "the map has too few rows: {arrows:?}");
    none(&violations(&metadata()?, &arrows))
}

#[test]
fn an_arrow_against_the_map_is_reported() -> Result<()> {
    let map = "| `types/` | ids | |\n| `server/` | kvd | types, storage |\n| `gone/` | x | all |";
    let package = |name: &str, on: &str| {
        json!({"name": format!("larder-{name}"), "manifest_path": format!("/x/{name}/Cargo.toml"),
               "dependencies": [{"name": on}, {"name": "serde"}]})
    };
    let found = violations(
        &json!({"packages": [package("types", "larder-server"), package("server", "rocksdb"),
                             package("stray", "larder-types")]}),
        &arrows(map),
    );
    reported(&found, "types depends on server")?;
    reported(&found, "server names rocksdb")?;
    reported(&found, "stray is not in the map")?;
    reported(&found, "maps gone")?;
    ensure!(found.len() == 4, "{found:?}");
    Ok(())
}
