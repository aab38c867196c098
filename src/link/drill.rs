//! A rehearsed outage of one link: what may be asked for, who knows of it, and what a dial meets in it.
//!
//! One at a time for each upstream. It ends by itself, when told to, and with its link.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::dial::{DialError, Stage};
use crate::clock;
use crate::config::{duration, show_duration};
use crate::metrics::LinkState;
use crate::net::rehearsal::{Kind, OnItsWay, Rehearsal};
use crate::status::{DrillStatus, Event, UpstreamStatus};

/// How long it lasts unless said otherwise; a reset is over at once.
pub const TIME: Duration = Duration::from_secs(10);
/// How long it may last. Shorter is no outage, longer is forgotten.
pub const TIMES: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// How late bytes are unless said otherwise, each way.
pub const LATE: Duration = Duration::from_millis(200);
/// How late they may be. More is a black hole.
pub const LATES: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);

/// How long whoever asked waits for those whom it is about to take note.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(1);

/// What is to be rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub kind: Kind,
    /// Zero for a reset after which dials succeed.
    pub time: Duration,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Begin(Order),
    Stop,
}

impl Asked {
    /// As written on a command line: `what` is one of the four words, `time` and `by` are durations with their units.
    /// Errors: what is wrong with which of them.
    pub fn read(what: &str, time: Option<&str>, by: Option<&str>) -> Result<Self, String> {
        let time = time.map(|text| span("--for", text, TIMES)).transpose()?;
        let late = by.map(|text| span("--by", text, LATES)).transpose()?;
        if late.is_some() && what != "delay" {
            return Err(format!("--by says how late a delay makes every byte; {what} takes none"));
        }
        let begin = |kind, time| Ok(Self::Begin(Order { kind, time }));
        match what {
            "blackhole" => begin(Kind::Blackhole, time.unwrap_or(TIME)),
            "reset" => begin(Kind::Reset, time.unwrap_or_default()),
            "delay" => begin(Kind::Delay(late.unwrap_or(LATE)), time.unwrap_or(TIME)),
            "stop" if time.is_some() => Err("--for says how long a drill lasts; stop takes none".to_owned()),
            "stop" => Ok(Self::Stop),
            other => Err(format!("{other} is no drill: blackhole, reset and delay are, and stop ends one")),
        }
    }
}

fn span(option: &str, text: &str, range: std::ops::RangeInclusive<Duration>) -> Result<Duration, String> {
    let span = duration(text).map_err(|error| format!("{option} {text}: {error}"))?;
    if range.contains(&span) {
        return Ok(span);
    }
    let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
    Err(format!("{option} {text}: {least} to {most} is possible"))
}

/// `blackhole`, `reset`, `delay of 200ms`.
pub fn words(kind: Kind) -> String {
    match kind {
        Kind::Delay(by) => format!("delay of {}", show_duration(by)),
        other => name(other).to_owned(),
    }
}

/// The word of the command line.
pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Blackhole => "blackhole",
        Kind::Reset => "reset",
        Kind::Delay(_) => "delay",
    }
}

/// The first link that is up, of those that `may` have a drill, and where it leads.
/// Errors: there is none.
pub fn first_up(status: &UpstreamStatus, may: impl Fn(u64) -> bool) -> Result<(u64, String), String> {
    let links = status.links();
    let up = links.iter().filter(|link| may(link.id)).map(|link| (link.id, link.view()));
    let first = up.filter(|(_, view)| view.state == LinkState::Up).min_by_key(|(id, _)| *id);
    let found = first.and_then(|(id, view)| Some((id, view.endpoint.clone()?)));
    found.ok_or_else(|| format!("no link of {} is up: there is an outage already", status.name))
}

/// A drill that runs. It is over when this is dropped, at the latest.
pub struct Drill {
    status: Arc<UpstreamStatus>,
    shown: Arc<DrillStatus>,
    /// To its link.
    on_its_way: Option<OnItsWay>,
}

/// What is done for whoever asked for a drill.
#[derive(Debug)]
pub struct Begun {
    /// For people.
    pub told: String,
    rehearsal: Arc<Rehearsal>,
}

