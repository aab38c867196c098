//! What a link makes of what it hears on its connection, and of its end.

use std::io;
use std::time::Instant;

use super::{GREETING, LinkTask};
use crate::direct::beat::Heard;
use crate::link::state::{Input, State, TOO_SHORT};
use crate::metrics::{DialOutcome, LossReason};

impl LinkTask {
    pub(super) fn heard(&mut self, now: Instant, heard: Heard) {
        self.pool.status.metrics.last_received.set(crate::metrics::unix_now());
        let Some(connection) = &mut self.connection else { return };
        match heard {
            Heard::Part => {}
            Heard::Banner => {
                connection.heartbeat.heard(now);
                if connection.dialogue.must_hear_first() {
                    return;
                }
                if matches!(self.machine.state(), State::Proving { .. }) {
                    self.pool.learn_that_it_speaks_first();
                    connection.first_beat = connection.first_beat.map(|at| at.min(now + GREETING));
                } else if connection.dialogue.owed() == 0 && connection.heartbeat.is_outstanding() {
                    // The greeting that was waited for instead of an answer.
                    connection.heartbeat.answered(now);
                    connection.misses = 0;
                    self.handle(now, Input::Answered);
                    self.offer(now);
                }
            }
            Heard::Answered => {
                // With older answers still due the round trip of the newest beat is not known.
                let trip = if connection.dialogue.owed() == 0 {
                    connection.heartbeat.answered(now)
                } else {
                    connection.heartbeat.heard(now);
                    None
                };
                connection.misses = 0;
                if let Some(trip) = trip {
                    self.pool.status.metrics.beat_answered(trip);
                    connection.opened.rtt = trip;
                }
                let proving = matches!(self.machine.state(), State::Proving { .. });
                self.pool.answers(true);
                self.handle(now, Input::Answered);
                if proving {
                    return self.came_up(now);
                }
                self.publish();
                self.offer(now);
            }
            Heard::NotNow(what) => {
                if matches!(self.machine.state(), State::Proving { .. }) {
                    return self.proof_failed(now, DialOutcome::Refused, &format!("the service is not ready: {what}"));
                }
                let verdict = connection.heartbeat.unfit(now);
                self.judged(now, verdict, "the service asked to be left alone");
            }
            Heard::Wrong(what) => {
                self.pool.status.metrics.beat_missed();
                if matches!(self.machine.state(), State::Proving { .. }) {
                    // Perhaps a greeting; the next connection listens first.
                    self.pool.learn_that_it_speaks_first();
                    return self.proof_failed(
                        now,
                        DialOutcome::Refused,
                        &format!("wrong answer to the heartbeat: {what}"),
                    );
                }
                self.lose(now, LossReason::Protocol, &format!("wrong answer to the heartbeat: {what}"));
            }
        }
    }

    /// The connection ended, by the server or by an error.
    pub(super) fn ended(&mut self, now: Instant, error: Option<io::Error>) {
        // A TLS server may leave its farewell out; with no client there are no bytes that could be missing.
        let error = error.filter(|error| error.kind() != io::ErrorKind::UnexpectedEof);
        let what = error.as_ref().map_or("the server ended the connection".to_owned(), io::Error::to_string);
        if matches!(self.machine.state(), State::Proving { .. }) {
            return self.proof_failed(now, DialOutcome::Refused, &format!("ended before it was proven: {what}"));
        }
        let Some(connection) = &self.connection else { return };
        let age = now.saturating_duration_since(connection.opened.at);
        if age < TOO_SHORT {
            // It was never any good: the next dial tries another endpoint first.
            let endpoint = connection.opened.endpoint.clone();
            self.pool.trouble(&endpoint, format!("{}: ended after {age:?}: {what}", endpoint.name));
        }
        let reason = match error.map(|error| error.kind()) {
            None if age >= TOO_SHORT => {
                // The server's own timer, most likely: renewal, and not down until a dial fails.
                self.refill = Some(self.pool.stay_alive());
                self.troubled |= !self.pool.ages().ended(age, now);
                self.tell_of_loss(now, LossReason::Closed, &what);
                return self.handle(now, Input::Ended);
            }
            None => LossReason::Closed,
            Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                // A timer may end like this, too: MariaDB's `connect_timeout` does.
                self.troubled |= !self.pool.ages().ended(age, now);
                LossReason::Reset
            }
            // Only keepalive ends an idle connection like this.
            Some(io::ErrorKind::TimedOut) => LossReason::Heartbeat,
            Some(_) => LossReason::Error,
        };
        self.lose(now, reason, &what);
    }
}
