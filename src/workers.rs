//! The threads that carry bytes.
//!
//! Each is a current-thread runtime: a task never changes its core, so a small request costs no wake-up of another one.
//! Accepted sockets are passed to the thread whose link takes them. (Measured against one multi-thread runtime: see
//! `tests/bench/RESULTS.md`.)

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::net::kernel;
use crate::status::Status;

/// How often the first thread looks whether the process stood still, and shows that it lives itself.
const PULSE: Duration = Duration::from_secs(1);
/// How often the others show that they live.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// A pulse later than this means that the process, or this thread, did not run.
const STALL: Duration = Duration::from_secs(1);
/// Clocks read one after the other differ by less.
const ASLEEP: Duration = Duration::from_secs(1);
/// The wait before a task that panicked is started again.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// How the threads are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// So many threads, each with a runtime of its own.
    Separate(usize),
    /// One runtime that moves tasks between so many threads.
    Shared(usize),
}

/// The running threads.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    next: AtomicUsize,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Layout {
    /// A thread for each core.
    pub fn for_this_machine() -> Self {
        Self::Separate(std::thread::available_parallelism().map_or(1, |n| n.get()))
    }

    /// How many runtimes, and so how many stamps in [`Status`].
    pub fn runtimes(self) -> usize {
        match self {
            Self::Separate(count) => count.max(1),
            Self::Shared(_) => 1,
        }
    }
}

impl Workers {
    /// Starts the threads; each renews its stamp in `status` and counts the times it was stalled.
    pub fn start(layout: Layout, status: &Arc<Status>) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for index in 0..layout.runtimes() {
            let runtime = match layout {
                Layout::Separate(_) => Builder::new_current_thread().enable_all().build()?,
                Layout::Shared(count) => Builder::new_multi_thread()
                    .worker_threads(count.max(1))
                    .thread_name("worker")
                    .enable_all()
                    .build()?,
            };
            handles.push(runtime.handle().clone());
            let (status, stop) = (status.clone(), stop.clone());
            let body = move || {
                runtime.block_on(pulse(index, &status, &stop));
                // Whatever still runs is cut: the drain had its time.
                runtime.shutdown_timeout(Duration::from_millis(100));
            };
            threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(body)?);
        }
        Ok(Self { handles, next: AtomicUsize::new(0), stop, threads })
    }

    /// The runtimes, one for each thread that may carry.
    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// The next in turn.
    pub fn next(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.handles.len()
    }

    pub fn handle(&self, worker: usize) -> &Handle {
        &self.handles[worker % self.handles.len()]
    }

    /// Ends the threads and every task on them.
    pub fn stop(self) {
        self.stop.cancel();
        for thread in self.threads {
            // A panic there has been reported by the hook; there is nothing left to save.
            let _ = thread.join();
        }
    }
}

/// Runs what `make` makes; if that panics (the process's hook tells and counts it), another one after a second. For the
/// tasks that others depend on and nobody else would notice missing.
pub async fn restarted<F: Future<Output = ()> + Send + 'static>(mut make: impl FnMut() -> F) {
    loop {
        match tokio::spawn(make()).await {
            Err(error) if error.is_panic() => tokio::time::sleep(AFTER_PANIC).await,
            Ok(()) | Err(_) => return,
        }
    }
}

/// A task of this process, as it is. In a simulation a process can be stopped, and its tasks with it.
#[cfg(not(test))]
pub fn of_process<F: Future>(task: F) -> F {
    task
}

#[cfg(test)]
pub use crate::net::memory::of_process;

async fn show_life(index: usize, status: &Status, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        status.stamp(index);
        let _ = tokio::time::timeout(SIGN_OF_LIFE, stop.cancelled()).await;
    }
}

/// Renews the first thread's stamp, and counts the times the process was stalled; the others only renew theirs.
async fn pulse(index: usize, status: &Status, stop: &CancellationToken) {
    // One thread speaks for the process.
    if index > 0 {
        return show_life(index, status, stop).await;
    }
    let (mut last, mut suspended) = (Instant::now(), kernel::suspended());
    loop {
        status.stamp(index);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PULSE) => {}
        }
        let now = Instant::now();
        if now - last > PULSE + STALL {
            status.metrics.process_stalls.inc();
            tracing::warn!(stalled = ?(now - last - PULSE), "this process was stopped or starved");
        }
        last = now;
        // No timer has noticed, for they stood still as well: they ring as late as ever, and the other ends have gone.
        let total = kernel::suspended();
        let asleep = total.saturating_sub(std::mem::replace(&mut suspended, total));
        if asleep > ASLEEP {
            status.metrics.process_stalls.inc();
            tracing::warn!(?asleep, "this machine was suspended: every link is asked at once whether it still lives");
            status.wakes.send_modify(|wakes| *wakes += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn fault_61_a_task_that_panics_is_started_again_and_one_that_ends_is_not() {
        let begun = tokio::time::Instant::now();
        let mut runs = 0;
        restarted(|| {
            runs += 1;
            let panics = runs < 3;
            async move { assert!(!panics, "on purpose") }
        })
        .await;
        assert_eq!(runs, 3);
        assert_eq!(begun.elapsed(), 2 * AFTER_PANIC);
    }

    /// Else `/livez` would fail after half a minute, and whoever asks it would start everything anew.
    #[tokio::test(start_paused = true)]
    async fn every_thread_goes_on_showing_that_it_lives() {
        let status = Status::new(crate::metrics::Metrics::new().unwrap(), 3);
        let stop = CancellationToken::new();
        let threads: Vec<_> = (0..3)
            .map(|index| {
                let (status, stop) = (status.clone(), stop.clone());
                tokio::spawn(async move { pulse(index, &status, &stop).await })
            })
            .collect();
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            status.ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(status.slowest_loop() <= SIGN_OF_LIFE.as_secs() + 1, "{}", status.slowest_loop());
        }
        stop.cancel();
        for thread in threads {
            thread.await.unwrap();
        }
    }
}
