//! Sockets, and the little that the standard library does not do with them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::RecvFlags;

use crate::args::die;

pub const PATIENCE: Duration = Duration::from_secs(5);

pub fn connect(to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub fn must_connect(to: SocketAddr) -> TcpStream {
    connect(to, Duration::from_secs(10)).unwrap_or_else(|error| die(&format!("connect {to}: {error}")))
}

/// A listener that takes 4,096 connections before they are accepted.
pub fn listen(address: SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(address).unwrap_or_else(|error| die(&format!("bind {address}: {error}")));
    rustix::net::listen(&listener, 4096).unwrap_or_else(|error| die(&format!("listen: {error}")));
    listener
}

/// Takes up to `room` bytes, which the kernel throws away. 0: the end, or an error.
pub fn discard(stream: &TcpStream, room: &mut [u8]) -> usize {
    loop {
        match rustix::net::recv(stream, &mut *room, RecvFlags::TRUNC) {
            Ok((_, taken)) => return taken,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return 0,
        }
    }
}

/// One request of 64 bytes and its answer.
pub fn ping(mut stream: &TcpStream) -> io::Result<()> {
    let mut bytes = [7; 64];
    stream.write_all(&bytes)?;
    stream.read_exact(&mut bytes)
}

pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

pub fn end(stream: &TcpStream) {
    stream.shutdown(Shutdown::Both).ok();
}

/// A thread with a small stack, since there are many.
pub fn spawn(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let spawned = std::thread::Builder::new().stack_size(128 * 1024).spawn(work);
    spawned.unwrap_or_else(|error| die(&format!("thread: {error}")))
}
