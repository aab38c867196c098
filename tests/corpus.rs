//! Every input kept for the fuzzer goes through its target: those of the formats, and those that once found something.
//!
//! The targets and the rule they hold are those of `tests/fuzz`, compiled in here; so is the allocator that counts.

#![forbid(unsafe_code)]

#[path = "fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::hint::black_box;
use std::panic::{UnwindSafe, catch_unwind};
use std::path::Path;

/// One test, since what is counted is counted for the whole process.
#[test]
fn every_input_of_the_corpus_holds_what_its_target_asks() {
    the_rule_can_be_broken();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for target in &fuzz::TARGETS {
        let entries = fs::read_dir(corpus.join(target.name)).unwrap_or_else(|error| panic!("{}: {error}", target.name));
        let mut inputs = 0;
        for entry in entries {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            let held = catch_unwind(|| fuzz::run(target.name, &input));
            assert!(held.is_ok(), "{}", path.display());
            inputs += 1;
        }
        assert!(inputs >= 10, "{inputs} inputs for {}", target.name);
    }
}

fn the_rule_can_be_broken() {
    let breaks = |act: fn() -> usize| {
        let held = || fuzz::rule::hold("rule", 1000, act);
        is_broken(held)
    };
    assert!(!breaks(|| black_box(vec![1u8; 100_000]).len() / 100));
    assert!(breaks(|| black_box(vec![1u8; 200_000]).len() / 1000), "memory");
    assert!(!breaks(|| work(10)));
    assert!(breaks(|| work(100_000_000)), "time");
}

fn is_broken(act: impl FnOnce() + UnwindSafe) -> bool {
    catch_unwind(act).is_err()
}

/// Costs as many steps and handles a thousand bytes.
fn work(steps: u64) -> usize {
    black_box((0..steps).fold(1u64, |sum, step| black_box(sum ^ step)));
    1000
}
