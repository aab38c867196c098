//! The far end of tunnels: dialers come, prove who they are, and reach services by name over sessions that outlive their
//! connections.
//!
//! ```text
//! accept --> hall (pending, bounded) --TLS, Hello, credentials--> admit --new--> session (a task) --> services
//!                                                                   `--claim--> the session's inbox, on its own thread
//! ```
//!
//! What a stranger can cause is bounded before it has proven anything: connections in number and by address, each in time
//! (5 s in all) and bytes (4 KiB), and one line of log a minute for each kind of trouble. Nothing a stranger does reaches a
//! session, and nothing a dialer does reaches another's.

#![forbid(unsafe_code)]

mod accept;
mod admit;
mod files;
mod handshake;
mod log_limit;
mod pending;
mod refusals;
mod services;
mod session;
mod sessions;
mod shared;
#[cfg(test)]
mod simulated;
mod terms;
#[cfg(test)]
mod tests;

pub use files::Files;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::rand::SystemRandom;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::lifecycle::Clients;
use crate::net::renewal::{Renewed, Reread};
use crate::session::hello::Secret;
use crate::surroundings::Surroundings;
use crate::tunnel::driver::Budget;
use crate::workers::restarted;
use accept::Hall;
use refusals::Refusals;
use session::Order;
use shared::{Phase, Shared, Trouble, random};

/// Sessions that were cut are gone after this.
const CUT_WITHIN: Duration = Duration::from_secs(2);

/// The gateway of this process.
pub struct Gateway {
    shared: Arc<Shared>,
    /// Ends the accept loops now running.
    accepting: Mutex<CancellationToken>,
    /// The last fault of the token's file that was told.
    token_fault: Mutex<Option<String>>,
}

impl Gateway {
    /// A gateway that does not accept yet; it is shown in the status from here on.
    /// Errors: the kernel gives no random bytes.
    pub fn start(settings: &Arc<config::Gateway>, files: Files, around: Surroundings<'_>) -> std::io::Result<Self> {
        let Surroundings { status: process, resolver, workers, drain } = around;
        let generator = SystemRandom::new();
        let (incarnation, nobodys_secret) = (random(&generator)?, Secret::new(random(&generator)?));
        let status = process.add_gateway(settings);
        let shared = Shared {
            refusals: Refusals::new(status.metrics.clone()),
            budget: Arc::new(Budget::new(settings.limits.memory)),
            process: process.clone(),
            status,
            files: ArcSwap::from_pointee(files),
            sessions: Arc::default(),
            hall: Hall::default(),
            resolver: resolver.clone(),
            workers: workers.to_vec(),
            turn: AtomicU64::new(0),
            phase: AtomicU8::new(Phase::Serving as u8),
            came: AtomicU64::new(0),
            incarnation,
            nobodys_secret,
            generator,
            troubles: Mutex::default(),
            drain,
        };
        shared.show_files(false);
        Ok(Self { shared: Arc::new(shared), accepting: Mutex::default(), token_fault: Mutex::default() })
    }

    /// Accepts on exactly these from now on. What waits in the queues of others is still served.
    pub fn serve(&self, listeners: Vec<TcpListener>) {
        let stop = CancellationToken::new();
        std::mem::replace(&mut *locked(&self.accepting), stop.clone()).cancel();
        for listener in listeners.into_iter().map(Arc::new) {
            let (shared, stop) = (self.shared.clone(), stop.clone());
            let task = move || accept::accept(shared.clone(), listener.clone(), stop.clone());
            if let Some(worker) = self.shared.next_worker() {
                worker.spawn(restarted(task));
            }
        }
    }

    /// Takes new settings, and what was read from files if other ones are named. Sessions stay and follow.
    pub fn apply(&self, settings: &Arc<config::Gateway>, files: Option<Files>) {
        let shared = &self.shared;
        shared.status.settings.store(settings.clone());
        shared.status.metrics.services.replace(&shared.process.metrics, settings);
        shared.budget.set_limit(settings.limits.memory);
        if let Some(files) = files {
            shared.files.store(Arc::new(files));
            *locked(&self.token_fault) = None;
            shared.show_files(false);
        }
        shared.order_all(|| Order::Retune);
    }

    /// Reads the same files again, and says of each kind that looks different whether it is used from now on. Blocks on
    /// the file system.
    pub fn reload_files(&self) -> Vec<Reread> {
        let (shared, mut reread) = (&self.shared, Vec::new());
        let files = shared.files.load_full();
        if let Some(tls) = &files.tls {
            reread.extend(Reread::of("TLS files", tls.reload().map_err(|fault| fault.to_string())));
        }
        let mut told = locked(&self.token_fault);
        let renewed = match files.reread_token(&shared.settings()) {
            Ok(None) if told.is_some() => Ok(Renewed::PutBack),
            Ok(None) => Ok(Renewed::Same),
            Ok(Some(token)) => {
                shared.files.store(Arc::new(Files { token: Some(token), ..Files::clone(&files) }));
                Ok(Renewed::Others)
            }
            Err(fault) => Err(fault),
        };
        let fault = renewed.as_ref().err().cloned();
        if fault.is_none() || *told != fault {
            reread.extend(Reread::of("token file", renewed));
        }
        shared.show_files(fault.is_some());
        *told = fault;
        reread
    }

    /// This machine was suspended: every dialer is asked at once whether it is still there.
    pub fn woken(&self) {
        self.shared.order_all(|| Order::Ask);
    }

    /// Streams, and sessions that still owe the last bytes of one.
    pub fn clients(&self) -> Clients {
        Clients { open: self.shared.sessions.open(), came: self.shared.came.load(Ordering::Relaxed) }
    }

    /// No new session and no new stream from now on; resumes are accepted, every dialer is told.
    pub fn drain(&self) {
        self.shared.status.draining.store(true, Ordering::Relaxed);
        self.shared.enter(Phase::Draining);
    }

    /// Resets every stream and ends every session; returns how many streams were reset. One that was only waited for, until
    /// its dialer had acknowledged its end, is none of them.
    pub fn cut(&self) -> usize {
        let cut = self.shared.sessions.at_stake();
        self.shared.enter(Phase::Cut);
        cut
    }

    /// Drains for `drain.timeout` at most, and ends; its series go last.
    pub fn remove(&self) {
        locked(&self.accepting).cancel();
        self.drain();
        let shared = self.shared.clone();
        let Some(worker) = self.shared.next_worker() else {
            return shared.process.remove_gateway(&shared.status);
        };
        let mut patience = shared.drain.clone();
        worker.spawn(async move {
            let patience = *patience.borrow_and_update();
            if timeout(patience, shared.sessions.none_left()).await.is_err() {
                shared.enter(Phase::Cut);
                let _ = timeout(CUT_WITHIN, shared.sessions.none_left()).await;
            }
            shared.process.remove_gateway(&shared.status);
        });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
