//! Ports that no other test gets, here and in `tests`.
//!
//! A program that is being started holds copies of all descriptors of whoever starts it, up to its exec. While one test
//! starts a program, what another one closes is therefore open for some milliseconds more: what must be free at once, or
//! refuse at once, must not depend on a close.

#![forbid(unsafe_code)]

use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::{Domain, SockRef, Socket, Type};

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
        if is_free(port) {
            return port;
        }
    }
    panic!("every port from {FROM} on is in use")
}

/// Binds and never listens: a copy of such a socket keeps nobody from the port who sets SO_REUSEADDR, and refuses clients.
fn is_free(port: u16) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("set");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).is_ok()
}

/// An address where nobody listens.
pub fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// Ends a listener, and every copy of it: from now on its address refuses, and is free for the next one.
pub fn close(listener: &impl AsFd) {
    // It fails for a listener that was closed before.
    let _ = SockRef::from(listener).shutdown(Shutdown::Both);
}
