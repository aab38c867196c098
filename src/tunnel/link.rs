//! One link: the task that keeps a session alive over one connection after another.
//!
//! [`Claims`] decides when to dial and who holds the session, [`Driver`] moves the bytes; this brings the two together, and
//! tells the world.

mod attempts;
mod clients;
mod drill;
mod elsewhere;
mod orders;
mod session;
mod settings;
mod tell;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::attempt::Connected;
use super::claims::{Action, AttemptId, Claims, Input, State};
use super::driver::{Driver, Event};
use super::hub::{Alive, Hub};
use super::slot::Slot;
use crate::clock::{self, sleep_until_or_never};
use crate::config::{self, Endpoint};
use crate::link::drill::Drill;
use crate::metrics::{CloseReason, LossReason};
use crate::session::{GoAwayCode, ResetCode};
use crate::status::LinkStatus;
use attempts::Done;
use session::{Agreed, Known};
use settings::{claims_settings, driver_settings, in_order};
use tell::{Counting, Way};

/// At the end, what was said last is given so long to leave.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// See the module.
pub struct LinkTask {
    hub: Arc<Hub>,
    slot: Arc<Slot>,
    view: Arc<LinkStatus>,
    settings: watch::Receiver<Arc<config::Upstream>>,
    endpoints: Vec<Endpoint>,
    claims: Claims,
    driver: Driver,
    counting: Arc<Counting>,
    known: Option<Known>,
    tasks: JoinSet<(AttemptId, Done)>,
    /// Attempts whose task runs.
    running: HashMap<AttemptId, AbortHandle>,
    /// Where each attempt leads.
    ways: HashMap<AttemptId, Way>,
    /// Connected, and waiting for their turn to claim.
    ready: HashMap<AttemptId, Connected>,
    /// The answer that is being acted upon.
    agreed: Option<Agreed>,
    /// Where the connection at hand leads, or the last one did.
    at: Option<Endpoint>,
    alive: Option<Alive>,
    up_since: Option<Instant>,
    /// Since when there is no connection.
    lost_at: Option<Instant>,
    move_at: Option<Instant>,
    /// The name that led to the connection at hand, or to the last one, and the address it led to.
    led: Option<(String, IpAddr)>,
    /// The session is to move, and why.
    moving: Option<LossReason>,
    /// Because its name leads elsewhere.
    follows: bool,
    cut_at: Option<Instant>,
    drain: watch::Receiver<Duration>,
    last_error: Option<String>,
    told_waiting: bool,
    /// The outage that is being rehearsed here.
    drill: Option<Drill>,
}

impl LinkTask {
    /// `failed`: rounds of dials that count as failed already, for a link that returns after a panic.
    pub fn new(hub: &Arc<Hub>, slot: &Arc<Slot>, drain: watch::Receiver<Duration>, failed: u32) -> Self {
        let mut settings = hub.settings.subscribe();
        let current = settings.borrow_and_update().clone();
        let endpoints = in_order(&current, slot.id);
        let (now, seed) = (clock::now(), fastrand::u64(..));
        let numbers = claims_settings(&current, endpoints.len());
        let claims = match failed {
            0 => Claims::new(numbers, now, seed),
            failed => Claims::after_failures(numbers, now, seed, failed),
        };
        let view = hub.status.add_link(slot.id);
        let counting = Counting::new(hub, slot, &view);
        let driver = Driver::near(driver_settings(&current), counting.clone());
        Self {
            hub: hub.clone(),
            slot: slot.clone(),
            view,
            settings,
            endpoints,
            claims,
            driver,
            counting,
            known: None,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            ways: HashMap::new(),
            ready: HashMap::new(),
            agreed: None,
            at: None,
            alive: None,
            up_since: None,
            lost_at: None,
            move_at: None,
            led: None,
            moving: None,
            follows: false,
            cut_at: None,
            drain,
            last_error: None,
            told_waiting: false,
            drill: None,
        }
    }

    /// Runs until the link is closed.
    pub async fn run(mut self) {
        self.step(Input::Tick);
        while self.claims.state() != State::Closed {
            self.show();
            let drill = self.drill.as_ref().map(|drill| drill.rehearsal().until());
            let due = [self.claims.next_deadline(), self.move_at, self.cut_at, drill].into_iter().flatten().min();
            tokio::select! {
                biased;
                event = self.driver.next() => self.event(event),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Ok((id, done)) = done {
                        self.done(id, done);
                    }
                }
                () = self.slot.wake.notified() => self.told(),
                changed = self.settings.changed() => match changed {
                    Ok(()) => self.retuned(),
                    Err(_) => self.step(Input::Stop),
                },
                () = sleep_until_or_never(due) => self.timers(),
            }
        }
        self.leave().await;
    }

    /// Ends: what is left is reset, the gateway hears that the session is done with.
    async fn leave(mut self) {
        self.driver.end_streams(ResetCode::Drained, CloseReason::Drained);
        for client in self.slot.close() {
            self.slot.one_less();
            self.hub.enter(client);
        }
        if self.driver.has_wire() {
            self.driver.go_away(GoAwayCode::Done, Duration::ZERO);
            let said = async {
                while self.driver.has_wire() && !self.driver.is_flushed() {
                    let _ = tokio::time::timeout(Duration::from_millis(10), self.driver.next()).await;
                }
            };
            let _ = tokio::time::timeout(LAST_WORDS, said).await;
        }
        self.show_end();
    }

    /// Gives the state machine its input and does what it says.
    fn step(&mut self, input: Input) {
        let now = clock::now();
        let waiting = self.driver.streams() > 0;
        let mut actions = Vec::new();
        if waiting != std::mem::replace(&mut self.told_waiting, waiting) {
            actions = self.claims.handle(now, Input::StreamsWait(waiting));
        }
        actions.extend(self.claims.handle(now, input));
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Dial { id, place } => self.dial(id, place),
            Action::SayHello { id, epoch, new_session } => self.say_hello(id, epoch, new_session),
            Action::Attach { id, frozen } => self.attach(id, frozen),
            Action::Abandon { id } => self.abandon(id),
            Action::Thaw => self.driver.thaw(),
            Action::Elsewhere => self.yield_place(),
            Action::AnotherIsUp => self.another_is_up(),
            Action::StartFresh(gone) => self.start_fresh(gone),
            Action::Failed => self.tell_failed(),
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Lost { reason, error } => {
                self.tell_lost(reason, error);
                self.step(Input::Lost);
            }
            Event::Suspect => {
                self.tell_suspect();
                self.step(Input::Suspect);
            }
            Event::Recovered => self.step(Input::Recovered),
            Event::GoAway { code, retry_after } => {
                tracing::info!(
                    upstream = self.hub.name,
                    link = self.slot.id,
                    ?code,
                    ?retry_after,
                    "the gateway takes no new streams: another link is made for them"
                );
                self.hub.drain_began(self.slot.id);
                self.drain_away("its gateway drains");
            }
            Event::Violation(violation) => {
                self.tell_lost(LossReason::Protocol, violation.to_string());
                self.step(Input::Violated);
            }
            // Only the far end hears of these.
            Event::Open { .. } | Event::Cancelled { .. } | Event::Tune(_) => {}
        }
    }
}
