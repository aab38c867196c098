//! Without a session.

use super::*;

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

#[test]
fn a_client_that_waits_is_worth_a_dial_but_not_one_that_is_numbered_or_was_forbidden() {
    let mut table = Table::new(settings());
    let (mut id, _) = table.dialled(Input::Tick);
    for _ in 0..8 {
        table.quiet(Input::Failed(id, Failure::Refused));
        let State::Waiting { retry_at, .. } = table.claims.state() else { panic!("it waits") };
        table.wait(retry_at - table.now);
        id = table.dialled(Input::Tick).0;
    }
    table.quiet(Input::Failed(id, Failure::Refused));
    assert!(table.claims.next_deadline() > Some(table.now + 5 * SECOND), "longer than a client waits");
    id = table.dialled(Input::Wanted).0;
    table.quiet(Input::Wanted);
    table.says_hello(Input::Ready(id));
    table.quiet(Input::Answer(id, Answer::Denied));
    table.quiet(Input::Wanted);

    let mut table = Table::new(Settings { retry: Retry { attempts: Some(5), ..settings().retry }, ..settings() });
    let (id, _) = table.dialled(Input::Tick);
    table.quiet(Input::Failed(id, Failure::Refused));
    table.quiet(Input::Wanted);
}
