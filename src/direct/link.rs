//! The driver of one link: it owns the connection while nobody else does, and does what the pure parts decide.
//!
//! [`state::Link`] says where the link stands, [`Heartbeat`] when to beat, [`Dialogue`] what to make of the bytes. Here
//! they meet a socket and a clock. Actions are started, never waited for: a slow dial must not deafen the link.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::beat::{Dialogue, Heard};
use super::client::{Client, close_in_order};
use super::pool::{Alive, Opened, Place, Pool, order};
use super::watch::unanswered;
use crate::config::{self, Endpoint, Upstream};
use crate::link::dial::DialError;
use crate::link::heartbeat::{Delivery, Heartbeat, Verdict};
use crate::link::sleep_until_or_never;
use crate::link::state::{self, Action, Input, State, TOO_SHORT};
use crate::metrics::{DialOutcome, Label, LinkState, LossReason};
use crate::net::socket::{Keepalive, SUSTAIN_AFTER};
use crate::status::{Event, LinkStatus};

/// After a connect the server may speak first; a beat sent before that would take its greeting for an answer. This much
/// silence at least, and two round trips, before the first beat.
const GREETING: Duration = Duration::from_millis(20);
/// `max_age` is shortened by up to this share, so that links made together are not renewed together.
const AGE_SPREAD: f64 = 0.1;
/// A link that flaps tells of its suspicions once in so long; more often would fill the log and push out every other event.
const SUSPICION_TOLD: Duration = Duration::from_secs(60);
/// A renewal that failed is tried again after this; the old connection serves on meanwhile.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

/// An event at its level, or at `debug` when enough has been told.
macro_rules! tell {
    ($told:expr, $level:ident, $($rest:tt)*) => {
        if $told {
            tracing::$level!($($rest)*)
        } else {
            tracing::debug!($($rest)*)
        }
    };
}

type Dial = Pin<Box<dyn Future<Output = Result<Opened, DialError>> + Send>>;

/// How a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// A scout has done its work.
    Returned,
}

/// One link and all it needs.
pub struct LinkTask {
    pool: Arc<Pool>,
    place: Arc<Place>,
    status: Arc<LinkStatus>,
    settings: watch::Receiver<Arc<Upstream>>,
    known: Arc<Upstream>,
    machine: state::Link,
    random: fastrand::Rng,
    connection: Option<Connection>,
    dialling: Option<Dial>,
    /// Why the connection that still serves is being replaced.
    renewing: Option<LossReason>,
    /// The link was lost and has not come back.
    lost: bool,
    /// The last connection was good to its end, so the next one needs no proof before a client may have it.
    trusting: bool,
    /// Keeps the upstream up while a connection handed out, or ended by the server's own timer, is replaced.
    refill: Option<Alive>,
    told_suspicion: Option<Instant>,
    /// A scout dials this endpoint only, and is content once it has stood so long.
    scout: Option<(Endpoint, Duration)>,
}

struct Connection {
    opened: Opened,
    dialogue: Dialogue,
    heartbeat: Heartbeat,
    /// Not before this the first beat; `None` once it was sent.
    first_beat: Option<Instant>,
    /// When a proof that does not come has failed.
    prove_by: Instant,
    /// When to look at what keepalive found, on connections without beats.
    look_at: Instant,
    age_share: f64,
    /// Not before this another try to renew.
    renew_after: Option<Instant>,
    offered: bool,
    misses: u32,
}

enum Happened {
    Woken,
    Settings,
    Dialled(Box<Result<Opened, DialError>>),
    Heard(Heard),
    Ended(Option<io::Error>),
    Due,
    Orphaned,
}

impl LinkTask {
    pub fn new(pool: &Arc<Pool>, place: &Arc<Place>, failed: u32, scout: Option<Endpoint>) -> Self {
        let settings = pool.settings.subscribe();
        let now = Instant::now();
        let known = settings.borrow().clone();
        let (retry, balance) = (known.retry.clone(), known.balance);
        let seed = fastrand::u64(..);
        let standing = super::endpoints::standing_time(balance, &retry);
        let machine = match failed {
            0 => state::Link::new(retry, seed),
            failed => state::Link::after_failures(retry, seed, failed, now),
        };
        Self {
            pool: pool.clone(),
            place: place.clone(),
            status: pool.status.add_link(place.id),
            settings,
            known,
            machine,
            random: fastrand::Rng::with_seed(seed),
            connection: None,
            dialling: None,
            renewing: None,
            lost: false,
            trusting: false,
            refill: None,
            told_suspicion: None,
            scout: scout.map(|endpoint| (endpoint, standing)),
        }
    }

