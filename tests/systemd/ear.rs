//! The service manager's end of sd_notify(3).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tempfile::TempDir;

use crate::harness::{EVERLINK, Place, eventually};

/// Hears what is told, and when.
pub struct Ear {
    address: String,
    heard: Arc<Mutex<Vec<(Instant, String)>>>,
    _directory: Option<TempDir>,
}

impl Ear {
    /// At a path.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        Self { address: path.display().to_string(), heard: listen(socket), _directory: Some(directory) }
    }

    /// At a name without a file.
    pub fn with_abstract_name() -> Self {
        let name = format!("everlink-test-ear-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("bound");
        Self { address: format!("@{name}"), heard: listen(socket), _directory: None }
    }

    /// An everlink that tells us.
    pub fn command(&self, place: &Place) -> Command {
        let mut command = Command::new(EVERLINK);
        command.arg("--config").arg(place.config()).env("NOTIFY_SOCKET", &self.address);
        command
    }

    pub fn messages(&self) -> Vec<String> {
        self.heard.lock().expect("unpoisoned").iter().map(|(_, message)| message.clone()).collect()
    }

    /// The lines of all messages.
    pub fn lines(&self) -> Vec<String> {
        self.messages().iter().flat_map(|message| message.lines().map(str::to_owned)).collect()
    }

    /// How often a line was told.
    pub fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|told| *told == line).count()
    }

    /// When it was told last.
    pub fn last(&self, line: &str) -> Option<Instant> {
        let heard = self.heard.lock().expect("unpoisoned");
        heard.iter().rfind(|(_, message)| message.lines().any(|told| told == line)).map(|(at, _)| *at)
    }

    /// Until `line` was told `count` times.
    pub fn until_told(&self, line: &str, count: usize) {
        eventually(line, || self.count(line) >= count);
    }

    /// Waits until everything that was told so far has been heard.
    pub fn listen_up(&self) {
        let us = UnixDatagram::unbound().expect("made");
        us.send_to(b"heard", &self.address).expect("a path");
        self.until_told("heard", 1);
    }

    /// The line of `systemctl status`.
    pub fn status(&self) -> String {
        let lines = self.lines();
        lines.iter().rev().find_map(|line| line.strip_prefix("STATUS=")).unwrap_or_default().to_owned()
    }
}

fn listen(socket: UnixDatagram) -> Arc<Mutex<Vec<(Instant, String)>>> {
    let heard: Arc<Mutex<Vec<(Instant, String)>>> = Arc::default();
    let to = heard.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count) = socket.recv(&mut buffer) {
            let message = String::from_utf8(buffer[..count].to_vec()).expect("text");
            to.lock().expect("unpoisoned").push((Instant::now(), message));
        }
    });
    heard
}
