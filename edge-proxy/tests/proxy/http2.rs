//! HTTP/2 frame by frame: what RFC 9113 forbids, and what it allows and nobody needs.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;

use crate::support::{HOST, TestEndpoint, connect_http2, full};
use crate::wire::{Wire, WireEndpoint, before, refused, shows};
use http::Request;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header line that no table is asked about (RFC 7541, section 6.2.2). Both parts are short.
fn line(name: &str, value: &str) -> Vec<u8> {
    let mut line = vec![0, u8::try_from(name.len()).unwrap()];
    line.extend(name.as_bytes());
    line.push(u8::try_from(value.len()).unwrap());
    line.extend(value.as_bytes());
    line
}

fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|(name, value)| line(name, value))
        .collect()
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", HOST),
];

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&GET))
}

fn head(lines: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(lines))
}

fn with(more: &[(&str, &str)]) -> Vec<u8> {
    head(&[&GET[..], more].concat())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()
}

struct Frames(Wire);

struct Seen {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frames {
    async fn connect(address: SocketAddr) -> Frames {
        Frames::with_settings(address, &[]).await
    }

    async fn with_settings(address: SocketAddr, settings: &[u8]) -> Frames {
        let mut wire = Wire::connect(address).await;
        wire.send(PREFACE).await;
        wire.send(frame(SETTINGS, 0, 0, settings)).await;
        Frames(wire)
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.send(bytes).await;
    }

