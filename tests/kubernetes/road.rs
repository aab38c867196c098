//! A node with pods on it, each in a network namespace of its own, and a Redis that is a Service elsewhere.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::tools::{documents, kubectl, tree};
use crate::common::program::{Daemon, directory, finished, program, succeeded};
use crate::faults::net::Namespace;

/// The node, where the kubelet and Prometheus are, and where Redis is told to be by the cluster's DNS.
pub struct Node {
    pub namespace: Namespace,
    redis: Option<Daemon>,
    directory: TempDir,
}

/// The address of a Service, which is no pod's.
pub const SERVICE: &str = "10.96.0.10";

/// A pod's network: one wire to the node.
pub struct PodNetwork {
    pub namespace: Namespace,
    pub address: String,
}

impl Node {
    pub fn new() -> Self {
        let namespace = Namespace::new("node");
        namespace.sysctl("net.ipv4.ip_forward=1");
        let mut made = Self { namespace, redis: None, directory: directory() };
        made.start_redis();
        made
    }

    fn start_redis(&mut self) {
        let mut command = self.namespace.command(program("redis-server").to_str().expect("UTF-8"));
        command.args(["--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir"]);
        command.arg(self.directory.path());
        let daemon = Daemon::start(&mut command, &self.directory.path().join("log"));
        let answers = || ask_redis(&self.namespace, &["PING"]) == "PONG";
        let ready = daemon.until_ready(answers);
        self.redis = Some(ready);
    }

    /// Where the Service of [`SERVICE`] leads from now on; as with kube-proxy, connections that stand stay where they are.
    pub fn lead_to(&self, pod: &PodNetwork) {
        self.namespace.nft(&format!(
            "add table ip service\n\
             add chain ip service ways {{ type nat hook prerouting priority dstnat; }}\n\
             flush chain ip service ways\n\
             add rule ip service ways ip daddr {SERVICE} dnat to {}\n",
            pod.address
        ));
    }

    /// Wires a pod to the node; each has a number of its own, from 1.
    pub fn wire(&self, number: u8) -> PodNetwork {
        let namespace = Namespace::new(&format!("pod{number}"));
        let (pod, node) = (format!("10.78.{number}.2"), format!("10.78.{number}.1"));
        let wire = format!("pod{number}");
        self.namespace.join(&wire, &format!("{node}/24"), &namespace, "wire", &format!("{pod}/24"));
        namespace.ip(&["route", "add", "default", "via", &node]);
        PodNetwork { namespace, address: pod }
    }
}

impl PodNetwork {
    pub fn place(&self) -> (&Namespace, &str) {
        (&self.namespace, &self.address)
    }

    /// The node as seen from here.
    pub fn node(&self) -> String {
        self.address.trim_end_matches('2').to_owned() + "1"
    }

    /// The application: a question to its Redis on loopback.
    pub fn ask(&self, words: &[&str]) -> String {
        ask_redis(&self.namespace, words)
    }
}

pub fn ask_redis(namespace: &Namespace, words: &[&str]) -> String {
    let mut command = namespace.command(program("redis-cli").to_str().expect("UTF-8"));
    let output = finished(command.args(["-h", "127.0.0.1"]).args(words));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The Secrets that the README tells to make, by its own commands.
pub fn secrets() -> Vec<Value> {
    let readme = std::fs::read_to_string(tree("deploy/kubernetes/README.md")).expect("the README");
    let blocks: Vec<_> =
        readme.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block)).collect();
    let place = directory();
    let make = blocks.iter().find(|block| block.contains("openssl")).expect("commands for certificates");
    succeeded(Command::new("bash").args(["-euc", make]).current_dir(place.path()));
    let create = blocks.iter().find(|block| block.contains("create secret")).expect("commands for Secrets");
    create.lines().map(|line| secret(line, place.path())).collect()
}

fn secret(line: &str, place: &Path) -> Value {
    let words: Vec<_> = line.split_whitespace().skip(1).collect();
    let made = succeeded(kubectl().args(words).args(["--dry-run=client", "-o", "yaml"]).current_dir(place));
    documents(&made).remove(0)
}
