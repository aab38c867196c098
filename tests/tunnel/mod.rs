//! A tunnel with a relay in it, for other tests than those of `tests/tunnel.rs`.

pub mod relay;
pub mod road;
pub mod traffic;
