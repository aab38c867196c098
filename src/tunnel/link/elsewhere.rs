//! A name that leads elsewhere: the link follows it, or gives its place in the pool to one that does. And gateways
//! other than the session's, which could serve new streams while it is searched for.

use std::sync::atomic::Ordering;

use super::LinkTask;
use super::tell::Way;
use crate::config::Address;
use crate::metrics::LossReason;
use crate::tunnel::claims::{Input, Place};

impl LinkTask {
    /// Remembers which name led to the connection at hand. One that leads to where its gateway says it is reached owes
    /// that to no name; one that leads to the last address owes it to whatever the one before did.
    pub(super) fn note_how_led(&mut self, way: &Way) {
        self.led = match (way.place, &way.endpoint.address, way.address) {
            (Place::Endpoint(_), Address::Host { host, .. }, Some(address)) => Some((host.clone(), address.ip())),
            (Place::Last, ..) => self.led.take(),
            _ => None,
        };
        self.slot.set_led(self.led.clone());
    }

    /// The name leads to another address: the session moves there while its connection stands.
    pub(super) fn follow(&mut self) {
        let Some((at, (host, address))) = self.at.as_ref().zip(self.led.as_ref()) else { return };
        let index = self.endpoints.iter().position(|endpoint| endpoint.name == at.name);
        let (Some(index), true) = (index, self.driver.has_wire() && self.moving.is_none()) else { return };
        let text = format!("{host} does not lead to {address} any more: the session moves to where it leads");
        tracing::info!(upstream = self.hub.name, link = self.slot.id, endpoint = at.name, "{text}");
        self.event_of("name_changed", Some(at.name.clone()), Some(LossReason::Reload), text);
        self.moving = Some(LossReason::Reload);
        self.follows = true;
        self.step(Input::Follow(index));
    }

    /// It leads here again, before the session has moved.
    pub(super) fn stay(&mut self) {
        if std::mem::take(&mut self.follows) {
            self.moving = None;
            self.step(Input::Stay);
        }
    }

    /// Another gateway is where the name leads. The session and its streams live here; new streams are for a link of
    /// their own, and until that stands this one takes them, too.
    pub(super) fn yield_place(&mut self) {
        (self.moving, self.follows) = (None, false);
        let host = self.led.as_ref().map(|(host, _)| host.as_str()).unwrap_or_default();
        let text = format!("{host} leads to another gateway now: new streams go there, these stay here to their end");
        tracing::info!(upstream = self.hub.name, link = self.slot.id, streams = self.driver.streams(), "{text}");
        let endpoint = self.at.as_ref().map(|at| at.name.clone());
        self.event_of("name_changed", endpoint, None, text);
        self.slot.yields.store(true, Ordering::Release);
        self.hub.keeper.notify_one();
    }

    /// The session is searched for, and another gateway is up. Whether anybody needs that is the keeper's to say.
    pub(super) fn another_is_up(&self) {
        self.slot.searches.store(true, Ordering::Release);
        self.hub.keeper.notify_one();
    }
}
