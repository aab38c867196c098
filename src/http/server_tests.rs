//! Whole servers on real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use super::*;

struct Server {
    address: SocketAddr,
    status: Arc<Status>,
    thread: HttpThread,
}

fn server_with(limits: Limits, status: Arc<Status>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = serve_within(limits, vec![listener], status.clone(), Arc::default()).unwrap();
    Server { address, status, thread }
}

fn server() -> Server {
    server_with(Limits::default(), example::busy_status())
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Sends `bytes` and reads until the server closes.
fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(bytes).unwrap();
    rest(stream)
}

/// A reset counts as a close; a server that keeps the connection open does not.
fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("not closed ({error}) after {:?}", String::from_utf8_lossy(&answer)),
    }
    String::from_utf8(answer).unwrap()
}

fn get(address: SocketAddr, path: &str) -> String {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
}

/// Each is refused with `status`, in a whole answer, and the connection closed, though the client would keep it.
fn refused(status: u16, requests: &[&[u8]]) {
    let server = server();
    for request in requests {
        let answer = exchange(server.address, request);
        let shown = String::from_utf8_lossy(&request[..request.len().min(120)]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?} got {answer:?}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{shown:?} got {answer:?}");
    }
    assert!(get(server.address, "/livez").ends_with("\r\n\r\nok\n"));
    server.thread.stop();
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn input_33_unknown_path_is_404() {
    let server = server();
    for path in ["/etc/passwd", "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//metrics", "/status/../metrics"] {
        let answer = get(server.address, path);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
}

#[test]
fn input_33_wrong_method_is_405() {
    let server = server();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = exchange(server.address, request.as_bytes());
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nAllow: GET, HEAD\r\n"),
            "{method}: {answer}"
        );
    }
}

