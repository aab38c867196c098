//! Whether a connection in use is dead, told from what TCP knows of it. Pure.
//!
//! Nothing may be injected into a client's connection. But the kernel knows whether the peer's kernel still acknowledges:
//! keepalive cannot tell while bytes are in flight, and `TCP_USER_TIMEOUT` kills live peers that merely do not read. So
//! everlink looks at `TCP_INFO` itself.

use crate::config::Heartbeat;
use crate::net::kernel::TcpInfo;

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
