//! The connection is lost in every way a network has; the streams hardly notice, and no byte is lost, doubled or reordered.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::relay::{How, Limit, Way};
use super::road::{CALM, Held, Plan, QUICK, Road, Trust};
use super::traffic::{Pace, Talk, check, fill};
use crate::common::PATIENCE;
use crate::common::program::{wait_until, wait_within};
use crate::common::server::Server;

/// With the road and traffic on it: both ends have no more than they had, in descriptors and in sessions.
fn in_the_end(road: &Road, before: Held) {
    road.until_baseline(before);
    assert_eq!(road.at_gateway().sessions.len(), 1, "one session all the time");
    assert_eq!(road.gateway().metric("everlink_gateway_sessions"), 1.0);
    for reason in ["client_reset", "upstream_reset", "error", "resume_expired", "gateway_restarted"] {
        assert_eq!(road.closed(reason), 0.0, "{reason}");
    }
    assert_eq!(road.resumes("unknown") + road.resumes("expired"), 0.0);
}

fn talks_on(road: &Road) -> Vec<Talk> {
    let address = road.listener("echo");
    let talks =
        vec![Talk::start(address, Pace::BULK), Talk::start(address, Pace::CHAT), Talk::start(address, Pace::CHAT)];
    talks.iter().for_each(|talk| talk.until_moved(3000));
    talks
}

fn cut_again_and_again(trust: Trust, how: How, reason: &str) {
    let road = Plan { trust, ..Plan::default() }.build();
    let (before, session) = (road.held(), road.session());
    let talks = talks_on(&road);
    for round in 1..=8 {
        assert_eq!(road.relay.cut(how), 1);
        wait_until("resumed", || road.resumes("resumed") == f64::from(round));
        talks.iter().for_each(|talk| talk.until_moved(2000));
    }
    assert_eq!(road.lost(reason), 8.0, "each time for this reason");
    assert_eq!((road.losses(), road.of("link_reconnects_total"), road.relay.cuts()), (8.0, 8.0, 8));
    assert_eq!(road.session(), session);
    assert_eq!(road.of("session_streams_saved_total"), 24.0);
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    in_the_end(&road, before);
}

#[test]
fn fault_07_a_reset_in_mid_transfer_costs_a_pause_and_no_byte() {
    cut_again_and_again(Trust::token(), How::Reset, "reset");
}

#[test]
fn fault_07_a_reset_in_mid_transfer_under_tls() {
    cut_again_and_again(Trust::certificates(), How::Reset, "reset");
}

#[test]
fn fault_09_an_end_without_close_notify_is_a_loss_and_never_the_end_of_a_stream() {
    cut_again_and_again(Trust::certificates(), How::End, "closed");
}

#[test]
fn fault_09_an_end_in_plain_text_is_a_loss_too() {
    cut_again_and_again(Trust::token(), How::End, "closed");
}

/// Resets faster than links come up: most of them fall on a connection that has only just been resumed.
#[test]
fn fault_08_a_reset_every_200_ms_under_load_loses_nothing_and_bytes_still_move() {
    let road = Road::new();
    let before = road.held();
    let talks = talks_on(&road);
    let memory = || [super::road::memory(road.sidecar.id()), super::road::memory(road.gateway().id())];
    let (at_first, began) = (talks[0].moved(), Instant::now());
    let mut early = None;
    // Those that fall on a connection that carries the session yet are losses.
    while began.elapsed() < Duration::from_secs(8) || road.lost("reset") < 5.0 {
        std::thread::sleep(Duration::from_millis(200));
        road.relay.cut(How::Reset);
        if began.elapsed() > Duration::from_secs(4) && early.is_none() {
            early = Some(memory());
        }
        assert!(began.elapsed() < PATIENCE, "{} losses", road.lost("reset"));
    }
    let cuts = road.relay.cuts();
    assert!(cuts >= 5, "{cuts} cuts");
    let moved = talks[0].moved() - at_first;
    assert!(moved > 1 << 20, "{moved} bytes came back meanwhile");
    let (early, late) = (early.expect("measured"), memory());
    for (early, late) in early.into_iter().zip(late) {
        assert!(late < early + (24 << 10), "memory, KiB: {early} and then {late}");
    }
    talks.iter().for_each(|talk| talk.until_moved(2000));
    println!("{cuts} cuts, {} resumes, {moved} bytes there and back", road.resumes("resumed"));
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    in_the_end(&road, before);
}

