//! One event, one line: as text for people, as JSON for machines.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::escape::{VALUE_LIMIT, json_string, visible};
use crate::clock::rfc3339;

/// Our own sentences are longer than a field, but have an end too.
const MESSAGE_LIMIT: usize = 2048;

/// Writes events in the form chosen at this moment.
pub struct Shape {
    pub json: Arc<AtomicBool>,
    /// Colour the level of a text line.
    pub colours: bool,
}

impl<S, N> FormatEvent<S, N> for Shape
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans: Vec<_> = context
            .event_scope()
            .into_iter()
            .flat_map(|scope| scope.from_root())
            .map(|span| match span.extensions().get::<FormattedFields<N>>() {
                Some(told) if !told.is_empty() => format!("{}{{{told}}}", span.name()),
                _ => span.name().to_owned(),
            })
            .collect();
        let (level, target) = (event.metadata().level(), event.metadata().target());
        let line = if self.json.load(Ordering::Relaxed) {
            json_line(SystemTime::now(), level, target, &fields, &spans)
        } else {
            text_line(SystemTime::now(), level, target, &fields, &spans, self.colours)
        };
        writeln!(out, "{line}")
    }
}

/// An event's fields in their order, the message apart.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

enum Value {
    /// Written as it is in either form.
    Bare(String),
    Text(String),
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Bare(text) | Value::Text(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.add(field, Value::Text(short_time(&text).unwrap_or(text)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(value.to_owned()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, Value::Text(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity.
        let bare = value.is_finite();
        self.add(field, if bare { Value::Bare(value.to_string()) } else { Value::Text(value.to_string()) });
    }
}

/// A time as a [`Duration`](std::time::Duration) prints itself, with three digits that count: `5.37ms` for `5.371542ms`.
/// `None`: it is none, or short already.
fn short_time(text: &str) -> Option<String> {
    let unit = ["ns", "µs", "ms", "s"].into_iter().find(|unit| text.ends_with(unit))?;
    let (whole, fraction) = text.strip_suffix(unit)?.split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let kept = 3_usize.saturating_sub(whole.len());
    if !digits(whole) || !digits(fraction) || fraction.len() <= kept {
        return None;
    }
    let number: f64 = format!("{whole}.{fraction}").parse().ok()?;
    let mut short = format!("{number:.kept$}");
    if short.contains('.') {
        short.truncate(short.trim_end_matches('0').trim_end_matches('.').len());
    }
    Some(short + unit)
}

fn json_line(at: SystemTime, level: &Level, target: &str, fields: &Fields, spans: &[String]) -> String {
    let mut line = format!(
        r#"{{"timestamp":"{}","level":"{level}","target":{},"message":{}"#,
        rfc3339(at),
        json_string(target, VALUE_LIMIT),
        json_string(&fields.message, MESSAGE_LIMIT)
    );
    // Writing into a String cannot fail, here and below.
    for (name, value) in &fields.others {
        let _ = match value {
            Value::Bare(text) => write!(line, r#","{name}":{text}"#),
            Value::Text(text) => write!(line, r#","{name}":{}"#, json_string(text, VALUE_LIMIT)),
        };
    }
    if !spans.is_empty() {
        let spans: Vec<_> = spans.iter().map(|span| json_string(span, VALUE_LIMIT)).collect();
        let _ = write!(line, r#","spans":[{}]"#, spans.join(","));
    }
    line.push('}');
    line
}

fn text_line(at: SystemTime, level: &Level, target: &str, fields: &Fields, spans: &[String], colours: bool) -> String {
    let colour = match *level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        Level::DEBUG => "34",
        Level::TRACE => "35",
    };
    let level = if colours { format!("\x1b[{colour}m{level:>5}\x1b[0m") } else { format!("{level:>5}") };
    let mut line = format!("{} {level} {target}: {}", rfc3339(at), visible(&fields.message, MESSAGE_LIMIT));
    for (name, value) in &fields.others {
        let _ = match value {
            Value::Bare(text) => write!(line, " {name}={text}"),
            Value::Text(text) => write!(line, " {name}={}", quoted(text)),
        };
    }
    for span in spans {
        let _ = write!(line, " in {}", visible(span, VALUE_LIMIT));
    }
    line
}

/// Bare if it cannot be taken for anything else, else in quotes.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.:/[]@+%,*~".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return visible(text, VALUE_LIMIT);
    }
    format!("\"{}\"", super::escape(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(message: &str, others: Vec<(&'static str, Value)>) -> Fields {
        Fields { message: message.to_owned(), others }
    }

    fn text(value: &str) -> Value {
        Value::Text(value.to_owned())
    }

    #[test]
    fn a_text_line_is_one_line_whatever_a_peer_says() {
        let forged = "bye\" reason=none\n2026-01-01T00:00:00Z ERROR everlink: all is lost \x1b[2J";
        let fields = fields(
            "link lost",
            vec![("upstream", text("chat")), ("reason", text(forged)), ("misses", Value::Bare("3".into()))],
        );
        assert_eq!(
            text_line(SystemTime::UNIX_EPOCH, &Level::WARN, "everlink::link", &fields, &[], false),
            "1970-01-01T00:00:00.000000Z  WARN everlink::link: link lost upstream=chat reason=\"bye\\\" \
             reason=none\\n2026-01-01T00:00:00Z ERROR everlink: all is lost \\x1b[2J\" misses=3"
        );
    }

    #[test]
    fn times_have_three_digits_that_count() {
        use std::time::Duration;
        for (nanos, shown) in [
            (5_371_542, "5.37ms"),
            (9_839_949_111, "9.84s"),
            (98_456_000_000, "98.5s"),
            (345_678_901, "346ms"),
            (3_725_123_000_000, "3725s"),
            (9_999_999_999, "10s"),
            (4_999_900, "5ms"),
            (1_500_000_000, "1.5s"),
            (7_250, "7.25µs"),
            (60_000_000_000, "60s"),
            (12, "12ns"),
            (0, "0ns"),
        ] {
            let text = format!("{:?}", Duration::from_nanos(nanos));
            assert_eq!(short_time(&text).unwrap_or(text), shown);
        }
        for text in ["1.2345", "s", ".5555s", "1.s", "a.1234s", "10.0.0.1s", "orders.1234567s", "-1.2345s", ""] {
            assert_eq!(short_time(text), None, "{text}");
        }
    }

    #[test]
    fn a_json_line_is_json_whatever_a_peer_says() {
        let forged = "x\",\"level\":\"ERROR\n\x1b\u{9b}";
        let fields = fields("two\nlines", vec![("reason", text(forged)), ("ok", Value::Bare("true".into()))]);
        let line = json_line(SystemTime::UNIX_EPOCH, &Level::INFO, "everlink", &fields, &["link{id=1}".to_owned()]);
        assert_eq!(
            line,
            r#"{"timestamp":"1970-01-01T00:00:00.000000Z","level":"INFO","target":"everlink","message":"two\nlines","reason":"x\",\"level\":\"ERROR\n\u001b\u009b","ok":true,"spans":["link{id=1}"]}"#
        );
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["reason"], forged);
    }

    #[test]
    fn only_what_could_be_misread_is_quoted() {
        assert_eq!(quoted("10.0.0.1:8080"), "10.0.0.1:8080");
        assert_eq!(quoted("[::1]:80"), "[::1]:80");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("a=b"), "\"a=b\"");
    }
}
