//! Real servers behind a tunnel whose network fails: a sidecar in one namespace, a gateway and the servers in another.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::postgres::{Postgres, connected};
use super::redis::Redis;
use crate::common::PATIENCE;
use crate::common::program::{command, finished, succeeded};
use crate::faults::net::{Namespace, Net};
use crate::faults::program::{Held, Program};
use crate::tls::Authority;

/// Where clients in the sidecar's namespace connect.
pub(super) const DOOR: &str = "127.0.0.1:7000";
/// And the service, behind the gateway.
pub(super) const SERVICE: &str = "127.0.0.1:9000";
/// The gateway, over the wire.
const GATEWAY: &str = "10.77.0.2:7443";
/// What the faults are about.
pub(super) const LINK: &str = "iifname wire tcp dport 7443";
const LINK_BACK: &str = "iifname wire tcp sport 7443";

/// A budget of 2.5 s.
pub(super) const BEATS: &str = "heartbeat = { interval = \"1s\", timeout = \"500ms\", misses = 3 }\n";

/// Certificates both ways, under the name `gateway.test`.
pub(super) fn certificates() -> Authority {
    let authority = Authority::new("the tests");
    authority.put("ca.pem", &authority.pem);
    for (file, name) in [("server", "gateway.test"), ("sidecar", "sidecar-a")] {
        let pair = authority.issue(&[name]);
        authority.put(&format!("{file}.pem"), &pair.cert);
        authority.put(&format!("{file}.key"), &pair.key);
    }
    authority
}

pub(super) fn gateway<'n>(place: &'n Namespace, authority: &Authority, more: &str, service: SocketAddr) -> Program<'n> {
    let path = |file| authority.path(file).display().to_string();
    Program::start(
        place,
        &format!(
            "[gateway]\nlisten = \"0.0.0.0:7443\"\n{more}[gateway.tls]\ncert_file = \"{}\"\nkey_file = \"{}\"\n\
             client_ca_file = \"{}\"\n[gateway.services]\nserver = \"{service}\"\n",
            path("server.pem"),
            path("server.key"),
            path("ca.pem")
        ),
    )
}

/// A sidecar with the upstream `site`.
pub(super) fn sidecar<'n>(place: &'n Namespace, authority: &Authority, endpoint: &str, more: &str) -> Program<'n> {
    sidecar_with(place, authority, endpoint, more, "")
}

/// One with further forwards.
pub(super) fn sidecar_with<'n>(
    place: &'n Namespace,
    authority: &Authority,
    endpoint: &str,
    more: &str,
    forwards: &str,
) -> Program<'n> {
    let path = |file| authority.path(file).display().to_string();
    let quick = "retry = { initial = \"100ms\", max = \"1s\", stable_after = \"1s\", connect_timeout = \"2s\" }\n";
    let retry = if more.contains("retry") { "" } else { quick };
    let sidecar = Program::start(
        place,
        &format!(
            "[upstreams.site]\nmode = \"tunnel\"\nendpoints = [\"{endpoint}\"]\n\
             {retry}tls = {{ ca_file = \"{}\", cert_file = \"{}\", key_file = \"{}\", server_name = \"gateway.test\" }}\n\
             {more}[[upstreams.site.forwards]]\nlisten = \"{DOOR}\"\nservice = \"server\"\n{forwards}",
            path("ca.pem"),
            path("sidecar.pem"),
            path("sidecar.key")
        ),
    );
    sidecar.until("links up", |figures| figures.of("upstream_up", "site") == 1.0);
    sidecar
}

/// Both, over the wire of `net`.
pub(super) fn both<'n>(net: &'n Net, service: SocketAddr, more: &str) -> (Program<'n>, Program<'n>, Authority) {
    let authority = certificates();
    let gateway = gateway(&net.b, &authority, "name = \"gw-1\"\n", service);
    let sidecar = sidecar(&net.a, &authority, GATEWAY, more);
    (sidecar, gateway, authority)
}

pub(super) fn resumed(sidecar: &Program<'_>) -> usize {
    sidecar.figures().get("everlink_session_resumes_total", &[("upstream", "site"), ("outcome", "resumed")]) as usize
}

pub(super) fn service() -> SocketAddr {
    SERVICE.parse().expect("an address")
}

/// The words come back.
pub(super) fn talks(stream: &mut TcpStream, words: &[u8]) {
    stream.write_all(words).expect("sent");
    let mut answer = vec![0; words.len()];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(answer, words);
}

/// Nobody was cut off, and nothing is left.
pub(super) fn nothing_was_lost(sidecar: &Program<'_>, gateway: &Program<'_>) {
    sidecar.until("no client is left", |figures| figures.of("connections", "site") == 0.0);
    gateway.until("no stream is left", |figures| figures.get("everlink_gateway_streams", &[]) == 0.0);
    let figures = sidecar.figures();
    for reason in ["upstream_reset", "error", "resume_expired", "gateway_restarted", "service_refused", "drained"] {
        assert_eq!(figures.closed("site", reason), 0, "{reason}");
    }
    for outcome in ["unknown", "expired", "refused"] {
        let labels = [("upstream", "site"), ("outcome", outcome)];
        assert_eq!(figures.get("everlink_session_resumes_total", &labels), 0.0, "{outcome}");
    }
    assert_eq!(gateway.figures().get("everlink_gateway_sessions", &[]), 1.0);
}

/// Nothing was lost, and both have given back what they held before: `held`, the sidecar's and the gateway's.
pub(super) fn in_the_end(sidecar: &Program<'_>, gateway: &Program<'_>, held: [Held; 2]) {
    nothing_was_lost(sidecar, gateway);
    let [of_sidecar, of_gateway] = held;
    sidecar.until_baseline(of_sidecar);
    gateway.until_baseline(of_gateway);
}

