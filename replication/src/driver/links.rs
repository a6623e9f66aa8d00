//! Connections with other nodes: dialled, taken in, and each with its streams and their tasks.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use larder_net::{Connection, Endpoint, Features, FrameReceiver, FrameSender, StreamKind};
use larder_types::NodeId;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{engine::Input, snapshot};
use crate::{core::Link, message::decode};

/// A connection, with its streams, must stand within this time.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(4);
/// Frames that wait for a stream. A peer that takes fewer for so long is given up: what its core
/// is owed is bounded, so that these are never many.
const OUTBOX_FRAMES_MAX: usize = 4_096;
/// Why the driver closes a connection, as the other end sees it.
const CODE_CLOSED: u32 = 16;

/// A connection that stands, not numbered yet.
pub(super) struct Fresh {
    connection: Connection,
    control: (FrameSender, FrameReceiver),
    log: (FrameSender, FrameReceiver),
}

/// A numbered connection.
pub(super) struct Open {
    connection: Connection,
    control: mpsc::Sender<Bytes>,
    log: mpsc::Sender<Bytes>,
    /// Aborted with it.
    tasks: JoinSet<()>,
}

/// All connections of this node.
pub(super) struct Links {
    endpoint: Endpoint,
    addresses: HashMap<NodeId, SocketAddr>,
    inputs: mpsc::Sender<Input>,
    open: HashMap<Link, Open>,
    numbered: u64,
    /// Accepts and dials.
    tasks: JoinSet<()>,
    sent_bytes: Arc<AtomicU64>,
}

impl Links {
    pub(super) fn new(
        endpoint: Endpoint,
        addresses: HashMap<NodeId, SocketAddr>,
        inputs: mpsc::Sender<Input>,
        sent_bytes: Arc<AtomicU64>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(accept_all(endpoint.clone(), inputs.clone()));
        let open = HashMap::new();
        Self { endpoint, addresses, inputs, open, numbered: 0, tasks, sent_bytes }
    }

    /// Dials a node, once.
    pub(super) fn dial(&mut self, peer: NodeId) {
        while self.tasks.try_join_next().is_some() {}
        let (endpoint, inputs) = (self.endpoint.clone(), self.inputs.clone());
        let address = self.addresses.get(&peer).copied();
        self.tasks.spawn(async move {
            let dialled = match address {
                Some(address) => timeout(CONNECT_TIME_MAX, dial(&endpoint, address, &peer)).await,
                None => return drop(inputs.send(Input::ConnectFailed(peer)).await),
            };
            let input = match dialled {
                Ok(Ok(fresh)) => Input::Connected(Box::new(fresh)),
                Ok(Err(error)) => {
                    tracing::info!(%peer, %error, "could not connect");
                    Input::ConnectFailed(peer)
                }
                Err(_) => {
                    tracing::info!(%peer, "could not connect in time");
                    Input::ConnectFailed(peer)
                }
            };
            // Where nobody takes it, the driver has ended.
            let _ = inputs.send(input).await;
        });
    }

    /// Numbers a connection and lets its streams run.
    pub(super) fn open(&mut self, fresh: Fresh) -> (Link, NodeId) {
        self.numbered += 1;
        let link = Link(self.numbered);
        let Fresh { connection, control, log } = fresh;
        let peer = connection.peer().clone();
        let (control_out, control_frames) = mpsc::channel(OUTBOX_FRAMES_MAX);
        let (log_out, log_frames) = mpsc::channel(OUTBOX_FRAMES_MAX);
        let mut tasks = JoinSet::new();
        for (sender, frames) in [(control.0, control_frames), (log.0, log_frames)] {
            tasks.spawn(send_all(sender, frames, self.sent_bytes.clone()));
        }
        for receiver in [control.1, log.1] {
            tasks.spawn(receive_all(link, receiver, self.inputs.clone()));
        }
        tasks.spawn(accept_streams(link, connection.clone(), self.inputs.clone()));
        let open = Open { connection, control: control_out, log: log_out, tasks };
        self.open.insert(link, open);
        (link, peer)
    }

    pub(super) fn is_open(&self, link: Link) -> bool {
        self.open.contains_key(&link)
    }

    /// Who is at the other end.
    pub(super) fn peer(&self, link: Link) -> Option<&NodeId> {
        self.connection(link).map(Connection::peer)
    }

    /// The connection itself, for streams of their own.
    pub(super) fn connection(&self, link: Link) -> Option<&Connection> {
        self.open.get(&link).map(|open| &open.connection)
    }

