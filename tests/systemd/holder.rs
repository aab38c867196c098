//! The service manager's end of sd_listen_fds(3): sockets that outlive the programs they are passed to.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

use crate::harness::{EVERLINK, Place, Program};

/// Numbers below are the shell's.
const ABOVE: i32 = 100;
/// Held while a child is made that gets more than its standard streams.
static STARTING: Mutex<()> = Mutex::new(());

/// Sockets with their names, in order.
#[derive(Default)]
pub struct Holder(Vec<(String, OwnedFd)>);

impl Holder {
    /// Listens on a port that the kernel picks.
    pub fn tcp(&mut self, name: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address");
        self.0.push((name.to_owned(), listener.into()));
        address
    }

    pub fn unix(&mut self, name: &str, path: &Path) {
        self.0.push((name.to_owned(), UnixListener::bind(path).expect("bound").into()));
    }

    /// Starts an everlink with all of them, and waits until it is ready.
    pub fn start(&self, place: Place) -> Program {
        let mut program = self.spawn(place);
        program.until_logged("everlink is ready");
        program.follow_http();
        program
    }

    pub fn spawn(&self, place: Place) -> Program {
        let inherited = |(_, fd): &(String, OwnedFd)| {
            let copy = fcntl_dupfd_cloexec(fd.as_fd(), ABOVE).expect("a copy");
            fcntl_setfd(&copy, FdFlags::empty()).expect("set");
            copy
        };
        let alone = STARTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let copies: Vec<_> = self.0.iter().map(inherited).collect();
        let moved: String =
            copies.iter().enumerate().map(|(n, fd)| format!("{}<&{1} {1}<&- ", n + 3, fd.as_raw_fd())).collect();
        let names: Vec<_> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = Command::new("bash");
        let script = format!("exec {moved}; LISTEN_PID=$$ exec \"$0\" --config \"$1\"");
        command.args(["-c", &script, EVERLINK]).arg(place.config());
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let program = Program::spawn(place, command);
        drop(copies);
        drop(alone);
        program
    }
}