    /// Runs until stopped.
    pub async fn run(mut self) -> Ended {
        if matches!(self.machine.state(), State::Connecting { .. }) {
            self.start_dial();
        }
        self.publish();
        loop {
            let deadline = self.next_deadline();
            let happened = tokio::select! {
                biased;
                () = self.place.wake.notified() => Happened::Woken,
                changed = self.settings.changed() => if changed.is_ok() { Happened::Settings } else { Happened::Orphaned },
                dialled = finished(&mut self.dialling) => Happened::Dialled(Box::new(dialled)),
                heard = listen(&mut self.connection) => heard,
                () = sleep_until_or_never(deadline) => Happened::Due,
            };
            let now = Instant::now();
            match happened {
                Happened::Woken => self.woken(now),
                Happened::Settings => self.retuned(now),
                Happened::Dialled(dialled) => match *dialled {
                    Ok(opened) => self.opened(now, opened),
                    Err(error) => self.dial_failed(now, &error),
                },
                Happened::Heard(heard) => self.heard(now, heard),
                Happened::Ended(error) => self.ended(now, error),
                Happened::Due => self.due(now),
                Happened::Orphaned => self.handle(now, Input::Stop),
            }
            if self.machine.state() == State::Closed {
                return self.leave(Ended::Stopped);
            }
            if self.scout.is_some() && self.scout_is_content(now) {
                return self.leave(Ended::Returned);
            }
        }
    }

    // ---- what happened ----

    fn woken(&mut self, now: Instant) {
        let orders = self.place.take_orders();
        if orders & order::STOP != 0 {
            self.handle(now, Input::Stop);
        }
        if orders & order::RETRY != 0 {
            self.handle(now, Input::Retry);
        }
        if orders & order::MOVE != 0 {
            self.move_if_outdone();
        }
        if let Some(client) = self.place.take_given() {
            if let Some(connection) = &mut self.connection {
                connection.offered = false;
            }
            self.hand_out(now, client);
        }
    }

    fn retuned(&mut self, now: Instant) {
        let new = self.settings.borrow_and_update().clone();
        let old = std::mem::replace(&mut self.known, new.clone());
        self.machine.retune(new.retry.clone());
        if let Some(connection) = &mut self.connection {
            connection.heartbeat.retune(&new.heartbeat);
            // The new numbers reach its keepalive, too.
            connection.opened.sustained = false;
            connection.look_at = connection.look_at.min(now + new.heartbeat.interval);
            connection.dialogue.retune(&new.heartbeat.beat);
        }
        if self.scout.as_ref().is_some_and(|(endpoint, _)| !self.pool.endpoints().contains(endpoint)) {
            return self.handle(now, Input::Stop);
        }
        let removed = |c: &Connection| !self.pool.endpoints().contains(&c.opened.endpoint);
        if self.connection.as_ref().is_some_and(removed) {
            self.give_up(now, LossReason::Reload);
        }
        // The dial may succeed now, and a link that had failed gets another chance by any edit.
        let cured = old.retry != new.retry || old.endpoints != new.endpoints || old.tls != new.tls;
        if cured || self.machine.state() == State::Failed {
            self.handle(now, Input::Retry);
        }
        self.publish();
    }