    /// The next frame; `None` = the connection has ended.
    async fn next(&mut self) -> Option<Seen> {
        let mut head = [0; 9];
        self.0.stream.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        self.0.stream.read_exact(&mut payload).await.ok()?;
        Some(Seen {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Waits for the next frame of that kind.
    async fn until(&mut self, kind: u8) -> Seen {
        loop {
            let seen = self.next().await;
            let seen = seen.unwrap_or_else(|| panic!("ended before a frame of kind {kind}"));
            if seen.kind == kind {
                return seen;
            }
        }
    }

    /// Waits for the connection to end; the reason that was given, if one was.
    async fn end(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some(seen) = self.next().await {
            if seen.kind == GOAWAY {
                reason = Some(u32::from_be_bytes(seen.payload[4..8].try_into().unwrap()));
            }
        }
        reason
    }
}

#[tokio::test]
async fn what_breaks_the_connection() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let open = frame(HEADERS, END_HEADERS, 1, &block(&GET));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "a frame longer than agreed",
            frame(DATA, 0, 1, &[0; 16_385]),
        ),
        ("data on the connection", frame(DATA, 0, 0, b"x")),
        ("data on a stream that is none yet", frame(DATA, 0, 1, b"x")),
        (
            "headers on the connection",
            frame(HEADERS, END_HEADERS, 0, &block(&GET)),
        ),
        ("a stream of the server's", get(2)),
        ("a stream that goes back", [get(3), get(1)].concat()),
        (
            "padding longer than the frame",
            frame(HEADERS, 8 | END_HEADERS, 1, &[200, 0x82]),
        ),
        (
            "a reset of a stream that is none yet",
            frame(RST_STREAM, 0, 1, &[0; 4]),
        ),
        (
            "a reset of the connection",
            frame(RST_STREAM, 0, 0, &[0; 4]),
        ),
        (
            "a reset of another length",
            [open.clone(), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
        ),
        (
            "a window of a stream that is none yet",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        ),
        (
            "a window that grows by nothing",
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        ),
        (
            "a window that grows too large",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        (
            "a window of another length",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
        ),
        ("settings of another length", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[])),
        (
            "an acknowledgement that says something",
            frame(SETTINGS, ACK, 0, &[0; 6]),
        ),
        (
            "an initial window too large",
            frame(SETTINGS, 0, 0, &setting(4, 0x8000_0000)),
        ),
        (
            "a frame size too small",
            frame(SETTINGS, 0, 0, &setting(5, 1)),
        ),
        (
            "pushing neither on nor off",
            frame(SETTINGS, 0, 0, &setting(2, 2)),
        ),
        ("a ping of another length", frame(PING, 0, 0, &[0; 7])),
        ("a ping of a stream", frame(PING, 0, 1, &[0; 8])),
        (
            "a promise of the client",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
        (
            "a continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &block(&GET)),
        ),
        (
            "a frame within a head",
            [
                frame(HEADERS, END_STREAM, 1, &block(&GET)),
                frame(PING, 0, 0, &[0; 8]),
            ]
            .concat(),
        ),
        (
            "a continuation of another head",
            [
                frame(HEADERS, END_STREAM, 1, &block(&GET)),
                frame(CONTINUATION, END_HEADERS, 3, &[]),
            ]
            .concat(),
        ),
        (
            "an index of no table",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x80]),
        ),
        (
            "an index beyond the table",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0x7f]),
        ),
    ];
    for (index, (what, bytes)) in cases.iter().enumerate() {
        let mut client = Frames::connect(proxy.addresses.ingress).await;
        client.send(bytes).await;
        let reason = client.end().await;
        assert!(
            reason.is_none_or(|reason| reason != 0),
            "{what}: {reason:?}"
        );
        let count = u64::try_from(index).unwrap() + 1;
        while refused(&proxy, "downstream", "http2").await < count {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(proxy.get("/").await.2, "a");
    proxy.end().await;
}

#[tokio::test]
async fn what_breaks_a_request_and_does_not_reach_an_endpoint() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let [method, scheme, path, authority] = GET;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a name in capitals", with(&[("X-Mine", "1")])),
        (
            "a header of the connection's",
            with(&[("connection", "keep-alive")]),
        ),
        ("a coding", with(&[("transfer-encoding", "chunked")])),
        ("an upgrade", with(&[("upgrade", "h2c")])),
        ("more than trailers", with(&[("te", "gzip")])),
        ("a line break in a value", with(&[("x", "a\r\nhost: b")])),
        ("a NUL in a value", with(&[("x", "a\0b")])),
        ("a colon in a name", with(&[("x:y", "z")])),
        ("no method", head(&[scheme, path, authority])),
        ("no scheme", head(&[method, path, authority])),
        ("no path", head(&[method, scheme, authority])),
        (
            "an empty path",
            head(&[method, scheme, (":path", ""), authority]),
        ),
        (
            "two methods",
            head(&[method, method, scheme, path, authority]),
        ),
        ("two paths", head(&[method, scheme, path, path, authority])),
        ("an unknown one", with(&[(":mine", "1")])),
        ("one of an answer", with(&[(":status", "200")])),
        (
            "one too late",
            head(&[method, scheme, path, ("x", "y"), authority]),
        ),
        (
            "a body shorter than its length",
            [
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &block(&[&GET[..], &[("content-length", "9")]].concat()),
                ),
                frame(DATA, END_STREAM, 1, b"x"),
            ]
            .concat(),
        ),
    ];
    for (what, bytes) in cases {
        let mut client = Frames::connect(proxy.addresses.ingress).await;
        client.send(&bytes).await;
        let answer = loop {
            match client.next().await {
                Some(seen) if seen.stream == 1 => break Some(seen),
                Some(seen) if seen.kind == GOAWAY => break Some(seen),
                Some(_) => {}
                None => break None,
            }
        };
        // Refused by frame, or by an answer that is not 200 (index 8 of the table).
        let taken = answer.as_ref().is_some_and(|seen| {
            seen.kind == DATA || (seen.kind == HEADERS && seen.payload.first() == Some(&0x88))
        });
        assert!(!taken, "{what}");
    }
    let whole = "a";
    assert_eq!(proxy.get("/").await.2, whole);
    proxy.end().await;
}

#[tokio::test]
async fn what_is_to_be_ignored_or_answered() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Frames::connect(proxy.addresses.ingress).await;
    // Unknown frames, settings and flags; priorities; a head in pieces.
    client.send(frame(0x77, 0xff, 5, b"whatever")).await;
    client
        .send(frame(SETTINGS, 0, 0, &setting(0x7777, 1)))
        .await;
    client.send(frame(2, 0, 1, &[0, 0, 0, 3, 16])).await;
    client.send(frame(PING, 0, 0, b"are you?")).await;
    let pong = client.until(PING).await;
    assert_eq!(
        (pong.flags & ACK, &pong.payload[..]),
        (ACK, &b"are you?"[..])
    );
    let block = block(&GET);
    client
        .send(frame(HEADERS, END_STREAM, 1, &block[..7]))
        .await;
    client.send(frame(CONTINUATION, 0, 1, &block[7..])).await;
    client.send(frame(CONTINUATION, END_HEADERS, 1, &[])).await;
    let answer = client.until(HEADERS).await;
    assert_eq!((answer.stream, answer.payload[0]), (1, 0x88));
    assert_eq!(client.until(DATA).await.payload, b"a");
    proxy.end().await;
}

