//! The connected clients: who they are, for CLIENT LIST, and how many there may be.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use larder_resp::Protocol;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Every client that is connected now.
#[derive(Default)]
pub struct Clients {
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
    last_id: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
    blocked: AtomicUsize,
}

/// A client, as other connections see it.
pub struct Client {
    /// Unique in the life of the process, and growing.
    pub id: u64,
    /// Where it connects from.
    pub remote: SocketAddr,
    /// Where it connects to.
    pub local: SocketAddr,
    connected: Instant,
    details: Mutex<Details>,
    unread: Mutex<Option<Unread>>,
}

/// Replies that a client has yet to read, of those that are counted.
struct Unread {
    bytes: usize,
    /// Ends the connection; taken when it is asked to.
    evict: Option<oneshot::Sender<()>>,
}

/// What changes in the life of a connection. Written by its own task, once a batch of requests.
#[derive(Clone, Debug)]
pub struct Details {
    /// Set by CLIENT SETNAME; empty for none.
    pub name: String,
    /// Set by CLIENT SETINFO; empty for none.
    pub library_name: String,
    /// Set by CLIENT SETINFO; empty for none.
    pub library_version: String,
    /// The protocol of its replies.
    pub protocol: Protocol,
    /// The last command, as CLIENT LIST prints it.
    pub command: &'static str,
    /// The subcommand of the last command, or empty.
    pub subcommand: &'static str,
    /// When the last requests came.
    pub active: Instant,
    /// How many commands are queued in its transaction, or `None` outside of one.
    pub queued: Option<usize>,
    /// Whether its command waits for something to happen.
    pub is_blocked: bool,
}

/// Keeps a client in the list of clients; dropping it takes the client out.
pub struct Registration {
    clients: Arc<Clients>,
    client: Arc<Client>,
}

/// Held for a client while its command waits for something to happen.
pub struct Blocked {
    clients: Arc<Clients>,
    client: Arc<Client>,
}

