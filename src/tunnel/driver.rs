//! One task's state: a link, and the sockets of all its streams. Both ends use it.
//!
//! No task, channel or lock a stream: each socket's waker puts the stream on a list and wakes the one task that owns them
//! all. Bytes are read straight into the chunk that is sent and kept for replay, and written straight from the buffer that
//! the link was read into. Owners decide about connections (when to dial, whose claim holds); the driver owns heartbeats,
//! acknowledgements, credit, fairness and the bounds.

mod act;
mod cork;
mod lull;
mod passage;
mod place;
mod ready;
mod room;
mod sweep;
mod wire;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::clock;
use crate::config::Beats;
use crate::metrics::{CloseReason, LossReason};
use crate::net::wire::Wire;
use crate::session::{GoAwayCode, Limits, RefusalCode, ResetCode, Session, Violation};
use place::{Place, Reading};
use ready::Ready;
use sweep::SWEEP;
use wire::Connection;

pub use place::Local;

/// Rounds of reading and writing before other tasks run.
const ROUNDS: usize = 8;
/// The buffer that links are read into, one for each thread.
const READ: usize = 256 * 1024;
/// A gateway's memory is told of changes of this size.
const WORTH_TELLING: u64 = 64 * 1024;
/// Under TLS, while others have something to say, data comes in pieces of what the wire encrypts ahead. Pieces of a record
/// (16 KiB) cost four times the system calls, and a small request gains nothing by them.
const PIECE: u64 = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a driver goes by; all of it may change while it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    pub beats: Beats,
    /// A stream that moves no byte for so long is reset; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Unacknowledged bytes kept for replay, and the peer's own bound.
    pub buffer: u64,
    pub peer_buffer: u64,
    /// Bytes of all receiving windows.
    pub windows: u64,
    /// Streams at once.
    pub streams: usize,
    /// What several sessions share.
    pub budget: Option<Arc<Budget>>,
}

/// What the owner has to know of, or to do.
#[derive(Debug)]
pub enum Event {
    /// The connection is gone, or was given up; the streams wait.
    Lost { reason: LossReason, error: String },
    /// A beat went unanswered.
    Suspect,
    /// It was heard again.
    Recovered,
    /// The peer opens a stream: to be [accepted](Driver::accept) or [refused](Driver::refuse).
    Open { stream: u32, opening: crate::session::Opening },
    /// The peer has given up a stream that was not accepted yet: to be refused, in whatever way.
    Cancelled { stream: u32 },
    /// The peer wants no new streams.
    GoAway { code: GoAwayCode, retry_after: Duration },
    /// The peer's heartbeat numbers.
    Tune(Beats),
    /// The peer broke the protocol: the session is over.
    Violation(Violation),
}

/// Who counts. Called in batches.
pub trait Observer: Send + Sync {
    /// Bytes of local connections taken into the session, and given to them.
    fn moved(&self, sent: u64, received: u64);
    /// A stream's local connection has ended.
    fn closed(&self, reason: CloseReason);
    fn beat_sent(&self);
    fn beat_missed(&self);
    fn beat_answered(&self, rtt: Duration);
    /// The kernel's round trip of a link that is too busy for beats; once in an interval.
    fn measured(&self, _rtt: Duration) {}
    /// Bytes came over the link.
    fn received(&self);
    fn violation(&self, violation: Violation);
    /// How many streams there are, and how many bytes the peer has not acknowledged.
    fn stands(&self, _streams: usize, _unacknowledged: u64) {}
}

/// Memory that several sessions share, in bytes.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
}

impl Budget {
    pub fn new(limit: u64) -> Self {
        Self { limit: AtomicU64::new(limit), used: AtomicU64::new(0) }
    }

    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn free(&self) -> u64 {
        self.limit.load(Ordering::Relaxed).saturating_sub(self.used())
    }

