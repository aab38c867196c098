//! One connection: two ways, and what both kernels know of them.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::io::ReadBuf;

use crate::net::kernel::{TcpInfo, TcpState};

const MS: Duration = Duration::from_millis(1);
/// A segment.
const SEGMENT: u64 = 1448;

/// What connections are like that are made from now on.
#[derive(Debug, Clone)]
pub struct Habits {
    /// One way, least and most.
    pub latency: (Duration, Duration),
    /// Bytes a millisecond; `None`: as many as one likes.
    pub rate: Option<u64>,
    /// Bytes that may be on their way, and in the receiver's kernel.
    pub capacity: (usize, usize),
    /// Into so many pieces at most what is written is cut.
    pub pieces: usize,
    /// So many in a hundred break by themselves, within so many bytes.
    pub doomed: (u8, u64),
    /// The first bytes of so many in a hundred are on their way for so long at most.
    pub late: (u8, Duration),
}

/// How a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Somebody between the ends resets both.
    Reset,
    /// Somebody between the ends closes both.
    End,
    /// Only the receiver hears of it. The sender's next byte is answered by a reset.
    HalfOpen,
}

impl Habits {
    /// A good network.
    pub fn calm() -> Self {
        Self {
            latency: (MS, 20 * MS),
            rate: None,
            capacity: (64 << 10, 256 << 10),
            pieces: 2,
            doomed: (0, 1),
            late: (0, MS),
        }
    }

    /// One on which something always happens.
    pub fn rough() -> Self {
        Self { pieces: 4, doomed: (4, 400), late: (8, Duration::from_secs(4)), ..Self::calm() }
    }

    pub fn latency(&self, random: &mut Rng) -> Duration {
        let (least, most) = self.latency;
        // Whole milliseconds: timers have no others.
        Duration::from_millis(random.u64(least.as_millis() as u64..=most.as_millis() as u64))
    }

    pub fn endow(&self, connection: &mut Connection, random: &mut Rng) {
        connection.latency = self.latency(random);
        connection.rate = self.rate;
        connection.capacity = random.usize(self.capacity.0..=self.capacity.1);
        connection.pieces = random.usize(1..=self.pieces);
        if random.u8(0..100) < self.late.0 {
            let late = Duration::from_millis(random.u64(0..=self.late.1.as_millis() as u64));
            connection.ways[super::NEAR].last_due += late;
        }
        for side in 0..2 {
            if random.u8(0..100) < self.doomed.0 {
                let bytes = if random.u8(0..8) == 0 { 0 } else { random.u64(0..self.doomed.1) };
                let cut = [Cut::Reset, Cut::Reset, Cut::End, Cut::HalfOpen][random.usize(0..4)];
                connection.cut_after(side, bytes, cut);
            }
        }
    }
}

/// For people.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [near, far] = self.addresses;
        write!(f, "{near} to {far}, closed {:?}, reset {:?}, abandoned {:?}", self.closed, self.reset, self.abandoned)
    }
}

enum Piece {
    Bytes(Vec<u8>),
    End,
    Reset,
}

