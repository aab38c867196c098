//! From text to a tree of values with their places, and every mistake in the syntax.

use std::collections::HashSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::report::{Basis, Problem};
use super::source::Source;

/// How often a line that stops the parser is blanked to see what follows it: each time the rest is read once more.
const RETRIES: usize = 4;

/// A file with more mistakes than this is no configuration; the rest is not told.
const MISTAKES_MAX: usize = 200;

/// Of a longer text that is not TOML only the first mistake is told: the parser keeps some hundred bytes for each, and a
/// mebibyte of garbage would take a quarter of a gibibyte from a process that is running.
const SEARCHED_MAX: usize = 32 * 1024;

const NO_VALUE: &str = "key with no value";

const YAML: &str = "this looks like YAML: a configuration is TOML";
const JSON: &str = "this looks like JSON: a configuration is TOML";

/// A configuration for a start.
pub(super) const LEAST: &str = "\
[upstreams.orders]
listen = \"127.0.0.1:7001\"
endpoints = [\"orders.internal:9000\"]";

/// A mistake, as the parser tells it.
#[derive(Clone)]
struct Mistake {
    span: Range<usize>,
    message: String,
}

impl From<&Error> for Mistake {
    fn from(error: &Error) -> Self {
        Self { span: error.span().unwrap_or(0..0), message: error.message().to_owned() }
    }
}

/// What a text gives.
pub(super) struct Parsed<'t> {
    /// Values the parser could not read are in it as it guessed them.
    pub tree: Spanned<DeTable<'t>>,
    pub problems: Vec<Problem>,
    /// From this line on the parser took everything for part of a list that is never closed.
    pub lost_from: Option<usize>,
    /// Lines of tables whose name could not be read.
    pub homeless: Vec<Range<usize>>,
}

/// Text in which the lines that stop the parser are blanked, so that what follows can be read too.
pub(super) struct Readable {
    text: String,
    mistakes: Vec<Mistake>,
}

impl Readable {
    /// Finds the text that can be parsed to its end.
    pub fn new(source: &Source) -> Self {
        if let Some(mistake) = foreign(source) {
            return Self { text: String::new(), mistakes: vec![mistake] };
        }
        if source.text.len() > SEARCHED_MAX
            && let Err(error) = DeTable::parse(&source.text)
        {
            let mut first = Mistake::from(&error);
            if first.message.starts_with(NO_VALUE) {
                first.message = "this line is no `key = value`".to_owned();
            }
            return Self { text: String::new(), mistakes: vec![first] };
        }
        let mut readable = Self { text: source.text.clone(), mistakes: Vec::new() };
        // Where the parser stops, a statement ends, so what follows is read like a file of its own.
        let mut from = 0;
        for _ in 0..RETRIES {
            let (_, errors) = DeTable::parse_recoverable(&readable.text[from..]);
            if errors.len() > MISTAKES_MAX {
                readable.cut(source, from, &errors);
                break;
            }
            // Of all mistakes only this one makes the parser leave the rest of the file alone.
            let stop = errors.iter().find(|error| error.message().starts_with(NO_VALUE));
            let Some(stop) = stop.and_then(Error::span) else { break };
            let line = source.range_of(source.line_of((from + stop.start).min(readable.text.len())));
            if readable.text[line.clone()].trim().is_empty() {
                break;
            }
            let start = line.start + first_word(&readable.text[line.clone()]);
            let span = start..line.end;
            readable.mistakes.push(Mistake { span, message: "this line is no `key = value`".to_owned() });
            from = line.end;
            let blank = " ".repeat(line.len());
            readable.text.replace_range(line, &blank);
        }
        readable
    }

    /// Leaves off what follows the last mistake that is told, so that garbage is read once and not twice.
    fn cut(&mut self, source: &Source, from: usize, errors: &[Error]) {
        let mut starts: Vec<usize> = errors.iter().filter_map(Error::span).map(|span| from + span.start).collect();
        starts.sort_unstable();
        if let Some(last) = starts.get(MISTAKES_MAX) {
            self.text.truncate(source.range_of(source.line_of(*last)).end);
        }
    }

