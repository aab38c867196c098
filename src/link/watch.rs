//! Whether a connection in use is dead, told from what TCP knows of it. Pure.
//!
//! Nothing may be injected into a client's connection, nor into a service's. But the kernel knows whether the peer's kernel
//! still acknowledges: keepalive cannot tell while bytes are in flight, and `TCP_USER_TIMEOUT` kills live peers that merely
//! do not read. So everlink looks at `TCP_INFO` itself.

use std::time::{Duration, Instant};

use crate::config::Beats;
use crate::net::kernel::TcpInfo;
use crate::net::socket::Keepalive;

/// What a look at `TCP_INFO` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is in flight: no need to look again before more is sent.
    Quiet,
    /// Bytes are on their way, and that is normal.
    InFlight,
    Dead,
}

/// Judges one connection. Dead is: silence for longer than the budget, and either bytes in flight and at least `misses`
/// retransmissions of them, or, with nothing in flight because the window is shut, `misses` probes in a row unanswered.
/// A live peer that does not read answers its probes and is kept as long as it likes. The first probes of a window just
/// shut are fractions of a second apart: without the silence, an outage shorter than the budget would kill.
///
/// `stalled`: how long the same bytes have been in flight. The age of the last acknowledgement alone would be fooled when
/// only our direction is lost: whatever the peer sends, be it the same segment again and again, refreshes it.
pub fn judge(info: &TcpInfo, stalled: Duration, beats: &Beats) -> Verdict {
    let (unanswered, silence) = unanswered_and_silence(info, stalled);
    if u32::from(unanswered) >= beats.misses && silence > beats.budget() {
        Verdict::Dead
    } else if info.unacked == 0 && info.probes == 0 && info.notsent_bytes == 0 {
        Verdict::Quiet
    } else {
        Verdict::InFlight
    }
}

/// How long until a connection of which something is already unanswered may be judged dead; `None`: there is no sign of it.
pub fn dead_in(info: &TcpInfo, stalled: Duration, beats: &Beats) -> Option<Duration> {
    let (unanswered, silence) = unanswered_and_silence(info, stalled);
    (unanswered > 0).then(|| beats.budget().saturating_sub(silence))
}

fn unanswered_and_silence(info: &TcpInfo, stalled: Duration) -> (u8, Duration) {
    match info.unacked {
        0 => (info.probes, info.last_ack_received),
        _ => (info.retransmits, info.last_ack_received.max(stalled)),
    }
}

/// How long a socket has had bytes in flight of which none was acknowledged.
#[derive(Debug, Default)]
pub struct Stall {
    /// The bytes acknowledged then, and when.
    at: Option<(u64, Instant)>,
}

impl Stall {
    /// For how long now. To be asked at each look, as `judge` wants it.
    pub fn lasts(&mut self, info: &TcpInfo, now: Instant) -> Duration {
        if info.unacked == 0 {
            self.at = None;
            return Duration::ZERO;
        }
        match self.at {
            Some((acknowledged, since)) if acknowledged == info.bytes_acked => now.saturating_duration_since(since),
            _ => {
                self.at = Some((info.bytes_acked, now));
                Duration::ZERO
            }
        }
    }
}

