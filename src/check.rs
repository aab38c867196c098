//! `everlink check`: whether a file can be used, what it comes to, and what a reload to it would do.

#![forbid(unsafe_code)]

pub mod summary;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use crate::app::{EXIT_CONFIG, environment};
use crate::cli::{self, CheckArgs, get};
use crate::config::told::Met;
use crate::config::{self, Config, Loaded, Report};
use crate::net::kernel;

/// Prints every problem, or the effective configuration with each value's origin and what it costs.
pub fn run(args: &CheckArgs) -> ExitCode {
    let loaded = match load(args.file()) {
        Ok(loaded) => loaded,
        Err(report) => {
            eprintln!("{report}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    for warning in &loaded.warnings {
        eprintln!("{warning}\n");
    }
    println!("{}", config::show(&loaded));
    for line in summary::lines(&loaded.config) {
        println!("# {line}");
    }
    if let Ok((_, allowed)) = kernel::raise_descriptor_limit() {
        let needed = config::descriptors_needed(&loaded.config);
        let verdict =
            if needed > allowed { "; clients past that are refused: raise the limit (ulimit -n)" } else { "" };
        println!("# descriptors: this user may have {allowed}{verdict}");
    }
    println!(
        "# {} can be used{}",
        loaded.name,
        match loaded.warnings.len() {
            0 => String::new(),
            1 => ", with 1 warning".to_owned(),
            n => format!(", with {n} warnings"),
        }
    );
    match &args.against {
        None => ExitCode::from(cli::OK),
        Some(url) => against(url, &loaded.config),
    }
}

/// `-` is standard input: a template's output need not go to a file first. What it names is looked for from the working
/// directory, as for any other file.
fn load(path: &Path) -> Result<Loaded, Report> {
    if path != Path::new("-") {
        return config::load(path, &environment);
    }
    config::load_from("<stdin>", io::stdin().lock(), &environment)
}

/// What a reload of the everlink at `url` would do.
fn against(url: &str, new: &Config) -> ExitCode {
    let answer = match get::get(url, "/status?config") {
        Ok(answer) if answer.status == 200 => answer,
        Ok(answer) => {
            eprintln!("error: {url} answers {}: {}", answer.status, answer.first_line());
            return ExitCode::from(cli::NO);
        }
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(cli::NO);
        }
    };
    let old = match config::parse(&format!("configuration of {url}"), &answer.body, &environment) {
        Ok(loaded) => loaded.config,
        Err(report) => {
            eprintln!("error: the configuration in force cannot be understood by this build\n{report}");
            return ExitCode::from(cli::NO);
        }
    };
    let changes = config::diff(&old, new);
    println!("#\n# a reload of {url} would change {}", if changes.is_empty() { "nothing" } else { "this:" });
    for line in config::told::lines(&changes, |_| Met::default(), new.drain.timeout) {
        println!("#   {line}");
    }
    ExitCode::from(cli::OK)
}
