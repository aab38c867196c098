//! Links that come, leave, and are told to go.

use super::*;

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
