//! The built program, run inside a namespace and watched from outside: metrics, descriptors, processor time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use super::net::{Namespace, until};
use crate::common::PATIENCE;

const HTTP: &str = "127.0.0.1:9900";

/// A process that can be stopped and continued; killed when dropped.
pub struct Process(Child);

/// An everlink that runs.
pub struct Program<'n> {
    process: Process,
    namespace: &'n Namespace,
    /// One connection for all scrapes, so that they need neither ports nor descriptors of their own.
    scrapes: Mutex<Option<BufReader<TcpStream>>>,
    directory: tempfile::TempDir,
}

/// One scrape.
pub struct Figures(HashMap<String, f64>);

/// What a process holds of the host: descriptors, without pipes, and memory in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub descriptors: usize,
    pub memory: u64,
}

/// KiB that allocators may keep for the next time. A single session may hold 80 MiB: 16 to send again, 64 of windows.
const MEMORY_LEFT: u64 = 48 << 10;

impl Process {
    pub fn new(child: Child) -> Self {
        Self(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    /// SIGSTOP: the process stands still, its kernel does not.
    pub fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).expect("stopped");
        until("the process stands still", PATIENCE, || self.stat()[2] == "T");
    }

    pub fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).expect("continued");
    }

    /// The fields of `proc_pid_stat(5)`, counted from 0.
    fn stat(&self) -> Vec<String> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("a living process");
        let after_name = text.rsplit_once(") ").expect("a name in brackets").1;
        ["pid", "name"].into_iter().chain(after_name.split_whitespace()).map(str::to_owned).collect()
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = self.stat();
        let ticks: u64 = [13, 14].iter().map(|&field| stat[field].parse::<u64>().expect("a number")).sum();
        // USER_HZ is 100 on every architecture Rust's standard library supports.
        Duration::from_millis(ticks * 10)
    }

    /// Open descriptors. Pipes are not counted: empty ones are kept for the next bulk transfer.
    pub fn descriptors(&self) -> usize {
        let directory = std::fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("a living process");
        let kinds = directory.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        kinds.filter(|kind| !kind.to_string_lossy().starts_with("pipe:")).count()
    }

    /// Memory that is not swapped, in KiB.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("a living process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("told");
        line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// All open descriptors.
    pub fn all_descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("a living process").count()
    }

    /// Changes how many descriptors it may have, as an operator would with prlimit(1).
    pub fn limit_descriptors(&self, limit: u64) {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let new = Rlimit { current: Some(limit), maximum };
        prlimit(Some(self.pid()), Resource::Nofile, new).expect("limited");
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'n> Program<'n> {
    /// Runs everlink inside `namespace` until it is ready.
    pub fn start(namespace: &'n Namespace, config: &str) -> Self {
        let directory = tempfile::tempdir().expect("made");
        let path = directory.path().join("everlink.toml");
        std::fs::write(&path, format!("[http]\nlisten = \"{HTTP}\"\n{config}")).expect("written");
        let log = File::create(directory.path().join("log")).expect("created");
        let mut command = namespace.command(env!("CARGO_BIN_EXE_everlink"));
        command.args(["run", "--config"]).arg(path);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("cloned")).stderr(log);
        let child = command.spawn().expect("started (package iproute2)");
        let mut program = Self { process: Process(child), namespace, scrapes: Mutex::default(), directory };
        let deadline = Instant::now() + PATIENCE;
        while !program.log().contains("everlink is ready") {
            assert!(program.process.is_running(), "everlink ended at once");
            assert!(Instant::now() < deadline, "everlink is not ready within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        program
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The metrics of this moment.
    pub fn figures(&self) -> Figures {
        let mut scrapes = self.scrapes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scrape = || {
            let connection = scrapes.get_or_insert_with(|| BufReader::new(self.namespace.connect(HTTP)));
            let text = get_metrics(connection);
            if text.is_err() {
                *scrapes = None;
            }
            text
        };
        // The connection of the last scrape may have been closed meanwhile.
        let text = scrape().or_else(|_| scrape()).expect("metrics");
        Figures::parse(&text)
    }

    /// Waits until the metrics say so; returns them.
    pub fn until(&self, what: &str, condition: impl FnMut(&Figures) -> bool) -> Figures {
        self.until_within(PATIENCE, what, condition)
    }

    /// The same, for what has a time of its own.
    pub fn until_within(&self, limit: Duration, what: &str, mut condition: impl FnMut(&Figures) -> bool) -> Figures {
        let deadline = Instant::now() + limit;
        loop {
            let figures = self.figures();
            if condition(&figures) {
                return figures;
            }
            assert!(Instant::now() < deadline, "not within {limit:?}: {what}; {}", figures.summary());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn until_up(&self, upstream: &str, links: usize) -> Figures {
        self.until("links up", |figures| figures.links(upstream, "up") == links)
    }

    /// Waits until so many links are up after so many reconnects of the upstream `test`.
    pub fn until_back(&self, links: usize, reconnects: usize) -> Figures {
        let back = |f: &Figures| {
            f.links("test", "up") == links && f.of("link_reconnects_total", "test") as usize == reconnects
        };
        self.until(&format!("{links} links up after {reconnects} reconnects"), back)
    }

    /// What it holds of the host; the connection of the scrapes is part of that.
    pub fn held(&self) -> Held {
        self.figures();
        Held { descriptors: self.process.descriptors(), memory: self.process.memory() }
    }

    /// Waits for as many descriptors as there were before, and holds that there is not much more memory.
    pub fn until_baseline(&self, before: Held) {
        let mut last = 0;
        let same = || {
            self.figures();
            last = self.process.descriptors();
            last <= before.descriptors
        };
        until(&format!("back to {before:?}"), PATIENCE, same);
        assert_eq!(last, before.descriptors);
        let memory = self.process.memory();
        assert!(memory <= before.memory + MEMORY_LEFT, "memory, KiB: {} and then {memory}", before.memory);
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- everlink's log ----\n{}----", self.log());
        }
    }
}

impl Figures {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.rsplit_once(' '));
        Self(pairs.filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?))).collect())
    }

    /// The sum of a metric's series that have all these labels.
    pub fn get(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        let matching = self.0.iter().filter(|(series, _)| {
            let name = series.split('{').next().unwrap_or_default();
            name == metric && labels.iter().all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")))
        });
        let mut values = matching.map(|(_, value)| *value).peekable();
        assert!(values.peek().is_some(), "there is no {metric} with {labels:?}");
        values.sum()
    }

    fn count(&self, metric: &str, upstream: &str, label: &str, value: &str) -> usize {
        self.get(metric, &[("upstream", upstream), (label, value)]) as usize
    }

    pub fn links(&self, upstream: &str, state: &str) -> usize {
        self.count("everlink_links", upstream, "state", state)
    }

    pub fn dials(&self, upstream: &str, outcome: &str) -> usize {
        self.count("everlink_link_dials_total", upstream, "outcome", outcome)
    }

    pub fn losses(&self, upstream: &str, reason: &str) -> usize {
        self.count("everlink_link_losses_total", upstream, "reason", reason)
    }

    pub fn closed(&self, upstream: &str, reason: &str) -> usize {
        self.count("everlink_connections_closed_total", upstream, "reason", reason)
    }

    /// A metric whose only label is the upstream.
    pub fn of(&self, metric: &str, upstream: &str) -> f64 {
        self.get(&format!("everlink_{metric}"), &[("upstream", upstream)])
    }

    pub fn all_losses(&self, upstream: &str) -> f64 {
        self.of("link_losses_total", upstream)
    }

    /// What is not zero, for a failure's message.
    fn summary(&self) -> String {
        let counts = self
            .0
            .iter()
            .filter(|(series, value)| **value != 0.0 && series.starts_with("everlink_") && !series.contains("_bucket"));
        let mut lines: Vec<_> = counts.map(|(series, value)| format!("{series} {value}")).collect();
        lines.sort();
        lines.join("\n")
    }
}

/// One request on a connection that stays open.
fn get_metrics(connection: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    connection.get_mut().write_all(b"GET /metrics HTTP/1.1\r\nHost: everlink\r\n\r\n")?;
    let mut length = None;
    let mut chunked = false;
    let mut line = String::new();
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let head = line.trim().to_ascii_lowercase();
        if head.is_empty() {
            break;
        }
        chunked |= head == "transfer-encoding: chunked";
        length = head.strip_prefix("content-length:").and_then(|value| value.trim().parse().ok()).or(length);
    }
    assert!(!chunked, "metrics come with their length");
    let mut body = vec![0; length.ok_or(std::io::ErrorKind::InvalidData)?];
    connection.read_exact(&mut body)?;
    String::from_utf8(body).map_err(std::io::Error::other)
}
