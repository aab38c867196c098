//! One link: the task that keeps a session alive over one connection after another.
//!
//! [`Claims`] decides when to dial and who holds the session, [`Driver`] moves the bytes; this brings the two together, and
//! tells the world.

mod clients;
mod drill;
mod elsewhere;
mod session;
mod tell;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::attempt::{self, Answered, AskError, Connected, Target};
use super::claims::{self, Action, AttemptId, Claims, Input, Place, State};
use super::driver::{self, Driver, Event};
use super::hub::{Alive, Hub};
use super::slot::{Slot, order};
use crate::clock;
use crate::config::{self, Beats, Endpoint};
use crate::link::dial::{DialError, DialOptions};
use crate::link::drill::Drill;
use crate::link::sleep_until_or_never;
use crate::metrics::{CloseReason, DialOutcome, LossReason};
use crate::session::{GoAwayCode, ResetCode};
use crate::status::LinkStatus;
use crate::workers::of_process;
use session::{Agreed, Known};
use tell::{Counting, Way};

/// At the end, what was said last is given so long to leave.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// A claim's answer is waited for at least this long, however short the heartbeat's timeout.
const ANSWER_LEAST: Duration = Duration::from_secs(1);
/// And for so many round trips, as its own connect has found them: a gateway that has heard the Hello gives the old
/// connection up, so on a slow path an answer given up on costs the session both.
const ANSWER_ROUND_TRIPS: u32 = 4;

