//! What Kustomize renders.

use std::process::Command;

use super::tools::{documents, kustomize, lint, python, tree};
use crate::common::program::{finished, succeeded};

/// From the first with native sidecars to the newest known.
const NATIVE: &[&str] = &["1.29", "1.33", "1.37"];
const ANY: &[&str] = &["1.25", "1.29", "1.37"];

#[test]
fn every_overlay_holds() {
    let directories = std::fs::read_dir(tree("deploy/kubernetes/overlays")).expect("overlays").flatten();
    let mut names: Vec<_> = directories.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    assert_eq!(names, ["classic-sidecar", "gateway", "monitored", "native-sidecar", "tunnel"]);
    let readme = std::fs::read_to_string(tree("deploy/kubernetes/README.md")).expect("read");
    for name in names {
        let manifests = documents(&kustomize(&tree("deploy/kubernetes/overlays").join(&name)));
        let versions = if ["classic-sidecar", "gateway"].contains(&name.as_str()) { ANY } else { NATIVE };
        lint(&name, &manifests, versions);
        assert!(readme.contains(&format!("`overlays/{name}`")), "{name} is not in the README");
    }
}

/// The README's own example, with a workload that is there already.
#[test]
fn the_components_go_into_an_application_of_ones_own() {
    let readme = std::fs::read_to_string(tree("deploy/kubernetes/README.md")).expect("read");
    let example = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split_once("```")).expect("an example").0;
    for (component, kind) in
        [("native-sidecar", "StatefulSet"), ("native-sidecar", "DaemonSet"), ("classic-sidecar", "Deployment")]
    {
        let place = tempfile::tempdir().expect("made");
        succeeded(Command::new("cp").arg("-r").arg(tree("deploy/kubernetes")).arg(place.path().join("everlink")));
        let shop = place.path().join("shop");
        std::fs::create_dir(&shop).expect("made");
        let components = "github.com/you/everlink/deploy/kubernetes/components/native-sidecar";
        assert!(example.contains(components));
        let text = example.replace(components, &format!("../everlink/components/{component}"));
        let mut workload = own("deployment.yaml").replace("kind: Deployment", &format!("kind: {kind}"));
        if kind == "StatefulSet" {
            workload = workload.replace("spec:\n  selector", "spec:\n  serviceName: shop\n  selector");
            workload += &format!("---\n{}", own("service.yaml"));
        }
        std::fs::write(shop.join("deployment.yaml"), workload).expect("written");
        let config =
            "http.listen = \"0.0.0.0:9900\"\n[upstreams.a]\nlisten = \"127.0.0.1:1\"\nendpoints = [\"a.example:1\"]\n";
        let drain = if component == "classic-sidecar" { "drain.minimum = \"5s\"\n" } else { "" };
        std::fs::write(shop.join("config.toml"), format!("{drain}{config}")).expect("written");
        std::fs::write(shop.join("kustomization.yaml"), text).expect("written");
        let made = documents(&kustomize(&shop));
        lint("own", &made, if component == "native-sidecar" { NATIVE } else { ANY });
        let shop = made.iter().find(|made| made["kind"] == kind).expect("the workload");
        let list = if component == "native-sidecar" { "initContainers" } else { "containers" };
        let spec = &shop["spec"]["template"]["spec"];
        // Before the application's own, so that these find its listeners.
        assert_eq!(spec[list][0]["image"], "registry.example.com/everlink:0.1.0");
        assert_eq!(spec[list].as_array().map(Vec::len), Some(2));
        let map = made.iter().find(|made| made["kind"] == "ConfigMap").expect("the configuration");
        assert!(map["data"]["config.toml"].as_str().is_some_and(|text| text.contains("a.example")), "{map}");
        assert_eq!(map["metadata"]["name"], "everlink-sidecar");
        assert!(made.iter().all(|made| made["metadata"]["namespace"] == "shop"));
    }
}

fn own(file: &str) -> String {
    std::fs::read_to_string(tree("tests/kubernetes/own").join(file)).expect("read")
}

/// A manifest is broken in each way that a rule is there for, and the rule says so; no rule is without such a case.
#[test]
fn each_rule_can_fail() {
    let place = tempfile::tempdir().expect("made");
    let mut command = python("broken.py");
    for name in ["monitored", "classic-sidecar"] {
        let path = place.path().join(format!("{name}.yaml"));
        std::fs::write(&path, kustomize(&tree("deploy/kubernetes/overlays").join(name))).expect("written");
        command.arg(path);
    }
    println!("{}", succeeded(&mut command));
}

#[test]
fn what_is_no_manifest_is_told() {
    let place = tempfile::tempdir().expect("made");
    for (text, told) in [
        ("a: [", "no YAML"),
        ("kind: A\nkind: B\n", "'kind' stands there twice"),
        ("", "the file is empty"),
        ("- 1\n", "no manifest"),
        ("apiVersion: v9\nkind: Pot\nmetadata: { name: a }\n", "find schema for kind Pot"),
    ] {
        let path = place.path().join("a.yaml");
        std::fs::write(&path, text).expect("written");
        let output = finished(python("lint.py").arg(path));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(told), "{text:?}: {output:?}");
    }
}
