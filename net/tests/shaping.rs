//! Shaped lines between two real endpoints. Figures are printed; bounds that a busy machine could
//! break are wide, those that the line itself must keep are not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    net::SocketAddr,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_net::{Error, Shape, Shaper, StreamKind};
use support::{Half, Pair, soon, until};

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn delay(ms: u64) -> Shape {
    Shape { delay: millis(ms), ..Shape::default() }
}

impl Pair {
    fn address_of_a(&self) -> SocketAddr {
        self.a.local_addr().unwrap()
    }

    fn address_of_b(&self) -> SocketAddr {
        self.b.local_addr().unwrap()
    }

    fn shape_both(&self, shape: Shape) {
        self.a_shaper.set(self.address_of_b(), shape).unwrap();
        self.b_shaper.set(self.address_of_a(), shape).unwrap();
    }
}

/// Answers every frame with itself.
fn echo(mut half: Half) {
    tokio::spawn(async move {
        while let Ok(Some(frame)) = half.receive.next().await {
            if half.send.send(frame).await.is_err() {
                return;
            }
        }
    });
}

async fn send_mib(mut half: Half, mib: usize) -> Result<(), Error> {
    let frame = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..mib {
        half.send.send(frame.clone()).await?;
    }
    half.send.finish().await
}

async fn round_trip(half: &mut Half) -> Duration {
    let began = Instant::now();
    soon(half.send.send(Bytes::from_static(b"ping"))).await.unwrap();
    soon(half.receive.next()).await.unwrap().unwrap();
    began.elapsed()
}

async fn round_trips(half: &mut Half, count: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        times.push(round_trip(half).await);
    }
    times.sort_unstable();
    times
}

fn print_times(what: &str, times: &[Duration]) {
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!("{what}: p10 {:?}, p50 {:?}, p90 {:?}, p99 {:?}", at(10), at(50), at(90), at(99));
}

