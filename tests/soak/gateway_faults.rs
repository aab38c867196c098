//! Faults of a gateway itself: killed, restarted in order, stopped and continued.

use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use super::config::DRAIN;
use super::faults::{Done, Lane, between};
use super::relay::How;
use super::verdict::complaint;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    Killed,
    Drained,
    Stopped,
}

use Gateway::{Drained, Killed, Stopped};

pub const ALL: [Gateway; 4] = [Killed, Drained, Stopped, Stopped];

/// Streams of a gateway that was killed are reset within this time of its return.
const AT_ONCE: Duration = Duration::from_secs(8);

pub async fn run(lane: &Lane, what: Gateway, rng: &mut Rng) -> Done {
    match what {
        Killed => ("gateway killed", kill(lane, rng).await),
        Drained => ("gateway restarted", drain(lane, rng).await),
        Stopped => {
            let gateway = lane.site.gateway(lane.place);
            gateway.signal(Signal::STOP);
            tokio::time::sleep(lane.tempo.stop(rng)).await;
            gateway.signal(Signal::CONT);
            ("gateway stopped", true)
        }
    }
}

/// Whether streams were cut by it.
async fn kill(lane: &Lane, rng: &mut Rng) -> bool {
    let gateway = lane.site.gateway(lane.place);
    lane.world().excuse(lane.place);
    gateway.signal(Signal::KILL);
    gateway.end(Duration::from_secs(10)).await;
    let old = lane.talks();
    tokio::time::sleep(between(rng, (0.0, lane.tempo.stop))).await;
    if !back(lane).await {
        return true;
    }
    // Never a silent gap, and no wait until the deadline of a resume: the new one says that it knows nobody.
    let since = Instant::now();
    let left = || old.iter().filter(|talk| lane.world().talk(talk.number).is_some()).collect::<Vec<_>>();
    while !left().is_empty() {
        if since.elapsed() > AT_ONCE {
            for talk in left() {
                talk.blame(lane.world(), &format!("not reset within {AT_ONCE:?} of the return of its killed gateway"));
                talk.give_up();
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    settled(lane).await;
    !old.is_empty()
}

/// Told to leave; most talks end by themselves meanwhile, the others are reset when its time is up.
async fn drain(lane: &Lane, rng: &mut Rng) -> bool {
    let gateway = lane.site.gateway(lane.place);
    lane.world().excuse(lane.place);
    gateway.signal(Signal::TERM);
    for talk in lane.talks() {
        if rng.u8(0..4) > 0 {
            let time = between(rng, (0.0, 3.0));
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                talk.finish.send_replace(true);
            });
        }
    }
    if rng.bool() {
        // A resume is accepted in drain.
        tokio::time::sleep(between(rng, (0.1, 2.0))).await;
        lane.site.relays[lane.place as usize].cut(How::Reset);
    }
    match gateway.end(Duration::from_secs(DRAIN + 15)).await {
        Some(status) if status.success() => {}
        Some(status) => lane.world().fail(format!("{} left with {status}", lane.place.name())),
        None => lane.world().fail(format!("{} does not leave within {} s", lane.place.name(), DRAIN + 15)),
    }
    if let Some(line) = complaint(&gateway.said()) {
        lane.world().fail(format!("{} said: {line}", lane.place.name()));
    }
    if back(lane).await {
        settled(lane).await;
    }
    true
}

async fn back(lane: &Lane) -> bool {
    let started = lane.site.restart_gateway(lane.place).await;
    if let Err(error) = &started {
        lane.world().fail(format!("{} does not start again: {error}", lane.place.name()));
    }
    started.is_ok()
}

/// The excuse ends when the links are up again, and nobody can be on one of the old ones.
async fn settled(lane: &Lane) {
    lane.site.until(Duration::from_secs(15), |sample| sample.up[lane.door() as usize] >= 2.0).await;
    lane.world().excuse_no_more(lane.place);
}
