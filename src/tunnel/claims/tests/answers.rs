//! What gateways answer.

use super::*;

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
