//! The outages of each upstream, a line each, below the table of links.

use std::fmt::Write;
use std::time::Duration;

use crate::clock::short_span;
use crate::http::report::{Report, UpstreamReport};
use crate::log::printable;

/// Of every upstream that has had one, or has never been up; empty if there is none.
pub fn outages(report: &Report) -> String {
    let mut text = String::new();
    for (upstream, words) in report.upstreams.iter().filter_map(|upstream| Some((upstream, words(upstream)?))) {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{}: {words}", printable(&upstream.name));
    }
    text
}

fn words(upstream: &UpstreamReport) -> Option<String> {
    let span = |seconds: f64| short_span(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let Some(last) = upstream.outages.last() else {
        // An everlink that tells no `added` is an older one, and knows of outages alone.
        let never = !upstream.up && upstream.first_up.is_none() && !upstream.added.is_empty();
        return never.then(|| format!("not up yet, for {}", span(upstream.added_age_seconds)));
    };
    let length = span(last.duration_seconds);
    let which = match upstream.outages_total {
        0 | 1 => "outage".to_owned(),
        total => format!("{total} outages, without a link for {} in all; the last", span(upstream.downtime_seconds)),
    };
    let when = match last.until {
        None => format!("for {length} now"),
        Some(_) => format!("of {length}, until {} ago", span(last.from_age_seconds - last.duration_seconds)),
    };
    let why = if last.reason.is_empty() { String::new() } else { format!(": {}", printable(&last.reason)) };
    Some(format!("{which} {when}{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::report::OutageReport;

    fn outage(from_age_seconds: f64, duration_seconds: f64, until: Option<&str>) -> OutageReport {
        let reason = "no beat\x1b[2J".to_owned();
        OutageReport {
            from_age_seconds,
            duration_seconds,
            until: until.map(str::to_owned),
            reason,
            ..Default::default()
        }
    }

    fn told(upstream: UpstreamReport) -> String {
        outages(&Report { upstreams: vec![upstream], ..Report::default() })
    }

    #[test]
    fn the_last_outage_is_told_with_how_many_there_were() {
        let one = UpstreamReport {
            name: "chat".to_owned(),
            up: true,
            outages_total: 1,
            outages: vec![outage(200.0, 5.8, Some("then"))],
            ..Default::default()
        };
        assert_eq!(told(one.clone()), "chat: outage of 5.8s, until 3m14s ago: no beat\\x1b[2J\n");
        let more = UpstreamReport {
            outages_total: 3,
            downtime_seconds: 75.0,
            outages: vec![outage(8.0, 8.0, None)],
            up: false,
            ..one
        };
        assert_eq!(
            told(more),
            "chat: 3 outages, without a link for 1m15s in all; the last for 8.0s now: no beat\\x1b[2J\n"
        );
    }

    #[test]
    fn one_that_was_never_up_says_so_and_one_that_is_well_says_nothing() {
        let well = UpstreamReport { name: "a".to_owned(), up: true, added: "then".to_owned(), ..Default::default() };
        assert_eq!(told(well.clone()), "");
        let never = UpstreamReport { up: false, added_age_seconds: 12.0, ..well };
        assert_eq!(told(never.clone()), "a: not up yet, for 12s\n");
        assert_eq!(told(UpstreamReport { added: String::new(), ..never }), "", "told by an older everlink");
    }
}
