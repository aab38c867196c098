//! The tree held against the list of keys: what is known, what is not, and what was meant instead.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::Scope;
use super::report::{Basis, Problem};
use super::source::{Source, is_secret_name};
use super::syntax::Parsed;

/// A value as the parser left it.
#[derive(Clone)]
pub(super) struct Written<'t> {
    pub value: &'t Spanned<DeValue<'t>>,
}

/// What is written in one scope, by the names of the keys below it.
#[derive(Default)]
pub(super) struct Table<'t> {
    /// The name of the upstream, or the header.
    pub place: Range<usize>,
    pub keys: BTreeMap<&'static str, Written<'t>>,
    pub tables: BTreeMap<String, Range<usize>>,
    /// Keys that are written under a name that is not known, which has been told: they are not missing as well.
    pub misspelt: BTreeSet<&'static str>,
    /// `tls = "off"`.
    pub tls_off: bool,
    /// An upstream's.
    pub forwards: Option<Forwards<'t>>,
    /// Those of `[gateway.services]`, by name; in the order of the file.
    pub services: Vec<(&'t str, Table<'t>)>,
}

/// `[[upstreams.X.forwards]]`, in the order of the file.
pub(super) struct Forwards<'t> {
    pub place: Range<usize>,
    pub tables: Vec<Table<'t>>,
    /// False if something else than tables was found, and told.
    pub sound: bool,
}

/// The whole file, sorted into its scopes.
#[derive(Default)]
pub(super) struct Tree<'t> {
    pub top: Table<'t>,
    pub defaults: Option<Table<'t>>,
    pub upstreams: Vec<(&'t str, Table<'t>)>,
    /// `gateway` is there, whatever it is: a file with nothing else is not empty.
    pub gateway: bool,
}

/// Sorts a document and tells what does not belong.
pub(super) fn sort<'t>(source: &Source, document: &'t DeTable<'t>) -> (Tree<'t>, Vec<Problem>) {
    let mut walk = Walk { source, problems: Vec::new(), upstreams: BTreeSet::new() };
    let mut tree = Tree::default();
    for (key, value) in document {
        match (&**key.get_ref(), value.get_ref()) {
            ("upstreams", DeValue::Table(upstreams)) => {
                walk.upstreams = upstreams.keys().map(|name| name.get_ref().to_string()).collect();
            }
            ("gateway", _) => tree.gateway = true,
            _ => {}
        }
    }
    for (key, value) in document {
        match (&**key.get_ref(), value.get_ref()) {
            ("upstreams", DeValue::Table(upstreams)) => {
                for (name, value) in upstreams {
                    let mut table = Table { place: name.span(), ..Table::default() };
                    match value.get_ref() {
                        DeValue::Table(keys) => {
                            walk.table(At::start(Scope::Upstream, name.get_ref()), keys, &mut table)
                        }
                        value => {
                            walk.wrong_table(&name.span(), &format!("upstreams.{}", name.get_ref()), value);
                            continue;
                        }
                    }
                    tree.upstreams.push((name.get_ref(), table));
                }
            }
            ("defaults", DeValue::Table(keys)) => {
                let mut table = Table { place: key.span(), ..Table::default() };
                walk.table(At::start(Scope::Defaults, ""), keys, &mut table);
                tree.defaults = Some(table);
            }
            (name @ ("upstreams" | "defaults"), value) => walk.wrong_table(&key.span(), name, value),
            _ => walk.entry(At::start(Scope::Top, ""), key, value, &mut tree.top),
        }
    }
    // The parser sorts by name; people read by line.
    tree.upstreams.sort_by_key(|(_, table)| table.place.start);
    (tree, walk.problems)
}

/// A file with more unknown keys than this is no configuration; the rest is not told.
const UNKNOWN_MAX: usize = 1000;
/// Longer names are compared with none: it would take long and help nobody.
const COMPARED_MAX: usize = 80;

struct Walk<'s> {
    source: &'s Source,
    problems: Vec<Problem>,
    upstreams: BTreeSet<String>,
}

/// A table below a scope, in which keys are looked up.
#[derive(Clone, Copy)]
struct At<'a> {
    scope: Scope,
    /// The name that stands for `*` in the scope's path, if there is one.
    name: &'a str,
    /// Empty, or ends in a dot.
    prefix: &'a str,
}

impl<'a> At<'a> {
    fn start(scope: Scope, name: &'a str) -> Self {
        Self { scope, name, prefix: "" }
    }
}

