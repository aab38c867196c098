//! Well-formed frames and what an owner does, in any order, against a model of what a peer may do and may expect.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use everlink::session::frame::{CONTROL_MAX, FRAME_MAX, HEADER, Header, Kind, PAYLOAD_MAX};
use everlink::session::inbound::{Inbound, Piece};
use everlink::session::window::{INITIAL, LARGEST};
use everlink::session::{Incoming, Limits, Opening, RefusalCode, ResetCode, Session, Violation};

const LIMITS: Limits = Limits { buffer: 1 << 20, peer_buffer: 1 << 20, windows: 4 << 20, streams: 16 };
/// What frames other than OPEN and DATA may add to what is kept for replay, by the protocol's section 6.
const CONTROL_MOST: u64 = 1 << 20;
/// Steps of one run.
const STEPS: usize = 400;

#[derive(Debug, Arbitrary)]
enum Step {
    // What the peer sends.
    Open {
        skip: u8,
        window: u32,
        hops: u8,
        name: u8,
    },
    Data {
        stream: u8,
        length: u16,
    },
    /// As much as the peer may send, and so much more.
    AllOfWindow {
        stream: u8,
        beyond: u8,
    },
    Frame {
        stream: u8,
        kind: u8,
        number: u32,
    },
    Acknowledge {
        share: u8,
    },
    Pong(u64),
    Unknown {
        kind: u8,
        length: u8,
    },
    // What our owner does.
    Dial,
    Accept(u8),
    Refuse(u8, u8),
    Pass {
        stream: u8,
        count: u16,
    },
    PassAll(u8),
    Finish(u8),
    Reset(u8),
    Release(u8),
    Fill {
        stream: u8,
        count: u16,
    },
    Ping,
    GoAway,
    Retune {
        buffer: u8,
        windows: u8,
        streams: u8,
    },
    // What happens.
    Emit {
        room: u16,
    },
    Send {
        count: u16,
    },
    SendAll,
    Millis(u16),
    Rtt(u16),
    Resume {
        back: u16,
    },
}

/// One stream, as the peer has to see it.
#[derive(Debug, Default)]
struct Seen {
    /// What the peer knows that it may still send.
    may_send: u64,
    /// What we may still send.
    credit: u64,
    /// The peer has said FIN.
    peer_ended: bool,
    /// We have said FIN.
    fin: bool,
    /// We have said RESET or REFUSED.
    over: bool,
    answered: bool,
    /// Sent by the peer before it could know of the stream.
    early: u64,
    /// Given to our owner and not passed on.
    held: u64,
    /// The session has it.
    kept: bool,
    /// The peer knows of it.
    told: bool,
}

struct Model {
    dialer: bool,
    now: Instant,
    session: Session<()>,
    streams: BTreeMap<u32, Seen>,
    newest: u32,
    /// Reads what the session writes, from the first byte on.
    reader: Inbound,
    /// How much of what we wrote it has seen.
    read: u64,
    most_limit: u64,
    most_windows: u64,
    handled: usize,
}

pub fn run(input: &[u8]) -> usize {
    let mut source = Unstructured::new(input);
    let dialer = bool::arbitrary(&mut source).unwrap_or_default();
    let now = Instant::now();
    let mut model = Model {
        dialer,
        now,
        session: Session::new(dialer, LIMITS, now),
        streams: BTreeMap::new(),
        newest: 0,
        reader: Inbound::default(),
        read: 0,
        most_limit: LIMITS.buffer,
        most_windows: LIMITS.windows,
        handled: input.len(),
    };
    for _ in 0..STEPS {
        if source.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut source) else { break };
        model.handled += 64;
        if let Err(violation) = model.step(step) {
            // It is over; that it was right to end it has been looked at.
            let _ = violation;
            break;
        }
        model.check();
    }
    model.handled
}

