//! The built everlink as a process of its own, and other programs beside it; all ended when dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use everlink::http::report::{Report, UpstreamReport};
use tempfile::TempDir;

use super::PATIENCE;
pub use super::port::free_port;

/// Waits until `condition` holds; says `what` if it never does.
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, condition);
}

/// As [`wait_until`], for what has a time of its own.
pub fn wait_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The user this test runs as.
pub fn user() -> u32 {
    std::fs::metadata("/proc/self").expect("/proc").uid()
}

/// The Debian package that brings each program the tests start.
const PACKAGES: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("redis-benchmark", "redis-tools"),
    ("initdb", "postgresql"),
    ("postgres", "postgresql"),
    ("pgbench", "postgresql"),
    ("psql", "postgresql-client"),
    ("memcached", "memcached"),
    ("nginx", "nginx"),
    ("exim4", "exim4-daemon-light"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("prometheus-alertmanager", "prometheus-alertmanager"),
    ("amtool", "prometheus-alertmanager"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("prlimit", "util-linux"),
    ("nsenter", "util-linux"),
    ("socat", "socat"),
    ("docker", "docker.io"),
    ("dockerd", "docker.io"),
    ("docker-compose", "docker-compose"),
    ("busybox", "busybox-static"),
];

/// The path of a program. Debian keeps those of PostgreSQL out of `PATH`, by version. One that is missing fails the test
/// and names its package.
pub fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    places.sort();
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let found = places.iter().map(|place| place.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        let package = PACKAGES.iter().find(|(program, _)| *program == name).map_or(name, |(_, package)| package);
        panic!("this test needs the program {name}, which is not installed: apt-get install {package}")
    })
}

/// A command that dies with the thread that starts it, even if that is killed.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(program("setpriv"));
    command.args(["--pdeathsig", "KILL", "--"]).arg(program(name)).stdin(Stdio::null());
    command
}

