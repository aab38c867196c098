//! The same heartbeats for all, short ones; a server, everlink and its links, and what clients do.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::faults::net::Net;
use crate::faults::program::{Held, Program};
use crate::faults::servers::Server;

pub const SERVER: &str = "10.77.0.2:9000";
pub const LISTENER: &str = "127.0.0.1:7000";
pub const TIMEOUT: Duration = Duration::from_millis(300);
/// Of the heartbeats below.
pub const BUDGET: Duration = Duration::from_millis(1400);
/// What keepalive makes of them: whole seconds.
pub const KEEPALIVE: Duration = Duration::from_secs(4);
/// The longest wait between dials, and how long one may take.
pub const RETRY_MAX: Duration = Duration::from_secs(1);
/// For a busy machine.
pub const SLACK: Duration = Duration::from_secs(2);

/// Beats that prove the service.
pub const PING: &str = r#", send = "ping", expect = "pong""#;
/// None: TCP itself is watched.
pub const NONE: &str = "";

pub fn upstream(name: &str, listen: &str, endpoint: &str, beats: &str, rest: &str) -> String {
    format!(
        r#"
[upstreams.{name}]
listen = "{listen}"
endpoints = ["{endpoint}"]
heartbeat = {{ interval = "500ms", timeout = "300ms", misses = 3{beats} }}
retry = {{ initial = "100ms", max = "1s", stable_after = "1s", connect_timeout = "500ms" }}
{rest}
"#
    )
}

pub fn usual(beats: &str) -> String {
    upstream("test", LISTENER, SERVER, beats, "")
}

/// The words come back.
pub fn talks(stream: &mut TcpStream, words: &[u8]) {
    stream.write_all(words).expect("sent");
    let mut answer = vec![0; words.len()];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(answer, words);
}

/// Writes until nobody takes any more; how much that was.
pub fn fill(stream: &mut TcpStream) -> u64 {
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("set");
    let mut filled = 0;
    while let Ok(count) = stream.write(&[7; 64 * 1024]) {
        filled += count as u64;
    }
    stream.set_write_timeout(None).expect("set");
    filled
}

/// The error that ends a connection, however much is read before.
pub fn end_of(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

pub fn is_reset(ended: io::Result<()>) -> bool {
    matches!(ended, Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

/// Lives through `act` and returns how much of the time the process kept a processor busy.
pub fn busy_during(program: &Program<'_>, act: impl FnOnce()) -> f64 {
    let (cpu, from) = (program.process().cpu(), Instant::now());
    act();
    (program.process().cpu() - cpu).as_secs_f64() / from.elapsed().as_secs_f64()
}

/// A server at the far end of the wire, everlink at the near one, and both its links up.
pub fn up<'n>(
    net: &'n Net,
    beats: &str,
    server: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> (Server, Program<'n>, Held) {
    let server = Server::start(&net.b, SERVER, server);
    let everlink = Program::start(&net.a, &usual(beats));
    everlink.until_up("test", 2);
    let held = everlink.held();
    (server, everlink, held)
}

/// A client who has been answered, and both links up again.
pub fn carried(net: &Net, everlink: &Program<'_>) -> TcpStream {
    let mut client = net.client(LISTENER);
    talks(&mut client, b"hello");
    everlink.until_up("test", 2);
    client
}
