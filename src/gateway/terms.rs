//! What holds in one session: our settings, and what its dialer has said of its own. Pure.

use std::sync::Arc;

use crate::config::{self, Beats, Resume};
use crate::session::hello::{self, Hello};
use crate::tunnel::driver::{Budget, Settings};

/// The least a dialer may keep for replay, as its own configuration has it: one frame. With nothing at all there would be
/// an acknowledgement to send at all times.
const LEAST_BUFFER: u64 = 256 << 10;
/// What the windows of one session may grow by together, our side, beyond what each stream has a claim on: with the usual
/// 1,024 streams as much as an upstream's `limits.windows`.
const WINDOWS: u64 = 48 << 20;
/// What each stream has a claim on.
const WINDOW: u64 = 16 << 10;

/// See the module.
#[derive(Debug)]
pub struct Terms {
    /// The dialer's heartbeat, in range.
    beats: Beats,
    resume: Resume,
    our_beats: Option<Beats>,
    our_resume: Resume,
    streams: usize,
    /// What the dialer was last told to keep at most.
    told: u64,
}

impl Terms {
    pub fn new(hello: &Hello, settings: &config::Gateway) -> Self {
        let mut terms = Self {
            beats: hello::sane(hello.beats),
            resume: hello.resume,
            our_beats: settings.heartbeat,
            our_resume: settings.resume,
            streams: settings.limits.streams,
            told: 0,
        };
        terms.resumed(hello, settings);
        terms
    }

    /// Another hello, to be answered with what then holds.
    pub fn resumed(&mut self, hello: &Hello, settings: &config::Gateway) {
        self.beats = hello::sane(hello.beats);
        self.resume = Resume { buffer: hello.resume.buffer.max(LEAST_BUFFER), ..hello.resume };
        self.configured(settings);
        self.told = self.resume().buffer;
    }

    /// Our settings have changed.
    pub fn configured(&mut self, settings: &config::Gateway) {
        self.our_beats = settings.heartbeat;
        self.our_resume = settings.resume;
        self.streams = settings.limits.streams;
    }

    /// The dialer's have.
    pub fn tuned(&mut self, beats: Beats) {
        self.beats = hello::sane(beats);
    }

    /// Ours, or without `[gateway.heartbeat]` the dialer's.
    pub fn beats(&self) -> Beats {
        self.our_beats.unwrap_or(self.beats)
    }

    pub fn has_own_beats(&self) -> bool {
        self.our_beats.is_some()
    }

    /// The smaller of both ends.
    pub fn resume(&self) -> Resume {
        hello::smaller(self.our_resume, self.resume)
    }

    /// All of it, for the driver.
    pub fn driver(&self, budget: &Arc<Budget>) -> Settings {
        let buffer = self.resume().buffer;
        Settings {
            beats: self.beats(),
            idle_timeout: None,
            // Less than the dialer was told holds from its next hello: it acknowledges by what it knows.
            buffer: buffer.max(self.told),
            peer_buffer: buffer.min(self.told),
            windows: WINDOWS.saturating_add(WINDOW.saturating_mul(self.streams as u64)),
            streams: self.streams,
            budget: Some(budget.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::example;
    use crate::session::hello::SessionId;

    fn hello(buffer: u64, deadline: u64, interval: u64) -> Hello {
        Hello {
            versions: hello::VERSIONS,
            session: SessionId::NEW,
            epoch: 1,
            received: 0,
            nonce: [0; 32],
            beats: Beats { interval: Duration::from_millis(interval), timeout: Duration::from_secs(3), misses: 3 },
            resume: Resume { deadline: Duration::from_secs(deadline), buffer },
        }
    }

    fn driver(terms: &Terms) -> Settings {
        terms.driver(&Arc::new(Budget::new(0)))
    }

    #[test]
    fn the_smaller_of_both_ends_holds_and_no_number_of_a_peer_is_taken_as_it_comes() {
        let settings = example::gateway();
        let terms = Terms::new(&hello(1 << 40, 10, 1), &settings);
        assert_eq!(terms.resume(), Resume { deadline: Duration::from_secs(10), buffer: 16 << 20 });
        assert_eq!(terms.beats().interval, Duration::from_millis(200), "brought into range");
        let terms = Terms::new(&hello(0, 3600, 5000), &settings);
        assert_eq!(terms.resume(), Resume { deadline: Duration::from_secs(60), buffer: LEAST_BUFFER });
        assert_eq!(driver(&terms).peer_buffer, LEAST_BUFFER);
    }

    #[test]
    fn our_own_heartbeat_wins_and_without_one_the_dialers_is_followed() {
        let mut settings = example::gateway();
        let mut terms = Terms::new(&hello(1 << 20, 60, 5000), &settings);
        let tuned = Beats { interval: Duration::from_secs(2), timeout: Duration::from_secs(1), misses: 2 };
        terms.tuned(tuned);
        assert_eq!((terms.beats(), terms.has_own_beats()), (tuned, false));
        let ours = Beats { interval: Duration::from_secs(9), ..tuned };
        settings.heartbeat = Some(ours);
        terms.configured(&settings);
        assert_eq!((driver(&terms).beats, terms.has_own_beats()), (ours, true));
        settings.heartbeat = None;
        terms.configured(&settings);
        assert_eq!(terms.beats(), tuned);
    }

    #[test]
    fn a_dialer_hears_from_us_by_what_it_was_told_until_it_is_told_anew() {
        let mut settings = example::gateway();
        settings.resume.buffer = 1 << 20;
        let mut terms = Terms::new(&hello(8 << 20, 60, 5000), &settings);
        settings.resume.buffer = 16 << 20;
        terms.configured(&settings);
        assert_eq!((driver(&terms).buffer, driver(&terms).peer_buffer), (8 << 20, 1 << 20));
        terms.resumed(&hello(8 << 20, 60, 5000), &settings);
        assert_eq!(driver(&terms).peer_buffer, 8 << 20);
    }

    #[test]
    fn the_windows_hold_what_each_stream_has_a_claim_on() {
        let mut settings = example::gateway();
        settings.limits.streams = 10_000;
        assert_eq!(driver(&Terms::new(&hello(1 << 20, 60, 5000), &settings)).windows, WINDOWS + 10_000 * WINDOW);
    }
}
