//! What arrives, and what it changes.

use std::time::{Duration, Instant};

use super::{Incoming, Session};
use crate::session::frame::{self, GoAwayCode, HOPS_MAX, Kind, Opening, RefusalCode, ResetCode};
use crate::session::inbound::Piece;
use crate::session::stream::{Direction, LastWord, Pending, Stream};
use crate::session::violation::Violation;
use crate::session::window::{LARGEST, Window};

/// Last words waiting: at 16 bytes each, a quarter of a mebibyte.
const LAST_WORDS: usize = 16 * 1024;
/// What frames other than OPEN and DATA may add to the bytes kept for replay. An honest peer acknowledges long before: a
/// mebibyte is the CREDITs for a gigabyte.
const CONTROL_MOST: u64 = 1024 * 1024;
/// DATA shorter than this is counted as a small frame is.
const TINY: u32 = 256;
/// Our credit for one stream ends here; a peer that gives more is at fault.
const CREDIT_MOST: u64 = 4 * LARGEST;

impl<T> Session<T> {
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
        }
        Ok(if bytes.is_empty() { Incoming::Nothing } else { Incoming::Data { stream: id, bytes } })
    }

    fn frame<'b>(&mut self, now: Instant, id: u32, kind: Kind) -> Result<Incoming<'b>, Violation> {
        self.small.take(now);
        let dialers = matches!(kind, Kind::Opened | Kind::Refused);
        if (kind == Kind::Open && self.dialer) || (dialers && !self.dialer) {
            return Err(Violation::Role);
        }
        if kind.is_of_stream() && kind != Kind::Open && id > self.newest {
            return Err(Violation::Stream);
        }
        let sent = self.out.unacknowledged() - self.out.unsent();
        if kind != Kind::Ack && sent > self.kept_most + CONTROL_MOST {
            return Err(Violation::Unacknowledged);
        }
        match kind {
            Kind::Open => self.opened_by_peer(now, id),
            _ if kind.is_of_stream() => self.of_stream(id, kind),
            _ => self.of_session(now, kind),
        }
    }

    /// A frame about a stream that was opened before, and may be over.
    fn of_stream<'b>(&mut self, id: u32, kind: Kind) -> Result<Incoming<'b>, Violation> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(Incoming::Nothing) };
        // The peer cannot know of it yet.
        if stream.pending.open {
            return Err(Violation::Stream);
        }
        if stream.receiving == Direction::Cut {
            return Err(Violation::AfterFin);
        }
        let payload = self.inbound.payload();
        let code = payload.first().copied().unwrap_or_default();
        Ok(match kind {
            Kind::Opened => Incoming::Opened { stream: id },
            Kind::Refused => {
                stream.cut();
                Incoming::Refused { stream: id, code: RefusalCode::from_byte(code) }
            }
            Kind::Credit => {
                let more = payload.try_into().map(u32::from_le_bytes).map_err(|_| Violation::Length)?;
                let credit = stream.credit.checked_add(more.into()).filter(|credit| more > 0 && *credit <= CREDIT_MOST);
                stream.credit = credit.ok_or(Violation::Credit)?;
                Incoming::Credit { stream: id }
            }
            Kind::Fin if stream.receiving == Direction::Open => {
                stream.receiving = Direction::Ended;
                stream.pending.credit = false;
                Incoming::Fin { stream: id }
            }
            Kind::Fin => return Err(Violation::AfterFin),
            Kind::Reset => {
                stream.cut();
                Incoming::Reset { stream: id, code: ResetCode::from_byte(code) }
            }
            // The parser hands data on by itself, and the others are not about a stream that there is.
            Kind::Data | Kind::Open | Kind::Ping | Kind::Pong | Kind::Ack | Kind::Tune | Kind::GoAway => {
                Incoming::Nothing
            }
        })
    }

    /// A frame about the session.
    fn of_session<'b>(&mut self, now: Instant, kind: Kind) -> Result<Incoming<'b>, Violation> {
        let payload = self.inbound.payload();
        let number = |payload: &[u8]| payload.try_into().map(u64::from_le_bytes).map_err(|_| Violation::Length);
        Ok(match kind {
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
                // Only an ACK stands in line with the OPENs: the offset of a Hello comes before those that are sent again.
                self.go_away_heard |= self.go_away_ends.is_some_and(|end| offset >= end);
                self.rate.measure(self.out.acked(), self.rtt, now);
                Incoming::Acked
            }
            Kind::Tune => {
                let bytes = payload.try_into().map_err(|_| Violation::Length)?;
                Incoming::Tune(frame::decode_beats(bytes)?)
            }
            Kind::GoAway => {
                let code = payload.first().copied().unwrap_or_default();
                let wait = payload.get(1..5).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
                let retry_after = Duration::from_millis(wait.unwrap_or_default().into());
                self.turn_away();
                Incoming::GoAway { code: GoAwayCode::from_byte(code), retry_after }
            }
            Kind::Open | Kind::Opened | Kind::Refused | Kind::Data | Kind::Credit | Kind::Fin | Kind::Reset => {
                Incoming::Nothing
            }
        })
    }

    /// No stream is opened from here on. Those that wait to be are written now, before the ACK behind which they would be
    /// refused, and above what is kept for replay: a few dozen bytes each of the streams allowed.
    fn turn_away(&mut self) {
        self.turned_away = true;
        while let Some(id) = self.unopened.pop_front() {
            self.write_open(id);
        }
    }

    fn opened_by_peer<'b>(&mut self, now: Instant, id: u32) -> Result<Incoming<'b>, Violation> {
        let opening = Opening::decode(self.inbound.payload())?;
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
        } else if self.refuses_all() {
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

    /// The peer has read our GOAWAY, and knows better than to open a stream. One opened before that is as good as any other.
    fn refuses_all(&self) -> bool {
        #[cfg(test)]
        if self.broken.no_crossing {
            return self.go_away.is_some();
        }
        self.go_away_heard
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
            opening: None,
        };
        self.streams.insert(stream, entry);
    }
}
