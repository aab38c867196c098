//! Control groups of the kernel, of either version, that programs of the tests are put into.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::program::wait_until;

/// A group of its own; gone, once it is empty, when dropped.
pub struct Group {
    path: PathBuf,
    /// Of the second version.
    unified: bool,
}

impl Group {
    /// For `controller`, which is `cpu` or `memory`. Fails the test where there are no groups to be had.
    pub fn new(controller: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("everlink-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let top = Path::new("/sys/fs/cgroup");
        let unified = top.join("cgroup.controllers").exists();
        if unified {
            // Refused where the top is not ours; then the group is without it, which is found out below.
            let _ = std::fs::write(top.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let parent = if unified { top.to_owned() } else { top.join(controller) };
        let path = parent.join(name);
        std::fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; this test needs control groups, and root", path.display()));
        let made = Self { path, unified };
        let file = match (controller, unified) {
            ("cpu", false) => "cpu.cfs_quota_us",
            ("cpu", true) => "cpu.max",
            (_, false) => "memory.limit_in_bytes",
            (_, true) => "memory.max",
        };
        assert!(made.path.join(file).exists(), "there is no {file} in control groups here");
        made
    }

    /// To stand before the command that is to run inside.
    pub fn enter(&self) -> [String; 4] {
        let enter = r#"echo $$ > "$0/cgroup.procs"; exec "$@""#;
        ["sh".to_owned(), "-c".to_owned(), enter.to_owned(), self.path.display().to_string()]
    }

    /// So many of each 100 ms that a processor has; `None`: as many as there are.
    pub fn limit_processor(&self, millis: Option<u32>) {
        match (self.unified, millis) {
            (true, Some(millis)) => self.write("cpu.max", &format!("{} 100000", millis * 1000)),
            (true, None) => self.write("cpu.max", "max 100000"),
            (false, millis) => {
                self.write("cpu.cfs_period_us", "100000");
                self.write("cpu.cfs_quota_us", &millis.map_or("-1".to_owned(), |millis| (millis * 1000).to_string()));
            }
        }
    }

    /// How often its processes had to wait for the next 100 ms.
    pub fn throttled(&self) -> u64 {
        self.figure("cpu.stat", "nr_throttled")
    }

    pub fn limit_memory(&self, bytes: u64) {
        let file = if self.unified { "memory.max" } else { "memory.limit_in_bytes" };
        self.write(file, &bytes.to_string());
    }

    /// Bytes in use.
    pub fn memory(&self) -> u64 {
        let file = if self.unified { "memory.current" } else { "memory.usage_in_bytes" };
        self.read(file).trim().parse().expect("a number")
    }

    /// Processes the kernel has killed for want of memory.
    pub fn killed(&self) -> u64 {
        self.figure(if self.unified { "memory.events" } else { "memory.oom_control" }, "oom_kill")
    }

    fn figure(&self, file: &str, name: &str) -> u64 {
        let text = self.read(file);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {file}: {text}"))
    }

    fn read(&self, file: &str) -> String {
        let path = self.path.join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn write(&self, file: &str, what: &str) {
        let path = self.path.join(file);
        std::fs::write(&path, what).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let gone = || std::fs::remove_dir(&self.path).is_ok();
        // Its processes are killed first, and waited for; the kernel takes a moment longer.
        if std::thread::panicking() {
            gone();
        } else {
            wait_until("the control group is empty", gone);
        }
    }
}
