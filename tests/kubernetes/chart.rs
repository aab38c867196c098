//! What Helm renders, Helm 3 and 4.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use super::tools::{documents, helm, helm_refuses, kustomize, lint, releases, sorted, tree};
use crate::common::program::{finished, succeeded};

const NATIVE: &[&str] = &["1.29", "1.37"];
const ANY: &[&str] = &["1.25", "1.29", "1.37"];

fn chart() -> PathBuf {
    tree("deploy/helm/everlink")
}

/// The files of a directory of `tests/kubernetes`.
fn files(directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(tree("tests/kubernetes").join(directory)).expect("read").flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{directory}");
    files
}

fn with_values(file: &Path) -> Vec<Value> {
    helm(&chart(), &["--values", file.to_str().expect("UTF-8")])
}

fn find<'a>(manifests: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = manifests.iter().find(|m| m["kind"] == kind && m["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn the_chart_holds_with_all_kinds_of_values() {
    for tools in releases() {
        succeeded(Command::new(&tools.helm).args(["lint", "--strict"]).arg(chart()));
    }
    lint("default", &helm(&chart(), &[]), ANY);
    for file in files("values") {
        let name = file.file_stem().and_then(|name| name.to_str()).expect("UTF-8");
        let versions = if ["example", "direct", "everything"].contains(&name) { NATIVE } else { ANY };
        lint(name, &with_values(&file), versions);
    }
    let nothing = helm(&chart(), &["--set", "gateway.enabled=false"]);
    assert_eq!(nothing, Vec::<Value>::new());
}

#[test]
fn values_that_cannot_be_are_refused_by_their_schema() {
    for file in files("refused") {
        let text = std::fs::read_to_string(&file).expect("read");
        let told = text.lines().next().and_then(|line| line.strip_prefix("# ")).expect("what is told");
        for refusal in helm_refuses(&chart(), &["--values", file.to_str().expect("UTF-8")]) {
            // Helm 3 and 4 write a path differently.
            let found = refusal.replace('.', "/").contains(&told.replace('.', "/"));
            assert!(found && refusal.contains("schema"), "{}: no {told:?} in {refusal}", file.display());
        }
    }
}

/// A chart of somebody else's takes the sidecar in by the named templates that the README tells of.
#[test]
fn the_sidecar_goes_into_another_chart() {
    let readme = std::fs::read_to_string(tree("deploy/helm/everlink/README.md")).expect("read");
    let parent = std::fs::read_to_string(tree("tests/kubernetes/parent/templates/deployment.yaml")).expect("read");
    for line in readme.lines().filter(|line| line.contains("include \"everlink.")) {
        assert!(parent.contains(line), "{line}");
    }
    let place = tempfile::tempdir().expect("made");
    let at = |name: &str| place.path().join(name);
    succeeded(Command::new("cp").arg("-r").arg(chart()).arg(at("everlink")));
    succeeded(Command::new("cp").arg("-r").arg(tree("tests/kubernetes/parent")).arg(at("shop")));
    // As `helm dependency build` would bring it.
    succeeded(Command::new("mkdir").arg(at("shop/charts")));
    succeeded(Command::new("cp").arg("-r").arg(at("everlink")).arg(at("shop/charts/everlink")));
    let made = helm(&at("shop"), &[]);
    lint("parent", &made, NATIVE);
    assert_eq!(made.len(), 2, "{made:?}");
    let spec = &find(&made, "Deployment", "shop")["spec"]["template"]["spec"];
    assert_eq!(spec["initContainers"][0]["restartPolicy"], "Always");
    assert_eq!(spec["initContainers"][0]["image"], "everlink:0.1.0");
    find(&made, "ConfigMap", "everlink-sidecar");
    let refused = helm_refuses(&at("shop"), &["--set", "everlink.sidecar.natve=true"]);
    assert!(refused.iter().all(|refusal| refusal.contains("natve")), "{refused:?}");
    // Built by Helm itself, too.
    std::fs::remove_dir_all(at("shop/charts")).expect("removed");
    for tools in releases() {
        let mut build = Command::new(&tools.helm);
        build.args(["dependency", "build"]).arg(at("shop")).env("HELM_CACHE_HOME", at("cache"));
        let built = finished(build.env("HELM_CONFIG_HOME", at("config")).env("HELM_DATA_HOME", at("data")));
        assert!(built.status.success(), "{built:?}");
    }
    assert_eq!(helm(&at("shop"), &[]), made);
}

