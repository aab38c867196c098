//! A real nginx behind everlink: what a browser or a service beside it sees while nginx is restarted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use tempfile::TempDir;

use crate::common::PATIENCE;
use crate::common::program::{Daemon, Program, command, directory, free_port, send, user, wait_until};

const BIG: usize = 48 << 20;

/// A server of one page and one large file.
struct Nginx {
    port: u16,
    directory: TempDir,
    big: Vec<u8>,
    server: Option<Daemon>,
}

impl Nginx {
    fn start() -> Self {
        let (directory, port) = (directory(), free_port());
        let (place, pages) = (directory.path().display(), directory.path().join("pages"));
        // Its workers drop root's rights.
        let as_user = if user() == 0 { "user root;" } else { "" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|what| format!("{what}_temp_path {place}/{what}; "))
            .collect();
        let configuration = format!(
            "daemon off; {as_user} worker_processes 1; pid {place}/pid; error_log {place}/log;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; {temporary}\n\
             server {{ listen 127.0.0.1:{port}; root {place}/pages; limit_rate_after 8m; limit_rate 8m; }} }}\n"
        );
        std::fs::create_dir(&pages).expect("made");
        let big: Vec<u8> = (0..BIG / 8).flat_map(|n: usize| n.to_le_bytes()).collect();
        std::fs::write(pages.join("big"), &big).expect("written");
        std::fs::write(pages.join("index.html"), "hello\n").expect("written");
        std::fs::write(directory.path().join("nginx.conf"), configuration).expect("written");
        let mut nginx = Self { port, directory, big, server: None };
        nginx.start_again();
        nginx
    }

    fn start_again(&mut self) {
        let place = self.directory.path();
        let mut server = command("nginx");
        server.arg("-p").arg(place).arg("-c").arg(place.join("nginx.conf"));
        let serves = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        self.server = Some(Daemon::start(&mut server, &place.join("output")).until_ready(serves));
    }

    fn behind_everlink(&self) -> Program {
        let everlink = Program::start(&format!(
            "[upstreams.web]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"127.0.0.1:{}\"]\n\
             retry = {{ initial = \"100ms\", max = \"1s\" }}\nlimits.wait = \"20s\"\n",
            self.port
        ));
        everlink.until_up("web", 2);
        everlink
    }
}

/// In order: a worker outlives a master that is killed.
impl Drop for Nginx {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.end_by("TERM");
        }
    }
}

/// All that comes for one GET on a connection of its own. Errors: it was cut.
fn get(from: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(from)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    Ok(all)
}

/// The body of a whole answer; `None` of one that is not.
fn body(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..end]).ok().filter(|head| head.starts_with("HTTP/1.1 200 OK\r\n"))?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok())?;
    Some(&answer[end..]).filter(|body| body.len() == length)
}

/// One GET after the other; each as when it began, how long it took, and what became of it.
struct Visits {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Instant, std::io::Result<Vec<u8>>)>>,
}

impl Visits {
    fn to(server: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut all = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                all.push((Instant::now(), get(server, "/")));
            }
            all
        });
        Self { stop, thread }
    }

    fn end(self) -> Vec<(Instant, std::io::Result<Vec<u8>>)> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("no panic")
    }
}

fn told(everlink: &Program) -> f64 {
    everlink.metric(r#"everlink_connections_total{upstream="web"}"#)
}

#[test]
fn a_restart_of_nginx_in_order_cuts_no_download_and_lets_visitors_wait() {
    let mut nginx = Nginx::start();
    let everlink = nginx.behind_everlink();
    let at = everlink.listener("web");
    let visits = Visits::to(at);
    let download = std::thread::spawn(move || get(at, "/big"));
    wait_until("both are under way", || {
        everlink.metric(r#"everlink_bytes_total{direction="received",upstream="web"}"#) > 9e6 && told(&everlink) > 20.0
    });
    // QUIT: it closes the port and lets what is under way finish.
    assert!(nginx.server.take().expect("running").end_by("QUIT").success());
    let gone = Instant::now();
    wait_until("a visitor waits", || everlink.metric(r#"everlink_connections_waiting{upstream="web"}"#) == 1.0);
    nginx.start_again();
    let visited = told(&everlink);
    wait_until("visitors are served again", || told(&everlink) > visited + 20.0);
    let all = visits.end();
    let whole = |answer: &std::io::Result<Vec<u8>>| answer.as_ref().ok().and_then(|a| body(a)) == Some(b"hello\n");
    let lost: Vec<_> = all.iter().filter(|(_, answer)| !whole(answer)).collect();
    // A connection that nginx closes while the request is on its way to it ends without a byte; a browser asks again. One
    // for each warm link at most.
    assert!(lost.len() <= 2, "{} of {}: {lost:?}", lost.len(), all.len());
    assert!(lost.iter().all(|(began, answer)| *began < gone && !matches!(answer, Ok(a) if !a.is_empty())), "{lost:?}");
    let answer = download.join().expect("no panic").expect("not cut");
    assert!(body(&answer) == Some(&nginx.big[..]), "{} bytes, not those of the file", answer.len());
    assert_eq!(everlink.metric(r#"everlink_connections_refused_total{reason="link_down",upstream="web"}"#), 0.0);
    everlink.stop();
}

#[test]
fn a_download_from_an_nginx_that_is_killed_ends_short_and_the_next_is_whole() {
    let mut nginx = Nginx::start();
    let everlink = nginx.behind_everlink();
    let at = everlink.listener("web");
    let download = std::thread::spawn(move || get(at, "/big"));
    wait_until("it is under way", || {
        everlink.metric(r#"everlink_bytes_total{direction="received",upstream="web"}"#) > 9e6
    });
    // The master first: it would replace its worker. The worker would finish what it has begun.
    let server = nginx.server.take().expect("running");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.id())).expect("children");
    server.end_by("KILL");
    children.split_whitespace().for_each(|child| send("KILL", child.parse().expect("a number")));
    let cut = download.join().expect("no panic");
    assert!(cut.as_ref().map_or(true, |answer| body(answer).is_none()), "the client can tell that it is not all");
    wait_until("everlink knows", || everlink.metric(r#"everlink_upstream_up{upstream="web"}"#) == 0.0);
    let next = std::thread::spawn(move || get(at, "/big"));
    wait_until("the next one waits", || everlink.metric(r#"everlink_connections_waiting{upstream="web"}"#) == 1.0);
    nginx.start_again();
    let answer = next.join().expect("no panic").expect("not cut");
    assert!(body(&answer) == Some(&nginx.big[..]), "{} bytes, not those of the file", answer.len());
    everlink.stop();
}
