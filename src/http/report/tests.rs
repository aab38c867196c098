use super::*;
use crate::http::example;
use crate::status::Event;

#[test]
fn a_busy_process_is_told_whole() {
    let status = example::busy_status();
    let now = status.started + Duration::from_secs(90);
    let told = report(&status, now);
    assert_eq!(told.uptime_seconds, 90.0);
    assert_eq!(told.config.generation, 4);
    assert_eq!(told.config.last_reload.as_ref().map(|reload| reload.age_seconds), Some(90.0));
    let [chat] = told.upstreams.as_slice() else { panic!("one upstream, not {}", told.upstreams.len()) };
    assert!(chat.up);
    assert_eq!((chat.heartbeat.interval_seconds, chat.detection_budget_seconds), (5.0, 14.0));
    assert_eq!(chat.links[0].rtt_seconds, Some(0.00042));
    assert_eq!(chat.links[1].retry_in_seconds, Some(3510.0));
    assert_eq!(chat.endpoints.iter().map(|e| (e.up, e.losses)).collect::<Vec<_>>(), [(true, 0), (false, 1)]);
    assert_eq!(chat.last_loss.as_ref().and_then(|loss| loss.reason.as_deref()), Some("reset"));
    assert_eq!(chat.losses["reset"], 1);
    assert_eq!(chat.connections.refused.keys().collect::<Vec<_>>(), ["limit", "link_down"]);
}

#[test]
fn a_tunnel_tells_its_forwards_and_sessions_and_the_gateway_whom_it_holds() {
    let status = example::busy_tunnel();
    let told = report(&status, status.started + Duration::from_secs(90));
    let [site] = told.upstreams.as_slice() else { panic!("one upstream, not {}", told.upstreams.len()) };
    assert_eq!((site.mode.as_str(), site.heartbeat.beat.as_str()), ("tunnel", "ping"));
    let [forward] = site.forwards.as_slice() else { panic!("one forward") };
    assert_eq!((forward.service.as_str(), forward.listen.as_slice()), ("postgres", &["127.0.0.1:5432".to_owned()][..]));
    let session = site.links[0].session.as_ref().expect("a session");
    assert_eq!((session.id.as_str(), session.epoch, session.streams), ("5e551011", 3, 7));
    assert_eq!((session.unacknowledged_bytes, session.buffer_bytes), (4096, 16 << 20));
    assert_eq!((session.resumes, session.last_outage_seconds), (1, Some(0.8)));
    assert_eq!((site.resumes["resumed"], site.losses["reset"]), (1, 0));
    assert!(site.dials.contains_key("denied") && !site.connections.closed.contains_key("dead"));

    let gateway = told.gateway.as_ref().expect("a gateway");
    assert_eq!((gateway.name.as_str(), gateway.listen.as_slice()), ("gw-1", &["127.0.0.1:7443".to_owned()][..]));
    assert_eq!((gateway.streams, gateway.handshakes_pending, gateway.refusals["denied"]), (5, 2, 1));
    let [known, lost] = gateway.sessions.as_slice() else { panic!("two sessions") };
    assert_eq!((known.identity.as_deref(), known.peer.as_deref()), (Some("spiffe://edge/a"), Some("10.0.0.9:40000")));
    assert!(known.connected && !lost.connected && lost.identity.is_none());
    assert_eq!((known.session.streams, lost.session.unacknowledged_bytes), (5, 100));
    let json = serde_json::to_string(&told).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), told);
    assert!(!json.contains("5e551011ee"), "no more of an id than its first 8 digits");
}

#[test]
fn history_is_told_of_those_who_were_asked_about() {
    let status = example::busy_status();
    status.add_upstream(&std::sync::Arc::new(example::upstream("other")));
    for name in ["chat", "other"] {
        let upstream = &status.upstreams()[name];
        for alive in [true, false, true, false] {
            upstream.set_alive(alive, "why");
        }
        upstream.record(Event { text: "other".to_owned(), ..example::event(&status) });
        upstream.metrics.beat_answered(Duration::from_millis(3));
    }
    let told = |brief, whole: &str| {
        let names = whole.split(',').collect();
        let told = detailed(&status, &Detail { brief, whole: names }, SystemTime::now());
        let history = |u: &UpstreamReport| (u.outages.len(), u.events.is_empty(), u.round_trips.len());
        told.upstreams.iter().map(history).collect::<Vec<_>>()
    };
    let (all, least) = ((2, false, 1), (1, true, 0));
    assert_eq!(told(false, ""), [all, all]);
    assert_eq!(told(true, ""), [least, least]);
    assert_eq!(told(true, "other,nobody"), [least, all]);
    let told = detailed(&status, &Detail { brief: true, ..Detail::default() }, SystemTime::now());
    let chat = &told.upstreams[0];
    assert_eq!((chat.outages_total, chat.outages[0].until.is_none()), (2, true), "the last of two, which lasts");
    assert_eq!(chat.last_loss.as_ref().and_then(|loss| loss.reason.as_deref()), Some("reset"));
    assert!(chat.first_up.is_some() && chat.downtime_seconds >= 0.0);
}

#[test]
fn an_upstream_that_never_was_up_has_no_outage() {
    let status = example::status();
    status.add_upstream(&std::sync::Arc::new(example::upstream("down")));
    let told = report(&status, SystemTime::now());
    let down = &told.upstreams[0];
    assert_eq!((down.up, down.first_up.as_deref(), down.outages_total), (false, None, 0));
}

#[test]
fn the_json_reads_back_as_it_was() {
    let status = example::busy_status();
    let told = report(&status, SystemTime::now());
    let json = serde_json::to_string(&told).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), told);
    assert!(json.contains(r#""retry_in_seconds":"#), "{json}");
}

#[test]
fn a_json_of_another_version_is_still_read() {
    let told: Report = serde_json::from_str(r#"{"version":"9","novelty":1,"upstreams":[{"name":"a"}]}"#).unwrap();
    assert_eq!((told.version.as_str(), told.upstreams[0].name.as_str()), ("9", "a"));
}

#[test]
fn reading_never_creates_a_series() {
    let status = example::status();
    status.add_upstream(&std::sync::Arc::new(example::upstream("chat")));
    report(&status, SystemTime::now());
    assert!(!status.metrics.gather().iter().any(|family| family.name() == "everlink_endpoint_up"));
}

#[test]
fn a_clock_set_back_gives_ages_of_zero() {
    let status = example::busy_status();
    assert_eq!(report(&status, SystemTime::UNIX_EPOCH).uptime_seconds, 0.0);
}