/// Nothing passes and nobody is told: the heartbeat has to find out, and a second connection is there before it does.
#[test]
fn fault_44_a_flow_that_is_forgotten_is_given_up_within_the_budget() {
    let road = Plan { sidecar: QUICK, ..Plan::default() }.build();
    let before = road.held();
    let talks = talks_on(&road);
    for round in 1..=4 {
        let forgotten = Instant::now();
        assert_eq!(road.relay.forget(), 1);
        wait_until("resumed", || road.resumes("resumed") == f64::from(round));
        talks.iter().for_each(|talk| talk.until_moved(1000));
        let took = forgotten.elapsed();
        assert!(took < Duration::from_secs(6), "bytes moved again after {took:?}");
        println!("bytes moved again after {took:?}");
    }
    assert_eq!(road.lost("heartbeat"), 4.0);
    assert!(road.relay.held() > 0, "something did not pass");
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    // The old connections still stand at the relay, and nowhere else.
    in_the_end(&road, before);
}

fn one_direction_stops(way: Way) {
    let road = Plan { sidecar: QUICK, ..Plan::default() }.build();
    let before = road.held();
    let talks = talks_on(&road);
    let at_first = Instant::now();
    road.relay.stall(way);
    // With what the gateway says the sidecar hears its beats: it is the gateway that gives the connection up, then.
    // On a busy host its beats may be late as well.
    wait_until("noticed", || road.lost("heartbeat") + if way == Way::Up { road.lost("closed") } else { 0.0 } >= 1.0);
    let noticed = at_first.elapsed();
    assert!(noticed < Duration::from_secs(6), "noticed after {noticed:?}, the budget is 1.4 s");
    // Dials come through the relay's door and no further.
    wait_until("urgent dials", || road.relay.accepted() >= 4);
    assert!(road.relay.held() > 0, "something did not pass");
    assert_eq!(road.resumes("resumed"), 0.0);
    road.relay.go_on();
    let healed = Instant::now();
    talks.iter().for_each(|talk| talk.until_moved(1000));
    let took = healed.elapsed();
    assert!(took < Duration::from_secs(8), "bytes moved again after {took:?}");
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    in_the_end(&road, before);
}

#[test]
fn fault_12_what_the_sidecar_says_is_lost_for_a_while() {
    one_direction_stops(Way::Up);
}

#[test]
fn fault_12_what_the_gateway_says_is_lost_for_a_while() {
    one_direction_stops(Way::Down);
}

#[test]
fn fault_22_slices_of_one_byte_are_put_together_again() {
    let road = Road::new();
    let before = road.held();
    road.relay.slice(1, Duration::ZERO);
    assert_eq!(road.relay.cut(How::Reset), 1);
    wait_until("resumed", || road.resumes("resumed") == 1.0);
    let passed = || road.relay.moved(Way::Up) + road.relay.moved(Way::Down);
    let (bytes, pieces) = (passed(), road.relay.pieces());
    let talks = [Pace::CHAT, Pace::CHAT].map(|pace| Talk::start(road.listener("echo"), pace));
    talks.iter().for_each(|talk| talk.until_moved(20_000));
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    assert_eq!(road.losses(), 1.0, "and none but the one of ours");
    let (bytes, pieces) = (passed() - bytes, road.relay.pieces() - pieces);
    // Between two looks a byte may pass.
    assert!(bytes > 40_000 && pieces + 100 >= bytes, "{bytes} bytes in {pieces} pieces");
    in_the_end(&road, before);
}

