//! What keeps one link alive, whatever runs over it: its life, its heartbeats, its backoff, and the dial.

pub mod backoff;
pub mod heartbeat;
pub mod state;
