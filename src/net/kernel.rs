//! System calls the standard library does not offer. The only file with `unsafe` in it.
//!
//! Every function takes plain descriptors and returns owned ones or numbers. Passing a descriptor that is closed or of
//! the wrong kind is an error from the kernel (`EBADF`, `ENOTSOCK`, `EINVAL`), never undefined behaviour: none of these
//! calls maps memory or keeps a pointer past its return. Off Linux, what the system lacks answers `Unsupported`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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

/// Both ends of a pipe for `splice`, non-blocking and closed on exec.
#[derive(Debug)]
pub struct Pipe {
    pub read: OwnedFd,
    pub write: OwnedFd,
    /// Bytes it holds, as the kernel granted them: at least what was asked.
    pub capacity: usize,
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
    Err(unsupported("TCP_INFO"))
}

/// Bounds the wait between two retransmissions of a TCP socket, so that traffic moves again soon after a network
/// heals. The kernel takes 1 – 120 s; values outside are brought inside. `Ok(false)`: the kernel is older than 6.15.
#[cfg(target_os = "linux")]
pub fn set_rto_max(fd: RawFd, longest: Duration) -> io::Result<bool> {
    /// `linux/tcp.h`; not in the libc crate yet.
    const TCP_RTO_MAX_MS: libc::c_int = 44;
    let milliseconds = longest.as_millis().clamp(1_000, 120_000) as libc::c_int;
    // SAFETY: the pointer is to a live `c_int` and the length is that of a `c_int`; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const milliseconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        error => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
pub fn set_rto_max(_fd: RawFd, _longest: Duration) -> io::Result<bool> {
    Ok(false)
}

/// Bounds what a TCP socket takes beyond what has left the host (`TCP_NOTSENT_LOWAT`, Linux 3.12): it is writable only
/// while fewer than so many bytes wait, so what matters more need not queue behind them. `Ok(false)`: not on this
/// system.
#[cfg(target_os = "linux")]
pub fn set_notsent_lowat(fd: RawFd, bytes: u32) -> io::Result<bool> {
    // SAFETY: the pointer is to a live `u32`, of the size of a `c_int`, and the length says so; the kernel only reads
    // it, and takes it as unsigned.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(true) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
pub fn set_notsent_lowat(_fd: RawFd, _bytes: u32) -> io::Result<bool> {
    Ok(false)
}

/// Whether an error waits to be told at a socket, its peer's reset above all. It is not taken away: whoever reads or writes
/// next hears it. A socket that has ended in order, with bytes that wait to be read or without, has none.
pub fn has_failed(fd: RawFd) -> bool {
    let mut asked = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: the pointer is to one live `pollfd`, and the count says so; with a timeout of 0 the call returns at once.
    let found = unsafe { libc::poll(&raw mut asked, 1, 0) };
    found == 1 && asked.revents & libc::POLLERR != 0
}

/// Moves up to `len` bytes between a pipe and a socket inside the kernel, never waiting; 0 is the end of the source.
///
/// `SPLICE_F_MORE` is never set: it corks the socket, and the last bytes of an answer would wait 200 ms for company.
/// Errors: `WouldBlock` when the source is dry *or* the target full; the caller knows which by what the pipe holds.
#[cfg(target_os = "linux")]
pub fn splice(from: RawFd, to: RawFd, len: usize) -> io::Result<usize> {
    // SAFETY: both offsets are null, so the kernel touches no memory of ours; the descriptors are only numbers.
    let moved = unsafe {
        libc::splice(
            from,
            std::ptr::null_mut(),
            to,
            std::ptr::null_mut(),
            len,
            libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE,
        )
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(not(target_os = "linux"))]
pub fn splice(_from: RawFd, _to: RawFd, _len: usize) -> io::Result<usize> {
    Err(unsupported("splice"))
}

/// A pipe that holds at least `capacity` bytes.
///
/// Errors: out of descriptors, or `PermissionDenied` when the user's share of pipe memory
/// (`/proc/sys/fs/pipe-user-pages-soft`, 16,384 pages by default) does not allow the size; the pipe is then gone.
#[cfg(target_os = "linux")]
pub fn pipe(capacity: usize) -> io::Result<Pipe> {
    let asked = libc::c_int::try_from(capacity).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut ends = [-1; 2];
    // SAFETY: `ends` has room for the two descriptors the kernel writes.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `pipe2` has just made both descriptors and nobody else knows them, so each has one owner from here.
    let read = unsafe { OwnedFd::from_raw_fd(ends[0]) };
    // SAFETY: as above, and it is the other of the two.
    let write = unsafe { OwnedFd::from_raw_fd(ends[1]) };
    // SAFETY: an open pipe and an integer argument; the kernel touches no memory of ours.
    let granted = unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, asked) };
    match usize::try_from(granted) {
        Ok(granted) => Ok(Pipe { read, write, capacity: granted }),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
pub fn pipe(_capacity: usize) -> io::Result<Pipe> {
    Err(unsupported("splice"))
}

/// Columns and rows of the terminal behind standard output; `None` without one, or if it does not know.
pub fn window() -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is a live `winsize`, which is what the kernel writes for this request.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Raises this process's soft limit of open descriptors to the hard one. Returns the soft limit before and now.
pub fn raise_descriptor_limit() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live `rlimit` the kernel fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let before = limit.rlim_cur;
    // macOS says "unlimited" but takes no more than OPEN_MAX.
    let most = if cfg!(target_os = "linux") { limit.rlim_max } else { limit.rlim_max.min(10_240) };
    if before >= most {
        return Ok((before, before));
    }
    limit.rlim_cur = most;
    // SAFETY: `limit` is a live `rlimit` the kernel only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((before, most))
}

/// Takes one connection from a listening socket, non-blocking and closed on exec, in a single call, and without tying
/// it to any event loop: the thread that will carry it may be another. The address is `None` for unix sockets.
///
/// Errors: `WouldBlock` when none waits; `EMFILE` and `ENFILE` (the connection stays queued); `ECONNABORTED` when the
/// client has left already.
#[cfg(target_os = "linux")]
pub fn accept(listener: RawFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let accept = |storage: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
        // SAFETY: `try_init` hands out a live storage and its size; the kernel writes at most that much, and sets both.
        let fd = unsafe { libc::accept4(listener, storage.cast(), length, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
    };
    // SAFETY: on success the kernel has written an address of the length it reports, which is what `try_init` asks.
    let (fd, address) = unsafe { socket2::SockAddr::try_init(accept) }?;
    // SAFETY: `accept4` has just made this descriptor and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((socket, address.as_socket()))
}

#[cfg(not(target_os = "linux"))]
pub fn accept(listener: RawFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    if listener < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is not -1; it is borrowed for this one call, during which the caller's listener is open.
    let listener = unsafe { std::os::fd::BorrowedFd::borrow_raw(listener) };
    let (socket, address) = socket2::SockRef::from(&listener).accept()?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), address.as_socket()))
}

