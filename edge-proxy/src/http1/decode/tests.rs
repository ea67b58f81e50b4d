use super::super::encode::Encoder;
use super::super::io::Output;
use super::*;
use proptest::prelude::*;

/// All of a body, its trailers, and what is left behind it.
fn read(length: BodyLength, bytes: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let mut decoder = Decoder::new(length);
    let (mut input, mut body, mut from) = (BytesMut::new(), Vec::new(), 0);
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    for cut in cuts {
        input.extend_from_slice(&bytes[from..cut]);
        from = cut;
        while !decoder.is_ended() {
            match decoder.decode(&mut input)? {
                Some(Piece::Data(data)) => body.extend_from_slice(&data),
                Some(Piece::Trailers(trailers)) => {
                    for (name, value) in &trailers {
                        body.extend_from_slice(name.as_str().as_bytes());
                        body.extend_from_slice(value.as_bytes());
                    }
                }
                Some(Piece::End) => {}
                None => break,
            }
        }
    }
    if !decoder.is_ended() {
        decoder.closed()?;
    }
    Ok((body, input.to_vec()))
}

#[test]
fn bodies_end_where_they_say() {
    let cases: [(BodyLength, &str, &str, &str); 7] = [
        (BodyLength::Exactly(3), "abcdef", "abc", "def"),
        (BodyLength::NONE, "abc", "", "abc"),
        (BodyLength::UntilClose, "abc", "abc", ""),
        (
            BodyLength::Chunked,
            "3\r\nabc\r\n0\r\n\r\nGET",
            "abc",
            "GET",
        ),
        (
            BodyLength::Chunked,
            "00A;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
            "0123456789",
            "",
        ),
        (
            BodyLength::Chunked,
            "1 ; x\r\na\r\n0\r\nsum: 1\r\n\r\nx",
            "asum1",
            "x",
        ),
        (BodyLength::Chunked, "0\r\n\r\n", "", ""),
    ];
    for (length, bytes, body, rest) in cases {
        for cut in 0..bytes.len() {
            let read = read(length, bytes.as_bytes(), &[cut]).unwrap();
            let expected = (body.as_bytes().to_vec(), rest.as_bytes().to_vec());
            assert_eq!(read, expected, "{bytes:?} cut at {cut}");
        }
    }
}

#[test]
fn malformed_chunks_are_refused() {
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(CHUNK_LINE_LEN_MAX));
    let many = format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(17);
    let trailers = format!("0\r\na: {}\r\n\r\n", "b".repeat(TRAILERS_LEN_MAX));
    let cases = [
        ("\r\n", Fault::Chunk),
        ("g\r\n", Fault::Chunk),
        ("-1\r\n", Fault::Chunk),
        ("+1\r\n", Fault::Chunk),
        ("0x1\r\na\r\n", Fault::Chunk),
        (" 1\r\na\r\n", Fault::Chunk),
        ("1 1\r\na\r\n", Fault::Chunk),
        ("1\na\r\n", Fault::Chunk),
        ("1;a\rb\r\na\r\n", Fault::Chunk),
        ("1;a\0b\r\na\r\n", Fault::Chunk),
        ("1\r\nab\r\n", Fault::Chunk),
        ("1\r\na\n0\r\n", Fault::Chunk),
        ("1\r\na0\r\n\r\n", Fault::Chunk),
        ("1000000000000000\r\n", Fault::Chunk),
        ("0\r\na\r\n\r\n", Fault::Trailers),
        ("0\r\na: b\n\r\n", Fault::Trailers),
        ("0\r\n a: b\r\n\r\n", Fault::Trailers),
        (&long, Fault::ChunkExtension),
        (&many, Fault::ChunkExtension),
        (&trailers, Fault::Trailers),
        ("5\r\nabc", Fault::Early),
        ("3\r\nabc\r\n", Fault::Early),
        ("0\r\n", Fault::Early),
    ];
    for (bytes, fault) in cases {
        let shown = &bytes[..bytes.len().min(40)];
        let read = read(BodyLength::Chunked, bytes.as_bytes(), &[]);
        assert_eq!(read.err(), Some(fault), "{shown:?}");
    }
    let short = read(BodyLength::Exactly(4), b"abc", &[]);
    assert_eq!(short.err(), Some(Fault::Early));
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..10_000), 0..8),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
        chunked: bool,
    ) {
        let all = pieces.concat();
        let length = match chunked {
            true => BodyLength::Chunked,
            false => BodyLength::Exactly(all.len() as u64),
        };
        let (mut encoder, mut output) = (Encoder::new(length), Output::default());
        let mut sent = Vec::new();
        for piece in pieces {
            encoder.data(&mut output, Bytes::from(piece)).unwrap();
            sent.extend(output.take_all());
        }
        encoder.end(&mut output, None).unwrap();
        sent.extend(output.take_all());
        prop_assert_eq!(read(length, &sent, &cuts).unwrap(), (all, Vec::new()));
    }

    /// Never a panic, and the same body however the bytes are cut.
    #[test]
    fn cuts_do_not_matter(bytes in chunks(), cuts in prop::collection::vec(any::<usize>(), 0..8)) {
        let at_once = read(BodyLength::Chunked, &bytes, &[]);
        prop_assert_eq!(at_once, read(BodyLength::Chunked, &bytes, &cuts));
    }
}

/// Bytes that are often nearly chunks.
fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(&b"3\r\nabc\r\n"[..]),
        Just(&b"0\r\n"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"1;a=b\r\nx"[..]),
        Just(&b"a: b\r\n"[..]),
        Just(&b"\n"[..]),
        Just(&b"\r"[..]),
        Just(&b"2"[..]),
        Just(&b";"[..]),
        Just(&b"\0"[..]),
    ];
    prop::collection::vec(part, 0..9).prop_map(|parts| parts.concat())
}
