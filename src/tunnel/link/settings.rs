//! A link's settings, and what an edit of them changes.

use std::time::Duration;

use super::LinkTask;
use crate::config::{self, Beats, Endpoint};
use crate::tunnel::claims::{self, Input};
use crate::tunnel::driver;

impl LinkTask {
    pub(super) fn retuned(&mut self) {
        let new = self.settings.borrow_and_update().clone();
        let beats = Beats::from(&new.heartbeat);
        let other_beats = self.driver.settings().beats != beats;
        self.endpoints = in_order(&new, self.slot.id);
        self.claims.retune(claims_settings(&new, self.endpoints.len()));
        let mut settings = driver_settings(&new);
        settings.peer_buffer = self.driver.settings().peer_buffer;
        // Less than the gateway knows of holds from the next hello: it acknowledges by what it was told.
        settings.buffer = settings.buffer.max(self.known.as_ref().map_or(0, |known| known.resume.buffer));
        settings.streams = settings.streams.min(self.known.as_ref().map_or(usize::MAX, |known| known.streams));
        if let Some(known) = &self.known {
            known.figures.set_buffer(settings.buffer);
        }
        self.slot.takes(settings.streams);
        self.driver.retune(settings);
        if other_beats {
            self.driver.tune_peer(beats);
        }
        self.schedule_move();
        // An endpoint that went takes its link with it, as soon as the last stream has ended.
        if self.known.is_some() && self.at.as_ref().is_some_and(|at| self.is_gone(at)) {
            return self.drain_away("its endpoint was removed");
        }
        self.step(Input::Tick);
    }

    /// When the connection at hand is old enough to be renewed. Its age counts from when it came, whatever is edited since.
    pub(super) fn schedule_move(&mut self) {
        let age = self.settings.borrow().pool.max_age;
        let from = self.up_since.filter(|_| self.driver.has_wire());
        self.move_at = age.zip(from).map(|(age, from)| from + age.mul_f64(1.1 - 0.2 * fastrand::f64()));
    }

    /// The endpoint is not in the configuration any more.
    pub(super) fn is_gone(&self, endpoint: &Endpoint) -> bool {
        !self.endpoints.iter().any(|known| known.name == endpoint.name)
    }
}

/// The endpoints as this link tries them: by priority, or in turn.
pub(super) fn in_order(settings: &config::Upstream, link: u64) -> Vec<Endpoint> {
    let mut endpoints = settings.endpoints.clone();
    match settings.balance {
        config::Balance::Priority => endpoints.sort_by_key(|endpoint| endpoint.priority),
        config::Balance::RoundRobin | config::Balance::LeastConnections => {
            let turn = usize::try_from(link).unwrap_or_default() % endpoints.len().max(1);
            endpoints.rotate_left(turn);
        }
    }
    endpoints
}

pub(super) fn claims_settings(settings: &config::Upstream, endpoints: usize) -> claims::Settings {
    claims::Settings {
        retry: settings.retry.clone(),
        timeout: settings.heartbeat.timeout,
        deadline: settings.tunnel.as_ref().map_or(Duration::from_secs(60), |tunnel| tunnel.resume.deadline),
        endpoints,
    }
}

pub(super) fn driver_settings(settings: &config::Upstream) -> driver::Settings {
    let (buffer, windows) = settings.tunnel.as_ref().map_or((16 << 20, 64 << 20), |t| (t.resume.buffer, t.windows));
    driver::Settings {
        beats: Beats::from(&settings.heartbeat),
        idle_timeout: settings.limits.idle_timeout,
        buffer,
        peer_buffer: buffer,
        windows,
        streams: settings.limits.connections,
        budget: None,
    }
}
