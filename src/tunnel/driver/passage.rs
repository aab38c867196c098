//! How far the beat whose answer is awaited has come. Pure.
//!
//! Its answer's clock starts when the peer's kernel has acknowledged its last byte, not all that was sent since: clients who
//! go on talking would keep something outstanding at any moment, and a peer that hangs would never be found out.

use crate::net::kernel::TcpInfo;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Passage {
    /// Asked for, and not yet among the session's bytes.
    #[default]
    Asked,
    /// Written into the session; it ends at this offset.
    Written(u64),
    /// With the connection, which may hold the last of it back under TLS.
    Handed,
    /// With the kernel. Acknowledged when the connection's payload is, up to here.
    Sent(u64),
    /// With a kernel that does not count (before Linux 4.19): acknowledged when everything is.
    Somewhere,
}

impl Passage {
    /// The session has said all it was asked to; its bytes end at `written`.
    pub fn emitted(&mut self, written: u64) {
        if *self == Self::Asked {
            *self = Self::Written(written);
        }
    }

    /// The connection has taken the session's bytes before `sent`.
    pub fn taken(&mut self, sent: u64) {
        if matches!(self, Self::Written(end) if *end <= sent) {
            *self = Self::Handed;
        }
    }

    /// The kernel has all that the connection has taken.
    pub fn in_kernel(&mut self, info: &TcpInfo) {
        *self = match info.bytes_sent {
            0 => Self::Somewhere,
            sent => Self::Sent((sent + u64::from(info.notsent_bytes)).saturating_sub(info.bytes_retrans)),
        };
    }

    /// Whether the peer's kernel has all of it.
    pub fn has_arrived(&self, info: &TcpInfo) -> bool {
        match self {
            // The end that dialled counts its SYN, too: there the last byte may be missing. It is that of an ACK.
            Self::Sent(end) => info.bytes_acked >= *end,
            Self::Somewhere => info.unacked == 0 && info.notsent_bytes == 0,
            Self::Asked | Self::Written(_) | Self::Handed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn info(sent: u64, again: u64, unsent: u32, acked: u64) -> TcpInfo {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let idle = crate::net::kernel::tcp_info(socket.as_raw_fd()).unwrap();
        let unacked = u32::from(sent > acked);
        TcpInfo { bytes_sent: sent, bytes_retrans: again, notsent_bytes: unsent, bytes_acked: acked, unacked, ..idle }
    }

    #[test]
    fn what_is_sent_later_does_not_keep_a_beat_from_having_arrived() {
        let mut passage = Passage::default();
        passage.taken(500);
        assert_eq!(passage, Passage::Asked);
        passage.emitted(1000);
        passage.emitted(2000);
        passage.taken(999);
        assert_eq!(passage, Passage::Written(1000));
        passage.taken(1000);
        assert_eq!(passage, Passage::Handed);
        assert!(!passage.has_arrived(&info(5000, 0, 0, 5000)), "the kernel has not got it");
        passage.in_kernel(&info(1300, 100, 50, 900));
        assert_eq!(passage, Passage::Sent(1250));
        assert!(!passage.has_arrived(&info(1350, 100, 0, 1249)));
        assert!(passage.has_arrived(&info(9000, 100, 700, 1250)), "with more on its way");
    }

    #[test]
    fn a_kernel_that_does_not_count_is_asked_for_all() {
        let mut passage = Passage::Handed;
        passage.in_kernel(&info(0, 0, 50, 900));
        assert!(!passage.has_arrived(&info(0, 0, 50, 10_000)));
        assert!(passage.has_arrived(&info(0, 0, 0, 10_000)));
    }
}
