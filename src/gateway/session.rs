//! One session's task: it owns the driver, and decides whose connection holds.
//!
//! ```text
//! Connected --connection lost--> Waiting --proven claim--> Connected
//!     |                             `----resume.deadline--> over: streams are reset
//!     |--proven claim with a higher epoch--> Connected, by the new connection
//!     |--GOAWAY said by either end, no stream left, everything acknowledged--> over
//!     `--violation, or cut at the end of a drain--> over: streams are reset
//! ```

mod claim;
mod end;
mod streams;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinSet};

use super::accept::Held;
use super::sessions::Membership;
use super::terms::Terms;
use super::{Phase, Shared};
use crate::clock::{self, sleep_until_or_never};
use crate::metrics::{CloseReason, SessionEnd as End};
use crate::net::wire::{Parked, Wire};
use crate::session::hello::Received;
use crate::session::{GoAwayCode, RefusalCode, ResetCode, Violation};
use crate::status::{SessionFigures, Shown};
use crate::tunnel::driver::{Driver, Event, Local, Observer};
use end::Leaving;

/// What is said when a session is cut has reached the kernel by then, or nobody reads it.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What a session's task is told.
pub enum Order {
    /// Somebody who knows the secret would go on with the session.
    Claim(Box<Claim>),
    /// The settings have changed.
    Retune,
    /// So has the gateway's phase.
    Phase,
    /// This machine was suspended: the connection at hand is asked at once whether it lives.
    Ask,
}

/// A connection that claims the session, on its way to the session's thread.
pub struct Claim {
    pub wire: Parked,
    pub connection: Connection,
}

/// What belongs to a connection.
pub struct Connection {
    /// Its proof has been checked.
    pub received: Received,
    pub binding: [u8; 32],
    pub held: Held,
    pub peer: Option<SocketAddr>,
}

/// See the module.
pub struct Live {
    shared: Arc<Shared>,
    membership: Membership,
    inbox: mpsc::UnboundedReceiver<Order>,
    driver: Driver,
    terms: Terms,
    epoch: u64,
    nonce: [u8; 32],
    /// The descriptor of the connection at hand.
    held: Option<Held>,
    shown: Shown,
    dials: JoinSet<Result<Local, RefusalCode>>,
    dialling: HashMap<u32, AbortHandle>,
    streams: HashMap<Id, u32>,
    /// Since when there is no connection.
    lost: Option<Instant>,
    /// The dialer has said that it needs the session no more.
    done: bool,
    phase: Phase,
    /// Cut: until when its last words may take.
    cut: Option<Instant>,
}

/// What the driver has come to.
enum Next {
    Event(Event),
    /// A session that is to end has nothing left to do.
    Settled,
}

impl Live {
    pub fn new(
        shared: Arc<Shared>,
        membership: Membership,
        inbox: mpsc::UnboundedReceiver<Order>,
        first: &Connection,
    ) -> Self {
        let terms = Terms::new(&first.received.hello, &shared.settings());
        let figures = SessionFigures::new(&membership.id.0, terms.resume().buffer);
        let identity = membership.identity.as_ref().map(|identity| identity.as_str());
        let shown = shared.status.add_session(figures, identity, first.peer);
        let driver = Driver::far(terms.driver(&shared.budget), Arc::new(Counts(shared.clone())));
        Self {
            membership,
            inbox,
            driver,
            terms,
            epoch: first.received.hello.epoch,
            nonce: [0; 32],
            held: None,
            shown,
            dials: JoinSet::new(),
            dialling: HashMap::new(),
            streams: HashMap::new(),
            lost: None,
            done: false,
            phase: Phase::Serving,
            cut: None,
            shared,
        }
    }

    /// Lives the session to its end. `nonce`: ours, of which its secret may have been made.
    pub async fn run(mut self, wire: Wire, first: Connection, nonce: [u8; 32]) {
        self.nonce = nonce;
        tracing::info!(
            session = ?self.membership.id,
            identity = self.membership.identity.as_ref().map(tracing::field::display),
            peer = first.peer.map(tracing::field::display),
            "a session was made"
        );
        let end = match self.take_over(wire, first) {
            Ok(()) => {
                // Told to those who were there when it changed.
                self.follow_phase();
                self.live().await
            }
            Err(end) => end,
        };
        self.end(end);
    }

