//! Messages to bytes. Little-endian; lengths before what they count.

use bytes::{BufMut, BytesMut};
use larder_types::{Epoch, EpochStart, LogId, NodeId, Position, SequenceNumber};

use super::{
    Fence, Fenced, Follow, Hello, Message, Packing, Ping, Pong, Records, RefusedWhy, Verdict, View,
};
use crate::core::{Chunk, PlacedSet, Session, Tail};

/// The kinds of message, as their first byte says.
pub(super) mod kind {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const PING: u8 = 2;
    pub(crate) const PONG: u8 = 3;
    pub(crate) const FOLLOW: u8 = 4;
    pub(crate) const VERDICT: u8 = 5;
    pub(crate) const RECORDS: u8 = 6;
    pub(crate) const ACK: u8 = 7;
    pub(crate) const FENCE: u8 = 8;
    pub(crate) const FENCED: u8 = 9;
    pub(crate) const ELECT: u8 = 10;
    pub(crate) const ELECTED: u8 = 11;
    pub(crate) const STEPPED_DOWN: u8 = 12;
    pub(crate) const TAKE_OVER: u8 = 13;
    pub(crate) const FETCH: u8 = 14;
    pub(crate) const FETCHED: u8 = 15;
    pub(crate) const DIGEST: u8 = 16;
}

pub(super) fn message(message: &Message, out: &mut BytesMut) {
    match message {
        Message::Hello(it) => hello(it, out),
        Message::Ping(it) => ping(it, out),
        Message::Pong(it) => pong(it, out),
        Message::Follow(it) => follow(it, out),
        Message::Verdict { attempt, verdict: it } => {
            out.put_u8(kind::VERDICT);
            out.put_u64_le(*attempt);
            verdict(it, out);
        }
        Message::Records(it) => records(it, out),
        Message::Ack { session, durable, counts } => {
            out.put_u8(kind::ACK);
            out.put_u64_le(session.0);
            position(*durable, out);
            out.put_u8(u8::from(*counts));
        }
        Message::Fence(Fence { term, trial }) => {
            out.put_u8(kind::FENCE);
            out.put_u32_le(*term);
            out.put_u8(u8::from(*trial));
        }
        Message::Fenced(it) => fenced(it, out),
        Message::Elect { term, at } => {
            out.put_u8(kind::ELECT);
            out.put_u32_le(*term);
            optional(*at, out, position);
        }
        Message::Elected { epoch: it } => {
            out.put_u8(kind::ELECTED);
            epoch(*it, out);
        }
        Message::SteppedDown { epoch: it, at } => {
            out.put_u8(kind::STEPPED_DOWN);
            epoch(*it, out);
            optional(*at, out, position);
        }
        Message::TakeOver { epoch: it } => {
            out.put_u8(kind::TAKE_OVER);
            epoch(*it, out);
        }
        Message::Fetch { epoch: it, request } => {
            out.put_u8(kind::FETCH);
            epoch(*it, out);
            bulk(request, out);
        }
        Message::Fetched { epoch: it, at, reply } => {
            out.put_u8(kind::FETCHED);
            epoch(*it, out);
            optional(*at, out, position);
            bulk(reply, out);
        }
        Message::Digest { at, digest } => {
            out.put_u8(kind::DIGEST);
            position(*at, out);
            out.put_slice(digest);
        }
    }
}

fn hello(it: &Hello, out: &mut BytesMut) {
    out.put_u8(kind::HELLO);
    out.put_u64_le(it.disk.0);
    optional(it.log, out, log_id);
    view(it.view, out);
}

fn ping(it: &Ping, out: &mut BytesMut) {
    out.put_u8(kind::PING);
    out.put_u64_le(it.stamp.0);
    view(it.view, out);
    out.put_u64_le(it.retain.map_or(0, SequenceNumber::as_u64));
}

fn pong(it: &Pong, out: &mut BytesMut) {
    out.put_u8(kind::PONG);
    out.put_u64_le(it.echo.0);
    view(it.view, out);
    optional(it.durable, out, position);
    optional(it.committed, out, position);
    optional(it.grant, out, |Session(number), out| out.put_u64_le(number));
    out.put_u8(u8::from(it.current));
    optional(it.lag_micros, out, |micros, out| out.put_u64_le(micros));
}

fn follow(it: &Follow, out: &mut BytesMut) {
    out.put_u8(kind::FOLLOW);
    out.put_u64_le(it.attempt);
    out.put_u64_le(it.disk.0);
    optional(it.log, out, log_id);
    tail(it.tail, out);
    out.put_u32_le(it.epochs.len() as u32);
    it.epochs.iter().for_each(|start| epoch_start(*start, out));
    out.put_u8(u8::from(it.snapshot));
    out.put_u8(u8::from(it.aside));
}

