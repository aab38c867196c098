//! The table of faults: rows of `rows.toml`, the tests that bear their numbers, and, if there is a log of `cargo test`, what
//! became of each.
//!
//! ```text
//! cargo run --example fault-table                                    rewrites tests/FAULTS.md
//! cargo run --example fault-table -- --log target/tests.log --out target/faults.md   with results; exits 1 if one failed
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The committed page, below the repository's root.
pub const PAGE: &str = "tests/FAULTS.md";

/// Where tests are looked for.
const SOURCES: [&str; 2] = ["src", "tests"];

/// One test of the sources.
#[derive(Debug)]
pub struct Test {
    pub name: String,
    /// The rows it is about.
    pub rows: Vec<u32>,
    /// Its file, below the repository's root.
    pub file: String,
    /// Why it is not run unless asked for.
    pub ignored: Option<String>,
}

/// `rows.toml`.
#[derive(Debug, Default)]
pub struct Rows {
    pub titles: BTreeMap<u32, String>,
    pub cannot_run: BTreeMap<u32, String>,
    pub exempt: BTreeMap<String, String>,
}

/// What a log says of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Ok,
    NotRun,
    Failed,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotRun => "not run",
            Self::Failed => "**FAILED**",
        }
    }
}

/// The rows in a test's name: `fault_24_fault_25_…`, `fault_36_37_…` and `fault_19_and_20_…` are about two.
pub fn rows_of(name: &str) -> Vec<u32> {
    let mut words = name.split('_');
    if words.next() != Some("fault") {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for word in words {
        match word {
            "fault" | "and" => {}
            // A row has two digits: 300 is a number of something.
            number if number.len() <= 2 && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                // One digit is no row's name, and is told as row 0 is.
                rows.push(if number.len() == 2 { number.parse().unwrap_or(0) } else { 0 });
            }
            _ => break,
        }
    }
    if rows.is_empty() {
        rows.push(0);
    }
    rows
}

/// The tests in one file's text.
fn tests_in(file: &str, text: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    let (mut is_test, mut ignored) = (false, None);
    for line in text.lines().map(str::trim) {
        if let Some(attribute) = line.strip_prefix("#[") {
            is_test |= attribute.starts_with("test]") || attribute.starts_with("tokio::test");
            if let Some(reason) = attribute.strip_prefix("ignore") {
                ignored = Some(reason.trim_matches([' ', '=', '"', ']']).to_owned());
            }
            continue;
        }
        let declared = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some(name) = declared.and_then(|rest| rest.split(['(', '<']).next())
            && is_test
            && name.starts_with("fault_")
        {
            let rows = rows_of(name);
            tests.push(Test { name: name.to_owned(), rows, file: file.to_owned(), ignored: ignored.take() });
        }
        if !line.starts_with("//") && !line.is_empty() {
            (is_test, ignored) = (false, None);
        }
    }
    tests
}

