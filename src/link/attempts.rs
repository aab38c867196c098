//! A few futures of one kind, run side by side in the task that waits for them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Attempts in flight, each with a number. They live in the caller's task and end with it: dropping this drops them at
/// once, sockets included, which a spawned task would do only when it is next run.
///
/// Every wake polls all of them; made for a handful, not for hundreds.
pub(super) struct Attempts<F> {
    running: Vec<(usize, Pin<Box<F>>)>,
}

impl<F: Future> Attempts<F> {
    pub(super) fn new() -> Self {
        Self { running: Vec::new() }
    }

    pub(super) fn start(&mut self, number: usize, attempt: F) {
        self.running.push((number, Box::pin(attempt)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The smallest number still in flight.
    pub(super) fn earliest(&self) -> Option<usize> {
        self.running.iter().map(|(number, _)| *number).min()
    }

    /// The next one to finish; waits for ever when none runs. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> (usize, F::Output) {
        poll_fn(|context| {
            for index in 0..self.running.len() {
                let (number, attempt) = &mut self.running[index];
                let number = *number;
                if let Poll::Ready(output) = attempt.as_mut().poll(context) {
                    drop(self.running.remove(index));
                    return Poll::Ready((number, output));
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    async fn take(milliseconds: u64) -> u64 {
        sleep(Duration::from_millis(milliseconds)).await;
        milliseconds
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_finish_in_the_order_they_are_ready() {
        let mut attempts = Attempts::new();
        for (number, milliseconds) in [30, 10, 20].into_iter().enumerate() {
            attempts.start(number, take(milliseconds));
        }
        assert_eq!(attempts.next().await, (1, 10));
        assert_eq!(attempts.earliest(), Some(0));
        assert_eq!(attempts.next().await, (2, 20));
        assert_eq!(attempts.next().await, (0, 30));
        assert!(attempts.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_none_never_ends_and_an_abandoned_wait_loses_nothing() {
        let mut attempts = Attempts::new();
        assert!(timeout(Duration::from_secs(1), attempts.next()).await.is_err());
        attempts.start(7, take(1500));
        assert!(timeout(Duration::from_secs(1), attempts.next()).await.is_err());
        assert_eq!(timeout(Duration::from_secs(1), attempts.next()).await, Ok((7, 1500)));
    }
}
