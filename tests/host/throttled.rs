//! Hardly any processor: a pod whose limit is a twentieth of one.

use std::time::{Duration, Instant};

use super::groups::Group;
use crate::common::program::wait_until;
use crate::tunnel::road::{Plan, descriptors, memory};
use crate::tunnel::traffic::{Pace, Talk};

/// A budget of 4 s.
const BEATS: &str = "heartbeat = { interval = \"1s\", timeout = \"1s\", misses = 3 }\n\
     retry = { initial = \"100ms\", max = \"1s\", stable_after = \"1s\", connect_timeout = \"2s\" }\n";

#[test]
fn fault_60_a_twentieth_of_a_processor_is_slow_and_nobody_is_taken_for_dead() {
    // Declared first, dropped last.
    let groups = [Group::new("cpu"), Group::new("cpu")];
    let wrappers = groups.each_ref().map(Group::enter);
    let road =
        Plan { sidecar: BEATS, wrappers: wrappers.each_ref().map(|wrapper| &wrapper[..]), ..Plan::default() }.build();
    let before = road.held();
    let session = road.session();
    let talks = [Pace::BULK, Pace::CHAT].map(|pace| Talk::start(road.listener("echo"), pace));
    talks.iter().for_each(|talk| talk.until_moved(100_000));
    let used = [memory(road.sidecar.id()), memory(road.gateway().id())];
    let throttled = groups.each_ref().map(Group::throttled);
    let answered = || road.of("heartbeats_sent_total");
    groups.iter().for_each(|group| group.limit_processor(Some(5)));
    let (began, moved) = (Instant::now(), talks.each_ref().map(Talk::moved));
    // This fault is the passing of time: five budgets of it, and more on a host that others keep so busy that its own limit
    // seldom counts.
    std::thread::sleep(Duration::from_secs(20));
    let times = || groups.iter().zip(throttled).map(|(group, before)| group.throttled() - before).collect::<Vec<_>>();
    // Whoever waits for the other is held up less.
    wait_until("both were held up", || {
        let times = times();
        times.iter().all(|times| *times > 5) && times.iter().sum::<u64>() > 100
    });
    let times = times();
    println!(
        "held up {times:?} times in {:?}; {:?} bytes there and back, {} beats",
        began.elapsed(),
        [talks[0].moved() - moved[0], talks[1].moved() - moved[1]],
        answered()
    );
    for (talk, moved) in talks.iter().zip(moved) {
        assert!(talk.moved() > moved, "bytes move");
    }
    groups.iter().for_each(|group| group.limit_processor(None));
    let freed = Instant::now();
    talks.iter().for_each(|talk| talk.until_moved(100_000));
    println!("at full speed {:?} after", freed.elapsed());
    assert_eq!(road.losses(), 0.0, "nobody was taken for dead");
    assert_eq!((road.session(), road.of("link_reconnects_total")), (session, 0.0));
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    road.until_baseline(before);
    wait_until("memory", || {
        let now = [memory(road.sidecar.id()), memory(road.gateway().id())];
        now.iter().zip(used).all(|(now, used)| *now < used + (24 << 10))
    });
    assert!(descriptors(road.sidecar.id()) <= before.descriptors[0]);
}
