//! The configuration file may have changes: somebody should look.
//!
//! The *directory* of the file is watched, for editors rename over it and a mounted ConfigMap swaps a link beside it; and
//! once a second a `stat()` through all links compares what the watch cannot see, such as a link into another directory or a
//! bind mount. Whoever is told reads the file and compares its content: here nothing is read.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::link::sleep_until_or_never;

/// The writes of one save come within this.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Changes are told at least this far apart, but the first of a burst at once.
const SPACING: Duration = Duration::from_secs(1);
/// How often the files are looked at without being told.
const POLL: Duration = Duration::from_secs(1);

/// What may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    Config,
    /// Files that the configuration names.
    Files(Vec<PathBuf>),
}

/// When a change is told. Pure: debounces, and keeps tellings apart.
#[derive(Debug, Default)]
pub struct Pacer {
    changed: Option<Instant>,
    told: Option<Instant>,
}

impl Pacer {
    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        // From the first change of a burst: a file that is written without end is still looked at.
        self.changed.get_or_insert(now);
    }

    /// When to call [`is_due`](Self::is_due).
    pub fn next_deadline(&self) -> Option<Instant> {
        let settled = self.changed? + DEBOUNCE;
        Some(self.told.map_or(settled, |told| settled.max(told + SPACING)))
    }

    /// Whether to tell now; if so, the changes so far are told.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next_deadline().is_some_and(|at| now >= at);
        if due {
            self.changed = None;
            self.told = Some(now);
        }
        due
    }
}

/// Keeps the watch; dropping it ends watch and task.
pub struct WatchHandle {
    task: JoinHandle<()>,
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches the configuration at `path` and the files it names, which may change any time. Runs on the runtime that calls.
pub fn watch(path: PathBuf, files: watch::Receiver<Vec<PathBuf>>) -> (mpsc::Receiver<FileEvent>, WatchHandle) {
    let (events, received) = mpsc::channel(4);
    (received, WatchHandle { task: tokio::spawn(run(path, files, events)) })
}

async fn run(path: PathBuf, mut files: watch::Receiver<Vec<PathBuf>>, events: mpsc::Sender<FileEvent>) {
    let (stirred, mut stirs) = mpsc::channel(1);
    // Held, not used: dropping the watcher ends the watch.
    let _watcher = match watcher(&path, stirred) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!("the configuration's directory cannot be watched, so it is looked at each second: {error}");
            None
        }
    };
    let mut config = Pacer::default();
    let mut named = Pacer::default();
    let mut config_looks = Looks::of(std::slice::from_ref(&path));
    let mut named_looks = Looks::of(&files.borrow_and_update());
    let mut changed_files: Vec<PathBuf> = Vec::new();
    let mut warned = false;
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let deadline = [config.next_deadline(), named.next_deadline()].into_iter().flatten().min();
        tokio::select! {
            stir = stirs.recv(), if !stirs.is_closed() || !stirs.is_empty() => if stir.is_some() {
                // The directory stirred: was it ours?
            },
            _ = poll.tick() => {}
            () = sleep_until_or_never(deadline) => {}
            changed = files.changed() => match changed {
                Ok(()) => named_looks = Looks::of(&files.borrow_and_update()),
                Err(_) => return,
            },
        }
        let now = Instant::now();
        if !config_looks.renew().is_empty() {
            config.changed(now);
        }
        let renewed = named_looks.renew();
        if !renewed.is_empty() {
            named.changed(now);
            changed_files.extend(renewed);
        }
        if !warned && is_orphaned(&path) {
            warned = true;
            tracing::warn!(
                config = %path.display(),
                "the file was replaced behind its bind mount, which still shows the old one: mount its directory instead"
            );
        }
        let told = if config.is_due(now) {
            events.send(FileEvent::Config).await
        } else if named.is_due(now) {
            events.send(FileEvent::Files(std::mem::take(&mut changed_files))).await
        } else {
            Ok(())
        };
        if told.is_err() {
            return;
        }
    }
}

/// Watches the directory and passes on that something in it was written, renamed, linked or removed. Reading wakes
/// nobody: a reader that woke itself would never rest.
fn watcher(path: &Path, stirred: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error (a queue that ran over) is answered by a look as well.
        let matters = event.map_or(true, |event| {
            matches!(
                event.kind,
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                    | EventKind::Modify(ModifyKind::Name(_))
                    | EventKind::Create(CreateKind::File | CreateKind::Any | CreateKind::Other)
                    | EventKind::Remove(_)
                    | EventKind::Other
            )
        });
        if matters {
            // One waiting stir stands for all.
            let _ = stirred.try_send(());
        }
    })?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// What the files looked like last.
struct Looks(HashMap<PathBuf, Option<Look>>);

/// What `stat()` through links tells of a file's content having been replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Looks {
    fn of(paths: &[PathBuf]) -> Self {
        Self(paths.iter().map(|path| (path.clone(), look(path))).collect())
    }

    /// Looks again; those that differ. A file that went is told when it is back: there is nothing to read before.
    fn renew(&mut self) -> Vec<PathBuf> {
        let mut renewed = Vec::new();
        for (path, before) in &mut self.0 {
            let now = look(path);
            if now.is_some() && now != *before {
                renewed.push(path.clone());
                *before = now;
            }
        }
        renewed
    }
}

fn look(path: &Path) -> Option<Look> {
    let meta = std::fs::metadata(path).ok()?;
    Some(Look {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// A file that exists and has no name: its bind mount outlived it.
fn is_orphaned(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.nlink() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_change_of_a_burst_is_told_at_once_and_later_ones_a_second_apart() {
        let start = Instant::now();
        let mut pacer = Pacer::default();
        let mut told = Vec::new();
        for ms in 0..3500 {
            let now = start + ms * MS;
            if ms % 10 == 0 {
                pacer.changed(now);
            }
            if pacer.is_due(now) {
                told.push(ms);
            }
        }
        assert_eq!(told, [100, 1100, 2100, 3100]);
    }

    #[test]
    fn a_lone_change_waits_only_for_its_save_to_settle() {
        let start = Instant::now();
        let mut pacer = Pacer::default();
        assert_eq!(pacer.next_deadline(), None);
        pacer.changed(start);
        assert!(!pacer.is_due(start + 99 * MS));
        assert!(pacer.is_due(start + 100 * MS));
        assert_eq!(pacer.next_deadline(), None);
        pacer.changed(start + 5000 * MS);
        assert!(pacer.is_due(start + 5100 * MS), "an old telling holds nothing up");
    }
}
