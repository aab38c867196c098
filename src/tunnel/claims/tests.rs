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

// ---- without a session ----

#[test]
fn the_first_tick_dials_and_a_welcome_brings_the_link_up() {
    let mut table = Table::new(settings());
    assert_eq!(table.claims.next_deadline(), Some(table.now));
    let (id, place) = table.dialled(Input::Tick);
    assert_eq!(place, Place::Endpoint(0));
    assert_eq!(table.claims.state(), State::Connecting { attempt: 1 });
    assert_eq!(table.take(Input::Ready(id)), [Action::SayHello { id, epoch: 1, new_session: true }]);
    table.quiet(Input::Tick);
    assert_eq!(table.take(Input::Answer(id, WELCOME)), [Action::Attach { id, frozen: false }]);
    assert_eq!(table.claims.state(), State::Up { since: table.now });
    assert_eq!(table.claims.next_deadline(), None, "nothing to do while all is well");
}

#[test]
fn every_endpoint_is_tried_before_the_wait_and_attempts_count_rounds() {
    let mut table =
        Table::new(Settings { endpoints: 3, retry: Retry { attempts: Some(2), ..settings().retry }, ..settings() });
    let (mut id, mut place) = table.dialled(Input::Tick);
    for expected in 0..3 {
        assert_eq!(place, Place::Endpoint(expected));
        if expected < 2 {
            (id, place) = table.dialled(Input::Failed(id, Failure::Refused));
        }
    }
    table.quiet(Input::Failed(id, Failure::Timeout));
    assert_eq!(table.claims.state(), State::Waiting { attempt: 2, retry_at: table.now + 500 * MS });
    let (waited, mut id, place, _) = table.next_dial();
    assert_eq!((waited, place), (500 * MS, Place::Endpoint(0)), "the best one first again");
    for _ in 0..2 {
        id = table.dialled(Input::Failed(id, Failure::Tls)).0;
    }
    assert_eq!(table.take(Input::AnswerTimedOut(id)), [Action::Failed]);
    assert_eq!((table.claims.state(), table.claims.next_deadline()), (State::Failed, None));
    table.wait(3600 * SECOND);
    table.quiet(Input::Tick);
    table.dialled(Input::Retry);
    assert_eq!(table.claims.state(), State::Connecting { attempt: 1 });
}

#[test]
fn a_fault_of_this_machine_is_no_reason_to_try_the_next_endpoint() {
    let mut table = Table::new(Settings { endpoints: 3, ..settings() });
    let (id, _) = table.dialled(Input::Tick);
    table.quiet(Input::Failed(id, Failure::Local));
    assert_eq!(table.next_dial().2, Place::Endpoint(0));
}

#[test]
fn a_gateway_that_accepts_and_closes_is_dialled_less_and_less() {
    let mut table = Table::new(settings());
    let (mut id, _) = table.dialled(Input::Tick);
    let mut waits = Vec::new();
    for _ in 0..4 {
        table.says_hello(Input::Ready(id));
        table.quiet(Input::Failed(id, Failure::Refused));
        let (waited, next, ..) = table.next_dial();
        waits.push(waited);
        id = next;
    }
    assert_eq!(waits, [500 * MS, SECOND, 2 * SECOND, 4 * SECOND]);
}

#[test]
fn a_link_whose_task_panicked_waits_first() {
    let now = Instant::now();
    let claims = Claims::after_failures(settings(), now, 1, 2);
    assert_eq!(claims.next_deadline(), Some(now + SECOND));
}

#[test]
fn busy_is_kept_to_and_spread() {
    let mut seen = Vec::new();
    for seed in 0..200 {
        let mut table = Table::new(settings());
        table.claims = Claims::new(settings(), table.now, seed);
        let (id, _) = table.dialled(Input::Tick);
        table.says_hello(Input::Ready(id));
        table.quiet(Input::Answer(id, Answer::Busy { retry_after: 10 * SECOND }));
        seen.push(table.next_dial().0);
    }
    let (least, most) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
    assert!(*least >= 5 * SECOND && *least < 6 * SECOND, "{least:?}");
    assert!(*most <= 15 * SECOND && *most > 14 * SECOND, "{most:?}");
}