/// Every test named by a row, in the order of files and lines.
pub fn tests(root: &Path) -> std::io::Result<Vec<Test>> {
    let (mut files, mut places) = (Vec::new(), SOURCES.map(PathBuf::from).to_vec());
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(root.join(&place))? {
            let entry = entry?;
            let path = place.join(entry.file_name());
            // Crates of their own below have targets of their own.
            if entry.file_type()?.is_dir() && entry.file_name() != "target" {
                places.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut tests = Vec::new();
    for file in files {
        tests.extend(tests_in(&file.display().to_string(), &std::fs::read_to_string(root.join(&file))?));
    }
    Ok(tests)
}

/// Reads `rows.toml`. Errors: what is wrong with it.
pub fn rows(root: &Path) -> Result<Rows, String> {
    let path = root.join("tests/faults/rows.toml");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| error.to_string())?;
    let strings = |name: &str| {
        let section = table.get(name).and_then(toml::Value::as_table).ok_or(format!("there is no [{name}]"))?;
        let pair = |(key, value): (&String, &toml::Value)| {
            value.as_str().map(|value| (key.clone(), value.to_owned())).ok_or(format!("{name}.{key} is no text"))
        };
        section.iter().map(pair).collect::<Result<BTreeMap<_, _>, _>>()
    };
    let numbered = |name: &str| {
        let number =
            |(key, value): (String, String)| key.parse().map(|n| (n, value)).map_err(|_| format!("no row: {key}"));
        strings(name)?.into_iter().map(number).collect::<Result<BTreeMap<u32, _>, String>>()
    };
    Ok(Rows { titles: numbered("rows")?, cannot_run: numbered("cannot_run")?, exempt: strings("exempt")? })
}

/// What is wrong: rows without a test and a reason, tests of rows that there are not, names that are not unique.
pub fn faults(rows: &Rows, tests: &[Test]) -> Vec<String> {
    let mut wrong = Vec::new();
    for number in rows.titles.keys() {
        let tested = tests.iter().any(|test| test.rows.contains(number));
        match rows.cannot_run.contains_key(number) {
            false if !tested => wrong.push(format!("row {number:02} has neither a test nor a reason why not")),
            true if tested => wrong.push(format!("row {number:02} has a test, and a reason why it cannot have one")),
            _ => {}
        }
    }
    wrong.extend(
        rows.cannot_run.keys().filter(|n| !rows.titles.contains_key(n)).map(|n| format!("there is no row {n:02}")),
    );
    let mut seen = HashMap::new();
    for test in tests {
        if test.rows.iter().any(|row| !rows.titles.contains_key(row)) {
            wrong.push(format!("{}: `{}` bears no row's number", test.file, test.name));
        }
        if let Some(other) = seen.insert(&test.name, &test.file) {
            wrong.push(format!("`{}` is in {other} and in {}", test.name, test.file));
        }
    }
    let unknown = rows.exempt.keys().filter(|name| !seen.contains_key(name));
    wrong.extend(unknown.map(|name| format!("[exempt] names `{name}`, which is no test")));
    wrong
}

/// What a log of `cargo test` says, by the test's name. The worst of several counts.
pub fn outcomes(log: &str) -> HashMap<String, Outcome> {
    let mut all = HashMap::new();
    for line in log.lines() {
        let Some((path, said)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else { continue };
        let outcome = match said.trim() {
            "ok" => Outcome::Ok,
            "FAILED" => Outcome::Failed,
            _ => Outcome::NotRun,
        };
        let name = path.split(" - ").next().unwrap_or(path).rsplit("::").next().unwrap_or(path).to_owned();
        let known = all.entry(name).or_insert(outcome);
        *known = (*known).max(outcome);
    }
    all
}

/// The page: without results the one that is committed.
pub fn page(rows: &Rows, tests: &[Test], results: Option<&HashMap<String, Outcome>>) -> String {
    let mut page = String::from(
        "# The faults, and the tests of each\n\n\
         Made by `cargo run --example fault-table` of the tests' names and of `tests/faults/rows.toml`; not written by hand.\n\
         `tests/run` writes the same table with the results of its run to `target/faults.md`. Tests under `tests/` run whole\n\
         programs or upstreams over sockets; those under `src/` are about one part.\n\n",
    );
    let (head, rule) = if results.is_some() { (" result |", "---|") } else { ("", "") };
    let _ = writeln!(page, "| row | fault | tests |{head}\n|---|---|---|{rule}");
    for (number, title) in &rows.titles {
        let of_row: Vec<_> = tests.iter().filter(|test| test.rows.contains(number)).collect();
        let mut cells = Vec::new();
        for test in &of_row {
            let star = if rows.exempt.contains_key(&test.name) { " \\*" } else { "" };
            let ignored = test.ignored.as_ref().map(|why| format!(" (only when asked for: {why})")).unwrap_or_default();
            cells.push(format!("{}: `{}`{star}{ignored}", test.file, test.name));
        }
        if let Some(reason) = rows.cannot_run.get(number) {
            cells.push(format!("none: {reason}"));
        }
        let _ = write!(page, "| {number:02} | {title} | {} |", cells.join("<br>"));
        if let Some(results) = results {
            let each: Vec<_> = of_row.iter().map(|test| outcome(results, test).word()).collect();
            let _ = write!(page, " {} |", each.join("<br>"));
        }
        page.push('\n');
    }
    if !rows.exempt.is_empty() {
        page.push_str(
            "\nTests in namespaces, under limits and with a relay assert that their fault took place (packets the rule met, losses\n\
             by that reason, the offset of the cut, times held up) and that descriptors, memory, connections, streams and\n\
             sessions come back to what they were. \\* Except:\n\n",
        );
        for (name, why) in &rows.exempt {
            let _ = writeln!(page, "- `{name}`: {why}");
        }
    }
    let _ = writeln!(page, "\n{}", summary(rows, tests, results));
    page
}

fn outcome(results: &HashMap<String, Outcome>, test: &Test) -> Outcome {
    results.get(&test.name).copied().unwrap_or(Outcome::NotRun)
}

/// How many of what.
pub fn summary(rows: &Rows, tests: &[Test], results: Option<&HashMap<String, Outcome>>) -> String {
    let tested = rows.titles.keys().filter(|row| tests.iter().any(|test| test.rows.contains(row))).count();
    let mut said = format!(
        "{} rows, {tested} of them with tests, {} that cannot be run here; {} tests.",
        rows.titles.len(),
        rows.cannot_run.len(),
        tests.len()
    );
    if let Some(results) = results {
        let count = |wanted| tests.iter().filter(|test| outcome(results, test) == wanted).count();
        let [ok, failed, not_run] = [Outcome::Ok, Outcome::Failed, Outcome::NotRun].map(count);
        let _ = write!(said, " {ok} ok, {failed} failed, {not_run} not run.");
    }
    said
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fault-table: {error}");
            ExitCode::FAILURE
        }
    }
}

/// False: something is wrong with the rows, or a test has failed.
fn run() -> Result<bool, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut log, mut out) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or(format!("{argument}: usage: fault-table [--log FILE] [--out FILE]"))?;
        match argument.as_str() {
            "--log" => log = Some(value),
            "--out" => out = Some(PathBuf::from(value)),
            other => return Err(format!("{other}: usage: fault-table [--log FILE] [--out FILE]")),
        }
    }
    let (rows, tests) = (rows(root)?, tests(root).map_err(|error| error.to_string())?);
    let wrong = faults(&rows, &tests);
    wrong.iter().for_each(|wrong| eprintln!("fault-table: {wrong}"));
    let read = |path: String| {
        // What programs wrote in between may be anything.
        let bytes = std::fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok::<_, String>(outcomes(&String::from_utf8_lossy(&bytes)))
    };
    let results = log.map(read).transpose()?;
    let out = out.unwrap_or_else(|| root.join(PAGE));
    let page = page(&rows, &tests, results.as_ref());
    std::fs::write(&out, page).map_err(|error| format!("{}: {error}", out.display()))?;
    println!("{}: {}", out.display(), summary(&rows, &tests, results.as_ref()));
    let failed =
        |results: &HashMap<String, Outcome>| tests.iter().any(|test| outcome(results, test) == Outcome::Failed);
    Ok(wrong.is_empty() && !results.as_ref().is_some_and(failed))
}
