//! Looking after streams that say nothing by themselves: idle ones, and those whose client or service has vanished.

use std::time::{Duration, Instant};

use super::Driver;
use super::local::Reading;
use crate::clock;
use crate::link::watch::{self, Verdict};
use crate::metrics::CloseReason;
use crate::net::socket::{self, Keepalive};
use crate::net::transport::Transport;
use crate::session::ResetCode;

/// How often idle streams are looked for, and new sockets get their keepalive.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

impl Driver {
    /// Looks for idle streams, and gives sockets that stayed their keepalive.
    pub(super) fn sweep_streams(&mut self, now: Instant) {
        self.sweep = self.sweep.wrapping_add(1);
        let sweep = self.sweep;
        let idle = self.settings.idle_timeout.map(|idle| idle.as_secs_f64().ceil() as u32);
        let mut over = Vec::new();
        self.unsustained = false;
        for stream in self.session.ids() {
            let Some(side) = self.session.get(stream) else { continue };
            if !side.sustained && now.saturating_duration_since(side.since) < SWEEP {
                self.unsustained = true;
            } else if !side.sustained {
                side.sustained = true;
                if let Some(transport) = side.transport.as_ref().filter(|transport| transport.tcp_fd().is_some()) {
                    let _ = socket::apply_keepalive(transport, &Keepalive::LOCAL);
                }
            }
            if idle.is_some_and(|idle| sweep.wrapping_sub(side.touched) > idle) {
                over.push(stream);
            }
        }
        for stream in over {
            self.end(stream, Some(ResetCode::Idle), CloseReason::Idle);
        }
        let again = self.session.streams() > 0 && (idle.is_some() || self.unsustained);
        self.next_sweep = again.then_some(now + SWEEP);
    }

    /// Bytes went to the stream's socket, or it is read no further: from now on it is looked at once a `timeout`, until its
    /// peer's kernel has all of them and it is read again.
    pub(super) fn stir(&mut self, stream: u32) {
        let Some(side) = self.session.get(stream) else { return };
        if !std::mem::replace(&mut side.stirred, true) {
            self.stirred.push(stream);
            if self.next_look.is_none() {
                self.next_look = Some(clock::now() + self.settings.beats.timeout);
            }
        }
    }

    /// Ends the streams whose client or service is gone without a word: keepalive does not tell while bytes are in flight,
    /// and a reset is not heard by who does not read.
    pub(super) fn look_at_sockets(&mut self, now: Instant) {
        let beats = self.settings.beats;
        let mut stirred = std::mem::take(&mut self.stirred);
        let mut gone = Vec::new();
        stirred.retain(|stream| {
            let Some(side) = self.session.get(*stream) else { return false };
            let unread = matches!(side.reading, Reading::NoCredit | Reading::NoRoom);
            if unread && side.transport.as_ref().is_some_and(Transport::has_failed) {
                gone.push(*stream);
            }
            side.stirred = match side.transport.as_ref().map(|socket| socket.tcp_info()) {
                Some(Ok(info)) => {
                    let verdict = watch::judge(&info, side.stall.lasts(&info, now), &beats);
                    if verdict == Verdict::Dead {
                        gone.push(*stream);
                    }
                    unread || verdict == Verdict::InFlight
                }
                _ => unread,
            };
            side.stirred
        });
        self.stirred = stirred;
        self.next_look = (!self.stirred.is_empty()).then_some(now + beats.timeout);
        for stream in gone {
            self.local_failed(stream);
        }
    }
}
