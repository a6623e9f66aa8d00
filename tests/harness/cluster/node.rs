//! A node of a cluster: its process and its admin port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use super::addresses;
use crate::client::Client;
use crate::process::{Server, kv_path, printed_by};

/// How long the admin port may take for what it waits for itself.
const ADMIN_PATIENCE: Duration = Duration::from_secs(20);

/// A node, whether it runs or not.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Where its clients connect.
    pub resp: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
    pub(super) udp: SocketAddr,
    pub(super) region: &'static str,
    home: PathBuf,
    data: PathBuf,
    server: Option<Server>,
}

impl Node {
    pub(super) fn new(
        name: &'static str,
        region: &'static str,
        home: PathBuf,
        data: PathBuf,
    ) -> Result<Self> {
        let [resp, admin, udp] = addresses()?;
        Ok(Self { name, resp, admin, udp, region, home, data, server: None })
    }

    pub(super) fn run(&mut self, server: Server) {
        self.server = Some(server);
    }

    /// The process, which this node has no longer.
    pub(super) fn take(&mut self) -> Option<Server> {
        self.server.take()
    }

    /// Whether it was started and not killed.
    pub fn is_running(&self) -> bool {
        self.server.is_some()
    }

    /// The process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn server(&mut self) -> Result<&mut Server> {
        self.server.as_mut().context("the node does not run")
    }

    /// What it printed last; nothing when it does not run.
    pub fn printed(&self) -> String {
        self.server.as_ref().map(Server::stderr).unwrap_or_default()
    }

    /// Where its configuration and its certificates are.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.home.join("kvd.toml")
    }

    /// A connection of a client.
    ///
    /// # Errors
    /// When it is refused.
    pub fn client(&self) -> Result<Client> {
        Client::connect(self.resp)
    }

    /// Stops the process where it is, or lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let server = self.server.as_ref().context("the node does not run")?;
        let pid = Pid::from_raw(i32::try_from(server.pid())?).context("a process")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Asks the admin port.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub fn get(&self, path: &str) -> Result<Json> {
        self.send("GET", path, &Json::Null)
    }

    /// Asks the admin port to do something.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub fn send(&self, method: &str, path: &str, body: &Json) -> Result<Json> {
        let (status, body) = self.exchange(method, path, body)?;
        ensure!(status == 200, "{method} {path}: {status} {body}");
        Ok(body)
    }

    /// Runs a command of kv that goes to the admin port, and returns what it printed.
    ///
    /// # Errors
    /// When there is no kv, or it fails.
    pub fn kv(&self, arguments: &[&str]) -> Result<Json> {
        let kv = kv_path().map_err(|missing| anyhow!(missing.0))?;
        let mut command = Command::new(kv);
        command.args(["-o", "json", "--admin", &self.admin.to_string()]).args(arguments);
        let printed = printed_by(&mut command)?;
        serde_json::from_str(&printed).with_context(|| format!("no JSON: {printed}"))
    }

    /// Says what the line to another node is like, at this end.
    pub(super) fn shape(&self, peer: &str, shape: &Json) -> Result<()> {
        let mut line = shape.clone();
        line["peer"] = peer.into();
        self.send("PUT", "/lab/shapes", &line).map(drop)
    }

    /// One request to the admin port, and its answer, a refusal included.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn exchange(&self, method: &str, path: &str, body: &Json) -> Result<(u16, Json)> {
        let mut stream = self.ask(method, path, body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            bail!("{method} {path} was answered with no HTTP: {answer:?}")
        };
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("no status in {head:?}"))?;
        Ok((status, serde_json::from_str(body).unwrap_or_else(|_| body.into())))
    }

    /// Asks the admin port, and leaves the answer to be read, or the connection to be dropped.
    ///
    /// # Errors
    /// When the node does not take the request.
    pub fn ask(&self, method: &str, path: &str, body: &Json) -> Result<TcpStream> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect_timeout(&self.admin, ADMIN_PATIENCE)?;
        stream.set_read_timeout(Some(ADMIN_PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.admin,
            body.len()
        )?;
        Ok(stream)
    }
}
