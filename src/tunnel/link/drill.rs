//! A rehearsed outage, as a tunnel's link goes through it.

use std::sync::Arc;

use super::LinkTask;
use crate::config::Endpoint;
use crate::link::drill::Drill;
use crate::net::rehearsal::{Kind, Rehearsal};
use crate::net::wire::Wire;

impl LinkTask {
    pub(super) fn begin_drill(&mut self, mut drill: Drill) {
        let is_here = self.at.as_ref().is_some_and(|at| at.name == drill.endpoint());
        match drill.rehearsal().kind() {
            _ if !is_here => {}
            Kind::Reset => self.driver.reset_wire("the connection was reset by a drill"),
            Kind::Blackhole | Kind::Delay(_) => self.driver.rehearse(drill.rehearsal()),
        }
        drill.arrived();
        self.drill = Some(drill);
    }

    /// Clears a drill away that is over.
    pub(super) fn end_drill(&mut self) {
        self.drill.take_if(|drill| drill.rehearsal().is_over());
    }

    /// The outage in which `endpoint` is for this link.
    pub(super) fn rehearsal_at(&self, endpoint: &Endpoint) -> Option<Arc<Rehearsal>> {
        self.hub.status.rehearsal_of(self.slot.id, &endpoint.name)
    }

    /// A connection to `endpoint`, in the outage if there is one that holds bytes up.
    pub(super) fn in_drill(&self, endpoint: &Endpoint, wire: Wire) -> Wire {
        match self.rehearsal_at(endpoint) {
            Some(rehearsal) if rehearsal.kind() != Kind::Reset => wire.rehearsed(&rehearsal),
            _ => wire,
        }
    }
}