impl Model {
    fn step(&mut self, step: Step) -> Result<(), Violation> {
        match step {
            Step::Open { skip, window, hops, name } => return self.peer_opens(skip, window, hops, name),
            Step::Data { stream, length } => return self.peer_sends(stream, u64::from(length).max(1)),
            Step::AllOfWindow { stream, beyond } => {
                let id = self.pick(stream);
                let may = self.streams.get(&id).map_or(0, |seen| seen.may_send);
                return self.peer_sends(stream, (may + u64::from(beyond)).clamp(1, PAYLOAD_MAX as u64));
            }
            Step::Frame { stream, kind, number } => return self.peer_says(stream, kind, number),
            Step::Acknowledge { share } => {
                let (written, _) = self.session.written();
                // Of what the peer may have read: nothing unsent.
                let sent = written - self.session.unsent();
                let acked = self.session.acknowledged();
                let offset = acked + (sent - acked) * u64::from(share) / 255;
                self.receive(&frame(0, Kind::Ack, &offset.to_le_bytes()))?;
            }
            Step::Pong(clock) => self.receive(&frame(0, Kind::Pong, &clock.to_le_bytes()))?,
            Step::Unknown { kind, length } => {
                let header = Header { stream: u32::from(length), length: length.into(), kind: kind | 0x80 };
                self.receive(&[&header.encode()[..], &vec![0; length.into()]].concat())?;
            }
            Step::Dial => self.dial(),
            Step::Accept(stream) => {
                let id = self.pick(stream);
                if !self.dialer && self.is_kept(id) {
                    self.session.accept(id);
                    self.answered(id);
                }
            }
            Step::Refuse(stream, code) => {
                let id = self.pick(stream);
                if !self.dialer && self.streams.get(&id).is_some_and(|seen| !seen.answered) {
                    let refused = self.session.refuse(id, RefusalCode::from_byte(code)).is_some();
                    self.gone(id, refused);
                }
            }
            Step::Pass { stream, count } => self.pass(stream, count.into()),
            Step::PassAll(stream) => self.pass(stream, u64::MAX),
            Step::Finish(stream) => {
                let id = self.pick(stream);
                self.session.finish(id);
                self.answered(id);
            }
            Step::Reset(stream) => {
                let id = self.pick(stream);
                let reset = self.session.reset(id, ResetCode::Error).is_some();
                self.gone(id, reset);
            }
            Step::Release(stream) => {
                let id = self.pick(stream);
                if self.session.is_finished(id) {
                    let released = self.session.release(id).is_some();
                    self.gone(id, released);
                }
            }
            Step::Fill { stream, count } => self.fill(stream, count.into()),
            Step::Ping => self.session.ping(7),
            Step::GoAway => self.session.go_away(everlink::session::GoAwayCode::Draining, Duration::from_secs(1)),
            Step::Retune { buffer, windows, streams } => {
                let limits = Limits {
                    buffer: (256 << 10) + (u64::from(buffer) << 14),
                    windows: (1 << 20) + (u64::from(windows) << 16),
                    streams: usize::from(streams % 32) + 1,
                    peer_buffer: LIMITS.peer_buffer,
                };
                self.most_limit = self.most_limit.max(limits.buffer);
                self.most_windows = self.most_windows.max(limits.windows);
                self.session.retune(limits);
            }
            Step::Emit { room } => self.session.emit(room.into(), self.now),
            Step::Send { count } => self.send(count.into()),
            Step::SendAll => {
                self.session.emit(u64::MAX, self.now);
                while self.session.unsent() > 0 {
                    self.send(usize::MAX);
                }
            }
            Step::Millis(millis) => self.now += Duration::from_millis(millis.into()),
            Step::Rtt(micros) => self.session.set_rtt(Duration::from_micros(micros.into())),
            Step::Resume { back } => {
                let (written, _) = self.session.written();
                let offset = (written - self.session.unsent()).saturating_sub(back.into());
                let can = self.session.can_resume(offset);
                let told = self.session.received();
                let resumed = self.session.resume(offset, told);
                assert_eq!(resumed.is_ok(), can);
                assert!(!can || self.session.unsent() == written - offset.max(self.session.acknowledged()));
            }
        }
        Ok(())
    }

    /// A stream that there is, or is not.
    fn pick(&self, stream: u8) -> u32 {
        let near = u32::from(stream % 24);
        self.newest.saturating_sub(near / 2) + near % 2 * u32::from(stream == 255)
    }

