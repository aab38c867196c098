use std::cell::RefCell;
use std::net::Ipv4Addr;

use tokio::io::DuplexStream;

use super::*;
use crate::http::example;

fn service() -> Service {
    Service::new(example::busy_status(), Arc::default(), Limits::default())
}

/// Runs `client` against a connection under paused time; gives what it gave and when the server was done.
async fn against<T>(client: impl AsyncFnOnce(DuplexStream) -> T) -> (T, Duration) {
    let service = service();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let start = Instant::now();
    let serve = async {
        converse(theirs, Ipv4Addr::LOCALHOST.into(), &service, |_| {}).await;
        start.elapsed()
    };
    tokio::join!(client(ours), serve)
}

async fn rest(mut stream: DuplexStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn input_33_a_slow_head_is_closed_at_5_s() {
    let (answer, ended) = against(async |mut stream| {
        for byte in b"GET /livez HTT" {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        rest(stream).await
    })
    .await;
    assert_eq!((answer.as_str(), ended), ("", Duration::from_secs(5)));
}

#[tokio::test(start_paused = true)]
async fn input_33_a_connection_that_never_speaks_is_closed_at_5_s() {
    let (answer, ended) = against(rest).await;
    assert_eq!((answer.as_str(), ended), ("", Duration::from_secs(5)));
}

#[tokio::test(start_paused = true)]
async fn input_33_an_idle_keep_alive_is_closed_at_30_s() {
    let (answer, ended) = against(async |mut stream| {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        rest(stream).await
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    assert_eq!(ended, Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn input_33_a_slow_second_head_is_given_5_s_too() {
    let (_, ended) = against(async |mut stream| {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        stream.write_all(b"G").await.unwrap();
        rest(stream).await
    })
    .await;
    assert_eq!(ended, Duration::from_secs(25));
}

#[tokio::test(start_paused = true)]
async fn input_33_a_slow_body_is_closed_at_5_s() {
    let (answer, ended) = against(async |mut stream| {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n12345678").await.unwrap();
        rest(stream).await
    })
    .await;
    assert_eq!((answer.as_str(), ended), ("", Duration::from_secs(5)));
}

#[tokio::test(start_paused = true)]
async fn fault_63_a_reader_that_stops_is_given_up_after_10_s() {
    let status = example::status();
    for n in 0..20 {
        status.add_upstream(&Arc::new(example::upstream(&format!("upstream-{n}"))));
    }
    let service = Service::new(status, Arc::default(), Limits::default());
    let (mut ours, theirs) = tokio::io::duplex(1024);
    let start = Instant::now();
    ours.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    converse(theirs, Ipv4Addr::LOCALHOST.into(), &service, |_| {}).await;
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn requests_sent_in_one_go_are_answered_in_order() {
    let (answer, _) = against(async |mut stream| {
        let requests = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\nHEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n\
                        GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(requests.as_bytes()).await.unwrap();
        rest(stream).await
    })
    .await;
    let statuses: Vec<_> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "404"]);
    assert!(!answer.contains("everlink_"), "HEAD got a body");
}

#[tokio::test(start_paused = true)]
async fn what_stands_behind_a_body_is_never_the_next_request() {
    let (answer, _) = against(async |mut stream| {
        let requests =
            "GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyGET /status HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(requests.as_bytes()).await.unwrap();
        rest(stream).await
    })
    .await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1);
    assert!(answer.contains("\r\nConnection: close\r\n"));
}

/// Closed at once, with bytes of the client's unread, the kernel would reset and discard what we said.
#[tokio::test(start_paused = true)]
async fn after_the_last_answer_the_client_has_a_second_to_close() {
    for request in ["GET /\n", "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"] {
        let (answer, ended) = against(async |mut stream| {
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.write_all(&[b'x'; 20_000]).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            tokio::time::sleep(Duration::from_secs(9)).await;
            answer
        })
        .await;
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
        assert_eq!(ended, Duration::from_secs(1), "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_counts_as_served_only_while_it_is() {
    let service = service();
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    ours.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let phases = RefCell::new(Vec::new());
    converse(theirs, Ipv4Addr::LOCALHOST.into(), &service, |phase| phases.borrow_mut().push(phase)).await;
    assert_eq!(phases.into_inner(), [Phase::Idle, Phase::Served, Phase::Idle]);
}

#[test]
fn the_limits_are_those_of_the_contract() {
    let limits = Limits::default();
    assert_eq!((limits.connections, limits.dear), (32, 4));
    assert_eq!((limits.request, limits.idle), (Duration::from_secs(5), Duration::from_secs(30)));
}
