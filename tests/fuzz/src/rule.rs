//! The rule every target holds: no input costs more than 100 times its size, in memory or in time, beside what the
//! target is allowed for the start.
//!
//! **Memory** is what was allocated at the worst moment beyond what there was before, counted by the allocator itself.
//!
//! **Time** has no bytes. A byte's worth of it is 16 steps of a plain loop, in this build on this machine: what a parser
//! takes that looks at a byte a few times. It is measured at the start, and again whenever an input seems too dear. An
//! input may cost 100 times as much for each of its bytes. What counts is the processor time of this thread, so that waiting for a busy machine
//! costs nothing; and an input that seems too dear is run four times more, and the cheapest run counts.

use std::alloc::System;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Duration;

use peakmem_alloc::{INSTRUMENTED_SYSTEM, PeakMemAlloc, PeakMemAllocTrait};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static MEMORY: &PeakMemAlloc<System> = &INSTRUMENTED_SYSTEM;

/// So many times its size.
const TIMES: u64 = 100;
/// What an input may cost beside: a first touch of tables, lazily built patterns, a page fault or two.
const START: Duration = Duration::from_millis(5);
const RUNS: usize = 5;
/// Steps of the loop that a byte is worth.
const STEPS: f64 = 16.0;

/// What one input cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Bytes handled: of the input itself, and those that it made the target move.
    pub size: u64,
    /// Bytes allocated at the worst moment.
    pub memory: u64,
    /// Nanoseconds of this thread.
    pub time: u64,
}

impl Cost {
    /// Runs `act`, which tells how many bytes it has handled.
    fn of(act: impl FnOnce() -> usize) -> Self {
        MEMORY.reset_peak_memory();
        let start = thread_time();
        let size = act();
        let time = thread_time() - start;
        Self { size: size as u64, memory: MEMORY.get_peak_memory() as u64, time }
    }
}

/// Runs `act` on an input and panics if it costs too much. `start`: bytes of memory that any input may take.
pub fn hold(name: &str, start: u64, act: impl Fn() -> usize) {
    let mut cost = Cost::of(&act);
    let memory_allowed = start + TIMES * cost.size;
    assert!(
        cost.memory <= memory_allowed,
        "{name}: {} bytes of memory for an input of {}, of {memory_allowed} allowed",
        cost.memory,
        cost.size,
    );
    let mut time_allowed = allowed(cost.size, byte());
    for _ in 1..RUNS {
        if cost.time <= time_allowed {
            break;
        }
        cost.time = cost.time.min(Cost::of(&act).time);
        // The machine may be slower now than it was at the start.
        time_allowed = time_allowed.max(allowed(cost.size, measure()));
    }
    assert!(
        cost.time <= time_allowed,
        "{name}: {} µs for an input of {} bytes, of {} µs allowed",
        cost.time / 1000,
        cost.size,
        time_allowed / 1000,
    );
    note(name, cost, memory_allowed, time_allowed);
}

fn allowed(size: u64, byte: f64) -> u64 {
    START.as_nanos() as u64 + (TIMES as f64 * size as f64 * byte) as u64
}

/// Nanoseconds that a byte is worth.
fn byte() -> f64 {
    static BYTE: Mutex<Option<f64>> = Mutex::new(None);
    *BYTE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert_with(measure)
}

fn measure() -> f64 {
    const BYTES: usize = 64 * 1024;
    let bytes = vec![0x5a; BYTES];
    let mut best = u64::MAX;
    for _ in 0..8 {
        let start = thread_time();
        black_box(walk(black_box(&bytes)));
        best = best.min(thread_time() - start);
    }
    STEPS * best as f64 / BYTES as f64
}

/// FNV-1a: one step after the other, none of which can be left out.
fn walk(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Processor time of this thread so far, in nanoseconds.
fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Tells of inputs that come nearer to the bound than all before them.
fn note(name: &str, cost: Cost, memory_allowed: u64, time_allowed: u64) {
    static DEAREST: Mutex<(u64, u64)> = Mutex::new((0, 0));
    let share = |cost: u64, allowed: u64| cost * 100 / allowed.max(1);
    let now = (share(cost.memory, memory_allowed), share(cost.time, time_allowed));
    let mut dearest = DEAREST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if now.0 > dearest.0 || now.1 > dearest.1 {
        *dearest = (dearest.0.max(now.0), dearest.1.max(now.1));
        eprintln!("{name}: dearest so far: {} % of the memory, {} % of the time allowed", dearest.0, dearest.1);
    }
}
