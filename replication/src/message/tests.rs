//! Every message comes back as it went; nothing else is taken for one.

use bytes::{Bytes, BytesMut};
use larder_types::{DiskId, Epoch, EpochStart, LogId, NodeId, Position, ReplicaId, SequenceNumber};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::core::{Member, ReplicaSet};

/// Draws messages with every field filled at random.
struct Draw(StdRng);

impl Draw {
    fn maybe<T>(&mut self, draw: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.0.random::<bool>().then(|| draw(self))
    }

    fn sequence(&mut self) -> SequenceNumber {
        let number = match self.0.random_range(0..8) {
            0 => 1,
            1 => SequenceNumber::REACHABLE_MAX,
            _ => self.0.random_range(1..=SequenceNumber::REACHABLE_MAX),
        };
        SequenceNumber::new(number).unwrap()
    }

    fn term(&mut self) -> u32 {
        match self.0.random_range(0..8) {
            0 => 0,
            1 => Epoch::REACHABLE_MAX,
            _ => self.0.random_range(0..=Epoch::REACHABLE_MAX),
        }
    }

    fn epoch(&mut self) -> Epoch {
        Epoch { term: self.term(), run: self.term(), id: self.0.random() }
    }

    fn position(&mut self) -> Position {
        Position { epoch: self.epoch(), seq: self.sequence() }
    }

    fn view(&mut self) -> View {
        View { term: self.term(), leads: self.maybe(Self::epoch) }
    }

    fn bulk(&mut self) -> Bytes {
        let length = self.0.random_range(1..200);
        (0..length).map(|_| self.0.random::<u8>()).collect()
    }

    fn log(&mut self) -> LogId {
        LogId::from_bytes(self.0.random())
    }

    fn node(&mut self) -> NodeId {
        NodeId::new(&format!("node-{}", self.0.random_range(0..1_000))).unwrap()
    }

    fn set(&mut self) -> PlacedSet {
        let count = self.0.random_range(0..=ReplicaSet::MEMBERS_MAX);
        let members = (0..count)
            .map(|_| Member {
                id: ReplicaId { node: self.node(), disk: DiskId(self.0.random()) },
                region: "tianjin".into(),
                voter: self.0.random(),
            })
            .collect();
        let removed = (0..self.0.random_range(0..5)).map(|_| self.node()).collect();
        PlacedSet { seq: self.sequence(), set: ReplicaSet { members, removed } }
    }

    fn tail(&mut self) -> Tail {
        Tail { last: self.maybe(Self::position), crc: self.0.random() }
    }

    fn follow(&mut self) -> Follow {
        let mut first = 1;
        let epochs = (0..self.0.random_range(0..20))
            .map(|_| {
                first += self.0.random_range(1..100);
                EpochStart { epoch: self.epoch(), first: SequenceNumber::new(first).unwrap() }
            })
            .collect();
        Follow {
            attempt: self.0.random(),
            disk: DiskId(self.0.random()),
            log: self.maybe(Self::log),
            tail: self.tail(),
            epochs,
            snapshot: self.0.random(),
            aside: self.0.random(),
        }
    }

    fn verdict(&mut self) -> Verdict {
        let (session, epoch) = (Session(self.0.random()), self.epoch());
        match self.0.random_range(0..8) {
            0 => Verdict::Continue { session, epoch },
            1 => Verdict::Parted { at: self.sequence(), epoch },
            2 => Verdict::Wait,
            3 => Verdict::Snapshot { session, epoch, log: self.log() },
            4 => Verdict::NewDisk,
            5 => Verdict::SetAside,
            6 => Verdict::Refused { why: RefusedWhy::OtherLog },
            _ => Verdict::Refused { why: RefusedWhy::SameNumber },
        }
    }

    fn records(&mut self) -> Records {
        let chunk = self.maybe(|draw| {
            let last = draw.position();
            let before = SequenceNumber::new(last.seq.as_u64() / 2);
            let prev = before.map(|seq| Position { seq, ..draw.position() });
            Chunk {
                prev: Tail { last: prev, crc: draw.0.random() },
                last,
                last_crc: draw.0.random(),
                frames: draw.bulk(),
            }
        });
        let packed = self.maybe(|draw| {
            let raw_bytes = draw.0.random();
            if draw.0.random() {
                Packing::ZstdFrame { raw_bytes }
            } else {
                Packing::ZstdStream { raw_bytes }
            }
        });
        Records {
            session: Session(self.0.random()),
            committed: self.maybe(Self::position),
            packing: packed.unwrap_or(Packing::Raw),
            chunk,
        }
    }

