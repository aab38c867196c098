//! From what is written to what is meant: every key read, then held against the others.

mod addresses;
mod gateway;
mod heartbeat;
mod process;
mod services;
mod tls;
mod tunnel;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::bounds::UPSTREAMS_MAX;
use super::files::Files;
use super::keys::{Mode, Scope};
use super::listeners::Listening;
use super::read::{Layer, Origin, Ratio, Reader};
use super::report::{Basis, Problem};
use super::syntax::LEAST;
use super::tree::{Table, Tree};
use super::units::show_duration;
use super::{Balance, Config, Heartbeat, Jitter, Limits, Pool, Resume, Retry, Tls, Upstream};

/// It becomes a label and a field of the log; as long as a DNS label.
const NAME_MAX: usize = 63;
/// One link carries every stream, and a second one helps only where one TCP connection cannot fill the path.
const TUNNEL_LINKS: usize = 1;
/// What came out of a file: a configuration that holds if no problem was told.
pub(super) struct Checked {
    pub config: Config,
    pub warnings: Vec<Problem>,
    pub files: Vec<PathBuf>,
    /// Where each value was written, by its full path.
    pub origins: BTreeMap<String, Origin>,
}

/// Reads everything. What is wrong is told to `reader`.
pub(super) fn check(reader: &mut Reader<'_>, tree: &Tree<'_>) -> Checked {
    let mut check = Check { reader, files: Files::default(), listening: Listening::default(), warnings: Vec::new() };
    let top = Layer { scope: Scope::Top, path: String::new(), own: &tree.top, defaults: None };
    let http = check.http(&top);
    let admin = check.admin(&top);
    let log = check.log(&top);
    let drain = check.drain(&top);
    if let Some(defaults) = &tree.defaults {
        // A default that every upstream overrides is checked all the same.
        let layer = Layer { scope: Scope::Defaults, path: "defaults.".to_owned(), own: defaults, defaults: None };
        check.settings(&layer, None);
    }
    check.reader.origins.retain(|path, _| !path.starts_with("defaults."));
    let upstreams = check.upstreams(tree);
    let gateway = check.gateway(&top);
    check.listening.tell_clashes(check.reader);
    check.listening.tell_loops(check.reader);
    let config = Config { http, admin, log, drain, upstreams, gateway: gateway.map(Arc::new) };
    let Check { reader, mut warnings, files, .. } = check;
    warnings.extend(files.warnings);
    let origins = std::mem::take(&mut reader.origins);
    Checked { config, warnings, files: files.named.into_iter().collect(), origins }
}

struct Check<'r, 's> {
    reader: &'r mut Reader<'s>,
    files: Files,
    listening: Listening,
    warnings: Vec<Problem>,
}

/// An upstream's tables that `[defaults]` may hold too.
struct Settings {
    heartbeat: Heartbeat,
    retry: Retry,
    pool: Pool,
    limits: Limits,
    tls: Option<Tls>,
    windows: u64,
    resume: Resume,
}

impl Check<'_, '_> {
    fn upstreams(&mut self, tree: &Tree<'_>) -> BTreeMap<String, Arc<Upstream>> {
        let mut upstreams = BTreeMap::new();
        let mut seen: HashMap<String, Range<usize>> = HashMap::new();
        if tree.upstreams.is_empty() && !tree.gateway {
            let problem = Problem::of_file(&self.reader.source.name, "no upstream is named").basis(Basis::Whole);
            self.reader.tell(LEAST.lines().fold(problem.help("the least that runs:"), Problem::help));
        }
        if let Some((_, table)) = tree.upstreams.get(UPSTREAMS_MAX) {
            let message = format!("{} upstreams are too many: at most {UPSTREAMS_MAX}", tree.upstreams.len());
            self.reader.error(&table.place, message, "run a second everlink for the others");
        }
        for (name, table) in tree.upstreams.iter().take(UPSTREAMS_MAX) {
            self.name(name, table, &mut seen);
            let upstream = self.upstream(name, table, tree.defaults.as_ref());
            upstreams.insert((*name).to_owned(), Arc::new(upstream));
        }
        upstreams
    }

