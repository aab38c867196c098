//! Reading the link.

use std::cell::RefCell;
use std::task::{Context, Poll};
use std::time::Instant;

use super::{Driver, Event};
use crate::metrics::LossReason;

/// The buffer that links are read into, one for each thread.
const READ: usize = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Driver {
    /// Reads the link once and acts upon what came. True if something did.
    pub(super) fn read_link(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        connection.wire.drive(context);
        if self.frozen {
            return false;
        }
        if let Err(later) = self.session.may_read(now) {
            self.read_again = later;
            return false;
        }
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            self.parse(&rest, now);
            return true;
        }
        with_scratch(|buffer| {
            let Some(connection) = &mut self.connection else { return false };
            match connection.wire.poll_read(context, buffer) {
                Poll::Pending => false,
                Poll::Ready(Ok(0)) => {
                    self.lost(LossReason::Closed, "the peer closed the connection".to_owned());
                    true
                }
                Poll::Ready(Ok(count)) => {
                    if connection.pulse.heard(now) {
                        self.events.push_back(Event::Recovered);
                    }
                    self.observer.received();
                    // A busy link needs no beats: once in an interval the kernel is asked instead.
                    if now.saturating_duration_since(connection.measured) >= self.settings.beats.interval {
                        connection.measured = now;
                        if let Ok(info) = connection.wire.tcp_info() {
                            self.observer.measured(info.rtt);
                        }
                    }
                    self.parse(&buffer[..count], now);
                    self.tell_pulse(now);
                    true
                }
                Poll::Ready(Err(error)) => {
                    self.failed(&error);
                    true
                }
            }
        })
    }

    /// Acts upon bytes of the link. What comes too fast is kept for later.
    fn parse(&mut self, bytes: &[u8], now: Instant) {
        let mut input = bytes;
        loop {
            match self.session.receive(now, &mut input) {
                Ok(Some(incoming)) => self.act(incoming, now),
                Ok(None) => return,
                Err(violation) => return self.violated(violation),
            }
            if self.connection.is_none() {
                return;
            }
            if let Err(later) = self.session.may_read(now) {
                self.read_again = later;
                self.rest = input.to_vec();
                return;
            }
        }
    }

    /// What is unacknowledged has changed.
    pub(super) fn tell_pulse(&mut self, now: Instant) {
        if let Some(connection) = &mut self.connection {
            connection.pulse.outstanding(self.session.is_owed(), self.session.acknowledged(), now);
        }
    }
}

/// The thread's buffer, for as long as `work` takes.
fn with_scratch<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut scratch = SCRATCH.take();
    scratch.resize(READ, 0);
    let result = work(&mut scratch);
    SCRATCH.set(scratch);
    result
}
