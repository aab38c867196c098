//! Network namespaces joined by a wire, and what can be done to the wire.
#![allow(dead_code)] // each test binary uses its own part

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::common::PATIENCE;

/// The end of the wire in every namespace.
const WIRE: &str = "wire";

/// A namespace of its own, gone when dropped.
pub struct Namespace {
    name: String,
    chains: AtomicUsize,
}

/// `a`, where everlink runs, and `b`, where its servers are: 10.77.0.1 and 10.77.0.2, fd77::1 and fd77::2.
pub struct Net {
    pub a: Namespace,
    pub b: Namespace,
}

/// Packets that vanish on their arrival, until healed or dropped.
pub struct Fault<'n> {
    at: &'n Namespace,
    chain: String,
}

/// Both directions of a wire cut.
pub struct Cut<'n>([Fault<'n>; 2]);

impl Net {
    pub fn new() -> Self {
        let net = Self { a: Namespace::new("a"), b: Namespace::new("b") };
        net.a.join(WIRE, "10.77.0.1/24", &net.b, WIRE, "10.77.0.2/24");
        net.a.ip(&["address", "add", "fd77::1/64", "dev", WIRE, "nodad"]);
        net.b.ip(&["address", "add", "fd77::2/64", "dev", WIRE, "nodad"]);
        net
    }

    /// Nothing passes any more, and nobody is told.
    pub fn cut(&self) -> Cut<'_> {
        Cut([self.a.lose(&format!("iifname {WIRE}")), self.b.lose(&format!("iifname {WIRE}"))])
    }

    /// What `a` sends does not arrive.
    pub fn lose_from_a(&self) -> Fault<'_> {
        self.b.lose(&format!("iifname {WIRE}"))
    }

    /// What `b` sends does not arrive.
    pub fn lose_from_b(&self) -> Fault<'_> {
        self.a.lose(&format!("iifname {WIRE}"))
    }

    /// A client of the everlink in `a`.
    pub fn client(&self, address: &str) -> TcpStream {
        self.a.connect(address)
    }

    pub fn unplug(&self) {
        self.a.ip(&["link", "set", WIRE, "down"]);
    }

    pub fn plug_in(&self) {
        self.a.ip(&["link", "set", WIRE, "up"]);
    }
}

impl Namespace {
    pub fn new(letter: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("everlink-{}-{number}-{letter}", std::process::id());
        ip(&["netns", "add", &name]);
        let made = Self { name, chains: AtomicUsize::new(0) };
        made.ip(&["link", "set", "lo", "up"]);
        made.nft("add table inet fault");
        made
    }

    /// Lays a wire from here to `other`, up and with these addresses.
    pub fn join(&self, wire: &str, address: &str, other: &Self, other_wire: &str, other_address: &str) {
        self.ip(&["link", "add", wire, "type", "veth", "peer", "name", other_wire, "netns", &other.name]);
        for (end, wire, address) in [(self, wire, address), (other, other_wire, other_address)] {
            end.ip(&["address", "add", address, "dev", wire]);
            end.ip(&["link", "set", wire, "up"]);
        }
    }

    /// Runs `act` on a thread inside; sockets and threads it makes stay inside.
    pub fn run<R: Send>(&self, act: impl FnOnce() -> R + Send) -> R {
        inside(&self.path(), act)
    }

    /// By which others can enter it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that will run inside. Its process is the program itself, not a wrapper.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// The same command, to run inside.
    pub fn enclose(&self, command: &Command) -> Command {
        let mut inside = self.command(command.get_program().to_str().expect("a path in UTF-8"));
        inside.args(command.get_args()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            inside.current_dir(directory);
        }
        inside
    }

