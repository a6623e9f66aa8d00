//! What a node may be told of its cluster, and what is refused.

use std::net::SocketAddr;

use larder_types::{AckLevel, NodeId};

use super::*;

fn name(text: &str) -> NodeId {
    NodeId::new(text).expect("a name")
}

/// A node in the region `north`, with peers and their regions. Its files are this source file: they
/// can be read.
pub(super) fn node(id: &str, peers: &[(&str, &str)]) -> NodeConfig {
    let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let peers = peers.iter().zip(7_001..).map(|((id, region), port)| PeerConfig {
        id: name(id),
        region: (*region).to_owned(),
        address: address(port),
        resp: address(port + 1_000),
    });
    NodeConfig {
        id: name(id),
        region: "north".to_owned(),
        listen: address(7_000),
        ca: file.clone(),
        certificate: file.clone(),
        key: file,
        peers: peers.collect(),
    }
}

fn cluster(level: AckLevel, peers: &[(&str, &str)]) -> Config {
    Config {
        node: Some(node("a", peers)),
        replication: ReplicationConfig {
            level,
            first_master: Some(name("a")),
            ..ReplicationConfig::default()
        },
        ..Config::default()
    }
}

fn refusal(config: &Config) -> String {
    config.validate().expect_err("the configuration is refused").to_string()
}

#[test]
fn a_log_kept_for_followers_in_more_segments_than_open_in_time_is_refused() {
    let mut config = cluster(AckLevel::Local, &[("b", "east")]);
    config.log.segment_bytes = ByteSize(1 << 16);
    config.replication.retain_bytes_max = ByteSize(LOG_SEGMENTS_MAX << 16);
    config.validate().expect("it is accepted");
    config.replication.retain_bytes_max = ByteSize((LOG_SEGMENTS_MAX << 16) + 1);
    assert_eq!(
        refusal(&config),
        "replication.retain_bytes_max: 1073741825 is more than 1073741824, 16384 segments of \
         log.segment_bytes = 65536, up to which a start after a crash takes less than 5 s; write \
         \"1024 MiB\" or less, or make the segments larger"
    );
    // A node alone keeps nothing for followers.
    config.node = None;
    config.replication.first_master = None;
    config.validate().expect("it is accepted");
}

#[test]
fn three_nodes_in_three_regions_are_accepted_at_every_level_but_near() {
    let peers = [("b", "east"), ("c", "west")];
    for level in [AckLevel::Local, AckLevel::Majority, AckLevel::All] {
        cluster(level, &peers).validate().expect("it is accepted");
    }
    assert!(refusal(&cluster(AckLevel::Near, &peers)).contains("another node in north"));
    cluster(AckLevel::Near, &[("b", "north")]).validate().expect("it is accepted");
}

#[test]
fn a_level_that_the_nodes_cannot_meet_is_refused() {
    let two = refusal(&cluster(AckLevel::Majority, &[("b", "east")]));
    assert!(two.starts_with("replication.level: \"majority\" needs at least 3 nodes"), "{two}");
    let one_region = [("b", "north"), ("c", "north")];
    assert!(refusal(&cluster(AckLevel::Majority, &one_region)).contains("there are 3 in 1"));
    assert!(refusal(&cluster(AckLevel::All, &[])).contains("at least 2 nodes"));
}

#[test]
fn near_is_met_in_the_regions_that_have_two_nodes() {
    let config = node("a", &[("b", "north"), ("c", "east")]);
    assert_eq!(config.unmet(AckLevel::Near, &name("a"), "north"), None);
    let unmet = config.unmet(AckLevel::Near, &name("c"), "east").expect("c is alone in its region");
    assert!(unmet.contains("the region of c"), "{unmet}");
}

#[test]
fn names_and_addresses_belong_to_one_node_each() {
    let itself = refusal(&cluster(AckLevel::Local, &[("a", "east")]));
    assert!(itself.contains("a is this node"), "{itself}");
    assert!(refusal(&cluster(AckLevel::Local, &[("b", "x"), ("b", "y")])).contains("named twice"));
    let mut config = cluster(AckLevel::Local, &[("b", "east")]);
    if let Some(node) = &mut config.node {
        node.peers[0].address = node.listen;
    }
    assert!(refusal(&config).contains("belongs to another node"));
    assert!(refusal(&cluster(AckLevel::Local, &[("b", "The East")])).contains("The East"));
    let text = "[node]\nid = \"Not A Name\"\n";
    assert!(Config::parse(text, "x").is_err());
}

#[test]
fn the_first_master_is_one_of_the_nodes() {
    let mut config = cluster(AckLevel::Local, &[("b", "east")]);
    config.replication.first_master = Some(name("z"));
    assert!(refusal(&config).contains("z is neither this node nor one of node.peers"));
    config.replication.first_master = None;
    assert!(refusal(&config).contains("first_master: is missing"));
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let mut config = cluster(AckLevel::Local, &[]);
    if let Some(node) = &mut config.node {
        node.key = "/nowhere/node.key".into();
    }
    let refused = refusal(&config);
    assert!(refused.starts_with("node.key: cannot read /nowhere/node.key"), "{refused}");
}

#[test]
fn a_node_of_a_cluster_keeps_what_it_acknowledges() {
    let mut config = cluster(AckLevel::Local, &[("b", "east")]);
    config.namespace.durability = "interval:5".parse().expect("a durability");
    assert!(refusal(&config).starts_with("namespace.durability: "));
}

#[test]
fn a_single_node_has_no_level_and_no_lab() {
    let mut config = Config::default();
    config.replication.level = AckLevel::Majority;
    assert!(refusal(&config).contains("no [node] table"));
    let mut config = Config::default();
    config.lab.enabled = true;
    assert!(refusal(&config).starts_with("lab.enabled"));
}

/// Each file is of its own node and names the two others as these name themselves.
#[test]
fn the_examples_of_a_cluster_agree() {
    let files = [
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/cluster/shenzhen.toml")),
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/cluster/tianjin.toml")),
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/cluster/shanghai.toml")),
    ];
    let configs = files.map(|text| Config::parse(text, "an example").expect("it parses"));
    for config in &configs {
        let node = config.node.as_ref().expect("it is a node");
        assert_eq!(config.replication, configs[0].replication);
        assert_eq!(node.peers.len(), 2);
        for peer in &node.peers {
            let other = configs
                .iter()
                .find(|other| other.node.as_ref().is_some_and(|node| node.id == peer.id))
                .expect("the peer has a file");
            let itself = other.node.as_ref().expect("it is a node");
            assert_eq!((&peer.region, peer.address), (&itself.region, itself.listen));
            assert_eq!(peer.resp, other.resp);
        }
    }
}
