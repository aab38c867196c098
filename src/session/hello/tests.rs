use std::time::Duration;

use proptest::prelude::*;
use ring::hmac;

use super::*;

const BINDING: [u8; 32] = [0xb1; 32];

fn secret() -> Secret {
    Secret::new([0x5e; 32])
}

fn token() -> Token {
    Token::new(b"a token of some length").expect("long enough")
}

fn hello() -> Hello {
    Hello {
        versions: VERSIONS,
        session: SessionId([0x1d; 16]),
        epoch: 0x0102_0304_0506_0708,
        received: 0x1112_1314_1516_1718,
        nonce: [0xce; 32],
        beats: Beats { interval: Duration::from_secs(5), timeout: Duration::from_secs(3), misses: 3 },
        resume: Resume { deadline: Duration::from_secs(60), buffer: 16 << 20 },
    }
}

fn welcome() -> Welcome {
    Welcome {
        version: 1,
        session: SessionId([0x1d; 16]),
        epoch: 7,
        received: 9,
        nonce: [0xcf; 32],
        incarnation: [0x1c; 16],
        beats: Beats { interval: Duration::from_secs(4), timeout: Duration::from_secs(2), misses: 5 },
        resume: Resume { deadline: Duration::from_secs(30), buffer: 1 << 20 },
        streams: 1024,
        name: "gw-1".into(),
        advertise: Some("10.0.0.7:7443".into()),
    }
}

fn refusal() -> Refusal {
    Refusal {
        code: Code::Unknown,
        retry_after: Duration::from_millis(1500),
        versions: VERSIONS,
        name: Some("gw-1".into()),
    }
}

fn received(bytes: &[u8]) -> Received {
    let (received, length) = Received::parse(bytes).expect("sound").expect("whole");
    assert_eq!(length, bytes.len());
    received
}

fn answered(bytes: &[u8]) -> WelcomeReceived {
    match Answer::parse(bytes) {
        Ok(Some((Answer::Welcome(welcome), length))) if length == bytes.len() => *welcome,
        other => panic!("no whole welcome: {other:?}"),
    }
}

/// `HMAC-SHA256(key, pieces)`, without a line of the code under test.
fn sign(key: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &pieces.concat()).as_ref().to_vec()
}

/// Gives a message `extra` bytes before its last `proofs`, and the length that goes with it.
fn extended(message: &[u8], proofs: usize, extra: &[u8]) -> Vec<u8> {
    let (fields, proofs) = message.split_at(message.len() - proofs);
    with_length([fields, extra, proofs].concat())
}

fn with_length(mut message: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a length of two bytes");
    message[12..14].copy_from_slice(&length.to_le_bytes());
    message
}

