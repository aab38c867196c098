//! A connection that is suspect.

use super::*;

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
