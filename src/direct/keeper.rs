//! One upstream in direct mode: its pool of links and the task that keeps it.
//!
//! The keeper owns every link's task and notices its end, sends scouts to endpoints that failed, turns waiting clients
//! away in time, and looks at the connections in use.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::sleep_until_or_never;
use crate::config::{self, Endpoint};
use crate::direct::in_use::Order;
use crate::direct::link::{Ended, LinkTask};
use crate::direct::pool::{Pool, Slot};
use crate::link::mailbox::order;
use crate::link::names::{Names, Verdict};
use crate::metrics::LinkState;
use crate::net::splice::Pipes;
use crate::net::tls::ClientTls;
use crate::status::Event;
use crate::surroundings::Surroundings;
use crate::workers::restarted;

/// The longest time between two looks at the connections in use.
const LOOK: Duration = Duration::from_secs(1);
/// While clients wait, a dial begins this often, whatever the backoff has come to; shortened or lengthened by [`SPREAD`].
const WANTED: Duration = Duration::from_secs(1);
/// So that those of many sidecars do not come in step.
const SPREAD: f64 = 0.25;
/// What is cut at the end of a drain is gone after this.
const CUT_WITHIN: Duration = Duration::from_secs(5);
/// Panics further apart than this are not one trouble.
const CALM: Duration = Duration::from_secs(60);

/// A running upstream in direct mode.
pub struct Direct {
    pub pool: Arc<Pool>,
    stop: CancellationToken,
}

impl Direct {
    /// Starts links and keeper.
    pub fn start(settings: &Arc<config::Upstream>, tls: Option<Arc<ClientTls>>, around: Surroundings<'_>) -> Self {
        let Surroundings { status, resolver, workers, drain } = around;
        let pool = Pool::new(settings, status, resolver, workers, tls);
        let stop = CancellationToken::new();
        let keep = {
            let (pool, stop) = (pool.clone(), stop.clone());
            move || Keeper::new(pool.clone(), drain.clone()).run(stop.clone())
        };
        pool.worker().1.spawn(restarted(keep));
        Self { pool, stop }
    }

    /// Ends the links at once and the connections in use within the drain time; the series go last.
    pub fn remove(&self) {
        self.stop.cancel();
    }

    /// Cuts every wait for a redial short.
    pub fn retry(&self) {
        self.pool.endpoints().forget_failures();
        self.pool.retry.notify_one();
    }

    /// This machine was suspended: no link waits for its timers.
    pub fn woken(&self) {
        self.pool.endpoints().forget_failures();
        self.pool.woken.notify_one();
    }
}

struct Keeper {
    pool: Arc<Pool>,
    settings: watch::Receiver<Arc<config::Upstream>>,
    drain: watch::Receiver<Duration>,
    links: JoinSet<Ended>,
    slots: HashMap<Id, Arc<Slot>>,
    /// Told to stop and not yet gone.
    stopping: HashSet<Id>,
    scout: Option<(Id, Endpoint)>,
    panics: u32,
    last_panic: Option<Instant>,
    next_look: Option<Instant>,
    next_tcp_look: Instant,
    /// Not before this another dial for clients who wait.
    next_wanted: Instant,
    pipes_refused: usize,
    names: Names,
}

impl Keeper {
    fn new(pool: Arc<Pool>, drain: watch::Receiver<Duration>) -> Self {
        Self {
            settings: pool.settings.subscribe(),
            names: pool.names(),
            pool,
            drain,
            links: JoinSet::new(),
            slots: HashMap::new(),
            stopping: HashSet::new(),
            scout: None,
            panics: 0,
            last_panic: None,
            next_look: None,
            next_tcp_look: Instant::now(),
            next_wanted: Instant::now(),
            pipes_refused: 0,
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        self.fill();
        loop {
            let deadline = self.timers();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = self.settings.changed() => match changed {
                    Ok(()) => self.retuned(),
                    Err(_) => break,
                },
                Some(ended) = self.links.join_next_with_id() => match ended {
                    Ok((id, ended)) => self.ended(id, ended),
                    Err(error) => self.panicked(&error),
                },
                () = self.pool.retry.notified() => self.slots.values().for_each(|slot| slot.tell(order::RETRY)),
                () = self.pool.woken.notified() => {
                    self.slots.values().for_each(|slot| slot.tell(order::RETRY | order::ASK));
                }
                () = self.pool.keeper.notified() => self.pass_drill_on(),
                told = self.names.told(|| self.pool.led()) => self.renew(&told),
                () = sleep_until_or_never(deadline) => {}
            }
        }
        self.leave().await;
    }

