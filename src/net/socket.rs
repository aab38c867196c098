//! How everlink's sockets are set up: liveness, latency, ends, and where local clients arrive.

#![forbid(unsafe_code)]

use std::fs::{self, File, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use super::kernel;
use crate::config::Heartbeat;

/// Connections the kernel queues before they are accepted. It takes the smaller of this and `net.core.somaxconn`,
/// 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;

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

/// The longest wait between retransmissions that suits this heartbeat: budget ÷ 12, at least 1 s. TCP then moves again
/// about a second after a network heals (measured: 0.9 s instead of 3 – 7 s after a cut of 10 s). Not shorter, because
/// the kernel gives a connection up after 15 such waits.
pub fn rto_max(heartbeat: &Heartbeat) -> Duration {
    (heartbeat.budget() / 12).max(Duration::from_secs(1))
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
    let _ = apply_rto_max(socket, rto_max(heartbeat));
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

/// What accepted sockets inherit from a listening one: TCP_NODELAY, [`Keepalive::LOCAL`] and, on a loopback address, the
/// congestion control. Who was in its queue before has none of it.
pub fn suit_listener(socket: &impl AsFd, ip: IpAddr) -> io::Result<()> {
    nodelay(socket)?;
    apply_keepalive(socket, &Keepalive::LOCAL)?;
    suit_loopback(socket, ip);
    Ok(())
}

/// Binds and listens, non-blocking. Accepted sockets inherit TCP_NODELAY, [`Keepalive::LOCAL`] and, on a loopback
/// address, the congestion control, so an accept needs no further system call.
///
/// SO_REUSEADDR lets a restart bind while old connections stand in TIME_WAIT. Never SO_REUSEPORT: a second everlink
/// would bind silently and take half the clients. An IPv6 address is IPv6 only, whatever the host's default.
/// Errors: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied` (ports below 1024), out of descriptors.
pub fn bind_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    suit_listener(&socket, address.ip())?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether two TCP addresses cannot be listened on at once although they differ: a wildcard and one of its own.
pub fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let wild = one.ip().is_unspecified() || other.ip().is_unspecified();
    wild && one.port() == other.port() && one.is_ipv4() == other.is_ipv4()
}

/// Binds an address that a socket of our own has just given up: whoever held that one may need a moment to let it go.
/// Blocks for at most a second.
pub fn once_free<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut result = bind();
    for _ in 0..100 {
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        result = bind();
    }
    result
}

/// Binds and listens on a unix socket that only this user may reach (mode 0600 from its first moment), non-blocking.
///
/// A path left by a process that is gone is replaced by rename, so there is no moment without a socket. Errors:
/// `AddrInUse` when someone listens there or the path is no socket; what the file system says otherwise.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match bind_unix_fresh(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        bound => return bound,
    }
    match occupant(path)? {
        Occupant::None => bind_unix_fresh(path),
        Occupant::Stale => {
            let beside = beside(path);
            // Left by a run that died between the next two lines.
            let _ = fs::remove_file(&beside);
            let listener = bind_unix_fresh(&beside)?;
            match fs::rename(&beside, path) {
                Ok(()) => Ok(listener),
                Err(error) => {
                    let _ = fs::remove_file(&beside);
                    Err(error)
                }
            }
        }
        Occupant::Live => Err(in_use(path, "another process listens on it: stop that one or choose another path")),
        Occupant::NoSocket => Err(in_use(path, "it is no socket and is left alone: remove it or choose another path")),
    }
}

/// What stands at a path that could not be bound.
enum Occupant {
    None,
    Stale,
    Live,
    NoSocket,
}

fn occupant(path: &Path) -> io::Result<Occupant> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Ok(Occupant::NoSocket),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::None),
        Err(error) => return Err(error),
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full queue must not hold us here: it answers `WouldBlock`, which is as live as can be.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Occupant::Stale),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Occupant::None),
        _ => Ok(Occupant::Live),
    }
}

fn in_use(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, format!("cannot bind unix:{}: {why}", path.display()))
}

/// A name in the same directory, so that a rename is atomic; short, for a socket's path has at most 107 bytes.
fn beside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{:x}", std::process::id()))
}

fn bind_unix_fresh(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // On Linux the path is born with the mode of the unbound socket: there is no moment at which others may connect.
    let file = File::from(OwnedFd::from(socket));
    let private = Permissions::from_mode(0o600);
    let early = file.set_permissions(private.clone());
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(&SockAddr::unix(path)?)?;
    if early.is_err() || !cfg!(target_os = "linux") {
        fs::set_permissions(path, private)?;
    }
    socket.listen(BACKLOG)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

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

    fn accept(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = kernel::accept(listener.as_raw_fd()).unwrap();
        (client, socket.into())
    }

    #[test]
    fn keepalive_says_the_heartbeat_in_whole_seconds_rounded_up_and_within_limits() {
        let keepalive = Keepalive::from_heartbeat(&heartbeat(5_001, 200, 3));
        let expected = Keepalive { idle: Duration::from_secs(6), spacing: Duration::from_secs(1), count: 3 };
        assert_eq!(keepalive, expected);
        assert_eq!(Keepalive::from_heartbeat(&heartbeat(40_000_000, 60_000, 100)).idle, Duration::from_secs(32_767));
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
        assert_eq!(rto_max(&heartbeat(30_000, 10_000, 9)), Duration::from_secs(10));
        assert_eq!(rto_max(&heartbeat(200, 50, 1)), Duration::from_secs(1));
    }

    #[test]
    fn accepted_sockets_inherit_the_listeners_options() {
        let listener = bind_listener("127.0.0.1:0".parse().unwrap()).unwrap();
        let (_client, socket) = accept(&listener);
        let accepted = SockRef::from(&socket);
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Keepalive::LOCAL.idle);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Keepalive::LOCAL.spacing);
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), Keepalive::LOCAL.count);
        let chosen = SockRef::from(&listener).tcp_congestion().unwrap();
        assert_eq!(accepted.tcp_congestion().unwrap(), chosen);
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
    fn a_listener_does_not_share_its_port_and_leaves_ipv4_alone() {
        let listener = bind_listener("127.0.0.1:0".parse().unwrap()).unwrap();
        let again = bind_listener(listener.local_addr().unwrap()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        let v6 = bind_listener("[::]:0".parse().unwrap()).unwrap();
        let port = v6.local_addr().unwrap().port();
        assert!(bind_listener(([0, 0, 0, 0], port).into()).is_ok(), "an IPv6 wildcard must not take IPv4");
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

    #[test]
    fn a_unix_socket_is_private_and_refuses_a_second_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("chat.sock");
        let listener = bind_unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = bind_unix(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(refused.to_string().contains("another process listens"), "{refused}");
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"x").unwrap();
        assert!(listener.accept().is_ok(), "the first one still serves");
    }

    #[test]
    fn a_stale_unix_path_is_replaced_and_nothing_else_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("chat.sock");
        drop(bind_unix(&path).unwrap());
        assert!(path.exists(), "a closed listener leaves its path");
        let listener = bind_unix(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        assert!(listener.accept().is_ok());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_at_a_unix_path_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        let refused = bind_unix(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(bind_unix(&directory.path().join("none/x.sock")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
