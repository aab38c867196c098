//! The configuration file: variables, syntax, reading, checks, and what is printed of it. As far as it needs no file: what
//! the configuration names is opened by no build for fuzzing.

use std::borrow::Cow;

use everlink::config::{self, Config};

/// A first byte that no text begins with: what follows a number is repeated as often as the number says, up to this many
/// bytes. So what grows faster than its file is found without long inputs.
const REPEATED: u8 = 0xff;
const REPEATED_MOST: usize = 256 * 1024;

pub fn run(input: &[u8]) -> usize {
    let text = text(input);
    match config::parse("fuzz.toml", &*text, &variable) {
        Ok(loaded) => {
            let shown = config::show(&loaded);
            let again = match config::parse("shown", &shown, &variable) {
                Ok(again) => again,
                Err(report) => panic!("what is shown cannot be read:\n{report}\n{shown}"),
            };
            assert_eq!(again.config, loaded.config, "what is shown means something else:\n{shown}");
            assert!(config::diff(&loaded.config, &again.config).is_empty());
            let added = config::diff(&Config::empty(), &loaded.config);
            let written: usize = added.iter().map(|change| change.to_string().len()).sum();
            let warned: usize = loaded.warnings.iter().map(|warning| warning.to_string().len()).sum();
            let summary: usize = everlink::check::summary::lines(&loaded.config).iter().map(String::len).sum();
            let _ = config::descriptors_needed(&loaded.config);
            // Every default is written out, and read once more.
            text.len() + 2 * shown.len() + written + warned + summary
        }
        Err(report) => {
            assert!(!report.problems.is_empty());
            assert!(!report.to_string().contains(SECRET), "{report}");
            for problem in &report.problems {
                let line = problem.line();
                assert!(!line.contains(char::is_control), "{line:?}");
            }
            text.len()
        }
    }
}

fn text(input: &[u8]) -> Cow<'_, [u8]> {
    match input {
        [REPEATED, times, bytes @ ..] if !bytes.is_empty() => {
            let times = 1usize << (times % 20);
            Cow::Owned(bytes.repeat(times.min(REPEATED_MOST / bytes.len()).max(1)))
        }
        _ => Cow::Borrowed(input),
    }
}

const SECRET: &str = "zebra4711zebra";

fn variable(name: &str) -> Option<String> {
    Some(match name {
        "HOST" => "db.internal".to_owned(),
        "PORT" => "8080".to_owned(),
        "ADDRESS" => "127.0.0.1:7000".to_owned(),
        "YES" => "true".to_owned(),
        "TIME" => "3s".to_owned(),
        "EMPTY" => String::new(),
        "TRICK" => "${HOST}\n[x".to_owned(),
        "SECRET" => SECRET.to_owned(),
        _ => return None,
    })
}
