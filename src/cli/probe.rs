//! `everlink probe`: one question, one line, one exit code.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::get::{Answer, GetError, get};
use super::{OK, Probe, ProbeArgs};

/// Between two questions of one that waits.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks within 2 s, again and again if it is to wait; 0 if the answer is yes, 1 if it is no or does not come.
pub fn run(args: &ProbeArgs) -> ExitCode {
    let (word, path) = match args.what {
        Probe::Live => ("live", "/livez"),
        Probe::Ready => ("ready", "/readyz"),
        Probe::Started => ("started", "/startupz"),
    };
    let deadline = Instant::now() + args.wait.unwrap_or_default();
    match until(deadline, || verdict(word, get(&args.at.url(), path))) {
        Ok(line) => {
            // A probe whose reader has gone has still found out what it was to find out.
            let _ = super::say(&format!("{line}\n"));
            ExitCode::from(OK)
        }
        Err(line) => super::no(&line),
    }
}

/// The first yes, or the last no before `deadline`.
fn until(deadline: Instant, mut ask: impl FnMut() -> Result<String, String>) -> Result<String, String> {
    loop {
        let answer = ask();
        let left = deadline.saturating_duration_since(Instant::now());
        if answer.is_ok() || left.is_zero() {
            return answer;
        }
        std::thread::sleep(PAUSE.min(left));
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

    #[test]
    fn one_that_waits_asks_until_it_hears_yes_and_else_tells_the_last_no() {
        let after = |noes: usize, wait: Duration| {
            let mut asked = 0;
            let answer = until(Instant::now() + wait, || {
                asked += 1;
                if asked > noes { Ok("started".to_owned()) } else { Err(asked.to_string()) }
            });
            (answer, asked)
        };
        assert_eq!(after(3, Duration::from_secs(60)), (Ok("started".to_owned()), 4));
        assert_eq!(after(3, Duration::ZERO), (Err("1".to_owned()), 1));
        let (answer, asked) = after(usize::MAX, Duration::from_millis(60));
        assert_eq!(answer, Err(asked.to_string()));
        assert!(asked > 1, "asked {asked} times");
    }
}
