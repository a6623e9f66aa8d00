//! The queue and its thread, over plain UDP sockets.

use std::{
    net::UdpSocket,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, udp::Transmit};

use super::{Shape, ShapedSocket, Shaper};

/// A shaped socket, its shaper, and a plain socket on the other side.
fn line() -> (ShapedSocket, Shaper, UdpSocket) {
    let there = UdpSocket::bind("127.0.0.1:0").unwrap();
    there.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let here = TokioRuntime.wrap_udp_socket(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    let shaper = Shaper::new(7);
    (ShapedSocket::new(here, shaper.clone()), shaper, there)
}

fn send(socket: &ShapedSocket, there: &UdpSocket, bytes: &[u8], segment_size: Option<usize>) {
    let destination = there.local_addr().unwrap();
    let transmit = Transmit { destination, ecn: None, contents: bytes, segment_size, src_ip: None };
    socket.try_send(&transmit).unwrap();
}

fn receive(there: &UdpSocket) -> Vec<u8> {
    let mut bytes = [0; 2000];
    let count = there.recv(&mut bytes).unwrap();
    bytes[..count].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_keep_their_order_and_their_borders_without_jitter() {
    let (socket, shaper, there) = line();
    let peer = there.local_addr().unwrap();
    for delay in [5, 1, 3] {
        let delay = Duration::from_millis(delay);
        shaper.set(peer, Shape { delay, ..Shape::default() }).unwrap();
        // Two of 10 bytes and one of 4 in one call, then one alone.
        send(&socket, &there, b"0123456789abcdefghijklmn", Some(10));
        send(&socket, &there, b"alone", None);
    }
    shaper.clear(peer);
    send(&socket, &there, b"after", None);
    for _ in 0..3 {
        for expected in [&b"0123456789"[..], b"abcdefghij", b"klmn", b"alone"] {
            assert_eq!(receive(&there), expected);
        }
    }
    assert_eq!(receive(&there), b"after");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_datagrams_leave_the_others_of_the_same_call_whole() {
    let (socket, shaper, there) = line();
    let peer = there.local_addr().unwrap();
    shaper.set(peer, Shape { loss: 0.5, ..Shape::default() }).unwrap();
    let bytes: Vec<u8> = (0..40_u8).flat_map(|number| [number; 100]).collect();
    send(&socket, &there, &bytes[..3950], Some(100));
    let [(_, _, stats)] = shaper.list()[..] else { panic!("one line") };
    assert!((1..40).contains(&stats.lost), "{} lost", stats.lost);
    let mut last = None;
    for _ in stats.lost..40 {
        let datagram = receive(&there);
        let number = datagram[0];
        assert!(last < Some(number), "in order");
        last = Some(number);
        assert_eq!(datagram, vec![number; if number == 39 { 50 } else { 100 }]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_kept_to_a_fraction_of_a_millisecond() {
    for (ms, burst, spacing_us) in [(15, 1, 2000), (20, 10, 5000)] {
        let (socket, shaper, there) = line();
        let delay = Duration::from_millis(ms);
        shaper.set(there.local_addr().unwrap(), Shape { delay, ..Shape::default() }).unwrap();
        let began = Instant::now();
        let listener = {
            let there = there.try_clone().unwrap();
            std::thread::spawn(move || {
                let stamps = (0..200).map(|_| (receive(&there), began.elapsed()));
                stamps.collect::<Vec<_>>()
            })
        };
        for number in 0..200_u32 {
            while began.elapsed() < Duration::from_micros(spacing_us) * (number / burst) {
                std::thread::yield_now();
            }
            let now = began.elapsed().as_nanos() as u64;
            send(&socket, &there, &now.to_le_bytes(), None);
        }
        let stamps = listener.join().unwrap();
        let mut late: Vec<_> = stamps
            .iter()
            .map(|(sent, arrived)| {
                let sent = u64::from_le_bytes(sent[..8].try_into().unwrap());
                arrived.checked_sub(Duration::from_nanos(sent) + delay).expect("not early")
            })
            .collect();
        late.sort_unstable();
        let at = |part: usize| late[(late.len() - 1) * part / 100];
        println!(
            "{ms} ms, {burst} each {spacing_us} us: late by p50 {:?}, p90 {:?}, p99 {:?}",
            at(50),
            at(90),
            at(99)
        );
        assert!(at(50) < Duration::from_millis(3), "{:?}", at(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_thread_outlives_the_lines() {
    let (socket, shaper, there) = line();
    let carrier = Arc::downgrade(shaper.carrier());
    let delay = Duration::from_millis(1);
    shaper.set(there.local_addr().unwrap(), Shape { delay, ..Shape::default() }).unwrap();
    send(&socket, &there, b"x", None);
    assert_eq!(receive(&there), b"x");
    drop((socket, shaper));
    let began = Instant::now();
    while carrier.strong_count() > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "the thread stays");
        std::thread::yield_now();
    }
}
