//! What loops that accept have in common: how many they take at a time, whose fault an error is, and the wait after one.

#![forbid(unsafe_code)]

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Connections accepted in one go before other tasks run.
pub const BATCH: usize = 64;
/// The first wait, and the longest.
const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// Whether it was the peer's doing: it gave up while it was queued. Every other error is one of this host or process, such
/// as having no descriptor left, and the connection stays queued.
pub fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NotConnected
    )
}

/// The wait after an accept that failed for want of something: 10 ms, doubled with each in a row up to a second.
#[derive(Debug)]
pub struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Pause {
    /// An accept went well.
    pub fn end(&mut self) {
        self.0 = FIRST;
    }

    /// How long the next one takes.
    pub fn time(&self) -> Duration {
        self.0
    }

    /// Waits, or until stopped.
    pub async fn pass(&mut self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(self.0) => {}
        }
        self.0 = (self.0 * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_a_second_and_end_with_the_first_success() {
        let (stop, mut pause) = (CancellationToken::new(), Pause::default());
        let begun = tokio::time::Instant::now();
        for _ in 0..8 {
            pause.pass(&stop).await;
        }
        assert_eq!(begun.elapsed(), Duration::from_millis(10 * 127 + 1000));
        assert_eq!(pause.time(), LONGEST);
        pause.end();
        assert_eq!(pause.time(), FIRST);
        stop.cancel();
        let stopped = tokio::time::Instant::now();
        pause.pass(&stop).await;
        assert_eq!(stopped.elapsed(), Duration::ZERO);
    }
}