    /// The tree, and everything wrong with the syntax.
    pub fn parse(&self, source: &Source) -> Parsed<'_> {
        let (tree, errors) = DeTable::parse_recoverable(&self.text);
        let mut mistakes = self.mistakes.clone();
        mistakes.extend(errors.iter().map(Mistake::from));
        mistakes.sort_by_key(|mistake| mistake.span.start);
        let mut lost_from = (self.text.len() < source.text.len()).then_some(1);
        let open = |mistake: &Mistake| {
            ["unclosed array,", "unclosed inline table,"].iter().any(|start| mistake.message.starts_with(start))
        };
        if lost_from.is_some() && !self.text.is_empty() {
            // It may be closed in what was cut off.
            mistakes.retain(|mistake| !open(mistake));
        } else if let Some(at) = mistakes.iter().position(open) {
            let unclosed = mistakes.remove(at);
            let opened = opening(tree.get_ref(), unclosed.span.start).unwrap_or(unclosed.span.clone());
            mistakes.retain(|mistake| mistake.span.start < opened.start);
            lost_from = Some(source.line_of(opened.start));
            mistakes.push(Mistake { span: opened, message: unclosed.message });
        }
        let headers = self.headers(source);
        let nameless = mistakes.iter().filter(|mistake| mistake.message.starts_with("unclosed table"));
        let homeless = nameless.map(|mistake| {
            let line = source.line_of(mistake.span.start);
            let next = headers.iter().map(|(at, _)| *at).find(|at| *at > line);
            line..next.unwrap_or(usize::MAX)
        });
        let homeless = homeless.collect();
        let mut lines = HashSet::new();
        let problems = mistakes
            .iter()
            .take(MISTAKES_MAX)
            // One slip makes a parser stumble several times; the first time tells the most.
            .filter(|mistake| lines.insert(source.line_of(mistake.span.start)))
            .map(|mistake| self.problem(source, &tree, &headers, mistake))
            .collect();
        Parsed { tree, problems, lost_from, homeless }
    }

    fn problem(&self, source: &Source, tree: &Spanned<DeTable<'_>>, headers: &Headers, mistake: &Mistake) -> Problem {
        let span = &mistake.span;
        let text = if self.text.is_empty() { &source.text } else { &self.text };
        let text = text.get(span.clone()).unwrap_or("");
        let (what, hint) = mistake.message.split_once(", ").unwrap_or((&mistake.message, ""));
        let syntax = |message: String| Problem::at(source, span, message).basis(Basis::Syntax);
        match what {
            "duplicate key" => duplicate(source, tree, headers, span, text),
            YAML | JSON => LEAST.lines().fold(syntax(what.to_owned()).help("the least that runs:"), Problem::help),
            "string values must be quoted" if !text.is_empty() && !text.contains('"') => unquoted(source, span),
            "this line is no `key = value`" => syntax("this line is no `key = value`".to_owned())
                .help("a key without quotes has letters, digits, `_` and `-`, and no blanks"),
            "invalid unquoted key" => syntax("this is no key".to_owned())
                .help("a key without quotes has letters, digits, `_` and `-`, and no blanks"),
            "missing escaped value" => syntax("this escape is not known".to_owned())
                .help("TOML knows \\n \\r \\t \\\\ \\\" \\xNN \\uNNNN in \"…\"; in '…' nothing is an escape"),
            _ if what.starts_with("invalid ") && what.ends_with(" string") && hint.starts_with("expected `") => {
                syntax(format!("this text is never closed: {} is missing", hint.trim_start_matches("expected ")))
            }
            _ if what.starts_with("invalid ") && what.ends_with(" string") => {
                syntax("this character cannot stand in text".to_owned()).help("in \"…\" it is written as \\uNNNN")
            }
            _ if what.starts_with("unclosed ") => {
                let closing = hint.strip_prefix("expected ").unwrap_or("its end");
                syntax(format!("{} is never closed: {closing} is missing", opened(what)))
            }
            _ if what.starts_with("cannot recurse") || what == "recursion limit" => {
                syntax("this is nested too deeply".to_owned())
            }
            "unexpected leading zero" => syntax("a number has no leading zero".to_owned()),
            "invalid float"
            | "invalid integer number"
            | "invalid date-time"
            | "invalid value"
            | "invalid mantissa"
            | "invalid fraction"
            | "invalid exponent"
            | "invalid boolean" => match bare_value(source, span.start) {
                Some(span) => unquoted(source, &span),
                None => syntax("this is neither a number nor text".to_owned()).help("text stands in quotes"),
            },
            _ if hint.is_empty() => syntax(format!("not TOML: {what}")),
            _ => syntax(format!("not TOML: {what}")).help(hint),
        }
    }

    /// `[table]` lines and their paths without blanks and quotes.
    fn headers(&self, source: &Source) -> Headers {
        let lines = source.line_of(self.text.len());
        (1..=lines)
            .filter_map(|line| {
                let text = self.text.get(source.range_of(line))?.trim_start();
                let inside = text.strip_prefix('[')?;
                let path = inside.trim_start_matches('[').split(']').next()?;
                Some((line, path.chars().filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\'')).collect()))
            })
            .collect()
    }
}