/// A socket that is only waited for: reading and accepting stay with its owner.
pub struct Awaited(Arc<dyn AsFd + Send + Sync>);

impl AsRawFd for Awaited {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits for a listening socket in the runtime that calls. `listener` has one socket from its making to its end, as the
/// standard library's listeners have. Errors: the runtime cannot take another descriptor.
pub fn await_clients(listener: Arc<dyn AsFd + Send + Sync>) -> io::Result<AsyncFd<Awaited>> {
    // SAFETY: the registration holds a share of the owner, and the owner keeps one and the same descriptor open for as
    // long as it exists. `AsFd` alone does not promise the latter; both callers' owners, `listener::Bound` and
    // `std::net::TcpListener`, do: they never put another socket in the place of the first.
    unsafe { AsyncFd::register_with_interest(Awaited(listener), Interest::READABLE) }.map_err(Into::into)
}

/// Lends the descriptor of a socket that is held elsewhere to `act`. The caller sees to it that the socket stays open
/// meanwhile, by a lock that its owner takes before closing.
///
/// Errors: `EBADF`, from here for a number that can be no descriptor, from `act` for one that is not open.
pub fn with_fd<R>(fd: RawFd, act: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is not -1, which a borrowed descriptor must never be; the borrow ends with `act`, during which
    // the caller keeps the socket open, and it is only handed to system calls, which look the number up.
    act(unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) })
}

