use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// Generous: a busy machine may take long for what takes a tenth of a second.
const DEADLINE: Duration = Duration::from_secs(30);

fn refused(_: &Path, _: Arc<Bell>) -> notify::Result<RecommendedWatcher> {
    Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch))
}

/// A directory with a watched `config.toml` in it.
struct Bench {
    dir: TempDir,
    config: PathBuf,
    files: watch::Sender<Vec<PathBuf>>,
    events: mpsc::Receiver<FileEvent>,
    _handle: WatchHandle,
}

impl Bench {
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        Self::with(inotify, prepare)
    }

    fn with(open: Open, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("config.toml");
        prepare(dir.path());
        let (files, list) = watch::channel(Vec::new());
        let (events, _handle) = watch_with(config.clone(), list, open);
        Self { dir, config, files, events, _handle }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn event(&mut self) -> FileEvent {
        timeout(DEADLINE, self.events.recv()).await.expect("an event in time").expect("the watch lives")
    }

    /// Waits until an event has made a reader see `content`; how many events it took.
    async fn until_read(&mut self, content: Option<&str>) -> usize {
        for count in 1.. {
            assert_eq!(self.event().await, FileEvent::Config);
            if fs::read_to_string(&self.config).ok().as_deref() == content {
                return count;
            }
        }
        unreachable!("the count has no end")
    }

    /// Nothing is told for longer than the poll, the settling and the spacing take together.
    async fn stays_silent(&mut self) {
        if let Ok(event) = timeout(Duration::from_secs(3), self.events.recv()).await {
            panic!("{event:?} out of nothing");
        }
    }
}

fn write(path: impl AsRef<Path>, content: &str) {
    fs::write(path, content).expect("a write");
}

fn with_config(dir: &Path) {
    write(dir.join("config.toml"), "first");
}

#[tokio::test]
async fn writing_in_place_is_told_once() {
    let mut bench = Bench::new(with_config);
    write(&bench.config, "second");
    assert_eq!(bench.until_read(Some("second")).await, 1);
    bench.stays_silent().await;
}

/// Opens for writing and closes without a change, as two writes of one length within a tick of the clock look: no stamp
/// shows it, only inotify does.
fn close_unchanged(path: &Path) {
    fs::OpenOptions::new().write(true).open(path).expect("opened for writing");
}

#[tokio::test]
async fn a_writer_of_the_file_itself_is_heard_even_where_its_stamp_shows_nothing() {
    let mut bench = Bench::new(with_config);
    let before = Stamp::of(&bench.config);
    close_unchanged(&bench.config);
    assert_eq!(bench.event().await, FileEvent::Config);
    assert_eq!(Stamp::of(&bench.config), before);
}

#[tokio::test]
async fn renaming_over_it_is_told_each_time() {
    let mut bench = Bench::new(with_config);
    for content in ["second", "third", "fourth"] {
        write(bench.at("config.toml.tmp"), content);
        fs::rename(bench.at("config.toml.tmp"), &bench.config).expect("a rename");
        assert_eq!(bench.until_read(Some(content)).await, 1);
    }
    bench.stays_silent().await;
}

#[tokio::test]
async fn sed_in_place_is_told_each_time() {
    let mut bench = Bench::new(with_config);
    for (command, content) in [("s/first/second/", "second"), ("s/second/third/", "third")] {
        let done = Command::new("sed").args(["-i", command]).arg(&bench.config).status().expect("sed runs");
        assert!(done.success());
        assert_eq!(bench.until_read(Some(content)).await, 1);
    }
}

/// What the kubelet does: a new directory, then `..data` made to point at it.
fn swap_data(dir: &Path, version: &str) {
    fs::create_dir(dir.join(version)).expect("a directory");
    write(dir.join(version).join("config.toml"), version);
    symlink(version, dir.join("..data_tmp")).expect("a link");
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("a rename");
}

