use super::*;
use proptest::prelude::*;

/// What a request's bytes give, with a `Host` unless the text has one.
fn read(text: &str) -> Result<Option<RequestHead>, Fault> {
    take_request(&mut BytesMut::from(text), &mut HeadEnd::default())
}

fn with_lines(lines: &str) -> Result<Option<RequestHead>, Fault> {
    read(&format!("POST /a HTTP/1.1\r\nHost: shop\r\n{lines}\r\n"))
}

#[test]
fn what_is_not_exactly_a_request_is_refused() {
    let many = "a: b\r\n".repeat(HEADERS_MAX);
    let long = format!("a: {}\r\n", "b".repeat(HEAD_LEN_MAX));
    let cases = [
        (
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            Fault::LengthAndCoding,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            Fault::LengthAndCoding,
        ),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", Fault::Length),
        ("Content-Length: 1\r\nContent-Length: 1\r\n", Fault::Length),
        ("Content-Length: 1, 1\r\n", Fault::Length),
        ("Content-Length: +1\r\n", Fault::Length),
        ("Content-Length: -1\r\n", Fault::Length),
        ("Content-Length: 1 1\r\n", Fault::Length),
        ("Content-Length: 0x1\r\n", Fault::Length),
        ("Content-Length:\r\n", Fault::Length),
        ("Content-Length: 9999999999999999999\r\n", Fault::Length),
        ("Transfer-Encoding: xchunked\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked;a=b\r\n", Fault::Coding),
        ("Transfer-Encoding: \"chunked\"\r\n", Fault::Coding),
        ("Transfer-Encoding: identity\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked, identity\r\n", Fault::Coding),
        ("Transfer-Encoding: chunked, chunked\r\n", Fault::Coding),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Fault::Coding,
        ),
        ("Transfer-Encoding:\r\n", Fault::Coding),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: ,\r\n",
            Fault::Coding,
        ),
        ("Transfer-Encoding: gzip, chunked\r\n", Fault::CodingUnknown),
        ("Transfer-Encoding : chunked\r\n", Fault::HeaderLine),
        ("a: b\r\n c\r\n", Fault::HeaderLine),
        ("a: b\r\n\tc\r\n", Fault::HeaderLine),
        (" a: b\r\n", Fault::HeaderLine),
        ("a: b\rc: d\r\n", Fault::HeaderLine),
        ("a: b\0c\r\n", Fault::HeaderLine),
        ("a\0: b\r\n", Fault::HeaderLine),
        ("a b: c\r\n", Fault::HeaderLine),
        ("a\r\n", Fault::HeaderLine),
        (": a\r\n", Fault::HeaderLine),
        ("a: b\n", Fault::BareLineFeed),
        ("a: b\nTransfer-Encoding: chunked\r\n", Fault::BareLineFeed),
        ("Host: shop\r\n", Fault::Host),
        ("Host: other\r\n", Fault::Host),
        (&many, Fault::TooManyHeaders),
        (&long, Fault::HeadTooLong),
    ];
    for (lines, fault) in cases {
        let shown = &lines[..lines.len().min(60)];
        assert_eq!(with_lines(lines).err(), Some(fault), "{shown:?}");
    }
}

