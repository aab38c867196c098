//! Asks the server how many connections have sent a beat since a mark.

use std::io::{Read, Write};

use crate::args::{Args, die};
use crate::measured::{now, since, sleep_ms};
use crate::sockets::must_connect;

pub fn run(args: &Args) {
    let (to, until, most) = (args.address("to"), args.count("until", 0) as u64, args.seconds("max-secs", 5.0));
    let ask = |what: &[u8]| {
        let mut stream = must_connect(to);
        let mut answer = [0; 8];
        let asked = stream.write_all(what).and_then(|()| stream.read_exact(&mut answer));
        asked.unwrap_or_else(|error| die(&format!("beats: {error}")));
        u64::from_le_bytes(answer)
    };
    if args.count("mark", 0) > 0 {
        ask(b"M");
    }
    let start = now();
    let mut beaten = ask(b"N");
    while beaten < until && since(start) < most.as_secs_f64() {
        sleep_ms(10);
        beaten = ask(b"N");
    }
    println!("{{\"beaten\":{beaten},\"after_s\":{:.3}}}", since(start));
}
