//! An upstream in tunnel mode.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::{Files, Upstream};
use crate::config;
use crate::link::drill;
use crate::link::mailbox::order;
use crate::listener::Arrivals;
use crate::net::renewal::{Renewed, Reread};
use crate::net::tls::ClientTls;
use crate::status::UpstreamStatus;
use crate::surroundings::Surroundings;
use crate::tunnel::forward::Forward;
use crate::tunnel::hub::Hub;
use crate::tunnel::keeper::Keeper;
use crate::tunnel::token;
use crate::workers::restarted;

const TOKEN: &str = "token file";

/// A running upstream in tunnel mode.
pub struct Tunnel {
    hub: Arc<Hub>,
    forwards: Mutex<Vec<(config::Forward, Arc<Forward>)>>,
    /// The last fault of the token's file, until it can be used.
    token_fault: Mutex<Option<String>>,
    stop: CancellationToken,
}

impl Tunnel {
    /// Starts the keeper of its links.
    pub fn start(settings: &Arc<config::Upstream>, files: Files, around: Surroundings<'_>) -> Self {
        let Surroundings { status, resolver, workers, drain } = around;
        let hub = Hub::new(settings, status, resolver, workers);
        let stop = CancellationToken::new();
        let tunnel = Self { hub: hub.clone(), forwards: Mutex::default(), token_fault: Mutex::default(), stop };
        tunnel.store(files);
        tunnel.open_forwards(settings);
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

    /// One for each of the settings; one that stays what it was stays.
    fn open_forwards(&self, settings: &config::Upstream) {
        let forwards = settings.tunnel.as_ref().map(|tunnel| tunnel.forwards.clone()).unwrap_or_default();
        let mut open = self.forwards.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = |forward: config::Forward| {
            let kept = open.iter().find(|(old, _)| *old == forward).map(|(_, forward)| forward.clone());
            (forward.clone(), kept.unwrap_or_else(|| Forward::new(&self.hub, &forward)))
        };
        *open = forwards.into_iter().map(opened).collect();
    }
}

impl Upstream for Tunnel {
    fn status(&self) -> &Arc<UpstreamStatus> {
        &self.hub.status
    }

    fn arrivals(&self) -> Vec<Arc<dyn Arrivals>> {
        let open = self.forwards.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|(_, forward)| forward.clone() as Arc<dyn Arrivals>).collect()
    }

    fn apply(&self, settings: &Arc<config::Upstream>) {
        let old = self.hub.current();
        self.open_forwards(settings);
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

    fn drill(&self, order: drill::Order) -> Result<drill::Begun, String> {
        self.hub.drill(order)
    }

    fn stop_drill(&self) -> Result<String, String> {
        self.hub.stop_drill()
    }
}
