//! One connection that the session runs over, and what is known of it.

use std::time::{Duration, Instant};

use super::cork::Cork;
use super::delayed_ack::DelayedAck;
use super::passage::Passage;
use super::room::Room;
use crate::config::Beats;
use crate::metrics::LossReason;
use crate::net::socket::rto_max;
use crate::net::wire::Wire;
use crate::tunnel::pulse::Pulse;

/// A connection the session runs over.
pub(super) struct Connection {
    pub wire: Wire,
    pub pulse: Pulse,
    /// What goes out before the session's bytes.
    pub preface: Vec<u8>,
    pub written: usize,
    pub room: Room,
    pub cork: Cork,
    pub delayed: DelayedAck,
    /// Of the beat awaited.
    pub passage: Passage,
    /// Why nothing more can be written. Told once the claim that is out is decided: a gateway that grants it closes this
    /// connection before its answer arrives.
    pub broken: Option<(LossReason, String)>,
    /// When its round trip was last measured, by a beat or by the kernel.
    pub measured: Instant,
}

impl Connection {
    pub fn new(wire: Wire, beats: &Beats, preface: Vec<u8>, rtt: Duration, now: Instant) -> Self {
        let mut pulse = Pulse::new(*beats, now, fastrand::u64(..));
        pulse.set_rtt(rtt);
        let room = Room::new();
        // Where the kernel has neither, everything works, only less well under stress.
        let _ = wire.set_notsent_lowat(room.kernel as u32);
        let _ = wire.tcp().apply_rto_max(rto_max(beats.budget()));
        Self {
            wire,
            pulse,
            preface,
            written: 0,
            room,
            cork: Cork::new(now),
            delayed: DelayedAck::default(),
            passage: Passage::default(),
            broken: None,
            measured: now,
        }
    }

    pub fn retune(&mut self, beats: &Beats, now: Instant) {
        self.pulse.retune(*beats, now);
        let _ = self.wire.tcp().apply_rto_max(rto_max(beats.budget()));
    }

    /// The kernel has all that was given to the wire: where does the beat awaited end in it?
    pub fn note_passage(&mut self) {
        if self.passage == Passage::Handed
            && let Ok(info) = self.wire.tcp_info()
        {
            self.passage.in_kernel(&info);
        }
    }

    /// The socket takes bytes: did it take long?
    pub fn took(&mut self, now: Instant) {
        let wire = &self.wire;
        if self.room.took(now, || wire.tcp_info().map_or(u64::MAX, |info| info.delivery_rate)) {
            let _ = self.wire.set_notsent_lowat(self.room.kernel as u32);
        }
    }
}
