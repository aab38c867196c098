//! The program: reads its configuration, starts what it says, and follows signals, edits and commands until the end.

#![forbid(unsafe_code)]

mod commands;
mod drain;
mod reload;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::cli::admin::Named;
use crate::clock::sleep_until_or_never;
use crate::config::watch::FileEvent;
use crate::config::{self, Loaded};
use crate::demo::{self, Demo};
use crate::lifecycle::{Signal, Signals, Spaced, Verdict};
use crate::link::drill;
use crate::log::{self, LogHandle};
use crate::metrics::Metrics;
use crate::net::descriptors::Descriptors;
use crate::net::kernel;
use crate::net::rehearsal::Kind;
use crate::running::Running;
use crate::status::Status;
use crate::systemd::{Manager, Passed};
use crate::workers::{Layout, Workers};
use commands::Asked;
use drain::Drain;
use reload::Cause;

/// `EX_CONFIG` of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;
/// SIGHUP is heard at most this often: each reads the file and cuts every wait for a redial short.
const HANGUP_SPACING: Duration = Duration::from_secs(1);
/// Files that cannot be used are looked at again so often: their time may come without a change.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Runs the configuration at `path` until told to stop. `with_demo`: also the servers that it names.
pub fn run(path: &Path, with_demo: bool) -> ExitCode {
    // Before anything else is opened: the numbers of what was passed are known only until then.
    let (passed, faults) = Passed::from_environment(environment);
    let (runtime, signals) = match heard() {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    if with_demo && let Err(error) = provide_demo_token() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let loaded = match config::load(path, &environment) {
        Ok(loaded) => loaded,
        Err(report) => {
            eprintln!("{report}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let log = match log::init(&loaded.config.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    for fault in faults {
        tracing::warn!("{fault}");
    }
    let app = match App::new(path, &loaded, &log, passed) {
        Ok(app) => app,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(app.run(loaded, with_demo, signals));
    runtime.shutdown_background();
    code
}

/// The signals are caught before anything takes long: until then one that is early would end the process, or as PID 1 be
/// lost. Errors: the host refuses what a runtime needs, or a handler.
fn heard() -> io::Result<(Runtime, Signals)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    Ok((runtime, signals))
}

/// Makes the file that the demo's configuration names. Errors: why it cannot be, and what to do.
fn provide_demo_token() -> Result<(), String> {
    let (variable, default) = demo::TOKEN;
    let token = environment(variable).unwrap_or_else(|| default.to_owned());
    demo::provide_token(Path::new(&token))
        .map_err(|error| format!("the demo cannot make its token {token}: {error}: name another place by {variable}"))
}

/// An environment variable, for `${NAME}` in the file.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The admin socket that the file at `path` names, be the rest of it usable or not: whoever asks an everlink to read its
/// file has perhaps just broken it.
pub fn configured_admin(path: &Path) -> Named {
    match (config::admin_socket(path, &environment), config::load(path, &environment)) {
        (Some(socket), _) => Named::At(socket),
        (None, Ok(_)) => Named::Nowhere,
        (None, Err(report)) => Named::Unknown(report.first_line()),
    }
}

/// Every panic is counted and logged, whoever's task it ends.
fn count_panics(status: &Arc<Status>) {
    let counter = status.metrics.task_panics.clone();
    std::panic::set_hook(Box::new(move |panic| {
        counter.inc();
        let payload = panic.payload();
        let what = payload.downcast_ref::<&str>().copied();
        let what = what.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a task panicked: {}", log::escape(what.as_bytes()));
    }));
}

struct App<'l> {
    path: PathBuf,
    running: Running,
    status: Arc<Status>,
    log: &'l LogHandle,
    hash: String,
    /// What was told of the content last read, if that could not be used.
    rejected: Option<String>,
    files: watch::Sender<Vec<PathBuf>>,
    /// When files that cannot be used were last looked at without a change of theirs.
    looked_again: Instant,
    asked: (mpsc::Sender<Asked>, mpsc::Receiver<Asked>),
    admin: CancellationToken,
    manager: Manager,
    hangups: Spaced,
    drain: Option<Drain>,
    demo: Option<Demo>,
}

/// Why the program ends.
enum End {
    /// The drain is over: what is left is reset.
    Drained,
    /// It was asked to, and has said that what is left is reset.
    Asked,
    /// It was told twice.
    AtOnce,
}

impl<'l> App<'l> {
    /// Starts the threads, and nothing of what is configured yet. Errors: the host refuses one, or a metric is wrong.
    fn new(path: &Path, loaded: &Loaded, log: &'l LogHandle, passed: Passed) -> io::Result<Self> {
        let layout = Layout::for_this_machine();
        let metrics = Metrics::new().map_err(io::Error::other)?;
        let status = Status::new(metrics, layout.runtimes());
        log.count_drops_in(status.metrics.log_dropped.clone());
        count_panics(&status);
        let limit = kernel::raise_descriptor_limit().map(|(_, limit)| limit).unwrap_or(1024);
        Descriptors::shared().set_limit(limit);
        let needed = config::descriptors_needed(&loaded.config);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            config = %path.display(),
            upstreams = loaded.config.upstreams.len(),
            descriptors_needed = needed,
            descriptors_allowed = limit,
            "everlink starts"
        );
        if needed > limit {
            tracing::warn!(
                "the limits need {needed} descriptors and this process may have {limit}: clients past that are refused"
            );
        }
        let workers = Workers::start(layout, &status)?;
        Ok(Self {
            path: path.to_owned(),
            running: Running::empty(&status, workers, passed)?,
            status,
            log,
            hash: String::new(),
            rejected: None,
            files: watch::Sender::new(Vec::new()),
            looked_again: Instant::now(),
            asked: mpsc::channel(16),
            admin: CancellationToken::new(),
            manager: Manager::from_environment(|name| std::env::var_os(name), Instant::now()),
            hangups: Spaced::new(HANGUP_SPACING),
            drain: None,
            demo: None,
        })
    }

    async fn run(mut self, loaded: Loaded, with_demo: bool, mut signals: Signals) -> ExitCode {
        let (mut events, _watch) = config::watch::watch(self.path.clone(), self.files.subscribe());
        if let Err(errors) = self.start(loaded, with_demo).await {
            for error in errors {
                tracing::error!("cannot start: {error}");
            }
            return ExitCode::FAILURE;
        }
        let mut wakes = self.status.wakes.subscribe();
        let end = loop {
            if self.hangups.take(Instant::now()) {
                self.hang_up();
            }
            if self.is_drained() {
                break End::Drained;
            }
            let look = self.look();
            tokio::select! {
                biased;
                signal = signals.next() => if let Some(end) = self.told(signal).await { break end },
                Ok(()) = wakes.changed() => self.running.woken(),
                Some(asked) = self.asked.1.recv() => self.answer(asked),
                Some(event) = events.recv() => self.seen(event),
                key = demo::next(&mut self.demo) => if let Some(end) = self.typed(key).await { break end },
                () = sleep_until_or_never(look) => {}
            }
        };
        self.leave(end).await
    }

    /// Starts everything that the configuration says, and the demo. Errors: why not.
    async fn start(&mut self, loaded: Loaded, with_demo: bool) -> Result<(), Vec<String>> {
        if with_demo {
            let demo = Demo::start(&loaded.config, &self.path).await;
            self.demo = Some(demo.map_err(|error| vec![error.to_string()])?);
        }
        for warning in &loaded.warnings {
            tracing::warn!("{}", warning.line());
        }
        self.take(loaded, false)?;
        self.status.ready.store(true, Ordering::Release);
        tracing::info!("everlink is ready");
        self.manager.ready(&self.status, Instant::now());
        // What was saved between the first reading and the watch is told by nobody.
        if config::load(&self.path, &environment).map_or(true, |again| again.hash != self.hash) {
            self.reload(Cause::Seen);
        }
        if let Some(demo) = &mut self.demo {
            demo.begin(self.running.config());
        }
        self.looked_again = Instant::now();
        Ok(())
    }

    /// Whether a drain is over. One that is under way is told of now and then.
    fn is_drained(&mut self) -> bool {
        let Some(drain) = &mut self.drain else { return false };
        match drain.clock.verdict(Instant::now(), self.running.clients()) {
            Verdict::Wait(_) => {}
            Verdict::Leave | Verdict::Overdue => return true,
        }
        drain.tell(self.running.clients().open);
        false
    }

    /// Does what nothing calls for but the time. Returns when that is to be done again, at the latest.
    fn look(&mut self) -> Option<Instant> {
        // A certificate that was not valid yet becomes so, and nobody writes its file again.
        let behind = self.drain.is_none() && self.is_behind_files();
        if behind && self.looked_again.elapsed() >= LOOK_AGAIN {
            self.files_changed();
            self.looked_again = Instant::now();
        }
        let look_again = behind.then(|| self.looked_again + LOOK_AGAIN);
        self.manager.look(&self.status, || self.running.clients().open, Instant::now());
        // While draining, clients come and go unseen: look often enough to leave on time.
        let look = self.drain.as_ref().map(|_| Instant::now() + Duration::from_millis(50));
        [look, look_again, self.hangups.due(), self.manager.due()].into_iter().flatten().min()
    }

    /// A signal was heard. Returns whether that is the end.
    async fn told(&mut self, signal: Signal) -> Option<End> {
        match signal {
            Signal::Drain => {
                tracing::info!(clients = self.running.clients().open, "draining: open clients may finish");
                self.status.draining.store(true, Ordering::Release);
                demo::end(&mut self.demo).await;
                let held = self.running.drain();
                let settings = &self.running.config().drain;
                self.manager.stopping(settings, self.running.clients().open, Instant::now());
                self.drain = Some(Drain::new(settings, held));
                None
            }
            Signal::Exit => {
                tracing::warn!(clients = self.running.clients().open, "told twice: leaving at once");
                Some(End::AtOnce)
            }
            Signal::Reload => {
                self.hangups.ask(Instant::now());
                None
            }
        }
    }

    /// The configuration, or a file that it names, looks different.
    fn seen(&mut self, event: FileEvent) {
        match event {
            _ if self.drain.is_some() => {
                tracing::warn!("an edit of the configuration is ignored: everlink is draining");
            }
            FileEvent::Config => {
                self.reload(Cause::Seen);
            }
            FileEvent::Files(_) => self.files_changed(),
        }
    }

    /// A key of the demo. Returns whether that is the end.
    async fn typed(&mut self, key: demo::Key) -> Option<End> {
        match key {
            demo::Key::Cut => {
                let order = drill::Order { kind: Kind::Blackhole, time: demo::OUTAGE };
                self.running.drill_tunnels(order).iter().for_each(|told| demo::tell(told));
                None
            }
            demo::Key::Quit => {
                demo::end(&mut self.demo).await;
                tracing::info!("leaving on request: clients that are still there are reset");
                Some(End::Asked)
            }
        }
    }

    /// Ends everything, unless that is to take no time.
    async fn leave(self, end: End) -> ExitCode {
        if matches!(end, End::AtOnce) {
            return ExitCode::from(130);
        }
        self.admin.cancel();
        let cut = self.running.stop().await;
        if matches!(end, End::Drained) && cut > 0 {
            tracing::warn!(connections = cut, "what was left is reset");
        }
        tracing::info!("everlink has stopped");
        ExitCode::SUCCESS
    }
}
