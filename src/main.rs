//! Arguments in, exit code out.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use everlink::cli::{self, Command};
use everlink::{app, check};

fn main() -> ExitCode {
    match cli::parse() {
        Command::Run(args) => app::run(&args.config, false),
        Command::Demo(args) => app::run(&args.config, true),
        Command::Check(args) => check::run(&args),
        Command::Status(args) => cli::status::run(&args),
        Command::Probe(args) => cli::probe::run(&args),
        Command::Schema => cli::schema(),
        Command::Completions { shell } => cli::completions(shell),
        Command::Man => cli::man::run(),
        Command::Reload(args) => cli::admin::reload(&args, app::configured_admin(&args.config)),
        Command::Drill(args) => cli::admin::drill(&args, app::configured_admin(&args.admin.config)),
        Command::Retry(args) => cli::admin::retry(&args, app::configured_admin(&args.admin.config)),
    }
}