    fn opened(&mut self, now: Instant, opened: Opened) {
        if self.scout.is_none() && !self.pool.endpoints().contains(&opened.endpoint) {
            // Removed by an edit while it was dialled.
            tokio::spawn(close_in_order(opened.stream));
            return self.start_dial();
        }
        let settings = self.settings.borrow().clone();
        let mut heartbeat = Heartbeat::new(&settings.heartbeat, now, &mut self.random);
        heartbeat.heard(now);
        let quiet = GREETING.max(opened.rtt * 2);
        let prove_by = now + quiet + settings.heartbeat.timeout;
        let listen_first = self.pool.speaks_first() || settings.heartbeat.beat == config::Beat::Smtp;
        let new = Connection {
            dialogue: Dialogue::new(settings.heartbeat.beat.clone()),
            heartbeat,
            first_beat: Some(if listen_first { prove_by } else { now + quiet }),
            prove_by: if listen_first { prove_by + settings.heartbeat.timeout } else { prove_by },
            look_at: now + settings.heartbeat.interval,
            age_share: 1.0 - AGE_SPREAD * self.random.f64(),
            renew_after: None,
            offered: false,
            misses: 0,
            opened,
        };
        if let Some(old) = self.connection.take() {
            let reason = self.renewing.take().unwrap_or(LossReason::Aged);
            self.observe_lifetime(now, &old);
            match if old.offered { self.pool.withdraw(&self.place) } else { None } {
                // It was given away at the last moment: it goes to its client, the new one takes its place.
                Some(client) => self.pool.carry(client, old.opened, { old.dialogue }.take_banner()),
                None => {
                    self.pool.status.metrics.lose(reason);
                    tokio::spawn(close_in_order(old.opened.stream));
                }
            }
            self.connection = Some(Connection { first_beat: None, ..new });
            self.handle(now, Input::Renewed);
            return self.came_up(now);
        }
        self.renewing = None;
        self.connection = Some(new);
        if self.trusting {
            if let Some(connection) = &mut self.connection {
                connection.first_beat = None;
            }
            self.handle(now, Input::Opened { proven: true });
            self.came_up(now);
        } else {
            self.handle(now, Input::Opened { proven: false });
        }
    }

    fn dial_failed(&mut self, now: Instant, error: &DialError) {
        if self.renewing.take().is_some() {
            // The old connection serves on.
            if let Some(connection) = &mut self.connection {
                connection.renew_after = Some(now + RENEW_AGAIN);
                return;
            }
        }
        self.refill = None;
        self.trusting = false;
        self.tell_of_failure(&error.to_string());
        self.handle(now, Input::DialFailed);
    }

    fn heard(&mut self, now: Instant, heard: Heard) {
        self.pool.status.metrics.last_received.set(crate::metrics::unix_now());
        let Some(connection) = &mut self.connection else { return };
        match heard {
            Heard::Part => {}
            Heard::Banner => {
                connection.heartbeat.heard(now);
                if connection.dialogue.must_hear_first() {
                    return;
                }
                if matches!(self.machine.state(), State::Proving { .. }) {
                    self.pool.learn_that_it_speaks_first();
                    connection.first_beat = connection.first_beat.map(|at| at.min(now + GREETING));
                } else if connection.dialogue.owed() == 0 && connection.heartbeat.is_outstanding() {
                    // The greeting that was waited for instead of an answer.
                    connection.heartbeat.answered(now);
                    connection.misses = 0;
                    self.handle(now, Input::Answered);
                    self.offer(now);
                }
            }
            Heard::Answered => {
                // With older answers still due the round trip of the newest beat is not known.
                let trip = if connection.dialogue.owed() == 0 {
                    connection.heartbeat.answered(now)
                } else {
                    connection.heartbeat.heard(now);
                    None
                };
                connection.misses = 0;
                if let Some(trip) = trip {
                    self.pool.status.metrics.rtt.observe(trip.as_secs_f64());
                    connection.opened.rtt = trip;
                }
                let proving = matches!(self.machine.state(), State::Proving { .. });
                self.pool.answers(true);
                self.handle(now, Input::Answered);
                if proving {
                    return self.came_up(now);
                }
                self.publish();
                self.offer(now);
            }
            Heard::NotNow(what) => {
                if matches!(self.machine.state(), State::Proving { .. }) {
                    return self.proof_failed(now, DialOutcome::Refused, &format!("the service is not ready: {what}"));
                }
                let verdict = connection.heartbeat.unfit(now);
                self.judged(now, verdict, "the service asked to be left alone");
            }
            Heard::Wrong(what) => {
                self.pool.status.metrics.beats_missed.inc();
                if matches!(self.machine.state(), State::Proving { .. }) {
                    // Perhaps a greeting; the next connection listens first.
                    self.pool.learn_that_it_speaks_first();
                    return self.proof_failed(
                        now,
                        DialOutcome::Refused,
                        &format!("wrong answer to the heartbeat: {what}"),
                    );
                }
                self.lose(now, LossReason::Protocol, &format!("wrong answer to the heartbeat: {what}"));
            }
        }
    }

