use proptest::prelude::*;

use super::*;

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// What a header with nothing after it says: source, destination, hops.
fn said(bytes: &[u8]) -> (Option<SocketAddr>, Option<SocketAddr>, Option<u8>) {
    match parse(bytes) {
        Ok(Parsed::Header { source, destination, length, hops }) => {
            assert_eq!(length, bytes.len());
            (source, destination, hops)
        }
        other => panic!("no header: {other:?}"),
    }
}

fn refused(bytes: &[u8]) -> bool {
    parse(bytes).is_err()
}

fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a length of two bytes");
    [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), block].concat()
}

fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a length of two bytes");
    [&[kind][..], &length.to_be_bytes(), value].concat()
}

const INET: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];

fn inet(extensions: &[u8]) -> Vec<u8> {
    binary(PROXY, TCP4, &[&INET, extensions].concat())
}

fn inet_addresses() -> (Option<SocketAddr>, Option<SocketAddr>) {
    (Some(socket("192.0.2.1:56324")), Some(socket("198.51.100.2:443")))
}

#[test]
fn proxy_protocol_v1_lines_give_both_addresses() {
    let (source, destination) = inet_addresses();
    assert_eq!(said(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"), (source, destination, None));
    for source in ["2001:db8::1", "2001:DB8:0:0:0:0:0:1", "::ffff:192.0.2.1", "::"] {
        let line = format!("PROXY TCP6 {source} ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 0 65535\r\n");
        let source = SocketAddr::new(source.parse().expect("an address"), 0);
        let destination = socket("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535");
        assert_eq!(said(line.as_bytes()), (Some(source), Some(destination), None));
    }
}

#[test]
fn proxy_protocol_v1_the_line_ends_in_crlf_within_107_bytes() {
    let longest = [&b"PROXY UNKNOWN "[..], &[b'f'; 91], b"\r\n"].concat();
    assert_eq!((longest.len(), said(&longest)), (107, (None, None, None)));
    for length in 0..107 {
        assert_eq!(parse(&longest[..length]), Ok(Parsed::NeedMore), "{length} bytes");
    }
    let longer = [&b"PROXY UNKNOWN "[..], &[b'f'; 92], b"\r\n"].concat();
    assert_eq!(parse(&longer[..106]), Ok(Parsed::NeedMore));
    assert!(refused(&longer[..107]) && refused(&longer));
    for lone in [
        &b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n"[..],
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\rG",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\r\n",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWN a\rb\r\n",
        b"PROXY UNKNOWN a\nb\r\n",
    ] {
        assert!(refused(lone), "{:?}", String::from_utf8_lossy(lone));
    }
}

#[test]
fn proxy_protocol_v1_what_is_not_exactly_the_form_is_refused() {
    for bad in [
        "proxy TCP4 1.2.3.4 5.6.7.8 1 2",
        "Proxy TCP4 1.2.3.4 5.6.7.8 1 2",
        "PROXY tcp4 1.2.3.4 5.6.7.8 1 2",
        "PROXY unknown",
        "PROXY UNKNOWNS",
        "PROXY UNKNOWN\t",
        "PROXY ",
        "PROXY TCP4",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 ",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 ",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3",
        "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2",
        "PROXY TCP4  1.2.3.4 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.4  5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\t2",
        "PROXY TCP4 01.2.3.4 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.04 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.256 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3 5.6.7.8 1 2",
        "PROXY TCP4 0x1.2.3.4 5.6.7.8 1 2",
        "PROXY TCP4 1.2.3.4 5.6.7.8 01 2",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 00",
        "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2",
        "PROXY TCP4 1.2.3.4 5.6.7.8 -1 2",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536",
        "PROXY TCP4 1.2.3.4 5.6.7.8 99999999999999999999 2",
        "PROXY TCP4 1.2.3.4 5.6.7.8 a 2",
        "PROXY TCP4 1.2.3.4 5.6.7.8 ١ 2",
        "PROXY TCP4 ::1 ::2 1 2",
        "PROXY TCP6 1.2.3.4 5.6.7.8 1 2",
        "PROXY TCP6 ::1 5.6.7.8 1 2",
        "PROXY TCP6 ::1%lo ::2 1 2",
        "PROXY TCP6 [::1] ::2 1 2",
        "PROXY TCP6 1::2::3 ::2 1 2",
        "PROXY TCP6 00001::2 ::2 1 2",
        "PROXY TCP6 1:2:3:4:5:6:7 ::2 1 2",
        "PROXY UDP4 1.2.3.4 5.6.7.8 1 2",
    ] {
        assert!(refused(format!("{bad}\r\n").as_bytes()), "{bad}");
    }
    assert!(refused(b"PROXY TCP4 \xff 5.6.7.8 1 2\r\n"));
}

#[test]
fn proxy_protocol_v1_unknown_short_and_long_means_the_real_addresses() {
    for unknown in ["", " ", " ffff::1 ffff::2 65535 65535", " 1.2.3.4 5.6.7.8 1 2", " whatever  it is"] {
        assert_eq!(said(format!("PROXY UNKNOWN{unknown}\r\n").as_bytes()), (None, None, None));
    }
    assert_eq!(said(b"PROXY UNKNOWN \xff\x00\r\n"), (None, None, None));
}

#[test]
fn proxy_protocol_v2_gives_both_addresses() {
    let (source, destination) = inet_addresses();
    assert_eq!(said(&inet(&[])), (source, destination, None));
    let mut block = [[0x11; 16], [0x22; 16]].concat();
    block.extend([0, 80, 0xff, 0xff]);
    let (source, destination) = (
        socket("[1111:1111:1111:1111:1111:1111:1111:1111]:80"),
        socket("[2222:2222:2222:2222:2222:2222:2222:2222]:65535"),
    );
    assert_eq!(said(&binary(PROXY, TCP6, &block)), (Some(source), Some(destination), None));
}

#[test]
fn proxy_protocol_v2_local_unspecified_and_what_tcp_cannot_be_mean_the_real_addresses() {
    for block in [&[][..], &INET, &[0xff; 3], &[1; 300]] {
        assert_eq!(said(&binary(LOCAL, UNSPECIFIED, block)), (None, None, None), "{block:?}");
        assert_eq!(said(&binary(PROXY, UNSPECIFIED, block)), (None, None, None), "{block:?}");
        // The family of a LOCAL header is ignored, even one that is not assigned.
        for family in [TCP4, TCP6, 0x31, 0x4f, 0xff] {
            assert_eq!(said(&binary(LOCAL, family, block)), (None, None, None), "{family:#x} {block:?}");
        }
        // Half of the family unspecified.
        for family in [0x01, 0x02, 0x10, 0x20, 0x30] {
            assert_eq!(said(&binary(PROXY, family, block)), (None, None, None), "{family:#x} {block:?}");
        }
    }
    for (family, length) in [(0x12, 12), (0x22, 36), (0x31, 216), (0x32, 216)] {
        assert_eq!(said(&binary(PROXY, family, &vec![1; length])), (None, None, None), "{family:#x}");
    }
}

#[test]
fn proxy_protocol_v2_unassigned_versions_commands_families_and_protocols_are_refused_at_once() {
    for command in 0..=255u8 {
        let header = binary(command, TCP4, &INET);
        assert_eq!(refused(&header[..13]), !matches!(command, LOCAL | PROXY), "{command:#x}");
    }
    for family in 0..=255u8 {
        let header = binary(PROXY, family, &[0; 216]);
        assert_eq!(refused(&header[..14]), family >> 4 > 3 || family & 0xf > 2, "{family:#x}");
    }
}

#[test]
fn proxy_protocol_v2_a_length_that_is_too_short_or_past_the_cap_is_refused_at_once() {
    for (family, needs) in [(TCP4, 12), (0x12, 12), (TCP6, 36), (0x22, 36), (0x31, 216), (0x32, 216)] {
        for length in 0..needs {
            assert!(refused(&binary(PROXY, family, &vec![0; length])[..FIXED]), "{family:#x} {length}");
        }
        assert_eq!(parse(&binary(PROXY, family, &vec![0; needs])[..FIXED]), Ok(Parsed::NeedMore));
    }
    let filler = |length: usize| extension(0x04, &vec![0; length - 3]);
    let (source, destination) = inet_addresses();
    assert_eq!(said(&inet(&filler(LONGEST - FIXED - 12))), (source, destination, None));
    assert!(refused(&inet(&filler(LONGEST - FIXED - 11))[..FIXED]));
    assert!(refused(&binary(LOCAL, UNSPECIFIED, &[0; 65_535])[..FIXED]));
}

#[test]
fn proxy_protocol_v2_extensions_unknown_or_empty_are_skipped_and_past_the_end_refused() {
    let (source, destination) = inet_addresses();
    for kind in (0..=255).filter(|kind| *kind != TYPE_CRC32C) {
        for value in [&[][..], &[7; 8], &[0xff; 100]] {
            let two = [extension(kind, value), extension(0x04, b"")].concat();
            assert_eq!(said(&inet(&two)), (source, destination, None), "{kind:#x}");
        }
    }
    for bad in [&[0x04][..], &[0x04, 0], &[0x04, 0, 1], &[0x04, 0xff, 0xff, 0], &[0x04, 0, 0, 0x20, 0, 2, 1]] {
        assert!(refused(&inet(bad)), "{bad:?}");
    }
}

#[test]
fn proxy_protocol_v2_a_checksum_is_checked_wherever_it_stands() {
    let header = |before: &[u8], after: &[u8]| {
        let mut header = inet(&[before, &extension(TYPE_CRC32C, &[0; 4]), after].concat());
        let place = FIXED + 12 + before.len() + 3;
        let checksum = crc32c(header.iter().copied());
        header[place..place + 4].copy_from_slice(&checksum.to_be_bytes());
        header
    };
    let (source, destination) = inet_addresses();
    for (before, after) in [(vec![], vec![]), (extension(0x04, b"pad"), extension(0x02, b"example.com"))] {
        let good = header(&before, &after);
        assert_eq!(said(&good), (source, destination, None));
        for bit in FIXED * 8..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A flip in the checksum's own type or length hides it; everything else is noticed.
            let own = FIXED + 12 + before.len();
            assert!(refused(&bad) || (own..own + 3).contains(&(bit / 8)), "bit {bit}");
        }
    }
    for bad in [&[][..], &[0; 3], &[0; 5]] {
        assert!(refused(&inet(&extension(TYPE_CRC32C, bad))), "{bad:?}");
    }
    let twice = header(&extension(TYPE_CRC32C, &[0; 4]), b"");
    assert!(refused(&twice));
    assert!(refused(&binary(LOCAL, UNSPECIFIED, &extension(TYPE_CRC32C, &[1; 4]))));
}

#[test]
fn proxy_protocol_any_header_may_come_byte_by_byte() {
    let headers = [
        b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        inet(&extension(0x02, b"example.com")),
        binary(LOCAL, UNSPECIFIED, &[]),
        binary(LOCAL, TCP6, &[1; 20]),
    ];
    for header in headers {
        for length in 0..header.len() {
            assert_eq!(parse(&header[..length]), Ok(Parsed::NeedMore), "{length} of {header:?}");
        }
        said(&header);
    }
}

#[test]
fn proxy_protocol_a_connection_without_a_header_is_refused_by_its_first_wrong_byte() {
    for (stranger, wrong) in [(&b"GET / HTTP/1.1\r\n"[..], 0), (b"\x16\x03\x01", 0), (b"POST /", 1), (b"\r\nGET", 2)] {
        assert_eq!(parse(&stranger[..wrong]), Ok(Parsed::NeedMore));
        assert!(refused(&stranger[..=wrong]), "{stranger:?}");
    }
}

#[test]
fn proxy_protocol_what_follows_the_header_is_payload_whatever_it_looks_like() {
    let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n".to_vec();
    for header in [line, inet(&[]), binary(LOCAL, UNSPECIFIED, &[])] {
        let alone = parse(&header);
        for payload in [&b"GET / HTTP/1.1\r\n\r\n"[..], &header, &extension(TYPE_HOPS, &[9]), &[0xff; 5000], b"\n"] {
            assert_eq!(parse(&[&header, payload].concat()), alone);
        }
    }
}

#[test]
fn proxy_protocol_hops_are_ours_only_with_one_byte_and_the_largest_holds() {
    let (source, destination) = inet_addresses();
    let hops = |values: &[&[u8]]| {
        said(&inet(&values.iter().flat_map(|value| extension(TYPE_HOPS, value)).collect::<Vec<_>>()))
    };
    assert_eq!(hops(&[&[3]]), (source, destination, Some(3)));
    assert_eq!(hops(&[&[3], &[7], &[1]]), (source, destination, Some(7)));
    // Google's private service connect: 8 bytes under the same type.
    assert_eq!(hops(&[&[0, 0, 0, 0, 0, 0, 0, 9]]), (source, destination, None));
    assert_eq!(hops(&[&[]]), (source, destination, None));
}

#[test]
fn proxy_protocol_v2_written_is_these_bytes() {
    let (source, destination) = inet_addresses();
    let mut due = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".to_vec();
    due.extend([192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb, 0xe0, 0, 1, 2]);
    assert_eq!(emit_v2(source, destination, Some(2)), due);
    assert_eq!(emit_v2(None, None, None), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    for (source, destination) in [(None, None), (source, None), (None, destination)] {
        assert_eq!(emit_v2(source, destination, Some(1)), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\x04\xe0\0\x01\x01");
        assert_eq!(said(&emit_v2(source, destination, Some(1))), (None, None, Some(1)));
    }
}

#[test]
fn proxy_protocol_v2_addresses_of_two_families_are_told_as_ipv6() {
    let (four, six) = (socket("192.0.2.1:5"), socket("[2001:db8::1]:6"));
    let mapped = socket("[::ffff:192.0.2.1]:5");
    for (source, destination, due) in [
        (four, six, (mapped, six)),
        (six, four, (six, mapped)),
        (mapped, six, (mapped, six)),
        // A listener for both families calls its IPv4 clients so.
        (mapped, mapped, (four, four)),
        (mapped, four, (four, four)),
    ] {
        let header = emit_v2(Some(source), Some(destination), None);
        assert_eq!(said(&header), (Some(due.0), Some(due.1), None));
    }
}

proptest! {
    #[test]
    fn proxy_protocol_what_is_written_reads_back(
        source: Option<std::net::SocketAddrV4>, destination: std::net::SocketAddrV4, hops: Option<u8>,
    ) {
        let (source, destination) = (source.map(SocketAddr::V4), SocketAddr::V4(destination));
        let due = (source, source.and(Some(destination)), hops);
        prop_assert_eq!(said(&emit_v2(source, Some(destination), hops)), due);
    }

    #[test]
    fn proxy_protocol_no_bytes_make_it_panic(
        start in 0..3usize, bytes in proptest::collection::vec(any::<u8>(), 0..400), small: bool,
    ) {
        let start = [&b""[..], b"PROXY ", SIGNATURE][start];
        let mut bytes = [start, &bytes].concat();
        if let (true, Some(fixed)) = (small && start == SIGNATURE, bytes.get_mut(12..15)) {
            fixed.copy_from_slice(&[0x20 | fixed[0] & 1, [0, 0x11, 0x21, 0x31][usize::from(fixed[1] & 3)], 0]);
        }
        if let Ok(Parsed::Header { length, source, destination, .. }) = parse(&bytes) {
            prop_assert!(length <= bytes.len() && length <= LONGEST);
            prop_assert_eq!(source.is_some(), destination.is_some());
        }
    }
}
