//! Small requests on one connection, while others are busy with bulk, or are never read.

use std::io::Write;
use std::time::Duration;

use crate::args::Args;
use crate::bulk::Bulk;
use crate::measured::Latencies;
use crate::request;
use crate::sockets::must_connect;

const WARM: Duration = Duration::from_millis(500);

pub fn run(args: &Args) {
    let (to, time, direction) = (args.address("to"), args.seconds("secs", 2.0), args.text("dir", "down"));
    let mut latencies = Latencies::default();
    let mut rate = 0.0;
    if direction == "stall" {
        // Endless downloads that nobody reads.
        let stalled: Vec<_> = (0..args.count("stalled", 4)).map(|_| must_connect(to)).collect();
        stalled.iter().for_each(|mut stream| drop(stream.write_all(b"D")));
        std::thread::sleep(WARM);
        request::one(to, time, &mut latencies);
    } else {
        let bulk: Vec<_> = (0..args.count("bulk", 1)).map(|_| Bulk::start(to, direction == "up")).collect();
        std::thread::sleep(WARM);
        let before: Vec<_> = bulk.iter().map(Bulk::moved).collect();
        request::one(to, time, &mut latencies);
        rate = bulk.iter().zip(before).map(|(stream, before)| stream.rate_since(before)).sum();
        bulk.into_iter().for_each(Bulk::end);
    }
    println!("{{{},\"bulk_gbps\":{rate:.4}}}", latencies.json());
}
