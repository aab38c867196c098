use std::path::PathBuf;
use std::sync::Mutex;

use super::*;
use crate::metrics::ReloadOutcome;

/// Notes what it is told; a reload of `slow` never ends.
#[derive(Default)]
struct Recorder {
    told: Mutex<Vec<String>>,
    slow: bool,
    /// A reload may be what ends the socket.
    ended: CancellationToken,
}

impl Commands for Recorder {
    fn reload(&self) -> Pending<'_> {
        Box::pin(async {
            self.told.lock().unwrap().push("reload".to_owned());
            self.ended.cancel();
            if self.slow {
                std::future::pending::<()>().await;
            }
            Answer::reloaded(ReloadOutcome::Applied, vec!["chat: heartbeat.interval 5s → 3s".to_owned()])
        })
    }

    fn retry<'a>(&'a self, upstream: &'a str) -> Pending<'a> {
        Box::pin(async move {
            self.told.lock().unwrap().push(format!("retry {upstream}"));
            Answer::retried(2)
        })
    }

    fn drill<'a>(&'a self, upstream: &'a str, _: drill::Asked) -> Pending<'a> {
        Box::pin(async move {
            self.told.lock().unwrap().push(format!("drill {upstream}"));
            Answer::drilling("it runs".to_owned())
        })
    }
}

struct Running {
    _directory: tempfile::TempDir,
    path: PathBuf,
    recorder: Arc<Recorder>,
    end: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(slow: bool) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let listener = AdminListener::bind(&path).unwrap();
    let recorder = Arc::new(Recorder { slow, ..Recorder::default() });
    let end = CancellationToken::new();
    let task = tokio::spawn(serve(listener, recorder.clone(), end.clone()));
    Running { _directory: directory, path, recorder, end, task }
}

async fn ask(running: &Running, request: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(&running.path).await.unwrap();
    // A server that has heard enough may close before it has heard all.
    let _ = stream.write_all(request).await;
    told(stream).await
}

async fn told(mut stream: UnixStream) -> Answer {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&text)))
}

#[tokio::test]
async fn commands_are_carried_out_and_answered() {
    let running = start(false);
    let reloaded = ask(&running, b"{\"command\":\"reload\"}\n").await;
    assert_eq!((reloaded.ok, reloaded.outcome.as_str()), (true, "applied"));
    let retried = ask(&running, b"{\"command\":\"retry\",\"upstream\":\"chat\"}\r\n").await;
    assert_eq!(retried, Answer::retried(2));
    assert_eq!(*running.recorder.told.lock().unwrap(), ["reload", "retry chat"]);
}

#[tokio::test]
async fn a_drill_is_passed_on_if_there_is_such_a_drill() {
    let running = start(false);
    let asked =
        |kind: &str| format!("{{\"command\":\"drill\",\"upstream\":\"a\",\"kind\":\"{kind}\",\"for\":\"10s\"}}\n");
    let drill = ask(&running, asked("reset").as_bytes()).await;
    assert_eq!(
        (drill.ok, drill.outcome.as_str(), drill.lines.as_slice()),
        (true, "drilling", &["it runs".to_owned()][..])
    );
    let none = ask(&running, asked("flood").as_bytes()).await;
    assert!(!none.ok && none.lines[0].contains("blackhole, reset and delay"), "{none:?}");
    assert_eq!(*running.recorder.told.lock().unwrap(), ["drill a"]);
}

#[tokio::test]
async fn lines_that_are_no_requests_change_nothing() {
    let running = start(false);
    let mut long = br#"{"command":"reload","#.to_vec();
    long.resize(5000, b' ');
    long.push(b'\n');
    for line in [&b"\n"[..], b"reload\n", b"GET / HTTP/1.1\r\n\r\n", b"{\"command\":\"stop\"}\n", &long] {
        let answer = ask(&running, line).await;
        assert!(!answer.ok && answer.outcome == "refused", "{answer:?}");
    }
    assert!(running.recorder.told.lock().unwrap().is_empty());
}

#[test]
fn only_root_and_the_owner_may_command() {
    assert!(may_command(0, 1000) && may_command(1000, 1000));
    assert!(!may_command(1001, 1000) && !may_command(1000, 0) && !may_command(u32::MAX, 0));
}

#[tokio::test]
async fn a_stranger_is_refused_and_commands_nothing() {
    for peer in [Ok(1001), Err(io::ErrorKind::Unsupported.into())] {
        let recorder = Recorder::default();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"{\"command\":\"reload\"}\n").await.unwrap();
        serve_one(theirs, peer, 1000, true, &recorder, &CancellationToken::new()).await;
        assert!(!told(ours).await.ok);
        assert!(recorder.told.lock().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_and_one_that_asks_too_much_are_given_up() {
    let running = start(true);
    let start = tokio::time::Instant::now();
    let silent = told(UnixStream::connect(&running.path).await.unwrap()).await;
    assert_eq!(silent, Answer::refused("no request within 5 s".to_owned()));
    assert_eq!(start.elapsed().as_secs(), 5);
    let slow = ask(&running, b"{\"command\":\"reload\"}\n").await;
    assert!(slow.lines[0].starts_with("no result within 30 s"), "{slow:?}");
    assert_eq!(start.elapsed().as_secs(), 35);
}

#[tokio::test]
async fn the_ninth_connection_is_told_to_come_back() {
    let running = start(false);
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(UnixStream::connect(&running.path).await.unwrap());
    }
    let ninth = told(UnixStream::connect(&running.path).await.unwrap()).await;
    assert_eq!(ninth, Answer::refused("8 admin connections are open; try again".to_owned()));
    open.pop();
    // The place is free as soon as the server has noticed.
    timeout(Duration::from_secs(10), async { while !ask(&running, b"{\"command\":\"reload\"}\n").await.ok {} })
        .await
        .expect("the place never became free");
}

#[tokio::test]
async fn the_end_closes_the_socket_and_removes_its_file() {
    let running = start(false);
    let mut idle = UnixStream::connect(&running.path).await.unwrap();
    running.end.cancel();
    running.task.await.unwrap();
    assert!(!running.path.exists());
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn who_has_asked_is_answered_after_the_end() {
    let recorder = Recorder::default();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(b"{\"command\":\"reload\"}\n").await.unwrap();
    serve_one(theirs, Ok(0), 0, true, &recorder, &recorder.ended).await;
    assert!(told(ours).await.ok && recorder.ended.is_cancelled());
}
