//! How fast the peer acknowledges.

use std::time::{Duration, Instant};

/// No measure is taken over less than this.
const LEAST: Duration = Duration::from_millis(5);

/// Bytes acknowledged a second, and from when it is measured.
#[derive(Debug, Default)]
pub(super) struct Rate {
    since: Option<Instant>,
    from: u64,
    bytes: f64,
}

impl Rate {
    pub fn bytes_a_second(&self) -> f64 {
        self.bytes
    }

    /// Over a new connection: what was acknowledged over the last one says nothing of the time between.
    pub fn begin_anew(&mut self) {
        self.since = None;
    }

    /// The peer has acknowledged everything before `acked`. Measured once a round trip.
    pub fn measure(&mut self, acked: u64, rtt: Option<Duration>, now: Instant) {
        let Some(since) = self.since else {
            (self.since, self.from) = (Some(now), acked);
            return;
        };
        let elapsed = now.saturating_duration_since(since);
        if elapsed < rtt.unwrap_or_default().max(LEAST) {
            return;
        }
        let bytes = (acked - self.from) as f64 / elapsed.as_secs_f64();
        // Up at once, down slowly: a pause of the sender is no narrower path.
        self.bytes = bytes.max(self.bytes * 0.9);
        (self.since, self.from) = (Some(now), acked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_at_once_and_falls_slowly() {
        let (start, mut rate) = (Instant::now(), Rate::default());
        let rtt = Some(Duration::from_millis(50));
        let at = |ms: u64| start + Duration::from_millis(ms);
        rate.measure(1000, rtt, at(0));
        rate.measure(2000, rtt, at(49));
        assert_eq!(rate.bytes_a_second(), 0.0, "not a round trip");
        rate.measure(11_000, rtt, at(100));
        assert_eq!(rate.bytes_a_second(), 100_000.0);
        rate.measure(11_000, rtt, at(1100));
        assert_eq!(rate.bytes_a_second(), 90_000.0);
        rate.begin_anew();
        rate.measure(11_000, rtt, at(9000));
        assert_eq!(rate.bytes_a_second(), 90_000.0, "the outage is no measure");
    }
}
