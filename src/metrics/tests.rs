use std::collections::BTreeSet;

use super::files::UPSTREAM_ROLES;
use super::*;
use crate::http::example;

/// Every series with this label, as the text format has it: a line each.
fn series(metrics: &Metrics, label: &str) -> Vec<String> {
    let text = prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).expect("written");
    text.lines().filter(|line| !line.starts_with('#') && line.contains(label)).map(str::to_owned).collect()
}

fn names(metrics: &Metrics) -> BTreeSet<String> {
    metrics.gather().iter().map(|family| family.name().to_owned()).collect()
}

#[test]
fn an_upstream_of_either_mode_has_the_series_it_is_said_to_have_and_at_most_90() {
    let metrics = Metrics::new().expect("metrics");
    for (upstream, mode) in [(example::upstream("one"), Mode::Direct), (example::tunnel("one"), Mode::Tunnel)] {
        let _handles = metrics.upstream(&upstream);
        metrics.endpoint("one", "a:1");
        for role in UPSTREAM_ROLES {
            metrics.certificate_not_after(role, "one").set(1.0);
        }
        metrics.show_unusable_files("one", Some(false));
        let there = series(&metrics, "upstream=\"one\"");
        assert_eq!(there.len(), Metrics::series_of(mode, 1, true, true), "{mode:?}: {there:#?}");
        assert!(there.len() <= 90, "{mode:?}: {}", there.len());
        metrics.remove_endpoint("one", "a:1");
        metrics.remove_upstream("one");
        assert_eq!(series(&metrics, "upstream=\"one\""), Vec::<String>::new());
    }
}

#[test]
fn what_a_mode_cannot_produce_is_not_exported_and_counting_it_harms_nobody() {
    let metrics = Metrics::new().expect("metrics");
    let (direct, _tunnel) = (metrics.upstream(&example::upstream("d")), metrics.upstream(&example::tunnel("t")));
    let has = |upstream: &str, label: &str| {
        series(&metrics, &format!("upstream=\"{upstream}\"")).iter().any(|line| line.contains(label))
    };
    for label in ["outcome=\"denied\"", "reason=\"resume_expired\"", "everlink_session_"] {
        assert!(has("t", label) && !has("d", label), "{label}");
    }
    for label in ["reason=\"dead\"", "state=\"in_use\""] {
        assert!(has("d", label) && !has("t", label), "{label}");
    }
    let before = series(&metrics, "upstream=\"d\"");
    direct.close(CloseReason::Expired);
    direct.dial(DialOutcome::Denied);
    assert_eq!(series(&metrics, "upstream=\"d\""), before);
}

#[test]
fn the_gateways_series_are_there_only_while_there_is_one() {
    let metrics = Metrics::new().expect("metrics");
    let before = names(&metrics);
    let gateway = metrics.gateway(&serving(&["cache", "postgres"]));
    metrics.certificate_not_after("server", "").set(1.0);
    metrics.show_unusable_files("", Some(true));
    for (name, count) in [
        ("everlink_gateway_sessions ", 1),
        ("everlink_gateway_sessions_waiting", 1),
        ("everlink_gateway_session_losses_total", 5),
        ("everlink_gateway_sessions_ended_total", SessionEnd::ALL.len()),
        ("everlink_gateway_streams ", 1),
        ("everlink_gateway_streams_opened_total", 2),
        ("everlink_gateway_streams_refused_total", 2 * 3 + 1),
        ("everlink_tls_files_unusable", 1),
        ("everlink_gateway_handshakes_pending", 1),
        ("everlink_gateway_refusals_total", Refusal::ALL.len()),
        ("everlink_protocol_violations_total", VIOLATIONS.len()),
    ] {
        assert_eq!(series(&metrics, name).len(), count, "{name}");
    }
    metrics.remove_gateway();
    drop(gateway);
    assert_eq!(names(&metrics), before);
}

#[test]
fn violations_are_told_while_anybody_speaks_the_protocol() {
    let metrics = Metrics::new().expect("metrics");
    let told = || series(&metrics, "everlink_protocol_violations_total").len();
    let (upstream, gateway) = (metrics.upstream(&example::tunnel("t")), metrics.gateway(&example::gateway()));
    gateway.violations.count("window");
    drop(gateway);
    assert_eq!(told(), VIOLATIONS.len());
    let session = upstream.session.as_ref().expect("a tunnel has");
    assert!(session.violations.figures().any(|figure| figure == ("window", 1)), "the count is the process's");
    drop(upstream);
    assert_eq!(told(), 0);
}

