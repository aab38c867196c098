//! The pods as they are rendered, run.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::pod::Pod;
use super::road::{Node, PodNetwork, SERVICE, secrets};
use super::tools::{documents, kustomize, tree};
use crate::common::PATIENCE;
use crate::common::program::Samples;
use crate::faults::net::until;

fn overlay(name: &str) -> Vec<Value> {
    documents(&kustomize(&tree("deploy/kubernetes/overlays").join(name)))
}

/// The sidecar of a pod on a node of its own, with Redis.
fn sidecar<'n>(overlay_name: &str, network: &'n PodNetwork) -> Pod<'n> {
    let hosts = format!("{} redis\n", network.node());
    Pod::new(&overlay(overlay_name), "Deployment/app", "app-5d4f9-x7k2p", network.place(), &[], &hosts)
}

fn until_up(pod: &Pod<'_>, node: &Node, upstream: &str) {
    let series = format!("everlink_upstream_up{{upstream=\"{upstream}\"}}");
    until("the upstream is up", PATIENCE, || metrics(pod, node).find(&series) == Some(1.0));
}

fn metrics(pod: &Pod<'_>, node: &Node) -> Samples {
    let (code, body) = pod.get(&node.namespace, "/metrics").expect("an answer");
    assert_eq!(code, 200, "{body}");
    Samples::parse(&body)
}

#[test]
fn the_configurations_can_be_used_as_they_are_mounted() {
    let node = Node::new();
    let network = node.wire(1);
    let secrets = secrets();
    let all = [
        ("native-sidecar", "Deployment/app"),
        ("classic-sidecar", "Deployment/app"),
        ("tunnel", "Deployment/app"),
        ("tunnel", "StatefulSet/everlink-gateway"),
        ("gateway", "StatefulSet/everlink-gateway"),
    ];
    for (name, workload) in all {
        let pod = Pod::new(&overlay(name), workload, "everlink-gateway-0", network.place(), &secrets, "");
        let output = pod.check();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{name}: {said}");
        // Of a key that everyone can read, for one.
        assert!(!said.contains("warning"), "{name}: {said}");
    }
    // Secrets that this user may not read are found out.
    let mut manifests = overlay("tunnel");
    let app = manifests.iter_mut().find(|m| m["kind"] == "Deployment" && m["metadata"]["name"] == "app").expect("app");
    app["spec"]["template"]["spec"]["securityContext"].take();
    let output = Pod::new(&manifests, "Deployment/app", "app", network.place(), &secrets, "").check();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("may not be read by this user"), "{output:?}");
}

#[test]
fn a_native_sidecar_lives_as_its_pod_says() {
    let node = Node::new();
    let network = node.wire(1);
    let mut pod = sidecar("native-sidecar", &network);
    pod.start(&node.namespace);
    // As soon as it has started the application may: its first connection is taken.
    assert_eq!(network.ask(&["INCR", "visits"]), "1");
    for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert_eq!(pod.probe(&node.namespace, kind).expect("an answer").0, 200, "{kind}");
    }
    until_up(&pod, &node, "cache");
    for path in ["/", "/status"] {
        assert_eq!(pod.get(&node.namespace, path).expect("an answer").0, 403, "{path} from outside the pod");
    }
    let status = pod.exec(&["/everlink", "status"]);
    assert!(status.status.success() && String::from_utf8_lossy(&status.stdout).contains("cache"), "{status:?}");
    let retry = pod.exec(&["/everlink", "retry", "cache"]);
    assert!(retry.status.success(), "{retry:?}");

    // An edit of the ConfigMap is reloaded, and the links stay.
    let dials =
        |pod: &Pod<'_>| metrics(pod, &node).value("everlink_link_dials_total{outcome=\"ok\",upstream=\"cache\"}");
    let before = dials(&pod);
    pod.edit("{ preset = \"redis\" }", "{ preset = \"redis\", interval = \"3s\" }");
    let interval = "everlink_heartbeat_interval_seconds{upstream=\"cache\"}";
    until("the edit is in force", PATIENCE, || metrics(&pod, &node).value(interval) == 3.0);
    pod.until_logged("heartbeat.interval 5s → 3s");
    assert_eq!(dials(&pod), before);
    pod.edit("preset = \"redis\"", "preset = \"radish\"");
    until("a bad edit is told", PATIENCE, || {
        metrics(&pod, &node).value("everlink_config_last_reload_successful") == 0.0
    });
    assert_eq!(network.ask(&["INCR", "visits"]), "2");

    // The application has gone: nothing is left to wait for.
    let since = Instant::now();
    pod.terminate();
    until("it leaves", Duration::from_secs(pod.grace()), || pod.left());
    assert!(since.elapsed() < Duration::from_secs(8), "it took {:?}", since.elapsed());
}

