//! Sockets that the service manager has made and passes: clients queue at them while no everlink runs.
//!
//! One is used in the place of a socket of our own wherever the configuration names its address, so a configuration does
//! not have to know of it. The manager keeps its own handle of each, which is why none can be closed for good from here.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::{SockRef, Type};

use crate::config::ListenAddress;
use crate::log;
use crate::net::{kernel, socket};

/// More are not taken.
const MOST: u16 = 20_000;

/// The sockets that were passed, if any. Clones are the same.
#[derive(Clone, Default)]
pub struct Passed(Arc<Mutex<Vec<One>>>);

struct One {
    /// From `LISTEN_FDNAMES`: the unit's, unless it says `FileDescriptorName=`.
    name: String,
    address: ListenAddress,
    /// `Err`: why clients cannot be accepted from it. `None`: it has been closed, for no key named it.
    socket: Option<Result<OwnedFd, &'static str>>,
    /// It is an IPv6 socket that takes IPv4 as well.
    takes_both: bool,
    /// A configuration has named it.
    was_named: bool,
    is_named: bool,
}

impl fmt::Display for One {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, log::printable(&self.name))
    }
}

impl Passed {
    /// Takes over what this process was started with, as `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` tell. To be
    /// called before anything else opens a descriptor. What cannot be used at all is told by the second value.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> (Self, Vec<String>) {
        let Some((count, names)) = count_and_names(variable, std::process::id()) else { return Default::default() };
        if count > MOST {
            return (Self::default(), vec![format!("{count} sockets were passed: more than {MOST} are not taken")]);
        }
        let names = names.into_iter().chain(std::iter::repeat("unknown".to_owned()));
        Self::of(names.zip(kernel::inherited(count)))
    }

    /// These, with their names.
    pub(crate) fn of(descriptors: impl IntoIterator<Item = (String, io::Result<OwnedFd>)>) -> (Self, Vec<String>) {
        let (mut all, mut faults) = (Vec::new(), Vec::new());
        for (name, fd) in descriptors {
            match fd.and_then(|fd| Ok((address(&fd)?, fd))) {
                Ok((address, fd)) => {
                    let takes_both = takes_both(&fd, &address);
                    let socket = Some(fault(&fd).map_or(Ok(fd), Err));
                    all.push(One { name, address, socket, takes_both, was_named: false, is_named: false });
                }
                Err(error) => {
                    let name = log::printable(&name);
                    faults.push(format!("what the service manager passed as {name} is of no use: {error}"));
                }
            }
        }
        (Self(Arc::new(Mutex::new(all))), faults)
    }

    /// A socket that listens at `address`, and whether it was passed: it is one of our own unless the address says so.
    ///
    /// Errors: those of [`socket::bind_listener`]; what was passed for the address is no socket that listens.
    pub fn tcp(&self, address: SocketAddr) -> io::Result<(TcpListener, bool)> {
        let wanted = ListenAddress::Tcp(address);
        match self.get(&wanted)? {
            Some(fd) => {
                socket::suit_listener(&fd, address.ip())?;
                Ok((TcpListener::from(fd), true))
            }
            None => {
                socket::bind_listener(address).map(|own| (own, false)).map_err(|error| self.explain(error, &wanted))
            }
        }
    }

    /// The same at a path. The file of a socket that was passed is the manager's: it stays, with the mode that it has.
    pub fn unix(&self, path: &Path) -> io::Result<(UnixListener, bool)> {
        match self.unix_only(path)? {
            Some(passed) => Ok((passed, true)),
            None => {
                let wanted = ListenAddress::Unix(path.to_owned());
                socket::bind_unix(path).map(|own| (own, false)).map_err(|error| self.explain(error, &wanted))
            }
        }
    }

    /// The socket passed for a path, if there is one. Errors: it is no socket that listens.
    pub fn unix_only(&self, path: &Path) -> io::Result<Option<UnixListener>> {
        Ok(self.get(&ListenAddress::Unix(path.to_owned()))?.map(UnixListener::from))
    }

    /// A configuration with these addresses is in force. What it does not name is told, a line each: a socket that none
    /// has named yet is closed, and one that an earlier one named is kept for a later one.
    pub fn are_named(&self, addresses: &HashSet<ListenAddress>) -> Vec<String> {
        let mut lines = Vec::new();
        for one in self.all().iter_mut() {
            let was_named = std::mem::replace(&mut one.is_named, addresses.contains(&one.address));
            if one.is_named {
                one.was_named = true;
            } else if was_named {
                lines.push(format!(
                    "the socket passed for {one} is named by no key any more: who connects there waits until one does, \
                     or until its socket unit is stopped"
                ));
            } else if !one.was_named && one.socket.take().is_some() {
                lines.push(format!("the socket passed for {one} is closed: no key has that address"));
            }
        }
        lines
    }

    fn get(&self, address: &ListenAddress) -> io::Result<Option<OwnedFd>> {
        let all = self.all();
        let open = all.iter().filter(|one| one.address == *address).find_map(|one| Some((one, one.socket.as_ref()?)));
        let Some((one, socket)) = open else { return Ok(None) };
        let fd = match socket {
            Ok(fd) => fd.try_clone()?,
            Err(fault) => {
                let name = log::printable(&one.name);
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("the socket passed for it ({name}) {fault}"),
                ));
            }
        };
        SockRef::from(&fd).set_nonblocking(true)?;
        Ok(Some(fd))
    }

    /// An address that is in use may be so by a socket that was passed, and then nobody else has to go.
    fn explain(&self, error: io::Error, wanted: &ListenAddress) -> io::Error {
        let all = self.all();
        let Some(holder) = all.iter().find(|one| one.keeps_from(wanted)) else { return error };
        if error.kind() != io::ErrorKind::AddrInUse {
            return error;
        }
        let cure = if holder.address == *wanted {
            "no key had that address at the start: restart everlink"
        } else if holder.takes_both {
            "it takes IPv4 as well: let its unit say BindIPv6Only=ipv6-only, or another address"
        } else {
            "let its unit name the address of the configuration"
        };
        io::Error::other(format!("{error}: the service manager holds a socket at {holder}; {cure}"))
    }

    fn all(&self) -> MutexGuard<'_, Vec<One>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl One {
    /// Whether nobody can listen at an address while the manager has this one.
    fn keeps_from(&self, wanted: &ListenAddress) -> bool {
        match (&self.address, wanted) {
            (ListenAddress::Tcp(held), ListenAddress::Tcp(wanted)) => {
                let both = self.takes_both && held.port() == wanted.port();
                held == wanted || socket::overlap(held, wanted) || both
            }
            (held, wanted) => held == wanted,
        }
    }
}

