//! Writes the part of `corpus` that is made by hand: real encodings, and what must be refused. Run it in this directory after
//! a change of a format: `cargo run --example seeds`. The other files there were found by fuzzing.

#![forbid(unsafe_code)]

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use everlink::net::proxy_protocol::emit_v2;
use everlink::session::Opening;
use everlink::session::frame::{Header, Kind};
use everlink::session::hello::{Beats, Code, Hello, Refusal, Resume, Secret, SessionId, Token, Welcome};

fn main() {
    config();
    hellos();
    frames();
    requests();
    headers();
}

fn write(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let directory = format!("{}/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    fs::create_dir_all(&directory).and_then(|()| fs::write(format!("{directory}/{name}"), bytes)).expect("not written");
}

const UPSTREAM: &str = "[upstreams.a]\nlisten = \"127.0.0.1:7000\"\nendpoints = [\"a.internal:1\"]\n";

fn config() {
    let whole = format!(
        "[http]\nlisten = \"127.0.0.1:9000\"\npublic_status = true\n[admin]\nsocket = \"/run/a.sock\"\n[log]\nlevel = \
         \"info,everlink=debug\"\nformat = \"json\"\n[drain]\ntimeout = \"8s\"\nquiet = \"2s\"\nminimum = \"1s\"\n\
         [defaults.heartbeat]\ninterval = \"1s\"\nmisses = 9\n{UPSTREAM}balance = \"round-robin\"\nrequired = true\nretry \
         = {{ initial = \"3s\", max = \"1m\", multiplier = 1.5, jitter = 0.1, attempts = 5 }}\nheartbeat = {{ send = \
         \"ping\\n\", expect = \"re:pong [0-9]+\", in_use = \"line\" }}\npool = {{ size = 3, max_age = \"1h\" \
         }}\n[upstreams.a.limits]\nconnections = 10\nwait = \"1s\"\nwaiting = 3\nidle_timeout = \"1h\"\n\
         [upstreams.a.tls]\nserver_name = \"x.internal\"\nalpn = [\"h2\"]\n"
    );
    let tunnel = "[upstreams.site]\nmode = \"tunnel\"\nendpoints = [{ address = \"127.0.0.1:7443\", priority = 2 \
                  }]\nforward = [{ listen = \"127.0.0.1:5432\", service = \"postgres\", accept_proxy_protocol = \
                  [\"10.0.0.0/8\"] }]\ninsecure_plaintext = true\nresume = { deadline = \"90s\", buffer = \"8MiB\" }\n";
    let gateway = "[gateway]\nlisten = \"127.0.0.1:7443\"\nname = \"gw-1\"\nadvertise = \
                   \"gw.internal:7443\"\ninsecure_plaintext = true\n[gateway.limits]\nsessions = 10\nmemory = \
                   \"64MiB\"\n[gateway.services]\npostgres = \"127.0.0.1:5432\"\nweb = { address = \"unix:/run/web\", \
                   allow = [\"spiffe://a\"], proxy_protocol = \"v2\" }\n";
    let variables = "[upstreams.a]\nlisten = \"${ADDRESS}\"\nendpoints = \
                     [\"${HOST}:${PORT}\"]\nrequired = \"${YES}\"\nheartbeat.interval = \
                     \"${TIME:-5s}\"\nheartbeat.send = \"AUTH ${SECRET}\\n\"\nheartbeat.expect = \"$${x}${NONE:-+}\"\n";
    for (name, text) in [
        ("five-lines", UPSTREAM),
        ("whole", &whole),
        ("tunnel", tunnel),
        ("gateway", gateway),
        ("variables", variables),
        ("presets", &format!("{UPSTREAM}heartbeat.preset = \"redis\"\n")),
        ("own-line", "[upstreams.a]\nlisten = \"unix:/tmp/s\"\nendpoints = [\"[::1]:5\", \"unix:/run/x\"]\n"),
        ("unknown-key", &format!("{UPSTREAM}heartbeet_interval = \"5s\"\n")),
        ("wrong-types", &format!("{UPSTREAM}pool.size = \"7\"\nretry.jitter = nan\nheartbeat.interval = 5\n")),
        ("duplicate", &format!("{UPSTREAM}{UPSTREAM}")),
        ("unset", "[upstreams.a]\nlisten = \"${NONE}\"\nendpoints = [\"${\"]\n"),
        ("inline-secret", &format!("{UPSTREAM}token = \"hunter2\"\n")),
        ("no-value", "a\nb\n[upstreams\nc = = 1\n"),
        ("unclosed", "[upstreams.a]\nendpoints = [\n\"a:1\"\nlisten = 1\n"),
        ("byte-order-mark", &format!("\u{feff}{UPSTREAM}").replace('\n', "\r\n")),
        ("files", &format!("{UPSTREAM}tls = {{ ca_file = \"/none/ca\", cert_file = \"/none/c\" }}\n")),
    ] {
        write("config", name, text);
    }
    let repeated = |text: &str| [&[0xff, 19], text.as_bytes()].concat();
    write("config", "not-utf-8", b"a = \"\xfe\"\n");
    write("config", "many-unknown-keys", repeated("[upstreams.a]\nkex = 1\n"));
    write("config", "many-without-value", repeated("a\n"));
    write("config", "many-openings", repeated("[a.\"b\".c]\nd=[\n"));
    write("config", "deep", repeated("a={"));
}

fn hellos() {
    let secret = Secret::new([7; 32]);
    let token = Token::new(b"a token for the fuzzer").expect("long enough");
    let beats = Beats { interval: Duration::from_secs(5), timeout: Duration::from_secs(3), misses: 3 };
    let resume = Resume { deadline: Duration::from_secs(60), buffer: 16 << 20 };
    let hello = |session| Hello {
        versions: (1, 1),
        session: SessionId(session),
        epoch: 3,
        received: if session == [0; 16] { 0 } else { 700 },
        nonce: [2; 32],
        beats,
        resume,
    };
    let new = hello([0; 16]).encode(None, Some(&token), &[9; 32]);
    let again = hello([1; 16]).encode(Some(&secret), Some(&token), &[9; 32]);
    let welcome = Welcome {
        version: 1,
        session: SessionId([1; 16]),
        epoch: 3,
        received: 3300,
        nonce: [3; 32],
        incarnation: [4; 16],
        beats,
        resume,
        streams: 1024,
        name: "gw-1".to_owned(),
        advertise: Some("gw-1.internal:7443".to_owned()),
    };
    let refusal = |code, name: Option<&str>| Refusal {
        code,
        retry_after: Duration::from_secs(2),
        versions: (1, 1),
        name: name.map(str::to_owned),
    };
    let versions = Hello { versions: (2, 3), ..hello([0; 16]) }.encode(None, None, &[0; 32]);
    let all = [
        ("hello-new", new.clone()),
        ("hello-resume", again),
        ("hello-of-another-version", versions),
        ("hello-cut", new[..100].to_vec()),
        ("welcome", welcome.encode(&secret, &[9; 32], &new)),
        ("refusal-busy", refusal(Code::Busy, None).encode()),
        ("refusal-unknown", refusal(Code::Unknown, Some("gw-1")).encode()),
        ("http", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("tls", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
    ];
    for (name, bytes) in all {
        // The first byte: it is to be read.
        write("hello", name, [&[0][..], &bytes].concat());
    }
}

fn frame(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    [&Header { stream, length: payload.len() as u32, kind }.encode()[..], payload].concat()
}

fn frames() {
    let address: Option<SocketAddr> = Some(([10, 0, 0, 1], 5000).into());
    let opening = |window| Opening { window, client: address, ..Opening::to("postgres") };
    let open = |stream, window| frame(stream, Kind::Open as u8, &opening(window).encode());
    let data = |stream, length| frame(stream, Kind::Data as u8, &vec![b'x'; length]);
    let number = |kind: Kind, number: u64| frame(0, kind as u8, &number.to_le_bytes());
    // The first byte: which end, whether it writes, and the slices. 0 is a gateway in slices of a byte.
    let to_gateway = [
        ("exchange", [open(1, 65_536), data(1, 300), frame(1, Kind::Fin as u8, &[]), number(Kind::Ping, 7)].concat()),
        ("reset", [open(1, 65_536), data(1, 3), frame(1, Kind::Reset as u8, &[1]), data(1, 3)].concat()),
        ("two-streams", [open(1, 65_536), open(3, 0), data(1, 9), data(3, 9), data(1, 9)].concat()),
        ("tune-and-go", {
            let tune = [5000u32, 3000, 3].map(u32::to_le_bytes).concat();
            [frame(0, Kind::Tune as u8, &tune), frame(0, Kind::GoAway as u8, &[2, 0, 0, 0, 0])].concat()
        }),
        ("over-the-window", [open(1, 65_536), frame(1, 4, &[])].concat()),
        ("skipped", [frame(9, 0xaa, &[0; 77]), number(Kind::Pong, 1), number(Kind::Ack, 0)].concat()),
        ("unknown", frame(0, 13, &[])),
        ("reused", [open(2, 1), open(1, 1)].concat()),
        ("endless", Header { stream: 1, length: (1 << 24) - 1, kind: 4 }.encode().to_vec()),
    ];
    for (name, bytes) in to_gateway {
        write("frames_raw", name, [&[2][..], &bytes].concat());
        write("frames_raw", &format!("{name}-at-once"), [&[30][..], &bytes].concat());
    }
    let answer = [
        frame(1, Kind::Opened as u8, &[]),
        data(1, 200),
        frame(1, Kind::Credit as u8, &4096u32.to_le_bytes()),
        frame(2, Kind::Refused as u8, &[2]),
        frame(1, Kind::Fin as u8, &[]),
        number(Kind::Ack, 60),
    ];
    write("frames_raw", "answers", [&[31][..], &answer.concat()].concat());
}

fn requests() {
    let all: [(&str, u8, &str); 14] = [
        ("livez", 0, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("two", 1, "GET /readyz?verbose HTTP/1.1\r\nHost: a\r\n\r\nHEAD /startupz HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "metrics",
            0,
            "GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text;version=1.0.0;q=0.5\r\n\r\n",
        ),
        ("status", 32, "GET /status?config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        ("page", 16, "GET / HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n\r\n"),
        ("old", 8, "GET /livez HTTP/1.0\r\n\r\n"),
        ("body", 2, "GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
        (
            "chunks",
            3,
            "GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nt: u\r\n\r\n",
        ),
        ("both", 0, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("post", 0, "POST /reload HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\nExpect: 100-continue\r\n\r\n"),
        ("connect", 0, "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bare", 0, "GET / HTTP/1.1\nHost: a\n\n"),
        ("h2", 0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("half", 8, "GET /livez HTTP/1.1\r\nHost"),
    ];
    for (name, how, text) in all {
        write("http", name, [&[how][..], text.as_bytes()].concat());
    }
    write("http", "long-line", [&[0][..], b"GET /", &[b'a'; 9000], b" HTTP/1.1\r\n\r\n"].concat());
    write("http", "tls", [0, 0x16, 3, 1, 2, 0, 1, 0, 1]);
}

fn headers() {
    let v4 = |last, port| Some(SocketAddr::from(([192, 0, 2, last], port)));
    let v6 = Some(SocketAddr::from(([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 443)));
    write("proxy", "v2-4", emit_v2(v4(1, 5), v4(2, 6), Some(1)));
    write("proxy", "v2-6", emit_v2(v6, v4(2, 6), None));
    write("proxy", "v2-local", emit_v2(None, None, Some(3)));
    let long = [&emit_v2(None, None, None)[..14], &[0x0f, 0xf0], &[4, 0, 1, 0].repeat(1020)[..]].concat();
    write("proxy", "v2-many-extensions", long);
    for (name, text) in [
        ("v1-4", "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /"),
        ("v1-6", "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 4 5\r\n"),
        ("v1-unknown", "PROXY UNKNOWN ffff::1 x\r\n"),
        ("v1-zeros", "PROXY TCP4 192.0.2.1 192.0.2.2 05 443\r\n"),
        ("v1-lone-feed", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n"),
        ("none", "GET / HTTP/1.1\r\n"),
    ] {
        write("proxy", name, text);
    }
}
