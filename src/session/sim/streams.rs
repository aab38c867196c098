//! What the local connections do: how much they send, when they end, and how fast they read.

use fastrand::Rng;

use super::wire::{MS, Micros, SECOND, Side};
use crate::session::frame::{RefusalCode, ResetCode};

const PERIOD: usize = 65_521;

/// Bytes that repeat only after a prime number of them: what is lost, doubled or misplaced shows.
pub struct Pattern(Vec<u8>);

impl Pattern {
    pub fn new() -> Self {
        let mut rng = Rng::with_seed(7);
        let period: Vec<u8> = (0..PERIOD).map(|_| rng.u8(..)).collect();
        Self([&period[..], &period[..]].concat())
    }

    fn at(&self, stream: usize, side: Side, position: u64) -> &[u8] {
        let start = (stream as u64 * 7919 + side as u64 * 31_337 + position) % PERIOD as u64;
        &self.0[start as usize..start as usize + PERIOD]
    }

    pub fn write(&self, stream: usize, side: Side, mut position: u64, mut into: &mut [u8]) {
        while !into.is_empty() {
            let part = into.len().min(PERIOD);
            into[..part].copy_from_slice(&self.at(stream, side, position)[..part]);
            into = &mut into[part..];
            position += part as u64;
        }
    }

    pub fn is(&self, stream: usize, side: Side, mut position: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let part = bytes.len().min(PERIOD);
            if bytes[..part] != self.at(stream, side, position)[..part] {
                return false;
            }
            bytes = &bytes[part..];
            position += part as u64;
        }
        true
    }
}

/// What one end's local connection does.
#[derive(Debug, Clone)]
pub struct Habit {
    pub total: u64,
    pub burst: u64,
    /// It ends its direction only after it has read the other's end.
    pub last_to_end: bool,
    /// It is reset after so many bytes sent.
    pub reset_after: Option<u64>,
    /// The most it reads at once, and the pause after each.
    pub bite: u64,
    pub pause: Micros,
    /// It stops reading after so many bytes, for so long (`None`: for good).
    pub stall: Option<(u64, Option<Micros>)>,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub opens_at: Micros,
    /// How long the gateway takes to answer, and what if it refuses.
    pub answer: Micros,
    pub refusal: Option<RefusalCode>,
    pub hops: u8,
    pub ends: [Habit; 2],
}

impl Plan {
    pub fn random(rng: &mut Rng, most: u64) -> Self {
        let mut habit = || {
            let total = match rng.u8(0..10) {
                0 => 0,
                1..=6 => rng.u64(0..3000),
                _ => rng.u64(0..=most),
            };
            let stall = match rng.u8(0..20) {
                0 => Some((rng.u64(0..20_000), None)),
                1..=3 => Some((rng.u64(0..50_000), Some(rng.u64(0..5 * SECOND)))),
                _ => None,
            };
            Habit {
                total,
                burst: if rng.bool() { u64::MAX } else { rng.u64(1 + total / 16..=total + 1) },
                last_to_end: false,
                reset_after: (rng.u8(0..12) == 0).then(|| rng.u64(0..=total)),
                bite: if rng.bool() { u64::MAX } else { rng.u64(1 + total / 64..200_000) },
                pause: if rng.bool() { 0 } else { rng.u64(0..20 * MS) },
                stall,
            }
        };
        let mut ends = [habit(), habit()];
        match rng.u8(0..4) {
            0 => ends[0].last_to_end = true,
            1 => ends[1].last_to_end = true,
            _ => {}
        }
        let refusals = [RefusalCode::Service, RefusalCode::Unreachable, RefusalCode::Limit];
        Self {
            opens_at: rng.u64(0..8 * SECOND),
            answer: if rng.bool() { 0 } else { rng.u64(0..SECOND) },
            refusal: (rng.u8(0..15) == 0).then(|| refusals[rng.usize(0..3)]),
            hops: if rng.u8(0..40) == 0 { 8 } else { 0 },
            ends,
        }
    }
}

/// How a stream ended at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    ResetByUs(ResetCode),
    ResetByPeer(ResetCode),
    Refused(RefusalCode),
}

/// One end of a stream: what the owner keeps with it.
pub struct Local {
    pub plan: usize,
    pub given: u64,
    pub available: u64,
    pub next_burst: Micros,
    pub finished: bool,
    pub got: u64,
    pub held: u64,
    pub fin: bool,
    pub reads_from: Micros,
    /// The stall still to come.
    pub stall: Option<(u64, Option<Micros>)>,
    pub stalled: bool,
    /// The gateway: when it answers; then `None`.
    pub answers_at: Option<Micros>,
    pub queued: bool,
}

impl Local {
    pub fn new(plan: usize, habit: &Habit, answers_at: Option<Micros>) -> Self {
        Self {
            plan,
            given: 0,
            available: 0,
            next_burst: 0,
            finished: false,
            got: 0,
            held: 0,
            fin: false,
            reads_from: 0,
            stall: habit.stall,
            stalled: false,
            answers_at,
            queued: false,
        }
    }
}
