//! Congestion control: Cubic, with a slow start that is slow once it has come far.
//!
//! Slow start doubles what is on its way in each round trip, until the line loses something. By then
//! a line that queues little is sent twice what it carries, and loses every other datagram of a whole
//! round trip. Quinn ends a connection over more than 1,024 gaps in what has come of a stream, which
//! such a loss exceeds on any line that holds a few MiB.

use std::{any::Any, sync::Arc, time::Instant};

use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

/// From this window on, slow start adds a tenth a round trip. Up to it, half of what is on its way
/// lost is some 430 gaps between datagrams of 1,200 bytes; beyond, a tenth lost is fewer than 1,000 up
/// to 11 MiB, and up to the 13 MiB of a stream's window between those of 1,400 bytes and more that most
/// lines carry.
const SLOW_FROM_BYTES: u64 = 1 << 20;
const SLOWER: u64 = 10;

/// Makes controllers.
pub(crate) struct Gentle(pub(crate) CubicConfig);

struct GentleCubic {
    cubic: Box<dyn Controller>,
    /// Whether nothing was lost yet: Cubic is in its first slow start.
    is_starting: bool,
}

impl ControllerFactory for Gentle {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Arc::new(self.0.clone()).build(now, current_mtu);
        Box::new(GentleCubic { cubic, is_starting: true })
    }
}

impl Controller for GentleCubic {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let is_slow = self.is_starting && self.cubic.window() >= SLOW_FROM_BYTES;
        let bytes = if is_slow { bytes / SLOWER } else { bytes };
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.is_starting = false;
        self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let Self { cubic, is_starting } = self;
        Box::new(Self { cubic: cubic.clone_box(), is_starting: *is_starting })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
