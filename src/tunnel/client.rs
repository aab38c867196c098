//! A local client that no link carries yet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::listener::client::Socket;
use crate::listener::present::Admitted;
use crate::listener::waiting::Waits;

/// A client, where it wants to go, and what it occupies.
pub struct Client {
    pub socket: Socket,
    pub accepted: Instant,
    /// The service's name at the gateway.
    pub service: Arc<str>,
    /// The client's address and the one it came to, where known.
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// Gateways passed before this one.
    pub hops: u8,
    pub admitted: Admitted,
}

impl Waits for Client {
    fn accepted(&self) -> Instant {
        self.accepted
    }
}
