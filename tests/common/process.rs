//! Tests that need a process of their own: the binary runs itself again for one test that is ignored otherwise.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

/// Runs the ignored test `name` of this binary alone, with at most so many descriptors, and holds that it passes.
pub fn alone(name: &str, descriptors: u32) {
    let script = format!("ulimit -n {descriptors}; exec \"$0\" --exact {name} --ignored --test-threads 1");
    let this = std::env::current_exe().expect("this binary");
    let output = Command::new("sh").arg("-c").arg(script).arg(this).output().expect("sh");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// A server in a process of its own, which can be stopped as a whole. Killed when dropped.
pub struct ServerProcess {
    pub address: SocketAddr,
    child: Child,
}

impl ServerProcess {
    /// Starts the ignored test `name`, which has to call [`announce`] and then serve for ever.
    pub fn start(name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", name, "--ignored", "--nocapture", "--test-threads", "1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let said = BufReader::new(child.stdout.take().expect("piped"));
        let address = said
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split("serving on ").nth(1)?.trim().parse().ok())
            .expect("an address");
        Self { address, child }
    }

    /// Stops the process; its kernel goes on accepting and acknowledging.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill");
        assert!(sent.success());
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells the process that started this one where it serves.
pub fn announce(address: SocketAddr) {
    println!("serving on {address}");
}
