//! The command line: what can be asked, and the help that explains it.
//!
//! The commands that talk to a running everlink are carried out here; `run`, `check` and `demo` are the program itself.

#![forbid(unsafe_code)]

pub mod admin;
mod args;
mod gateway;
pub mod get;
pub mod man;
mod outages;
pub mod probe;
mod screen;
pub mod status;
mod table;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::Cli;
pub use args::{
    AdminArgs, CheckArgs, Command, Drill, DrillArgs, Probe, ProbeArgs, RetryArgs, RunArgs, StatusArgs, UrlArgs,
};

/// It was done, or the answer is yes.
pub const OK: u8 = 0;
/// It was not, or the answer is no.
pub const NO: u8 = 1;
/// The command line itself is wrong; clap uses the same number.
pub const USAGE: u8 = 2;
/// EX_CONFIG of sysexits.h: a configuration that cannot be used.
pub const CONFIG: u8 = 78;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where a running everlink is asked unless told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:9900";

/// The command given, `run` if none was. Prints help or what is wrong with the usage, and exits, if that is what
/// the command line asks for.
pub fn parse() -> Command {
    command_of(Cli::parse())
}

fn command_of(cli: Cli) -> Command {
    cli.command.unwrap_or(Command::Run(cli.run))
}

/// The command line as a whole, for what is made of it.
fn definition() -> clap::Command {
    Cli::command()
}

/// Prints the schema of the configuration.
pub fn schema() -> ExitCode {
    // What is made of texts, numbers and lists always has a JSON.
    let text = serde_json::to_string_pretty(&crate::config::schema()).unwrap_or_default();
    let _ = say(&(text + "\n"));
    ExitCode::from(OK)
}

/// Prints what a shell completes this command line by.
pub fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut definition(), "everlink", &mut text);
    let _ = say(&String::from_utf8_lossy(&text));
    ExitCode::from(OK)
}

/// Prints to standard output. A reader that has gone (`| head`) is no reason to panic.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whether standard output takes colours: a terminal that is not `dumb`, with `NO_COLOR` unset or empty.
pub fn colours() -> bool {
    let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
    is_screen() && unset("NO_COLOR")
}

/// Whether standard output is a terminal that can move its cursor.
fn is_screen() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// One line on standard error, and exit code 1.
fn no(text: &str) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "everlink: {text}");
    ExitCode::from(NO)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(command_of)
    }

    fn run(config: &str) -> Command {
        Command::Run(RunArgs { config: config.into() })
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_runs() {
        assert_eq!(parsed("everlink").unwrap(), run("config.toml"));
        assert_eq!(parsed("everlink --config x.toml").unwrap(), run("x.toml"));
        assert_eq!(parsed("everlink run --config x.toml").unwrap(), run("x.toml"));
        assert_eq!(parsed("everlink run").unwrap(), run("config.toml"));
    }

    #[test]
    fn the_commands_take_what_the_design_says() {
        let admin = |socket: Option<&str>| AdminArgs { socket: socket.map(Into::into), config: "config.toml".into() };
        assert_eq!(parsed("everlink reload --socket /s").unwrap(), Command::Reload(admin(Some("/s"))));
        let retry = RetryArgs { upstream: "chat".to_owned(), admin: admin(None) };
        assert_eq!(parsed("everlink retry chat").unwrap(), Command::Retry(retry));
        let drill = DrillArgs {
            upstream: "chat".to_owned(),
            what: Drill::Delay,
            time: Some("1m".to_owned()),
            by: Some("1s".to_owned()),
            admin: admin(None),
        };
        assert_eq!(parsed("everlink drill chat delay --by 1s --for 1m").unwrap(), Command::Drill(drill));
        let against = Some("http://h:1".to_owned());
        let check = CheckArgs { file: "a.toml".into(), config: None, against };
        assert_eq!(parsed("everlink check a.toml --against http://h:1").unwrap(), Command::Check(check));
        for (line, file) in [("a.toml", "a.toml"), ("--config b.toml", "b.toml"), ("-c c.toml", "c.toml")] {
            let Ok(Command::Check(check)) = parsed(&format!("everlink check {line}")) else { panic!("{line}") };
            assert_eq!(check.file(), Path::new(file));
        }
        let at = UrlArgs { url: Some("http://h:1".to_owned()) };
        let probe = |wait| Command::Probe(ProbeArgs { what: Probe::Started, at: at.clone(), wait });
        assert_eq!(parsed("everlink probe started --url http://h:1").unwrap(), probe(None));
        let waiting = parsed("everlink probe started --url http://h:1 --wait 1500ms").unwrap();
        assert_eq!(waiting, probe(Some(Duration::from_millis(1500))));
        assert!(parsed("everlink probe started --wait 5").unwrap_err().to_string().contains("\"5s\""));
        let status = StatusArgs { at, watch: true };
        assert_eq!(parsed("everlink status --watch --url http://h:1").unwrap(), Command::Status(status));
        assert_eq!(parsed("everlink demo").unwrap(), Command::Demo(RunArgs { config: "config.toml".into() }));
    }

    #[test]
    fn the_url_is_the_given_one_then_the_environments_then_the_default() {
        let (given, silent) = (UrlArgs { url: Some("http://a:1".to_owned()) }, UrlArgs { url: None });
        let environment = || Some("http://b:2".to_owned());
        assert_eq!(given.url_with(environment()), "http://a:1");
        assert_eq!(silent.url_with(environment()), "http://b:2");
        assert_eq!(silent.url_with(Some(String::new())), DEFAULT_URL);
        assert_eq!(silent.url_with(None), DEFAULT_URL);
    }

    #[test]
    fn wrong_usage_is_exit_code_2() {
        for line in ["everlink stop", "everlink probe", "everlink probe alive", "everlink retry", "everlink --config"] {
            assert_eq!(parsed(line).unwrap_err().exit_code(), i32::from(USAGE), "{line}");
        }
    }

    #[test]
    fn every_help_has_an_example_and_the_exit_codes() {
        let mut cli = Cli::command();
        cli.build();
        let whole = cli.render_long_help().to_string();
        assert!(whole.contains("Example") && whole.contains("78"), "{whole}");
        for command in cli.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example: everlink ") && help.contains("Exit codes: "), "{help}");
        }
    }
}
