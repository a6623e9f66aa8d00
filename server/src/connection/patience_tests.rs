//! How long a client may take for a request that it has begun.

use std::sync::mpsc;

use larder_config::Config;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, spawn_blocking},
    time::advance,
};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A connection of a node without a store, and its client.
pub(super) async fn connected() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = TcpStream::connect(address).await.expect("it listens");
    let (stream, remote) = listener.accept().await.expect("a client");
    let node = Node::new(Config::default(), Arc::default(), None, address);
    let node = Arc::new(node.expect("the defaults have no password file"));
    let registration = node.clients.register(remote, address, 1).expect("there is room");
    let session = Session::new(registration, &node);
    let turn = Arc::new(Turn::new(|| {}));
    (Connection::new(stream, node, turn, Arc::default(), session), client)
}

/// A connection that is served, and its client.
async fn served() -> (JoinHandle<End>, TcpStream) {
    let (mut connection, client) = connected().await;
    (tokio::spawn(async move { connection.serve().await }), client)
}

/// Has a paused clock stand still until what it answers is dropped: else it moves on to the next timer
/// whenever nothing is ready, also while bytes are on their way.
fn hold_clock() -> mpsc::Sender<()> {
    let (held, holding) = mpsc::channel();
    spawn_blocking(move || holding.recv());
    held
}

async fn send(client: &mut TcpStream, bytes: &str) {
    client.write_all(bytes.as_bytes()).await.expect("it is connected");
}

async fn expect_pong(client: &mut TcpStream) {
    let mut reply = [0; 7];
    client.read_exact(&mut reply).await.expect("a reply");
    assert_eq!(&reply, b"+PONG\r\n");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_begun_has_30_s_in_all_and_before_it_begins_there_is_no_hurry() {
    for (rest_after, in_time) in [(PATIENCE - MS, true), (PATIENCE, false), (PATIENCE + MS, false)]
    {
        let (serving, mut client) = served().await;
        let clock = hold_clock();
        send(&mut client, "PING\r\n").await;
        expect_pong(&mut client).await;
        advance(10 * PATIENCE).await;

        // Once that is answered, what came with it has been taken in.
        send(&mut client, "PING\r\nPI").await;
        expect_pong(&mut client).await;
        let began = Instant::now();
        advance(PATIENCE / 2).await;
        send(&mut client, "N").await;
        advance(rest_after - PATIENCE / 2).await;
        if in_time {
            send(&mut client, "G\r\n").await;
            expect_pong(&mut client).await;
            drop(client);
        }
        drop(clock);
        let end = serving.await.expect("no panic");
        assert!(matches!((in_time, &end), (true, End::Closed) | (false, End::TooSlow)), "{end:?}");
        assert_eq!(began.elapsed(), rest_after);
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_line_that_came_in_two_parts_does_not_hurry_the_next_request() {
    let (mut connection, mut client) = connected().await;
    let _clock = hold_clock();
    for part in ["\r", "\n", "PI", "N"] {
        if part == "PI" {
            advance(10 * PATIENCE).await;
        }
        send(&mut client, part).await;
        connection.read().await.expect("it came in time");
        let pipeline = connection.decoder.decode(&mut connection.unread, 1).expect("no error");
        assert!(pipeline.is_empty());
    }
    assert_eq!(connection.until, Some(Instant::now() + PATIENCE));
}
