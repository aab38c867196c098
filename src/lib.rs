//! everlink keeps upstream TCP links alive. See the README for what it does and how to run it.

pub mod admin;
pub mod app;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod direct;
pub mod gateway;
pub mod http;
pub mod lifecycle;
pub mod link;
pub mod listener;
pub mod log;
pub mod metrics;
pub mod net;
pub mod running;
#[cfg(test)]
mod seeds;
pub mod session;
pub mod status;
pub mod systemd;
pub mod tunnel;
pub mod upstream;
#[cfg(test)]
mod whole;
pub mod workers;
