//! What everlink is built from: where `unsafe` may stand, and that no dependency asks for a later compiler than we say.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The one folder that may.
const KERNEL: &str = "src/net/kernel/";
/// The file above it cannot forbid what its folder may, and has none of it.
const ABOVE: &str = "src/net/kernel.rs";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All of our own Rust files in a directory, by their paths from the root. Crates of their own are left out: they are
/// tools, and nothing of them is shipped.
fn sources(directory: &str) -> Vec<String> {
    let (mut found, mut todo) = (Vec::new(), vec![root().join(directory)]);
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() && !path.join("Cargo.toml").exists() && path.file_name().unwrap() != "target" {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Whether the word stands in a line, outside of comments and texts.
fn is_unsafe(line: &str) -> bool {
    let line = line.split("//").next().unwrap_or_default();
    let outside = line.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    outside.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe")
}

#[test]
fn unsafe_stands_in_one_folder_only() {
    let files = [sources("src"), sources("tests")].concat();
    let (kernel, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.starts_with(KERNEL));
    assert!(others.len() > 150 && others.iter().any(|file| *file == ABOVE), "{} files", others.len());
    for file in others {
        for (number, line) in read(file).lines().enumerate() {
            assert!(!is_unsafe(line), "{file}:{}: {line}", number + 1);
        }
    }
    // Each of them only wraps what has to be unsafe: code that need not be stands elsewhere.
    assert!(!kernel.is_empty(), "{KERNEL} is not there");
    for file in kernel {
        assert!(read(file).lines().any(is_unsafe), "nothing in {file} has to be there");
    }
}

/// `deny`, as Cargo.toml has it, can be lifted again further in; `forbid` cannot, but would not leave room for the one
/// folder if it stood at the root of the crate.
#[test]
fn every_module_but_that_folders_forbids_it() {
    let lib = read("src/lib.rs");
    let modules =
        lib.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    let mut files: Vec<String> = modules.map(|module| format!("src/{module}.rs")).collect();
    assert!(files.len() > 20, "{files:?}");
    files.retain(|file| file != "src/net.rs");
    files.extend(sources("src/net").into_iter().filter(|file| file != ABOVE && file.matches('/').count() == 2));
    files.push("src/main.rs".to_owned());
    for file in files {
        assert!(
            read(&file).lines().any(|line| line == "#![forbid(unsafe_code)]"),
            "{file} does not forbid unsafe code"
        );
    }
}

#[test]
fn no_dependency_asks_for_a_later_compiler_than_we_do() {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &target]);
    let output = cargo.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let version = |package: &Value| -> Option<Vec<u32>> {
        Some(
            package["rust_version"]
                .as_str()?
                .split('.')
                .map(|part| part.parse().unwrap())
                .chain([0, 0])
                .take(3)
                .collect(),
        )
    };
    let ours = packages.iter().find(|package| package["name"] == "everlink").and_then(version).unwrap();
    assert!(packages.len() > 50 && ours.len() == 3);
    let later: Vec<_> =
        packages.iter().filter(|package| version(package).is_some_and(|theirs| theirs > ours)).collect();
    let told: Vec<_> = later.iter().map(|package| format!("{} {}", package["name"], package["rust_version"])).collect();
    assert!(later.is_empty(), "later than {ours:?}: {told:?}");
}
