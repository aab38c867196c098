//! The PROXY protocol's headers, of both versions.

use everlink::net::proxy_protocol::{LONGEST, Parsed, emit_v2, parse};

pub fn run(input: &[u8]) -> usize {
    let mut handled = input.len();
    let whole = parse(input);
    // However it comes cut, it is the same: more is needed until it is there, and then it stays what it is.
    let cut = |at: usize| parse(&input[..at]);
    let decided = |at: usize| cut(at) != Ok(Parsed::NeedMore);
    let shown = input.len().min(300);
    let first = (0..=shown).find(|&at| decided(at));
    if let Some(first) = first {
        handled += first * first / 2 + first;
        assert_eq!(cut(first), whole, "decided at {first} of {}", input.len());
    }
    if let Ok(Parsed::Header { source, destination, length, hops }) = whole {
        assert!(length <= input.len() && length <= LONGEST, "{length}");
        assert_eq!(source.is_some(), destination.is_some());
        assert_eq!(cut(length), whole, "the header alone");
        assert_eq!(cut(length - 1), Ok(Parsed::NeedMore), "without its last byte");
        let ours = emit_v2(source, destination, hops);
        let Ok(Parsed::Header { source: from, destination: to, length, hops: passed }) = parse(&ours) else {
            panic!("what we write is not read: {ours:?}");
        };
        let address = |address: std::net::SocketAddr| (address.ip().to_canonical(), address.port());
        assert_eq!(from.map(address), source.map(address));
        assert_eq!(to.map(address), destination.map(address));
        assert_eq!((length, passed), (ours.len(), hops));
        handled += ours.len();
    }
    handled
}
