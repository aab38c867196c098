//! The near end of one session: when to dial, which attempt claims the session, which connection holds it. Pure.
//!
//! ```text
//! no session: Connecting <--> Waiting --attempts used up--> Failed --retry--> Connecting
//!                 |
//!              welcome                  .---- recovered ----.
//!                 v                     v                   |
//!             session: Up --beat unanswered--> Suspect --lost--> Lost --unknown, expired--> no session
//!                       ^                         |               |
//!                       `------- welcome ---------+---------------'      (draining: Closed instead)
//! ```
//!
//! An attempt is a dial and, once it is [ready](Input::Ready), a claim: a Hello with an epoch higher than any before it.
//! The gateway gives the session to the highest epoch, so claims can overlap and only one connection ever holds.
//!
//! **Why the old connection is frozen while a Hello is out.** The Hello tells how many bytes we have received. Whoever
//! answers goes on from there; had we read on meanwhile, those bytes would come twice. So nothing is read, on whatever
//! connection, while *any* Hello is out whose Welcome would still be taken. An older Hello's Welcome is taken, for it may be
//! all we ever get, but its connection stays frozen until the newer one is decided, which told the same offset.
//!
//! Every input only notes what happened; `act` then does what follows from where things stand, so that no order of
//! events needs a rule of its own.

mod interface;
mod outcome;
mod places;
mod schedule;

pub use interface::{Action, Answer, AttemptId, Failure, Gone, Input, Place, Settings, State};

use std::time::{Duration, Instant};

use crate::link::backoff;
use places::Places;

/// In flight at once: the newest, and the one that it overlaps.
const IN_FLIGHT: usize = 2;

#[derive(Debug, Clone, Copy)]
struct Attempt {
    id: AttemptId,
    place: Place,
    started: Instant,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dialling,
    /// Connected, its Hello not sent.
    Ready,
    Asked {
        epoch: u64,
    },
}

impl Attempt {
    fn epoch(&self) -> Option<u64> {
        match self.stage {
            Stage::Asked { epoch } => Some(epoch),
            Stage::Dialling | Stage::Ready => None,
        }
    }
}

/// The connection that has the session.
#[derive(Debug, Clone, Copy)]
struct Holder {
    since: Instant,
    suspect: bool,
}

#[derive(Debug)]
struct Session {
    /// What the gateway agreed to.
    deadline: Duration,
    holder: Option<Holder>,
    /// When the last connection was lost; true only without a holder.
    lost: Instant,
    /// A connection of it stood for `stable_after`.
    stood: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    /// What is left of the session may end; none follows.
    Draining,
    Failed,
    Closed,
}

/// The state machine of one link.
#[derive(Debug)]
pub struct Claims {
    settings: Settings,
    random: fastrand::Rng,
    places: Places,
    life: Life,
    session: Option<Session>,
    /// At most [`IN_FLIGHT`], oldest first.
    attempts: Vec<Attempt>,
    next_id: u64,
    epoch: u64,
    /// The connection that holds is not read.
    frozen: bool,
    last_claim: Option<Instant>,
    /// The session is to move: an attempt of at least this number takes it.
    moving: Option<AttemptId>,
    /// It moves because the name of this endpoint leads to another address.
    follows: Option<usize>,
    streams_wait: bool,
    /// Rounds of dials without success since a connection last stood; these count for `retry.attempts`.
    failures: u32,
    /// The same for the claims of a session that lives; these do not.
    claim_failures: u32,
    /// Without hurry, not before this.
    calm_at: Instant,
    /// In a hurry, not before this.
    urgent_at: Instant,
    last_dial: Option<Instant>,
    /// From the last attempt that got the session: dial to Welcome.
    took: Duration,
}

impl Claims {
    /// A link without a session; the first [`Input::Tick`] dials.
    pub fn new(settings: Settings, now: Instant, seed: u64) -> Self {
        Self {
            places: Places::new(settings.endpoints),
            settings,
            random: fastrand::Rng::with_seed(seed),
            life: Life::Running,
            session: None,
            attempts: Vec::new(),
            next_id: 1,
            epoch: 0,
            frozen: false,
            last_claim: None,
            moving: None,
            follows: None,
            streams_wait: false,
            failures: 0,
            claim_failures: 0,
            calm_at: now,
            urgent_at: now,
            last_dial: None,
            took: Duration::ZERO,
        }
    }

