//! A short run of `tests/soak/run`: a sidecar, two gateways and servers under random faults, with every byte checked.

#[allow(dead_code)] // the command of the same files uses the rest
mod soak {
    pub mod chart;
    pub mod child;
    pub mod clients;
    pub mod config;
    pub mod faults;
    pub mod gateway_faults;
    pub mod lines;
    pub mod path_faults;
    pub mod picture;
    pub mod relay;
    pub mod samples;
    pub mod servers;
    pub mod sidecar_faults;
    pub mod site;
    #[allow(clippy::module_inception)]
    pub mod soak;
    pub mod summary;
    pub mod talk;
    pub mod trust;
    pub mod verdict;
    pub mod world;
}

use std::time::Duration;

use serde_json::Value;

use soak::faults::{MET_NOBODY, Tempo};
use soak::soak::{Options, Outcome, run};
use soak::world::Place;
use soak::{picture, summary};

/// What chance has left out of a run: the faults that were drawn, and what came of them.
fn lacking(outcome: &Outcome, summary: &Value) -> Option<String> {
    let met: Vec<_> = outcome.faults.iter().filter(|fault| fault.kind != MET_NOBODY).map(|fault| fault.place).collect();
    let (tunnel, bytes) = (&summary["tunnel"], &summary["checked_bytes"]);
    let enough = met.len() >= 8
        && Place::ALL.iter().all(|place| met.contains(place))
        && tunnel["resumes"]["resumed"].as_f64() >= Some(3.0)
        && tunnel["streams_saved"].as_f64() >= Some(3.0)
        && summary["talks"]["finished"].as_u64() >= Some(30)
        && ["tunnel_up", "tunnel_down", "direct"].iter().all(|way| bytes[way].as_u64() > Some(50_000));
    (!enough).then(|| format!("seed {}: {met:?}, {summary}", outcome.seed))
}

#[test]
fn fault_67_of_faults_of_all_kinds_at_once_no_byte_is_lost_and_nothing_is_left() {
    let mut left_out = Vec::new();
    for _ in 0..3 {
        let options = Options {
            duration: Duration::from_secs(12),
            seed: fastrand::u64(..1_000_000),
            tempo: Tempo::BRISK,
            rest_every: Duration::from_secs(600),
            binary: env!("CARGO_BIN_EXE_everlink").into(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let outcome = runtime.block_on(run(&options)).expect("it starts");
        let summary = summary::of(&outcome);
        println!("{}", summary::text(&summary));
        assert!(outcome.failures.is_empty(), "seed {}: {:#?}", outcome.seed, outcome.failures);
        let picture = picture::draw(&outcome);
        assert!(picture.starts_with("<svg ") && picture.len() < 300 << 10, "{} bytes", picture.len());
        match lacking(&outcome, &summary) {
            None => return,
            Some(what) => left_out.push(what),
        }
    }
    panic!("three times not enough of it: {left_out:#?}");
}
