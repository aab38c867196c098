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

/// Sleeps until `deadline`; for ever when there is none.
pub async fn sleep_until_or_never(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
