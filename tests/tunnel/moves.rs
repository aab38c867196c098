//! Certificates and tokens that change, versions that do not meet, and settings that are edited: what moves, and what stays.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::relay::{How, Way};
use super::road::{CALM, Plan, QUICK, Road, Trust, connect_to, descriptors, listener, sidecar, talks};
use super::traffic::{Pace, Talk};
use crate::common::program::{Program, free_port, send, wait_until};
use crate::common::server::{Server, echo};
use crate::tls::Authority;

fn under_tls() -> Plan<'static> {
    Plan { trust: Trust::certificates(), ..Plan::default() }
}

/// No stream has noticed anything, and no connection was lost.
fn unnoticed(road: &Road, talks: &[Talk]) {
    talks.iter().for_each(|talk| talk.until_moved(3000));
    assert_eq!((road.losses(), road.of("link_reconnects_total")), (0.0, 0.0));
    assert_eq!(road.of("connections") as usize, talks.len());
}

fn two_talks(road: &Road) -> [Talk; 2] {
    let talks = [Pace::BULK, Pace::CHAT].map(|pace| Talk::start(road.listener("echo"), pace));
    talks.iter().for_each(|talk| talk.until_moved(3000));
    talks
}

#[test]
fn fault_55_a_renewed_certificate_is_a_planned_move_that_no_stream_notices() {
    let road = under_tls().build();
    let (before, session) = (road.held(), road.session());
    let talks = two_talks(&road);
    for round in 1..=3 {
        let epoch = road.at_gateway().sessions[0].session.epoch;
        road.trust.certify("sidecar-a", &["sidecar-a"]);
        wait_until("moved", || road.lost("reload") >= f64::from(round));
        unnoticed(&road, &talks);
        assert!(road.at_gateway().sessions[0].session.epoch > epoch);
    }
    // The gateway's own is for whoever comes next; those who are there stay.
    let (accepted, ends) = (road.relay.accepted(), certificate_end(road.gateway()));
    let pair = road.trust.authority().issue_with(&["localhost", "127.0.0.1"], |params| {
        params.not_after = rcgen::date_time_ymd(2050, 1, 1);
    });
    road.trust.put("server", &pair);
    wait_until("the new pair is told", || certificate_end(road.gateway()) != ends);
    assert_eq!(road.relay.accepted(), accepted);
    assert_eq!(road.relay.cut(How::Reset), 1);
    wait_until("resumed under the new one", || road.of("link_reconnects_total") == 1.0);
    talks.iter().for_each(|talk| talk.until_moved(3000));
    assert_eq!((road.session(), road.resumes("refused")), (session, 0.0));
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    road.until_baseline(before);
}

fn certificate_end(gateway: &Program) -> f64 {
    gateway.metric("everlink_tls_certificate_not_after_timestamp_seconds{role=\"server\",upstream=\"\"}")
}

#[test]
fn fault_55_a_half_written_pair_is_not_used_and_the_old_one_is_kept() {
    let road = under_tls().build();
    let before = road.held();
    let talks = two_talks(&road);
    let other = road.trust.authority().issue(&["localhost", "127.0.0.1"]);
    road.trust.authority().put("server.key", &other.key);
    wait_until("told", || road.gateway().metric("everlink_tls_reload_failures_total") >= 1.0);
    let unusable = || road.gateway().metric("everlink_tls_files_unusable{upstream=\"\"}");
    wait_until("shown", || unusable() == 1.0);
    assert_eq!(road.relay.cut(How::Reset), 1);
    wait_until("resumed with the old pair", || road.resumes("resumed") == 1.0);
    talks.iter().for_each(|talk| talk.until_moved(3000));
    road.trust.put("server", &other);
    wait_until("the whole pair is in use", || unusable() == 0.0);
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    road.until_baseline(before);
}

