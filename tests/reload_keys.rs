//! Every key of the file, edited in a running program: what its class promises is what happens.
//!
//! One program is sidecar and gateway at once. Clients use each of its upstreams all the while; after each edit the
//! configuration in force is the file's, no client has noticed, and links and listeners changed as the class has it.

mod common;
#[path = "program/harness.rs"]
mod harness;
#[path = "common/tls.rs"]
#[allow(dead_code, unused_imports)]
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use everlink::config::{self, Class};

use common::port;
use common::server::Server;
use harness::{Flow, Place, Program, eventually, free_port};
use tls::Authority;

/// What an edit does to the links of one upstream beside leaving them alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    Stay,
    /// One is let go.
    OneLess,
    /// The session moves to a new connection.
    Move,
    /// All are new.
    New,
}

use Links::{Move, New, OneLess, Stay};

/// An edit of one key: the upstreams (or "" for none), the value, and what happens to the links of each.
struct Edit {
    key: &'static str,
    on: &'static [(&'static str, Links)],
    value: String,
}

fn edit(key: &'static str, on: &'static [(&'static str, Links)], value: impl Into<String>) -> Edit {
    Edit { key, on, value: value.into() }
}

/// Values by the paths of their keys; what a value needs beside itself is put there, too.
#[derive(Clone, Default)]
struct File(BTreeMap<String, String>);

impl File {
    fn set(&mut self, path: &str, value: impl Into<String>) {
        self.0.insert(path.to_owned(), value.into());
    }

    fn text(&self) -> String {
        let mut forwards: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut text = String::new();
        for (path, value) in &self.0 {
            match path.split_once(".forwards.") {
                Some((upstream, key)) => forwards.entry(upstream).or_default().push(format!("{key} = {value}")),
                None => text += &format!("{path} = {value}\n"),
            }
        }
        for (upstream, keys) in forwards {
            text += &format!("{upstream}.forwards = [{{ {} }}]\n", keys.join(", "));
        }
        text
    }
}

/// Answers the questions of all beats used here, and echoes everything else.
fn polite(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let count = stream.read(&mut buffer)?;
        match &buffer[..count] {
            [] => return Ok(()),
            b"ping" => stream.write_all(b"pong")?,
            b"PING\r\n" => stream.write_all(b"+PONG\r\n")?,
            b"PING\n" => stream.write_all(b"PONG\n")?,
            other => stream.write_all(other)?,
        }
    }
}

fn quoted(text: impl std::fmt::Display) -> String {
    format!("\"{text}\"")
}

fn at(port: u16) -> String {
    quoted(SocketAddr::from(([127, 0, 0, 1], port)))
}

const UPSTREAMS: [&str; 6] = ["beats", "lines", "mode", "redis", "tls", "tunnel"];

/// A program under test, and what is known of it.
struct Bench {
    program: Program,
    clients: Vec<(&'static str, TcpStream)>,
    flows: Vec<Flow>,
}

/// What must not change unless an edit says so.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    dials: f64,
    losses: f64,
    listening: Vec<String>,
}

impl Bench {
    fn see(&self) -> BTreeMap<&'static str, Seen> {
        let status = self.program.status();
        let metrics = self.program.get("/metrics").1;
        let seen = |name: &'static str| {
            let all = status["upstreams"].as_array().expect("a list");
            let listen =
                all.iter().find(|one| one["name"] == name).map(|one| one["listen"].clone()).unwrap_or_default();
            let listening = listen.as_array().map(Vec::as_slice).unwrap_or_default();
            let sum = |family| harness::sum(&metrics, family, &format!("upstream=\"{name}\""));
            let (dials, losses) = (sum("everlink_link_dials_total"), sum("everlink_link_losses_total"));
            (name, Seen { dials, losses, listening: listening.iter().map(ToString::to_string).collect() })
        };
        UPSTREAMS.into_iter().map(seen).collect()
    }

    /// Every client's connection still carries what it says.
    fn talk(&mut self, why: &str) {
        for (name, client) in &mut self.clients {
            client.write_all(b"hello\n").unwrap_or_else(|error| panic!("{why}: {name}: {error}"));
            let mut back = [0; 6];
            client.read_exact(&mut back).unwrap_or_else(|error| panic!("{why}: {name}: {error}"));
            assert_eq!(&back, b"hello\n", "{why}: {name}");
        }
        self.flows.iter().for_each(|flow| flow.until_moved(1));
    }

    /// What is in force, as a configuration.
    fn in_force(&self) -> Option<config::Config> {
        let text = harness::get(self.program.http(), "/status?config").ok()?.1;
        config::parse("in force", text, &|_| None).ok().map(|loaded| loaded.config)
    }

    /// Saves the file and waits until it is in force. Returns how many lines the log had before.
    fn take(&mut self, file: &File, admin: &str, why: &str) -> usize {
        let text = file.text();
        let loaded = config::parse("config.toml", &text, &|_| None);
        let wanted = loaded.unwrap_or_else(|report| panic!("{why}: {report}\n{text}")).config;
        let before = self.program.log().len();
        self.program.place.replace(&text);
        let mut ask = std::process::Command::new(harness::EVERLINK);
        let asked = ask.arg("reload").arg("--socket").arg(self.program.place.at(admin)).output().expect("run");
        // The watch may have been quicker, and have moved the socket.
        assert!(asked.status.success() || why.contains("admin.socket"), "{why}: {}", harness::text(&asked));
        eventually(why, || {
            self.program.follow_http();
            self.in_force().is_some_and(|config| config::diff(&config, &wanted).is_empty())
        });
        before
    }
}

