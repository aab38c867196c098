//! A problem as people see it: message, file, line, caret, cure.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::source::{Place, Source, printable};

/// A report shows no more than this; the tally still counts all.
const PROBLEMS_SHOWN: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Error,
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// What a problem rests on, and so whether it can be trusted in a file with broken syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Basis {
    Syntax,
    /// What is written at its place.
    Value,
    /// What is missing, or how several values go together.
    Whole,
}

/// One thing that is wrong, or worth a warning, with every place that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    pub severity: Severity,
    /// One line.
    pub message: String,
    /// What to do, one line each.
    pub help: Vec<String>,
    /// As the user named the file.
    pub file: Arc<str>,
    /// The main place first; empty if the file as a whole is meant.
    pub places: Vec<Place>,
    pub(super) basis: Basis,
}

impl Problem {
    /// A problem with a file as a whole.
    pub(super) fn of_file(name: &str, message: impl Into<String>) -> Self {
        let message = sentence(&message.into());
        let basis = Basis::Value;
        Self { severity: Severity::Error, message, help: Vec::new(), file: name.into(), places: Vec::new(), basis }
    }

    pub(super) fn at(source: &Source, span: &Range<usize>, message: impl Into<String>) -> Self {
        let mut problem = Self::of_file(&source.name, message);
        problem.file = source.name.clone();
        problem.places.push(source.place(span, ""));
        problem
    }

    pub(super) fn and_at(mut self, source: &Source, span: &Range<usize>, label: &str) -> Self {
        self.places.push(source.place(span, label));
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(sentence(&help.into()));
        self
    }

    pub(super) fn basis(mut self, basis: Basis) -> Self {
        self.basis = basis;
        self
    }

    pub(super) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Where the problem sorts in a report.
    pub(super) fn order(&self) -> (usize, usize) {
        self.places.first().map_or((0, 0), |place| (place.line, place.column))
    }

    /// `file:line:column: message`, for a log.
    pub fn line(&self) -> String {
        match self.places.first() {
            Some(place) => format!("{}:{}:{}: {}", self.file, place.line, place.column, self.message),
            None => format!("{}: {}", self.file, self.message),
        }
    }
}

/// One line: what would break it, or a terminal, is replaced. A tab has its place among the lines of a file, not here.
fn sentence(text: &str) -> String {
    text.chars().map(|c| if c == '\t' { ' ' } else { printable(c) }).collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.message)?;
        let gutter = self.places.iter().map(|place| place.line.to_string().len()).max().unwrap_or(1);
        match self.places.first() {
            Some(main) => write!(f, "\n{:gutter$}--> {}:{}:{}", "", self.file, main.line, main.column)?,
            None => write!(f, "\n{:gutter$}--> {}", "", self.file)?,
        }
        if !self.places.is_empty() {
            write!(f, "\n{:gutter$} |", "")?;
        }
        let mut lines: Vec<usize> = self.places.iter().map(|place| place.line).collect();
        lines.sort_unstable();
        lines.dedup();
        let mut last = None;
        for line in lines {
            if last.is_some_and(|last| line > last + 1) {
                write!(f, "\n{:gutter$}...", "")?;
            }
            last = Some(line);
            self.show_line(f, line, gutter)?;
        }
        for help in &self.help {
            write!(f, "\n{:gutter$} = help: {help}", "")?;
        }
        Ok(())
    }
}

impl Problem {
    /// A line of the file, and below it the marks of every place on it.
    fn show_line(&self, f: &mut fmt::Formatter<'_>, line: usize, gutter: usize) -> fmt::Result {
        let here = || self.places.iter().enumerate().filter(move |(_, place)| place.line == line);
        let Some((_, first)) = here().next() else { return Ok(()) };
        let end = if first.shown.is_empty() { "" } else { " " };
        write!(f, "\n{line:gutter$} |{end}{}", first.shown)?;
        let length = here().map(|(_, place)| place.before + place.width).max().unwrap_or(0);
        // A tab in the line is a tab in the marks, or they would not stand below each other.
        let mut marks: Vec<char> =
            first.shown.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).take(length).collect();
        marks.resize(length, ' ');
        for (index, place) in here().collect::<Vec<_>>().into_iter().rev() {
            // A long line is cut around the main place; another place on it may lie outside of the cut.
            if place.shown == first.shown {
                marks[place.before..place.before + place.width].fill(if index == 0 { '^' } else { '-' });
            }
        }
        let marks: String = marks.into_iter().collect();
        write!(f, "\n{:gutter$} | {}", "", marks.trim_end())?;
        if let Some((_, labelled)) = here().find(|(_, place)| !place.label.is_empty()) {
            write!(f, " {}", labelled.label)?;
        }
        Ok(())
    }
}

