//! Claims at work: what follows from what.

mod answers;
mod lost;
mod new_session;
mod planned;
mod suspect;

use super::*;
use crate::config::{Jitter, Retry};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const WELCOME: Answer = Answer::Welcome { deadline: Duration::from_secs(60), advertise: false };

pub(super) fn settings() -> Settings {
    let retry = Retry {
        initial: 500 * MS,
        max: 30 * SECOND,
        multiplier: 2.0,
        jitter: Jitter::Off,
        attempts: None,
        stable_after: 10 * SECOND,
        connect_timeout: 5 * SECOND,
    };
    Settings { retry, timeout: 3 * SECOND, deadline: 60 * SECOND, endpoints: 1 }
}

/// A link and a clock.
struct Table {
    claims: Claims,
    now: Instant,
    start: Instant,
}

impl Table {
    fn new(settings: Settings) -> Self {
        let start = Instant::now();
        Self { claims: Claims::new(settings, start, 1), now: start, start }
    }

    /// With a session whose connection has stood for a minute.
    fn up(settings: Settings) -> Self {
        Self::up_by(settings, WELCOME)
    }

    fn up_by(settings: Settings, welcome: Answer) -> Self {
        let mut table = Self::new(settings);
        let (id, _) = table.dialled(Input::Tick);
        table.says_hello(Input::Ready(id));
        assert_eq!(table.take(Input::Answer(id, welcome)), [Action::Attach { id, frozen: false }]);
        table.wait(60 * SECOND);
        table
    }

    fn take(&mut self, input: Input) -> Vec<Action> {
        self.claims.handle(self.now, input)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// Nothing follows from it.
    fn quiet(&mut self, input: Input) {
        assert_eq!(self.take(input), [], "{input:?}");
    }

    /// Exactly one dial follows.
    fn dialled(&mut self, input: Input) -> (AttemptId, Place) {
        match self.take(input)[..] {
            [Action::Dial { id, place }] => (id, place),
            ref other => panic!("{input:?} led to {other:?}"),
        }
    }

    /// Exactly one Hello follows; its epoch.
    fn says_hello(&mut self, input: Input) -> u64 {
        match self.take(input)[..] {
            [Action::SayHello { epoch, .. }] => epoch,
            ref other => panic!("{input:?} led to {other:?}"),
        }
    }

    /// Goes on to the next deadline; how long that took.
    fn on(&mut self) -> Duration {
        let at = self.claims.next_deadline().expect("something to wait for").max(self.now);
        let waited = at - self.now;
        self.now = at;
        waited
    }

    /// The next dial, and how long it took to come; what it displaced.
    fn next_dial(&mut self) -> (Duration, AttemptId, Place, Option<AttemptId>) {
        let waited = self.on();
        match self.take(Input::Tick)[..] {
            [Action::Dial { id, place }] => (waited, id, place, None),
            [Action::Abandon { id: old }, Action::Dial { id, place }] => (waited, id, place, Some(old)),
            ref other => panic!("{other:?}"),
        }
    }

    /// Loses the connection while somebody waits, and makes the first attempt.
    fn lost_urgently(&mut self) -> AttemptId {
        self.quiet(Input::StreamsWait(true));
        assert!(self.take(Input::Lost).is_empty());
        self.next_dial().1
    }
}

/// The connection lost, and two Hellos out.
fn two_hellos() -> (Table, AttemptId, AttemptId) {
    let mut table = Table::up(settings());
    let older = table.lost_urgently();
    let first = table.says_hello(Input::Ready(older));
    let (_, newer, ..) = table.next_dial();
    table.wait(10 * MS);
    assert!(table.says_hello(Input::Ready(newer)) > first, "epochs grow");
    (table, older, newer)
}
