//! A local client that has been accepted and is not yet carried.

use std::time::Instant;

use crate::listener::client::Socket;
use crate::listener::present::Admitted;
use crate::listener::waiting::Waits;

/// A client and what it occupies until it is gone: two descriptors, its own, and until it has one its connection's.
pub struct Client {
    pub socket: Socket,
    pub accepted: Instant,
    pub admitted: Admitted,
}

impl Waits for Client {
    fn accepted(&self) -> Instant {
        self.accepted
    }
}
