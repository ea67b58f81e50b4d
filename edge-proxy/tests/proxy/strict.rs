//! Messages that two readers could understand differently, from clients and from endpoints.

use crate::support::{HOST, TestEndpoint};
use crate::wire::{Wire, WireEndpoint, before, refused};

/// What comes behind a request that is cut at the wrong place.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: cart.example\r\n\r\n";

fn post(lines: &str, body: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\n{lines}\r\n\r\n{body}{SMUGGLED}")
}

fn first_line(line: &str) -> String {
    format!("{line}\r\nhost: {HOST}\r\n\r\n{SMUGGLED}")
}

#[tokio::test]
async fn a_request_that_is_none_is_refused_and_its_connection_closed() {
    let endpoint = TestEndpoint::start("a").await;
    let proxy = before(endpoint.address, |_| ()).await;
    let long = format!("x: {}", "y".repeat(70_000));
    let many = "x: y\r\n".repeat(100) + "x: y";
    let cl_te = "content-length: 6\r\ntransfer-encoding: chunked";
    let te_cl = "transfer-encoding: chunked\r\ncontent-length: 4";
    let te = |coding: &str| post(&format!("transfer-encoding: {coding}"), "0\r\n\r\n");
    let cl = |lines: &str| post(lines, "ping");
    let cases = [
        (post(cl_te, "0\r\n\r\nX"), 400, "length_and_coding"),
        (post(te_cl, "5c\r\n"), 400, "length_and_coding"),
        (te("chunked\r\ntransfer-encoding: x"), 400, "coding"),
        (te("chunked, identity"), 400, "coding"),
        (te("chunked, chunked"), 400, "coding"),
        (te("\x0bchunked"), 400, "header_line"),
        (te("xchunked"), 400, "coding"),
        (te("gzip, chunked"), 501, "coding_unknown"),
        (cl("content-length: 4\r\ncontent-length: 5"), 400, "length"),
        (cl("content-length: 4\r\ncontent-length: 4"), 400, "length"),
        (cl("content-length: 4, 4"), 400, "length"),
        (cl("content-length: +4"), 400, "length"),
        (cl("content-length: 0x4"), 400, "length"),
        (cl("content-length: 4 4"), 400, "length"),
        (cl("content-length: 99999999999999999999"), 400, "length"),
        (cl("content-length : 4"), 400, "header_line"),
        (cl("x: y\r\n folded: z"), 400, "header_line"),
        (cl("x: y\rz"), 400, "header_line"),
        (cl("x: y\0z"), 400, "header_line"),
        (cl("x y: z"), 400, "header_line"),
        (cl("x: y\ncontent-length: 4"), 400, "bare_line_feed"),
        (cl("host: other.example"), 400, "host"),
        (post(&long, ""), 431, "head_too_long"),
        (post(&many, ""), 431, "too_many_headers"),
        (first_line("GET /a b HTTP/1.1"), 505, "version"),
        (first_line("GET / HTTP/1.2"), 505, "version"),
        (first_line("GET  / HTTP/1.1"), 400, "first_line"),
        (first_line("GET a HTTP/1.1"), 400, "target"),
        (first_line("G@T / HTTP/1.1"), 400, "first_line"),
        (String::from("\x16\x03\x01\x00\x05hello"), 400, "first_line"),
        (format!("GET / HTTP/1.1\r\n\r\n{SMUGGLED}"), 400, "host"),
    ];
    for (bytes, status, reason) in cases {
        let shown = &bytes[..bytes.len().min(160)];
        let before = refused(&proxy, "downstream", reason).await;
        let mut client = Wire::connect(proxy.addresses.ingress).await;
        client.send(&bytes).await;
        let (seen, head, _) = client.answer().await;
        assert_eq!(seen, status, "{shown:?}: {head}");
        assert!(head.contains("connection: close\r\n"), "{shown:?}: {head}");
        assert_eq!(client.rest().await, "", "{shown:?}");
        let after = refused(&proxy, "downstream", reason).await;
        assert_eq!(after, before + 1, "{reason}: {shown:?}");
    }
    assert_eq!(endpoint.served(), 0);
    assert_eq!(proxy.get("/").await.2, "a");
    proxy.end().await;
}

/// An endpoint that reads until the connection ends, and tells what it read.
async fn reading() -> (WireEndpoint, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = WireEndpoint::start(move |mut wire| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(wire.rest().await);
        }
    });
    (endpoint.await, told)
}

