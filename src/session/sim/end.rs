//! One end: a session driven as its owner drives it, and the local connections of its streams.

mod link;
mod locals;

use std::collections::VecDeque;
use std::time::Instant;

use fastrand::Rng;

use super::streams::{Local, Outcome, Pattern, Plan};
use super::tally::{Counts, Walker};
use super::wire::{Connection, Micros, Read, SECOND, Side};
use crate::session::frame::{FRAME_MAX, ResetCode};
use crate::session::{GoAwayCode, Limits, Opening, Session};

/// Frames that are no DATA or OPEN, unacknowledged.
const CONTROL: u64 = 64 * 1024;
const INTERVAL: Micros = SECOND;
const BUDGET: Micros = 3 * SECOND;

/// The connection in use.
pub struct Wire {
    pub connection: usize,
    /// Read and not parsed.
    pub unparsed: Vec<u8>,
    /// The Welcome, ahead of all frames.
    pub preface: Vec<u8>,
    pub heard: Micros,
}

pub struct End {
    pub side: Side,
    pub session: Session<Local>,
    pub wire: Option<Wire>,
    /// Without fencing: what an overtaken connection still says is taken all the same.
    pub unfenced: Vec<usize>,
    /// The stream of each plan, and how it ended here.
    pub ids: Vec<Option<u32>>,
    pub outcomes: Vec<Option<Outcome>>,
    plans: Vec<usize>,
    active: Vec<u32>,
    fresh: VecDeque<u32>,
    bulk: VecDeque<u32>,
    walker: Walker,
    pings: u64,
    pub pongs: u64,
    pub tuned: u32,
    pub going_away: Option<GoAwayCode>,
    beat_at: Micros,
    room: u64,
    limits: Limits,
    most_replay: u64,
    pub wake: Option<Micros>,
}

/// What all share while an end has its turn.
pub struct World<'w> {
    pub now: Micros,
    pub start: Instant,
    pub connections: &'w mut Vec<Connection>,
    pub plans: &'w [Plan],
    pub pattern: &'w Pattern,
    pub rng: &'w mut Rng,
    pub counts: &'w mut Counts,
    /// Everything else has ended: who stalls for good is reset.
    pub closing_time: bool,
}

impl World<'_> {
    pub fn instant(&self) -> Instant {
        self.start + std::time::Duration::from_micros(self.now)
    }

    pub fn count(&mut self, mark: &'static str, more: u64) {
        *self.counts.entry(mark).or_default() += more;
    }
}

impl End {
    pub fn new(side: Side, limits: Limits, plans: usize, room: u64, start: Instant) -> Self {
        Self {
            side,
            session: Session::new(side == 0, limits, start),
            wire: None,
            unfenced: Vec::new(),
            ids: vec![None; plans],
            outcomes: vec![None; plans],
            plans: Vec::new(),
            active: Vec::new(),
            fresh: VecDeque::new(),
            bulk: VecDeque::new(),
            walker: Walker::default(),
            pings: 0,
            pongs: 0,
            tuned: 0,
            going_away: None,
            beat_at: 0,
            room,
            limits,
            most_replay: 0,
            wake: None,
        }
    }

    /// Nothing left to do here.
    pub fn is_idle(&self) -> bool {
        self.session.streams() == 0 && !self.session.is_owed() && !self.session.has_words()
    }

    fn wake_at(&mut self, at: Micros) {
        self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
    }

    /// The wire is gone; a next one resumes.
    pub fn lose(&mut self, world: &mut World) {
        if let Some(wire) = self.wire.take() {
            let connection = &mut world.connections[wire.connection];
            let unread = !wire.unparsed.is_empty() || connection.is_readable(self.side, world.now);
            connection.close(self.side, world.now, world.rng);
            world.count("old connection dropped with bytes unread", unread.into());
        }
    }

    pub fn attach(&mut self, connection: usize, unparsed: Vec<u8>, preface: Vec<u8>, now: Micros) {
        self.wire = Some(Wire { connection, unparsed, preface, heard: now });
        self.beat_at = now + INTERVAL;
    }

    /// One turn. True: something happened.
    pub fn turn(&mut self, world: &mut World, frozen: bool) -> Result<bool, String> {
        self.wake = None;
        let mut moved = false;
        if !frozen {
            moved |= self.read(world)?;
        }
        for connection in self.unfenced.clone() {
            if let Read::Bytes(bytes) = world.connections[connection].read(self.side, world.now, world.rng) {
                self.receive(world, &bytes)?;
            }
        }
        moved |= self.locals(world)?;
        moved |= self.write(world);
        self.check(world)?;
        Ok(moved)
    }

    pub fn begin(&mut self, plan: usize, stream: u32) {
        self.active.push(stream);
        self.plans.push(plan);
    }

    fn over(&mut self, stream: u32, outcome: Outcome) -> Result<(), String> {
        let local = self.session.release(stream).ok_or("end of no stream")?;
        self.set(local.plan, outcome)
    }

    fn set(&mut self, plan: usize, outcome: Outcome) -> Result<(), String> {
        match self.outcomes[plan].replace(outcome) {
            None => Ok(()),
            Some(before) => Err(format!("{}: plan {plan} ended twice: {before:?}, {outcome:?}", self.side)),
        }
    }

    /// The bounds hold.
    fn check(&mut self, world: &mut World) -> Result<(), String> {
        let kept = self.session.unacknowledged();
        if kept > self.most_replay.max(self.limits.buffer.min(2 << 20)) + CONTROL {
            return Err(format!("{}: {kept} bytes kept for replay, limit {}", self.side, self.most_replay));
        }
        let windows = self.session.windows();
        let memory = self.session.memory() - windows;
        if memory > kept / 8 * 9 + 3 * FRAME_MAX as u64 {
            return Err(format!("{}: {memory} bytes of memory for {kept}", self.side));
        }
        if windows > self.limits.windows {
            return Err(format!("{}: windows of {windows} bytes", self.side));
        }
        if world.rng.u8(0..16) == 0 {
            let mut held = 0;
            for id in self.active.clone() {
                held += self.session.get(id).map_or(0, |local| local.held);
            }
            if held > windows {
                return Err(format!("{}: {held} bytes held in windows of {windows}", self.side));
            }
        }
        Ok(())
    }

    /// Opens the stream of a plan. False: not now.
    pub fn open(&mut self, plan: usize, world: &mut World) -> bool {
        let hops = world.plans[plan].hops;
        let opening = Opening { hops, ..Opening::to(&plan.to_string()) };
        match self.session.open(opening, Local::new(plan, &world.plans[plan].ends[0], None), world.instant()) {
            Ok(id) => {
                self.ids[plan] = Some(id);
                self.begin(plan, id);
                true
            }
            Err(_) => false,
        }
    }

    /// Ends a stream before its OPEN has left.
    pub fn withdraw(&mut self, plan: usize) -> Result<(), String> {
        let Some(id) = self.ids[plan] else { return Ok(()) };
        if self.session.reset(id, ResetCode::Error).is_some() {
            self.set(plan, Outcome::ResetByUs(ResetCode::Error))?;
        }
        Ok(())
    }

    pub fn is_open(&self, plan: usize) -> bool {
        self.ids[plan].is_some() && self.outcomes[plan].is_none()
    }

    /// Its reader has stalled for good.
    pub fn is_stuck(&mut self, plan: usize) -> bool {
        self.ids[plan].and_then(|id| self.session.get(id)).is_some_and(|local| local.stalled)
    }
}
