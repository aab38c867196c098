//! Two sessions, connections in memory, a virtual clock, and one number that decides everything else.
//!
//! Connections are cut at any byte (of a header, a payload, a hello), fall silent one way, deliver late after another has
//! taken over. At the end every byte, every FIN and every RESET of both directions must have arrived as it was sent.
//! `EVERLINK_SEED=n cargo test --lib session::sim::one_seed` runs one number again.

mod claims;
mod end;
mod streams;
mod tally;
mod wire;

use std::time::{Duration, Instant};

use fastrand::Rng;

use self::claims::{Claims, Desk};
use self::end::{End, World};
use self::streams::{Outcome, Pattern, Plan};
use self::tally::{Counts, MARKS, merge};
use self::wire::{Connection, Micros, SECOND};
use super::frame::{Kind, RefusalCode, ResetCode};
use super::{Broken, GoAwayCode, Limits};
use crate::config::Beats;
use crate::seeds;

/// Seeds of one test; there are four such tests. Raise it to search longer.
const SEEDS: u64 = 80;
/// With no more faults to come, everything ends within this time.
const PATIENCE: Micros = 300 * SECOND;

/// What one run is like.
struct Profile {
    storm: Micros,
    capacity: (usize, usize),
    least_slice: usize,
    far: u64,
    /// An older Welcome is taken while a newer Hello is out.
    takes_older: bool,
}

impl Profile {
    fn stormy(&self, now: Micros) -> bool {
        now < self.storm
    }
}

fn run(seed: u64, broken: Broken) -> Result<Counts, String> {
    Run::new(seed, broken).play()
}

/// One run: all that its number decides, and how far it has come.
struct Run {
    rng: Rng,
    profile: Profile,
    plans: Vec<Plan>,
    pattern: Pattern,
    /// Streams that the gateway takes at once.
    streams: usize,
    broken: Broken,
    start: Instant,
    now: Micros,
    ends: [End; 2],
    claims: Claims,
    desk: Desk,
    connections: Vec<Connection>,
    counts: Counts,
    /// Plans whose streams are still to be opened.
    unopened: Vec<usize>,
    /// TUNEs that are said, and that were.
    tunes: u32,
    tuned: u32,
    /// When the gateway says GOAWAY, if it does and has not yet.
    goes_away: Option<Micros>,
    said_goodbye: bool,
    healed: bool,
    closing_time: bool,
}

