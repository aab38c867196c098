//! Links as an aligned table, one line each.

use std::time::Duration;

use super::screen::Screen;
use crate::clock::short_span;
use crate::http::report::{DrillReport, LinkReport, Report, SessionReport, UpstreamReport};
use crate::log::printable;

const HEADS: [&str; 12] = [
    "UPSTREAM",
    "STATE",
    "LINK",
    "LINK STATE",
    "FOR",
    "ENDPOINT",
    "RTT",
    "MISSES",
    "RECONNECTS",
    "CLIENTS",
    "WAITING",
    "",
];
/// Its age changes each second, and its round trip with every beat: neither is news.
const RESTLESS: [usize; 2] = [4, 6];
const STATE: usize = 1;
const LINK_STATE: usize = 3;
const NOTE: usize = HEADS.len() - 1;
/// Between two columns, and before the first.
const GAP: usize = 2;

type Row = [String; HEADS.len()];

/// Left out one after the other where a terminal is too narrow.
const DISPENSABLE: [usize; 8] = [10, 7, 8, 2, 4, 9, 6, 5];

/// Every link of every upstream; a line that is not as in `before` is marked with `*`.
pub fn table(report: &Report, before: Option<&Report>, colours: bool, screen: Screen) -> String {
    let rows = rows(report);
    let old = before.map(self::rows);
    let heads: Row = HEADS.map(str::to_owned);
    let width = |column: usize| {
        let cells = rows.iter().map(|(_, row)| &row[column]).chain([&heads[column]]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let grid = Grid::new(std::array::from_fn(width), screen);
    let mut text = grid.line(' ', &heads, None);
    for (key, row) in &rows {
        let same = |(k, r): &&(Key, Row)| k == key && news(r) == news(row);
        let changed = old.as_ref().is_some_and(|old| !old.iter().any(|each| same(&each)));
        let painted = if colours { Some(changed) } else { None };
        text.push_str(&grid.line(if changed { '*' } else { ' ' }, row, painted));
    }
    if report.upstreams.is_empty() && report.gateway.is_none() {
        text.push_str("  no upstreams are configured\n");
    }
    text
}

/// Upstream and link.
type Key = (String, Option<u64>);

fn rows(report: &Report) -> Vec<(Key, Row)> {
    let mut rows = Vec::new();
    for upstream in &report.upstreams {
        let links: Vec<_> = upstream.links.iter().map(Some).collect();
        let links = if links.is_empty() { vec![None] } else { links };
        for (n, link) in links.into_iter().enumerate() {
            let key = (upstream.name.clone(), link.map(|link| link.id));
            rows.push((key, row(upstream, link, n == 0)));
        }
    }
    rows
}

/// `first`: the line that also tells of the upstream as a whole.
fn row(upstream: &UpstreamReport, link: Option<&LinkReport>, first: bool) -> Row {
    let once = |text: String| if first { text } else { String::new() };
    let of_link = |text: &dyn Fn(&LinkReport) -> String| link.map_or_else(|| "–".to_owned(), text);
    [
        once(printable(&upstream.name)),
        once(state(upstream).to_owned()),
        of_link(&|link| link.id.to_string()),
        of_link(&|link| printable(&link.state.replace('_', " "))),
        of_link(&|link| span(link.since_age_seconds)),
        of_link(&|link| link.endpoint.as_deref().map_or_else(|| "–".to_owned(), printable)),
        of_link(&|link| link.rtt_seconds.map_or_else(|| "–".to_owned(), span)),
        of_link(&|link| link.misses.to_string()),
        once(upstream.reconnects.to_string()),
        once(upstream.connections.open.to_string()),
        once(upstream.connections.waiting.to_string()),
        link.map_or_else(String::new, |link| note(upstream, link)),
    ]
}

fn state(upstream: &UpstreamReport) -> &'static str {
    match upstream {
        UpstreamReport { draining: true, .. } => "draining",
        UpstreamReport { up: true, .. } => "up",
        _ => "down",
    }
}

/// What is rehearsed on a link, what it waits for, and why.
fn note(upstream: &UpstreamReport, link: &LinkReport) -> String {
    let drill = upstream.drill.as_ref().filter(|drill| drill.link == link.id).map(drill_words);
    let retry = link.retry_in_seconds.map(|s| format!("retry in {}, attempt {}", span(s), link.attempt));
    // Of a link that is well, it is history.
    let before = if matches!(link.state.as_str(), "up" | "in_use") { "earlier: " } else { "" };
    let error = link.last_error.as_deref().map(|error| format!("{before}{}", printable(error)));
    let trouble = retry.into_iter().chain(error).collect::<Vec<_>>().join(": ");
    let session = link.session.as_ref().map(|session| format!("session {}", session_words(session)));
    drill.into_iter().chain(session).chain(Some(trouble).filter(|text| !text.is_empty())).collect::<Vec<_>>().join("; ")
}

/// `drill: delay of 200.0ms, 7.0s left`.
fn drill_words(drill: &DrillReport) -> String {
    let by = drill.by_seconds.map_or_else(String::new, |by| format!(" of {}", span(by)));
    format!("drill: {}{by}, {} left", printable(&drill.kind), span(drill.left_seconds))
}

/// `5e551011, 7 streams, 4.0KiB unacknowledged, 1 resume, the last outage 800.0ms`.
pub(super) fn session_words(session: &SessionReport) -> String {
    let many = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut words = vec![
        printable(&session.id),
        many(session.streams, "stream"),
        format!("{} unacknowledged", size(session.unacknowledged_bytes)),
    ];
    if session.resumes > 0 {
        words.push(many(session.resumes, "resume"));
    }
    if let Some(outage) = session.last_outage_seconds {
        words.push(format!("the last outage {}", span(outage)));
    }
    words.join(", ")
}

/// `4.0KiB`.
fn size(bytes: u64) -> String {
    let mut figure = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if figure < 1024.0 {
            return if unit == "B" { format!("{bytes}B") } else { format!("{figure:.1}{unit}") };
        }
        figure /= 1024.0;
    }
    format!("{figure:.1}TiB")
}

