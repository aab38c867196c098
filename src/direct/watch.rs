//! Whether a connection in use is dead, told from what TCP knows of it. Pure.
//!
//! Nothing may be injected into a client's connection. But the kernel knows whether the peer's kernel still acknowledges:
//! keepalive cannot tell while bytes are in flight, and `TCP_USER_TIMEOUT` kills live peers that merely do not read. So
//! everlink looks at `TCP_INFO` itself.

use crate::config::Heartbeat;
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

/// Judges one connection. Dead is: bytes in flight, at least `misses` retransmissions, and the last acknowledgement older
/// than the budget; or, with nothing in flight because the window is shut, `misses` probes in a row unanswered. A live
/// peer that does not read answers its probes and is kept as long as it likes.
pub fn judge(info: &TcpInfo, heartbeat: &Heartbeat) -> Verdict {
    if info.unacked == 0 {
        return match u32::from(info.probes) {
            probes if probes >= heartbeat.misses => Verdict::Dead,
            0 if info.notsent_bytes == 0 => Verdict::Quiet,
            _ => Verdict::InFlight,
        };
    }
    let retransmitted = u32::from(info.retransmits) >= heartbeat.misses;
    if retransmitted && info.last_ack_received > heartbeat.budget() { Verdict::Dead } else { Verdict::InFlight }
}

/// Keepalive probes that went unanswered for a whole spacing each, on a connection that nobody uses. One that is merely on
/// its way is no miss: keepalive and this look wake at about the same moment.
pub fn unanswered(info: &TcpInfo, keepalive: &Keepalive) -> u32 {
    let silent = info.last_ack_received.saturating_sub(keepalive.idle);
    let spacings = silent.as_millis() / keepalive.spacing.as_millis().max(1);
    u32::from(info.probes).min(u32::try_from(spacings).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Beat, InUse};
    use crate::net::kernel::TcpState;

    const SECOND: Duration = Duration::from_secs(1);

    fn heartbeat() -> Heartbeat {
        Heartbeat { interval: 5 * SECOND, timeout: 3 * SECOND, misses: 3, beat: Beat::Kernel, in_use: InUse::Off }
    }

    fn info() -> TcpInfo {
        TcpInfo {
            state: TcpState::Established,
            retransmits: 0,
            probes: 0,
            backoff: 0,
            unacked: 0,
            retransmits_total: 0,
            rtt: Duration::ZERO,
            min_rtt: None,
            last_ack_received: Duration::ZERO,
            last_data_received: Duration::ZERO,
            last_data_sent: Duration::ZERO,
            notsent_bytes: 0,
            bytes_acked: 0,
            bytes_received: 0,
            bytes_sent: 0,
            send_window: None,
        }
    }

    #[test]
    fn in_flight_is_dead_only_after_the_budget_and_the_retransmissions() {
        let flying = TcpInfo { unacked: 2, ..info() };
        let judged = |retransmits, seconds| {
            let info = TcpInfo { retransmits, last_ack_received: seconds * SECOND, ..flying };
            judge(&info, &heartbeat())
        };
        assert_eq!(judged(3, 15), Verdict::Dead);
        assert_eq!(judged(3, 14), Verdict::InFlight, "the budget is 14 s");
        assert_eq!(judged(2, 60), Verdict::InFlight, "a slow peer is not a dead one");
    }

    #[test]
    fn a_shut_window_is_kept_while_its_probes_are_answered() {
        let stalled = TcpInfo { notsent_bytes: 9000, last_ack_received: 3600 * SECOND, ..info() };
        assert_eq!(judge(&stalled, &heartbeat()), Verdict::InFlight);
        assert_eq!(judge(&TcpInfo { probes: 3, ..stalled }, &heartbeat()), Verdict::Dead);
        assert_eq!(judge(&info(), &heartbeat()), Verdict::Quiet);
    }

    #[test]
    fn a_probe_on_its_way_is_no_miss() {
        let keepalive = Keepalive::from_heartbeat(&heartbeat());
        let missed = |probes, milliseconds| {
            let last_ack_received = Duration::from_millis(milliseconds);
            unanswered(&TcpInfo { probes, last_ack_received, ..info() }, &keepalive)
        };
        assert_eq!([missed(0, 4_000), missed(1, 5_001), missed(1, 7_900)], [0, 0, 0]);
        assert_eq!([missed(1, 8_000), missed(2, 8_100), missed(3, 11_500)], [1, 1, 2]);
    }
}