    fn fenced(&mut self) -> Fenced {
        Fenced {
            term: self.term(),
            trial: self.0.random(),
            promised: self.0.random(),
            known: self.term(),
            disk: DiskId(self.0.random()),
            fit: self.0.random(),
            durable: self.maybe(Self::position),
            writer: self.0.random(),
            set: self.maybe(Self::set),
            heard: self.maybe(Self::position),
        }
    }

    fn message(&mut self) -> Message {
        let (epoch, term) = (self.epoch(), self.term());
        match self.0.random_range(0..16) {
            0 => Message::Hello(Hello {
                disk: DiskId(self.0.random()),
                log: self.maybe(Self::log),
                view: self.view(),
            }),
            1 => Message::Ping(Ping {
                stamp: Time(self.0.random()),
                view: self.view(),
                retain: self.maybe(Self::sequence),
            }),
            2 => Message::Pong(Pong {
                echo: Time(self.0.random()),
                view: self.view(),
                durable: self.maybe(Self::position),
                committed: self.maybe(Self::position),
                grant: self.maybe(|draw| Session(draw.0.random())),
                current: self.0.random(),
                lag_micros: self.maybe(|draw| draw.0.random()),
            }),
            3 => Message::Follow(self.follow()),
            4 => Message::Verdict { attempt: self.0.random(), verdict: self.verdict() },
            5 | 6 => Message::Records(self.records()),
            7 => Message::Ack {
                session: Session(self.0.random()),
                durable: self.position(),
                counts: self.0.random(),
            },
            8 => Message::Fence(Fence { term, trial: self.0.random() }),
            9 => Message::Fenced(self.fenced()),
            10 => Message::Elect { term, at: self.maybe(Self::position) },
            11 => Message::Elected { epoch },
            12 => Message::SteppedDown { epoch, at: self.maybe(Self::position) },
            13 => Message::TakeOver { epoch },
            14 => Message::Fetch { epoch, request: self.bulk() },
            _ => match self.0.random::<bool>() {
                true => {
                    let at = self.maybe(Self::position);
                    Message::Fetched { epoch, at, reply: self.bulk() }
                }
                false => Message::Digest { at: self.position(), digest: self.0.random() },
            },
        }
    }
}

fn bytes_of(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    encode(message, &mut out);
    out.freeze()
}

#[test]
fn every_message_comes_back_as_it_went() {
    let mut draw = Draw(StdRng::seed_from_u64(1));
    for _ in 0..20_000 {
        let message = draw.message();
        assert_eq!(decode(bytes_of(&message)), Ok(message));
    }
}

#[test]
fn a_message_that_ends_early_or_goes_on_is_refused() {
    let mut draw = Draw(StdRng::seed_from_u64(2));
    for _ in 0..2_000 {
        let bytes = bytes_of(&draw.message());
        for length in 0..bytes.len() {
            assert!(decode(bytes.slice(..length)).is_err());
        }
        let longer: Bytes = bytes.iter().copied().chain([0]).collect();
        assert!(decode(longer).is_err());
    }
}

