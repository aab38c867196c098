//! The life of one link. Pure: `now` comes in, at most one action goes out.
//!
//! ```text
//! Connecting --opened--> Proving --answered--> Up --missed--> Suspect --answered--> Up
//!     ^    \                 |                 |                 |
//!     |     `--failed-.   failed             lost              lost       Up, Suspect --handed out--> Connecting
//!     |                v     v                 v                 v
//!     `-retry,wanted- Waiting <----------------+-----------------'        any --stop--> Closed
//!                       |
//!                       `--attempts used up--> Failed --retry asked for--> Connecting
//! ```
//!
//! A link is one place in the pool. Handing its connection to a client is not a loss: the place dials the next one.

use std::time::{Duration, Instant};

use super::backoff;
use crate::config::Retry;

/// A connection that ends sooner than this after it came up was never any good: its end counts as a failed dial.
pub const TOO_SHORT: Duration = Duration::from_secs(2);

/// Where a link stands. A state holds only what is true in it. `attempt` counts dials since the link last stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Connecting {
        attempt: u32,
    },
    /// Connected; the first beat has not been answered yet.
    Proving {
        attempt: u32,
    },
    Up {
        attempt: u32,
        since: Instant,
    },
    /// A beat went unanswered.
    Suspect {
        attempt: u32,
        since: Instant,
    },
    Waiting {
        attempt: u32,
        retry_at: Instant,
    },
    /// The attempts are used up; only a reload or `everlink retry` dials again.
    Failed,
    Closed,
}

/// What happened to the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The dial succeeded. `proven`: nothing more needs to be shown before a client may have it.
    Opened {
        proven: bool,
    },
    DialFailed,
    /// A beat was answered.
    Answered,
    /// A beat went unanswered.
    Missed,
    /// The connection is gone or has been given up.
    Lost,
    /// The server ended the connection by a timer of its own, as it may: neither a failure nor a fresh start.
    Ended,
    /// The connection was replaced on purpose; the new one is up already.
    Renewed,
    /// The connection is a client's now.
    HandedOut,
    /// The time may have come for a redial.
    Tick,
    /// An operator, or an edit of what the dial depends on, cuts the wait short.
    Retry,
    /// A client waits for the link: it is dialled now, and if that fails waits on as if nobody had asked.
    Wanted,
    Stop,
}

/// What the driver has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Dial,
    /// Close the connection, if there is one.
    Close,
}

/// One link's state machine.
#[derive(Debug)]
pub struct Link {
    state: State,
    retry: Retry,
    random: fastrand::Rng,
}

impl Link {
    /// A link whose first dial the driver starts at once. `attempt` is 1, or more for a link that was restarted after a
    /// panic.
    pub fn new(retry: Retry, seed: u64) -> Self {
        Self { state: State::Connecting { attempt: 1 }, retry, random: fastrand::Rng::with_seed(seed) }
    }