    /// The connection ended, by the server or by an error.
    fn ended(&mut self, now: Instant, error: Option<io::Error>) {
        // A TLS server may leave its farewell out; with no client there are no bytes that could be missing.
        let error = error.filter(|error| error.kind() != io::ErrorKind::UnexpectedEof);
        let what = error.as_ref().map_or("the server ended the connection".to_owned(), io::Error::to_string);
        if matches!(self.machine.state(), State::Proving { .. }) {
            return self.proof_failed(now, DialOutcome::Refused, &format!("ended before it was proven: {what}"));
        }
        let Some(connection) = &self.connection else { return };
        let age = now.saturating_duration_since(connection.opened.at);
        if age < TOO_SHORT {
            // It was never any good: the next dial tries another endpoint first.
            let endpoint = connection.opened.endpoint.clone();
            self.pool.trouble(&endpoint, format!("{}: ended after {age:?}: {what}", endpoint.name));
        }
        let reason = match error.map(|error| error.kind()) {
            None if age >= TOO_SHORT => {
                // The server's own timer, most likely: renewal, and not down until a dial fails.
                self.refill = Some(self.pool.stay_alive());
                self.pool.ages().ended(age, now);
                self.tell_of_loss(now, LossReason::Closed, &what);
                return self.handle(now, Input::Ended);
            }
            None => LossReason::Closed,
            Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => LossReason::Reset,
            // Only keepalive ends an idle connection like this.
            Some(io::ErrorKind::TimedOut) => LossReason::Heartbeat,
            Some(_) => LossReason::Error,
        };
        self.lose(now, reason, &what);
    }

    fn due(&mut self, now: Instant) {
        self.handle(now, Input::Tick);
        self.sustain(now);
        let proving = matches!(self.machine.state(), State::Proving { .. });
        if proving {
            return self.prove(now);
        }
        if !self.is_up() {
            return;
        }
        if self.renewal_due().is_some_and(|at| at <= now) {
            self.renew(LossReason::Aged);
        }
        let Some(connection) = &mut self.connection else { return };
        if !connection.dialogue.speaks() {
            return self.look(now);
        }
        if connection.heartbeat.next_deadline() > now {
            return;
        }
        if connection.dialogue.owed() == 0 && connection.dialogue.is_spent() {
            // Asked often enough. Unless it is being renewed, it is not kept unproven either.
            if self.renewing.is_none() {
                return self.give_up(now, LossReason::Aged);
            }
            return connection.heartbeat.heard(now);
        }
        // From here on a beat is or will be out, so no client may be given this connection.
        if let Some(client) = self.withdraw() {
            return self.hand_out(now, client);
        }
        let Some(connection) = &mut self.connection else { return };
        let stream = &connection.opened.stream;
        let verdict = connection.heartbeat.tick(now, || {
            stream.tcp_info().ok().map(|info| Delivery {
                all_acknowledged: info.unacked == 0 && info.notsent_bytes == 0,
                acknowledged: info.bytes_acked,
                last_acknowledged: info.last_ack_received,
            })
        });
        if verdict == Verdict::Beat {
            return self.beat(now);
        }
        self.judged(now, verdict, "heartbeats went unanswered");
        if verdict == Verdict::Missed {
            self.beat(now);
        }
    }

    /// A connection that has lived for a while is there to stay: the kernel watches over it, too.
    fn sustain(&mut self, now: Instant) {
        if let Some(connection) = &mut self.connection
            && !connection.opened.sustained
            && now >= connection.opened.at + SUSTAIN_AFTER
        {
            connection.opened.sustained = true;
            let _ = connection.opened.stream.sustain(&self.known.heartbeat);
        }
    }

    // ---- proving and beating ----

    fn prove(&mut self, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        if connection.first_beat.is_some_and(|at| at <= now) {
            if !connection.dialogue.speaks() {
                connection.first_beat = None;
                self.handle(now, Input::Answered);
                return self.came_up(now);
            }
            if !connection.dialogue.must_hear_first() {
                connection.first_beat = None;
                connection.prove_by = now + self.settings.borrow().heartbeat.timeout;
                return self.beat(now);
            }
        }
        if connection.prove_by <= now {
            self.proof_failed(now, DialOutcome::Timeout, "connected, but the first heartbeat was not answered");
        }
    }

    fn beat(&mut self, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        if connection.dialogue.must_hear_first() {
            // Its greeting is due, as an answer would be; to speak before would be rude, and its greeting no answer.
            return connection.heartbeat.sent(now);
        }
        connection.dialogue.retune(&self.settings.borrow().heartbeat.beat);
        let bytes = connection.dialogue.beat();
        let sent = write_now(&mut connection.opened.stream, bytes);
        connection.heartbeat.sent(now);
        self.pool.status.metrics.beats_sent.inc();
        if let Err(error) = sent {
            self.ended(now, Some(error));
        }
    }