impl Walk<'_> {
    fn table<'t>(&mut self, at: At<'_>, keys: &'t DeTable<'t>, table: &mut Table<'t>) {
        for (key, value) in keys {
            self.entry(at, key, value, table);
        }
    }

    fn entry<'t>(
        &mut self,
        at: At<'_>,
        key: &Spanned<std::borrow::Cow<'t, str>>,
        value: &'t Spanned<DeValue<'t>>,
        table: &mut Table<'t>,
    ) {
        let At { scope, name: upstream, prefix } = at;
        let path = format!("{prefix}{}", key.get_ref());
        if let Some(known) = scope.key(&path) {
            table.keys.insert(known.name(), Written { value });
        } else if scope.is_table(&path) {
            match value.get_ref() {
                DeValue::Table(keys) => {
                    table.tables.insert(path.clone(), key.span());
                    self.table(At { prefix: &format!("{path}."), ..at }, keys, table);
                }
                DeValue::String(word) if path == "tls" && scope == Scope::Upstream && word == "off" => {
                    table.tls_off = true;
                }
                value => self.wrong_table(&key.span(), &full(scope, upstream, &path), value),
            }
        } else if scope == Scope::Upstream && path == "forwards" {
            table.forwards = Some(self.forwards(upstream, key.span(), value));
        } else if scope == Scope::Top && path == "gateway.services" {
            self.services(&key.span(), value, table);
        } else {
            let meant = self.unknown(at, key, value.get_ref());
            table.misspelt.extend(meant);
        }
    }

    fn forwards<'t>(&mut self, upstream: &str, place: Range<usize>, value: &'t Spanned<DeValue<'t>>) -> Forwards<'t> {
        let mut forwards = Forwards { place, tables: Vec::new(), sound: true };
        let list = match value.get_ref() {
            DeValue::Array(list) => list.iter().collect(),
            _ => vec![value],
        };
        for one in list {
            match (value.get_ref(), one.get_ref()) {
                (DeValue::Array(_), DeValue::Table(keys)) => {
                    let mut table = Table { place: one.span(), ..Table::default() };
                    self.table(At::start(Scope::Forward, upstream), keys, &mut table);
                    forwards.tables.push(table);
                }
                (whole, _) => {
                    forwards.sound = false;
                    let is_table = matches!(whole, DeValue::Table(_));
                    let (span, found) = match is_table {
                        true => (forwards.place.clone(), ", not one table"),
                        false => (one.span(), ""),
                    };
                    let problem =
                        Problem::at(self.source, &span, format!("`forwards` must be a list of tables{found}"));
                    self.problems.push(problem.help(format!("write [[upstreams.{upstream}.forwards]]")));
                }
            }
        }
        forwards
    }

    /// A service is a table, or its address alone.
    fn services<'t>(&mut self, place: &Range<usize>, value: &'t Spanned<DeValue<'t>>, table: &mut Table<'t>) {
        let DeValue::Table(services) = value.get_ref() else {
            return self.wrong_table(place, "gateway.services", value.get_ref());
        };
        table.tables.insert("gateway.services".to_owned(), place.clone());
        for (name, value) in services {
            let mut service = Table { place: name.span(), ..Table::default() };
            match value.get_ref() {
                DeValue::Table(keys) => self.table(At::start(Scope::Service, name.get_ref()), keys, &mut service),
                _ => {
                    service.keys.insert("address", Written { value });
                }
            }
            table.services.push((name.get_ref(), service));
        }
        table.services.sort_by_key(|(_, service)| service.place.start);
    }

    /// `path` has another value than a table of its own.
    fn wrong_table(&mut self, span: &Range<usize>, path: &str, value: &DeValue<'_>) {
        let list = matches!(value, DeValue::Array(list) if !list.is_empty() && list.iter().all(|one| one.get_ref().is_table()));
        let (message, help) = match (path, path.rsplit('.').next(), value) {
            ("upstreams", ..) => {
                let help = "write [upstreams.NAME] for each, as in [upstreams.orders]";
                ("each upstream is a table that bears its name".to_owned(), help.to_owned())
            }
            _ if list => (
                format!("`{path}` is a list of tables, and must be one table"),
                format!("write [{path}] with single brackets"),
            ),
            (_, Some("tls"), DeValue::Boolean(true)) => {
                (format!("`{path}` must be a table"), format!("write [{path}]: it may be empty"))
            }
            (_, Some("tls"), DeValue::Boolean(false)) => {
                (format!("`{path}` must be a table"), "leave it out, or write tls = \"off\"".to_owned())
            }
            (_, Some("heartbeat"), DeValue::Boolean(_)) => (
                format!("`{path}` must be a table"),
                "beats cannot be switched off: without `send` or `preset` the kernel watches a link, and nothing is sent".to_owned(),
            ),
            (_, Some("heartbeat"), DeValue::String(word)) if word == "off" => (
                format!("`{path}` must be a table"),
                "beats cannot be switched off: without `send` or `preset` the kernel watches a link, and nothing is sent".to_owned(),
            ),
            _ => (format!("`{path}` must be a table"), format!("write [{path}]")),
        };
        self.problems.push(Problem::at(self.source, span, message).help(help));
    }

    /// Tells it, and returns which key was meant, if it is one of the same table.
    fn unknown(
        &mut self,
        at: At<'_>,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &DeValue<'_>,
    ) -> Option<&'static str> {
        let At { scope, name: upstream, prefix } = at;
        if self.problems.len() >= UNKNOWN_MAX {
            return None;
        }
        let name = &**key.get_ref();
        let table = full(scope, upstream, prefix.trim_end_matches('.'));
        let place = if table.is_empty() { String::new() } else { format!(" in [{table}]") };
        let problem = Problem::at(self.source, &key.span(), format!("unknown key `{}`{place}", shorten(name)));
        if is_secret_name(name) {
            let help = "a secret is never written into the file: name a file that holds it, or use ${VAR}";
            let mut known = scope.names_in(prefix);
            // A password is no token.
            known.retain(|known| known.ends_with("_file") && (*known != "token_file" || name.contains("token")));
            let problem = problem.help(help);
            let meant = known.first().copied().filter(|_| name.contains("token"));
            let known = known.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ");
            self.problems.push(if known.is_empty() { problem } else { problem.help(format!("files here: {known}")) });
            return Some(scope.key(&format!("{prefix}{}", meant?))?.name());
        }
        let (near, help) = match self.elsewhere(at, name, value) {
            Some(help) => (None, help),
            None => match synonym(scope, prefix, name).or_else(|| nearest(scope, prefix, name)) {
                Some(near) => (scope.key(&format!("{prefix}{near}")), format!("did you mean `{near}`?")),
                None if name == "port" => (None, "an address bears its port, as in \"127.0.0.1:7000\"".to_owned()),
                None => {
                    let names = scope.names_in(prefix).iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
                    (None, format!("known here: {}", names.join(", ")))
                }
            },
        };
        self.problems.push(problem.help(help));
        Some(near?.name())
    }

    /// Tables in which this very name is known.
    fn elsewhere(&self, at: At<'_>, name: &str, value: &DeValue<'_>) -> Option<String> {
        let At { scope, name: upstream, prefix } = at;
        let tables = |scope: Scope| -> Vec<String> {
            scope
                .keys()
                .filter_map(|key| match key.name().rsplit_once('.') {
                    Some((table, last)) if last == name => Some(table.to_owned()),
                    None if key.name() == name => Some(String::new()),
                    _ => None,
                })
                .collect()
        };
        let example = self.upstreams.first().map_or("NAME", String::as_str);
        let mut found: Vec<String> = match scope {
            Scope::Upstream | Scope::Defaults | Scope::Forward | Scope::Service => {
                tables(scope).iter().map(|table| full(scope, upstream, table)).collect()
            }
            Scope::Top => tables(Scope::Upstream).iter().map(|table| full(Scope::Upstream, example, table)).collect(),
        };
        if scope == Scope::Defaults && found.is_empty() {
            let of_upstream = tables(Scope::Upstream);
            if of_upstream.iter().any(String::is_empty) {
                return Some(format!("`{name}` has no default for all: it belongs in [upstreams.{example}]"));
            }
        }
        let beside = match scope {
            Scope::Upstream => Some(Scope::Forward),
            Scope::Forward => Some(Scope::Upstream),
            _ => None,
        };
        if let Some(beside) = beside.filter(|_| found.is_empty()) {
            found.extend(tables(beside).iter().map(|table| full(beside, upstream, table)));
        }
        if scope == Scope::Top || found.is_empty() {
            found.extend(tables(Scope::Top));
        }
        if found.is_empty() && matches!((scope, name), (Scope::Top | Scope::Defaults, "forwards")) {
            return Some(format!("write [[upstreams.{example}.forwards]]"));
        }
        if found.is_empty() && name == "services" {
            return Some("write [gateway.services]".to_owned());
        }
        // A whole table in a place it does not belong to.
        if found.is_empty() && scope == Scope::Top && prefix.is_empty() && Scope::Upstream.is_table(name) {
            return Some(format!("write [upstreams.{example}.{name}], or [defaults.{name}] for all upstreams"));
        }
        if found.is_empty() && scope == Scope::Top && prefix.is_empty() {
            let like_one = |keys: &DeTable<'_>| ["listen", "endpoints"].iter().any(|key| keys.contains_key(*key));
            if self.upstreams.contains(name) || matches!(value, DeValue::Table(keys) if like_one(keys)) {
                return Some(format!("write [upstreams.{name}]: the tables of upstreams begin so"));
            }
        }
        // A table of the whole program in an upstream, as when it is written as one key.
        if found.is_empty() && scope != Scope::Top && Scope::Top.is_table(name) {
            return Some(format!("it is for the whole program: write [{name}]"));
        }
        found.retain(|table| *table != full(scope, upstream, prefix.trim_end_matches('.')) && !table.is_empty());
        let (last, others) = found.split_last()?;
        let tables = match others {
            [] => format!("[{last}]"),
            _ => format!(
                "{} or [{last}]",
                others.iter().map(|table| format!("[{table}]")).collect::<Vec<_>>().join(", ")
            ),
        };
        Some(format!("`{name}` belongs in {tables}"))
    }
}

