//! What a client may do that has not authenticated, and for how long.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::support::Kvd;

/// A client must have authenticated after this, and this many commands.
const PATIENCE: Duration = Duration::from_secs(10);
const COMMANDS_MAX: usize = 64;
const BETWEEN: Duration = Duration::from_millis(250);

fn guarded(data: &tempfile::TempDir) -> Kvd {
    let node = Kvd::start(data.path(), &[]);
    assert_eq!(node.client().ask("CONFIG SET requirepass secret"), "+OK");
    node
}

#[test]
fn a_stranger_that_sends_a_byte_now_and_then_is_cut_when_its_time_is_up() {
    let data = tempfile::tempdir().expect("a directory");
    let node = guarded(&data);
    let mut stream = TcpStream::connect(node.resp).expect("it listens");
    stream.set_read_timeout(Some(BETWEEN)).expect("a deadline");
    let began = Instant::now();
    let cut = loop {
        if stream.write_all(b"x").is_err() {
            break true;
        }
        match stream.read(&mut [0; 64]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => break true,
            Ok(_) => panic!("nothing was asked yet"),
        }
        if began.elapsed() > 3 * PATIENCE {
            break false;
        }
    };
    let lasted = began.elapsed();
    assert!(cut && lasted > PATIENCE / 2, "cut: {cut}, after {lasted:?}");
}

#[test]
fn a_stranger_guesses_passwords_no_more_often_than_its_bound() {
    let data = tempfile::tempdir().expect("a directory");
    let node = guarded(&data);
    let mut stream = TcpStream::connect(node.resp).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE / 2)).expect("a deadline");
    // It may be closed before all of it is written.
    let _ = stream.write_all("AUTH guess\r\n".repeat(4 * COMMANDS_MAX).as_bytes());
    let mut answers = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answers) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let answers = String::from_utf8(answers).expect("text");
    let (wrong, lines) = (answers.matches("-WRONGPASS ").count(), answers.lines().count());
    assert!(wrong <= COMMANDS_MAX && wrong == lines, "{wrong} guesses in {lines} answers");
    assert_eq!(node.client().ask("AUTH secret"), "+OK", "who knows it is let in");
}