    /// What keepalive has found on a connection without beats.
    fn look(&mut self, now: Instant) {
        let settings = self.settings.borrow().heartbeat.clone();
        let Some(connection) = &mut self.connection else { return };
        if connection.look_at > now {
            return;
        }
        let keepalive = Keepalive::from_heartbeat(&settings);
        let info = connection.opened.stream.tcp_info();
        connection.misses = info.as_ref().map_or(0, |info| unanswered(info.probes, info.last_ack_received, &keepalive));
        let unsure = connection.misses > 0 || info.is_ok_and(|info| info.probes > 0);
        connection.look_at = now + if unsure { settings.timeout } else { settings.interval };
        if connection.misses == 0 {
            self.handle(now, Input::Answered);
            return self.offer(now);
        }
        // As with a beat that went unanswered: no client is given a connection that may be dead.
        match self.withdraw() {
            Some(client) => self.hand_out(now, client),
            None => {
                self.handle(now, Input::Missed);
                self.publish();
            }
        }
    }

    fn judged(&mut self, now: Instant, verdict: Verdict, what: &str) {
        if matches!(verdict, Verdict::Missed | Verdict::Dead) {
            self.pool.status.metrics.beats_missed.inc();
            if let Some(connection) = &mut self.connection {
                connection.misses = connection.heartbeat.missed();
            }
        }
        match verdict {
            Verdict::Dead => self.lose(now, LossReason::Heartbeat, what),
            Verdict::Missed => {
                self.handle(now, Input::Missed);
                self.publish();
            }
            Verdict::Quiet | Verdict::Beat => {}
        }
    }

    // ---- coming and going ----

    fn came_up(&mut self, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        connection.opened.tie.prove();
        self.pool.proven(&connection.opened.endpoint);
        self.refill = None;
        let Some(connection) = &self.connection else { return };
        if !self.trusting {
            let told = self.pool.may_tell(now);
            if told {
                self.record(
                    "up",
                    None,
                    connection.opened.address.map_or(String::new(), |a| format!("connected to {a}")),
                );
            }
            tell!(
                told,
                info,
                upstream = self.pool.name,
                link = self.place.id,
                endpoint = connection.opened.endpoint.name,
                address = connection.opened.address.map(tracing::field::display),
                "link up"
            );
            self.pool.status.metrics.changed();
        }
        if std::mem::take(&mut self.lost) {
            self.pool.status.metrics.reconnects.inc();
        }
        self.trusting = true;
        self.publish();
        self.offer(now);
        self.move_if_outdone();
    }

    /// Renews the link at a better endpoint that is well by now.
    fn move_if_outdone(&mut self) {
        let outdone = |c: &Connection| self.pool.endpoints().is_outdone(&c.opened.endpoint);
        if self.is_up() && self.scout.is_none() && self.connection.as_ref().is_some_and(outdone) {
            self.renew(LossReason::Aged);
        }
    }

    fn offer(&mut self, now: Instant) {
        if self.scout.is_some() || !matches!(self.machine.state(), State::Up { .. }) {
            return;
        }
        let Some(connection) = &mut self.connection else { return };
        if connection.offered || connection.dialogue.owed() > 0 {
            return;
        }
        let spent = connection.dialogue.is_spent();
        match self.pool.offer(&self.place) {
            Some(client) => return self.hand_out(now, client),
            None => connection.offered = true,
        }
        if spent {
            self.renew(LossReason::Aged);
        }
    }

    fn withdraw(&mut self) -> Option<Client> {
        let connection = self.connection.as_mut()?;
        if !std::mem::take(&mut connection.offered) {
            return None;
        }
        self.pool.withdraw(&self.place)
    }

    /// Gives the connection to a client, unless it ended this very moment.
    fn hand_out(&mut self, now: Instant, client: Client) {
        let state = self.machine.state();
        let Some(mut connection) = self.connection.take_if(|c| c.dialogue.owed() == 0) else {
            return self.pool.come_again(client);
        };
        if !matches!(state, State::Up { .. } | State::Suspect { .. }) {
            self.connection = Some(connection);
            return self.pool.come_again(client);
        }
        match poll_once(|cx| poll_listen(cx, &mut connection)) {
            Some(Happened::Ended(error)) => {
                self.connection = Some(connection);
                self.pool.come_again(client);
                return self.ended(now, error);
            }
            Some(Happened::Heard(Heard::Wrong(why))) => {
                self.connection = Some(connection);
                self.pool.come_again(client);
                return self.lose(now, LossReason::Protocol, &why);
            }
            _ => {}
        }
        self.observe_lifetime(now, &connection);
        self.refill = Some(self.pool.stay_alive());
        let banner = connection.dialogue.take_banner();
        self.pool.carry(client, connection.opened, banner);
        self.trusting = true;
        // A renewal under way becomes the refill.
        let dialling = self.renewing.take().is_some() && self.dialling.is_some();
        match self.machine.handle(now, Input::HandedOut) {
            Some(Action::Dial) if !dialling => self.start_dial(),
            _ => {}
        }
        self.publish();
    }

