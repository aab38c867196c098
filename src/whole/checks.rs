//! What must hold: at any time, and of how everybody ended.

use super::stage::SECOND;
use super::streams::Outcome;
use super::{PANICS, Whole};
use crate::clock;
use crate::metrics::{CloseReason, Label};
use crate::net::memory::net;

/// Dials of a link within ten seconds at most: a round through five places (three endpoints, the last address, the
/// advertised one) about every second, as `retry.max` has it here, and some for what a nemesis asks for by itself.
const DIALS: usize = 50;
/// What frames other than OPEN and DATA may add to the bytes kept for replay.
const CONTROL: u64 = 1 << 20;

impl Whole {
    /// Looks at what must hold at any time.
    pub(super) fn look(&mut self) -> Result<(), String> {
        self.near.look(&mut self.counts);
        if let Some(fault) = self.record.borrow().faults.first() {
            return Err(fault.clone());
        }
        if let Some(fault) = self.users.faults().first() {
            return Err(fault.clone());
        }
        if let Some(session) = &self.near.hub.status.metrics.session
            && let Some((name, _)) = session.violations.figures().find(|(_, count)| *count > 0)
        {
            return Err(format!("the sidecar sees a violation: {name}"));
        }
        for far in &self.gateways {
            // A stranger's hello is no hello.
            let violations = far.gateway.iter().flat_map(|gateway| gateway.violations());
            if let Some((name, _)) = violations.into_iter().find(|(name, _)| *name != "hello") {
                return Err(format!("gateway {} sees a violation: {name}", far.index));
            }
        }
        self.look_at_sessions()?;
        let now = clock::now();
        let dials = net(|network| {
            let recent = network.dials.iter().rev().take_while(|at| now.saturating_duration_since(**at) < 10 * SECOND);
            recent.count()
        });
        // Those that have left meanwhile dialled as well.
        let slots = self.near.hub.slots().iter().map(|slot| (slot.id, now)).collect::<Vec<_>>();
        self.links.extend(slots);
        self.links.retain(|_, seen| now.saturating_duration_since(*seen) <= 10 * SECOND);
        let links = self.links.len().max(1);
        self.counts.most("most dials of a link within 10 s", (dials / links) as u64);
        if dials > DIALS * links {
            return Err(format!("{dials} dials within 10 s for {links} links"));
        }
        if PANICS.with_borrow(|panics| !panics.is_empty()) {
            return Err("a panic".to_owned());
        }
        Ok(())
    }

    /// Epochs rise, at both ends, and nobody keeps more than was agreed.
    fn look_at_sessions(&mut self) -> Result<(), String> {
        let near = self.near.hub.status.links();
        let near = near.iter().filter_map(|link| Some((true, link.session()?)));
        let far = self.gateways.iter().filter_map(|far| far.gateway.as_ref());
        let far = far.flat_map(|gateway| gateway.sessions()).map(|session| (false, session));
        for (end, session) in near.chain(far) {
            let (epoch, buffer) = self.sessions.entry((end, session.id.to_string())).or_default();
            if session.epoch < *epoch {
                return Err(format!("epoch {} holds after {epoch}: {session:?}", session.epoch));
            }
            (*epoch, *buffer) = (session.epoch, session.buffer.max(*buffer));
            self.counts.most("most bytes kept for replay", session.unacknowledged);
            if session.unacknowledged > *buffer + CONTROL {
                return Err(format!("more is kept than agreed: {session:?}"));
            }
        }
        Ok(())
    }

    /// For people.
    pub(super) fn state(&self) -> String {
        let links: Vec<_> = self.near.hub.status.links().iter().map(|link| format!("{:?}", link.view())).collect();
        let outcomes = self.users.outcomes();
        let waiting = outcomes.iter().enumerate().filter(|(_, outcome)| outcome[0].is_none());
        let waiting: Vec<_> = waiting.map(|(plan, outcome)| (outcome, &self.users.plans()[plan])).collect();
        let (clients, streams) = (self.near.hub.present.count(), self.near.hub.streams());
        format!("{clients} clients, {streams} streams, {links:#?}, {waiting:#?}")
    }

    /// Every end was due, and is counted.
    pub(super) fn verdict(&mut self) -> Result<(), String> {
        let (mut refused, mut lost, mut left_before) = (0, 0, 0);
        for (plan, outcomes) in self.users.outcomes().into_iter().enumerate() {
            let what = &self.users.plans()[plan];
            let [Some(client), service] = outcomes else { return Err(format!("plan {plan} did not end")) };
            self.counts.one(format!("client {client:?}"));
            let due = match (client, service) {
                (Outcome::Finished, Some(Outcome::Finished)) => true,
                // Its last word was said, and what came back was heard: the session may end before the service is told.
                (Outcome::Finished, Some(Outcome::Reset)) => !self.profile.gentle,
                (Outcome::Cut, service) => {
                    // They may have been refused, and did not wait for it.
                    left_before += u64::from(service.is_none());
                    what.cuts[0].is_some()
                }
                (Outcome::Reset, Some(Outcome::Cut)) => true,
                (Outcome::Reset, _) if what.is_refused() => true,
                (Outcome::Reset, _) => {
                    lost += 1;
                    !self.profile.gentle
                }
                (Outcome::Refused, None) => {
                    refused += 1;
                    true
                }
                _ => false,
            };
            if !due {
                return Err(format!("plan {plan} ended as {outcomes:?}: {what:?}"));
            }
        }
        let closed = self.near.closed();
        let carried: u64 = closed.iter().map(|(_, count)| count).sum();
        let counted = carried + self.near.refused();
        let fair = refused..=refused + left_before;
        if counted != self.users.plans().len() as u64 || !fair.contains(&self.near.refused()) {
            let (all, counted) = (self.users.plans().len(), self.near.refused());
            let outcomes = self.users.outcomes();
            return Err(format!(
                "of {all} clients {fair:?} were refused, {counted} are counted; {closed:?}; {outcomes:?}"
            ));
        }
        let losses = closed.iter().filter(|(reason, _)| *reason != CloseReason::Finished);
        let losses: u64 = losses.map(|(_, count)| count).sum();
        if lost > losses {
            return Err(format!("{lost} clients were reset, {losses} are counted: {closed:?}"));
        }
        for (reason, count) in closed {
            self.counts.add(format!("closed {}", reason.name()), count);
        }
        Ok(())
    }
}