    fn is_kept(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|seen| seen.kept)
    }

    /// Our owner has taken the stream, or said something on it.
    fn answered(&mut self, id: u32) {
        if let Some(seen) = self.streams.get_mut(&id) {
            seen.answered = true;
        }
    }

    fn gone(&mut self, id: u32, gone: bool) {
        assert_eq!(gone, self.is_kept(id), "stream {id}");
        if let Some(seen) = self.streams.get_mut(&id) {
            seen.kept = false;
            seen.held = 0;
        }
    }

    fn dial(&mut self) {
        let can = self.session.can_open();
        let opened = self.session.open(Opening::to("service"), (), self.now);
        assert_eq!(opened.is_ok(), can);
        if let Ok(id) = opened {
            assert_eq!(id, self.newest + 1);
            self.newest = id;
            let seen = Seen { credit: INITIAL.into(), kept: true, ..Seen::default() };
            self.streams.insert(id, seen);
        }
    }

    fn pass(&mut self, stream: u8, count: u64) {
        let id = self.pick(stream);
        if let Some(seen) = self.streams.get_mut(&id).filter(|seen| seen.kept) {
            let count = count.min(seen.held);
            seen.held -= count;
            self.session.pass(id, count as usize);
        }
    }

    fn fill(&mut self, stream: u8, count: usize) {
        let id = self.pick(stream);
        let quota = self.session.quota(id, count as u64).min(count);
        if quota == 0 {
            return;
        }
        self.handled += quota;
        let filled = self.session.fill(id, quota, |(), slot| {
            assert!(!slot.is_empty() && slot.len() <= quota);
            (slot.len(), ())
        });
        assert!(filled.is_some());
        self.answered(id);
    }

    // ---- the peer ----

    fn peer_opens(&mut self, skip: u8, window: u32, hops: u8, name: u8) -> Result<(), Violation> {
        let id = self.newest.wrapping_add(u32::from(skip % 8)).max(1);
        let opening = Opening { window, hops, ..Opening::to(&"s".repeat(name.into())) };
        let result = self.receive(&frame(id, Kind::Open, &opening.encode()));
        let expected = if name == 0 {
            // No OPEN is so short.
            Err(Violation::Length)
        } else if self.dialer {
            Err(Violation::Role)
        } else if id <= self.newest {
            Err(Violation::Reused)
        } else if u64::from(window) > 4 * LARGEST {
            Err(Violation::Credit)
        } else {
            Ok(())
        };
        if result != Err(Violation::Unacknowledged) {
            assert_eq!(result, expected);
        }
        if result.is_ok() {
            self.newest = id;
            let kept = self.session.get(id).is_some();
            let seen = Seen { may_send: INITIAL.into(), credit: window.into(), kept, told: true, ..Seen::default() };
            self.streams.insert(id, seen);
        }
        result
    }

    fn peer_sends(&mut self, stream: u8, length: u64) -> Result<(), Violation> {
        let id = self.pick(stream);
        if id == 0 {
            return Ok(());
        }
        self.handled += length as usize;
        let all_known = self.session.unsent() == 0;
        let newest = self.newest;
        let result = self.receive(&frame(id, Kind::Data, &vec![0; length as usize]));
        match self.streams.get(&id) {
            None => assert_eq!(result.is_ok(), id <= newest, "{result:?}"),
            // It may still be on its way to a stream that we have ended.
            Some(seen) if !seen.kept => assert_eq!(result, Ok(())),
            Some(seen) if !seen.told => {}
            Some(seen) if seen.peer_ended => assert_eq!(result, Err(Violation::AfterFin)),
            Some(seen) if length <= seen.may_send => assert_eq!(result, Ok(()), "{length} bytes: {seen:?}"),
            Some(seen) if all_known => assert_eq!(result, Err(Violation::Window), "{length} bytes: {seen:?}"),
            Some(_) => {}
        }
        if let (Ok(()), Some(seen)) = (result, self.streams.get_mut(&id)) {
            if seen.told {
                seen.may_send = seen.may_send.saturating_sub(length);
            } else if seen.kept {
                seen.early += length;
            }
            if seen.kept {
                seen.held += length;
            }
        }
        result
    }

    fn peer_says(&mut self, stream: u8, kind: u8, number: u32) -> Result<(), Violation> {
        let kinds =
            [Kind::Opened, Kind::Refused, Kind::Credit, Kind::Fin, Kind::Reset, Kind::Ping, Kind::Tune, Kind::GoAway];
        let kind = kinds[usize::from(kind) % kinds.len()];
        let number = number.to_le_bytes();
        let payload: Vec<u8> = match kind {
            Kind::Refused | Kind::Reset => vec![number[0]],
            Kind::Credit => number.to_vec(),
            Kind::Ping => [number, number].concat(),
            Kind::Tune => [[0, number[0], 0, 0], [0, 1, 0, 0], [number[1], 0, 0, 0]].concat(),
            Kind::GoAway => [&number[..], &[0]].concat(),
            _ => Vec::new(),
        };
        let id = if kind.is_of_stream() { self.pick(stream) } else { 0 };
        if id == 0 && kind.is_of_stream() {
            return Ok(());
        }
        self.receive(&frame(id, kind, &payload))?;
        if let Some(seen) = self.streams.get_mut(&id) {
            match kind {
                Kind::Fin => seen.peer_ended = true,
                Kind::Credit if seen.kept => {
                    seen.credit += u64::from(u32::from_le_bytes(number));
                    assert!(number != [0; 4] && seen.credit <= 4 * LARGEST, "{} of credit", seen.credit);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the peer says reaches the session, whose owner does at once what it has to.
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.handled += bytes.len();
        let mut rest = bytes;
        let before = self.session.received();
        while let Some(incoming) = self.session.receive(self.now, &mut rest)? {
            match incoming {
                Incoming::Open { stream, opening } => self.session.admit(stream, &opening, (), self.now),
                Incoming::Data { stream, .. } => assert!(self.is_kept(stream), "data of stream {stream}"),
                Incoming::Fin { stream } => assert!(self.is_kept(stream), "the end of stream {stream}"),
                Incoming::Reset { stream, .. } | Incoming::Refused { stream, .. } => {
                    let released = self.session.release(stream).is_some();
                    self.gone(stream, released);
                }
                _ => {}
            }
        }
        assert!(rest.is_empty());
        assert_eq!(self.session.received(), before + bytes.len() as u64);
        Ok(())
    }

    // ---- what the peer is told ----

    /// The connection takes so many bytes: the peer reads what it has not seen yet, and judges it.
    fn send(&mut self, count: usize) {
        let (written, _) = self.session.written();
        let at = written - self.session.unsent();
        let next = self.session.next();
        assert!(!next.is_empty() || at == written, "{} bytes unsent, and none of them to be had", written - at);
        let count = count.min(next.len());
        let known = self.read.saturating_sub(at).min(count as u64) as usize;
        let fresh = next[known..count].to_vec();
        self.session.sent(count);
        self.read = self.read.max(at + count as u64);
        self.handled += count;
        self.judge(&fresh);
    }

    fn judge(&mut self, mut bytes: &[u8]) {
        loop {
            match self.reader.take(&mut bytes) {
                Ok(None) => return,
                Ok(Some(Piece::Data { stream, begins: Some(length), .. })) => {
                    let Some(seen) = self.streams.get_mut(&stream) else { panic!("data of stream {stream}") };
                    assert!(seen.told && !seen.fin && !seen.over, "data of stream {stream}: {seen:?}");
                    let left = seen.credit.checked_sub(length.into());
                    seen.credit = left.unwrap_or_else(|| panic!("{length} bytes, and credit for {}", seen.credit));
                }
                Ok(Some(Piece::Data { .. })) => {}
                Ok(Some(Piece::Skipped)) => panic!("a frame to be skipped"),
                Ok(Some(Piece::Frame { stream, kind })) => {
                    let payload = self.reader.payload().to_vec();
                    self.told(stream, kind, &payload);
                }
                Err(violation) => panic!("we broke the protocol: {violation}"),
            }
        }
    }

    fn told(&mut self, stream: u32, kind: Kind, payload: &[u8]) {
        if kind.is_of_stream() {
            assert!(stream <= self.newest, "{} of stream {stream}", kind.name());
        }
        match kind {
            Kind::Open => assert!(self.dialer),
            Kind::Opened | Kind::Refused => assert!(!self.dialer),
            _ => {}
        }
        let seen = self.streams.entry(stream).or_default();
        match kind {
            Kind::Open => {
                let opening = Opening::decode(payload).unwrap_or_else(|violation| panic!("{violation}"));
                assert!(!std::mem::replace(&mut seen.told, true), "opened twice");
                seen.may_send = u64::from(opening.window).saturating_sub(seen.early);
            }
            Kind::Credit => {
                let more = u32::from_le_bytes([payload[0], payload[1], payload[2], payload[3]]);
                seen.may_send += u64::from(more);
                assert!(more > 0 && seen.may_send <= 4 * LARGEST, "{} may be sent", seen.may_send);
                assert!(!seen.over && seen.told, "{seen:?}");
            }
            Kind::Fin => {
                assert!(seen.told && !seen.over && !seen.fin, "FIN of stream {stream}: {seen:?}");
                seen.fin = true;
            }
            Kind::Reset | Kind::Refused => {
                assert!(seen.told && !seen.over, "{} of stream {stream}: {seen:?}", kind.name());
                seen.over = true;
            }
            Kind::Ack => {
                let offset = payload.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
                assert!(offset <= self.session.received());
            }
            _ => {}
        }
    }

    fn check(&mut self) {
        let kept = self.session.unacknowledged();
        assert!(kept <= self.most_limit.max(2 << 20) + CONTROL_MOST + FRAME_MAX as u64, "{kept} bytes kept");
        let windows: u64 = self.most_windows + 32 * u64::from(INITIAL);
        let most = windows + kept + kept / 8 + 4 * FRAME_MAX as u64 + (HEADER + CONTROL_MAX) as u64;
        assert!(self.session.memory() <= most, "{} bytes of memory, {kept} kept", self.session.memory());
        let held: u64 = self.streams.values().map(|seen| seen.held).sum();
        assert!(held <= windows, "{held} bytes held");
    }
}

fn frame(stream: u32, kind: Kind, payload: &[u8]) -> Vec<u8> {
    [&Header { stream, length: payload.len() as u32, kind: kind as u8 }.encode()[..], payload].concat()
}