    /// The connection is gone, or is given up: counted, told, and dialled again when the backoff says so.
    fn lose(&mut self, now: Instant, reason: LossReason, what: &str) {
        if matches!(reason, LossReason::Heartbeat | LossReason::Protocol) {
            self.pool.answers(false);
        }
        self.tell_of_loss(now, reason, what);
        self.handle(now, Input::Lost);
    }

    fn tell_of_loss(&mut self, now: Instant, reason: LossReason, what: &str) {
        if let Some(client) = self.withdraw() {
            self.pool.come_again(client);
        }
        if let Some(connection) = &self.connection {
            let metrics = &self.pool.status.metrics;
            metrics.lose(reason);
            metrics.changed();
            self.pool.with_endpoint_metrics(&connection.opened.endpoint, |metrics| metrics.losses.inc());
            let lived = now.saturating_duration_since(connection.opened.at);
            metrics.lifetime.observe(lived.as_secs_f64());
            if reason == LossReason::Heartbeat {
                let _ = connection.opened.stream.reset_on_close();
            }
            let (upstream, link, endpoint) = (&self.pool.name, self.place.id, &connection.opened.endpoint.name);
            let word = reason.name();
            let told = self.pool.may_tell(now);
            if self.refill.is_some() {
                tell!(told, info, upstream, link, endpoint, reason = word, ?lived, "link is renewed: {what}");
            } else {
                tell!(told, warn, upstream, link, endpoint, reason = word, ?lived, "link lost: {what}");
            }
            if told {
                self.record("lost", Some(reason), what.to_owned());
            }
        }
        self.pool.lost(what.to_owned());
        self.status.update(|view| view.last_error = Some(what.to_owned()));
        self.lost = true;
        self.trusting = false;
        self.renewing = None;
    }

    /// The connection goes on purpose, and the next one is dialled at once.
    fn give_up(&mut self, now: Instant, reason: LossReason) {
        if let Some(client) = self.withdraw() {
            return self.hand_out(now, client);
        }
        let Some(old) = self.connection.take() else { return };
        self.observe_lifetime(now, &old);
        if self.is_up() {
            self.pool.status.metrics.lose(reason);
            self.refill = Some(self.pool.stay_alive());
        }
        tokio::spawn(close_in_order(old.opened.stream));
        if let Some(Action::Dial) = self.machine.handle(now, Input::HandedOut) {
            self.start_dial();
        }
        if matches!(self.machine.state(), State::Connecting { .. }) {
            self.trusting = false;
        }
    }

    /// Dials the next connection while this one serves on.
    fn renew(&mut self, reason: LossReason) {
        if self.renewing.is_none() && self.dialling.is_none() {
            self.renewing = Some(reason);
            self.start_dial();
        }
    }

    fn proof_failed(&mut self, now: Instant, outcome: DialOutcome, what: &str) {
        if let Some(connection) = &mut self.connection {
            connection.opened.tie.fail(outcome);
            let endpoint = connection.opened.endpoint.clone();
            self.pool.trouble(&endpoint, format!("{}: {what}", endpoint.name));
        }
        self.refill = None;
        self.tell_of_failure(what);
        self.handle(now, Input::DialFailed);
    }

    fn tell_of_failure(&mut self, what: &str) {
        let attempt = match self.machine.state() {
            State::Connecting { attempt } | State::Proving { attempt } => attempt,
            _ => 1,
        };
        self.status.update(|view| view.last_error = Some(what.to_owned()));
        // The first failure and then ever fewer: a long outage must not fill the log.
        let news = attempt.is_power_of_two();
        let told = news && self.pool.may_tell(Instant::now());
        if told {
            self.record("dial_failed", None, what.to_owned());
        }
        tell!(told, warn, upstream = self.pool.name, link = self.place.id, attempt, "dial failed: {what}");
    }

