//! The local connections of one end have their turn: each answers, reads, sends and ends by its habits.

use super::{End, World};
use crate::session::frame::ResetCode;
use crate::session::sim::streams::{Habit, Local, Outcome};
use crate::session::sim::tally::Counts;
use crate::session::sim::wire::{MS, Micros};

impl End {
    /// True: something happened.
    pub(super) fn locals(&mut self, world: &mut World) -> Result<bool, String> {
        let mut moved = false;
        let mut place = 0;
        while place < self.active.len() {
            let (id, plan) = (self.active[place], self.plans[place]);
            if self.session.get(id).is_none() || self.local(world, id, plan, &mut moved)? {
                self.active.swap_remove(place);
                self.plans.swap_remove(place);
            } else {
                place += 1;
            }
        }
        Ok(moved)
    }

    /// True: its stream is over.
    fn local(&mut self, world: &mut World, id: u32, plan: usize, moved: &mut bool) -> Result<bool, String> {
        let habit = &world.plans[plan].ends[self.side];
        if !self.has_answered(world, id, plan, moved)? {
            return Ok(self.outcomes[plan].is_some());
        }
        let Some(local) = self.session.get(id) else { return Ok(true) };
        if let Some(code) = local.gives_up(habit, world.closing_time) {
            self.session.reset(id, code);
            self.set(plan, Outcome::ResetByUs(code))?;
            *moved = true;
            return Ok(true);
        }
        let passed = local.read(habit, world.now, world.counts);
        let reads_at = (local.held > 0 && !local.stalled).then(|| local.reads_from.max(world.now + 1));
        let burst = local.burst(habit, world);
        if burst.queues {
            self.fresh.push_back(id);
            *moved = true;
        }
        let Some(local) = self.session.get(id) else { return Ok(true) };
        let ends = local.given == habit.total && !local.finished && (!habit.last_to_end || local.fin);
        local.finished |= ends;
        let through = local.held == 0 && local.fin;
        if passed > 0 {
            self.session.pass(id, passed as usize);
            *moved = true;
        }
        if ends {
            self.session.finish(id);
            *moved = true;
        }
        if let Some(at) = reads_at.into_iter().chain(burst.next).min() {
            self.wake_at(at);
        }
        if through && self.session.is_finished(id) {
            self.over(id, Outcome::Finished)?;
            *moved = true;
            return Ok(true);
        }
        Ok(false)
    }

    /// At the gateway: whether the service has taken the stream. It may take its time, or refuse.
    fn has_answered(&mut self, world: &World, id: u32, plan: usize, moved: &mut bool) -> Result<bool, String> {
        let Some(local) = self.session.get(id) else { return Ok(false) };
        let Some(at) = local.answers_at else { return Ok(true) };
        if at > world.now {
            self.wake_at(at);
            return Ok(false);
        }
        local.answers_at = None;
        *moved = true;
        if let Some(code) = world.plans[plan].refusal {
            self.session.refuse(id, code);
            self.set(plan, Outcome::Refused(code))?;
            return Ok(false);
        }
        self.session.accept(id);
        Ok(true)
    }
}

/// What a local connection has to send.
struct Burst {
    /// It was silent, and has something now.
    queues: bool,
    next: Option<Micros>,
}

impl Local {
    /// Whether it is reset now, and by which code.
    fn gives_up(&self, habit: &Habit, closing_time: bool) -> Option<ResetCode> {
        if habit.reset_after.is_some_and(|after| self.given >= after) {
            return Some(ResetCode::Reset);
        }
        (closing_time && self.stalled).then_some(ResetCode::Drained)
    }

    /// Reads what it is given, as fast as it does; returns how many bytes.
    fn read(&mut self, habit: &Habit, now: Micros, counts: &mut Counts) -> u64 {
        if self.held == 0 || self.stalled || now < self.reads_from {
            return 0;
        }
        let done = self.got - self.held;
        match self.stall {
            Some((after, None)) if done >= after => {
                self.stalled = true;
                *counts.entry("reader stalled for good").or_default() += 1;
                0
            }
            Some((after, Some(time))) if done >= after => {
                self.stall = None;
                self.reads_from = now + time;
                0
            }
            stall => {
                let passed = self.held.min(habit.bite).min(stall.map_or(u64::MAX, |(after, _)| after - done));
                self.held -= passed;
                self.reads_from = now + habit.pause;
                passed
            }
        }
    }

    fn burst(&mut self, habit: &Habit, world: &mut World) -> Burst {
        if self.available > 0 || self.given >= habit.total {
            return Burst { queues: false, next: None };
        }
        if world.now < self.next_burst {
            return Burst { queues: false, next: Some(self.next_burst) };
        }
        self.available = world.rng.u64(1..=habit.burst.min(habit.total - self.given));
        self.next_burst = world.now + world.rng.u64(0..30 * MS);
        Burst { queues: !std::mem::replace(&mut self.queued, true), next: None }
    }
}