/// What other programs call a key of this table.
fn synonym(scope: Scope, prefix: &str, name: &str) -> Option<String> {
    const LISTEN: [&str; 4] = ["bind", "bind_address", "listener", "local"];
    const ENDPOINTS: [&str; 14] = [
        "addr",
        "address",
        "addresses",
        "backend",
        "backends",
        "host",
        "hosts",
        "remote",
        "server",
        "servers",
        "target",
        "targets",
        "to",
        "upstream",
    ];
    const SERVICE: [&str; 4] = ["name", "remote", "target", "to"];
    let meant = match (scope, prefix) {
        (Scope::Upstream, "") if ENDPOINTS.contains(&name) => "endpoints",
        (Scope::Forward, "") if SERVICE.contains(&name) => "service",
        (Scope::Upstream | Scope::Forward, "") if LISTEN.contains(&name) => "listen",
        (Scope::Top, "http." | "gateway.") if LISTEN.contains(&name) || name == "address" => "listen",
        _ => return None,
    };
    Some(meant.to_owned())
}

/// The nearest name in this table, or the nearest path below it for names such as `heartbeat_interval`.
fn nearest(scope: Scope, prefix: &str, name: &str) -> Option<String> {
    if name.len() > COMPARED_MAX {
        return None;
    }
    let lower = name.to_ascii_lowercase().replace('-', "_");
    let letters = lower.chars().count();
    let mut best: Option<(usize, String)> = None;
    let names = scope.names_in(prefix).into_iter().map(str::to_owned);
    let paths = scope.keys().filter_map(|key| key.name().strip_prefix(prefix)).map(str::to_owned);
    for candidate in names.chain(paths) {
        let spelled = candidate.replace(['.', '-'], "_");
        let allowed = (spelled.len().max(lower.len()) / 3).max(1);
        // What is so much longer or shorter is at least as far away, and dear to compare.
        if spelled.len().abs_diff(letters) > allowed {
            continue;
        }
        let distance = strsim::damerau_levenshtein(&lower, &spelled);
        if distance <= allowed && best.as_ref().is_none_or(|(least, _)| distance < *least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, name)| name)
}

