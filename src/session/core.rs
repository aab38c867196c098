//! A session: the streams that outlive a connection. Pure.
//!
//! It knows no socket, clock or task: bytes and `now` come in, frames and bytes go out. Three kinds of method: what
//! [arrives](Session::receive), what the owner of the streams wants (`open`, `fill`, `pass`, `finish`, `reset`), and what to
//! [send](Session::emit). Every buffer has a bound and an answer for the day it is reached:
//!
//! | full | answer |
//! |---|---|
//! | bytes kept for replay | OPEN and DATA wait; the owner reads no local socket. CREDIT, FIN, RESET and ACK pass |
//! | a mebibyte of those beyond the buffer | a peer that reads and never acknowledges: a violation |
//! | bytes waiting for the connection | words wait; PONG, ACK and each stream's CREDIT in a slot of their own |
//! | a stream's window | the peer stops sending; more is a violation |
//! | last words waiting to be sent | the link is read no further, see [`Session::may_read`] |
//! | OPENs or small frames a second | the link is read later |

mod arrivals;
mod streams;
mod words;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::frame::{GoAwayCode, Opening, RefusalCode, ResetCode};
use super::inbound::Inbound;
use super::outbound::Outbound;
use super::pace::Bucket;
use super::stream::{LastWord, Stream};
use super::violation::Violation;
use super::window::Pool;
use crate::config::Beats;

/// What may be outstanding for replay at least: below, a local network is held up; 8 MiB cost 16 % in cache misses.
const REPLAY_LEAST: u64 = 2 * 1024 * 1024;
/// The same over a long path, where no byte stays in the cache until it is acknowledged, and growing from less would take
/// many round trips.
const REPLAY_LEAST_FAR: u64 = 8 * 1024 * 1024;
/// A round trip from which on a path is long.
pub(super) const LONG_PATH: Duration = Duration::from_millis(2);
/// OPENs a second. Well above what two programs on two cores can open and close (some 10,000), and below what would keep
/// a gateway from everything else.
const OPENS: f64 = 20_000.0;

/// Bounds of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Unacknowledged bytes kept for replay.
    pub buffer: u64,
    /// What the peer keeps of its own: it must hear from us long before that is full.
    pub peer_buffer: u64,
    /// Bytes of all our receiving windows.
    pub windows: u64,
    /// Streams at once.
    pub streams: usize,
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'b> {
    /// A new stream; it is answered by [`Session::accept`] or [`Session::refuse`].
    Open {
        stream: u32,
        opening: Opening,
    },
    Opened {
        stream: u32,
    },
    Refused {
        stream: u32,
        code: RefusalCode,
    },
    /// Bytes to be passed on, then confirmed by [`Session::pass`].
    Data {
        stream: u32,
        bytes: &'b [u8],
    },
    /// No more data will come.
    Fin {
        stream: u32,
    },
    /// It is over; what it still holds is dropped. To be [released](Session::release).
    Reset {
        stream: u32,
        code: ResetCode,
    },
    /// The stream may send again.
    Credit {
        stream: u32,
    },
    /// The answer to a PING, with its clock.
    Pong {
        clock: u64,
    },
    /// A PING; its answer is prepared.
    Ping,
    /// Bytes were acknowledged.
    Acked,
    Tune(Beats),
    GoAway {
        code: GoAwayCode,
        retry_after: Duration,
    },
    /// Nothing for the owner.
    Nothing,
}

