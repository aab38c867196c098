//! A connection that is lost.

use super::*;

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