/// How many descriptors were passed to the process with this id, and their names. `None`: none.
fn count_and_names(variable: impl Fn(&str) -> Option<String>, us: u32) -> Option<(u16, Vec<String>)> {
    if variable("LISTEN_PID")?.parse() != Ok(us) {
        return None;
    }
    let count: u64 = variable("LISTEN_FDS")?.parse().ok().filter(|count| *count > 0)?;
    let names = variable("LISTEN_FDNAMES").map(|names| names.split(':').map(str::to_owned).collect());
    Some((u16::try_from(count).unwrap_or(u16::MAX), names.unwrap_or_default()))
}

/// Errors: it is no socket, or none with an address that a configuration can name.
fn address(fd: &OwnedFd) -> io::Result<ListenAddress> {
    let address = SockRef::from(fd).local_addr()?;
    let tcp = address.as_socket().map(ListenAddress::Tcp);
    tcp.or_else(|| address.as_pathname().map(|path| ListenAddress::Unix(path.to_owned()))).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "it has neither an IP address nor a path in the file system")
    })
}

/// Why clients cannot be accepted from it.
fn fault(fd: &OwnedFd) -> Option<&'static str> {
    let socket = SockRef::from(fd);
    match socket.r#type() {
        Ok(Type::STREAM) if socket.is_listener().unwrap_or(false) => None,
        Ok(Type::STREAM) => Some("does not listen: its unit must say Accept=no, the default"),
        _ => Some("is no stream socket: its unit must say ListenStream="),
    }
}

