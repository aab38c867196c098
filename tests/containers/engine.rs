//! A Docker engine of a test's own. Whatever becomes of the test: it is ended, and nothing of it stays.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::PATIENCE;
use crate::common::program::{command, directory, finished, get, program, send, succeeded, wait_until};
use crate::faults::net::{Namespace, inside};

/// Containers ended by force take no longer.
const END_WITHIN: Duration = Duration::from_secs(15);

pub struct Engine {
    /// Bridges, rules and published ports are in here.
    pub network: Namespace,
    pub directory: TempDir,
    daemon: Child,
}

impl Engine {
    pub fn start() -> Self {
        let (network, directory) = (Namespace::new("docker"), directory());
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("daemon.json"), "{}").expect("written");
        let log = std::fs::File::create(at("log")).expect("a log");
        // A signal that it obeys: containers end with it, should the test be killed. `ip netns exec` would hide the
        // control groups.
        let mut daemon = Command::new(program("setpriv"));
        daemon.args(["--pdeathsig", "TERM", "--"]).arg(program("nsenter"));
        daemon.arg(format!("--net={}", network.path().display())).arg(program("dockerd"));
        for (option, name) in
            [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid"), ("--config-file", "daemon.json")]
        {
            daemon.arg(option).arg(at(name));
        }
        daemon.args(["--log-level", "warn"]);
        daemon.arg("--host").arg(format!("unix://{}", at("sock").display())).stdin(Stdio::null());
        daemon.stdout(log.try_clone().expect("cloned")).stderr(log);
        let daemon = daemon.spawn().expect("the engine can be started");
        let mut made = Self { network, directory, daemon };
        let deadline = Instant::now() + PATIENCE;
        while !made.docker(&["version"]).output().is_ok_and(|output| output.status.success()) {
            let ended = made.daemon.try_wait().expect("a child of ours");
            assert!(ended.is_none() && Instant::now() < deadline, "the engine does not start:\n{}", made.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        made
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A command of the client's.
    pub fn docker(&self, arguments: &[&str]) -> Command {
        // Debian's, which belongs to the engine, before any newer one in the path.
        let debian = Path::new("/usr/bin/docker");
        let mut docker = if debian.is_file() { Command::new(debian) } else { command("docker") };
        docker.args(arguments).stdin(Stdio::null());
        self.aim(&mut docker);
        docker
    }

    /// Makes a client ask this engine, by a configuration of its own.
    pub fn aim(&self, client: &mut Command) {
        client.env("DOCKER_HOST", format!("unix://{}", self.directory.path().join("sock").display()));
        client.env("DOCKER_CONFIG", self.directory.path().join("client"));
        client.env("DOCKER_BUILDKIT", "0");
    }

    /// What a command of the client's, which must succeed, prints.
    pub fn ask(&self, arguments: &[&str]) -> String {
        succeeded(&mut self.docker(arguments)).trim_end().to_owned()
    }

    /// Starts a container in the background.
    pub fn run(&self, arguments: &[&str]) -> Container<'_> {
        let id = self.ask(&[&["run", "--detach"], arguments].concat());
        Container { engine: self, id }
    }

    pub fn container(&self, id: &str) -> Container<'_> {
        Container { engine: self, id: id.to_owned() }
    }

    /// What is known of an image or container.
    pub fn inspect(&self, what: &str) -> Value {
        let all: Value = serde_json::from_str(&self.ask(&["inspect", what])).expect("JSON");
        all[0].clone()
    }

    /// One GET from the machine that the containers run on: the status and the body, 0 if there was no answer.
    pub fn get(&self, address: SocketAddr, path: &str) -> (u16, String) {
        self.network.run(|| get(address, path, "*/*")).unwrap_or_default()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the engine said:\n{}", self.log());
        }
        if let Ok(output) = self.docker(&["ps", "--all", "--quiet"]).output() {
            let all = String::from_utf8_lossy(&output.stdout).into_owned();
            let all: Vec<&str> = all.split_whitespace().collect();
            if !all.is_empty() {
                let _ = self.docker(&[&["rm", "--force", "--volumes"], &all[..]].concat()).output();
            }
        }
        let pid = std::fs::read_to_string(self.directory.path().join("pid"));
        if let Some(pid) = pid.ok().and_then(|pid| pid.trim().parse().ok())
            && pid == self.daemon.id()
        {
            send("TERM", pid);
        }
        let deadline = Instant::now() + END_WITHIN;
        while self.daemon.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                let _ = self.daemon.kill();
                let _ = self.daemon.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut left = mounts_below(self.directory.path());
        left.sort_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
        for path in &left {
            let _ = Command::new("umount").arg("--lazy").arg(path).status();
        }
        let removed = std::fs::remove_dir_all(self.directory.path());
        if !std::thread::panicking() {
            removed.unwrap_or_else(|error| panic!("something of the engine stays: {error}"));
        }
    }
}

/// Where something is mounted in this directory.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    places.filter(|place| place.starts_with(directory)).collect()
}

pub struct Container<'e> {
    engine: &'e Engine,
    pub id: String,
}

impl Container<'_> {
    pub fn inspect(&self) -> Value {
        self.engine.inspect(&self.id)
    }

    pub fn health(&self) -> String {
        self.inspect()["State"]["Health"]["Status"].as_str().expect("a health check").to_owned()
    }

    pub fn until_healthy(&self) {
        wait_until("healthy", || self.health() == "healthy");
    }

    /// Its address in the network of this name.
    pub fn address(&self, network: &str, port: u16) -> SocketAddr {
        let inspected = self.inspect();
        let address = inspected["NetworkSettings"]["Networks"][network]["IPAddress"].as_str();
        let address: Ipv4Addr = address.and_then(|text| text.parse().ok()).expect("an address");
        SocketAddr::from((address, port))
    }

    /// All it wrote so far.
    pub fn log(&self) -> String {
        let output = finished(&mut self.engine.docker(&["logs", &self.id]));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// A command in it, which must succeed; what it prints.
    pub fn exec(&self, arguments: &[&str]) -> String {
        self.engine.ask(&[&["exec", &self.id], arguments].concat())
    }

    /// A connection to its own loopback.
    pub fn connect_inside(&self, port: u16) -> TcpStream {
        let pid = self.inspect()["State"]["Pid"].as_u64().expect("a process");
        let network = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let stream = inside(&network, || TcpStream::connect(("127.0.0.1", port))).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    pub fn signal(&self, signal: &str) {
        self.engine.ask(&["kill", "--signal", signal, &self.id]);
    }

    /// Waits until it has ended by itself; its exit code.
    pub fn exit_code(&self) -> i32 {
        self.engine.ask(&["wait", &self.id]).parse().expect("a number")
    }
}
