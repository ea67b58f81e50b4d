//! What a match asks of a request besides host and path.
//!
//! - A header that stands there several times counts as one whose values are joined by commas
//!   (RFC 9110, section 5.3).
//! - Of a query parameter that stands there several times the first counts, after form decoding.

use std::borrow::Cow;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method};
use regex_lite::Regex;

/// Conditions that must all hold.
#[derive(Debug, Default)]
pub(super) struct Condition {
    /// A gRPC call, by its content type.
    pub grpc: bool,
    pub method: Option<Method>,
    pub headers: Vec<(HeaderName, Value)>,
    pub query: Vec<(String, Value)>,
}

/// A condition on a value.
#[derive(Debug)]
pub(super) enum Value {
    Exact(String),
    Regex(Regex),
}

impl Condition {
    pub(super) fn fits(&self, head: &Parts) -> bool {
        (!self.grpc || is_grpc(&head.headers))
            && self
                .method
                .as_ref()
                .is_none_or(|method| *method == head.method)
            && self
                .headers
                .iter()
                .all(|(name, value)| header_fits(&head.headers, name, value))
            && self
                .query
                .iter()
                .all(|(name, value)| query_fits(head.uri.query(), name, value))
    }
}

/// Whether a request is a gRPC call.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

fn header_fits(headers: &HeaderMap, name: &HeaderName, value: &Value) -> bool {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let Some(first) = values.next() else {
        return false;
    };
    let mut joined = Cow::Borrowed(first);
    for other in values {
        let joined = joined.to_mut();
        joined.push(b',');
        joined.extend_from_slice(other);
    }
    match value {
        Value::Exact(expected) => *joined == *expected.as_bytes(),
        Value::Regex(regex) => {
            let text = std::str::from_utf8(&joined);
            text.is_ok_and(|text| regex.is_match(text))
        }
    }
}

fn query_fits(query: Option<&str>, name: &str, value: &Value) -> bool {
    let mut pairs = query.unwrap_or_default().split('&');
    let found = pairs.find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (!pair.is_empty() && form_bytes(key).eq(name.bytes())).then_some(value)
    });
    match (found, value) {
        (None, _) => false,
        (Some(text), Value::Exact(expected)) => form_bytes(text).eq(expected.bytes()),
        (Some(text), Value::Regex(regex)) if !text.contains(['%', '+']) => regex.is_match(text),
        (Some(text), Value::Regex(regex)) => {
            let decoded = String::from_utf8(form_bytes(text).collect());
            decoded.is_ok_and(|text| regex.is_match(&text))
        }
    }
}

/// The bytes of a form-encoded text; what is no escape stands for itself.
fn form_bytes(text: &str) -> impl Iterator<Item = u8> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        at += 1;
        let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
        Some(match (byte, digit(at), digit(at + 1)) {
            (b'+', ..) => b' ',
            (b'%', Some(high), Some(low)) => {
                at += 2;
                u8::try_from(high * 16 + low).unwrap_or(byte)
            }
            _ => byte,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use isobar_mesh_api::resource::route::whole_regex;

    fn exact(text: &str) -> Value {
        Value::Exact(text.to_owned())
    }

    fn regex(text: &str) -> Value {
        Value::Regex(whole_regex(text).unwrap())
    }

    #[test]
    fn headers_that_stand_there_several_times_are_joined() {
        let (head, ()) = Request::get("/")
            .header("X-A", "1")
            .header("x-a", "2")
            .header("x-b", "caf\u{e9}")
            .header("x-c", HeaderValue::from_bytes(b"\xff").unwrap())
            .header("x-empty", "")
            .body(())
            .unwrap()
            .into_parts();
        let cases = [
            ("x-a", exact("1,2"), true),
            ("x-a", exact("1"), false),
            ("x-a", regex("1,[0-9]"), true),
            ("x-a", regex("1"), false),
            ("x-b", regex("caf."), true),
            ("x-c", regex(".*"), false),
            ("x-empty", exact(""), true),
            ("x-none", exact(""), false),
            ("x-none", regex(".*"), false),
        ];
        for (name, value, expected) in cases {
            let name = HeaderName::from_static(name);
            assert_eq!(
                header_fits(&head.headers, &name, &value),
                expected,
                "{name} {value:?}"
            );
        }
    }

    #[test]
    fn the_first_of_a_parameters_values_counts() {
        let cases = [
            ("a=1&a=2", "a", exact("1"), true),
            ("a=1&a=2", "a", exact("2"), false),
            ("b=1&a=x+y%21", "a", exact("x y!"), true),
            ("%61=1", "a", exact("1"), true),
            ("A=1", "a", exact("1"), false),
            ("a", "a", exact(""), true),
            ("", "a", exact(""), false),
            ("a=%zz%", "a", exact("%zz%"), true),
            ("a=12", "a", regex("[0-9]+"), true),
            ("a=1%32", "a", regex("[0-9]+"), true),
            ("a=12x", "a", regex("[0-9]+"), false),
            ("a=%ff", "a", regex(".*"), false),
        ];
        for (query, name, value, expected) in cases {
            assert_eq!(
                query_fits(Some(query), name, &value),
                expected,
                "{query} {name} {value:?}"
            );
        }
        assert!(!query_fits(None, "a", &exact("")));
    }
}