    async fn live(&mut self) -> End {
        loop {
            let deadline = self.cut.or(self.lost.map(|since| since + self.terms.resume().deadline));
            let (driver, membership, shown) = (&mut self.driver, &self.membership, &self.shown);
            let leaving = Leaving { done: self.done, phase: self.phase };
            let worked = tokio::select! {
                biased;
                Some(order) = self.inbox.recv() => self.follow(order),
                Some(dialled) = self.dials.join_next_with_id(), if !self.dials.is_empty() => {
                    let (id, result) = match dialled {
                        Ok((id, result)) => (id, result),
                        // Given up, or it panicked.
                        Err(error) => (error.id(), Err(RefusalCode::Unreachable)),
                    };
                    self.dialled(id, result);
                    Ok(())
                }
                () = sleep_until_or_never(deadline) => Err(if self.cut.is_some() { End::Cut } else { End::Expired }),
                next = poll_fn(|context| poll(driver, membership, shown, leaving, context)) => match next {
                    Next::Event(event) => self.act(event),
                    Next::Settled => Err(leaving.end()),
                },
            };
            if let Err(end) = worked {
                return end;
            }
        }
    }

    fn act(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Open { stream, opening } => self.open(stream, opening),
            Event::Cancelled { stream } => match self.dialling.get(&stream) {
                // The place is free when the dial is really over.
                Some(dial) => dial.abort(),
                None => self.driver.refuse(stream, RefusalCode::Unreachable),
            },
            Event::Lost { reason, error } => return self.connection_lost(reason, &error),
            Event::Tune(beats) => {
                self.terms.tuned(beats);
                self.driver.retune(self.terms.driver(&self.shared.budget));
            }
            Event::GoAway { .. } => self.done = true,
            Event::Violation(violation) => {
                self.tell_violation(violation);
                return Err(End::Violation);
            }
            Event::Suspect | Event::Recovered => {}
        }
        Ok(())
    }

    fn follow(&mut self, order: Order) -> Result<(), End> {
        match order {
            Order::Claim(claim) => return self.claimed(*claim),
            Order::Retune => {
                let told = self.terms.beats();
                self.terms.configured(&self.shared.settings());
                self.driver.retune(self.terms.driver(&self.shared.budget));
                self.shown.figures.set_buffer(self.terms.resume().buffer);
                if self.terms.beats() != told && self.terms.has_own_beats() {
                    self.driver.tune_peer(self.terms.beats());
                }
            }
            Order::Phase => self.follow_phase(),
            Order::Ask => self.driver.ask_at_once(),
        }
        Ok(())
    }

    fn follow_phase(&mut self) {
        let phase = self.shared.phase();
        if phase != Phase::Serving && self.phase == Phase::Serving {
            self.driver.go_away(GoAwayCode::Draining, self.shared.come_back_after());
            self.tell_awaited(phase);
        }
        if phase == Phase::Cut && self.phase != Phase::Cut {
            self.driver.end_streams(ResetCode::Drained, CloseReason::Drained);
            self.cut = Some(clock::now() + LAST_WORDS);
        }
        self.phase = phase;
    }
}

/// Lets the driver work, and shows how it stands: it has no event for most of what changes that.
fn poll(
    driver: &mut Driver,
    membership: &Membership,
    shown: &Shown,
    leaving: Leaving,
    context: &mut Context<'_>,
) -> Poll<Next> {
    // A future of its own each time: all state is in the driver.
    let polled = pin!(driver.next()).poll(context);
    let streams = driver.streams();
    shown.figures.set_streams(streams);
    shown.figures.set_unacknowledged(driver.unacknowledged());
    let owed = driver.is_owed();
    let awaited = owed || leaving.expects_streams(driver);
    membership.open.store(streams.max(usize::from(awaited)), Ordering::Relaxed);
    // A dialer that is there has what it has not acknowledged yet, or will in a moment.
    membership.at_stake.store(streams.max(usize::from(owed && !driver.has_wire())), Ordering::Relaxed);
    match polled {
        Poll::Ready(event) => Poll::Ready(Next::Event(event)),
        Poll::Pending if leaving.may(driver) => Poll::Ready(Next::Settled),
        Poll::Pending => Poll::Pending,
    }
}

/// What a gateway counts of its sessions' traffic: the rest is told where it happens.
struct Counts(Arc<Shared>);

impl Observer for Counts {
    fn moved(&self, _sent: u64, _received: u64) {}
    fn closed(&self, reason: CloseReason) {
        tracing::debug!(?reason, "a stream is over");
    }
    fn beat_sent(&self) {}
    fn beat_missed(&self) {}
    fn beat_answered(&self, _rtt: Duration) {}
    fn received(&self) {}
    fn violation(&self, violation: Violation) {
        self.0.status.metrics.violations.count(violation.name());
    }
}
