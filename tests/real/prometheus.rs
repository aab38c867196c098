//! A real Prometheus scrapes everlink, in both formats.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use everlink::metrics::{Metrics, Mode};

use crate::common::program::{Program, Samples, command, directory, get, wait_until};
use crate::common::prometheus::Prometheus;
use crate::common::server::{Server, echo};

/// What the page on the design promises and direct mode can produce, with the suffixes of histograms left out.
const NAMES: [&str; 41] = [
    "everlink_accept_errors_total",
    "everlink_build_info",
    "everlink_bytes_total",
    "everlink_config_generation",
    "everlink_config_last_reload_success_timestamp_seconds",
    "everlink_config_last_reload_successful",
    "everlink_config_reloads_total",
    "everlink_connection_wait_seconds",
    "everlink_connections",
    "everlink_connections_closed_total",
    "everlink_connections_refused_total",
    "everlink_connections_total",
    "everlink_connections_waiting",
    "everlink_detection_budget_seconds",
    "everlink_drills_active",
    "everlink_endpoint_last_dial_failed",
    "everlink_endpoint_losses_total",
    "everlink_endpoint_up",
    "everlink_heartbeat_interval_seconds",
    "everlink_heartbeat_misses",
    "everlink_heartbeat_rtt_seconds",
    "everlink_heartbeat_timeout_seconds",
    "everlink_heartbeats_missed_total",
    "everlink_heartbeats_sent_total",
    "everlink_link_dial_duration_seconds",
    "everlink_link_dials_total",
    "everlink_link_downtime_seconds_total",
    "everlink_link_last_change_timestamp_seconds",
    "everlink_link_last_received_timestamp_seconds",
    "everlink_link_lifetime_seconds",
    "everlink_link_losses_total",
    "everlink_link_reconnects_total",
    "everlink_link_retry_delay_seconds",
    "everlink_links",
    "everlink_log_dropped_total",
    "everlink_process_stalls_total",
    "everlink_task_panics_total",
    "everlink_tls_certificate_not_after_timestamp_seconds",
    "everlink_tls_files_unusable",
    "everlink_tls_reload_failures_total",
    "everlink_upstream_up",
];

/// As the prometheus crate gives them on Linux.
const PROCESS_NAMES: [&str; 7] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
];

const TEXT: &str = "text/plain; version=0.0.4";

/// Serves everlink's metrics in the older text format: newer Prometheus servers ask for OpenMetrics first, and this one
/// cannot be told otherwise.
fn as_text(everlink: SocketAddr) -> Server {
    Server::start(move |mut stream: TcpStream| {
        let mut request = Vec::new();
        let mut some = [0; 1024];
        while !request.windows(4).any(|four| four == b"\r\n\r\n") {
            match stream.read(&mut some)? {
                0 => return Ok(()),
                count => request.extend_from_slice(&some[..count]),
            }
        }
        let (_, body) = get(everlink, "/metrics", TEXT)?;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {TEXT}\r\nConnection: close\r\n")?;
        write!(stream, "Content-Length: {}\r\n\r\n{body}", body.len())?;
        stream.shutdown(Shutdown::Write)
    })
}

fn upstream(name: &str, endpoints: &[SocketAddr], more: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "[upstreams.{name}]\nlisten = \"127.0.0.1:0\"\nendpoints = [{}]\nretry = {{ initial = \"100ms\", max = \"1s\" }}\n{more}",
        endpoints.join(", ")
    )
}

/// A certificate with its key, and itself as the authority, written beside the configuration.
fn certificate(directory: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).expect("written");
    let key = directory.join("key.pem");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("private");
}

/// The name of a series' family, as the design writes it.
fn family<'n>(series: &'n str, histograms: &BTreeSet<String>) -> &'n str {
    let name = series.split('{').next().unwrap_or(series);
    let of_histogram = |suffix| name.strip_suffix(suffix).filter(|family| histograms.contains(*family));
    ["_bucket", "_sum", "_count"].into_iter().find_map(of_histogram).unwrap_or(name)
}

fn histograms(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram"));
    types.map(str::to_owned).collect()
}

