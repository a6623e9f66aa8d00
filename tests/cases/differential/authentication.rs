//! What is answered before a password has been given.

use anyhow::{Result, ensure};
use larder_tests::client::{Client, encoded};
use larder_tests::process::{Server, skip, start_kvd_configured};
use larder_tests::redis::start_redis;

use crate::Binaries;

const PASSWORD: &str = "correct horse";

/// Scripts of raw bytes, each on a connection of its own that then stops sending.
fn scripts() -> Vec<Vec<u8>> {
    let command = |args: &[&str]| encoded(args);
    let login = command(&["AUTH", PASSWORD]);
    // A HELLO that fails when the transaction runs leaves the replies behind it as they were.
    let queued_hello = |hello: &[&str]| {
        let rest = [command(hello), command(&["HGETALL", "none"]), command(&["EXEC"])].concat();
        [login.clone(), command(&["MULTI"]), rest].concat()
    };
    vec![
        queued_hello(&["HELLO", "3", "AUTH", "default", "wrong"]),
        queued_hello(&["HELLO", "3", "SETNAME", "two words"]),
        queued_hello(&["HELLO", "3", "SETNAME"]),
        queued_hello(&["HELLO", "4"]),
        command(&["PING"]),
        command(&["GET", "k"]),
        command(&["NOSUCH", "a"]),
        command(&["GET"]),
        command(&["AUTH"]),
        command(&["AUTH", "wrong"]),
        command(&["AUTH", "default", "wrong"]),
        command(&["AUTH", "nosuch", PASSWORD]),
        command(&["AUTH", "default", PASSWORD]),
        command(&["HELLO"]),
        command(&["HELLO", "3"]),
        command(&["HELLO", "3", "AUTH", "default", "wrong"]),
        command(&["HELLO", "9", "AUTH", "default", PASSWORD]),
        command(&["MULTI"]),
        command(&["QUIT"]),
        command(&["RESET"]),
        [command(&["AUTH", "wrong"]), login.clone(), command(&["PING"])].concat(),
        [login.clone(), command(&["AUTH", "wrong"]), command(&["PING"])].concat(),
        [login.clone(), command(&["RESET"]), command(&["PING"])].concat(),
        [login.clone(), command(&["SET", "k", "v"]), command(&["GET", "k"])].concat(),
        b"*11\r\n".to_vec(),
        b"*10\r\n$4\r\nPING\r\n".to_vec(),
        b"*2\r\n$4\r\nECHO\r\n$16385\r\n".to_vec(),
        b"*2\r\n$16385\r\n".to_vec(),
        [login.clone(), b"*11\r\n$4\r\nMGET\r\n".to_vec(), b"$1\r\na\r\n".repeat(10)].concat(),
    ]
}

/// Both servers, with the password.
fn start(binaries: &Binaries) -> Result<[Server; 2]> {
    let subject = match &binaries.kvd {
        None => start_redis(&binaries.redis, Some(PASSWORD))?,
        Some(kvd) => start_kvd_configured(kvd, |data, address| {
            format!(
                "data = \"{}\"\nresp = \"{address}\"\nrequirepass = \"{PASSWORD}\"\n",
                data.display()
            )
        })?,
    };
    Ok([start_redis(&binaries.redis, Some(PASSWORD))?, subject])
}

/// The replies of a transaction in which a client that never authenticated sets a password, when none
/// is needed any more, and then asks for another protocol.
fn replies_of_a_stranger_that_sets_a_password(server: &Server, hello: &[&str]) -> Result<Vec<u8>> {
    let mut stranger = server.client()?;
    ensure!(stranger.call(&["PING"])?.is_error(), "it has not authenticated");
    let mut owner = server.client()?;
    owner.expect_ok(&["AUTH", PASSWORD])?;
    owner.expect_ok(&["CONFIG", "SET", "requirepass", ""])?;
    for command in [&["MULTI"], &["CONFIG", "SET", "requirepass", "x"][..], hello, &["GET", "none"]]
    {
        stranger.call(command)?;
    }
    stranger.send_raw(&encoded(&["EXEC"]))?;
    stranger.finish_sending()?;
    let replies = stranger.until_closed()?;
    owner.expect_ok(&["CONFIG", "SET", "requirepass", PASSWORD])?;
    Ok(replies)
}

#[test]
fn a_password_that_a_transaction_sets_is_needed_by_the_hello_behind_it() {
    let binaries = match crate::binaries() {
        Ok(binaries) => binaries,
        Err(missing) => return skip("differential, authentication", &missing),
    };
    let servers = start(&binaries).unwrap();
    for hello in [&["HELLO", "3"][..], &["HELLO", "3", "AUTH", "default", "y"], &["AUTH", "x"]] {
        let [expected, found] = servers.each_ref().map(|server| {
            replies_of_a_stranger_that_sets_a_password(server, hello)
                .unwrap()
                .escape_ascii()
                .to_string()
        });
        assert_eq!(expected, found, "{hello:?}");
    }
}

#[test]
fn replies_before_authentication_are_those_of_redis() {
    let binaries = match crate::binaries() {
        Ok(binaries) => binaries,
        Err(missing) => return skip("differential, authentication", &missing),
    };
    let [reference, subject] = start(&binaries).unwrap();
    let answers = |address, script: &[u8]| {
        let mut client = Client::connect(address).unwrap();
        client.send_raw(script).unwrap();
        client.finish_sending().unwrap();
        client.until_closed().unwrap()
    };
    let mut differences = Vec::new();
    for script in scripts() {
        let expected = answers(reference.address(), &script);
        let found = answers(subject.address(), &script);
        if expected != found {
            differences.push(format!(
                "{}\n  reference: {}\n  subject:   {}",
                script.escape_ascii(),
                expected.escape_ascii(),
                found.escape_ascii()
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