    /// A client inside, with patience.
    pub fn connect(&self, address: &str) -> TcpStream {
        let address: SocketAddr = address.parse().expect("an address");
        let stream = self.run(|| TcpStream::connect_timeout(&address, PATIENCE)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_nodelay(true).expect("set");
        stream
    }

    pub fn sysctl(&self, setting: &str) {
        run(self.command("sysctl").args(["-q", "-w", setting]), "procps");
    }

    /// `ip` inside.
    pub fn ip(&self, arguments: &[&str]) {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments), "iproute2");
    }

    /// Loses what arrives and matches (in nft's words), as if it had been lost on the wire.
    pub fn lose(&self, matches: &str) -> Fault<'_> {
        self.meddle(matches, "drop")
    }

    /// What is said of the wire's queue, by `tc` inside; packages iproute2.
    pub fn tc(&self, arguments: &[&str]) {
        run(self.command("tc").args(arguments), "iproute2");
    }

    /// How often the wire's queue, as set by [`tc`](Self::tc), has held packets back.
    pub fn held_by_queue(&self) -> u64 {
        let output = self.command("tc").args(["-s", "qdisc", "show", "dev", WIRE]).output().expect("tc (iproute2)");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let held = told.split("overlimits ").nth(1).and_then(|rest| rest.split(' ').next());
        held.and_then(|held| held.parse().ok()).unwrap_or_else(|| panic!("no count in {told}"))
    }

    /// Answers what arrives and matches with a reset, as a firewall or a load balancer without a memory would.
    pub fn reset(&self, matches: &str) -> Fault<'_> {
        self.meddle(matches, "reject with tcp reset")
    }

    fn meddle(&self, matches: &str, verdict: &str) -> Fault<'_> {
        let chain = format!("f{}", self.chains.fetch_add(1, Ordering::Relaxed));
        self.nft(&format!(
            "table inet fault {{ chain {chain} {{ type filter hook prerouting priority -300; {matches} counter {verdict}\n}}\n}}\n"
        ));
        Fault { at: self, chain }
    }

    pub fn nft(&self, script: &str) -> String {
        let mut command = self.command("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the tool `ip` runs (package iproute2)");
        child.stdin.take().expect("piped").write_all(script.as_bytes()).expect("nft reads (package nftables)");
        let output = child.wait_with_output().expect("nft ends");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{script}` (package nftables): {told}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// One of the kernel's counters for all connections inside, as /proc/net/snmp and netstat have them: `Tcp`, `InCsumErrors`.
    pub fn counter(&self, group: &str, name: &str) -> u64 {
        let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("readable");
        let text = self.run(|| read("snmp") + &read("netstat"));
        let group = format!("{group}: ");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&group));
        let (names, values) = lines.next().zip(lines.next()).unwrap_or_else(|| panic!("no {group}"));
        let found = names.split(' ').zip(values.split(' ')).find(|(one, _)| *one == name);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or_else(|| panic!("no {group}{name}"))
    }

    /// Files that stand in for those of /etc, for programs started by [`command`](Self::command).
    pub fn etc(&self, name: &str, content: &str) {
        let directory = self.etc_directory();
        std::fs::create_dir_all(&directory).expect("made");
        std::fs::write(directory.join(name), content).expect("written");
    }

    fn etc_directory(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        let _ = std::fs::remove_dir_all(self.etc_directory());
        // Only when it is empty.
        let _ = std::fs::remove_dir("/etc/netns");
    }
}

impl Fault<'_> {
    /// Packets it has met so far.
    pub fn packets(&self) -> u64 {
        let listed = self.at.nft(&format!("list chain inet fault {}", self.chain));
        let count = listed.split("counter packets ").nth(1).and_then(|rest| rest.split_whitespace().next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no counter in {listed}"))
    }

    /// Ends it; that it took place at all is part of every test.
    pub fn heal(self) {
        assert!(self.packets() > 0, "the fault met no packet");
    }
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        // The namespace may be gone with it during a panic.
        let script = format!("delete chain inet fault {}", self.chain);
        let mut command = self.at.command("nft");
        let _ = command.arg(script).stderr(Stdio::null()).status();
    }
}

impl Cut<'_> {
    /// Ends it, and says when: a moment before the first packet could pass.
    pub fn heal(self) -> Instant {
        let packets: u64 = self.0.iter().map(Fault::packets).sum();
        assert!(packets > 0, "the cut met no packet");
        let [first, second] = self.0;
        drop(first);
        let healed = Instant::now();
        drop(second);
        healed
    }
}

/// Runs `act` on a thread inside the network namespace that this file stands for; sockets it makes stay inside.
pub fn inside<R: Send>(path: &Path, act: impl FnOnce() -> R + Send) -> R {
    let there = || {
        let shown = path.display();
        let namespace = File::open(path).unwrap_or_else(|error| panic!("{shown}: {error}"));
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .unwrap_or_else(|error| panic!("cannot enter {shown}: {error}; this test must run as root"));
        act()
    };
    std::thread::scope(|scope| scope.spawn(there).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Waits for a condition that nobody tells of.
pub fn until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments), "iproute2");
}

fn run(command: &mut Command, package: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error} (package {package})"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} (root, package {package}): {told}");
}
