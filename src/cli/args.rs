//! The commands, their arguments and their help.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::DEFAULT_URL;

const DEFAULT_CONFIG: &str = "config.toml";

const EXIT_CODES: &str = "Exit codes: 0 done, or yes; 1 not done, or no; 2 wrong usage.";

const EXAMPLE: &str = "\
Example, with the lines of a first config.toml:
  [upstreams.orders]
  listen = \"127.0.0.1:7001\"
  endpoints = [\"orders-a.internal:9000\", \"orders-b.internal:9000\"]

  everlink check && everlink &
  everlink status

To see what it does before there is anything to configure: everlink demo, beside the shipped config.toml.

Exit codes: 0 done, or yes; 1 not done, or no; 2 wrong usage; 78 a configuration that cannot be used.";

const SCHEMA_USE: &str = "\
Example: everlink schema > everlink.schema.json

Save it beside the configuration, and name it in that file's first line:
  #:schema ./everlink.schema.json

taplo follows that line, and so do VS Code with Even Better TOML, Zed, Helix and Neovim with taplo's language server.
For many files, name it once in .taplo.toml:
  [[rule]]
  include = [\"**/everlink/*.toml\"]
  schema = { path = \"./everlink.schema.json\" }";

/// Keeps your upstream TCP links alive: dials them ahead of time, proves them with heartbeats, and hands a proven one
/// to each local client; or carries all clients over one link to a gateway, and loses no byte when that link breaks.
/// Without a command it runs.
#[derive(Debug, Parser)]
#[command(name = "everlink", version, after_help = EXAMPLE, args_conflicts_with_subcommands = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Keep the links of a configuration alive, until SIGTERM (the default command).
    ///
    /// The file is watched: what differs after an edit is applied while everything else stays as it is. SIGHUP reads
    /// it at once. SIGTERM and ctrl-c drain, a second one exits at once.
    #[command(after_help = "Example: everlink run --config /etc/everlink/config.toml\n\n\
        Exit codes: 0 ended after a drain; 1 could not run; 2 wrong usage; 78 a configuration that cannot be used.")]
    Run(RunArgs),

    /// Tell every problem of a configuration, and what it comes to.
    ///
    /// Prints all problems in one run with their places, or the configuration in effect with the origin of each value
    /// and the longest time a dead link of each upstream may go unnoticed.
    #[command(after_help = "Example: everlink check new.toml --against http://127.0.0.1:9900\n\n\
        Exit codes: 0 it can be used; 1 --against was not answered; 2 wrong usage; 78 it cannot be used.")]
    Check(CheckArgs),

    /// Show the links of a running everlink as a table.
    #[command(after_help = format!("Example: everlink status --watch\n\n{EXIT_CODES}"))]
    Status(StatusArgs),

    /// Ask a running everlink how it is, for health checks of images without a shell.
    ///
    /// `live`: every data loop shows signs of life. `started`: the configuration is in and all listeners are bound.
    /// `ready`: also not draining, and every required upstream has a live link.
    #[command(after_help = format!("Example: everlink probe ready --url http://127.0.0.1:9900\n\n{EXIT_CODES}"))]
    Probe(ProbeArgs),

    /// Make a running everlink read its configuration again now.
    ///
    /// Needs `[admin] socket` in its configuration, and its user or root to ask.
    #[command(after_help = format!("Example: everlink reload --socket /run/everlink/admin.sock\n\n{EXIT_CODES}"))]
    Reload(AdminArgs),

    /// Dial the links of an upstream now, instead of when their wait is over.
    ///
    /// Also brings back links that are `failed` because `retry.attempts` ran out.
    #[command(after_help = format!("Example: everlink retry orders\n\n{EXIT_CODES}"))]
    Retry(RetryArgs),

    /// Rehearse an outage on one link of an upstream, to see what notices it and how soon.
    ///
    /// On the first link that is up, in the running program; the answer says which. Direct mode: that link's warm
    /// connection, the connections in use that it has handed out, and its dials to that endpoint; what other links carry
    /// is spared. Tunnel: the link's connection and its dials to that gateway; other tunnels and links are spared.
    ///
    /// `blackhole`: nothing gets through, and nobody is told; what waits flows on when it is over. `reset`: the
    /// connections are reset now, and with --for dials are refused for so long. `delay`: every byte comes so much later,
    /// each way; at most 4 MiB are on their way. `stop` ends what runs. It also ends by itself, with its link, and when
    /// everlink drains. The log, `/status`, `everlink status` and everlink_drills_active show it.
    ///
    /// Needs `[admin] socket` in its configuration, and its user or root to ask.
    #[command(after_help = format!("Example: everlink drill orders blackhole --for 10s\n         \
        everlink drill orders delay --by 200ms --for 1m\n         everlink drill orders stop\n\n{EXIT_CODES}"))]
    Drill(DrillArgs),

    /// Print a JSON Schema of the configuration, for editors.
    ///
    /// They complete keys by it, explain them, and mark unknown ones, wrong types and missing units; `everlink check` tells
    /// the rest. It describes the configuration of this very version.
    #[command(after_help = format!("{SCHEMA_USE}\n\n{EXIT_CODES}"))]
    Schema,

    /// Print the completions of this command line for a shell.
    ///
    /// bash: source <(everlink completions bash), in ~/.bashrc. zsh: save it as _everlink in a directory of $fpath. fish: save
    /// it as ~/.config/fish/completions/everlink.fish.
    #[command(after_help = format!("Example: everlink completions bash > /etc/bash_completion.d/everlink\n\n{EXIT_CODES}"))]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },

    /// Print the manual page.
    #[command(after_help = format!("Example: everlink man > /usr/local/share/man/man1/everlink.1\n\n{EXIT_CODES}"))]
    Man,

    /// Try it out: servers inside the process answer for the upstreams of the shipped configuration.
    ///
    /// The file is the real one and watched as always, so editing it shows a live reload. A client of the demo's own sends
    /// numbered lines through the tunnel and checks what comes back: type c and Enter, and see what a cut does to them.
    #[command(
        after_help = "Example: everlink demo --config config.toml, and in another terminal: everlink status --watch\n\n\
        Exit codes: 0 ended after a drain; 1 could not run; 2 wrong usage; 78 a configuration that cannot be used."
    )]
    Demo(RunArgs),
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CheckArgs {
    /// The configuration file; `-` is standard input.
    #[arg(value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub file: PathBuf,
    /// The same, as other commands take it.
    #[arg(long, short, value_name = "FILE", conflicts_with = "file")]
    pub config: Option<PathBuf>,
    /// A running everlink: tell what a reload of it to this file would do.
    #[arg(long, value_name = "URL")]
    pub against: Option<String>,
}

impl CheckArgs {
    /// The file that is meant, however it was given.
    pub fn file(&self) -> &Path {
        self.config.as_deref().unwrap_or(&self.file)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct UrlArgs {
    /// The `http.listen` address of the running everlink. Default: the environment's EVERLINK_URL, else
    /// http://127.0.0.1:9900.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

impl UrlArgs {
    /// What was given, else `EVERLINK_URL`, else [`DEFAULT_URL`].
    pub fn url(&self) -> String {
        self.url_with(std::env::var("EVERLINK_URL").ok())
    }

    pub(super) fn url_with(&self, environment: Option<String>) -> String {
        // An empty variable is how container manifests say "unset".
        let environment = environment.filter(|url| !url.is_empty());
        self.url.clone().or(environment).unwrap_or_else(|| DEFAULT_URL.to_owned())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub at: UrlArgs,
    /// Redraw each second, changed lines marked with `*`, until ctrl-c.
    #[arg(long, short)]
    pub watch: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ProbeArgs {
    /// What to ask.
    pub what: Probe,
    #[command(flatten)]
    pub at: UrlArgs,
    /// Ask again until the answer is yes, for at most so long: holds up whoever waits for a start.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub wait: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    Live,
    Ready,
    Started,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct AdminArgs {
    /// The admin socket. Default: `[admin] socket` of the configuration file.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The configuration file that names the admin socket.
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RetryArgs {
    /// The upstream's name in the configuration.
    #[arg(value_name = "NAME")]
    pub upstream: String,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DrillArgs {
    /// The upstream's name in the configuration.
    #[arg(value_name = "NAME")]
    pub upstream: String,
    /// What to rehearse.
    pub what: Drill,
    /// How long it lasts, 100ms to 1h. Default: 10s; a reset is over at once.
    #[arg(long = "for", value_name = "DURATION")]
    pub time: Option<String>,
    /// How late a delay makes every byte, each way, 1ms to 10s. Default: 200ms.
    #[arg(long, value_name = "DURATION")]
    pub by: Option<String>,
    #[command(flatten)]
    pub admin: AdminArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Drill {
    /// Nothing gets through, and nobody is told.
    Blackhole,
    /// The connections are reset.
    Reset,
    /// Every byte comes later.
    Delay,
    /// End the drill that runs.
    Stop,
}

impl Drill {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Blackhole => "blackhole",
            Self::Reset => "reset",
            Self::Delay => "delay",
            Self::Stop => "stop",
        }
    }
}

/// A duration as in the configuration, `30s`.
fn time(text: &str) -> Result<Duration, String> {
    crate::config::duration(text).map_err(|error| error.to_string())
}
