//! When a tunnel's connection is asked whether it lives, when it is suspect, and when it is dead. Pure; both ends use it.
//!
//! - Any byte that arrives proves the connection: the link is everlink's own, so nobody else can have sent it.
//! - After `interval` of silence a beat goes out. The first that stays unanswered makes the connection suspect; then beats
//!   go out every `timeout`, and it is dead `misses × timeout` after the first was due: within the budget.
//! - While bytes of ours are unacknowledged somebody may be waiting, so a beat goes out after a second of silence already
//!   and suspicion comes half a second later (or 4 round trips, if those are longer). Suspicion only costs a second
//!   connection. Death costs this one, and is judged by the budget in either case.
//! - A slow connection full of data is not a dead one: an answer's clock starts when the kernel reports the beat's last byte
//!   acknowledged, and until then runs anew with every progress. After that the kernel's acknowledgements prove nothing:
//!   a stopped process acknowledges too.
//! - An acknowledgement of the *session* that does not move for a budget, while the peer answers beats sent behind those
//!   bytes, is death as well: something between the ends eats data and lets beats pass.
//! - A look that comes late means that this process did not run: what arrived is read, for one round more, before
//!   anybody is judged.

use std::time::{Duration, Instant};

use crate::config::Beats;
use crate::link::heartbeat::{self, Delivery};

/// With bytes of ours unacknowledged, the least silence before a beat. Any application that answers at all has mostly done
/// so by then, and the bytes with its answer are the proof.
const QUICK_SILENCE: Duration = Duration::from_secs(1);

/// And the least time before that beat makes suspect: more than a retransmission on a short path (200 ms) takes.
const QUICK_ANSWER: Duration = Duration::from_millis(500);

/// Both are at least so many round trips: one for the beat, one for a lost segment's retransmission, twice.
const ROUND_TRIPS: u32 = 4;

/// A satellite's is 0.7 s; what took longer stood still somewhere.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(1);

/// Why a connection counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Nothing came for the whole budget.
    Silent,
    /// Beats are answered, and yet the session's acknowledgement has not moved for a budget.
    Stalled,
}

/// What the driver has to do after a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is due.
    Quiet,
    /// Send a beat.
    Beat,
    /// A beat went unanswered, the first since the connection was heard: it is suspect now. Send another.
    Suspect,
    /// One more went unanswered. Send another.
    Missed,
    Dead(Death),
}

/// Beats sent since the last byte came.
#[derive(Debug, Clone, Copy)]
struct Unanswered {
    /// The clock that the first of them carries.
    clock: u64,
    /// From here its answer may be waited for: when it was sent, when it last made progress, when it arrived.
    since: Instant,
    /// The kernel reported its last byte acknowledged.
    arrived: bool,
    /// What the kernel had acknowledged at the last look.
    acknowledged: Option<u64>,
    /// When the newest was sent.
    newest: Instant,
}

/// The session's bytes that the peer has not acknowledged.
#[derive(Debug, Clone, Copy)]
struct Unacknowledged {
    /// Since when there have been any, without a pause.
    since: Instant,
    /// How far the peer has acknowledged, and since when it has stood there.
    offset: u64,
    stands_since: Instant,
    /// A beat sent after that moment, so behind those bytes, was answered.
    passed: bool,
}

/// The heartbeat of one connection of a tunnel. A new connection gets a new one.
#[derive(Debug, Clone)]
pub struct Pulse {
    beats: Beats,
    /// The share of the interval that this connection uses.
    share: f64,
    /// Echoes of earlier clocks belong to an earlier connection: beats are part of the session's bytes, and sent again.
    born: u64,
    clock: u64,
    rtt: Option<Duration>,
    last_heard: Instant,
    unanswered: Option<Unanswered>,
    unacknowledged: Option<Unacknowledged>,
    suspect: bool,
    missed: u32,
    /// Nobody is judged before this: this process was late, or the numbers have just changed.
    grace: Option<Instant>,
    /// The present round has had its grace for a late look.
    excused: bool,
    /// A beat is due whatever the silence.
    asked: bool,
}

impl Pulse {
    /// A connection that was heard from just now (its hello has been answered).
    pub fn new(beats: Beats, now: Instant, seed: u64) -> Self {
        let clock = clock(now);
        Self {
            beats,
            share: heartbeat::share(&mut fastrand::Rng::with_seed(seed)),
            born: clock,
            clock,
            rtt: None,
            last_heard: now,
            unanswered: None,
            unacknowledged: None,
            suspect: false,
            missed: 0,
            grace: None,
            excused: false,
            asked: false,
        }
    }