    fn changed(&self, from: u64, to: u64) {
        if to >= from {
            self.used.fetch_add(to - from, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(from - to, Ordering::Relaxed);
        }
    }
}

/// See the module.
pub struct Driver {
    session: Session<Place>,
    near: bool,
    settings: Settings,
    observer: Arc<dyn Observer>,
    ready: Arc<Ready>,
    /// Streams just rung for, and those that keep the link full: the former go first.
    fresh: VecDeque<u32>,
    bulk: VecDeque<u32>,
    /// Streams that wait for room to keep what they would send.
    parked: Vec<u32>,
    connection: Option<Connection>,
    /// A claim is under way: the connection at hand is not read.
    frozen: bool,
    /// Read and not yet parsed, for the peer is too fast.
    rest: Vec<u8>,
    read_again: Option<Instant>,
    /// Small writes wait for others until then.
    send_again: Option<Instant>,
    events: VecDeque<Event>,
    rung: Vec<u32>,
    sent: u64,
    received: u64,
    /// Where the budget was last told we are.
    told_memory: u64,
    timer: Pin<Box<Sleep>>,
    armed: Instant,
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    sweep: u32,
    /// There are sockets that have no keepalive yet.
    unsustained: bool,
    next_sweep: Option<Instant>,
    /// Streams whose sockets are to be looked at: whoever is behind them may be gone.
    stirred: Vec<u32>,
    next_look: Option<Instant>,
}

impl Driver {
    /// The end that opens streams, for clients.
    pub fn near(settings: Settings, observer: Arc<dyn Observer>) -> Self {
        Self::new(true, settings, observer)
    }

    /// The end that reaches services.
    pub fn far(settings: Settings, observer: Arc<dyn Observer>) -> Self {
        Self::new(false, settings, observer)
    }

    fn new(near: bool, settings: Settings, observer: Arc<dyn Observer>) -> Self {
        let now = clock::now();
        let armed = now + Duration::from_secs(3600);
        Self {
            session: Session::new(near, limits(&settings), now),
            near,
            settings,
            observer,
            ready: Arc::default(),
            fresh: VecDeque::new(),
            bulk: VecDeque::new(),
            parked: Vec::new(),
            connection: None,
            frozen: false,
            rest: Vec::new(),
            read_again: None,
            send_again: None,
            events: VecDeque::new(),
            rung: Vec::new(),
            sent: 0,
            received: 0,
            told_memory: 0,
            timer: Box::pin(tokio::time::sleep_until(armed.into())),
            armed,
            pause: None,
            sweep: 0,
            unsustained: false,
            next_sweep: None,
            stirred: Vec::new(),
            next_look: None,
        }
    }

    // ---- streams ----

    /// Opens a stream for a client. `Err`: this session takes no more.
    pub fn open(
        &mut self,
        service: &str,
        client: Option<SocketAddr>,
        local_address: Option<SocketAddr>,
        hops: u8,
        local: Local,
    ) -> Result<u32, Local> {
        if self.session.is_going_away() {
            return Err(local);
        }
        let now = clock::now();
        // Its number is known only then, and so is its bell.
        let place = Place::new(self.ready.bell(0), None, now, self.sweep);
        match self.session.open(service, client, local_address, hops, place, now) {
            Ok(stream) => {
                self.settle(stream, local);
                Ok(stream)
            }
            Err(_) => Err(local),
        }
    }

    /// Whether [`open`](Self::open) would take another stream.
    pub fn can_open(&self) -> bool {
        !self.session.is_going_away() && self.session.can_open()
    }

    /// Another stream needs another session.
    pub fn is_used_up(&self) -> bool {
        self.session.is_used_up()
    }

    /// The service of a stream that [`Event::Open`] told of is there. Late answers are dropped.
    pub fn accept(&mut self, stream: u32, local: Local) {
        match self.session.get(stream) {
            Some(place) if place.stream.is_none() && !place.dead => {}
            Some(place) if place.dead => {
                self.session.release(stream);
                return;
            }
            _ => return,
        }
        self.session.accept(stream);
        self.settle(stream, local);
    }

    /// The service of a stream that [`Event::Open`] told of cannot be had.
    pub fn refuse(&mut self, stream: u32, code: RefusalCode) {
        match self.session.get(stream) {
            Some(place) if place.dead => drop(self.session.release(stream)),
            Some(place) if place.stream.is_none() => drop(self.session.refuse(stream, code)),
            _ => {}
        }
        self.ready.poke();
    }

    fn settle(&mut self, stream: u32, local: Local) {
        let bell = self.ready.bell(stream);
        let Some(place) = self.session.get(stream) else { return };
        bell.ring();
        place.bell = bell;
        place.settle(local);
        // Accepted clients have their keepalive from the listener.
        place.sustained = self.near;
        self.unsustained |= !self.near;
        if self.unsustained || self.settings.idle_timeout.is_some() {
            self.next_sweep.get_or_insert_with(|| clock::now() + SWEEP);
        }
    }

    /// Streams, those whose service is being dialled included.
    pub fn streams(&self) -> usize {
        self.session.streams()
    }