#[tokio::test]
async fn fault_51_each_swap_of_a_config_map_is_told() {
    let mut bench = Bench::new(|dir| {
        swap_data(dir, "..v1");
        symlink("..data/config.toml", dir.join("config.toml")).expect("a link");
    });
    for (old, new) in [("..v1", "..v2"), ("..v2", "..v3"), ("..v3", "..v4")] {
        swap_data(bench.dir.path(), new);
        fs::remove_dir_all(bench.at(old)).expect("removed");
        assert_eq!(bench.until_read(Some(new)).await, 1);
    }
    bench.stays_silent().await;
}

#[tokio::test]
async fn a_file_in_another_directory_is_told_by_the_poll() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let target = elsewhere.path().join("real.toml");
    write(&target, "first");
    let mut bench = Bench::new(|dir| symlink(&target, dir.join("config.toml")).expect("a link"));
    write(&target, "second");
    bench.until_read(Some("second")).await;
    let began = Instant::now();
    write(elsewhere.path().join("new"), "third");
    fs::rename(elsewhere.path().join("new"), &target).expect("a rename");
    bench.until_read(Some("third")).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn fault_51_deletion_and_return_are_told() {
    let mut bench = Bench::new(with_config);
    fs::remove_file(&bench.config).expect("removed");
    assert_eq!(bench.until_read(None).await, 1);
    bench.stays_silent().await;
    write(&bench.config, "first");
    bench.until_read(Some("first")).await;
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_watched_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().join("etc");
    let (_files, list) = watch::channel(Vec::new());
    let config = home.join("config.toml");
    let (mut events, _handle) = watch(config.clone(), list);
    let mut until = async |content: &str| {
        while fs::read_to_string(&config).ok().as_deref() != Some(content) {
            timeout(DEADLINE, events.recv()).await.expect("an event in time").expect("the watch lives");
        }
    };
    fs::create_dir(&home).expect("a directory");
    write(&config, "first");
    until("first").await;
    fs::rename(&home, dir.path().join("old")).expect("a rename");
    fs::create_dir(&home).expect("a directory");
    write(&config, "second");
    until("second").await;
    while timeout(Duration::from_secs(3), events.recv()).await.is_ok() {}
    // The poll would have seen all of that; this only inotify sees, once it is opened on the new directory.
    let heard = async {
        loop {
            close_unchanged(&config);
            if timeout(Duration::from_secs(3), events.recv()).await.is_ok() {
                break;
            }
        }
    };
    timeout(DEADLINE, heard).await.expect("the new directory is watched");
}

#[tokio::test]
async fn what_was_half_written_is_told_again_when_it_is_whole() {
    let mut bench = Bench::new(with_config);
    let mut file = fs::File::create(&bench.config).expect("truncated");
    file.write_all(b"half").expect("a write");
    // Whatever a reader makes of the half, the whole is told.
    let _ = timeout(Duration::from_secs(2), bench.events.recv()).await;
    file.write_all(b" and whole").expect("a write");
    drop(file);
    bench.until_read(Some("half and whole")).await;
    bench.stays_silent().await;
}

