//! What the service manager is told, and when: a start, reloads, a drain, how the links fare, and that the data loops live.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::notify::Notifier;
use super::status_line;
use crate::config;
use crate::http::health;
use crate::net::kernel;
use crate::status::Status;

/// How often it is looked whether something new is to be told.
const LOOK: Duration = Duration::from_secs(1);
/// Between two lines that tell how the links fare.
const TOLD_APART: Duration = Duration::from_secs(5);
/// `DefaultTimeoutStopSec=`: how long a stop may take, unless the unit says otherwise (systemd-system.conf(5)).
const STOPPED_WITHIN: Duration = Duration::from_secs(90);
/// What a stop takes beyond its drain, with room to spare.
const LEAVING: Duration = Duration::from_secs(10);
/// A long drain asks for so much more time, again and again: one that hangs is not waited for to its end.
const EXTENSION: Duration = Duration::from_secs(30);
const EXTENDED_EVERY: Duration = Duration::from_secs(10);

/// The service manager, as this process tells it. Times come from outside; nothing waits.
#[derive(Default)]
pub struct Manager {
    notifier: Notifier,
    watchdog: Option<Watchdog>,
    /// The line told last, and when.
    told: Option<(String, Instant)>,
    /// When to look again; `None`: nobody listens, or the start is not over.
    due: Option<Instant>,
    drain: Option<Extended>,
}

/// A drain, and when to ask for more time.
struct Extended {
    /// `None`: it is over before the manager could lose its patience.
    next: Option<Instant>,
}

/// Tells that the data loops live, as `/livez` does.
struct Watchdog {
    every: Duration,
    next: Instant,
    /// The count of [`Status::ticks`] seen last, and when it was new.
    ticks: (u64, Instant),
}

impl Manager {
    /// The manager that the environment names, or nobody. What is wrong with the names is told in the log.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>, now: Instant) -> Self {
        let notifier = Notifier::from_environment(&variable).unwrap_or_else(|error| {
            tracing::warn!(%error, "NOTIFY_SOCKET cannot be used: the service manager hears nothing");
            Notifier::default()
        });
        let watchdog = Watchdog::from_environment(&variable, std::process::id(), now);
        Self { watchdog: watchdog.filter(|_| notifier.is_heard()), notifier, ..Self::default() }
    }

    /// `/startupz` says 200 from now on.
    pub fn ready(&mut self, status: &Status, now: Instant) {
        if !self.notifier.is_heard() {
            return;
        }
        self.due = Some(now);
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.next = now;
        }
        self.tell("READY=1", status_line::how_it_fares(status), now);
    }

    /// A reload that was asked for begins.
    pub fn reloading(&mut self) {
        // By the clock of the manager, which so tells this reload from an earlier one.
        let time = kernel::monotonic().as_micros();
        self.notifier.tell(format!("RELOADING=1\nMONOTONIC_USEC={time}"));
    }

    /// It is over, whatever came of it.
    pub fn reloaded(&mut self, status: &Status, now: Instant) {
        if self.notifier.is_heard() {
            self.tell("READY=1", status_line::how_it_fares(status), now);
        }
    }

    /// A drain begins.
    pub fn stopping(&mut self, drain: &config::Drain, clients: usize, now: Instant) {
        if !self.notifier.is_heard() {
            return;
        }
        let long = drain.timeout + LEAVING > STOPPED_WITHIN;
        self.drain = Some(Extended { next: long.then_some(now) });
        self.due = Some(now);
        self.tell("STOPPING=1", status_line::what_it_waits_for(clients), now);
    }

    /// When to [`look`](Self::look).
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Tells what is new. `clients`: how many are open.
    pub fn look(&mut self, status: &Status, clients: impl FnOnce() -> usize, now: Instant) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.notifier.tell_waiting();
        let line = match &mut self.drain {
            None => status_line::how_it_fares(status),
            Some(drain) => {
                if let Some(next) = drain.next.filter(|next| now >= *next)
                    && self.notifier.mention(&format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()))
                {
                    drain.next = Some(next.max(now) + EXTENDED_EVERY);
                }
                status_line::what_it_waits_for(clients())
            }
        };
        let is_news = self.told.as_ref().is_none_or(|(told, at)| *told != line && now >= *at + TOLD_APART);
        if is_news && self.notifier.mention(&format!("STATUS={line}")) {
            self.told = Some((line, now));
        }
        if let Some(watchdog) = &mut self.watchdog
            && watchdog.is_due(status, now)
            && self.notifier.mention("WATCHDOG=1")
        {
            watchdog.next = now + watchdog.every;
        }
        let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.next).filter(|next| *next > now);
        self.due = [Some(now + LOOK), watchdog].into_iter().flatten().min();
    }

    fn tell(&mut self, state: &str, line: String, now: Instant) {
        self.notifier.tell(format!("{state}\nSTATUS={line}"));
        self.told = Some((line, now));
    }
}

impl Watchdog {
    /// `None`: none is wanted, or not of this process.
    fn from_environment(variable: impl Fn(&str) -> Option<OsString>, us: u32, now: Instant) -> Option<Self> {
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        let micros = number("WATCHDOG_USEC").filter(|micros| *micros > 0)?;
        if variable("WATCHDOG_PID").is_some() && number("WATCHDOG_PID") != Some(us.into()) {
            return None;
        }
        // Half the time, as sd_watchdog_enabled(3) has it.
        Some(Self { every: Duration::from_micros(micros / 2), next: now, ticks: (0, now) })
    }

    /// Whether to tell it now: it is time, every data loop lives, and so does the thread that keeps their clock and
    /// answers `/livez`. That we come here at all shows that this one does.
    fn is_due(&mut self, status: &Status, now: Instant) -> bool {
        let ticks = status.ticks.load(std::sync::atomic::Ordering::Relaxed);
        if ticks != self.ticks.0 {
            self.ticks = (ticks, now);
        }
        let silence = now.saturating_duration_since(self.ticks.1);
        now >= self.next && silence.as_secs() <= health::LOOP_SILENCE_LIMIT && health::live(status).is_ok()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
