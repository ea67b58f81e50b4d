//! What must hold of the proxy's own parsers, whatever bytes come. Each entry panics when it does not.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use http::{Method, Request};
use isobar_edge_proxy::client_hello;
use isobar_edge_proxy::http1::decode::{Decoder, Piece};
use isobar_edge_proxy::http1::fault::Fault;
use isobar_edge_proxy::http1::head::{self, HeadEnd};
use isobar_edge_proxy::proxy_protocol::{self, Begin};
use isobar_edge_proxy::route::{RouteTable, Services, path};
use isobar_mesh_api::resource::{HttpRouteSpec, Metadata};
use isobar_mesh_api::route::Route;
use isobar_mesh_api::snapshot::Snapshot;

/// Requests of one connection: however their bytes are cut, they are the same, and so is what ends them.
pub fn http1(bytes: &[u8]) {
    let whole = requests(bytes, usize::MAX);
    for len in [1, 2, 3, 7, 64] {
        let cut = requests(bytes, len);
        assert_eq!(cut, whole, "in pieces of {len}");
    }
}

/// Requests that bytes give when they come in pieces of that length, and the fault that ended them.
fn requests(bytes: &[u8], piece_len: usize) -> (Vec<String>, Option<Fault>) {
    let (mut input, mut end, mut seen) = (BytesMut::new(), HeadEnd::default(), Vec::new());
    let mut body = Decoder::Ended;
    for piece in bytes.chunks(piece_len.min(bytes.len().max(1))) {
        input.extend_from_slice(piece);
        loop {
            if !body.is_ended() {
                match body.decode(&mut input) {
                    Ok(None) => break,
                    Ok(Some(piece)) => note(&mut seen, piece),
                    Err(fault) => return (seen, Some(fault)),
                }
                continue;
            }
            match head::take_request(&mut input, &mut end) {
                Ok(None) => break,
                Ok(Some(head)) => {
                    seen.push(format!("{:?} {:?} ", head.request, head.length));
                    match head.whole {
                        Some(whole) => note(&mut seen, Piece::Data(whole)),
                        None => body = Decoder::new(head.length),
                    }
                }
                Err(fault) => return (seen, Some(fault)),
            }
        }
    }
    (seen, None)
}

fn note(seen: &mut [String], piece: Piece) {
    let Some(last) = seen.last_mut() else { return };
    match piece {
        Piece::Data(data) => *last += &data.escape_ascii().to_string(),
        Piece::Trailers(trailers) => *last += &format!("{trailers:?}"),
        Piece::End => {}
    }
}

/// The head of an answer: it is read or refused, and frames its body in one way.
pub fn answer(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let Ok(Some(len)) = HeadEnd::default().find(&bytes, 64 * 1024) else {
        return;
    };
    for method in [Method::GET, Method::HEAD] {
        let read = head::response(&bytes.slice(..len), &method);
        if let Ok(answer) = read {
            let headers = answer.response.headers();
            let both =
                headers.contains_key("content-length") && headers.contains_key("transfer-encoding");
            assert!(!both, "{headers:?}");
        }
    }
}

/// A header of the PROXY protocol: what its beginning says holds for more, and addresses are written as they were read.
pub fn proxy_protocol(bytes: &[u8]) {
    let told = proxy_protocol::parse(bytes);
    settled(bytes, told, Ok(Begin::Incomplete), proxy_protocol::parse);
    let Ok(Begin::Header { len, addresses }) = told else {
        return;
    };
    assert!(len <= bytes.len());
    let Some(ends) = addresses else {
        return;
    };
    if ends.source.is_ipv4() != ends.destination.is_ipv4() {
        return;
    }
    for written in [
        proxy_protocol::write_line(ends),
        proxy_protocol::write_binary(ends),
    ] {
        let expected = Begin::Header {
            len: written.len(),
            addresses: Some(ends),
        };
        assert_eq!(proxy_protocol::parse(&written), Ok(expected));
    }
}

/// A TLS client's first message: what its beginning says holds for more.
pub fn client_hello(bytes: &[u8]) {
    let told = client_hello::parse(bytes);
    settled(
        bytes,
        told,
        Ok(client_hello::Hello::Incomplete),
        client_hello::parse,
    );
}

/// Whatever a part of the bytes is understood as, all of them are.
fn settled<T: PartialEq + Debug>(bytes: &[u8], told: T, open: T, parse: impl Fn(&[u8]) -> T) {
    for len in (0..bytes.len()).take(600) {
        let part = parse(&bytes[..len]);
        assert!(
            part == open || part == told,
            "{len}: {part:?}, then {told:?}"
        );
    }
}

/// A request finds its way or none; a path that was made plain stays as it is.
pub fn route(bytes: &[u8]) {
    static TABLE: OnceLock<RouteTable> = OnceLock::new();
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(plain) = path::plain(text) {
        assert_eq!(path::plain(&plain).as_deref(), Ok(&*plain));
    }
    let mut words = text.split_whitespace();
    let (host, method) = (words.next(), words.next().unwrap_or("GET"));
    let mut request = Request::builder()
        .method(method)
        .uri(words.next().unwrap_or("/"));
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        request = request.header(name, value);
    }
    let Ok(request) = request.body(()) else {
        return;
    };
    let (head, ()) = request.into_parts();
    let _ = TABLE.get_or_init(table).find(host, &head);
}

fn table() -> RouteTable {
    let specs = [
        r#"{"hostnames":["*.shop.example","shop.example"],"rules":[
            {"matches":[{"path":{"type":"PathPrefix","value":"/cart"},"method":"GET"}]},
            {"matches":[{"path":{"type":"RegularExpression","value":"/item/[0-9]+"},"headers":[{"name":"x-kind","value":"a"}]}]}]}"#,
        r#"{"rules":[{"matches":[{"path":{"type":"Exact","value":"/exact"},"queryParams":[{"name":"a","value":"b"}]}]}]}"#,
    ];
    let routes: Vec<Arc<Route>> = specs
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let spec: HttpRouteSpec = serde_json::from_str(text).expect("a route");
            let metadata = Metadata {
                name: format!("r{index}"),
                ..Metadata::default()
            };
            Arc::new(Route::from_http(&metadata, &spec).expect("a route"))
        })
        .collect();
    RouteTable::compile(
        &routes,
        Services {
            named: &[],
            threads: 1,
        },
        None,
    )
}

/// A snapshot that is read and sound is written and read as the same.
pub fn snapshot(bytes: &[u8]) {
    let Ok(read) = serde_json::from_slice::<Snapshot>(bytes) else {
        return;
    };
    if read.check().is_ok() {
        let written = serde_json::to_vec(&read).expect("a snapshot is JSON");
        let again: Snapshot = serde_json::from_slice(&written).expect("what was written is read");
        assert_eq!(format!("{again:?}"), format!("{read:?}"));
    }
}