#[test]
fn fault_55_a_pair_that_is_not_valid_yet_is_taken_when_its_time_comes_though_nobody_writes_it_again() {
    let road = under_tls().build();
    let ends = certificate_end(road.gateway());
    let early = road.trust.authority().issue_with(&["localhost", "127.0.0.1"], |params| {
        params.not_before = (std::time::SystemTime::now() + Duration::from_secs(8)).into();
        params.not_after = rcgen::date_time_ymd(2050, 1, 1);
    });
    road.trust.put("server", &early);
    let unusable = || road.gateway().metric("everlink_tls_files_unusable{upstream=\"\"}");
    wait_until("told", || road.gateway().logged("is not valid before").is_some());
    assert_eq!((unusable(), certificate_end(road.gateway())), (1.0, ends));
    wait_until("taken", || certificate_end(road.gateway()) != ends);
    assert_eq!(unusable(), 0.0);
}

#[test]
fn fault_55_an_expired_certificate_is_refused_and_a_fresh_one_finds_its_session_again() {
    /// Seconds; both ends have to start in them.
    const LIFE: u64 = 10;
    let trust = Trust::certificates();
    let soon = |seconds: u64| {
        move |params: &mut rcgen::CertificateParams| {
            params.not_after = (std::time::SystemTime::now() + Duration::from_secs(seconds)).into();
        }
    };
    trust.put("sidecar-a", &trust.authority().issue_with(&["sidecar-a"], soon(LIFE)));
    let issued = Instant::now();
    let road = Plan { trust, ..Plan::default() }.build();
    let before = road.held();
    let (session, talk) = (road.session(), Talk::start(road.listener("echo"), Pace::CHAT));
    talk.until_moved(1000);
    std::thread::sleep(Duration::from_secs(LIFE + 1).saturating_sub(issued.elapsed()));
    talk.until_moved(1000);
    assert_eq!(road.losses(), 0.0, "a connection that stands is not ended by it");
    assert_eq!(road.relay.cut(How::Reset), 1);
    wait_until("refused", || road.refusals("tls") >= 1.0);
    wait_until("told", || road.gateway().logged("a dialer was turned away").is_some_and(|log| log.contains("expired")));
    wait_until("counted", || road.count("link_dials_total", "outcome=\"tls\"") >= 1.0);
    assert_eq!((road.resumes("resumed"), talk.is_over()), (0.0, false));
    road.trust.certify("sidecar-a", &["sidecar-a"]);
    wait_until("resumed", || road.resumes("resumed") == 1.0);
    talk.until_moved(1000);
    assert_eq!(road.session(), session);
    talk.finish();
    road.until_baseline(before);
}

#[test]
fn fault_56_a_dialer_whose_ca_is_not_trusted_any_more_is_refused_at_its_next_handshake() {
    let road = under_tls().build();
    let before = road.held();
    let talk = Talk::start(road.listener("echo"), Pace::CHAT);
    talk.until_moved(1000);
    // One file is the gateway's CA for clients and the sidecar's for the gateway: the sidecar then trusts nobody, either.
    let old = road.trust.authority().pem.clone();
    road.trust.authority().put("ca.pem", &Authority::new("another").pem);
    wait_until("a dial is refused", || road.count("link_dials_total", "outcome=\"tls\"") >= 1.0);
    talk.until_moved(1000);
    assert_eq!(road.losses(), 0.0, "the connection that stands stays");
    road.trust.authority().put("ca.pem", &old);
    wait_until("moved", || road.lost("reload") >= 1.0);
    talk.until_moved(1000);
    assert_eq!(road.losses(), 0.0);
    talk.finish();
    road.until_baseline(before);
}

#[test]
fn another_token_is_denied_and_the_right_one_goes_on_with_the_session() {
    let road = Road::new();
    let Trust::Token(directory) = &road.trust else { panic!("a token") };
    let path = directory.path().join("token");
    let (old, session) = (std::fs::read_to_string(&path).expect("read"), road.session());
    // The two ends must not share the file for this.
    let own = directory.path().join("token-of-the-sidecar");
    std::fs::write(&own, "not the same words at all").expect("written");
    std::process::Command::new("chmod").arg("600").arg(&own).status().expect("chmod");
    let talk = Talk::start(road.listener("echo"), Pace::CHAT);
    talk.until_moved(1000);
    let text = sidecar(&road.trust, &[road.relay.address], &["echo"], CALM);
    road.sidecar.edit(&text.replace(path.to_str().expect("UTF-8"), own.to_str().expect("UTF-8")));
    wait_until("denied", || road.refusals("denied") >= 1.0);
    wait_until("counted", || road.count("link_dials_total", "outcome=\"denied\"") >= 1.0);
    talk.until_moved(1000);
    assert_eq!(road.losses(), 0.0, "the connection that stands stays");
    std::fs::write(&own, &old).expect("written");
    wait_until("moved", || road.lost("reload") >= 1.0);
    talk.until_moved(1000);
    assert_eq!(road.session(), session);
    talk.finish();
    // A secret is told nowhere.
    for text in [road.sidecar.log(), road.gateway().log(), road.sidecar.get("/status").1, road.gateway().get("/").1] {
        assert!(!text.contains(old.trim()) && !text.contains("not the same words"), "{text}");
    }
}

