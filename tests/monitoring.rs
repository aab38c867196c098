//! What `deploy/prometheus` and `deploy/grafana` hold: alerts that fire when they are to and only then, by `promtool`, and
//! against a live everlink; a dashboard whose every query finds what it names.

mod common;
mod monitoring {
    mod alert;
    mod files;
    mod live;
    mod promql;
}
#[path = "tunnel/relay.rs"]
#[allow(dead_code)]
mod relay;
#[path = "tunnel/road.rs"]
#[allow(dead_code)]
mod road;
#[path = "common/tls.rs"]
#[allow(dead_code, unused_imports)]
mod tls;

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file under `deploy/`.
fn deployed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn read(file: &str) -> String {
    std::fs::read_to_string(deployed(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A script that stands beside these tests, run with the packages of `tests/requirements.txt`.
fn script(name: &str) -> Command {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("python").join("bin/python");
    assert!(python.is_file(), "this test needs what is in tests/requirements.txt: run tests/run --install");
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/monitoring").join(name));
    command
}

/// The names of all alerts.
fn alerts() -> Vec<String> {
    let text = read("prometheus/alerts.yml");
    text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}
