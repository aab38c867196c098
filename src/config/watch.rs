//! The config file, or a file it names, has changed: told once, whichever way it was saved.
//!
//! Two senses see it. inotify on the file's *directory* sees every save in that directory at once, even those that
//! replace the file (editors, `sed -i`) or a link on the way to it (a ConfigMap's `..data`). A look at each file once a
//! second, links followed, sees what goes on in other directories, and everything where inotify is refused. Neither
//! reads: [`FileEvent`] says *look again*, and whoever reads compares with [`LastContent`].
//!
//! What no sense can see: a single file mounted into a container (a bind mount, Kubernetes' `subPath`) and replaced at
//! its source. The mount goes on showing the old file; it is recognised by having no name left, and warned about once.

mod content;
mod pacer;
mod stamp;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use self::pacer::{Notice, Pacer};
use self::stamp::Stamp;

pub use self::content::{Content, LastContent};

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(1);

/// A file changed less than this before its first look is told about: whoever named it may have read it before that.
/// The look follows the naming within a spacing and a debounce.
const FRESH: Duration = Duration::from_secs(3);

/// Look again: something has changed, was removed, or has come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// The config file.
    Config,
    /// These of the further files, in the order they were named.
    Files(Vec<PathBuf>),
}

/// Keeps the watch going; dropping it ends the watch, its thread included.
#[derive(Debug)]
#[must_use = "dropping it ends the watch"]
pub struct WatchHandle {
    task: JoinHandle<()>,
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches `path`, the config file, and `files`, which the config names and which may change while it runs.
///
/// Changes since this call are told, so call it before reading the config, and put a new list into `files` before
/// reading what it names. The first change of a burst is told about a tenth of a second after it (where only the poll
/// sees it, within two seconds), later ones at least a second apart; at most three events wait for the reader. Needs a
/// tokio runtime with time. Looks happen on its blocking threads, because a network file system may hang. The receiver
/// gives `None` only after a panic in here.
pub fn watch(path: PathBuf, files: watch::Receiver<Vec<PathBuf>>) -> (mpsc::Receiver<FileEvent>, WatchHandle) {
    watch_with(path, files, inotify)
}

type Open = fn(&Path, Arc<Bell>) -> notify::Result<RecommendedWatcher>;

fn watch_with(
    path: PathBuf,
    files: watch::Receiver<Vec<PathBuf>>,
    open: Open,
) -> (mpsc::Receiver<FileEvent>, WatchHandle) {
    let (events, receiver) = mpsc::channel(2);
    let mut watch = Watch::new(path, files, open);
    watch.armed(Stamp::of(&watch.directory), open(&watch.directory, Arc::clone(&watch.bell)));
    let list = watch.list();
    watch.told = look(&list);
    watch.seen = watch.told.clone();
    let task = tokio::spawn(watch.run(events));
    (receiver, WatchHandle { task })
}

/// What inotify's thread leaves for the task.
#[derive(Debug)]
struct Bell {
    /// The name of the config file in the directory.
    name: Option<Box<OsStr>>,
    whole: AtomicBool,
    /// Somebody has finished writing to the config file itself: its stamp need not differ.
    named: AtomicBool,
    ring: Notify,
}

impl Bell {
    /// Opening, reading and the single writes of a file are no news: to look at each opening would be to look at our
    /// own looks, and what is still being written is not yet there.
    fn hear(&self, event: notify::Result<notify::Event>) {
        let (whole, named) = match event {
            Ok(event) if event.need_rescan() => (true, true),
            Ok(event) => match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(_))
                | EventKind::Remove(_) => {
                    let is_named = |path: &PathBuf| path.file_name() == self.name.as_deref();
                    (true, event.paths.iter().any(is_named))
                }
                EventKind::Create(_) => (false, false),
                _ => return,
            },
            // Something may have been missed.
            Err(_) => (true, true),
        };
        if whole {
            self.whole.store(true, Ordering::Release);
        }
        if named {
            self.named.store(true, Ordering::Release);
        }
        self.ring.notify_one();
    }
}

fn inotify(directory: &Path, bell: Arc<Bell>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event| bell.hear(event))?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

type Stamps = HashMap<PathBuf, Stamp>;

fn look(paths: &[PathBuf]) -> Stamps {
    paths.iter().map(|path| (path.clone(), Stamp::of(path))).collect()
}

struct Watch {
    path: PathBuf,
    directory: PathBuf,
    files: watch::Receiver<Vec<PathBuf>>,
    open: Open,
    bell: Arc<Bell>,
    /// Dropping it ends its thread. `None` where inotify is refused.
    watcher: Option<RecommendedWatcher>,
    /// The directory that `watcher` was opened for: a path can come to mean another one.
    armed_for: Stamp,
    refused: bool,
    pacer: Pacer,
    /// How the files looked when they were last told about.
    told: Stamps,
    /// How they looked last.
    seen: Stamps,
    orphans: HashSet<PathBuf>,
}

impl Watch {
    fn new(path: PathBuf, files: watch::Receiver<Vec<PathBuf>>, open: Open) -> Self {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let bell = Bell {
            name: path.file_name().map(Into::into),
            whole: AtomicBool::new(false),
            named: AtomicBool::new(false),
            ring: Notify::new(),
        };
        Self {
            path,
            directory,
            files,
            open,
            bell: Arc::new(bell),
            watcher: None,
            armed_for: Stamp::Missing,
            refused: false,
            pacer: Pacer::default(),
            told: Stamps::new(),
            seen: Stamps::new(),
            orphans: HashSet::new(),
        }
    }