/// A dozen outages of six kinds, with a second of peace after each.
fn a_dozen_outages(net: &Net, sidecar: &Program<'_>) {
    let wait = |millis| std::thread::sleep(Duration::from_millis(millis));
    for round in 0..12 {
        let (before, began) = (resumed(sidecar), Instant::now());
        match round % 6 {
            // A firewall that has forgotten us tells the one end, or the other.
            0 => {
                let fault = net.b.reset(LINK);
                wait(300);
                fault.heal();
            }
            1 => {
                let fault = net.a.reset(LINK_BACK);
                wait(300);
                fault.heal();
            }
            2 => {
                let cut = net.cut();
                wait(2500);
                cut.heal();
            }
            3 => {
                let fault = net.lose_from_a();
                wait(2000);
                fault.heal();
            }
            4 => {
                let fault = net.lose_from_b();
                wait(2000);
                fault.heal();
            }
            _ => {
                net.unplug();
                wait(1500);
                net.plug_in();
            }
        }
        let healed = Instant::now();
        sidecar.until("the link is up", |figures| figures.links("site", "up") == 1);
        println!(
            "outage {round} of {:?}, up {:?} after it, {} resumes",
            healed - began,
            healed.elapsed(),
            resumed(sidecar) - before
        );
        wait(1000);
    }
}

#[test]
fn pgbench_runs_across_a_dozen_outages_without_one_failed_transaction() {
    let net = Net::new();
    let postgres = Postgres::start_in(Some(&net.b), &[]);
    let service = SocketAddr::from(([127, 0, 0, 1], postgres.port));
    let (sidecar, gateway, _authority) = both(&net, service, BEATS);
    let port = DOOR.parse::<SocketAddr>().expect("an address").port();
    let pgbench = |arguments: &[&str]| {
        let mut pgbench = connected("pgbench", port);
        pgbench.args(arguments).arg("postgres");
        net.a.enclose(&pgbench)
    };
    succeeded(&mut pgbench(&["-i", "-q", "-s", "1"]));
    let said = std::thread::scope(|scope| {
        let bench = scope.spawn(|| succeeded(&mut pgbench(&["-c", "6", "-j", "2", "-T", "50", "-P", "5"])));
        sidecar.until("it runs", |figures| figures.of("connections", "site") >= 6.0);
        a_dozen_outages(&net, &sidecar);
        assert!(!bench.is_finished(), "it ran all the while");
        bench.join().expect("no panic")
    });
    println!("{said}");
    assert!(said.contains("number of failed transactions: 0 (0.000%)"), "{said}");
    let figures = sidecar.figures();
    assert!(figures.all_losses("site") >= 6.0, "{} losses", figures.all_losses("site"));
    assert!(resumed(&sidecar) >= 8, "{} resumes", resumed(&sidecar));
    nothing_was_lost(&sidecar, &gateway);
}

/// One command on a connection that stays, and the line that answers it.
fn ask(client: &mut BufReader<TcpStream>, what: &str) -> String {
    client.get_mut().write_all(format!("{what}\r\n").as_bytes()).expect("said");
    let mut line = String::new();
    client.read_line(&mut line).expect("answered");
    line.trim_end().to_owned()
}

#[test]
fn redis_counts_every_command_once_across_outages() {
    let net = Net::new();
    let redis = Redis::start_in(Some(&net.b), &[]);
    let service = SocketAddr::from(([127, 0, 0, 1], redis.port));
    let (sidecar, gateway, _authority) = both(&net, service, BEATS);
    let stop = AtomicBool::new(false);
    let (said, counted) = std::thread::scope(|scope| {
        let bench = scope.spawn(|| {
            let mut bench = command("redis-benchmark");
            bench.args(["-p", "7000", "-n", "150000", "-c", "20", "-P", "4", "-q", "-t", "set,get,incr"]);
            finished(&mut net.a.enclose(&bench))
        });
        let counter = scope.spawn(|| {
            let mut client = BufReader::new(net.client(DOOR));
            client.get_ref().set_read_timeout(Some(PATIENCE)).expect("set");
            let mut count = 0;
            while !stop.load(Ordering::SeqCst) {
                count += 1;
                assert_eq!(ask(&mut client, "INCR mine"), format!(":{count}"), "each is carried out once, in order");
            }
            count
        });
        for round in 0..8 {
            std::thread::sleep(Duration::from_millis(400));
            let before = resumed(&sidecar);
            if round % 2 == 0 {
                let fault = net.b.reset(LINK);
                sidecar.until("lost", |figures| figures.links("site", "up") == 0);
                fault.heal();
            } else {
                let cut = net.cut();
                std::thread::sleep(Duration::from_millis(1500));
                cut.heal();
            }
            sidecar.until("up again", |figures| figures.links("site", "up") == 1);
            println!("{} resumes in round {round}", resumed(&sidecar) - before);
        }
        let said = bench.join().expect("no panic");
        stop.store(true, Ordering::SeqCst);
        (said, counter.join().expect("every answer was right"))
    });
    let told = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && !told.to_lowercase().contains("error"), "{told}");
    assert_eq!(told.matches("requests per second").count(), 3, "{told}");
    assert!(counted > 100, "{counted} commands");
    let stored = std::thread::scope(|scope| {
        scope.spawn(|| ask(&mut BufReader::new(net.client(DOOR)), "INCR mine")).join().expect("no panic")
    });
    assert_eq!(stored, format!(":{}", counted + 1));
    assert!(resumed(&sidecar) >= 4);
    nothing_was_lost(&sidecar, &gateway);
}