/// Keepalive probes that went unanswered for a whole spacing each, on a connection that nobody uses. One that is merely on
/// its way is no miss: keepalive and this look wake at about the same moment.
pub fn unanswered(probes: u8, last_ack_received: Duration, keepalive: &Keepalive) -> u32 {
    let silent = last_ack_received.saturating_sub(keepalive.idle);
    let spacings = silent.as_millis() / keepalive.spacing.as_millis().max(1);
    u32::from(probes).min(u32::try_from(spacings).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::kernel::TcpState;

    fn info() -> TcpInfo {
        TcpInfo {
            state: TcpState::Established,
            retransmits: 0,
            probes: 0,
            backoff: 0,
            unacked: 0,
            retransmits_total: 9,
            rtt: Duration::from_millis(1),
            min_rtt: None,
            last_ack_received: Duration::from_secs(15),
            last_data_received: Duration::from_secs(15),
            last_data_sent: Duration::from_secs(15),
            notsent_bytes: 0,
            delivery_rate: 0,
            bytes_acked: 0,
            bytes_received: 0,
            bytes_sent: 0,
            bytes_retrans: 0,
            send_window: Some(1),
        }
    }

    /// Budget 14 s.
    fn judged(stalled: u64, change: impl FnOnce(&mut TcpInfo)) -> Verdict {
        let beats = Beats { interval: Duration::from_secs(5), timeout: Duration::from_secs(3), misses: 3 };
        let mut info = info();
        change(&mut info);
        judge(&info, Duration::from_secs(stalled), &beats)
    }

    #[test]
    fn silence_with_nothing_sent_is_no_death() {
        assert_eq!(judged(0, |info| info.last_ack_received = Duration::from_secs(3600)), Verdict::Quiet);
    }

    #[test]
    fn bytes_in_flight_are_dead_after_retransmissions_and_the_budget_together() {
        let in_flight = |retransmits, silent, stalled| {
            judged(stalled, |info| {
                info.unacked = 1;
                info.retransmits = retransmits;
                info.last_ack_received = Duration::from_secs(silent);
            })
        };
        assert_eq!(in_flight(3, 15, 0), Verdict::Dead);
        assert_eq!(in_flight(2, 15, 2), Verdict::InFlight, "sent a moment ago after a long silence");
        assert_eq!(in_flight(7, 14, 14), Verdict::InFlight, "the budget is not over");
        assert_eq!(in_flight(7, 1, 15), Verdict::Dead, "the peer speaks, but hears nothing");
    }

    #[test]
    fn the_end_of_the_budget_is_known_once_something_is_unanswered() {
        let beats = Beats { interval: Duration::from_secs(5), timeout: Duration::from_secs(3), misses: 3 };
        let silent = |retransmits, seconds| {
            let last_ack_received = Duration::from_secs(seconds);
            let info = TcpInfo { unacked: 1, retransmits, last_ack_received, ..info() };
            dead_in(&info, Duration::ZERO, &beats).map(|time| time.as_secs())
        };
        assert_eq!([silent(0, 1), silent(1, 4), silent(5, 20)], [None, Some(10), Some(0)]);
    }

    #[test]
    fn a_stall_lasts_while_nothing_is_acknowledged_of_what_is_in_flight() {
        let (start, mut stall) = (Instant::now(), Stall::default());
        let mut lasts = |second, unacked, bytes_acked| {
            stall.lasts(&TcpInfo { unacked, bytes_acked, ..info() }, start + Duration::from_secs(second)).as_secs()
        };
        assert_eq!([lasts(0, 1, 100), lasts(3, 2, 100), lasts(9, 1, 100)], [0, 3, 9]);
        assert_eq!([lasts(10, 1, 101), lasts(12, 1, 101)], [0, 2], "some of it was acknowledged");
        assert_eq!([lasts(13, 0, 102), lasts(20, 1, 102)], [0, 0], "all of it was");
    }

    #[test]
    fn a_shut_window_is_dead_only_when_its_probes_go_unanswered_for_the_budget() {
        let shut = |probes, seconds| {
            judged(0, |info| {
                info.notsent_bytes = 1000;
                info.probes = probes;
                info.last_ack_received = Duration::from_secs(seconds);
            })
        };
        assert_eq!(shut(3, 15), Verdict::Dead);
        assert_eq!(shut(0, 15), Verdict::InFlight, "probes are far apart; the last one was answered");
        assert_eq!(shut(5, 4), Verdict::InFlight, "a short outage just after the window was shut");
    }

    #[test]
    fn a_probe_on_its_way_is_no_miss() {
        let keepalive = Keepalive { idle: Duration::from_secs(5), spacing: Duration::from_secs(3), count: 3 };
        let missed = |probes, milliseconds| unanswered(probes, Duration::from_millis(milliseconds), &keepalive);
        assert_eq!([missed(0, 4_000), missed(1, 5_001), missed(1, 7_900)], [0, 0, 0]);
        assert_eq!([missed(1, 8_000), missed(2, 8_100), missed(3, 11_500)], [1, 1, 2]);
    }
}