/// What people write who know other formats; a TOML file never begins so.
fn foreign(source: &Source) -> Option<Mistake> {
    let significant = |line: &usize| !matches!(source.line(*line).trim().chars().next(), None | Some('#'));
    let line = (1..=source.line_of(source.text.len())).find(significant)?;
    let text = source.line(line).trim();
    let key = text.split_once(':').map(|(key, rest)| (key.trim_end(), rest));
    let is_word = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    let message = match key {
        _ if text.starts_with('{') => JSON,
        _ if text == "---" => YAML,
        Some((key, rest)) if is_word(key) && (rest.is_empty() || rest.starts_with(' ')) => YAML,
        _ => return None,
    };
    let range = source.range_of(line);
    let start = range.start + first_word(source.line(line));
    let length = if message == JSON { 1 } else { text.len() };
    Some(Mistake { span: start..start + length, message: message.to_owned() })
}

/// Text without quotes. It may be a secret, which the line as shown does not give away.
fn unquoted(source: &Source, span: &Range<usize>) -> Problem {
    const CURLY: &[char] = &['“', '”', '„', '‟', '‘', '’', '«', '»'];
    let text = source.text.get(span.clone()).unwrap_or("");
    let open = source.place(span, "").shown.contains(text);
    let told = |text: &str| if open { shorten(text) } else { "…".to_owned() };
    let after = source.text.get(span.start..source.range_of(source.line_of(span.start)).end).unwrap_or("");
    let (message, help) = if text.contains(CURLY) {
        let bare = text.trim_matches(CURLY);
        (format!("these quotes are not those of TOML: write \"{}\"", told(bare)), None)
    } else if let Some(variable) = after.strip_prefix("${").and_then(|rest| Some(rest.split_once('}')?.0)) {
        let help = "variables are replaced inside of text only, also where a number is wanted";
        (format!("text stands in quotes: write \"{}\"", told(&format!("${{{variable}}}"))), Some(help))
    } else {
        (format!("text stands in quotes: write \"{}\"", told(text)), None)
    };
    let problem = Problem::at(source, span, message).basis(Basis::Syntax);
    match help {
        Some(help) => problem.help(help),
        None => problem,
    }
}

