//! Networks that fail, for other tests than those of `tests/faults.rs`.

pub mod air;
pub mod net;
pub mod program;
pub mod servers;
