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
mod outgoing;
mod rate;
mod streams;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::frame::{GoAwayCode, Opening, RefusalCode, ResetCode};
use super::inbound::Inbound;
use super::outbound::Outbound;
use super::pace::Bucket;
use super::stream::{LastWord, Stream};
use super::violation::Violation;
use super::window::{LONG_PATH, Pool};
use crate::config::Beats;
use rate::Rate;

/// What may be outstanding for replay at least: below, a local network is held up; 8 MiB cost 16 % in cache misses.
const REPLAY_LEAST: u64 = 2 * 1024 * 1024;
/// The same over a long path, where no byte stays in the cache until it is acknowledged, and growing from less would take
/// many round trips.
const REPLAY_LEAST_FAR: u64 = 8 * 1024 * 1024;
/// What may be outstanding where memory is shared and used up: less than the peer acknowledges at a time would lock both up.
const REPLAY_ALWAYS: u64 = 256 * 1024;
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

    /// What may be outstanding for replay at this moment: twice what the path holds, and no more than a quarter of what
    /// others leave on top of what is.
    pub fn replay_limit(&self) -> u64 {
        let rtt = self.rtt.unwrap_or_default();
        let path = 2.0 * self.rate.bytes_a_second() * rtt.as_secs_f64();
        let least = if rtt >= LONG_PATH { REPLAY_LEAST_FAR } else { REPLAY_LEAST };
        let shared = self.out.unacknowledged().saturating_add(self.pool.spare / 4).max(REPLAY_ALWAYS);
        (path as u64).max(least).min(self.limits.buffer).min(shared)
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

    /// How much more all of it may grow, by a bound that several sessions share.
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
        self.rate.begin_anew();
        Ok(again)
    }
}

#[cfg(test)]
mod tests;
