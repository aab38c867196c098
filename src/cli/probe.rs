//! `everlink probe`: one question, one line, one exit code.

use std::process::ExitCode;

use super::get::{Answer, GetError, get};
use super::{OK, Probe, ProbeArgs};

/// Asks within 2 s; 0 if the answer is yes, 1 if it is no or does not come.
pub fn run(args: &ProbeArgs) -> ExitCode {
    let (word, path) = match args.what {
        Probe::Live => ("live", "/livez"),
        Probe::Ready => ("ready", "/readyz"),
        Probe::Started => ("started", "/startupz"),
    };
    match verdict(word, get(&args.at.url(), path)) {
        Ok(line) => {
            // A probe whose reader has gone has still found out what it was to find out.
            let _ = super::say(&format!("{line}\n"));
            ExitCode::from(OK)
        }
        Err(line) => super::no(&line),
    }
}

fn verdict(word: &str, answer: Result<Answer, GetError>) -> Result<String, String> {
    match answer {
        Ok(answer) if answer.status == 200 => Ok(word.to_owned()),
        Ok(answer) => Err(format!("not {word}: {} (HTTP {})", answer.first_line(), answer.status)),
        Err(error) => Err(format!("not {word}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, body: &str) -> Result<String, String> {
        verdict("ready", Ok(Answer { status, body: body.as_bytes().to_vec() }))
    }

    #[test]
    fn yes_is_200_and_everything_else_is_no_with_the_reason() {
        assert_eq!(said(200, "ok\n"), Ok("ready".to_owned()));
        assert_eq!(
            said(503, "draining: about to leave\nmore"),
            Err("not ready: draining: about to leave (HTTP 503)".into())
        );
        assert_eq!(said(404, "\x1b[2J"), Err("not ready: \\x1b[2J (HTTP 404)".into()));
        let late = verdict("live", Err(GetError::Late { host: "a:1".to_owned() }));
        assert_eq!(late, Err("not live: a:1 did not answer within 2 s".to_owned()));
    }
}
