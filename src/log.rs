//! The log: one line an event on standard output, which may block, fill up or vanish without anyone else noticing.
//!
//! Lines go through a bounded queue to a thread of their own. What does not fit, or cannot be written, is dropped and
//! counted. Level and form can be changed while running.

#![forbid(unsafe_code)]

mod escape;
mod format;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use prometheus::IntCounter;
use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::{self, LogFormat};
pub use escape::{VALUE_LIMIT, escape, printable};
use format::Shape;

/// A line has some 200 bytes, so a queue that nobody empties holds about 2 MiB.
const QUEUE_LINES: usize = 8192;
/// How long the end of the program waits for the last lines.
const FLUSH_WITHIN: Duration = Duration::from_millis(1500);
/// Before an output that is not ready, though it did not block, is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "log level \"{level}\" cannot be used ({cause}); write error, warn, info, debug, trace or a tracing filter"
    )]
    Level { level: String, cause: String },
    #[error("standard output cannot be used for the log: {0}")]
    Output(#[source] io::Error),
    #[error("the log was already set up in this process")]
    Twice,
}

/// Keeps the log going; dropping it writes out what is queued, for at most 1.5 s.
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    json: Arc<AtomicBool>,
    terminal: bool,
    dropped: Arc<Dropped>,
    guard: Option<WorkerGuard>,
}

/// Sends the log of the whole process to standard output. Call once, early, on a thread that may block.
pub fn init(settings: &config::Log) -> Result<LogHandle, LogError> {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    // A descriptor of our own: the standard library's handle has a lock and a buffer, and keeps what it failed to write.
    let output = File::from(stdout.as_fd().try_clone_to_owned().map_err(LogError::Output)?);
    let (subscriber, handle) = build(settings, terminal, output, QUEUE_LINES)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    Ok(handle)
}

fn build(
    settings: &config::Log,
    terminal: bool,
    output: impl Write + Send + 'static,
    queue_lines: usize,
) -> Result<(impl Subscriber + Send + Sync, LogHandle), LogError> {
    let (filter, filter_handle) = reload::Layer::new(filter(&settings.level)?);
    let dropped = Arc::new(Dropped::default());
    let output = Output { to: output, torn: false, dropped: dropped.clone() };
    let (queue, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(queue_lines).thread_name("log").finish(output);
    let _ = dropped.queue.set(queue.error_counter());
    let json = Arc::new(AtomicBool::new(is_json(settings.format, terminal)));
    let colours = terminal && takes_colours(|name| std::env::var_os(name));
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Shape { json: json.clone(), colours })
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(Lines { queue, dropped: dropped.clone() });
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    Ok((subscriber, LogHandle { filter: filter_handle, json, terminal, dropped, guard: Some(guard) }))
}

/// Whether a terminal wants colours, by the environment: `NO_COLOR` unset or empty (<https://no-color.org>), and not `dumb`.
fn takes_colours(environment: impl Fn(&str) -> Option<OsString>) -> bool {
    let dumb = environment("TERM").is_some_and(|terminal| terminal == "dumb");
    !dumb && environment("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(level).map_err(|error| LogError::Level { level: escape(level), cause: error.to_string() })
}

fn is_json(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    }
}

impl LogHandle {
    /// From the next event on. On an error the old level stays.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = filter(level)?;
        self.filter.reload(filter).map_err(|error| LogError::Level { level: escape(level), cause: error.to_string() })
    }

    /// From the next event on.
    pub fn set_format(&self, format: LogFormat) {
        self.json.store(is_json(format, self.terminal), Ordering::Relaxed);
    }

    /// Counts dropped lines in `counter` from now on, those dropped so far included. Only the first counter is used.
    pub fn count_drops_in(&self, counter: IntCounter) {
        let _ = self.dropped.counter.set(counter);
        self.dropped.tell();
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        let Some(guard) = self.guard.take() else { return };
        // The guard says on standard output when the queue is still full, and would wait there for ever if that is
        // what is blocked. So a thread does it, which the end of the process takes along.
        let (done, wait) = mpsc::channel::<()>();
        let flush = move || {
            drop(guard);
            drop(done);
        };
        if std::thread::Builder::new().name("log-flush".to_owned()).spawn(flush).is_ok() {
            let _ = wait.recv_timeout(FLUSH_WITHIN);
        }
        self.dropped.tell();
    }
}

/// How many lines were lost, at the queue's door and behind it.
#[derive(Default)]
struct Dropped {
    queue: OnceLock<ErrorCounter>,
    failed: AtomicU64,
    /// What `counter` already holds.
    told: AtomicU64,
    counter: OnceLock<IntCounter>,
}

impl Dropped {
    fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    fn total(&self) -> u64 {
        let refused = self.queue.get().map_or(0, |queue| queue.dropped_lines() as u64);
        refused + self.failed.load(Ordering::Relaxed)
    }

    fn tell(&self) {
        if let Some(counter) = self.counter.get() {
            let total = self.total();
            counter.inc_by(total.saturating_sub(self.told.fetch_max(total, Ordering::AcqRel)));
        }
    }
}

/// The entrance of the queue.
#[derive(Clone)]
struct Lines {
    queue: NonBlocking,
    dropped: Arc<Dropped>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let taken = self.queue.write(line)?;
        self.dropped.tell();
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The exit of the queue, on the log's own thread: errors are counted and go no further.
struct Output<W> {
    to: W,
    /// The last line was cut off in its middle.
    torn: bool,
    dropped: Arc<Dropped>,
}

impl<W: Write> Output<W> {
    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let whole = bytes.len();
        while !bytes.is_empty() {
            match self.to.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    bytes = &bytes[n..];
                    self.torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Whoever shares the terminal or pipe with us may have made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY_PAUSE),
                Err(error) => {
                    self.torn |= bytes.len() < whole;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The half of a line must not swallow the next one.
        let put = if self.torn { self.put(b"\n").and_then(|()| self.put(line)) } else { self.put(line) };
        if put.is_err() {
            self.dropped.fail();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "log/tests.rs"]
mod tests;
