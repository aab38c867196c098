//! Loads for TCP forwarders, the far end that answers them, and a wire between. Every load is bounded in time and number,
//! and prints one line of JSON.

#![deny(unsafe_code)]

mod args;
mod beats;
mod bulk;
mod churn;
mod held;
mod hold;
mod measured;
mod mixed;
mod outage;
mod packet;
mod relay;
mod request;
mod server;
mod sockets;
mod splice;
mod wan;

const HELP: &str = "load ROLE [--key value ...]
  server  --listen IP:PORT                                     answers all of the below
  relay   --listen IP:PORT --to IP:PORT [--buf 8192]           tokio's copy_bidirectional
  splice  --listen IP:PORT --to IP:PORT                        two splice loops a connection and nothing else
  wan     --a IFACE --b IFACE [--delay-ms 25] [--rate-mbit 1000] [--queue-ms 50] [--loss 0]
  tput    --to IP:PORT [--streams 1] [--dir up|down] [--secs 2] [--warm 0.3]
  rr      --to IP:PORT [--conns 1] [--secs 2]                  64 bytes there and back, again and again
  churn   --to IP:PORT [--workers 1] [--secs 2]                connect, 64 bytes there and back, close
  mixed   --to IP:PORT [--dir up|down] [--bulk 1] | --dir stall [--stalled 4]   [--secs 2]
  idle    --to IP:PORT [--conns 5000] [--max-secs 120]         held until a line comes on stdin
  flood   --to IP:PORT [--conns 12000]                         all at once: served, refused, left hanging?
  first   --to IP:PORT [--rounds 8] [--parallel 1] [--gap-ms 300]
  beats   --to IP:PORT --mark 1 | --until N [--max-secs 5]     connections that have sent a beat since the mark
  outage  --to IP:PORT [--rate-mbyte 4] [--max-secs 90] [--probe-ms 200] [--patience 3] [--held 0]
                                                               led by cut, heal and stop on stdin";

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let args = args::Args::parse(words.get(1..).unwrap_or(&[]));
    match words.first().map(String::as_str) {
        Some("server") => server::run(&args),
        Some("relay") => relay::run(&args),
        Some("splice") => splice::run(&args),
        Some("wan") => wan::run(&args),
        Some("tput") => bulk::throughput(&args),
        Some("rr") => request::run(&args),
        Some("churn") => churn::run(&args),
        Some("mixed") => mixed::run(&args),
        Some("idle") => hold::idle(&args),
        Some("flood") => hold::flood(&args),
        Some("first") => churn::first(&args),
        Some("beats") => beats::run(&args),
        Some("outage") => outage::run(&args),
        _ => println!("{HELP}"),
    }
}
