//! One task's state: a link, and the sockets of all its streams. Both ends use it.
//!
//! No task, channel or lock a stream: each socket's waker puts the stream on a list and wakes the one task that owns them
//! all. Bytes are read straight into the chunk that is sent and kept for replay, and written straight from the buffer that
//! the link was read into. Owners decide about connections (when to dial, whose claim holds); the driver owns heartbeats,
//! acknowledgements, credit, fairness and the bounds.
//!
//! A turn: `read` the link and act upon what arrived (`arrivals`), look after the `streams` whose sockets are `ready`,
//! `write` to the link, `judge` the connection and `sweep` the streams.

mod arrivals;
mod attach;
mod connection;
mod cork;
mod delayed_ack;
mod event;
mod judge;
mod local;
mod passage;
mod read;
mod ready;
mod room;
mod settings;
mod streams;
mod sweep;
mod write;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::clock;
use crate::config::Beats;
use crate::metrics::CloseReason;
use crate::session::{GoAwayCode, Session};
use connection::Connection;
use local::LocalSide;
use ready::Ready;
use sweep::SWEEP;

pub use event::{Event, Observer};
pub use local::Local;
pub use settings::{Budget, Settings};

/// Rounds of reading and writing before other tasks run.
const ROUNDS: usize = 8;
/// A gateway's memory is told of changes of this size.
const WORTH_TELLING: u64 = 64 * 1024;

/// See the module.
pub struct Driver {
    session: Session<LocalSide>,
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
            session: Session::new(near, settings.limits(), now),
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

    /// Takes new numbers in place.
    pub fn retune(&mut self, settings: Settings) {
        let now = clock::now();
        self.session.retune(settings.limits());
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

#[cfg(test)]
mod tests;
