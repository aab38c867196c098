//! What the image is.

use serde_json::json;

use super::engine::Engine;
use super::images::{EVERLINK, dockerfile, everlink, source};
use crate::common::program::{finished, succeeded};

/// What `deploy/README.md` promises, in MB of 1,000,000 bytes.
const SIZE_LIMIT_MB: u64 = 16;

#[test]
fn it_is_one_program_roots_of_trust_and_nothing_else() {
    let engine = Engine::start();
    everlink(&engine);
    let image = engine.inspect(EVERLINK);
    let size = image["Size"].as_u64().expect("a size");
    println!("the image has {size} bytes");
    assert!(size < SIZE_LIMIT_MB * 1_000_000, "{size}");
    let readme = std::fs::read_to_string(source("deploy/README.md")).expect("readable");
    assert!(readme.contains(&format!("under {SIZE_LIMIT_MB} MB")), "deploy/README.md tells another bound");

    let config = &image["Config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/everlink"]));
    assert_eq!(config["Cmd"], json!(["run", "--config", "/etc/everlink/config.toml"]));
    assert_eq!(config["ExposedPorts"], json!({ "9900/tcp": {} }));
    assert_eq!(config["StopSignal"], "SIGTERM");
    // In the form that needs no shell.
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/everlink", "probe", "live"]));
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].clone();
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!((label("title"), label("revision")), (json!("everlink"), json!("0123456")));
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));

    let layers = image["RootFS"]["Layers"].as_array().map(Vec::len);
    assert!(layers.is_some_and(|layers| layers <= 2), "{layers:?} layers");
    let id = engine.ask(&["create", EVERLINK]);
    let tar = engine.directory.path().join("export.tar");
    engine.ask(&["export", "--output", &tar.display().to_string(), &id]);
    let listed = succeeded(std::process::Command::new("tar").arg("--verbose").arg("--list").arg("--file").arg(&tar));
    // Empty files are the engine's: it mounts its own over them.
    let files: Vec<&str> = listed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words[0].starts_with('-') && words[2] != "0")
        .filter_map(|words| words.get(5).copied())
        .collect();
    assert_eq!(files, ["etc/ssl/certs/ca-certificates.crt", "everlink"], "{listed}");
    let shell = finished(&mut engine.docker(&["run", "--rm", "--entrypoint", "sh", EVERLINK]));
    assert!(!shell.status.success(), "there is a shell");

    // The commands for which it needs no running one.
    let version = engine.ask(&["run", "--rm", "--network", "none", EVERLINK, "--version"]);
    assert_eq!(version, format!("everlink {}", env!("CARGO_PKG_VERSION")));
    let bare = finished(&mut engine.docker(&["run", "--rm", EVERLINK]));
    let told = String::from_utf8_lossy(&[bare.stdout, bare.stderr].concat()).into_owned();
    assert_eq!(bare.status.code(), Some(78), "{told}");
    assert!(told.contains("/etc/everlink/config.toml"), "{told}");
}

#[test]
fn the_dockerfile_keeps_to_the_manifest() {
    let dockerfile = dockerfile();
    let argument = |name: &str| {
        let line = dockerfile.lines().find_map(|line| line.strip_prefix(&format!("ARG {name}=")));
        line.unwrap_or_else(|| panic!("no ARG {name}")).to_owned()
    };
    assert_eq!(argument("VERSION"), env!("CARGO_PKG_VERSION"));
    let version = |text: &str| -> Vec<u32> { text.split('.').map(|part| part.parse().expect("a number")).collect() };
    assert!(version(&argument("RUST")) >= version(env!("CARGO_PKG_RUST_VERSION")));
    // A first line with a syntax would be fetched from a registry before anything else is done.
    assert!(!dockerfile.contains("syntax="));
    // Only what is copied is sent along.
    let ignored = std::fs::read_to_string(source(".dockerignore")).expect("readable");
    let sent: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert_eq!(sent, ["Cargo.toml", "Cargo.lock", "src"]);
    assert!(dockerfile.contains("COPY Cargo.toml Cargo.lock ./") && dockerfile.contains("COPY src src"));
    let compose = std::fs::read_to_string(source("deploy/compose.yaml")).expect("readable");
    assert!(compose.contains(&format!("{EVERLINK}}}")), "compose.yaml runs another version");
}