impl Run {
    fn new(seed: u64, broken: Broken) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = match rng.u8(0..16) {
            0 => rng.usize(50..=200),
            1..=7 => rng.usize(1..=4),
            _ => rng.usize(1..=20),
        };
        let most = if count > 20 { 20_000 } else { [5_000, 60_000, 400_000, 3 << 20][rng.usize(0..4)] };
        let plans: Vec<Plan> = (0..count).map(|_| Plan::random(&mut rng, most)).collect();
        let buffer = [8 << 10, 64 << 10, 256 << 10, 2 << 20, 16 << 20][rng.usize(0..5)];
        let streams = if rng.u8(0..4) == 0 { rng.usize(1..=count) } else { count };
        let windows = 16 * 1024 * streams as u64 + [0, 100 << 10, 4 << 20, 64 << 20][rng.usize(0..4)];
        let limits = Limits { buffer, peer_buffer: buffer, windows, streams };
        let profile = Profile {
            storm: rng.u64(0..12 * SECOND),
            capacity: if rng.u8(0..4) == 0 { (100, 5_000) } else { (64 << 10, 1 << 20) },
            least_slice: if most > 100_000 { 1500 } else { 1 },
            far: 2 * most,
            takes_older: seed.is_multiple_of(2),
        };
        let room = [1024, 16 << 10, 256 << 10, 1 << 20][rng.usize(0..4)];
        let start = Instant::now();
        let mut ends = [0, 1].map(|side| End::new(side, limits, count, room, start));
        for end in &mut ends {
            end.session.broken = broken;
        }
        let tunes = rng.u32(0..4);
        let goes_away = (rng.u8(0..4) == 0).then(|| rng.u64(0..8 * SECOND));
        Self {
            rng,
            profile,
            plans,
            pattern: Pattern::new(),
            streams,
            broken,
            start,
            now: 0,
            ends,
            claims: Claims::default(),
            desk: Desk::default(),
            connections: Vec::new(),
            counts: Counts::new(),
            unopened: (0..count).collect(),
            tunes,
            tuned: 0,
            goes_away,
            said_goodbye: goes_away.is_some(),
            healed: false,
            closing_time: false,
        }
    }

    fn play(mut self) -> Result<Counts, String> {
        loop {
            if !self.profile.stormy(self.now) && !std::mem::replace(&mut self.healed, true) {
                self.connections.iter_mut().for_each(Connection::heal);
            }
            if self.turn()? {
                continue;
            }
            let waiting: Vec<usize> =
                (0..self.plans.len()).filter(|&plan| self.ends.iter().any(|end| end.is_open(plan))).collect();
            let all_stuck = waiting.iter().all(|&plan| self.ends.iter_mut().any(|end| end.is_stuck(plan)));
            let no_more = self.unopened.is_empty() || self.ends[0].session.streams() >= self.streams;
            if self.healed && !self.closing_time && all_stuck && no_more {
                self.closing_time = true;
                continue;
            }
            if self.is_over() {
                return self.verdict();
            }
            self.now = self.next_change().ok_or("nothing will ever happen again")?;
            if self.now > self.profile.storm + PATIENCE {
                let numbers = self
                    .ends
                    .iter()
                    .map(|end| (end.session.streams(), end.session.unacknowledged(), end.session.unsent()));
                return Err(format!("not through at {}: {waiting:?} {:?}", self.now, numbers.collect::<Vec<_>>()));
            }
        }
    }

    /// Everybody has a turn. True: something happened.
    fn turn(&mut self) -> Result<bool, String> {
        let (now, plans) = (self.now, &self.plans);
        let mut world = World {
            now,
            start: self.start,
            connections: &mut self.connections,
            plans,
            pattern: &self.pattern,
            rng: &mut self.rng,
            counts: &mut self.counts,
            closing_time: self.closing_time,
        };
        let [dialer, gateway] = &mut self.ends;
        let mut moved = false;
        if dialer.going_away.is_some() {
            // Another gateway has them.
            self.unopened.clear();
        }
        while let Some(place) = self.unopened.iter().position(|&plan| plans[plan].opens_at <= now) {
            if !dialer.open(self.unopened[place], &mut world) {
                break;
            }
            moved = true;
            let plan = self.unopened.swap_remove(place);
            if dialer.wire.is_none() && world.rng.u8(0..8) == 0 {
                dialer.withdraw(plan)?;
                world.count("reset before it was opened", 1);
            }
        }
        if self.tuned < self.tunes && world.rng.u8(0..50) == 0 {
            self.tuned += 1;
            dialer.session.tune(beats(self.tuned));
            gateway.session.tune(beats(10 + self.tuned));
        }
        if self.goes_away.take_if(|at| *at <= now).is_some() {
            gateway.session.go_away(GoAwayCode::Draining, Duration::from_secs(1));
        }
        moved |= self.claims.turn(dialer, &mut world, &self.profile)?;
        let frozen = self.claims.is_frozen();
        moved |= dialer.turn(&mut world, frozen)?;
        moved |= self.desk.turn(gateway, &mut world, self.broken)?;
        moved |= gateway.turn(&mut world, false)?;
        Ok(moved)
    }

    fn is_over(&self) -> bool {
        let all_opened = self.unopened.is_empty() && self.goes_away.is_none();
        self.closing_time && all_opened && self.healed && self.ends.iter().all(End::is_idle)
    }

    /// When something happens next.
    fn next_change(&self) -> Option<Micros> {
        let now = self.now;
        let connections = self.connections.iter().filter_map(|connection| connection.next_change(now));
        let wakes = self.ends.iter().filter_map(|end| end.wake);
        let opens = self.unopened.iter().map(|&plan| self.plans[plan].opens_at);
        let heals = (!self.healed).then_some(self.profile.storm).into_iter().chain(self.goes_away);
        let claims = self.claims.next_change(&self.ends[0], now);
        connections.chain(wakes).chain(opens).chain(claims).chain(heals).filter(|at| *at > now).min()
    }

    /// Every stream ended as it may, and every TUNE and GOAWAY was heard.
    fn verdict(self) -> Result<Counts, String> {
        let exceptional = self.streams < self.plans.len();
        for (plan, habits) in self.plans.iter().enumerate() {
            if self.said_goodbye && self.ends.iter().all(|end| end.ids[plan].is_none()) {
                continue;
            }
            verdict(habits, [self.ends[0].outcomes[plan], self.ends[1].outcomes[plan]], exceptional)
                .map_err(|text| format!("plan {plan}: {text}"))?;
        }
        let told = (self.ends[0].tuned, self.ends[1].tuned, self.ends[0].going_away.is_some());
        let due = (if self.tuned > 0 { 10 + self.tuned } else { 0 }, self.tuned, self.said_goodbye);
        if told == due { Ok(self.counts) } else { Err(format!("TUNE and GOAWAY: {told:?} instead of {due:?}")) }
    }
}