    fn name(&mut self, name: &str, table: &Table<'_>, seen: &mut HashMap<String, Range<usize>>) {
        let lower = name.to_lowercase();
        let form = "names have a-z, 0-9, `_` and `-`, begin with a letter or digit, and have 1 to 63 characters";
        let shown = super::read::quoted(name);
        if let Some(other) = seen.get(&lower) {
            let problem = Problem::at(
                self.reader.source,
                &table.place,
                format!("upstream {shown} differs from another only by its case"),
            );
            self.reader.tell(problem.and_at(self.reader.source, other, "the other").help(form));
            return;
        }
        seen.insert(lower.clone(), table.place.clone());
        let fits = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
                && name.len() <= NAME_MAX
        };
        if fits(name) {
            return;
        }
        let help = if fits(&lower) { format!("write `{lower}`; {form}") } else { form.to_owned() };
        let what = if name.len() > NAME_MAX {
            format!("the upstream's name has {} characters", name.chars().count())
        } else {
            format!("{shown} cannot be the name of an upstream")
        };
        self.reader.error(&table.place, what, help);
    }

    fn upstream(&mut self, name: &str, table: &Table<'_>, defaults: Option<&Table<'_>>) -> Upstream {
        let layer = Layer { scope: Scope::Upstream, path: format!("upstreams.{name}."), own: table, defaults };
        let mode = self.mode(&layer);
        let insecure = self.reader.flag(&layer, "insecure_listen");
        let insecure = insecure.value || !insecure.sound;
        let mut listen = Vec::new();
        let mut forwards = Vec::new();
        match mode {
            Mode::Direct => {
                let example = "as in listen = \"127.0.0.1:7001\"";
                listen = self.listeners(&layer, name, &format!("upstream `{}`", shown(name)), example, insecure);
            }
            Mode::Tunnel => forwards = self.forwards(&layer, name, insecure),
        }
        let endpoints = self.endpoints(&layer, name);
        let balances = [Balance::Priority, Balance::RoundRobin, Balance::LeastConnections];
        let balance = self.reader.choice(&layer, "balance").value;
        let required = self.reader.flag(&layer, "required").value;
        let settings = self.settings(&layer, Some(mode));
        let tunnel = (mode == Mode::Tunnel).then(|| self.tunnel(&layer, name, forwards, &endpoints, &settings));
        let Settings { heartbeat, retry, pool, limits, tls, .. } = settings;
        Upstream {
            name: name.to_owned(),
            listen,
            endpoints: endpoints.into_iter().map(|(endpoint, _)| endpoint).collect(),
            balance: balances.get(balance).copied().unwrap_or(Balance::Priority),
            required,
            heartbeat,
            retry,
            pool,
            limits,
            tls,
            tunnel,
        }
    }

    /// `mode` is `None` for `[defaults]`, which holds the keys of both; an upstream inherits those of its own mode.
    fn settings(&mut self, layer: &Layer<'_, '_>, mode: Option<Mode>) -> Settings {
        let size = self.reader.count(layer, "pool.size");
        let size = match (mode, &size.at) {
            (Some(Mode::Tunnel), None) => TUNNEL_LINKS,
            _ => count(size.value),
        };
        let connections = self.reader.count(layer, "limits.connections");
        let mut settings = Settings {
            heartbeat: self.heartbeat(layer, mode),
            retry: self.retry(layer),
            pool: Pool { size, max_age: self.reader.time(layer, "pool.max_age").value },
            limits: Limits {
                connections: count(connections.value),
                wait: self.reader.time(layer, "limits.wait").value.unwrap_or_default(),
                waiting: count(self.reader.count(layer, "limits.waiting").value),
                idle_timeout: self.reader.time(layer, "limits.idle_timeout").value,
            },
            tls: self.tls(layer, mode),
            windows: 0,
            resume: Resume { deadline: Duration::ZERO, buffer: 0 },
        };
        if mode != Some(Mode::Direct) {
            settings.windows = self.windows(layer, connections.value.filter(|_| connections.sound));
            settings.resume = self.resume(layer, "resume.deadline", "resume.buffer");
        }
        settings
    }

    fn retry(&mut self, layer: &Layer<'_, '_>) -> Retry {
        let initial = self.reader.time(layer, "retry.initial");
        let max = self.reader.time(layer, "retry.max");
        let multiplier = self.reader.ratio(layer, "retry.multiplier").value;
        let jitter = self.reader.ratio(layer, "retry.jitter").value;
        let attempts = self.reader.count(layer, "retry.attempts").value;
        let retry = Retry {
            initial: initial.value.unwrap_or_default(),
            max: max.value.unwrap_or_default(),
            multiplier: if let Ratio::Number(number) = multiplier { number } else { 1.0 },
            jitter: match jitter {
                Ratio::Number(share) => Jitter::Share(share),
                Ratio::Word(0) => Jitter::Full,
                Ratio::Word(_) => Jitter::Off,
            },
            attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()),
            stable_after: self.reader.time(layer, "retry.stable_after").value.unwrap_or_default(),
            connect_timeout: self.reader.time(layer, "retry.connect_timeout").value.unwrap_or_default(),
        };
        let whole = layer.scope == Scope::Upstream;
        if whole && initial.sound && max.sound && retry.initial > retry.max {
            let message = format!(
                "`initial` is {}, longer than `max`, which is {}",
                self.shown(layer, "retry.initial", show_duration(retry.initial)),
                self.shown(layer, "retry.max", show_duration(retry.max))
            );
            let help = "waits grow from `initial` to `max`: lower the one or raise the other";
            self.pair(layer, "retry.initial", "retry.max", message, help);
        }
        retry
    }

    /// A value for a message; by name only if it came from a variable.
    fn shown(&self, layer: &Layer<'_, '_>, name: &str, value: String) -> String {
        let text = match layer.find(name).map(|(written, _)| written.value.get_ref()) {
            Some(DeValue::String(text)) => text.contains("${").then(|| text.to_string()),
            Some(_) => None,
            None => return format!("{value} by default"),
        };
        text.unwrap_or(value)
    }

    /// A problem of two keys, at the places where they are written.
    fn pair(&mut self, layer: &Layer<'_, '_>, first: &str, second: &str, message: String, help: &str) {
        let (main, other) = match (layer.place_of(first), layer.place_of(second)) {
            (Some(main), other) => (main, other),
            (None, Some(only)) => (only, None),
            (None, None) => return,
        };
        let problem = Problem::at(self.reader.source, &main, message).help(help).basis(Basis::Whole);
        self.reader.tell(match other {
            Some(other) => problem.and_at(self.reader.source, &other, "and this"),
            None => problem,
        });
    }
}

fn count(count: Option<u64>) -> usize {
    count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX)
}

fn shown(name: &str) -> String {
    name.chars().take(NAME_MAX).map(super::source::printable).collect()
}
