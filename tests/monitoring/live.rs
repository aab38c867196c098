//! Every rule and every panel, against a Prometheus that scrapes a live everlink which has lived through something.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::promql::{Selector, selectors};
use crate::common::program::{directory, succeeded, wait_until};
use crate::common::prometheus::{Prometheus, escaped};
use crate::common::server::{Server, tutorial};
use crate::relay::How;
use crate::road::{Plan, QUICK, Road, Trust, talks};
use crate::{alerts, common, deployed, read, script};

/// A query of the dashboard.
struct Query {
    place: String,
    expression: String,
    instant: bool,
    /// Several queries of a table become one line for each set of labels: metrics' names would keep them apart.
    joined: bool,
    /// An annotation marks what happens seldom, and need not have happened here.
    may_be_empty: bool,
}

impl Query {
    fn new(place: String, expression: &str, instant: bool) -> Self {
        // As Grafana does with everything chosen, and a scrape each second.
        let variables = [
            ("$__rate_interval", "5s"),
            ("$__range_s", "30"),
            ("$__range", "30s"),
            ("$job", ".*"),
            ("$instance", ".*"),
            ("$upstream", ".*"),
        ];
        let expression = variables.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
        assert!(!expression.contains('$'), "{place}: a variable that nobody knows: {expression}");
        Self { place, expression, instant, joined: false, may_be_empty: false }
    }

    /// Everything the dashboard asks for: panels, annotations and the lists of its variables.
    fn all(dashboard: &Value) -> Vec<Self> {
        let mut all = Vec::new();
        for panel in list(&dashboard["panels"]) {
            for target in list(&panel["targets"]) {
                let place = format!("{} {}", text(&panel["title"]), text(&target["refId"]));
                let query = Self::new(place, text(&target["expr"]), target["instant"] == true);
                let joined = panel["type"] == "table" && list(&panel["targets"]).len() > 1;
                all.push(Self { joined, ..query });
            }
        }
        for annotation in list(&dashboard["annotations"]["list"]) {
            let query = Self::new(text(&annotation["name"]).to_owned(), text(&annotation["expr"]), false);
            all.push(Self { may_be_empty: true, ..query });
        }
        for variable in list(&dashboard["templating"]["list"]).iter().filter(|variable| variable["type"] == "query") {
            let query = text(&variable["query"]["query"]);
            let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).expect(query);
            let (series, label) = inside.rsplit_once(", ").expect("a label");
            all.push(Self::new(format!("variable {label}"), &format!("count by ({label}) ({series})"), true));
        }
        all
    }

    /// How many series come of it, from `start` on.
    fn ask(&self, prometheus: &Prometheus, start: f64) -> Result<usize, String> {
        let query = escaped(&self.expression);
        let data = match self.instant {
            true => prometheus.try_api(&format!("/api/v1/query?query={query}"))?,
            false => {
                let range = format!("start={start}&end={}&step=1", now());
                prometheus.try_api(&format!("/api/v1/query_range?query={query}&{range}"))?
            }
        };
        let series = list(&data["result"]);
        if self.joined && series.iter().any(|one| one["metric"].get("__name__").is_some()) {
            return Err("the name of the metric keeps the table's lines apart".to_owned());
        }
        Ok(series.len())
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// What an expression names and Prometheus has never seen: whole selectors, and each value of their matchers by itself.
fn missing(prometheus: &Prometheus, expression: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for Selector { metric, matchers } in selectors(expression) {
        let whole: Vec<_> = matchers.iter().map(|(label, op, value)| format!("{label}{op}\"{value}\"")).collect();
        let one = |(label, _, value): &(String, String, String)| {
            value.split('|').map(|value| format!("{label}=~\"{value}\",{label}!=\"\"")).collect::<Vec<_>>()
        };
        for inside in matchers.iter().flat_map(one).chain([whole.join(",")]) {
            let series = format!("{metric}{{{inside}}}");
            if prometheus.query(&format!("count(count_over_time({series}[10m]))")).is_empty() {
                missing.push(series);
            }
        }
    }
    missing
}

/// An everlink with everything: direct upstreams that are well and gone, a tunnel under TLS, its gateway.
struct Scene {
    road: Road,
    prometheus: Prometheus,
    start: f64,
    orders: Server,
    gone: SocketAddr,
}

impl Scene {
    fn new() -> Self {
        let orders = Server::start(tutorial);
        let trust = Trust::certificates();
        let gone = common::nobody();
        let sidecar = of_sidecar(orders.address, gone, "500ms");
        let road = Plan { trust, sidecar: &sidecar, ..Plan::default() }.build();
        let place = directory();
        let mut variants = script("rules.py");
        variants.arg(deployed("prometheus/alerts.yml")).args(["quick.yml", "rendered.yml"]).current_dir(place.path());
        succeeded(&mut variants);
        let targets = [road.sidecar.http(), road.gateway().http()].map(|target| target.to_string());
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: [quick.yml, rendered.yml]\n\
             scrape_configs: [{{ job_name: everlink, static_configs: [{{ targets: {targets:?} }}] }}]\n"
        );
        let (start, prometheus) = (now(), Prometheus::start_in(place, &config));
        Self { road, prometheus, start, orders, gone }
    }

    /// Traffic, a loss that streams survive, an edit; until Prometheus has scraped all of it more than once.
    fn live(&mut self) {
        let prometheus = &self.prometheus;
        wait_until("both are scraped", || prometheus.query("sum(up)") == [2.0]);
        let mut client = self.road.connect("echo");
        talks(&mut client, b"before");
        talks(&mut common::connect_to(self.road.sidecar.listener("orders")), b"an order");
        self.road.relay.cut(How::Reset);
        talks(&mut client, b"after");
        let edited = of_sidecar(self.orders.address, self.gone, "600ms");
        self.road.edit_sidecar(&edited, &["echo"]);
        for seen in [
            "everlink_session_resumes_total{outcome=\"resumed\"} >= 1",
            "everlink_config_generation{} >= 2",
            "everlink_heartbeat_rtt_seconds_count{upstream=\"orders\"} >= 3",
            "ALERTS{alertname=\"EverlinkLinkDown\",alertstate=\"firing\",upstream=\"gone\"}",
            "count_over_time(everlink_session_outage_seconds_count[1m]) > 8",
        ] {
            wait_until(seen, || !prometheus.query(seen).is_empty());
        }
        // Each panel that counts has seen the change, not just its end.
        let counted = "max_over_time(sum(increase(everlink_session_outage_seconds_count[5s]))[1m:1s]) > 0";
        wait_until(counted, || !prometheus.query(counted).is_empty());
    }
}