    async fn run(mut self, events: mpsc::Sender<FileEvent>) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let bell = Arc::clone(&self.bell);
        let mut files = self.files.clone();
        let mut list_may_change = true;
        loop {
            let due = self.pacer.due();
            let due_in = due.unwrap_or_else(Instant::now);
            let lives = tokio::select! {
                biased;
                () = events.closed() => false,
                () = tokio::time::sleep_until(due_in.into()), if due.is_some() => self.tell(&events).await,
                changed = files.changed(), if list_may_change => {
                    list_may_change = changed.is_ok();
                    self.take_list()
                }
                () = bell.ring.notified() => {
                    let whole = bell.whole.swap(false, Ordering::AcqRel);
                    self.pacer.notice(Instant::now(), if whole { Notice::Whole } else { Notice::Unsure });
                    true
                }
                _ = poll.tick() => self.poll().await,
            };
            if !lives {
                return;
            }
        }
    }

    /// The files as they look now; `None` when the runtime is ending.
    async fn look(&mut self) -> Option<Stamps> {
        let list = self.list();
        let stamps = tokio::task::spawn_blocking(move || look(&list)).await.ok()?;
        self.warn_of_orphans(&stamps);
        Some(stamps)
    }

    fn list(&self) -> Vec<PathBuf> {
        std::iter::once(&self.path).chain(self.files.borrow().iter()).cloned().collect()
    }

    /// Tells what differs from what was told last.
    async fn tell(&mut self, events: &mpsc::Sender<FileEvent>) -> bool {
        // Before the look, so that a write during it rings again.
        let named = self.bell.named.swap(false, Ordering::AcqRel);
        let Some(now_seen) = self.look().await else { return false };
        let before = std::mem::replace(&mut self.seen, now_seen);
        let now = Instant::now();
        if self.pacer.is_unsure() && before != self.seen && self.pacer.put_off(now) {
            self.bell.named.fetch_or(named, Ordering::AcqRel);
            return true;
        }
        let differs = |path: &PathBuf| match self.told.get(path) {
            Some(told) => Some(told) != self.seen.get(path),
            None => self.seen.get(path).is_some_and(|stamp| stamp.is_younger_than(FRESH)),
        };
        let config = named || differs(&self.path);
        let changed: Vec<PathBuf> = self.files.borrow().iter().filter(|path| differs(path)).cloned().collect();
        self.told = self.seen.clone();
        self.pacer.end(now, config || !changed.is_empty());
        // While the reader is busy nothing is lost: what changes meanwhile differs from `told`.
        (!config || events.send(FileEvent::Config).await.is_ok())
            && (changed.is_empty() || events.send(FileEvent::Files(changed)).await.is_ok())
    }

    /// Looks whether anything has changed that inotify did not see. In one visit to the thread where it may block: this is
    /// most of what an idle program does.
    async fn poll(&mut self) -> bool {
        let (directory, armed_for, list) = (self.directory.clone(), self.armed_for, self.list());
        let (open, bell) = (self.open, Arc::clone(&self.bell));
        let looked = tokio::task::spawn_blocking(move || {
            let place = Stamp::of(&directory);
            let rearm = (!place.is_same_place(&armed_for)).then(|| (place, open(&directory, bell)));
            (rearm, look(&list))
        });
        let Ok((rearm, now_seen)) = looked.await else { return false };
        if let Some((place, opened)) = rearm {
            self.armed(place, opened);
        }
        self.warn_of_orphans(&now_seen);
        if now_seen != self.seen {
            self.pacer.notice(Instant::now(), Notice::Unsure);
            self.seen = now_seen;
        }
        true
    }

    /// The list of further files has changed: the new ones are looked at with the next telling.
    fn take_list(&mut self) -> bool {
        let list = self.list();
        self.told.retain(|path, _| list.contains(path));
        self.orphans.retain(|path| list.contains(path));
        self.pacer.notice(Instant::now(), Notice::Whole);
        true
    }

    /// The directory is the one at `place` now, and `opened` the watch on it.
    fn armed(&mut self, place: Stamp, opened: notify::Result<RecommendedWatcher>) {
        self.armed_for = place;
        match opened {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                self.watcher = None;
                if !std::mem::replace(&mut self.refused, true) {
                    tracing::warn!(
                        directory = %self.directory.display(),
                        %error,
                        "the config's directory cannot be watched, so its files are looked at once a second instead; \
                         if inotify's limits are used up, raise fs.inotify.max_user_instances and max_user_watches",
                    );
                }
            }
        }
    }

    fn warn_of_orphans(&mut self, stamps: &Stamps) {
        for (path, stamp) in stamps {
            if !stamp.is_orphan() {
                self.orphans.remove(path);
            } else if self.orphans.insert(path.clone()) {
                tracing::warn!(
                    file = %path.display(),
                    "this file was replaced outside of the mount that shows it, so no edit of it will arrive here: \
                     restart everlink to read the new one, and mount its directory instead of the single file",
                );
            }
        }
    }
}