#[test]
fn each_key_does_what_its_class_promises() {
    let authority = Authority::new("the tests");
    for name in ["ca.pem", "ca2.pem"] {
        authority.put(name, &authority.pem);
    }
    for (pair, names) in [("server", &["localhost", "127.0.0.1"][..]), ("sidecar", &["sidecar"])] {
        let issued = authority.issue(names);
        for copy in ["", "2"] {
            authority.put(&format!("{pair}{copy}.pem"), &issued.cert);
            authority.put(&format!("{pair}{copy}.key"), &issued.key);
        }
    }
    for name in ["token", "token2"] {
        authority.put(name, "open sesame, and be quick about it");
    }
    let path = |file: &str| quoted(authority.path(file).display());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let under_tls = runtime.block_on(tls::serve(&authority.issue(&["localhost", "127.0.0.1"]), None));
    let (server, other) = (Server::start(polite), Server::start(polite));
    let (one, two) = (quoted(server.address), quoted(other.address));
    let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
    let place = Place::new("");

    let mut file = File::default();
    file.set("http.listen", "\"127.0.0.1:0\"");
    file.set("admin.socket", quoted(place.at("admin.sock").display()));
    file.set("drain.timeout", "\"1h\"");
    for name in UPSTREAMS {
        let mut set = |key: &str, value: String| file.set(&format!("upstreams.{name}.{key}"), value);
        set("endpoints", format!("[{one}]"));
        if name != "tunnel" {
            set("listen", "\"127.0.0.1:0\"".to_owned());
        }
    }
    for (key, value) in [("send", "\"ping\""), ("expect", "\"pong\"")] {
        file.set(&format!("upstreams.beats.heartbeat.{key}"), value);
    }
    for (key, value) in [("send", "\"PING\\n\""), ("expect", "\"PONG\"")] {
        file.set(&format!("upstreams.lines.heartbeat.{key}"), value);
    }
    file.set("upstreams.beats.pool.size", "3");
    file.set("upstreams.tls.endpoints", format!("[{}]", quoted(under_tls)));
    file.set("upstreams.tunnel.endpoints", format!("[{}]", at(ports[0])));
    file.set("upstreams.tunnel.mode", "\"tunnel\"");
    file.set("upstreams.tunnel.token_file", path("token"));
    file.set("upstreams.tunnel.forwards.listen", at(ports[1]));
    file.set("upstreams.tunnel.forwards.service", "\"echo\"");
    for name in ["tls", "tunnel"] {
        for (key, of) in [("ca_file", "ca.pem"), ("cert_file", "sidecar.pem"), ("key_file", "sidecar.key")] {
            file.set(&format!("upstreams.{name}.tls.{key}"), path(of));
        }
    }
    file.set("gateway.listen", at(ports[0]));
    file.set("gateway.token_file", path("token"));
    file.set("gateway.tls.cert_file", path("server.pem"));
    file.set("gateway.tls.key_file", path("server.key"));
    file.set("gateway.services.echo.address", one.clone());
    file.set("gateway.services.echo2.address", one);

    place.write(&file.text());
    let program = Program::start_in(place);
    for (name, links) in [("beats", 3.0), ("lines", 2.0), ("mode", 2.0), ("redis", 2.0), ("tls", 2.0), ("tunnel", 1.0)]
    {
        program.until_links(name, links);
    }
    let connect = |name: &'static str| (name, common::connect_to(program.listens(name)));
    let clients = UPSTREAMS.into_iter().map(connect).collect();
    let flows = ["redis", "tunnel"].map(|name| Flow::start(program.listens(name))).into();
    let mut bench = Bench { program, clients, flows };
    bench.talk("at the start");
    // Each client took a warm link, and another one has come for it.
    for (name, links) in [("beats", 3.0), ("lines", 2.0), ("mode", 2.0), ("redis", 2.0), ("tls", 2.0)] {
        bench.program.until_links(name, links);
    }

    let none: &[(&str, Links)] = &[("", Stay)];
    let both: &[(&str, Links)] = &[("beats", Stay), ("tunnel", Stay)];
    let beats: &[(&str, Links)] = &[("beats", Stay)];
    let tunnel: &[(&str, Links)] = &[("tunnel", Stay)];
    let moved: &[(&str, Links)] = &[("tunnel", Move)];
    let tls: &[(&str, Links)] = &[("tls", Stay), ("tunnel", Move)];
    let edits = [
        edit("http.listen", none, at(ports[2])),
        edit("http.public_status", none, "true"),
        edit("log.level", none, "\"info,everlink::demo=debug\""),
        edit("log.format", none, "\"json\""),
        edit("drain.timeout", none, "\"2h\""),
        edit("drain.quiet", none, "\"1h\""),
        edit("drain.minimum", none, "\"1h\""),
        edit("upstreams.*.listen", beats, at(ports[3])),
        edit("upstreams.*.insecure_listen", beats, "true"),
        edit("upstreams.*.endpoints", beats, format!("[{}, {two}]", quoted(server.address))),
        edit("upstreams.*.balance", both, "\"round-robin\""),
        edit("upstreams.*.required", both, "true"),
        edit("upstreams.*.token_file", moved, path("token2")),
        edit("upstreams.*.insecure_plaintext", tunnel, "true"),
        edit("upstreams.*.heartbeat.interval", both, "\"1m\""),
        // A session that moves again waits for as long.
        edit("upstreams.*.heartbeat.timeout", both, "\"1s\""),
        edit("upstreams.*.heartbeat.misses", both, "7"),
        edit("upstreams.*.heartbeat.expect", beats, "\"re:[pP].ng\""),
        edit("upstreams.*.heartbeat.send", beats, "\"Ping\""),
        edit("upstreams.*.heartbeat.preset", &[("redis", Stay)], "\"redis\""),
        edit("upstreams.*.heartbeat.in_use", &[("lines", Stay)], "\"line\""),
        edit("upstreams.*.retry.initial", both, "\"1s\""),
        edit("upstreams.*.retry.max", both, "\"1m\""),
        edit("upstreams.*.retry.multiplier", both, "3.0"),
        edit("upstreams.*.retry.jitter", both, "0.5"),
        edit("upstreams.*.retry.attempts", both, "9"),
        edit("upstreams.*.retry.stable_after", both, "\"20s\""),
        edit("upstreams.*.retry.connect_timeout", both, "\"4s\""),
        edit("upstreams.*.pool.size", &[("beats", OneLess)], "2"),
        edit("upstreams.*.pool.max_age", both, "\"10h\""),
        edit("upstreams.*.limits.connections", both, "1000"),
        edit("upstreams.*.limits.wait", both, "\"4s\""),
        edit("upstreams.*.limits.waiting", both, "9"),
        edit("upstreams.*.limits.idle_timeout", both, "\"1h\""),
        edit("upstreams.*.limits.windows", tunnel, "\"128MiB\""),
        edit("upstreams.*.resume.deadline", moved, "\"2m\""),
        edit("upstreams.*.resume.buffer", moved, "\"8MiB\""),
        edit("upstreams.*.tls.ca_file", tls, path("ca2.pem")),
        edit("upstreams.*.tls.cert_file", tls, path("sidecar2.pem")),
        edit("upstreams.*.tls.key_file", tls, path("sidecar2.key")),
        edit("upstreams.*.tls.server_name", tls, "\"localhost\""),
        edit("upstreams.*.tls.alpn", &[("tls", Stay)], "[\"chat/1\"]"),
        edit("upstreams.*.forwards.service", tunnel, "\"echo2\""),
        edit("upstreams.*.forwards.accept_proxy_protocol", tunnel, "[\"10.0.0.0/8\"]"),
        edit("upstreams.*.forwards.listen", tunnel, at(ports[4])),
        edit("gateway.listen", none, format!("[{}, {}]", at(ports[0]), at(ports[5]))),
        edit("gateway.name", none, "\"another\""),
        edit("gateway.advertise", none, at(ports[0])),
        edit("gateway.token_file", none, path("token2")),
        edit("gateway.insecure_plaintext", none, "true"),
        edit("gateway.heartbeat.interval", none, "\"1m\""),
        edit("gateway.heartbeat.timeout", none, "\"30s\""),
        edit("gateway.heartbeat.misses", none, "7"),
        edit("gateway.tls.cert_file", none, path("server2.pem")),
        edit("gateway.tls.key_file", none, path("server2.key")),
        edit("gateway.tls.client_ca_file", none, path("ca2.pem")),
        edit("gateway.limits.sessions", none, "1000"),
        edit("gateway.limits.sessions_per_identity", none, "60"),
        edit("gateway.limits.streams", none, "2000"),
        edit("gateway.limits.memory", none, "\"2GiB\""),
        edit("gateway.limits.pending", none, "200"),
        edit("gateway.limits.pending_per_address", none, "60"),
        edit("gateway.limits.wait", none, "\"2s\""),
        edit("gateway.resume.deadline", none, "\"2m\""),
        edit("gateway.resume.buffer", none, "\"8MiB\""),
        edit("gateway.services.*.address", &[("echo", Stay)], two),
        edit("gateway.services.*.allow", &[("echo", Stay)], "[\"sidecar\"]"),
        edit("gateway.services.*.proxy_protocol", &[("echo", Stay)], "\"v2\""),
        edit("upstreams.*.mode", &[("mode", New)], "\"tunnel\""),
        edit("admin.socket", none, quoted(bench.program.place.at("other.sock").display())),
    ];
    let edited: BTreeSet<_> = edits.iter().map(|edit| edit.key).collect();
    assert_eq!(edited, config::keys().iter().map(|key| key.path).collect(), "each key is edited");

    let mut seen = bench.see();
    for Edit { key, on, value } in &edits {
        let known = config::keys().iter().find(|known| known.path == *key).expect("a key");
        for (name, _) in *on {
            file.set(&key.replace('*', name), value.clone());
        }
        // What another value would be refused without.
        match *key {
            "upstreams.*.insecure_listen" => file.set("upstreams.beats.listen", "\"0.0.0.0:0\""),
            "upstreams.*.mode" => {
                file.0.remove("upstreams.mode.listen");
                file.set("upstreams.mode.endpoints", format!("[{}]", at(ports[0])));
                file.set("upstreams.mode.token_file", path("token2"));
                file.set("upstreams.mode.tls.ca_file", path("ca.pem"));
                file.set("upstreams.mode.tls.cert_file", path("sidecar.pem"));
                file.set("upstreams.mode.tls.key_file", path("sidecar.key"));
                file.set("upstreams.mode.forwards.listen", "\"127.0.0.1:0\"");
                file.set("upstreams.mode.forwards.service", "\"echo2\"");
            }
            _ => {}
        }
        let before = bench.take(&file, "admin.sock", key);
        // The listener that it lets be open is what is told.
        let name = match known.name() {
            "insecure_listen" => "listen",
            name if key.contains(".forwards.") && name != "accept_proxy_protocol" => "forward",
            name => name,
        };
        let class = format!(", {}", known.class);
        eventually(&format!("{key}{class} is told"), || {
            let tells =
                |line: &String| line.contains("configuration applied") && line.contains(name) && line.contains(&class);
            bench.program.log()[before..].iter().any(tells)
        });

        bench.talk(key);
        let expected = |name: &str| on.iter().find(|(on, _)| *on == name).map_or(Stay, |(_, links)| *links);
        for name in UPSTREAMS {
            let links = expected(name);
            let (more_dials, more_losses) = match links {
                Stay => (0.0, 0.0),
                OneLess => (0.0, 1.0),
                Move => (1.0, 1.0),
                New => continue,
            };
            let (dials, losses) = (seen[name].dials + more_dials, seen[name].losses + more_losses);
            eventually(&format!("{key}: {links:?} at {name}"), || {
                let now = bench.see();
                now[name].dials >= dials && now[name].losses >= losses
            });
        }
        let now = bench.see();
        for name in UPSTREAMS {
            let (before, now) = (&seen[name], &now[name]);
            let links = expected(name);
            let more = match links {
                Stay => (0.0, 0.0),
                OneLess => (0.0, 1.0),
                Move => (1.0, 1.0),
                New => {
                    bench.program.until_links(name, 1.0);
                    continue;
                }
            };
            assert_eq!((now.dials - before.dials, now.losses - before.losses), more, "{key}: {name}: {links:?}");
            let is_rebound = known.class == Class::Rebind && on.iter().any(|(on, _)| *on == name);
            assert_eq!(now.listening != before.listening, is_rebound, "{key}: {name}: {:?}", now.listening);
        }
        bench.talk(key);
        seen = bench.see();
    }
    // The one client of a replaced upstream was served to its own end, and so were all others.
    bench.talk("at the end");
    for flow in std::mem::take(&mut bench.flows) {
        flow.end().expect("whole");
    }
    let metrics = bench.program.get("/metrics").1;
    let closed = |with| harness::sum(&metrics, "everlink_connections_closed_total", with);
    assert_eq!(closed(""), closed("reason=\"finished\""));
    assert_eq!(bench.program.sum("everlink_link_reconnects_total", ""), 0.0);
    assert_eq!(bench.program.reloads("rejected"), 0.0);
}