impl Begun {
    /// Ready when the link and the connections that it is about go through it. One that is too busy to look for a second is not
    /// waited for.
    pub async fn in_force(&self) {
        let _ = tokio::time::timeout(IN_FORCE_WITHIN, self.rehearsal.in_force()).await;
    }
}

impl Drill {
    /// Begins one, and shows and tells it. Errors: another one runs.
    pub fn begin(status: &Arc<UpstreamStatus>, link: u64, endpoint: String, order: Order) -> Result<Self, String> {
        // One that is over is replaced, and cleared away by its link in its own time.
        if let Some(running) = status.running_drill() {
            let left = show_left(&running);
            let what = words(running.rehearsal.kind());
            let name = &status.name;
            return Err(format!(
                "a drill of {name} is running: {what} on link {} for {left} more; `everlink drill {name} stop` ends it",
                running.link
            ));
        }
        let begun = SystemTime::now();
        let rehearsal = Rehearsal::new(order.kind, order.time);
        let shown = Arc::new(DrillStatus { link, endpoint, begun, until: begun + order.time, rehearsal });
        status.drill.store(Some(shown.clone()));
        status.metrics.drills.inc();
        let on_its_way = Some(shown.rehearsal.on_its_way());
        let drill = Self { status: status.clone(), shown, on_its_way };
        let what = words(order.kind);
        let lasts = if order.time.is_zero() { String::new() } else { format!(" for {}", show_duration(order.time)) };
        tracing::warn!(
            upstream = status.name,
            link,
            endpoint = drill.endpoint(),
            kind = name(order.kind),
            "drill begins: {what}{lasts}, on request"
        );
        drill.record("drill", format!("{what}{lasts}, on request"));
        Ok(drill)
    }

    pub fn link(&self) -> u64 {
        self.shown.link
    }

    /// The endpoint's name in the configuration.
    pub fn endpoint(&self) -> &str {
        &self.shown.endpoint
    }

    pub fn rehearsal(&self) -> &Arc<Rehearsal> {
        &self.shown.rehearsal
    }

    /// Its link goes through it.
    pub fn arrived(&mut self) {
        self.on_its_way = None;
    }

    /// What is done, for whoever asked. `carried`: what the link carries, as in `its 3 streams`.
    pub fn begun(&self, carried: &str) -> Begun {
        Begun { told: self.told(carried), rehearsal: self.rehearsal().clone() }
    }

    fn told(&self, carried: &str) -> String {
        let (name, link, endpoint) = (&self.status.name, self.link(), self.endpoint());
        let (kind, time) = (self.rehearsal().kind(), self.shown.until.duration_since(self.shown.begun));
        let time = show_duration(time.unwrap_or_default());
        match kind {
            Kind::Reset if self.shown.until == self.shown.begun => {
                format!("{name}: link {link} to {endpoint} is reset, with {carried}")
            }
            Kind::Reset => format!(
                "{name}: link {link} to {endpoint} is reset, with {carried}, and its dials there are refused for {time}; \
                 `everlink drill {name} stop` ends it sooner"
            ),
            kind => format!(
                "{name}: {} on link {link} to {endpoint} for {time}, with {carried}; `everlink drill {name} stop` ends it \
                 sooner",
                words(kind)
            ),
        }
    }

    fn record(&self, kind: &'static str, text: String) {
        let (link, endpoint) = (Some(self.link()), Some(self.endpoint().to_owned()));
        self.status.record(Event { at: SystemTime::now(), kind, link, endpoint, reason: None, text });
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        let gone = !self.rehearsal().is_over();
        self.rehearsal().end();
        // Unless the next one has begun by now.
        self.status.drill.compare_and_swap(&self.shown, None::<Arc<DrillStatus>>);
        self.status.metrics.drills.dec();
        if self.shown.until == self.shown.begun {
            return;
        }
        let what = words(self.rehearsal().kind());
        let why = if gone { ": its link is gone" } else { "" };
        tracing::info!(upstream = self.status.name, link = self.link(), "drill is over: {what}{why}");
        self.record("drill_over", format!("{what}{why}"));
    }
}

