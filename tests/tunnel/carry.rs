//! One stream: there and back, its ends, and who the service thinks it talks to.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use everlink::net::proxy_protocol::{self, Parsed};

use super::road::{CALM, Plan, Road, Trust, connect_to, end_of, ends, is_reset, reset, talks};
use super::traffic::{Pace, Talk, fill};
use crate::common::PATIENCE;
use crate::common::program::{directory, wait_until};
use crate::common::server::{Server, deaf, echo};
use crate::common::{narrow_client, nobody, program};

/// Over TCP and a unix socket, with many bytes at once, and everything given back in the end.
fn carries(trust: Trust) {
    let place = directory();
    let (door, far) = (place.path().join("door.sock"), place.path().join("far.sock"));
    let listener = UnixListener::bind(&far).expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone().expect("cloned"), &mut stream));
        }
    });
    let more = format!(
        "{CALM}[[upstreams.site.forwards]]\nlisten = \"unix:{}\"\nservice = \"echo\"\n\
         [[upstreams.site.forwards]]\nlisten = \"127.0.0.1:0\"\nservice = \"unix\"\n",
        door.display()
    );
    let road = Plan { trust, sidecar: &more, ..Plan::default() }.build();
    let services = [("echo", road.echo.address)];
    let text = super::road::gateway(&road.trust, "gw-1", road.port, &services, "");
    road.gateway().edit(&format!("{text}unix = \"unix:{}\"\n", far.display()));
    wait_until("the service is there", || road.at_gateway().services.len() == 2);
    talks(&mut road.connect("echo"), b"for the first time");
    road.until_idle();
    let before = road.held();
    let mut through_unix = UnixStream::connect(&door).expect("connected");
    through_unix.set_read_timeout(Some(PATIENCE)).expect("set");

    let mut clients = [road.connect("echo"), road.connect("echo"), road.connect("unix")];
    for (n, client) in clients.iter_mut().enumerate() {
        talks(client, format!("client {n}").as_bytes());
    }
    wait_until("all are counted", || road.of("connections") == 4.0 && road.at_gateway().streams == 4);
    for client in &mut clients {
        let words: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut writing = client.try_clone().expect("cloned");
        let sent = words.clone();
        let writer = std::thread::spawn(move || writing.write_all(&sent).expect("sent"));
        let mut back = vec![0; words.len()];
        client.read_exact(&mut back).expect("answered");
        assert!(back == words);
        writer.join().expect("no panic");
    }
    through_unix.write_all(b"through a file").expect("sent");
    through_unix.shutdown(Shutdown::Write).expect("ended");
    let mut all = String::new();
    through_unix.read_to_string(&mut all).expect("answered");
    assert_eq!(all, "through a file");
    clients.into_iter().for_each(ends);
    drop(through_unix);
    wait_until("all have finished", || road.closed("finished") == 5.0);
    road.until_baseline(before);
}

#[test]
fn streams_are_carried_with_a_token() {
    carries(Trust::token());
}

#[test]
fn streams_are_carried_under_tls_with_certificates_both_ways() {
    carries(Trust::certificates());
}

/// Reads a request to its end, and only then answers, at length.
fn answers_at_the_end(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    stream.read_to_end(&mut request)?;
    assert_eq!(request, b"everything, please");
    let mut answer = vec![0; LONG];
    fill(7, 0, &mut answer);
    stream.write_all(&answer)
}

const LONG: usize = 24 << 20;

#[test]
fn fault_32_a_half_close_is_answered_at_length() {
    let service = Server::start(answers_at_the_end);
    let road = Plan { services: &[("library", service.address)], ..Plan::default() }.build();
    let before = road.held();
    let mut client = road.connect("library");
    client.write_all(b"everything, please").expect("sent");
    client.shutdown(Shutdown::Write).expect("ended");
    let seen = super::traffic::check(7, &mut client, &Default::default()).expect("the answer, and its end");
    assert_eq!(seen, LONG as u64);
    drop(client);
    wait_until("finished", || road.closed("finished") == 1.0);
    road.until_baseline(before);
}

#[test]
fn fault_33_a_reset_is_carried_through_a_tunnel_as_one() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    let service = Server::start(move |mut stream| {
        let ended = end_of(&mut stream);
        heard.lock().expect("unpoisoned").push(is_reset(&ended));
        Ok(())
    });
    let road = Plan { services: &[("fickle", service.address)], ..Plan::default() }.build();
    let before = road.held();
    let other = Talk::start(road.listener("echo"), Pace::CHAT);

    let mut client = road.connect("fickle");
    client.write_all(b"stay").expect("sent");
    wait_until("it is there", || service.live() == 1);
    reset(client);
    wait_until("the service hears of it", || *told.lock().expect("unpoisoned") == [true]);
    wait_until("counted", || road.closed("client_reset") == 1.0);

    // With bytes that nobody has read.
    wait_until("the first is over", || service.live() == 0);
    let mut client = road.connect("fickle");
    client.write_all(b"stay and get much").expect("sent");
    wait_until("it is there", || service.live() == 1);
    reset(client);
    wait_until("the service hears of it", || told.lock().expect("unpoisoned").len() == 2);
    assert_eq!(*told.lock().expect("unpoisoned"), [true, true]);

    other.until_moved(10_000);
    other.finish();
    road.until_baseline(before);
}

