//! How long a certificate holds.
//!
//! The verifier checks this but does not tell it, so the two dates are read
//! here from the certificate's DER (RFC 5280, section 4.1): a sequence whose
//! first entry is a sequence of version, serial, algorithm, issuer, validity, …

use std::time::{Duration, SystemTime};

/// From when until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First instant.
    pub not_before: SystemTime,
    /// Last instant.
    pub not_after: SystemTime,
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

impl Validity {
    /// Reads the dates; `None` when this is not a certificate.
    pub fn read(certificate: &[u8]) -> Option<Validity> {
        let (whole, _) = entry(certificate, SEQUENCE)?;
        let (signed, _) = entry(whole, SEQUENCE)?;
        let rest = match signed.first() {
            Some(&VERSION) => skip(signed)?,
            _ => signed,
        };
        // Serial, algorithm, issuer.
        let rest = skip(skip(skip(rest)?)?)?;
        let (dates, _) = entry(rest, SEQUENCE)?;
        let (not_before, dates) = date(dates)?;
        let (not_after, _) = date(dates)?;
        Some(Validity {
            not_before,
            not_after,
        })
    }

    /// When two thirds of the time are over.
    pub fn two_thirds(&self) -> SystemTime {
        let life = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        self.not_before + life * 2 / 3
    }
}

/// Tag, content and what follows of the first DER entry.
fn first_entry(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let len = bytes.iter().fold(0, |n, &b| n << 8 | usize::from(b));
            (len, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

fn entry(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = first_entry(der)?;
    (found == tag).then_some((content, rest))
}

fn skip(der: &[u8]) -> Option<&[u8]> {
    first_entry(der).map(|(_, _, rest)| rest)
}

fn date(der: &[u8]) -> Option<(SystemTime, &[u8])> {
    let (tag, text, rest) = first_entry(der)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (year, text) = match tag {
        UTC_TIME => {
            let (year, text) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (year + if year >= 50 { 1900 } else { 2000 }, text)
        }
        GENERALIZED_TIME => {
            let (year, text) = text.split_at_checked(4)?;
            (year.parse().ok()?, text)
        }
        _ => return None,
    };
    if text.len() != 10 {
        return None;
    }
    let two = |at: usize| text.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (two(0)?, two(2)?);
    let seconds = (two(4)? * 60 + two(6)?) * 60 + two(8)?;
    let since_1970 = days_since_1970(year, month, day) * 86_400 + seconds;
    let since_1970 = Duration::from_secs(u64::try_from(since_1970).ok()?);
    Some((SystemTime::UNIX_EPOCH + since_1970, rest))
}

/// Days of the proleptic Gregorian calendar (Hinnant, "chrono-compatible low-level date
/// algorithms", `days_from_civil`).
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates() {
        let cases: [(&[u8], Option<u64>); 5] = [
            (b"\x17\x0d700101000000Z", Some(0)),
            (b"\x17\x0d261123101500Z", Some(1_795_428_900)),
            (b"\x18\x0f20500101000000Z", Some(2_524_608_000)),
            (b"\x17\x0d26112310150xZ", None),
            (b"\x17\x0b2611231015Z", None),
        ];
        for (der, expected) in cases {
            let expected = expected.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
            assert_eq!(date(der).map(|(at, _)| at), expected, "{der:?}");
        }
    }

    #[test]
    fn a_real_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 11, 1);
        params.not_after = rcgen::date_time_ymd(2026, 11, 4);
        let certificate = params.self_signed(&key).unwrap();
        let validity = Validity::read(certificate.der()).unwrap();
        let days = |n: u64| Duration::from_secs(n * 86_400);
        assert_eq!(validity.not_after, validity.not_before + days(3));
        assert_eq!(validity.two_thirds(), validity.not_before + days(2));
        let since_1970 = validity.not_before.duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(since_1970.unwrap().as_secs(), 1_793_491_200);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Validity::read(&bytes);
        }
    }
}