    fn scout_is_content(&self, now: Instant) -> bool {
        match (self.machine.state(), &self.scout) {
            (State::Up { since, .. }, Some((_, standing))) => now.saturating_duration_since(since) >= *standing,
            // Every failed try of a scout is one of the endpoint's: the keeper sends the next.
            (State::Waiting { .. } | State::Failed, Some(_)) => true,
            _ => false,
        }
    }

    fn leave(mut self, ended: Ended) -> Ended {
        if let Some(client) = self.withdraw() {
            self.pool.come_again(client);
        }
        if let Some((endpoint, _)) = &self.scout
            && ended == Ended::Returned
            && self.is_up()
        {
            self.pool.endpoints().recovered(endpoint);
            tracing::info!(upstream = self.pool.name, endpoint = endpoint.name, "endpoint is well again");
            self.record("recovered", None, endpoint.name.clone());
        }
        if let Some(old) = self.connection.take() {
            let reason = if self.scout.is_some() { LossReason::Aged } else { LossReason::Reload };
            self.pool.status.metrics.lose(reason);
            tokio::spawn(close_in_order(old.opened.stream));
        }
        ended
    }

    // ---- small things ----

    fn is_up(&self) -> bool {
        matches!(self.machine.state(), State::Up { .. } | State::Suspect { .. })
    }

    /// Feeds the machine and does what it says.
    fn handle(&mut self, now: Instant, input: Input) {
        let before = self.machine.state();
        let action = self.machine.handle(now, input);
        match action {
            Some(Action::Dial) => self.start_dial(),
            Some(Action::Close) if input != Input::Stop => {
                self.connection = None;
                self.dialling = None;
            }
            Some(Action::Close) | None => {}
        }
        let after = self.machine.state();
        if before != after {
            match (before, after) {
                (State::Up { .. }, State::Suspect { .. }) => self.tell_of_suspicion(now),
                (_, State::Failed) => {
                    self.refill = None;
                    self.record("failed", None, "the attempts are used up".to_owned());
                    tracing::error!(
                        upstream = self.pool.name,
                        link = self.place.id,
                        "link failed: its attempts are used up; `everlink retry {}` or a reload dials again",
                        self.pool.name
                    );
                }
                _ => {}
            }
            self.publish();
        }
    }

    fn tell_of_suspicion(&mut self, now: Instant) {
        let (upstream, link) = (&self.pool.name, self.place.id);
        if self.told_suspicion.is_some_and(|told| now.saturating_duration_since(told) < SUSPICION_TOLD) {
            return tracing::debug!(upstream, link, "link suspect: a heartbeat went unanswered");
        }
        let told = self.pool.may_tell(now);
        tell!(told, info, upstream, link, "link suspect: a heartbeat went unanswered");
        self.told_suspicion = Some(now);
        if told {
            self.record("suspect", None, "a heartbeat went unanswered".to_owned());
        }
    }

    fn start_dial(&mut self) {
        let only = self.scout.as_ref().map(|(endpoint, _)| endpoint.clone());
        let pool = self.pool.clone();
        self.dialling = Some(Box::pin(async move {
            // A client who was just given the last connection comes first: a connect takes longer than its first bytes.
            tokio::task::yield_now().await;
            pool.dial(only).await
        }));
    }

    fn renewal_due(&self) -> Option<Instant> {
        let connection = self.connection.as_ref()?;
        if self.renewing.is_some() {
            return None;
        }
        let set = self.settings.borrow().pool.max_age;
        let age = match (set, self.pool.status.learned_max_age()) {
            (Some(set), Some(learned)) => set.min(learned),
            (Some(age), None) | (None, Some(age)) => age,
            (None, None) => return None,
        };
        let due = connection.opened.at + age.mul_f64(connection.age_share);
        Some(connection.renew_after.map_or(due, |after| due.max(after)))
    }

    fn next_deadline(&self) -> Option<Instant> {
        if let Some(at) = self.machine.next_deadline() {
            return Some(at);
        }
        let connection = self.connection.as_ref()?;
        if matches!(self.machine.state(), State::Proving { .. }) {
            let first = connection.first_beat.filter(|_| !connection.dialogue.must_hear_first());
            return Some(first.map_or(connection.prove_by, |at| at.min(connection.prove_by)));
        }
        let beat = if connection.dialogue.speaks() { connection.heartbeat.next_deadline() } else { connection.look_at };
        let stand = match (self.machine.state(), &self.scout) {
            (State::Up { since, .. }, Some((_, standing))) => Some(since + *standing),
            _ => None,
        };
        let sustain = (!connection.opened.sustained).then(|| connection.opened.at + SUSTAIN_AFTER);
        [Some(beat), self.renewal_due(), stand, sustain].into_iter().flatten().min()
    }

