//! When to beat, when a beat counts as missed, and when a link is dead. Pure.
//!
//! A beat goes out after `interval` of silence. The first unanswered one makes the link suspect; from then on a beat goes
//! out every `timeout`, and `misses` in a row are the end. So a dead link is noticed within
//! `interval + misses × timeout`, the budget.
//!
//! Two things look like death and are not. A slow link full of data: while the kernel still reports progress towards the
//! beat's last byte, the clock of its answer has not started. And a pause of this very process: what arrived meanwhile is
//! read before anyone is judged.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::config;

/// The interval is shortened by up to this share, so that links made together do not beat together. It is never made
/// longer, or the budget would not be a promise (BFD does the same: RFC 5880, section 6.8.7).
const JITTER: f64 = 0.08;

/// Beats fall on a grid of this share of the interval, 100 ms at most: a process with a thousand links then wakes ten times
/// a second for many beats, and not a thousand times for one each. Rounded down, so with the jitter a tenth at most.
const GRID: u32 = 50;
const COARSEST: Duration = Duration::from_millis(100);

/// What the kernel says of the bytes sent, looked at only when an answer is overdue.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    /// Everything sent has been acknowledged.
    pub all_acknowledged: bool,
    /// Bytes acknowledged so far (`tcpi_bytes_acked`); only its movement counts.
    pub acknowledged: u64,
    /// How long ago the last acknowledgement came (`tcpi_last_ack_recv`).
    pub last_acknowledged: Duration,
}

/// What the driver has to do after a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is due.
    Quiet,
    /// Send a beat.
    Beat,
    /// The last beat went unanswered: send another.
    Missed,
    /// `misses` beats went unanswered in a row.
    Dead,
}

#[derive(Debug, Clone, Copy)]
struct Outstanding {
    sent: Instant,
    due: Instant,
    acknowledged: Option<u64>,
}

/// The heartbeat of one connection.
#[derive(Debug)]
pub struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    allowed: u32,
    /// The share of the interval that this connection uses.
    share: f64,
    last_heard: Instant,
    outstanding: Option<Outstanding>,
    missed: u32,
    /// Not before this: the service asked to be left alone for a while.
    hold_until: Option<Instant>,
    /// The current deadline was pushed once because this process was late.
    excused: bool,
}

impl Heartbeat {
    /// A connection that was heard from just now.
    pub fn new(settings: &config::Heartbeat, now: Instant, random: &mut fastrand::Rng) -> Self {
        Self {
            interval: settings.interval,
            timeout: settings.timeout,
            allowed: settings.misses,
            share: share(random),
            last_heard: now,
            outstanding: None,
            missed: 0,
            hold_until: None,
            excused: false,
        }
    }

    /// Takes new numbers. A beat under way keeps its deadline.
    pub fn retune(&mut self, settings: &config::Heartbeat) {
        self.interval = settings.interval;
        self.timeout = settings.timeout;
        self.allowed = settings.misses;
    }

    /// Beats unanswered in a row.
    pub fn missed(&self) -> u32 {
        self.missed
    }

    pub fn is_outstanding(&self) -> bool {
        self.outstanding.is_some()
    }

