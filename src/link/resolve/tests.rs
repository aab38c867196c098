use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;

use super::nameserver::{Nameserver, Reply};
use super::*;

/// Far beyond what a nameserver on this host needs.
const AMPLE: Duration = Duration::from_secs(20);

/// Files of its own that name 127.0.0.1 (and whatever else `more` says) as nameserver.
struct Etc {
    directory: tempfile::TempDir,
}

impl Etc {
    fn new(more: &str) -> Self {
        let etc = Self { directory: tempfile::tempdir().unwrap() };
        etc.write("resolv.conf", &format!("nameserver 127.0.0.1\n{more}"));
        etc
    }

    fn write(&self, file: &str, content: &str) {
        fs::write(self.directory.path().join(file), content).unwrap();
    }

    fn resolver(&self, server: &Nameserver) -> Resolver {
        Resolver::new(Sources {
            resolv_conf: self.directory.path().join("resolv.conf"),
            hosts: self.directory.path().join("hosts"),
            port: server.address.port(),
        })
    }
}

fn texts(answer: &Answer) -> Vec<String> {
    answer.addresses.iter().map(SocketAddr::to_string).collect()
}

async fn resolve(resolver: &Resolver, host: &str) -> Result<Answer, ResolveError> {
    resolver.resolve(host, 80, AMPLE).await
}

#[tokio::test]
async fn both_families_come_back_ipv6_first() {
    let server = Nameserver::start(|_, _| Reply::addresses(&["10.0.0.1", "2001:db8::1", "10.0.0.2"])).await;
    let answer = resolve(&Etc::new("").resolver(&server), "db.example").await.unwrap();
    assert_eq!(texts(&answer), ["[2001:db8::1]:80", "10.0.0.1:80", "10.0.0.2:80"]);
    assert!(answer.stale.is_none());
    assert_eq!(server.asked(RecordType::A), ["db.example."]);
}

#[tokio::test]
async fn literal_addresses_and_localhost_ask_nobody() {
    let server = Nameserver::start(|_, _| Reply::Silence).await;
    let etc = Etc::new("");
    let resolver = etc.resolver(&server);
    assert_eq!(texts(&resolve(&resolver, "10.1.2.3").await.unwrap()), ["10.1.2.3:80"]);
    assert_eq!(texts(&resolve(&resolver, "::1").await.unwrap()), ["[::1]:80"]);
    assert_eq!(texts(&resolve(&resolver, "localhost").await.unwrap()), ["[::1]:80", "127.0.0.1:80"]);
    etc.write("hosts", "10.9.9.9 db\n");
    assert_eq!(texts(&resolve(&resolver, "DB").await.unwrap()), ["10.9.9.9:80"]);
    assert!(server.asked(RecordType::A).is_empty());
}

#[tokio::test]
async fn an_answer_says_how_long_it_may_be_kept_and_whether_anything_may_be_missing() {
    let many: Vec<String> = (0..40).map(|n| format!("10.0.0.{n}")).collect();
    let server = Nameserver::start(move |name, record| match (name, record) {
        ("many.example.", _) => Reply::addresses(&many.iter().map(String::as_str).collect::<Vec<_>>()),
        ("half.example.", RecordType::AAAA) => Reply::Code(ResponseCode::ServFail),
        _ => Reply::addresses(&["10.0.0.1"]),
    })
    .await;
    let etc = Etc::new("");
    etc.write("hosts", "10.9.9.9 listed\n");
    let resolver = etc.resolver(&server);
    let kept = Some(Duration::from_secs(60));
    for (host, ttl, whole) in [
        ("one.example", kept, true),
        ("half.example", kept, false),
        ("many.example", kept, false),
        ("listed", None, true),
    ] {
        let answer = resolve(&resolver, host).await.unwrap();
        assert_eq!((answer.ttl, answer.whole), (ttl, whole), "{host}");
    }
}