/// Lines of the sidecar: those of the tunnel, two more upstreams, and one that nobody serves.
fn of_sidecar(orders: SocketAddr, gone: SocketAddr, interval: &str) -> String {
    let beats = format!("{{ interval = \"{interval}\", timeout = \"300ms\", send = \"ping\", expect = \"pong\" }}");
    let upstream = |name: &str, endpoint: SocketAddr, heartbeat: &str| {
        format!(
            "[upstreams.{name}]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"{endpoint}\"]\n{heartbeat}\
             retry = {{ initial = \"100ms\", max = \"500ms\" }}\n"
        )
    };
    let orders = upstream("orders", orders, &format!("heartbeat = {beats}\n"));
    format!("{QUICK}{orders}{}", upstream("gone", gone, ""))
}

/// The queries in a text for people.
fn promql(text: &str) -> Vec<&str> {
    text.split("```promql\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// The names of everlink's metrics in a text for people.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("everlink_") || word.starts_with("process_")).collect()
}

#[test]
fn every_rule_and_every_panel_finds_what_it_names_in_a_live_scrape() {
    let mut scene = Scene::new();
    scene.live();
    let Scene { prometheus, start, .. } = &scene;

    let mut wrong = Vec::new();
    let rules = prometheus.api("/api/v1/rules");
    let rules: Vec<_> = list(&rules["groups"]).iter().flat_map(|group| list(&group["rules"])).collect();
    assert_eq!(rules.len(), 2 * alerts().len());
    for rule in &rules {
        let (name, query) = (text(&rule["name"]), text(&rule["query"]));
        if rule["health"] != "ok" {
            wrong.push(format!("{name}: {} {}", rule["health"], rule["lastError"]));
        }
        if !name.starts_with("Rendered") {
            wrong.extend(missing(prometheus, query).iter().map(|series| format!("{name}: no {series}")));
        }
        for alert in list(&rule["alerts"]) {
            let texts = [&alert["annotations"]["summary"], &alert["annotations"]["description"]].map(text);
            wrong.extend(
                texts
                    .iter()
                    .filter(|said| said.contains("error expanding") || said.contains("<no value>"))
                    .map(|said| format!("{name}: {said}")),
            );
        }
        let rendered = list(&rule["alerts"]).len();
        assert!(!name.starts_with("Rendered") || rendered == 1, "{name} is rendered {rendered} times");
    }

    let dashboard: Value = serde_json::from_str(&read("grafana/everlink.json")).expect("JSON");
    let queries = Query::all(&dashboard);
    assert!(queries.len() > 80, "{}", queries.len());
    for query in &queries {
        wrong.extend(
            missing(prometheus, &query.expression).iter().map(|series| format!("{}: no {series}", query.place)),
        );
        match query.ask(prometheus, *start) {
            Ok(0) if !query.may_be_empty => wrong.push(format!("{}: no data: {}", query.place, query.expression)),
            Ok(_) => {}
            Err(error) => wrong.push(format!("{}: {error}", query.place)),
        }
    }

    let runbook = read("prometheus/RUNBOOK.md");
    let told = promql(&runbook);
    assert!(told.len() > 20, "{}", told.len());
    for query in told {
        wrong.extend(missing(prometheus, query).iter().map(|series| format!("runbook: {query}: no {series}")));
        if let Err(error) = prometheus.try_api(&format!("/api/v1/query?query={}", escaped(query))) {
            wrong.push(format!("runbook: {query}: {error}"));
        }
    }

    for file in [
        "prometheus/alerts.yml",
        "prometheus/README.md",
        "prometheus/RUNBOOK.md",
        "grafana/README.md",
        "grafana/everlink.json",
    ] {
        let text = read(file);
        let names = named(&text).into_iter().filter(|name| {
            let series = format!("count({{__name__=~\"{name}(_sum|_count|_bucket)?\"}})");
            prometheus.query(&series).is_empty()
        });
        wrong.extend(names.map(|name| format!("{file}: no metric {name}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // It would be noticed: a metric, a label or a value of one that is not there.
    for (good, bad) in [
        ("everlink_upstream_up", "everlink_upstream_is_up"),
        ("reason!~\"reload|aged\"", "reason!~\"reload|old\""),
        ("endpoint_up{job=", "endpoint_up{jobs="),
    ] {
        let spoilt: Value =
            serde_json::from_str(&dashboard.to_string().replace(&json(good), &json(bad))).expect("JSON");
        let found = Query::all(&spoilt).iter().any(|query| !missing(prometheus, &query.expression).is_empty());
        assert!(found, "{bad} goes unnoticed");
    }
}

/// As it stands inside a text of JSON.
fn json(text: &str) -> String {
    Value::from(text).to_string().trim_matches('"').replace("\\\\\"", "\\\"")
}