    /// A byte came: the link lives, and the silence starts anew. Beats still owed stay owed.
    pub fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.missed = 0;
        self.excused = false;
    }

    /// The newest beat was answered; how long that took.
    pub fn answered(&mut self, now: Instant) -> Option<Duration> {
        self.heard(now);
        self.outstanding.take().map(|beat| now.saturating_duration_since(beat.sent))
    }

    /// An answer came that says "not now": the path lives, the service does not. A miss; the next beat is due after
    /// `timeout`, as after any other.
    pub fn unfit(&mut self, now: Instant) -> Verdict {
        self.last_heard = now;
        if self.outstanding.take().is_none() {
            return Verdict::Quiet;
        }
        self.missed += 1;
        self.hold_until = Some(now + self.timeout);
        if self.missed >= self.allowed { Verdict::Dead } else { Verdict::Missed }
    }

    /// A beat is wanted now, however short the silence: this machine was suspended, and no timer knows of it. One that is
    /// out already may have died with that: its answer has its whole time from here.
    pub fn ask_at_once(&mut self, now: Instant) {
        match &mut self.outstanding {
            Some(beat) => beat.due = now + self.timeout,
            None => self.hold_until = Some(now),
        }
    }

    /// A beat goes out now, asked for or not.
    pub fn sent(&mut self, now: Instant) {
        self.hold_until = None;
        self.outstanding = Some(Outstanding { sent: now, due: now + self.timeout, acknowledged: None });
        self.excused = false;
    }

    /// When to call [`tick`](Self::tick) next.
    pub fn next_deadline(&self) -> Instant {
        match self.outstanding {
            Some(beat) => beat.due,
            None => self.hold_until.unwrap_or_else(|| on_grid(self.last_heard + self.silence(), self.interval)),
        }
    }

    /// Judges what is due. `delivery` is asked only when an answer is overdue; `None` where the kernel cannot tell.
    pub fn tick(&mut self, now: Instant, delivery: impl FnOnce() -> Option<Delivery>) -> Verdict {
        let deadline = self.next_deadline();
        if now < deadline {
            return Verdict::Quiet;
        }
        let Some(beat) = &mut self.outstanding else { return Verdict::Beat };
        // So late a look means that this process did not run: the answer may be waiting to be read. Once for each beat.
        if now - deadline > self.timeout / 2 && !self.excused {
            self.excused = true;
            beat.due = now + self.timeout;
            return Verdict::Quiet;
        }
        if let Some(delivery) = delivery() {
            let moved = beat.acknowledged.replace(delivery.acknowledged) != Some(delivery.acknowledged);
            if !delivery.all_acknowledged {
                // Still on its way, as long as the figure moves. The first look has nothing to compare with and is
                // judged by the age of the last acknowledgement.
                if moved && delivery.last_acknowledged < self.timeout {
                    beat.due = now + self.timeout;
                    return Verdict::Quiet;
                }
            } else if let Some(arrived) = now.checked_sub(delivery.last_acknowledged) {
                let due = arrived + self.timeout;
                // Its last byte arrived long after it was sent: the answer has its whole time from there.
                if arrived > beat.sent + self.timeout / 2 && due > now {
                    beat.due = due;
                    return Verdict::Quiet;
                }
            }
        }
        self.missed += 1;
        self.outstanding = None;
        if self.missed >= self.allowed { Verdict::Dead } else { Verdict::Missed }
    }

    fn silence(&self) -> Duration {
        self.interval.mul_f64(self.share)
    }
}

/// The share of the interval that one connection uses, drawn once for each.
pub(crate) fn share(random: &mut fastrand::Rng) -> f64 {
    1.0 - JITTER * random.f64()
}

/// The grid's last point before `at`, for beats of this interval.
pub(crate) fn on_grid(at: Instant, interval: Duration) -> Instant {
    let grid = (interval / GRID).min(COARSEST);
    let past = at.saturating_duration_since(origin()).as_nanos() % grid.as_nanos().max(1);
    // Less than the grid, so it fits.
    at - Duration::from_nanos(past as u64)
}

