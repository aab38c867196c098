//! The addresses where HTTP is served, and how they change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::sockets::{Prepared, Sockets};
use crate::http::{self, HttpThread};
use crate::status::Status;
use crate::systemd::Passed;

/// The HTTP thread and the sockets it serves.
pub struct HttpSockets {
    thread: HttpThread,
    sockets: Sockets,
    public_status: Arc<AtomicBool>,
}

impl HttpSockets {
    /// The thread, without an address yet. Errors: the thread could not be started.
    pub fn closed(status: &Arc<Status>, passed: &Passed) -> std::io::Result<Self> {
        let public_status = Arc::new(AtomicBool::new(false));
        let thread = http::serve(Vec::new(), status.clone(), public_status.clone())?;
        Ok(Self { thread, sockets: Sockets::of("http.listen", passed), public_status })
    }

    /// Binds what is new in `wanted`. What could not be bound is told to `errors`, and must then be undone.
    pub fn prepare(&mut self, wanted: &[SocketAddr], errors: &mut Vec<String>) -> Prepared {
        self.sockets.prepare(wanted, &|listeners| self.thread.rebind(listeners), errors)
    }

    /// Brings back what was closed for a change that does not come.
    pub fn undo(&mut self, prepared: Prepared) {
        self.sockets.undo(prepared, &|listeners| self.thread.rebind(listeners));
    }

    /// Serves on `wanted` and nowhere else.
    pub fn commit(&mut self, wanted: &[SocketAddr], prepared: Prepared, public_status: bool) {
        self.public_status.store(public_status, Ordering::Relaxed);
        for address in self.sockets.commit(wanted, prepared, &|listeners| self.thread.rebind(listeners)) {
            tracing::info!(%address, "metrics, health and status are served");
        }
    }

    /// Ends the thread and waits for it.
    pub fn stop(self) {
        self.thread.stop();
    }
}
