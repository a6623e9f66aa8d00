//! The queue of what is under way, and the thread that sends it when it is due. A thread of its
//! own, because the runtime's timers are no finer than a millisecond.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fmt, io,
    net::SocketAddr,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use quinn::{
    AsyncUdpSocket,
    udp::{EcnCodepoint, Transmit},
};
use rand::{SeedableRng as _, rngs::SmallRng};

use super::{Shape, ShapeStats, link::Link};
use crate::Result;

/// How long to wait before offering a datagram again that the socket had no room for.
const FULL_SOCKET_WAIT: Duration = Duration::from_micros(100);
/// How often a datagram is offered.
const OFFERS_MAX: u32 = 100;
/// Datagrams that are taken out of the queue at a time.
const TAKEN_MAX: usize = 64;

/// Sets what the lines of one endpoint are like. Cheap to clone.
#[derive(Clone)]
pub struct Shaper(Arc<Handle>);

/// Ends the thread when the last shaper and the endpoint are gone.
struct Handle(Arc<Carrier>);

pub(super) struct Carrier {
    /// Whether any line is shaped. Unset, sending costs one load more than without shaping.
    is_shaping: AtomicBool,
    lines: Mutex<Lines>,
    wake: Condvar,
}

struct Lines {
    links: BTreeMap<SocketAddr, Link>,
    queue: BinaryHeap<Reverse<Parcel>>,
    random: SmallRng,
    /// Numbers parcels, so that those due at the same moment keep their order.
    next: u64,
    is_running: bool,
    is_over: bool,
}

/// What is under way: one send call's bytes, cut into datagrams of `segment_size`.
struct Parcel {
    due: Instant,
    number: u64,
    /// The address that names the line.
    line: SocketAddr,
    /// The same as the socket wants it.
    to: SocketAddr,
    socket: Arc<dyn AsyncUdpSocket>,
    bytes: Box<[u8]>,
    segment_size: Option<usize>,
    ecn: Option<EcnCodepoint>,
    src_ip: Option<std::net::IpAddr>,
}

impl Shaper {
    /// No line shaped. Losses and jitter follow from the seed.
    pub fn new(seed: u64) -> Self {
        let lines = Lines {
            links: BTreeMap::new(),
            queue: BinaryHeap::new(),
            random: SmallRng::seed_from_u64(seed),
            next: 0,
            is_running: false,
            is_over: false,
        };
        Self(Arc::new(Handle(Arc::new(Carrier {
            is_shaping: AtomicBool::new(false),
            lines: Mutex::new(lines),
            wake: Condvar::new(),
        }))))
    }

    /// Makes the line to the node at this address so, from now on.
    pub fn set(&self, peer: SocketAddr, shape: Shape) -> Result<()> {
        shape.check()?;
        let carrier = self.carrier();
        let mut lines = carrier.lines.lock();
        let made = lines.links.entry(canonical(peer));
        made.or_insert_with(|| Link::new(shape, Instant::now())).shape = shape;
        carrier.is_shaping.store(true, Ordering::Release);
        if !lines.is_running {
            lines.is_running = true;
            let carrier = Arc::clone(carrier);
            let named = thread::Builder::new().name("shaped lines".into());
            if let Err(error) = named.spawn(move || carrier.run()) {
                lines.is_running = false;
                lines.links.clear();
                drop(lines);
                self.carrier().is_shaping.store(false, Ordering::Release);
                return Err(crate::Error::NoThread { source: error });
            }
        }
        Ok(())
    }

    /// Makes the line to this address as it is. What is under way still arrives.
    pub fn clear(&self, peer: SocketAddr) {
        let carrier = self.carrier();
        let mut lines = carrier.lines.lock();
        if let Some(link) = lines.links.get_mut(&canonical(peer)) {
            link.shape = Shape::default();
        }
        carrier.forget_plain(&mut lines);
    }

    /// Makes all lines as they are.
    pub fn clear_all(&self) {
        let carrier = self.carrier();
        let mut lines = carrier.lines.lock();
        lines.links.values_mut().for_each(|link| link.shape = Shape::default());
        carrier.forget_plain(&mut lines);
    }

    /// Every line that is shaped, or that was and still has something under way.
    pub fn list(&self) -> Vec<(SocketAddr, Shape, ShapeStats)> {
        let lines = self.carrier().lines.lock();
        lines.links.iter().map(|(peer, link)| (*peer, link.shape, link.stats)).collect()
    }

    pub(super) fn carrier(&self) -> &Arc<Carrier> {
        &self.0.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lines.lock().is_over = true;
        self.0.wake.notify_all();
    }
}

impl Carrier {
    /// Whether sending must ask [`Carrier::send`].
    pub(super) fn is_shaping(&self) -> bool {
        self.is_shaping.load(Ordering::Acquire)
    }

