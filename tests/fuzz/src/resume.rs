//! Two ends of one session, and connections that are cut and claimed wherever the input says: every byte arrives once, in
//! order, and so does every end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use everlink::session::hello::{Answer, Beats, Code, Hello, Received, Refusal, Resume, Secret, SessionId, Welcome};
use everlink::session::{Incoming, Limits, Opening, Session};

const LIMITS: Limits = Limits { buffer: 512 << 10, peer_buffer: 512 << 10, windows: 4 << 20, streams: 8 };
const STEPS: usize = 300;
const DIALER: usize = 0;
const GATEWAY: usize = 1;
const BINDING: [u8; 32] = [5; 32];

#[derive(Debug, Arbitrary)]
enum Step {
    Open,
    /// An end has something to say, on one of its streams.
    Write {
        side: bool,
        stream: u8,
        count: u16,
    },
    Finish {
        side: bool,
        stream: u8,
    },
    Pass {
        side: bool,
        stream: u8,
        count: u16,
    },
    /// An end puts what it has to say on its connection.
    Speak {
        side: bool,
        count: u16,
    },
    /// The first bytes of a connection, in one direction, arrive.
    Arrive {
        side: bool,
        connection: u8,
        count: u16,
    },
    /// The dialer makes a connection and says who it is.
    Claim,
    /// It gives a claim up.
    GiveUp {
        claim: u8,
    },
    /// A connection breaks: so many bytes of each direction still arrive.
    Cut {
        connection: u8,
        left: [u16; 2],
    },
    Ping {
        side: bool,
    },
    Millis(u8),
}

/// A connection: bytes on their way to either end, and whether more can follow.
#[derive(Default)]
struct Connection {
    towards: [VecDeque<u8>; 2],
    cut: bool,
    /// The end of this side is over: what comes is not read.
    closed: [bool; 2],
}

/// What an end keeps with a stream.
#[derive(Default)]
struct Local {
    written: u64,
    read: u64,
    held: u64,
    finished: bool,
    heard_end: bool,
}

struct End {
    session: Session<Local>,
    /// The connection that carries the session, as this end sees it.
    wire: Option<usize>,
}

struct Claim {
    connection: usize,
    epoch: u64,
    told: u64,
    hello: Vec<u8>,
    answer: Vec<u8>,
}

struct World {
    now: Instant,
    ends: [End; 2],
    connections: Vec<Connection>,
    /// The dialer's, whose answers have not come, the oldest first.
    claims: Vec<Claim>,
    /// Connections on which the gateway waits for a Hello.
    pending: Vec<(usize, Vec<u8>)>,
    epoch: u64,
    newest_claim: u64,
    /// Streams opened, and by side what was written on each and whether it has ended.
    streams: u32,
    wrote: [Vec<(u64, bool)>; 2],
    got: [Vec<(u64, bool)>; 2],
    handled: usize,
}

pub fn run(input: &[u8]) -> usize {
    let mut source = Unstructured::new(input);
    let now = Instant::now();
    let end = |dialer| End { session: Session::new(dialer, LIMITS, now), wire: None };
    let mut world = World {
        now,
        ends: [end(true), end(false)],
        connections: Vec::new(),
        claims: Vec::new(),
        pending: Vec::new(),
        epoch: 0,
        newest_claim: 0,
        streams: 0,
        wrote: Default::default(),
        got: Default::default(),
        handled: input.len(),
    };
    world.claim();
    for _ in 0..STEPS {
        if source.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut source) else { break };
        world.handled += 64;
        world.step(step);
    }
    world.heal();
    world.handled
}

fn secret() -> Secret {
    Secret::new([9; 32])
}

