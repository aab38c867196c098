//! How a link proves its connection: the first beat, the later ones, and what the kernel knows.

use std::time::Instant;

use super::LinkTask;
use super::connection::write_now;
use crate::link::heartbeat::Verdict;
use crate::link::state::Input;
use crate::link::watch::unanswered;
use crate::metrics::{DialOutcome, LossReason};
use crate::net::socket::{Keepalive, SUSTAIN_AFTER};

impl LinkTask {
    /// A connection that has lived for a while is there to stay: the kernel watches over it, too.
    pub(super) fn sustain(&mut self, now: Instant) {
        if let Some(connection) = &mut self.connection
            && !connection.opened.sustained
            && now >= connection.opened.at + SUSTAIN_AFTER
        {
            connection.opened.sustained = true;
            let _ = connection.opened.transport.sustain(&self.known.heartbeat);
        }
    }

    pub(super) fn prove(&mut self, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        if connection.first_beat.is_some_and(|at| at <= now) {
            if !connection.dialogue.speaks() {
                connection.first_beat = None;
                self.handle(now, Input::Answered);
                return self.came_up(now);
            }
            if !connection.dialogue.must_hear_first() {
                connection.first_beat = None;
                connection.prove_by = now + self.settings.borrow().heartbeat.timeout;
                return self.beat(now);
            }
        }
        if connection.prove_by <= now {
            self.proof_failed(now, DialOutcome::Timeout, "connected, but the first heartbeat was not answered");
        }
    }

    pub(super) fn beat(&mut self, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        if connection.dialogue.must_hear_first() {
            // Its greeting is due, as an answer would be; to speak before would be rude, and its greeting no answer.
            return connection.heartbeat.sent(now);
        }
        connection.dialogue.retune(&self.settings.borrow().heartbeat.beat);
        let bytes = connection.dialogue.beat();
        let sent = write_now(&mut connection.opened.transport, bytes);
        connection.heartbeat.sent(now);
        self.pool.status.metrics.beats_sent.inc();
        if let Err(error) = sent {
            self.ended(now, Some(error));
        }
    }

    /// What keepalive has found on a connection without beats.
    pub(super) fn look(&mut self, now: Instant) {
        let settings = self.settings.borrow().heartbeat.clone();
        let Some(connection) = &mut self.connection else { return };
        if connection.look_at > now {
            return;
        }
        let keepalive = Keepalive::from_heartbeat(&settings);
        let info = connection.opened.transport.tcp_info();
        connection.misses = info.as_ref().map_or(0, |info| unanswered(info.probes, info.last_ack_received, &keepalive));
        let unsure = connection.misses > 0 || info.is_ok_and(|info| info.probes > 0);
        connection.look_at = now + if unsure { settings.timeout } else { settings.interval };
        if connection.misses == 0 {
            self.handle(now, Input::Answered);
            return self.offer(now);
        }
        // As with a beat that went unanswered: no client is given a connection that may be dead.
        match self.withdraw() {
            Some(client) => self.hand_out(now, client),
            None => {
                self.handle(now, Input::Missed);
                self.publish();
            }
        }
    }

    pub(super) fn judged(&mut self, now: Instant, verdict: Verdict, what: &str) {
        if matches!(verdict, Verdict::Missed | Verdict::Dead) {
            self.pool.status.metrics.beat_missed();
            if let Some(connection) = &mut self.connection {
                connection.misses = connection.heartbeat.missed();
            }
        }
        match verdict {
            Verdict::Dead => self.lose(now, LossReason::Heartbeat, what),
            Verdict::Missed => {
                self.handle(now, Input::Missed);
                self.publish();
            }
            Verdict::Quiet | Verdict::Beat => {}
        }
    }

    pub(super) fn proof_failed(&mut self, now: Instant, outcome: DialOutcome, what: &str) {
        let endpoint = self.connection.as_mut().map(|connection| {
            connection.opened.tie.fail(outcome);
            connection.opened.endpoint.clone()
        });
        if let Some(endpoint) = &endpoint {
            self.pool.trouble(endpoint, format!("{}: {what}", endpoint.name));
        }
        self.refill = None;
        self.troubled = true;
        self.tell_of_failure(endpoint.as_ref().map_or("", |endpoint| &endpoint.name), outcome, what);
        self.handle(now, Input::DialFailed);
    }
}
