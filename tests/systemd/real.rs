//! The shipped units and configurations under a systemd itself, with everything that hardens them in force.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{eventually, exchange, get};
use crate::machine::Machine;
use crate::units::{read, shipped};

const CLIENTS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5432);

/// A server that gives back what it gets, in the place of those that the configurations name.
const ECHO: &str = "[Service]\nExecStart=/usr/bin/socat TCP-LISTEN:9000,reuseaddr,fork,backlog=1000 PIPE\n";
/// A system call that is not allowed is the end, and not an error that might go unnoticed; and less patience.
const STRICT: &str = "[Service]\nSystemCallErrorNumber=\nWatchdogSec=10s\nTimeoutAbortSec=1s\n";

fn sidecar() -> String {
    let config = read("config.toml").replace("gateway.example.net:7443", "127.0.0.1:7443");
    config.replace(
        "[upstreams.site.tls]",
        "[upstreams.site.tls]\nca_file = \"/etc/everlink/server.pem\"\nserver_name = \"gateway.example.net\"",
    )
}

fn gateway() -> String {
    let config = read("gateway.toml").replace("\"10.0.0.5:5432\"", "\"127.0.0.1:9000\"");
    // The session of a sidecar that was killed is waited for so long.
    let config = config.replace("timeout = \"60s\"", "timeout = \"3s\"");
    config.replace("{ address = \"unix:/run/redis.sock\" }", "\"127.0.0.1:9000\"")
}

fn machine() -> Machine {
    let made = rcgen::generate_simple_self_signed(vec!["gateway.example.net".to_owned()]).expect("made");
    let mut units = vec![("echo.service", ECHO.to_owned())];
    let files = [
        "everlink.service",
        "everlink-gateway.service",
        "everlink.socket",
        "everlink.service.d/socket.conf",
        "everlink.service.d/credentials.conf",
        "everlink-gateway.service.d/credentials.conf",
    ];
    units.extend(files.map(|name| (name, read(name))));
    units.extend(
        ["everlink.service.d/zz.conf", "everlink-gateway.service.d/zz.conf"].map(|name| (name, STRICT.to_owned())),
    );
    let files = [
        ("config.toml", sidecar()),
        ("gateway.toml", gateway()),
        ("token", "sixteen bytes, and some more\n".to_owned()),
        ("server.pem", made.cert.pem()),
        ("server.key", made.signing_key.serialize_pem()),
    ];
    let machine = Machine::boot(&units, &files);
    for secret in ["token", "server.key"] {
        std::fs::set_permissions(machine.file(secret), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("set");
    }
    machine
}

#[test]
fn systemd_runs_the_units() {
    assert!(shipped().join("everlink.socket").exists());
    let machine = machine();
    let status = |unit: &str| machine.show(unit, "StatusText");

    // The gateway says when it is ready, and `start` waits for that.
    machine.done("systemctl start echo.service everlink-gateway.service everlink.socket");
    assert_eq!(machine.show("everlink-gateway", "ActiveState"), "active");
    assert_eq!(status("everlink-gateway"), "gateway with 0 sessions");
    assert_eq!(machine.show("everlink", "ActiveState"), "inactive");

    // The first client starts the sidecar, and waits no longer than that takes.
    let back = machine.inside(|| exchange(CLIENTS, b"the first client"));
    assert_eq!(back.expect("carried"), b"the first client");
    eventually("its line", || status("everlink") == "1 of 1 upstream up, 1 of 1 links");
    eventually("the gateway's line", || status("everlink-gateway") == "gateway with 1 session");
    assert_eq!(machine.done("stat -c %a /run/everlink-cache.sock"), "660");
    let said = machine.done("echo by a path | socat -t 10 - UNIX-CONNECT:/run/everlink-cache.sock");
    assert_eq!(said, "by a path");

    hardened(&machine);
    reloads(&machine);
    restarts(&machine);

    // A process that stands still is found out and replaced.
    let before = machine.show("everlink", "MainPID");
    machine.done(&format!("kill -STOP {before}"));
    eventually("replaced", || {
        machine.show("everlink", "NRestarts") == "1" && machine.show("everlink", "ActiveState") == "active"
    });
    assert!(machine.log().contains("everlink.service: Watchdog timeout"), "{}", machine.log());

    // A file that cannot be used is no reason to try again.
    std::fs::write(machine.file("config.toml"), "nonsense = 1\n").expect("written");
    assert!(!machine.run("systemctl restart everlink").status.success());
    assert_eq!(machine.show("everlink", "ActiveState"), "failed");
    assert_eq!(machine.show("everlink", "ExecMainStatus"), "78");
    assert_eq!(machine.show("everlink", "NRestarts"), "0");
    std::fs::write(machine.file("config.toml"), sidecar()).expect("written");
    assert_eq!(machine.inside(|| exchange(CLIENTS, b"again")).expect("started by a client"), b"again");

    // A stop is a drain and not a failure.
    machine.done("systemctl stop everlink.socket everlink.service everlink-gateway.service");
    for unit in ["everlink", "everlink-gateway"] {
        assert_eq!(machine.show(unit, "ActiveState"), "inactive", "{}", machine.log());
        assert_eq!(machine.show(unit, "Result"), "success");
    }
    machine.inside(|| TcpStream::connect(CLIENTS)).expect_err("nobody listens any more");
    assert!(!machine.log().contains("SIGSYS") && !machine.log().contains("status=31"), "{}", machine.log());
}

/// What the kernel knows of the processes.
fn hardened(machine: &Machine) {
    for unit in ["everlink", "everlink-gateway"] {
        let process = machine.show(unit, "MainPID");
        let status = machine.done(&format!("cat /proc/{process}/status"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
            line.expect("there").trim().to_owned()
        };
        assert_ne!(field("Uid").split_whitespace().next(), Some("0"));
        assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
        for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set).trim_matches('0'), "", "{set}");
        }
        let mounts = machine.done(&format!("cat /proc/{process}/mounts"));
        let root = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/")).expect("a root");
        assert!(root.split(' ').nth(3).expect("options").split(',').any(|option| option == "ro"), "{root}");
    }
}