/// What stands behind the `=` of the line, if it is one word that quotes would make a text: `127.0.0.1:7000`.
fn bare_value(source: &Source, at: usize) -> Option<Range<usize>> {
    let range = source.range_of(source.line_of(at));
    let (before, after) = source.text.get(range.clone())?.split_once('=')?;
    let word = after.split('#').next()?.trim();
    let start = range.start + before.len() + 1 + first_word(after);
    let is_word = word.contains(|c: char| c.is_ascii_alphabetic() || matches!(c, ':' | '/'))
        && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '/' | '-' | '_'));
    (is_word && (start..start + word.len()).contains(&at)).then_some(start..start + word.len())
}

type Headers = Vec<(usize, String)>;

/// The table that a line lies in, and the line of its header.
fn header_of(headers: &Headers, line: usize) -> Option<&(usize, String)> {
    headers.get(headers.partition_point(|(at, _)| *at <= line).checked_sub(1)?)
}

fn duplicate(
    source: &Source,
    tree: &Spanned<DeTable<'_>>,
    headers: &Headers,
    span: &Range<usize>,
    key: &str,
) -> Problem {
    let line = source.line_of(span.start);
    let header = header_of(headers, line);
    if let Some((_, path)) = header.filter(|(at, _)| *at == line) {
        let problem =
            Problem::at(source, &trimmed(source, line), format!("the table [{}] is written twice", shorten(path)));
        return match headers.iter().find(|(at, other)| *at < line && other == path) {
            Some((first, _)) => problem.and_at(source, &trimmed(source, *first), "first here"),
            None => problem.help("its keys are already part of what is written above"),
        };
    }
    let mut same = Vec::new();
    keys_named(tree.get_ref(), key.trim_matches(['"', '\'']), &mut same);
    let path = |header: Option<&(usize, String)>| header.map(|(_, path)| path.clone());
    let table = path(header);
    let first = same
        .into_iter()
        .filter(|at| at.start < span.start && path(header_of(headers, source.line_of(at.start))) == table)
        .max_by_key(|at| at.start);
    let problem = Problem::at(source, span, format!("`{}` is written twice", shorten(key)));
    match first {
        Some(first) => problem.and_at(source, &first, "first here"),
        None => problem.help("it is already part of what is written above"),
    }
}

fn opened(what: &str) -> &'static str {
    match what {
        "unclosed array" => "this list",
        "unclosed inline table" => "this inline table",
        "unclosed table" | "unclosed array table" => "this table's name",
        _ => "this",
    }
}

/// A header line from its bracket to its bracket.
fn trimmed(source: &Source, line: usize) -> Range<usize> {
    let range = source.range_of(line);
    let text = source.line(line);
    let start = first_word(text);
    let end = text.rfind(']').map_or(text.len(), |at| at + 1).max(start);
    range.start + start..range.start + end
}

fn first_word(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    let short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() { short + "…" } else { short }
}

/// The bracket of the outermost list or inline table that runs to `end`.
fn opening(table: &DeTable<'_>, end: usize) -> Option<Range<usize>> {
    table.iter().find_map(|(_, value)| {
        let span = value.span();
        let bracketed = matches!(value.get_ref(), DeValue::Array(_) | DeValue::Table(_));
        if bracketed && span.start < span.end && span.end >= end {
            return Some(span.start..span.start + 1);
        }
        match value.get_ref() {
            DeValue::Table(inner) => opening(inner, end),
            DeValue::Array(list) => list.iter().find_map(|value| match value.get_ref() {
                DeValue::Table(inner) => opening(inner, end),
                _ => None,
            }),
            _ => None,
        }
    })
}

fn keys_named(table: &DeTable<'_>, name: &str, found: &mut Vec<Range<usize>>) {
    for (key, value) in table {
        if key.get_ref() == name {
            found.push(key.span());
        }
        in_value(value.get_ref(), name, found);
    }
}

fn in_value(value: &DeValue<'_>, name: &str, found: &mut Vec<Range<usize>>) {
    match value {
        DeValue::Table(table) => keys_named(table, name, found),
        DeValue::Array(list) => list.iter().for_each(|value| in_value(value.get_ref(), name, found)),
        _ => {}
    }
}
