//! A systemd of the tests' own, as the first process of namespaces of its own.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::harness::{EVERLINK, eventually, text};

/// Ended, with all that runs in it, when dropped.
pub struct Machine {
    boot: Child,
    first: u32,
    work: TempDir,
}

impl Machine {
    /// With these units, and these files in `/etc/everlink`, by name and content.
    pub fn boot(units: &[(&str, String)], files: &[(&str, String)]) -> Self {
        let work = tempfile::tempdir().expect("a directory");
        for (directory, files) in [("units", units), ("etc", files)] {
            let directory = work.path().join(directory);
            std::fs::create_dir(&directory).expect("made");
            std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
            for (name, content) in files {
                let path = directory.join(name);
                std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
                std::fs::write(path, content).expect("written");
            }
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/boot");
        let mut command = Command::new(script);
        command.arg(work.path()).arg(EVERLINK).stdin(Stdio::piped());
        let boot = command.spawn().expect("started");
        let mut machine = Self { boot, first: 0, work };
        let pid = machine.work.path().join("pid");
        eventually("a first process", || {
            assert!(machine.boot.try_wait().expect("waited").is_none(), "it could not be started: {}", machine.log());
            pid.exists()
        });
        machine.first = std::fs::read_to_string(pid).expect("read").trim().parse().expect("a number");
        eventually("systemd runs", || {
            String::from_utf8_lossy(&machine.run("systemctl is-system-running").stdout).trim() == "running"
        });
        machine
    }

    /// Where the files of `/etc/everlink` are.
    pub fn file(&self, name: &str) -> PathBuf {
        self.work.path().join("etc").join(name)
    }

    /// Runs a line of shell inside, as root.
    pub fn run(&self, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        let first = self.first.to_string();
        command.args(["-t", &first, "-m", "-p", "-u", "-i", "-n", "--root", "--wd", "sh", "-c", line]);
        command.stdin(Stdio::null()).output().expect("nsenter")
    }

    /// As [`run`](Self::run); it must succeed. Returns what it said.
    pub fn done(&self, line: &str) -> String {
        let output = self.run(line);
        let journal = || text(&self.run("journalctl -o cat --no-pager -n 60"));
        assert!(output.status.success(), "{line}: {}\n{}\n{}", text(&output), self.log(), journal());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.done(&format!("systemctl show --value -p {property} {unit}"))
    }

    /// What systemd has said.
    pub fn log(&self) -> String {
        let log =
            String::from_utf8_lossy(&std::fs::read(self.work.path().join("log")).unwrap_or_default()).into_owned();
        // Debian has the program elsewhere than systemd looks for it, and nothing here needs modules.
        log.lines().filter(|line| !line.starts_with("modprobe@")).map(|line| format!("{line}\n")).collect()
    }

    /// Does something in its network.
    pub fn inside<R: Send>(&self, act: impl FnOnce() -> R + Send) -> R {
        let network = File::open(format!("/proc/{}/ns/net", self.first)).expect("its network");
        let enter = move || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), Some(LinkNameSpaceType::Network))
                .expect("entered");
            act()
        };
        std::thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.boot.stdin.take());
        let _ = self.boot.wait();
    }
}
