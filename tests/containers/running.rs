//! The image as it runs: as anyone, with nothing to write to, as process 1.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Instant;

use tempfile::TempDir;

use super::engine::{Container, Engine};
use super::images::{EVERLINK, REDIS, everlink, redis};
use crate::common::PATIENCE;
use crate::common::program::{Samples, directory, wait_until};

/// A sidecar of the Redis at the name `cache`, which the test can reach from outside.
fn config(interval: &str) -> String {
    format!(
        "[http]\nlisten = \"0.0.0.0:9900\"\npublic_status = true\n\
         [drain]\ntimeout = \"20s\"\nquiet = \"100ms\"\n\
         [upstreams.cache]\nlisten = \"0.0.0.0:6379\"\ninsecure_listen = true\nendpoints = [\"cache:6379\"]\n\
         heartbeat = {{ preset = \"redis\", interval = \"{interval}\" }}\n"
    )
}

/// A directory to be mounted at /etc/everlink, readable by anyone.
fn mounted(interval: &str) -> TempDir {
    let made = directory();
    std::fs::set_permissions(made.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    std::fs::write(made.path().join("config.toml"), config(interval)).expect("written");
    made
}

/// As strictly as a cluster would.
fn start<'e>(engine: &'e Engine, network: &str, user: Option<&str>, config: &Path) -> Container<'e> {
    let mount = format!("type=bind,source={},target=/etc/everlink,readonly", config.display());
    let mut arguments = vec!["--network", network, "--mount", &mount];
    arguments.extend(["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]);
    arguments.extend(["--health-interval", "500ms", "--memory", "64m", "--pids-limit", "64"]);
    if let Some(user) = user {
        arguments.extend(["--user", user]);
    }
    arguments.push(EVERLINK);
    engine.run(&arguments)
}

fn metric(engine: &Engine, http: SocketAddr, series: &str) -> f64 {
    let (code, body) = engine.get(http, "/metrics");
    assert_eq!(code, 200, "{body}");
    Samples::parse(&body).value(series)
}

fn ping(client: &mut TcpStream) {
    client.write_all(b"PING\r\n").expect("written");
    let mut answer = [0; 7];
    client.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"+PONG\r\n");
}

#[test]
fn as_anyone_with_nothing_to_write_to_it_finds_others_by_name_reloads_and_drains() {
    let engine = Engine::start();
    everlink(&engine);
    redis(&engine);
    engine.ask(&["network", "create", "town"]);
    engine.run(&["--network", "town", "--network-alias", "cache", REDIS]);

    let anyone = format!("{}:{}", fastrand::u32(10_000..2_000_000_000), fastrand::u32(10_000..2_000_000_000));
    for user in [None, Some(anyone.as_str())] {
        let directory = mounted("5s");
        let begun = Instant::now();
        let sidecar = start(&engine, "town", user, directory.path());
        let http = sidecar.address("town", 9900);
        wait_until("started", || engine.get(http, "/startupz").0 == 200);
        println!("as {user:?}: serves {:?} after docker run", begun.elapsed());

        let pid = sidecar.inspect()["State"]["Pid"].as_u64().expect("a process");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("readable");
        let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        let uid = user.unwrap_or("65532").split(':').next().expect("a user");
        assert_eq!(line("Uid:").split_whitespace().nth(1), Some(uid));
        assert!(line("NSpid:").ends_with("\t1"), "{}", line("NSpid:"));
        for rights in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert!(line(rights).ends_with("\t0000000000000000"), "{}", line(rights));
        }

        // By its name, as the engine's own server of names knows it.
        wait_until("a link by name", || metric(&engine, http, "everlink_upstream_up{upstream=\"cache\"}") == 1.0);
        let client = || {
            let address = sidecar.address("town", 6379);
            let stream = engine.network.run(|| TcpStream::connect(address)).expect("connected");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            stream
        };
        let mut stays = client();
        ping(&mut stays);
        sidecar.until_healthy();
        assert_eq!(sidecar.exec(&["/everlink", "probe", "ready"]), "ready");
        assert!(sidecar.exec(&["/everlink", "status"]).contains("cache"));
        // It stands where its configuration is.
        assert!(sidecar.exec(&["/everlink", "check"]).contains("cache"));

        // An edit of the directory that is mounted.
        let interval = "everlink_heartbeat_interval_seconds{upstream=\"cache\"}";
        assert_eq!(metric(&engine, http, interval), 5.0);
        let new = directory.path().join("config.toml.new");
        std::fs::write(&new, config("7s")).expect("written");
        std::fs::rename(&new, directory.path().join("config.toml")).expect("renamed");
        wait_until("the edit in force", || metric(&engine, http, interval) == 7.0);
        ping(&mut stays);

        // Process 1 gets no signal that it does not ask for.
        sidecar.signal("TERM");
        wait_until("draining", || engine.get(http, "/readyz").0 == 503);
        ping(&mut stays);
        ping(&mut client());
        drop(stays);
        assert_eq!(sidecar.exit_code(), 0, "{}", sidecar.log());
    }
}

#[test]
fn a_server_that_is_away_makes_nobody_unhealthy() {
    let engine = Engine::start();
    everlink(&engine);
    engine.ask(&["network", "create", "town"]);
    let directory = mounted("200ms");
    let sidecar = start(&engine, "town", None, directory.path());
    let http = sidecar.address("town", 9900);
    wait_until("started", || engine.get(http, "/startupz").0 == 200);
    // A name that nobody has: the dial fails soon, and not when the patience of a resolver ends.
    let dials = "everlink_link_dials_total{outcome=\"resolve\",upstream=\"cache\"}";
    wait_until("names not found", || metric(&engine, http, dials) >= 3.0);
    sidecar.until_healthy();
    sidecar.signal("TERM");
    assert_eq!(sidecar.exit_code(), 0, "{}", sidecar.log());

    // One that cannot answer is not healthy: the check does fail.
    let sidecar = start(&engine, "town", None, directory.path());
    sidecar.until_healthy();
    let pid = sidecar.inspect()["State"]["Pid"].as_u64().expect("a process");
    let stopped = u32::try_from(pid).expect("a number of a process");
    crate::common::program::send("STOP", stopped);
    wait_until("unhealthy", || sidecar.health() == "unhealthy");
    crate::common::program::send("CONT", stopped);
    sidecar.until_healthy();
}
