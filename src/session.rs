//! A session is what outlives a connection: one byte stream each way with absolute offsets, and the streams that share it.
//!
//! Everything here is pure: no socket, no clock, no task. [`core::Session`] holds one end.
//!
#![doc = include_str!("session/PROTOCOL.md")]
#![forbid(unsafe_code)]

pub mod core;
pub mod frame;
pub mod hello;
#[cfg(test)]
mod hostile;
pub mod inbound;
pub mod outbound;
pub mod pace;
#[cfg(test)]
mod protocol_page;
#[cfg(test)]
mod sim;
mod stream;
pub mod violation;
pub mod window;

pub use core::{Incoming, Limits, Session};
pub use frame::{GoAwayCode, Opening, RefusalCode, ResetCode};
pub use violation::Violation;

/// Faults built in on purpose, to show that the checker of the simulation finds them.
#[cfg(test)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Broken {
    /// A new connection goes on where the last one stopped.
    pub no_replay: bool,
    /// The peer is told less than was received: it sends some bytes twice.
    pub no_duplicate_removal: bool,
    /// A connection goes on being read after another has taken over.
    pub no_fencing: bool,
}