/// Labels tell whose release it is; everything else is to be the same.
#[test]
fn the_chart_and_the_overlays_are_the_same() {
    let chart = with_values(&tree("tests/kubernetes/values/example.yaml"));
    let overlay = documents(&kustomize(&tree("deploy/kubernetes/overlays/tunnel")));
    let plain = |documents: Vec<Value>| -> Vec<Value> { sorted(documents).iter().map(plain).collect() };
    let (chart, overlay) = (plain(chart), plain(overlay));
    for (one, other) in chart.iter().zip(&overlay) {
        assert_eq!(one, other);
    }
    assert_eq!(chart.len(), overlay.len());
    let rendered = with_values(&tree("tests/kubernetes/values/everything.yaml"));
    let monitored = documents(&kustomize(&tree("deploy/kubernetes/overlays/monitored")));
    let mut monitor = find(&rendered, "PodMonitor", "everlink")["spec"].clone();
    assert_eq!(monitor["podMetricsEndpoints"][0]["interval"].take(), "30s");
    monitor["podMetricsEndpoints"][0]["interval"] = "15s".into();
    assert_eq!(monitor, find(&monitored, "PodMonitor", "everlink")["spec"]);
}

/// Without labels and what goes by them, names of the example, and what is so by default.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut kept = Map::new();
            for (key, inner) in map {
                let default = match key.as_str() {
                    "labels" | "selector" | "labelSelector" | "podSelector" => true,
                    "imagePullPolicy" => *inner == json!("IfNotPresent"),
                    "type" => *inner == json!("ClusterIP"),
                    _ => false,
                };
                if !default {
                    kept.insert(key.clone(), plain(inner));
                }
            }
            kept.into()
        }
        Value::Array(list) => {
            let mut list: Vec<_> = list.iter().map(plain).collect();
            // Containers, volumes and the like go by their names.
            list.sort_by_key(|each| each["name"].to_string());
            list.into()
        }
        Value::String(text) if text == "everlink-example" => "app".into(),
        Value::String(text) => text.trim_end().into(),
        other => other.clone(),
    }
}

#[test]
fn the_rules_are_those_of_prometheus() {
    let alerts = std::fs::read_to_string(tree("deploy/prometheus/alerts.yml")).expect("deploy/prometheus/alerts.yml");
    let copy = std::fs::read_to_string(chart().join("files/alerts.yml")).expect("read");
    assert!(alerts == copy, "cp deploy/prometheus/alerts.yml deploy/helm/everlink/files/");
    let rendered = with_values(&tree("tests/kubernetes/values/everything.yaml"));
    // A document without a kind, as the file is one.
    assert_eq!(find(&rendered, "PrometheusRule", "everlink")["spec"], documents(&alerts)[0]);
}

#[test]
fn all_versions_are_that_of_the_program() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = &documents(&std::fs::read_to_string(chart().join("Chart.yaml")).expect("read"))[0];
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(version), &json!(version)));
    let image = format!("everlink:{version}");
    for manifests in [
        helm(&tree("deploy/helm/everlink"), &["--set", "example.enabled=true"]),
        documents(&kustomize(&tree("deploy/kubernetes/overlays/tunnel"))),
        documents(&kustomize(&tree("deploy/kubernetes/overlays/classic-sidecar"))),
    ] {
        let text = Value::from(manifests).to_string();
        assert!(text.contains(&image));
        assert_eq!(text.matches("\"everlink:").count(), text.matches(&image).count());
    }
}