    /// Bytes came, whatever they are: call it before they are parsed. True when that ends a suspicion.
    pub fn heard(&mut self, now: Instant) -> bool {
        self.last_heard = now;
        self.unanswered = None;
        self.missed = 0;
        self.grace = None;
        self.excused = false;
        std::mem::take(&mut self.suspect)
    }

    /// A PONG was parsed; its round trip. `None` when the echo is of an earlier connection, or of no beat at all: it is
    /// the peer's word, to be checked.
    pub fn pong(&mut self, now: Instant, echo: u64) -> Option<Duration> {
        if echo <= self.born || echo > self.clock {
            return None;
        }
        if let Some(ours) = &mut self.unacknowledged {
            ours.passed |= echo > clock(ours.stands_since);
        }
        let rtt = Duration::from_micros(clock(now).saturating_sub(echo));
        self.set_rtt(rtt);
        Some(rtt)
    }

    /// A beat goes out now, asked for or not. Returns the clock for its PING: microseconds, never the same twice, and
    /// without meaning to the peer.
    pub fn beat_sent(&mut self, now: Instant) -> u64 {
        self.clock = clock(now).max(self.clock + 1);
        let first = Unanswered { clock: self.clock, since: now, arrived: false, acknowledged: None, newest: now };
        self.unanswered.get_or_insert(first).newest = now;
        self.clock
    }

    /// The clock of the first beat sent since a byte last came. It is this one whose way the [`Delivery`] of
    /// [`tick`](Self::tick) is about: note where in the connection's bytes its frame ends.
    pub fn awaited(&self) -> Option<u64> {
        self.unanswered.map(|beats| beats.clock)
    }

    /// Whether bytes of ours are unacknowledged by the session's ACKs, beats and ACKs themselves not counted, and how far
    /// the peer has acknowledged. Call it whenever either changes. An ACK has to go with each PONG, or a peer that receives
    /// slowly would look stalled.
    pub fn outstanding(&mut self, unacked: bool, acked: u64, now: Instant) {
        let fresh = Unacknowledged { since: now, offset: acked, stands_since: now, passed: false };
        match &mut self.unacknowledged {
            _ if !unacked => self.unacknowledged = None,
            None => self.unacknowledged = Some(fresh),
            Some(ours) if ours.offset != acked => *ours = Unacknowledged { since: ours.since, ..fresh },
            Some(_) => {}
        }
    }

    /// One measure of the round trip: the kernel's, or a beat's (which [`pong`](Self::pong) takes itself). Smoothed, and a
    /// beat that came back from an outage counts as a second, so that the next outage is not noticed late for it.
    pub fn set_rtt(&mut self, measured: Duration) {
        let measured = measured.min(LONGEST_ROUND_TRIP);
        self.rtt = Some(self.rtt.map_or(measured, |rtt| (rtt * 3 + measured) / 4));
    }

