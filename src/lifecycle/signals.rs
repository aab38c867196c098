//! What the signals of the operating system ask for.

use std::io;

use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The first SIGTERM or SIGINT: finish what runs, then leave.
    Drain,
    /// A further one: leave at once.
    Exit,
    /// SIGHUP: read the config again.
    Reload,
}

/// The signals of this process, from its making on, as PID 1 too (where a signal without a handler does nothing).
///
/// SIGUSR1 and SIGUSR2 are caught and mean nothing: by default they would kill. SIGPIPE is left as Rust's start-up sets
/// it, ignored: a handler would only be woken by each write to a connection that is gone.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    _nothing: [unix::Signal; 2],
    draining: bool,
}

impl Signals {
    /// Takes the signals over, for the life of the process. Needs a tokio runtime with I/O.
    ///
    /// Errors: the kernel refused a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            _nothing: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
            draining: false,
        })
    }

    /// The next signal that asks for something. Dropping the future loses none.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased; // an end asked for must not wait behind reloads
            Some(()) = self.terminate.recv() => self.end(),
            Some(()) = self.interrupt.recv() => self.end(),
            Some(()) = self.hangup.recv() => Signal::Reload,
            else => std::future::pending().await,
        }
    }

    fn end(&mut self) -> Signal {
        if std::mem::replace(&mut self.draining, true) { Signal::Exit } else { Signal::Drain }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    /// Sends this very process a signal.
    fn raise(name: &str) {
        let kill = format!("kill -s {name} {}", std::process::id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    }

    #[tokio::test]
    async fn fault_63_the_first_end_drains_the_second_exits_and_stray_signals_do_nothing() {
        let mut signals = Signals::new().expect("handlers");
        let mut next = async || tokio::time::timeout(Duration::from_secs(30), signals.next()).await.expect("a signal");
        for stray in ["USR1", "USR2", "PIPE"] {
            raise(stray);
        }
        raise("HUP");
        assert_eq!(next().await, Signal::Reload);
        raise("TERM");
        assert_eq!(next().await, Signal::Drain);
        raise("HUP");
        assert_eq!(next().await, Signal::Reload);
        raise("INT");
        assert_eq!(next().await, Signal::Exit);
        raise("TERM");
        assert_eq!(next().await, Signal::Exit);
    }
}
