//! A server of lines in Python, with clients who are silent for long, behind everlink that beats on their connections, too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::program::{Daemon, Program, command, directory, free_port, send, wait_until};

/// Everybody hears everybody's lines; PING is answered by PONG.
const SERVER: &str = r#"
import socket, sys, threading
everybody, lock = set(), threading.Lock()
def serve(peer):
    try:
        for line in peer.makefile("rb"):
            if line == b"PING\n":
                peer.sendall(b"PONG\n")
                continue
            with lock:
                everybody.add(peer)
                for other in everybody:
                    other.sendall(line)
    except OSError:
        pass
    with lock:
        everybody.discard(peer)
    peer.close()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

struct Chat {
    port: u16,
    directory: TempDir,
    server: Option<Daemon>,
}

impl Chat {
    fn start() -> Self {
        let mut chat = Self { port: free_port(), directory: directory(), server: None };
        chat.start_again();
        chat
    }

    fn start_again(&mut self) {
        let mut server = command("python3");
        server.args(["-c", SERVER, &self.port.to_string()]);
        let serves = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        self.server = Some(Daemon::start(&mut server, &self.directory.path().join("log")).until_ready(serves));
    }

    /// A budget of 1.1 s, in use as well.
    fn behind_everlink(&self) -> Program {
        let everlink = Program::start(&format!(
            "[upstreams.chat]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"127.0.0.1:{}\"]\n\
             retry = {{ initial = \"100ms\", max = \"1s\" }}\nlimits.wait = \"20s\"\n\
             [upstreams.chat.heartbeat]\ninterval = \"200ms\"\ntimeout = \"1s\"\nmisses = 3\n\
             send = \"PING\\n\"\nexpect = \"PONG\"\nin_use = \"line\"\n",
            self.port
        ));
        everlink.until_up("chat", 2);
        everlink
    }
}

/// One who is in the room.
struct Member(BufReader<TcpStream>);

impl Member {
    fn join(everlink: &Program, name: &str) -> Self {
        let mut member = Self(BufReader::new(everlink.connect("chat")));
        member.say(&format!("{name} is here"));
        member.hears(&format!("{name} is here"));
        member
    }

    fn say(&mut self, line: &str) {
        writeln!(self.0.get_mut(), "{line}").expect("said");
    }

    /// The very next line.
    fn hears(&mut self, line: &str) {
        let mut heard = String::new();
        self.0.read_line(&mut heard).expect("heard");
        assert_eq!(heard.trim_end(), line);
    }

    /// How its connection ends; not a line comes before.
    fn end(mut self) -> std::io::Result<()> {
        let mut rest = Vec::new();
        let ended = self.0.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
        ended.map(drop)
    }
}

const BEATS: &str = r#"everlink_heartbeats_sent_total{upstream="chat"}"#;
const MISSED: &str = r#"everlink_heartbeats_missed_total{upstream="chat"}"#;
const WAITING: &str = r#"everlink_connections_waiting{upstream="chat"}"#;

#[test]
fn silent_members_hear_each_other_and_not_one_beat_whatever_the_server_does() {
    let mut chat = Chat::start();
    let everlink = chat.behind_everlink();
    let mut ann = Member::join(&everlink, "ann");
    let mut bob = Member::join(&everlink, "bob");
    ann.hears("bob is here");
    // Silence: both connections and the warm ones beat.
    let beats = everlink.metric(BEATS);
    wait_until("many beats in silence", || everlink.metric(BEATS) >= beats + 40.0);
    assert_eq!(everlink.metric(MISSED), 0.0);
    ann.say("hello");
    ann.hears("hello");
    bob.hears("hello");

    // Still for less than the budget: a pause.
    let server = chat.server.as_ref().expect("running").id();
    send("STOP", server);
    ann.say("are you there?");
    std::thread::sleep(Duration::from_millis(400));
    send("CONT", server);
    ann.hears("are you there?");
    bob.hears("are you there?");

    // Killed: its kernel ends both in order, and they hear the end and nothing else. Whoever comes next waits.
    chat.server.take().expect("running").end_by("KILL");
    let ends = [ann.end(), bob.end()];
    assert!(
        ends.iter().all(|end| end.as_ref().map_or_else(|e| e.kind() == std::io::ErrorKind::ConnectionReset, |()| true)),
        "{ends:?}"
    );
    wait_until("everlink knows", || everlink.metric(r#"everlink_upstream_up{upstream="chat"}"#) == 0.0);
    let late = everlink.connect("chat");
    wait_until("a member waits", || everlink.metric(WAITING) == 1.0);
    chat.start_again();
    let mut late = Member(BufReader::new(late));
    late.say("at last");
    late.hears("at last");
    everlink.stop();
}

#[test]
fn a_silent_member_of_a_server_that_stands_still_is_reset_within_the_budget() {
    let chat = Chat::start();
    let everlink = chat.behind_everlink();
    let ann = Member::join(&everlink, "ann");
    let server = chat.server.as_ref().expect("running").id();
    send("STOP", server);
    // Its kernel acknowledges on, as that of any stopped process; only the missing answer tells.
    let end = ann.end();
    assert_eq!(end.expect_err("a reset, not an end").kind(), std::io::ErrorKind::ConnectionReset);
    wait_until("counted", || {
        everlink.metric(r#"everlink_connections_closed_total{reason="dead",upstream="chat"}"#) == 1.0
    });
    wait_until("it is down", || everlink.metric(r#"everlink_upstream_up{upstream="chat"}"#) == 0.0);
    send("CONT", server);
    everlink.until_up("chat", 2);
    Member::join(&everlink, "ann");
    everlink.stop();
}