    /// What both ends can do.
    pub(super) fn features(&self, link: Link) -> Features {
        self.open.get(&link).map_or(Features(0), |open| open.connection.features())
    }

    /// Queues a frame; false where the connection is gone or takes nothing.
    #[must_use]
    pub(super) fn send(&self, link: Link, kind: StreamKind, frame: Bytes) -> bool {
        let Some(open) = self.open.get(&link) else { return false };
        let outbox = if kind == StreamKind::Log { &open.log } else { &open.control };
        outbox.try_send(frame).is_ok()
    }

    /// Closes a connection; false where it is gone already.
    pub(super) fn close(&mut self, link: Link, why: &str) -> bool {
        let Some(mut open) = self.open.remove(&link) else { return false };
        open.tasks.abort_all();
        tracing::info!(peer = %open.connection.peer(), why, "a connection is closed");
        open.connection.close(CODE_CLOSED, why);
        true
    }

    /// Closes every connection.
    pub(super) fn close_all(&mut self, why: &str) {
        for link in self.open.keys().copied().collect::<Vec<_>>() {
            self.close(link, why);
        }
    }

    /// Ends everything, and lets the others know.
    pub(super) async fn end(mut self) {
        self.close_all("this node ends");
        self.tasks.abort_all();
        self.endpoint.close().await;
    }
}

async fn dial(
    endpoint: &Endpoint,
    address: SocketAddr,
    peer: &NodeId,
) -> Result<Fresh, larder_net::Error> {
    let connection = endpoint.connect(address, peer).await?;
    let control = connection.open(StreamKind::Control).await?;
    let log = connection.open(StreamKind::Log).await?;
    Ok(Fresh { connection, control, log })
}

async fn accept_all(endpoint: Endpoint, inputs: mpsc::Sender<Input>) {
    let mut taking_in = JoinSet::new();
    while let Some(accepted) = endpoint.accept().await {
        while taking_in.try_join_next().is_some() {}
        match accepted {
            Ok(connection) => {
                taking_in.spawn(take_in(connection, inputs.clone()));
            }
            Err(error) => tracing::warn!(%error, "a connection was refused"),
        }
    }
}

/// Waits for the two streams that whoever dialled opens.
async fn take_in(connection: Connection, inputs: mpsc::Sender<Input>) {
    let streams = async {
        let (mut control, mut log) = (None, None);
        while control.is_none() || log.is_none() {
            let (kind, sender, receiver) = connection.accept().await?;
            match kind {
                StreamKind::Control => control = Some((sender, receiver)),
                StreamKind::Log => log = Some((sender, receiver)),
                StreamKind::Snapshot => {}
            }
        }
        Ok::<_, larder_net::Error>(control.zip(log))
    };
    match timeout(CONNECT_TIME_MAX, streams).await {
        Ok(Ok(Some((control, log)))) => {
            let fresh = Fresh { connection, control, log };
            let _ = inputs.send(Input::Connected(Box::new(fresh))).await;
        }
        Ok(Ok(None)) | Err(_) => connection.close(CODE_CLOSED, "no streams came"),
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended before it was taken in"),
    }
}

async fn send_all(
    mut sender: FrameSender,
    mut frames: mpsc::Receiver<Bytes>,
    sent_bytes: Arc<AtomicU64>,
) {
    while let Some(frame) = frames.recv().await {
        let bytes = frame.len() as u64;
        // The task that receives tells of a broken connection.
        if sender.send(frame).await.is_err() {
            return;
        }
        sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

async fn receive_all(link: Link, mut receiver: FrameReceiver, inputs: mpsc::Sender<Input>) {
    loop {
        let received = match receiver.next().await {
            Ok(Some(frame)) => decode(frame).map_err(|error| error.to_string()),
            Ok(None) => Err("the other side has ended the stream".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let input = match received {
            Ok(message) => Input::Message(link, message),
            Err(why) => {
                let _ = inputs.send(Input::Broken(link, why)).await;
                return;
            }
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

/// Takes the streams in on which slaves ask for snapshots.
async fn accept_streams(link: Link, connection: Connection, inputs: mpsc::Sender<Input>) {
    while let Ok((kind, sender, receiver)) = connection.accept().await {
        if kind != StreamKind::Snapshot {
            connection.close(CODE_CLOSED, "a second stream of a kind of which there is one");
            return;
        }
        if let Some(wanted) = snapshot::wanted(link, sender, receiver).await
            && inputs.send(wanted).await.is_err()
        {
            return;
        }
    }
    let _ = inputs.send(Input::Broken(link, "the connection is gone".to_owned())).await;
}