/// What became of an attempt's task.
enum Done {
    Connected(Result<Connected, DialError>),
    Asked(Result<Box<Answered>, AskError>),
}

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

    // ---- attempts ----

    fn dial(&mut self, id: AttemptId, place: Place) {
        let Some(target) = self.target(place) else {
            return self.step_later(id, claims::Failure::Refused);
        };
        let settings = self.settings.borrow().clone();
        let options = DialOptions::new(&settings, self.hub.credentials.tls.load_full());
        let resolver = self.hub.resolver.clone();
        let way = Way::new(self.named(&target.endpoint), place);
        self.ways.insert(id, way);
        let rehearsal = self.rehearsal_at(&target.endpoint);
        let task = async move { (id, Done::Connected(attempt::connect(target, options, resolver, rehearsal).await)) };
        let handle = self.tasks.spawn(of_process(task));
        self.running.insert(id, handle);
    }

    /// Tells a failure as if a task had found it: the state machine is in the middle of a step.
    fn step_later(&mut self, id: AttemptId, failure: claims::Failure) {
        let error = match failure {
            claims::Failure::Local => AskError::Io(std::io::ErrorKind::Other.into()),
            _ => AskError::Closed,
        };
        let handle = self.tasks.spawn(async move { (id, Done::Asked(Err(error))) });
        self.running.insert(id, handle);
    }

    /// The endpoint as the configuration has it, for one that may lead to another address.
    fn named(&self, dialled: &Endpoint) -> Endpoint {
        self.endpoints.iter().find(|endpoint| endpoint.name == dialled.name).unwrap_or(dialled).clone()
    }

    /// Where a place is, as things stand.
    fn target(&self, place: Place) -> Option<Target> {
        let last = self.at.as_ref();
        match place {
            Place::Endpoint(index) => {
                let endpoint = self.endpoints.get(index).or(self.endpoints.first())?.clone();
                Some(Target { endpoint, known_as: None })
            }
            Place::Last => {
                let known = self.known.as_ref()?;
                let endpoint = Endpoint { address: config::Address::Ip(known.address?), ..last?.clone() };
                Some(Target { endpoint, known_as: Some(last?.address.clone()) })
            }
            Place::Advertise => {
                let address = self.known.as_ref()?.advertise.clone()?;
                let endpoint = Endpoint { address, ..last?.clone() };
                Some(Target { endpoint, known_as: Some(last?.address.clone()) })
            }
        }
    }

    /// Says Hello over an attempt that is ready; the connection at hand is read no further until it is answered.
    fn say_hello(&mut self, id: AttemptId, epoch: u64, new_session: bool) {
        let Some(connected) = self.ready.remove(&id) else {
            return self.step_later(id, claims::Failure::Refused);
        };
        let received = self.driver.freeze();
        let settings = self.settings.borrow().clone();
        let known = self.known.as_ref().filter(|_| !new_session);
        let told = session::hello(&settings, known, epoch, received);
        let token = self.hub.credentials.token.load_full();
        let Connected { mut wire, address, rtt } = connected;
        let mut took = Duration::ZERO;
        if let Some(way) = self.ways.get_mut(&id) {
            (way.address, way.rtt) = (address, rtt);
            took = way.took;
        }
        if let Some(way) = self.ways.get(&id) {
            wire = self.in_drill(&way.endpoint, wire);
        }
        let (hello, binding) = match (told, wire.binding()) {
            (Some(hello), Ok(binding)) => (hello, binding),
            _ => return self.step_later(id, claims::Failure::Local),
        };
        let bytes = hello.encode(known.map(|known| &*known.secret), token.as_deref(), &binding);
        let within = answer_within(&settings, took, rtt);
        let nonce = hello.nonce;
        let task = async move { (id, Done::Asked(attempt::ask(wire, bytes, nonce, within).await.map(Box::new))) };
        let handle = self.tasks.spawn(of_process(task));
        self.running.insert(id, handle);
    }

    fn done(&mut self, id: AttemptId, done: Done) {
        if self.running.remove(&id).is_none() {
            return; // abandoned meanwhile
        }
        match done {
            Done::Connected(Ok(connected)) => {
                if let Some(way) = self.ways.get_mut(&id) {
                    way.took = clock::since(way.begun);
                }
                self.ready.insert(id, connected);
                self.step(Input::Ready(id));
            }
            Done::Connected(Err(error)) => {
                self.tell_dial_failed(id, error.outcome(), error.to_string());
                self.step(Input::Failed(id, attempt::failure(&error)));
            }
            Done::Asked(Err(error)) => {
                let (failure, outcome) = error.failure();
                self.tell_dial_failed(id, outcome, error.to_string());
                let timed_out = matches!(error, AskError::Timeout(_));
                self.step(if timed_out { Input::AnswerTimedOut(id) } else { Input::Failed(id, failure) });
            }
            Done::Asked(Ok(answered)) => self.answered(id, answered),
        }
        self.forget_needless(id);
    }

    /// An attempt that the state machine does not know any more holds nothing here.
    fn forget_needless(&mut self, id: AttemptId) {
        if !self.claims.in_flight().any(|known| known == id) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: AttemptId) {
        self.ready.remove(&id);
        self.ways.remove(&id);
    }

    fn abandon(&mut self, id: AttemptId) {
        if let Some(handle) = self.running.remove(&id) {
            handle.abort();
            let needless = self.driver.has_wire() && !self.driver.is_suspect();
            if !needless && self.claims.state() != State::Closed {
                let why = "no answer in time: a fresh attempt takes its place";
                self.tell_dial_failed(id, DialOutcome::Timeout, why.to_owned());
            }
        }
        self.forget(id);
    }

    // ---- events ----

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
                self.drain_away();
            }
            Event::Violation(violation) => {
                self.tell_lost(LossReason::Protocol, violation.to_string());
                self.step(Input::Violated);
            }
            // Only the far end hears of these.
            Event::Open { .. } | Event::Cancelled { .. } | Event::Tune(_) => {}
        }
    }

    /// Something was said to this link from outside.
    fn told(&mut self) {
        let orders = self.slot.take_orders();
        if orders & order::CUT != 0 {
            self.driver.end_streams(ResetCode::Drained, CloseReason::Drained);
        }
        if orders & order::DRAIN != 0 {
            self.drain_away();
        }
        if orders & order::MOVE != 0 {
            self.move_on(LossReason::Reload);
        }
        if orders & order::YIELD != 0 {
            self.drain_away_unhurried();
        }
        if orders & order::STAY != 0 {
            self.stay();
        }
        if orders & order::FOLLOW != 0 {
            self.follow();
        }
        if orders & order::ASK != 0 {
            self.driver.ask_at_once();
        }
        if orders & order::RETRY != 0 {
            self.step(Input::Retry);
        }
        if let Some(drill) = self.slot.take_drill() {
            self.begin_drill(drill);
        }
        self.end_drill();
        self.take_clients();
        self.end_when_drained();
    }

    fn timers(&mut self) {
        let now = clock::now();
        self.end_drill();
        if self.move_at.is_some_and(|at| now >= at) {
            self.move_at = None;
            self.move_on(LossReason::Aged);
        }
        if self.cut_at.is_some_and(|at| now >= at) {
            self.cut_at = None;
            let cut = self.driver.end_streams(ResetCode::Drained, CloseReason::Drained);
            tracing::warn!(
                upstream = self.hub.name,
                link = self.slot.id,
                streams = cut,
                "drain is over: the rest is reset"
            );
            return self.step(Input::Stop);
        }
        self.step(Input::Tick);
        self.end_when_drained();
    }

    /// Takes the session to a new connection on purpose.
    fn move_on(&mut self, reason: LossReason) {
        self.moving = self.known.is_some().then_some(reason);
        self.follows = false;
        self.step(Input::Move);
    }

    /// No new streams here: the link ends with its last one, or at the end of the drain.
    fn drain_away(&mut self) {
        self.cut_at.get_or_insert(clock::now() + *self.drain.borrow());
        self.drain_away_unhurried();
    }

    /// The same, but nobody is cut.
    fn drain_away_unhurried(&mut self) {
        self.slot.open.store(false, Ordering::Release);
        self.slot.leaving.store(true, Ordering::Release);
        self.hub.keeper.notify_one();
        self.step(Input::Drain);
        self.end_when_drained();
    }

    fn end_when_drained(&mut self) {
        if self.slot.leaving.load(Ordering::Acquire) && self.driver.streams() == 0 {
            self.step(Input::Stop);
        }
    }

    fn retuned(&mut self) {
        let new = self.settings.borrow_and_update().clone();
        let beats = Beats::from(&new.heartbeat);
        let other_beats = self.driver.settings().beats != beats;
        self.endpoints = in_order(&new, self.slot.id);
        self.claims.retune(claims_settings(&new, self.endpoints.len()));
        let mut settings = driver_settings(&new);
        settings.peer_buffer = self.driver.settings().peer_buffer;
        // Less than the gateway knows of holds from the next hello: it acknowledges by what it was told.
        settings.buffer = settings.buffer.max(self.known.as_ref().map_or(0, |known| known.resume.buffer));
        settings.streams = settings.streams.min(self.known.as_ref().map_or(usize::MAX, |known| known.streams));
        if let Some(known) = &self.known {
            known.figures.set_buffer(settings.buffer);
        }
        self.slot.takes(settings.streams);
        self.driver.retune(settings);
        if other_beats {
            self.driver.tune_peer(beats);
        }
        self.schedule_move();
        // An endpoint that went takes its link with it, as soon as the last stream has ended.
        if self.known.is_some() && self.at.as_ref().is_some_and(|at| self.is_gone(at)) {
            return self.drain_away();
        }
        self.step(Input::Tick);
    }

    /// When the connection at hand is old enough to be renewed. Its age counts from when it came, whatever is edited since.
    fn schedule_move(&mut self) {
        let age = self.settings.borrow().pool.max_age;
        let from = self.up_since.filter(|_| self.driver.has_wire());
        self.move_at = age.zip(from).map(|(age, from)| from + age.mul_f64(1.1 - 0.2 * fastrand::f64()));
    }

    /// The endpoint is not in the configuration any more.
    fn is_gone(&self, endpoint: &Endpoint) -> bool {
        !self.endpoints.iter().any(|known| known.name == endpoint.name)
    }
}