#[test]
fn version_and_denied_wait_as_long_as_waits_get_and_an_operator_cuts_that_short() {
    for answer in [Answer::Version, Answer::Denied] {
        let mut table = Table::new(settings());
        let (id, _) = table.dialled(Input::Tick);
        table.says_hello(Input::Ready(id));
        table.quiet(Input::Answer(id, answer));
        assert_eq!(table.claims.next_deadline(), Some(table.now + 30 * SECOND), "{answer:?}");
        table.dialled(Input::Retry);
    }
}

// ---- a connection that is suspect ----

#[test]
fn suspicion_dials_at_once_and_a_byte_before_the_hello_cancels_the_claim() {
    let mut table = Table::up(settings());
    let (id, place) = table.dialled(Input::Suspect);
    assert_eq!(place, Place::Last);
    assert!(matches!(table.claims.state(), State::Suspect { .. }));
    assert_eq!(table.take(Input::Recovered), [Action::Abandon { id }]);
    table.quiet(Input::Ready(id));
    assert!(matches!(table.claims.state(), State::Up { .. }));
}

#[test]
fn the_old_connection_is_frozen_while_a_hello_is_out_and_thawed_when_its_time_is_up() {
    let mut table = Table::up(settings());
    let (id, _) = table.dialled(Input::Suspect);
    table.says_hello(Input::Ready(id));
    assert!(table.claims.is_frozen());
    table.quiet(Input::Recovered);
    assert!(table.claims.is_frozen(), "a byte that had been read before does not call the Hello back");
    assert_eq!(table.take(Input::AnswerTimedOut(id)), [Action::Thaw]);
    assert!(!table.claims.is_frozen());
    assert!(matches!(table.claims.state(), State::Up { .. }));
}

#[test]
fn a_welcome_replaces_the_suspect_connection() {
    let mut table = Table::up(settings());
    let (id, _) = table.dialled(Input::Suspect);
    table.says_hello(Input::Ready(id));
    assert_eq!(table.take(Input::Answer(id, WELCOME)), [Action::Attach { id, frozen: false }]);
    assert_eq!(table.claims.state(), State::Up { since: table.now });
    assert!(!table.claims.is_frozen());
}

#[test]
fn while_the_old_connection_is_not_dead_one_claim_a_timeout() {
    let mut table = Table::up(settings());
    let (first, _) = table.dialled(Input::Suspect);
    table.says_hello(Input::Ready(first));
    let claimed = table.now;
    let actions = table.take(Input::Failed(first, Failure::Refused));
    let Some(Action::Dial { id, .. }) = actions.first().copied() else { panic!("{actions:?}") };
    assert_eq!(actions.last(), Some(&Action::Thaw));
    table.wait(MS);
    table.quiet(Input::Ready(id));
    table.on();
    table.says_hello(Input::Tick);
    assert_eq!(table.now - claimed, settings().timeout);
}

#[test]
fn a_claim_kept_back_leaves_as_soon_as_the_old_connection_is_dead() {
    let mut table = Table::up(settings());
    let (first, _) = table.dialled(Input::Suspect);
    table.says_hello(Input::Ready(first));
    let actions = table.take(Input::Failed(first, Failure::Refused));
    let Some(Action::Dial { id, .. }) = actions.first().copied() else { panic!("{actions:?}") };
    table.quiet(Input::Ready(id));
    table.says_hello(Input::Lost);
}

