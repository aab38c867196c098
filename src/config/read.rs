//! One value at a time: what is written for a key, or its default, checked against its row in the list of keys.

mod numbers;
mod quantities;
mod texts;

pub(super) use numbers::{Count, Ratio};

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use toml::de::DeValue;

use super::keys::{Key, Scope};
use super::report::{Basis, Problem};
use super::source::{Source, printable};
use super::tree::{Table, Written};
use super::variables::{Part, expand};

/// A file with more wrong values than this is no configuration; the rest is not told.
const PROBLEMS_MAX: usize = 1000;
/// Quoted values in messages end here.
const QUOTED: usize = 60;

/// Where a value in force was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the built-in default.
    Default,
    Written {
        /// From 1.
        line: usize,
        /// In `[defaults]`.
        defaults: bool,
        /// Variables the value was made of.
        variables: Vec<String>,
        /// The text before variables were replaced, if there are any.
        text: Option<String>,
    },
}

/// A value for use, and whether it can be relied on.
pub(super) struct Got<T> {
    pub value: T,
    /// Where it is written; `None`: the default.
    pub at: Option<Range<usize>>,
    /// False if what is written was wrong, and told; `value` is the default then.
    pub sound: bool,
}

/// Text with its variables replaced.
pub(super) struct Text {
    pub value: String,
    pub parts: Vec<Part>,
    /// As written, variables by name only.
    pub written: String,
    pub span: Range<usize>,
    pub variables: Vec<String>,
}

impl Text {
    /// For messages: what is written, never what a variable holds.
    pub fn quoted(&self) -> String {
        quoted(&self.written)
    }

    pub fn is_plain(&self) -> bool {
        self.variables.is_empty()
    }

    /// Takes out of a message what a variable brought in.
    pub fn hide(&self, message: &str) -> String {
        if self.is_plain() || self.value.is_empty() { message.to_owned() } else { message.replace(&self.value, "***") }
    }
}

/// In quotes, escaped, and not too long.
pub(super) fn quoted(text: &str) -> String {
    let escaped: String = text.chars().take(QUOTED).map(printable).collect();
    let more = if text.chars().count() > QUOTED { "…" } else { "" };
    format!("\"{escaped}{more}\"")
}

/// Where a key is looked up: what an upstream says itself, then `[defaults]`.
pub(super) struct Layer<'l, 't> {
    pub scope: Scope,
    /// Full path of the scope's table and a dot, or empty; origins are kept under it.
    pub path: String,
    pub own: &'l Table<'t>,
    pub defaults: Option<&'l Table<'t>>,
}

impl<'t> Layer<'_, 't> {
    /// What holds for a key, and whether it comes from `[defaults]`.
    pub fn find(&self, name: &str) -> Option<(Written<'t>, bool)> {
        let own = self.own.keys.get(name).map(|written| (written.clone(), false));
        own.or_else(|| Some((self.defaults?.keys.get(name)?.clone(), true)))
    }

    pub fn place_of(&self, name: &str) -> Option<Range<usize>> {
        self.find(name).map(|(written, _)| written.value.span())
    }
}

pub(super) struct Reader<'a> {
    pub source: &'a Source,
    env: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<Problem>,
    told: HashSet<Problem>,
    pub origins: BTreeMap<String, Origin>,
}

impl<'a> Reader<'a> {
    pub fn new(source: &'a Source, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { source, env, problems: Vec::new(), told: HashSet::new(), origins: BTreeMap::new() }
    }

    /// Tells a problem, once: several upstreams may meet the same one in `[defaults]`.
    pub fn tell(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX && self.told.insert(problem.clone()) {
            self.problems.push(problem);
        }
    }

    pub fn error(&mut self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let help = help.into();
        let problem = Problem::at(self.source, span, message);
        self.tell(if help.is_empty() { problem } else { problem.help(help) });
    }