#[test]
fn fault_65_versions_that_do_not_meet_are_one_clear_error() {
    let road = Road::new();
    let before = road.held();
    let talk = Talk::start(road.listener("echo"), Pace::CHAT);
    talk.until_moved(1000);
    road.relay.rewrite(|way, offset, bytes| {
        // The lowest and the highest version in the head of the hello.
        for at in [9, 10] {
            if way == Way::Up && (offset..offset + bytes.len() as u64).contains(&at) {
                bytes[(at - offset) as usize] = 99;
            }
        }
    });
    let accepted = road.relay.accepted();
    assert_eq!(road.relay.cut(How::Reset), 1);
    wait_until("refused", || road.refusals("version") >= 2.0);
    wait_until("counted", || road.count("link_dials_total", "outcome=\"version\"") >= 2.0);
    let lines = |program: &Program, what: &str| program.log().lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines(&road.sidecar, "speaks no version of the protocol"), 1);
    assert_eq!(lines(road.gateway(), "\"reason\":\"version\""), 1);
    assert!(!talk.is_over(), "the session waits");
    road.relay.rewrite(|_, _, _| {});
    wait_until("resumed", || road.resumes("resumed") == 1.0);
    talk.until_moved(1000);
    talk.finish();
    println!("{} dials meanwhile", road.relay.accepted() - accepted);
    road.until_baseline(before);
}

#[test]
fn fault_54_retuning_the_heartbeat_touches_no_connection_and_the_gateway_follows() {
    // A budget of a minute, and more.
    let slow = QUICK.replace("500ms\", timeout = \"300ms\"", "30s\", timeout = \"20s\"");
    let mut road = Plan { sidecar: &slow, ..Plan::default() }.build();
    let before = road.held();
    let talks = two_talks(&road);
    let accepted = road.relay.accepted();
    road.edit_sidecar(QUICK, &["echo"]);
    wait_until("in force", || road.of("heartbeat_interval_seconds") == 0.5);
    unnoticed(&road, &talks);
    assert_eq!((road.relay.accepted(), road.of("detection_budget_seconds")), (accepted, 1.4));
    wait_until("told in the log", || road.sidecar.logged("heartbeat.interval 30s → 500ms").is_some());
    let told = road.sidecar.logged("heartbeat.interval 30s → 500ms").expect("told");
    assert!(told.contains("live") && told.contains("1 link kept"), "{told}");
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    // The gateway has no numbers of its own: it goes by those it was told.
    send("STOP", road.sidecar.id());
    let stopped = Instant::now();
    wait_until("the gateway gives the connection up", || !road.at_gateway().sessions[0].connected);
    send("CONT", road.sidecar.id());
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    road.until_up();
    road.until_baseline(before);
}

