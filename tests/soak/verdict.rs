//! What must hold at the end, beside what each talk has checked.

use std::sync::atomic::Ordering;

use super::samples::{Record, Series, value};
use super::site::Site;
use super::soak::Rest;
use super::talk::Door;
use super::world::locked;

const TUNNELS: [Door; 3] = [Door::Left, Door::Right, Door::Both];

/// Descriptors that may be open in one rest and not in another: the scrapes of the moment, and the like.
const DESCRIPTORS: usize = 6;
/// Threads that read files for a reload, and go some seconds later.
const THREADS: u64 = 4;
/// KiB by which memory may differ between rests: buffers that the allocator keeps.
const MEMORY: u64 = 12 * 1024;

/// Everybody's counters agree with what the clients saw, and nothing grows from rest to rest.
pub fn at_rest(site: &Site, record: &Record, rests: &[Rest]) {
    let (world, series) = (&site.world, locked(&record.sidecar).clone());
    for door in Door::ALL {
        for (name, label) in [
            ("connections_refused_total", "reason=\"limit\""),
            ("connections_refused_total", "reason=\"link_down\""),
            ("connections_closed_total", "reason=\"resume_expired\""),
            ("connections_closed_total", "reason=\"idle\""),
            ("connections_closed_total", "reason=\"error\""),
            ("session_resumes_total", "outcome=\"expired\""),
            ("link_losses_total", "reason=\"protocol\""),
            ("link_dials_total", "outcome=\"denied\""),
            ("link_dials_total", "outcome=\"version\""),
        ] {
            let count = value(&series, name, label, door);
            if count != 0.0 {
                world.fail(format!("{name}{{{label}}} of {} is {count}", door.name()));
            }
        }
    }
    let gateways = record.gateways.each_ref().map(|gateway| locked(gateway).clone());
    for (who, series) in [("sidecar", &series), ("gateway a", &gateways[0]), ("gateway b", &gateways[1])] {
        for (name, count) in series {
            if (name.contains("violations_total") || name.contains("panics_total")) && *count != 0.0 {
                world.fail(format!("{name} of {who} is {count}"));
            }
        }
    }
    let closed = |reasons: &[&str]| reasons.iter().map(|reason| closed(&series, &TUNNELS, reason)).sum::<f64>();
    // Those on their way to a gateway when it is told to leave are taken.
    let refused = closed(&["service_refused"]);
    if refused != 0.0 {
        world.fail(format!("{refused} streams were refused, though every service is there"));
    }
    let counted = closed(&["gateway_restarted", "drained", "upstream_reset", "client_reset"]);
    let (seen, cut) = (world.tally.reset.load(Ordering::Relaxed), world.tally.cut_at_server.load(Ordering::Relaxed));
    // A client who had everything and has gone sees no reset, though his last words were still on their way.
    if !(seen as f64..=(seen + cut) as f64).contains(&counted) && world.failures().is_empty() {
        world.fail(format!("the clients of tunnels saw {seen} resets, and the sidecar has counted {counted}"));
    }
    growth(site, rests);
}

/// Connections that ended for this reason.
pub fn closed(series: &Series, doors: &[Door], reason: &str) -> f64 {
    doors.iter().map(|door| value(series, "connections_closed_total", &format!("reason=\"{reason}\""), *door)).sum()
}

/// Between the first rest after talks and the last. Gateways are others each time, and alike all the same.
fn growth(site: &Site, rests: &[Rest]) {
    let [_, middle @ .., last] = rests else { return };
    for (which, who) in ["sidecar", "gateway a", "gateway b"].into_iter().enumerate() {
        let (first, now) = (rests[0].usage[which], last.usage[which]);
        // Pipes and buffers that are kept for the next one are there after the first talks.
        let first_after = middle.first().map_or(now, |rest| rest.usage[which]);
        if now.descriptors > first_after.descriptors.max(first.descriptors) + DESCRIPTORS {
            let all: Vec<_> = rests.iter().map(|rest| rest.usage[which].descriptors).collect();
            site.world.fail(format!("descriptors of {who} in rests: {all:?}"));
        }
        if now.threads > first.threads + THREADS {
            site.world.fail(format!("threads of {who}: {} and then {}", first.threads, now.threads));
        }
        if now.memory > first_after.memory + MEMORY {
            let all: Vec<_> = rests.iter().map(|rest| rest.usage[which].memory).collect();
            site.world.fail(format!("memory of {who} in rests, KiB: {all:?}"));
        }
    }
}

/// The first line of a log that a healthy process does not write. A refused edit is told as an error, and was made on purpose.
pub fn complaint(log: &str) -> Option<&str> {
    let bad = |line: &&str| line.contains("panicked") || line.contains("\"level\":\"ERROR\"");
    log.lines().filter(bad).find(|line| !line.contains("configuration rejected"))
}
