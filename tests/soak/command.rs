//! `tests/soak/run [DURATION] [SEED]`: everlink under faults for as long as one likes, with every byte checked.
//!
//! Prints a summary, and writes it as JSON, with a picture of what happened and a table of all that was seen each second. Leaves with 1 if anything was lost, doubled, late or left over.

mod chart;
mod child;
mod clients;
mod config;
mod faults;
mod gateway_faults;
mod lines;
mod path_faults;
mod picture;
mod relay;
mod samples;
mod servers;
mod sidecar_faults;
mod site;
#[allow(clippy::module_inception)]
mod soak;
mod summary;
mod talk;
mod trust;
mod verdict;
mod world;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: soak BINARY OUTPUT [DURATION] [SEED]   as in: soak target/release/everlink /tmp/out 10m 42";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> io::Result<bool> {
    let mut arguments = std::env::args().skip(1);
    let (Some(binary), Some(output)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::other(USAGE));
    };
    let duration = arguments.next().map_or(Some(Duration::from_secs(3600)), |text| duration(&text));
    let seed = arguments.next().map_or(Some(fastrand::u64(..1_000_000)), |text| text.parse().ok());
    let (Some(duration), Some(seed)) = (duration, seed) else { return Err(io::Error::other(USAGE)) };
    let brisk = duration < Duration::from_secs(60);
    let options = soak::Options {
        duration,
        seed,
        tempo: if brisk { faults::Tempo::BRISK } else { faults::Tempo::STEADY },
        rest_every: (duration / 4).clamp(Duration::from_secs(60), Duration::from_secs(600)),
        binary: PathBuf::from(binary),
    };
    println!("seed {seed}, {duration:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(soak::run(&options))?;
    let summary = summary::of(&outcome);
    let json = serde_json::to_string_pretty(&summary)? + "\n";
    let output = PathBuf::from(output);
    std::fs::create_dir_all(&output)?;
    let files = [("json", json), ("svg", picture::draw(&outcome)), ("csv", samples::csv(&outcome.samples))];
    for (kind, content) in files {
        std::fs::write(output.join("soak").with_extension(kind), content)?;
    }
    print!("{}", summary::text(&summary));
    println!("all of it is in {}: soak.json, soak.svg, soak.csv", output.display());
    if let Some(directory) = &outcome.directory {
        println!("configurations and logs are kept in {}", directory.display());
    }
    Ok(outcome.failures.is_empty())
}

/// `90s`, `10m`, `1h`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.len().checked_sub(1)?);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(unit)?))
}