fn takes_both(fd: &OwnedFd, address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Tcp(SocketAddr::V6(v6)) if v6.ip().is_unspecified())
        && !SockRef::from(fd).only_v6().unwrap_or(true)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn passed(fds: impl IntoIterator<Item = OwnedFd>) -> Passed {
        let (passed, faults) = Passed::of(fds.into_iter().map(|fd| ("unit".to_owned(), Ok(fd))));
        assert!(faults.is_empty(), "{faults:?}");
        passed
    }

    fn named(addresses: &[SocketAddr]) -> HashSet<ListenAddress> {
        addresses.iter().copied().map(ListenAddress::Tcp).collect()
    }

    #[test]
    fn descriptors_are_for_the_process_that_is_named() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            count_and_names(|name| pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()), 7)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("LISTEN_FDS", "2")]), None);
        assert_eq!(of(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "8")]), None);
        assert_eq!(of(&[("LISTEN_FDS", "0"), ("LISTEN_PID", "7")]), None);
        assert_eq!(of(&[("LISTEN_FDS", "-1"), ("LISTEN_PID", "7")]), None);
        assert_eq!(of(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "7")]), Some((2, vec![])));
        assert_eq!(of(&[("LISTEN_FDS", "99999999999"), ("LISTEN_PID", "7")]), Some((u16::MAX, vec![])));
        let names = Some((2, vec!["a".to_owned(), String::new()]));
        assert_eq!(of(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "7"), ("LISTEN_FDNAMES", "a:")]), names);
    }

    #[test]
    fn a_passed_socket_is_used_with_what_its_queue_holds_and_all_others_are_our_own() {
        let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = theirs.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let passed = passed([theirs.into()]);
        let (listener, is_passed) = passed.tcp(address).unwrap();
        assert!(is_passed);
        let (socket, peer) = listener.accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        drop(socket);
        let _later = TcpStream::connect(address).unwrap();
        let (socket, _) = listener.accept().unwrap();
        assert!(SockRef::from(&socket).tcp_nodelay().unwrap() && SockRef::from(&socket).keepalive().unwrap());
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!passed.tcp("127.0.0.1:0".parse().unwrap()).unwrap().1);
        assert!(!Passed::default().tcp("127.0.0.1:0".parse().unwrap()).unwrap().1);
    }

    #[test]
    fn a_passed_path_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("chat.sock");
        let theirs = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
        let passed = passed([theirs.into()]);
        let (listener, is_passed) = passed.unix(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        assert!(is_passed && listener.accept().is_ok());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(!passed.unix(&directory.path().join("own.sock")).unwrap().1);
    }

    #[test]
    fn a_socket_of_the_wrong_kind_is_an_error_where_its_address_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("datagrams");
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (datagrams, connection) = (udp.local_addr().unwrap(), client.local_addr().unwrap());
        let passed = passed([udp.into(), client.into(), UnixDatagram::bind(&path).unwrap().into()]);
        let told = |result: io::Result<(TcpListener, bool)>| result.unwrap_err().to_string();
        assert_eq!(
            told(passed.tcp(datagrams)),
            "the socket passed for it (unit) is no stream socket: its unit must say ListenStream="
        );
        assert!(told(passed.tcp(connection)).contains("does not listen: its unit must say Accept=no"));
        assert!(passed.unix(&path).unwrap_err().to_string().contains("no stream socket"));
    }

    #[test]
    fn what_is_no_socket_is_told_and_the_others_are_used() {
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let (near, _far) = UnixStream::pair().unwrap();
        let closed = Err(io::Error::from_raw_os_error(libc::EBADF));
        let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = theirs.local_addr().unwrap();
        let all = [Ok(file), Ok(near.into()), closed, Ok(theirs.into())];
        let (passed, faults) = Passed::of(all.into_iter().map(|fd| ("a\nname".to_owned(), fd)));
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults.iter().all(|fault| fault.contains("passed as a\\nname is of no use")), "{faults:?}");
        assert!(passed.tcp(address).unwrap().1);
    }

    #[test]
    fn what_nobody_names_is_closed_and_what_somebody_named_is_kept() {
        let sockets = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [used, unused] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        let manager = sockets.each_ref().map(|socket| socket.try_clone().unwrap());
        let passed = passed(sockets.map(Into::into));
        let lines = passed.are_named(&named(&[used]));
        assert_eq!(lines, [format!("the socket passed for {unused} (unit) is closed: no key has that address")]);
        assert!(passed.are_named(&named(&[used])).is_empty(), "told once");
        // The manager has it still.
        let error = passed.tcp(unused).unwrap_err().to_string();
        assert!(error.contains("no key had that address at the start: restart everlink"), "{error}");
        let lines = passed.are_named(&named(&[]));
        assert!(matches!(lines.as_slice(), [one] if one.contains("named by no key any more")), "{lines:?}");
        assert!(passed.are_named(&named(&[])).is_empty(), "told once");
        assert!(passed.tcp(used).unwrap().1, "kept for whoever names it again");
        assert!(passed.are_named(&named(&[used])).is_empty());
        drop(manager);
        let began = std::time::Instant::now();
        while TcpStream::connect(unused).is_ok() {
            // A program that another test is starting has a copy of it, up to its exec.
            assert!(began.elapsed().as_secs() < 30, "it is not closed");
            std::thread::yield_now();
        }
        TcpStream::connect(used).expect("it is not");
    }

    #[test]
    fn an_address_that_a_passed_socket_keeps_us_from_is_explained() {
        let theirs = TcpListener::bind("[::]:0").unwrap();
        let port = theirs.local_addr().unwrap().port();
        let both = passed([theirs.into()]);
        let error = both.tcp(([127, 0, 0, 1], port).into()).unwrap_err();
        assert!(error.kind() != io::ErrorKind::AddrInUse, "nothing of ours has to make room");
        assert!(error.to_string().contains("BindIPv6Only=ipv6-only"), "{error}");
        let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = theirs.local_addr().unwrap().port();
        let error = passed([theirs.into()]).tcp(([0, 0, 0, 0], port).into()).unwrap_err().to_string();
        assert!(error.contains("let its unit name the address of the configuration"), "{error}");
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = Passed::default().tcp(other.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
