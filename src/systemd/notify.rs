//! The datagrams of sd_notify(3).

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Messages that wait for a manager that does not read; past it the oldest goes.
const WAITING: usize = 64;

/// The way to the service manager. Never waits: a manager that does not read is told later, or not at all.
#[derive(Default)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    waiting: VecDeque<String>,
    /// What was wrong at the last message, told once.
    fault: Option<io::ErrorKind>,
}

impl Notifier {
    /// To the socket that `NOTIFY_SOCKET` names. Without the variable there is nobody to tell.
    ///
    /// Errors: it names no socket that can be, or this process can have none of its own.
    pub fn from_environment(variable: impl FnOnce(&str) -> Option<OsString>) -> io::Result<Self> {
        let Some(address) = variable("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Ok(Self::default());
        };
        let address = named(&address)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { to: Some((socket, address)), ..Self::default() })
    }

    /// Whether there is anybody to tell.
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// Tells what must not be lost: it waits, in order, until it can be told.
    pub fn tell(&mut self, message: String) {
        if self.to.is_none() {
            return;
        }
        if self.waiting.len() == WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(message);
        self.tell_waiting();
    }

    /// Tells what is of use only now. `false`: it could not be told.
    pub fn mention(&mut self, message: &str) -> bool {
        self.tell_waiting();
        self.waiting.is_empty() && self.send(message)
    }

    /// Tells what could not be told before.
    pub fn tell_waiting(&mut self) {
        while let Some(message) = self.waiting.pop_front() {
            if !self.send(&message) {
                self.waiting.push_front(message);
                return;
            }
        }
    }

    fn send(&mut self, message: &str) -> bool {
        let Some((socket, address)) = &self.to else { return true };
        match socket.send_to_addr(message.as_bytes(), address) {
            Ok(_) => {
                self.fault = None;
                true
            }
            // Its queue is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                if self.fault.replace(error.kind()) != Some(error.kind()) {
                    tracing::warn!(%error, "the service manager cannot be told how this process fares");
                }
                false
            }
        }
    }
}

/// A path, or after an `@` a name in the abstract namespace.
fn named(address: &OsStr) -> io::Result<SocketAddr> {
    match address.as_bytes() {
        [b'@', name @ ..] => abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(address),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a path nor @ and a name")),
    }
}

#[cfg(target_os = "linux")]
fn abstract_name(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_name(_name: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no abstract names"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::linux::net::SocketAddrExt;

    use super::*;

    fn notifier(address: &str) -> io::Result<Notifier> {
        Notifier::from_environment(|name| (name == "NOTIFY_SOCKET").then(|| address.into()))
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        socket.set_nonblocking(true).unwrap();
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count) = socket.recv(&mut buffer) {
            all.push(String::from_utf8(buffer[..count].to_vec()).unwrap());
        }
        all
    }

    #[test]
    fn without_the_variable_nothing_is_done() {
        let mut notifier = Notifier::from_environment(|_| None).unwrap();
        notifier.tell("READY=1".to_owned());
        assert!(notifier.mention("WATCHDOG=1") && !notifier.is_heard() && notifier.waiting.is_empty());
    }

    #[test]
    fn a_path_and_an_abstract_name_are_both_reached() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("everlink-test-{}", std::process::id());
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.display().to_string()),
            (UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(), format!("@{name}")),
        ];
        for (socket, address) in sockets {
            let mut notifier = notifier(&address).unwrap();
            notifier.tell("READY=1\nSTATUS=well".to_owned());
            assert!(notifier.mention("WATCHDOG=1"));
            assert_eq!(heard(&socket), ["READY=1\nSTATUS=well", "WATCHDOG=1"], "{address}");
        }
        assert!(notifier("vsock:2:1234").is_err() && notifier("relative").is_err());
        assert!(notifier(&format!("/{}", "x".repeat(200))).is_err());
    }

    #[test]
    fn a_manager_that_does_not_read_is_never_waited_for_and_hears_what_matters_later_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut notifier = notifier(path.to_str().unwrap()).unwrap();
        let mut mentioned = 0;
        while notifier.mention("WATCHDOG=1") {
            mentioned += 1;
            assert!(mentioned < 100_000, "its queue has an end");
        }
        notifier.tell("RELOADING=1".to_owned());
        notifier.tell("READY=1".to_owned());
        assert!(!notifier.mention("STATUS=too early"), "not before what waits");
        assert_eq!(heard(&socket).len(), mentioned);
        notifier.tell_waiting();
        assert_eq!(heard(&socket), ["RELOADING=1", "READY=1"]);
        assert!(notifier.mention("STATUS=now"));
        for n in 0..2 * WAITING + mentioned {
            notifier.tell(n.to_string());
        }
        assert_eq!(notifier.waiting.len(), WAITING);
    }

    #[test]
    fn a_manager_that_has_gone_is_no_trouble() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let mut notifier = notifier(path.to_str().unwrap()).unwrap();
        notifier.tell("READY=1".to_owned());
        assert!(!notifier.mention("WATCHDOG=1"));
        let socket = UnixDatagram::bind(&path).unwrap();
        notifier.tell_waiting();
        assert_eq!(heard(&socket), ["READY=1"], "it has come back");
    }
}