/// The cells whose change is worth a mark. Of a note only whether there is one: a wait runs down by itself.
fn news(row: &Row) -> Vec<&str> {
    let cells = row.iter().enumerate().filter(|(n, _)| !RESTLESS.contains(n));
    cells.map(|(n, cell)| if n == NOTE { if cell.is_empty() { "" } else { "note" } } else { cell }).collect()
}

fn span(seconds: f64) -> String {
    short_span(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// The columns that are shown, and how wide each is.
struct Grid {
    widths: [usize; HEADS.len()],
    shown: Vec<usize>,
    screen: Screen,
}

impl Grid {
    fn new(widths: [usize; HEADS.len()], screen: Screen) -> Self {
        let mut shown: Vec<usize> = (0..NOTE).collect();
        let total = |shown: &[usize]| shown.iter().map(|column| widths[*column] + GAP).sum::<usize>();
        for dispensable in DISPENSABLE {
            if total(&shown) > screen.columns {
                shown.retain(|column| *column != dispensable);
            }
        }
        Self { widths, shown, screen }
    }

    /// `painted`: with colours, and bold if it holds `true`. A note for which there is no room stands below.
    fn line(&self, mark: char, row: &Row, painted: Option<bool>) -> String {
        let (mut text, mut width) = (format!("{mark} "), GAP);
        for column in &self.shown {
            let cell = &row[*column];
            let gap = " ".repeat(self.widths[*column].saturating_sub(cell.chars().count()) + GAP);
            width += self.widths[*column] + GAP;
            match painted.and_then(|_| colour(*column, cell)) {
                Some(colour) => text.push_str(&format!("\x1b[{colour}m{cell}\x1b[39m{gap}")),
                None => text.push_str(&format!("{cell}{gap}")),
            }
        }
        let note = &row[NOTE];
        let below = if width + note.chars().count() <= self.screen.columns {
            text.push_str(note);
            String::new()
        } else {
            self.screen.wrap(&format!("      {note}"))
        };
        let text = text.trim_end();
        let text = if painted == Some(true) { format!("\x1b[1m{text}\x1b[0m\n") } else { format!("{text}\n") };
        text + &below
    }
}

fn colour(column: usize, cell: &str) -> Option<&'static str> {
    match (column, cell) {
        (STATE | LINK_STATE, "up" | "in use") => Some("32"),
        (LINK_STATE, "suspect" | "connecting") => Some("33"),
        (STATE, "down") | (LINK_STATE, "waiting" | "failed") => Some("31"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::http::{example, report::report};

    fn told() -> Report {
        report(&example::busy_status(), SystemTime::now())
    }

    fn marks(text: &str) -> Vec<bool> {
        text.lines().skip(1).map(|line| line.starts_with('*')).collect()
    }

    #[test]
    fn only_lines_with_news_are_marked() {
        let before = told();
        let mut now = before.clone();
        now.upstreams[0].links[0].since_age_seconds += 1.0;
        now.upstreams[0].links[0].rtt_seconds = Some(0.9);
        now.upstreams[0].links[1].retry_in_seconds = Some(1.0);
        assert_eq!(marks(&table(&now, Some(&before), false, Screen::ENDLESS)), [false, false]);
        now.upstreams[0].links[1].state = "up".to_owned();
        assert_eq!(marks(&table(&now, Some(&before), false, Screen::ENDLESS)), [false, true]);
        assert_eq!(marks(&table(&now, None, false, Screen::ENDLESS)), [false, false]);
    }

    #[test]
    fn colours_come_only_when_asked_for() {
        let plain = table(&told(), None, false, Screen::ENDLESS);
        let painted = table(&told(), None, true, Screen::ENDLESS);
        assert!(!plain.contains('\x1b'));
        assert!(painted.contains("\x1b[32mup\x1b[39m") && painted.contains("\x1b[31mwaiting\x1b[39m"), "{painted}");
    }

    #[test]
    fn an_upstream_without_links_and_none_at_all_have_a_line() {
        let mut report = told();
        report.upstreams[0].links.clear();
        assert!(
            table(&report, None, false, Screen::ENDLESS).contains("\n  chat      up     –"),
            "{}",
            table(&report, None, false, Screen::ENDLESS)
        );
        report.upstreams.clear();
        assert!(table(&report, None, false, Screen::ENDLESS).ends_with("no upstreams are configured\n"));
    }

    #[test]
    fn an_upstream_that_was_removed_is_not_shown_as_if_new_clients_could_come() {
        let status = example::busy_status();
        status.upstreams().values().next().expect("one").draining.store(true, std::sync::atomic::Ordering::Relaxed);
        let text = table(&report(&status, SystemTime::now()), None, true, Screen::ENDLESS);
        assert!(text.contains("\n  chat      draining  "), "{text}");
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns_and_notes_below() {
        for columns in [20, 40, 60, 80, 100, 120, 160] {
            let text = table(&told(), None, false, Screen { columns, rows: 24 });
            assert!(text.contains("UPSTREAM") && text.contains("STATE") && text.contains("refused"), "{text}");
            // The least that is shown is wider than the narrowest.
            let least = columns.max(36);
            assert!(text.lines().all(|line| line.chars().count() <= least), "{columns}:\n{text}");
        }
        let text = table(&told(), None, false, Screen { columns: 80, rows: 24 });
        let expected = "\n      retry in ";
        assert!(text.contains("RECONNECTS") || text.contains("RTT"), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