#[test]
fn prometheus_scrapes_both_formats_and_loses_what_is_removed() {
    let server = Server::start(echo);
    let [a, b] = ["a", "b"].map(|name| upstream(name, &[server.address], ""));
    let everlink = Program::start(&format!("{a}{b}"));
    everlink.until_up("a", 2);
    everlink.until_up("b", 2);
    let relay = as_text(everlink.http());
    let prometheus = Prometheus::scraping(&[("openmetrics", everlink.http()), ("text", relay.address)]);
    for job in ["openmetrics", "text"] {
        prometheus.until_healthy(job);
        wait_until("scraped", || prometheus.query(&format!("up{{job=\"{job}\"}}")) == [1.0]);
        let ups = format!("everlink_upstream_up{{job=\"{job}\"}}");
        wait_until("both are up", || prometheus.query(&ups) == [1.0, 1.0]);
        let samples = everlink.metrics().0.len() as f64;
        // The last scrape may have been one that came too late.
        let scraped = format!("scrape_samples_scraped{{job=\"{job}\"}}");
        wait_until("every sample is scraped", || prometheus.query(&scraped) == [samples]);
        // Names that differ between the formats' own texts are the same in queries.
        for name in ["everlink_connections_total", "everlink_link_downtime_seconds_total", "everlink_connections"] {
            let one = format!("{name}{{job=\"{job}\",upstream=\"a\"}}");
            wait_until(&one, || prometheus.query(&one).len() == 1);
        }
        let buckets = format!("everlink_link_lifetime_seconds_bucket{{job=\"{job}\",upstream=\"a\",le=\"+Inf\"}}");
        wait_until(&buckets, || prometheus.query(&buckets).len() == 1);
    }

    everlink.edit(&a);
    wait_until("its series are gone", || everlink.metrics().with_label("upstream", "b").is_empty());
    assert_eq!(everlink.metrics().with_label("upstream", "a").len(), Metrics::series_of(Mode::Direct, 1, false, false));
    for job in ["openmetrics", "text"] {
        let gone = format!("{{job=\"{job}\",upstream=\"b\"}}");
        let up = format!("everlink_upstream_up{{job=\"{job}\"}}");
        let applied = format!("everlink_config_reloads_total{{job=\"{job}\",outcome=\"applied\"}}");
        wait_until("Prometheus has seen it", || {
            prometheus.query(&gone).is_empty()
                && prometheus.query(&up) == [1.0]
                && prometheus.query(&applied) == [1.0]
                && prometheus.health(job) == ("up".to_owned(), String::new())
        });
    }
    everlink.stop();
}

#[test]
fn promtool_finds_nothing_to_say_about_the_metrics() {
    let server = Server::start(echo);
    let everlink = Program::start(&upstream("a", &[server.address], ""));
    everlink.until_up("a", 2);
    let (code, text) = get(everlink.http(), "/metrics", TEXT).expect("answered");
    assert_eq!(code, 200);
    let mut promtool = command("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool");
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("told");
    let output = promtool.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    everlink.stop();
}

#[test]
fn every_promised_metric_exists_and_no_other_and_an_upstream_has_the_series_it_was_told_to_have() {
    let server = Server::start(echo);
    let directory = directory();
    certificate(directory.path());
    let more = SocketAddr::from(([127, 0, 0, 1], 1));
    let [plain, spread, secret] = [
        upstream("plain", &[server.address], ""),
        upstream("spread", &[server.address, more], "balance = \"round-robin\"\n"),
        upstream("secret", &[more], &{
            let file = |name: &str| directory.path().join(name).display().to_string();
            format!(
                "tls = {{ ca_file = \"{0}\", cert_file = \"{0}\", key_file = \"{1}\" }}\n",
                file("cert.pem"),
                file("key.pem")
            )
        }),
    ];
    let everlink = Program::start_in(directory, &format!("{plain}{spread}{secret}"));
    let (_, text) = get(everlink.http(), "/metrics", TEXT).expect("answered");
    let samples = Samples::parse(&text);
    let histograms = histograms(&text);
    let names: BTreeSet<_> = samples.0.iter().map(|(series, _)| family(series, &histograms)).collect();
    let promised: BTreeSet<_> = NAMES.iter().chain(&PROCESS_NAMES).copied().collect();
    assert_eq!(names, promised);
    for (upstream, endpoints, tls) in [("plain", 1, false), ("spread", 2, false), ("secret", 1, true)] {
        let series = samples.with_label("upstream", upstream);
        assert_eq!(series.len(), Metrics::series_of(Mode::Direct, endpoints, tls, false), "{upstream}: {series:#?}");
        assert!(series.len() <= 90, "{upstream}: {}", series.len());
    }
    // Both formats say the same of the same names.
    let (_, openmetrics) = get(everlink.http(), "/metrics", "application/openmetrics-text").expect("answered");
    assert!(openmetrics.ends_with("# EOF\n"));
    let series = |samples: &Samples| samples.0.iter().map(|(name, _)| bounds(name)).collect::<BTreeSet<_>>();
    assert_eq!(series(&Samples::parse(&openmetrics)), series(&samples));
    everlink.stop();
}

