//! Hosts that are short of something, or whose clocks jump: a sidecar and a gateway as processes under limits of the
//! kernel's own. Needs root, control groups (v1 or v2) that can be written, and a C compiler. Tests are named by their rows
//! in the list of faults the program must survive.

mod common;
#[path = "common/tls.rs"]
#[allow(dead_code, unused_imports)]
mod tls;
#[path = "tunnel/mod.rs"]
#[allow(dead_code)]
mod tunnel;

mod host {
    mod bare;
    mod clocks;
    mod groups;
    mod loops;
    mod memory;
    mod throttled;
}
