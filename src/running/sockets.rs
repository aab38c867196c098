//! The listening sockets of one server, and how they change.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};

use crate::listener::cure;
use crate::net::socket;
use crate::systemd::Passed;

/// Sockets by their address in the configuration: kept while it is wanted, whatever else changes.
pub struct Sockets {
    /// The key that names them, for messages.
    key: &'static str,
    /// Used in the place of sockets of our own.
    passed: Passed,
    bound: HashMap<SocketAddr, TcpListener>,
}

/// Sockets for a configuration that is not yet in force: to be [committed](Sockets::commit) or [undone](Sockets::undo).
#[derive(Default)]
pub struct Prepared {
    bound: HashMap<SocketAddr, TcpListener>,
    /// A wildcard and one of its own addresses cannot be bound at once: these are closed already.
    displaced: Vec<SocketAddr>,
}

/// Serves on exactly these from now on. They are clones: a socket that is still among them is never closed, and one that
/// is not has to be closed soon, for its address may be waited for.
pub type Serve<'a> = &'a dyn Fn(Vec<TcpListener>);

impl Sockets {
    /// None yet; what was passed is used where its address is wanted.
    pub fn of(key: &'static str, passed: &Passed) -> Self {
        Self { key, passed: passed.clone(), bound: HashMap::new() }
    }

    /// Binds what is new in `wanted`. What could not be bound is told to `errors`, and must then be undone.
    pub fn prepare(&mut self, wanted: &[SocketAddr], serve: Serve<'_>, errors: &mut Vec<String>) -> Prepared {
        let mut prepared = Prepared::default();
        for address in wanted {
            if self.bound.contains_key(address) {
                continue;
            }
            let mut result = self.listen(*address);
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
                serve(self.clones());
                prepared.displaced.extend(rivals);
                result = socket::once_free(|| self.listen(*address));
            }
            match result {
                Ok(listener) => {
                    prepared.bound.insert(*address, listener);
                }
                Err(error) => {
                    errors.push(format!("{}: cannot listen on {address}: {error}{}", self.key, cure(&error)));
                }
            }
        }
        prepared
    }

    /// Brings back what was closed for a change that does not come.
    pub fn undo(&mut self, prepared: Prepared, serve: Serve<'_>) {
        let Prepared { bound, displaced } = prepared;
        drop(bound);
        if displaced.is_empty() {
            return;
        }
        for address in displaced {
            match socket::once_free(|| self.listen(address)) {
                Ok(listener) => {
                    self.bound.insert(address, listener);
                }
                Err(error) => tracing::error!(%address, %error, "{} could not be bound again", self.key),
            }
        }
        serve(self.clones());
    }

    /// Serves on `wanted` and nowhere else. Returns the addresses that are new, as the kernel tells them.
    pub fn commit(&mut self, wanted: &[SocketAddr], prepared: Prepared, serve: Serve<'_>) -> Vec<SocketAddr> {
        let new = prepared.bound.values().filter_map(|listener| listener.local_addr().ok()).collect();
        let before = self.bound.len();
        self.bound.retain(|address, _| wanted.contains(address));
        if self.bound.len() < before || !prepared.bound.is_empty() {
            self.bound.extend(prepared.bound);
            serve(self.clones());
        }
        new
    }

    /// Every address, as the kernel tells them.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut all: Vec<_> = self.bound.values().filter_map(|listener| listener.local_addr().ok()).collect();
        all.sort();
        all
    }

    fn listen(&self, address: SocketAddr) -> std::io::Result<TcpListener> {
        self.passed.tcp(address).map(|(listener, _)| listener)
    }

    fn clones(&self) -> Vec<TcpListener> {
        self.bound.values().filter_map(|listener| listener.try_clone().ok()).collect()
    }
}