/// A series with the bound of its bucket as a number: `le="1"` and `le="1.0"` are the same.
fn bounds(series: &str) -> String {
    let Some((before, rest)) = series.split_once(",le=\"") else { return series.to_owned() };
    let (bound, after) = rest.split_once('"').expect("it is closed");
    format!("{before},le=\"{:?}\"{after}", bound.parse::<f64>().expect("a bound"))
}

#[test]
fn counters_never_fall_while_clients_come_and_go() {
    let server = Server::start(echo);
    let everlink = Program::start(&upstream("storm", &[server.address], "pool.size = 8\n"));
    everlink.until_up("storm", 8);
    let (address, http) = (everlink.listener("storm"), everlink.http());
    let over = AtomicBool::new(false);
    const CLIENTS: u64 = 8 * 150;
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut highest, mut scrapes) = (BTreeMap::<String, f64>::new(), 0);
            while !over.load(Ordering::Relaxed) {
                let (_, text) = get(http, "/metrics", TEXT).expect("answered");
                let histograms = histograms(&text);
                for (series, value) in Samples::parse(&text).0 {
                    let name = family(&series, &histograms);
                    if !name.ends_with("_total") && !histograms.contains(name) {
                        continue;
                    }
                    let before = highest.insert(series.clone(), value).unwrap_or(0.0);
                    assert!(value >= before, "{series} fell from {before} to {value}");
                }
                scrapes += 1;
            }
            scrapes
        });
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..CLIENTS / 8 {
                        let mut client = TcpStream::connect(address).expect("connected");
                        client.set_read_timeout(Some(crate::common::PATIENCE)).expect("set");
                        client.write_all(b"sixteen bytes.\r\n").expect("sent");
                        client.shutdown(Shutdown::Write).expect("half-closed");
                        let mut heard = Vec::new();
                        client.read_to_end(&mut heard).expect("answered");
                        assert_eq!(heard, b"sixteen bytes.\r\n");
                    }
                })
            })
            .collect();
        let clients: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::Relaxed);
        let scrapes = watcher.join().expect("no counter fell");
        assert!(clients.into_iter().all(|client| client.is_ok()), "all were served");
        assert!(scrapes >= 10, "{scrapes} scrapes during the storm");
    });
    wait_until("all are gone", || everlink.metric(r#"everlink_connections{upstream="storm"}"#) == 0.0);
    let metrics = everlink.metrics();
    let clients = CLIENTS as f64;
    for (series, expected) in [
        (r#"everlink_connections_total{upstream="storm"}"#, clients),
        (r#"everlink_connections_closed_total{reason="finished",upstream="storm"}"#, clients),
        (r#"everlink_connection_wait_seconds_count{upstream="storm"}"#, clients),
        (r#"everlink_bytes_total{direction="sent",upstream="storm"}"#, 16.0 * clients),
        (r#"everlink_bytes_total{direction="received",upstream="storm"}"#, 16.0 * clients),
        (r#"everlink_link_reconnects_total{upstream="storm"}"#, 0.0),
        (r#"everlink_upstream_up{upstream="storm"}"#, 1.0),
    ] {
        assert_eq!(metrics.value(series), expected, "{series}");
    }
    everlink.stop();
}
