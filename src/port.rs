//! Ports that no other test gets, here and in `tests`.

#![forbid(unsafe_code)]

use std::net::{SocketAddr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which Linux picks ports for listeners at port 0 and for those who connect (32768 to 60999):
/// what a test lets go for a while, none of them takes.
const FROM: u16 = 10_000;
const PORTS: u16 = 22_000;

/// A port of this machine that nobody listens on and that was given to nobody else in this process.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static FIRST: OnceLock<u16> = OnceLock::new();
    let first = *FIRST.get_or_init(|| fastrand::u16(0..PORTS));
    for _ in 0..PORTS {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let port = FROM + (first + nth) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("every port from {FROM} on is in use")
}

/// An address where nobody listens.
pub fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}