#[test]
fn a_long_way_delays_and_loses_nothing() {
    // In silence either end may ask first, and spares the other its beat: there have to be many.
    let often = CALM.replace("interval = \"5s\"", "interval = \"500ms\"");
    let road = Plan { sidecar: &often, ..Plan::default() }.build();
    let before = road.held();
    road.relay.slice(0, Duration::from_millis(40));
    let talks = talks_on(&road);
    for round in 1..=3 {
        assert_eq!(road.relay.cut(How::Reset), 1);
        wait_until("resumed", || road.resumes("resumed") == f64::from(round));
        talks.iter().for_each(|talk| talk.until_moved(1000));
    }
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    // In silence there are beats, and they are the measure.
    let rtt = || road.sidecar.upstream("site").links[0].rtt_seconds;
    wait_until("the round trip is told", || rtt().is_some_and(|rtt| (0.08..0.3).contains(&rtt)));
    in_the_end(&road, before);
}

const LINKS: usize = 40;

/// Connection after connection ends after one byte more: within the hello, within its answer, within the frames that are
/// sent again, whatever those are in the middle of.
fn cut_at_every_offset(trust: Trust, offsets: &[u64]) {
    let more = format!("{CALM}pool.size = {LINKS}\nresume.deadline = \"5m\"\n");
    let road = Plan { trust, sidecar: &more, gateway: "resume.deadline = \"5m\"\n", ..Plan::default() }.build();
    road.until_up();
    let before = road.held();
    // Long pieces, so that a cut finds frames to send again.
    let pace = Pace { piece: 2000, pause: Duration::from_millis(10) };
    let talks: Vec<_> = (0..LINKS).map(|_| Talk::start(road.listener("echo"), pace)).collect();
    talks.iter().for_each(|talk| talk.until_moved(1000));
    let sessions = |road: &Road| {
        let mut ids: Vec<_> = road.at_gateway().sessions.iter().map(|one| one.session.id.clone()).collect();
        ids.sort();
        ids
    };
    let at_first = sessions(&road);
    let how = |offset: &u64| if offset.is_multiple_of(2) { How::Reset } else { How::End };
    let limits: Vec<_> =
        [Way::Up, Way::Down].iter().flat_map(|way| offsets.iter().map(move |at| Limit(*way, *at, how(at)))).collect();
    let due = limits.len();
    road.relay.limit(limits.clone());
    assert_eq!(road.relay.cut(How::Reset), LINKS);
    let began = Instant::now();
    wait_within(Duration::from_secs(120), "every cut was met", || {
        talks.iter().for_each(|talk| assert!(!talk.is_over(), "a talk is over"));
        road.relay.limits_left() == 0
    });
    wait_until("all cuts were made", || road.relay.cuts() >= (due + LINKS) as u64 || road.relay.live() == LINKS);
    road.until_up();
    println!("{} cuts in {:?}, {} resumes", road.relay.cuts(), began.elapsed(), road.resumes("resumed"));
    assert!(road.relay.cuts() as usize >= due * 9 / 10, "{} of {due} cuts", road.relay.cuts());
    // At the very byte, each. The last ones may have come to a connection that says nothing more.
    let met = road.relay.met();
    assert!(met.len() >= due * 9 / 10 && met.iter().all(|cut| limits.contains(cut)), "{} of {due} offsets", met.len());
    assert!(road.losses() >= LINKS as f64, "{} losses", road.losses());
    talks.iter().for_each(|talk| talk.until_moved(5000));
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    assert_eq!(sessions(&road), at_first, "every session has come through");
    assert_eq!(road.closed("finished"), LINKS as f64);
    assert_eq!(road.gateway().metric("everlink_gateway_sessions"), LINKS as f64);
    let violations: f64 =
        [&road.sidecar, road.gateway()].iter().map(|end| sum(end, "everlink_protocol_violations_total")).sum();
    // A hello that was cut is no malformed one.
    assert_eq!(violations, 0.0);
    road.until_baseline(before);
}

fn sum(program: &crate::common::program::Program, family: &str) -> f64 {
    program.metrics().0.iter().filter(|(series, _)| series.starts_with(family)).map(|(_, value)| value).sum()
}

#[test]
fn fault_24_fault_25_cut_at_every_offset_of_hello_answer_and_frames() {
    let offsets: Vec<u64> = (0..500).collect();
    cut_at_every_offset(Trust::token(), &offsets);
}

