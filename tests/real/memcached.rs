//! A real memcached behind everlink.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use crate::common::program::{Daemon, Program, command, directory, free_port, user, wait_until};

struct Client(BufReader<TcpStream>);

impl Client {
    fn ask(&mut self, what: &str) -> String {
        self.0.get_mut().write_all(what.as_bytes()).expect("sent");
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("answered");
        line.trim_end().to_owned()
    }
}

#[test]
fn memcached_is_proven_by_its_version_and_serves_through_everlink() {
    let (directory, port) = (directory(), free_port());
    let mut server = command("memcached");
    server.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0"]);
    if user() == 0 {
        server.args(["-u", "nobody"]);
    }
    let serves = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    let server = Daemon::start(&mut server, &directory.path().join("log")).until_ready(serves);
    let everlink = Program::start(&format!(
        "[upstreams.cache]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"127.0.0.1:{port}\"]\n\
         heartbeat = {{ interval = \"200ms\", preset = \"memcached\" }}\nretry = {{ initial = \"100ms\", max = \"1s\" }}\n"
    ));
    everlink.until_up("cache", 2);
    wait_until("beats are answered", || {
        everlink.metric(r#"everlink_heartbeat_rtt_seconds_count{upstream="cache"}"#) >= 10.0
    });
    assert_eq!(everlink.metric(r#"everlink_heartbeats_missed_total{upstream="cache"}"#), 0.0);

    let mut client = Client(BufReader::new(everlink.connect("cache")));
    assert_eq!(client.ask("set greeting 0 0 5\r\nhello\r\n"), "STORED");
    let mut other = Client(BufReader::new(everlink.connect("cache")));
    assert_eq!(other.ask("get greeting\r\n"), "VALUE greeting 0 5");
    assert_eq!((other.line(), other.line()), ("hello".to_owned(), "END".to_owned()));

    // A connection in use counts as up until its client has ended it, too.
    drop((client, other));
    wait_until("both are gone", || everlink.metric(r#"everlink_connections{upstream="cache"}"#) == 0.0);
    assert!(server.end_by("TERM").success());
    wait_until("the end is seen", || everlink.metric(r#"everlink_upstream_up{upstream="cache"}"#) == 0.0);
    everlink.stop();
}