#[test]
fn fault_33_a_service_that_resets_is_heard_by_its_client() {
    // The server of the tests ends in order; this one is dropped with bytes unread, which is a reset.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepted");
        let mut word = [0; 4];
        stream.read_exact(&mut word).expect("read");
        reset(stream);
    });
    let road = Plan { services: &[("fickle", address)], ..Plan::default() }.build();
    let before = road.held();
    let mut client = road.connect("fickle");
    client.write_all(b"bye!").expect("sent");
    let ended = end_of(&mut client);
    assert!(is_reset(&ended), "{ended:?}");
    service.join().expect("no panic");
    drop(client);
    wait_until("counted", || road.closed("upstream_reset") == 1.0);
    road.until_baseline(before);
}

#[test]
fn a_service_that_cannot_be_had_is_refused_by_a_reset_and_counted() {
    let more = format!("{CALM}[[upstreams.site.forwards]]\nlisten = \"127.0.0.1:0\"\nservice = \"unheard-of\"\n");
    let road = Plan { services: &[("dead", nobody())], sidecar: &more, ..Plan::default() }.build();
    let before = road.held();
    for (n, service) in ["dead", "unheard-of"].into_iter().enumerate() {
        let mut client = road.connect(service);
        // It may be refused before that is said.
        let ended = client.write_all(b"anybody there?").and_then(|()| end_of(&mut client));
        assert!(is_reset(&ended), "{service}: {ended:?}");
        wait_until("counted", || road.closed("service_refused") == (n + 1) as f64);
    }
    wait_until("told", || road.gateway().log().contains("a stream was refused"));
    talks(&mut road.connect("echo"), b"others are served");
    road.until_baseline(before);
}

#[test]
fn allow_is_checked_against_the_certificate_at_every_stream() {
    let trust = Trust::certificates();
    let service = Server::start(echo);
    let road = Plan { trust, services: &[("private", service.address)], ..Plan::default() }.build();
    talks(&mut road.connect("private"), b"not yet restricted");
    let allow = |who: &str| {
        let text = super::road::gateway(&road.trust, "gw-1", road.port, &[("echo", road.echo.address)], "");
        road.gateway().edit(&format!("{text}private = {{ address = \"{}\", allow = [\"{who}\"] }}\n", service.address));
    };
    let served = || {
        let mut client = road.connect("private");
        let _ = client.write_all(b"me?");
        let mut answer = [0; 3];
        client.read_exact(&mut answer).is_ok()
    };
    allow("somebody-else");
    wait_until("refused", || !served());
    wait_until("counted", || road.closed("service_refused") >= 1.0);
    allow("sidecar-a");
    wait_until("let in", served);
    assert_eq!(road.losses(), 0.0, "the session was never touched");
    assert_eq!(road.at_gateway().sessions[0].identity.as_deref(), Some("sidecar-a"));
}

/// A header is taken off at the one end, and put on at the other.
#[test]
fn proxy_protocol_is_accepted_on_a_forward_and_sent_to_a_service() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = heard.clone();
    let service = Server::start(move |mut stream| {
        let mut bytes = Vec::new();
        let mut buffer = [0; 1024];
        let (source, destination, length) = loop {
            let count = stream.read(&mut buffer)?;
            assert!(count > 0, "a header was due");
            bytes.extend(&buffer[..count]);
            match proxy_protocol::parse(&bytes).expect("a header") {
                Parsed::NeedMore => {}
                Parsed::Header { source, destination, length, .. } => break (source, destination, length),
            }
        };
        hearing.lock().expect("unpoisoned").push((source, destination));
        stream.write_all(&bytes[length..])?;
        echo(stream)
    });
    let more = format!(
        "{CALM}[[upstreams.site.forwards]]\nlisten = \"127.0.0.1:0\"\nservice = \"told\"\n\
         accept_proxy_protocol = [\"127.0.0.0/8\"]\n"
    );
    let road = Plan { sidecar: &more, ..Plan::default() }.build();
    let text = super::road::gateway(&road.trust, "gw-1", road.port, &[("echo", road.echo.address)], "");
    let told = |name: &str| format!("{name} = {{ address = \"{}\", proxy_protocol = \"v2\" }}\n", service.address);
    road.gateway().edit(&format!("{text}{}{}", told("told"), told("direct")));
    wait_until("the services are there", || road.at_gateway().services.len() == 3);

    let header = "PROXY TCP4 192.0.2.7 198.51.100.9 4711 443\r\n";
    let mut client = road.connect("told");
    client.write_all(header.as_bytes()).expect("sent");
    talks(&mut client, b"and now my own words");
    let (source, destination) = heard.lock().expect("unpoisoned")[0];
    assert_eq!(source, Some("192.0.2.7:4711".parse().expect("an address")));
    assert_eq!(destination, Some("198.51.100.9:443".parse().expect("an address")));

    // Who sends none where one is due is not let in.
    let mut rude = road.connect("told");
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    assert!(end_of(&mut rude).is_err() || heard.lock().expect("unpoisoned").len() == 1);
    assert_eq!(heard.lock().expect("unpoisoned").len(), 1);
}

