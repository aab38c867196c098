//! `--key value` pairs.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

pub struct Args(HashMap<String, String>);

impl Args {
    pub fn parse(words: &[String]) -> Self {
        let mut pairs = HashMap::new();
        for pair in words.chunks(2) {
            match pair {
                [key, value] if key.starts_with("--") => pairs.insert(key[2..].to_owned(), value.clone()),
                _ => die(&format!("not a pair of --key and value: {}", pair.join(" "))),
            };
        }
        Self(pairs)
    }

    pub fn text(&self, key: &str, default: &str) -> String {
        self.0.get(key).map_or(default, String::as_str).to_owned()
    }

    pub fn number(&self, key: &str, default: f64) -> f64 {
        let parse = |value: &String| value.parse().unwrap_or_else(|_| die(&format!("--{key} {value} is no number")));
        self.0.get(key).map_or(default, parse)
    }

    pub fn count(&self, key: &str, default: u32) -> usize {
        self.number(key, f64::from(default)) as usize
    }

    /// At most ten minutes.
    pub fn seconds(&self, key: &str, default: f64) -> Duration {
        Duration::from_secs_f64(self.number(key, default).clamp(0.0, 600.0))
    }

    pub fn address(&self, key: &str) -> SocketAddr {
        let value = self.0.get(key).unwrap_or_else(|| die(&format!("--{key} IP:PORT is missing")));
        value.parse().unwrap_or_else(|_| die(&format!("--{key} {value} is no IP:PORT")))
    }
}

pub fn die(message: &str) -> ! {
    eprintln!("load: {message}");
    std::process::exit(2)
}
