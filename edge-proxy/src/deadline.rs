//! Until when a request must be answered, and how the next hop learns it.
//!
//! A deadline is told as the time that is left, so that clocks need not agree:
//! gRPC in `grpc-timeout`, everything else between proxies in
//! [`hop::TIMEOUT`](isobar_mesh_api::hop::TIMEOUT). Each hop measures from
//! when it heard and tells the next one what is left.

use http::header::HeaderMap;
use http::request::Parts;
use http::{HeaderValue, Version};

use crate::expiry::NEVER_US;
use crate::headers;
use crate::traffic::Waits;

/// Two ends of one request, in microseconds of this proxy's clock; [`NEVER_US`] = none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// The head of the answer must have come.
    pub head_us: u64,
    /// The answer must have ended.
    pub end_us: u64,
    /// Whether the client, or the hop before, told it.
    pub is_told: bool,
}

impl Deadline {
    /// By the service's own limits, and what the hop before told, in microseconds from now.
    pub fn new(waits: &Waits, told_us: Option<u64>, now_us: u64) -> Deadline {
        let end_us = now_us.saturating_add(waits.stream_us.min(told_us.unwrap_or(NEVER_US)));
        Deadline {
            head_us: now_us.saturating_add(waits.request_us).min(end_us),
            end_us,
            is_told: told_us.is_some(),
        }
    }

    /// Whether the request must have been answered by now.
    pub fn is_over(&self, now_us: u64) -> bool {
        now_us >= self.head_us
    }
}

/// What the client gave, in microseconds.
pub fn told_by_client(head: &Parts) -> Option<u64> {
    // gRPC is HTTP/2, or HTTP/3; others need not be searched.
    match head.version {
        Version::HTTP_2 | Version::HTTP_3 => parse_grpc(head.headers.get(headers::GRPC_TIMEOUT)?),
        _ => None,
    }
}

/// What a peer gave, in microseconds.
pub fn told_by_hop(head: &Parts) -> Option<u64> {
    let grpc = told_by_client(head);
    let hop = head.headers.get(headers::TIMEOUT).and_then(parse_hop);
    grpc.into_iter().chain(hop).min()
}

/// Tells the next hop how long it has, when there is an end.
pub fn tell(deadline: &Deadline, head: &mut HeaderMap, now_us: u64) {
    if deadline.end_us == NEVER_US {
        return;
    }
    let left_us = deadline.end_us.saturating_sub(now_us);
    match head.get_mut(headers::GRPC_TIMEOUT) {
        Some(value) => *value = write_grpc(left_us),
        None => {
            head.insert(headers::TIMEOUT, write_hop(left_us));
        }
    }
}

/// Reads `grpc-timeout`, in microseconds: at most eight digits and a unit (gRPC over HTTP/2, "Requests").
pub fn parse_grpc(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    let unit = text.chars().next_back()?;
    let number = &text[..text.len() - unit.len_utf8()];
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        'H' => Some(number * 3_600_000_000),
        'M' => Some(number * 60_000_000),
        'S' => Some(number * 1_000_000),
        'm' => Some(number * 1000),
        'u' => Some(number),
        'n' => Some(number / 1000),
        _ => None,
    }
}

/// Writes `grpc-timeout`: in the finest unit that eight digits hold.
pub fn write_grpc(left_us: u64) -> HeaderValue {
    const DIGITS: u64 = 100_000_000;
    let units = [
        (1, "u"),
        (1000, "m"),
        (1_000_000, "S"),
        (60_000_000, "M"),
        (3_600_000_000, "H"),
    ];
    let fits = |&&(unit_us, _): &&(u64, &str)| left_us / unit_us < DIGITS;
    let (unit_us, name) = units.iter().find(fits).unwrap_or(&units[4]);
    let number = (left_us / unit_us).min(DIGITS - 1);
    text(format!("{number}{name}"))
}

/// Reads the mesh's own header, milliseconds, in microseconds.
pub fn parse_hop(value: &HeaderValue) -> Option<u64> {
    let millis: u64 = value.to_str().ok()?.parse().ok()?;
    Some(millis.saturating_mul(1000))
}

/// Writes the mesh's own header.
pub fn write_hop(left_us: u64) -> HeaderValue {
    text((left_us / 1000).to_string())
}

fn text(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
        .expect("digits and a letter are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use isobar_mesh_api::resource::TrafficPolicySpec;
    use proptest::prelude::*;

    fn waits(text: &str) -> Waits {
        let spec: TrafficPolicySpec = serde_json::from_str(text).unwrap();
        crate::traffic::Traffic::new(spec.into()).waits
    }

    #[test]
    fn the_nearer_end_counts() {
        let default = waits("{}");
        let none = Deadline::new(&default, None, 5);
        assert_eq!((none.head_us, none.end_us), (60_000_005, NEVER_US));
        let told = Deadline::new(&default, Some(7), 5);
        assert_eq!((told.head_us, told.end_us, told.is_told), (12, 12, true));
        let short = waits(r#"{"timeouts": {"request": "1ms", "stream": "2ms"}}"#);
        let both = Deadline::new(&short, Some(10_000_000), 0);
        assert_eq!((both.head_us, both.end_us), (1000, 2000));
    }

    #[test]
    fn grpc_timeouts() {
        let cases = [
            ("1H", Some(3_600_000_000)),
            ("2M", Some(120_000_000)),
            ("3S", Some(3_000_000)),
            ("4m", Some(4000)),
            ("5u", Some(5)),
            ("6000n", Some(6)),
            ("99999999H", Some(359_999_996_400_000_000)),
            ("123456789S", None),
            ("1", None),
            ("S", None),
            ("-1S", None),
            ("1s", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let value = HeaderValue::from_str(text).unwrap();
            assert_eq!(parse_grpc(&value), expected, "{text}");
        }
    }

    proptest! {
        /// What is told is never more than what is left, and nearly that.
        #[test]
        fn what_is_told_reads_back(left_us in 0u64..100_000_000_000_000) {
            let told = parse_grpc(&write_grpc(left_us)).unwrap();
            prop_assert!(told <= left_us && told as f64 >= left_us as f64 * 0.9999 - 1.0);
            let told = parse_hop(&write_hop(left_us)).unwrap();
            prop_assert!(told <= left_us && left_us - told < 1000);
        }
    }
}
