//! When the program ends: the signals that ask for it, and the decision when a sidecar in drain may leave.

#![forbid(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal as Source, SignalKind, signal};

use crate::config::Drain;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The first SIGTERM or SIGINT.
    Drain,
    /// Any further one.
    Exit,
    /// SIGHUP.
    Reload,
}

/// The signals of this process, all handled by itself: as PID 1 it has no default actions to rely on.
pub struct Signals {
    terminate: Source,
    interrupt: Source,
    hangup: Source,
    /// Nothing is done about these, but their default action would be the end.
    ignored: [Source; 2],
    asked: bool,
}

impl Signals {
    /// Must be called inside a runtime. Errors: the kernel refuses a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            ignored: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
            asked: false,
        })
    }

    /// The next one that asks for something. Dropping the future loses none.
    pub async fn next(&mut self) -> Signal {
        let [first, second] = &mut self.ignored;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hangup.recv() => return Signal::Reload,
                _ = first.recv() => continue,
                _ = second.recv() => continue,
            }
            return if std::mem::replace(&mut self.asked, true) { Signal::Exit } else { Signal::Drain };
        }
    }
}

/// Requests that must not be carried out more often than once in a while: the first at once, all that come too early
/// together when their time has come. Pure.
#[derive(Debug)]
pub struct Spaced {
    spacing: Duration,
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Spaced {
    pub fn new(spacing: Duration) -> Self {
        Self { spacing, last: None, due: None }
    }

    /// It is asked for once more.
    pub fn ask(&mut self, now: Instant) {
        let due = self.last.map_or(now, |last| now.max(last + self.spacing));
        self.due.get_or_insert(due);
    }

    /// When to call [`take`](Self::take).
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether to do it now; if so, all that asked are served.
    pub fn take(&mut self, now: Instant) -> bool {
        let due = self.due.take_if(|due| *due <= now).is_some();
        if due {
            self.last = Some(now);
        }
        due
    }
}

/// Whether a drain is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not before this, unless a client leaves.
    Wait(Instant),
    /// Nobody needs us any more.
    Leave,
    /// `drain.timeout` has passed, whoever is left.
    Overdue,
}

/// The clients of the process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clients {
    pub open: usize,
    /// Accepted since the start: tells of those who came and went between two looks.
    pub came: u64,
}

/// Decides when a sidecar in drain may leave. Pure.
///
/// The application beside it is finishing too and may still open connections, so an empty moment is not enough: no client
/// may have been open for `quiet`. With `quiet` off it stays until `timeout`.
#[derive(Debug)]
pub struct DrainClock {
    settings: Drain,
    began: Instant,
    quiet_since: Option<Instant>,
    came: u64,
}

impl DrainClock {
    pub fn new(settings: &Drain, now: Instant) -> Self {
        Self { settings: settings.clone(), began: now, quiet_since: None, came: 0 }
    }

    /// Judges the moment.
    pub fn verdict(&mut self, now: Instant, clients: Clients) -> Verdict {
        let overdue = self.began + self.settings.timeout;
        if now >= overdue {
            return if clients.open == 0 { Verdict::Leave } else { Verdict::Overdue };
        }
        if std::mem::replace(&mut self.came, clients.came) != clients.came {
            self.quiet_since = None;
        }
        if clients.open > 0 {
            self.quiet_since = None;
            return Verdict::Wait(overdue);
        }
        let since = *self.quiet_since.get_or_insert(now);
        let Some(quiet) = self.settings.quiet else { return Verdict::Wait(overdue) };
        let leave = (since + quiet).max(self.began + self.settings.minimum).min(overdue);
        if now >= leave { Verdict::Leave } else { Verdict::Wait(leave) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clock(quiet: Option<Duration>, minimum: Duration) -> (DrainClock, Instant) {
        let now = Instant::now();
        (DrainClock::new(&Drain { timeout: 8 * SECOND, quiet, minimum }, now), now)
    }

    fn open(open: usize) -> Clients {
        Clients { open, came: 1 }
    }

    #[test]
    fn a_client_who_came_and_went_unseen_starts_the_quiet_anew() {
        let (mut clock, t) = clock(Some(2 * SECOND), Duration::ZERO);
        clock.verdict(t, open(0));
        let unseen = Clients { open: 0, came: 2 };
        assert_eq!(clock.verdict(t + SECOND, unseen), Verdict::Wait(t + 3 * SECOND));
    }

    #[test]
    fn a_storm_of_requests_is_served_at_once_and_then_once_a_spacing() {
        let start = Instant::now();
        let (mut spaced, mut served) = (Spaced::new(SECOND), Vec::new());
        for ms in 0..5000 {
            let now = start + SECOND / 1000 * ms;
            if ms < 2500 && ms % 10 == 0 {
                spaced.ask(now);
            }
            if spaced.take(now) {
                served.push(ms);
            }
        }
        assert_eq!(served, [0, 1000, 2000, 3000]);
        spaced.ask(start + SECOND * 9);
        assert!(spaced.take(start + SECOND * 9), "an old request holds nothing up");
        assert_eq!(spaced.due(), None);
    }

    #[test]
    fn it_leaves_when_nobody_has_been_open_for_the_quiet_time() {
        let (mut clock, t) = clock(Some(2 * SECOND), Duration::ZERO);
        assert_eq!(clock.verdict(t, open(1)), Verdict::Wait(t + 8 * SECOND));
        assert_eq!(clock.verdict(t + SECOND, open(0)), Verdict::Wait(t + 3 * SECOND));
        assert_eq!(clock.verdict(t + 2 * SECOND, open(1)), Verdict::Wait(t + 8 * SECOND), "a client came back");
        assert_eq!(clock.verdict(t + 3 * SECOND, open(0)), Verdict::Wait(t + 5 * SECOND), "the quiet starts anew");
        assert_eq!(clock.verdict(t + 5 * SECOND, open(0)), Verdict::Leave);
    }

    #[test]
    fn it_does_not_leave_before_the_minimum_nor_after_the_timeout() {
        let (mut clock, t) = clock(Some(SECOND), 5 * SECOND);
        clock.verdict(t, open(0));
        assert_eq!(clock.verdict(t + 2 * SECOND, open(0)), Verdict::Wait(t + 5 * SECOND));
        assert_eq!(clock.verdict(t + 5 * SECOND, open(0)), Verdict::Leave);
        assert_eq!(clock.verdict(t + 8 * SECOND, open(3)), Verdict::Overdue);
    }

    #[test]
    fn without_a_quiet_time_it_stays_until_the_timeout() {
        let (mut clock, t) = clock(None, Duration::ZERO);
        assert_eq!(clock.verdict(t, open(0)), Verdict::Wait(t + 8 * SECOND));
        assert_eq!(clock.verdict(t + 8 * SECOND, open(0)), Verdict::Leave);
    }
}
