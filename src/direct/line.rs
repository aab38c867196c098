//! Beats between the lines of a client and its server: the pure core of `in_use = "line"`.
//!
//! [`LineMode`] stands between the two directions of one connection in use. The client's bytes go to the server
//! untouched; the server's go to the client without the answers that are due to us. A beat is sent when both
//! directions have been silent for `interval`, both stand at the end of a line, the client has not half-closed, and no
//! beat is out. No socket, no clock, no task: bytes and `now` come in, bytes and an [`Event`] go out.
//!
//! What it takes from the server: it answers each `send` line once, in the order it was asked, at the start of a line,
//! and no other line matches `expect` while an answer is due. Such a line *is* taken for the answer: where the two read
//! alike, the client still gets as many as it would have got; where they do not, it gets the true answer in place of
//! the other line. The client's own `send` lines count when they equal ours to the byte, so they have to be questions:
//! a client that sends such a line as mere content (in the middle of a mail, say) makes a later answer of ours its own.
//! A server that is busy with one client's request for longer than the budget looks dead. All of this suits push-style
//! text protocols, for which `in_use = "line"` is, and the reason why it is off unless asked for.

mod due;
mod question;
mod screen;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use self::due::{Due, Whose};
use self::question::Question;
use self::screen::Screen;
use crate::config;

pub use self::question::Unfit;

/// The longest line: 64 KiB, its newline included. One that is longer is no line of a text protocol.
pub const MAX_LINE: usize = 64 * 1024;

/// How many answers may be due to us, late ones included, before no more is asked: more than `misses` can be (100), so
/// it stops nothing but a server that talks on for ever and leaves every beat unanswered.
const MAX_DUE: usize = 128;

/// When to beat and when to give up; ranges as in [`config::Heartbeat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// Silence of both directions after which a beat is sent, shortened by up to 10 % so that many links do not beat
    /// in step; never longer, or the budget would not hold.
    pub interval: Duration,
    /// How long an answer may take, and how long the beginning of a line may be held back.
    pub timeout: Duration,
    /// Unanswered beats in a row, with not one byte from the server between them, that make the connection dead.
    pub misses: u32,
}

impl From<&config::Heartbeat> for Timings {
    fn from(heartbeat: &config::Heartbeat) -> Self {
        Self { interval: heartbeat.interval, timeout: heartbeat.timeout, misses: heartbeat.misses }
    }
}

/// What [`LineMode::tick`] did or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing; wait for [`LineMode::next_deadline`].
    None,
    /// A beat stands at the end of `to_server`.
    Beat,
    /// The beat that was out has gone unanswered for `timeout`. Its answer will be dropped all the same, should it come.
    Missed { in_a_row: u32 },
    /// The last of `misses` unanswered beats: the connection is lost. It is told once, instead of the last `Missed`.
    Dead { misses: u32 },
}

/// Whether bytes could be those of a text protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Lines,
    /// A NUL, or a line without an end.
    Other,
}

/// The beat that is out.
#[derive(Debug, Clone, Copy)]
struct Out {
    sent: Instant,
    answer_by: Instant,
}

/// Where the client stands in its line.
#[derive(Debug)]
struct Client {
    length: usize,
    /// How much of `send` the line under way equals so far; `None` once it differs.
    equal: Option<usize>,
    ended: bool,
}

/// Line mode of one connection in use, from its first byte to its last.
///
/// The bytes that the server said before the client came (a banner) are to go through [`from_server`](Self::from_server)
/// as well, or it would not know where lines begin.
#[derive(Debug)]
pub struct LineMode {
    question: Question,
    /// An edit that waits until no answer is owed.
    next_question: Option<Question>,
    timings: Timings,
    random: fastrand::Rng,
    /// `interval`, with this round's jitter.
    wait: Duration,
    quiet_since: Instant,
    client: Client,
    screen: Screen,
    server_ended: bool,
    due: Due,
    out: Option<Out>,
    missed: u32,
    on: bool,
}

