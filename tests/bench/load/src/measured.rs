//! Clocks and percentiles.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine started.
pub fn now() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Processor seconds of this process so far: is the load itself the limit?
pub fn own_cpu() -> f64 {
    nanoseconds(ClockId::ProcessCPUTime) as f64 / 1e9
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

pub fn since(start: u64) -> f64 {
    (now() - start) as f64 / 1e9
}

pub fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Latencies in units of 10 ns, 42 s at most.
#[derive(Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    pub fn add(&mut self, ns: u64) {
        self.0.push((ns / 10).min(u64::from(u32::MAX)) as u32);
    }

    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The inside of a JSON object.
    pub fn json(&mut self) -> String {
        self.0.sort_unstable();
        let sorted = &self.0;
        if sorted.is_empty() {
            return "\"n\":0".to_owned();
        }
        let at = |share: f64| {
            let place = (sorted.len() as f64 * share).ceil() as usize;
            f64::from(sorted[place.clamp(1, sorted.len()) - 1]) / 100.0
        };
        format!(
            "\"n\":{},\"p50_us\":{:.2},\"p90_us\":{:.2},\"p99_us\":{:.2},\"p999_us\":{:.2},\"max_us\":{:.2}",
            sorted.len(),
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(1.0)
        )
    }
}
