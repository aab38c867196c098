//! A small kubelet: runs the everlink of a rendered pod, alone, in a root, with the mounts, user, capabilities and environment that the
//! pod says, as process 1 of a namespace of its own. What it does not do: images, seccomp, control groups, other containers.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::PATIENCE;
use crate::common::program::{self, Daemon, finished, program, send};
use crate::faults::net::{Namespace, until};

/// The everlink of one pod, and all that it is given.
pub struct Pod<'n> {
    namespace: &'n Namespace,
    address: String,
    spec: Value,
    container: Value,
    directory: TempDir,
    running: Option<Daemon>,
}

impl<'n> Pod<'n> {
    /// The pod of `workload`, such as `Deployment/app`, named `name` and with the address it has in `namespace`. Secrets that are not
    /// among the manifests are in `secrets`, as manifests. `hosts` stands in for the cluster's DNS.
    pub fn new(
        manifests: &[Value],
        workload: &str,
        name: &str,
        (namespace, address): (&'n Namespace, &str),
        secrets: &[Value],
        hosts: &str,
    ) -> Self {
        let (kind, owner) = workload.split_once('/').expect("KIND/NAME");
        let found = manifests.iter().find(|m| m["kind"] == kind && m["metadata"]["name"] == owner);
        let mut spec = found.unwrap_or_else(|| panic!("no {workload}"))["spec"]["template"]["spec"].clone();
        spec["hostname"] = name.into();
        let containers = ["initContainers", "containers"].iter().filter_map(|kind| spec[kind].as_array()).flatten();
        let container = containers.clone().find(|container| container["name"] == "everlink").expect("everlink").clone();
        let pod = Self {
            namespace,
            address: address.to_owned(),
            spec,
            container,
            directory: tempfile::tempdir().expect("made"),
            running: None,
        };
        pod.make_root(hosts);
        for volume in pod.spec["volumes"].as_array().into_iter().flatten() {
            pod.make_volume(volume, manifests, secrets);
        }
        pod
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// What a container's runtime puts into an image with one file; the host's own /usr, for the binary under test is no static one.
    fn make_root(&self, hosts: &str) {
        for directory in ["root/proc", "root/usr", "root/etc", "volumes"] {
            std::fs::create_dir_all(self.at(directory)).expect("made");
        }
        // Whoever is not root must get to the binary.
        std::fs::set_permissions(self.directory.path(), std::fs::Permissions::from_mode(0o755)).expect("set");
        for name in ["bin", "sbin", "lib", "lib32", "lib64"] {
            if let Ok(target) = std::fs::read_link(Path::new("/").join(name)) {
                symlink(target, self.at("root").join(name)).expect("linked");
            }
        }
        std::fs::write(self.at("root/everlink"), "").expect("written");
        std::fs::write(self.at("root/etc/hosts"), hosts).expect("written");
        std::fs::write(self.at("root/etc/resolv.conf"), "").expect("written");
        for mount in self.mounts() {
            std::fs::create_dir_all(self.at("root").join(&mount.1[1..])).expect("made");
        }
    }

    /// Name, path, and whether it is read-only.
    fn mounts(&self) -> Vec<(String, String, bool)> {
        let text = |mount: &Value, key: &str| mount[key].as_str().unwrap_or_else(|| panic!("no {key}")).to_owned();
        let mounts = self.container["volumeMounts"].as_array().into_iter().flatten();
        mounts.map(|each| (text(each, "name"), text(each, "mountPath"), each["readOnly"] == true)).collect()
    }

    fn make_volume(&self, volume: &Value, manifests: &[Value], secrets: &[Value]) {
        let name = volume["name"].as_str().expect("a name");
        let place = self.at("volumes").join(name);
        std::fs::create_dir(&place).expect("made");
        let find = |kind: &str, name: &Value| {
            let found = manifests.iter().chain(secrets).find(|m| m["kind"] == kind && m["metadata"]["name"] == *name);
            found.unwrap_or_else(|| panic!("no {kind} {name}")).clone()
        };
        let files = if let Some(map) = volume.get("configMap") {
            texts(&find("ConfigMap", &map["name"])["data"], |text| text.to_owned())
        } else if let Some(secret) = volume.get("secret") {
            texts(&find("Secret", &secret["secretName"])["data"], decoded)
        } else {
            assert!(volume.get("emptyDir").is_some(), "a volume of another kind: {volume}");
            return std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o777)).expect("set");
        };
        self.fill(name, &files);
        for file in files.keys() {
            symlink(format!("..data/{file}"), place.join(file)).expect("linked");
        }
    }