    fn observe_lifetime(&self, now: Instant, connection: &Connection) {
        let lived = now.saturating_duration_since(connection.opened.at);
        self.pool.status.metrics.lifetime.observe(lived.as_secs_f64());
    }

    fn record(&self, kind: &'static str, reason: Option<LossReason>, text: String) {
        let endpoint = self.connection.as_ref().map(|c| c.opened.endpoint.name.clone());
        let link = Some(self.place.id);
        self.pool.status.record(Event { at: SystemTime::now(), kind, link, endpoint, reason, text });
    }

    fn publish(&self) {
        let state = self.machine.state();
        let now = Instant::now();
        let (shown, attempt, wait) = match state {
            State::Connecting { attempt } | State::Proving { attempt } => (LinkState::Connecting, attempt, None),
            State::Up { attempt, .. } => (LinkState::Up, attempt, None),
            State::Suspect { attempt, .. } => (LinkState::Suspect, attempt, None),
            State::Waiting { attempt, retry_at } => {
                (LinkState::Waiting, attempt, Some(retry_at.saturating_duration_since(now)))
            }
            State::Failed => (LinkState::Failed, 0, None),
            State::Closed => (LinkState::Draining, 0, None),
        };
        let waited = self.status.view().retry_at.is_some();
        self.status.update(|view| {
            view.state = shown;
            view.attempt = attempt;
            view.retry_at = wait.map(|wait| SystemTime::now() + wait);
            view.misses = self.connection.as_ref().map_or(0, |c| c.misses);
            if let Some(connection) = &self.connection {
                view.endpoint = Some(connection.opened.endpoint.name.clone());
                view.address = connection.opened.address.map(|address| address.to_string());
                view.rtt = Some(connection.opened.rtt);
            }
        });
        if waited || wait.is_some() {
            self.pool.status.show_wait();
        }
    }
}

/// However the task ends, by a panic or an abort too: nobody is sent here any more, and a client who was is not lost.
impl Drop for LinkTask {
    fn drop(&mut self) {
        if let Some(client) = self.pool.withdraw(&self.place) {
            self.pool.come_again(client);
        }
        self.pool.status.remove_link(self.place.id);
        self.pool.status.show_wait();
    }
}

async fn finished(dialling: &mut Option<Dial>) -> Result<Opened, DialError> {
    match dialling {
        None => std::future::pending().await,
        Some(dial) => {
            let result = dial.await;
            *dialling = None;
            result
        }
    }
}

/// Hears the server, or its end.
async fn listen(connection: &mut Option<Connection>) -> Happened {
    match connection {
        None => std::future::pending().await,
        Some(connection) => std::future::poll_fn(|cx| poll_listen(cx, connection)).await,
    }
}

fn poll_listen(cx: &mut Context<'_>, connection: &mut Connection) -> Poll<Happened> {
    let mut buffer = [0; 4096];
    let room = if connection.dialogue.owed() > 0 { buffer.len() } else { connection.dialogue.banner_room() };
    // A server that talks on and on to nobody waits in its own send buffer.
    if room == 0 {
        return Poll::Pending;
    }
    let mut buffer = ReadBuf::new(&mut buffer[..room.min(4096)]);
    match Pin::new(&mut connection.opened.stream).poll_read(cx, &mut buffer) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(error)) => Poll::Ready(Happened::Ended(Some(error))),
        Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Happened::Ended(None)),
        Poll::Ready(Ok(())) => Poll::Ready(Happened::Heard(connection.dialogue.received(buffer.filled()))),
    }
}

fn poll_once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Writes a beat at once. A connection whose send buffer has no room for it has not moved for many beats.
fn write_now(stream: &mut crate::net::stream::Stream, bytes: &[u8]) -> io::Result<()> {
    let written = poll_once(|cx| Pin::new(&mut *stream).poll_write(cx, bytes));
    match written {
        Some(Ok(count)) if count == bytes.len() => {
            // TLS keeps a record back that the socket refuses; the next write would find out.
            match poll_once(|cx| Pin::new(&mut *stream).poll_flush(cx)) {
                Some(Err(error)) => Err(error),
                _ => Ok(()),
            }
        }
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => Err(io::ErrorKind::TimedOut.into()),
    }
}