fn full(scope: Scope, upstream: &str, path: &str) -> String {
    let base = match scope {
        Scope::Top => String::new(),
        Scope::Upstream => format!("upstreams.{upstream}"),
        Scope::Defaults => "defaults".to_owned(),
        // In brackets once more where it is told: a list of tables.
        Scope::Forward => format!("[upstreams.{upstream}.forwards]"),
        Scope::Service => format!("gateway.services.{upstream}"),
    };
    match (base.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (false, true) => base,
        (false, false) => format!("{base}.{path}"),
    }
}

fn shorten(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Drops what rests on a broken syntax: everything on a broken line, after one from which the parser lost its way, or in a
/// table whose name was not read, and everything that needs the whole file.
pub(super) fn trust(problems: &mut Vec<Problem>, parsed: &Parsed<'_>) {
    let broken: BTreeSet<_> = parsed
        .problems
        .iter()
        .filter(|p| p.basis == Basis::Syntax)
        .filter_map(|p| p.places.first())
        .map(|p| p.line)
        .collect();
    if broken.is_empty() {
        return;
    }
    let homeless = |line: usize| parsed.homeless.iter().any(|lines| lines.contains(&line));
    let sound =
        |line: usize| !broken.contains(&line) && !homeless(line) && parsed.lost_from.is_none_or(|lost| line < lost);
    problems.retain(|problem| {
        // Two places tell that neither value is one the parser lost.
        (problem.basis != Basis::Whole || problem.places.len() > 1) && problem.places.iter().all(|p| sound(p.line))
    });
}
