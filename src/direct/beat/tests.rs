use super::*;

fn plain() -> Dialogue {
    let beat = Beat::Exchange { send: b"ping".to_vec(), expect: Expect::Prefix(b"pong".to_vec()) };
    Dialogue::new(beat)
}

fn lines() -> Dialogue {
    let beat = Beat::Exchange { send: b"ping\n".to_vec(), expect: Expect::Prefix(b"pong".to_vec()) };
    Dialogue::new(beat)
}

#[test]
fn a_wrong_answer_is_shown_unless_it_repeats_a_secret() {
    let wrong = |send: &str, expect: &str, answer: &str| {
        let (send, expect) = (send.as_bytes().to_vec(), Expect::Prefix(expect.as_bytes().to_vec()));
        let mut d = Dialogue::new(Beat::Exchange { send, expect });
        d.beat();
        match d.received(answer.as_bytes()) {
            Heard::Wrong(why) => why,
            other => panic!("{other:?}"),
        }
    };
    assert!(wrong("AUTH zebra4711\n", "+OK", "-ERR no\r\n").contains("-ERR no"));
    assert!(wrong("ping\n", "pong", "ping\n").contains("ping"), "the tutorial's words are no secret");
    for answer in ["AUTH zebra4711\n", "-ERR unknown: 'zebra4711'\n", "-ERR zebr", "x 4711\n"] {
        let why = wrong("AUTH zebra4711\n", "+OK", answer);
        assert!(why.contains("not shown") && !why.contains("zeb") && !why.contains("4711"), "{why}");
    }
    assert!(!wrong("hi\n", "zebra4711", "+ zebra4712\n").contains("zebra"));
}

#[test]
fn the_tutorial_is_understood() {
    let mut d = plain();
    assert_eq!(d.beat(), b"ping");
    assert_eq!(d.owed(), 1);
    assert_eq!(d.received(b"pong"), Heard::Answered);
    assert_eq!(d.owed(), 0);
    assert!(d.take_banner().is_empty());
}

#[test]
fn an_answer_may_come_byte_by_byte() {
    let mut d = lines();
    d.beat();
    for b in b"pong 12" {
        assert_eq!(d.received(&[*b]), Heard::Part);
    }
    assert_eq!(d.received(b"\n"), Heard::Answered);
    assert!(d.take_banner().is_empty(), "the rest of the line is the answer's");
}

#[test]
fn late_answers_are_owed_until_they_come() {
    let mut d = plain();
    d.beat();
    d.beat();
    assert_eq!(d.received(b"pong"), Heard::Answered);
    assert_eq!(d.owed(), 1, "not to be handed out yet");
    assert_eq!(d.received(b"pong"), Heard::Answered);
    assert_eq!(d.owed(), 0);
    d.beat();
    d.beat();
    assert_eq!(d.received(b"pongpong"), Heard::Answered, "both at once");
    assert_eq!(d.owed(), 0);
}

#[test]
fn the_servers_own_bytes_go_to_the_client_in_order() {
    let mut d = lines();
    assert_eq!(d.received(b"hello\n"), Heard::Banner);
    d.beat();
    assert_eq!(d.received(b"pong\nnews\n"), Heard::Answered);
    assert_eq!(d.received(b"more\n"), Heard::Banner);
    assert_eq!(d.take_banner(), b"hello\nnews\nmore\n");
}

#[test]
fn without_lines_bytes_behind_the_answer_make_the_connection_unfit() {
    let mut d = plain();
    d.beat();
    assert!(matches!(d.received(b"pong or what"), Heard::Wrong(why) if why.contains("end `send` with")));
}

#[test]
fn a_wrong_answer_is_told_with_its_bytes_escaped() {
    let mut d = plain();
    d.beat();
    let Heard::Wrong(why) = d.received(b"ping\x1b[31m") else { panic!("taken for an answer") };
    assert!(why.contains("ping") && !why.contains('\x1b'), "{why}");
}

