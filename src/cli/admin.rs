//! `everlink reload`, `everlink retry` and `everlink drill`: one request over the admin socket.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{AdminArgs, DrillArgs, OK, RetryArgs, USAGE};
use crate::admin::protocol::{Answer, Request};
use crate::link::drill;
use crate::log::escape;

/// The server gives a command 30 s, and says so itself when they are over.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
const ANSWER_LIMIT: u64 = 4 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(
        "the configuration names no admin socket: add [admin] socket = \"/run/everlink/admin.sock\", or give --socket PATH; \
         without one, SIGHUP reads the configuration again and cuts every wait short"
    )]
    Nowhere,
    #[error(
        "the admin socket is not known, for the configuration cannot be used: {why}; mend it, or give --socket PATH"
    )]
    Unknown { why: String },
    #[error(
        "nobody answers on {path}: {cause}; is everlink running with [admin] socket = \"{path}\"? If its file was removed, SIGHUP makes it again"
    )]
    Connect { path: PathBuf, cause: io::Error },
    #[error("{path} may not be used by this user: {cause}; ask as the user everlink runs as, or as root")]
    Denied { path: PathBuf, cause: io::Error },
    #[error("{path} gave no answer: {cause}")]
    Io { path: PathBuf, cause: io::Error },
    #[error("{path} answers, but not as everlink does")]
    Answer { path: PathBuf },
}

/// What the configuration file says of the admin socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    At(PathBuf),
    Nowhere,
    /// The file cannot be used, for this reason.
    Unknown(String),
}

impl Named {
    /// The socket to ask, which is the one `given` if there is one.
    fn or(self, given: Option<&Path>) -> Result<PathBuf, AskError> {
        match (given, self) {
            (Some(given), _) => Ok(given.to_owned()),
            (None, Self::At(path)) => Ok(path),
            (None, Self::Nowhere) => Err(AskError::Nowhere),
            (None, Self::Unknown(why)) => Err(AskError::Unknown { why }),
        }
    }
}

/// `configured`: what holds unless `--socket` is given.
pub fn reload(args: &AdminArgs, configured: Named) -> ExitCode {
    told(ask(configured.or(args.socket.as_deref()), &Request::Reload))
}

/// `configured`: as for [`reload`].
pub fn retry(args: &RetryArgs, configured: Named) -> ExitCode {
    let request = Request::Retry { upstream: args.upstream.clone() };
    told(ask(configured.or(args.admin.socket.as_deref()), &request))
}

/// `configured`: as for [`reload`].
pub fn drill(args: &DrillArgs, configured: Named) -> ExitCode {
    let (kind, time, by) = (args.what.name(), args.time.clone(), args.by.clone());
    // Told before anybody is asked: it is the command line that is wrong.
    if let Err(why) = drill::Asked::read(kind, time.as_deref(), by.as_deref()) {
        let _ = super::no(&why);
        return ExitCode::from(USAGE);
    }
    let request = Request::Drill { upstream: args.upstream.clone(), kind: kind.to_owned(), time, by };
    told(ask(configured.or(args.admin.socket.as_deref()), &request))
}

fn told(answer: Result<Answer, AskError>) -> ExitCode {
    match answer {
        Ok(answer) if answer.ok => {
            // It has been done, whoever still reads this.
            let _ = super::say(&text(&answer));
            ExitCode::from(OK)
        }
        Ok(answer) => super::no(text(&answer).trim_end()),
        Err(error) => super::no(&error.to_string()),
    }
}

/// The outcome, and a line for each thing that changed.
fn text(answer: &Answer) -> String {
    let mut text = escape(&answer.outcome);
    match answer.lines.as_slice() {
        [] => text.push('\n'),
        [one] => text.push_str(&format!(": {}\n", shown(one))),
        many => {
            text.push_str(":\n");
            many.iter().for_each(|line| text.push_str(&format!("  {}\n", shown(line))));
        }
    }
    text
}

/// Lines of a message about a place in a file stay lines; what else could move the cursor does not get through.
fn shown(line: &str) -> String {
    line.lines().map(crate::log::printable).collect::<Vec<_>>().join("\n  ")
}

fn ask(socket: Result<PathBuf, AskError>, request: &Request) -> Result<Answer, AskError> {
    let path = socket?;
    let mut stream = connect(&path)?;
    let io = |cause| AskError::Io { path: path.clone(), cause };
    // A request is a tag and at most a string: it always has a JSON.
    let line = serde_json::to_string(request).unwrap_or_default() + "\n";
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(io)?;
    stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(io)?;
    // A server that refuses without reading may close first; its answer is there all the same.
    let _ = stream.write_all(line.as_bytes());
    let mut answer = Vec::new();
    match stream.take(ANSWER_LIMIT).read_to_end(&mut answer) {
        Err(cause) if answer.is_empty() => return Err(io(cause)),
        _ => {}
    }
    serde_json::from_slice(&answer).map_err(|_| AskError::Answer { path: path.clone() })
}

fn connect(path: &Path) -> Result<UnixStream, AskError> {
    UnixStream::connect(path).map_err(|cause| match cause.kind() {
        ErrorKind::PermissionDenied => AskError::Denied { path: path.to_owned(), cause },
        _ => AskError::Connect { path: path.to_owned(), cause },
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::admin::{AdminListener, Commands, Pending, serve};
    use crate::metrics::ReloadOutcome;

    struct Fixed;

    impl Commands for Fixed {
        fn reload(&self) -> Pending<'_> {
            Box::pin(async { Answer::reloaded(ReloadOutcome::Unchanged, Vec::new()) })
        }

        fn retry<'a>(&'a self, upstream: &'a str) -> Pending<'a> {
            Box::pin(async move { Answer::refused(format!("there is no upstream {upstream}")) })
        }

        fn drill<'a>(&'a self, upstream: &'a str, _: drill::Asked) -> Pending<'a> {
            Box::pin(async move { Answer::drilling(format!("{upstream}: link 1")) })
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_running_server_is_asked_and_answers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let listener = AdminListener::bind(&path).unwrap();
        let end = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Arc::new(Fixed), end.clone()));
        let answers = tokio::task::spawn_blocking(move || {
            let retry = Request::Retry { upstream: "chat".to_owned() };
            (ask(Ok(path.clone()), &Request::Reload), ask(Ok(path), &retry))
        });
        let (reload, retry) = answers.await.unwrap();
        assert_eq!(text(&reload.unwrap()), "unchanged\n");
        assert_eq!(text(&retry.unwrap()), "refused: there is no upstream chat\n");
        end.cancel();
        server.await.unwrap();
    }

    #[test]
    fn an_answer_with_several_lines_is_a_list() {
        let lines = vec!["chat: one".to_owned(), "error: x\n --> config.toml:1:1\x1b[2J".to_owned()];
        let answer = Answer::reloaded(ReloadOutcome::Rejected, lines);
        assert_eq!(text(&answer), "rejected:\n  chat: one\n  error: x\n   --> config.toml:1:1\\x1b[2J\n");
    }

    #[test]
    fn what_is_missing_is_said() {
        assert!(ask(Named::Nowhere.or(None), &Request::Reload).unwrap_err().to_string().contains("--socket PATH"));
        let directory = tempfile::tempdir().unwrap();
        let nobody = ask(Ok(directory.path().join("none.sock")), &Request::Reload).unwrap_err().to_string();
        assert!(nobody.contains("is everlink running"), "{nobody}");
    }
}