#[tokio::test]
async fn a_body_that_is_none_ends_both_connections() {
    let (endpoint, mut told) = reading().await;
    let proxy = before(endpoint.address, |c| c.limits.body_wait_ms_max = 10_000).await;
    let extension = format!("1;{}\r\nx\r\n", "y".repeat(2000));
    let extensions = format!("1;{}\r\nx\r\n", "y".repeat(1000)).repeat(20) + "0\r\n\r\n";
    let trailers = format!("0\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    let cases = [
        ("x\r\n", "chunk"),
        ("-1\r\n", "chunk"),
        ("0x1\r\nx\r\n", "chunk"),
        (" 1\r\nx\r\n", "chunk"),
        ("1 1\r\nx\r\n", "chunk"),
        ("1\nx\r\n", "chunk"),
        ("1\r\nxy\r\n", "chunk"),
        ("1\r\nx\n0\r\n\r\n", "chunk"),
        ("fffffffffffffffff\r\n", "chunk"),
        ("\r\n0\r\n\r\n", "chunk"),
        (&*extension, "chunk_extension"),
        (&*extensions, "chunk_extension"),
        ("0\r\nx y: z\r\n\r\n", "trailers"),
        ("0\r\nx: y\n\r\n", "trailers"),
        (&*trailers, "trailers"),
    ];
    for (body, reason) in cases {
        let shown = &body[..body.len().min(40)];
        let before = refused(&proxy, "downstream", reason).await;
        let mut client = Wire::connect(proxy.addresses.ingress).await;
        client
            .send(post("transfer-encoding: chunked", "4\r\nping\r\n").replace(SMUGGLED, body))
            .await;
        client.send(SMUGGLED).await;
        let (status, head, _) = client.answer().await;
        assert_eq!(status, 400, "{shown:?}: {head}");
        assert_eq!(client.rest().await, "", "{shown:?}");
        let after = refused(&proxy, "downstream", reason).await;
        assert_eq!(after, before + 1, "{reason}: {shown:?}");
        // The endpoint sees a body without an end, and never what came behind it.
        let read = told.recv().await.unwrap();
        assert!(!read.contains("smuggled"), "{shown:?}: {read}");
        assert!(!read.contains("\r\n0\r\n"), "{shown:?}: {read}");
    }
    proxy.end().await;
}

#[tokio::test]
async fn an_answer_that_is_none_is_a_502_and_its_connection_is_not_used_again() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let long = format!("{ok}x: {}\r\n\r\n", "y".repeat(70_000));
    let many = format!("{ok}{}\r\n", "x: y\r\n".repeat(101));
    let cases = [
        (String::from("SSH-2.0-OpenSSH\r\n\r\n"), "version"),
        (String::from("HTTP/2.0 200 OK\r\n\r\n"), "version"),
        (String::from("HTTP/1.1 20 OK\r\n\r\n"), "first_line"),
        (
            format!("{ok}content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"),
            "length_and_coding",
        ),
        (
            format!("{ok}content-length: 1\r\ncontent-length: 2\r\n\r\n"),
            "length",
        ),
        (format!("{ok}transfer-encoding: gzip\r\n\r\n"), "coding"),
        (format!("{ok}x: y\r\n z\r\n\r\n"), "header_line"),
        (format!("{ok}x: y\n\r\n"), "bare_line_feed"),
        (
            format!("{ok}content-length: 2\r\n\r\nok and more"),
            "surplus",
        ),
        (long, "head_too_long"),
        (many, "too_many_headers"),
        (String::new(), "early_end"),
    ];
    for (bytes, reason) in cases {
        let shown = bytes[..bytes.len().min(80)].to_owned();
        let connections = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = connections.clone();
        let endpoint = WireEndpoint::start(move |mut wire| {
            let bytes = bytes.clone();
            let first = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
            async move {
                wire.head().await;
                match first {
                    true => wire.send(&bytes).await,
                    false => {
                        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood")
                            .await
                    }
                }
                if !bytes.is_empty() {
                    wire.rest().await;
                }
            }
        })
        .await;
        let proxy = before(endpoint.address, |_| ()).await;
        let mut client = Wire::connect(proxy.addresses.ingress).await;
        let request = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 0\r\n\r\n");
        client.send(&request).await;
        assert_eq!(client.answer().await.0, 502, "{shown:?}");
        assert_eq!(
            refused(&proxy, "upstream", reason).await,
            1,
            "{reason}: {shown:?}"
        );
        // The client did nothing wrong: its connection goes on, with another one to the endpoint.
        client.send(&request).await;
        assert_eq!(client.answer().await.2, "good", "{shown:?}");
        proxy.end().await;
    }
}

#[tokio::test]
async fn an_answer_whose_body_breaks_off_is_not_ended_as_if_it_were_whole() {
    let head = "HTTP/1.1 200 OK\r\n";
    let cases = [
        (format!("{head}content-length: 8\r\n\r\nhalf"), "early_end"),
        (
            format!("{head}transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
            "early_end",
        ),
        (
            format!("{head}transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nx\r\n"),
            "chunk",
        ),
    ];
    for (bytes, reason) in cases {
        let whole = bytes.clone();
        let endpoint = WireEndpoint::start(move |mut wire| {
            let bytes = bytes.clone();
            async move {
                wire.head().await;
                wire.send(&bytes).await;
            }
        })
        .await;
        let proxy = before(endpoint.address, |_| ()).await;
        let mut client = Wire::connect(proxy.addresses.ingress).await;
        client
            .send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n{SMUGGLED}"))
            .await;
        let text = client.rest().await;
        assert!(text.contains("half"), "{whole:?}: {text}");
        assert!(!text.ends_with("0\r\n\r\n"), "{whole:?}: {text}");
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{whole:?}: {text}");
        assert_eq!(refused(&proxy, "upstream", reason).await, 1, "{whole:?}");
        proxy.end().await;
    }
}