#[tokio::test]
async fn fault_40_a_name_that_does_not_exist_and_one_without_addresses_are_told_apart() {
    let server = Nameserver::start(|name, _| match name {
        "empty.example." => Reply::addresses(&[]),
        _ => Reply::Code(ResponseCode::NXDomain),
    })
    .await;
    let resolver = Etc::new("").resolver(&server);
    let error = resolve(&resolver, "no.example").await.unwrap_err();
    assert!(matches!(error, ResolveError::NoSuchName { .. }), "{error}");
    assert!(error.to_string().starts_with("no.example does not exist in DNS: check its spelling"), "{error}");
    let error = resolve(&resolver, "empty.example").await.unwrap_err();
    assert!(matches!(error, ResolveError::NoAddress { .. }), "{error}");
}

#[tokio::test]
async fn fault_40_servfail_is_an_error_that_may_pass() {
    let server = Nameserver::start(|_, _| Reply::Code(ResponseCode::ServFail)).await;
    let error = resolve(&Etc::new("").resolver(&server), "db.example").await.unwrap_err();
    assert!(matches!(error, ResolveError::Failed { .. }), "{error}");
    assert!(!error.is_denial());
}

#[tokio::test]
async fn fault_40_silence_ends_at_the_callers_limit() {
    let server = Nameserver::start(|_, _| Reply::Silence).await;
    let resolver = Etc::new("").resolver(&server);
    let begun = Instant::now();
    let error = resolver.resolve("db.example", 80, Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, ResolveError::Silent { .. }), "{error}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn fault_40_a_thousand_records_come_over_tcp_and_are_capped_with_both_families_left() {
    let many: Vec<IpAddr> = (0..1000u32)
        .map(|n| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n)))
        .chain((0..1000u128).map(|n| IpAddr::from(Ipv6Addr::from((0x2001_0db8 << 96) + n))))
        .collect();
    let server = Nameserver::start(move |_, _| Reply::Addresses(many.clone())).await;
    let answer = resolve(&Etc::new("").resolver(&server), "db.example").await.unwrap();
    assert_eq!(answer.addresses.len(), 32);
    assert_eq!(answer.addresses.iter().filter(|address| address.is_ipv4()).count(), 16);
    // Once over UDP and once over TCP; a busy host may be asked once more over UDP.
    assert!((2..=4).contains(&server.asked(RecordType::A).len()), "{:?}", server.asked(RecordType::A));
}

