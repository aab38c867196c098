//! The images: everlink's by its own Dockerfile, the others of Debian's programs.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use super::engine::Engine;
use crate::common::program::{directory, program, succeeded};

pub const EVERLINK: &str = concat!("everlink:", env!("CARGO_PKG_VERSION"));
/// As `deploy/compose.yaml` names them.
pub const REDIS: &str = "redis:7.0.15-bookworm";
pub const PROMETHEUS: &str = "prom/prometheus:v2.42.0";

/// A file of the source tree.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn dockerfile() -> String {
    std::fs::read_to_string(source("deploy/Dockerfile")).expect("readable")
}

/// everlink as the image has it: optimised, stripped, linked statically. The library is that of the profile `counted`, which is
/// nearly `release`, and which `.ci/run` has built already to count instructions; only the program is linked here.
fn binary() -> &'static Path {
    static BUILT: OnceLock<(PathBuf, TempDir)> = OnceLock::new();
    let (path, _) = BUILT.get_or_init(|| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--locked", "--profile", "counted", "--example", "instructions"]);
        cargo.args(["--message-format", "json"]).current_dir(source("."));
        // What this cargo tells its tests would have build scripts run again for that one.
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        let flags = ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"];
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if flags.contains(&name.as_str()) || of_package.iter().any(|start| name.starts_with(start)) {
                cargo.env_remove(name);
            }
        }
        let output = cargo.output().expect("cargo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();

        let directory = directory();
        let path = directory.path().join("everlink");
        let mut rustc = Command::new("rustc");
        rustc.current_dir(source(".")).args(["--edition", "2024", "--crate-name", "everlink", "src/main.rs"]);
        rustc.args(["-C", "opt-level=3", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"]).arg(&path);
        let library =
            told.iter().filter(|one| one["target"]["name"] == "everlink" && one["target"]["kind"][0] == "lib");
        let files = library.filter_map(|one| one["filenames"].as_array()).flatten().filter_map(Value::as_str);
        let library = files.rev().find(|file| file.ends_with(".rlib")).expect("the library").to_owned();
        rustc.arg("--extern").arg(format!("everlink={library}"));
        // Beside it when it is a dependency, above when it is what was asked for.
        let beside = Path::new(&library).parent().expect("a directory");
        for place in [beside.to_owned(), beside.join("deps")] {
            rustc.arg("-L").arg(format!("dependency={}", place.display()));
        }
        let native = told.iter().filter_map(|one| one["linked_paths"].as_array()).flatten().filter_map(Value::as_str);
        native.for_each(|place| {
            rustc.args(["-L", place]);
        });
        succeeded(&mut rustc);
        (path, directory)
    });
    path
}

/// Makes everlink's image by the last stage of its Dockerfile; the stage before it is replaced by one that holds what is
/// built already.
pub fn everlink(engine: &Engine) {
    let whole = dockerfile();
    let (_, last) = whole.rsplit_once("\nFROM ").expect("stages");
    let context = directory();
    let image = context.path().join("image");
    std::fs::create_dir_all(image.join("etc/everlink")).expect("made");
    std::fs::create_dir_all(image.join("etc/ssl/certs")).expect("made");
    std::fs::copy(binary(), image.join("everlink")).expect("copied");
    let roots = "etc/ssl/certs/ca-certificates.crt";
    std::fs::copy(Path::new("/").join(roots), image.join(roots)).expect("ca-certificates");
    let text = format!("FROM scratch AS build\nCOPY image /image\n\nFROM {last}");
    std::fs::write(context.path().join("Dockerfile"), text).expect("written");
    let place = context.path().display().to_string();
    engine.ask(&["build", "--tag", EVERLINK, "--build-arg", "REVISION=0123456", &place]);
}

/// `redis-server`, `redis-cli` and a shell, as far as the official image has them.
pub fn redis(engine: &Engine) {
    of_programs(
        engine,
        REDIS,
        &["redis-server", "redis-cli"],
        &["CMD [\"redis-server\", \"--protected-mode\", \"no\"]"],
    );
}

pub fn prometheus(engine: &Engine) {
    of_programs(engine, PROMETHEUS, &["prometheus"], &["ENTRYPOINT [\"/usr/bin/prometheus\"]", "WORKDIR /prometheus"]);
}

/// An image of these programs, the libraries they need, and busybox.
fn of_programs(engine: &Engine, name: &str, programs: &[&str], changes: &[&str]) {
    let root = directory();
    let inside = |path: &Path| root.path().join(path.strip_prefix("/").expect("an absolute path"));
    let put = |path: &Path| {
        let to = inside(path);
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("made");
        std::fs::copy(path, &to).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    };
    put(&program("busybox"));
    std::fs::create_dir_all(root.path().join("bin")).expect("made");
    for applet in ["sh", "date", "sleep"] {
        symlink(program("busybox"), root.path().join("bin").join(applet)).expect("linked");
    }
    for name in programs {
        let path = program(name);
        put(&path);
        let needed = succeeded(Command::new("ldd").arg(&path));
        needed.split_whitespace().filter(|word| word.starts_with('/')).for_each(|library| put(Path::new(library)));
    }
    let tar = engine.directory.path().join("import.tar");
    succeeded(Command::new("tar").arg("-C").arg(root.path()).arg("-cf").arg(&tar).arg("."));
    let mut arguments = vec!["import"];
    changes.iter().for_each(|change| arguments.extend(["--change", change]));
    let tar = tar.display().to_string();
    arguments.extend([tar.as_str(), name]);
    engine.ask(&arguments);
}
