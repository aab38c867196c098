//! The picture of a run: links and faults, round trips, throughput, memory and descriptors over one time axis.

use super::chart::{Chart, Line, POINTS, Row, Scale, mean, most, thinned};
use super::faults::MET_NOBODY;
use super::samples::Sample;
use super::soak::Outcome;
use super::world::{Fault, Place};

/// What faults are alike, and the classes of their marks.
const GROUPS: [(&str, &str); 5] = [
    ("resets, ends, cuts", "f1"),
    ("silence", "f2"),
    ("slices, delay, slow path", "f3"),
    ("a process", "f5"),
    ("edits, certificates", "f6"),
];

fn group(fault: &Fault) -> usize {
    let kind = fault.kind;
    let has = |words: &[&str]| words.iter().any(|word| kind.contains(word));
    if has(&["gateway ", "sidecar stopped", "server", "beats"]) {
        3
    } else if has(&["silence", "forgotten"]) {
        1
    } else if has(&["slices", "delay", "slow"]) {
        2
    } else if fault.place == Place::Sidecar {
        4
    } else {
        0
    }
}

pub fn draw(outcome: &Outcome) -> String {
    let (samples, end) = (&outcome.samples, outcome.ran);
    let count = outcome.faults.iter().filter(|fault| fault.kind != MET_NOBODY).count();
    let bytes = samples.last().map_or(0, |sample| sample.moved.iter().sum::<u64>()) as f64 / 1e6;
    let lost = match outcome.failures.len() {
        0 => "none lost, doubled or reordered".to_owned(),
        failures => format!("{failures} failures"),
    };
    let title = format!("everlink under faults: seed {}, {count} faults, {bytes:.0} MB checked, {lost}", outcome.seed);
    let mut chart = Chart::new(&title, end);
    let mut legend: Vec<_> = GROUPS.iter().map(|(name, class)| (*name, (*class).to_owned())).collect();
    legend.extend(
        [("all links up", "good"), ("some", "fair"), ("none", "bad")].map(|(name, class)| (name, class.to_owned())),
    );
    let rows: Vec<_> = Place::ALL.into_iter().map(|place| row(outcome, place)).collect();
    chart.rows("Faults, and links below them", &legend, &rows);

    let seen = |of: &dyn Fn(&Sample) -> Option<f64>| -> Vec<(f64, f64)> {
        samples.iter().filter_map(|sample| Some((sample.at, of(sample)?))).collect()
    };
    let line = |name, colour, points| Line { name, colour, points };
    let answers = |of: &dyn Fn(&Sample) -> f64| seen(&|sample| (sample.answers.count > 0).then(|| of(sample) * 1e3));
    let lines = [
        line("slowest answer", 2, thinned(&answers(&|sample| sample.answers.max), most)),
        line("answers, mean", 1, thinned(&answers(&|sample| sample.answers.sum / sample.answers.count as f64), mean)),
        line("beats in tunnels, mean", 4, thinned(&seen(&|sample| sample.beat.map(|beat| beat * 1e3)), mean)),
    ];
    chart.panel("Round trip", 150.0, Scale::Log(0.1), "ms", &lines);

    let lines = [("tunnels, up", 1, 0), ("tunnels, down", 2, 1), ("direct, both ways", 3, 2)]
        .map(|(name, colour, which)| line(name, colour, rates(samples, which)));
    chart.panel("Checked bytes", 120.0, Scale::Log(0.01), "MB/s", &lines);

    let lines = [("sidecar", 1, 0), ("gateway a", 2, 1), ("gateway b", 3, 2)].map(|(name, colour, which)| {
        let points = seen(&|sample| Some(sample.usage[which].memory as f64 / 1024.0).filter(|memory| *memory > 0.0));
        line(name, colour, thinned(&points, most))
    });
    let kept = line("kept until acknowledged", 5, thinned(&seen(&|sample| Some(sample.kept / 1048576.0)), most));
    chart.panel("Memory", 120.0, Scale::Linear, "MiB", &lines.into_iter().chain([kept]).collect::<Vec<_>>());

    let lines = [("sidecar", 1, 0), ("gateway a", 2, 1), ("gateway b", 3, 2)].map(|(name, colour, which)| {
        let points = seen(&|sample| Some(sample.usage[which].descriptors as f64).filter(|count| *count > 0.0));
        line(name, colour, thinned(&points, most))
    });
    chart.panel("Open descriptors", 90.0, Scale::Linear, "", &lines);
    chart.finish()
}

/// MB a second, over a second at least: a scrape that had to wait is soon followed by the next.
fn rates(samples: &[Sample], which: usize) -> Vec<(f64, f64)> {
    let share = samples.last().map_or(0.0, |last| last.at / POINTS as f64).max(1.0);
    let mut rates = Vec::new();
    let mut from = samples.first();
    for now in samples {
        if let Some(before) = from.filter(|before| now.at - before.at >= share) {
            let bytes = now.moved[which].saturating_sub(before.moved[which]);
            rates.push((now.at, bytes as f64 / 1e6 / (now.at - before.at)));
            from = Some(now);
        }
    }
    rates
}

/// The faults of a place, and the links that lead there; for the sidecar, those to both gateways.
fn row(outcome: &Outcome, place: Place) -> Row<'static> {
    let mut marks: Vec<_> = GROUPS.iter().map(|(_, class)| ((*class).to_owned(), Vec::new())).collect();
    for fault in outcome.faults.iter().filter(|fault| fault.place == place && fault.kind != MET_NOBODY) {
        marks[group(fault)].1.push((fault.from, fault.until));
    }
    let state = |sample: &Sample| -> usize {
        let [left, right, both, direct] = sample.up;
        let (up, all) = match place {
            Place::A => (left, 2.0),
            Place::B => (right, 2.0),
            Place::Server => (direct, 3.0),
            Place::Sidecar => (both, 2.0),
        };
        if up >= all { 0 } else { 1 + usize::from(up < 1.0) }
    };
    let mut states: Vec<_> = ["good", "fair", "bad"].map(|class| (class.to_owned(), Vec::new())).into();
    let mut since: Option<(f64, usize)> = None;
    for sample in &outcome.samples {
        let now = state(sample);
        match since {
            Some((_, state)) if state == now => {}
            Some((from, state)) => {
                states[state].1.push((from, sample.at));
                since = Some((sample.at, now));
            }
            None => since = Some((0.0, now)),
        }
    }
    if let Some((from, state)) = since {
        states[state].1.push((from, outcome.ran));
    }
    Row { name: place.name(), states, marks }
}