#[tokio::test]
async fn a_family_that_stays_silent_holds_the_other_up_only_a_moment() {
    let server = Nameserver::start(|_, record| match record {
        RecordType::A => Reply::addresses(&["10.0.0.1"]),
        _ => Reply::Silence,
    })
    .await;
    let begun = Instant::now();
    let answer = resolve(&Etc::new("").resolver(&server), "db.example").await.unwrap();
    assert_eq!(texts(&answer), ["10.0.0.1:80"]);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn search_domains_are_tried_in_order_and_one_host_is_never_mixed_from_two() {
    let server = Nameserver::start(|name, _| match name {
        "db.two.example." => Reply::addresses(&["10.0.0.2"]),
        "db.three.example." => Reply::addresses(&["2001:db8::3"]),
        _ => Reply::Code(ResponseCode::NXDomain),
    })
    .await;
    let etc = Etc::new("search one.example two.example three.example\noptions ndots:2\n");
    let answer = resolve(&etc.resolver(&server), "db").await.unwrap();
    assert_eq!(texts(&answer), ["10.0.0.2:80"]);
    assert_eq!(server.asked(RecordType::A), ["db.one.example.", "db.two.example."]);
}

#[tokio::test]
async fn fault_41_a_changed_answer_is_seen_by_the_next_question() {
    let moved = Arc::new(AtomicBool::new(false));
    let seen = moved.clone();
    let server = Nameserver::start(move |_, _| match seen.load(Ordering::Relaxed) {
        false => Reply::addresses(&["10.0.0.1"]),
        true => Reply::addresses(&["10.0.0.2"]),
    })
    .await;
    let resolver = Etc::new("").resolver(&server);
    assert_eq!(texts(&resolve(&resolver, "db.example").await.unwrap()), ["10.0.0.1:80"]);
    moved.store(true, Ordering::Relaxed);
    assert_eq!(texts(&resolve(&resolver, "db.example").await.unwrap()), ["10.0.0.2:80"]);
}

#[tokio::test]
async fn fault_40_the_last_good_answer_serves_while_dns_fails_and_says_so() {
    let failure = Arc::new(Mutex::new(Reply::addresses(&["10.0.0.1"])));
    let reply = failure.clone();
    let server = Nameserver::start(move |_, _| reply.lock().unwrap().clone()).await;
    let resolver = Etc::new("").resolver(&server);
    resolve(&resolver, "db.example").await.unwrap();
    for code in [ResponseCode::ServFail, ResponseCode::NXDomain] {
        *failure.lock().unwrap() = Reply::Code(code);
        let answer = resolve(&resolver, "db.example").await.unwrap();
        assert_eq!(texts(&answer), ["10.0.0.1:80"]);
        assert!(answer.stale.is_some(), "{code}");
    }
    *failure.lock().unwrap() = Reply::Silence;
    let begun = Instant::now();
    let limit = Duration::from_secs(10);
    let answer = resolver.resolve("db.example", 80, limit).await.unwrap();
    assert!(matches!(answer.stale, Some(ResolveError::Silent { .. })), "{answer:?}");
    assert!(begun.elapsed() < limit, "time must be left to dial: {:?}", begun.elapsed());
    let other = resolver.resolve("other.example", 80, Duration::from_millis(100)).await;
    assert!(other.is_err(), "another host has no last good answer");
}

#[tokio::test(start_paused = true)]
async fn a_last_good_answer_grows_too_old_sooner_when_dns_denies_the_name() {
    let last = LastGood { addresses: Arc::from([]), at: Instant::now(), told: false };
    let host = String::new;
    let denial = ResolveError::NoAddress { host: host() };
    let silence = ResolveError::Silent { host: host(), within: AMPLE, resolv_conf: host() };
    let after = |seconds: u64| last.at + Duration::from_secs(seconds);
    assert!(last.serves(&denial, after(300)));
    assert!(!last.serves(&denial, after(301)));
    assert!(last.serves(&silence, after(86_400)));
    assert!(!last.serves(&silence, after(86_401)));
}

#[tokio::test]
async fn an_edited_resolv_conf_holds_for_the_next_question() {
    let server = Nameserver::start(|name, _| match name {
        "db.new.example." => Reply::addresses(&["10.0.0.1"]),
        _ => Reply::Code(ResponseCode::NXDomain),
    })
    .await;
    let etc = Etc::new("search old.example\n");
    let resolver = etc.resolver(&server);
    assert!(resolve(&resolver, "db").await.is_err());
    etc.write("resolv.conf", "nameserver 127.0.0.1\nsearch new.example\n");
    assert_eq!(texts(&resolve(&resolver, "db").await.unwrap()), ["10.0.0.1:80"]);
}

#[tokio::test]
async fn fault_58_without_resolv_conf_the_nameserver_on_this_host_is_asked() {
    let server = Nameserver::start(|_, _| Reply::addresses(&["10.0.0.1"])).await;
    let etc = Etc::new("");
    fs::remove_file(etc.directory.path().join("resolv.conf")).unwrap();
    assert_eq!(texts(&resolve(&etc.resolver(&server), "db.example").await.unwrap()), ["10.0.0.1:80"]);
}

#[tokio::test]
async fn a_dead_first_nameserver_costs_a_second_and_a_broken_one_nothing() {
    let good = Nameserver::start(|_, _| Reply::addresses(&["10.0.0.1"])).await;
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), good.address.port());
    let etc = Etc::new("");
    etc.write("resolv.conf", "nameserver 127.0.0.2\nnameserver 127.0.0.3\nnameserver 127.0.0.1\n");
    let resolver = etc.resolver(&good);
    let broken = |_: &str, _| Reply::Code(ResponseCode::Refused);
    let servers =
        (Nameserver::start_at(at("127.0.0.2"), broken).await, Nameserver::start_at(at("127.0.0.3"), broken).await);
    let begun = Instant::now();
    assert_eq!(texts(&resolve(&resolver, "db.example").await.unwrap()), ["10.0.0.1:80"]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(servers);
    let silent = |_: &str, _| Reply::Silence;
    let _servers = {
        let second = retry_start(at("127.0.0.2"), silent).await;
        (second, retry_start(at("127.0.0.3"), silent).await)
    };
    let begun = Instant::now();
    assert_eq!(texts(&resolve(&resolver, "db.example").await.unwrap()), ["10.0.0.1:80"]);
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// The sockets of an aborted task close when the runtime next runs it.
async fn retry_start(address: SocketAddr, rule: fn(&str, RecordType) -> Reply) -> Nameserver {
    while tokio::net::UdpSocket::bind(address).await.is_err() || tokio::net::TcpListener::bind(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    Nameserver::start_at(address, rule).await
}

#[tokio::test]
async fn a_denial_by_a_later_nameserver_waits_for_the_earlier_one() {
    let outer = Nameserver::start(|_, _| Reply::Code(ResponseCode::NXDomain)).await;
    let inner = |_: &str, _| Reply::Late(Duration::from_millis(1500), vec!["10.0.0.1".parse().unwrap()]);
    let first = SocketAddr::new("127.0.0.2".parse().unwrap(), outer.address.port());
    let _inner = Nameserver::start_at(first, inner).await;
    let etc = Etc::new("");
    etc.write("resolv.conf", "nameserver 127.0.0.2\nnameserver 127.0.0.1\n");
    let answer = resolve(&etc.resolver(&outer), "db.example").await.unwrap();
    assert_eq!(texts(&answer), ["10.0.0.1:80"]);
    assert!(!outer.asked(RecordType::A).is_empty(), "the later one was asked, and denied first");
}

#[tokio::test]
async fn dials_at_the_same_time_share_one_question_and_survive_whoever_asks() {
    let open = Arc::new(AtomicBool::new(false));
    let opened = open.clone();
    let server = Nameserver::start(move |_, _| match opened.load(Ordering::Relaxed) {
        true => Reply::addresses(&["10.0.0.1"]),
        false => Reply::Silence,
    })
    .await;
    let resolver = Etc::new("").resolver(&server);
    let spawn = || {
        let resolver = resolver.clone();
        tokio::spawn(async move { resolver.resolve("db.example", 80, AMPLE).await })
    };
    let leader = spawn();
    while server.asked(RecordType::A).is_empty() {
        tokio::task::yield_now().await;
    }
    let followers: Vec<_> = (0..32).map(|_| spawn()).collect();
    tokio::task::yield_now().await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    open.store(true, Ordering::Relaxed);
    for follower in followers {
        assert_eq!(texts(&follower.await.unwrap().unwrap()), ["10.0.0.1:80"]);
    }
    let questions = server.asked(RecordType::A).len();
    assert!(questions < 10, "{questions} questions for 33 dials");
    assert!(locked(&resolver.shared.flights).is_empty());
}

#[test]
fn a_resolver_outlives_the_runtime_that_used_it_first() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        runtime().block_on(async {
            let server = Nameserver::start(|_, _| Reply::addresses(&["10.0.0.1"])).await;
            told.send(server.address).unwrap();
            let _ = stopped.await;
        });
    });
    let etc = Etc::new("");
    let resolver = Resolver::new(Sources {
        resolv_conf: etc.directory.path().join("resolv.conf"),
        hosts: etc.directory.path().join("hosts"),
        port: heard.recv().unwrap().port(),
    });
    for _ in 0..3 {
        let answer = runtime().block_on(resolve(&resolver, "db.example")).unwrap();
        assert_eq!(texts(&answer), ["10.0.0.1:80"]);
        assert!(answer.stale.is_none());
    }
    stop.send(()).unwrap();
    thread.join().unwrap();
}

#[tokio::test]
async fn a_host_that_is_no_name_is_said_to_be_none() {
    let server = Nameserver::start(|_, _| Reply::Silence).await;
    let host = "x".repeat(64);
    let error = resolve(&Etc::new("search a.example\n").resolver(&server), &host).await.unwrap_err();
    assert!(matches!(error, ResolveError::BadName { .. }), "{error}");
}