/// A moment that stays the same for the life of the process.
pub(crate) fn origin() -> Instant {
    #[cfg(test)]
    if let Some(origin) = crate::net::memory::origin() {
        return origin;
    }
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Beat, InUse};

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> config::Heartbeat {
        config::Heartbeat {
            interval: 5 * SECOND,
            timeout: 3 * SECOND,
            misses: 3,
            beat: Beat::Kernel,
            in_use: InUse::Off,
        }
    }

    fn heartbeat(now: Instant) -> Heartbeat {
        Heartbeat::new(&settings(), now, &mut fastrand::Rng::with_seed(1))
    }

    fn silent() -> Option<Delivery> {
        None
    }

    /// Ticks at each deadline until the verdict is `Dead`; returns beats sent and the time that took.
    fn until_dead(beat: &mut Heartbeat, start: Instant) -> (u32, Duration) {
        let mut sent = 0;
        loop {
            let now = beat.next_deadline();
            assert!(now - start < 60 * SECOND, "never dies");
            match beat.tick(now, silent) {
                Verdict::Quiet => panic!("a deadline with nothing due"),
                Verdict::Beat | Verdict::Missed => {
                    beat.sent(now);
                    sent += 1;
                }
                Verdict::Dead => return (sent, now - start),
            }
        }
    }

    #[test]
    fn a_silent_link_is_dead_within_the_budget_after_as_many_beats_as_misses() {
        for seed in 0..200 {
            let start = Instant::now();
            let mut beat = Heartbeat::new(&settings(), start, &mut fastrand::Rng::with_seed(seed));
            let (sent, took) = until_dead(&mut beat, start);
            assert_eq!(sent, 3);
            assert!(took <= settings().budget() && took >= settings().budget() - SECOND / 2, "{took:?}");
        }
    }

    #[test]
    fn an_answer_clears_the_misses_and_tells_the_round_trip() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        let first = beat.next_deadline();
        beat.sent(first);
        assert_eq!(beat.tick(first + 3 * SECOND, silent), Verdict::Missed);
        beat.sent(first + 3 * SECOND);
        assert_eq!(beat.missed(), 1);
        assert_eq!(beat.answered(first + 4 * SECOND), Some(SECOND));
        assert_eq!(beat.missed(), 0);
        assert!(beat.next_deadline() <= first + 9 * SECOND, "silence is counted from the answer");
    }

    #[test]
    fn bytes_of_the_server_put_the_next_beat_off() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        beat.heard(start + 4 * SECOND);
        assert_eq!(beat.tick(start + 5 * SECOND, silent), Verdict::Quiet);
        assert!(beat.next_deadline() > start + 8 * SECOND);
    }

    #[test]
    fn new_numbers_count_from_the_last_sign_of_life() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        beat.retune(&config::Heartbeat { interval: SECOND, ..settings() });
        assert!(beat.next_deadline() <= start + SECOND);
    }

    #[test]
    fn a_look_that_comes_far_too_late_reads_before_it_judges() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        beat.sent(start);
        let woke = start + 30 * SECOND;
        assert_eq!(beat.tick(woke, silent), Verdict::Quiet, "we were asleep, not the peer");
        assert_eq!(beat.tick(woke + 3 * SECOND, silent), Verdict::Missed, "but it gets one excuse only");
    }

    #[test]
    fn a_beat_still_moving_through_a_slow_link_is_not_missed() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        beat.sent(start);
        let mut now = start;
        for looks in 1..10 {
            now = beat.next_deadline();
            let moving = Delivery { all_acknowledged: false, acknowledged: looks * 1000, last_acknowledged: SECOND };
            assert_eq!(beat.tick(now, || Some(moving)), Verdict::Quiet, "look {looks}");
        }
        let stuck = Delivery { all_acknowledged: false, acknowledged: 9000, last_acknowledged: 4 * SECOND };
        assert_eq!(beat.tick(now + 3 * SECOND, || Some(stuck)), Verdict::Missed);
    }

    #[test]
    fn an_acknowledged_beat_without_an_answer_is_missed_for_a_stopped_process_acknowledges_too() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        beat.sent(start);
        let due = beat.next_deadline();
        let arrived = Delivery { all_acknowledged: true, acknowledged: 4, last_acknowledged: 3 * SECOND };
        assert_eq!(beat.tick(due, || Some(arrived)), Verdict::Missed);
    }

    #[test]
    fn an_answer_has_its_whole_time_from_the_moment_the_beat_arrived() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        beat.sent(start);
        let due = beat.next_deadline();
        let late = Delivery { all_acknowledged: true, acknowledged: 4, last_acknowledged: SECOND };
        assert_eq!(beat.tick(due, || Some(late)), Verdict::Quiet);
        assert_eq!(beat.next_deadline(), due + 2 * SECOND);
    }

    #[test]
    fn not_now_is_a_miss_and_the_next_beat_comes_after_the_timeout() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        beat.sent(start);
        assert_eq!(beat.unfit(start), Verdict::Missed);
        assert_eq!(beat.next_deadline(), start + 3 * SECOND);
        assert_eq!(beat.tick(start + 3 * SECOND, silent), Verdict::Beat);
    }

    #[test]
    fn fault_46_after_a_suspension_a_beat_goes_out_at_once_and_is_given_its_whole_time() {
        let start = Instant::now();
        let mut beat = heartbeat(start);
        let woken = start + SECOND;
        assert!(beat.next_deadline() > woken + 3 * SECOND);
        beat.ask_at_once(woken);
        assert_eq!(beat.next_deadline(), woken);
        assert_eq!(beat.tick(woken, silent), Verdict::Beat);
        beat.sent(woken);
        assert_eq!(beat.next_deadline(), woken + 3 * SECOND, "one is enough");
        // It was out when the machine fell asleep again.
        let again = woken + 3 * SECOND - Duration::from_millis(1);
        beat.ask_at_once(again);
        assert_eq!(beat.next_deadline(), again + 3 * SECOND);
        assert_eq!(beat.tick(again + 3 * SECOND, silent), Verdict::Missed);
    }
}