#[tokio::test]
async fn requests_given_up_at_once_end_the_connection() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Frames::connect(proxy.addresses.ingress).await;
    let mut stream = 1;
    while refused(&proxy, "downstream", "flood").await == 0 {
        for _ in 0..16 {
            let reset = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
            client.send([get(stream), reset].concat()).await;
            stream += 2;
        }
        assert!(stream < 100_000, "nobody stops it");
    }
    client.end().await;
    assert_eq!(proxy.get("/").await.2, "a");
    proxy.end().await;
}

#[tokio::test]
async fn heads_without_an_end_and_heads_that_unpack_to_more_are_refused() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Frames::connect(proxy.addresses.ingress).await;
    client
        .send(frame(HEADERS, END_STREAM, 1, &block(&GET)))
        .await;
    for _ in 0..10_000 {
        client
            .send(frame(CONTINUATION, 0, 1, &line("x", "y")))
            .await;
    }
    client.end().await;
    assert_eq!(refused(&proxy, "downstream", "flood").await, 1);

    // One long line enters the table (RFC 7541, section 6.2.1) and is named again and again by one byte (index 62).
    let mut client = Frames::connect(proxy.addresses.ingress).await;
    let mut bomb = block(&GET);
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'y'; 4000]);
    bomb.extend([0xbe; 10_000]);
    client
        .send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb))
        .await;
    let answer = loop {
        match client.next().await {
            Some(seen) if seen.kind == HEADERS => break Some(seen.payload[0]),
            Some(_) => {}
            None => break None,
        }
    };
    assert_ne!(answer, Some(0x88));
    assert_eq!(endpoint.served(), 0);
    assert_eq!(proxy.get("/").await.2, "a");
    proxy.end().await;
}

#[tokio::test]
async fn pings_and_settings_without_number_harm_nobody() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let mut client = Frames::connect(proxy.addresses.ingress).await;
    for _ in 0..200 {
        let ping = frame(PING, 0, 0, &[7; 8]).repeat(50);
        let settings = frame(SETTINGS, 0, 0, &setting(4, 65_535)).repeat(50);
        client.send([ping, settings].concat()).await;
        for _ in 0..50 {
            client.until(PING).await;
        }
    }
    client.send(get(1)).await;
    assert_eq!(client.until(DATA).await.payload, b"a");
    assert_eq!(proxy.get("/").await.2, "a");
    proxy.end().await;
}

#[tokio::test]
async fn an_answer_that_is_not_taken_ends_the_connection_and_frees_the_slot() {
    let body = "x".repeat(1 << 20);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let endpoint = WireEndpoint::saying(answer).await;
    let proxy = before(endpoint.address, |c| c.limits.body_wait_ms_max = 200).await;
    for window in [0, 1] {
        let settings = setting(4, window);
        let mut client = Frames::with_settings(proxy.addresses.ingress, &settings).await;
        client.send(get(1)).await;
        client.end().await;
        let count = u64::from(window) + 1;
        assert_eq!(refused(&proxy, "downstream", "stalled").await, count);
        shows(
            &proxy,
            "isobar_proxy_requests_in_flight{service=\"shop/cart\"} 0",
        )
        .await;
    }
    proxy.end().await;
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed_and_a_busy_one_is_not() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |c| {
        c.limits.idle_wait_ms_max = 200;
        c.limits.body_wait_ms_max = 200;
    })
    .await;
    let mut busy = connect_http2(proxy.addresses.ingress).await;
    let request = Request::get(format!("http://{HOST}/hold"))
        .body(full(""))
        .unwrap();
    let held = tokio::spawn(async move {
        let answer = busy.send_request(request).await;
        (answer.unwrap(), busy)
    });
    endpoint.arrival().await;
    let mut silent = Wire::connect(proxy.addresses.ingress).await;
    silent.send(&PREFACE[..5]).await;
    let mut idle = Frames::connect(proxy.addresses.ingress).await;
    silent.rest().await;
    idle.end().await;
    // Its answer takes longer than all that, and that is not its doing.
    endpoint.let_go();
    assert_eq!(crate::support::read(held.await.unwrap().0).await.2, "held");
    proxy.end().await;
}
