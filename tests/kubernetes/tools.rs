//! Kustomize, Helm, and the rules for what they render.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::program::{finished, succeeded};

/// One release of both programs.
#[derive(Debug, serde::Deserialize)]
pub struct Tools {
    pub helm: PathBuf,
    pub kubectl: PathBuf,
}

/// A file or directory of the source tree.
pub fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn target() -> PathBuf {
    let everlink = Path::new(env!("CARGO_BIN_EXE_everlink"));
    everlink.ancestors().nth(2).expect("target/PROFILE/everlink").to_owned()
}

/// Python with the packages of `tests/requirements.txt`, running a script of `tests/kubernetes`.
pub fn python(script: &str) -> Command {
    let python = target().join("python/bin/python");
    assert!(python.exists(), "{} is missing; run tests/run --install", python.display());
    let mut command = Command::new(python);
    command.arg(tree("tests/kubernetes").join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// All releases that are tested with, the newest first.
pub fn releases() -> &'static [Tools] {
    static RELEASES: OnceLock<Vec<Tools>> = OnceLock::new();
    RELEASES.get_or_init(|| {
        let told = succeeded(python("tools.py").arg(target().join("kubernetes")));
        let found: Vec<Tools> = serde_json::from_str(&told).expect("a list of tools");
        assert_eq!(found.len(), 2, "of Helm 3 and 4 one each; run tests/run --install");
        found
    })
}

/// kubectl, of the newest release, away from any cluster.
pub fn kubectl() -> Command {
    let mut command = Command::new(&releases()[0].kubectl);
    command.env("KUBECONFIG", "/dev/null");
    command
}

/// What `kubectl kustomize` makes of a directory, the same with every release.
pub fn kustomize(directory: &Path) -> String {
    let all = releases().iter().map(|tools| {
        succeeded(
            Command::new(&tools.kubectl)
                .arg("kustomize")
                .arg("--load-restrictor=LoadRestrictionsRootOnly")
                .arg(directory),
        )
    });
    same(all.collect())
}

/// What `helm template` makes of a chart as the release `everlink`, the same with Helm 3 and 4.
pub fn helm(chart: &Path, arguments: &[&str]) -> Vec<Value> {
    let all: Vec<_> = releases().iter().map(|tools| succeeded(&mut helm_command(tools, chart, arguments))).collect();
    let read: Vec<_> = all.iter().map(|text| sorted(documents(text))).collect();
    assert_eq!(read[0], read[1], "Helm 3 and 4 differ");
    read.into_iter().next().expect("two")
}

/// Helm's refusals, one of each release.
pub fn helm_refuses(chart: &Path, arguments: &[&str]) -> Vec<String> {
    let refusal = |tools: &Tools| {
        let output = finished(&mut helm_command(tools, chart, arguments));
        assert!(!output.status.success(), "taken: {arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    releases().iter().map(refusal).collect()
}

fn helm_command(tools: &Tools, chart: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(&tools.helm);
    command.args(["template", "everlink"]).arg(chart).args(arguments).env("KUBECONFIG", "/dev/null");
    command
}

fn same(all: Vec<String>) -> String {
    assert!(all.windows(2).all(|two| two[0] == two[1]), "two releases differ");
    all.into_iter().next().expect("one")
}

/// The documents of a YAML text.
pub fn documents(text: &str) -> Vec<Value> {
    let place = tempfile::tempdir().expect("made");
    let path = place.path().join("rendered.yaml");
    std::fs::write(&path, text).expect("written");
    serde_json::from_str(&succeeded(python("as_json.py").arg(path))).expect("JSON")
}

/// In the order of kind and name, whatever the order they were rendered in.
pub fn sorted(mut documents: Vec<Value>) -> Vec<Value> {
    documents.sort_by_key(|document| (document["kind"].to_string(), document["metadata"]["name"].to_string()));
    documents
}

/// Holds manifests to the schemas of these versions and to the rules.
pub fn lint(what: &str, manifests: &[Value], versions: &[&str]) {
    let (output, _place) = linted(what, manifests, versions);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn linted(what: &str, manifests: &[Value], versions: &[&str]) -> (Output, TempDir) {
    let place = tempfile::tempdir().expect("made");
    let path = place.path().join(format!("{what}.yaml"));
    // JSON is YAML.
    let texts: Vec<_> = manifests.iter().map(Value::to_string).collect();
    std::fs::write(&path, texts.join("\n---\n")).expect("written");
    let mut command = python("lint.py");
    for readme in ["deploy/kubernetes/README.md", "deploy/helm/everlink/README.md"] {
        command.arg("--documented").arg(tree(readme));
    }
    for version in versions {
        command.args(["--version", version]);
    }
    (finished(command.arg(path)), place)
}
