//! The built program as a child: started with a configuration of its own, looked at over HTTP, ended by its id.
#![allow(dead_code)] // each test binary uses its own part

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use crate::port::{free_port, nobody};

pub const EVERLINK: &str = env!("CARGO_BIN_EXE_everlink");
/// Nothing a test waits for takes longer than this, even on a machine under load.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds; says `what` if it never does. Returns how long it took.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    began.elapsed()
}

/// A directory with a `config.toml`.
pub struct Place(TempDir);

impl Place {
    pub fn new(config: &str) -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        place.write(config);
        place
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.at("config.toml")
    }

    /// Truncates and writes in place.
    pub fn write(&self, config: &str) {
        std::fs::write(self.config(), config).expect("written");
    }

    /// As editors do: a new file renamed over the old one.
    pub fn replace(&self, config: &str) {
        std::fs::write(self.at(".config.toml.swp"), config).expect("written");
        std::fs::rename(self.at(".config.toml.swp"), self.config()).expect("renamed");
    }
}

/// A running everlink.
pub struct Program {
    child: Child,
    pub place: Place,
    log: Arc<Mutex<Vec<String>>>,
    errors: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    http: Option<SocketAddr>,
}

impl Program {
    /// Starts and waits until it is ready. The configuration's `http.listen` should have port 0.
    pub fn start(config: &str) -> Self {
        Self::start_in(Place::new(config))
    }

    pub fn start_in(place: Place) -> Self {
        let mut command = Command::new(EVERLINK);
        command.arg("--config").arg(place.config());
        Self::start_as(place, command)
    }

    /// `command` runs everlink in some way.
    pub fn start_as(place: Place, command: Command) -> Self {
        let mut program = Self::spawn(place, command);
        program.until_logged("everlink is ready");
        program.http = program.http_address();
        program
    }

    /// Starts without waiting.
    pub fn spawn(place: Place, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("RUST_BACKTRACE", "0");
        let mut child = command.spawn().expect("started");
        let (log, reader) = collect(child.stdout.take().expect("a pipe"));
        let (errors, other) = collect(child.stderr.take().expect("a pipe"));
        Self { child, place, log, errors, readers: vec![reader, other], http: None }
    }

    /// Starts with an output that is not read here, and HTTP at a port given in the configuration.
    pub fn start_mute(place: Place, mut command: Command, stdout: Stdio, http: SocketAddr) -> Self {
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null()).spawn().expect("started");
        let program =
            Self { child, place, log: Arc::default(), errors: Arc::default(), readers: Vec::new(), http: Some(http) };
        eventually("started", || get(http, "/startupz").is_ok_and(|(status, _)| status == 200));
        program
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("unpoisoned").clone()
    }

    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().expect("unpoisoned").clone()
    }

    pub fn logged(&self, what: &str) -> usize {
        self.log().iter().filter(|line| line.contains(what)).count()
    }

    pub fn until_logged(&mut self, what: &str) {
        let began = Instant::now();
        while self.logged(what) == 0 {
            let ended = self.child.try_wait().expect("waited");
            let late = began.elapsed() > PATIENCE;
            assert!(ended.is_none() && !late, "{ended:?}, without \"{what}\": {:?} {:?}", self.log(), self.errors());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The address HTTP was last bound to, from the log.
    pub fn http_address(&self) -> Option<SocketAddr> {
        let line = self.log().into_iter().rfind(|line| line.contains("metrics, health and status are served"))?;
        let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        event["address"].as_str()?.parse().ok()
    }

    pub fn http(&self) -> SocketAddr {
        self.http.expect("served")
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.http())
    }

    pub fn follow_http(&mut self) {
        self.http = self.http_address();
    }

    /// Status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.http(), path).expect("answered")
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/status").1).expect("JSON")
    }

    pub fn upstream(&self, name: &str) -> Option<serde_json::Value> {
        self.status()["upstreams"].as_array()?.iter().find(|upstream| upstream["name"] == name).cloned()
    }

    /// Where clients of an upstream connect.
    pub fn listens(&self, upstream: &str) -> SocketAddr {
        let upstream = self.upstream(upstream).expect("there");
        upstream["listen"][0].as_str().expect("an address").parse().expect("an address")
    }

    /// The value of one series, as it stands in the exposition; `None` if it is not there.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let body = self.get("/metrics").1;
        let line = body.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    /// The sum of all series of a family whose line contains `with`.
    pub fn sum(&self, family: &str, with: &str) -> f64 {
        sum(&self.get("/metrics").1, family, with)
    }

    pub fn until_metric(&self, series: &str, value: f64) -> Duration {
        eventually(&format!("{series} is {value}"), || self.metric(series) == Some(value))
    }

    pub fn reloads(&self, outcome: &str) -> f64 {
        self.metric(&format!("everlink_config_reloads_total{{outcome=\"{outcome}\"}}")).expect("there")
    }

    pub fn until_up(&self, upstream: &str) {
        self.until_metric(&format!("everlink_upstream_up{{upstream=\"{upstream}\"}}"), 1.0);
    }

    /// Until so many warm links stand.
    pub fn until_links(&self, upstream: &str, links: f64) {
        self.until_metric(&format!("everlink_links{{state=\"up\",upstream=\"{upstream}\"}}"), links);
    }

    pub fn interval(&self, upstream: &str) -> Option<f64> {
        self.metric(&format!("everlink_heartbeat_interval_seconds{{upstream=\"{upstream}\"}}"))
    }

    pub fn signal(&self, signal: &str) {
        send_signal(signal, self.id());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("waited").is_none()
    }

    /// Waits for the end, and for the last of its output.
    pub fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waited") {
                eventually("its output has ended", || self.readers.iter().all(JoinHandle::is_finished));
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end: {:?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs another everlink that asks this one over its admin socket.
    pub fn ask(&self, words: &[&str]) -> Output {
        let mut command = Command::new(EVERLINK);
        command.args(words).arg("--socket").arg(self.place.at("admin.sock"));
        command.output().expect("run")
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("its descriptors").count()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn collect(from: impl Read + Send + 'static) -> (Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let to = lines.clone();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            to.lock().expect("unpoisoned").push(line);
        }
    });
    (lines, reader)
}

