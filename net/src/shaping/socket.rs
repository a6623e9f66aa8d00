//! The seam: QUIC's socket, with the lines in between.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::Shaper;

/// A socket whose lines are shaped.
#[derive(Debug)]
pub(crate) struct ShapedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    shaper: Shaper,
}

impl ShapedSocket {
    pub(crate) fn new(socket: Arc<dyn AsyncUdpSocket>, shaper: Shaper) -> Self {
        Self { socket, shaper }
    }
}

impl AsyncUdpSocket for ShapedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let carrier = self.shaper.carrier();
        if carrier.is_shaping() && carrier.send(&self.socket, transmit) {
            return Ok(());
        }
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.socket.poll_recv(context, buffers, metas);
        let carrier = self.shaper.carrier();
        if let Poll::Ready(Ok(count)) = received
            && carrier.is_shaping()
        {
            for meta in metas.iter_mut().take(count) {
                if carrier.cuts_receiving(meta.addr) {
                    // A datagram of no bytes is passed over by whoever reads them.
                    meta.len = 0;
                }
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