#[test]
fn input_33_a_body_is_ignored_and_the_connection_closed() {
    let server = server();
    let chunked = "GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let waiting = "GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let sized = format!("GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n{}", "x".repeat(65536));
    for request in [chunked, waiting, &sized] {
        let answer = exchange(server.address, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
    let head = exchange(server.address, b"HEAD /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn input_33_a_body_over_64_kib_is_413() {
    let chunks =
        [b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n".as_slice(), &[b'x'; 100_000]];
    refused(413, &[b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n", &chunks.concat()]);
}

#[test]
fn input_33_an_unknown_encoding_is_415() {
    refused(
        415,
        &[
            b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: rot13\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx",
        ],
    );
}

#[test]
fn input_33_a_long_request_line_is_414() {
    let line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(8192));
    refused(414, &[line.as_bytes(), &[b'A'; 10_000]]);
}

#[test]
fn input_33_too_many_or_too_large_headers_are_431() {
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(64));
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(16 * 1024));
    refused(431, &[many.as_bytes(), large.as_bytes()]);
}

#[test]
fn input_33_slowloris_is_closed() {
    let limits = Limits { request: Duration::from_millis(100), ..Limits::default() };
    let server = server_with(limits, example::status());
    let mut stream = connect(server.address);
    stream.write_all(b"GET /livez HTTP/1.1\r\nX: ").unwrap();
    until("the slow head is cut", || {
        let _ = stream.write_all(b"y");
        matches!(stream.take_error(), Ok(Some(_))) || stream.write_all(b"y").is_err()
    });
}

#[test]
fn input_33_idle_keep_alive_is_closed() {
    let limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let server = server_with(limits, example::status());
    let answer = exchange(server.address, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.ends_with("ok\n") && !answer.contains("Connection: close"), "{answer}");
}

#[test]
fn input_33_no_host_is_400() {
    refused(400, &[b"GET / HTTP/1.1\r\n\r\n"]);
}

#[test]
fn input_33_two_hosts_are_400() {
    refused(400, &[b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"]);
}

#[test]
fn input_33_bad_chunking_is_400() {
    refused(
        400,
        &[
            b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        ],
    );
}

#[test]
fn input_33_both_lengths_are_400() {
    let both = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(400, &[both, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"]);
}

#[test]
fn input_33_bare_lf_is_400() {
    refused(400, &[b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"]);
}

#[test]
fn input_33_http_0_9_is_400() {
    refused(400, &[b"GET /\r\n", b"GET /metrics\r\n\r\n"]);
}

#[test]
fn input_33_h2_preface_is_400() {
    refused(400, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]);
}

#[test]
fn input_33_connect_is_400() {
    refused(400, &[b"CONNECT example.net:443 HTTP/1.1\r\nHost: example.net:443\r\n\r\n"]);
}

#[test]
fn input_33_absolute_uri_is_400() {
    refused(400, &[b"GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"]);
}

#[test]
fn input_33_tls_hello_is_closed_without_a_word() {
    let server = server();
    let hello = [&[0x16, 3, 1, 0, 200, 1, 0, 0, 196][..], &[7; 196]].concat();
    assert_eq!(exchange(server.address, &hello), "");
}

#[test]
fn input_33_garbage_in_accept_gets_text() {
    let server = server();
    let long = "application/openmetrics-text;a=".to_owned() + &"b".repeat(8192);
    for accept in ["\u{fe}garbage", "application/openmetrics-text;q=nan", long.as_str()] {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        let answer = exchange(server.address, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:.300}");
        assert!(answer.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer:.300}");
    }
}

#[test]
fn input_33_of_200_idle_connections_the_newest_32_stay() {
    let server = server();
    let mut streams = Vec::new();
    for _ in 0..200 {
        let mut stream = connect(server.address);
        // An answer proves that this one has its place before the next one comes.
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = [0; 512];
        let n = stream.read(&mut answer).unwrap();
        assert!(answer[..n].ends_with(b"ok\n"), "{}", String::from_utf8_lossy(&answer[..n]));
        stream.set_nonblocking(true).unwrap();
        streams.push(stream);
    }
    let is_open = |mut stream: &TcpStream| matches!(stream.read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    until("168 are closed", || streams.iter().filter(|stream| is_open(stream)).count() == 32);
    let open: Vec<_> = streams.iter().map(is_open).collect();
    assert!(!open[..168].contains(&true) && !open[168..].contains(&false), "{open:?}");
    assert!(get(server.address, "/livez").ends_with("ok\n"));
}

#[test]
fn fault_63_fifty_slow_scrapes_leave_probes_and_the_next_scrape_unharmed() {
    let status = example::status();
    for n in 0..150 {
        status.add_upstream(&Arc::new(example::upstream(&format!("upstream-{n}"))));
    }
    let limits = Limits { dear_patience: Duration::from_secs(60), write: Duration::from_secs(60), ..Limits::default() };
    let server = server_with(limits, status);
    // A client that has not read has read nothing: the first bytes of its answer wait for it in its small buffer.
    let slow: Vec<_> = (0..50)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            socket.connect(&server.address.into()).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let begun = |status: &[u8]| {
        let mut first = [0; 12];
        slow.iter().filter(|s| matches!(s.peek(&mut first), Ok(12)) && &first[9..] == status).count()
    };
    until("all but those served or waiting are turned away", || begun(b"503") == 42);
    for path in ["/livez", "/readyz", "/status"] {
        let start = Instant::now();
        assert!(get(server.address, path).starts_with("HTTP/1.1 200 "), "{path}");
        assert!(start.elapsed() < Duration::from_secs(10), "{path} took {:?}", start.elapsed());
    }
    assert_eq!(begun(b"200"), 4);
    drop(slow);
    until("scrapes are served again", || {
        let answer = get(server.address, "/metrics");
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("everlink_upstream_up{upstream=\"upstream-149\"} 0\n")
    });
    server.thread.stop();
}

#[tokio::test(start_paused = true)]
async fn ticks_in_which_the_process_stood_still_are_not_made_up_for() {
    let mut tick = ticks();
    tick.tick().await;
    tokio::time::advance(Duration::from_secs(60)).await;
    tick.tick().await;
    let start = tokio::time::Instant::now();
    tick.tick().await;
    assert_eq!(start.elapsed(), TICK);
}

#[test]
fn the_thread_counts_seconds() {
    let server = server();
    let seconds = || server.status.ticks.load(Ordering::Relaxed);
    until("the first tick", || seconds() >= 1);
    let (start, first) = (Instant::now(), seconds());
    until("two more", || seconds() > first + TICK.as_secs());
    let (took, counted) = (start.elapsed(), seconds() - first);
    // From just after a tick to just after another.
    assert!(took > Duration::from_secs(counted) - TICK - Duration::from_millis(100), "{counted} in {took:?}");
}

#[test]
fn listeners_can_be_swapped_and_kept() {
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let dropped = TcpListener::bind("127.0.0.1:0").unwrap();
    let added = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = |listener: &TcpListener| listener.local_addr().unwrap();
    let (at_kept, at_dropped, at_added) = (address(&kept), address(&dropped), address(&added));
    let clone = kept.try_clone().unwrap();
    let thread = serve(vec![kept, dropped], example::status(), Arc::default()).unwrap();
    assert!(get(at_kept, "/livez").ends_with("ok\n") && get(at_dropped, "/livez").ends_with("ok\n"));
    thread.rebind(vec![clone, added]);
    assert!(get(at_added, "/livez").ends_with("ok\n"));
    until("the old address is given up", || TcpStream::connect(at_dropped).is_err());
    assert!(get(at_kept, "/livez").ends_with("ok\n"));
    assert!(thread.is_running());
    thread.stop();
    until("both are closed", || TcpStream::connect(at_kept).is_err() && TcpStream::connect(at_added).is_err());
}

#[tokio::test]
async fn what_the_queue_of_a_listener_holds_is_served_before_it_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _queued: Vec<_> = (0..5).map(|_| connect(address)).collect();
    listener.set_nonblocking(true).unwrap();
    let (arrivals, mut arriving) = mpsc::channel(32);
    let ended = CancellationToken::new();
    ended.cancel();
    accept(tokio::net::TcpListener::from_std(listener).unwrap(), arrivals, ended).await;
    let mut taken = 0;
    while arriving.recv().await.is_some() {
        taken += 1;
    }
    assert_eq!(taken, 5);
    until("it is closed", || TcpStream::connect(address).is_err());
}

#[test]
fn a_change_of_public_status_shows_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let public = Arc::new(AtomicBool::new(false));
    let thread = serve(vec![listener], example::status(), public.clone()).unwrap();
    let foreign =
        b"GET /status HTTP/1.1\r\nHost: elsewhere.example\r\nX-Forwarded-For: 127.0.0.1\r\nConnection: close\r\n\r\n";
    assert!(exchange(address, foreign).starts_with("HTTP/1.1 403 "));
    public.store(true, Ordering::Relaxed);
    assert!(exchange(address, foreign).starts_with("HTTP/1.1 200 "));
    thread.stop();
}