    /// Puts files into a mounted ConfigMap or Secret the way the kubelet does: all at once, by a link that changes.
    pub fn fill(&self, volume: &str, files: &HashMap<String, String>) {
        let place = self.at("volumes").join(volume);
        let told = self.spec["volumes"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|each| each["name"] == volume)
            .expect("a volume");
        let mode = ["configMap", "secret"].iter().find_map(|kind| told[kind]["defaultMode"].as_u64()).unwrap_or(0o644);
        let group = self.spec["securityContext"]["fsGroup"].as_u64().map(|group| group as u32);
        let old = std::fs::read_link(place.join("..data")).ok();
        let new = format!(
            "..{}",
            old.as_ref().map_or(1, |old| old.to_string_lossy()[2..].parse::<u32>().expect("a number") + 1)
        );
        std::fs::create_dir(place.join(&new)).expect("made");
        for (name, text) in files {
            let path = place.join(&new).join(name);
            std::fs::write(&path, text).expect("written");
            chown(&path, None, group).expect("given");
            // Who has a group by fsGroup may read.
            let mode = if group.is_some() { mode | 0o440 } else { mode };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode as u32)).expect("set");
        }
        symlink(&new, place.join("..data_tmp")).expect("linked");
        std::fs::rename(place.join("..data_tmp"), place.join("..data")).expect("renamed");
        if let Some(old) = old {
            std::fs::remove_dir_all(place.join(old)).expect("removed");
        }
    }

    /// The configuration as it is mounted now.
    pub fn config(&self) -> String {
        let (volume, ..) = self.mounts().into_iter().find(|(_, path, _)| path == "/etc/everlink").expect("mounted");
        std::fs::read_to_string(self.at("volumes").join(volume).join("config.toml")).expect("read")
    }

    /// Edits it, as far as the container is concerned.
    pub fn edit(&self, from: &str, to: &str) {
        let old = self.config();
        assert!(old.contains(from), "no {from} in {old}");
        let (volume, ..) = self.mounts().into_iter().find(|(_, path, _)| path == "/etc/everlink").expect("mounted");
        self.fill(&volume, &HashMap::from([("config.toml".to_owned(), old.replace(from, to))]));
    }

    fn environment(&self) -> String {
        let mut words = String::new();
        for variable in self.container["env"].as_array().into_iter().flatten() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("metadata.name") => self.spec["hostname"].as_str().expect("a name"),
                Some("status.podIP") => &self.address,
                other => variable["value"].as_str().unwrap_or_else(|| panic!("a variable from {other:?}")),
            };
            let _ = write!(words, " {}={value}", variable["name"].as_str().expect("a name"));
        }
        words
    }

    /// One of the security context's values, the container's own before the pod's.
    fn context(&self, key: &str) -> &Value {
        let own = &self.container["securityContext"][key];
        if own.is_null() { &self.spec["securityContext"][key] } else { own }
    }

    /// A command that becomes everlink with these arguments, inside.
    fn command(&self, arguments: &[String]) -> Command {
        let root = self.at("root").display().to_string();
        let mut script = format!(
            "set -e\nmount --bind {root} {root}\nmount --bind /usr {root}/usr\nmount -o remount,bind,ro {root}/usr\n\
             mount --bind {everlink} {root}/everlink\nmount -t proc proc {root}/proc\n",
            everlink = env!("CARGO_BIN_EXE_everlink"),
        );
        for (volume, path, read_only) in self.mounts() {
            let volume = self.at("volumes").join(volume).display().to_string();
            let _ = writeln!(script, "mount --bind {volume} {root}{path}");
            if read_only {
                let _ = writeln!(script, "mount -o remount,bind,ro {root}{path}");
            }
        }
        if *self.context("readOnlyRootFilesystem") == true {
            let _ = writeln!(script, "mount -o remount,bind,ro {root}");
        }
        let number = |key| self.context(key).as_u64().unwrap_or_else(|| panic!("no {key}"));
        let groups = match self.spec["securityContext"]["fsGroup"].as_u64() {
            Some(group) => format!("--groups {group}"),
            None => "--clear-groups".to_owned(),
        };
        assert_eq!(self.context("capabilities")["drop"][0], "ALL");
        assert_eq!(*self.context("allowPrivilegeEscalation"), false);
        let _ = writeln!(
            script,
            "exec chroot {root} /usr/bin/env -i -C /etc/everlink{} /usr/bin/setpriv --reuid {} --regid {} {groups} --pdeathsig keep --inh-caps=-all \
             --ambient-caps=-all --bounding-set=-all --no-new-privs /everlink {}",
            self.environment(),
            number("runAsUser"),
            number("runAsGroup"),
            arguments.join(" "),
        );
        let mut command = self.namespace.command(program("unshare").to_str().expect("UTF-8"));
        command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
        command
    }

    /// What `everlink check` says of the configuration, inside.
    pub fn check(&self) -> Output {
        finished(&mut self.command(&["check".to_owned(), "/etc/everlink/config.toml".to_owned()]))
    }

    /// Starts it and waits for the startup probe, asked from `node`.
    pub fn start(&mut self, node: &Namespace) {
        let arguments = self.container["args"].as_array().expect("arguments").iter();
        let arguments: Vec<_> = arguments.map(|each| each.as_str().expect("a text").to_owned()).collect();
        let log = self.at("log");
        let daemon = Daemon::start(&mut self.command(&arguments), &log);
        self.running = Some(daemon.until_ready(|| self.probe(node, "startupProbe").is_ok_and(|(code, _)| code == 200)));
    }

    /// Its HTTP as told by the pod, asked from another namespace, as the kubelet and Prometheus do.
    pub fn get(&self, node: &Namespace, path: &str) -> std::io::Result<(u16, String)> {
        let ports = self.container["ports"].as_array().expect("ports");
        let port = ports.iter().find(|port| port["name"] == "everlink-http").expect("told")["containerPort"].clone();
        let address = format!("{}:{port}", self.address).parse().expect("an address");
        node.run(|| program::get(address, path, "*/*"))
    }

    /// One of the container's probes, as it says.
    pub fn probe(&self, node: &Namespace, kind: &str) -> std::io::Result<(u16, String)> {
        self.get(node, self.container[kind]["httpGet"]["path"].as_str().expect("a path"))
    }

    pub fn ready(&self, node: &Namespace) -> bool {
        self.probe(node, "readinessProbe").is_ok_and(|(code, _)| code == 200)
    }

    /// The process, as seen from outside.
    pub fn id(&self) -> u32 {
        let id = self.running.as_ref().expect("running").id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("its children");
        children.trim().parse().expect("one child")
    }

    /// `kubectl exec`: a command in the container.
    pub fn exec(&self, command: &[&str]) -> Output {
        let mut inside = Command::new(program("nsenter"));
        inside.args([
            "--target",
            &self.id().to_string(),
            "--mount",
            "--net",
            "--pid",
            "--root",
            "--wdns=/etc/everlink",
        ]);
        let user = |key| self.context(key).to_string();
        inside.args(["--setuid", &user("runAsUser"), "--setgid", &user("runAsGroup"), "--"]).args(command);
        finished(&mut inside)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    pub fn until_logged(&self, text: &str) {
        until(&format!("{text:?} in the log"), PATIENCE, || self.log().contains(text));
    }

    /// Seconds that the kubelet waits after SIGTERM.
    pub fn grace(&self) -> u64 {
        self.spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(30)
    }

    pub fn terminate(&self) {
        send("TERM", self.id());
    }

    /// Whether it has ended by itself, and in order.
    pub fn left(&mut self) -> bool {
        match self.running.as_mut().expect("running").has_ended() {
            Some(status) => {
                assert!(status.success(), "{status}: {}", self.log());
                true
            }
            None => false,
        }
    }

    /// SIGKILL, and the same pod once more.
    pub fn kill(&mut self) {
        send("KILL", self.id());
        self.running = None;
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        // Before its directory.
        self.running = None;
        if std::thread::panicking() {
            eprintln!("---- everlink's log ----\n{}----", self.log());
        }
    }
}

fn texts(data: &Value, read: impl Fn(&str) -> String) -> HashMap<String, String> {
    let data = data.as_object().expect("data");
    data.iter().map(|(name, text)| (name.clone(), read(text.as_str().expect("a text")))).collect()
}

/// Base64, as in a Secret's data.
fn decoded(text: &str) -> String {
    let mut bits = 0_u32;
    let mut held = 0;
    let mut bytes = Vec::new();
    for letter in text.bytes().filter(|&letter| letter != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => panic!("no base64: {other}"),
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    String::from_utf8(bytes).expect("a text")
}
