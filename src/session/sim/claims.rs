//! Who may speak for the session: the rules of a resume on both ends, with messages as small as they can be.
//!
//! The dialer: its offset is frozen from the moment a Hello leaves until the claim is decided; the old connection is not
//! read meanwhile. A claim given up is closed for good. The answer to the newest claim holds; an older one until then, but
//! its connection is not read, or, in half of the runs, only after all newer ones are given up. The gateway: the highest epoch wins; it stops reading the old connection, then freezes its
//! offset, then answers.

use super::Profile;
use super::end::{End, World};
use super::wire::{Connection, Habits, MS, Micros, Read, SECOND};
use crate::session::Broken;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const SUPERSEDED: u8 = 3;
const MESSAGE: usize = 17;

fn message(kind: u8, epoch: u64, received: u64) -> Vec<u8> {
    [&[kind][..], &epoch.to_le_bytes(), &received.to_le_bytes()].concat()
}

/// Kind, epoch, offset; and what follows.
fn parse(bytes: &[u8]) -> Option<(u8, u64, u64, Vec<u8>)> {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let message = bytes.get(..MESSAGE)?;
    Some((message[0], number(&message[1..9]), number(&message[9..]), bytes[MESSAGE..].to_vec()))
}

struct Claim {
    connection: usize,
    begun: Micros,
    ready_at: Micros,
    /// Epoch, offset told, and when.
    sent: Option<(u64, u64, Micros)>,
    answer: Vec<u8>,
    welcome: Option<(u64, Vec<u8>)>,
    planned: bool,
}

/// The dialer's side.
#[derive(Default)]
pub struct Claims {
    claims: Vec<Claim>,
    epoch: u64,
    redial_at: Micros,
    planned_at: Micros,
}

impl Claims {
    pub fn is_frozen(&self) -> bool {
        self.claims.iter().any(|claim| claim.sent.is_some())
    }

    pub fn turn(&mut self, end: &mut End, world: &mut World, profile: &Profile) -> Result<bool, String> {
        let mut moved = self.dial(end, world, profile);
        moved |= self.say_hello(end, world);
        moved |= self.hear(world);
        moved |= self.decide(end, world, profile)?;
        Ok(moved)
    }

    fn dial(&mut self, end: &End, world: &mut World, profile: &Profile) -> bool {
        let now = world.now;
        let urgent = end.wire.is_none() && self.claims.len() < 2 && now >= self.redial_at;
        let planned = end.wire.is_some() && self.claims.is_empty() && profile.stormy(now) && now >= self.planned_at;
        if !urgent && !planned {
            return false;
        }
        world.connections.push(Connection::new(profile.habits(now, world.rng)));
        self.claims.push(Claim {
            connection: world.connections.len() - 1,
            begun: now,
            ready_at: now + world.rng.u64(0..50 * MS),
            sent: None,
            answer: Vec::new(),
            welcome: None,
            planned: planned && world.rng.bool(),
        });
        self.redial_at = now + world.rng.u64(50 * MS..SECOND);
        self.planned_at = now + world.rng.u64(0..4 * SECOND);
        true
    }

    fn say_hello(&mut self, end: &mut End, world: &mut World) -> bool {
        let Some(place) = self.claims.iter().position(|claim| claim.sent.is_none()) else { return false };
        if self.claims[place].ready_at > world.now {
            return false;
        }
        let (connection, planned) = (self.claims[place].connection, self.claims[place].planned);
        if let Some(wire) = &end.wire {
            let speaks =
                wire.heard > self.claims[place].begun || world.connections[wire.connection].is_readable(0, world.now);
            if speaks && !planned && !self.is_frozen() {
                world.count("claim cancelled by a byte", 1);
                world.connections[connection].close(0, world.now, world.rng);
                self.claims.remove(place);
                return true;
            }
            world.count("claim with the old connection alive", 1);
        }
        self.epoch += 1;
        let told = end.session.received();
        let hello = message(HELLO, self.epoch, told);
        let (_, cut) = world.connections[connection].write(0, world.now, &hello, world.rng);
        world.count("cut in a hello", cut.is_some().into());
        self.claims[place].sent = Some((self.epoch, told, world.now));
        true
    }

    /// Reads answers. A claim that cannot come to anything any more is given up.
    fn hear(&mut self, world: &mut World) -> bool {
        let mut moved = false;
        let mut place = 0;
        while place < self.claims.len() {
            let newest = place + 1 == self.claims.len();
            let claim = &mut self.claims[place];
            let Some((epoch, _, at)) = claim.sent else {
                place += 1;
                continue;
            };
            let mut given_up = claim.welcome.is_none() && world.now >= at + 1500 * MS;
            while !given_up && claim.welcome.is_none() {
                match world.connections[claim.connection].read(0, world.now, world.rng) {
                    Read::Nothing => break,
                    Read::End => given_up = true,
                    Read::Bytes(bytes) => {
                        claim.answer.extend(bytes);
                        match parse(&claim.answer) {
                            None => {}
                            Some((WELCOME, for_epoch, received, rest)) if for_epoch == epoch => {
                                claim.welcome = Some((received, rest));
                                moved = true;
                                if !newest {
                                    world.count("older welcome while a newer hello is out", 1);
                                }
                            }
                            Some(_) => given_up = true,
                        }
                    }
                }
            }
            if given_up {
                let claim = self.claims.remove(place);
                world.connections[claim.connection].close(0, world.now, world.rng);
                moved = true;
            } else {
                place += 1;
            }
        }
        moved
    }

