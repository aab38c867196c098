//! How everlink's sockets are set up: liveness, latency, ends, and where local clients arrive.

#![forbid(unsafe_code)]

mod listening;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
#[cfg(target_os = "linux")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::kernel;
use crate::config::Heartbeat;

pub use listening::{bind_listener, bind_unix, once_free, overlap, suit_listener};

/// When the kernel asks a silent peer whether it is still there, and when it gives it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe. Whole seconds, 1 – 32,767.
    pub idle: Duration,
    /// Between two probes. Whole seconds, 1 – 32,767.
    pub spacing: Duration,
    /// Unanswered probes that end the connection. 1 – 127.
    pub count: u32,
}

impl Keepalive {
    /// For local clients: one that vanished without a word (its host or network namespace gone) is noticed after two
    /// minutes. A live one that does not read is never ended by keepalive.
    pub const LOCAL: Self = Self { idle: Duration::from_secs(60), spacing: Duration::from_secs(10), count: 6 };

    /// The heartbeat said in the kernel's words: idle = interval, spacing = timeout, count = misses. The kernel counts
    /// whole seconds; parts are rounded up, so a dead peer is noticed later than the heartbeat would, never sooner.
    pub fn from_heartbeat(heartbeat: &Heartbeat) -> Self {
        Self {
            idle: whole_seconds(heartbeat.interval),
            spacing: whole_seconds(heartbeat.timeout),
            count: heartbeat.misses.clamp(1, 127),
        }
    }
}

/// `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` of `include/net/tcp.h`.
fn whole_seconds(duration: Duration) -> Duration {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    Duration::from_secs(seconds.clamp(1, 32_767))
}

/// Turns keepalive on with these numbers; on a live connection the new ones hold from now.
pub fn apply_keepalive(socket: &impl AsFd, keepalive: &Keepalive) -> io::Result<()> {
    let numbers =
        TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.spacing).with_retries(keepalive.count);
    SockRef::from(socket).set_tcp_keepalive(&numbers)
}

/// Small writes leave at once.
pub fn nodelay(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)
}

/// The longest wait between retransmissions that suits a detection budget: budget ÷ 12, at least 1 s. TCP then moves again
/// about a second after a network heals (measured: 0.9 s instead of 3 – 7 s after a cut of 10 s). Not shorter, because
/// the kernel gives a connection up after 15 such waits.
pub fn rto_max(budget: Duration) -> Duration {
    (budget / 12).max(Duration::from_secs(1))
}

