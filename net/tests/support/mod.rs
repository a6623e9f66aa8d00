//! A cluster's authority in a temporary directory, and endpoints on loopback.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, clippy::allow_attributes, reason = "not every test binary needs all of it")]

use std::{
    collections::BTreeSet,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use larder_net::{
    Connection, Endpoint, FrameReceiver, FrameSender, Identity, Options, Shaper, StreamKind,
    ca::{self, Validity},
};
use larder_types::{ClusterId, NodeId};

/// Nothing here takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn cluster(name: &str) -> ClusterId {
    ClusterId::new(name).unwrap()
}

/// Valid since an hour ago, for a day.
pub(crate) fn valid() -> Validity {
    Validity { from: SystemTime::now() - HOUR, lasting: 24 * HOUR }
}

/// An authority and the certificates it has issued.
pub(crate) struct Authority {
    dir: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        ca::init(dir.path(), &cluster(name), valid()).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.path().join(ca::CERTIFICATE_FILE)
    }

    pub(crate) fn identity(&self, name: &str) -> Arc<Identity> {
        let out = tempfile::tempdir().unwrap();
        let files = ca::issue_node(self.path(), &node(name), out.path(), valid()).unwrap();
        let ca = self.certificate();
        Arc::new(Identity::load(&ca, &files.certificate, &files.key).unwrap())
    }

    /// A node whose certificate is valid at a moment that is not now.
    pub(crate) fn identity_at(&self, name: &str, moment: SystemTime) -> Arc<Identity> {
        let out = tempfile::tempdir().unwrap();
        let validity = Validity { from: moment - HOUR, lasting: 2 * HOUR };
        let files = ca::issue_node(self.path(), &node(name), out.path(), validity).unwrap();
        let ca = self.certificate();
        Arc::new(Identity::load_at(&ca, &files.certificate, &files.key, moment).unwrap())
    }
}

pub(crate) fn allowing(names: &[&str]) -> Options {
    let allowed: BTreeSet<NodeId> = names.iter().map(|name| node(name)).collect();
    Options { allowed, ..Options::default() }
}

pub(crate) fn bind(identity: Arc<Identity>, options: Options) -> Endpoint {
    bind_shaped(identity, &Shaper::new(1), options)
}

pub(crate) fn bind_shaped(identity: Arc<Identity>, shaper: &Shaper, options: Options) -> Endpoint {
    Endpoint::bind(([127, 0, 0, 1], 0).into(), identity, shaper, options).unwrap()
}

/// Waits no longer than the patience of these tests.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("this should not take so long")
}

/// Two endpoints that let each other in, their shapers, and a connection from `a` to `b`.
pub(crate) struct Pair {
    pub(crate) a: Endpoint,
    pub(crate) b: Endpoint,
    pub(crate) a_shaper: Shaper,
    pub(crate) b_shaper: Shaper,
    pub(crate) at_a: Connection,
    pub(crate) at_b: Connection,
}

impl Pair {
    pub(crate) async fn new() -> Self {
        let authority = Authority::of("east");
        let (a_shaper, b_shaper) = (Shaper::new(1), Shaper::new(2));
        let a = bind_shaped(authority.identity("a"), &a_shaper, allowing(&["b"]));
        let b = bind_shaped(authority.identity("b"), &b_shaper, allowing(&["a"]));
        let (at_a, at_b) = connect(&a, &b, "b").await;
        Self { a, b, a_shaper, b_shaper, at_a, at_b }
    }

    /// A stream, as `a` and as `b` have it.
    pub(crate) async fn stream(&self, kind: StreamKind) -> (Half, Half) {
        let (mut send, receive) = soon(self.at_a.open(kind)).await.unwrap();
        soon(send.send(Bytes::new())).await.unwrap();
        let (found, back, mut forth) = soon(self.at_b.accept()).await.unwrap();
        assert_eq!(found, kind);
        assert_eq!(soon(forth.next()).await.unwrap().unwrap(), Bytes::new());
        (Half { send, receive }, Half { send: back, receive: forth })
    }
}

/// One side's view of a stream.
pub(crate) struct Half {
    pub(crate) send: FrameSender,
    pub(crate) receive: FrameReceiver,
}

pub(crate) async fn connect(
    from: &Endpoint,
    to: &Endpoint,
    name: &str,
) -> (Connection, Connection) {
    let address = to.local_addr().unwrap();
    let (name, called) = (node(name), soon(to.accept()));
    let (made, taken) = tokio::join!(from.connect(address, &name), called);
    (made.unwrap(), taken.unwrap().unwrap())
}

/// Waits until something holds that nothing tells of.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what} does not come about");
        tokio::task::yield_now().await;
    }
}
