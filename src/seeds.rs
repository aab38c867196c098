//! Many seeds of a simulation, and the one command that runs one of them again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The seed that is asked for: `EVERLINK_SEED`, else 1.
pub fn one() -> u64 {
    number("EVERLINK_SEED").unwrap_or(1)
}

/// What a failing seed is told by. `simulation`: the module that has the test `one_seed`.
pub fn failure(simulation: &str, seed: u64, text: &str) -> String {
    let release = if cfg!(debug_assertions) { "" } else { "--release " };
    let command = format!("cargo test {release}--lib {simulation}::one_seed -- --nocapture");
    format!("seed {seed}: {text}\nrun it again: EVERLINK_SEED={seed} {command}")
}

/// Runs `EVERLINK_COUNT` seeds from `EVERLINK_FROM` on, on all cores; see `tests/simulate`. Panics with the lowest that
/// fails.
pub fn many<C: Default + Send>(
    simulation: &str,
    run: impl Fn(u64) -> Result<C, String> + Sync,
    merge: impl Fn(&mut C, &C) + Sync,
) -> C {
    let (from, count) = (number("EVERLINK_FROM").unwrap_or(0), number("EVERLINK_COUNT").unwrap_or(100));
    let (next, all) = (AtomicU64::new(from), Mutex::new(C::default()));
    let failed = Mutex::new(None::<(u64, String)>);
    let begun = Instant::now();
    let work = || {
        let mut mine = C::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + count || failed.lock().unwrap().is_some() {
                break;
            }
            if seed > from && (seed - from).is_multiple_of(1000) {
                eprintln!(
                    "{simulation}: {} of {count} seeds after {:.0} s",
                    seed - from,
                    begun.elapsed().as_secs_f64()
                );
            }
            match run(seed) {
                Ok(counts) => merge(&mut mine, &counts),
                Err(text) => {
                    let mut failed = failed.lock().unwrap();
                    if failed.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                        *failed = Some((seed, text));
                    }
                }
            }
        }
        merge(&mut all.lock().unwrap(), &mine);
    };
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            threads.spawn(work);
        }
    });
    if let Some((seed, text)) = failed.into_inner().unwrap() {
        panic!("{}", failure(simulation, seed, &text));
    }
    println!("{simulation}: {count} seeds from {from} in {:.1} s", begun.elapsed().as_secs_f64());
    all.into_inner().unwrap()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
