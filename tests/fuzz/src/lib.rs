//! What is fed to everlink, and what must hold whatever comes. `README.md` beside this crate tells how to run it.

#![forbid(unsafe_code)]

mod answer;
mod config;
mod frames;
mod frames_raw;
mod hello;
mod http;
mod proxy;
mod resume;
pub mod rule;

/// One target: its name, how much memory any input may take whatever its size, and what is done with an input. It tells
/// how many bytes it has handled: those of the input, and those that the input made it move.
pub struct Target {
    pub name: &'static str,
    pub start: u64,
    pub act: fn(&[u8]) -> usize,
}

const fn target(name: &'static str, start: u64, act: fn(&[u8]) -> usize) -> Target {
    Target { name, start, act }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

pub const TARGETS: [Target; 8] = [
    // The mistakes in a text of 64 KiB of garbage; of a longer one only the first is kept.
    target("config", 16 * MIB, config::run),
    // Chunks of 256 KiB, and a dozen of them kept for reuse.
    target("frames_raw", 8 * MIB, frames_raw::run),
    target("frames", 8 * MIB, frames::run),
    target("hello", 64 * KIB, hello::run),
    target("resume", 16 * MIB, resume::run),
    // One answer of /metrics.
    target("http", MIB, http::run),
    target("answer", 512 * KIB, answer::run),
    target("proxy", 16 * KIB, proxy::run),
];

/// Runs one input through a target and panics if anything is not as it must be.
pub fn run(name: &str, input: &[u8]) {
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else { panic!("no target {name:?}") };
    rule::hold(target.name, target.start, || (target.act)(input));
}
