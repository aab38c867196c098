//! A real Prometheus, in a directory and on a port of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::PATIENCE;
use super::program::{Daemon, command, directory, free_port, get};

/// Ended when dropped.
pub struct Prometheus {
    server: Daemon,
    address: SocketAddr,
    _directory: TempDir,
}

impl Prometheus {
    /// Scrapes every second: each target under a job of its own.
    pub fn scraping(jobs: &[(&str, SocketAddr)]) -> Self {
        let mut config = "global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n".to_owned();
        for (job, target) in jobs {
            config += &format!("  - job_name: {job}\n    static_configs: [{{ targets: [\"{target}\"] }}]\n");
        }
        Self::start_in(directory(), &config)
    }

    /// By a configuration of the test's own; paths in it are relative to `directory`.
    pub fn start_in(directory: TempDir, config: &str) -> Self {
        let file = directory.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("written");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut server = command("prometheus");
        server.arg(format!("--config.file={}", file.display()));
        server.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        server.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
        let ready = || get(address, "/-/ready", "*/*").is_ok_and(|(code, _)| code == 200);
        let server = Daemon::start(&mut server, &directory.path().join("log")).until_ready(ready);
        Self { server, address, _directory: directory }
    }

    /// The `data` of an answer that must be a success.
    pub fn api(&self, path: &str) -> Value {
        self.try_api(path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The `data` of an answer. Errors: what Prometheus says is wrong with the question.
    pub fn try_api(&self, path: &str) -> Result<Value, String> {
        let (code, body) = get(self.address, path, "*/*").expect("Prometheus answers");
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        match (code, answer["status"].as_str()) {
            (200, Some("success")) => Ok(answer["data"].clone()),
            _ => Err(body),
        }
    }

    /// An instant query: the value of each series found.
    pub fn query(&self, query: &str) -> Vec<f64> {
        let data = self.api(&format!("/api/v1/query?query={}", escaped(query)));
        let results = data["result"].as_array().expect("a vector");
        results.iter().map(|one| one["value"][1].as_str().expect("text").parse().expect("a number")).collect()
    }

    /// The health and the last error of a job's target.
    pub fn health(&self, job: &str) -> (String, String) {
        let data = self.api("/api/v1/targets");
        let targets = data["activeTargets"].as_array().expect("targets");
        // None yet, right after the start.
        let target = targets.iter().find(|target| target["labels"]["job"] == job);
        let text = |name: &str| target.and_then(|target| target[name].as_str()).unwrap_or_default().to_owned();
        (text("health"), text("lastError"))
    }

    /// A scrape that comes too late, on a busy host, is not the last; an exposition that cannot be read is never one.
    pub fn until_healthy(&self, job: &str) {
        let mut last = Default::default();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            last = self.health(job);
            match last.0.as_str() {
                "up" => return,
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        panic!("target {job} is {last:?}; {}", self.server.said());
    }
}

/// As part of a URL's query.
pub fn escaped(text: &str) -> String {
    let escape = |byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