    /// Ends every stream by a reset, at the local sockets and, if there is still somebody, at the peer. Returns how many.
    pub fn end_streams(&mut self, code: ResetCode, reason: CloseReason) -> usize {
        let streams = self.session.ids();
        for stream in &streams {
            self.end(*stream, Some(code), reason);
        }
        streams.len()
    }

    // ---- connections ----

    pub fn has_wire(&self) -> bool {
        self.connection.is_some()
    }

    /// A beat over the connection at hand is unanswered.
    pub fn is_suspect(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.pulse.is_suspect())
    }

    /// Stops reading the connection at hand; the kernel keeps what comes. Returns the offset received so far, for a Hello
    /// or a Welcome.
    pub fn freeze(&mut self) -> u64 {
        self.frozen = true;
        #[cfg(test)]
        {
            let broken = crate::session::Broken::current();
            self.frozen = !broken.no_freeze;
            if broken.no_duplicate_removal {
                return self.session.received().saturating_sub(100);
            }
        }
        self.session.received()
    }

    /// The claim came to nothing: reads on. If the connection has broken meanwhile, that is told now.
    pub fn thaw(&mut self) {
        self.frozen = false;
        if let Some((reason, error)) = self.connection.as_mut().and_then(|connection| connection.broken.take()) {
            self.lost(reason, error);
        }
        self.ready.poke();
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Whether a connection may take over whose peer says it has received everything before `received`.
    pub fn can_resume(&self, received: u64) -> bool {
        self.session.can_resume(received)
    }

    /// Gives the connection at hand up, without an event.
    pub fn drop_wire(&mut self) {
        self.connection = None;
        self.rest = Vec::new();
    }

    /// A new connection takes over, reading allowed. The peer has received everything before `received`; `preface` goes
    /// out first and is not part of the session (a gateway's Welcome). Returns how many bytes are sent again.
    /// Errors: the peer's offset cannot be right.
    pub fn attach(&mut self, wire: Wire, received: u64, preface: Vec<u8>, rtt: Duration) -> Result<u64, Violation> {
        let told = self.session.received();
        let again = self.session.resume(received, told)?;
        self.rest = Vec::new();
        self.frozen = false;
        self.session.forget_rtt();
        self.session.set_rtt(rtt);
        // A connect's round trip has our own wake-up in it; the kernel's measure has not.
        if let Some(kernels) = wire.tcp_info().ok().and_then(|info| info.min_rtt) {
            self.session.set_rtt(kernels);
        }
        let connection = Connection::new(wire, &self.settings.beats, preface, rtt, clock::now());
        self.connection = Some(connection);
        self.requeue_parked();
        self.ready.poke();
        Ok(again)
    }

    /// The peer's word cannot be right: the connection goes, and the owner hears of it as of any violation.
    pub fn break_off(&mut self, violation: Violation) {
        self.violated(violation);
        self.ready.poke();
    }

    /// Sends a beat now, however short the silence: this machine was suspended, and no timer knows of it.
    pub fn ask_at_once(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.pulse.ask_at_once(clock::now());
        }
        self.ready.poke();
    }

