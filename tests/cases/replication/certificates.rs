//! Who is not let in, and what the operator reads about it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use larder_tests::cluster::{Plan, expired, init_authority, issue, valid};
use larder_tests::deadline::Deadline;
use rustix::process::Signal;

use crate::support::{Alone, SOON, cluster, wait_for_value};

/// The node that comes with something wrong.
const NODE: usize = 2;
const NAME: &str = "shanghai-1";
/// What both sides say where the authorities differ.
const NOT_OURS: &str = "certificate is not from this cluster's authority";

#[test]
fn a_node_with_a_certificate_that_does_not_do_is_refused_and_the_log_says_why() -> Result<()> {
    let Some(mut cluster) = cluster(&Plan::three("majority"))? else { return Ok(()) };
    cluster.kill(NODE);
    let right = std::fs::read_to_string(cluster.nodes[NODE].configuration())?;
    let ours = cluster.authority();

    let foreign = fresh(&cluster, "foreign")?;
    init_authority(&foreign, "tests")?;
    issue(&foreign, NAME, &foreign, valid())?;
    let all_foreign = with(&right, &cluster, &foreign.join("ca.pem"), &foreign, NAME);
    expect_refused(&mut cluster, "a wrong authority", &all_foreign, NOT_OURS)?;

    let others = fresh(&cluster, "others")?;
    init_authority(&others, "others")?;
    issue(&others, NAME, &others, valid())?;
    let of_others = with(&right, &cluster, &others.join("ca.pem"), &others, NAME);
    expect_refused(&mut cluster, "another cluster", &of_others, NOT_OURS)?;

    let late = fresh(&cluster, "late")?;
    issue(&ours, NAME, &late, expired())?;
    let of_late = with(&right, &cluster, &ours.join("ca.pem"), &late, NAME);
    expect_refused(&mut cluster, "an expired certificate", &of_late, "has expired")?;

    let stranger = fresh(&cluster, "stranger")?;
    issue(&ours, "stranger-1", &stranger, valid())?;
    let of_stranger = with(&right, &cluster, &ours.join("ca.pem"), &stranger, "stranger-1")
        .replace(&format!("id = \"{NAME}\""), "id = \"stranger-1\"");
    let told = "stranger-1 is not a node of this cluster";
    expect_refused(&mut cluster, "a node that nobody knows", &of_stranger, told)?;

    let borrowed = fresh(&cluster, "borrowed")?;
    issue(&ours, "tianjin-1", &borrowed, valid())?;
    let of_borrowed = with(&right, &cluster, &ours.join("ca.pem"), &borrowed, "tianjin-1");
    expect_refused(&mut cluster, "another node's certificate", &of_borrowed, "tianjin-1")?;

    std::fs::write(cluster.nodes[NODE].configuration(), right)?;
    cluster.launch(NODE)?;
    cluster.wait_until_streaming(0)?;
    wait_for_value(&cluster.nodes[NODE], "kept", "another node's certificate")?;
    cluster.tell("certificates", "five wrong ones refused and told of, the right one let in");
    Ok(())
}

fn fresh(cluster: &Alone, name: &str) -> Result<PathBuf> {
    let dir = cluster.root().join(name);
    std::fs::create_dir(&dir)?;
    Ok(dir)
}

/// The configuration with another authority, and the certificate of `name` in `dir`.
fn with(
    right: &str,
    cluster: &Alone,
    ca: &std::path::Path,
    dir: &std::path::Path,
    name: &str,
) -> String {
    let home = cluster.nodes[NODE].home().display();
    right
        .replace(
            &cluster.authority().join("ca.pem").display().to_string(),
            &ca.display().to_string(),
        )
        .replace(&format!("{home}/{NAME}.pem"), &format!("{}/{name}.pem", dir.display()))
        .replace(&format!("{home}/{NAME}.key"), &format!("{}/{name}.key", dir.display()))
}

/// Starts the node with this configuration: it must not take part, and must say `told`.
fn expect_refused(cluster: &mut Alone, what: &str, configuration: &str, told: &str) -> Result<()> {
    std::fs::write(cluster.nodes[NODE].configuration(), configuration)?;
    match cluster.launch(NODE) {
        // It may refuse to start at all.
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(said.contains("ended with") && said.contains(told), "{what}: {said}");
        }
        Ok(()) => {
            Deadline::after(SOON)
                .wait_for("the refusal in a log", || {
                    Ok(cluster.nodes[NODE].printed().contains(told).then_some(()))
                })
                .with_context(|| what.to_owned())?;
            let mut client = cluster.nodes[NODE].client()?;
            let reply = client.call(&["GET", "kept"])?;
            if !(reply.is_error() || reply.is_null()) {
                bail!("{what}: it reads {}", reply.describe());
            }
            cluster.nodes[NODE].signal(Signal::TERM)?;
            cluster.nodes[NODE].server()?.wait_until_ended()?;
            cluster.kill(NODE);
        }
    }
    // The others go on, and are a majority.
    cluster.nodes[0].client()?.expect_ok(&["SET", "kept", what])?;
    Ok(())
}
