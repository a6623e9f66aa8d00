//! What a queued transaction will have made of its session, told before it runs: the shard's writer has to know
//! what each reply is written in, and the connection runs HELLO only after it.

use std::sync::Arc;

use larder_resp::{Protocol, Request};

use super::{
    Command, CommandError,
    client::client_name,
    connection::{HelloOption, credentials, hello_options, hello_protocol, is_known},
    server::configured,
};
use crate::{node::Node, session::Session, settings::Settings};

/// What decides how replies are written, as the queued commands leave it one after the other.
pub struct Foresight {
    settings: Arc<Settings>,
    authenticated: bool,
    protocol: Protocol,
}

impl Foresight {
    /// Before the first command.
    pub fn of(session: &Session, node: &Node) -> Self {
        Self {
            settings: node.settings.load_full(),
            authenticated: session.authenticated,
            protocol: session.protocol,
        }
    }

    /// What the reply of the next command is written in.
    pub fn next(&mut self, command: &Command, request: Request<'_>) -> Protocol {
        match command.name {
            "auth" => {
                let known = credentials(request, &self.settings)
                    .is_ok_and(|(user, password)| is_known(user, password, &self.settings));
                self.authenticated |= known;
            }
            "config" if sets_password(request) => {
                if let Ok(settings) = configured(request, &self.settings) {
                    self.settings = Arc::new(settings);
                }
            }
            "hello" => self.protocol = self.after_hello(request).unwrap_or(self.protocol),
            _ => {}
        }
        self.protocol
    }

    /// The options before one that fails take effect.
    fn after_hello(&mut self, request: Request<'_>) -> Result<Protocol, CommandError> {
        let asked = hello_protocol(request)?;
        for option in hello_options(request) {
            match option? {
                HelloOption::Auth(user, password) if is_known(user, password, &self.settings) => {
                    self.authenticated = true;
                }
                HelloOption::Auth(..) => return Ok(self.protocol),
                HelloOption::SetName(name) => client_name(name).map(drop)?,
            }
        }
        let may = self.authenticated || !self.settings.is_password_set();
        Ok(asked.filter(|_| may).unwrap_or(self.protocol))
    }
}

/// Whether it is a CONFIG SET that names the password: what else it sets changes no HELLO.
fn sets_password(request: Request<'_>) -> bool {
    let mut names = request.iter().skip(2).step_by(2);
    request.arg(1).eq_ignore_ascii_case(b"set")
        && names.any(|name| name.eq_ignore_ascii_case(b"requirepass"))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use larder_config::Config;
    use larder_resp::{Decoder, Limits};

    use super::*;

    /// What the last of the lines is answered in, by a client that never authenticated.
    fn foreseen(password: &str, lines: &str) -> Protocol {
        let mut settings = Settings::new(&Config::default()).unwrap();
        settings.set("requirepass", password.as_bytes()).unwrap();
        let (settings, protocol) = (Arc::new(settings), Protocol::Resp2);
        let mut foresight = Foresight { settings, authenticated: false, protocol };
        let mut wire = BytesMut::from(lines.replace("; ", "\r\n").as_bytes());
        wire.extend_from_slice(b"\r\n");
        let queued = Decoder::new(Limits::AFTER_AUTH).decode(&mut wire, 16).unwrap();
        for index in 0..queued.len() {
            let request = queued.request(index);
            foresight.next(Command::admit(request).unwrap(), request);
        }
        foresight.protocol
    }

    #[test]
    fn a_hello_changes_the_protocol_where_it_will_succeed() {
        for (password, lines, expected) in [
            ("", "HELLO 3", Protocol::Resp3),
            ("", "HELLO 3; HELLO", Protocol::Resp3),
            ("", "HELLO 3; HELLO 2; GET k", Protocol::Resp2),
            ("", "HELLO 4", Protocol::Resp2),
            ("", "HELLO 3 SETNAME 'two words'", Protocol::Resp2),
            ("", "HELLO 3 SETNAME", Protocol::Resp2),
            ("x", "HELLO 3", Protocol::Resp2),
            ("x", "HELLO 3 AUTH default y", Protocol::Resp2),
            ("x", "HELLO 3 AUTH default x", Protocol::Resp3),
        ] {
            assert_eq!(foreseen(password, lines), expected, "{lines} with password {password:?}");
        }
    }

    #[test]
    fn what_is_queued_before_a_hello_decides_whether_it_will_succeed() {
        for (password, lines, expected) in [
            ("", "CONFIG SET requirepass x; HELLO 3", Protocol::Resp2),
            ("", "CONFIG SET requirepass x hz none; HELLO 3", Protocol::Resp3),
            ("", "CONFIG SET requirepass x; HELLO 3 AUTH default x", Protocol::Resp3),
            ("", "AUTH default any; CONFIG SET requirepass x; HELLO 3", Protocol::Resp3),
            ("", "AUTH any; CONFIG SET requirepass x; HELLO 3", Protocol::Resp2),
            ("x", "config set requirepass ''; HELLO 3", Protocol::Resp3),
            ("x", "CONFIG SET requirepass y; AUTH x; HELLO 3", Protocol::Resp2),
            ("x", "CONFIG SET requirepass y; AUTH y; HELLO 3", Protocol::Resp3),
            ("x", "HELLO 3 AUTH default x SETNAME 'a b'; HELLO 3", Protocol::Resp3),
        ] {
            assert_eq!(foreseen(password, lines), expected, "{lines} with password {password:?}");
        }
    }
}
