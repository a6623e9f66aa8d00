//! Bytes to messages. Every length is compared with its bound and with what is there before
//! anything is taken; numbers that no log reaches are refused, so that whoever counts on from one
//! need not ask whether there is a next.

use bytes::{Buf, Bytes};
use larder_types::{DiskId, Epoch, EpochStart, LogId, NodeId, Position, ReplicaId, SequenceNumber};

use super::{
    DecodeError, Fence, Fenced, Follow, Hello, Message, Packing, Ping, Pong, Records, RefusedWhy,
    Verdict, View, codec::EPOCHS_MAX, write::kind,
};
use crate::core::{Chunk, Member, PlacedSet, ReplicaSet, Session, Tail, Time};

type Result<T> = std::result::Result<T, DecodeError>;

/// What is left of a message.
struct Reader(Bytes);

pub(super) fn message(bytes: Bytes) -> Result<Message> {
    let mut reader = Reader(bytes);
    let message = reader.message()?;
    reader.end()?;
    Ok(message)
}

/// Reads the body of a replica set's record.
pub(super) fn replica_set(bytes: Bytes) -> Result<ReplicaSet> {
    let mut reader = Reader(bytes);
    let set = reader.replica_set()?;
    reader.end()?;
    Ok(set)
}

const fn malformed(field: &'static str) -> DecodeError {
    DecodeError::Malformed { field }
}

impl Reader {
    fn message(&mut self) -> Result<Message> {
        Ok(match self.u8("kind")? {
            kind::HELLO => Message::Hello(Hello {
                disk: self.disk()?,
                log: self.optional(Self::log_id)?,
                view: self.view()?,
            }),
            kind::PING => Message::Ping(Ping {
                stamp: Time(self.u64("stamp")?),
                view: self.view()?,
                retain: self.retain()?,
            }),
            kind::PONG => Message::Pong(self.pong()?),
            kind::FOLLOW => Message::Follow(self.follow()?),
            kind::VERDICT => {
                Message::Verdict { attempt: self.u64("attempt")?, verdict: self.verdict()? }
            }
            kind::RECORDS => Message::Records(self.records()?),
            kind::ACK => Message::Ack {
                session: self.session()?,
                durable: self.position()?,
                counts: self.flag()?,
            },
            kind::FENCE => Message::Fence(Fence { term: self.term()?, trial: self.flag()? }),
            kind::FENCED => Message::Fenced(self.fenced()?),
            kind::ELECT => {
                Message::Elect { term: self.term()?, at: self.optional(Self::position)? }
            }
            kind::ELECTED => Message::Elected { epoch: self.epoch()? },
            kind::STEPPED_DOWN => {
                Message::SteppedDown { epoch: self.epoch()?, at: self.optional(Self::position)? }
            }
            kind::TAKE_OVER => Message::TakeOver { epoch: self.epoch()? },
            kind::FETCH => Message::Fetch { epoch: self.epoch()?, request: self.bulk()? },
            kind::FETCHED => Message::Fetched {
                epoch: self.epoch()?,
                at: self.optional(Self::position)?,
                reply: self.bulk()?,
            },
            kind::DIGEST => Message::Digest { at: self.position()?, digest: self.array("digest")? },
            other => return Err(DecodeError::UnknownKind(other)),
        })
    }

    fn pong(&mut self) -> Result<Pong> {
        Ok(Pong {
            echo: Time(self.u64("echo")?),
            view: self.view()?,
            durable: self.optional(Self::position)?,
            committed: self.optional(Self::position)?,
            grant: self.optional(Self::session)?,
            current: self.flag()?,
            lag_micros: self.optional(|reader| reader.u64("lag"))?,
        })
    }

    fn follow(&mut self) -> Result<Follow> {
        let attempt = self.u64("attempt")?;
        let disk = self.disk()?;
        let log = self.optional(Self::log_id)?;
        let tail = self.tail()?;
        let count = self.u32("count of epochs")? as usize;
        if count > EPOCHS_MAX || count.saturating_mul(EPOCH_START_BYTES) > self.0.len() {
            return Err(malformed("count of epochs"));
        }
        let epochs = (0..count).map(|_| self.epoch_start()).collect::<Result<Vec<_>>>()?;
        let rising = epochs.is_sorted_by(|one, next| one.first < next.first);
        if !rising {
            return Err(malformed("order of epochs"));
        }
        let (snapshot, aside) = (self.flag()?, self.flag()?);
        Ok(Follow { attempt, disk, log, tail, epochs, snapshot, aside })
    }

    fn verdict(&mut self) -> Result<Verdict> {
        Ok(match self.u8("verdict")? {
            1 => Verdict::Continue { session: self.session()?, epoch: self.epoch()? },
            2 => Verdict::Parted { at: self.sequence()?, epoch: self.epoch()? },
            3 => Verdict::Wait,
            4 => Verdict::Snapshot {
                session: self.session()?,
                epoch: self.epoch()?,
                log: self.log_id()?,
            },
            5 => Verdict::NewDisk,
            6 => Verdict::SetAside,
            7 => Verdict::Refused {
                why: match self.u8("refusal")? {
                    1 => RefusedWhy::NotMaster,
                    2 => RefusedWhy::Stale,
                    3 => RefusedWhy::OtherLog,
                    4 => RefusedWhy::SameNumber,
                    5 => RefusedWhy::Differs,
                    _ => return Err(malformed("refusal")),
                },
            },
            _ => return Err(malformed("verdict")),
        })
    }

