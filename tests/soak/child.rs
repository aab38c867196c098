//! The built everlink as a process of its own: started, signalled, asked over HTTP and looked at in `/proc`.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::locked;

/// Nothing that a healthy process does at once takes longer, even on a machine under load.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of `/proc/…/stat` in a second, on every Linux.
const TICKS: f64 = 100.0;

/// Killed when dropped.
pub struct Everlink {
    child: Mutex<Child>,
    id: u32,
    pub http: SocketAddr,
    config: PathBuf,
    log: PathBuf,
}

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub descriptors: usize,
    pub threads: u64,
    /// KiB.
    pub memory: u64,
    /// Seconds of CPU since its start.
    pub cpu: f64,
}

impl Everlink {
    /// Runs the binary with this configuration, and waits until it has started. Its files are `name`.toml and `name`.log.
    pub async fn start(binary: &Path, directory: &Path, name: &str, config: &str) -> io::Result<Self> {
        let (path, log) = (directory.join(format!("{name}.toml")), directory.join(format!("{name}.log")));
        fs::write(&path, config)?;
        let output = File::create(&log)?;
        // If this process is killed, its children are, too.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(binary)
            .args(["run", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let id = child.id();
        let mut made =
            Self { child: Mutex::new(child), id, http: SocketAddr::from(([127, 0, 0, 1], 0)), config: path, log };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = made.address("metrics, health and status are served") {
                made.http = address;
                if made.get("/startupz").await.is_ok_and(|(code, _)| code == 200) {
                    return Ok(made);
                }
            }
            if let Some(status) = made.ended()? {
                return Err(io::Error::other(format!("{name} ended, {status}: {}", made.said())));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{name} does not start: {}", made.said())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// Everything it wrote.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The `address` field of the newest line with this text, which is JSON.
    pub fn address(&self, text: &str) -> Option<SocketAddr> {
        let said = self.said();
        let line = said.lines().rfind(|line| line.contains(text))?;
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line.get("address")?.as_str()?.parse().ok()
    }

    /// Puts another configuration in the place of the running one, as editors do.
    pub fn edit(&self, config: &str) -> io::Result<()> {
        let new = self.config.with_extension("new");
        fs::write(&new, config)?;
        fs::rename(new, &self.config)
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(process) = i32::try_from(self.id).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(process, signal);
        }
    }

    pub fn ended(&self) -> io::Result<Option<ExitStatus>> {
        locked(&self.child).try_wait()
    }

    /// Waits for its end.
    pub async fn end(&self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.ended() {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// One GET: the status and the body.
    pub async fn get(&self, path: &str) -> io::Result<(u16, String)> {
        get(self.http, path).await
    }

    pub fn usage(&self) -> Usage {
        usage(&self.id.to_string())
    }
}

impl Drop for Everlink {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// What the kernel says of a process, by its number or `self`; zeros if it is not there.
pub fn usage(process: &str) -> Usage {
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    let status = read("status");
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    let stat = read("stat");
    // The name, in parentheses, may hold spaces.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Usage {
        descriptors: fs::read_dir(format!("/proc/{process}/fd")).map_or(0, Iterator::count),
        threads: field("Threads:"),
        memory: field("VmRSS:"),
        cpu: ticks as f64 / TICKS,
    }
}

/// One GET by HTTP/1.0, so that the body ends with the connection.
pub async fn get(server: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let asked = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let bad = || io::Error::other("no answer");
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
        Ok((code, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(2), asked).await.map_err(io::Error::from)?
}
