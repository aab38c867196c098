//! Tunnel mode as a wing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Files, Reread, Wing};
use crate::config;
use crate::link::drill;
use crate::link::resolve::Resolver;
use crate::listener::Arrivals;
use crate::net::tls::ClientTls;
use crate::status::{Status, UpstreamStatus};
use crate::tunnel::door::Door;
use crate::tunnel::hub::Hub;
use crate::tunnel::keeper::Keeper;
use crate::tunnel::slot::order;
use crate::tunnel::token;
use crate::workers::restarted;

const TOKEN: &str = "token file";

/// A running upstream in tunnel mode.
pub struct Tunnel {
    hub: Arc<Hub>,
    doors: Mutex<Vec<(config::Forward, Arc<Door>)>>,
    /// Why the token's file could not be used when it was last read: told once.
    token_fault: Mutex<Option<String>>,
    stop: CancellationToken,
}

impl Tunnel {
    /// Starts the keeper of its links. `drain`: how long streams may stay once it is removed.
    pub fn start(
        settings: &Arc<config::Upstream>,
        process: &Arc<Status>,
        resolver: &Resolver,
        workers: &[Handle],
        files: Files,
        drain: watch::Receiver<Duration>,
    ) -> Self {
        let hub = Hub::new(settings, process, resolver, workers);
        let (doors, token_fault, stop) = (Mutex::default(), Mutex::default(), CancellationToken::new());
        let tunnel = Self { hub: hub.clone(), doors, token_fault, stop };
        tunnel.store(files);
        tunnel.open_doors(settings);
        let stop = tunnel.stop.clone();
        let keep = move || Keeper::new(hub.clone(), drain.clone()).run(stop.clone());
        tunnel.hub.worker().spawn(restarted(keep));
        tunnel
    }

    fn store(&self, files: Files) {
        self.hub.credentials.tls.store(files.tls);
        self.hub.credentials.token.store(files.token);
    }

    /// A door for each forward; one that stays what it was stays.
    fn open_doors(&self, settings: &config::Upstream) {
        let forwards = settings.tunnel.as_ref().map(|tunnel| tunnel.forwards.clone()).unwrap_or_default();
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        let door = |forward: config::Forward| {
            let kept = doors.iter().find(|(old, _)| *old == forward).map(|(_, door)| door.clone());
            (forward.clone(), kept.unwrap_or_else(|| Door::new(&self.hub, &forward)))
        };
        *doors = forwards.into_iter().map(door).collect();
    }
}

impl Wing for Tunnel {
    fn status(&self) -> &Arc<UpstreamStatus> {
        &self.hub.status
    }

    fn arrivals(&self) -> Vec<Arc<dyn Arrivals>> {
        let doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.iter().map(|(_, door)| door.clone() as Arc<dyn Arrivals>).collect()
    }

    fn apply(&self, settings: &Arc<config::Upstream>) {
        let old = self.hub.current();
        self.open_doors(settings);
        self.hub.apply(settings);
        if old.retry != settings.retry || old.endpoints != settings.endpoints {
            self.hub.retry();
        }
        // The gateway hears of it in a hello, and until then holds by what it was told.
        let resume = |upstream: &config::Upstream| upstream.tunnel.as_ref().map(|tunnel| tunnel.resume);
        if resume(&old) != resume(settings) {
            self.hub.tell_all(order::MOVE);
        }
    }

    fn take_files(&self, files: Files) {
        self.store(files);
        // Perhaps what they hold is what the links were waiting for.
        self.hub.tell_all(order::MOVE | order::RETRY);
    }

    fn tls(&self) -> Option<Arc<ClientTls>> {
        self.hub.credentials.tls.load_full()
    }

    fn reload_files(&self) -> Vec<Reread> {
        let mut reread = Vec::new();
        if let Some(tls) = self.tls() {
            match tls.reload() {
                Ok(false) => {}
                Ok(true) => reread.push(Reread { what: "TLS files", fault: None }),
                Err(fault) => reread.push(Reread { what: "TLS files", fault: Some(fault.to_string()) }),
            }
        }
        if let Some(path) = self.hub.current().tunnel.as_ref().and_then(|tunnel| tunnel.token_file.clone()) {
            let old = self.hub.credentials.token.load_full();
            let fault = match token::read(&path) {
                Ok(token) if old.as_deref().is_some_and(|old| old.is_same(&token)) => None,
                Ok(token) => {
                    self.hub.credentials.token.store(Some(Arc::new(token)));
                    reread.push(Reread { what: TOKEN, fault: None });
                    None
                }
                Err(fault) => Some(fault),
            };
            let mut told = self.token_fault.lock().unwrap_or_else(PoisonError::into_inner);
            if fault.is_some() && *told != fault {
                reread.push(Reread { what: TOKEN, fault: fault.clone() });
            }
            *told = fault;
        }
        // A planned move: the same session goes on over a connection made with the new files.
        if reread.iter().any(|reread| reread.fault.is_none()) {
            self.hub.tell_all(order::MOVE);
        }
        reread
    }

    fn retry(&self) {
        self.hub.retry();
    }

    fn woken(&self) {
        self.hub.tell_all(order::RETRY | order::ASK);
    }

    fn clients(&self) -> usize {
        self.hub.clients()
    }

    fn cut(&self) -> usize {
        let streams = self.hub.streams();
        self.hub.tell_all(order::CUT);
        streams
    }

    fn remove(&self) {
        let _ = self.hub.stop_drill();
        self.stop.cancel();
    }

    fn drill(&self, order: drill::Order) -> Result<String, String> {
        self.hub.drill(order)
    }

    fn stop_drill(&self) -> Result<String, String> {
        self.hub.stop_drill()
    }
}
