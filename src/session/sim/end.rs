//! One end: a session driven as its owner drives it, and the local connections of its streams.

use std::collections::VecDeque;
use std::time::Instant;

use fastrand::Rng;

use super::streams::{Local, Outcome, Pattern, Plan};
use super::tally::{Counts, Walker};
use super::wire::{Connection, MS, Micros, Read, SECOND, Side};
use crate::session::frame::{FRAME_MAX, ResetCode};
use crate::session::{GoAwayCode, Incoming, Limits, Session};

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

    fn read(&mut self, world: &mut World) -> Result<bool, String> {
        let mut moved = false;
        for _ in 0..16 {
            let Some(wire) = &mut self.wire else { return Ok(moved) };
            if let Err(at) = self.session.may_read(world.instant()) {
                if let Some(at) = at {
                    let micros = at.saturating_duration_since(world.start).as_micros() as u64 + 1;
                    self.wake_at(micros);
                }
                return Ok(moved);
            }
            let bytes = if wire.unparsed.is_empty() {
                world.connections[wire.connection].read(self.side, world.now, world.rng)
            } else {
                Read::Bytes(std::mem::take(&mut wire.unparsed))
            };
            match bytes {
                Read::Bytes(bytes) => {
                    wire.heard = world.now;
                    self.beat_at = world.now + INTERVAL;
                    self.receive(world, &bytes)?;
                    moved = true;
                }
                Read::Nothing if world.now >= wire.heard + BUDGET => {
                    world.count("loss found by silence", 1);
                    self.lose(world);
                    return Ok(true);
                }
                Read::Nothing => {
                    let at = wire.heard + BUDGET;
                    self.wake_at(at);
                    return Ok(moved);
                }
                Read::End => {
                    self.lose(world);
                    return Ok(true);
                }
            }
        }
        Ok(moved)
    }

    fn receive(&mut self, world: &mut World, bytes: &[u8]) -> Result<(), String> {
        let (instant, mut input) = (world.instant(), bytes);
        loop {
            let incoming = self.session.receive(instant, &mut input).map_err(|e| format!("{}: {e}", self.side))?;
            let Some(incoming) = incoming else { break };
            self.take(world, incoming)?;
        }
        if input.is_empty() { Ok(()) } else { Err("bytes left".into()) }
    }

    fn take(&mut self, world: &mut World, incoming: Incoming) -> Result<(), String> {
        match incoming {
            Incoming::Open { stream, opening } => {
                let plan: usize = opening.service.parse().map_err(|_| "service")?;
                if self.ids[plan].replace(stream).is_some() {
                    return Err(format!("plan {plan} opened twice"));
                }
                let answers_at = world.now + world.plans[plan].answer;
                self.session.admit(
                    stream,
                    &opening,
                    Local::new(plan, &world.plans[plan].ends[1], Some(answers_at)),
                    world.instant(),
                );
                self.begin(plan, stream);
            }
            Incoming::Data { stream, bytes } => {
                let local = self.session.get(stream).ok_or("data of no stream")?;
                if local.fin {
                    return Err(format!("data of stream {stream} after its FIN"));
                }
                if !world.pattern.is(local.plan, 1 - self.side, local.got, bytes) {
                    let text = format!("{}: stream {stream}: wrong bytes after {}", self.side, local.got);
                    return Err(text);
                }
                local.got += bytes.len() as u64;
                local.held += bytes.len() as u64;
            }
            Incoming::Fin { stream } => {
                let local = self.session.get(stream).ok_or("FIN of no stream")?;
                let due = world.plans[local.plan].ends[1 - self.side].total;
                if std::mem::replace(&mut local.fin, true) || local.got != due {
                    return Err(format!("{}: stream {stream}: FIN after {} of {due}", self.side, local.got));
                }
            }
            Incoming::Reset { stream, code } => self.over(stream, Outcome::ResetByPeer(code))?,
            Incoming::Refused { stream, code } => self.over(stream, Outcome::Refused(code))?,
            Incoming::Pong { .. } => self.pongs += 1,
            Incoming::Tune(beats) => self.tuned = beats.misses,
            Incoming::GoAway { code, .. } => self.going_away = Some(code),
            Incoming::Nothing => world.count("late data of a stream that is over", 1),
            Incoming::Opened { stream } => {
                self.session.is_answered(stream).then_some(()).ok_or("opened and not answered")?;
            }
            Incoming::Ping | Incoming::Acked | Incoming::Credit { .. } => {}
        }
        Ok(())
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

    /// The local connections have their turn.
    fn locals(&mut self, world: &mut World) -> Result<bool, String> {
        let mut moved = false;
        let mut place = 0;
        while place < self.active.len() {
            let (id, plan) = (self.active[place], self.plans[place]);
            let over = self.session.get(id).is_none() || self.local(world, id, plan, &mut moved)?;
            if over {
                self.active.swap_remove(place);
                self.plans.swap_remove(place);
            } else {
                place += 1;
            }
        }
        Ok(moved)
    }

    fn local(&mut self, world: &mut World, id: u32, plan: usize, moved: &mut bool) -> Result<bool, String> {
        let habit = &world.plans[plan].ends[self.side];
        let now = world.now;
        let Some(local) = self.session.get(id) else { return Ok(true) };
        if let Some(at) = local.answers_at {
            if at > now {
                self.wake_at(at);
                return Ok(false);
            }
            local.answers_at = None;
            *moved = true;
            if let Some(code) = world.plans[plan].refusal {
                self.session.refuse(id, code);
                self.set(plan, Outcome::Refused(code))?;
                return Ok(true);
            }
            self.session.accept(id);
        }
        let Some(local) = self.session.get(id) else { return Ok(true) };
        if habit.reset_after.is_some_and(|after| local.given >= after) || (world.closing_time && local.stalled) {
            let stalled = habit.reset_after.is_none_or(|after| local.given < after);
            let code = if stalled { ResetCode::Drained } else { ResetCode::Reset };
            self.session.reset(id, code);
            self.set(plan, Outcome::ResetByUs(code))?;
            *moved = true;
            return Ok(true);
        }
        let mut wake = None;
        let mut passed = 0;
        if local.held > 0 && !local.stalled && now >= local.reads_from {
            let done = local.got - local.held;
            match local.stall {
                Some((after, None)) if done >= after => {
                    local.stalled = true;
                    *world.counts.entry("reader stalled for good").or_default() += 1;
                }
                Some((after, Some(time))) if done >= after => {
                    local.stall = None;
                    local.reads_from = now + time;
                }
                stall => {
                    passed = local.held.min(habit.bite).min(stall.map_or(u64::MAX, |(after, _)| after - done));
                    local.held -= passed;
                    local.reads_from = now + habit.pause;
                }
            }
        }
        if local.held > 0 && !local.stalled {
            wake = Some(local.reads_from.max(now + 1));
        }
        if local.available == 0 && local.given < habit.total {
            if now >= local.next_burst {
                local.available = world.rng.u64(1..=habit.burst.min(habit.total - local.given));
                local.next_burst = now + world.rng.u64(0..30 * MS);
                if !std::mem::replace(&mut local.queued, true) {
                    self.fresh.push_back(id);
                    *moved = true;
                }
            } else {
                let at = local.next_burst;
                wake = Some(wake.map_or(at, |known: Micros| known.min(at)));
            }
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
        if let Some(at) = wake {
            self.wake_at(at);
        }
        if through && self.session.is_finished(id) {
            self.over(id, Outcome::Finished)?;
            *moved = true;
            return Ok(true);
        }
        Ok(false)
    }

    fn write(&mut self, world: &mut World) -> bool {
        if self.wire.is_none() {
            return false;
        }
        if world.now >= self.beat_at {
            self.pings += 1;
            self.session.ping(self.pings);
            self.beat_at = world.now + INTERVAL;
        }
        self.wake_at(self.beat_at);
        let mut moved = false;
        let mut room = self.room;
        loop {
            self.session.emit(room, world.instant());
            self.fill(world, room);
            self.most_replay = self.most_replay.max(self.session.replay_limit());
            let Some(wire) = &mut self.wire else { return moved };
            let connection = &mut world.connections[wire.connection];
            if !wire.preface.is_empty() {
                let preface = std::mem::take(&mut wire.preface);
                let (_, cut) = connection.write(self.side, world.now, &preface, world.rng);
                *world.counts.entry("cut in a welcome").or_default() += u64::from(cut.is_some());
            }
            let offset = self.session.acknowledged() + self.session.unacknowledged() - self.session.unsent();
            let next = self.session.next();
            let bytes = &next[..next.len().min(world.rng.usize(1..=256 * 1024))];
            let (taken, cut) = connection.write(self.side, world.now, bytes, world.rng);
            self.walker.walk(offset, &bytes[..taken], cut, world.counts, self.side);
            self.session.sent(taken);
            if taken == 0 {
                return moved;
            }
            moved = true;
            // Now and then the connection is full for the moment.
            room = if world.rng.u8(0..8) == 0 { 1 } else { self.room };
        }
    }

    fn fill(&mut self, world: &mut World, room: u64) {
        let mut later = Vec::new();
        while self.session.unsent() < room {
            if self.session.unacknowledged() >= self.session.replay_limit() {
                world.count("replay limit reached", 1);
                break;
            }
            let Some(id) = self.fresh.pop_front().or_else(|| self.bulk.pop_front()) else { break };
            let quota = self.session.quota(id, room - self.session.unsent());
            if quota == 0 {
                if self.session.get(id).is_some() {
                    later.push(id);
                }
                continue;
            }
            let (side, pattern) = (self.side, world.pattern);
            let full = self.session.fill(id, quota, |local, slot| {
                let count = slot.len().min(local.available as usize);
                pattern.write(local.plan, side, local.given, &mut slot[..count]);
                local.given += count as u64;
                local.available -= count as u64;
                (count, local.available > 0)
            });
            match full {
                Some(true) => self.bulk.push_back(id),
                Some(false) => self.session.get(id).into_iter().for_each(|local| local.queued = false),
                None => {}
            }
        }
        self.bulk.extend(later);
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
        match self.session.open(
            &plan.to_string(),
            None,
            None,
            hops,
            Local::new(plan, &world.plans[plan].ends[0], None),
            world.instant(),
        ) {
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
