//! Reading the configuration again: what comes of it, and how it is told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::{App, environment};
use crate::admin::protocol::Answer;
use crate::config::{self, Loaded};
use crate::metrics::{Label, ReloadOutcome, unix_now};
use crate::status::{ConfigStatus, ReloadStatus};

/// Why the file is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It looks different.
    Seen,
    /// Somebody wants it read.
    Asked,
}

impl App<'_> {
    /// SIGHUP was heard.
    pub(super) fn hang_up(&mut self) {
        if self.drain.is_some() {
            return tracing::warn!("reload ignored: everlink is draining");
        }
        if let Some(admin) = self.running.rebind_admin() {
            self.serve_admin(Some(admin));
        }
        self.reload(Cause::Asked);
        self.running.retry(None);
    }

    /// Files that the configuration names look different.
    pub(super) fn files_changed(&mut self) {
        for line in self.running.reload_files() {
            tracing::info!("{line}");
        }
        // One of them may have been what was wrong.
        if self.rejected.is_some() {
            self.reload(Cause::Seen);
        }
    }

    /// Whether a file holds what could not be used when it was last read.
    pub(super) fn is_behind_files(&self) -> bool {
        self.rejected.is_some() || self.status.metrics.has_unusable_files()
    }

    /// Reads the file again and takes what it says; when asked for, the files it names as well.
    pub(super) fn reload(&mut self, cause: Cause) -> Answer {
        if cause == Cause::Asked {
            self.manager.reloading();
        }
        let answer = self.read_again(cause);
        if cause == Cause::Asked {
            self.manager.reloaded(&self.status, Instant::now());
        }
        answer
    }

    fn read_again(&mut self, cause: Cause) -> Answer {
        let mut lines = if cause == Cause::Asked { self.running.reload_files() } else { Vec::new() };
        lines.iter().for_each(|line| tracing::info!("{line}"));
        let loaded = match config::load(&self.path, &environment) {
            Ok(loaded) => loaded,
            Err(report) => {
                self.watch_too(&report.files);
                return self.reject(cause, report.to_string(), &report.first_line(), report.lines());
            }
        };
        let is_edited = loaded.hash != self.hash;
        if is_edited || loaded.config != *self.running.config() {
            let warnings: Vec<_> = loaded.warnings.iter().map(config::Problem::line).collect();
            let files = loaded.files.clone();
            match self.take(loaded, true) {
                Ok(changes) => lines.extend(changes),
                Err(errors) => {
                    self.watch_too(&files);
                    let line = errors.join("; ");
                    return self.reject(cause, line.clone(), &line, errors);
                }
            }
            for warning in warnings {
                tracing::warn!("{warning}");
            }
        }
        let was_rejected = self.rejected.take().is_some();
        if lines.is_empty() {
            let why = match () {
                () if was_rejected => "what was rejected is put right",
                () if is_edited => "the file was edited, and means the same",
                () => {
                    tracing::info!("configuration unchanged");
                    return self.outcome(ReloadOutcome::Unchanged, lines);
                }
            };
            tracing::info!("configuration unchanged: {why}");
            return self.outcome(ReloadOutcome::Unchanged, vec![why.to_owned()]);
        }
        self.outcome(ReloadOutcome::Applied, lines)
    }

    /// Takes the log's own settings, and tells what was applied: a log that becomes quiet says why, and one that becomes
    /// loud does so, too.
    fn tell_applied(&self, lines: &[String], log: &config::Log) {
        self.log.set_format(log.format);
        let tell = || lines.iter().for_each(|line| tracing::info!("configuration applied: {line}"));
        let is_heard = tracing::enabled!(tracing::Level::INFO);
        if is_heard {
            tell();
        }
        // The level was checked with the file.
        let _ = self.log.set_level(&log.level);
        if !is_heard {
            tell();
        }
    }

    /// The old configuration stays. The same trouble with the same content is told once, unless somebody asks.
    fn reject(&mut self, cause: Cause, whole: String, line: &str, lines: Vec<String>) -> Answer {
        let told = self.rejected.as_ref() == Some(&whole);
        if told && cause == Cause::Seen {
            return Answer::reloaded(ReloadOutcome::Rejected, lines);
        }
        tracing::error!("configuration rejected, the old one stays: {line}");
        self.rejected = Some(whole);
        self.outcome(ReloadOutcome::Rejected, lines)
    }

    /// Watches these files beside those in use: with one of them mended, a rejected configuration may do.
    fn watch_too(&self, files: &[PathBuf]) {
        self.files.send_if_modified(|watched| {
            let before = watched.len();
            for file in files {
                if !watched.contains(file) {
                    watched.push(file.clone());
                }
            }
            watched.len() > before
        });
    }

    /// Puts a configuration in force; says what changed, or why not. `told`: what changed goes to the log.
    pub(super) fn take(&mut self, loaded: Loaded, told: bool) -> Result<Vec<String>, Vec<String>> {
        let log = loaded.config.log.clone();
        let effective = config::show(&loaded);
        let applied = self.running.apply(loaded.config)?;
        self.tell_applied(if told { &applied.lines } else { &[] }, &log);
        self.files.send_replace(loaded.files);
        if let Some(admin) = applied.admin {
            self.serve_admin(admin);
        }
        self.hash = loaded.hash;
        let metrics = &self.status.metrics;
        metrics.config_generation.inc();
        metrics.reload_successful.set(1);
        metrics.reload_success_timestamp.set(unix_now());
        let last_reload = self.status.config.load().last_reload.clone();
        self.status.config.store(Arc::new(ConfigStatus {
            path: self.path.display().to_string(),
            generation: metrics.config_generation.get().max(0).unsigned_abs(),
            hash: self.hash.clone(),
            last_reload,
            effective: effective.into(),
        }));
        Ok(applied.lines)
    }

    /// A reload came out like this: counted, shown, and answered.
    fn outcome(&self, outcome: ReloadOutcome, lines: Vec<String>) -> Answer {
        let metrics = &self.status.metrics;
        metrics.reloads[outcome.index()].inc();
        let good = outcome != ReloadOutcome::Rejected;
        metrics.reload_successful.set(i64::from(good));
        if good {
            metrics.reload_success_timestamp.set(unix_now());
        }
        let mut config = ConfigStatus::clone(&self.status.config.load());
        config.last_reload =
            Some(ReloadStatus { at: SystemTime::now(), outcome: outcome.name(), lines: lines.clone() });
        self.status.config.store(Arc::new(config));
        Answer::reloaded(outcome, lines)
    }
}