    /// Does what is due; says when something will be next.
    fn timers(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let expiry = self.pool.expire(now);
        let look = self.look(now);
        let scout = self.send_scout(now);
        let wanted = self.dial_for_clients(now);
        [expiry, look, scout, wanted].into_iter().flatten().min()
    }

    /// After a long outage a link waits longer for its redial than a client may wait for a link. Whoever waits is worth a dial, as
    /// it would have made one itself without us: the link that would dial first does so at once, but one in a second. Comes again
    /// as long as anybody waits: a dial that fails tells so before it is over.
    fn dial_for_clients(&mut self, now: Instant) -> Option<Instant> {
        if !self.pool.has_waiting() {
            return None;
        }
        if now >= self.next_wanted {
            self.next_wanted = now + WANTED.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * fastrand::f64());
            let links = self.pool.status.links();
            let first = links.iter().filter_map(|link| Some((link.view().retry_at?, link.id))).min();
            let slot = first.and_then(|(_, first)| self.slots.values().find(|slot| slot.id == first));
            if let Some(slot) = slot.filter(|_| !self.pool.is_dialling()) {
                slot.tell(order::WANTED);
            }
        }
        Some(self.next_wanted)
    }

    /// Looks at the connections in use, if there are any.
    fn look(&mut self, now: Instant) -> Option<Instant> {
        if self.next_look.is_none() && !self.pool.looked_after.load(Ordering::Acquire) {
            return None;
        }
        let (heartbeat, idle) = {
            let settings = self.settings.borrow();
            (settings.heartbeat.clone(), settings.limits.idle_timeout)
        };
        let period = heartbeat.timeout.min(LOOK);
        match self.next_look {
            Some(at) if at > now => return Some(at),
            None => {
                self.next_look = Some(now + period);
                return self.next_look;
            }
            Some(_) => {}
        }
        if self.pool.in_use.open() == 0 {
            self.next_look = None;
            self.pool.looked_after.store(false, Ordering::Release);
            // Unless one came between the two.
            if self.pool.in_use.open() == 0 {
                return None;
            }
            self.pool.looked_after.store(true, Ordering::Release);
        }
        let tcp = now >= self.next_tcp_look;
        let idle_looks = idle.map(|idle| idle.div_duration_f64(period).ceil().min(f64::from(u32::MAX)) as u32);
        let refused = Pipes::shared().refused();
        let wanted = refused != std::mem::replace(&mut self.pipes_refused, refused);
        let seen = self.pool.in_use.look(&heartbeat, tcp, idle_looks, wanted);
        if tcp {
            // Not a whole timeout later than the budget.
            self.next_tcp_look = now + seen.due.map_or(heartbeat.timeout, |due| due.min(heartbeat.timeout));
        }
        if seen.received {
            self.pool.status.metrics.last_received.set(crate::metrics::unix_now());
        }
        if seen.vanished > 0 {
            tracing::info!(
                upstream = self.pool.name,
                connections = seen.vanished,
                "clients that do not acknowledge any more are reset"
            );
        }
        self.next_look = Some(now + period);
        self.next_look
    }

    /// Brings a drill to its link, or tells the link that it is over. One whose link has gone is over with it.
    fn pass_drill_on(&self) {
        let slot = |link| self.slots.values().find(|slot| slot.id == link);
        if let Some(drill) = self.pool.take_drill()
            && let Some(slot) = slot(drill.link())
        {
            return slot.drill(drill);
        }
        let running = self.pool.status.drill.load();
        if let Some(running) = running.as_ref().filter(|drill| drill.rehearsal.is_over())
            && let Some(slot) = slot(running.link)
        {
            slot.wake.notify_one();
        }
    }

    /// Renews the warm links whose name leads elsewhere.
    fn renew(&self, told: &[(u64, Verdict)]) {
        let gone: HashSet<u64> =
            told.iter().filter(|(_, verdict)| *verdict == Verdict::Gone).map(|(l, _)| *l).collect();
        let gone: Vec<_> = self.slots.values().filter(|slot| gone.contains(&slot.id)).collect();
        if gone.is_empty() {
            return;
        }
        let text = format!("a name leads elsewhere now: {} warm links of its old address are renewed", gone.len());
        tracing::info!(upstream = self.pool.name, "{text}");
        self.record("name_changed", text);
        gone.iter().for_each(|slot| slot.tell(order::FOLLOW));
    }

    fn send_scout(&mut self, now: Instant) -> Option<Instant> {
        if self.scout.is_some() {
            return None;
        }
        let mut endpoints = self.pool.endpoints();
        let Some(endpoint) = endpoints.scout(now) else { return endpoints.next_scout() };
        drop(endpoints);
        let (worker, handle) = self.pool.worker();
        let slot = self.pool.new_slot(worker);
        let link = LinkTask::new(&self.pool, &slot, 0, Some(endpoint.clone()));
        let id = self.links.spawn_on(link.run(), handle).id();
        self.pool.scout.store(slot.id, Ordering::Relaxed);
        self.slots.insert(id, slot);
        self.scout = Some((id, endpoint));
        None
    }

    /// As many links as `pool.size` asks for, no more.
    fn fill(&mut self) {
        let wanted = self.settings.borrow().pool.size;
        let stays = |(id, _): &(&Id, &Arc<Slot>)| !self.is_scout(**id) && !self.stopping.contains(*id);
        let mut staying: Vec<_> = self.slots.iter().filter(stays).map(|(id, slot)| (*id, slot.id)).collect();
        for _ in staying.len()..wanted {
            self.add_link(0);
        }
        if staying.len() <= wanted {
            return;
        }
        // Those that stand are kept first.
        let links = self.pool.status.links();
        let up: HashSet<u64> = links.iter().filter(|link| link.view().state == LinkState::Up).map(|l| l.id).collect();
        staying.sort_by_key(|(_, link)| (!up.contains(link), *link));
        for (id, _) in staying.into_iter().skip(wanted) {
            if let Some(slot) = self.slots.get(&id) {
                slot.tell(order::STOP);
                self.stopping.insert(id);
            }
        }
    }

    fn add_link(&mut self, failed: u32) {
        let (worker, handle) = self.pool.worker();
        let slot = self.pool.new_slot(worker);
        let link = LinkTask::new(&self.pool, &slot, failed, None);
        let id = self.links.spawn_on(link.run(), handle).id();
        self.slots.insert(id, slot);
    }

    fn retuned(&mut self) {
        let settings = self.settings.borrow_and_update().clone();
        self.pool.in_use.retune(&settings.heartbeat);
        self.names.follow(&settings);
        self.next_tcp_look = Instant::now();
        self.fill();
    }

    fn ended(&mut self, id: Id, ended: Ended) {
        self.slots.remove(&id);
        self.stopping.remove(&id);
        if self.scout_is_back(id) && ended == Ended::Returned {
            self.slots.values().for_each(|slot| slot.tell(order::MOVE));
        }
    }

    fn is_scout(&self, id: Id) -> bool {
        self.scout.as_ref().is_some_and(|(scout, _)| *scout == id)
    }

    /// If that was the scout, the next one may go, when its time comes.
    fn scout_is_back(&mut self, id: Id) -> bool {
        let Some((_, endpoint)) = self.scout.take_if(|(scout, _)| *scout == id) else { return false };
        self.pool.endpoints().scouted(&endpoint, &self.settings.borrow().retry, Instant::now());
        true
    }

    /// A link's task panicked: the hook has counted and told it. Another takes its place, under backoff.
    fn panicked(&mut self, error: &tokio::task::JoinError) {
        self.slots.remove(&error.id());
        if self.stopping.remove(&error.id()) || self.scout_is_back(error.id()) {
            return;
        }
        let now = Instant::now();
        let calm = self.last_panic.replace(now).is_none_or(|last| now - last > CALM);
        self.panics = if calm { 1 } else { self.panics.saturating_add(1) };
        self.record("panicked", "the link's task panicked and is started again".to_owned());
        self.add_link(self.panics);
    }

    async fn leave(mut self) {
        self.pool.close();
        for slot in self.slots.values() {
            slot.tell(order::STOP);
        }
        while self.links.join_next().await.is_some() {}
        let limit = *self.drain.borrow();
        let gone = async {
            while self.pool.present.count() > 0 || self.pool.in_use.open() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(limit, gone).await.is_ok();
        self.pool.end();
        if !in_time {
            let cut = self.pool.in_use.tell_all(Order::Drained);
            tracing::warn!(upstream = self.pool.name, connections = cut, "drain is over: what is left is reset");
            let deadline = Instant::now() + CUT_WITHIN;
            while self.pool.in_use.open() > 0 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.pool.process.remove_upstream(&self.pool.status);
    }

    fn record(&self, kind: &'static str, text: String) {
        let at = SystemTime::now();
        self.pool.status.record(Event { at, kind, link: None, endpoint: None, reason: None, text });
    }
}

#[cfg(test)]
mod tests;
