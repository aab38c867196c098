//! A local client that has been accepted and is not yet carried.

use std::sync::Arc;
use std::time::Instant;

use super::pool::Pool;
use crate::listener::client::Socket;
use crate::listener::waiting::Waits;
use crate::net::descriptors::Held;

/// A client and what it occupies until it is gone.
pub struct Client {
    pub socket: Socket,
    pub accepted: Instant,
    pub place: Place,
}

impl Waits for Client {
    fn accepted(&self) -> Instant {
        self.accepted
    }
}

/// One of `limits.connections`, and two descriptors: the client's, and until it has one its connection's.
pub struct Place {
    pub pool: Arc<Pool>,
    pub descriptors: Held,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.left();
    }
}