/// Ends the drill that runs; its link clears it away when it is woken. Returns what ended, for whoever asked.
/// Errors: none runs.
pub fn stop(status: &UpstreamStatus) -> Result<String, String> {
    let running = status.running_drill().ok_or_else(|| format!("no drill of {} is running", status.name))?;
    running.rehearsal.end();
    let ran = clock::short_span(running.begun.elapsed().unwrap_or_default());
    let what = words(running.rehearsal.kind());
    Ok(format!("{}: {what} on link {} to {} is over after {ran}", status.name, running.link, running.endpoint))
}

/// What is left of a drill's time, for people.
pub fn show_left(drill: &DrillStatus) -> String {
    let left = drill.until.duration_since(SystemTime::now()).unwrap_or_default();
    clock::short_span(left)
}

/// The way into an outage that a dial to `endpoint` takes: it waits for its end, is refused, or is late. Returns what is left
/// of `within`. Errors: as a network's.
pub async fn pass(rehearsal: &Rehearsal, endpoint: &str, within: Duration) -> Result<Duration, DialError> {
    let (endpoint, address) = (endpoint.to_owned(), "a drill".to_owned());
    if rehearsal.is_over() {
        return Ok(within);
    }
    let begun = Instant::now();
    let passed = match rehearsal.kind() {
        Kind::Blackhole => tokio::time::timeout(within, rehearsal.over()).await,
        // A connect is a round trip.
        Kind::Delay(by) => tokio::time::timeout(within, tokio::time::sleep(2 * by)).await,
        Kind::Reset => {
            return Err(DialError::Refused { endpoint, address, source: std::io::ErrorKind::ConnectionRefused.into() });
        }
    };
    match passed {
        Ok(()) => Ok(within.saturating_sub(begun.elapsed())),
        Err(_) => Err(DialError::Timeout { endpoint, address, stage: Stage::Connect, within }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(kind: Kind, ms: u64) -> Result<Asked, String> {
        Ok(Asked::Begin(Order { kind, time: Duration::from_millis(ms) }))
    }

    #[test]
    fn what_is_not_said_has_a_sane_value() {
        assert_eq!(Asked::read("blackhole", None, None), begin(Kind::Blackhole, 10_000));
        assert_eq!(Asked::read("blackhole", Some("1m30s"), None), begin(Kind::Blackhole, 90_000));
        assert_eq!(Asked::read("reset", None, None), begin(Kind::Reset, 0));
        assert_eq!(Asked::read("reset", Some("2s"), None), begin(Kind::Reset, 2_000));
        let late = |ms| Kind::Delay(Duration::from_millis(ms));
        assert_eq!(Asked::read("delay", None, None), begin(late(200), 10_000));
        assert_eq!(Asked::read("delay", Some("3s"), Some("1s")), begin(late(1_000), 3_000));
        assert_eq!(Asked::read("stop", None, None), Ok(Asked::Stop));
    }

    #[test]
    fn what_is_not_possible_is_told_with_what_is() {
        let wrong = |what, time, by| Asked::read(what, time, by).unwrap_err();
        assert!(wrong("blackhole", Some("10"), None).contains("\"10s\""), "{}", wrong("blackhole", Some("10"), None));
        assert_eq!(wrong("reset", Some("2h"), None), "--for 2h: 100ms to 1h is possible");
        assert_eq!(wrong("delay", None, Some("11s")), "--by 11s: 1ms to 10s is possible");
        assert!(wrong("reset", None, Some("1s")).contains("reset takes none"));
        assert!(wrong("stop", Some("1s"), None).contains("stop takes none"));
        assert!(wrong("flood", None, None).contains("blackhole, reset and delay"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_waits_for_the_end_of_a_black_hole_as_long_as_it_may() {
        let hole = Rehearsal::new(Kind::Blackhole, Duration::from_secs(3600));
        let within = Duration::from_secs(5);
        let late = pass(&hole, "a:1", within).await.unwrap_err();
        assert_eq!(late.outcome(), crate::metrics::DialOutcome::Timeout);
        let (passed, ()) = tokio::join!(pass(&hole, "a:1", within), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            hole.end();
        });
        assert!(passed.is_ok() && pass(&hole, "a:1", within).await.unwrap() == within);
        let reset = Rehearsal::new(Kind::Reset, Duration::from_secs(3600));
        let refused = pass(&reset, "a:1", within).await.unwrap_err();
        assert_eq!(refused.outcome(), crate::metrics::DialOutcome::Refused);
    }
}
