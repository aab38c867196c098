//! What the simulation of the whole needs of a gateway beyond what everybody does.

use std::net::SocketAddr;
use std::sync::Arc;

use super::files::{Files, KnownToken};
use super::{Gateway, accept};
use crate::net::memory;
use crate::net::tcp::Unbound;
use crate::status::SessionView;
use crate::workers::of_process;

impl Gateway {
    /// Serves whoever comes to `address`, as a task of the process that calls.
    pub fn serve_in_memory(&self, address: SocketAddr) {
        let shared = self.shared.clone();
        tokio::spawn(of_process(async move {
            while let Some(socket) = memory::accept(address).await {
                if let Ok(peer) = socket.peer_addr() {
                    accept::arrive(&shared, Unbound::Memory(socket), peer);
                }
            }
        }));
    }

    /// What is left of dialers; `None`: nothing.
    pub fn left(&self) -> Option<String> {
        let shared = &self.shared;
        let (sessions, memory) = (shared.sessions.all().len(), shared.budget.used());
        let (pending, open) = (shared.status.metrics.pending.get(), shared.sessions.open());
        let nothing = (sessions, memory, pending, open) == (0, 0, 0, 0);
        (!nothing).then(|| format!("{sessions} sessions, {open} streams, {memory} bytes, {pending} pending"))
    }

    /// It drains, or was cut.
    pub fn is_leaving(&self) -> bool {
        self.shared.phase() != super::Phase::Serving
    }

    /// Its sessions as they show themselves.
    pub fn sessions(&self) -> Vec<SessionView> {
        self.shared.status.sessions().iter().map(|session| session.figures.view()).collect()
    }

    /// Violations counted, by name.
    pub fn violations(&self) -> Vec<(&'static str, u64)> {
        self.shared.status.metrics.violations.figures().filter(|(_, count)| *count > 0).collect()
    }
}

impl Files {
    /// A token that is in no file.
    pub fn of_token(bytes: &[u8]) -> Self {
        let token = crate::session::hello::Token::new(bytes).expect("long enough");
        Self { tls: None, token: Some(Arc::new(KnownToken { token, bytes: bytes.to_vec() })) }
    }
}