#[test]
fn fault_47_a_link_that_flaps_around_the_threshold_dials_once_a_timeout_if_nobody_waits() {
    let mut table = Table::up(settings());
    let mut dials = 0;
    for _ in 0..600 {
        for input in [Input::Suspect, Input::Tick, Input::Recovered] {
            dials += table.take(input).iter().filter(|action| matches!(action, Action::Dial { .. })).count();
        }
        table.wait(100 * MS);
    }
    assert!((10..=21).contains(&dials), "{dials} dials in a minute");
}

// ---- a connection that is lost ----

#[test]
fn a_link_that_stood_redials_within_a_second_and_a_flapping_one_waits_longer_and_longer() {
    let mut table = Table::up(Settings { retry: Retry { initial: 3 * SECOND, ..settings().retry }, ..settings() });
    table.quiet(Input::Lost);
    assert!(matches!(table.claims.state(), State::Lost { .. }));
    let (waited, mut id, ..) = table.next_dial();
    assert!(waited <= SECOND);
    let mut waits = Vec::new();
    for _ in 0..3 {
        table.says_hello(Input::Ready(id));
        table.take(Input::Answer(id, WELCOME));
        table.wait(200 * MS);
        table.quiet(Input::Lost);
        let (waited, next, ..) = table.next_dial();
        waits.push(waited);
        id = next;
    }
    assert_eq!(waits, [3 * SECOND, 6 * SECOND, 12 * SECOND]);
}

#[test]
fn while_streams_wait_a_fresh_attempt_begins_every_second_and_the_third_displaces_the_oldest() {
    let mut table = Table::up(settings());
    let mut before = vec![table.lost_urgently()];
    for _ in 0..20 {
        let (waited, id, _, displaced) = table.next_dial();
        assert!(waited >= 750 * MS && waited <= SECOND, "{waited:?}");
        assert_eq!(displaced, (before.len() == 2).then(|| before.remove(0)));
        before.push(id);
        assert_eq!(table.claims.in_flight().collect::<Vec<_>>(), before);
    }
}

#[test]
fn the_first_urgent_attempt_is_spread_a_little_and_refusals_make_it_no_storm() {
    let mut table = Table::up(settings());
    let lost = table.now;
    let mut id = table.lost_urgently();
    assert!(table.now - lost <= 250 * MS);
    for _ in 0..10 {
        table.quiet(Input::Failed(id, Failure::Refused));
        let (waited, next, ..) = table.next_dial();
        assert!(waited >= 750 * MS && waited <= SECOND, "{waited:?}");
        id = next;
    }
}

#[test]
fn somebody_who_comes_to_wait_makes_it_urgent_and_their_going_ends_that() {
    let mut table = Table::up(settings());
    table.quiet(Input::Lost);
    let (_, id, ..) = table.next_dial();
    for _ in 0..8 {
        table.wait(10 * MS);
        table.take(Input::Failed(id, Failure::Timeout));
    }
    assert!(table.claims.next_deadline().is_some());
    let waiting = table.take(Input::StreamsWait(true));
    let due = table.claims.next_deadline().unwrap() - table.now;
    assert!(!waiting.is_empty() || due <= SECOND, "{waiting:?} {due:?}");
    table.quiet(Input::StreamsWait(false));
}

#[test]
fn urgent_attempts_are_outside_of_retry_attempts_until_the_session_is_gone() {
    let retry = Retry { attempts: Some(2), ..settings().retry };
    let mut table = Table::up(Settings { retry, ..settings() });
    let lost = table.now;
    let mut id = table.lost_urgently();
    for _ in 0..30 {
        table.quiet(Input::Failed(id, Failure::Refused));
        id = table.next_dial().1;
    }
    assert_eq!(table.claims.expires(), Some(lost + 60 * SECOND));
    table.now = lost + 60 * SECOND;
    let actions = table.take(Input::Tick);
    let [Action::Abandon { .. }, Action::StartFresh(Gone::Expired), Action::Dial { id, place: Place::Endpoint(0) }] =
        actions[..]
    else {
        panic!("{actions:?}")
    };
    table.quiet(Input::Failed(id, Failure::Refused));
    let id = table.next_dial().1;
    assert_eq!(table.take(Input::Failed(id, Failure::Refused)), [Action::Failed], "now attempts count");
}

