//! Tunnel mode whole: a sidecar and a gateway as processes, a relay of our own between them that does what networks do,
//! and services behind. No root needed. Tests are named by their rows in the list of faults the program must survive.

mod common;
#[path = "common/tls.rs"]
#[allow(dead_code, unused_imports)]
mod tls;
mod tunnel {
    mod bounds;
    mod carry;
    mod failover;
    mod losses;
    mod moves;
    mod relay;
    mod restarts;
    mod road;
    mod swizzle;
    mod traffic;
}
