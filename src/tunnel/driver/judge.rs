//! Whether the connection at hand lives: beats, and what follows when they go unanswered.

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::passage::Passage;
use super::{Driver, Event};
use crate::link::heartbeat::Delivery;
use crate::metrics::LossReason;
use crate::net::wire::Wire;
use crate::tunnel::pulse::{Death, Verdict};

/// The kernel tells times in its own ticks: bytes read at once may seem to have come so much later.
const TICK: Duration = Duration::from_millis(20);

impl Connection {
    /// Looks whether bytes came that wait to be read, for while a claim is under way nothing is: a peer that answers no
    /// claim either must not be waited for until the end of days. True when that ends a suspicion.
    fn was_heard(&mut self, now: Instant) -> bool {
        if now < self.pulse.next_deadline() {
            return false;
        }
        let Ok(info) = self.wire.tcp_info() else { return false };
        let came = now.checked_sub(info.last_data_received);
        came.filter(|came| *came > self.pulse.last_heard() + TICK).is_some_and(|came| self.pulse.heard(came))
    }
}

impl Driver {
    /// Beats, or gives the connection up.
    pub(super) fn judge(&mut self, now: Instant) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        if self.frozen && connection.was_heard(now) {
            self.events.push_back(Event::Recovered);
        }
        let (wire, passage) = (&connection.wire, &connection.passage);
        let verdict = connection.pulse.tick(now, || delivery(wire, passage));
        match verdict {
            Verdict::Quiet => return false,
            Verdict::Beat => {}
            Verdict::Suspect => {
                self.observer.beat_missed();
                self.events.push_back(Event::Suspect);
            }
            Verdict::Missed => self.observer.beat_missed(),
            Verdict::Dead(death) => {
                self.observer.beat_missed();
                let error = match death {
                    Death::Silent => "no beat was answered within the detection budget",
                    Death::Stalled => "beats are answered, and data is not acknowledged",
                };
                let (reason, error) =
                    connection.broken.take().unwrap_or_else(|| (LossReason::Heartbeat, error.to_owned()));
                self.lost(reason, error);
                return true;
            }
        }
        let clock = connection.pulse.beat_sent(now);
        if connection.pulse.awaited() == Some(clock) {
            connection.passage = Passage::Asked;
        }
        self.session.ping(clock);
        self.observer.beat_sent();
        true
    }
}

/// What the kernel says of the bytes sent.
fn delivery(wire: &Wire, passage: &Passage) -> Option<Delivery> {
    let info = wire.tcp_info().ok()?;
    Some(Delivery {
        all_acknowledged: passage.has_arrived(&info),
        acknowledged: info.bytes_acked,
        last_acknowledged: info.last_ack_received,
    })
}
