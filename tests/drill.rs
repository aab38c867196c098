//! `everlink drill`: an outage on purpose, in a running program, on one link, for a while.

#[path = "program/harness.rs"]
mod harness;
#[path = "../src/port.rs"]
mod port;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use harness::{Echo, Flow, PATIENCE, Place, Program, eventually, free_port, text, top};

/// Beats that notice an outage within 1.3 s.
const QUICK: &str = "heartbeat = { interval = \"400ms\", timeout = \"300ms\", misses = 3BEAT }\n\
                     retry = { initial = \"100ms\", max = \"300ms\", connect_timeout = \"1s\" }\n";

fn head(place: &Place) -> String {
    format!("{}[admin]\nsocket = \"{}\"\n", top(), place.at("admin.sock").display())
}

/// A sidecar in direct mode, before these servers.
fn direct(endpoints: &[SocketAddr], more: &str) -> Program {
    let place = Place::new("");
    let endpoints: Vec<_> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    let quick = QUICK.replace("BEAT", ", send = \"ping\", expect = \"pong\"");
    place.write(&format!(
        "{}[upstreams.orders]\nlisten = \"127.0.0.1:0\"\nendpoints = [{}]\n{quick}{more}",
        head(&place),
        endpoints.join(", ")
    ));
    let program = Program::start_in(place);
    program.until_up("orders");
    program
}

/// A sidecar with a tunnel to a gateway in the same process, and an echo server behind it.
fn tunnel(echo: &Echo) -> Program {
    let place = Place::new("");
    let (token, gateway) = (place.at("token"), free_port());
    everlink::demo::provide_token(&token).expect("made");
    let token = token.display();
    place.write(&format!(
        "{}[upstreams.site]\nmode = \"tunnel\"\nendpoints = [\"127.0.0.1:{gateway}\"]\ntoken_file = \"{token}\"\n{}\
         [[upstreams.site.forwards]]\nlisten = \"127.0.0.1:0\"\nservice = \"echo\"\n\
         [gateway]\nlisten = \"127.0.0.1:{gateway}\"\ntoken_file = \"{token}\"\n[gateway.services]\necho = \"{}\"\n",
        head(&place),
        QUICK.replace("BEAT", ""),
        echo.address,
    ));
    let program = Program::start_in(place);
    program.until_up("site");
    program
}

/// What the command says; it must be done.
fn drill(program: &Program, words: &[&str]) -> String {
    let told = program.ask(&[&["drill"][..], words].concat());
    assert!(told.status.success(), "{}", text(&told));
    text(&told)
}

/// What the command says; it must be refused.
fn refused(program: &Program, words: &[&str]) -> String {
    let told = program.ask(&[&["drill"][..], words].concat());
    assert_eq!(told.status.code(), Some(1), "{}", text(&told));
    text(&told)
}

fn running(program: &Program, upstream: &str) -> serde_json::Value {
    program.upstream(upstream).expect("there")["drill"].clone()
}

fn until_over(program: &Program, upstream: &str) {
    eventually("the drill is over", || running(program, upstream).is_null());
    eventually("cleared away", || program.metric("everlink_drills_active") == Some(0.0));
}

fn events(program: &Program, upstream: &str, kind: &str) -> Vec<String> {
    let upstream = program.upstream(upstream).expect("there");
    let events = upstream["events"].as_array().expect("events").iter().filter(|event| event["kind"] == kind);
    events.map(|event| event["text"].as_str().expect("a text").to_owned()).collect()
}

fn losses(program: &Program, reason: &str) -> f64 {
    program.sum("everlink_link_losses_total", &format!("reason=\"{reason}\""))
}

struct Client(TcpStream);

