//! Keeps dear answers few: a full exposition of a thousand upstreams is 10 MiB, and a reader may be slow.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// So many inside, so many waiting, the rest turned away at once.
pub struct Gate {
    inside: Semaphore,
    waiting: AtomicUsize,
    waiting_limit: usize,
    patience: Duration,
}

impl Gate {
    pub fn new(inside: usize, waiting_limit: usize, patience: Duration) -> Self {
        Self { inside: Semaphore::new(inside), waiting: AtomicUsize::new(0), waiting_limit, patience }
    }

    /// A place inside for as long as the permit lives; `None` if too many wait or the wait was too long.
    pub async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(permit) = self.inside.try_acquire() {
            return Some(permit);
        }
        let _counted = Waiting::join(&self.waiting, self.waiting_limit)?;
        timeout(self.patience, self.inside.acquire()).await.ok()?.ok()
    }
}

/// One who waits, uncounted when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn join(count: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let room = |n: usize| (n < limit).then_some(n + 1);
        count.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        Some(Self(count))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_wait_and_the_rest_are_turned_away_at_once() {
        let gate = Gate::new(1, 1, Duration::from_secs(5));
        let inside = gate.enter().await;
        assert!(inside.is_some());
        let start = tokio::time::Instant::now();
        let (waited, turned_away) = tokio::join!(async { (gate.enter().await.is_some(), start.elapsed()) }, async {
            (gate.enter().await.is_some(), start.elapsed())
        });
        assert_eq!(waited, (false, Duration::from_secs(5)));
        assert_eq!(turned_away, (false, Duration::ZERO));
        drop(inside);
        assert!(gate.enter().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_gives_up_waiting_frees_the_place() {
        let gate = Gate::new(1, 1, Duration::from_secs(5));
        let inside = gate.enter().await;
        assert!(timeout(Duration::from_secs(1), gate.enter()).await.is_err());
        let (entered, ()) = tokio::join!(gate.enter(), async { drop(inside) });
        assert!(entered.is_some());
    }
}