fn reloads(machine: &Machine) {
    let edited = sidecar().replace("[upstreams.site.tls]", "heartbeat.interval = \"7s\"\n[upstreams.site.tls]");
    std::fs::write(machine.file("config.toml"), &edited).expect("written");
    machine.done("systemctl reload everlink");
    let metrics = machine.inside(|| get(([127, 0, 0, 1], 9900).into(), "/metrics")).expect("answered").1;
    assert!(metrics.contains("everlink_heartbeat_interval_seconds{upstream=\"site\"} 7"), "{metrics}");

    std::fs::write(machine.file("config.toml"), "nonsense = 1\n").expect("written");
    let failed = machine.run("systemctl reload everlink");
    assert!(!failed.status.success(), "it tells what came of it");
    assert_eq!(machine.show("everlink", "ActiveState"), "active");
    eventually("told", || machine.show("everlink", "StatusText").contains("reload rejected"));
    std::fs::write(machine.file("config.toml"), sidecar()).expect("written");
    machine.done("systemctl reload everlink everlink-gateway");
    // By signal, as an ExecReload of `kill -HUP $MAINPID` would.
    machine.done("systemctl kill --kill-whom=main -s HUP everlink");
    eventually("active again", || machine.show("everlink", "ActiveState") == "active");
}

/// Nobody is refused or cut while the sidecar is restarted under load.
fn restarts(machine: &Machine) {
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    machine.inside(|| {
                        while !stop.load(Ordering::SeqCst) {
                            if let Err(error) = exchange(CLIENTS, b"a client's words") {
                                stop.store(true, Ordering::SeqCst);
                                panic!("after {done:?}: {error}");
                            }
                            done.fetch_add(1, Ordering::SeqCst);
                            std::thread::sleep(Duration::from_millis(2));
                        }
                    });
                })
            })
            .collect();
        let more = |count: usize| {
            let goal = done.load(Ordering::SeqCst) + count;
            eventually("clients are served", || done.load(Ordering::SeqCst) >= goal || stop.load(Ordering::SeqCst));
        };
        let mut before = machine.show("everlink", "MainPID");
        for _ in 0..3 {
            more(50);
            machine.done("systemctl restart everlink");
            let now = machine.show("everlink", "MainPID");
            assert_ne!(std::mem::replace(&mut before, now.clone()), now);
        }
        more(50);
        stop.store(true, Ordering::SeqCst);
        clients.into_iter().for_each(|client| client.join().expect("all served"));
    });
    assert_eq!(machine.show("everlink", "NRestarts"), "0");
}