/// The bytes of one side, on their way to the other.
struct Way {
    flight: VecDeque<(Instant, Piece)>,
    /// No piece arrives before this.
    last_due: Instant,
    inbox: VecDeque<u8>,
    /// The end has arrived.
    ended: bool,
    /// It was said.
    said_end: bool,
    sent: u64,
    delivered: u64,
    acked: u64,
    acks: VecDeque<(Instant, u64)>,
    last_ack: Instant,
    last_arrival: Instant,
    cut: Option<(u64, Cut)>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

pub struct Connection {
    pub addresses: [SocketAddr; 2],
    pub processes: [usize; 2],
    /// Which gateway it leads to; `None`: a client's or a service's, which takes no time.
    pub gateway: Option<usize>,
    /// Whether the way of that side's bytes stands still.
    pub clogged: [bool; 2],
    /// Its close will be a reset.
    pub resets: [bool; 2],
    pub latency: Duration,
    pub rate: Option<u64>,
    pub capacity: usize,
    pub pieces: usize,
    made: Instant,
    ways: [Way; 2],
    /// A reset has arrived there.
    reset: [bool; 2],
    closed: [bool; 2],
    /// Its process is gone: the kernel has closed it.
    abandoned: [bool; 2],
    /// Nobody between the ends knows it any more: bytes are answered by a reset.
    forgotten: bool,
}

impl Connection {
    pub fn new(addresses: [SocketAddr; 2], processes: [usize; 2], gateway: Option<usize>, now: Instant) -> Self {
        let way = || Way {
            flight: VecDeque::new(),
            last_due: now,
            inbox: VecDeque::new(),
            ended: false,
            said_end: false,
            sent: 0,
            delivered: 0,
            acked: 0,
            acks: VecDeque::new(),
            last_ack: now,
            last_arrival: now,
            cut: None,
            reader: None,
            writer: None,
        };
        Self {
            addresses,
            processes,
            gateway,
            clogged: [false; 2],
            resets: [false; 2],
            latency: Duration::ZERO,
            rate: None,
            capacity: 32 << 10,
            pieces: 1,
            made: now,
            ways: [way(), way()],
            reset: [false; 2],
            closed: [false; 2],
            abandoned: [false; 2],
            forgotten: false,
        }
    }

    // ---- what sockets do ----

