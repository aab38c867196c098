//! The gateway of this process: whether there is one, its sockets, and how both change.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::sockets::{self, Sockets};
use crate::config;
use crate::gateway::{self, Files};
use crate::lifecycle::Clients;
use crate::net::renewal::Reread;
use crate::surroundings::Surroundings;
use crate::systemd::Passed;

/// A running gateway. It shows itself in the status from its start until its last session is gone.
pub trait Gateway: Send + Sync {
    /// Accepts on exactly these from now on. They do not block; what has been accepted already stays.
    fn serve(&self, listeners: Vec<TcpListener>);

    /// Takes new settings, and what was read from files, if other ones are named.
    fn apply(&self, settings: &Arc<config::Gateway>, files: Option<Files>);

    /// Reads the same files again, and says of each kind that looks different whether it is used from now on.
    fn reload_files(&self) -> Vec<Reread>;

    /// This machine was suspended: every dialer is asked at once whether it is still there.
    fn woken(&self);

    /// Streams, those of a drain included.
    fn clients(&self) -> Clients;

    /// The process is about to leave: no new session and no new stream, resumes are accepted, every dialer is told.
    fn drain(&self);

    /// Resets every stream; returns how many they were.
    fn cut(&self) -> usize;

    /// Drains for `drain.timeout` at most, and ends; the series go last.
    fn remove(&self);
}

impl Gateway for gateway::Gateway {
    fn serve(&self, listeners: Vec<TcpListener>) {
        self.serve(listeners);
    }

    fn apply(&self, settings: &Arc<config::Gateway>, files: Option<Files>) {
        self.apply(settings, files);
    }

    fn reload_files(&self) -> Vec<Reread> {
        self.reload_files()
    }

    fn woken(&self) {
        self.woken();
    }

    fn clients(&self) -> Clients {
        self.clients()
    }

    fn drain(&self) {
        self.drain();
    }

    fn cut(&self) -> usize {
        self.cut()
    }

    fn remove(&self) {
        self.remove();
    }
}

/// Starts a gateway that does not accept yet. `None`: it cannot be; it is told.
fn start(settings: &Arc<config::Gateway>, files: Files, around: Surroundings<'_>) -> Option<Arc<dyn Gateway>> {
    match gateway::Gateway::start(settings, files, around) {
        Ok(gateway) => Some(Arc::new(gateway)),
        Err(error) => {
            tracing::error!(name = settings.name, "the gateway cannot run: {error}");
            None
        }
    }
}

/// The gateway, if there is one, and the sockets it accepts on.
pub struct FarEnd {
    sockets: Sockets,
    settings: Option<Arc<config::Gateway>>,
    gateway: Option<Arc<dyn Gateway>>,
    /// Gateways that were removed, while streams of theirs may stay.
    leaving: Vec<Arc<dyn Gateway>>,
}

/// What could fail has not: to be [committed](FarEnd::commit) or [undone](FarEnd::undo).
pub struct Prepared {
    sockets: sockets::Prepared,
    files: Option<Files>,
}

impl FarEnd {
    /// There is no gateway.
    pub fn none(passed: &Passed) -> Self {
        Self { sockets: Sockets::of("gateway.listen", passed), settings: None, gateway: None, leaving: Vec::new() }
    }

    /// Reads and binds what is new in `wanted`. What could not be is told to `errors`, and must then be undone.
    pub fn prepare(&mut self, wanted: Option<&Arc<config::Gateway>>, errors: &mut Vec<String>) -> Prepared {
        let known = |new: &config::Gateway| self.settings.as_ref().is_some_and(|old| Files::are_the_same(old, new));
        let files = match wanted.filter(|new| !known(new)).map(|new| Files::read(new)).transpose() {
            Ok(files) => files,
            Err(fault) => {
                errors.push(format!("gateway: {fault}"));
                None
            }
        };
        let gateway = self.gateway.clone();
        Prepared { sockets: self.sockets.prepare(addresses(wanted), &|them| serve(&gateway, them), errors), files }
    }

    /// Brings back what was closed for a change that does not come.
    pub fn undo(&mut self, prepared: Prepared) {
        let gateway = self.gateway.clone();
        self.sockets.undo(prepared.sockets, &|listeners| serve(&gateway, listeners));
    }

    /// Starts the gateway, changes it, or lets it go.
    pub fn commit(&mut self, wanted: Option<&Arc<config::Gateway>>, prepared: Prepared, around: Surroundings<'_>) {
        self.leaving.retain(|gateway| gateway.clients().open > 0);
        let status = around.status;
        match (&self.gateway, wanted) {
            (Some(gateway), Some(new)) if self.settings.as_ref() != Some(new) => gateway.apply(new, prepared.files),
            (None, Some(new)) => self.gateway = start(new, prepared.files.unwrap_or_default(), around),
            _ => {}
        }
        let new =
            self.sockets.commit(addresses(wanted.filter(|_| self.gateway.is_some())), prepared.sockets, &|them| {
                serve(&self.gateway, them);
            });
        for address in new {
            tracing::info!(%address, "the gateway listens");
        }
        if wanted.is_none()
            && let Some(gateway) = self.gateway.take()
        {
            gateway.remove();
            self.leaving.push(gateway);
        } else if let Some(shown) = status.gateway().filter(|_| self.gateway.is_some()) {
            shown.listening.store(Arc::new(self.sockets.addresses().iter().map(ToString::to_string).collect()));
        }
        self.settings = wanted.cloned();
    }

    /// See [`Gateway::reload_files`].
    pub fn reload_files(&self) -> Vec<Reread> {
        self.gateway.as_ref().map(|gateway| gateway.reload_files()).unwrap_or_default()
    }

    /// See [`Gateway::clients`]; of removed ones, too.
    pub fn clients(&self) -> Clients {
        let mut all = Clients::default();
        for gateway in self.gateway.iter().chain(&self.leaving) {
            let clients = gateway.clients();
            all.open += clients.open;
            all.came += clients.came;
        }
        all
    }

    /// See [`Gateway::woken`].
    pub fn woken(&self) {
        self.gateway.iter().chain(&self.leaving).for_each(|gateway| gateway.woken());
    }

    /// See [`Gateway::drain`].
    pub fn drain(&self) {
        if let Some(gateway) = &self.gateway {
            gateway.drain();
        }
    }

    /// Closes the sockets, resets what is left, and ends; returns how many streams that were.
    pub fn stop(&mut self) -> usize {
        let gateway = self.gateway.take();
        let cut = gateway.iter().chain(&self.leaving).map(|gateway| gateway.cut()).sum();
        self.sockets.commit(&[], sockets::Prepared::default(), &|listeners| serve(&gateway, listeners));
        if let Some(gateway) = gateway {
            gateway.remove();
            self.leaving.push(gateway);
        }
        cut
    }
}

fn serve(gateway: &Option<Arc<dyn Gateway>>, listeners: Vec<TcpListener>) {
    if let Some(gateway) = gateway {
        gateway.serve(listeners);
    }
}

fn addresses(gateway: Option<&Arc<config::Gateway>>) -> &[SocketAddr] {
    gateway.map_or(&[], |gateway| &gateway.listen)
}

#[cfg(test)]
mod tests;
