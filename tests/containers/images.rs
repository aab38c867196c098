//! The images: everlink's by its own Dockerfile, the others of Debian's programs.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

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

/// everlink as the image has it: optimised, stripped, linked statically. Under the profile `counted`, which is nearly
/// `release` and sooner built; `.ci/run` has built most of it already.
fn binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| source("target"), PathBuf::from);
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["rustc", "--locked", "--profile", "counted", "--bin", "everlink", "--target-dir"]).arg(&target);
        cargo.args(["--", "-C", "target-feature=+crt-static", "-C", "strip=symbols"]);
        for flags in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
            cargo.env_remove(flags);
        }
        let output = cargo.current_dir(source(".")).output().expect("cargo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target.join("counted/everlink")
    })
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
    of_programs(engine, REDIS, &["redis-server", "redis-cli"], &["CMD [\"redis-server\"]"]);
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
