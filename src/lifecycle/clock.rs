//! When a sidecar in drain may leave. Counts and `now` come in, a verdict goes out.

use std::time::Instant;

use crate::config;

/// The local clients of all listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clients {
    /// Carried or waiting now.
    pub open: usize,
    /// Ever accepted: it shows a client that came and went between two looks.
    pub came: u64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing before this, unless a client comes or goes.
    Wait(Instant),
    /// No client is open, and none is expected any more.
    Leave,
    /// `timeout` has passed with clients open: they are cut.
    Overdue,
}

/// Decides how long a drain lasts: until no client has been open for `quiet`, not before `minimum`, at the latest at
/// `timeout`, which wins over both.
///
/// `quiet` counts from the beginning of the drain at the earliest, however long nobody was there before: the application
/// beside us is told to end at the same moment, and may yet connect to say so. `quiet = "off"` switches the early leave
/// off: the drain then lasts until `timeout` even with nobody there, for an application whose connections come far
/// apart until its end.
#[derive(Debug, Clone)]
pub struct DrainClock {
    settings: config::Drain,
    began: Instant,
    /// Since when no client has been open; `None` while one is.
    quiet_since: Option<Instant>,
    came: u64,
}

impl DrainClock {
    /// A drain that begins `now`, with these clients.
    pub fn new(settings: &config::Drain, now: Instant, clients: Clients) -> Self {
        let quiet_since = (clients.open == 0).then_some(now);
        Self { settings: settings.clone(), began: now, quiet_since, came: clients.came }
    }

    /// To be asked at each coming and going of a client, or every now and then, and when a wait is over.
    pub fn verdict(&mut self, now: Instant, clients: Clients) -> Verdict {
        let came = std::mem::replace(&mut self.came, clients.came) != clients.came;
        self.quiet_since = match self.quiet_since {
            _ if clients.open > 0 => None,
            Some(since) if !came => Some(since),
            _ => Some(now),
        };
        let deadline = self.deadline();
        if now >= deadline {
            return if clients.open == 0 { Verdict::Leave } else { Verdict::Overdue };
        }
        let (Some(since), Some(quiet)) = (self.quiet_since, self.settings.quiet) else {
            return Verdict::Wait(deadline);
        };
        let leave_at = (since + quiet).max(self.began + self.settings.minimum);
        if now >= leave_at { Verdict::Leave } else { Verdict::Wait(leave_at.min(deadline)) }
    }

    /// The latest end of the drain.
    pub fn deadline(&self) -> Instant {
        self.began + self.settings.timeout
    }

    /// A live edit; all of it counts from where it began.
    pub fn retime(&mut self, settings: &config::Drain) {
        self.settings = settings.clone();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOBODY: Clients = Clients { open: 0, came: 7 };
    const SOMEBODY: Clients = Clients { open: 1, came: 7 };

    struct Bench {
        clock: DrainClock,
        start: Instant,
    }

    impl Bench {
        /// Seconds; `quiet` of `None` is off.
        fn new(timeout: u64, quiet: Option<u64>, minimum: u64, clients: Clients) -> Self {
            let start = Instant::now();
            Self { clock: DrainClock::new(&settings(timeout, quiet, minimum), start, clients), start }
        }

        fn at(&mut self, millis: u64, clients: Clients) -> Verdict {
            self.clock.verdict(self.start + Duration::from_millis(millis), clients)
        }

        fn until(&self, seconds: u64) -> Verdict {
            Verdict::Wait(self.start + Duration::from_secs(seconds))
        }
    }

    fn settings(timeout: u64, quiet: Option<u64>, minimum: u64) -> config::Drain {
        config::Drain {
            timeout: Duration::from_secs(timeout),
            quiet: quiet.map(Duration::from_secs),
            minimum: Duration::from_secs(minimum),
        }
    }

    #[test]
    fn it_leaves_after_the_quiet_that_follows_the_last_client() {
        let mut bench = Bench::new(8, Some(2), 0, SOMEBODY);
        assert_eq!(bench.at(0, SOMEBODY), bench.until(8));
        assert_eq!(bench.at(3000, NOBODY), bench.until(5));
        assert_eq!(bench.at(4999, NOBODY), bench.until(5));
        assert_eq!(bench.at(5000, NOBODY), Verdict::Leave);
    }

    #[test]
    fn quiet_counts_from_the_beginning_of_the_drain_at_the_earliest() {
        let mut bench = Bench::new(8, Some(2), 0, NOBODY);
        assert_eq!(bench.at(0, NOBODY), bench.until(2));
        assert_eq!(bench.at(2000, NOBODY), Verdict::Leave);
    }

    #[test]
    fn a_client_that_comes_begins_the_quiet_anew_even_if_it_has_gone_unseen() {
        let mut bench = Bench::new(8, Some(2), 0, NOBODY);
        assert_eq!(bench.at(1000, SOMEBODY), bench.until(8));
        assert_eq!(bench.at(2000, NOBODY), bench.until(4));
        assert_eq!(bench.at(3000, Clients { open: 0, came: 8 }), bench.until(5));
        assert_eq!(bench.at(5000, Clients { open: 0, came: 8 }), Verdict::Leave);
    }

    #[test]
    fn it_does_not_leave_before_the_minimum() {
        let mut bench = Bench::new(8, Some(2), 5, NOBODY);
        assert_eq!(bench.at(2000, NOBODY), bench.until(5));
        assert_eq!(bench.at(5000, NOBODY), Verdict::Leave);
    }

    #[test]
    fn the_timeout_wins_over_everything() {
        let mut open = Bench::new(8, Some(2), 0, SOMEBODY);
        assert_eq!(open.at(7999, SOMEBODY), open.until(8));
        assert_eq!(open.at(8000, SOMEBODY), Verdict::Overdue);
        let mut quiet = Bench::new(8, Some(60), 30, NOBODY);
        assert_eq!(quiet.at(7999, NOBODY), quiet.until(8));
        assert_eq!(quiet.at(8000, NOBODY), Verdict::Leave);
    }

    #[test]
    fn without_quiet_it_stays_until_the_timeout() {
        let mut bench = Bench::new(8, None, 0, NOBODY);
        assert_eq!(bench.at(0, NOBODY), bench.until(8));
        assert_eq!(bench.at(7999, NOBODY), bench.until(8));
        assert_eq!(bench.at(8000, NOBODY), Verdict::Leave);
    }

    #[test]
    fn an_edit_holds_at_once() {
        let mut bench = Bench::new(8, None, 0, SOMEBODY);
        assert_eq!(bench.at(1000, NOBODY), bench.until(8));
        bench.clock.retime(&settings(8, Some(3), 0));
        assert_eq!(bench.at(2000, NOBODY), bench.until(4));
        bench.clock.retime(&settings(1, Some(3), 0));
        assert_eq!(bench.at(2000, SOMEBODY), Verdict::Overdue);
    }
}