#[test]
fn on_a_long_path_the_oldest_attempt_is_seen_through() {
    let mut table = Table::new(settings());
    let (id, _) = table.dialled(Input::Tick);
    table.wait(2 * SECOND);
    table.says_hello(Input::Ready(id));
    table.wait(SECOND);
    table.take(Input::Answer(id, WELCOME));
    table.wait(60 * SECOND);
    let first = table.lost_urgently();
    let began = table.now;
    while table.now - began < 3 * SECOND {
        let (waited, _, _, displaced) = table.next_dial();
        assert!(waited <= SECOND, "and still one begins every second");
        assert_ne!(displaced, Some(first));
    }
    table.says_hello(Input::Ready(first));
}

#[test]
fn busy_ends_the_urgency_towards_that_place_only() {
    let mut table = Table::up(Settings { endpoints: 2, ..settings() });
    let id = table.lost_urgently();
    table.says_hello(Input::Ready(id));
    table.quiet(Input::Answer(id, Answer::Busy { retry_after: 20 * SECOND }));
    let mut places = Vec::new();
    for _ in 0..8 {
        let (waited, _, place, _) = table.next_dial();
        assert!(waited <= SECOND);
        places.push(place);
    }
    assert_eq!(places, [Place::Endpoint(1); 8], "`Last` is `Endpoint(0)` by another name");

    let mut table = Table::up(settings());
    let id = table.lost_urgently();
    table.says_hello(Input::Ready(id));
    table.quiet(Input::Answer(id, Answer::Busy { retry_after: 20 * SECOND }));
    assert!(table.next_dial().0 >= 10 * SECOND, "there is no other place");
}

// ---- answers ----

