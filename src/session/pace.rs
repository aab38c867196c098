//! How often something may happen. Pure.

use std::time::{Duration, Instant};

/// A token bucket: so many at once, and so many a second in the long run.
#[derive(Debug)]
pub struct Bucket {
    most: f64,
    a_second: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub fn new(most: f64, a_second: f64, now: Instant) -> Self {
        Self { most, a_second, tokens: most, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        self.tokens = (self.tokens + elapsed.as_secs_f64() * self.a_second).min(self.most);
        self.at = self.at.max(now);
    }

    /// One more happened. False: it should not have, yet; it is counted all the same.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.tokens < self.most / 2.0 {
            self.refill(now);
        }
        self.tokens -= 1.0;
        self.tokens >= 0.0
    }

    /// `None`: one more may happen now. Else from when on.
    pub fn ready_at(&mut self, now: Instant) -> Option<Instant> {
        if self.tokens >= 1.0 {
            return None;
        }
        self.refill(now);
        let missing = 1.0 - self.tokens;
        (missing > 0.0).then(|| now + Duration::from_secs_f64(missing / self.a_second) + Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_long_run_keeps_its_pace() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100.0, 50.0, start);
        let mut now = start;
        let mut passed = 0;
        while now < start + Duration::from_secs(10) {
            match bucket.ready_at(now) {
                None => {
                    bucket.take(now);
                    passed += 1;
                }
                Some(at) => now = at,
            }
        }
        assert!((590..=601).contains(&passed), "{passed}");
    }

    #[test]
    fn what_comes_too_early_is_told_and_counted() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2.0, 1.0, start);
        assert_eq!([bucket.take(start), bucket.take(start), bucket.take(start)], [true, true, false]);
        assert!(bucket.ready_at(start).is_some_and(|at| at > start + Duration::from_millis(1900)));
    }
}