#[test]
fn first_lines_and_hosts_that_are_refused() {
    let host = "Host: shop\r\n\r\n";
    let cases = [
        ("GET  /a HTTP/1.1\r\n", host, Fault::FirstLine),
        ("GET /a  HTTP/1.1\r\n", host, Fault::Version),
        ("GET /a HTTP/1.1 \r\n", host, Fault::FirstLine),
        ("GET /a b HTTP/1.1\r\n", host, Fault::Version),
        ("GET\t/a HTTP/1.1\r\n", host, Fault::FirstLine),
        ("GET /a\r\n", host, Fault::FirstLine),
        ("GET /a HTTP/2.0\r\n", host, Fault::Version),
        ("GET /a HTTP/1.2\r\n", host, Fault::Version),
        ("GET /a http/1.1\r\n", host, Fault::Version),
        (" GET /a HTTP/1.1\r\n", host, Fault::FirstLine),
        ("\nGET /a HTTP/1.1\r\n", host, Fault::FirstLine),
        ("G\0T /a HTTP/1.1\r\n", host, Fault::FirstLine),
        ("GET /a\r HTTP/1.1\r\n", host, Fault::FirstLine),
        ("\x16\x03\x01\x02", "", Fault::FirstLine),
        ("GET a HTTP/1.1\r\n", host, Fault::Target),
        ("GET * HTTP/1.1\r\n", host, Fault::Target),
        ("GET shop:80 HTTP/1.1\r\n", host, Fault::Target),
        ("CONNECT /a HTTP/1.1\r\n", host, Fault::Target),
        ("GET /a HTTP/1.1\r\n", "\r\n", Fault::Host),
        ("GET /a HTTP/1.1\r\n", "Host: a b\r\n\r\n", Fault::Host),
        ("GET /a HTTP/1.1\r\n", "Host: a,b\r\n\r\n", Fault::Host),
        ("GET /a HTTP/1.1\r\n", "Host: a/b\r\n\r\n", Fault::Host),
        ("GET /a HTTP/1.1\r\n", "Host: a@b\r\n\r\n", Fault::Host),
        (
            "POST /a HTTP/1.0\r\n",
            "Transfer-Encoding: chunked\r\n\r\n",
            Fault::Coding,
        ),
    ];
    for (line, rest, fault) in cases {
        let text = format!("{line}{rest}");
        assert_eq!(read(&text).err(), Some(fault), "{text:?}");
    }
}

#[test]
fn requests_that_are_taken() {
    let head = with_lines("Content-Length: 2\r\n").unwrap().unwrap();
    assert_eq!((head.length, head.whole), (BodyLength::Exactly(2), None));
    assert!(head.keep_alive && !head.expects_continue);
    let head = with_lines("transfer-encoding: CHUNKED\r\nExpect: 100-Continue\r\n");
    let head = head.unwrap().unwrap();
    assert_eq!(
        (head.length, head.expects_continue),
        (BodyLength::Chunked, true)
    );
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        (
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: Close\r\n\r\n",
            false,
        ),
        (
            "GET / HTTP/1.1\r\nHost:\r\nConnection: x, close\r\n\r\n",
            false,
        ),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", true),
    ];
    for (text, keep_alive) in cases {
        let head = read(text).unwrap().unwrap();
        assert_eq!(head.keep_alive, keep_alive, "{text:?}");
        assert_eq!(head.whole.as_deref(), Some(&b""[..]), "{text:?}");
    }
}

#[test]
fn a_short_body_comes_with_its_head_and_the_next_request_stays() {
    let text = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP";
    let mut bytes = BytesMut::from(text);
    let head = take_request(&mut bytes, &mut HeadEnd::default());
    assert_eq!(head.unwrap().unwrap().whole.as_deref(), Some(&b"abc"[..]));
    assert_eq!(bytes, "GET / HTTP");
}

#[test]
fn an_upgrade_is_noticed_when_both_headers_say_so() {
    let both = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
    let head = with_lines(both).unwrap().unwrap();
    let upgrade = head.request.extensions.get::<Upgrade>();
    assert_eq!(
        upgrade,
        Some(&Upgrade(HeaderValue::from_static("websocket")))
    );
    let head = with_lines("Upgrade: websocket\r\n").unwrap().unwrap();
    assert!(head.request.extensions.is_empty());
}

fn answer(text: &str, method: &Method) -> Result<ResponseHead, Fault> {
    response(&Bytes::copy_from_slice(text.as_bytes()), method)
}

