//! What keeps one link alive, whatever runs over it: its life, its heartbeats, its backoff, the dial, and rehearsed outages.

#![forbid(unsafe_code)]

mod attempts;
pub mod backoff;
pub mod dial;
pub mod drill;
pub mod heartbeat;
pub mod mailbox;
pub mod names;
mod race;
pub mod resolve;
pub mod state;
pub mod watch;