#[test]
fn fault_24_fault_25_cut_at_offsets_of_the_tls_handshake_and_records() {
    let offsets: Vec<u64> = (0..4000).step_by(13).collect();
    cut_at_every_offset(Trust::certificates(), &offsets);
}

/// Twenty resumes in a row die in their beginnings.
#[test]
fn fault_25_a_resume_that_dies_twenty_times_never_goes_back() {
    let road = Plan { trust: Trust::certificates(), ..Plan::default() }.build();
    let (before, session) = (road.held(), road.session());
    let talks = talks_on(&road);
    // After the handshake, in what is sent again. Some to spare: one of two connections that are dialled beside each other
    // ends before its byte.
    let limit = |n: u64| Limit(if n.is_multiple_of(2) { Way::Up } else { Way::Down }, 3000 + 97 * n, How::Reset);
    road.relay.limit((0..24).map(limit));
    assert_eq!(road.relay.cut(How::Reset), 1);
    wait_within(Duration::from_secs(120), "twenty have died", || {
        road.relay.limits_left() == 0 && road.relay.met().len() >= 20
    });
    assert!(road.relay.met().iter().all(|cut| (0..24).any(|n| limit(n) == *cut)), "each at its byte");
    talks.iter().for_each(|talk| talk.until_moved(1000));
    let epoch = road.at_gateway().sessions[0].session.epoch;
    assert!(epoch >= 2 && road.session() == session, "epoch {epoch}");
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    in_the_end(&road, before);
}

/// The old connection is half open and comes back to life after the new one holds the session.
#[test]
fn fault_26_of_two_connections_the_newest_holds_and_the_older_is_fenced() {
    let road = Road::new();
    let before = road.held();
    let talks = talks_on(&road);
    assert_eq!(road.relay.forget(), 1);
    wait_until("a second connection holds", || road.resumes("resumed") == 1.0);
    talks.iter().for_each(|talk| talk.until_moved(1000));
    // What was held on the old one arrives now, old acknowledgements and data alike.
    road.relay.go_on();
    talks.iter().for_each(|talk| talk.until_moved(20_000));
    wait_until("the old one is closed", || road.relay.live() == 1);
    assert_eq!(road.resumes("resumed"), 1.0);
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    in_the_end(&road, before);
}

/// Both ends of a stream, and both halves, while the connection is down.
#[test]
fn fault_32_both_ends_of_a_stream_cross_a_loss() {
    const ANSWER: usize = 3 << 20;
    let service = Server::start(|mut stream| {
        let mut request = Vec::new();
        stream.read_to_end(&mut request)?;
        let mut due = vec![0; request.len()];
        fill(1, 0, &mut due);
        assert!(request == due, "the request came whole");
        let mut answer = vec![0; ANSWER];
        fill(2, 0, &mut answer);
        stream.write_all(&answer)
    });
    let road = Plan { services: &[("library", service.address)], ..Plan::default() }.build();
    let before = road.held();
    for round in 0..6_u64 {
        let mut client = road.connect("library");
        let mut request = vec![0; 300_000];
        fill(1, 0, &mut request);
        if round % 2 == 0 {
            // The client's end is said while nothing passes.
            client.write_all(&request[..1000]).expect("sent");
            wait_until("the service is there", || service.live() == 1);
            road.relay.refuse(true);
            assert_eq!(road.relay.cut(How::Reset), 1);
            wait_until("lost", || road.relay.live() == 0);
            client.write_all(&request[1000..]).expect("sent");
            client.shutdown(Shutdown::Write).expect("ended");
            road.relay.refuse(false);
        } else {
            // The answer is on its way, and so is its end.
            client.write_all(&request).expect("sent");
            client.shutdown(Shutdown::Write).expect("ended");
            let way = if round == 1 { Way::Down } else { Way::Up };
            road.relay.limit([Limit(way, 2000 * round, How::End)]);
            road.relay.cut(How::Reset);
        }
        let seen = check(2, &mut client, &Default::default()).expect("the answer, and its end once");
        assert_eq!(seen, ANSWER as u64, "round {round}");
        drop(client);
        wait_until("finished", || road.closed("finished") == (round + 1) as f64);
        road.until_up();
    }
    assert!(road.losses() >= 6.0);
    in_the_end(&road, before);
}
