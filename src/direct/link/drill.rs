//! A rehearsed outage, as a link of the pool goes through it.

use std::time::Instant;

use super::LinkTask;
use crate::direct::pool::Opened;
use crate::link::drill::Drill;
use crate::link::state::State;
use crate::metrics::{DialOutcome, LossReason};
use crate::net::rehearsal::Kind;

const RESET: &str = "the connection was reset by a drill";

impl LinkTask {
    pub(super) fn begin_drill(&mut self, now: Instant, mut drill: Drill) {
        let here = self.connection.as_ref().filter(|connection| connection.opened.endpoint.name == drill.endpoint());
        match (drill.rehearsal().kind(), here) {
            (_, None) => {}
            (Kind::Reset, Some(connection)) => {
                let _ = connection.opened.transport.reset_on_close();
                match self.machine.state() {
                    State::Proving { .. } => self.proof_failed(now, DialOutcome::Refused, RESET),
                    _ => self.lose(now, LossReason::Reset, RESET),
                }
            }
            (Kind::Blackhole | Kind::Delay(_), Some(_)) => {
                self.connection = self.connection.take().map(|mut connection| {
                    connection.opened.transport = connection.opened.transport.rehearsed(drill.rehearsal());
                    connection
                });
            }
        }
        drill.arrived();
        self.drill = Some(drill);
    }

    /// Clears a drill away that is over.
    pub(super) fn end_drill(&mut self) {
        self.drill.take_if(|drill| drill.rehearsal().is_over());
    }

    /// A connection just made, in the outage if there is one that holds bytes up.
    pub(super) fn in_drill(&self, opened: Opened) -> Opened {
        match self.pool.status.rehearsal_of(self.slot.id, &opened.endpoint.name) {
            Some(rehearsal) if rehearsal.kind() != Kind::Reset => {
                Opened { transport: opened.transport.rehearsed(&rehearsal), ..opened }
            }
            _ => opened,
        }
    }
}