impl Drop for Blocked {
    fn drop(&mut self) {
        self.client.update(|details| details.is_blocked = false);
        self.clients.blocked.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Clients {
    /// Takes a new client in, or `None` when there are `clients_max` already.
    pub fn register(
        self: &Arc<Self>,
        remote: SocketAddr,
        local: SocketAddr,
        clients_max: usize,
    ) -> Option<Registration> {
        let mut by_id = self.by_id.lock();
        if by_id.len() >= clients_max {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client::new(id, remote, local));
        by_id.insert(id, Arc::clone(&client));
        Some(Registration { clients: Arc::clone(self), client })
    }

    /// How many are connected.
    pub fn len(&self) -> usize {
        self.by_id.lock().len()
    }

    /// How many were taken in since the start, or since [`Clients::reset_counts`].
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many were refused because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many were closed because they held most replies.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// How many wait in a command for something to happen.
    pub fn blocked(&self) -> usize {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Closes those that hold most of the replies that are being sent, until they hold `excess` bytes
    /// less, counting what those give back that were told to go and have not gone yet. Replies that
    /// are not being sent, because they wait for other nodes, are nobody's to give back.
    pub fn evict(&self, excess: impl Fn() -> usize) {
        if excess() == 0 {
            return;
        }
        // One at a time: who comes next finds those going whom this one has told to.
        let by_id = self.by_id.lock();
        let going = by_id.values().map(|client| client.going_bytes()).sum();
        let mut excess = excess().saturating_sub(going);
        let mut readers: Vec<_> = by_id.values().collect();
        readers.sort_by_cached_key(|client| client.unread_bytes());
        while excess > 0
            && let Some(client) = readers.pop()
        {
            let Some(bytes) = client.evict() else { continue };
            self.evicted.fetch_add(1, Ordering::Relaxed);
            excess = excess.saturating_sub(bytes);
            tracing::warn!(
                client = client.id,
                remote = %client.remote,
                bytes,
                "closed the client that holds most replies: those of all clients take too much"
            );
        }
    }

    /// Counts from nothing again.
    pub fn reset_counts(&self) {
        self.evicted.store(0, Ordering::Relaxed);
        self.accepted.store(0, Ordering::Relaxed);
        self.refused.store(0, Ordering::Relaxed);
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The clients, oldest first.
    pub fn snapshot(&self) -> Vec<Arc<Client>> {
        self.by_id.lock().values().cloned().collect()
    }

    /// The client with this id.
    pub fn find(&self, id: u64) -> Option<Arc<Client>> {
        self.by_id.lock().get(&id).cloned()
    }
}

impl Registration {
    /// The client itself.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Counts the client as blocked in this command, and shows it so, until what it answers is dropped.
    pub fn block(&self, command: &'static str) -> Blocked {
        self.client.update(|details| {
            details.command = command;
            details.subcommand = "";
            details.is_blocked = true;
        });
        self.clients.blocked.fetch_add(1, Ordering::Relaxed);
        Blocked { clients: Arc::clone(&self.clients), client: Arc::clone(&self.client) }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.clients.by_id.lock().remove(&self.client.id);
    }
}

impl Client {
    fn new(id: u64, remote: SocketAddr, local: SocketAddr) -> Self {
        let now = Instant::now();
        let details = Details {
            name: String::new(),
            library_name: String::new(),
            library_version: String::new(),
            protocol: Protocol::default(),
            command: "NULL",
            subcommand: "",
            active: now,
            queued: None,
            is_blocked: false,
        };
        Self {
            id,
            remote,
            local,
            connected: now,
            details: Mutex::new(details),
            unread: Mutex::default(),
        }
    }

    /// Says that so many bytes of replies are being sent, until [`Client::has_read`]. Answers what
    /// tells that the connection must end for it.
    pub fn reads(&self, bytes: usize) -> oneshot::Receiver<()> {
        let (evict, evicted) = oneshot::channel();
        *self.unread.lock() = Some(Unread { bytes, evict: Some(evict) });
        evicted
    }

    /// All was sent.
    pub fn has_read(&self) {
        *self.unread.lock() = None;
    }

    fn unread_bytes(&self) -> usize {
        self.unread.lock().as_ref().map_or(0, |unread| unread.bytes)
    }

    /// Asks the connection to end, if it has not been asked yet, because of what is unread; answers
    /// how much that is.
    fn evict(&self) -> Option<usize> {
        let mut unread = self.unread.lock();
        let unread = unread.as_mut()?;
        // It may just have ended by itself.
        let _ = unread.evict.take()?.send(());
        Some(unread.bytes)
    }

    /// What it gives back because it was asked to end and has not ended yet.
    fn going_bytes(&self) -> usize {
        let unread = self.unread.lock();
        unread.as_ref().filter(|unread| unread.evict.is_none()).map_or(0, |unread| unread.bytes)
    }

    /// Changes what others see of this client.
    pub fn update(&self, change: impl FnOnce(&mut Details)) {
        change(&mut self.details.lock());
    }

    /// What others see of this client.
    pub fn details(&self) -> Details {
        self.details.lock().clone()
    }

    /// Appends the client's line of CLIENT LIST, in Redis' format, its newline included. Fields
    /// that mean nothing here are 0.
    pub fn describe(&self, now: Instant, line: &mut String) {
        let details = self.details();
        let unread = self.unread_bytes();
        let age = now.saturating_duration_since(self.connected).as_secs();
        let idle = now.saturating_duration_since(details.active).as_secs();
        let flags = match details.queued {
            _ if details.is_blocked => "b",
            Some(_) => "x",
            None => "N",
        };
        let queued = details.queued.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX));
        let separator = if details.subcommand.is_empty() { "" } else { "|" };
        let protocol = match details.protocol {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            line,
            "id={} addr={} laddr={} fd=0 name={} age={age} idle={idle} flags={flags} db=0 sub=0 \
             psub=0 ssub=0 multi={queued} qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 \
             obl={} oll=0 omem={} tot-mem={} events=r cmd={}{separator}{} user=default redir=-1 \
             resp={protocol} lib-name={} lib-ver={}",
            self.id,
            self.remote,
            self.local,
            details.name,
            unread,
            unread,
            unread,
            details.command,
            details.subcommand,
            details.library_name,
            details.library_version,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn a_client_beyond_the_bound_is_refused_until_another_leaves() {
        let clients = Arc::new(Clients::default());
        let first = clients.register(address(1), address(9), 1).expect("there is room");
        assert!(clients.register(address(2), address(9), 1).is_none());
        let first_id = first.client().id;
        drop(first);
        let second = clients.register(address(2), address(9), 1).expect("there is room again");
        assert!(second.client().id > first_id);
        assert_eq!((clients.len(), clients.accepted(), clients.refused()), (1, 2, 1));
    }

    #[test]
    fn those_that_hold_most_are_closed_until_enough_is_given_back() {
        let clients = Arc::new(Clients::default());
        let taken = [1, 2, 3, 4]
            .map(|port| clients.register(address(port), address(9), 9).expect("there is room"));
        let [little, most, much, none] = &taken;
        let mut evicted =
            [(little, 10), (most, 40), (much, 30)].map(|(one, bytes)| one.client().reads(bytes));
        assert!(none.client().evict().is_none(), "who holds nothing stays");
        clients.evict(|| 41);
        assert_eq!(evicted.each_mut().map(|told| told.try_recv().is_ok()), [false, true, true]);
        clients.evict(|| 70);
        assert!(evicted[0].try_recv().is_err(), "those who were told already give back as much");
        clients.evict(|| 71);
        assert!(evicted[0].try_recv().is_ok());
        assert_eq!(clients.evicted(), 3);
        little.client().has_read();
        assert_eq!(little.client().unread_bytes(), 0);
    }

    #[test]
    fn a_line_names_the_client_and_its_last_command() {
        let clients = Arc::new(Clients::default());
        let registration = clients.register(address(1), address(9), 1).expect("there is room");
        registration.client().update(|details| {
            details.name = "worker".into();
            details.command = "client";
            details.subcommand = "list";
            details.queued = Some(2);
        });
        let mut line = String::new();
        registration.client().describe(Instant::now(), &mut line);
        assert!(line.starts_with("id=1 addr=127.0.0.1:1 laddr=127.0.0.1:9 "), "{line}");
        for part in [" name=worker ", " cmd=client|list ", " multi=2 ", " flags=x ", " resp=2 "] {
            assert!(line.contains(part), "{part} is missing in {line}");
        }
        assert!(line.ends_with('\n'));
    }

    #[test]
    fn a_client_is_shown_as_blocked_in_its_command_while_it_waits() {
        let clients = Arc::new(Clients::default());
        let registration = clients.register(address(1), address(9), 1).expect("there is room");
        let shows = |part: &str| {
            let mut line = String::new();
            registration.client().describe(Instant::now(), &mut line);
            line.contains(part)
        };
        let blocked = registration.block("wait");
        assert_eq!((clients.blocked(), shows(" flags=b "), shows(" cmd=wait ")), (1, true, true));
        drop(blocked);
        assert_eq!((clients.blocked(), shows(" flags=N "), shows(" cmd=wait ")), (0, true, true));
    }
}