#[test]
fn a_service_hears_who_the_client_of_a_plain_forward_is() {
    let heard: Arc<Mutex<Vec<Option<SocketAddr>>>> = Arc::default();
    let hearing = heard.clone();
    let service = Server::start(move |mut stream| {
        let mut bytes = vec![0; 1024];
        let count = stream.read(&mut bytes)?;
        if let Ok(Parsed::Header { source, .. }) = proxy_protocol::parse(&bytes[..count]) {
            hearing.lock().expect("unpoisoned").push(source);
        }
        stream.write_all(b"ok")?;
        deaf(stream)
    });
    let road = Plan { services: &[("told", service.address)], ..Plan::default() }.build();
    let text = super::road::gateway(&road.trust, "gw-1", road.port, &[], "");
    road.gateway().edit(&format!("{text}told = {{ address = \"{}\", proxy_protocol = \"v2\" }}\n", service.address));
    wait_until("the edit is in force", || road.at_gateway().services.len() == 1);
    let mut client = connect_to(road.listener("told"));
    let mut ok = [0; 2];
    client.read_exact(&mut ok).expect("the header alone is enough for the service to speak");
    assert_eq!(*heard.lock().expect("unpoisoned"), [client.local_addr().ok()]);
}

#[test]
fn status_shows_the_session_and_its_last_outage_at_both_ends() {
    let road = Road::new();
    let talk = Talk::start(road.listener("echo"), Pace::CHAT);
    talk.until_moved(1000);
    assert_eq!(road.relay.cut(super::relay::How::Reset), 1);
    wait_until("resumed", || road.resumes("resumed") == 1.0);
    talk.until_moved(1000);
    let id = road.session();
    let status = |http: SocketAddr| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_everlink"));
        program::succeeded(command.args(["status", "--url", &format!("http://{http}")]))
    };
    let (near, far) = (status(road.sidecar.http()), status(road.gateway().http()));
    assert!(near.contains(&format!("session {id}, 1 stream")), "{near}");
    assert!(near.contains("1 resume, the last outage "), "{near}");
    assert!(far.contains("gateway gw-1, listens on 127.0.0.1:"), "{far}");
    assert!(far.contains(&id) && far.contains("1 of 1024 sessions, 1 stream"), "{far}");
    let session = road.at_gateway().sessions[0].session.clone();
    assert_eq!((session.id.as_str(), session.resumes, session.epoch), (id.as_str(), 1, 2));
    assert!(session.last_outage_seconds.is_some_and(|seconds| seconds < 10.0), "{session:?}");
    assert!(road.of("session_outage_seconds_count") == 1.0 && road.of("session_streams_saved_total") == 1.0);
    talk.finish();
    road.until_idle();
}

/// Each way through the tunnel ends at the door of the next one, which is the same.
#[test]
fn fault_66_a_loop_through_both_ends_comes_to_its_end() {
    let more = format!(
        "{CALM}[[upstreams.site.forwards]]\nlisten = \"127.0.0.1:0\"\nservice = \"loop\"\n\
         accept_proxy_protocol = [\"127.0.0.0/8\"]\n"
    );
    let road = Plan { sidecar: &more, ..Plan::default() }.build();
    let door = road.listener("loop");
    let text = super::road::gateway(&road.trust, "gw-1", road.port, &[("echo", road.echo.address)], "");
    road.gateway().edit(&format!("{text}loop = {{ address = \"{door}\", proxy_protocol = \"v2\" }}\n"));
    wait_until("the service is there", || road.at_gateway().services.len() == 2);
    let before = road.held();
    let mut client = road.connect("loop");
    client.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.9 4711 443\r\nround and round").expect("sent");
    let ended = end_of(&mut client);
    assert!(is_reset(&ended), "{ended:?}");
    let rounds = road.of("connections_total");
    assert!((2.0..=10.0).contains(&rounds), "{rounds} rounds");
    drop(client);
    road.until_baseline(before);
}

#[test]
fn fault_29_a_client_who_reads_late_has_the_whole_answer_though_its_stream_is_over() {
    let mut answer = vec![0; 150_000];
    fill(7, 0, &mut answer);
    let sent = answer.clone();
    let service = Server::start(move |mut stream| stream.write_all(&sent));
    let road = Plan { services: &[("answer", service.address)], ..Plan::default() }.build();
    let mut client = narrow_client(road.listener("answer"));
    client.shutdown(Shutdown::Write).expect("ended");
    wait_until("the stream is over", || road.closed("finished") == 1.0);
    // Not a wait for anything: this is the fault.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("an end in order");
    assert!(got == answer, "{} bytes of {}", got.len(), answer.len());
}