#[test]
fn a_classic_sidecar_serves_an_application_that_ends_with_it() {
    let node = Node::new();
    let network = node.wire(1);
    let mut pod = sidecar("classic-sidecar", &network);
    pod.start(&node.namespace);
    let hook = pod.exec(&["/everlink", "probe", "started", "--wait", "60s"]);
    assert!(hook.status.success(), "{hook:?}");
    until_up(&pod, &node, "cache");
    assert!(pod.ready(&node.namespace));

    let since = Instant::now();
    pod.terminate();
    until("it drains", PATIENCE, || !pod.ready(&node.namespace));
    // New connections until drain.minimum and beyond; then the application is quiet.
    let mut served = 0;
    while since.elapsed() < Duration::from_secs(6) {
        served += 1;
        assert_eq!(network.ask(&["INCR", "visits"]), served.to_string());
        assert_eq!(pod.probe(&node.namespace, "livenessProbe").expect("an answer").0, 200);
        std::thread::sleep(Duration::from_millis(300));
    }
    until("it leaves", Duration::from_secs(pod.grace()).saturating_sub(since.elapsed()), || pod.left());
    assert!(since.elapsed() > Duration::from_secs(10), "left after {:?}, without its quiet time", since.elapsed());
}

/// A subscriber: what has come by itself, and when it ends.
struct Subscriber(BufReader<std::net::TcpStream>);

impl Subscriber {
    fn new(network: &PodNetwork) -> Self {
        let mut stream = network.namespace.connect("127.0.0.1:6379");
        stream.write_all(b"SUBSCRIBE news\r\n").expect("written");
        let mut made = Self(BufReader::new(stream));
        made.hear("subscribe");
        made
    }

    /// Reads on until a line with this text.
    fn hear(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.0.read_line(&mut line).expect("read") > 0, "ended before {text:?}");
        }
    }

    /// How it ends.
    fn end(mut self) -> std::io::Result<()> {
        self.0.read_to_end(&mut Vec::new()).map(drop)
    }
}

#[test]
fn a_session_finds_its_own_gateway_past_the_service() {
    let node = Node::new();
    let [app, first, second] = [1, 2, 3].map(|number| node.wire(number));
    let (manifests, secrets) = (overlay("tunnel"), secrets());
    let gateway = |number: u8, network| {
        let hosts = format!("10.78.{}.1 redis\n", number + 2);
        let name = format!("everlink-gateway-{number}");
        let mut pod = Pod::new(&manifests, "StatefulSet/everlink-gateway", &name, network, &secrets, &hosts);
        pod.start(&node.namespace);
        until("a gateway is ready", PATIENCE, || pod.ready(&node.namespace));
        pod
    };
    let mut gateways = [gateway(0, first.place()), gateway(1, second.place())];
    node.lead_to(&first);
    let hosts = format!("{SERVICE} everlink-gateway\n");
    let mut sidecar = Pod::new(&manifests, "Deployment/app", "app-1", app.place(), &secrets, &hosts);
    sidecar.start(&node.namespace);
    until_up(&sidecar, &node, "site");
    let mut subscriber = Subscriber::new(&app);
    assert_eq!(app.ask(&["PUBLISH", "news", "one"]), "1");
    subscriber.hear("one");
    let streams = |gateway: &Pod<'_>| metrics(gateway, &node).value("everlink_gateway_streams");
    until("the publisher has gone", PATIENCE, || streams(&gateways[0]) == 1.0);

    // The link falls while the Service leads to the other: the session goes on where it lives.
    node.lead_to(&second);
    let cut = first.namespace.reset("iifname wire tcp dport 7443 tcp flags & syn == 0");
    assert_eq!(node_publish(&node, "on its way"), "1");
    sidecar.until_logged("link lost");
    cut.heal();
    sidecar.until_logged("session resumed");
    subscriber.hear("on its way");
    assert_eq!(node_publish(&node, "two"), "1");
    subscriber.hear("two");
    assert_eq!((streams(&gateways[0]), streams(&gateways[1])), (1.0, 0.0));

    // A rollout: the first drains, which keeps its stream and takes no new ones.
    gateways[0].terminate();
    until("the Service forgets it", PATIENCE, || !gateways[0].ready(&node.namespace));
    until("new streams go to the other", PATIENCE, || app.ask(&["INCR", "visits"]).parse::<u64>().is_ok());
    assert_eq!(node_publish(&node, "three"), "1");
    subscriber.hear("three");
    assert!(!gateways[0].left());
    until("its one stream is left", PATIENCE, || streams(&gateways[0]) == 1.0);
    drop(subscriber);
    until("it leaves with its last stream", Duration::from_secs(gateways[0].grace()), || gateways[0].left());
    assert_eq!(app.ask(&["PING"]), "PONG");

    // A gateway that is killed comes back under its name and says that it knows nothing: reset, and no hang.
    let lost = Subscriber::new(&app);
    gateways[1].kill();
    gateways[1].start(&node.namespace);
    assert!(lost.end().is_err(), "a stream of a gateway that has restarted must be reset");
    until("it is used again", PATIENCE, || app.ask(&["PING"]) == "PONG");
}

/// Says something to whoever subscribed, past everlink; how many have heard it.
fn node_publish(node: &Node, text: &str) -> String {
    super::road::ask_redis(&node.namespace, &["PUBLISH", "news", text])
}
