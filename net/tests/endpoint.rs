//! Two nodes on loopback: who is let in, and what streams carry.

mod support;

use bytes::Bytes;
use larder_net::{Features, Options, StreamKind};
use support::{Authority, Pair, allowing, bind, connect, node, soon};

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_of_a_cluster_exchange_frames_both_ways() {
    let authority = Authority::of("east");
    let options = |peer, features| Options { features: Features(features), ..allowing(&[peer]) };
    let a = bind(authority.identity("a"), options("b", 0b011));
    let b = bind(authority.identity("b"), options("a", 0b110));
    let (at_a, at_b) = connect(&a, &b, "b").await;
    assert_eq!((at_a.peer(), at_b.peer()), (&node("b"), &node("a")));
    assert_eq!((at_a.features(), at_b.features()), (Features(0b010), Features(0b010)));
    assert_eq!((at_a.version(), at_b.version()), (1, 1));

    let (mut send, mut receive) = at_a.open(StreamKind::Log).await.unwrap();
    let large = Bytes::from(vec![7; 3 << 20]);
    for frame in [Bytes::from_static(b"one"), Bytes::new(), large.clone()] {
        soon(send.send(frame)).await.unwrap();
    }
    let (kind, mut back, mut forth) = soon(at_b.accept()).await.unwrap();
    assert_eq!(kind, StreamKind::Log);
    assert_eq!(soon(forth.next()).await.unwrap().unwrap(), "one");
    assert_eq!(soon(forth.next()).await.unwrap().unwrap(), "");
    assert_eq!(soon(forth.next()).await.unwrap().unwrap(), large);
    back.send(Bytes::from_static(b"heard")).await.unwrap();
    assert_eq!(soon(receive.next()).await.unwrap().unwrap(), "heard");

    let (finished, ended) = tokio::join!(soon(send.finish()), soon(forth.next()));
    finished.unwrap();
    assert_eq!(ended.unwrap(), None);
    drop(Pair::new().await);
}