    /// A link that first waits as if `failed` rounds of dials had failed: how one returns after its task panicked.
    pub fn after_failures(settings: Settings, now: Instant, seed: u64, failed: u32) -> Self {
        let mut claims = Self::new(settings, now, seed);
        claims.failures = failed;
        claims.calm_at = now + backoff::after_failures(&claims.settings.retry, failed, &mut claims.random);
        claims
    }

    /// Takes new numbers, in place. A wait that is running keeps its end; [`Input::Retry`] cuts it short.
    pub fn retune(&mut self, settings: Settings) {
        self.places.set_endpoints(settings.endpoints);
        if self.follows.is_some_and(|endpoint| endpoint >= settings.endpoints) {
            self.stay();
        }
        self.settings = settings;
    }

    pub fn state(&self) -> State {
        let attempt = self.failures.saturating_add(1);
        match (self.life, &self.session) {
            (Life::Closed, _) => State::Closed,
            (Life::Failed, _) => State::Failed,
            (Life::Draining, _) => State::Draining,
            (Life::Running, None) if !self.attempts.is_empty() => State::Connecting { attempt },
            (Life::Running, None) => State::Waiting { attempt, retry_at: self.next_dial().unwrap_or(self.calm_at) },
            (Life::Running, Some(session)) => match session.holder {
                Some(holder) if holder.suspect => State::Suspect { since: holder.since },
                Some(holder) => State::Up { since: holder.since },
                None => State::Lost { since: session.lost, expires: self.expiry(session) },
            },
        }
    }

    /// Attempts whose sockets the driver has.
    pub fn in_flight(&self) -> impl Iterator<Item = AttemptId> {
        self.attempts.iter().map(|attempt| attempt.id)
    }

    /// Whether the connection that holds the session may not be read.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Until when a session without a connection is kept; `None` while it has one, or there is none.
    pub fn expires(&self) -> Option<Instant> {
        self.session.as_ref().filter(|session| session.holder.is_none()).map(|session| self.expiry(session))
    }