    /// Ready with `Ok` for bytes or the end.
    pub fn poll_readable(&mut self, side: usize, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let way = &mut self.ways[1 - side];
        if self.abandoned[side] {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if !way.inbox.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.reset[side] {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if way.ended {
            return Poll::Ready(Ok(()));
        }
        way.reader = Some(context.waker().clone());
        Poll::Pending
    }

    pub fn has_failed(&self, side: usize) -> bool {
        self.reset[side] || self.abandoned[side]
    }

    pub fn has_bytes(&self, side: usize) -> bool {
        !self.ways[1 - side].inbox.is_empty()
    }

    /// Reads what fits. True if the window was shut before.
    pub fn read(&mut self, side: usize, buffer: &mut ReadBuf<'_>) -> bool {
        let way = &mut self.ways[1 - side];
        let full = way.inbox.len() >= self.capacity;
        while buffer.remaining() > 0 && !way.inbox.is_empty() {
            let (first, _) = way.inbox.as_slices();
            let count = first.len().min(buffer.remaining());
            buffer.put_slice(&first[..count]);
            way.inbox.drain(..count);
        }
        if self.gateway.is_none()
            && let Some(writer) = way.writer.take()
        {
            writer.wake();
        }
        full
    }

    pub fn write(
        &mut self,
        side: usize,
        bytes: &[u8],
        now: Instant,
        random: &mut Rng,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.reset[side] || self.abandoned[side] {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let (closed, capacity) = (self.closed[1 - side] || self.abandoned[1 - side], self.capacity);
        let way = &mut self.ways[side];
        if way.said_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.gateway.is_none() {
            if closed {
                self.reset[side] = true;
                return Poll::Ready(Ok(bytes.len()));
            }
            let count = capacity.saturating_sub(way.inbox.len()).min(bytes.len());
            if count == 0 && !bytes.is_empty() {
                way.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
            way.inbox.extend(&bytes[..count]);
            if let Some(reader) = way.reader.take() {
                reader.wake();
            }
            return Poll::Ready(Ok(count));
        }
        let on_the_way = usize::try_from(way.sent - way.acked).unwrap_or(usize::MAX);
        let count = capacity.saturating_sub(on_the_way).min(bytes.len());
        if count == 0 && !bytes.is_empty() {
            way.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        way.sent += count as u64;
        if self.forgotten {
            way.acked = way.sent;
            self.answer_by_reset(side, now);
            return Poll::Ready(Ok(count));
        }
        let mut rest = &bytes[..count];
        for left in (1..=self.pieces).rev() {
            let length = if left == 1 { rest.len() } else { random.usize(0..=rest.len()) };
            let (piece, after) = rest.split_at(length);
            rest = after;
            if piece.is_empty() {
                continue;
            }
            let takes = self.rate.map_or(Duration::ZERO, |rate| MS * (piece.len() as u64 / rate) as u32);
            let jitter = if left == 1 { Duration::ZERO } else { MS * random.u32(0..3) };
            way.last_due = way.last_due.max(now + self.latency) + takes + jitter;
            way.flight.push_back((way.last_due, Piece::Bytes(piece.to_vec())));
        }
        Poll::Ready(Ok(count))
    }

    pub fn end(&mut self, side: usize, now: Instant) {
        if !std::mem::replace(&mut self.ways[side].said_end, true) && !self.reset[side] {
            self.send(side, Piece::End, now);
        }
    }

    /// The socket is gone.
    pub fn close(&mut self, side: usize, now: Instant) {
        self.closed[side] = true;
        if self.reset[side] || self.abandoned[side] {
            return;
        }
        let unread = !self.ways[1 - side].inbox.is_empty();
        if self.resets[side] || unread {
            self.send(side, Piece::Reset, now);
        } else {
            self.end(side, now);
        }
        if self.gateway.is_none()
            && let Some(writer) = self.ways[1 - side].writer.take()
        {
            writer.wake();
        }
    }

    pub fn is_over(&self) -> bool {
        (0..2).all(|side| self.closed[side])
    }

    /// The process of that side is gone.
    pub fn abandon(&mut self, side: usize, now: Instant, reset: bool) {
        if self.closed[side] || std::mem::replace(&mut self.abandoned[side], true) {
            return;
        }
        if !self.reset[side] {
            // A client must not take the end of a process for the end of its data.
            let reset = reset || self.gateway.is_none();
            self.send(side, if reset { Piece::Reset } else { Piece::End }, now);
        }
        self.wake(side);
    }

    fn send(&mut self, side: usize, piece: Piece, now: Instant) {
        let way = &mut self.ways[side];
        if self.gateway.is_some() {
            if !self.forgotten {
                way.last_due = way.last_due.max(now + self.latency);
                way.flight.push_back((way.last_due, piece));
            }
            return;
        }
        match piece {
            Piece::Bytes(_) => {}
            Piece::End => way.ended = true,
            Piece::Reset => self.reset[1 - side] = true,
        }
        self.wake(1 - side);
    }

    /// Both of a side's wakers.
    fn wake(&mut self, side: usize) {
        let wakers = [self.ways[1 - side].reader.take(), self.ways[side].writer.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    // ---- what happens to it ----

    pub fn cut_after(&mut self, side: usize, bytes: u64, cut: Cut) {
        let way = &mut self.ways[side];
        way.cut = Some((way.delivered + bytes, cut));
    }

    pub fn heal(&mut self) {
        self.clogged = [false; 2];
        self.rate = None;
        self.ways.iter_mut().for_each(|way| way.cut = None);
    }

    /// A reset comes back for what side has sent.
    fn answer_by_reset(&mut self, side: usize, now: Instant) {
        let way = &mut self.ways[1 - side];
        way.last_due = way.last_due.max(now + self.latency);
        way.flight.push_back((way.last_due, Piece::Reset));
    }

    /// Moves what is due; says when more will be. `cut` is told whose bytes it broke behind, and behind how many.
    pub fn step(&mut self, now: Instant, path: [bool; 2], mut cut: impl FnMut(usize, u64)) -> Option<Instant> {
        let mut due: Option<Instant> = None;
        for side in 0..2 {
            if !(path[1 - side] || self.clogged[1 - side]) {
                let way = &mut self.ways[side];
                while let Some((at, acked)) = way.acks.front().copied() {
                    if at > now {
                        due = due.into_iter().chain([at]).min();
                        break;
                    }
                    way.acks.pop_front();
                    way.acked = way.acked.max(acked);
                    way.last_ack = now;
                    if let Some(writer) = way.writer.take() {
                        writer.wake();
                    }
                }
            }
            if path[side] || self.clogged[side] {
                continue;
            }
            while let Some((at, piece)) = self.ways[side].flight.pop_front() {
                if at > now {
                    due = due.into_iter().chain([at]).min();
                    self.ways[side].flight.push_front((at, piece));
                    break;
                }
                match piece {
                    Piece::Bytes(bytes) => {
                        if !self.deliver(side, at, bytes, now, &mut cut) {
                            break;
                        }
                        let ack = self.ways[side].acks.front().map(|(at, _)| *at);
                        due = due.into_iter().chain(ack).min();
                    }
                    Piece::End => {
                        self.ways[side].ended = true;
                        self.wake(1 - side);
                    }
                    Piece::Reset => {
                        self.reset[1 - side] = true;
                        self.ways[1 - side].flight.clear();
                        self.wake(1 - side);
                    }
                }
            }
        }
        due
    }

    /// Bytes arrive. False: nothing more does for now.
    fn deliver(
        &mut self,
        side: usize,
        at: Instant,
        mut bytes: Vec<u8>,
        now: Instant,
        cut: &mut impl FnMut(usize, u64),
    ) -> bool {
        if self.closed[1 - side] || self.abandoned[1 - side] || self.reset[1 - side] {
            self.answer_by_reset(side, now);
            return true;
        }
        let way = &mut self.ways[side];
        let space = self.capacity.saturating_sub(way.inbox.len());
        let left = way.cut.map_or(u64::MAX, |(end, _)| end.saturating_sub(way.delivered));
        let count = space.min(bytes.len()).min(usize::try_from(left).unwrap_or(usize::MAX));
        let rest = bytes.split_off(count);
        if count > 0 {
            way.inbox.extend(&bytes);
            way.delivered += count as u64;
            way.last_arrival = now;
            way.acks.push_back((now + self.latency, way.delivered));
            if let Some(reader) = way.reader.take() {
                reader.wake();
            }
        }
        if let Some((end, how)) = way.cut
            && way.delivered >= end
        {
            way.cut = None;
            cut(side, way.delivered);
            self.forget(side, how);
            return false;
        }
        if !rest.is_empty() {
            self.ways[side].flight.push_front((at, Piece::Bytes(rest)));
            return false;
        }
        true
    }

    /// The connection breaks, behind bytes of that side.
    fn forget(&mut self, side: usize, how: Cut) {
        self.forgotten = true;
        for way in &mut self.ways {
            way.flight.clear();
            way.acks.clear();
        }
        match how {
            Cut::Reset => self.reset = [true; 2],
            Cut::End => self.ways.iter_mut().for_each(|way| way.ended = true),
            Cut::HalfOpen => self.reset[1 - side] = true,
        }
        self.wake(0);
        self.wake(1);
    }

    // ---- what kernels tell ----

    pub fn info(&self, side: usize, now: Instant) -> TcpInfo {
        let (ours, theirs) = (&self.ways[side], &self.ways[1 - side]);
        let unacked = (ours.sent - ours.acked).div_ceil(SEGMENT);
        TcpInfo {
            state: TcpState::Established,
            retransmits: 0,
            probes: 0,
            backoff: 0,
            unacked: u32::try_from(unacked).unwrap_or(u32::MAX),
            retransmits_total: 0,
            rtt: self.latency * 2,
            min_rtt: Some(self.latency * 2),
            last_ack_received: now.saturating_duration_since(ours.last_ack.max(theirs.last_arrival)),
            last_data_received: now.saturating_duration_since(theirs.last_arrival),
            last_data_sent: now.saturating_duration_since(self.made),
            notsent_bytes: 0,
            delivery_rate: self.rate.unwrap_or(1 << 20) * 1000,
            // The end that dialled counts its SYN as one byte more.
            bytes_acked: ours.acked + u64::from(side == super::NEAR),
            bytes_received: theirs.delivered,
            bytes_sent: ours.sent,
            bytes_retrans: 0,
            send_window: Some(u32::try_from(self.capacity).unwrap_or(u32::MAX)),
        }
    }
}