#[test]
fn fault_54_more_forwards_and_more_services_touch_nothing_else() {
    let (old, new) = (free_port(), free_port());
    let forward = |port: u16, service: &str| {
        format!("[[upstreams.site.forwards]]\nlisten = \"127.0.0.1:{port}\"\nservice = \"{service}\"\n")
    };
    let one = format!("{CALM}{}", forward(old, "old"));
    let mut road = Plan { sidecar: &one, ..Plan::default() }.build();
    let address = road.echo.address;
    road.edit_gateway("", &[("echo", address), ("old", address)]);
    wait_until("the service is there", || road.at_gateway().services.len() == 2);
    let before = road.held();
    let [door, beside] = [old, new].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let talks_on = [Pace::BULK, Pace::CHAT].map(|pace| Talk::start(door, pace));
    let accepted = road.relay.accepted();
    let another = Server::start(echo);
    road.edit_gateway("", &[("echo", address), ("old", address), ("another", another.address)]);
    wait_until("the service is there", || road.at_gateway().services.len() == 3);
    // Its name comes first, but that is not what tells forwards apart.
    road.edit_sidecar(&format!("{one}{}", forward(new, "another")), &["echo"]);
    wait_until("the forward is there", || {
        let forwards = road.sidecar.upstream("site").forwards;
        forwards.len() == 3 && forwards.iter().all(|forward| !forward.listen.is_empty())
    });
    assert_eq!(listener(&road.sidecar, "old"), door);
    assert_eq!(listener(&road.sidecar, "another"), beside);
    let came = another.connections();
    let mut last = connect_to(beside);
    talks(&mut last, b"a new way");
    assert_eq!(another.connections(), came + 1);
    talks(&mut connect_to(door), b"the old door leads where it did");
    assert_eq!(another.connections(), came + 1);
    wait_until("only those who stay", || road.of("connections") == 3.0);
    talks_on.iter().for_each(|talk| talk.until_moved(3000));

    // And away again: the clients of the forward that goes stay to their end, and so do those of the service.
    road.edit_sidecar(&one, &["echo"]);
    wait_until("the door is closed", || TcpStream::connect(beside).is_err());
    talks(&mut last, b"still in");
    road.edit_gateway("", &[("echo", address), ("old", address)]);
    wait_until("the service is gone", || road.at_gateway().services.len() == 2);
    talks(&mut last, b"still in");
    drop(last);
    wait_until("only those who stay", || road.of("connections") == 2.0);
    unnoticed(&road, &talks_on);
    assert_eq!(road.relay.accepted(), accepted);
    talks_on.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    road.until_baseline(before);
}

/// One door leads elsewhere from now on: for new clients only.
#[test]
fn fault_54_a_forward_that_leads_to_another_service_does_so_for_new_clients() {
    let port = free_port();
    let (door, another) = (SocketAddr::from(([127, 0, 0, 1], port)), Server::start(echo));
    let forward = |service: &str| {
        format!("{CALM}[[upstreams.site.forwards]]\nlisten = \"127.0.0.1:{port}\"\nservice = \"{service}\"\n")
    };
    let one = forward("echo");
    let mut road = Plan { services: &[("another", another.address)], sidecar: &one, ..Plan::default() }.build();
    let before = road.held();
    let mut old = connect_to(door);
    talks(&mut old, b"to the first");
    assert_eq!((road.echo.connections(), another.connections()), (1, 0));
    road.edit_sidecar(&forward("another"), &["echo"]);
    wait_until("new clients go to the other", || {
        talks(&mut connect_to(door), b"anywhere");
        another.connections() > 0
    });
    let first = road.echo.connections();
    talks(&mut old, b"still at the first");
    assert_eq!(road.echo.connections(), first);
    assert_eq!(road.losses(), 0.0);
    drop(old);
    road.until_baseline(before);
}

#[test]
fn fault_53_an_upstream_that_is_removed_ends_with_its_clients_and_its_session_with_it() {
    let road = Road::new();
    let before = road.held().descriptors[1];
    let (door, mut client) = (road.listener("echo"), road.connect("echo"));
    talks(&mut client, b"in");
    // Something else, for a configuration without any upstream is none.
    road.sidecar
        .edit(&format!("[upstreams.other]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"{}\"]\n", road.echo.address));
    wait_until("the door is closed", || TcpStream::connect(door).is_err());
    talks(&mut client, b"until I am done");
    drop(client);
    wait_until("the session is over", || road.gateway().metric("everlink_gateway_sessions") == 0.0);
    wait_until("told", || road.gateway().log().contains("\"done\""));
    wait_until("descriptors", || descriptors(road.gateway().id()) < before);
    wait_until("its series are gone", || road.sidecar.metrics().with_label("upstream", "site").is_empty());
}