    fn decide(&mut self, end: &mut End, world: &mut World, profile: &Profile) -> Result<bool, String> {
        let asked = |claim: &Claim| claim.sent.is_some() && (claim.welcome.is_some() || !profile.takes_older);
        let Some(newest) = self.claims.iter().rposition(asked) else { return Ok(false) };
        if self.claims[newest].welcome.is_none() {
            return Ok(false);
        }
        let claim = self.claims.remove(newest);
        let (Some((epoch, told, _)), Some((received, unparsed))) = (claim.sent, claim.welcome) else { unreachable!() };
        if epoch < self.epoch {
            world.count("older welcome taken after all", 1);
        }
        // Older ones are of no use; a newer one is, if its Hello has left.
        let keep = self.claims.iter().position(|other| other.sent.is_some_and(|(other, ..)| other > epoch));
        let rest = keep.map_or(Vec::new(), |from| self.claims.split_off(from));
        for other in std::mem::replace(&mut self.claims, rest) {
            world.connections[other.connection].close(0, world.now, world.rng);
        }
        end.lose(world);
        let again = end.session.resume(received, told).map_err(|violation| format!("dialer: {violation}"))?;
        world.count("resumed", 1);
        world.count("bytes replayed", again);
        end.attach(claim.connection, unparsed, Vec::new(), world.now);
        Ok(true)
    }

    pub fn next_change(&self, end: &End, now: Micros) -> Option<Micros> {
        let claims = self.claims.iter().map(|claim| claim.sent.map_or(claim.ready_at, |(.., at)| at + 1500 * MS));
        let dial = (self.claims.len() < 2).then_some(if end.wire.is_none() { self.redial_at } else { self.planned_at });
        claims.chain(dial).filter(|at| *at > now).min()
    }
}

/// The gateway's side.
#[derive(Default)]
pub struct Desk {
    pending: Vec<(usize, Vec<u8>)>,
    seen: usize,
    epoch: u64,
}

impl Desk {
    pub fn turn(&mut self, end: &mut End, world: &mut World, broken: Broken) -> Result<bool, String> {
        let mut moved = false;
        self.pending.extend((self.seen..world.connections.len()).map(|connection| (connection, Vec::new())));
        self.seen = world.connections.len();
        let mut place = 0;
        while place < self.pending.len() {
            let (connection, bytes) = &mut self.pending[place];
            let read = world.connections[*connection].read(1, world.now, world.rng);
            match read {
                Read::Nothing => {
                    place += 1;
                    continue;
                }
                Read::End => {
                    world.connections[*connection].close(1, world.now, world.rng);
                    self.pending.remove(place);
                }
                Read::Bytes(more) => {
                    bytes.extend(more);
                    if let Some((HELLO, epoch, received, rest)) = parse(bytes) {
                        let connection = *connection;
                        if !rest.is_empty() {
                            return Err("frames before the Welcome".into());
                        }
                        self.pending.remove(place);
                        self.claim(connection, epoch, received, end, world, broken);
                    }
                }
            }
            moved = true;
        }
        Ok(moved)
    }

    fn claim(
        &mut self,
        connection: usize,
        epoch: u64,
        received: u64,
        end: &mut End,
        world: &mut World,
        broken: Broken,
    ) {
        let low = epoch <= self.epoch;
        world.count("claim superseded", low.into());
        let mut told = end.session.received();
        if broken.no_duplicate_removal && told > 0 {
            told -= 1 + world.rng.u64(0..told.min(5000));
        }
        // Behind what is acknowledged: a Hello so late that the dialer has given it up and read on elsewhere.
        let fit = !low && end.session.can_resume(received);
        let resumed = if fit { end.session.resume(received, told).ok() } else { None };
        world.count("claim behind what is acknowledged", (!low && resumed.is_none()).into());
        let Some(again) = resumed else {
            let refusal = message(SUPERSEDED, epoch, 0);
            world.connections[connection].write(1, world.now, &refusal, world.rng);
            world.connections[connection].close(1, world.now, world.rng);
            return;
        };
        self.epoch = epoch;
        if broken.no_fencing {
            end.unfenced.extend(end.wire.take().map(|wire| wire.connection));
        } else {
            end.lose(world);
        }
        world.count("resumed", 1);
        world.count("bytes replayed", again);
        end.attach(connection, Vec::new(), message(WELCOME, epoch, told), world.now);
    }
}

impl Profile {
    /// What the next connection is like.
    pub fn habits(&self, now: Micros, rng: &mut fastrand::Rng) -> Habits {
        let slice = [256 * 1024, 64 * 1024, 1500, 100][rng.usize(0..4)].max(self.least_slice);
        let crumbs = if rng.u8(0..3) == 0 { rng.u64(0..400) } else { 0 };
        let capacity = rng.usize(self.capacity.0..=self.capacity.1);
        if !self.stormy(now) {
            return Habits { delay: (MS, 5 * MS), capacity, slice, crumbs, lost_from: [None; 2], heard: [true; 2] };
        }
        let late = match rng.u8(0..6) {
            0 => 3 * SECOND,
            1 => 300 * MS,
            _ => 20 * MS,
        };
        let mut cut = || match rng.u8(0..8) {
            0 => Some(rng.u64(0..=20)),
            1 => Some(rng.u64(0..100)),
            2 => Some(rng.u64(0..5_000)),
            3 | 4 => Some(rng.u64(0..200_000)),
            5 => Some(rng.u64(0..self.far)),
            _ => None,
        };
        let lost_from = [cut(), cut()];
        let heard = [rng.u8(0..4) > 0, rng.u8(0..4) > 0];
        Habits { delay: (rng.u64(0..5 * MS), late), capacity, slice, crumbs, lost_from, heard }
    }
}