#[test]
fn damaged_messages_are_refused_or_mean_something_else_and_never_panic() {
    let mut draw = Draw(StdRng::seed_from_u64(3));
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..200_000 {
        let mut bytes = bytes_of(&draw.message()).to_vec();
        for _ in 0..draw.0.random_range(1..4) {
            let at = draw.0.random_range(0..bytes.len());
            if draw.0.random() {
                bytes[at] = draw.0.random();
            } else {
                // The greatest number that the field can hold.
                bytes[at..].iter_mut().take(8).for_each(|byte| *byte = u8::MAX);
            }
        }
        match decode(bytes.into()) {
            // What is taken is a message like any other: it is written as it was read.
            Ok(message) => {
                assert_eq!(decode(bytes_of(&message)), Ok(message));
                taken += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 1_000 && taken > 1_000, "{refused} refused, {taken} taken");
}

/// Messages in which this sequence number stands, each in another field.
fn with_sequence(seq: SequenceNumber) -> Vec<Message> {
    let (session, epoch) = (Session(1), Epoch { term: 1, run: 0, id: 7 });
    let at = Position { epoch, seq };
    let (view, disk) = (View::default(), DiskId(1));
    let follow = |tail, epochs| {
        let (log, snapshot, aside) = (None, false, false);
        Message::Follow(Follow { attempt: 1, disk, log, tail, epochs, snapshot, aside })
    };
    vec![
        Message::Ping(Ping { stamp: Time(1), view, retain: Some(seq) }),
        Message::Ack { session, durable: at, counts: true },
        Message::Elect { term: 1, at: Some(at) },
        Message::Digest { at, digest: [0; 32] },
        Message::Verdict { attempt: 1, verdict: Verdict::Parted { at: seq, epoch } },
        follow(Tail { last: Some(at), crc: 1 }, Vec::new()),
        follow(Tail::EMPTY, vec![EpochStart { epoch, first: seq }]),
        Message::Records(Records {
            session,
            committed: Some(at),
            packing: Packing::Raw,
            chunk: None,
        }),
    ]
}

/// The same of terms.
fn with_term(term: u32) -> Vec<Message> {
    let epoch = Epoch { term, run: 0, id: 7 };
    let (disk, log) = (DiskId(1), None);
    let hello = |view| Message::Hello(Hello { disk, log, view });
    let fenced = |term, known| {
        let (trial, promised, fit, writer) = (true, true, true, true);
        let (durable, set, heard) = (None, None, None);
        let answer =
            Fenced { term, trial, promised, known, disk, fit, durable, writer, set, heard };
        Message::Fenced(answer)
    };
    vec![
        hello(View { term, leads: None }),
        hello(View { term: 1, leads: Some(epoch) }),
        Message::Fence(Fence { term, trial: true }),
        fenced(term, 1),
        fenced(1, term),
        Message::Elect { term, at: None },
        Message::Elected { epoch },
    ]
}

#[test]
fn numbers_that_no_log_reaches_are_refused_wherever_they_stand() {
    let sequence = |number| SequenceNumber::new(number).unwrap();
    let run = |run| vec![Message::TakeOver { epoch: Epoch { term: 1, run, id: 7 } }];
    let (most, term_most) = (SequenceNumber::REACHABLE_MAX, Epoch::REACHABLE_MAX);
    let greatest = [with_sequence(sequence(most)), with_term(term_most), run(term_most)];
    for message in greatest.into_iter().flatten() {
        assert_eq!(decode(bytes_of(&message)), Ok(message));
    }
    let beyond = [most + 1, u64::MAX].map(|number| with_sequence(sequence(number)));
    let terms = [term_most + 1, u32::MAX].map(|term| [with_term(term), run(term)].concat());
    for message in beyond.into_iter().chain(terms).flatten() {
        let refused = decode(bytes_of(&message));
        assert!(matches!(refused, Err(DecodeError::Malformed { .. })), "{message:?}: {refused:?}");
    }
}

#[test]
fn records_behind_the_greatest_number_there_is_are_refused_as_all_that_is_malformed() {
    let epoch = Epoch { term: 1, run: 0, id: 7 };
    let at = |number| Position { epoch, seq: SequenceNumber::new(number).unwrap() };
    let prev = Tail { last: Some(at(u64::MAX)), crc: 1 };
    let chunk = Chunk { prev, last: at(1), last_crc: 1, frames: Bytes::from_static(b"frames") };
    let (session, committed, packing) = (Session(1), None, Packing::Raw);
    let records = Records { session, committed, packing, chunk: Some(chunk) };
    let expected = DecodeError::Malformed { field: "sequence number" };
    assert_eq!(decode(bytes_of(&Message::Records(records))), Err(expected));
}

#[test]
fn lengths_are_compared_with_what_is_there_before_anything_is_taken() {
    let mut out = BytesMut::from(&[write::kind::FETCH][..]);
    out.extend_from_slice(&[0; Epoch::ENCODED_BYTES]);
    out.extend_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode(out.freeze()), Err(DecodeError::Malformed { field: "length" }));
    let mut follow = BytesMut::from(&[write::kind::FOLLOW][..]);
    follow.extend_from_slice(&[0; 8 + 8 + 1 + 1 + 4]);
    follow.extend_from_slice(&u32::MAX.to_le_bytes());
    let expected = DecodeError::Malformed { field: "count of epochs" };
    assert_eq!(decode(follow.freeze()), Err(expected));
    let long = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
    assert_eq!(decode(long), Err(DecodeError::TooLong { bytes: MESSAGE_BYTES_MAX + 1 }));
}

#[test]
fn a_replica_set_comes_back_from_its_record() {
    let mut draw = Draw(StdRng::seed_from_u64(4));
    for _ in 0..1_000 {
        let set = draw.set().set;
        assert_eq!(decode_set(encode_set(&set)), Ok(set));
    }
    assert!(decode_set(Bytes::from_static(&[33])).is_err());
}
