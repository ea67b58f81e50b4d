use super::*;
use http::{Request, Response};

const TERMS: Terms = Terms {
    to_head: false,
    version: Version::HTTP_11,
    keep_alive: true,
};

fn response_text(response: Response<()>, exact: Option<u64>, terms: Terms) -> String {
    let (head, ()) = response.into_parts();
    let length = response_length(&head, exact, terms);
    let mut text = BytesMut::new();
    super::response(&mut text, &head, length, terms);
    let text = String::from_utf8(text.to_vec()).unwrap();
    // The date is not the same twice.
    let lines = text.split_inclusive("\r\n");
    lines.filter(|line| !line.starts_with("date: ")).collect()
}

#[test]
fn how_answers_are_framed() {
    let old = Terms {
        version: Version::HTTP_10,
        ..TERMS
    };
    let to_head = Terms {
        to_head: true,
        ..TERMS
    };
    let last = Terms {
        keep_alive: false,
        ..TERMS
    };
    let cases = [
        (200, Some(5), TERMS, "200 OK\r\ncontent-length: 5\r\n"),
        (200, Some(0), TERMS, "200 OK\r\ncontent-length: 0\r\n"),
        (200, None, TERMS, "200 OK\r\ntransfer-encoding: chunked\r\n"),
        (200, None, old, "200 OK\r\nconnection: keep-alive\r\n"),
        (204, Some(0), TERMS, "204 No Content\r\n"),
        (304, Some(0), TERMS, "304 Not Modified\r\n"),
        (404, Some(0), to_head, "404 Not Found\r\n"),
        (
            200,
            Some(1),
            last,
            "200 OK\r\nconnection: close\r\ncontent-length: 1\r\n",
        ),
    ];
    for (status, exact, terms, expected) in cases {
        let response = Response::builder().status(status).body(()).unwrap();
        let text = response_text(response, exact, terms);
        assert_eq!(text, format!("HTTP/1.1 {expected}\r\n"));
    }
    let announced = Response::builder().header("content-length", 7).body(());
    let text = response_text(announced.unwrap(), None, to_head);
    assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n");
}

#[test]
fn requests_are_in_origin_form_with_a_host_and_one_cookie() {
    let request = Request::post("/a?b")
        .header("cookie", "a=1")
        .header("x", "y")
        .header("cookie", "b=2")
        .extension(Upgrade(HeaderValue::from_static("echo")))
        .body(());
    let (head, ()) = request.unwrap().into_parts();
    let mut text = BytesMut::new();
    super::request(&mut text, &head, BodyLength::Chunked);
    let expected = "POST /a?b HTTP/1.1\r\ncookie: a=1; b=2\r\nx: y\r\nhost: \r\n\
        connection: upgrade\r\nupgrade: echo\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(std::str::from_utf8(&text).unwrap(), expected);
}

#[test]
fn a_body_is_as_long_as_announced() {
    let mut output = Output::default();
    let mut encoder = Encoder::new(BodyLength::Exactly(3));
    encoder
        .data(&mut output, Bytes::from_static(b"ab"))
        .unwrap();
    assert_eq!(encoder.end(&mut output, None), Err(WrongLength));
    let longer = encoder.data(&mut output, Bytes::from_static(b"cd"));
    assert_eq!(longer, Err(WrongLength));
}

#[test]
fn sizes_are_hexadecimal() {
    for (number, text) in [
        (0, "0"),
        (10, "a"),
        (4096, "1000"),
        (usize::MAX, "ffffffffffffffff"),
    ] {
        let mut written = BytesMut::new();
        put_hex(&mut written, number);
        assert_eq!(written, text);
    }
}
