//! The task that keeps an upstream's links: as many as `pool.size` asks for, each with an owner that notices its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::link::LinkTask;
use super::slot::Slot;
use crate::clock::{self, sleep_until_or_never};
use crate::config;
use crate::link::mailbox::order;
use crate::link::names::{Names, Verdict};
use crate::workers::of_process;

/// What is cut at the end of a drain is gone after this.
const CUT_WITHIN: Duration = Duration::from_secs(5);
/// While clients wait, a link dials this often, whatever the backoff has come to; shortened or lengthened by [`SPREAD`].
const WANTED: Duration = Duration::from_secs(1);
/// So that those of many sidecars do not come in step.
const SPREAD: f64 = 0.25;
/// Panics further apart than this are not one trouble.
const CALM: Duration = Duration::from_secs(60);

/// See the module.
pub struct Keeper {
    hub: Arc<Hub>,
    settings: watch::Receiver<Arc<config::Upstream>>,
    drain: watch::Receiver<Duration>,
    links: JoinSet<()>,
    slots: HashMap<Id, Arc<Slot>>,
    names: Names,
    panics: u32,
    last_panic: Option<Instant>,
    /// Not before this another dial for clients who wait.
    next_wanted: Instant,
}

impl Keeper {
    /// `drain`: how long streams may stay once the upstream, or their link, is to go.
    pub fn new(hub: Arc<Hub>, drain: watch::Receiver<Duration>) -> Self {
        let settings = hub.settings.subscribe();
        let names = Names::new(&hub.resolver, &hub.current());
        Self {
            hub,
            settings,
            drain,
            links: JoinSet::new(),
            slots: HashMap::new(),
            names,
            panics: 0,
            last_panic: None,
            next_wanted: clock::now(),
        }
    }

    /// Runs until the upstream is removed.
    pub async fn run(mut self, stop: CancellationToken) {
        // Those of a keeper that panicked: their tasks ended with it.
        for slot in &*self.hub.slots() {
            self.hub.remove_slot(slot);
            self.hub.status.remove_link(slot.id);
        }
        self.fill();
        loop {
            let wake = [self.hub.expire(clock::now()), self.dial_for_clients(clock::now())].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = self.settings.changed() => match changed {
                    Ok(()) => {
                        self.names.follow(&self.hub.current());
                        self.fill();
                    }
                    Err(_) => break,
                },
                Some(ended) = self.links.join_next_with_id() => {
                    match ended {
                        Ok((id, ())) => drop(self.ended(id)),
                        Err(error) => self.panicked(&error),
                    }
                    self.fill();
                }
                () = self.hub.keeper.notified() => self.fill(),
                told = self.names.told(|| self.hub.led()) => for (link, verdict) in told {
                    self.hub.tell(link, match verdict {
                        Verdict::Gone => order::FOLLOW,
                        Verdict::Back => order::STAY,
                    });
                },
                () = sleep_until_or_never(wake) => {}
            }
        }
        self.leave().await;
    }

    /// As many links as `pool.size` asks for; those that are leaving, or yield, do not count.
    fn fill(&mut self) {
        let wanted = self.settings.borrow_and_update().pool.size;
        self.make_way();
        let mut staying: Vec<_> = self.slots.values().filter(|slot| slot.stays()).collect();
        if staying.len() > wanted {
            // Those with the fewest streams go, of equal ones the youngest.
            staying.sort_by_key(|slot| (std::cmp::Reverse(slot.streams.load(Ordering::Relaxed)), slot.id));
            for slot in staying.into_iter().skip(wanted) {
                slot.leaving.store(true, Ordering::Release);
                slot.tell(order::DRAIN);
            }
            return;
        }
        for _ in staying.len()..wanted {
            self.add(0);
        }
    }

    /// After a long outage the backoff may be longer than a client may wait for a link. Whoever waits is worth a dial a second.
    fn dial_for_clients(&mut self, now: Instant) -> Option<Instant> {
        if !self.hub.has_waiting() {
            return None;
        }
        if now >= self.next_wanted {
            self.next_wanted = now + WANTED.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * fastrand::f64());
            self.slots
                .values()
                .filter(|slot| slot.stays() && !slot.is_open())
                .for_each(|slot| slot.tell(order::WANTED));
        }
        Some(self.next_wanted)
    }

    /// Clients wait while every session is searched for, and a gateway is up that has none of them: one link gives its place
    /// to a fresh one, which goes there, and searches on for the sake of its streams.
    fn make_way(&self) {
        let staying = self.slots.values().filter(|slot| slot.stays());
        if staying.clone().any(|slot| slot.fresh.load(Ordering::Acquire)) || !self.hub.is_waited_for() {
            return;
        }
        // The oldest, so that the same run is the same run again.
        let searching = staying.filter(|slot| slot.searches.load(Ordering::Acquire)).min_by_key(|slot| slot.id);
        if let Some(slot) = searching {
            tracing::info!(
                upstream = self.hub.name,
                link = slot.id,
                "another gateway is up and clients wait: a link is made for them while the session is searched for"
            );
            slot.yields.store(true, Ordering::Release);
        }
    }

    fn add(&mut self, failed: u32) {
        let hub = self.hub.clone();
        let (slot, handle) = hub.add_slot();
        let link = LinkTask::new(&hub, &slot, self.drain.clone(), failed);
        let id = self.links.spawn_on(of_process(link.run()), handle).id();
        self.slots.insert(id, slot);
    }

    fn ended(&mut self, id: Id) -> Option<Arc<Slot>> {
        let slot = self.slots.remove(&id)?;
        self.hub.remove_slot(&slot);
        Some(slot)
    }

    /// A link's task panicked: the hook has counted and told it. Another takes its place, under backoff.
    fn panicked(&mut self, error: &JoinError) {
        let Some(slot) = self.ended(error.id()) else { return };
        self.hub.status.remove_link(slot.id);
        if slot.leaving.load(Ordering::Acquire) {
            return;
        }
        let now = clock::now();
        let calm = self.last_panic.replace(now).is_none_or(|last| now - last > CALM);
        self.panics = if calm { 1 } else { self.panics.saturating_add(1) };
        self.hub.note("panicked", "the link's task panicked and is started again".to_owned());
        self.add(self.panics);
    }

    /// The upstream is removed: streams may stay for the drain time, the series go last.
    async fn leave(mut self) {
        self.hub.close();
        let mut slots: Vec<_> = self.slots.values().collect();
        slots.sort_by_key(|slot| slot.id);
        for slot in slots {
            slot.leaving.store(true, Ordering::Release);
            slot.tell(order::DRAIN);
        }
        let limit = *self.drain.borrow() + CUT_WITHIN;
        let gone = async { while self.links.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, gone).await.is_err() {
            tracing::warn!(upstream = self.hub.name, "links did not end within the drain and are given up");
        }
        // Whoever came to one in its last moment is refused.
        self.slots.values().for_each(|slot| self.hub.remove_slot(slot));
        self.hub.process.remove_upstream(&self.hub.status);
    }
}
