//! The lines of the admin socket, as both ends read them.

use serde::{Deserialize, Serialize};

use crate::metrics::{Label, ReloadOutcome};

/// A request's line without its end is shorter than this, in bytes.
pub const REQUEST_LIMIT: usize = 4096;

/// What can be asked, told apart by `command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    Reload,
    Retry {
        upstream: String,
    },
    /// The words of `everlink drill`, `stop` included.
    Drill {
        upstream: String,
        kind: String,
        #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
        time: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
}

impl Request {
    /// Errors: why the line is no request, for the one who sent it.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| {
            format!("not a request ({error}); send {{\"command\":\"reload\"}} or {{\"command\":\"retry\",\"upstream\":\"NAME\"}}")
        })
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// It was done. A configuration that was rejected was not.
    pub ok: bool,
    /// One word: `applied`, `unchanged`, `rejected`, `retried`, `drilling`, `stopped`,
    /// `refused`.
    pub outcome: String,
    /// What changed, or why not; for people.
    #[serde(default)]
    pub lines: Vec<String>,
}

impl Answer {
    /// A reload ran; `lines` say what changed, or why the file was rejected.
    pub fn reloaded(outcome: ReloadOutcome, lines: Vec<String>) -> Self {
        Self { ok: outcome != ReloadOutcome::Rejected, outcome: outcome.name().to_owned(), lines }
    }

    /// The waits of so many links were cut short.
    pub fn retried(links: usize) -> Self {
        let line = match links {
            0 => "no link was waiting".to_owned(),
            1 => "1 link is dialled now".to_owned(),
            n => format!("{n} links are dialled now"),
        };
        Self { ok: true, outcome: "retried".to_owned(), lines: vec![line] }
    }

    /// A drill has begun.
    pub fn drilling(told: String) -> Self {
        Self { ok: true, outcome: "drilling".to_owned(), lines: vec![told] }
    }

    /// A drill has ended.
    pub fn stopped(told: String) -> Self {
        Self { ok: true, outcome: "stopped".to_owned(), lines: vec![told] }
    }

    /// Nothing was done.
    pub fn refused(why: String) -> Self {
        Self { ok: false, outcome: "refused".to_owned(), lines: vec![why] }
    }

    /// As sent, with its line end.
    pub fn line(&self) -> String {
        // Strings and a flag always have a JSON.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_documented() {
        assert_eq!(Request::parse(br#"{"command":"reload"}"#), Ok(Request::Reload));
        let retry = Request::Retry { upstream: "chat".to_owned() };
        assert_eq!(Request::parse(br#"{"command":"retry","upstream":"chat"}"#), Ok(retry.clone()));
        assert_eq!(Request::parse(serde_json::to_string(&retry).unwrap().as_bytes()), Ok(retry));
        let (upstream, kind, time) = ("chat".to_owned(), "reset".to_owned(), Some("10s".to_owned()));
        let drill = Request::Drill { upstream, kind, time, by: None };
        let line = r#"{"command":"drill","upstream":"chat","kind":"reset","for":"10s"}"#;
        assert_eq!(Request::parse(line.as_bytes()), Ok(drill.clone()));
        assert_eq!(serde_json::to_string(&drill).unwrap(), line);
    }

    #[test]
    fn anything_else_is_told_what_would_do() {
        for line in [
            &b""[..],
            b"reload",
            b"{}",
            br#"{"command":"stop"}"#,
            br#"{"command":"retry"}"#,
            b"\xff",
            br#"{"command":"retry","upstream":"a","all":true}"#,
            br#"[[[[["#,
        ] {
            let why = Request::parse(line).unwrap_err();
            assert!(why.contains(r#"{"command":"reload"}"#), "{why}");
        }
    }

    #[test]
    fn an_answer_is_one_line() {
        let answer = Answer::reloaded(ReloadOutcome::Applied, vec!["a\nb".to_owned()]);
        assert_eq!(answer.line(), "{\"ok\":true,\"outcome\":\"applied\",\"lines\":[\"a\\nb\"]}\n");
        assert!(!Answer::reloaded(ReloadOutcome::Rejected, Vec::new()).ok);
        assert!(Answer::reloaded(ReloadOutcome::Unchanged, Vec::new()).ok);
    }
}
