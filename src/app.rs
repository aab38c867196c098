//! The program: reads its configuration, starts what it says, and follows signals, edits and commands until the end.

#![forbid(unsafe_code)]

mod commands;
mod reload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminListener, protocol::Answer};
use crate::cli::admin::Named;
use crate::clock::sleep_until_or_never;
use crate::config::{self, Loaded};
use crate::demo::{self, Demo};
use crate::lifecycle::{DrainClock, Signal, Signals, Spaced, Verdict};
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
use commands::{Asked, ToApp};
use reload::Cause;

/// `EX_CONFIG` of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;
/// SIGHUP is heard at most this often: each reads the file and cuts every wait for a redial short.
const HANGUP_SPACING: Duration = Duration::from_secs(1);
/// Files that cannot be used are looked at again so often: their time may come without a change.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How often a drain says what it waits for.
const DRAIN_TOLD: Duration = Duration::from_secs(3);
/// With no new client to come, a drain is over so long after the last: one just accepted may not be counted yet.
const HELD_QUIET: Duration = Duration::from_millis(200);

/// Runs the configuration at `path` until told to stop. `with_demo`: also the servers that it names.
pub fn run(path: &Path, with_demo: bool) -> ExitCode {
    // Before anything else is opened: the numbers of what was passed are known only until then.
    let (passed, faults) = Passed::from_environment(environment);
    // Then the signals: until then one that is early would end the process, or as PID 1 be lost.
    let prepared = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        let signals = {
            let _inside = runtime.enter();
            Signals::new()?
        };
        Ok((runtime, signals))
    });
    let (runtime, signals) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    if with_demo {
        let (variable, default) = demo::TOKEN;
        let token = environment(variable).unwrap_or_else(|| default.to_owned());
        if let Err(error) = demo::provide_token(Path::new(&token)) {
            eprintln!("error: the demo cannot make its token {token}: {error}: name another place by {variable}");
            return ExitCode::FAILURE;
        }
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
    match started(path, loaded, &log, with_demo, &runtime, signals, passed) {
        Ok(code) => {
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            tracing::error!("cannot start: {error}");
            drop(log);
            ExitCode::FAILURE
        }
    }
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

fn started(
    path: &Path,
    loaded: Loaded,
    log: &LogHandle,
    with_demo: bool,
    runtime: &Runtime,
    signals: Signals,
    passed: Passed,
) -> std::io::Result<ExitCode> {
    let layout = Layout::for_this_machine();
    let metrics = Metrics::new().map_err(std::io::Error::other)?;
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
    let running = Running::empty(&status, workers, passed)?;
    Ok(runtime.block_on(App::new(path, running, status, log).run(loaded, with_demo, signals)))
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
    asked: (mpsc::Sender<Asked>, mpsc::Receiver<Asked>),
    admin: CancellationToken,
    manager: Manager,
}

impl<'l> App<'l> {
    fn new(path: &Path, running: Running, status: Arc<Status>, log: &'l LogHandle) -> Self {
        Self {
            path: path.to_owned(),
            running,
            status,
            log,
            hash: String::new(),
            rejected: None,
            files: watch::Sender::new(Vec::new()),
            asked: mpsc::channel(16),
            admin: CancellationToken::new(),
            manager: Manager::from_environment(|name| std::env::var_os(name), Instant::now()),
        }
    }

    async fn run(mut self, loaded: Loaded, with_demo: bool, mut signals: Signals) -> ExitCode {
        let (mut events, _watch) = config::watch::watch(self.path.clone(), self.files.subscribe());
        let demo = if with_demo { Demo::start(&loaded.config, &self.path).await.map(Some) } else { Ok(None) };
        let mut demo = match demo {
            Ok(demo) => demo,
            Err(error) => {
                tracing::error!("cannot start: {error}");
                return ExitCode::FAILURE;
            }
        };
        for warning in &loaded.warnings {
            tracing::warn!("{}", warning.line());
        }
        if let Err(errors) = self.take(loaded, false) {
            for error in errors {
                tracing::error!("cannot start: {error}");
            }
            return ExitCode::FAILURE;
        }
        self.status.ready.store(true, Ordering::Release);
        tracing::info!("everlink is ready");
        self.manager.ready(&self.status, Instant::now());
        // What was saved between the first reading and the watch is told by nobody.
        if config::load(&self.path, &environment).map_or(true, |again| again.hash != self.hash) {
            self.reload(Cause::Seen);
        }
        if let Some(demo) = &mut demo {
            demo.begin(self.running.config());
        }
        let mut drain: Option<Drain> = None;
        let mut hangups = Spaced::new(HANGUP_SPACING);
        let mut looked_again = Instant::now();
        let mut wakes = self.status.wakes.subscribe();
        loop {
            if hangups.take(Instant::now()) {
                self.hang_up(drain.is_some());
            }
            if let Some(drain) = &mut drain {
                match drain.clock.verdict(Instant::now(), self.running.clients()) {
                    Verdict::Wait(_) => {}
                    Verdict::Leave | Verdict::Overdue => return self.leave(true).await,
                }
                drain.tell(self.running.clients().open);
            }
            // A certificate that was not valid yet becomes so, and nobody writes its file again.
            let behind = drain.is_none() && self.is_behind_files();
            if behind && looked_again.elapsed() >= LOOK_AGAIN {
                self.files_changed();
                looked_again = Instant::now();
            }
            let look_again = behind.then(|| looked_again + LOOK_AGAIN);
            self.manager.look(&self.status, || self.running.clients().open, Instant::now());
            // While draining, clients come and go unseen: look often enough to leave on time.
            let look = drain.as_ref().map(|_| Instant::now() + Duration::from_millis(50));
            let look = [look, look_again, hangups.due(), self.manager.due()].into_iter().flatten().min();
            tokio::select! {
                biased;
                signal = signals.next() => match signal {
                    Signal::Drain => {
                        tracing::info!(clients = self.running.clients().open, "draining: open clients may finish");
                        self.status.draining.store(true, Ordering::Release);
                        demo::end(&mut demo).await;
                        let held = self.running.drain();
                        let settings = &self.running.config().drain;
                        self.manager.stopping(settings, self.running.clients().open, Instant::now());
                        drain = Some(Drain::new(settings, held));
                    }
                    Signal::Exit => {
                        tracing::warn!(clients = self.running.clients().open, "told twice: leaving at once");
                        return ExitCode::from(130);
                    }
                    Signal::Reload => hangups.ask(Instant::now()),
                },
                Ok(()) = wakes.changed() => self.running.woken(),
                Some(asked) = self.asked.1.recv() => self.answer(asked, drain.is_some()),
                Some(event) = events.recv() => match event {
                    _ if drain.is_some() => tracing::warn!("an edit of the configuration is ignored: everlink is draining"),
                    config::watch::FileEvent::Config => { self.reload(Cause::Seen); }
                    config::watch::FileEvent::Files(_) => self.files_changed(),
                },
                key = demo::next(&mut demo) => match key {
                    demo::Key::Cut => {
                        let order = drill::Order { kind: Kind::Blackhole, time: demo::OUTAGE };
                        self.running.drill_tunnels(order).iter().for_each(|told| demo::tell(told));
                    }
                    demo::Key::Quit => {
                        demo::end(&mut demo).await;
                        tracing::info!("leaving on request: clients that are still there are reset");
                        return self.leave(false).await;
                    }
                },
                () = sleep_until_or_never(look) => {}
            }
        }
    }

    fn answer(&mut self, asked: Asked, draining: bool) {
        match asked {
            // The one who asked may have gone; the work is done all the same.
            Asked::Reload(to) if draining => {
                let _ = to.send(Answer::refused("everlink is draining".to_owned()));
            }
            Asked::Reload(to) => {
                let _ = to.send(self.reload(Cause::Asked));
            }
            Asked::Retry(upstream, to) => {
                let answer = match self.running.retry(Some(&upstream)) {
                    Some(links) => Answer::retried(links),
                    None => Answer::refused(self.running.unknown(&upstream)),
                };
                let _ = to.send(answer);
            }
            Asked::Drill(_, drill::Asked::Begin(_), to) if draining => {
                let _ = to.send(Answer::refused("everlink is draining".to_owned()));
            }
            Asked::Drill(upstream, asked, to) => {
                let answer = match self.running.drill(&upstream, asked) {
                    Ok(told) => Answer::drilled(asked, told),
                    Err(why) => Answer::refused(why),
                };
                let _ = to.send(answer);
            }
        }
    }

    fn serve_admin(&mut self, listener: Option<AdminListener>) {
        std::mem::take(&mut self.admin).cancel();
        if let Some(listener) = listener {
            tokio::spawn(admin::serve(listener, Arc::new(ToApp(self.asked.0.clone())), self.admin.clone()));
        }
    }

    /// Ends everything. `drained`: nobody has said yet that what is left is reset.
    async fn leave(self, drained: bool) -> ExitCode {
        self.admin.cancel();
        let cut = self.running.stop().await;
        if drained && cut > 0 {
            tracing::warn!(connections = cut, "what was left is reset");
        }
        tracing::info!("everlink has stopped");
        ExitCode::SUCCESS
    }
}

/// A drain under way.
struct Drain {
    clock: DrainClock,
    told: Instant,
}

impl Drain {
    /// `held`: no new client can come.
    fn new(settings: &config::Drain, held: bool) -> Self {
        let now = Instant::now();
        let quiet =
            if held { Some(settings.quiet.map_or(HELD_QUIET, |quiet| quiet.min(HELD_QUIET))) } else { settings.quiet };
        Self { clock: DrainClock::new(&config::Drain { quiet, ..settings.clone() }, now), told: now }
    }

    fn tell(&mut self, clients: usize) {
        if self.told.elapsed() >= DRAIN_TOLD {
            self.told = Instant::now();
            tracing::info!(clients, "draining");
        }
    }
}
