//! One run from its start to its verdict.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::child::{Usage, usage};
use super::faults::{self, Tempo};
use super::samples::{self, Record, Sample, Series, value};
use super::site::Site;
use super::talk::Door;
use super::world::{Fault, Phase, Place, World, locked};
use super::{clients, verdict};

#[derive(Debug, Clone)]
pub struct Options {
    pub duration: Duration,
    pub seed: u64,
    pub tempo: Tempo,
    /// Time between rests, in which everything must return to where it was.
    pub rest_every: Duration,
    /// The everlink that is to run.
    pub binary: PathBuf,
}

/// A look at a moment in which nobody talks.
#[derive(Debug, Clone, Copy)]
pub struct Rest {
    pub at: f64,
    pub usage: [Usage; 3],
}

/// All there is to tell of a run.
pub struct Outcome {
    pub seed: u64,
    /// Seconds of storms and rests.
    pub ran: f64,
    pub samples: Vec<Sample>,
    pub faults: Vec<Fault>,
    pub rests: Vec<Rest>,
    /// The sidecar's last metrics.
    pub series: Series,
    /// Beats that direct servers answered.
    pub beats: u64,
    /// Of this process: relays, servers and clients.
    pub own: Usage,
    pub world: Arc<World>,
    pub failures: Vec<String>,
    /// Where the configurations and logs are, if there is something to find out.
    pub directory: Option<PathBuf>,
}

/// Runs it. Errors: what kept it from starting.
pub async fn run(options: &Options) -> io::Result<Outcome> {
    let directory = tempfile::Builder::new().prefix("everlink-soak-").tempdir()?;
    let world = World::new(options.seed);
    let site = Site::start(&world, &options.binary, directory.path()).await?;
    let record = Arc::<Record>::default();
    let watching = tokio::spawn(samples::watch(site.clone(), record.clone(), options.tempo.look));
    if !site.until(Duration::from_secs(30), |sample| sample.up == [2.0, 2.0, 2.0, 3.0]).await {
        let up = site.latest.borrow().up;
        return Err(io::Error::other(format!("links up: {up:?}; {}", site.sidecar.said())));
    }
    let mut rests = vec![rest(&site).await];
    clients::start(&world, site.doors().await?);
    faults::start(&site, options.tempo);
    let end = Instant::now() + options.duration;
    while Instant::now() < end && !world.is_hopeless() {
        let left = end.saturating_duration_since(Instant::now());
        let storm = if left < options.rest_every + options.rest_every / 2 { left } else { options.rest_every };
        let until = Instant::now() + storm;
        while Instant::now() < until && !world.is_hopeless() {
            tokio::time::sleep(Duration::from_millis(200).min(until.saturating_duration_since(Instant::now()))).await;
            alive(&site);
        }
        world.phase.send_replace(Phase::Calm);
        rests.push(rest(&site).await);
        if Instant::now() < end {
            world.phase.send_replace(Phase::Storm);
        }
    }
    let ran = world.now();
    watching.abort();
    verdict::at_rest(&site, &record, &rests);
    let series = locked(&record.sidecar).clone();
    leave(&site).await;
    site.close_server();
    let failures = world.failures();
    let kept = (!failures.is_empty()).then(|| directory.keep());
    let own = usage("self");
    let samples = std::mem::take(&mut *locked(&record.samples));
    let faults = world.faults();
    let beats = site.beats.load(Ordering::Relaxed);
    Ok(Outcome {
        seed: options.seed,
        ran,
        samples,
        faults,
        rests,
        series,
        beats,
        own,
        world,
        failures,
        directory: kept,
    })
}

/// Nobody ends by himself.
fn alive(site: &Site) {
    if let Ok(Some(status)) = site.sidecar.ended() {
        site.world.fail(format!("the sidecar ended, {status}"));
        (0..100).for_each(|_| site.world.fail("and nothing goes on without it"));
    }
}

/// Waits until nobody talks and nothing goes wrong, and everything that talks took is given back.
async fn rest(site: &Site) -> Rest {
    let world = &site.world;
    let since = Instant::now();
    let mut told = false;
    while !world.talks().is_empty() || Place::ALL.iter().any(|place| world.is_busy(*place)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if since.elapsed() > Duration::from_secs(120) && !told {
            told = true;
            world.fail(format!("{} talks do not come to their end", world.talks().len()));
            world.talks().iter().for_each(|talk| talk.give_up());
        }
    }
    let all_up = |sample: &Sample| sample.up[..3] == [2.0, 2.0, 2.0] && sample.up[3] >= 3.0;
    if !site.until(Duration::from_secs(30), all_up).await {
        world.fail(format!("links up in a calm: {:?}", site.latest.borrow().up));
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let left = left_over(site).await;
        if left.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            world.fail(format!("left in a calm: {left:?}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // The least of some looks: scrapes and second connections come and go.
    let look = || [site.sidecar.usage(), site.gateway(Place::A).usage(), site.gateway(Place::B).usage()];
    let mut usage = look();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        for (least, now) in usage.iter_mut().zip(look()) {
            least.descriptors = least.descriptors.min(now.descriptors);
            *least = Usage { descriptors: least.descriptors, ..now };
        }
    }
    Rest { at: world.now(), usage }
}

/// What should be nought when nobody talks, and is not.
async fn left_over(site: &Site) -> BTreeMap<String, f64> {
    let mut left = BTreeMap::new();
    match site.sidecar.get("/metrics").await {
        Ok((200, text)) => {
            let series = samples::parse(&text);
            for door in Door::ALL {
                // The last beats and acknowledgements are not acknowledged for their own sake.
                for (name, allowed) in
                    [("connections", 0.0), ("connections_waiting", 0.0), ("session_unacknowledged_bytes", 600.0)]
                {
                    left.insert(format!("{name} {}", door.name()), value(&series, name, "", door) - allowed);
                }
            }
        }
        other => drop(left.insert(format!("no answer from the sidecar: {other:?}"), 1.0)),
    }
    for place in [Place::A, Place::B] {
        match site.gateway(place).get("/metrics").await {
            Ok((200, text)) => {
                let streams = samples::parse(&text).get("everlink_gateway_streams").copied();
                left.insert(format!("streams at {}", place.name()), streams.unwrap_or(1.0));
            }
            other => drop(left.insert(format!("no answer from {}: {other:?}", place.name()), 1.0)),
        }
    }
    left.retain(|_, value| *value > 0.0);
    left
}

/// Everybody is told to leave, and does so at once, in order.
async fn leave(site: &Site) {
    let (a, b) = (site.gateway(Place::A), site.gateway(Place::B));
    for (name, process) in [("sidecar", &site.sidecar), ("gateway a", &*a), ("gateway b", &*b)] {
        process.signal(Signal::TERM);
        match process.end(Duration::from_secs(30)).await {
            Some(status) if status.success() => {}
            ended => site.world.fail(format!("{name} left with {ended:?}")),
        }
        if let Some(line) = verdict::complaint(&process.said()) {
            site.world.fail(format!("{name} said: {line}"));
        }
    }
}
