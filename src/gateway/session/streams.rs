//! The streams that a dialer opens, and the dials they wait for.

use std::sync::atomic::Ordering;

use tokio::task::Id;

use super::Live;
use crate::gateway::{Phase, Trouble, services};
use crate::log;
use crate::metrics::StreamRefusal;
use crate::session::{Opening, RefusalCode};
use crate::tunnel::driver::Local;
use crate::workers::of_process;

impl Live {
    pub(super) fn open(&mut self, stream: u32, opening: Opening) {
        if self.phase == Phase::Cut {
            return self.driver.refuse(stream, RefusalCode::Draining);
        }
        let settings = self.shared.settings();
        let Some(service) = services::find(&settings, &opening.service, self.membership.identity.as_ref()) else {
            self.tell_no_service(&opening.service, settings.services.contains_key(&opening.service));
            return self.driver.refuse(stream, RefusalCode::Service);
        };
        self.shared.came.fetch_add(1, Ordering::Relaxed);
        let (service, shared, wait) = (service.clone(), self.shared.clone(), settings.limits.wait);
        let dial = self.dials.spawn(of_process(async move {
            let name = &opening.service;
            let tell = |why: &str| {
                shared.trouble(Trouble::Service(name.clone()), |left_out| {
                    tracing::warn!(service = name, left_out, "a stream was refused: {}", log::printable(why));
                });
            };
            let connected = services::connect(service, &opening, &shared.resolver, wait, tell).await;
            let counted = &shared.status.metrics.services;
            match &connected {
                Ok(_) => counted.opened(name),
                Err(RefusalCode::Limit) => counted.refused(name, StreamRefusal::Limit),
                Err(_) => counted.refused(name, StreamRefusal::Unreachable),
            }
            connected
        }));
        self.streams.insert(dial.id(), stream);
        self.dialling.insert(stream, dial);
    }

    /// The dialer is not told which of the two it is, and whoever reads here is. `exists`: it is a service, not for them.
    fn tell_no_service(&self, service: &str, exists: bool) {
        let (reason, trouble, why) = match exists {
            true => {
                (StreamRefusal::Denied, Trouble::NotAllowed(service.to_owned()), "`allow` does not have this dialer")
            }
            false => (StreamRefusal::Unknown, Trouble::NoService, "there is no such service"),
        };
        self.shared.status.metrics.services.refused(service, reason);
        self.shared.trouble(trouble, |left_out| {
            let service = log::escape(service.as_bytes());
            let identity = self.membership.identity.as_ref().map(tracing::field::display);
            tracing::warn!(service, identity, left_out, "a stream was refused: {why}");
        });
    }

    pub(super) fn dialled(&mut self, id: Id, result: Result<Local, RefusalCode>) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.dialling.remove(&stream);
        match result {
            Ok(local) => self.driver.accept(stream, local),
            Err(code) => self.driver.refuse(stream, code),
        }
    }
}