/// Takes over the descriptors from 3 on that whoever started this process has left open for it (sd_listen_fds(3)), and has
/// them closed on exec from now on. To be called before this process has opened anything itself; only the first call takes
/// any.
///
/// Errors, for each by itself: `EBADF`, nothing is open at that number.
pub fn inherited(count: u16) -> Vec<io::Result<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let take = |fd: RawFd| {
        // SAFETY: the number of a descriptor and an integer argument; the kernel touches no memory of ours.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is open, for the call above has succeeded. Nobody else in this process owns it: the standard library
        // opens none before `main`, the caller has opened none yet, and a second call never comes here.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    (3..3 + RawFd::from(count)).map(take).collect()
}

/// What `CLOCK_MONOTONIC` shows: the time since this machine was started, without suspensions.
pub fn monotonic() -> Duration {
    read_clock(libc::CLOCK_MONOTONIC)
}

/// How long this machine has been suspended since it was started, all times together: what `CLOCK_BOOTTIME` counts and
/// `CLOCK_MONOTONIC`, by which every timer goes, does not.
#[cfg(target_os = "linux")]
pub fn suspended() -> Duration {
    read_clock(libc::CLOCK_BOOTTIME).saturating_sub(read_clock(libc::CLOCK_MONOTONIC))
}

#[cfg(not(target_os = "linux"))]
pub fn suspended() -> Duration {
    Duration::ZERO
}