impl Client {
    fn connect(program: &Program, upstream: &str) -> Self {
        let stream = TcpStream::connect(program.listens(upstream)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut client = Self(stream);
        assert_eq!(client.say(b"hello").expect("carried"), b"hello");
        client
    }

    fn say(&mut self, words: &[u8]) -> std::io::Result<Vec<u8>> {
        self.0.write_all(words)?;
        let mut back = vec![0; words.len()];
        self.0.read_exact(&mut back)?;
        Ok(back)
    }

    fn hears_within(&mut self, time: Duration) -> bool {
        self.0.set_read_timeout(Some(time)).expect("set");
        let heard = self.0.peek(&mut [0]).is_ok();
        self.0.set_read_timeout(Some(PATIENCE)).expect("set");
        heard
    }
}

#[test]
fn a_tunnel_in_a_black_hole_is_lost_within_its_budget_and_resumes_with_every_byte() {
    let echo = Echo::start();
    let program = tunnel(&echo);
    let flow = Flow::start(program.listens("site"));
    flow.until_moved(100_000);
    let began = Instant::now();
    let told = drill(&program, &["site", "blackhole", "--for", "6s"]);
    assert!(
        told.starts_with("drilling: site: blackhole on link 1 to 127.0.0.1:")
            && told.contains("for 6s, with its 1 stream"),
        "{told}"
    );
    // Nobody hunts it.
    let shown = running(&program, "site");
    assert_eq!((&shown["kind"], &shown["link"]), (&"blackhole".into(), &1.into()), "{shown}");
    assert!(shown["left_seconds"].as_f64().is_some_and(|left| left > 0.0 && left <= 6.0), "{shown}");
    assert_eq!(program.metric("everlink_drills_active"), Some(1.0));
    let table = harness::text(
        &std::process::Command::new(harness::EVERLINK).args(["status", "--url", &program.url()]).output().expect("run"),
    );
    assert!(table.contains("drill: blackhole, ") && table.contains(" left"), "{table}");
    let again = refused(&program, &["site", "reset"]);
    assert!(
        again.contains("a drill of site is running: blackhole on link 1") && again.contains("drill site stop"),
        "{again}"
    );
    // Nothing moves while it lasts, and the beats find out.
    eventually("lost", || losses(&program, "heartbeat") == 1.0);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let still = flow.moved();
    loop {
        let moved = flow.moved();
        if running(&program, "site").is_null() {
            break;
        }
        assert_eq!(moved, still, "bytes passed");
    }
    until_over(&program, "site");
    assert!(began.elapsed() >= Duration::from_secs(6));
    flow.until_moved(100_000);
    flow.end().expect("every byte, once and in order");
    assert!(program.sum("everlink_session_resumes_total", "outcome=\"resumed\"") >= 1.0);
    assert!(program.sum("everlink_session_streams_saved_total", "") >= 1.0);
    assert_eq!(events(&program, "site", "drill"), ["blackhole for 6s, on request"]);
    assert_eq!(events(&program, "site", "drill_over"), ["blackhole"]);
    eventually("told", || {
        (program.logged("drill begins: blackhole for 6s"), program.logged("drill is over: blackhole")) == (1, 1)
    });
}

#[test]
fn a_tunnel_that_is_reset_resumes_as_soon_as_dials_are_let_through() {
    let echo = Echo::start();
    let program = tunnel(&echo);
    let flow = Flow::start(program.listens("site"));
    flow.until_moved(100_000);
    let told = drill(&program, &["site", "reset"]);
    assert!(told.contains("link 1 to 127.0.0.1:") && told.contains("is reset, with its 1 stream"), "{told}");
    eventually("counted", || losses(&program, "reset") == 1.0);
    flow.until_moved(100_000);
    let began = Instant::now();
    drill(&program, &["site", "reset", "--for", "1s500ms"]);
    eventually("refused", || program.sum("everlink_link_dials_total", "outcome=\"refused\"") >= 1.0);
    until_over(&program, "site");
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    flow.until_moved(100_000);
    flow.end().expect("every byte, once and in order");
    assert_eq!(program.sum("everlink_session_resumes_total", "outcome=\"resumed\""), 2.0);
}

#[test]
fn a_delay_is_seen_by_the_beats_and_by_clients_until_it_is_stopped() {
    let echo = Echo::start();
    let program = tunnel(&echo);
    let mut client = Client::connect(&program, "site");
    drill(&program, &["site", "delay", "--by", "100ms", "--for", "1h"]);
    let began = Instant::now();
    assert_eq!(client.say(b"late").expect("carried"), b"late");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(5), "{took:?}");
    eventually("the beats see it", || {
        program.upstream("site").expect("there")["links"][0]["rtt_seconds"].as_f64().is_some_and(|rtt| rtt >= 0.2)
    });
    // Not before: a link that is never silent has no beats.
    let flow = Flow::start(program.listens("site"));
    flow.until_moved(10_000);
    let told = drill(&program, &["site", "stop"]);
    assert!(told.starts_with("stopped: site: delay of 100ms on link 1"), "{told}");
    until_over(&program, "site");
    eventually("quick again", || {
        let began = Instant::now();
        client.say(b"quick").expect("carried");
        began.elapsed() < Duration::from_millis(100)
    });
    flow.until_moved(100_000);
    flow.end().expect("every byte, once and in order");
    assert_eq!(losses(&program, ""), 0.0, "nothing was lost by it");
    assert!(refused(&program, &["site", "stop"]).contains("no drill of site is running"));
}

