//! One session's task: it owns the driver, and decides whose connection holds.
//!
//! ```text
//! Connected --connection lost--> Waiting --proven claim--> Connected
//!     |                             `----resume.deadline--> over: streams are reset
//!     |--proven claim with a higher epoch--> Connected, by the new connection
//!     |--GOAWAY said by either end, no stream left, everything acknowledged--> over
//!     `--violation, or cut at the end of a drain--> over: streams are reset
//! ```
//!
//! **An offset that cannot be.** A claim whose proof and epoch hold, and which tells an offset that was never sent, is told by
//! whoever made the session; there is no connection over which the two could ever agree again. It
//! counts as a violation, the session is over, and the dialer hears `unknown`: a session that has ended, so it resets its
//! streams at once instead of searching on. Nothing but such a claim, or an epoch that holds, touches the connection at
//! hand.

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
use super::{Phase, Shared, Trouble, admit, handshake, services};
use crate::link::sleep_until_or_never;
use crate::log;
use crate::metrics::{CloseReason, LossReason, Refusal};
use crate::net::wire::{Parked, Wire};
use crate::session::hello::{Code, Received, Welcome};
use crate::session::{GoAwayCode, Opening, RefusalCode, ResetCode, Violation};
use crate::status::{SessionFigures, Shown};
use crate::tunnel::driver::{Driver, Event, Local, Observer};

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

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// `resume.deadline` has passed.
    Expired,
    /// The dialer has no more use for it.
    Done,
    /// The gateway drains, and no stream was left.
    Drained,
    /// What was left at the end of a drain.
    Cut,
    Violation,
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

    fn connection_lost(&mut self, reason: LossReason, error: &str) -> Result<(), End> {
        self.held = None;
        self.lost = Some(Instant::now());
        self.shown.disconnected();
        if self.done {
            return Err(End::Done);
        }
        if self.cut.is_some() {
            return Err(End::Cut);
        }
        tracing::info!(
            session = ?self.membership.id,
            ?reason,
            streams = self.driver.streams(),
            deadline = ?self.terms.resume().deadline,
            "a session lost its connection and waits: {}",
            log::escape(error.as_bytes())
        );
        Ok(())
    }

    fn open(&mut self, stream: u32, opening: Opening) {
        let settings = self.shared.settings();
        let Some(service) = services::find(&settings, &opening.service, self.membership.identity.as_ref()) else {
            self.shared.trouble(Trouble::NoService, |left_out| {
                let service = log::escape(opening.service.as_bytes());
                let identity = self.membership.identity.as_ref().map(tracing::field::display);
                tracing::warn!(
                    service,
                    identity,
                    left_out,
                    "a stream was refused: no such service, or not for this dialer"
                );
            });
            return self.driver.refuse(stream, RefusalCode::Service);
        };
        self.shared.came.fetch_add(1, Ordering::Relaxed);
        let (service, shared) = (service.clone(), self.shared.clone());
        let dial = self.dials.spawn(async move {
            let name = &opening.service;
            let tell = |why: &str| {
                shared.trouble(Trouble::Service(name.clone()), |left_out| {
                    tracing::warn!(service = name, left_out, "a stream was refused: {}", log::printable(why));
                });
            };
            services::connect(service, &opening, &shared.resolver, tell).await
        });
        self.streams.insert(dial.id(), stream);
        self.dialling.insert(stream, dial);
    }

    fn dialled(&mut self, id: Id, result: Result<Local, RefusalCode>) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.dialling.remove(&stream);
        match result {
            Ok(local) => self.driver.accept(stream, local),
            Err(code) => self.driver.refuse(stream, code),
        }
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
        }
        Ok(())
    }

    fn follow_phase(&mut self) {
        let phase = self.shared.phase();
        if phase != Phase::Serving && self.phase == Phase::Serving {
            self.driver.go_away(GoAwayCode::Draining, self.shared.come_back_after());
        }
        if phase == Phase::Cut && self.phase != Phase::Cut {
            self.driver.end_streams(ResetCode::Drained, CloseReason::Drained);
            self.cut = Some(Instant::now() + LAST_WORDS);
        }
        self.phase = phase;
    }

    /// Somebody who knows the secret would go on with the session over a new connection.
    fn claimed(&mut self, claim: Claim) -> Result<(), End> {
        let Claim { wire, connection } = claim;
        // An error means that the connection is gone already.
        let Ok(wire) = Parked::unpark(wire) else { return Ok(()) };
        if connection.received.hello.epoch <= self.epoch {
            let why = "a later claim has its session".to_owned();
            let turned = admit::turned(wire, Code::Superseded, Duration::ZERO, Refusal::Superseded, why);
            self.turn_away(*turned, connection);
            return Ok(());
        }
        let received = connection.received.hello.received;
        if received < self.driver.acknowledged() {
            // A claim that its dialer has given up, arriving late: meanwhile it has acknowledged more.
            let why = "the claim is older than what the dialer has acknowledged".to_owned();
            let turned = admit::turned(wire, Code::Superseded, Duration::ZERO, Refusal::Superseded, why);
            self.turn_away(*turned, connection);
            return Ok(());
        }
        if !self.driver.can_resume(received) {
            self.shared.status.metrics.violations.count(Violation::Resume.name());
            self.tell_violation(Violation::Resume);
            self.turn_away(*admit::unknown(wire), connection);
            return Err(End::Violation);
        }
        self.epoch = connection.received.hello.epoch;
        self.terms.resumed(&connection.received.hello, &self.shared.settings());
        self.driver.retune(self.terms.driver(&self.shared.budget));
        let (peer, outage) = (connection.peer, self.lost.map(|since| since.elapsed()));
        self.take_over(wire, connection)?;
        self.shown.figures.resumed(self.epoch, outage);
        self.shown.figures.set_buffer(self.terms.resume().buffer);
        self.shown.connected(peer);
        tracing::info!(
            session = ?self.membership.id,
            peer = peer.map(tracing::field::display),
            epoch = self.epoch,
            streams = self.driver.streams(),
            ?outage,
            "a session goes on over a new connection"
        );
        Ok(())
    }

    /// The connection at hand goes, the new one comes. What was read of the old one and not yet parsed is sent again.
    fn take_over(&mut self, wire: Wire, connection: Connection) -> Result<(), End> {
        let received = self.driver.freeze();
        self.driver.drop_wire();
        let hello = &connection.received.hello;
        let settings = self.shared.settings();
        let welcome = Welcome {
            version: hello.versions.1.min(crate::session::hello::VERSIONS.1),
            session: self.membership.id,
            epoch: self.epoch,
            received,
            nonce: self.nonce,
            incarnation: self.shared.incarnation,
            beats: self.terms.beats(),
            resume: self.terms.resume(),
            streams: u32::try_from(settings.limits.streams).unwrap_or(u32::MAX),
            name: settings.name.clone(),
            advertise: settings.advertise.as_ref().map(|endpoint| endpoint.name.clone()),
        };
        let welcome = welcome.encode(&self.membership.secret, &connection.binding, connection.received.bytes());
        let rtt = wire.tcp_info().map(|info| info.rtt).unwrap_or_default();
        self.driver.attach(wire, hello.received, welcome, rtt).map_err(|violation| {
            self.tell_violation(violation);
            End::Violation
        })?;
        self.held = Some(connection.held);
        self.lost = None;
        Ok(())
    }

    fn turn_away(&self, turned: handshake::Turned, connection: Connection) {
        let shared = self.shared.clone();
        tokio::spawn(async move {
            handshake::turn_away(&shared, turned, connection.peer).await;
            drop(connection);
        });
    }

    fn tell_violation(&self, violation: Violation) {
        self.shared.trouble(Trouble::Violation(violation), |left_out| {
            tracing::warn!(
                session = ?self.membership.id,
                identity = self.membership.identity.as_ref().map(tracing::field::display),
                reason = violation.name(),
                left_out,
                "a dialer broke the protocol, its session is over: {violation}"
            );
        });
    }

    /// The session is forgotten, and everything that belongs to it.
    fn end(self, end: End) {
        let Self { membership, mut inbox, mut driver, shared, .. } = self;
        let (id, age) = (membership.id, membership.made.elapsed());
        // From here on nobody finds it; whoever has just done so hears the same as all who come later.
        drop(membership);
        inbox.close();
        while let Ok(order) = inbox.try_recv() {
            if let Order::Claim(claim) = order
                && let Ok(wire) = Parked::unpark(claim.wire)
            {
                let (shared, connection) = (shared.clone(), claim.connection);
                tokio::spawn(async move {
                    handshake::turn_away(&shared, *admit::unknown(wire), connection.peer).await;
                    drop(connection);
                });
            }
        }
        let reason = match end {
            End::Expired => CloseReason::Expired,
            End::Done => CloseReason::ClientReset,
            End::Drained | End::Cut => CloseReason::Drained,
            End::Violation => CloseReason::Error,
        };
        let streams = driver.end_streams(ResetCode::Error, reason);
        tracing::info!(session = ?id, end = end.name(), streams, ?age, "a session is over");
    }
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Done => "done",
            Self::Drained => "drained",
            Self::Cut => "cut",
            Self::Violation => "violation",
        }
    }
}

/// Whether a session that has nothing to do is to end.
#[derive(Clone, Copy)]
struct Leaving {
    done: bool,
    phase: Phase,
}

impl Leaving {
    fn end(self) -> End {
        match self.phase {
            Phase::Cut => End::Cut,
            _ if self.done => End::Done,
            _ => End::Drained,
        }
    }

    /// Nothing is left to say, and for all but a cut session nothing is left to be heard either: a dialer that misses the
    /// last bytes of a stream could not get them from a session that is gone.
    fn may(self, driver: &Driver) -> bool {
        match self.phase {
            Phase::Cut => !driver.has_wire() || driver.is_flushed(),
            Phase::Serving if !self.done => false,
            _ => driver.has_wire() && driver.streams() == 0 && driver.is_flushed() && !driver.is_owed(),
        }
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
    membership.open.store(streams.max(usize::from(driver.is_owed())), Ordering::Relaxed);
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
