//! Plain servers, on threads of their own so that a test may block.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A listening server; each connection is handled on its own thread. Ends, with all its connections, when dropped.
pub struct Server {
    pub address: SocketAddr,
    pub accepted: Arc<AtomicUsize>,
    /// Connections being handled now.
    live: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(handle: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start_at(super::nobody(), handle)
    }

    /// Starts on a fixed address: after a restart.
    pub fn start_at(address: SocketAddr, handle: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener: TcpListener = everlink::net::socket::bind_listener(address).expect("bound");
        listener.set_nonblocking(false).expect("blocking");
        let address = listener.local_addr().expect("an address");
        let (accepted, live) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let own = listener.try_clone().expect("cloned");
        let (count, counted, all, handle) = (accepted.clone(), live.clone(), open.clone(), Arc::new(handle));
        let thread = std::thread::spawn(move || {
            for stream in own.incoming().map_while(Result::ok) {
                stream.set_nonblocking(false).expect("blocking");
                if let Ok(copy) = stream.try_clone() {
                    let mut all = all.lock().expect("unpoisoned");
                    if all.len() > 1000 {
                        all.retain(|s| s.peer_addr().is_ok());
                    }
                    all.push(copy);
                }
                // Last: who is counted is among those that `end_all` ends.
                count.fetch_add(1, Ordering::SeqCst);
                let (handle, live) = (handle.clone(), counted.clone());
                live.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let _ = handle(stream.try_clone().expect("cloned"));
                    live.fetch_sub(1, Ordering::SeqCst);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, accepted, live, open, listener, thread: Some(thread) }
    }

    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Connections being handled now.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// The far ends of all connections so far that still stand.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.open.lock().expect("unpoisoned").iter().filter_map(|stream| stream.peer_addr().ok()).collect()
    }

    /// Closes the port and keeps the connections.
    pub fn refuse(&self) {
        super::port::close(&self.listener);
    }

    /// Ends every connection in order and keeps listening.
    pub fn end_all(&self) {
        for stream in self.open.lock().expect("unpoisoned").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.refuse();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.end_all();
    }
}

/// Answers a read of exactly `ping` by `pong` and echoes anything else: the tutorial's server.
pub fn tutorial(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count if &buffer[..count] == b"ping" => stream.write_all(b"pong")?,
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

/// Answers each line `ping` by a line `pong` and echoes every other line, however reads cut them.
pub fn lines(stream: TcpStream) -> io::Result<()> {
    let mut reader = io::BufReader::new(stream.try_clone()?);
    let mut line = Vec::new();
    while io::BufRead::read_until(&mut reader, b'\n', &mut line)? > 0 {
        (&stream).write_all(if line == b"ping\n" { b"pong\n" } else { &line })?;
        line.clear();
    }
    Ok(())
}

/// Echoes everything, and the end.
pub fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

/// Never reads and never ends by itself.
pub fn deaf(stream: TcpStream) -> io::Result<()> {
    while stream.peer_addr().is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
