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
    /// A connection goes on being read after another has taken over; or a claim that was overtaken is granted.
    pub no_fencing: bool,
    /// Streams are sent without regard to the room their receivers have given.
    pub no_window: bool,
    /// The connection at hand is read while a claim is out.
    pub no_freeze: bool,
    /// OPENs that cross a GOAWAY are refused.
    pub no_crossing: bool,
}

#[cfg(test)]
thread_local! {
    static BROKEN: std::cell::Cell<Broken> = const { std::cell::Cell::new(Broken {
        no_replay: false,
        no_duplicate_removal: false,
        no_fencing: false,
        no_window: false,
        no_freeze: false,
        no_crossing: false,
    }) };
}

#[cfg(test)]
impl Broken {
    /// What sessions of this thread are made with.
    pub fn set(broken: Self) {
        BROKEN.set(broken);
    }

    pub fn current() -> Self {
        BROKEN.get()
    }
}
