//! everlink keeps upstream TCP links alive. See the README for what it does and how to run it.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod http;
pub mod log;
pub mod metrics;
pub mod status;
