//! `kv ca`: files of a cluster's authority and of its nodes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use crate::support::{kv, outcome, stderr};

fn run(scratch: &Path, arguments: &str) -> std::process::Output {
    let arguments = arguments.replace("CA", scratch.join("ca").to_str().unwrap());
    let arguments = arguments.replace("OUT", scratch.join("out").to_str().unwrap());
    kv("127.0.0.1:1", &arguments.split(' ').collect::<Vec<_>>(), b"")
}

#[test]
fn an_authority_is_made_and_issues_certificates() {
    let scratch = TempDir::with_prefix("larder-ca-").unwrap();
    let at = scratch.path();
    assert_eq!(run(at, "ca init --cluster shop --dir CA").status.code(), Some(0));
    let issued = run(at, "-o json ca issue tianjin-1 --dir CA --out OUT --days 30");
    let (code, text) = outcome(&issued);
    assert_eq!(code, 0, "{}", stderr(&issued));
    let files: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(files["certificate"], at.join("out/tianjin-1.pem").to_str().unwrap());
    assert_eq!(files["key"], at.join("out/tianjin-1.key").to_str().unwrap());
    for file in ["ca/ca.pem", "ca/ca.key", "out/tianjin-1.pem", "out/tianjin-1.key"] {
        let mode = fs::metadata(at.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
        let text = fs::read_to_string(at.join(file)).unwrap();
        assert!(text.starts_with("-----BEGIN "), "{file}");
    }
}

#[test]
fn what_is_there_is_never_overwritten() {
    let scratch = TempDir::with_prefix("larder-ca-").unwrap();
    let at = scratch.path();
    let orders = ["ca init --cluster shop --dir CA", "ca issue a --dir CA --out OUT"];
    for order in orders {
        assert_eq!(run(at, order).status.code(), Some(0));
    }
    let all = ["ca/ca.pem", "ca/ca.key", "out/a.pem", "out/a.key"];
    let read = || all.map(|file| fs::read(at.join(file)).unwrap());
    let before = read();
    for order in orders {
        let output = run(at, order);
        assert_eq!(output.status.code(), Some(6));
        assert!(stderr(&output).contains("is there already"), "{}", stderr(&output));
    }
    assert_eq!(read(), before);
}

#[test]
fn without_an_authority_nothing_is_issued() {
    let scratch = TempDir::with_prefix("larder-ca-").unwrap();
    let output = run(scratch.path(), "ca issue a --dir CA --out OUT");
    assert_eq!(output.status.code(), Some(6));
    assert!(stderr(&output).contains("ca.pem"), "{}", stderr(&output));
    assert!(!scratch.path().join("out").exists());
}