#[test]
fn a_direct_link_in_a_black_hole_takes_its_clients_with_it_and_spares_the_other() {
    let echo = Echo::start();
    let program = direct(&[echo.address], "pool = { size = 1 }\n");
    program.until_links("orders", 1.0);
    let mut client = Client::connect(&program, "orders");
    program.until_links("orders", 1.0);
    let told = drill(&program, &["orders", "blackhole", "--for", "3s"]);
    assert!(told.contains(&format!("blackhole on link 1 to {}", echo.address)), "{told}");
    assert!(told.contains("with the connection in use that it handed out"), "{told}");
    client.0.write_all(b"into the hole").expect("the client's kernel takes it");
    assert!(!client.hears_within(Duration::from_millis(300)), "an answer came");
    // The warm connection is found out by its beats; dials there get no answer.
    eventually("lost", || losses(&program, "heartbeat") >= 1.0);
    eventually("not let through", || {
        program.sum("everlink_link_dials_total", "outcome=\"timeout\"") >= 1.0 || running(&program, "orders").is_null()
    });
    until_over(&program, "orders");
    // Idle till then, the client's own goes on where it was.
    let mut back = [0; 13];
    client.0.read_exact(&mut back).expect("nothing was lost");
    assert_eq!(&back, b"into the hole");
    assert_eq!(client.say(b"and on").expect("carried"), b"and on");
    program.until_links("orders", 1.0);
    Client::connect(&program, "orders");
}

#[test]
fn bulk_in_direct_mode_goes_through_drills_without_a_byte_lost_or_doubled() {
    let echo = Echo::start();
    // Patient beats: the connection in use is to outlive this.
    let program = direct(&[echo.address], "pool = { size = 1 }\n");
    program.until_links("orders", 1.0);
    let bulk = Bulk::start(program.listens("orders"));
    for words in [
        &["blackhole", "--for", "500ms"][..],
        &["delay", "--by", "30ms", "--for", "700ms"],
        &["blackhole", "--for", "300ms"],
    ] {
        bulk.until_moved(8 << 20);
        program.until_links("orders", 1.0);
        let told = drill(&program, &[&["orders"][..], words].concat());
        assert!(told.contains("the connection in use"), "{told}");
        until_over(&program, "orders");
    }
    bulk.until_moved(8 << 20);
    bulk.end();
}

