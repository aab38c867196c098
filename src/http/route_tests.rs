use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::http::example;
use crate::http::request::Body;

fn request(method: Method, target: &str) -> Request {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        accept: String::new(),
        host: "localhost:9900".to_owned(),
        body: Body::None,
        expects_continue: false,
        close: false,
    }
}

fn context(status: &Status) -> Context<'_> {
    Context { status, local: Ipv4Addr::LOCALHOST.into(), public_status: false, now: SystemTime::now() }
}

fn get(status: &Status, target: &str) -> (u16, String) {
    let response = route(&request(Method::Get, target), &context(status));
    (response.status, String::from_utf8(response.body.into_owned()).unwrap())
}

#[test]
fn input_33_unknown_paths_are_404_and_nothing_is_decoded() {
    let status = example::status();
    for path in
        ["/x", "/../etc/passwd", "/%2e%2e/status", "//metrics", "/metrics/", "/%6detrics", "/Metrics", "/status.json"]
    {
        assert_eq!(get(&status, path).0, 404, "{path}");
    }
}

#[test]
fn input_33_other_methods_are_405_on_every_path() {
    let status = example::status();
    for path in ["/", "/metrics", "/livez", "/startupz", "/readyz", "/status", "/unknown", "*"] {
        let response = route(&request(Method::Other, path), &context(&status));
        assert_eq!(response.status, 405, "{path}");
        assert!(response.headers.contains(&("Allow", "GET, HEAD".into())), "{path}");
    }
}

#[test]
fn livez_fails_when_a_data_loop_is_stuck() {
    let status = example::status();
    assert_eq!(get(&status, "/livez"), (200, "ok\n".to_owned()));
    status.ticks.store(31, Ordering::Relaxed);
    assert_eq!(get(&status, "/livez"), (503, "a data loop has shown no sign of life for 31 s\n".to_owned()));
}

#[test]
fn startupz_waits_for_the_configuration() {
    let status = example::status();
    assert_eq!(get(&status, "/startupz").0, 200);
    status.ready.store(false, Ordering::Relaxed);
    assert_eq!(get(&status, "/startupz").0, 503);
}

#[test]
fn readyz_says_what_it_waits_for() {
    let status = example::status();
    status.add_upstream(&Arc::new(crate::config::Upstream { required: true, ..example::upstream("chat") }));
    assert_eq!(get(&status, "/readyz"), (503, "upstream chat is required and has no live link\n".to_owned()));
    status.draining.store(true, Ordering::Relaxed);
    assert_eq!(
        get(&status, "/readyz?verbose"),
        (
            503,
            "[+] configuration in, listeners bound\n[-] draining: about to leave\n[-] upstream chat is required and \
             has no live link\n"
                .to_owned()
        )
    );
    status.draining.store(false, Ordering::Relaxed);
    status.upstreams()["chat"].set_alive(true, "");
    assert_eq!(get(&status, "/readyz"), (200, "ok\n".to_owned()));
}

#[test]
fn the_state_is_shown_on_loopback_only_unless_made_public() {
    let status = example::status();
    let seen = |local: IpAddr, public_status, path: &str| {
        route(&request(Method::Get, path), &Context { local, public_status, ..context(&status) }).status
    };
    let outside: IpAddr = [10, 0, 0, 7].into();
    for path in ["/", "/status"] {
        assert_eq!(seen(outside, false, path), 403);
        assert_eq!(seen(outside, true, path), 200);
        assert_eq!(seen(Ipv6Addr::LOCALHOST.into(), false, path), 200);
        assert_eq!(seen(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), false, path), 200);
        assert_eq!(seen(Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped().into(), false, path), 403);
    }
    for path in ["/metrics", "/livez", "/readyz", "/startupz"] {
        assert_eq!(seen(outside, false, path), 200, "{path} is for probes from outside");
    }
}

#[test]
fn a_foreign_name_on_loopback_does_not_see_the_state() {
    let status = example::status();
    let seen = |host: &str, path: &str| {
        route(&Request { host: host.to_owned(), ..request(Method::Get, path) }, &context(&status)).status
    };
    for host in ["127.0.0.1:9900", "[::1]:9900", "localhost", "LOCALHOST.:9900", "chat.localhost", ""] {
        assert_eq!(seen(host, "/status"), 200, "{host}");
    }
    for host in ["evil.example:9900", "localhost.evil.example", "127.0.0.1.evil.example", "[evil.example]"] {
        assert_eq!(seen(host, "/status"), 403, "{host}");
        assert_eq!(seen(host, "/metrics"), 200, "{host}: a scraper uses the name it has");
    }
}

#[test]
fn input_33_garbage_in_accept_falls_back_to_text() {
    let status = example::busy_status();
    let kind = |accept: &str| {
        route(&Request { accept: accept.to_owned(), ..request(Method::Get, "/metrics") }, &context(&status))
            .content_type
    };
    assert_eq!(kind("application/openmetrics-text;version=1.0.0"), openmetrics::CONTENT_TYPE);
    let long = format!("application/openmetrics-text;a={}", "b".repeat(8192));
    for accept in ["", "\u{fffd}\u{fffd}", "application/openmetrics-text;q=nan", ",;,;=", &long] {
        assert_eq!(kind(accept), TEXT_EXPOSITION, "{accept:.40}");
    }
}

#[test]
fn a_scrape_brings_the_downtime_up_to_now() {
    let status = example::status();
    status.add_upstream(&Arc::new(example::upstream("down")));
    let downtime = || {
        let text = get(&status, "/metrics").1;
        let line = text.lines().find(|l| l.starts_with("everlink_link_downtime_seconds_total{")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let first = downtime();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while downtime() <= first {
        assert!(std::time::Instant::now() < deadline, "the downtime stands still");
        std::thread::yield_now();
    }
}

#[test]
fn the_page_lets_nothing_in_from_outside() {
    let response = route(&request(Method::Get, "/"), &context(&example::status()));
    let header = |name| response.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()).unwrap();
    let policy = header("Content-Security-Policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(header("X-Frame-Options"), "DENY");
}

/// What `promtool check metrics` thinks of the whole text exposition.
#[test]
fn promtool_finds_nothing_to_complain_about() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let text = get(&example::busy_status(), "/metrics").1;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool does not run ({error}): install the Debian package `prometheus`"));
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// promtool reads OpenMetrics only to make blocks of it, and wants a timestamp on each sample for that.
#[test]
fn promtool_reads_the_openmetrics_exposition_to_its_end() {
    use std::process::Command;
    let status = example::busy_status();
    let asked = Request { accept: "application/openmetrics-text".to_owned(), ..request(Method::Get, "/metrics") };
    let text = String::from_utf8(route(&asked, &context(&status)).body.into_owned()).unwrap();
    let stamped: String = text
        .lines()
        .map(|line| if line.starts_with('#') { format!("{line}\n") } else { format!("{line} 1700000000\n") })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("metrics.txt");
    std::fs::write(&file, stamped).unwrap();
    let output = Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .arg(&file)
        .arg(directory.path().join("blocks"))
        .output()
        .unwrap_or_else(|error| panic!("promtool does not run ({error}): install the Debian package `prometheus`"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