/// The session as one end holds it; `T` is what the owner keeps with each stream.
pub struct Session<T> {
    dialer: bool,
    limits: Limits,
    streams: HashMap<u32, Stream<T>>,
    /// The last stream opened, by us or by the peer.
    newest: u32,
    out: Outbound,
    inbound: Inbound,
    /// The offset of ours that the peer was last told.
    told: u64,
    /// Where the last frame that is no PING, PONG or ACK ends: what the peer owes an acknowledgement for.
    owed: u64,
    /// Streams of ours whose OPEN is not written yet, in the order of their identifiers.
    unopened: VecDeque<u32>,
    listed: VecDeque<u32>,
    /// A stream has more to say than CREDIT, or its peer may soon have none.
    pressing: bool,
    last_words: VecDeque<(u32, LastWord)>,
    ping: Option<u64>,
    pong: Option<u64>,
    tune: Option<Beats>,
    go_away: Option<(GoAwayCode, Duration)>,
    go_away_due: bool,
    /// Where the first GOAWAY of ours ends, once it is written.
    go_away_ends: Option<u64>,
    /// An ACK of the peer's has covered it: what it says from then on was said with that in mind.
    go_away_heard: bool,
    /// The peer wants no new streams.
    turned_away: bool,
    pool: Pool,
    rtt: Option<Duration>,
    rate: Rate,
    opens: Bucket,
    small: Bucket,
    tiny: Bucket,
    pings: Bucket,
    /// The largest buffer that ever held.
    kept_most: u64,
    last_data: u32,
    company: Option<Instant>,
    #[cfg(test)]
    pub(super) broken: super::Broken,
}

/// Bytes acknowledged a second, and from when it is measured.
#[derive(Debug, Default)]
struct Rate {
    since: Option<Instant>,
    from: u64,
    bytes: f64,
}

impl<T> Session<T> {
    /// `dialer`: this end opens the streams.
    pub fn new(dialer: bool, limits: Limits, now: Instant) -> Self {
        let pool = Pool { limit: limits.windows, streams: limits.streams, used: 0, open: 0, spare: u64::MAX };
        Self {
            dialer,
            limits,
            streams: HashMap::new(),
            newest: 0,
            out: Outbound::default(),
            inbound: Inbound::default(),
            told: 0,
            owed: 0,
            unopened: VecDeque::new(),
            listed: VecDeque::new(),
            pressing: false,
            last_words: VecDeque::new(),
            ping: None,
            pong: None,
            tune: None,
            go_away: None,
            go_away_due: false,
            go_away_ends: None,
            go_away_heard: false,
            turned_away: false,
            pool,
            rtt: None,
            rate: Rate::default(),
            // More are read later, not refused.
            opens: Bucket::new(OPENS, OPENS, now),
            // CREDIT, ACK, OPENED and the like: some ten for each megabyte or connection.
            small: Bucket::new(200_000.0, 100_000.0, now),
            // More than a core can pass on, each by a system call.
            tiny: Bucket::new(200_000.0, 200_000.0, now),
            // A beat comes every 50 ms at most; those of an outage come at once when it ends.
            pings: Bucket::new(4000.0, 200.0, now),
            kept_most: limits.buffer,
            last_data: 0,
            company: None,
            #[cfg(test)]
            broken: super::Broken::current(),
        }
    }

    // ---- numbers ----

    /// Streams that are not released yet.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes received over all connections: what the peer need not send again.
    pub fn received(&self) -> u64 {
        self.inbound.received()
    }

    /// Bytes kept for replay.
    pub fn unacknowledged(&self) -> u64 {
        self.out.unacknowledged()
    }

