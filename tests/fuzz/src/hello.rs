//! The first messages of a connection: the Hello as a gateway reads it, its answer as a dialer does.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use everlink::session::hello::{
    Answer, Beats, Code, Hello, HelloError, LONGEST, Received, Refusal, Resume, Secret, SessionId, Token, Welcome,
};

/// The first byte says whether the rest is the bytes of a message or what a message is to be made of.
pub fn run(input: &[u8]) -> usize {
    match input.split_first() {
        Some((0..=127, bytes)) => read(bytes),
        Some((_, bytes)) => write(bytes),
        None => 0,
    }
}

/// A proof costs a digest of 4 KiB at most, and there are a few of each.
const PROOFS: usize = 8 * LONGEST;

fn secret() -> Secret {
    Secret::new([7; 32])
}

fn token() -> Token {
    Token::new(b"a token for the fuzzer").unwrap_or_else(|error| panic!("{error}"))
}

fn read(bytes: &[u8]) -> usize {
    let hello = Received::parse(bytes);
    one_cut(bytes, &hello, Received::parse);
    if let Ok(Some((received, length))) = &hello {
        assert_eq!(received.bytes(), &bytes[..*length]);
        // Nobody proves by chance what only these two know.
        assert!(!received.proves_session(&secret(), &[3; 32]));
        assert!(!received.proves_token(&token(), &[3; 32]));
        let again = received.hello.encode(None, None, &[0; 32]);
        if received.hello.session.is_new() || received.hello.received > 0 {
            let (again, _) = whole(Received::parse(&again));
            assert_eq!(again.hello, received.hello);
        }
    }
    let answer = Answer::parse(bytes);
    one_cut(bytes, &answer, Answer::parse);
    match &answer {
        Ok(Some((Answer::Welcome(received), _))) => {
            assert!(!received.is_proven(&secret(), &[3; 32], b"hello"));
            let (again, _) = whole(Answer::parse(&received.welcome.encode(&secret(), &[0; 32], b"hello")));
            let Answer::Welcome(again) = again else { panic!("a welcome became a refusal") };
            assert_eq!(again.welcome, received.welcome);
        }
        Ok(Some((Answer::Refusal(refusal), _))) => {
            assert_eq!(whole(Answer::parse(&refusal.encode())).0, Answer::Refusal(refusal.clone()));
        }
        Ok(None) | Err(_) => {}
    }
    bytes.len() + PROOFS
}

fn whole<T>(parsed: Result<Option<(T, usize)>, HelloError>) -> (T, usize) {
    parsed.unwrap_or_else(|error| panic!("{error}")).unwrap_or_else(|| panic!("not all of it was there"))
}

/// A message is the same with or without what follows it, and not one without its last byte.
fn one_cut<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    parsed: &Result<Option<(T, usize)>, HelloError>,
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, HelloError>,
) {
    match parsed {
        Ok(Some((_, length))) => {
            assert!(*length <= bytes.len() && *length <= LONGEST);
            assert_eq!(&parse(&bytes[..*length]), parsed);
            assert_eq!(parse(&bytes[..*length - 1]), Ok(None));
        }
        Ok(None) => assert!(bytes.len() < LONGEST, "it waits for more than a message may have"),
        Err(_) => {}
    }
}

#[derive(Debug, Arbitrary)]
struct Parts<'a> {
    session: [u8; 16],
    epoch: u64,
    received: u64,
    nonce: [u8; 32],
    beats: [u32; 3],
    deadline: u32,
    buffer: u64,
    with_secret: bool,
    with_token: bool,
    incarnation: [u8; 16],
    streams: u32,
    code: u8,
    name: &'a str,
    advertise: Option<&'a str>,
    /// Bytes of the message that are changed afterwards.
    flips: [(u16, u8); 2],
}

fn write(bytes: &[u8]) -> usize {
    let Ok(parts) = Parts::arbitrary(&mut Unstructured::new(bytes)) else { return bytes.len() };
    let millis = |millis: u32| Duration::from_millis(millis.into());
    let [interval, timeout, misses] = parts.beats;
    let beats = Beats { interval: millis(interval), timeout: millis(timeout), misses };
    let resume = Resume { deadline: millis(parts.deadline), buffer: parts.buffer };
    let session = SessionId(parts.session);
    let received = if session.is_new() { 0 } else { parts.received };
    let hello = Hello { versions: (1, 1), session, epoch: parts.epoch, received, nonce: parts.nonce, beats, resume };
    let (secret, token, binding) = (secret(), token(), [9; 32]);
    let said = hello.encode(parts.with_secret.then_some(&secret), parts.with_token.then_some(&token), &binding);
    let (heard, length) = whole(Received::parse(&said));
    assert_eq!((&heard.hello, length), (&hello, said.len()));
    assert_eq!(heard.proves_session(&secret, &binding), parts.with_secret && !session.is_new());
    assert_eq!(heard.proves_token(&token, &binding), parts.with_token);
    assert!(!heard.proves_token(&token, &[8; 32]), "on another connection");

    let flipped = flip(&said, &parts.flips);
    if flipped != said
        && let Ok(Some((heard, _))) = Received::parse(&flipped)
    {
        assert!(!heard.proves_token(&token, &binding), "a changed hello is proven");
        // The token's proof covers this one, not the other way round.
        let end = said.len() - 32;
        if flipped.get(..end) != said.get(..end) {
            assert!(!heard.proves_session(&secret, &binding), "a changed hello is proven");
        }
    }

    let mut id = parts.session;
    id[0] |= 1;
    let welcome = Welcome {
        version: 1,
        session: SessionId(id),
        epoch: parts.epoch,
        received: parts.received,
        nonce: parts.nonce,
        incarnation: parts.incarnation,
        beats,
        resume,
        streams: parts.streams,
        name: parts.name.to_owned(),
        advertise: parts.advertise.map(str::to_owned),
    };
    let answer = welcome.encode(&secret, &binding, &said);
    let (Answer::Welcome(told), length) = whole(Answer::parse(&answer)) else { panic!("no welcome") };
    assert_eq!(length, answer.len());
    assert!(told.is_proven(&secret, &binding, &said) && !told.is_proven(&secret, &binding, b"another"));
    assert!(welcome.name.contains(&told.welcome.name) || welcome.name.contains(char::is_control));
    assert!(told.welcome.advertise.is_none() || told.welcome.advertise == welcome.advertise);
    let same = Welcome { name: String::new(), advertise: None, ..welcome };
    assert_eq!(Welcome { name: String::new(), advertise: None, ..told.welcome.clone() }, same);
    let flipped = flip(&answer, &parts.flips);
    if flipped != answer
        && let Ok(Some((Answer::Welcome(told), _))) = Answer::parse(&flipped)
    {
        assert!(!told.is_proven(&secret, &binding, &said), "a changed welcome is proven");
    }

    let code = Code::ALL[usize::from(parts.code) % Code::ALL.len()];
    let refusal = Refusal { code, retry_after: millis(timeout), versions: (1, 1), name: Some(parts.name.to_owned()) };
    let (Answer::Refusal(told), _) = whole(Answer::parse(&refusal.encode())) else { panic!("no refusal") };
    assert_eq!((told.code, told.retry_after), (refusal.code, refusal.retry_after));
    bytes.len() + PROOFS
}

fn flip(bytes: &[u8], flips: &[(u16, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, mask) in flips {
        let at = usize::from(*at) % bytes.len();
        bytes[at] ^= mask;
    }
    bytes
}