#[tokio::test]
async fn fault_52_a_storm_of_writes_comes_to_a_few_events_and_the_last_is_not_missed() {
    let mut bench = Bench::new(with_config);
    let (config, tmp) = (bench.config.clone(), bench.at("tmp"));
    let began = Instant::now();
    let storm = std::thread::spawn(move || {
        for round in 0..300 {
            write(&tmp, &format!("round {round}"));
            fs::rename(&tmp, &config).expect("a rename");
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    bench.event().await;
    let first = began.elapsed();
    assert!(!storm.is_finished(), "the first change waited for the end of the storm: {first:?}");
    let count = 1 + bench.until_read(Some("round 299")).await;
    let lasted = began.elapsed().as_secs() as usize;
    assert!(count <= 2 + lasted, "{count} events in {lasted} s");
    storm.join().expect("the storm ends");
}

#[tokio::test]
async fn nothing_is_told_when_nobody_writes_however_often_somebody_reads() {
    let mut bench = Bench::new(with_config);
    let config = bench.config.clone();
    let reader = std::thread::spawn(move || {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            fs::read(&config).expect("a read");
            fs::metadata(&config).expect("a look");
            fs::read_dir(config.parent().expect("a directory")).expect("a listing").count();
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    bench.stays_silent().await;
    reader.join().expect("the reader ends");
}

#[tokio::test]
async fn other_files_of_the_directory_are_no_news() {
    let mut bench = Bench::new(with_config);
    let log = bench.at("app.log");
    let writer = std::thread::spawn(move || {
        for round in 0..50 {
            write(&log, &"x".repeat(round));
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    bench.stays_silent().await;
    writer.join().expect("the writer ends");
}

#[tokio::test]
async fn further_files_are_told_by_name_and_their_list_can_change() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let [a, b, c] = ["a.pem", "b.pem", "c.pem"].map(|name| elsewhere.path().join(name));
    [&a, &b, &c].into_iter().for_each(|path| write(path, "first"));
    let mut bench = Bench::new(with_config);
    bench.files.send_replace(vec![a.clone(), b.clone()]);
    // They are new themselves, so whoever named them may have read them too early.
    assert_eq!(bench.event().await, FileEvent::Files(vec![a.clone(), b.clone()]));
    write(&b, "second");
    assert_eq!(bench.event().await, FileEvent::Files(vec![b.clone()]));
    bench.files.send_replace(vec![a.clone()]);
    write(&b, "third");
    bench.stays_silent().await;
    fs::remove_file(&a).expect("removed");
    assert_eq!(bench.event().await, FileEvent::Files(vec![a.clone()]));
    bench.files.send_replace(vec![c.clone()]);
    bench.stays_silent().await;
    write(&c, "second");
    assert_eq!(bench.event().await, FileEvent::Files(vec![c]));
}

/// What was logged by this thread, which a current-thread runtime never leaves.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn keep(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        tracing::subscriber::set_default(
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish(),
        )
    }

    fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).matches(text).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn without_inotify_the_poll_sees_it_and_one_warning_says_so() {
    let log = Log::default();
    let _kept = log.keep();
    let mut bench = Bench::with(refused, with_config);
    for content in ["second", "third and longer", ""] {
        write(bench.at("tmp"), content);
        fs::rename(bench.at("tmp"), &bench.config).expect("a rename");
        bench.until_read(Some(content)).await;
    }
    bench.stays_silent().await;
    assert_eq!(log.count("max_user_instances"), 1);
}

#[tokio::test]
async fn a_file_that_lost_its_name_is_warned_about_once() {
    use std::os::fd::AsRawFd;
    let log = Log::default();
    let _kept = log.keep();
    let mut bench = Bench::new(with_config);
    let source = bench.at("mounted.pem");
    let open = fs::File::create(&source).expect("a file");
    // As a bind mount does, this name goes on showing a file that is gone.
    let shown = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    bench.files.send_replace(vec![shown.clone()]);
    bench.event().await;
    assert_eq!(log.count("mount its directory"), 0);
    fs::remove_file(&source).expect("removed");
    assert_eq!(bench.event().await, FileEvent::Files(vec![shown]));
    bench.stays_silent().await;
    assert_eq!(log.count("mount its directory"), 1);
}

fn inotify_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("our threads");
    let names = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("notify-rs")).count()
}

/// In a process of its own, because threads are counted.
#[test]
fn nothing_is_left_of_a_watch_that_was_dropped() {
    const ALONE: &str = "EVERLINK_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let this = std::env::current_exe().expect("this program");
        let name = "config::watch::tests::nothing_is_left_of_a_watch_that_was_dropped";
        let out = Command::new(this).args(["--exact", name]).env(ALONE, "1").output().expect("it runs");
        let told = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let dir = tempfile::tempdir().expect("a directory");
        with_config(dir.path());
        for by_receiver in [false, true] {
            let (_files, list) = watch::channel(Vec::new());
            let (events, handle) = watch(dir.path().join("config.toml"), list);
            assert_eq!(inotify_threads(), 1);
            let task = handle.task.abort_handle();
            // Either end is enough.
            let kept: Box<dyn std::any::Any> = if by_receiver {
                drop(events);
                Box::new(handle)
            } else {
                drop(handle);
                Box::new(events)
            };
            let gone = async {
                while inotify_threads() > 0 || !task.is_finished() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(DEADLINE, gone).await.expect("the watch ends");
            drop(kept);
        }
    });
}
