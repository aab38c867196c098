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

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::frame::{
    self, CONTROL_MAX, GoAwayCode, HEADER, HOPS_MAX, Kind, Opening, PAYLOAD_MAX, RefusalCode, ResetCode,
};
use super::inbound::{Inbound, Piece};
use super::outbound::Outbound;
use super::pace::Bucket;
use super::stream::{Direction, LastWord, Pending, Stream};
use super::violation::Violation;
use super::window::{INITIAL, LARGEST, Pool, Window};
use crate::config::Beats;

/// What may be outstanding for replay at least: below, a local network is held up; 8 MiB cost 16 % in cache misses.
const REPLAY_LEAST: u64 = 2 * 1024 * 1024;
/// The same over a long path, where no byte stays in the cache until it is acknowledged, and growing from less would take
/// many round trips.
const REPLAY_LEAST_FAR: u64 = 8 * 1024 * 1024;
/// A round trip from which on a path is long.
pub(super) const LONG_PATH: Duration = Duration::from_millis(2);
/// An ACK goes out after so many bytes at the latest.
const ACK_EVERY: u64 = 128 * 1024;
/// A peer that keeps next to nothing is not told of every byte.
const ACK_LEAST: u64 = 4 * 1024;
/// Last words waiting: at 16 bytes each, a quarter of a mebibyte.
const LAST_WORDS: usize = 16 * 1024;
/// A frame of another stream within this time: a stream is not alone.
const COMPANY: Duration = Duration::from_millis(100);
/// What frames other than OPEN and DATA may add to the bytes kept for replay. An honest peer acknowledges long before: a
/// mebibyte is the CREDITs for a gigabyte.
const CONTROL_MOST: u64 = 1024 * 1024;
/// With less than this waiting, PONG and ACK go out even if the connection is full.
const BEATS: u64 = 1024;
/// DATA shorter than this is counted as a small frame is.
const TINY: u32 = 256;
/// OPENs a second. Well above what two programs on two cores can open and close (some 10,000), and below what would keep
/// a gateway from everything else.
const OPENS: f64 = 20_000.0;
/// Our credit for one stream ends here; a peer that gives more is at fault.
const CREDIT_MOST: u64 = 4 * LARGEST;

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
    last_words: VecDeque<(u32, LastWord)>,
    ping: Option<u64>,
    pong: Option<u64>,
    tune: Option<Beats>,
    go_away: Option<(GoAwayCode, Duration)>,
    go_away_due: bool,
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
            last_words: VecDeque::new(),
            ping: None,
            pong: None,
            tune: None,
            go_away: None,
            go_away_due: false,
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

    // ---- what the owner wants ----

    /// Whether [`open`](Self::open) would take another stream.
    pub fn can_open(&self) -> bool {
        self.dialer && self.streams.len() < self.limits.streams && !self.is_used_up()
    }

    /// No identifier is left for another stream.
    pub fn is_used_up(&self) -> bool {
        self.newest == u32::MAX
    }

    /// Opens a stream. Data may follow at once. `Err` gives `user` back: the streams or their identifiers are used up.
    pub fn open(
        &mut self,
        service: &str,
        client: Option<SocketAddr>,
        local: Option<SocketAddr>,
        hops: u8,
        user: T,
        now: Instant,
    ) -> Result<u32, T> {
        if !self.can_open() {
            return Err(user);
        }
        self.newest += 1;
        let id = self.newest;
        let window = Window::opened(&mut self.pool, now);
        let opening = Opening { window: window.size(), hops, service: service.to_owned(), client, local };
        let pending = Pending { open: true, ..Pending::default() };
        let stream = Stream {
            user,
            credit: u64::from(INITIAL),
            sending: Direction::Open,
            receiving: Direction::Open,
            window,
            pending,
            answered: false,
            opening: Some(Box::new(opening)),
        };
        self.streams.insert(id, stream);
        self.unopened.push_back(id);
        Ok(id)
    }

    /// A stream that the peer opened is taken.
    pub fn accept(&mut self, stream: u32) {
        // Over a long path the first window is a matter of round trips: it is widened at once.
        let far = self.rtt.is_some_and(|rtt| rtt >= LONG_PATH);
        self.say(stream, |pending| {
            pending.opened = true;
            pending.credit |= far;
        });
    }

    /// A stream that the peer opened is not taken; what belongs to it comes back.
    pub fn refuse(&mut self, stream: u32, code: RefusalCode) -> Option<T> {
        self.part(stream, Some(LastWord::Refused(code)))
    }

    /// Bytes of `stream` that could be sent now, were there any: bounded by credit, by what is kept for replay, and by
    /// `room`, what the connection should be given.
    pub fn quota(&self, stream: u32, room: u64) -> usize {
        let Some(stream) = self.streams.get(&stream) else { return 0 };
        if stream.pending.open || stream.sending != Direction::Open {
            return 0;
        }
        let kept = self.replay_limit().saturating_sub(self.out.unacknowledged());
        #[cfg(test)]
        if self.broken.no_window {
            return kept.min(room).min(PAYLOAD_MAX as u64) as usize;
        }
        stream.credit.min(kept).min(room).min(PAYLOAD_MAX as u64) as usize
    }

    /// The peer lets the stream send more.
    pub fn has_credit(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.credit > 0)
    }

    /// Lets `read` put at most `most` bytes of the stream's data where they will be sent from; it tells how many.
    pub fn fill<R>(
        &mut self,
        stream: u32,
        most: usize,
        read: impl FnOnce(&mut T, &mut [u8]) -> (usize, R),
    ) -> Option<R> {
        let entry = self.streams.get_mut(&stream)?;
        let slot = self.out.slot(most);
        let longest = slot.len();
        let (count, result) = read(&mut entry.user, slot);
        let count = count.min(longest);
        if count > 0 {
            entry.credit = entry.credit.saturating_sub(count as u64);
            self.out.commit(stream, count);
            self.owed = self.out.written();
        }
        Some(result)
    }

    /// No more data of ours will come.
    pub fn finish(&mut self, stream: u32) {
        if let Some(entry) = self.streams.get_mut(&stream)
            && entry.sending == Direction::Open
        {
            entry.sending = Direction::Ended;
            self.say(stream, |pending| pending.fin = true);
        }
    }

    /// So many bytes of the stream's data were passed on: the peer may send as many again.
    pub fn pass(&mut self, stream: u32, count: usize) {
        let Some(entry) = self.streams.get_mut(&stream) else { return };
        if entry.window.pass(count as u64) && entry.receiving == Direction::Open {
            self.say(stream, |pending| pending.credit = true);
        }
    }

    /// Ends a stream at once, both ways; the peer is told.
    pub fn reset(&mut self, stream: u32, code: ResetCode) -> Option<T> {
        self.part(stream, Some(LastWord::Reset(code)))
    }

    /// Both ends are through with the stream, or the peer has reset it.
    pub fn release(&mut self, stream: u32) -> Option<T> {
        let fin = self.streams.get(&stream)?.pending.fin.then_some(LastWord::Fin);
        self.part(stream, fin)
    }

    /// Both directions have come to their orderly ends.
    pub fn is_finished(&self, stream: u32) -> bool {
        let ended = |stream: &Stream<T>| (stream.sending, stream.receiving) == (Direction::Ended, Direction::Ended);
        self.streams.get(&stream).is_some_and(ended)
    }

    fn part(&mut self, id: u32, word: Option<LastWord>) -> Option<T> {
        let stream = self.streams.remove(&id)?;
        stream.window.close(&mut self.pool);
        if stream.pending.open
            && let Ok(place) = self.unopened.binary_search(&id)
        {
            self.unopened.remove(place);
        }
        // The peer never heard of it: nothing is said.
        if let (Some(word), false) = (word, stream.pending.open) {
            self.last_words.push_back((id, word));
        }
        Some(stream.user)
    }

    fn say(&mut self, id: u32, what: impl FnOnce(&mut Pending)) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        what(&mut stream.pending);
        // With its OPEN unwritten it comes on the list later.
        if !stream.pending.open && !std::mem::replace(&mut stream.pending.listed, true) {
            self.list(id);
        }
    }

    fn list(&mut self, id: u32) {
        // Streams that are over leave their place on the list: not without end while nothing can be written.
        if self.listed.len() > 2 * self.streams.len() + 64 {
            self.listed.retain(|id| self.streams.get(id).is_some_and(|stream| stream.pending.listed));
        }
        self.listed.push_back(id);
    }

    /// A PING with this clock is to be sent; a former one that was not sent yet is forgotten.
    pub fn ping(&mut self, clock: u64) {
        self.ping = Some(clock);
    }

    /// The peer shall know our heartbeat numbers.
    pub fn tune(&mut self, beats: Beats) {
        self.tune = Some(beats);
    }

    /// No new streams are wanted. Said again over every new connection while it holds.
    pub fn go_away(&mut self, code: GoAwayCode, retry_after: Duration) {
        self.go_away = Some((code, retry_after));
        self.go_away_due = true;
    }

    pub fn is_going_away(&self) -> bool {
        self.go_away.is_some()
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

    // ---- what arrives ----

    /// Whether the link may be read now; if not, from when on (`None`: once something was sent).
    pub fn may_read(&mut self, now: Instant) -> Result<(), Option<Instant>> {
        if self.last_words.len() >= LAST_WORDS {
            return Err(None);
        }
        let later = [&mut self.opens, &mut self.small, &mut self.tiny].map(|bucket| bucket.ready_at(now));
        let later = later.into_iter().flatten().max();
        later.map_or(Ok(()), |at| Err(Some(at)))
    }

    /// Takes bytes from the front of `input` up to the next thing to act upon; `None`: all are taken.
    /// Errors: the peer broke the protocol, and the session is over.
    pub fn receive<'b>(&mut self, now: Instant, input: &mut &'b [u8]) -> Result<Option<Incoming<'b>>, Violation> {
        match self.inbound.take(input)? {
            None => Ok(None),
            Some(Piece::Data { stream, bytes, begins }) => self.data(now, stream, bytes, begins).map(Some),
            Some(Piece::Frame { stream, kind }) => self.frame(now, stream, kind).map(Some),
            Some(Piece::Skipped) => {
                self.small.take(now);
                Ok(Some(Incoming::Nothing))
            }
        }
    }

    fn data<'b>(
        &mut self,
        now: Instant,
        id: u32,
        bytes: &'b [u8],
        begins: Option<u32>,
    ) -> Result<Incoming<'b>, Violation> {
        if begins.is_some_and(|length| length < TINY) {
            self.tiny.take(now);
        }
        if id != self.last_data {
            self.last_data = id;
            self.company = Some(now);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            // Late data of a stream that we have ended.
            return if id <= self.newest { Ok(Incoming::Nothing) } else { Err(Violation::Stream) };
        };
        if stream.pending.open {
            return Err(Violation::Stream);
        }
        if stream.receiving != Direction::Open {
            return Err(Violation::AfterFin);
        }
        // The whole frame is held against the window before its first byte is passed on.
        if let Some(length) = begins {
            stream.window.receive(length.into())?;
            stream.answered = true;
        }
        Ok(if bytes.is_empty() { Incoming::Nothing } else { Incoming::Data { stream: id, bytes } })
    }

    fn frame<'b>(&mut self, now: Instant, id: u32, kind: Kind) -> Result<Incoming<'b>, Violation> {
        self.small.take(now);
        let payload = self.inbound.payload();
        let number = |payload: &[u8]| payload.try_into().map(u64::from_le_bytes).map_err(|_| Violation::Length);
        let byte = payload.first().copied().unwrap_or_default();
        let dialers = matches!(kind, Kind::Opened | Kind::Refused);
        if (kind == Kind::Open && self.dialer) || (dialers && !self.dialer) {
            return Err(Violation::Role);
        }
        if kind.is_of_stream() && kind != Kind::Open && id > self.newest {
            return Err(Violation::Stream);
        }
        match self.streams.get(&id) {
            // The peer cannot know of it yet.
            Some(stream) if stream.pending.open => return Err(Violation::Stream),
            Some(stream) if stream.receiving == Direction::Cut && kind != Kind::Open => {
                return Err(Violation::AfterFin);
            }
            _ => {}
        }
        let sent = self.out.unacknowledged() - self.out.unsent();
        if kind != Kind::Ack && sent > self.kept_most + CONTROL_MOST {
            return Err(Violation::Unacknowledged);
        }
        Ok(match kind {
            Kind::Open => {
                let opening = Opening::decode(payload)?;
                return self.opened_by_peer(now, id, opening);
            }
            Kind::Opened => match self.streams.get_mut(&id) {
                Some(stream) => {
                    stream.answered = true;
                    Incoming::Opened { stream: id }
                }
                None => Incoming::Nothing,
            },
            Kind::Refused => match self.streams.get_mut(&id) {
                Some(stream) => {
                    stream.cut();
                    Incoming::Refused { stream: id, code: RefusalCode::from_byte(byte) }
                }
                None => Incoming::Nothing,
            },
            Kind::Credit => {
                let more = payload.try_into().map(u32::from_le_bytes).map_err(|_| Violation::Length)?;
                let Some(stream) = self.streams.get_mut(&id) else { return Ok(Incoming::Nothing) };
                let credit = stream.credit.checked_add(more.into()).filter(|credit| more > 0 && *credit <= CREDIT_MOST);
                stream.credit = credit.ok_or(Violation::Credit)?;
                Incoming::Credit { stream: id }
            }
            Kind::Fin => match self.streams.get_mut(&id) {
                Some(stream) if stream.receiving == Direction::Open => {
                    stream.receiving = Direction::Ended;
                    stream.pending.credit = false;
                    stream.answered = true;
                    Incoming::Fin { stream: id }
                }
                Some(_) => return Err(Violation::AfterFin),
                None => Incoming::Nothing,
            },
            Kind::Reset => match self.streams.get_mut(&id) {
                Some(stream) => {
                    stream.cut();
                    Incoming::Reset { stream: id, code: ResetCode::from_byte(byte) }
                }
                None => Incoming::Nothing,
            },
            Kind::Ping => {
                // One slot, the newest wins: answers never queue.
                self.pong = Some(number(payload)?);
                if !self.pings.take(now) {
                    return Err(Violation::Flood);
                }
                Incoming::Ping
            }
            Kind::Pong => Incoming::Pong { clock: number(payload)? },
            Kind::Ack => {
                let offset = number(payload)?;
                self.out.acknowledge(offset)?;
                self.measure(now);
                Incoming::Acked
            }
            Kind::Tune => {
                let bytes = payload.try_into().map_err(|_| Violation::Length)?;
                Incoming::Tune(frame::decode_beats(bytes)?)
            }
            Kind::GoAway => {
                let wait = payload.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
                let retry_after = Duration::from_millis(wait.unwrap_or_default().into());
                Incoming::GoAway { code: GoAwayCode::from_byte(byte), retry_after }
            }
            // The parser hands data on by itself.
            Kind::Data => Incoming::Nothing,
        })
    }

    fn opened_by_peer<'b>(&mut self, now: Instant, id: u32, opening: Opening) -> Result<Incoming<'b>, Violation> {
        if id <= self.newest {
            return Err(Violation::Reused);
        }
        // Twice the largest window is no window.
        if u64::from(opening.window) > CREDIT_MOST {
            return Err(Violation::Credit);
        }
        self.newest = id;
        self.opens.take(now);
        let refused = if self.streams.len() >= self.limits.streams {
            Some(RefusalCode::Limit)
        } else if self.go_away.is_some() {
            Some(RefusalCode::Draining)
        } else if opening.hops >= HOPS_MAX {
            Some(RefusalCode::Hops)
        } else {
            None
        };
        if let Some(code) = refused {
            self.last_words.push_back((id, LastWord::Refused(code)));
            return Ok(Incoming::Nothing);
        }
        Ok(Incoming::Open { stream: id, opening })
    }

    /// Takes up a stream that [`Incoming::Open`] told of; before anything else is received.
    pub fn admit(&mut self, stream: u32, opening: &Opening, user: T, now: Instant) {
        let window = Window::accepted(&mut self.pool, now);
        let entry = Stream {
            user,
            credit: opening.window.into(),
            sending: Direction::Open,
            receiving: Direction::Open,
            window,
            pending: Pending::default(),
            answered: true,
            opening: None,
        };
        self.streams.insert(stream, entry);
    }

    fn measure(&mut self, now: Instant) {
        let acked = self.out.acked();
        let Some(since) = self.rate.since else {
            (self.rate.since, self.rate.from) = (Some(now), acked);
            return;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed < self.rtt.unwrap_or_default().max(Duration::from_millis(5)) {
            return;
        }
        let bytes = (acked - self.rate.from) as f64 / elapsed.as_secs_f64();
        // Up at once, down slowly: a pause of the sender is no narrower path.
        self.rate.bytes = bytes.max(self.rate.bytes * 0.9);
        (self.rate.since, self.rate.from) = (Some(now), acked);
    }

    // ---- what to send ----

    /// Bytes received since the peer was last told.
    fn untold(&self) -> u64 {
        self.inbound.received().saturating_sub(self.told)
    }

    /// Enough was received for an ACK: long before the peer has no more room to keep.
    fn is_ack_due(&self) -> bool {
        self.untold() >= ACK_EVERY.min(self.limits.peer_buffer / 8).max(ACK_LEAST)
    }

    /// Whether [`emit`](Self::emit) would write something.
    pub fn has_words(&self) -> bool {
        self.ping.is_some()
            || self.pong.is_some()
            || self.tune.is_some()
            || self.go_away_due
            || !self.listed.is_empty()
            || (!self.unopened.is_empty() && !self.is_full())
            || !self.last_words.is_empty()
            || self.is_ack_due()
    }

    /// Writes frames that are no DATA, beats first, until they are all written or about `room` bytes wait for the
    /// connection. Only while there is a connection: what waits meanwhile is coalesced.
    pub fn emit(&mut self, room: u64, now: Instant) {
        // What the peer can call forth at will waits in its slot while nothing moves. Our PINGs are as few as we want.
        let moves = self.out.unsent() < room.max(BEATS);
        let beats = self.ping.is_some() || (self.pong.is_some() && moves);
        if moves && let Some(clock) = self.pong.take() {
            self.out.push(0, Kind::Pong, &clock.to_le_bytes());
        }
        if let Some(clock) = self.ping.take() {
            self.out.push(0, Kind::Ping, &clock.to_le_bytes());
        }
        if (moves && self.is_ack_due()) || (beats && self.untold() > 0) {
            self.told = self.inbound.received();
            self.out.push(0, Kind::Ack, &self.told.to_le_bytes());
        }
        if let (Some((code, retry_after)), true) = (self.go_away, std::mem::take(&mut self.go_away_due)) {
            let wait = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX).to_le_bytes();
            self.push(0, Kind::GoAway, &[&[code as u8], &wait[..]].concat());
        }
        if let Some(beats) = self.tune.take() {
            self.push(0, Kind::Tune, &frame::encode_beats(&beats));
        }
        // Before the OPENs: the peer counts a stream that is over until it hears so, and would refuse one for want of room.
        while self.out.unsent() < room
            && let Some((id, word)) = self.last_words.pop_front()
        {
            match word {
                LastWord::Refused(code) => self.push(id, Kind::Refused, &[code as u8]),
                LastWord::Reset(code) => self.push(id, Kind::Reset, &[code as u8]),
                LastWord::Fin => self.push(id, Kind::Fin, &[]),
            }
        }
        while self.out.unsent() < room
            && let Some(id) = self.unopened.front().copied()
        {
            if self.is_full() {
                break;
            }
            self.unopened.pop_front();
            self.write_open(id);
        }
        while self.out.unsent() < room {
            let Some(id) = self.listed.pop_front() else { break };
            self.speak(id, now);
        }
    }

    fn push(&mut self, stream: u32, kind: Kind, payload: &[u8]) {
        self.out.push(stream, kind, payload);
        self.owed = self.out.written();
    }

    /// No room to keep another OPEN for replay.
    fn is_full(&self) -> bool {
        self.out.unacknowledged() + (HEADER + CONTROL_MAX) as u64 > self.replay_limit()
    }

    fn write_open(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.pending.open = false;
        if let Some(opening) = stream.opening.take() {
            self.out.push(id, Kind::Open, &opening.encode());
            self.owed = self.out.written();
        }
        if stream.pending.any() {
            stream.pending.listed = true;
            self.list(id);
        }
    }

    /// Writes what is to be said of one stream.
    fn speak(&mut self, id: u32, now: Instant) {
        let alone = self.company.is_none_or(|at| now.saturating_duration_since(at) > COMPANY);
        let before = self.out.written();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.pending.listed = false;
        if std::mem::take(&mut stream.pending.opened) {
            self.out.push(id, Kind::Opened, &[]);
        }
        if std::mem::take(&mut stream.pending.credit) && stream.receiving == Direction::Open {
            let more = stream.window.grant(&mut self.pool, self.rtt, alone, now);
            if more > 0 {
                self.out.push(id, Kind::Credit, &more.to_le_bytes());
            }
        }
        if std::mem::take(&mut stream.pending.fin) {
            self.out.push(id, Kind::Fin, &[]);
        }
        if self.out.written() > before {
            self.owed = self.out.written();
        }
    }

    /// What the connection should be given next; then [`sent`](Self::sent).
    #[expect(clippy::should_implement_trait, reason = "what it lends ends with the next call: no iterator")]
    pub fn next(&mut self) -> &[u8] {
        self.out.next()
    }

    /// The connection took so many bytes of [`next`](Self::next).
    pub fn sent(&mut self, count: usize) {
        self.out.sent(count);
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
}