fn read_clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer leads to a timespec of ours. A clock that this kernel has not leaves it at zero.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(not(target_os = "linux"))]
fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("this system has no {what}"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        (near, far)
    }

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
    fn a_socket_with_a_low_water_mark_takes_little_that_cannot_leave() {
        const MARK: u32 = 16 << 10;
        let takes = |mark: Option<u32>| {
            let (mut near, far) = pair();
            near.set_nonblocking(true).unwrap();
            if let Some(mark) = mark {
                assert!(set_notsent_lowat(near.as_raw_fd(), mark).unwrap());
            }
            while near.write(&[0; 4096]).is_ok() {}
            let info = tcp_info(near.as_raw_fd()).unwrap();
            drop(far);
            info.notsent_bytes
        };
        let (marked, free) = (takes(Some(MARK)), takes(None));
        assert!(marked < 4 * MARK && free > 8 * MARK, "{marked} and {free}");
        assert!(set_notsent_lowat(-1, MARK).is_err());
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
    fn a_reset_is_a_failure_and_an_end_in_order_is_none_though_bytes_wait() {
        let (mut near, far) = pair();
        near.write_all(b"last words").unwrap();
        // The end that ends first is closed to the kernel as soon as the other follows, whatever waits to be read.
        far.shutdown(std::net::Shutdown::Write).unwrap();
        drop(near);
        while tcp_info(far.as_raw_fd()).unwrap().state != TcpState::Closed {
            std::thread::yield_now();
        }
        assert!(!has_failed(far.as_raw_fd()));
        let mut words = String::new();
        (&far).read_to_string(&mut words).unwrap();
        assert_eq!(words, "last words");

        let (mut near, far) = pair();
        near.write_all(b"unread").unwrap();
        assert!(!has_failed(near.as_raw_fd()));
        // Bytes that nobody has read make a reset of a close.
        while tcp_info(far.as_raw_fd()).unwrap().bytes_received < 6 {
            std::thread::yield_now();
        }
        drop(far);
        while !has_failed(near.as_raw_fd()) {
            std::thread::yield_now();
        }
        assert_eq!(near.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset, "it is still there");
        assert!(!has_failed(-1));
    }

    #[test]
    fn tcp_info_of_something_else_is_an_error() {
        let pipe = pipe(4096).unwrap();
        assert_eq!(tcp_info(pipe.read.as_raw_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
        assert_eq!(tcp_info(-1).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn the_longest_retransmission_wait_is_set_where_the_kernel_can() {
        let (near, _far) = pair();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(set_rto_max(near.as_raw_fd(), Duration::from_secs(2)).unwrap(), version >= (6, 15));
        assert_eq!(set_rto_max(near.as_raw_fd(), Duration::ZERO).unwrap(), version >= (6, 15), "brought inside");
        assert!(set_rto_max(-1, Duration::from_secs(2)).is_err());
    }

    #[test]
    fn splice_moves_bytes_through_a_pipe_and_reports_dry_and_end() {
        let (mut source, into_pipe) = pair();
        let (from_pipe, mut sink) = pair();
        into_pipe.set_nonblocking(true).unwrap();
        let pipe = pipe(65536).unwrap();
        let dry = splice(into_pipe.as_raw_fd(), pipe.write.as_raw_fd(), 65536).unwrap_err();
        assert_eq!(dry.kind(), io::ErrorKind::WouldBlock);
        source.write_all(b"through the kernel").unwrap();
        let moved = loop {
            match splice(into_pipe.as_raw_fd(), pipe.write.as_raw_fd(), 65536) {
                Ok(moved) => break moved,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert_eq!(moved, 18);
        assert_eq!(splice(pipe.read.as_raw_fd(), from_pipe.as_raw_fd(), moved).unwrap(), moved);
        let mut got = [0; 18];
        sink.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"through the kernel");
        drop(source);
        while splice(into_pipe.as_raw_fd(), pipe.write.as_raw_fd(), 65536).is_err() {}
        assert_eq!(splice(into_pipe.as_raw_fd(), pipe.write.as_raw_fd(), 65536).unwrap(), 0, "end of the source");
    }

    #[test]
    fn a_pipe_has_the_size_asked_or_is_refused() {
        let granted = pipe(262_144).unwrap();
        assert!(granted.capacity >= 262_144, "{}", granted.capacity);
        // Over 2 GiB is over the limit for everybody, root included.
        assert!(pipe(usize::MAX).is_err());
        assert!(pipe(libc::c_int::MAX as usize).is_err());
    }

    #[test]
    fn a_number_that_is_no_descriptor_is_lent_to_nobody() {
        let lent = with_fd(-1, |_| -> io::Result<()> { panic!("it was lent") });
        assert_eq!(lent.unwrap_err().raw_os_error(), Some(libc::EBADF));
        let (near, _far) = pair();
        let number = with_fd(near.as_raw_fd(), |fd| Ok(fd.as_raw_fd()));
        assert_eq!(number.unwrap(), near.as_raw_fd());
    }

    #[test]
    fn the_descriptor_limit_rises_to_the_hard_one_and_stays() {
        let (_, now) = raise_descriptor_limit().unwrap();
        assert_eq!(raise_descriptor_limit().unwrap(), (now, now));
    }

    #[test]
    fn an_accepted_socket_is_nonblocking_and_closed_on_exec() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(accept(listener.as_raw_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, peer) = accept(listener.as_raw_fd()).unwrap();
        assert_eq!(peer, Some(client.local_addr().unwrap()));
        let mut stream = TcpStream::from(socket);
        assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", stream.as_raw_fd())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = libc::c_int::from_str_radix(flags.trim(), 8).unwrap();
        assert_ne!(flags & libc::O_CLOEXEC, 0, "{info}");
    }

    #[test]
    fn a_unix_client_is_accepted_without_an_address() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(accept(listener.as_raw_fd()).unwrap().1, None);
    }
}