fn verdict(it: &Verdict, out: &mut BytesMut) {
    match it {
        Verdict::Continue { session, epoch: of } => {
            out.put_u8(1);
            out.put_u64_le(session.0);
            epoch(*of, out);
        }
        Verdict::Parted { at, epoch: of } => {
            out.put_u8(2);
            out.put_u64_le(at.as_u64());
            epoch(*of, out);
        }
        Verdict::Wait => out.put_u8(3),
        Verdict::Snapshot { session, epoch: of, log } => {
            out.put_u8(4);
            out.put_u64_le(session.0);
            epoch(*of, out);
            log_id(*log, out);
        }
        Verdict::NewDisk => out.put_u8(5),
        Verdict::SetAside => out.put_u8(6),
        Verdict::Refused { why } => {
            out.put_u8(7);
            out.put_u8(match why {
                RefusedWhy::NotMaster => 1,
                RefusedWhy::Stale => 2,
                RefusedWhy::OtherLog => 3,
                RefusedWhy::SameNumber => 4,
                RefusedWhy::Differs => 5,
            });
        }
    }
}

fn records(it: &Records, out: &mut BytesMut) {
    let frames = it.chunk.as_ref().map_or(0, |chunk| chunk.frames.len());
    out.reserve(frames.saturating_add(128));
    out.put_u8(kind::RECORDS);
    out.put_u64_le(it.session.0);
    optional(it.committed, out, position);
    match it.packing {
        Packing::Raw => out.put_u8(0),
        Packing::ZstdFrame { raw_bytes } => {
            out.put_u8(2);
            out.put_u32_le(raw_bytes);
        }
        Packing::ZstdStream { raw_bytes } => {
            out.put_u8(3);
            out.put_u32_le(raw_bytes);
        }
    }
    optional(it.chunk.as_ref(), out, |Chunk { prev, last, last_crc, frames }, out| {
        tail(*prev, out);
        position(*last, out);
        out.put_u32_le(*last_crc);
        bulk(frames, out);
    });
}

fn fenced(it: &Fenced, out: &mut BytesMut) {
    out.put_u8(kind::FENCED);
    out.put_u32_le(it.term);
    out.put_u8(u8::from(it.trial));
    out.put_u8(u8::from(it.promised));
    out.put_u32_le(it.known);
    out.put_u64_le(it.disk.0);
    out.put_u8(u8::from(it.fit));
    optional(it.durable, out, position);
    out.put_u8(u8::from(it.writer));
    optional(it.set.as_ref(), out, placed_set);
    optional(it.heard, out, position);
}

fn placed_set(it: &PlacedSet, out: &mut BytesMut) {
    out.put_u64_le(it.seq.as_u64());
    replica_set(&it.set, out);
}

/// The body of a replica set's record, and the same within a message.
pub(super) fn replica_set(set: &crate::core::ReplicaSet, out: &mut BytesMut) {
    out.put_u8(set.members.len() as u8);
    for member in &set.members {
        node(&member.id.node, out);
        out.put_u64_le(member.id.disk.0);
        short(&member.region, out);
        out.put_u8(u8::from(member.voter));
    }
    out.put_u16_le(set.removed.len() as u16);
    set.removed.iter().for_each(|removed| node(removed, out));
}

fn view(it: View, out: &mut BytesMut) {
    out.put_u32_le(it.term);
    optional(it.leads, out, epoch);
}

fn tail(it: Tail, out: &mut BytesMut) {
    optional(it.last, out, position);
    out.put_u32_le(it.crc);
}

fn epoch_start(it: EpochStart, out: &mut BytesMut) {
    epoch(it.epoch, out);
    out.put_u64_le(it.first.as_u64());
}

fn position(it: Position, out: &mut BytesMut) {
    epoch(it.epoch, out);
    out.put_u64_le(it.seq.as_u64());
}

fn epoch(it: Epoch, out: &mut BytesMut) {
    out.put_slice(&it.encode());
}

fn log_id(it: LogId, out: &mut BytesMut) {
    out.put_slice(it.as_bytes());
}

fn node(it: &NodeId, out: &mut BytesMut) {
    short(it.as_str(), out);
}

/// Text of at most 255 bytes, which its type sees to.
fn short(text: &str, out: &mut BytesMut) {
    out.put_u8(text.len() as u8);
    out.put_slice(text.as_bytes());
}

fn bulk(bytes: &[u8], out: &mut BytesMut) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn optional<T>(it: Option<T>, out: &mut BytesMut, write: impl FnOnce(T, &mut BytesMut)) {
    match it {
        None => out.put_u8(0),
        Some(it) => {
            out.put_u8(1);
            write(it, out);
        }
    }
}
