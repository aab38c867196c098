//! The driver of one link: it owns the connection while nobody else does, and does what the pure parts decide.
//!
//! [`state::Link`] says where the link stands, [`Heartbeat`] when to beat, [`Dialogue`] what to make of the bytes. Here
//! they meet a socket and a clock. Actions are started, never waited for: a slow dial must not deafen the link.

mod connection;
mod drill;
mod hand_out;
mod hear;
mod proof;
mod renewal;
mod tell;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::connection::{Connection, Happened, listen};
use super::beat::Dialogue;
use super::pool::{Alive, Opened, Pool, Slot};
use crate::clock::sleep_until_or_never;
use crate::config::{self, Endpoint, Upstream};
use crate::link::dial::DialError;
use crate::link::drill::Drill;
use crate::link::heartbeat::{Delivery, Heartbeat, Verdict};
use crate::link::mailbox::order;
use crate::link::state::{self, Action, Input, State};
use crate::listener::client::close_in_order;
use crate::metrics::LossReason;
use crate::net::socket::SUSTAIN_AFTER;
use crate::status::LinkStatus;

/// After a connect the server may speak first; a beat sent before that would take its greeting for an answer. This much
/// silence at least, and two round trips, before the first beat.
const GREETING: Duration = Duration::from_millis(20);
/// `max_age`, and the wait for a renewal after an outage, are shortened by up to this share, so that links made together are
/// not renewed together.
const AGE_SPREAD: f64 = 0.1;
/// A renewal that failed is tried again after this; the old connection serves on meanwhile.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

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
    slot: Arc<Slot>,
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
    /// The dial under way is for a client who waits: its failure is no news.
    wanted: bool,
    /// The server was in trouble when this link last dialled, and has not been heard since.
    troubled: bool,
    /// When the link came up after trouble.
    back: Option<Instant>,
    /// Keeps the upstream up while a connection handed out, or ended by the server's own timer, is replaced.
    refill: Option<Alive>,
    told_suspicion: Option<Instant>,
    /// The outage that is being rehearsed here.
    drill: Option<Drill>,
    /// A scout dials this endpoint only, and is content once it has stood so long.
    scout: Option<(Endpoint, Duration)>,
}

