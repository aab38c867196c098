//! The manifests of `deploy/kubernetes` and the chart of `deploy/helm`: rendered by Kustomize and Helm themselves, held to
//! the API schemas and to rules of our own, and their pods run without a cluster, in namespaces, as the kubelet would.
//! Wants root for the namespaces, and what `tests/run --install` brings.

mod common;
#[path = "faults/mod.rs"]
#[allow(dead_code)]
mod faults;

mod kubernetes {
    mod chart;
    mod overlays;
    mod pod;
    mod road;
    mod running;
    mod tools;
}
