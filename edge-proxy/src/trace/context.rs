//! Whose trace a request belongs to, as headers say: W3C Trace Context (`traceparent`) is read and written, B3 (one
//! header or several) is read.
//!
//! Pure. What is not exactly a context is none.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// W3C's context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What others added to it; passed on untouched.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// Length of a `traceparent` of version 00, in bytes.
const TRACEPARENT_LEN: usize = 55;

/// A span of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace; not 0.
    pub trace: u128,
    /// The span; not 0.
    pub span: u64,
}

/// What a request's headers say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// The span that the request was sent in.
    pub parent: Option<Context>,
    /// Whether that is recorded, where it is said.
    pub sampled: Option<bool>,
}

impl Told {
    /// Reads headers: `traceparent` before B3.
    pub fn by(headers: &HeaderMap) -> Told {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let w3c = all.next().filter(|_| all.next().is_none());
        let w3c = w3c.and_then(|value| traceparent(value.as_bytes()));
        w3c.or_else(|| b3(headers)).unwrap_or_default()
    }
}

fn traceparent(bytes: &[u8]) -> Option<Told> {
    let (known, rest) = bytes.split_at_checked(TRACEPARENT_LEN)?;
    let separated = known[2] == b'-' && known[35] == b'-' && known[52] == b'-';
    let version = hex(&known[..2])?;
    // A later version may say more behind it.
    let ends = match version {
        0 => rest.is_empty(),
        0xff => false,
        _ => rest.is_empty() || rest[0] == b'-',
    };
    if !separated || !ends {
        return None;
    }
    let flags = hex(&known[53..])?;
    Some(Told {
        parent: Some(context(&known[3..35], &known[36..52])?),
        sampled: Some(flags & 1 == 1),
    })
}

fn b3(headers: &HeaderMap) -> Option<Told> {
    let bytes = |name| headers.get(name).map(HeaderValue::as_bytes);
    if let Some(one) = bytes(B3) {
        let mut parts = one.split(|b| *b == b'-');
        let first = parts.next()?;
        let Some(span) = parts.next() else {
            return Some(Told {
                parent: None,
                sampled: Some(b3_sampled(first)?),
            });
        };
        let sampled = parts.next();
        return Some(Told {
            parent: Some(context(first, span)?),
            sampled: match sampled {
                Some(sampled) => Some(b3_sampled(sampled)?),
                None => None,
            },
        });
    }
    let debug = bytes(B3_FLAGS) == Some(b"1");
    let sampled = match debug {
        true => Some(true),
        false => bytes(B3_SAMPLED).and_then(b3_sampled),
    };
    let parent = match (bytes(B3_TRACE), bytes(B3_SPAN)) {
        (Some(trace), Some(span)) => Some(context(trace, span)?),
        _ => None,
    };
    (parent.is_some() || sampled.is_some()).then_some(Told { parent, sampled })
}

fn b3_sampled(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"d" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

fn context(trace: &[u8], span: &[u8]) -> Option<Context> {
    // B3 also has traces of 64 bits.
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 {
        return None;
    }
    let context = Context {
        trace: hex(trace)?,
        span: u64::try_from(hex(span)?).ok()?,
    };
    (context.trace != 0 && context.span != 0).then_some(context)
}

/// Digits and lower-case letters alone.
fn hex(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0, |value: u128, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

impl Context {
    /// The `traceparent` of what is sent in this span.
    pub fn header(&self, sampled: bool) -> HeaderValue {
        let flags = u8::from(sampled);
        let text = format!("00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span);
        // Digits, letters and '-'.
        HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
            .unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// Whether a trace is in the share that is recorded, from 0 to 1. Everybody who asks with the same share gets the same
/// answer (OpenTelemetry, "TraceIdRatioBased": by the trace's last bits, which are random).
pub fn is_in_share(trace: u128, share: f64) -> bool {
    let place = (trace as u64 >> 8) as f64 / (1_u64 << 56) as f64;
    place < share
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn told(lines: &[(&'static str, &str)]) -> Option<(u128, u64, Option<bool>)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let told = Told::by(&headers);
        told.parent
            .map(|parent| (parent.trace, parent.span, told.sampled))
    }

    #[test]
    fn contexts_are_read() {
        let trace = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
        let span = 0x00f0_67aa_0ba9_02b7;
        let good = |version: &str, flags: &str, more: &str| {
            format!("{version}-{TRACE}-00f067aa0ba902b7-{flags}{more}")
        };
        let cases = [
            (good("00", "01", ""), Some(true)),
            (good("00", "00", ""), Some(false)),
            (good("00", "ff", ""), Some(true)),
            (good("cc", "01", ""), Some(true)),
            (good("cc", "01", "-what-comes"), Some(true)),
        ];
        for (text, sampled) in cases {
            assert_eq!(
                told(&[("traceparent", &text)]),
                Some((trace, span, sampled)),
                "{text}"
            );
        }
        let upper = good("00", "01", "").to_uppercase();
        let twice = good("00", "01", "");
        let none = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        for text in [
            "",
            "00",
            &good("ff", "01", ""),
            &good("00", "01", "-x"),
            &good("cc", "01", "x"),
            &upper,
            &none,
        ] {
            assert_eq!(told(&[("traceparent", text)]), None, "{text}");
        }
        assert_eq!(
            told(&[("traceparent", &twice), ("traceparent", &twice)]),
            None
        );
    }

    #[test]
    fn b3_is_read_in_both_forms() {
        let one = format!("{TRACE}-00f067aa0ba902b7");
        let trace = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
        let span = 0x00f0_67aa_0ba9_02b7;
        for (end, sampled) in [
            ("", None),
            ("-1", Some(true)),
            ("-0", Some(false)),
            ("-d-05e3ac9a4f6e3b90", Some(true)),
        ] {
            assert_eq!(
                told(&[("b3", &format!("{one}{end}"))]),
                Some((trace, span, sampled))
            );
        }
        let short = [
            ("x-b3-traceid", "a3ce929d0e0e4736"),
            ("x-b3-spanid", "00f067aa0ba902b7"),
            ("x-b3-sampled", "1"),
        ];
        assert_eq!(
            told(&short),
            Some((0xa3ce_929d_0e0e_4736, span, Some(true)))
        );
        assert_eq!(told(&[("b3", &format!("{one}-x"))]), None);
        let mut headers = HeaderMap::new();
        headers.insert("b3", HeaderValue::from_static("0"));
        assert_eq!(
            Told::by(&headers),
            Told {
                parent: None,
                sampled: Some(false)
            }
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let context = Context {
            trace: 1 << 100 | 7,
            span: 9,
        };
        for sampled in [true, false] {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, context.header(sampled));
            assert_eq!(
                Told::by(&headers),
                Told {
                    parent: Some(context),
                    sampled: Some(sampled)
                }
            );
        }
    }

    #[test]
    fn shares_nest() {
        let mut rng = fastrand::Rng::with_seed(7);
        let traces: Vec<u128> = (0..20_000).map(|_| rng.u128(..)).collect();
        let within = |share| traces.iter().filter(|t| is_in_share(**t, share)).count();
        assert_eq!((within(0.0), within(1.0)), (0, 20_000));
        assert!((1_800..2_200).contains(&within(0.1)), "{}", within(0.1));
        assert!(
            traces
                .iter()
                .all(|t| !is_in_share(*t, 0.1) || is_in_share(*t, 0.2))
        );
    }
}