/// Whether a stream may have ended like this at the dialer and at the gateway. `exceptional`: the gateway may have refused
/// it for want of room; one that leaves takes what crosses its GOAWAY.
fn verdict(plan: &Plan, outcomes: [Option<Outcome>; 2], exceptional: bool) -> Result<(), String> {
    use Outcome::{Finished, Refused, ResetByPeer, ResetByUs};
    let may_refuse = |code| match code {
        RefusalCode::Hops => plan.hops > 0,
        RefusalCode::Limit => exceptional,
        _ => false,
    };
    let withdrawn = outcomes[0] == Some(ResetByUs(ResetCode::Error));
    let may_reset = |side: usize, code| match code {
        ResetCode::Reset => plan.ends[side].reset_after.is_some(),
        ResetCode::Drained => plan.ends[side].stall.is_some(),
        _ => side == 0 && withdrawn,
    };
    let fair = match outcomes {
        [Some(Finished), Some(Finished)] => true,
        [Some(Refused(code)), Some(Refused(same))] => code == same && plan.refusal == Some(code),
        [Some(Refused(code)), None] => may_refuse(code),
        [Some(ResetByUs(code)), other] => {
            may_reset(0, code)
                && match other {
                    Some(ResetByPeer(same)) => code == same,
                    Some(ResetByUs(other)) => may_reset(1, other),
                    Some(Finished) => true,
                    Some(Refused(code)) => plan.refusal == Some(code),
                    None => withdrawn || exceptional || plan.hops > 0 || plan.ends[0].reset_after == Some(0),
                }
        }
        [Some(Finished), Some(ResetByUs(code))] => may_reset(1, code),
        [Some(ResetByPeer(same)), Some(ResetByUs(code))] => code == same && may_reset(1, code),
        _ => false,
    };
    if fair { Ok(()) } else { Err(format!("{outcomes:?} of {plan:?}")) }
}

fn beats(misses: u32) -> Beats {
    Beats { interval: Duration::from_secs(1), timeout: Duration::from_secs(1), misses }
}

fn run_all(from: u64, to: u64) -> Counts {
    let mut all = Counts::new();
    for seed in from..to {
        match run(seed, Broken::default()) {
            Ok(counts) => merge(&mut all, &counts),
            Err(text) => panic!("{}", seeds::failure("session::sim", seed, &text)),
        }
    }
    all
}

/// The first seed that shows the fault.
fn found(broken: Broken) -> Option<u64> {
    (0..200).find(|&seed| run(seed, broken).inspect_err(|text| println!("seed {seed}: {text}")).is_err())
}

#[test]
fn no_byte_is_lost_or_doubled_however_the_connections_fall() {
    run_all(0, SEEDS);
}

#[test]
fn nor_with_other_seeds() {
    run_all(SEEDS, 2 * SEEDS);
}

#[test]
fn one_seed() {
    let seed = seeds::one();
    run_all(seed, seed + 1);
}

/// For `tests/simulate`.
#[test]
#[ignore = "many seeds take long"]
fn many_seeds() {
    let counts = seeds::many("session::sim", |seed| run(seed, Broken::default()), merge);
    counts.iter().for_each(|(mark, count)| println!("{mark:<48} {count:>12}"));
}

#[test]
fn everything_that_may_happen_has_happened() {
    let counts = run_all(2 * SEEDS, 4 * SEEDS);
    let marks = MARKS.into_iter().chain(Kind::ALL.map(Kind::name));
    let missing: Vec<_> = marks.filter(|mark| counts.get(mark).is_none_or(|count| *count == 0)).collect();
    assert!(missing.is_empty(), "never reached: {missing:?} of {counts:#?}");
}

#[test]
fn the_check_finds_a_session_that_does_not_replay() {
    assert!(found(Broken { no_replay: true, ..Broken::default() }).is_some());
}

#[test]
fn the_check_finds_bytes_taken_twice() {
    assert!(found(Broken { no_duplicate_removal: true, ..Broken::default() }).is_some());
}

#[test]
fn the_check_finds_streams_refused_that_crossed_a_goaway() {
    assert!(found(Broken { no_crossing: true, ..Broken::default() }).is_some());
}

#[test]
fn the_check_finds_an_overtaken_connection_that_is_still_heard() {
    assert!(found(Broken { no_fencing: true, ..Broken::default() }).is_some());
}
