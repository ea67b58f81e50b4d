//! Times as load traces write them: `2013-12-16T18:40Z`, `2024-01-01T06:00`.
//!
//! A trace needs little of a calendar: to know how far apart two labels are, and to write the labels between them. That
//! is one formula each way, so no date crate is carried into the edge's programs.
//!
//! Two kinds never mix within a trace: instants (with `Z` or an offset, kept in UTC) and local wall-clock times without
//! an offset, which are counted as if each day had 24 hours.

use std::fmt;

const DAY_S: i64 = 86_400;

/// When a bin begins, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BinTime {
    /// Seconds since 1970-01-01T00:00, in UTC or on the local wall clock.
    unix_s: i64,
    utc: bool,
}

/// A text that is not a time of the form this crate reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a time; expected YYYY-MM-DDTHH:MM, optionally with :SS and with Z or ±HH:MM"
)]
pub struct BinTimeError {
    /// What was read, cut short when long.
    pub text: String,
}

/// Longest label taken for a time, bytes; longer text is refused unread.
const LABEL_LEN_MAX: usize = 32;

impl BinTime {
    /// Reads `YYYY-MM-DDTHH:MM[:SS][Z|±HH:MM]` (RFC 3339 with optional seconds and offset; a space may stand for the
    /// `T`). Years 0000 to 9999 of the proleptic Gregorian calendar.
    ///
    /// # Errors
    /// [`BinTimeError`] for any other text, also for dates and hours that do not exist (`2023-02-29`, `24:00`).
    pub fn parse(text: &str) -> Result<Self, BinTimeError> {
        Self::parse_bytes(text.as_bytes()).ok_or_else(|| BinTimeError {
            text: text.chars().take(LABEL_LEN_MAX).collect(),
        })
    }

    fn parse_bytes(text: &[u8]) -> Option<Self> {
        if text.len() > LABEL_LEN_MAX || !matches!(text.get(10)?, b'T' | b't' | b' ') {
            return None;
        }
        let (year, month, day) = (
            number(text, 0..4, 9999)?,
            number(text, 5..7, 12)?,
            number(text, 8..10, 31)?,
        );
        let (hour, minute) = (number(text, 11..13, 23)?, number(text, 14..16, 59)?);
        if text[4] != b'-' || text[7] != b'-' || text[13] != b':' {
            return None;
        }
        if month == 0 || day == 0 || day > days_in_month(year, month) {
            return None;
        }
        let (second, zone_at) = match text.get(16) {
            Some(b':') => (number(text, 17..19, 59)?, 19),
            _ => (0, 16),
        };
        let (offset_s, utc) = zone(&text[zone_at..])?;
        let of_day_s = hour * 3600 + minute * 60 + second;
        Some(Self {
            unix_s: days_from_civil(year, month, day) * DAY_S + of_day_s - offset_s,
            utc,
        })
    }

    /// Seconds since 1970-01-01T00:00, in UTC or on the local wall clock.
    #[must_use]
    pub fn unix_s(self) -> i64 {
        self.unix_s
    }

    /// Whether this is an instant in UTC, rather than a local time without offset.
    #[must_use]
    pub fn is_utc(self) -> bool {
        self.utc
    }

    /// The time `seconds` later, saturating at the ends of `i64`.
    #[must_use]
    pub fn plus_s(self, seconds: i64) -> Self {
        Self {
            unix_s: self.unix_s.saturating_add(seconds),
            ..self
        }
    }
}

/// Writes what [`BinTime::parse`] reads: seconds only when there are some, `Z` for UTC.
impl fmt::Display for BinTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.unix_s.div_euclid(DAY_S));
        let of_day_s = self.unix_s.rem_euclid(DAY_S);
        let (hour, minute, second) = (of_day_s / 3600, of_day_s / 60 % 60, of_day_s % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}")?;
        if second != 0 {
            write!(f, ":{second:02}")?;
        }
        f.write_str(if self.utc { "Z" } else { "" })
    }
}

