//! everlink keeps upstream TCP links alive. See the README for what it does and how to run it.

pub mod config;
pub mod demo;
pub mod direct;
pub mod link;
pub mod listener;
pub mod log;
pub mod metrics;
pub mod net;
pub mod status;
pub mod upstream;
pub mod workers;
