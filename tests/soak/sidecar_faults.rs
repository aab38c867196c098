//! Faults of the sidecar: stopped and continued, edits good and bad, storms of reloads, renewed certificates.

use std::io;
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;

use super::faults::{Done, Lane};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sidecar {
    Stopped,
    Retuned,
    Retry,
    BadEdit,
    Storm,
    OwnCertificate,
    GatewayCertificate,
}

use Sidecar::{BadEdit, GatewayCertificate, OwnCertificate, Retry, Retuned, Stopped, Storm};

pub const ALL: [Sidecar; 8] = [Stopped, Stopped, Retuned, Retry, BadEdit, Storm, OwnCertificate, GatewayCertificate];

/// An edit is in force, or refused, within this time.
const SOON: Duration = Duration::from_secs(15);

pub async fn run(lane: &mut Lane, what: Sidecar, rng: &mut Rng) -> Done {
    let done = match what {
        Stopped => {
            lane.site.sidecar.signal(Signal::STOP);
            tokio::time::sleep(lane.tempo.stop(rng)).await;
            lane.site.sidecar.signal(Signal::CONT);
            Ok(("sidecar stopped", true))
        }
        Retuned => {
            lane.tuning.retune(rng);
            edit(lane).await.map(|taken| ("heartbeat edited", taken))
        }
        Retry => {
            lane.tuning.retry(rng);
            edit(lane).await.map(|taken| ("retry edited", taken))
        }
        BadEdit => bad_edit(lane).await.map(|taken| ("bad edit", taken)),
        Storm => storm(lane, rng).await.map(|taken| ("reload storm", taken)),
        OwnCertificate => {
            lane.site.trust.renew("sidecar", &["sidecar-a"]).map(|()| ("sidecar's certificate renewed", true))
        }
        GatewayCertificate => {
            let names = ["127.0.0.1", "localhost"];
            lane.site.trust.renew("gateway", &names).map(|()| ("gateways' certificate renewed", true))
        }
    };
    match done {
        Ok((kind, true)) => (kind, true),
        Ok((kind, false)) => {
            lane.world().fail(format!("not seen within {SOON:?}: {kind}"));
            (kind, false)
        }
        Err(error) => {
            lane.world().fail(format!("{what:?} could not be done: {error}"));
            ("not done", false)
        }
    }
}

async fn edit(lane: &Lane) -> io::Result<bool> {
    let generation = lane.site.latest.borrow().generation;
    lane.site.configure(&lane.tuning)?;
    Ok(lane.site.until(SOON, |sample| sample.generation > generation).await)
}

async fn bad_edit(lane: &Lane) -> io::Result<bool> {
    let rejected = lane.site.latest.borrow().rejected;
    lane.site.sidecar.edit("[upstreams.left]\nmode = \"tunnel\"\nheartbeet = { interval = \"1s\" }\n")?;
    let told = lane.site.until(SOON, |sample| sample.rejected > rejected).await;
    lane.site.configure(&lane.tuning)?;
    Ok(told)
}

async fn storm(lane: &mut Lane, rng: &mut Rng) -> io::Result<bool> {
    let generation = lane.site.latest.borrow().generation;
    for _ in 0..rng.u32(20..80) {
        lane.tuning.retune(rng);
        lane.site.configure(&lane.tuning)?;
        lane.site.sidecar.signal(Signal::HUP);
        tokio::time::sleep(Duration::from_millis(rng.u64(1..40))).await;
    }
    Ok(lane.site.until(SOON, |sample| sample.generation > generation).await)
}
