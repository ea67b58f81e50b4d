//! Spans of time as operators write them: `"250ms"`, `"1m30s"`.
//!
//! The form is the Gateway API's (GEP-2257): one to four of a number of one to
//! five digits with a unit, `h`, `m`, `s` or `ms`, each unit once and the
//! larger first. `"0s"` is no time, which for a timeout means none.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A span of time, in whole milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(u64);

/// A text that is no span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a span of time is written like \"250ms\", \"2s\" or \"1m30s\"")]
pub struct SpanError;

impl Span {
    /// No time.
    pub const ZERO: Span = Span(0);

    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Span {
        Span(millis)
    }

    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Span {
        Span(secs * 1000)
    }

    /// In milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// In microseconds.
    pub const fn as_micros(self) -> u64 {
        self.0.saturating_mul(1000)
    }

    /// As the standard library has it.
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Whether it is no time.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Reads the written form.
    ///
    /// # Errors
    /// Another form, or a unit twice or out of order.
    pub fn parse(text: &str) -> Result<Span, SpanError> {
        let (mut rest, mut millis, mut smaller) = (text, 0, &UNITS[..]);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| SpanError)?;
            let unit = &rest[digits..];
            let len = unit.bytes().take_while(u8::is_ascii_alphabetic).count();
            let at = smaller.iter().position(|(name, _)| *name == &unit[..len]);
            let at = at.filter(|_| digits <= 5).ok_or(SpanError)?;
            millis += number * smaller[at].1;
            smaller = &smaller[at + 1..];
            rest = &unit[len..];
        }
        match text.is_empty() {
            true => Err(SpanError),
            false => Ok(Span(millis)),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, millis) in UNITS {
            let number = rest / millis;
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
            rest %= millis;
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        Span::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_a_span() {
        let cases = [
            ("250ms", Some(250)),
            ("2s", Some(2000)),
            ("1m30s", Some(90_000)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("1.5s", None),
            ("-1s", None),
            ("1s1m", None),
            ("1s1s", None),
            ("123456s", None),
            ("s", None),
            ("1 s", None),
            ("1µs", None),
        ];
        for (text, millis) in cases {
            assert_eq!(
                Span::parse(text).ok().map(Span::as_millis),
                millis,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn spans_read_back(millis in 0u64..359_999_999) {
            let span = Span::from_millis(millis);
            prop_assert_eq!(Span::parse(&span.to_string()), Ok(span));
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = Span::parse(&text);
        }
    }
}