    /// A link that first waits as if `failed` dials had failed: how one returns after its task panicked.
    pub fn after_failures(retry: Retry, seed: u64, failed: u32, now: Instant) -> Self {
        let mut link = Self::new(retry, seed);
        link.state = link.wait(now, failed);
        link
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Takes new retry settings. A wait that is running keeps its end: cutting it short is [`Input::Retry`]'s work.
    pub fn retune(&mut self, retry: Retry) {
        self.retry = retry;
    }

    /// When to come back with [`Input::Tick`].
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { retry_at, .. } => Some(retry_at),
            _ => None,
        }
    }

    /// Takes one event, returns what to do about it.
    pub fn handle(&mut self, now: Instant, input: Input) -> Option<Action> {
        use State::*;
        let (next, action) = match (self.state, input) {
            (Closed, _) => (Closed, None),
            (_, Input::Stop) => (Closed, Some(Action::Close)),

            (Connecting { attempt }, Input::Opened { proven: true }) => (Up { attempt, since: now }, None),
            (Connecting { attempt }, Input::Opened { proven: false }) => (Proving { attempt }, None),
            (Connecting { attempt }, Input::DialFailed) => (self.wait(now, attempt), None),

            (Proving { attempt }, Input::Answered) => (Up { attempt, since: now }, None),
            (Proving { attempt }, Input::Missed | Input::Lost | Input::DialFailed) => {
                (self.wait(now, attempt), Some(Action::Close))
            }
            (Proving { attempt }, Input::HandedOut) => (Connecting { attempt }, Some(Action::Dial)),

            (Up { attempt, since }, Input::Missed) => (Suspect { attempt, since }, None),
            (Suspect { attempt, since }, Input::Answered) => (Up { attempt, since }, None),
            (Up { attempt, since } | Suspect { attempt, since }, Input::Lost) => {
                // A link that stood for a while has earned a fresh start; a flapping one has not.
                let next = if self.stood(now, since) {
                    let wait = backoff::after_standing(&self.retry, &mut self.random);
                    Waiting { attempt: 1, retry_at: now + wait }
                } else {
                    self.wait(now, attempt)
                };
                (next, Some(Action::Close))
            }
            (Up { attempt, since } | Suspect { attempt, since }, Input::Ended) => {
                let attempt = if self.stood(now, since) { 1 } else { attempt };
                let wait = backoff::after_standing(&self.retry, &mut self.random);
                (Waiting { attempt, retry_at: now + wait }, Some(Action::Close))
            }
            (Up { .. } | Suspect { .. }, Input::Renewed) => (Up { attempt: 1, since: now }, None),
            (Up { attempt, since } | Suspect { attempt, since }, Input::HandedOut) => {
                let attempt = if self.stood(now, since) { 1 } else { attempt };
                (Connecting { attempt }, Some(Action::Dial))
            }

            (Waiting { attempt, retry_at }, Input::Tick) if now >= retry_at => {
                (Connecting { attempt }, Some(Action::Dial))
            }
            (Waiting { attempt, .. }, Input::Retry) => (Connecting { attempt }, Some(Action::Dial)),
            // One try less, so that the failure of this one counts for nothing.
            (Waiting { attempt, .. }, Input::Wanted) => {
                (Connecting { attempt: attempt.saturating_sub(1).max(1) }, Some(Action::Dial))
            }
            (Failed, Input::Retry) => (Connecting { attempt: 1 }, Some(Action::Dial)),

            (state, _) => (state, None), // late news
        };
        self.state = next;
        action
    }

    fn stood(&self, now: Instant, since: Instant) -> bool {
        now.saturating_duration_since(since) >= self.retry.stable_after
    }

    /// After the `attempt`th dial came to nothing.
    fn wait(&mut self, now: Instant, attempt: u32) -> State {
        if self.retry.attempts.is_some_and(|limit| attempt >= limit) {
            return State::Failed;
        }
        let wait = backoff::after_failures(&self.retry, attempt, &mut self.random);
        State::Waiting { attempt: attempt.saturating_add(1), retry_at: now + wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Jitter;

    fn tutorial() -> Retry {
        Retry {
            initial: Duration::from_secs(3),
            max: Duration::from_secs(30),
            multiplier: 1.0,
            jitter: Jitter::Off,
            attempts: Some(5),
            stable_after: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
        }
    }

    fn unlimited() -> Retry {
        Retry { attempts: None, multiplier: 2.0, ..tutorial() }
    }

    fn up(link: &mut Link, now: Instant) {
        link.handle(now, Input::Opened { proven: true });
        assert!(matches!(link.state(), State::Up { .. }));
    }

    #[test]
    fn five_tries_three_seconds_apart_then_failed_until_asked() {
        let start = Instant::now();
        let mut now = start;
        let mut link = Link::new(tutorial(), 0);
        for attempt in 1..5 {
            assert_eq!(link.handle(now, Input::DialFailed), None);
            let due = link.next_deadline().expect("waits");
            assert_eq!(due - now, Duration::from_secs(3), "after attempt {attempt}");
            assert_eq!(link.handle(due - Duration::from_millis(1), Input::Tick), None, "too early");
            assert_eq!(link.handle(due, Input::Tick), Some(Action::Dial));
            now = due;
        }
        link.handle(now, Input::DialFailed);
        assert_eq!(link.state(), State::Failed);
        assert_eq!(link.handle(now + Duration::from_secs(3600), Input::Tick), None, "time alone does not redial");
        assert_eq!(link.handle(now, Input::Retry), Some(Action::Dial));
        assert_eq!(link.state(), State::Connecting { attempt: 1 });
    }

    #[test]
    fn only_a_link_that_stood_earns_a_fresh_backoff() {
        let now = Instant::now();
        let mut link = Link::new(unlimited(), 0);
        let mut at = now;
        let mut waits = Vec::new();
        for _ in 0..4 {
            up(&mut link, at);
            assert_eq!(link.handle(at, Input::Lost), Some(Action::Close));
            let due = link.next_deadline().expect("waits");
            waits.push((due - at).as_secs());
            link.handle(due, Input::Tick);
            at = due;
        }
        assert_eq!(waits, [3, 6, 12, 24], "a flapping link waits longer and longer");

        up(&mut link, at);
        let later = at + Duration::from_secs(10);
        link.handle(later, Input::Lost);
        let due = link.next_deadline().expect("waits");
        assert!(due - later <= Duration::from_secs(1), "one that stood redials within a second");
        link.handle(due, Input::Tick);
        link.handle(due, Input::DialFailed);
        assert_eq!(link.next_deadline().expect("waits") - due, Duration::from_secs(3), "and starts over");
    }

    #[test]
    fn an_unproven_connection_is_no_success() {
        let now = Instant::now();
        let mut link = Link::new(unlimited(), 0);
        link.handle(now, Input::Opened { proven: false });
        assert_eq!(link.state(), State::Proving { attempt: 1 });
        assert_eq!(link.handle(now, Input::Lost), Some(Action::Close));
        assert!(matches!(link.state(), State::Waiting { attempt: 2, .. }));
    }

    #[test]
    fn a_missed_beat_makes_suspect_and_an_answer_clears_it() {
        let now = Instant::now();
        let mut link = Link::new(unlimited(), 0);
        up(&mut link, now);
        link.handle(now, Input::Missed);
        assert!(matches!(link.state(), State::Suspect { .. }));
        link.handle(now, Input::Answered);
        assert_eq!(link.state(), State::Up { attempt: 1, since: now });
    }

    #[test]
    fn a_servers_own_timer_neither_grows_the_backoff_nor_uses_attempts_up() {
        let mut now = Instant::now();
        let mut link = Link::new(tutorial(), 0);
        for _ in 0..20 {
            up(&mut link, now);
            assert_eq!(link.handle(now, Input::Ended), Some(Action::Close));
            let due = link.next_deadline().expect("waits");
            assert!(due - now <= Duration::from_secs(1));
            link.handle(due, Input::Tick);
            now = due;
        }
        assert_eq!(link.state(), State::Connecting { attempt: 1 });
        link.handle(now, Input::DialFailed);
        up_after_wait(&mut link);
        link.handle(now, Input::Ended);
        assert!(matches!(link.state(), State::Waiting { attempt: 2, .. }), "nor is it a fresh start");
    }

    fn up_after_wait(link: &mut Link) {
        let due = link.next_deadline().expect("waits");
        link.handle(due, Input::Tick);
        up(link, due);
    }

    #[test]
    fn handing_out_dials_the_next_connection_at_once_and_is_no_loss() {
        let now = Instant::now();
        let mut link = Link::new(unlimited(), 0);
        up(&mut link, now);
        assert_eq!(link.handle(now, Input::HandedOut), Some(Action::Dial));
        assert_eq!(link.state(), State::Connecting { attempt: 1 });
    }

    #[test]
    fn a_dial_that_was_wanted_and_fails_counts_for_nothing() {
        let now = Instant::now();
        let mut link = Link::new(tutorial(), 0);
        for attempt in 1..4 {
            link.handle(now, Input::DialFailed);
            link.handle(link.next_deadline().expect("waits"), Input::Tick);
            assert_eq!(link.state(), State::Connecting { attempt: attempt + 1 });
        }
        link.handle(now, Input::DialFailed);
        let waits = |link: &Link| matches!(link.state(), State::Waiting { attempt: 5, .. });
        assert!(waits(&link));
        for _ in 0..10 {
            assert_eq!(link.handle(now, Input::Wanted), Some(Action::Dial));
            assert_eq!(link.handle(now, Input::DialFailed), None);
            assert!(waits(&link), "{:?}", link.state());
        }
        link.handle(link.next_deadline().expect("waits"), Input::Tick);
        link.handle(now, Input::DialFailed);
        assert_eq!(link.state(), State::Failed, "the fifth of its own");
        assert_eq!(link.handle(now, Input::Wanted), None, "five are five");
    }

    #[test]
    fn a_retry_cuts_a_wait_short() {
        let now = Instant::now();
        let mut link = Link::new(unlimited(), 0);
        link.handle(now, Input::DialFailed);
        assert_eq!(link.handle(now, Input::Retry), Some(Action::Dial));
        assert_eq!(link.state(), State::Connecting { attempt: 2 });
    }

    #[test]
    fn stop_closes_from_every_state_and_nothing_wakes_it_again() {
        let now = Instant::now();
        let inputs =
            [Input::Opened { proven: true }, Input::DialFailed, Input::Missed, Input::Lost, Input::Tick, Input::Retry];
        for first in inputs {
            let mut link = Link::new(tutorial(), 0);
            link.handle(now, first);
            link.handle(now, Input::Stop);
            assert_eq!(link.state(), State::Closed, "after {first:?}");
            for input in inputs {
                assert_eq!(link.handle(now, input), None);
            }
        }
    }

    /// Random events never bring the machine to dial without a wait after a failure, nor to act in `Closed`.
    #[test]
    fn random_events_never_make_a_tight_loop() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut link = Link::new(unlimited(), seed);
            let mut now = Instant::now();
            let mut failed_at = None;
            for _ in 0..200 {
                let input = match random.u8(..9) {
                    0 => Input::Opened { proven: random.bool() },
                    1 | 2 => Input::DialFailed,
                    3 => Input::Answered,
                    4 => Input::Missed,
                    5 => Input::Lost,
                    _ => Input::Tick,
                };
                let before = link.state();
                let action = link.handle(now, input);
                if matches!(before, State::Connecting { .. }) && input == Input::DialFailed {
                    failed_at = Some(now);
                }
                if action == Some(Action::Dial)
                    && input == Input::Tick
                    && let Some(failed) = failed_at.take()
                {
                    assert!(now - failed >= Duration::from_secs(3), "seed {seed}");
                }
                now += Duration::from_millis(random.u64(..1500));
            }
        }
    }
}
