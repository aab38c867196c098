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

use soak::faults::{MET_NOBODY, Tempo};
use soak::soak::{Options, run};
use soak::world::Place;
use soak::{picture, summary};

#[test]
fn fault_67_of_faults_of_all_kinds_at_once_no_byte_is_lost_and_nothing_is_left() {
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
    let met: Vec<_> = outcome.faults.iter().filter(|fault| fault.kind != MET_NOBODY).map(|fault| fault.place).collect();
    assert!(met.len() >= 8, "{met:?}");
    for place in Place::ALL {
        assert!(met.contains(&place), "no fault of {}", place.name());
    }
    let tunnel = &summary["tunnel"];
    assert!(tunnel["resumes"]["resumed"].as_f64() >= Some(3.0), "{tunnel}");
    assert!(tunnel["streams_saved"].as_f64() >= Some(3.0), "{tunnel}");
    assert!(summary["talks"]["finished"].as_u64() >= Some(30), "{summary}");
    for bytes in ["tunnel_up", "tunnel_down", "direct"] {
        assert!(summary["checked_bytes"][bytes].as_u64() > Some(50_000), "{bytes}: {summary}");
    }
    let picture = picture::draw(&outcome);
    assert!(picture.starts_with("<svg ") && picture.len() < 300 << 10, "{} bytes", picture.len());
}
