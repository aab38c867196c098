//! What the kernel knows of a TCP connection.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Where a TCP connection stands, as `include/net/tcp_states.h` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    /// The peer has ended its direction.
    CloseWait,
    LastAck,
    Listen,
    Closing,
    Other(u8),
}

impl From<u8> for TcpState {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Closed,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            other => Self::Other(other),
        }
    }
}

/// What the kernel knows of a TCP connection (`TCP_INFO`). A field an older kernel does not report is zero, or `None`
/// where zero would mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    pub state: TcpState,
    /// Retransmissions of the oldest unacknowledged segment since it was last acknowledged.
    pub retransmits: u8,
    /// Keepalive or zero-window probes sent since the last answer.
    pub probes: u8,
    /// Times the retransmission timer has doubled.
    pub backoff: u8,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Segments retransmitted over the connection's life.
    pub retransmits_total: u32,
    /// Smoothed round trip; keepalive answers do not refresh it.
    pub rtt: Duration,
    /// Shortest round trip seen; `None` while nothing has been measured.
    pub min_rtt: Option<Duration>,
    /// Time since an acknowledgement came; answered keepalive probes count.
    pub last_ack_received: Duration,
    /// Time since payload came.
    pub last_data_received: Duration,
    /// Time since payload was sent.
    pub last_data_sent: Duration,
    /// Bytes written to the socket that have not left the host.
    pub notsent_bytes: u32,
    /// The latest measure of how fast the peer's kernel took payload, in bytes a second; zero before the first.
    pub delivery_rate: u64,
    /// Payload the peer's kernel has acknowledged. The end that dialled counts its SYN as one byte more.
    pub bytes_acked: u64,
    /// Payload received.
    pub bytes_received: u64,
    /// Payload sent, retransmissions included. Linux 4.19.
    pub bytes_sent: u64,
    /// The retransmissions in it.
    pub bytes_retrans: u64,
    /// What the peer lets us send beyond its last acknowledgement; zero: it does not read. Linux 5.4.
    pub send_window: Option<u32>,
}

/// `struct tcp_info` of `linux/tcp.h` up to `tcpi_snd_wnd`, laid out byte for byte. The kernel copies as much as it
/// and the caller both know, so a shorter answer leaves the tail at zero and a newer kernel's tail is cut off.
#[cfg(target_os = "linux")]
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawTcpInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    window_scales: u8,
    flags: u8,
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
    dsack_dups: u32,
    reord_seen: u32,
    rcv_ooopack: u32,
    snd_wnd: u32,
}

// The kernel's offsets; a field added or lost above would shift every later one.
#[cfg(target_os = "linux")]
const _: () = {
    assert!(std::mem::offset_of!(RawTcpInfo, unacked) == 24);
    assert!(std::mem::offset_of!(RawTcpInfo, total_retrans) == 100);
    assert!(std::mem::offset_of!(RawTcpInfo, bytes_acked) == 120);
    assert!(std::mem::offset_of!(RawTcpInfo, notsent_bytes) == 144);
    assert!(std::mem::offset_of!(RawTcpInfo, delivery_rate) == 160);
    assert!(std::mem::offset_of!(RawTcpInfo, bytes_sent) == 200);
    assert!(std::mem::offset_of!(RawTcpInfo, snd_wnd) == 228);
    assert!(size_of::<RawTcpInfo>() == 232);
};