fn total(shaper: &Shaper) -> larder_net::ShapeStats {
    let [(_, _, stats)] = shaper.list()[..] else { panic!("one line: {shaper:?}") };
    stats
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_trip_takes_both_delays_and_little_more() {
    let pair = Pair::new().await;
    let (mut half, there) = pair.stream(StreamKind::Control).await;
    echo(there);
    let plain = round_trips(&mut half, 100).await;
    print_times("round trip, no shape", &plain);
    for one_way in [15, 20] {
        pair.shape_both(delay(one_way));
        round_trip(&mut half).await;
        let shaped = round_trips(&mut half, 50).await;
        print_times(&format!("round trip, {one_way} ms each way"), &shaped);
        assert!(shaped[0] >= millis(2 * one_way), "{:?}", shaped[0]);
        assert!(shaped[25] < millis(2 * one_way + 5), "{:?}", shaped[25]);
    }
    assert!(pair.at_a.rtt() >= millis(20), "{:?}", pair.at_a.rtt());
    pair.a_shaper.clear_all();
    pair.b_shaper.clear(pair.address_of_a());
    until("the lines as they were", || {
        pair.a_shaper.list().is_empty() && pair.b_shaper.list().is_empty()
    })
    .await;
    round_trip(&mut half).await;
    assert!(round_trips(&mut half, 20).await[10] < millis(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_arrive_whole_and_in_order_through_loss_and_jitter() {
    let pair = Pair::new().await;
    let (mut half, mut there) = pair.stream(StreamKind::Log).await;
    let shape = Shape { delay: millis(2), jitter: millis(4), loss: 0.05, ..Shape::default() };
    pair.shape_both(shape);
    let sending = tokio::spawn(async move {
        for number in 0..400_u32 {
            let frame = [&number.to_le_bytes()[..], &[0; 2000]].concat();
            half.send.send(frame.into()).await.unwrap();
        }
        half.send.finish().await
    });
    for number in 0..400_u32 {
        let frame = soon(there.receive.next()).await.unwrap().unwrap();
        assert_eq!((frame.len(), &frame[..4]), (2004, &number.to_le_bytes()[..]));
    }
    let (end, sent) = tokio::join!(soon(there.receive.next()), soon(sending));
    assert_eq!(end.unwrap(), None);
    sent.unwrap().unwrap();
    let stats = total(&pair.a_shaper);
    println!("through 5 % loss: {stats:?}, {:?}", pair.at_a.stats());
    assert!(stats.lost > 0 && stats.carried > stats.lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_back_what_is_sent() {
    let pair = Pair::new().await;
    let (mut half, mut there) = pair.stream(StreamKind::Snapshot).await;
    let rate = NonZeroU64::new(2_000_000);
    pair.shape_both(Shape { rate_bytes_per_s: rate, ..Shape::default() });
    let began = Instant::now();
    let frame = Bytes::from(vec![0; 1_000_000]);
    let (sent, received) = tokio::join!(half.send.send(frame), soon(there.receive.next()));
    sent.unwrap();
    assert_eq!(received.unwrap().unwrap().len(), 1_000_000);
    let took = began.elapsed();
    println!("1 MB at 2 MB/s: {took:?}, {:?}", total(&pair.a_shaper));
    assert!(took >= millis(480), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_sending_stops_one_direction_until_it_heals() {
    let pair = Pair::new().await;
    let (mut at_a, mut at_b) = pair.stream(StreamKind::Control).await;
    let cut = Shape { cut_send: true, ..Shape::default() };
    pair.a_shaper.set(pair.address_of_b(), cut).unwrap();
    at_a.send.send(Bytes::from_static(b"lost for now")).await.unwrap();
    at_b.send.send(Bytes::from_static(b"arrives")).await.unwrap();
    assert_eq!(soon(at_a.receive.next()).await.unwrap().unwrap(), "arrives");
    until("dropping", || total(&pair.a_shaper).cut > 1).await;
    let waited = tokio::time::timeout(millis(50), at_b.receive.next()).await;
    assert!(waited.is_err(), "nothing comes through a cut");

    pair.a_shaper.clear(pair.address_of_b());
    assert_eq!(soon(at_b.receive.next()).await.unwrap().unwrap(), "lost for now");
    assert!(pair.a_shaper.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_receiving_is_made_by_the_side_that_does_not_hear() {
    let pair = Pair::new().await;
    let (mut at_a, mut at_b) = pair.stream(StreamKind::Control).await;
    let deaf = Shape { cut_receive: true, ..Shape::default() };
    pair.a_shaper.set(pair.address_of_b(), deaf).unwrap();
    at_b.send.send(Bytes::from_static(b"lost for now")).await.unwrap();
    at_a.send.send(Bytes::from_static(b"arrives")).await.unwrap();
    assert_eq!(soon(at_b.receive.next()).await.unwrap().unwrap(), "arrives");
    until("dropping", || total(&pair.a_shaper).cut > 1).await;
    let waited = tokio::time::timeout(millis(50), at_a.receive.next()).await;
    assert!(waited.is_err(), "nothing is heard");

    pair.a_shaper.clear(pair.address_of_b());
    assert_eq!(soon(at_a.receive.next()).await.unwrap().unwrap(), "lost for now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_stays_cut_ends_the_connection() {
    let pair = Pair::new().await;
    pair.shape_both(Shape { cut_send: true, cut_receive: true, ..Shape::default() });
    let began = Instant::now();
    let (a, b) = soon(async { tokio::join!(pair.at_a.closed(), pair.at_b.closed()) }).await;
    println!("noticed without heartbeats after {:?}", began.elapsed());
    assert!(matches!((&a, &b), (Error::Broken { .. }, Error::Broken { .. })), "{a} {b}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_fills_a_long_line() {
    for one_way in [0, 15] {
        let pair = Pair::new().await;
        let (half, mut there) = pair.stream(StreamKind::Snapshot).await;
        if one_way > 0 {
            pair.shape_both(delay(one_way));
        }
        let began = Instant::now();
        let sending = tokio::spawn(send_mib(half, 64));
        let mut received = 0;
        while let Some(frame) = soon(there.receive.next()).await.unwrap() {
            received += frame.len();
        }
        soon(sending).await.unwrap().unwrap();
        let took = began.elapsed();
        let rate = received as f64 / 1e6 / took.as_secs_f64();
        println!("64 MiB, {one_way} ms each way: {rate:.0} MB/s, {:?}", pair.at_a.stats());
        assert_eq!(received, 64 << 20);
    }
}

/// Quinn ends a connection over too many gaps in a stream.
#[tokio::test(flavor = "multi_thread")]
async fn bulk_finds_how_much_a_line_carries_and_keeps_its_connection() {
    for (bytes_per_s, mib) in [(3_000_000, 16), (20_000_000, 64)] {
        let pair = Pair::new().await;
        let (half, mut there) = pair.stream(StreamKind::Snapshot).await;
        let rate_bytes_per_s = NonZeroU64::new(bytes_per_s);
        pair.shape_both(Shape { rate_bytes_per_s, ..delay(20) });
        let began = Instant::now();
        let sending = tokio::spawn(send_mib(half, mib));
        let mut received = 0;
        while let Some(frame) = soon(there.receive.next()).await.unwrap() {
            received += frame.len();
        }
        soon(sending).await.unwrap().unwrap();
        let rate = received as f64 / began.elapsed().as_secs_f64();
        println!("{rate:.0} of {bytes_per_s} bytes/s: {:?}", pair.at_a.stats());
        assert_eq!(received, mib << 20);
        assert!(rate > bytes_per_s as f64 / 2.0, "most of the line was idle");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shape_that_no_line_can_have_is_refused() {
    let shaper = Shaper::new(1);
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    for shape in [
        Shape { loss: -0.1, ..Shape::default() },
        Shape { loss: 1.1, ..Shape::default() },
        Shape { loss: f64::NAN, ..Shape::default() },
        Shape { delay: millis(10_001), ..Shape::default() },
        Shape { jitter: Duration::MAX, ..Shape::default() },
        Shape { rate_bytes_per_s: NonZeroU64::new(999), ..Shape::default() },
    ] {
        assert!(matches!(shaper.set(peer, shape), Err(Error::Shape { .. })), "{shape:?}");
    }
    assert!(shaper.list().is_empty());
}
