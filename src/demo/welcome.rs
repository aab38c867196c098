//! What can be tried while a demo runs, in words and commands that can be copied.

#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::Path;

use crate::cli::DEFAULT_URL;
use crate::config::{Config, ListenAddress};

/// What can be typed.
pub const KEYS: &str = "type c and Enter to cut the tunnel's link silently for 10 seconds, s and Enter to stop the echo server \
                        for 10 seconds, q and Enter to end";

/// All of it. `program`: what it was started as; `keys`: there is a terminal to type on; `witnessed`: a client of the demo's
/// own talks through the tunnel.
pub fn welcome(config: &Config, path: &Path, program: &str, keys: bool, witnessed: bool) -> String {
    let mut text = String::from("everything runs, in this one process");
    if witnessed {
        text.push_str("; a client sends numbered lines through the tunnel and checks each that comes back");
    }
    text.push('\n');
    if keys {
        if config.upstreams.values().any(|upstream| upstream.tunnel.is_some()) {
            text.push_str(
                "  c and Enter    cut the tunnel's link for 10 s, and nobody is told: see that nothing is lost\n",
            );
        }
        text.push_str("  s and Enter    stop the echo server for 10 s: direct links fall and return\n");
        text.push_str("  q and Enter    end\nIn another terminal:\n");
    }
    let commands = commands(config, program);
    let width = commands.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
    // Writing into a String cannot fail.
    for (command, why) in commands {
        let _ = writeln!(text, "  {command:<width$}   # {why}");
    }
    if let Some(http) = config.http.listen.first() {
        let _ = writeln!(text, "In a browser: http://{http}/");
    }
    let _ = write!(
        text,
        "In an editor: change an `interval` in {} and save; it is in force at once, and no link is dialled again",
        path.display()
    );
    text
}

/// What can be asked from outside, and why one would.
fn commands(config: &Config, program: &str) -> Vec<(String, &'static str)> {
    let mut commands = Vec::new();
    for upstream in config.upstreams.values() {
        let (doors, why) = match &upstream.tunnel {
            Some(tunnel) => {
                let doors = tunnel.forwards.first().map(|forward| &forward.listen);
                (doors, "through the tunnel: type hello, and it comes back")
            }
            None => (Some(&upstream.listen), "over a link that is up already: type ping, and it answers pong"),
        };
        match doors.and_then(|doors| doors.first()) {
            Some(ListenAddress::Tcp(address)) => {
                commands.push((format!("nc {} {}", address.ip(), address.port()), why))
            }
            Some(ListenAddress::Unix(path)) => commands.push((format!("nc -U {}", path.display()), why)),
            None => {}
        }
    }
    if let Some(http) = config.http.listen.first() {
        let url = format!("http://{http}");
        let there = if url == DEFAULT_URL { String::new() } else { format!(" --url {url}") };
        commands.push((format!("{program} status --watch{there}"), "the links and their sessions, live"));
        commands.push((format!("curl -s {url}/metrics"), "what Prometheus reads"));
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Config {
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "0123456789abcdef").unwrap();
        let path = token.path().to_str().unwrap().to_owned();
        let environment = move |name: &str| (name == "EVERLINK_TOKEN_FILE").then(|| path.clone());
        let text = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml")).unwrap();
        crate::config::parse("config.toml", text, &environment).unwrap().config
    }

    #[test]
    fn the_commands_can_be_copied() {
        let text = welcome(&shipped(), Path::new("config.toml"), "target/debug/everlink", true, true);
        let line = |begin: &str| text.lines().any(|line| line.trim_start().starts_with(begin));
        for begin in [
            "c and Enter ",
            "s and Enter ",
            "q and Enter ",
            "nc 127.0.0.1 7000 ",
            "nc 127.0.0.1 7001 ",
            "target/debug/everlink status --watch ",
            "curl -s http://127.0.0.1:9900/metrics ",
            "In a browser: http://127.0.0.1:9900/",
        ] {
            assert!(line(begin), "{begin}: {text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 125), "{text}");
    }

    #[test]
    fn it_speaks_only_of_what_there_is() {
        let mut config = shipped();
        config.upstreams.retain(|_, upstream| upstream.tunnel.is_none());
        config.http.listen = vec!["127.0.0.1:9901".parse().unwrap()];
        let text = welcome(&config, Path::new("my.toml"), "everlink", true, false);
        assert!(!text.contains("tunnel"), "{text}");
        assert!(
            text.contains("everlink status --watch --url http://127.0.0.1:9901 ") && text.contains("my.toml"),
            "{text}"
        );
        config.http.listen.clear();
        let text = welcome(&config, Path::new("my.toml"), "everlink", false, false);
        assert!(!text.contains("status") && !text.contains("Enter"), "{text}");
    }
}