    /// The highest epoch said so far.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes one event, returns what to do about it.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        if self.life != Life::Closed {
            self.note(now, input, &mut out);
            self.act(now, &mut out);
        }
        out
    }

    fn note(&mut self, now: Instant, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::Tick => {}
            Input::Lost => self.lost(now),
            Input::Suspect => self.suspect(now),
            Input::Recovered => {
                if let Some(holder) = self.holder_mut() {
                    holder.suspect = false;
                }
            }
            Input::StreamsWait(wait) => self.streams_wait = wait,
            Input::Ready(id) => {
                if let Some(attempt) = self.attempts.iter_mut().find(|a| a.id == id && a.stage == Stage::Dialling) {
                    attempt.stage = Stage::Ready;
                }
            }
            Input::Failed(id, failure) => self.failed(now, id, failure, out),
            Input::AnswerTimedOut(id) => self.failed(now, id, Failure::Timeout, out),
            Input::Answer(id, answer) => self.answered(now, id, answer, out),
            Input::Move => {
                // A dial that is under way was begun with what is now out of date.
                self.moving = self.session.is_some().then_some(AttemptId(self.next_id));
                self.follows = None;
                self.calm_at = now;
            }
            // A move that is under way for another reason asks for the name as well.
            Input::Follow(endpoint) if self.moving.is_none() && endpoint < self.settings.endpoints => {
                self.moving = self.session.is_some().then_some(AttemptId(self.next_id));
                self.follows = self.moving.map(|_| endpoint);
                self.calm_at = now;
            }
            Input::Follow(_) => {}
            Input::Stay => self.stay(),
            Input::Retry => self.hurry_up(now),
            Input::Wanted if self.settings.retry.attempts.is_none() => self.calm_at = self.calm_at.min(now),
            Input::Wanted => {}
            Input::Violated => self.start_fresh(now, Gone::Violation, out),
            Input::Drain => self.life = if self.session.is_some() { Life::Draining } else { Life::Closed },
            Input::Stop => self.life = Life::Closed,
        }
        if self.life == Life::Closed {
            self.session = None;
            self.frozen = false;
            self.abandon(out, |_| true);
        }
    }

    /// What follows from where things stand.
    fn act(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.expires().is_some_and(|at| now >= at) {
            self.start_fresh(now, Gone::Expired, out);
        }
        if matches!(self.life, Life::Running | Life::Draining) {
            self.drop_the_needless(out);
            self.claim(now, out);
            self.dial(now, out);
        }
        if self.frozen && !self.is_asking() {
            self.frozen = false;
            out.push(Action::Thaw);
        }
    }

    /// With a connection that is well, and no move under way, nobody needs another: a Hello that has not left is not sent.
    fn drop_the_needless(&mut self, out: &mut Vec<Action>) {
        if self.holder().is_some_and(|holder| !holder.suspect) {
            let moving = self.moving;
            self.abandon(out, |a| a.epoch().is_none() && moving.is_none_or(|first| a.id < first));
        }
    }

    /// Sends the Hello of the newest attempt that is ready, as soon as one may leave.
    fn claim(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.claim_at().is_some_and(|at| now < at) {
            return;
        }
        let Some(attempt) = self.attempts.iter_mut().rev().find(|a| a.stage == Stage::Ready) else { return };
        self.epoch += 1;
        attempt.stage = Stage::Asked { epoch: self.epoch };
        let new_session = self.session.is_none();
        out.push(Action::SayHello { id: attempt.id, epoch: self.epoch, new_session });
        self.last_claim = Some(now);
        self.frozen = self.holder().is_some();
    }

    fn dial(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.next_dial().is_none_or(|at| now < at) {
            return;
        }
        let Some(place) = self.places.next(self.search(), self.is_urgent(), now) else { return };
        if self.attempts.len() >= IN_FLIGHT
            && let Some(id) = self.displaced(now)
        {
            self.abandon(out, |a| a.id == id);
        }
        let id = AttemptId(self.next_id);
        self.next_id += 1;
        self.attempts.push(Attempt { id, place, started: now, stage: Stage::Dialling });
        self.dialled(now);
        out.push(Action::Dial { id, place });
    }

    /// Takes an attempt that is over. True: no Hello newer than its own is out.
    fn take(&mut self, id: AttemptId) -> Option<(Attempt, bool)> {
        let at = self.attempts.iter().position(|a| a.id == id)?;
        let attempt = self.attempts.remove(at);
        Some((attempt, self.attempts.iter().all(|a| a.epoch() <= attempt.epoch())))
    }

    fn abandon(&mut self, out: &mut Vec<Action>, which: impl Fn(&Attempt) -> bool) {
        out.extend(self.attempts.extract_if(.., |a| which(a)).map(|a| Action::Abandon { id: a.id }));
    }

    /// A connection that stood for a while has earned a fresh start; a flapping one has not.
    fn credit(&mut self, now: Instant) -> bool {
        let stood = self.holder().is_some_and(|holder| self.has_stood(now, *holder));
        if stood {
            self.failures = 0;
            self.claim_failures = 0;
            self.session.iter_mut().for_each(|session| session.stood = true);
        }
        stood
    }

    fn has_stood(&self, now: Instant, holder: Holder) -> bool {
        now.saturating_duration_since(holder.since) >= self.settings.retry.stable_after
    }

    /// No name is followed, or no more.
    fn stay(&mut self) {
        if self.follows.take().is_some() {
            self.moving = None;
        }
    }

    fn holder(&self) -> Option<&Holder> {
        self.session.as_ref()?.holder.as_ref()
    }

    fn holder_mut(&mut self) -> Option<&mut Holder> {
        self.session.as_mut()?.holder.as_mut()
    }

    /// The session has a connection, and nothing is known against it.
    fn is_well(&self) -> bool {
        self.holder().is_some_and(|holder| !holder.suspect)
    }

    fn is_asking(&self) -> bool {
        self.attempts.iter().any(|a| a.epoch().is_some())
    }

    fn expiry(&self, session: &Session) -> Instant {
        session.lost + session.deadline.min(self.settings.deadline)
    }
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
