//! Links that come, leave, and are told to go.

use super::*;
use crate::session::hello::Token;
use crate::upstream::{self, Files, Surroundings};

#[tokio::test]
async fn a_link_that_leaves_ends_with_its_last_stream() {
    let stage = Stage::up().await;
    let client = stage.carried().await;
    let old = stage.slot();
    old.tell(order::DRAIN);
    eventually("another link stands", || stage.hub.slots().iter().any(|slot| slot.id != old.id && slot.is_open()))
        .await;
    assert!(stage.hub.slots().iter().any(|slot| slot.id == old.id), "its stream stays");
    drop(client);
    // Long before the drain is over.
    let begun = Instant::now();
    eventually("the old link is gone", || stage.hub.slots().iter().all(|slot| slot.id != old.id)).await;
    assert!(begun.elapsed() < *stage.drain.borrow() / 2);
    stage.is_quiet().await;
}

#[tokio::test]
async fn fault_61_a_keeper_that_is_started_again_begins_anew_and_nobody_is_counted_for_ever() {
    let stage = Stage::up().await;
    let mut client = stage.carried().await;
    let old = stage.slot();
    stage.keeper.abort();
    assert!(client.read_u8().await.is_err());
    stage.is_gone(&old).await;
    assert_eq!(stage.closed(CloseReason::Error), 1);
    tokio::spawn(Keeper::new(stage.hub.clone(), stage.drain.subscribe()).run(stage.stop.clone()));
    stage.has_another(&old).await;
    assert_ne!(stage.slot().id, old.id);
    assert_eq!(stage.hub.status.links().len(), 1);
    drop(stage.carried().await);
    stage.is_quiet().await;
}

#[tokio::test]
async fn an_edit_that_brings_the_right_token_revives_a_link_that_had_failed() {
    let stage = Stage::set().await;
    let mut settings = config::Upstream { name: "other".to_owned(), ..config::Upstream::clone(&stage.hub.current()) };
    settings.retry.attempts = Some(1);
    let token = |text: &str| Some(Arc::new(Token::new(text.as_bytes()).expect("long enough")));
    let around = Surroundings {
        status: &stage.hub.process,
        resolver: &Resolver::default(),
        workers: &[Handle::current()],
        drain: stage.drain.subscribe(),
    };
    let wrong = Files { tls: None, token: token("not what the gateway has") };
    let wing = upstream::start(&Arc::new(settings), wrong, around);
    let links = |state: LinkState| wing.status().metrics.links[state.index()].get();
    eventually("it has failed", || links(LinkState::Failed) == 1).await;
    wing.take_files(Files { tls: None, token: token(TOKEN) });
    eventually("it is up", || links(LinkState::Up) == 1).await;
    wing.remove();
}