#[test]
fn a_reset_is_what_clients_of_a_direct_link_read_and_the_next_get_another() {
    let echo = Echo::start();
    let program = direct(&[echo.address], "pool = { size = 1 }\n");
    program.until_links("orders", 1.0);
    let mut client = Client::connect(&program, "orders");
    program.until_links("orders", 1.0);
    let accepted = echo.accepted.load(std::sync::atomic::Ordering::SeqCst);
    drill(&program, &["orders", "reset"]);
    let read = client.0.read(&mut [0; 1]);
    assert_eq!(read.expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
    eventually("counted", || program.sum("everlink_connections_closed_total", "reason=\"upstream_reset\"") == 1.0);
    eventually("dialled anew", || echo.accepted.load(std::sync::atomic::Ordering::SeqCst) > accepted);
    Client::connect(&program, "orders");
    assert_eq!(losses(&program, "reset"), 1.0);
    assert!(running(&program, "orders").is_null() && events(&program, "orders", "drill_over").is_empty());
}

/// Without beats there is only the kernel's keepalive, which the kernel itself answers: it must not hear.
#[test]
fn a_black_hole_is_found_by_keepalive_where_there_are_no_beats() {
    let echo = Echo::start();
    let place = Place::new("");
    place.write(&format!(
        "{}[upstreams.db]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"{}\"]\npool = {{ size = 1 }}\n\
         heartbeat = {{ interval = \"1s\", timeout = \"1s\", misses = 1 }}\nretry = {{ initial = \"100ms\", connect_timeout = \"1s\" }}\n",
        head(&place),
        echo.address
    ));
    let program = Program::start_in(place);
    program.until_links("db", 1.0);
    // Keepalive is set on connections that have lived for a second.
    std::thread::sleep(Duration::from_millis(1200));
    drill(&program, &["db", "blackhole", "--for", "1h"]);
    eventually("found", || losses(&program, "heartbeat") == 1.0);
    drill(&program, &["db", "stop"]);
    program.until_links("db", 1.0);
}

#[test]
fn with_another_endpoint_the_link_goes_there() {
    let (first, second) = (Echo::start(), Echo::start());
    let program = direct(&[first.address, second.address], "pool = { size = 1 }\n");
    program.until_links("orders", 1.0);
    let told = drill(&program, &["orders", "reset", "--for", "1h"]);
    let at = if told.contains(&first.address.to_string()) { second.address } else { first.address };
    eventually("up at the other", || {
        let link = program.upstream("orders").expect("there")["links"][0].clone();
        link["state"] == "up" && link["endpoint"] == at.to_string()
    });
    drill(&program, &["orders", "stop"]);
    until_over(&program, "orders");
}

#[test]
fn what_cannot_be_drilled_is_told() {
    let echo = Echo::start();
    let program = direct(&[echo.address], "");
    assert!(refused(&program, &["order", "blackhole"]).contains("there is no upstream order; is orders meant?"));
    assert!(refused(&program, &["nothing-like-it", "stop"]).contains("there is no upstream nothing-like-it"));
    assert!(text(&program.ask(&["retry", "ordrs"])).contains("is orders meant?"));
    for (words, why) in [
        (&["orders", "blackhole", "--for", "10"][..], "--for 10: needs a unit: write \"10s\""),
        (&["orders", "blackhole", "--for", "2h"], "100ms to 1h is possible"),
        (&["orders", "delay", "--by", "1m"], "1ms to 10s is possible"),
        (&["orders", "blackhole", "--by", "1s"], "blackhole takes none"),
        (&["orders", "flood"], "invalid value"),
    ] {
        let told = program.ask(&[&["drill"][..], words].concat());
        assert!(told.status.code() == Some(2) && text(&told).contains(why), "{}", text(&told));
    }
    drop(echo);
    program.until_metric("everlink_upstream_up{upstream=\"orders\"}", 0.0);
    assert!(refused(&program, &["orders", "reset"]).contains("no link of orders is up"));
}

#[test]
fn a_drill_ends_with_the_upstream_and_with_the_drain() {
    let echo = Echo::start();
    let mut program = direct(&[echo.address], "pool = { size = 1 }\n");
    let config = std::fs::read_to_string(program.place.config()).expect("read");
    drill(&program, &["orders", "delay", "--by", "10s", "--for", "1h"]);
    // The upstream goes, and another one of the same name comes.
    program.place.replace(&config.replace("[upstreams.orders]", "[upstreams.others]"));
    eventually("gone", || program.upstream("orders").is_none());
    eventually("over", || program.metric("everlink_drills_active") == Some(0.0));
    program.until_up("others");
    let mut client = Client::connect(&program, "others");
    program.until_links("others", 1.0);
    drill(&program, &["others", "blackhole", "--for", "1h"]);
    client.0.write_all(b"last words").expect("sent");
    program.signal("TERM");
    let mut back = [0; 10];
    client.0.read_exact(&mut back).expect("let out");
    assert_eq!(&back, b"last words");
    eventually("told", || program.logged("drill is over: blackhole") == 1);
    assert!(text(&program.ask(&["drill", "others", "reset"])).contains("draining"));
    drop(client);
    assert!(program.ended().success());
}

/// Bytes through an echo server as fast as they go, each checked: what `splice(2)` moves.
struct Bulk {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    moved: std::sync::Arc<std::sync::atomic::AtomicU64>,
    threads: [std::thread::JoinHandle<u64>; 2],
}

fn byte(place: u64) -> u8 {
    (place / 251 + place * 7) as u8
}

impl Bulk {
    fn start(address: SocketAddr) -> Self {
        use std::sync::atomic::Ordering;
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut reader = stream.try_clone().expect("cloned");
        let (stop, moved) = (std::sync::Arc::default(), std::sync::Arc::<std::sync::atomic::AtomicU64>::default());
        let (stopped, count) = (std::sync::Arc::<std::sync::atomic::AtomicBool>::clone(&stop), moved.clone());
        let writes = std::thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::SeqCst) {
                let piece: Vec<u8> = (sent..sent + (256 << 10)).map(byte).collect();
                stream.write_all(&piece).expect("sent");
                sent += piece.len() as u64;
            }
            stream.shutdown(std::net::Shutdown::Write).expect("ended");
            sent
        });
        let reads = std::thread::spawn(move || {
            let (mut got, mut piece) = (0, vec![0; 256 << 10]);
            loop {
                match reader.read(&mut piece).expect("read") {
                    0 => return got,
                    n => {
                        let wrong =
                            piece[..n].iter().zip(got..).position(|(byte_there, place)| *byte_there != byte(place));
                        assert_eq!(wrong, None, "after {got} bytes");
                        got += n as u64;
                        count.store(got, Ordering::SeqCst);
                    }
                }
            }
        });
        Self { stop, moved, threads: [writes, reads] }
    }

    fn until_moved(&self, more: u64) {
        let goal = self.moved.load(std::sync::atomic::Ordering::SeqCst) + more;
        eventually("bytes flow", || self.moved.load(std::sync::atomic::Ordering::SeqCst) >= goal);
    }

    fn end(self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        let [sent, got] = self.threads.map(|thread| thread.join().expect("every byte was right"));
        assert_eq!(sent, got);
    }
}
