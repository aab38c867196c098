//! An upstream in direct mode.

use std::sync::Arc;

use super::{Files, Upstream};
use crate::config;
use crate::direct::in_use::Order;
use crate::direct::keeper::Direct;
use crate::link::drill;
use crate::listener::Arrivals;
use crate::net::renewal::Reread;
use crate::net::tls::ClientTls;
use crate::status::UpstreamStatus;

impl Upstream for Direct {
    fn status(&self) -> &Arc<UpstreamStatus> {
        &self.pool.status
    }

    fn arrivals(&self) -> Vec<Arc<dyn Arrivals>> {
        vec![self.pool.clone()]
    }

    fn apply(&self, settings: &Arc<config::Upstream>) {
        self.pool.apply(settings);
    }

    fn take_files(&self, files: Files) {
        self.pool.tls.store(files.tls);
    }

    fn tls(&self) -> Option<Arc<ClientTls>> {
        self.pool.tls.load_full()
    }

    fn reload_files(&self) -> Vec<Reread> {
        let reload = |tls: Arc<ClientTls>| Reread::of("TLS files", tls.reload().map_err(|fault| fault.to_string()));
        self.tls().and_then(reload).into_iter().collect()
    }

    fn are_files_unusable(&self) -> Option<bool> {
        self.tls().map(|tls| tls.is_behind())
    }

    fn retry(&self) {
        Direct::retry(self);
    }

    fn woken(&self) {
        Direct::woken(self);
    }

    fn clients(&self) -> usize {
        self.pool.present.count()
    }

    fn cut(&self) -> usize {
        self.pool.in_use.tell_all(Order::Drained)
    }

    fn remove(&self) {
        let _ = self.pool.stop_drill();
        Direct::remove(self);
    }

    fn drill(&self, order: drill::Order) -> Result<drill::Begun, String> {
        self.pool.drill(order)
    }

    fn stop_drill(&self) -> Result<String, String> {
        self.pool.stop_drill()
    }
}
