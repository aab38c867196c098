//! Tunnel mode as a wing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Files, Wing};
use crate::config;
use crate::link::drill;
use crate::link::resolve::Resolver;
use crate::listener::Arrivals;
use crate::net::renewal::{Renewed, Reread};
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
    /// The last fault of the token's file, until it can be used.
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
        let stop = CancellationToken::new();
        let tunnel = Self { hub: hub.clone(), doors: Mutex::default(), token_fault: Mutex::default(), stop };
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
        *self.token_fault() = None;
    }

    fn token_fault(&self) -> MutexGuard<'_, Option<String>> {
        self.token_fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has become of the token's file, if it looks different or has another fault than last time.
    fn reload_token(&self) -> Option<Reread> {
        let path = self.hub.current().tunnel.as_ref()?.token_file.clone()?;
        let (old, read) = (self.hub.credentials.token.load_full(), token::read(&path));
        let fault = read.as_ref().err().cloned();
        let told = std::mem::replace(&mut *self.token_fault(), fault.clone());
        let renewed = match read {
            Ok(token) if old.is_some_and(|old| old.is_same(&token)) => {
                Ok(if told.is_some() { Renewed::PutBack } else { Renewed::Same })
            }
            Ok(token) => {
                self.hub.credentials.token.store(Some(Arc::new(token)));
                Ok(Renewed::Others)
            }
            Err(_) if told == fault => return None,
            Err(fault) => Err(fault),
        };
        Reread::of(TOKEN, renewed)
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
            reread.extend(Reread::of("TLS files", tls.reload().map_err(|fault| fault.to_string())));
        }
        reread.extend(self.reload_token());
        // A planned move: the same session goes on over a connection made with the new files.
        if reread.iter().any(Reread::is_used) {
            self.hub.tell_all(order::MOVE);
        }
        reread
    }

    fn are_files_unusable(&self) -> Option<bool> {
        let tls = self.tls().map(|tls| tls.is_behind());
        let has_token = self.hub.credentials.token.load().is_some();
        let token = has_token.then(|| self.token_fault().is_some());
        tls.into_iter().chain(token).reduce(|one, other| one || other)
    }

    fn retry(&self) {
        self.hub.retry();
    }

    fn woken(&self) {
        self.hub.tell_all(order::RETRY | order::ASK);
    }

    fn clients(&self) -> usize {
        self.hub.present.count()
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