    /// Where the connection at hand leads.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.connection.as_ref().and_then(|connection| connection.wire.peer())
    }

    // ---- others ----

    /// Takes new numbers in place.
    pub fn retune(&mut self, settings: Settings) {
        let now = clock::now();
        self.session.retune(limits(&settings));
        if let Some(connection) = &mut self.connection {
            connection.retune(&settings.beats, now);
        }
        if settings.idle_timeout.is_some() && self.session.streams() > 0 {
            self.next_sweep.get_or_insert(now + SWEEP);
        }
        self.settings = settings;
        self.ready.poke();
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Tells the peer our heartbeat numbers.
    pub fn tune_peer(&mut self, beats: Beats) {
        self.session.tune(beats);
        self.ready.poke();
    }

    /// Tells the peer that no new streams are wanted, now and over each new connection.
    pub fn go_away(&mut self, code: GoAwayCode, retry_after: Duration) {
        self.session.go_away(code, retry_after);
        self.ready.poke();
    }

    /// The peer has read that no new streams are wanted, and none of those it opened before is on its way any more.
    pub fn is_go_away_heard(&self) -> bool {
        self.session.is_go_away_heard()
    }

    /// Bytes the peer has not acknowledged.
    pub fn unacknowledged(&self) -> u64 {
        self.session.unacknowledged()
    }

    /// The offset up to which the peer has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.session.acknowledged()
    }

    /// The peer owes an acknowledgement for more than beats.
    pub fn is_owed(&self) -> bool {
        self.session.is_owed()
    }

    /// Bytes received, over all connections.
    pub fn received(&self) -> u64 {
        self.session.received()
    }

    /// The last round trip measured over the connection at hand.
    pub fn path_rtt(&self) -> Option<Duration> {
        self.connection.as_ref().and_then(|connection| connection.pulse.rtt())
    }

    /// Beats unanswered in a row.
    pub fn missed(&self) -> u32 {
        self.connection.as_ref().map_or(0, |connection| connection.pulse.missed())
    }

    /// Everything written has gone to the connection.
    pub fn is_flushed(&self) -> bool {
        self.session.unsent() == 0 && !self.session.has_words()
    }

    // ---- work ----

    /// Works until there is something for the owner. Dropping the future loses nothing: all state is here.
    pub async fn next(&mut self) -> Event {
        tokio::task::unconstrained(std::future::poll_fn(|context| self.poll(context))).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
        }
        self.ready.register(context.waker());
        for _ in 0..ROUNDS {
            let now = clock::now();
            let mut busy = self.read_link(context, now);
            busy |= self.answer_bells();
            busy |= self.write_link(context, now);
            busy |= self.timers(context, now);
            if !busy || !self.events.is_empty() {
                self.report();
                return match self.events.pop_front() {
                    Some(event) => Poll::Ready(event),
                    None => Poll::Pending,
                };
            }
        }
        self.report();
        // Waking ourselves would starve the runtime's look at sockets: its own yield is deferred past that.
        let mut pause = Box::pin(tokio::task::yield_now());
        if pause.as_mut().poll(context).is_pending() {
            self.pause = Some(pause);
        } else {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Tells what has gathered since the last time.
    fn report(&mut self) {
        if self.sent + self.received > 0 {
            self.observer.moved(std::mem::take(&mut self.sent), std::mem::take(&mut self.received));
        }
        self.observer.stands(self.session.streams(), self.session.unacknowledged());
        if let Some(budget) = &self.settings.budget {
            let memory = self.session.memory();
            if memory.abs_diff(self.told_memory) >= WORTH_TELLING {
                budget.changed(self.told_memory, memory);
                self.told_memory = memory;
            }
            self.session.set_spare(budget.free());
        }
    }

    fn timers(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let mut busy = false;
        if self.read_again.is_some_and(|at| now >= at) {
            self.read_again = None;
            busy = true;
        }
        if self.send_again.is_some_and(|at| now >= at) {
            self.send_again = None;
            busy = true;
        }
        busy |= self.judge(now);
        if self.next_sweep.is_some_and(|at| now >= at) {
            self.sweep_streams(now);
        }
        if self.next_look.is_some_and(|at| now >= at) {
            self.look_at_sockets(now);
        }
        let pulse = self.connection.as_ref().map(|connection| connection.pulse.next_deadline());
        let others = [self.next_sweep, self.next_look, self.read_again, self.send_again];
        let due = others.into_iter().chain([pulse]).flatten().min();
        let due = due.unwrap_or(now + Duration::from_secs(3600));
        // A deadline that has moved away is looked at when the timer rings: setting it for every byte would cost more.
        if due < self.armed || now >= self.armed {
            self.armed = due.max(now + Duration::from_millis(1));
            self.timer.as_mut().reset(self.armed.into());
        }
        if self.timer.as_mut().poll(context).is_ready() {
            // In the past already: the next round looks.
            self.armed = now;
            busy = true;
        }
        busy
    }
}

impl Drop for Driver {
    /// Whoever is still connected reads a reset: an end would be taken for the end of the data. That they are gone counts,
    /// also where the owner's task panicked.
    fn drop(&mut self) {
        for stream in self.session.ids() {
            self.end(stream, None, CloseReason::Error);
        }
        if let Some(budget) = &self.settings.budget {
            budget.changed(self.told_memory, 0);
        }
    }
}

fn limits(settings: &Settings) -> Limits {
    Limits {
        buffer: settings.buffer,
        peer_buffer: settings.peer_buffer,
        windows: settings.windows,
        streams: settings.streams,
    }
}

/// The thread's buffer, for as long as `work` takes.
fn with_scratch<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut scratch = SCRATCH.take();
    scratch.resize(READ, 0);
    let result = work(&mut scratch);
    SCRATCH.set(scratch);
    result
}

#[cfg(test)]
mod long_path;
#[cfg(test)]
mod tests;