#[test]
fn a_hello_is_these_bytes_and_these_proofs() {
    let mut due = [&b"everlink"[..], &[1, 1, 1, 3], &166u16.to_le_bytes(), &[0x1d; 16]].concat();
    due.extend([8, 7, 6, 5, 4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]);
    due.extend([0xce; 32]);
    due.extend([0x88, 0x13, 0, 0, 0xb8, 0x0b, 0, 0, 3, 0, 0, 0]);
    due.extend([0x60, 0xea, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    due.extend(sign(&[0x5e; 32], &[b"resume", &BINDING, &due]));
    due.extend(sign(b"a token of some length", &[b"token", &BINDING, &due]));
    assert_eq!(hello().encode(Some(&secret()), Some(&token()), &BINDING), due);
}

#[test]
fn a_welcome_is_these_bytes_and_this_proof() {
    let hello = hello().encode(Some(&secret()), None, &BINDING);
    let mut due = [&b"everlink"[..], &[2, 1, 1, 0], &173u16.to_le_bytes(), &[0x1d; 16]].concat();
    due.extend([7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    due.extend([0xcf; 32]);
    due.extend([0x1c; 16]);
    due.extend([0xa0, 0x0f, 0, 0, 0xd0, 0x07, 0, 0, 5, 0, 0, 0]);
    due.extend([0x30, 0x75, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0]);
    due.extend([0, 4, 0, 0]);
    due.extend(b"\x04gw-1\x0d10.0.0.7:7443");
    due.extend(sign(&[0x5e; 32], &[b"welcome", &BINDING, &hello, &due]));
    assert_eq!(welcome().encode(&secret(), &BINDING, &hello), due);
}

#[test]
fn a_refusal_is_these_bytes() {
    let due = [&b"everlink"[..], &[3, 1, 1, 0, 24, 0, 4, 0xdc, 5, 0, 0], b"\x04gw-1"].concat();
    assert_eq!(refusal().encode(), due);
}

#[test]
fn only_the_right_key_on_the_right_connection_proves() {
    let sent = received(&hello().encode(Some(&secret()), Some(&token()), &BINDING));
    assert!(sent.proves_session(&secret(), &BINDING) && sent.proves_token(&token(), &BINDING));
    assert!(!sent.proves_session(&secret(), &[0; 32]) && !sent.proves_token(&token(), &[0; 32]));
    assert!(!sent.proves_session(&Secret::new([0x5f; 32]), &BINDING));
    for length in 16..200 {
        let other = Token::new(&b"a token of some length".repeat(10)[..length]).expect("long enough");
        assert_eq!(sent.proves_token(&other, &BINDING), length == 22, "{length} bytes");
    }
}

#[test]
fn a_key_of_one_kind_proves_nothing_of_the_other() {
    let both = Token::new(&[0x5e; 32]).expect("long enough");
    let resume = received(&hello().encode(Some(&secret()), None, &BINDING));
    assert!(!resume.proves_token(&both, &BINDING));
    // The resume proof in the token's place, under the token's flag.
    let mut bytes = resume.bytes().to_vec();
    bytes[11] = HAS_TOKEN_PROOF;
    let proof = sign(&[0x5e; 32], &[b"resume", &BINDING, &bytes[..102], &[0; 32]]);
    bytes[102..134].fill(0);
    bytes[134..].copy_from_slice(&proof);
    assert!(!received(&bytes).proves_token(&both, &BINDING));
}

#[test]
fn a_missing_proof_proves_nothing() {
    for (with_secret, with_token) in [(false, false), (true, false), (false, true), (true, true)] {
        let bytes = hello().encode(with_secret.then(secret).as_ref(), with_token.then(token).as_ref(), &BINDING);
        assert_eq!(bytes.len(), 166);
        let sent = received(&bytes);
        assert_eq!(sent.proves_session(&secret(), &BINDING), with_secret);
        assert_eq!(sent.proves_token(&token(), &BINDING), with_token);
        // The proof is there and right, only its flag is not: it counts as absent, and then as garbage.
        for flag in [HAS_RESUME_PROOF, HAS_TOKEN_PROOF] {
            let mut bytes = bytes.clone();
            if bytes[11] & flag != 0 {
                bytes[11] &= !flag;
                assert!(matches!(Received::parse(&bytes), Err(HelloError::Malformed(_))));
            }
        }
    }
}

#[test]
fn a_new_session_has_no_past() {
    let new = Hello { session: SessionId::NEW, received: 0, ..hello() };
    let sent = received(&new.encode(Some(&secret()), Some(&token()), &BINDING));
    assert!(!sent.proves_session(&secret(), &BINDING) && sent.proves_token(&token(), &BINDING));
    let with_offset = Hello { received: 1, ..new }.encode(None, None, &BINDING);
    assert_eq!(Received::parse(&with_offset), Err(HelloError::Malformed("a new session with a past")));
    let mut with_proof = hello().encode(Some(&secret()), None, &BINDING);
    with_proof[14..30].fill(0);
    with_proof[38..46].fill(0);
    assert_eq!(Received::parse(&with_proof), Err(HelloError::Malformed("a new session with a past")));
}

#[test]
fn a_welcome_is_bound_to_secret_connection_and_hello() {
    let hello = hello().encode(Some(&secret()), None, &BINDING);
    let sent = answered(&welcome().encode(&secret(), &BINDING, &hello));
    assert!(sent.is_proven(&secret(), &BINDING, &hello));
    assert!(!sent.is_proven(&Secret::new([0; 32]), &BINDING, &hello));
    assert!(!sent.is_proven(&secret(), &[0; 32], &hello));
    for at in 0..hello.len() {
        let mut other = hello.clone();
        other[at] ^= 1;
        assert!(!sent.is_proven(&secret(), &BINDING, &other), "byte {at} of the hello");
    }
}

#[test]
fn every_truncation_asks_for_more() {
    let hello = hello().encode(Some(&secret()), Some(&token()), &BINDING);
    for length in 0..hello.len() {
        assert_eq!(Received::parse(&hello[..length]), Ok(None), "{length} bytes");
    }
    for answer in [welcome().encode(&secret(), &BINDING, &hello), refusal().encode()] {
        for length in 0..answer.len() {
            assert_eq!(Answer::parse(&answer[..length]), Ok(None), "{length} bytes");
        }
        let followed = [&answer[..], b"frames"].concat();
        assert!(matches!(Answer::parse(&followed), Ok(Some((_, length))) if length == answer.len()));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let hello = hello().encode(Some(&secret()), Some(&token()), &BINDING);
    let welcome = welcome().encode(&secret(), &BINDING, &hello);
    for bit in 0..hello.len() * 8 {
        let mut flipped = hello.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(Some((sent, _))) = Received::parse(&flipped) {
            assert!(!sent.proves_token(&token(), &BINDING), "bit {bit}");
            let covered = bit / 8 < hello.len() - PROOF_LENGTH;
            assert_ne!(sent.proves_session(&secret(), &BINDING), covered, "bit {bit}");
        }
    }
    for bit in 0..welcome.len() * 8 {
        let mut flipped = welcome.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(Some((Answer::Welcome(sent), _))) = Answer::parse(&flipped) {
            assert!(!sent.is_proven(&secret(), &BINDING, &hello), "bit {bit}");
        }
    }
}

#[test]
fn a_stranger_is_known_by_the_first_wrong_byte() {
    for stranger in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-", b"\x16\x03\x01\x02\x00", b"e\0", b"everlinK"] {
        let wrong = stranger.iter().zip(b"everlink").position(|(a, b)| a != b).expect("it differs");
        for length in 0..stranger.len() {
            let due = if length > wrong { Err(HelloError::Magic) } else { Ok(None) };
            assert_eq!(Received::parse(&stranger[..length]), due);
        }
    }
    assert_eq!(Received::parse(b"everlink\x02"), Err(HelloError::Kind(2)));
    assert_eq!(Answer::parse(b"everlink\x01"), Err(HelloError::Kind(1)));
}

#[test]
fn a_length_out_of_bounds_is_an_error_at_once() {
    for (length, sound) in [(0, false), (13, false), (14, true), (4096, true), (4097, false), (65_535, false)] {
        let head = [&b"everlink\x01\x01\x01\0"[..], &u16::to_le_bytes(length)].concat();
        let parsed = Received::parse(&head);
        if sound && length > 14 {
            assert_eq!(parsed, Ok(None));
        } else if sound {
            assert!(matches!(parsed, Err(HelloError::Malformed(_))));
        } else {
            assert_eq!(parsed, Err(HelloError::Length(length)));
        }
    }
    // One byte short of its last field, for each kind.
    let hello = Hello { session: SessionId::NEW, received: 0, ..hello() }.encode(None, None, &BINDING);
    assert!(matches!(Received::parse(&with_length(hello[..165].to_vec())), Err(HelloError::Malformed(_))));
    let named = refusal().encode();
    assert!(matches!(Answer::parse(&with_length(named[..23].to_vec())), Err(HelloError::Malformed(_))));
}

#[test]
fn a_hello_of_another_version_is_told_from_garbage_when_it_is_whole() {
    let other = Hello { versions: (2, 9), ..hello() };
    // Laid out as nobody knows yet, and with flags of its own.
    let mut bytes = [&other.encode(None, None, &BINDING)[..20], b"who knows"].concat();
    bytes[11] = 0b1000;
    let bytes = with_length(bytes);
    assert_eq!(Received::parse(&bytes[..28]), Ok(None));
    assert_eq!(Received::parse(&bytes), Err(HelloError::Version { lowest: 2, highest: 9 }));
    let range = Hello { versions: (1, 9), ..hello() }.encode(None, None, &BINDING);
    assert_eq!(received(&range).hello.versions, (1, 9));
    for backwards in [(0, 1), (2, 1)] {
        let bytes = Hello { versions: backwards, ..hello() }.encode(None, None, &BINDING);
        assert!(matches!(Received::parse(&bytes), Err(HelloError::Malformed(_))));
    }
    // The answer can be read by whoever speaks whatever.
    let answer = Refusal { code: Code::Version, versions: (7, 8), name: None, ..refusal() };
    let bytes = answer.encode();
    assert_eq!(Answer::parse(&bytes), Ok(Some((Answer::Refusal(answer), bytes.len()))));
    let unasked = Welcome { version: 2, ..welcome() }.encode(&secret(), &BINDING, b"");
    assert_eq!(Answer::parse(&unasked), Err(HelloError::Version { lowest: 2, highest: 2 }));
}

#[test]
fn flags_of_the_low_half_must_be_known_those_of_the_high_half_need_not() {
    let hello = hello().encode(None, None, &BINDING);
    let (welcome, refusal) = (welcome().encode(&secret(), &BINDING, &hello), refusal().encode());
    for bit in 0..8 {
        let flagged = |message: &[u8]| {
            let mut message = message.to_vec();
            message[11] |= 1 << bit;
            message
        };
        let unknown = HelloError::Flags(1 << bit);
        if (2..4).contains(&bit) {
            assert_eq!(Received::parse(&flagged(&hello)), Err(unknown));
        } else {
            assert!(matches!(Received::parse(&flagged(&hello)), Ok(Some(_))), "bit {bit}");
        }
        for answer in [&welcome, &refusal] {
            if bit < 4 {
                assert_eq!(Answer::parse(&flagged(answer)), Err(unknown));
            } else {
                assert!(matches!(Answer::parse(&flagged(answer)), Ok(Some(_))), "bit {bit}");
            }
        }
    }
}

#[test]
fn reserved_space_is_skipped_and_covered_by_the_proofs() {
    let plain = hello().encode(None, None, &BINDING);
    let mut bytes = extended(&plain, 64, b"of a later version");
    bytes[11] = HAS_RESUME_PROOF | HAS_TOKEN_PROOF;
    let end = bytes.len();
    let proof = sign(&[0x5e; 32], &[b"resume", &BINDING, &bytes[..end - 64]]);
    bytes[end - 64..end - 32].copy_from_slice(&proof);
    let proof = sign(b"a token of some length", &[b"token", &BINDING, &bytes[..end - 32]]);
    bytes[end - 32..].copy_from_slice(&proof);
    let sent = received(&bytes);
    assert_eq!(sent.hello, hello());
    assert!(sent.proves_session(&secret(), &BINDING) && sent.proves_token(&token(), &BINDING));
    bytes[102] ^= 1;
    let sent = received(&bytes);
    assert!(!sent.proves_session(&secret(), &BINDING) && !sent.proves_token(&token(), &BINDING));

    let longest = extended(&welcome().encode(&secret(), &BINDING, b""), 32, &[7; 4096 - 173]);
    assert_eq!(longest.len(), LONGEST);
    assert_eq!(answered(&longest).welcome, welcome());
    let extended = extended(&refusal().encode(), 0, b"\0\xff");
    assert_eq!(Answer::parse(&extended), Ok(Some((Answer::Refusal(refusal()), extended.len()))));
}

#[test]
fn texts_are_short_utf8_without_control_characters() {
    for bad in [&b"\xff"[..], b"\x1b[2J", b"a\nb", b"\xc2\x85", b"\xc3"] {
        let length = u8::try_from(bad.len()).expect("short");
        let bytes = [&b"everlink\x03\x01\x01\0\0\0\x01\0\0\0\0"[..], &[length], bad].concat();
        assert!(matches!(Answer::parse(&with_length(bytes)), Err(HelloError::Malformed(_))), "{bad:?}");
    }
    // What the other end would refuse is not sent.
    let odd = Welcome { name: "é".repeat(200) + "\n", advertise: Some("a".repeat(256)), ..welcome() };
    let odd = answered(&odd.encode(&secret(), &BINDING, b"")).welcome;
    assert_eq!((odd.name, odd.advertise), ("é".repeat(127), None));
    let whole = Welcome { name: "n".repeat(255), advertise: Some("a".repeat(255)), ..welcome() };
    assert_eq!(answered(&whole.encode(&secret(), &BINDING, b"")).welcome, whole);
}

#[test]
fn unknown_codes_and_welcomes_to_no_session_are_errors() {
    for code in [0, 6, 255] {
        let mut bytes = refusal().encode();
        bytes[14] = code;
        assert_eq!(Answer::parse(&bytes), Err(HelloError::Malformed("an unknown code")));
    }
    for code in Code::ALL {
        let sent = Refusal { code, ..refusal() };
        let bytes = sent.encode();
        assert_eq!(Answer::parse(&bytes), Ok(Some((Answer::Refusal(sent), bytes.len()))));
    }
    let nowhere = Welcome { session: SessionId::NEW, ..welcome() }.encode(&secret(), &BINDING, b"");
    assert_eq!(Answer::parse(&nowhere), Err(HelloError::Malformed("a welcome to no session")));
}

#[test]
fn numbers_of_a_peer_are_brought_into_range() {
    let beats = |interval, timeout, misses| Beats {
        interval: Duration::from_millis(interval),
        timeout: Duration::from_millis(timeout),
        misses,
    };
    assert_eq!(sane(beats(0, 0, 0)), beats(200, 50, 1));
    assert_eq!(sane(beats(u64::MAX, u64::MAX, u32::MAX)), beats(3_600_000, 60_000, 100));
    assert_eq!(sane(beats(5000, 3000, 3)), beats(5000, 3000, 3));
    let resume = |deadline, buffer| Resume { deadline: Duration::from_secs(deadline), buffer };
    assert_eq!(smaller(resume(60, 1), resume(30, 2)), resume(30, 1));
}

#[test]
fn nothing_shown_tells_a_proof() {
    let hello = hello().encode(Some(&secret()), Some(&token()), &BINDING);
    let sent = received(&hello);
    let shown = format!("{sent:?} {:?}", answered(&welcome().encode(&secret(), &BINDING, &hello)));
    let proof = format!("{:?}", &hello[134..138]);
    assert!(shown.contains("1d1d1d1d…") && !shown.contains(proof.trim_matches(['[', ']'])), "{shown}");
    assert!(!shown.contains("bytes"), "{shown}");
}

fn beats() -> impl Strategy<Value = Beats> {
    (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(interval, timeout, misses)| Beats {
        interval: Duration::from_millis(interval.into()),
        timeout: Duration::from_millis(timeout.into()),
        misses,
    })
}

fn resumes() -> impl Strategy<Value = Resume> {
    (any::<u32>(), any::<u64>())
        .prop_map(|(deadline, buffer)| Resume { deadline: Duration::from_millis(deadline.into()), buffer })
}

/// What a text may hold, 63 characters of up to four bytes at most.
const TEXT: &str = "[^\\p{Cc}]{1,63}";

prop_compose! {
    fn hellos()(
        session: [u8; 16], epoch: u64, received: u64, nonce: [u8; 32], highest in 1..=255u8,
        beats in beats(), resume in resumes(),
    ) -> Hello {
        let session = SessionId(session);
        let received = if session.is_new() { 0 } else { received };
        Hello { versions: (1, highest), session, epoch, received, nonce, beats, resume }
    }
}

prop_compose! {
    fn welcomes()(
        session in any::<[u8; 16]>().prop_filter("none", |id| *id != [0; 16]),
        epoch: u64, received: u64, nonce: [u8; 32], incarnation: [u8; 16], streams: u32,
        beats in beats(), resume in resumes(), name in TEXT, advertise in proptest::option::of(TEXT),
    ) -> Welcome {
        let session = SessionId(session);
        Welcome { version: 1, session, epoch, received, nonce, incarnation, beats, resume, streams, name, advertise }
    }
}

proptest! {
    #[test]
    fn hellos_arrive_as_they_were_sent(
        hello in hellos(), secret in proptest::option::of(any::<[u8; 32]>()),
        token in proptest::option::of(proptest::collection::vec(any::<u8>(), 16..100)), binding: [u8; 32],
    ) {
        let secret = secret.map(Secret::new);
        let token = token.map(|token| Token::new(&token).expect("long enough"));
        let sent = received(&hello.encode(secret.as_ref(), token.as_ref(), &binding));
        prop_assert_eq!(&sent.hello, &hello);
        prop_assert!(secret.is_none_or(|secret| sent.proves_session(&secret, &binding)));
        prop_assert!(token.is_none_or(|token| sent.proves_token(&token, &binding)));
    }

    #[test]
    fn answers_arrive_as_they_were_sent(welcome in welcomes(), hello: Vec<u8>, secret: [u8; 32], binding: [u8; 32]) {
        let secret = Secret::new(secret);
        let sent = answered(&welcome.encode(&secret, &binding, &hello));
        prop_assert!(sent.is_proven(&secret, &binding, &hello));
        prop_assert_eq!(sent.welcome, welcome);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..5u8, length in 0..400u16, random: bool,
    ) {
        let head = [&b"everlink"[..], &[kind, 1, 1, 0], &length.to_le_bytes()].concat();
        let bytes = if random { bytes } else { [head, bytes].concat() };
        if let Ok(Some((sent, length))) = Received::parse(&bytes) {
            prop_assert!(length <= bytes.len() && !sent.proves_session(&secret(), &BINDING));
        }
        if let Ok(Some((_, length))) = Answer::parse(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }
}
