//! Moves and ends on purpose.

use super::*;

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