/// Bounds the wait between retransmissions, where the kernel can (Linux 6.15). Once it has said it cannot, it is not
/// asked again.
pub fn apply_rto_max(socket: &impl AsFd, longest: Duration) -> io::Result<()> {
    static LACKING: AtomicBool = AtomicBool::new(false);
    if !LACKING.load(Ordering::Relaxed) && !kernel::set_rto_max(socket.as_fd().as_raw_fd(), longest)? {
        LACKING.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Takes the bound off again, for a socket that is closed in order: from then on the kernel alone has what is unsent, and
/// gives that up, by a reset, as soon as its wait has reached the bound. A peer that did not read for three seconds lost the
/// end of its answer so.
pub fn let_go(socket: &impl AsFd) {
    let _ = apply_rto_max(socket, RTO_MAX);
}

/// The kernel's own bound.
const RTO_MAX: Duration = Duration::from_secs(120);

/// What a connection needs to outlive silence and outages: keepalive by the heartbeat's numbers, and a bound on the wait
/// between retransmissions. Five system calls, so only for connections that have lived for [`SUSTAIN_AFTER`].
pub fn sustain(socket: &impl AsFd, heartbeat: &Heartbeat) -> io::Result<()> {
    apply_keepalive(socket, &Keepalive::from_heartbeat(heartbeat))?;
    // Without the bound the connection is sound, only slower to move again after an outage.
    let _ = apply_rto_max(socket, rto_max(heartbeat.budget()));
    Ok(())
}

/// Most connections of a busy client are gone by then.
pub const SUSTAIN_AFTER: Duration = Duration::from_secs(1);

/// The close of this socket will be a reset: what is unsent is dropped and the peer is told at once.
pub fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// Whether an error of a socket call is this host's or this process's own: out of descriptors, ports, memory or
/// permission. No far end can cure it.
pub fn is_local(error: &io::Error) -> bool {
    let own = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EADDRNOTAVAIL,
        libc::EADDRINUSE,
        libc::EAFNOSUPPORT,
        libc::EACCES,
        libc::EPERM,
    ];
    error.raw_os_error().is_some_and(|code| own.contains(&code))
}

/// Keeps a connection that never leaves the host off bbr, whose pacing costs loopback 40 % of its throughput: cubic or
/// reno, as far as this process may choose. Does nothing where the host's default is another, or the peer is remote.
#[cfg(target_os = "linux")]
pub fn suit_loopback(socket: &impl AsFd, peer: IpAddr) {
    if !peer.to_canonical().is_loopback() {
        return;
    }
    // Chosen once: what the kernel offers and this user may take does not change under a running process.
    static CHOICE: OnceLock<Option<&'static [u8]>> = OnceLock::new();
    let socket = SockRef::from(socket);
    let choice = CHOICE.get_or_init(|| {
        let default = socket.tcp_congestion().ok()?;
        let default = default.split(|byte| *byte == 0).next().unwrap_or_default();
        if !default.starts_with(b"bbr") {
            return None;
        }
        [&b"cubic"[..], b"reno"].into_iter().find(|name| socket.set_tcp_congestion(name).is_ok())
    });
    if let Some(name) = choice {
        // Refused, the connection works all the same, only slower.
        let _ = socket.set_tcp_congestion(name);
    }
}

#[cfg(not(target_os = "linux"))]
pub fn suit_loopback(_socket: &impl AsFd, _peer: IpAddr) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use socket2::{Domain, Protocol, Socket, Type};

    use super::*;
    use crate::config::{Beat, InUse};

    fn heartbeat(interval_ms: u64, timeout_ms: u64, misses: u32) -> Heartbeat {
        Heartbeat {
            interval: Duration::from_millis(interval_ms),
            timeout: Duration::from_millis(timeout_ms),
            misses,
            beat: Beat::Kernel,
            in_use: InUse::Off,
        }
    }

    #[test]
    fn keepalive_says_the_heartbeat_in_whole_seconds_rounded_up_and_within_limits() {
        let keepalive = Keepalive::from_heartbeat(&heartbeat(5_001, 200, 3));
        let expected = Keepalive { idle: Duration::from_secs(6), spacing: Duration::from_secs(1), count: 3 };
        assert_eq!(keepalive, expected);
        assert_eq!(Keepalive::from_heartbeat(&heartbeat(40_000_000, 60_000, 100)).idle, Duration::from_secs(32_767));
    }

    pub fn accept(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = kernel::accept(listener.as_raw_fd()).unwrap();
        (client, socket.into())
    }

    #[test]
    fn every_keepalive_the_configuration_allows_is_taken_by_the_kernel() {
        let (client, _socket) = accept(&bind_listener("127.0.0.1:0".parse().unwrap()).unwrap());
        for heartbeat in [heartbeat(200, 50, 1), heartbeat(3_600_000, 60_000, 100)] {
            let keepalive = Keepalive::from_heartbeat(&heartbeat);
            apply_keepalive(&client, &keepalive).unwrap();
            let socket = SockRef::from(&client);
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), keepalive.idle);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), keepalive.spacing);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), keepalive.count);
        }
    }

    #[test]
    fn the_longest_retransmission_wait_is_a_twelfth_of_the_budget_but_a_second_at_least() {
        assert_eq!(rto_max(heartbeat(30_000, 10_000, 9).budget()), Duration::from_secs(10));
        assert_eq!(rto_max(heartbeat(200, 50, 1).budget()), Duration::from_secs(1));
    }

    #[test]
    fn a_loopback_socket_leaves_bbr_and_a_remote_one_keeps_the_default() {
        let fresh = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let default = fresh().tcp_congestion().unwrap();
        let remote = fresh();
        suit_loopback(&remote, "192.0.2.1".parse().unwrap());
        assert_eq!(remote.tcp_congestion().unwrap(), default);
        let local = fresh();
        suit_loopback(&local, "127.0.0.1".parse().unwrap());
        let allowed = fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap();
        let chosen = local.tcp_congestion().unwrap();
        let escapes = allowed.contains("cubic") || allowed.contains("reno");
        assert_eq!(chosen.starts_with(b"bbr"), default.starts_with(b"bbr") && !escapes, "{chosen:?} of {allowed}");
    }

    #[test]
    fn a_reset_reaches_the_peer() {
        let (client, mut socket) = accept(&bind_listener("127.0.0.1:0".parse().unwrap()).unwrap());
        reset_on_close(&client).unwrap();
        drop(client);
        let kind = loop {
            match socket.read(&mut [0; 1]).map_err(|error| error.kind()) {
                Err(io::ErrorKind::WouldBlock) => std::thread::yield_now(),
                other => break other,
            }
        };
        assert_eq!(kind, Err(io::ErrorKind::ConnectionReset));
    }
}
