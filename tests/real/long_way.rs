//! A path by satellite in bad weather.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::tunnel::{DOOR, both, in_the_end};
use crate::common::server::echo;
use crate::faults::air::Air;
use crate::faults::net::until;
use crate::faults::servers::Server;
use crate::traffic::{Pace, Talk};

const RTT: Duration = Duration::from_millis(300);
const JITTER: Duration = Duration::from_millis(100);
/// The window of every connection over the path: that of the kernels that receive, who are given so much memory for it.
const MEMORY: u64 = 512 << 10;
/// A budget of 4 s.
const BEATS: &str = "heartbeat = { interval = \"1s\", timeout = \"1s\", misses = 3 }\n";

/// Sends without an end, and reads nothing.
fn flood(mut stream: TcpStream) -> std::io::Result<()> {
    let bytes = vec![7; 64 * 1024];
    loop {
        stream.write_all(&bytes)?;
    }
}

/// Bytes a second that come over a connection, counted in a window of 8 s once it has found its pace.
fn rate(mut stream: TcpStream) -> f64 {
    let (mut buffer, began) = (vec![0; 256 * 1024], Instant::now());
    let (mut bytes, mut from) = (0, None);
    loop {
        let count = stream.read(&mut buffer).expect("it flows");
        let now = began.elapsed();
        match from {
            None if now > Duration::from_secs(5) => from = Some(now),
            None => {}
            Some(from) => {
                bytes += count;
                if now - from > Duration::from_secs(8) {
                    return bytes as f64 / (now - from).as_secs_f64();
                }
            }
        }
    }
}

#[test]
fn fault_20_a_long_unsteady_path_that_reorders_doubles_and_spoils_packets_is_used_and_not_given_up() {
    let (net, air) = Air::net();
    for end in [&net.a, &net.b] {
        end.sysctl(&format!("net.ipv4.tcp_rmem=4096 {MEMORY} {MEMORY}"));
    }
    let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let (echo_at, flood_at) = ("127.0.0.1:9000", "10.77.0.2:9001");
    let _servers = [Server::start(&net.b, echo_at, echo), Server::start(&net.b, flood_at, flood)];
    air.delay(RTT, JITTER);
    air.spoil(20, 10, 0);
    // Bytes for the rate come from a service, and so do those that are checked.
    let (flooded, _flooded_gateway, _one) = both(&net, at(flood_at), BEATS);
    let held = flooded.held();

    // What the path gives to TCP itself, at this hour: its window by the round trip. Packets are late and lost by chance:
    // one measurement of three will do.
    let measured = (0..3).any(|_| {
        let bare = rate(net.client(flood_at));
        let through = rate(net.client(DOOR));
        println!(
            "{} KiB/s for a bare connection ({:.0} KiB for each 300 ms), {} KiB/s through the tunnel: {:.0} %",
            bare as u64 >> 10,
            bare * RTT.as_secs_f64() / 1024.0,
            through as u64 >> 10,
            through / bare * 100.0
        );
        through >= 0.8 * bare
    });
    assert!(measured, "less than 80 % of it, three times");
    let figures = flooded.figures();
    assert_eq!((figures.all_losses("site"), figures.links("site", "up")), (0.0, 1), "nobody was taken for dead");
    let counts = air.counts();
    assert!(counts.late > 100 && counts.twice > 50, "{counts:?}");
    flooded.until("no client is left", |figures| figures.of("connections", "site") == 0.0);
    flooded.until_baseline(held);
    drop((flooded, _flooded_gateway));

    // And with packets that come with a wrong bit: their checksum gives them away, so they are losses.
    let (sidecar, gateway, _two) = both(&net, at(echo_at), BEATS);
    let held = [sidecar.held(), gateway.held()];
    air.spoil(20, 10, 10);
    let talks = [Pace { piece: 16 << 10, pause: Duration::from_millis(50) }, Pace::CHAT]
        .map(|pace| Talk::over(net.client(DOOR), pace));
    let began = Instant::now();
    talks.iter().for_each(|talk| talk.until_moved(200_000));
    until("a while in bad weather", Duration::from_secs(30), || began.elapsed() > Duration::from_secs(12));
    let wrong = net.a.counter("Tcp", "InCsumErrors") + net.b.counter("Tcp", "InCsumErrors");
    println!(
        "{:?}, {wrong} wrong checksums, {} beats",
        air.counts(),
        sidecar.figures().of("heartbeats_sent_total", "site")
    );
    assert!(air.counts().spoilt > 10 && wrong > 5, "{:?}, {wrong} wrong checksums", air.counts());
    assert_eq!(sidecar.figures().all_losses("site"), 0.0, "nobody was taken for dead");
    talks.into_iter().for_each(|talk| assert!(talk.finish() > 0));
    // In silence beats tell the round trip.
    let (sum, count) = ("heartbeat_rtt_seconds_sum", "heartbeat_rtt_seconds_count");
    let before = sidecar.figures();
    let after = sidecar.until("beats in silence", |f| f.of(count, "site") >= before.of(count, "site") + 3.0);
    let rtt = (after.of(sum, "site") - before.of(sum, "site")) / (after.of(count, "site") - before.of(count, "site"));
    assert!((0.15..0.9).contains(&rtt), "{rtt} s");
    in_the_end(&sidecar, &gateway, held);
}
