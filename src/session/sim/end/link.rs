//! The link of one end: what it reads of the connection in use, and what it writes.

use super::{BUDGET, End, INTERVAL, World};
use crate::session::Incoming;
use crate::session::sim::streams::{Local, Outcome};
use crate::session::sim::wire::Read;

impl End {
    pub(super) fn read(&mut self, world: &mut World) -> Result<bool, String> {
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

    pub(super) fn receive(&mut self, world: &mut World, bytes: &[u8]) -> Result<(), String> {
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
            Incoming::Opened { .. } | Incoming::Ping | Incoming::Acked | Incoming::Credit { .. } => {}
        }
        Ok(())
    }

    pub(super) fn write(&mut self, world: &mut World) -> bool {
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
}