/// Runs a command to its end and returns what it wrote; ends it, and the test, if that takes longer than twice
/// [`PATIENCE`].
pub fn finished(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            let _ = from.read_to_end(&mut all);
            all
        })
    };
    let stdout = read(Box::new(child.stdout.take().expect("a pipe")));
    let stderr = read(Box::new(child.stderr.take().expect("a pipe")));
    let status = ended(&mut child, 2 * PATIENCE);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, stderr) = (stdout.join().expect("read"), stderr.join().expect("read"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let Some(status) = status else { panic!("{command:?} does not end; so far: {}{}", text(&stdout), text(&stderr)) };
    Output { status, stdout, stderr }
}

/// As [`finished`], for a command that must succeed; returns its standard output.
pub fn succeeded(command: &mut Command) -> String {
    let output = finished(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

fn ended(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A program that runs until it is told to end; killed when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it with its output in `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log");
        let copy = file.try_clone().expect("cloned");
        let child = command.stdout(file).stderr(copy).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// Waits until it serves, by `condition`; if it ends instead, tells what it said.
    pub fn until_ready(mut self, mut condition: impl FnMut() -> bool) -> Self {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                panic!("it ended, {status}: {}", self.said());
            }
            assert!(Instant::now() < deadline, "it does not become ready: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        self
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// All it wrote so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal by its name and waits for the end.
    pub fn end_by(mut self, signal: &str) -> ExitStatus {
        send(signal, self.child.id());
        ended(&mut self.child, PATIENCE).unwrap_or_else(|| panic!("it does not end by {signal}: {}", self.said()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal, such as `TERM`, to one process.
pub fn send(signal: &str, process: u32) {
    // The shell's own, for the program is in a package of its own.
    let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &process.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "{signal} could not be sent to {process}");
}

/// A directory under the system's own for temporary files, gone when dropped.
pub fn directory() -> TempDir {
    tempfile::Builder::new().prefix("everlink-test-").tempdir().expect("a temporary directory")
}

/// A running everlink with a configuration file of its own.
pub struct Program {
    child: Child,
    directory: TempDir,
    log: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    http: SocketAddr,
}

impl Program {
    /// Runs `upstreams` with HTTP on a port that the kernel picks and a short drain, and waits until it has started.
    pub fn start(upstreams: &str) -> Self {
        Self::start_in(directory(), upstreams)
    }

    /// As [`start`](Self::start), with its configuration in a directory that holds other files already.
    pub fn start_in(directory: TempDir, upstreams: &str) -> Self {
        std::fs::write(directory.path().join("config.toml"), whole(upstreams)).expect("a configuration");
        Self::start_wrapped(directory, &[])
    }

    /// Runs the configuration that is in `directory` already, by the command `wrapper`, which runs what follows it.
    pub fn start_wrapped(directory: TempDir, wrapper: &[String]) -> Self {
        let mut command = Command::new(program("setpriv"));
        command.args(["--pdeathsig", "KILL", "--"]).args(wrapper).arg(env!("CARGO_BIN_EXE_everlink"));
        command.arg("run").arg("--config").arg(directory.path().join("config.toml"));
        Self::start_as(directory, command)
    }

    /// By a command of the test's own, which must become everlink. Its files are in `directory`.
    pub fn start_as(directory: TempDir, mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("everlink can be started");
        let log = Arc::new(Mutex::new(Vec::new()));
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("a pipe")), Box::new(child.stderr.take().expect("a pipe"))];
        let readers = outputs.map(|output| {
            let log = log.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    log.lock().expect("unpoisoned").push(line);
                }
            })
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut made = Self { child, directory, log, readers: readers.into(), http: nowhere };
        made.await_start();
        made
    }

    fn await_start(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = self.logged("metrics, health and status are served").and_then(|line| address(&line))
            {
                self.http = address;
                if self.get("/startupz").0 == 200 {
                    return;
                }
            }
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                panic!("everlink ended, {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "everlink does not start:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn http(&self) -> SocketAddr {
        self.http
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("unpoisoned").join("\n")
    }

    /// The newest line with this text in it.
    pub fn logged(&self, text: &str) -> Option<String> {
        self.log.lock().expect("unpoisoned").iter().rfind(|line| line.contains(text)).cloned()
    }

    /// Puts another configuration in the place of the running one, as editors do.
    pub fn edit(&self, upstreams: &str) {
        let new = self.directory.path().join("config.toml.new");
        std::fs::write(&new, whole(upstreams)).expect("written");
        std::fs::rename(new, self.directory.path().join("config.toml")).expect("renamed");
    }

    /// One GET: the status and the body; 0 if there was no answer.
    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.http, path, "*/*").unwrap_or_default()
    }

    pub fn status(&self) -> Report {
        let (code, body) = self.get("/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("a status")
    }

    pub fn upstream(&self, name: &str) -> UpstreamReport {
        let found = self.status().upstreams.into_iter().find(|upstream| upstream.name == name);
        found.unwrap_or_else(|| panic!("no upstream {name}"))
    }

    /// Where the clients of an upstream connect: its first listener.
    pub fn listener(&self, upstream: &str) -> SocketAddr {
        self.upstream(upstream).listen[0].parse().expect("an address")
    }

    /// A client of the upstream.
    pub fn connect(&self, upstream: &str) -> TcpStream {
        let stream = TcpStream::connect(self.listener(upstream)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }

    pub fn metrics(&self) -> Samples {
        let (code, body) = self.get("/metrics");
        assert_eq!(code, 200, "{body}");
        Samples::parse(&body)
    }

    /// One sample, named as in the text: `everlink_links{state="up",upstream="a"}`.
    pub fn metric(&self, series: &str) -> f64 {
        self.metrics().value(series)
    }

    /// Waits until so many links of the upstream are up.
    pub fn until_up(&self, upstream: &str, links: usize) {
        wait_until(&format!("{links} links of {upstream} up"), || {
            self.upstream(upstream).links.iter().filter(|link| link.state == "up").count() == links
        });
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Ends it by SIGTERM; it must drain and leave with 0. Returns its whole log.
    pub fn stop(self) -> String {
        send("TERM", self.child.id());
        self.left()
    }

    /// Waits for its end, as of one that was told to drain; it must leave with 0. Returns its whole log.
    pub fn left(mut self) -> String {
        let status = ended(&mut self.child, PATIENCE);
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let log = self.log();
        assert!(status.is_some_and(|status| status.success()), "ended as {status:?}:\n{log}");
        assert!(!log.contains("a task panicked"), "{log}");
        log
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("everlink said:\n{}", self.log());
        }
    }
}

/// The whole configuration of a [`Program`].
pub fn whole(upstreams: &str) -> String {
    format!("[http]\nlisten = \"127.0.0.1:0\"\n[drain]\ntimeout = \"5s\"\nquiet = \"100ms\"\n{upstreams}")
}

/// The `address` field of a line of the log, which is JSON.
fn address(line: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    line.get("address")?.as_str()?.parse().ok()
}

/// One GET over HTTP/1.1: the status and the body.
pub fn get(server: SocketAddr, path: impl AsRef<OsStr>, accept: &str) -> std::io::Result<(u16, String)> {
    let path = path.as_ref().to_string_lossy();
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // HTTP/1.0, so that the body ends with the connection and in no other way.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\nAccept: {accept}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let bad = || std::io::Error::other(format!("no answer: {answer}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    Ok((code, body.to_owned()))
}

/// The samples of one scrape.
#[derive(Debug, Clone, Default)]
pub struct Samples(pub Vec<(String, f64)>);

impl Samples {
    /// Reads the text format; what is no sample must be a comment.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        });
        Self(samples.collect())
    }

    pub fn find(&self, series: &str) -> Option<f64> {
        self.0.iter().find(|(name, _)| name == series).map(|(_, value)| *value)
    }

    pub fn value(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| panic!("no series {series}"))
    }

    /// The series that carry this label.
    pub fn with_label(&self, name: &str, value: &str) -> Vec<&str> {
        let label = format!("{name}=\"{value}\"");
        let has = |series: &&str| {
            series
                .split_once('{')
                .is_some_and(|(_, labels)| labels.trim_end_matches('}').split(',').any(|l| l == label))
        };
        self.0.iter().map(|(series, _)| series.as_str()).filter(has).collect()
    }
}