pub fn send_signal(signal: &str, id: u32) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &id.to_string()]).status().expect("kill runs");
    assert!(sent.success(), "{signal} to {id}");
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub fn died_of(status: ExitStatus) -> Option<i32> {
    status.signal()
}

pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { unchunked(body) } else { body.to_owned() }))
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}

pub fn sum(metrics: &str, family: &str, with: &str) -> f64 {
    let of_family = |line: &&str| line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let lines = metrics.lines().filter(of_family).filter(|line| line.contains(with));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// One server for any number of connections: answers `ping` by `pong`, echoes all else. Ends when dropped.
pub struct Echo {
    pub address: SocketAddr,
    pub accepted: Arc<AtomicUsize>,
    listener: TcpListener,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Echo {
    pub fn start() -> Self {
        Self::start_at(nobody())
    }

    pub fn start_at(address: SocketAddr) -> Self {
        everlink::net::kernel::raise_descriptor_limit().expect("raised");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let accepted: Arc<AtomicUsize> = Arc::default();
        let count = accepted.clone();
        let listener = everlink::net::socket::bind_listener(address).expect("bound");
        let address = listener.local_addr().expect("an address");
        let own = listener.try_clone().expect("cloned");
        runtime.spawn(async move {
            let own = tokio::net::TcpListener::from_std(own).expect("registered");
            while let Ok((stream, _)) = own.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(echo(stream));
            }
        });
        Self { address, accepted, listener, runtime: Some(runtime) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        crate::port::close(&self.listener);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn echo(mut stream: tokio::net::TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        if &buffer[..count] == b"ping" {
            buffer[1] = b'o';
        }
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// A client whose bytes come back, as long as all goes well: each is checked.
pub struct Flow {
    stop: Arc<AtomicBool>,
    pub bytes: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Flow {
    pub fn start(address: SocketAddr) -> Self {
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), bytes.clone());
        let thread = std::thread::spawn(move || flow(address, &stopped, &count).map_err(|error| error.to_string()));
        Self { stop, bytes, thread: Some(thread) }
    }

    pub fn moved(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Until so many more bytes have come back.
    pub fn until_moved(&self, more: u64) {
        let goal = self.moved() + more;
        eventually("bytes flow", || self.moved() >= goal || self.is_over());
        assert!(!self.is_over(), "the flow has ended");
    }

    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(|thread| thread.is_finished())
    }

    /// Ends it and tells how it went.
    pub fn end(mut self) -> Result<u64, String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("running").join().expect("no panic")?;
        Ok(self.moved())
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn flow(address: SocketAddr, stop: &AtomicBool, moved: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut round = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let sent: Vec<u8> = (0..256).flat_map(|n| (round * 256 + n).to_be_bytes()).collect();
        stream.write_all(&sent)?;
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back)?;
        if back != sent {
            return Err(std::io::Error::other(format!("other bytes came back in round {round}")));
        }
        moved.fetch_add(back.len() as u64, Ordering::SeqCst);
        round += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// One exchange with an echo server through everlink.
pub fn exchange(address: SocketAddr, words: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(words)?;
    let mut back = vec![0; words.len()];
    stream.read_exact(&mut back)?;
    Ok(back)
}

/// A configuration with one upstream `a`, quick beats, and HTTP and listener on ports the kernel picks.
pub fn one(endpoint: SocketAddr, more: &str) -> String {
    format!("{}{}", top(), upstream("a", "127.0.0.1:0", endpoint, "5s", more))
}

pub fn top() -> String {
    "http.listen = \"127.0.0.1:0\"\n".to_owned()
}

pub fn upstream(name: &str, listen: &str, endpoint: SocketAddr, interval: &str, more: &str) -> String {
    format!(
        "[upstreams.{name}]\nlisten = \"{listen}\"\nendpoints = [\"{endpoint}\"]\n{more}\n[upstreams.{name}.heartbeat]\n\
         interval = \"{interval}\"\ntimeout = \"1s\"\nmisses = 3\nsend = \"ping\"\nexpect = \"pong\"\n"
    )
}

/// Everything below a directory of `/proc` that counts threads.
pub fn threads(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/task")).map_or(0, Iterator::count)
}

pub fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