    /// Takes what is sent over a shaped line. `false` if the line is not shaped: send it.
    pub(super) fn send(&self, socket: &Arc<dyn AsyncUdpSocket>, transmit: &Transmit<'_>) -> bool {
        let now = Instant::now();
        let to = canonical(transmit.destination);
        let mut lines = self.lines.lock();
        let lines = &mut *lines;
        let Some(link) = lines.links.get_mut(&to) else { return false };
        if link.is_plain() {
            return false;
        }
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let first_before = lines.queue.peek().map(|first| first.0.due);
        let mut batch: Vec<u8> = Vec::with_capacity(transmit.contents.len());
        let mut batch_due = now;
        for datagram in transmit.contents.chunks(size) {
            let Some(due) = link.admit(now, datagram.len(), &mut lines.random) else { continue };
            if !batch.is_empty() && due != batch_due {
                let bytes = std::mem::take(&mut batch);
                lines.queue.push(parcel(&mut lines.next, socket, transmit, size, batch_due, bytes));
            }
            batch_due = due;
            batch.extend_from_slice(datagram);
        }
        if !batch.is_empty() {
            lines.queue.push(parcel(&mut lines.next, socket, transmit, size, batch_due, batch));
        }
        // The thread waits for the first that is due; it is woken only for an earlier one.
        let first = lines.queue.peek().map(|first| first.0.due);
        if first != first_before {
            self.wake.notify_one();
        }
        true
    }

    /// Whether what comes from there is to be dropped; if so, counts it.
    pub(super) fn cuts_receiving(&self, from: SocketAddr) -> bool {
        let mut lines = self.lines.lock();
        let link = lines.links.get_mut(&canonical(from)).filter(|link| link.shape.cut_receive);
        link.is_some_and(|link| {
            link.stats.cut += 1;
            true
        })
    }

    /// Drops lines that are as they are; without any left, sending takes the short way again.
    fn forget_plain(&self, lines: &mut Lines) {
        lines.links.retain(|_, link| !link.is_plain() || link.shape.cut_receive);
        self.is_shaping.store(!lines.links.is_empty(), Ordering::Release);
    }

    fn run(&self) {
        // The system wakes a thread up to 50 us late, to save power, unless asked otherwise.
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
            tracing::debug!(%error, "shaped lines are a little later than they could be");
        }
        let mut lines = self.lines.lock();
        let mut due = Vec::with_capacity(TAKEN_MAX);
        while !lines.is_over {
            self.take_due(&mut lines, &mut due);
            if !due.is_empty() {
                MutexGuard::unlocked(&mut lines, || due.drain(..).for_each(|parcel| parcel.send()));
                continue;
            }
            self.forget_plain(&mut lines);
            match lines.queue.peek().map(|first| first.0.due) {
                Some(first) => drop(self.wake.wait_until(&mut lines, first)),
                None => self.wake.wait(&mut lines),
            }
        }
    }

    fn take_due(&self, lines: &mut Lines, due: &mut Vec<Parcel>) {
        let now = Instant::now();
        while due.len() < TAKEN_MAX && lines.queue.peek().is_some_and(|first| first.0.due <= now) {
            let Some(Reverse(parcel)) = lines.queue.pop() else { return };
            // A line with something under way is never forgotten.
            let Some(link) = lines.links.get_mut(&parcel.line) else { continue };
            if link.carry(parcel.bytes.len()) {
                due.push(parcel);
            }
        }
    }
}

fn parcel(
    next: &mut u64,
    socket: &Arc<dyn AsyncUdpSocket>,
    transmit: &Transmit<'_>,
    segment_size: usize,
    due: Instant,
    bytes: Vec<u8>,
) -> Reverse<Parcel> {
    *next += 1;
    Reverse(Parcel {
        due,
        number: *next,
        line: canonical(transmit.destination),
        to: transmit.destination,
        socket: Arc::clone(socket),
        segment_size: (bytes.len() > segment_size).then_some(segment_size),
        bytes: bytes.into(),
        ecn: transmit.ecn,
        src_ip: transmit.src_ip,
    })
}

impl Parcel {
    fn send(&self) {
        for _ in 0..OFFERS_MAX {
            let transmit = Transmit {
                destination: self.to,
                ecn: self.ecn,
                contents: &self.bytes,
                segment_size: self.segment_size,
                src_ip: self.src_ip,
            };
            match self.socket.try_send(&transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(FULL_SOCKET_WAIT);
                }
                Ok(()) => return,
                // UDP promises nothing: the other side sees a loss.
                Err(error) => return tracing::debug!(%error, to = %self.to, "not sent"),
            }
        }
        tracing::debug!(to = %self.to, "not sent: the socket stays full");
    }
}

/// One form for an IPv4 address, however the socket shows it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl PartialEq for Parcel {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.number) == (other.due, other.number)
    }
}

impl Eq for Parcel {}

impl PartialOrd for Parcel {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Parcel {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl fmt::Debug for Shaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.list().iter().map(|(peer, shape, _)| (peer, shape))).finish()
    }
}