    /// Tells that something is missing, or that values do not go together.
    pub fn error_of_whole(&mut self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.tell(Problem::at(self.source, span, message).help(help).basis(Basis::Whole));
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Moves the origins of a list's entries, kept under `{prefix}{index}.`, to where the entries are now: the first to
    /// where `places` says it was, and so on.
    pub fn reorder(&mut self, prefix: &str, places: &[usize]) {
        let mut moved = Vec::new();
        for (now, before) in places.iter().enumerate().filter(|(now, before)| now != *before) {
            let old = format!("{prefix}{before}.");
            let keys: Vec<_> = self.origins.keys().filter(|key| key.starts_with(&old)).cloned().collect();
            for key in keys {
                let origin = self.origins.remove(&key);
                moved.extend(origin.map(|origin| (format!("{prefix}{now}.{}", &key[old.len()..]), origin)));
            }
        }
        self.origins.extend(moved);
    }

    /// Looks a key up and reads it; what is wrong is told and gives the default.
    fn read<T>(
        &mut self,
        layer: &Layer<'_, '_>,
        name: &'static str,
        fallback: T,
        parse: impl FnOnce(&mut Self, &'static Key, &Written<'_>) -> Option<T>,
    ) -> Got<T> {
        let path = format!("{}{name}", layer.path);
        let (Some(key), Some((written, defaults))) = (layer.scope.key(name), layer.find(name)) else {
            self.origins.insert(path, Origin::Default);
            return Got { value: fallback, at: None, sound: !layer.own.misspelt.contains(name) };
        };
        let at = written.value.span();
        // The parser leaves an empty place where it could not read a value; that has been told.
        if at.is_empty() {
            return Got { value: fallback, at: None, sound: false };
        }
        let text = match written.value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => None,
        };
        let mut names = Vec::new();
        self.variables_in(written.value.get_ref(), &mut names);
        let line = self.source.line_of(written.value.span().start);
        let text = text.filter(|_| !names.is_empty());
        self.origins.insert(path, Origin::Written { line, defaults, variables: names, text });
        match parse(self, key, &written) {
            Some(value) => Got { value, at: Some(at), sound: true },
            None => Got { value: fallback, at: Some(at), sound: false },
        }
    }

    /// Names of the variables in every text of a value.
    fn variables_in(&self, value: &DeValue<'_>, names: &mut Vec<String>) {
        match value {
            DeValue::String(text) => {
                let parts = expand(text, self.env).map(|expanded| expanded.parts).unwrap_or_default();
                names.extend(parts.into_iter().filter_map(|part| match part {
                    Part::Variable { name, .. } => Some(name),
                    Part::Written(_) => None,
                }));
            }
            DeValue::Array(list) => list.iter().for_each(|value| self.variables_in(value.get_ref(), names)),
            DeValue::Table(table) => table.values().for_each(|value| self.variables_in(value.get_ref(), names)),
            _ => {}
        }
    }

    /// Replaces variables. `None`: told.
    pub fn text(&mut self, value: &str, span: &Range<usize>) -> Option<Text> {
        match expand(value, self.env) {
            Ok(expanded) => {
                let variables = |part: &Part| match part {
                    Part::Variable { name, .. } => Some(name.clone()),
                    Part::Written(_) => None,
                };
                let parts = |part: &Part| match part {
                    Part::Written(text) | Part::Variable { value: text, .. } => text.clone(),
                };
                Some(Text {
                    value: expanded.parts.iter().map(parts).collect(),
                    variables: expanded.parts.iter().filter_map(variables).collect(),
                    parts: expanded.parts,
                    written: value.to_owned(),
                    span: span.clone(),
                })
            }
            Err(errors) => {
                for error in errors {
                    let place = self.within(span, &error);
                    self.error(
                        &place,
                        error.to_string(),
                        "set it, or give a default as in ${VAR:-default}; $${ stands for ${ itself",
                    );
                }
                None
            }
        }
    }

    /// The very `${…}` meant, if it can be seen in the text.
    fn within(&self, span: &Range<usize>, error: &super::variables::VariableError) -> Range<usize> {
        use super::variables::VariableError::{Name, Unclosed, Unset};
        let raw = self.source.text.get(span.clone()).unwrap_or("");
        let needle = match error {
            Unset(name) | Name(name) => format!("${{{name}"),
            Unclosed => "${".to_owned(),
        };
        match raw.find(&needle) {
            Some(at) => {
                let end = raw[at..].find('}').map_or(needle.len(), |end| end + 1);
                span.start + at..span.start + at + end
            }
            None => span.clone(),
        }
    }

    /// The text of a string value; anything else is told as the wrong type.
    pub fn string(&mut self, name: &str, expected: &str, value: &DeValue<'_>, span: &Range<usize>) -> Option<Text> {
        match value {
            DeValue::String(text) => self.text(text, span),
            other => {
                self.wrong_type(name, expected, other, span);
                None
            }
        }
    }

    pub fn wrong_type(&mut self, name: &str, expected: &str, value: &DeValue<'_>, span: &Range<usize>) {
        let found = match value {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(span, format!("`{name}` must be {expected}, not {found}"), "");
    }
}

fn last(name: &'static str) -> &'static str {
    name.rsplit('.').next().unwrap_or(name)
}