    /// New numbers, in place. What is under way is judged by them from now on, not in hindsight: a shorter budget must
    /// not find a healthy connection dead already.
    pub fn retune(&mut self, beats: Beats, now: Instant) {
        self.beats = beats;
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.since = now;
        }
        if let Some(ours) = &mut self.unacknowledged {
            ours.stands_since = now;
            ours.passed = false;
        }
    }

    /// A beat is wanted now: this machine was suspended, and its timers stood still with it. Beats that are out may have
    /// died meanwhile: nobody is judged before this one has had its time.
    pub fn ask_at_once(&mut self, now: Instant) {
        self.asked = true;
        self.grace = Some(now + self.beats.timeout);
    }

    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Beats unanswered in a row.
    pub fn missed(&self) -> u32 {
        self.missed
    }

    /// When bytes last came.
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// When to call [`tick`](Self::tick) next.
    pub fn next_deadline(&self) -> Instant {
        if self.asked {
            return self.last_heard;
        }
        let due = match &self.unanswered {
            Some(beats) => self.after_grace(self.answer_due(beats).min(self.death(beats))),
            None => self.beat_due(),
        };
        match self.stall() {
            Some(stall) => due.min(self.after_grace(stall)),
            None => due,
        }
    }

    /// Judges what is due. `delivery` is asked only when an answer is overdue: `all_acknowledged` in it is about the last
    /// byte of the beat [awaited](Self::awaited), or of everything sent where that is not known; `None` where the kernel
    /// cannot tell.
    pub fn tick(&mut self, now: Instant, delivery: impl FnOnce() -> Option<Delivery>) -> Verdict {
        let deadline = self.next_deadline();
        if now < deadline {
            return Verdict::Quiet;
        }
        if std::mem::take(&mut self.asked) {
            return Verdict::Beat;
        }
        let stalled = self.stall().is_some_and(|stall| now >= stall);
        if self.unanswered.is_none() && !stalled {
            return Verdict::Beat;
        }
        let round = self.answer_within();
        if now - deadline > round / 2 && !self.excused {
            self.excused = true;
            self.grace = Some(now + round);
            if let Some(ours) = self.unacknowledged.as_mut().filter(|_| stalled) {
                // Moved, not excused: beats that come back end an excuse, and here they do come back.
                ours.stands_since = (now + round).checked_sub(self.beats.budget()).unwrap_or(now);
            }
            // The beat that is out may have died with what held us up (a suspended host): ask again at once.
            return Verdict::Beat;
        }
        if stalled {
            return Verdict::Dead(Death::Stalled);
        }
        let Some(mut beats) = self.unanswered else { return Verdict::Quiet };
        if !beats.arrived
            && let Some(delivery) = delivery()
        {
            beats.look(now, delivery);
            self.unanswered = Some(beats);
        }
        if now >= self.after_grace(self.death(&beats)) {
            return Verdict::Dead(Death::Silent);
        }
        if now < self.after_grace(self.answer_due(&beats)) {
            return Verdict::Quiet;
        }
        self.missed += 1;
        self.excused = false;
        if std::mem::replace(&mut self.suspect, true) { Verdict::Missed } else { Verdict::Suspect }
    }

    /// When silence has lasted long enough to be asked about.
    fn beat_due(&self) -> Instant {
        let usual = self.beat_due_by_interval();
        match &self.unacknowledged {
            // Counted from the bytes, if those came later: a request after a pause is no reason for a beat beside it.
            Some(ours) => usual.min(self.last_heard.max(ours.since) + self.quick(QUICK_SILENCE).mul_f64(self.share)),
            None => usual,
        }
    }

    fn beat_due_by_interval(&self) -> Instant {
        let interval = self.beats.interval;
        heartbeat::on_grid(self.last_heard + interval.mul_f64(self.share), interval)
    }

    /// When the newest beat counts as unanswered.
    fn answer_due(&self, beats: &Unanswered) -> Instant {
        if self.suspect {
            return beats.newest + self.beats.timeout;
        }
        match &self.unacknowledged {
            // Never in hindsight: bytes that came after the beat are waited for from there.
            Some(ours) => (beats.since.max(ours.since) + self.answer_within()).min(beats.since + self.beats.timeout),
            None => beats.since + self.beats.timeout,
        }
    }

    /// How long an answer may take before the next step.
    fn answer_within(&self) -> Duration {
        let quick = self.unacknowledged.is_some() && !self.suspect;
        if quick { self.quick(QUICK_ANSWER).min(self.beats.timeout) } else { self.beats.timeout }
    }

    /// The end of the budget. A beat that went out early, because bytes of ours were out, makes nothing die earlier.
    fn death(&self, beats: &Unanswered) -> Instant {
        beats.since.max(self.beat_due_by_interval()) + self.beats.timeout * self.beats.misses
    }

    /// When bytes that stay unacknowledged are the end, although beats come back.
    fn stall(&self) -> Option<Instant> {
        self.unacknowledged.filter(|ours| ours.passed).map(|ours| ours.stands_since + self.beats.budget())
    }

    fn quick(&self, least: Duration) -> Duration {
        least.max(self.rtt.unwrap_or_default() * ROUND_TRIPS)
    }

    fn after_grace(&self, at: Instant) -> Instant {
        self.grace.map_or(at, |grace| grace.max(at))
    }
}

impl Unanswered {
    /// What the kernel says of the first beat's way. The age of the last acknowledgement dates progress, and the arrival.
    fn look(&mut self, now: Instant, delivery: Delivery) {
        // The first look has nothing to compare with; an acknowledgement from before the beat moves nothing below.
        let moved = self.acknowledged.replace(delivery.acknowledged) != Some(delivery.acknowledged);
        self.arrived = delivery.all_acknowledged;
        if (moved || self.arrived)
            && let Some(acknowledged) = now.checked_sub(delivery.last_acknowledged)
        {
            self.since = self.since.max(acknowledged);
        }
    }
}

/// Microseconds since the process began to beat, and more than 0.
fn clock(at: Instant) -> u64 {
    let micros = at.saturating_duration_since(heartbeat::origin()).as_micros();
    u64::try_from(micros).unwrap_or(u64::MAX - 1) + 1
}

#[cfg(test)]
mod tests;