#[test]
fn a_welcome_of_an_older_hello_is_taken_but_stays_frozen_until_the_newest_is_decided() {
    for newest in [Some(WELCOME), Some(Answer::Busy { retry_after: SECOND }), Some(Answer::Superseded), None] {
        let (mut table, older, newer) = two_hellos();
        assert_eq!(table.take(Input::Answer(older, WELCOME)), [Action::Attach { id: older, frozen: true }]);
        assert!(table.claims.is_frozen());
        table.wait(10 * SECOND);
        table.quiet(Input::Tick);
        match newest {
            Some(WELCOME) => {
                let attached = [Action::Attach { id: newer, frozen: false }];
                assert_eq!(table.take(Input::Answer(newer, WELCOME)), attached);
            }
            Some(answer) => assert_eq!(table.take(Input::Answer(newer, answer)), [Action::Thaw], "{answer:?}"),
            None => assert_eq!(table.take(Input::AnswerTimedOut(newer)), [Action::Thaw]),
        }
        assert!(!table.claims.is_frozen());
        assert!(matches!(table.claims.state(), State::Up { .. }));
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

#[test]
fn refusals_and_ends_of_an_older_claim_are_ignored() {
    let answers = [
        Answer::Unknown { own_name: true },
        Answer::Unknown { own_name: false },
        Answer::Superseded,
        Answer::Busy { retry_after: 50 * SECOND },
        Answer::Denied,
        Answer::Version,
    ];
    let ends = answers.map(|answer| (Some(answer), None)).into_iter().chain([(None, Some(Failure::Refused))]);
    for (answer, failure) in ends {
        let (mut table, older, newer) = two_hellos();
        table.quiet(match (answer, failure) {
            (Some(answer), _) => Input::Answer(older, answer),
            (None, failure) => Input::Failed(older, failure.unwrap_or(Failure::Timeout)),
        });
        assert_eq!(table.take(Input::Answer(newer, WELCOME)), [Action::Attach { id: newer, frozen: false }]);
    }
}

#[test]
fn the_newest_welcome_ends_the_older_claim() {
    let (mut table, older, newer) = two_hellos();
    let actions = [Action::Attach { id: newer, frozen: false }, Action::Abandon { id: older }];
    assert_eq!(table.take(Input::Answer(newer, WELCOME)), actions);
    table.quiet(Input::Answer(older, WELCOME));
}

#[test]
fn with_the_newest_refused_an_older_hello_still_keeps_the_old_connection_frozen() {
    let mut table = Table::up(settings());
    table.quiet(Input::StreamsWait(true));
    let (older, _) = table.dialled(Input::Suspect);
    table.says_hello(Input::Ready(older));
    let (_, newer, ..) = table.next_dial();
    table.quiet(Input::Ready(newer));
    table.wait(3 * SECOND);
    table.claims.urgent_at = table.now + SECOND;
    table.says_hello(Input::Tick);
    table.quiet(Input::Answer(newer, Answer::Busy { retry_after: 30 * SECOND }));
    assert!(table.claims.is_frozen(), "the older one's Welcome would be taken");
    assert_eq!(table.take(Input::AnswerTimedOut(older)), [Action::Thaw]);
}

#[test]
fn a_second_claim_does_not_follow_the_first_on_its_heels() {
    let mut table = Table::up(settings());
    let older = table.lost_urgently();
    let (_, newer, ..) = table.next_dial();
    table.says_hello(Input::Ready(newer));
    table.quiet(Input::Ready(older));
    table.wait(50 * MS);
    table.quiet(Input::Tick);
    table.says_hello(Input::Failed(newer, Failure::Refused));
}

#[test]
fn superseded_never_gives_the_session_up_and_claims_again_soon_with_a_higher_epoch() {
    let mut table = Table::up(settings());
    table.quiet(Input::Lost);
    let (_, mut id, ..) = table.next_dial();
    for epoch in 2..20 {
        assert_eq!(table.says_hello(Input::Ready(id)), epoch);
        table.quiet(Input::Answer(id, Answer::Superseded));
        assert!(matches!(table.claims.state(), State::Lost { .. }));
        let (waited, next, ..) = table.next_dial();
        assert!(waited >= 100 * MS && waited <= SECOND, "{waited:?}");
        id = next;
    }
}

#[test]
fn fault_04_unknown_from_the_sessions_own_gateway_starts_fresh_at_once() {
    let mut table = Table::up(settings());
    let id = table.lost_urgently();
    table.says_hello(Input::Ready(id));
    let actions = table.take(Input::Answer(id, Answer::Unknown { own_name: true }));
    let [Action::StartFresh(Gone::Unknown), Action::Dial { id, place: Place::Endpoint(0) }] = actions[..] else {
        panic!("{actions:?}")
    };
    let hello = table.take(Input::Ready(id));
    assert!(matches!(hello[..], [Action::SayHello { epoch: 3, new_session: true, .. }]), "{hello:?}");
}

#[test]
fn a_gateway_that_welcomes_and_forgets_is_not_dialled_in_a_loop() {
    let mut table = Table::new(settings());
    let (mut id, _) = table.dialled(Input::Tick);
    let mut waits = Vec::new();
    for _ in 0..4 {
        table.says_hello(Input::Ready(id));
        table.take(Input::Answer(id, WELCOME));
        table.quiet(Input::Lost);
        let (_, resume, ..) = table.next_dial();
        table.says_hello(Input::Ready(resume));
        let gone = table.take(Input::Answer(resume, Answer::Unknown { own_name: true }));
        assert_eq!(gone, [Action::StartFresh(Gone::Unknown)]);
        let (waited, next, ..) = table.next_dial();
        waits.push(waited);
        id = next;
    }
    assert_eq!(waits, [500 * MS, SECOND, 2 * SECOND, 4 * SECOND]);
}

#[test]
fn unknown_from_another_gateway_goes_on_searching_until_the_deadline() {
    let welcome = Answer::Welcome { deadline: 20 * SECOND, advertise: true };
    let mut table = Table::up_by(Settings { endpoints: 2, ..settings() }, welcome);
    let lost = table.now;
    table.quiet(Input::StreamsWait(true));
    table.quiet(Input::Lost);
    let mut places = Vec::new();
    loop {
        table.on();
        match table.take(Input::Tick)[..] {
            [Action::Dial { id, place }] => {
                places.push(place);
                table.says_hello(Input::Ready(id));
                let answer = Input::Answer(id, Answer::Unknown { own_name: false });
                assert_eq!(table.take(answer), [Action::AnotherIsUp]);
            }
            [Action::StartFresh(Gone::Expired), Action::Dial { .. }] => break,
            ref other => panic!("{other:?}"),
        }
    }
    assert_eq!(table.now - lost, 20 * SECOND, "the smaller deadline holds");
    let first = [Place::Advertise, Place::Last, Place::Endpoint(0), Place::Endpoint(1), Place::Advertise];
    assert_eq!(places[..5], first);
}

#[test]
fn a_move_that_meets_a_namesake_leaves_the_session_alone() {
    let mut table = Table::up(settings());
    let (id, _) = table.dialled(Input::Move);
    table.says_hello(Input::Ready(id));
    assert_eq!(table.take(Input::Answer(id, Answer::Unknown { own_name: true })), [Action::Thaw]);
    assert!(matches!(table.claims.state(), State::Up { .. }));
}

#[test]
fn a_violation_ends_the_session_and_waits_before_the_next() {
    let mut table = Table::up(settings());
    assert_eq!(table.take(Input::Violated), [Action::StartFresh(Gone::Violation)]);
    assert_eq!(table.next_dial().0, 500 * MS);
}

// ---- planned ----

#[test]
fn a_move_takes_the_session_to_a_new_connection_and_is_done_once() {
    let mut table = Table::up(settings());
    let (id, place) = table.dialled(Input::Move);
    assert_eq!(place, Place::Endpoint(0), "not the last address: that is where it is");
    table.says_hello(Input::Ready(id));
    assert!(table.claims.is_frozen());
    assert_eq!(table.take(Input::Answer(id, WELCOME)), [Action::Attach { id, frozen: false }]);
    assert_eq!(table.claims.next_deadline(), None);
}

#[test]
fn fault_41_a_session_follows_its_endpoints_name_and_asks_nobody_else() {
    let mut table = Table::up_by(
        Settings { endpoints: 2, ..settings() },
        Answer::Welcome { deadline: Duration::from_secs(60), advertise: true },
    );
    let (mut id, place) = table.dialled(Input::Follow(1));
    assert_eq!(place, Place::Endpoint(1));
    // Nobody is there yet: again under the backoff, and nowhere else.
    for wait in [500, 1000, 2000] {
        table.quiet(Input::Failed(id, Failure::Refused));
        let (waited, next, place, _) = table.next_dial();
        assert_eq!((waited, place), (wait * MS, Place::Endpoint(1)));
        table.quiet(Input::Follow(1));
        id = next;
    }
    table.says_hello(Input::Ready(id));
    assert_eq!(table.take(Input::Answer(id, WELCOME)), [Action::Attach { id, frozen: false }]);
    assert_eq!(table.claims.next_deadline(), None, "done once");
}

#[test]
fn fault_41_another_gateway_behind_the_name_leaves_the_session_where_it_is() {
    for own_name in [false, true] {
        let mut table = Table::up(settings());
        let (id, _) = table.dialled(Input::Follow(0));
        table.says_hello(Input::Ready(id));
        assert_eq!(
            table.take(Input::Answer(id, Answer::Unknown { own_name })),
            [Action::Elsewhere, Action::Thaw],
            "own name: {own_name}"
        );
        assert!(matches!(table.claims.state(), State::Up { .. }));
        assert_eq!(table.claims.next_deadline(), None, "it asks no more");
        // It is told again, as long as the name leads there.
        table.quiet(Input::Follow(0));
        assert_eq!(table.next_dial().0, settings().timeout);
    }
}

#[test]
fn a_name_that_leads_back_or_a_loss_ends_the_following_and_another_move_takes_its_place() {
    let mut table = Table::up(settings());
    let (id, _) = table.dialled(Input::Follow(0));
    assert_eq!(table.take(Input::Stay), [Action::Abandon { id }]);
    assert_eq!(table.claims.next_deadline(), None);

    let (id, _) = table.dialled(Input::Follow(0));
    table.quiet(Input::Lost);
    assert_eq!(table.claims.follows, None);
    table.says_hello(Input::Ready(id));
    table.take(Input::Answer(id, WELCOME));
    assert_eq!(table.claims.next_deadline(), None);

    table.wait(settings().timeout);
    let (old, _) = table.dialled(Input::Follow(0));
    let [Action::Abandon { id: abandoned }, Action::Dial { .. }] = table.take(Input::Move)[..] else {
        panic!("no move")
    };
    assert_eq!((abandoned, table.claims.follows), (old, None));
    table.quiet(Input::Follow(0));
    table.quiet(Input::Stay);
    assert!(table.claims.moving.is_some(), "the move goes on");
}

#[test]
fn fault_41_a_name_is_not_followed_without_a_session_nor_beyond_the_endpoints() {
    let mut table = Table::new(settings());
    table.dialled(Input::Tick);
    table.quiet(Input::Follow(0));
    let mut table = Table::up(settings());
    table.quiet(Input::Follow(1));
    table.dialled(Input::Follow(0));
    table.claims.retune(Settings { endpoints: 0, ..settings() });
    assert_eq!(table.claims.follows, None);
}

#[test]
fn a_second_move_soon_after_the_first_dials_when_it_may_claim_and_not_before() {
    let mut table = Table::up(Settings { timeout: 30 * SECOND, ..settings() });
    let (id, _) = table.dialled(Input::Move);
    table.says_hello(Input::Ready(id));
    let claimed = table.now;
    assert_eq!(table.take(Input::Answer(id, WELCOME)), [Action::Attach { id, frozen: false }]);
    table.wait(SECOND);
    table.quiet(Input::Move);
    let (_, id, ..) = table.next_dial();
    assert_eq!(table.now - claimed, 30 * SECOND);
    table.wait(50 * MS);
    table.says_hello(Input::Ready(id));
    assert_eq!(table.take(Input::Answer(id, WELCOME)), [Action::Attach { id, frozen: false }]);
    // A loss does not wait for that.
    table.quiet(Input::Move);
    table.take(Input::Lost);
    let (waited, id, ..) = table.next_dial();
    assert!(waited <= SECOND, "{waited:?}");
    table.says_hello(Input::Ready(id));
}

#[test]
fn a_move_that_fails_keeps_the_connection_and_backs_off() {
    let mut table = Table::up(settings());
    let (mut id, _) = table.dialled(Input::Move);
    let mut waits = Vec::new();
    for _ in 0..3 {
        table.quiet(Input::Failed(id, Failure::Tls));
        let (waited, next, ..) = table.next_dial();
        waits.push(waited);
        id = next;
    }
    assert_eq!(waits, [500 * MS, SECOND, 2 * SECOND]);
    assert!(matches!(table.claims.state(), State::Up { .. }));
}

#[test]
fn an_attempt_from_before_the_move_does_not_count_as_one() {
    let mut table = Table::up(settings());
    let (old, _) = table.dialled(Input::Suspect);
    table.says_hello(Input::Ready(old));
    table.quiet(Input::Move);
    let actions = table.take(Input::Answer(old, WELCOME));
    assert!(matches!(actions[..], [Action::Attach { .. }]), "{actions:?}");
    assert_eq!(table.next_dial().0, settings().timeout, "one of its own, as soon as it may claim");
}

#[test]
fn new_numbers_count_at_once_and_leave_the_connection() {
    let mut table = Table::up(settings());
    table.quiet(Input::Lost);
    table.claims.retune(Settings { deadline: 5 * SECOND, ..settings() });
    assert_eq!(table.claims.expires(), Some(table.now + 5 * SECOND));
    table.claims.retune(Settings { deadline: 600 * SECOND, ..settings() });
    assert_eq!(table.claims.expires(), Some(table.now + 60 * SECOND), "the gateway agreed to no more");
}

#[test]
fn a_draining_session_is_resumed_but_not_followed_by_another() {
    let mut table = Table::up(settings());
    table.quiet(Input::Drain);
    assert_eq!(table.claims.state(), State::Draining);
    let id = table.lost_urgently();
    table.says_hello(Input::Ready(id));
    table.take(Input::Answer(id, WELCOME));
    assert_eq!(table.claims.state(), State::Draining);
    let id = table.lost_urgently();
    table.says_hello(Input::Ready(id));
    let actions = table.take(Input::Answer(id, Answer::Unknown { own_name: true }));
    assert_eq!(actions, [Action::StartFresh(Gone::Unknown)]);
    assert_eq!((table.claims.state(), table.claims.next_deadline()), (State::Closed, None));
}

#[test]
fn stop_abandons_everything_and_nothing_wakes_it_again() {
    let (mut table, older, newer) = two_hellos();
    assert_eq!(table.take(Input::Stop), [Action::Abandon { id: older }, Action::Abandon { id: newer }]);
    for input in [Input::Tick, Input::Retry, Input::Suspect, Input::Answer(newer, WELCOME), Input::Move] {
        table.quiet(input);
    }
    assert_eq!((table.claims.state(), table.claims.next_deadline()), (State::Closed, None));
    assert!(table.now > table.start);
}

/// An address that leads to two gateways strictly in turn, and two links that have lost their sessions at once, each at a
/// gateway of its own: neither keeps the other from ever meeting the right one.
#[test]
fn two_links_behind_one_address_that_alternates_both_find_their_own_gateway_soon() {
    let mut slowest = Duration::ZERO;
    for seed in 0..200 {
        let mut tables = [0, 1].map(|n| {
            let mut table = Table::up(settings());
            table.claims.random = fastrand::Rng::with_seed(2 * seed + n);
            table.take(Input::StreamsWait(true));
            table.take(Input::Lost);
            table
        });
        let lost = tables[0].now;
        let (mut turn, mut at) = (seed as usize % 2, lost);
        let mut found = [None; 2];
        while found.contains(&None) {
            at += 2 * MS;
            assert!(at < lost + 60 * SECOND, "seed {seed}: {found:?}");
            for (n, table) in tables.iter_mut().enumerate().filter(|(n, _)| found[*n].is_none()).collect::<Vec<_>>() {
                table.now = at;
                let actions = table.take(Input::Tick);
                let Some(id) = actions.iter().find_map(|action| match action {
                    Action::Dial { id, .. } => Some(*id),
                    _ => None,
                }) else {
                    continue;
                };
                let here = turn % 2 == n;
                turn += 1;
                table.take(Input::Ready(id));
                let answer = if here { WELCOME } else { Answer::Unknown { own_name: false } };
                let taken = table.take(Input::Answer(id, answer));
                if taken.iter().any(|action| matches!(action, Action::Attach { .. })) {
                    found[n] = Some(at - lost);
                }
            }
        }
        slowest = slowest.max(found.into_iter().flatten().max().unwrap_or_default());
    }
    assert!(slowest < 12 * SECOND, "{slowest:?}");
}