/// So many problems are told by [`Report::lines`].
const LINES_TOLD: usize = 20;

/// Everything wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Report {
    /// Never empty, in the order of the file.
    pub problems: Vec<Problem>,
    /// Files it names, as far as could be read: one of them may be what is wrong.
    pub files: Vec<PathBuf>,
}

impl Report {
    pub(super) fn of(problem: Problem) -> Self {
        Self { problems: vec![problem], files: Vec::new() }
    }

    /// `config.toml:6:11: what is wrong (and 2 more)`, for the log.
    pub fn first_line(&self) -> String {
        let Some(first) = self.problems.first() else { return String::new() };
        match self.problems.len() - 1 {
            0 => first.line(),
            more => format!("{} (and {more} more)", first.line()),
        }
    }

    /// The same of each problem, for the status: of the first 20, and how many more there are.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.problems.iter().take(LINES_TOLD).map(Problem::line).collect();
        if let Some(more) = self.problems.len().checked_sub(LINES_TOLD).filter(|more| *more > 0) {
            lines.push(format!("and {more} more"));
        }
        lines
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.problems.iter().take(PROBLEMS_SHOWN) {
            write!(f, "{problem}\n\n")?;
        }
        if let Some(hidden) = self.problems.len().checked_sub(PROBLEMS_SHOWN).filter(|hidden| *hidden > 0) {
            write!(f, "... and {hidden} more\n\n")?;
        }
        let file = self.problems.first().map_or("", |problem| &*problem.file);
        let plural = if self.problems.len() == 1 { "" } else { "s" };
        write!(f, "{file}: {} error{plural}", self.problems.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_places_show_both_lines_and_what_lies_between_as_dots() {
        let source = Source::new("c.toml", "a = 1\nb = 2\nc = 3\n\ta = 4\n".into());
        let problem = Problem::at(&source, &(19..20), "twice").and_at(&source, &(0..1), "first here").help("keep one");
        assert_eq!(
            problem.to_string(),
            "error: twice\n --> c.toml:4:2\n  |\n1 | a = 1\n  | - first here\n ...\n4 | \ta = 4\n  | \t^\n  = help: keep one"
        );
    }

    #[test]
    fn two_places_on_one_line_share_the_marks() {
        let source = Source::new("c.toml", "x = [1, 1]".into());
        let problem = Problem::at(&source, &(8..9), "twice").and_at(&source, &(5..6), "first here");
        assert_eq!(problem.to_string(), "error: twice\n --> c.toml:1:9\n  |\n1 | x = [1, 1]\n  |      -  ^ first here");
    }

    #[test]
    fn the_line_numbers_of_long_files_stand_below_each_other() {
        let source = Source::new("c.toml", "\n".repeat(99) + "a = 1");
        let problem = Problem::at(&source, &(99..100), "wrong").and_at(&source, &(0..0), "see");
        assert_eq!(
            problem.to_string(),
            "error: wrong\n   --> c.toml:100:1\n    |\n  1 |\n    | - see\n   ...\n100 | a = 1\n    | ^"
        );
    }

    #[test]
    fn a_message_is_one_line_whatever_it_quotes() {
        let source = Source::new("c.toml", "x = \"h\tunter\"".into());
        let problem = Problem::at(&source, &(4..14), "\"h\tunter\" has a blank in it\n").help("write\t\x1b[1m");
        assert_eq!(problem.line(), "c.toml:1:5: \"h unter\" has a blank in it\u{fffd}");
        assert_eq!(problem.help, ["write \u{fffd}[1m"]);
    }

    #[test]
    fn a_report_counts_even_what_it_does_not_show() {
        let problems: Vec<_> = (0..103).map(|n| Problem::of_file("c.toml", format!("wrong {n}"))).collect();
        let report = Report { problems, files: Vec::new() };
        let text = report.to_string();
        assert!(text.contains("wrong 99\n") && !text.contains("wrong 100\n"));
        assert!(text.ends_with("\n\n... and 3 more\n\nc.toml: 103 errors"), "{text}");
        assert_eq!(report.first_line(), "c.toml: wrong 0 (and 102 more)");
        let lines = report.lines();
        assert_eq!((lines.len(), lines[19].as_str(), lines[20].as_str()), (21, "c.toml: wrong 19", "and 83 more"));
    }
}
