//! JSON, written straight into a buffer: lines of the access log, spans.

use std::io::Write;

use serde_json::ser::Serializer;

/// Longest text of one value, in bytes; what is longer is cut there.
pub const TEXT_LEN_MAX: usize = 1024;

/// What a client or an operator sent is text, whatever bytes it has.
pub fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    let cut = bytes.len().min(TEXT_LEN_MAX);
    String::from_utf8_lossy(&bytes[..cut])
}

/// Appends a string with its quotes, cut at [`TEXT_LEN_MAX`].
pub fn string(out: &mut Vec<u8>, value: &[u8]) {
    let mut serializer = Serializer::new(out);
    // Nothing goes wrong in writing to memory.
    let _ = serde::Serializer::serialize_str(&mut serializer, &text(value));
}

/// Appends a number.
pub fn number(out: &mut Vec<u8>, value: u64) {
    let _ = write!(out, "{value}");
}

/// Appends one attribute of OpenTelemetry, and a comma before it when it is not the first.
pub fn attribute(out: &mut Vec<u8>, name: &str, value: Value<'_>) {
    if out.last() != Some(&b'[') {
        out.push(b',');
    }
    out.extend_from_slice(b"{\"key\":");
    string(out, name.as_bytes());
    match value {
        Value::Text(text) => {
            out.extend_from_slice(b",\"value\":{\"stringValue\":");
            string(out, text);
        }
        // 64 bits are text in OTLP's JSON.
        Value::Number(number) => {
            let _ = write!(out, ",\"value\":{{\"intValue\":\"{number}\"");
        }
    }
    out.extend_from_slice(b"}}");
}

/// A value of a field or an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a [u8]),
    /// A number.
    Number(u64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Value<'a> {
        Value::Text(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_become_text() {
        let cases: [(&[u8], &str); 4] = [
            (b"plain", "\"plain\""),
            (b"a\"b\\c\n\x00", "\"a\\\"b\\\\c\\n\\u0000\""),
            (b"\xff", "\"\u{fffd}\""),
            ("ü".as_bytes(), "\"ü\""),
        ];
        for (bytes, expected) in cases {
            let mut out = Vec::new();
            string(&mut out, bytes);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        let mut out = Vec::new();
        string(&mut out, &vec![b'x'; 100_000]);
        assert_eq!(out.len(), TEXT_LEN_MAX + 2);
    }
}
