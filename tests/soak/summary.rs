//! A run in numbers: as JSON, and as text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::samples::{Sample, Series, value};
use super::soak::Outcome;
use super::talk::{Door, Kind};
use super::world::{Place, locked};

const TUNNELS: [Door; 3] = [Door::Left, Door::Right, Door::Both];

pub fn of(outcome: &Outcome) -> Value {
    let (tally, series) = (&outcome.world.tally, &outcome.series);
    let load = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
    let talks: Map<String, Value> =
        Kind::NAMES.iter().zip(&tally.begun).map(|(name, count)| ((*name).to_owned(), json!(load(count)))).collect();
    let tunnels = |name: &str| TUNNELS.iter().map(|door| value(series, name, "", *door)).sum::<f64>();
    let labelled = |name: &str, label: &str, doors: &[Door]| by_label(series, name, label, doors);
    let (outages, outage_seconds) = (tunnels("session_outage_seconds_count"), tunnels("session_outage_seconds_sum"));
    json!({
        "seed": outcome.seed,
        "seconds": rounded(outcome.ran),
        "verdict": if outcome.failures.is_empty() { "nothing lost, doubled, late or left over" } else { "FAILED" },
        "failures": outcome.failures,
        "faults": faults(outcome),
        "talks": {
            "begun": talks,
            "finished": load(&tally.finished),
            "reset_with_their_gateway": load(&tally.reset),
            "reset_in_direct_mode": load(&tally.reset_direct),
            "reset_by_a_kernel_without_memory": load(&tally.starved),
        },
        "checked_bytes": {
            "tunnel_up": load(&tally.tunnel[0]),
            "tunnel_down": load(&tally.tunnel[1]),
            "direct": load(&tally.direct[0]) + load(&tally.direct[1]),
        },
        "answers_ms": quantiles(locked(&tally.answers).iter().map(|seconds| f64::from(*seconds) * 1e3).collect()),
        "tunnel": {
            "losses": labelled("link_losses_total", "reason", &TUNNELS),
            "resumes": labelled("session_resumes_total", "outcome", &TUNNELS),
            "streams_saved": tunnels("session_streams_saved_total"),
            "replayed_bytes": tunnels("session_replayed_bytes_total"),
            "mean_outage_seconds": rounded(outage_seconds / outages.max(1.0)),
            "closed": labelled("connections_closed_total", "reason", &TUNNELS),
        },
        "direct": {
            "losses": labelled("link_losses_total", "reason", &[Door::Direct]),
            "closed": labelled("connections_closed_total", "reason", &[Door::Direct]),
            "beats_answered": outcome.beats,
        },
        "rests": outcome.rests.iter().map(|rest| json!({
            "at": rounded(rest.at),
            "memory_kib": rest.usage.map(|usage| usage.memory),
            "descriptors": rest.usage.map(|usage| usage.descriptors),
            "threads": rest.usage.map(|usage| usage.threads),
        })).collect::<Vec<_>>(),
        "memory_peak_kib": [peak(&outcome.samples, 0), peak(&outcome.samples, 1), peak(&outcome.samples, 2)],
        "cpu_percent_of_a_core": {
            "sidecar": percent(cpu(&outcome.samples, 0), outcome.ran),
            "gateways": percent(cpu(&outcome.samples, 1) + cpu(&outcome.samples, 2), outcome.ran),
            "relays_servers_and_clients": percent(outcome.own.cpu, outcome.ran),
        },
        "samples": outcome.samples.len(),
    })
}

/// By place and kind: how many, and how long until bytes moved again.
fn faults(outcome: &Outcome) -> Value {
    let mut places = Map::new();
    for place in Place::ALL {
        let mut kinds = BTreeMap::<&str, (u64, Vec<f64>)>::new();
        for fault in outcome.faults.iter().filter(|fault| fault.place == place) {
            let (count, recoveries) = kinds.entry(fault.kind).or_default();
            *count += 1;
            recoveries.extend(fault.recovery);
        }
        let kinds: Map<_, _> = kinds
            .into_iter()
            .map(|(kind, (count, times))| {
                (kind.to_owned(), json!({ "count": count, "moves_again_ms": quantiles(times) }))
            })
            .collect();
        places.insert(place.name().to_owned(), kinds.into());
    }
    places.into()
}

/// Counts that are not nought, by the value of a label.
fn by_label(series: &Series, name: &str, label: &str, doors: &[Door]) -> Value {
    let mut counts = BTreeMap::<String, f64>::new();
    for (text, count) in series {
        let Some(labels) = text.strip_prefix(&format!("everlink_{name}{{")) else { continue };
        let get = |wanted: &str| {
            let pairs = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(key, _)| *key == wanted).map(|(_, value)| value.trim_matches('"').to_owned())
        };
        let here = get("upstream").is_some_and(|upstream| doors.iter().any(|door| door.name() == upstream));
        if let (true, Some(value)) = (here && *count > 0.0, get(label)) {
            *counts.entry(value).or_default() += count;
        }
    }
    json!(counts)
}

fn quantiles(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get(((values.len() as f64 - 1.0) * share).round() as usize).copied().map(rounded);
    json!({ "count": values.len(), "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

fn percent(seconds: f64, of: f64) -> f64 {
    rounded(100.0 * seconds / of)
}

fn peak(samples: &[Sample], which: usize) -> u64 {
    samples.iter().map(|sample| sample.usage[which].memory).max().unwrap_or_default()
}

/// Seconds of all processes that were there in turn.
fn cpu(samples: &[Sample], which: usize) -> f64 {
    let (mut sum, mut last) = (0.0, 0.0);
    for now in samples.iter().map(|sample| sample.usage[which].cpu) {
        sum += if now < last { now } else { now - last };
        last = now;
    }
    sum
}

/// The same for people.
pub fn text(summary: &Value) -> String {
    let mut text = String::new();
    let bytes = &summary["checked_bytes"];
    let mega = |value: &Value| value.as_f64().unwrap_or_default() / 1e6;
    let _ = writeln!(
        text,
        "{}: {} s, seed {}",
        summary["verdict"].as_str().unwrap_or_default(),
        summary["seconds"],
        summary["seed"]
    );
    let failures = summary["failures"].as_array().into_iter().flatten();
    for failure in failures {
        let _ = writeln!(text, "  failed at {}", failure.as_str().unwrap_or_default());
    }
    let _ = writeln!(
        text,
        "checked: {:.1} MB up and {:.1} MB down through tunnels, {:.1} MB directly",
        mega(&bytes["tunnel_up"]),
        mega(&bytes["tunnel_down"]),
        mega(&bytes["direct"])
    );
    for part in ["talks", "answers_ms", "tunnel", "direct", "memory_peak_kib", "cpu_percent_of_a_core"] {
        let _ = writeln!(text, "{part}: {}", summary[part]);
    }
    text += "faults, and milliseconds until bytes moved again (p50 / max):\n";
    for (place, kinds) in summary["faults"].as_object().into_iter().flatten() {
        for (kind, fault) in kinds.as_object().into_iter().flatten() {
            let (again, count) = (&fault["moves_again_ms"], &fault["count"]);
            let times =
                if again["count"] == 0 { String::new() } else { format!("{} / {}", again["p50"], again["max"]) };
            let _ = writeln!(text, "  {place:14} {kind:30} {count:>4}  {times}");
        }
    }
    for rest in summary["rests"].as_array().into_iter().flatten() {
        let _ =
            writeln!(text, "rest at {} s: {} KiB, {} descriptors", rest["at"], rest["memory_kib"], rest["descriptors"]);
    }
    text
}