    /// The offset up to which the peer has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.out.acked()
    }

    /// The peer owes an acknowledgement for more than beats.
    pub fn is_owed(&self) -> bool {
        self.owed > self.out.acked()
    }

    /// Bytes not yet handed to a connection.
    pub fn unsent(&self) -> u64 {
        self.out.unsent()
    }

    /// The offset behind the last byte written, and that of the first not yet handed to a connection.
    pub fn written(&self) -> (u64, u64) {
        (self.out.written(), self.out.written() - self.out.unsent())
    }

    /// A beat was asked for and is not yet written.
    pub fn owes_ping(&self) -> bool {
        self.ping.is_some()
    }

    /// Memory for replay and promised to windows, in bytes.
    pub fn memory(&self) -> u64 {
        self.out.memory() + self.pool.used
    }

    /// What may be outstanding for replay at this moment: twice what the path holds.
    pub fn replay_limit(&self) -> u64 {
        let rtt = self.rtt.unwrap_or_default();
        let path = 2.0 * self.rate.bytes * rtt.as_secs_f64();
        let least = if rtt >= LONG_PATH { REPLAY_LEAST_FAR } else { REPLAY_LEAST };
        (path as u64).max(least).min(self.limits.buffer)
    }

    /// Bytes promised to windows.
    #[cfg(test)]
    pub(super) fn windows(&self) -> u64 {
        self.pool.used
    }

    /// Places on the list of streams with something to say.
    #[cfg(test)]
    pub(super) fn listed(&self) -> usize {
        self.listed.len()
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes new bounds. Windows already granted stay until they are used.
    pub fn retune(&mut self, limits: Limits) {
        self.limits = limits;
        self.kept_most = self.kept_most.max(limits.buffer);
        (self.pool.limit, self.pool.streams) = (limits.windows, limits.streams);
    }

    /// The smallest round trip known.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(self.rtt.map_or(rtt, |known| known.min(rtt)));
    }

    /// A new connection may have a longer path.
    pub fn forget_rtt(&mut self) {
        self.rtt = None;
    }

    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// How much further windows may grow, by a bound that several sessions share.
    pub fn set_spare(&mut self, spare: u64) {
        self.pool.spare = spare;
    }

    pub fn get(&mut self, stream: u32) -> Option<&mut T> {
        self.streams.get_mut(&stream).map(|stream| &mut stream.user)
    }

    /// In the order in which they were opened.
    pub fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The other end has taken the stream, as far as we know.
    pub fn is_answered(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.answered)
    }

    // ---- connections ----

    /// Whether the peer may go on from `received`: it was sent, and is still kept. An honest dialer can ask for less than
    /// is [acknowledged](Self::acknowledged), by a Hello that arrives after it was given up: that claim is to be refused, and
    /// the session goes on. More than was sent is a lie.
    pub fn can_resume(&self, received: u64) -> bool {
        self.out.keeps(received)
    }

    /// A new connection takes over; the peer has received everything before `received`. Returns how many bytes are sent
    /// again. `told`: the offset of ours that the peer was told in turn. Errors: see [`can_resume`](Self::can_resume);
    /// nothing has changed then.
    pub fn resume(&mut self, received: u64, told: u64) -> Result<u64, Violation> {
        #[cfg(test)]
        if self.broken.no_replay {
            let sent = self.out.written();
            self.out.rewind(self.out.acked())?;
            self.out.sent((sent - self.out.acked()) as usize);
            return Ok(0);
        }
        let again = self.out.rewind(received)?;
        self.told = self.told.max(told);
        self.go_away_due = self.go_away.is_some();
        self.rate.since = None;
        Ok(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one end says goes to the other, whose owner takes every stream and ends what has come to its ends.
    fn talk(from: &mut Session<()>, to: &mut Session<()>, now: Instant) {
        from.emit(u64::MAX, now);
        while !from.next().is_empty() {
            let bytes = from.next().to_vec();
            from.sent(bytes.len());
            let mut rest = &bytes[..];
            while let Some(incoming) = to.receive(now, &mut rest).unwrap() {
                match incoming {
                    Incoming::Open { stream, opening } => {
                        to.admit(stream, &opening, (), now);
                        to.finish(stream);
                    }
                    Incoming::Fin { stream } if to.is_finished(stream) => {
                        to.release(stream);
                    }
                    Incoming::Refused { stream, code } => panic!("stream {stream} is refused: {code:?}"),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn a_stream_that_is_over_makes_room_before_the_next_is_opened() {
        let now = Instant::now();
        let limits = Limits { buffer: 1 << 20, peer_buffer: 1 << 20, windows: 1 << 20, streams: 1 };
        let (mut dialer, mut gateway) = (Session::new(true, limits, now), Session::new(false, limits, now));
        let first = dialer.open("s", None, None, 0, (), now).unwrap();
        talk(&mut dialer, &mut gateway, now);
        talk(&mut gateway, &mut dialer, now);
        // Its end waits to be said while the next stream is opened.
        dialer.finish(first);
        assert!(dialer.is_finished(first) && dialer.release(first).is_some());
        let next = dialer.open("s", None, None, 0, (), now).unwrap();
        talk(&mut dialer, &mut gateway, now);
        talk(&mut gateway, &mut dialer, now);
        assert!(gateway.get(next).is_some() && gateway.streams() == 1);
    }

    #[test]
    fn what_waits_to_be_opened_when_a_goaway_comes_is_opened_before_it_is_acknowledged() {
        let now = Instant::now();
        let limits = Limits { buffer: 4096, peer_buffer: 4096, windows: 1 << 20, streams: 100 };
        let (mut dialer, mut gateway) = (Session::new(true, limits, now), Session::new(false, limits, now));
        let first = dialer.open("s", None, None, 0, (), now).unwrap();
        dialer.emit(u64::MAX, now);
        dialer.fill(first, 4096, |(), slot| (slot.len(), ()));
        // No room to keep more for replay.
        let waiting = dialer.open("s", None, None, 0, (), now).unwrap();
        dialer.emit(u64::MAX, now);
        assert!(dialer.is_full() && !dialer.unopened.is_empty());
        gateway.go_away(GoAwayCode::Draining, Duration::ZERO);
        talk(&mut gateway, &mut dialer, now);
        assert!(!dialer.can_open() && dialer.open("s", None, None, 0, (), now).is_err());
        // The connection breaks. The Hello's offset is behind the GOAWAY, and the OPENs come only then.
        gateway.resume(dialer.received(), 0).unwrap();
        dialer.resume(0, dialer.received()).unwrap();
        assert!(!gateway.is_owed() && !gateway.is_go_away_heard());
        dialer.ping(1);
        talk(&mut dialer, &mut gateway, now);
        assert!(gateway.get(waiting).is_some());
        talk(&mut gateway, &mut dialer, now);
        dialer.ping(2);
        talk(&mut dialer, &mut gateway, now);
        assert!(gateway.is_go_away_heard());
    }

    #[test]
    fn acknowledgements_and_credit_may_wait_unless_the_peer_soon_has_none() {
        let now = Instant::now();
        let limits = Limits { buffer: 1 << 20, peer_buffer: 1 << 20, windows: 4 << 20, streams: 1 };
        let (mut dialer, mut gateway) = (Session::new(true, limits, now), Session::new(false, limits, now));
        let stream = dialer.open("s", None, None, 0, (), now).unwrap();
        // `count` bytes arrive and are passed on.
        let mut passes = |gateway: &mut Session<()>, count: usize| {
            dialer.emit(u64::MAX, now);
            dialer.fill(stream, count, |(), slot| (slot.len(), ()));
            while !dialer.next().is_empty() {
                let bytes = dialer.next().to_vec();
                dialer.sent(bytes.len());
                let mut rest = &bytes[..];
                while let Some(incoming) = gateway.receive(now, &mut rest).unwrap() {
                    match incoming {
                        Incoming::Open { stream, opening } => gateway.admit(stream, &opening, (), now),
                        Incoming::Data { stream, bytes } => gateway.pass(stream, bytes.len()),
                        _ => {}
                    }
                }
            }
            (gateway.has_words(), gateway.may_wait())
        };
        assert_eq!(passes(&mut gateway, 16 * 1024), (true, false), "all that it could send was sent");
        gateway.emit(u64::MAX, now);
        assert!(!gateway.has_words());
        assert_eq!(passes(&mut gateway, 15 * 1024), (false, true));
        assert_eq!(passes(&mut gateway, 1024), (true, true), "a quarter of 64 KiB");
        assert_eq!(passes(&mut gateway, 17 * 1024), (true, false), "half of it");
        gateway.emit(u64::MAX, now);
        assert_eq!(passes(&mut gateway, 16 * 1024), (true, true));
        gateway.ping(1);
        assert!(!gateway.may_wait());
        gateway.emit(u64::MAX, now);
        gateway.finish(stream);
        assert!(gateway.has_words() && !gateway.may_wait());
    }
}
