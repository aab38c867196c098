//! Where local clients arrive: sockets that listen, on TCP ports and at paths.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Keepalive, apply_keepalive, nodelay, suit_loopback};

/// Connections the kernel queues before they are accepted. It takes the smaller of this and `net.core.somaxconn`,
/// 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;

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
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use socket2::SockRef;

    use super::super::tests::accept;
    use super::*;

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
    fn a_listener_does_not_share_its_port_and_leaves_ipv4_alone() {
        let listener = bind_listener("127.0.0.1:0".parse().unwrap()).unwrap();
        let again = bind_listener(listener.local_addr().unwrap()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        let port = crate::port::free_port();
        let _v6 = bind_listener((std::net::Ipv6Addr::UNSPECIFIED, port).into()).unwrap();
        assert!(bind_listener(([0, 0, 0, 0], port).into()).is_ok(), "an IPv6 wildcard must not take IPv4");
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