impl LinkTask {
    pub fn new(pool: &Arc<Pool>, slot: &Arc<Slot>, failed: u32, scout: Option<Endpoint>) -> Self {
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
            slot: slot.clone(),
            status: pool.status.add_link(slot.id),
            settings,
            known,
            machine,
            random: fastrand::Rng::with_seed(seed),
            connection: None,
            dialling: None,
            renewing: None,
            lost: false,
            trusting: false,
            wanted: false,
            troubled: false,
            back: None,
            refill: None,
            told_suspicion: None,
            drill: None,
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
            let drill = self.drill.as_ref().map(|drill| drill.rehearsal().until());
            let deadline = [self.next_deadline(), drill].into_iter().flatten().min();
            let happened = tokio::select! {
                biased;
                () = self.slot.wake.notified() => Happened::Woken,
                changed = self.settings.changed() => if changed.is_ok() { Happened::Settings } else { Happened::Orphaned },
                dialled = finished(&mut self.dialling) => Happened::Dialled(Box::new(dialled)),
                heard = listen(&mut self.connection) => heard,
                () = sleep_until_or_never(deadline) => Happened::Due,
            };
            let now = Instant::now();
            self.end_drill();
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

    fn woken(&mut self, now: Instant) {
        let orders = self.slot.take_orders();
        if let Some(drill) = self.slot.take_drill() {
            self.begin_drill(now, drill);
        }
        // Before any order is obeyed: it was sent to what the link was. The orders are read first, for nobody is sent to a link
        // that has been told to stop: whoever was before is seen here.
        if let Some(client) = self.slot.take_given() {
            if let Some(connection) = &mut self.connection {
                connection.offered = false;
            }
            self.hand_out(now, client);
        }
        if orders & order::STOP != 0 {
            self.handle(now, Input::Stop);
        }
        if orders & order::RETRY != 0 {
            self.handle(now, Input::Retry);
        }
        if orders & order::WANTED != 0 {
            self.wanted = matches!(self.machine.state(), State::Waiting { .. });
            self.handle(now, Input::Wanted);
        }
        if orders & order::MOVE != 0 {
            self.move_if_outdone();
        }
        if orders & order::FOLLOW != 0 && self.is_up() {
            self.renew(LossReason::Reload);
        }
        if orders & order::ASK != 0
            && let Some(connection) = &mut self.connection
        {
            connection.heartbeat.ask_at_once(now);
            connection.look_at = now;
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
        let opened = self.in_drill(opened);
        if self.scout.is_none() && !self.pool.endpoints().contains(&opened.endpoint) {
            // Removed by an edit while it was dialled.
            tokio::spawn(close_in_order(opened.transport));
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
            let old = match if old.offered { self.pool.withdraw(&self.slot) } else { None } {
                // It was given away at the last moment: it goes to its client, the new one takes its place.
                Some(client) => {
                    self.pool.carry(client, old.opened, { old.dialogue }.take_banner());
                    None
                }
                None => {
                    self.pool.status.metrics.lose(reason);
                    Some(old)
                }
            };
            self.connection = Some(Connection { first_beat: None, ..new });
            self.handle(now, Input::Renewed);
            self.came_up(now);
            // Not before: the upstream was up all the time.
            return old.into_iter().for_each(Connection::let_go);
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
        self.troubled = true;
        self.tell_of_failure(error.endpoint(), error.outcome(), &error.to_string());
        self.handle(now, Input::DialFailed);
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
        let transport = &connection.opened.transport;
        let verdict = connection.heartbeat.tick(now, || {
            transport.tcp_info().ok().map(|info| Delivery {
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

    fn scout_is_content(&self, now: Instant) -> bool {
        match (self.machine.state(), &self.scout) {
            (State::Up { since, .. }, Some((_, standing))) => now.saturating_duration_since(since) >= *standing,
            // Every failed try of a scout is one of the endpoint's: the keeper sends the next.
            (State::Waiting { .. } | State::Failed, Some(_)) => true,
            _ => false,
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.machine.state(), State::Up { .. } | State::Suspect { .. })
    }

    /// Feeds the machine and does what it says.
    fn handle(&mut self, now: Instant, input: Input) {
        let before = self.machine.state();
        let action = self.machine.handle(now, input);
        let closed = match action {
            Some(Action::Dial) => {
                self.start_dial();
                None
            }
            Some(Action::Close) if input != Input::Stop => {
                self.dialling = None;
                self.connection.take()
            }
            Some(Action::Close) | None => None,
        };
        let after = self.machine.state();
        if before != after {
            match (before, after) {
                (State::Up { .. }, State::Suspect { .. }) => self.tell_of_suspicion(now),
                (_, State::Failed) => {
                    self.refill = None;
                    self.record("failed", None, "the attempts are used up".to_owned());
                    tracing::error!(
                        upstream = self.pool.name,
                        link = self.slot.id,
                        "link failed: its attempts are used up; {} or an edit of the upstream dials again",
                        self.pool.process.how_to_retry(&self.pool.name)
                    );
                }
                _ => {}
            }
            // That it came up is shown by `came_up`, when all that goes with it is.
            let came_up =
                matches!((before, after), (State::Connecting { .. } | State::Proving { .. }, State::Up { .. }));
            if !came_up {
                self.publish();
            }
        }
        // Not before: with it the upstream may be down, and no link is to be shown as up by then.
        drop(closed);
    }

    fn start_dial(&mut self) {
        let only = self.scout.as_ref().map(|(endpoint, _)| endpoint.clone());
        let (pool, link) = (self.pool.clone(), self.slot.id);
        self.dialling = Some(Box::pin(async move {
            // A client who was just given the last connection comes first: a connect takes longer than its first bytes.
            tokio::task::yield_now().await;
            pool.dial(only, link).await
        }));
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
}

/// However the task ends, by a panic or an abort too: nobody is sent here any more, and a client who was is not lost.
impl Drop for LinkTask {
    fn drop(&mut self) {
        if let Some(client) = self.pool.withdraw(&self.slot) {
            self.pool.come_again(client);
        }
        self.pool.status.remove_link(self.slot.id);
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
