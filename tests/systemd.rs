//! What a service manager is told and passes, the units of `deploy/systemd`, and a systemd of the tests' own that runs them.

#[path = "program/harness.rs"]
mod harness;
#[path = "../src/port.rs"]
mod port;

#[path = "systemd/ear.rs"]
mod ear;
#[path = "systemd/holder.rs"]
mod holder;
#[path = "systemd/machine.rs"]
mod machine;
#[path = "systemd/passed.rs"]
mod passed;
#[path = "systemd/real.rs"]
mod real;
#[path = "systemd/told.rs"]
mod told;
#[path = "systemd/units.rs"]
mod units;