#[test]
fn where_answers_end() {
    let cases = [
        ("200 OK\r\nContent-Length: 5", BodyLength::Exactly(5), true),
        (
            "200 OK\r\nTransfer-Encoding: chunked",
            BodyLength::Chunked,
            true,
        ),
        ("200 OK\r\na: b", BodyLength::UntilClose, false),
        (
            "200 OK\r\nContent-Length: 5\r\nConnection: close",
            BodyLength::Exactly(5),
            false,
        ),
        (
            "204 No Content\r\nContent-Length: 5",
            BodyLength::NONE,
            true,
        ),
        (
            "304 Not Modified\r\nContent-Length: 5",
            BodyLength::NONE,
            true,
        ),
        ("103 Early Hints\r\nLink: a", BodyLength::NONE, true),
    ];
    for (text, length, keep_alive) in cases {
        let head = answer(&format!("HTTP/1.1 {text}\r\n\r\n"), &Method::GET).unwrap();
        assert_eq!(
            (head.length, head.keep_alive),
            (length, keep_alive),
            "{text}"
        );
    }
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(
        answer(text, &Method::HEAD).unwrap().length,
        BodyLength::NONE
    );
    let text = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert!(!answer(text, &Method::GET).unwrap().keep_alive);
}

#[test]
fn answers_that_are_none() {
    let cases = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            Fault::LengthAndCoding,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
            Fault::Length,
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip", Fault::Coding),
        ("HTTP/1.1 200 OK\r\na: b\r\n c", Fault::HeaderLine),
        ("HTTP/1.1 200 OK\r\na : b", Fault::HeaderLine),
        ("HTTP/1.1 20 OK\r\na: b", Fault::FirstLine),
        ("HTTP/3.1 200 OK\r\na: b", Fault::Version),
        ("SSH-2.0-OpenSSH", Fault::Version),
        ("HTTP/1.1 101 Switching\r\na: b", Fault::Upgrade),
    ];
    for (text, fault) in cases {
        let read = answer(&format!("{text}\r\n\r\n"), &Method::GET);
        assert_eq!(read.err(), Some(fault), "{text}");
    }
}

#[test]
fn late_headers_do_not_frame_or_route() {
    let block =
        Bytes::from_static(b"x-sum: 1\r\nContent-Length: 5\r\nhost: a\r\nisobar-hop: 1\r\n\r\n");
    let trailers = trailers(&block).unwrap();
    assert_eq!(trailers.len(), 1);
    assert_eq!(trailers["x-sum"], "1");
}

proptest! {
    /// The same head, the same rest, or the same fault, however the bytes are cut.
    #[test]
    fn cuts_do_not_matter(bytes in text(), cuts in prop::collection::vec(0usize..200, 0..6)) {
        let mut whole = BytesMut::from(&bytes[..]);
        let at_once = take_request(&mut whole, &mut HeadEnd::default());
        let (mut piecewise, mut end) = (BytesMut::new(), HeadEnd::default());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let (mut from, mut last) = (0, Ok(None));
        for cut in cuts {
            piecewise.extend_from_slice(&bytes[from..cut]);
            from = cut;
            last = take_request(&mut piecewise, &mut end);
            if !matches!(last, Ok(None)) {
                break;
            }
        }
        let shown = |read: &Result<Option<RequestHead>, Fault>| match read {
            Ok(Some(head)) => format!("{:?} {:?}", head.request, head.length),
            Ok(None) => String::from("more"),
            Err(fault) => format!("{fault:?}"),
        };
        prop_assert_eq!(shown(&at_once), shown(&last));
        if let (Ok(Some(once)), Ok(Some(pieces))) = (at_once, last) {
            // The body may have come with the head or not yet; together they are the same.
            let rest = |head: RequestHead, left: &BytesMut, unread: &[u8]| {
                let mut rest = head.whole.unwrap_or_default().to_vec();
                rest.extend_from_slice(left);
                rest.extend_from_slice(unread);
                rest
            };
            prop_assert_eq!(rest(once, &whole, b""), rest(pieces, &piecewise, &bytes[from..]));
        }
    }
}

/// Bytes that are often nearly a request.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(&b"GET / HTTP/1.1\r\n"[..]),
        Just(&b"Host: a\r\n"[..]),
        Just(&b"Content-Length: 3\r\n"[..]),
        Just(&b"Transfer-Encoding: chunked\r\n"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"\n"[..]),
        Just(&b"\r"[..]),
        Just(&b" a: b"[..]),
        Just(&b"abc"[..]),
        Just(&b"\0"[..]),
    ];
    prop::collection::vec(part, 0..9).prop_map(|parts| parts.concat())
}