/// The decimal digits in `range`, nothing else, at most `max`.
fn number(text: &[u8], range: std::ops::Range<usize>, max: i64) -> Option<i64> {
    let mut value = 0;
    for digit in text.get(range)? {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(digit - b'0');
    }
    (value <= max).then_some(value)
}

/// What follows the clock time: seconds east of UTC, and whether there was a zone at all.
fn zone(text: &[u8]) -> Option<(i64, bool)> {
    match text {
        [] => Some((0, false)),
        [b'Z' | b'z'] => Some((0, true)),
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let east_s = number(text, 1..3, 23)? * 3600 + number(text, 4..6, 59)? * 60;
            Some((if *sign == b'-' { -east_s } else { east_s }, true))
        }
        _ => None,
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01. Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`: years
/// begin in March, so that the leap day is the last of a year, in eras of 400 years = 146 097 days.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a count of days since 1970-01-01; `civil_from_days` of the same source.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `expected` is (seconds since 1970, label as written back), or nothing when the text is no time.
    fn check(text: &str, expected: Option<(i64, &str)>) {
        let read = BinTime::parse(text).ok();
        let read = read.map(|time| (time.unix_s(), time.to_string()));
        let expected = expected.map(|(unix_s, label)| (unix_s, label.to_owned()));
        assert_eq!(read, expected, "{text:?}");
    }

    #[test]
    fn times_are_read_and_written() {
        check("1970-01-01T00:00Z", Some((0, "1970-01-01T00:00Z")));
        check(
            "2013-12-16T18:40Z",
            Some((1_387_219_200, "2013-12-16T18:40Z")),
        );
        check(
            "2013-12-16 19:40:00+01:00",
            Some((1_387_219_200, "2013-12-16T18:40Z")),
        );
        check(
            "2013-12-16T13:10-05:30",
            Some((1_387_219_200, "2013-12-16T18:40Z")),
        );
        check(
            "2024-02-29T06:00:07",
            Some((1_709_186_407, "2024-02-29T06:00:07")),
        );
        check("1969-12-31T23:59:59Z", Some((-1, "1969-12-31T23:59:59Z")));
        check(
            "0000-01-01T00:00Z",
            Some((-62_167_219_200, "0000-01-01T00:00Z")),
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "2024",
            "2024-01-01",
            "2024-01-01T",
            "2024-01-01T06",
            "2024-01-01T06:0",
            "2024-13-01T06:00",
            "2024-00-01T06:00",
            "2023-02-29T06:00",
            "1900-02-29T06:00",
            "2024-04-31T06:00",
            "2024-01-00T06:00",
            "2024-01-01T24:00",
            "2024-01-01T06:60",
            "2024-01-01T06:00:60",
            "2024-01-01T06:00:0",
            "2024-01-01T06:00X",
            "2024-01-01T06:00+1:00",
            "2024-01-01T06:00+24:00",
            "2024/01/01T06:00",
            "2024-01-01X06:00",
            "+024-01-01T06:00",
            "2024-01-01T06:00é",
            "é024-01-01T06:0é",
        ] {
            check(text, None);
        }
        let long = BinTime::parse(&"2".repeat(5_000)).unwrap_err();
        assert!(long.to_string().len() < 150);
    }

    proptest! {
        #[test]
        fn parse_undoes_display(unix_s in -62_167_219_200_i64..253_402_300_800, utc: bool) {
            let time = BinTime { unix_s, utc };
            prop_assert_eq!(BinTime::parse(&time.to_string()).unwrap(), time);
        }

        #[test]
        fn labels_sort_as_times_do(a in 0_i64..253_302_300_800, later in 1_i64..100_000_000) {
            // Both within years of four digits.
            let minute = BinTime { unix_s: a / 60 * 60, utc: true };
            let after = minute.plus_s(later / 60 * 60);
            prop_assert_eq!(minute.to_string() < after.to_string(), minute < after);
        }
    }
}
