//! The addresses where HTTP is served, and how they change.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::http::{self, HttpThread};
use crate::net::socket;
use crate::status::Status;

/// The HTTP thread and the sockets it serves, by their address in the configuration.
pub struct Doors {
    thread: HttpThread,
    bound: HashMap<SocketAddr, TcpListener>,
    public_status: Arc<AtomicBool>,
}

/// Sockets for a configuration that is not yet in force: to be [committed](Doors::commit) or [undone](Doors::undo).
#[derive(Default)]
pub struct Prepared {
    bound: HashMap<SocketAddr, TcpListener>,
    /// A wildcard and one of its own addresses cannot be bound at once: these are closed already.
    displaced: Vec<SocketAddr>,
}

impl Doors {
    /// The thread, without an address yet. Errors: the thread could not be started.
    pub fn closed(status: &Arc<Status>) -> std::io::Result<Self> {
        let public_status = Arc::new(AtomicBool::new(false));
        let thread = http::serve(Vec::new(), status.clone(), public_status.clone())?;
        Ok(Self { thread, bound: HashMap::new(), public_status })
    }

    /// Binds what is new in `wanted`. What could not be bound is told to `errors`, and must then be undone.
    pub fn prepare(&mut self, wanted: &[SocketAddr], errors: &mut Vec<String>) -> Prepared {
        let mut prepared = Prepared::default();
        for address in wanted {
            if self.bound.contains_key(address) {
                continue;
            }
            let mut result = socket::bind_listener(*address);
            let rivals: Vec<_> = match &result {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => self
                    .bound
                    .keys()
                    .filter(|old| socket::overlap(old, address) && !wanted.contains(old))
                    .copied()
                    .collect(),
                _ => Vec::new(),
            };
            if !rivals.is_empty() {
                self.bound.retain(|old, _| !rivals.contains(old));
                self.serve();
                prepared.displaced.extend(rivals);
                result = socket::once_free(|| socket::bind_listener(*address));
            }
            match result {
                Ok(listener) => {
                    prepared.bound.insert(*address, listener);
                }
                Err(error) => errors.push(format!("http.listen: cannot listen on {address}: {error}")),
            }
        }
        prepared
    }

    /// Brings back what was closed for a change that does not come.
    pub fn undo(&mut self, prepared: Prepared) {
        let Prepared { bound, displaced } = prepared;
        drop(bound);
        if displaced.is_empty() {
            return;
        }
        for address in displaced {
            match socket::once_free(|| socket::bind_listener(address)) {
                Ok(listener) => {
                    self.bound.insert(address, listener);
                }
                Err(error) => tracing::error!(%address, %error, "http.listen could not be bound again"),
            }
        }
        self.serve();
    }

    /// Serves on `wanted` and nowhere else.
    pub fn commit(&mut self, wanted: &[SocketAddr], prepared: Prepared, public_status: bool) {
        self.public_status.store(public_status, Ordering::Relaxed);
        for listener in prepared.bound.values() {
            if let Ok(address) = listener.local_addr() {
                tracing::info!(%address, "metrics, health and status are served");
            }
        }
        let before = self.bound.len();
        self.bound.retain(|address, _| wanted.contains(address));
        if self.bound.len() < before || !prepared.bound.is_empty() {
            self.bound.extend(prepared.bound);
            self.serve();
        }
    }

    /// Ends the thread and waits for it.
    pub fn stop(self) {
        self.thread.stop();
    }

    fn serve(&self) {
        // A clone is the same socket: what is kept is never closed.
        self.thread.rebind(self.bound.values().filter_map(|listener| listener.try_clone().ok()).collect());
    }
}
