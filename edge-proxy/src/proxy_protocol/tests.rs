use super::*;
use proptest::prelude::*;

fn ends(source: &str, destination: &str) -> Ends {
    Ends {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

#[test]
fn lines() {
    let v4 = ends("192.0.2.1:5000", "198.51.100.7:443");
    let v6 = ends("[2001:db8::1]:1", "[2001:db8::2]:65535");
    let header = |len, addresses| Ok(Begin::Header { len, addresses });
    let cases: [(&str, Result<Begin, HeaderError>); 15] = [
        (
            "PROXY TCP4 192.0.2.1 198.51.100.7 5000 443\r\nGET /",
            header(44, Some(v4)),
        ),
        (
            "PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
            header(44, Some(v6)),
        ),
        ("PROXY UNKNOWN\r\n", header(15, None)),
        ("PROXY UNKNOWN ffff::1 what ever\r\n", header(33, None)),
        ("", Ok(Begin::Incomplete)),
        ("PROX", Ok(Begin::Incomplete)),
        ("PROXY TCP4 192.0.2.1", Ok(Begin::Incomplete)),
        ("PROXYING", Ok(Begin::Other)),
        ("GET / HTTP/1.1\r\n", Ok(Begin::Other)),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", Err(HeaderError::Line)),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.7 5000 65536\r\n",
            Err(HeaderError::Line),
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.7 +5 443\r\n",
            Err(HeaderError::Line),
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.7 05 443\r\n",
            Err(HeaderError::Line),
        ),
        (
            "PROXY TCP4 192.0.2.1 198.51.100.7 5000 443 1\r\n",
            Err(HeaderError::Line),
        ),
        (
            "PROXY UDP4 192.0.2.1 198.51.100.7 5000 443\r\n",
            Err(HeaderError::Line),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    assert_eq!(parse(endless.as_bytes()), Err(HeaderError::Line));
}

#[test]
fn binaries() {
    let whole = write_binary(ends("192.0.2.1:5000", "198.51.100.7:443"));
    let changed = |at: usize, to: u8| {
        let mut bytes = whole.clone();
        bytes[at] = to;
        parse(&bytes)
    };
    let header = |len| {
        Ok(Begin::Header {
            len,
            addresses: None,
        })
    };
    assert_eq!(changed(12, 0x20), header(28), "LOCAL");
    assert_eq!(changed(13, 0x00), header(28), "unspecified");
    assert_eq!(changed(12, 0x11), Err(HeaderError::Binary), "version 1");
    assert_eq!(changed(12, 0x22), Err(HeaderError::Binary), "no command");
    assert_eq!(changed(13, 0x41), Err(HeaderError::Binary), "no family");
    assert_eq!(
        changed(13, 0x21),
        Err(HeaderError::Binary),
        "addresses too short"
    );
    assert_eq!(changed(14, 0xff), Err(HeaderError::TooLong));
    assert_eq!(changed(15, 13), Ok(Begin::Incomplete), "a TLV is missing");
}

fn any_ends() -> impl Strategy<Value = Ends> {
    let v4 =
        (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    let v6 = (any::<[u16; 8]>(), any::<[u16; 8]>())
        .prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
    (prop_oneof![v4, v6], any::<(u16, u16)>()).prop_map(|((source, destination), ports)| Ends {
        source: SocketAddr::new(source, ports.0),
        destination: SocketAddr::new(destination, ports.1),
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(ends in any_ends(), behind in any::<Vec<u8>>()) {
        for header in [write_line(ends), write_binary(ends)] {
            let len = header.len();
            for part in 0..len {
                prop_assert_eq!(parse(&header[..part]), Ok(Begin::Incomplete), "{} of {}", part, len);
            }
            let addresses = Some(ends);
            let whole = [&header[..], &behind].concat();
            prop_assert_eq!(parse(&whole), Ok(Begin::Header { len, addresses }));
        }
    }

    #[test]
    fn any_bytes_are_read(bytes in any::<Vec<u8>>(), begin in 0..3_usize) {
        let begin: &[u8] = [b"", V1_BEGIN, V2_BEGIN][begin];
        let bytes = [begin, &bytes].concat();
        if let Ok(Begin::Header { len, .. }) = parse(&bytes) {
            prop_assert!(len <= bytes.len() && len <= V2_LEN_MAX);
        }
    }
}
