//! How the process ends: drain, leave, cut.
//!
//! `drain` says that the end has begun: readiness turns false, reloads are ignored, nothing new is made but what local
//! clients ask for. [`DrainClock`] decides when to leave. `kill` then ends every task, and those that do not end in time
//! are left behind and counted.

mod clock;
mod signals;

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;

pub use self::clock::{Clients, DrainClock, Verdict};
pub use self::signals::{Signal, Signals};

/// How long tasks have to end once they are cut. With the default `drain.timeout` of 8 s it stays within the 10 s that
/// `docker stop` gives (Kubernetes gives 30 s).
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// How often a drain looks at its clients. They are counted on other threads, which must not pay for a drain.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often a drain says what remains.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// What became of the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    Clean,
    /// So many had not ended within a second of being cut.
    Forced {
        left: usize,
    },
}

/// The two words that end the process, and the tasks that wait for them. Clones share both, across runtimes.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    drain: CancellationToken,
    kill: CancellationToken,
    tasks: TaskTracker,
}

impl Lifecycle {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the drain begins.
    pub fn drain_token(&self) -> &CancellationToken {
        &self.drain
    }

    /// Cancelled when everything has to end. A task of one upstream takes a child of it, so that a reload can end that
    /// upstream alone.
    pub fn kill_token(&self) -> &CancellationToken {
        &self.kill
    }

    /// True from the beginning of the drain on.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// What [`stop`](Self::stop) waits for. It is silent on panics, so whoever spawns keeps the handle and notices the
    /// end.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Spawns a task of the current runtime that [`stop`](Self::stop) waits for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Begins the drain and waits until it is time to leave, saying every 2 s what remains. `clients` counts those of
    /// all listeners. Returns the last count: `open` is above zero when the timeout came first.
    ///
    /// Dropping the future (a second signal) leaves the drain begun.
    pub async fn drain(&self, settings: &config::Drain, mut clients: impl FnMut() -> Clients) -> Clients {
        self.drain.cancel();
        let now = || tokio::time::Instant::now().into_std();
        let began = now();
        let mut clock = DrainClock::new(settings, began, clients());
        let mut say_at = began;
        loop {
            let (now, count) = (now(), clients());
            let until = match clock.verdict(now, count) {
                Verdict::Wait(until) => until,
                Verdict::Leave => {
                    tracing::info!(after = ?rounded(now - began), "drained: no client is open");
                    return count;
                }
                Verdict::Overdue => {
                    tracing::warn!(
                        after = ?rounded(now - began),
                        clients = count.open,
                        "drain.timeout has passed: the clients still open are cut",
                    );
                    return count;
                }
            };
            if now >= say_at {
                say_at = now + SAY_EVERY;
                let latest_in = rounded(clock.deadline().saturating_duration_since(now));
                tracing::info!(clients = count.open, ?latest_in, "draining");
            }
            tokio::time::sleep_until(until.min(now + LOOK_EVERY).into()).await;
        }
    }

    /// Cuts every task and waits for them, at most a second.
    pub async fn stop(&self) -> Stopped {
        self.tasks.close();
        self.kill.cancel();
        match tokio::time::timeout(CUT_WITHIN, self.tasks.wait()).await {
            Ok(()) => Stopped::Clean,
            Err(_) => Stopped::Forced { left: self.tasks.len() },
        }
    }
}

/// For logs: nobody reads the nanoseconds of a drain.
fn rounded(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn settings() -> config::Drain {
        config::Drain { timeout: Duration::from_secs(8), quiet: Some(Duration::from_secs(2)), minimum: Duration::ZERO }
    }

    fn millis_since(start: tokio::time::Instant) -> u128 {
        start.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn fault_62_a_drain_ends_two_quiet_seconds_after_the_last_client() {
        let lifecycle = Lifecycle::new();
        let open = Arc::new(AtomicUsize::new(1));
        let start = tokio::time::Instant::now();
        let last = Arc::clone(&open);
        let client = lifecycle.spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            last.store(0, Ordering::Relaxed);
        });
        assert!(!lifecycle.is_draining());
        let seen = lifecycle.clone();
        let last = lifecycle
            .drain(&settings(), || {
                assert!(seen.drain_token().is_cancelled() && !seen.kill_token().is_cancelled());
                Clients { open: open.load(Ordering::Relaxed), came: 1 }
            })
            .await;
        assert_eq!(last.open, 0);
        let took = millis_since(start);
        assert!((5000..=5000 + 2 * LOOK_EVERY.as_millis()).contains(&took), "{took} ms");
        client.await.expect("the client's task ends");
        assert_eq!(lifecycle.stop().await, Stopped::Clean);
        assert!(lifecycle.kill_token().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn fault_62_a_drain_with_a_client_that_stays_ends_at_the_timeout() {
        let lifecycle = Lifecycle::new();
        let start = tokio::time::Instant::now();
        let last = lifecycle.drain(&settings(), || Clients { open: 3, came: 3 }).await;
        assert_eq!((last.open, millis_since(start)), (3, 8000));
    }

    #[tokio::test(start_paused = true)]
    async fn fault_62_a_task_that_will_not_end_is_left_behind_after_a_second() {
        let lifecycle = Lifecycle::new();
        let kill = lifecycle.kill_token().child_token();
        let good = lifecycle.spawn(async move { kill.cancelled().await });
        let stuck = lifecycle.spawn(std::future::pending::<()>());
        let start = tokio::time::Instant::now();
        assert_eq!(lifecycle.stop().await, Stopped::Forced { left: 1 });
        assert_eq!(millis_since(start), 1000);
        assert!(good.is_finished() && !stuck.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_cut_short_stays_begun() {
        let lifecycle = Lifecycle::new();
        let settings = settings();
        let drain = lifecycle.drain(&settings, || Clients { open: 1, came: 1 });
        assert!(tokio::time::timeout(Duration::from_secs(1), drain).await.is_err());
        assert!(lifecycle.is_draining() && !lifecycle.kill_token().is_cancelled());
    }
}