/// The endpoints as this link tries them: by priority, or in turn.
fn in_order(settings: &config::Upstream, link: u64) -> Vec<Endpoint> {
    let mut endpoints = settings.endpoints.clone();
    match settings.balance {
        config::Balance::Priority => endpoints.sort_by_key(|endpoint| endpoint.priority),
        config::Balance::RoundRobin | config::Balance::LeastConnections => {
            let turn = usize::try_from(link).unwrap_or_default() % endpoints.len().max(1);
            endpoints.rotate_left(turn);
        }
    }
    endpoints
}

fn claims_settings(settings: &config::Upstream, endpoints: usize) -> claims::Settings {
    claims::Settings {
        retry: settings.retry.clone(),
        timeout: settings.heartbeat.timeout,
        deadline: settings.tunnel.as_ref().map_or(Duration::from_secs(60), |tunnel| tunnel.resume.deadline),
        endpoints,
    }
}

/// How long a Hello's answer is waited for, when the dial took so long: `connect_timeout` is for all together.
fn answer_within(settings: &config::Upstream, dial: Duration, rtt: Duration) -> Duration {
    let left = settings.retry.connect_timeout.saturating_sub(dial);
    left.min(settings.heartbeat.timeout.max(ANSWER_LEAST).max(rtt * ANSWER_ROUND_TRIPS))
}

fn driver_settings(settings: &config::Upstream) -> driver::Settings {
    let (buffer, windows) = settings.tunnel.as_ref().map_or((16 << 20, 64 << 20), |t| (t.resume.buffer, t.windows));
    driver::Settings {
        beats: Beats::from(&settings.heartbeat),
        idle_timeout: settings.limits.idle_timeout,
        buffer,
        peer_buffer: buffer,
        windows,
        streams: settings.limits.connections,
        budget: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_17_dial_and_hello_share_the_connect_timeout() {
        let settings = crate::http::example::tunnel("site");
        let within = |ms| answer_within(&settings, Duration::from_millis(ms), Duration::ZERO).as_millis();
        assert_eq!([within(10), within(4_000), within(6_000)], [3_000, 1_000, 0]);
    }
}
