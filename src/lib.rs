//! everlink keeps upstream TCP links alive. See the README for what it does and how to run it.

pub mod config;
pub mod direct;
pub mod lifecycle;
pub mod metrics;
pub mod status;