/// Asks the kernel how a TCP connection fares.
///
/// Errors: `EBADF`, `ENOTSOCK`, or `EOPNOTSUPP` where the descriptor is no TCP socket.
#[cfg(target_os = "linux")]
pub fn tcp_info(fd: RawFd) -> io::Result<TcpInfo> {
    /// Linux reports "nothing measured" as the largest number.
    const UNKNOWN_RTT: u32 = u32::MAX;
    let mut raw = RawTcpInfo::default();
    let mut length = size_of::<RawTcpInfo>() as libc::socklen_t;
    // SAFETY: `raw` is a live, writable `repr(C)` value of integers only (any bytes are valid), and `length` says its
    // exact size, which the kernel never writes past.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut raw).cast(), &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let known = |offset: usize| length as usize > offset;
    let micros = |value: u32| Duration::from_micros(u64::from(value));
    let millis = |value: u32| Duration::from_millis(u64::from(value));
    Ok(TcpInfo {
        state: TcpState::from(raw.state),
        retransmits: raw.retransmits,
        probes: raw.probes,
        backoff: raw.backoff,
        unacked: raw.unacked,
        retransmits_total: raw.total_retrans,
        rtt: micros(raw.rtt),
        min_rtt: (known(std::mem::offset_of!(RawTcpInfo, min_rtt)) && raw.min_rtt != UNKNOWN_RTT)
            .then(|| micros(raw.min_rtt)),
        last_ack_received: millis(raw.last_ack_recv),
        last_data_received: millis(raw.last_data_recv),
        last_data_sent: millis(raw.last_data_sent),
        notsent_bytes: raw.notsent_bytes,
        delivery_rate: raw.delivery_rate,
        bytes_acked: raw.bytes_acked,
        bytes_received: raw.bytes_received,
        bytes_sent: raw.bytes_sent,
        bytes_retrans: raw.bytes_retrans,
        send_window: known(std::mem::offset_of!(RawTcpInfo, snd_wnd)).then_some(raw.snd_wnd),
    })
}

#[cfg(not(target_os = "linux"))]
pub fn tcp_info(_fd: RawFd) -> io::Result<TcpInfo> {
    Err(super::unsupported("TCP_INFO"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::net::kernel::{pair, pipe};

    #[test]
    fn tcp_info_counts_what_the_peer_acknowledged() {
        let (mut near, mut far) = pair();
        let before = tcp_info(near.as_raw_fd()).unwrap();
        assert_eq!(before.state, TcpState::Established);
        near.write_all(&[7; 1000]).unwrap();
        far.read_exact(&mut [0; 1000]).unwrap();
        let after = loop {
            let info = tcp_info(near.as_raw_fd()).unwrap();
            if info.unacked == 0 {
                break info;
            }
            std::thread::yield_now();
        };
        assert_eq!(after.bytes_acked - before.bytes_acked, 1000);
        assert_eq!(after.bytes_sent - before.bytes_sent, 1000);
        assert_eq!(after.notsent_bytes, 0);
        assert!(after.rtt > Duration::ZERO && after.rtt < Duration::from_secs(1), "{after:?}");
        assert!(after.delivery_rate > 0, "{after:?}");
        assert!(after.min_rtt.is_some_and(|rtt| rtt < Duration::from_secs(1)), "{after:?}");
        assert!(after.send_window.is_some_and(|window| window > 0), "{after:?}");
        assert_eq!(tcp_info(far.as_raw_fd()).unwrap().bytes_received, 1000);
    }

    #[test]
    fn tcp_info_shows_a_peer_that_does_not_read_and_one_that_has_ended() {
        let (near, far) = pair();
        near.set_nonblocking(true).unwrap();
        while (&near).write(&[7; 65536]).is_ok() {}
        let stalled = loop {
            let info = tcp_info(near.as_raw_fd()).unwrap();
            if info.unacked == 0 {
                break info;
            }
            std::thread::yield_now();
        };
        assert!(stalled.notsent_bytes > 0, "{stalled:?}");
        assert!(stalled.send_window.is_some_and(|window| window < 65536), "{stalled:?}");
        assert_eq!(tcp_info(far.as_raw_fd()).unwrap().state, TcpState::Established);
        far.shutdown(std::net::Shutdown::Write).unwrap();
        while tcp_info(near.as_raw_fd()).unwrap().state != TcpState::CloseWait {
            std::thread::yield_now();
        }
    }

    #[test]
    fn tcp_info_of_something_else_is_an_error() {
        let pipe = pipe(4096).unwrap();
        assert_eq!(tcp_info(pipe.read.as_raw_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
        assert_eq!(tcp_info(-1).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