#[test]
fn a_service_is_told_while_it_is_configured_and_a_name_that_is_none_is_told_as_unknown() {
    let metrics = Metrics::new().expect("metrics");
    let gateway = metrics.gateway(&serving(&["cache", "postgres"]));
    gateway.services.opened("cache");
    gateway.services.refused("cache", StreamRefusal::Denied);
    gateway.services.replace(&metrics, &serving(&["cache"]));
    // Of a service that has just gone, and of names that a peer makes up.
    for name in ["postgres", "no such", "\"} 1"] {
        gateway.services.opened(name);
        gateway.services.refused(name, StreamRefusal::Unreachable);
    }
    assert_eq!(
        series(&metrics, "streams_opened_total{"),
        ["everlink_gateway_streams_opened_total{service=\"cache\"} 1"]
    );
    let mut refused = series(&metrics, "streams_refused_total{");
    refused.retain(|line| !line.ends_with(" 0"));
    refused.sort();
    assert_eq!(
        refused,
        [
            "everlink_gateway_streams_refused_total{reason=\"denied\",service=\"cache\"} 1",
            "everlink_gateway_streams_refused_total{reason=\"unknown\",service=\"(unknown)\"} 3",
        ]
    );
}

#[test]
fn a_broken_endpoint_is_told_from_one_in_reserve() {
    let metrics = Metrics::new().expect("metrics");
    let [broken, reserve] = ["a:1", "b:1"].map(|name| metrics.endpoint("one", name));
    broken.dialled(DialOutcome::Refused);
    let failed = || ["a:1", "b:1"].map(|name| metrics.endpoint_figures().get("one", name).last_dial_failed);
    assert_eq!(failed(), [true, false]);
    broken.dialled(DialOutcome::Local);
    reserve.dialled(DialOutcome::Local);
    assert_eq!(failed(), [true, false], "our own want says nothing of an endpoint");
    broken.dialled(DialOutcome::Ok);
    assert_eq!(failed(), [false, false]);
}

#[test]
fn a_gateway_counts_what_its_sessions_lose_and_a_planned_end_is_no_loss() {
    let metrics = Metrics::new().expect("metrics");
    let gateway = metrics.gateway(&example::gateway());
    for reason in LossReason::ALL {
        gateway.lose(*reason);
    }
    gateway.end(SessionEnd::Expired);
    let counted = |name: &str| series(&metrics, name).iter().filter(|line| line.ends_with(" 1")).count();
    assert_eq!((counted("session_losses_total"), counted("sessions_ended_total")), (5, 1));
}

/// A gateway with these services.
fn serving(names: &[&str]) -> crate::config::Gateway {
    let address = crate::config::Address::Ip(([127, 0, 0, 1], 1).into());
    let service = crate::config::Service { address, allow: None, proxy_protocol: false };
    let services = names.iter().map(|name| ((*name).to_owned(), service.clone())).collect();
    crate::config::Gateway { services, ..example::gateway() }
}

#[test]
fn bounds_of_a_tunnel_are_bounds_of_direct_mode_too() {
    let metrics = Metrics::new().expect("metrics");
    let (_d, _t) = (metrics.upstream(&example::upstream("d")), metrics.upstream(&example::tunnel("t")));
    let bounds = |upstream: &str, family: &str| -> BTreeSet<String> {
        let start = format!("everlink_{family}_bucket{{");
        let of = series(&metrics, &format!("upstream=\"{upstream}\""));
        let bound = |line: &String| line.split("le=\"").nth(1)?.split('"').next().map(str::to_owned);
        of.iter().filter(|line| line.starts_with(&start)).filter_map(bound).collect()
    };
    for family in
        ["heartbeat_rtt_seconds", "link_dial_duration_seconds", "link_lifetime_seconds", "connection_wait_seconds"]
    {
        let tunnel = bounds("t", family);
        assert!(tunnel.len() > 1 && tunnel.is_subset(&bounds("d", family)), "{family}: {tunnel:?}");
    }
}
