//! everlink among real network faults, in namespaces of its own: black holes, lost packets, processes that stand still,
//! and hosts that run out of something. Needs root, and the packages iproute2, nftables and procps.
//!
//! Tests are named by their rows in the list of faults the program must survive. All use short heartbeats, so that a
//! death takes seconds; the messages say what was measured (`--nocapture` shows it).

mod common;
mod faults {
    mod direct {
        mod gone;
        mod late;
        mod names;
        mod setting;
        mod short;
        mod silent;
    }
    pub mod net;
    pub mod program;
    pub mod servers;
}

#[test]
#[ignore = "no test: the process that others stop and continue"]
fn server_process() {
    faults::servers::be_a_process();
}
