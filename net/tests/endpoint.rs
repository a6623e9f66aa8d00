//! Two nodes on loopback: who is let in, and what streams carry.

mod support;

use std::num::NonZeroU64;

use bytes::Bytes;
use larder_net::{Error, Features, Options, Shape, StreamKind};
use support::{Authority, Pair, allowing, bind, connect, node, soon, until};

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
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_connection_tells_the_other_side_code_and_words() {
    let pair = Pair::new().await;
    let (mut at_a, _at_b) = pair.stream(StreamKind::Control).await;
    pair.at_b.close(64, "session ended\nby a newer one");
    let closed = soon(at_a.receive.next()).await.unwrap_err();
    let Error::Closed { code, why } = closed else { panic!("{closed}") };
    assert_eq!((code, why.as_str()), (64, "session ended by a newer one"));
    assert!(matches!(soon(pair.at_b.open(StreamKind::Log)).await, Err(Error::ClosedHere)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_beyond_its_bound_is_not_sent_and_the_stream_goes_on() {
    let pair = Pair::new().await;
    let (mut at_a, mut at_b) = pair.stream(StreamKind::Control).await;
    let bound = StreamKind::Control.frame_bytes_max();
    let refused = at_a.send.send(Bytes::from(vec![0; bound + 1])).await.unwrap_err();
    assert!(matches!(refused, Error::FrameTooLarge { bytes, .. } if bytes == bound + 1));
    soon(at_a.send.send(Bytes::from(vec![1; bound]))).await.unwrap();
    assert_eq!(soon(at_b.receive.next()).await.unwrap().unwrap().len(), bound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_that_was_dropped_halfway_lets_nothing_follow() {
    let pair = Pair::new().await;
    let (mut at_a, at_b) = pair.stream(StreamKind::Log).await;
    // Nobody reads, so this cannot end: the stream's window is smaller than two frames.
    let frame = Bytes::from(vec![0; StreamKind::Log.frame_bytes_max()]);
    tokio::select! {
        biased;
        sent = async { at_a.send.send(frame.clone()).await?; at_a.send.send(frame).await } =>
            panic!("{sent:?}"),
        () = until("sending", || pair.at_a.stats().sent_bytes > 1 << 20) => {}
    }
    let refused = at_a.send.send(Bytes::from_static(b"after")).await.unwrap_err();
    assert!(refused.to_string().contains("in part"), "{refused}");
    drop(at_b);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_given_up_within_a_frame_is_an_error_not_an_end() {
    let pair = Pair::new().await;
    let (mut at_a, mut at_b) = pair.stream(StreamKind::Snapshot).await;
    let frame = Bytes::from(vec![0; StreamKind::Snapshot.frame_bytes_max()]);
    tokio::select! {
        sent = async { at_a.send.send(frame.clone()).await?; at_a.send.send(frame).await } =>
            panic!("{sent:?}"),
        () = until("sending", || pair.at_a.stats().sent_bytes > 1 << 20) => {}
    }
    at_a.send.reset();
    assert!(
        soon(async {
            while at_b.receive.next().await?.is_some() {}
            Ok::<_, Error>(())
        })
        .await
        .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn control_overtakes_a_full_snapshot_stream() {
    let pair = Pair::new().await;
    let (mut bulk, mut bulk_there) = pair.stream(StreamKind::Snapshot).await;
    let (mut control, mut control_there) = pair.stream(StreamKind::Control).await;
    let rate = NonZeroU64::new(4_000_000);
    let slow = Shape { rate_bytes_per_s: rate, ..Shape::default() };
    pair.a_shaper.set(pair.b.local_addr().unwrap(), slow).unwrap();
    let sending = tokio::spawn(async move {
        bulk.send.send(Bytes::from(vec![0; 8 << 20])).await.unwrap();
        bulk.send.finish().await
    });
    until("bulk", || pair.at_a.stats().sent_bytes > 1 << 19).await;
    soon(control.send.send(Bytes::from_static(b"beat"))).await.unwrap();
    tokio::select! {
        biased;
        beat = soon(control_there.receive.next()) => assert_eq!(beat.unwrap().unwrap(), "beat"),
        _ = bulk_there.receive.next() => panic!("the snapshot arrived before a heartbeat"),
    }
    pair.a_shaper.clear_all();
    assert_eq!(soon(bulk_there.receive.next()).await.unwrap().unwrap().len(), 8 << 20);
    let (end, sent) = tokio::join!(soon(bulk_there.receive.next()), soon(sending));
    assert_eq!(end.unwrap(), None);
    sent.unwrap().unwrap();
}