#[test]
fn a_pattern_takes_what_it_matches() {
    let pattern = regex::bytes::Regex::new("^(?:pong [0-9]+;)").expect("compiles");
    let beat = Beat::Exchange { send: b"ping".to_vec(), expect: Expect::Pattern(pattern) };
    let mut d = Dialogue::new(beat);
    d.beat();
    assert_eq!(d.received(b"pong 1"), Heard::Part);
    assert_eq!(d.received(b"2;news"), Heard::Answered);
    assert_eq!(d.take_banner(), b"news");
}

#[test]
fn redis_presets_know_a_guarded_and_a_loading_server() {
    for (line, heard) in [
        ("+PONG\r\n", Heard::Answered),
        ("-NOAUTH Authentication required.\r\n", Heard::Answered),
        ("-LOADING Redis is loading\r\n", Heard::NotNow("-LOADING Redis is loading\\r\\n".into())),
    ] {
        let mut d = Dialogue::new(Beat::Redis);
        assert_eq!(d.beat(), b"PING\r\n");
        assert_eq!(d.received(line.as_bytes()), heard);
        assert_eq!(d.owed(), 0);
    }
    let mut d = Dialogue::new(Beat::Redis);
    d.beat();
    assert!(matches!(d.received(b"HTTP/1.1 400 Bad Request\r\n"), Heard::Wrong(_)));
}

#[test]
fn smtp_waits_for_the_greeting_and_is_renewed_after_five_beats() {
    let mut d = Dialogue::new(Beat::Smtp);
    assert!(d.must_hear_first());
    d.received(b"220-mail.example\r\n");
    assert!(d.must_hear_first(), "the greeting goes on");
    assert_eq!(d.farewell(), None);
    d.received(b"220 ready\r\n");
    assert!(!d.must_hear_first());
    for _ in 0..5 {
        assert!(!d.is_spent());
        assert_eq!(d.farewell(), Some(&b"QUIT\r\n"[..]));
        d.beat();
        assert_eq!(d.farewell(), None, "an answer is due");
        assert_eq!(d.received(b"250 2.0.0 Ok\r\n"), Heard::Answered);
    }
    assert!(d.is_spent());
    assert_eq!(d.take_banner(), b"220-mail.example\r\n220 ready\r\n");
}

#[test]
fn a_banner_has_a_bound() {
    let mut d = lines();
    assert_eq!(d.received(&[b'x'; BANNER_LIMIT]), Heard::Banner);
    assert_eq!(d.banner_room(), 0);
    assert!(matches!(d.received(b"y"), Heard::Wrong(_)));
}

#[test]
fn an_answer_that_never_ends_is_wrong() {
    let mut d = lines();
    d.beat();
    d.received(b"pong");
    assert!(matches!(d.received(&[b'x'; ANSWER_LIMIT]), Heard::Wrong(_)));
}

#[test]
fn another_beat_waits_until_no_answer_is_due() {
    let mut d = plain();
    d.beat();
    assert!(!d.retune(&Beat::Redis));
    d.received(b"pong");
    assert!(d.retune(&Beat::Redis));
    assert_eq!(d.beat(), b"PING\r\n");
}

/// Whatever the slicing, the client gets exactly the server's own bytes.
#[test]
fn no_byte_of_a_beat_ever_reaches_a_client_however_the_stream_is_cut() {
    for seed in 0..2000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut d = lines();
        let (mut wire, mut own) = (Vec::new(), Vec::new());
        if random.bool() {
            own.extend_from_slice(b"banner\n");
            d.received(b"banner\n");
        }
        for _ in 0..random.u8(1..4) {
            d.beat();
            wire.extend_from_slice(b"pong 42\n");
        }
        let pushed = random.bool();
        if pushed {
            wire.extend_from_slice(b"pushed\n");
            own.extend_from_slice(b"pushed\n");
        }
        while !wire.is_empty() {
            let cut = random.usize(1..=wire.len());
            assert!(!matches!(d.received(&wire[..cut]), Heard::Wrong(_)), "seed {seed}");
            wire.drain(..cut);
        }
        assert_eq!((d.owed(), d.take_banner()), (0, own), "seed {seed}");
    }
}
