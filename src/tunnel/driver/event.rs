//! What a driver tells: its owner, and whoever counts.

use std::time::Duration;

use crate::config::Beats;
use crate::metrics::{CloseReason, LossReason};
use crate::session::{GoAwayCode, Opening, Violation};

/// What the owner has to know of, or to do.
#[derive(Debug)]
pub enum Event {
    /// The connection is gone, or was given up; the streams wait.
    Lost { reason: LossReason, error: String },
    /// A beat went unanswered.
    Suspect,
    /// It was heard again.
    Recovered,
    /// The peer opens a stream: to be [accepted](super::Driver::accept) or [refused](super::Driver::refuse).
    Open { stream: u32, opening: Opening },
    /// The peer has given up a stream that was not accepted yet: to be refused, in whatever way.
    Cancelled { stream: u32 },
    /// The peer wants no new streams.
    GoAway { code: GoAwayCode, retry_after: Duration },
    /// The peer's heartbeat numbers.
    Tune(Beats),
    /// The peer broke the protocol: the session is over.
    Violation(Violation),
}

/// Who counts. Called in batches.
pub trait Observer: Send + Sync {
    /// Bytes of local connections taken into the session, and given to them.
    fn moved(&self, sent: u64, received: u64);
    /// A stream's local connection has ended.
    fn closed(&self, reason: CloseReason);
    fn beat_sent(&self);
    fn beat_missed(&self);
    fn beat_answered(&self, rtt: Duration);
    /// The kernel's round trip of a link that is too busy for beats; once in an interval.
    fn measured(&self, _rtt: Duration) {}
    /// Bytes came over the link.
    fn received(&self);
    fn violation(&self, violation: Violation);
    /// How many streams there are, and how many bytes the peer has not acknowledged.
    fn stands(&self, _streams: usize, _unacknowledged: u64) {}
}