impl LineMode {
    /// Line mode on a connection that a client is given `now`. `send` and `expect` are those of the heartbeat; `seed`
    /// is for the jitter.
    ///
    /// Errors: [`Unfit`], when they cannot be told from the client's lines.
    pub fn new(
        send: Vec<u8>,
        expect: config::Expect,
        timings: Timings,
        now: Instant,
        seed: u64,
    ) -> Result<Self, Unfit> {
        let mut line = Self {
            question: Question::new(send, expect)?,
            next_question: None,
            timings,
            random: fastrand::Rng::with_seed(seed),
            wait: Duration::ZERO,
            quiet_since: now,
            client: Client { length: 0, equal: Some(0), ended: false },
            screen: Screen::new(),
            server_ended: false,
            due: Due::default(),
            out: None,
            missed: 0,
            on: true,
        };
        line.draw_wait();
        Ok(line)
    }

    /// Bytes read from the client. All of them are appended to `out`, which goes to the server.
    pub fn from_client(&mut self, now: Instant, bytes: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(bytes);
        if !self.on || bytes.is_empty() {
            // Whatever the client asks from here on is answered after the last answer due to us.
            return;
        }
        self.quiet_since = now;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.client.length = self.client.length.saturating_add(piece.len());
            if self.client.length > MAX_LINE || piece.contains(&0) {
                return self.stop();
            }
            let equal = self.client.equal.filter(|equal| self.question.send[*equal..].starts_with(piece));
            self.client.equal = equal.map(|equal| equal + piece.len());
            if piece.ends_with(b"\n") {
                if self.client.equal.is_some() {
                    self.due.ask(Whose::Clients);
                }
                self.client.length = 0;
                self.client.equal = Some(0);
            }
        }
    }

    /// Bytes read from the server. Those that are for the client are appended to `out`: all but the answers due to us
    /// and what is held back, until more of its line is here, because it may be one.
    ///
    /// Returns the round trip of the beat that was out, when its answer is among the bytes.
    pub fn from_server(&mut self, now: Instant, bytes: &[u8], out: &mut Vec<u8>) -> Option<Duration> {
        if self.is_transparent() {
            out.extend_from_slice(bytes);
            return None;
        }
        if bytes.is_empty() {
            return None;
        }
        self.quiet_since = now;
        self.missed = 0;
        let screened = self.screen.pass(now, bytes, &self.question, &mut self.due, out);
        let answered = if screened.answers > 0 && self.due.ours() == 0 { self.out.take() } else { None };
        if answered.is_some() {
            self.draw_wait();
        }
        if screened.text == Text::Other {
            self.stop();
        }
        answered.map(|beat| now.saturating_duration_since(beat.sent))
    }

    /// The client has half-closed: no beat can follow, and the one that is out is judged no more (the server may take
    /// its time to end), but its answer is still dropped.
    pub fn client_ended(&mut self) {
        self.client.ended = true;
        self.out = None;
    }

    /// The server has half-closed: what was held back is the client's, appended to `out`.
    pub fn server_ended(&mut self, out: &mut Vec<u8>) {
        self.screen.release(out);
        self.server_ended = true;
        self.out = None;
    }

    /// Does what is due at `now`: passes on what was held back for `timeout`, counts a miss, appends a beat.
    /// After anything but [`Event::None`], call it again at once.
    ///
    /// Read what has arrived before you call it, lest a process that was stopped for a while judges by its own delay.
    /// The two buffers are those given to the other methods, with what the sockets did not take yet. Bytes left in one
    /// of them mean that a side does not read: that is no silence, a beat behind them would prove nothing, and an
    /// answer may be waiting unread; so nobody is judged and both clocks start afresh.
    pub fn tick(&mut self, now: Instant, to_server: &mut Vec<u8>, to_client: &mut Vec<u8>) -> Event {
        let jammed = !to_server.is_empty() || !to_client.is_empty();
        if self.release_at().is_some_and(|at| now >= at) {
            self.screen.release(to_client);
            if let Some(beat) = &mut self.out {
                beat.answer_by = beat.answer_by.min(now);
            }
        }
        if jammed {
            self.quiet_since = now;
            self.still_under_way(now);
            return Event::None;
        }
        if self.out.is_some_and(|beat| now >= beat.answer_by) {
            self.out = None;
            self.missed = self.missed.saturating_add(1);
            if self.missed >= self.timings.misses {
                self.stop();
                return Event::Dead { misses: self.missed };
            }
            return Event::Missed { in_a_row: self.missed };
        }
        if self.beat_at().is_some_and(|at| now >= at) {
            if self.due.is_empty() {
                self.reword_now();
            }
            to_server.extend_from_slice(&self.question.send);
            self.due.ask(Whose::Ours);
            self.out = Some(Out { sent: now, answer_by: now + self.timings.timeout });
            return Event::Beat;
        }
        Event::None
    }

    /// The kernel says that the beat's last byte is not acknowledged yet, but that the peer acknowledges others: the
    /// clock of its answer starts afresh. Nothing happens when no beat is out.
    pub fn still_under_way(&mut self, now: Instant) {
        if let Some(beat) = &mut self.out {
            beat.answer_by = now + self.timings.timeout;
        }
    }

    /// When to call [`tick`](Self::tick) next, unless bytes come first; `None`: not before they do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let answer_by = self.out.map(|beat| beat.answer_by);
        [self.release_at(), answer_by, self.beat_at()].into_iter().flatten().min()
    }

    /// A live edit of the numbers. The beat that is out is judged by the new `timeout`, the silence by the new
    /// `interval`, both from when they began.
    pub fn retime(&mut self, timings: Timings) {
        if timings == self.timings {
            return;
        }
        let old = std::mem::replace(&mut self.timings, timings);
        if let Some(beat) = &mut self.out {
            let began = beat.answer_by.checked_sub(old.timeout).unwrap_or(beat.sent);
            beat.answer_by = began + timings.timeout;
        }
        self.draw_wait();
    }

    /// A live edit of the question. It is used from the first beat at which the server owes nobody an answer to the
    /// old one.
    ///
    /// Errors: [`Unfit`]; the old one stays.
    pub fn reword(&mut self, send: Vec<u8>, expect: config::Expect) -> Result<(), Unfit> {
        let question = Question::new(send, expect)?;
        self.next_question = (question != self.question).then_some(question);
        Ok(())
    }

    /// Ends line mode for this connection, as a NUL or a line over 64 KiB does, and as an edit to `in_use = "off"`
    /// should: no more beats, no more misses. An answer that is still due to us is dropped by the same rules as before,
    /// because it will come and is not the client's; then everything passes unread.
    pub fn stop(&mut self) {
        self.on = false;
        self.out = None;
    }

    /// False once line mode has ended for this connection.
    #[cfg(test)]
    fn is_on(&self) -> bool {
        self.on
    }

    /// True once bytes pass unread in both directions and always will: line mode has ended and nothing is due to us.
    pub fn is_transparent(&self) -> bool {
        !self.on && self.due.ours() == 0 && self.screen.held_since().is_none() && !self.screen.is_dropping()
    }

    /// How many answers are due to us, late ones included.
    #[cfg(test)]
    fn answers_due(&self) -> usize {
        self.due.ours()
    }

    fn release_at(&self) -> Option<Instant> {
        self.screen.held_since().map(|since| since + self.timings.timeout)
    }

    fn beat_at(&self) -> Option<Instant> {
        let may = self.on
            && self.out.is_none()
            && !self.client.ended
            && !self.server_ended
            && self.client.length == 0
            && self.screen.is_at_boundary()
            && self.due.ours() < MAX_DUE;
        may.then(|| self.quiet_since + self.wait)
    }

    /// Drawn anew for each silence, not for each beat: those that follow a miss must come at once.
    fn draw_wait(&mut self) {
        self.wait = self.timings.interval.mul_f64(1.0 - self.random.f64() * 0.1);
    }

    fn reword_now(&mut self) {
        if let Some(question) = self.next_question.take() {
            self.question = question;
        }
    }
}