/// The byte at a place of a stream, as one side writes it.
fn byte(side: usize, stream: u32, at: u64) -> u8 {
    let mixed = (at ^ u64::from(stream) << 40 ^ (side as u64) << 63).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Open => self.open(),
            Step::Write { side, stream, count } => self.write(side.into(), stream, count.into()),
            Step::Finish { side, stream } => self.finish(side.into(), stream),
            Step::Pass { side, stream, count } => {
                if let Some(id) = self.pick(stream) {
                    self.pass(side.into(), id, count.into());
                }
            }
            Step::Speak { side, count } => {
                self.speak(side.into(), count.into());
            }
            Step::Arrive { side, connection, count } => {
                // Mostly on one of the last connections.
                let place = self.connections.len().saturating_sub(1 + usize::from(connection % 4));
                self.arrive(place, side.into(), count.into());
            }
            Step::Claim => {
                if self.claims.len() < 3 {
                    self.claim();
                }
            }
            Step::GiveUp { claim } => {
                if !self.claims.is_empty() {
                    let claim = self.claims.remove(usize::from(claim) % self.claims.len());
                    self.close(DIALER, claim.connection);
                }
            }
            Step::Cut { connection, left } => {
                let place = self.connections.len().saturating_sub(1 + usize::from(connection % 4));
                let Some(connection) = self.connections.get_mut(place) else { return };
                connection.cut = true;
                for (towards, left) in connection.towards.iter_mut().zip(left) {
                    towards.truncate(left.into());
                }
            }
            Step::Ping { side } => self.ends[usize::from(side)].session.ping(1),
            Step::Millis(millis) => self.now += Duration::from_millis(millis.into()),
        }
    }

    fn pick(&self, stream: u8) -> Option<u32> {
        (self.streams > 0).then(|| u32::from(stream) % self.streams + 1)
    }

    fn open(&mut self) {
        if let Ok(id) = self.ends[DIALER].session.open(Opening::to("s"), Local::default(), self.now) {
            assert_eq!(id, self.streams + 1);
            self.streams = id;
            for side in [&mut self.wrote, &mut self.got].into_iter().flatten() {
                side.push((0, false));
            }
        }
    }

    fn write(&mut self, side: usize, stream: u8, count: usize) {
        let Some(id) = self.pick(stream) else { return };
        let session = &mut self.ends[side].session;
        let quota = session.quota(id, count as u64);
        if quota == 0 {
            return;
        }
        let count = session.fill(id, quota, |local, slot| {
            for (at, place) in slot.iter_mut().enumerate() {
                *place = byte(side, id, local.written + at as u64);
            }
            local.written += slot.len() as u64;
            (slot.len(), slot.len())
        });
        let count = count.unwrap_or_else(|| panic!("a quota of no stream"));
        self.wrote[side][id as usize - 1].0 += count as u64;
        self.handled += count;
    }

    fn finish(&mut self, side: usize, stream: u8) {
        if let Some(id) = self.pick(stream) {
            self.finish_stream(side, id);
        }
    }

    fn finish_stream(&mut self, side: usize, id: u32) {
        let session = &mut self.ends[side].session;
        if let Some(local) = session.get(id) {
            local.finished = true;
            session.finish(id);
            self.wrote[side][id as usize - 1].1 = true;
            self.through(side, id);
        }
    }

    fn pass(&mut self, side: usize, id: u32, count: u64) {
        let session = &mut self.ends[side].session;
        let Some(local) = session.get(id) else { return };
        let count = count.min(local.held);
        local.held -= count;
        if count > 0 {
            session.pass(id, count as usize);
        }
    }

    /// A stream that has come to both its ends is let go of.
    fn through(&mut self, side: usize, id: u32) {
        let session = &mut self.ends[side].session;
        if session.is_finished(id) {
            assert!(session.get(id).is_some_and(|local| local.finished && local.heard_end));
            session.release(id);
        }
    }

    /// Puts at most `count` bytes on the connection of `side`. False: there was nothing to say, or nobody to say it to.
    fn speak(&mut self, side: usize, count: usize) -> bool {
        let end = &mut self.ends[side];
        let Some(wire) = end.wire else { return false };
        end.session.emit(64 * 1024, self.now);
        let connection = &mut self.connections[wire];
        let next = end.session.next();
        let count = count.min(next.len());
        // Written to a dead connection, they are gone.
        if !connection.cut {
            connection.towards[1 - side].extend(&next[..count]);
        }
        end.session.sent(count);
        self.handled += count;
        count > 0
    }

    /// `side` is through with a connection.
    fn close(&mut self, side: usize, place: usize) {
        let connection = &mut self.connections[place];
        connection.closed[side] = true;
        connection.towards[side].clear();
        // The other end may still have what is on its way.
        connection.cut = true;
    }

    /// At most `count` bytes arrive at `side`.
    fn arrive(&mut self, place: usize, side: usize, count: usize) -> bool {
        let Some(connection) = self.connections.get_mut(place) else { return false };
        let frozen = side == DIALER && !self.claims.is_empty() && self.ends[DIALER].wire == Some(place);
        // While a claim is out, the old connection is not read: the offset told is the offset kept.
        if frozen || connection.closed[side] {
            return false;
        }
        let count = count.min(connection.towards[side].len());
        let bytes: Vec<u8> = connection.towards[side].drain(..count).collect();
        self.handled += count;
        if count == 0 {
            return false;
        }
        if self.ends[side].wire == Some(place) {
            self.receive(side, &bytes);
        } else if side == GATEWAY {
            self.hear_hello(place, &bytes);
        } else {
            self.hear_answer(place, &bytes);
        }
        true
    }

    fn receive(&mut self, side: usize, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            let session = &mut self.ends[side].session;
            let incoming = match session.receive(self.now, &mut rest) {
                Ok(Some(incoming)) => incoming,
                Ok(None) => break,
                Err(violation) => panic!("side {side} takes what the other said for wrong: {violation}"),
            };
            match incoming {
                Incoming::Open { stream, opening } => {
                    assert_eq!(side, GATEWAY);
                    session.admit(stream, &opening, Local::default(), self.now);
                    session.accept(stream);
                }
                Incoming::Data { stream, bytes } => {
                    let got = &mut self.got[side][stream as usize - 1];
                    let Some(local) = session.get(stream) else { panic!("data of stream {stream}") };
                    assert_eq!(got.0, local.read);
                    for (at, found) in bytes.iter().enumerate() {
                        let due = byte(1 - side, stream, got.0 + at as u64);
                        assert_eq!(*found, due, "side {side}, stream {stream}, byte {}", got.0 + at as u64);
                    }
                    got.0 += bytes.len() as u64;
                    local.read += bytes.len() as u64;
                    local.held += bytes.len() as u64;
                    assert!(!got.1 && got.0 <= self.wrote[1 - side][stream as usize - 1].0, "more than was written");
                }
                Incoming::Fin { stream } => {
                    let got = &mut self.got[side][stream as usize - 1];
                    assert_eq!(*got, (self.wrote[1 - side][stream as usize - 1].0, false), "an end in the middle");
                    got.1 = true;
                    if let Some(local) = session.get(stream) {
                        local.heard_end = true;
                    }
                    self.through(side, stream);
                }
                Incoming::Reset { .. } | Incoming::Refused { .. } => panic!("nobody has reset a stream"),
                _ => {}
            }
        }
        assert!(rest.is_empty());
    }

    // ---- claims ----

    fn claim(&mut self) {
        self.epoch += 1;
        let told = self.ends[DIALER].session.received();
        let hello = Hello {
            versions: (1, 1),
            session: SessionId([1; 16]),
            epoch: self.epoch,
            received: told,
            nonce: [2; 32],
            beats: beats(),
            resume: bounds(),
        };
        let hello = hello.encode(Some(&secret()), None, &BINDING);
        let place = self.connections.len();
        let mut connection = Connection::default();
        connection.towards[GATEWAY].extend(&hello);
        self.connections.push(connection);
        self.pending.push((place, Vec::new()));
        self.claims.push(Claim { connection: place, epoch: self.epoch, told, hello, answer: Vec::new() });
        self.handled += 4096;
    }

    fn hear_hello(&mut self, place: usize, bytes: &[u8]) {
        let Some(at) = self.pending.iter().position(|(connection, _)| *connection == place) else { return };
        self.pending[at].1.extend_from_slice(bytes);
        let received = match Received::parse(&self.pending[at].1) {
            Ok(Some((received, length))) => {
                assert_eq!(length, self.pending[at].1.len(), "frames before the welcome");
                received
            }
            Ok(None) => return,
            Err(error) => panic!("{error}"),
        };
        self.pending.remove(at);
        assert!(received.proves_session(&secret(), &BINDING));
        let end = &mut self.ends[GATEWAY];
        let hello = &received.hello;
        let told = end.session.received();
        let newer = hello.epoch > self.newest_claim;
        if !newer || end.session.resume(hello.received, told).is_err() {
            let refusal = Refusal { code: Code::Superseded, retry_after: Duration::ZERO, versions: (1, 1), name: None };
            self.say(place, &refusal.encode());
            return self.close(GATEWAY, place);
        }
        self.newest_claim = hello.epoch;
        let welcome = Welcome {
            version: 1,
            session: hello.session,
            epoch: hello.epoch,
            received: told,
            nonce: [3; 32],
            incarnation: [4; 16],
            beats: beats(),
            resume: bounds(),
            streams: 8,
            name: "gw".to_owned(),
            advertise: None,
        };
        let old = end.wire.replace(place);
        if let Some(old) = old {
            self.close(GATEWAY, old);
        }
        self.say(place, &welcome.encode(&secret(), &BINDING, received.bytes()));
    }

    /// The gateway answers.
    fn say(&mut self, place: usize, bytes: &[u8]) {
        let connection = &mut self.connections[place];
        if !connection.cut {
            connection.towards[DIALER].extend(bytes);
        }
    }

    fn hear_answer(&mut self, place: usize, bytes: &[u8]) {
        let Some(at) = self.claims.iter().position(|claim| claim.connection == place) else { return };
        let claim = &mut self.claims[at];
        claim.answer.extend_from_slice(bytes);
        let (answer, length) = match Answer::parse(&claim.answer) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => panic!("{error}"),
        };
        // The newest holds; the answer to an older one is not taken while a newer one is out.
        let newest = at + 1 == self.claims.len();
        let claim = self.claims.remove(at);
        let Answer::Welcome(welcome) = answer else { return self.close(DIALER, place) };
        assert!(welcome.is_proven(&secret(), &BINDING, &claim.hello));
        assert_eq!(welcome.welcome.epoch, claim.epoch);
        if !newest {
            return self.close(DIALER, place);
        }
        for older in std::mem::take(&mut self.claims) {
            self.close(DIALER, older.connection);
        }
        let end = &mut self.ends[DIALER];
        let old = end.wire.replace(place);
        if let Err(violation) = end.session.resume(welcome.welcome.received, claim.told) {
            panic!("the gateway's offset is refused: {violation}");
        }
        if let Some(old) = old {
            self.close(DIALER, old);
        }
        self.receive(DIALER, &claim.answer[length..]);
    }

    // ---- the end ----

    /// Nothing breaks any more: one more claim, and then all that was written arrives.
    fn heal(&mut self) {
        for claim in std::mem::take(&mut self.claims) {
            self.close(DIALER, claim.connection);
        }
        self.claim();
        let last = self.connections.len() - 1;
        let mut idle = 0;
        // Pings have what is received acknowledged; a third silence is the end.
        while idle < 3 {
            let mut moved = false;
            for side in [GATEWAY, DIALER] {
                while self.arrive(last, side, usize::MAX) {
                    moved = true;
                }
                for id in 1..=self.streams {
                    self.pass(side, id, u64::MAX);
                    self.finish_stream(side, id);
                }
                while self.speak(side, usize::MAX) {
                    moved = true;
                }
            }
            if !moved {
                idle += 1;
                self.now += Duration::from_millis(1000);
                self.ends.iter_mut().for_each(|end| end.session.ping(2));
            }
        }
        assert_eq!((self.ends[0].wire, self.ends[1].wire), (Some(last), Some(last)), "the last claim came to nothing");
        for side in [DIALER, GATEWAY] {
            assert_eq!(self.got[side], self.wrote[1 - side], "side {side}");
            assert_eq!(self.ends[side].session.streams(), 0, "side {side} keeps streams that are over");
            assert!(self.ends[side].session.unacknowledged() < 4096, "side {side} keeps bytes that have arrived");
        }
    }
}

fn beats() -> Beats {
    Beats { interval: Duration::from_secs(5), timeout: Duration::from_secs(3), misses: 3 }
}

fn bounds() -> Resume {
    Resume { deadline: Duration::from_secs(60), buffer: LIMITS.buffer }
}
