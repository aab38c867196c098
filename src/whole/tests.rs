//! Seeds, what they have reached, and the faults built in.

use super::streams::Outcome;
use super::*;
use crate::metrics::LinkState;
use crate::metrics::{CloseReason, Label};
use crate::session::frame::Kind;
use crate::session::hello::Code;
use crate::session::{RefusalCode, ResetCode};

/// Seeds of one test; what must happen now and then is given more of them. Raise it to search longer.
const SEEDS: u64 = 100;

/// What must have happened for a run to prove anything. A reset for an error is not among it: who says it has no connection
/// any more.
pub fn has_reached_everything(counts: &Counts) {
    let cuts = ["in a hello", "in an answer", "in a header", "in a payload", "between frames", "before the first byte"];
    let refusals = [RefusalCode::Service, RefusalCode::Unreachable, RefusalCode::Limit, RefusalCode::Hops];
    let resets = [ResetCode::Reset, ResetCode::Drained, ResetCode::Idle];
    let links = LinkState::ALL.iter().filter(|state| **state != LinkState::InUse);
    let outcomes = [Outcome::Finished, Outcome::Cut, Outcome::Reset, Outcome::Refused];
    let never = [CloseReason::Dead, CloseReason::Error];
    let closed = CloseReason::ALL.iter().filter(|reason| !never.contains(reason));
    let others = [
        "welcome",
        "welcome back",
        "bytes said again",
        "runs without a loss",
        "runs with losses",
        "OPEN that crosses a GOAWAY",
        "link yields, and still takes streams",
    ];
    let marks = (cuts.iter().map(|place| format!("cut {place}")))
        .chain(Kind::ALL.iter().map(|kind| kind.name().to_owned()))
        .chain(Code::ALL.iter().map(|code| format!("refusal {}", code.name())))
        .chain(refusals.iter().map(|code| format!("REFUSED {code:?}")))
        .chain(resets.iter().map(|code| format!("RESET {code:?}")))
        .chain(links.map(|state| format!("link {}", state.name())))
        .chain(outcomes.iter().map(|outcome| format!("client {outcome:?}")))
        .chain(closed.map(|reason| format!("closed {}", reason.name())))
        .chain(others.map(str::to_owned));
    let missing: Vec<_> = marks.filter(|mark| counts.of(mark) == 0).collect();
    assert!(missing.is_empty(), "never reached: {missing:?} of\n{counts}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..10 {
        let [one, other] = [0, 1].map(|_| run(seed, Broken::default()).map(|ran| (ran.trace, ran.counts)));
        assert!(one == other, "seed {seed}: {one:?} {other:?}");
    }
}

#[test]
fn no_byte_is_lost_no_session_doubled_and_everybody_comes_back() {
    println!("{}", run_all(0, SEEDS));
}

#[test]
fn everything_that_may_happen_has_happened() {
    let counts = run_all(SEEDS, 6 * SEEDS);
    println!("{counts}");
    has_reached_everything(&counts);
}

/// The first seed that shows the fault.
fn found(broken: Broken) -> u64 {
    let found = (0..200).find(|&seed| run(seed, broken).inspect_err(|text| println!("seed {seed}: {text}")).is_err());
    println!("found by seed {found:?}");
    found.expect("it goes unnoticed for 200 seeds")
}

#[test]
fn the_check_finds_sessions_that_do_not_replay() {
    found(Broken { no_replay: true, ..Broken::default() });
}

#[test]
fn the_check_finds_bytes_taken_twice() {
    found(Broken { no_duplicate_removal: true, ..Broken::default() });
}

#[test]
fn the_check_finds_a_claim_that_was_overtaken_and_is_granted() {
    found(Broken { no_fencing: true, ..Broken::default() });
}

#[test]
fn the_check_finds_bytes_read_while_a_claim_is_out() {
    found(Broken { no_freeze: true, ..Broken::default() });
}

#[test]
fn the_check_finds_streams_refused_that_crossed_a_goaway() {
    found(Broken { no_crossing: true, ..Broken::default() });
}

#[test]
fn the_check_finds_a_sender_without_regard_to_windows() {
    found(Broken { no_window: true, ..Broken::default() });
}