    fn records(&mut self) -> Result<Records> {
        let session = self.session()?;
        let committed = self.optional(Self::position)?;
        let packing = match self.u8("packing")? {
            0 => Packing::Raw,
            // 1 was LZ4.
            2 => Packing::ZstdFrame { raw_bytes: self.u32("unpacked bytes")? },
            3 => Packing::ZstdStream { raw_bytes: self.u32("unpacked bytes")? },
            _ => return Err(malformed("packing")),
        };
        let chunk = self.optional(|reader| {
            let prev = reader.tail()?;
            let last = reader.position()?;
            let chunk =
                Chunk { prev, last, last_crc: reader.u32("checksum")?, frames: reader.bulk()? };
            if chunk.last.seq < prev.next() || chunk.frames.is_empty() {
                return Err(malformed("range of records"));
            }
            Ok(chunk)
        })?;
        Ok(Records { session, committed, packing, chunk })
    }

    fn fenced(&mut self) -> Result<Fenced> {
        Ok(Fenced {
            term: self.term()?,
            trial: self.flag()?,
            promised: self.flag()?,
            known: self.term()?,
            disk: self.disk()?,
            fit: self.flag()?,
            durable: self.optional(Self::position)?,
            writer: self.flag()?,
            set: self.optional(|reader| {
                Ok(PlacedSet { seq: reader.sequence()?, set: reader.replica_set()? })
            })?,
            heard: self.optional(Self::position)?,
        })
    }

    fn replica_set(&mut self) -> Result<ReplicaSet> {
        let count = usize::from(self.u8("count of members")?);
        if count > ReplicaSet::MEMBERS_MAX {
            return Err(malformed("count of members"));
        }
        let members = (0..count).map(|_| self.member()).collect::<Result<Vec<_>>>()?;
        let removed = usize::from(self.u16("count of removed nodes")?);
        if removed > ReplicaSet::REMOVED_MAX {
            return Err(malformed("count of removed nodes"));
        }
        let removed = (0..removed).map(|_| self.node()).collect::<Result<Vec<_>>>()?;
        Ok(ReplicaSet { members, removed })
    }

    fn member(&mut self) -> Result<Member> {
        let id = ReplicaId { node: self.node()?, disk: self.disk()? };
        let region = self.short("region", ReplicaSet::REGION_BYTES_MAX)?;
        Ok(Member { id, region, voter: self.flag()? })
    }

    fn view(&mut self) -> Result<View> {
        Ok(View { term: self.term()?, leads: self.optional(Self::epoch)? })
    }

    fn tail(&mut self) -> Result<Tail> {
        Ok(Tail { last: self.optional(Self::position)?, crc: self.u32("checksum")? })
    }

    fn epoch_start(&mut self) -> Result<EpochStart> {
        Ok(EpochStart { epoch: self.epoch()?, first: self.sequence()? })
    }

    fn position(&mut self) -> Result<Position> {
        Ok(Position { epoch: self.epoch()?, seq: self.sequence()? })
    }

    fn sequence(&mut self) -> Result<SequenceNumber> {
        let number = SequenceNumber::new(self.u64("sequence number")?);
        number.filter(|number| number.is_reachable()).ok_or(malformed("sequence number"))
    }

    /// A sequence number, or 0 for none.
    fn retain(&mut self) -> Result<Option<SequenceNumber>> {
        match SequenceNumber::new(self.u64("retain")?) {
            Some(number) if !number.is_reachable() => Err(malformed("retain")),
            number => Ok(number),
        }
    }

    fn term(&mut self) -> Result<u32> {
        let term = self.u32("term")?;
        if term > Epoch::REACHABLE_MAX { Err(malformed("term")) } else { Ok(term) }
    }

    fn session(&mut self) -> Result<Session> {
        Ok(Session(self.u64("session")?))
    }

    fn disk(&mut self) -> Result<DiskId> {
        Ok(DiskId(self.u64("disk")?))
    }

    fn epoch(&mut self) -> Result<Epoch> {
        let epoch = Epoch::decode(self.array("epoch")?);
        if epoch.is_reachable() { Ok(epoch) } else { Err(malformed("epoch")) }
    }

    fn log_id(&mut self) -> Result<LogId> {
        Ok(LogId::from_bytes(self.array("log id")?))
    }

    fn node(&mut self) -> Result<NodeId> {
        NodeId::new(&self.short("node", NodeId::BYTES_MAX)?).ok_or(malformed("node"))
    }

    fn short(&mut self, field: &'static str, bytes_max: usize) -> Result<String> {
        let length = usize::from(self.u8(field)?);
        if length > bytes_max || length > self.0.len() {
            return Err(malformed(field));
        }
        let text = self.0.split_to(length);
        std::str::from_utf8(&text).map(str::to_owned).map_err(|_| malformed(field))
    }

    fn bulk(&mut self) -> Result<Bytes> {
        let length = self.u32("length")? as usize;
        if length > self.0.len() {
            return Err(malformed("length"));
        }
        Ok(self.0.split_to(length))
    }

    fn flag(&mut self) -> Result<bool> {
        match self.u8("flag")? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(malformed("flag")),
        }
    }

    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N]> {
        let array = self.0.first_chunk::<N>().copied().ok_or(malformed(field))?;
        self.0.advance(N);
        Ok(array)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8> {
        self.0.try_get_u8().map_err(|_| malformed(field))
    }

    fn u16(&mut self, field: &'static str) -> Result<u16> {
        self.0.try_get_u16_le().map_err(|_| malformed(field))
    }

    fn u32(&mut self, field: &'static str) -> Result<u32> {
        self.0.try_get_u32_le().map_err(|_| malformed(field))
    }

    fn u64(&mut self, field: &'static str) -> Result<u64> {
        self.0.try_get_u64_le().map_err(|_| malformed(field))
    }

    fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(malformed("bytes after the end")) }
    }
}

/// Bytes of one encoded [`EpochStart`].
const EPOCH_START_BYTES: usize = Epoch::ENCODED_BYTES + 8;
