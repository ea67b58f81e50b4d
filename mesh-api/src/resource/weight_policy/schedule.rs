//! When a policy is in force: spans of the calendar and of the week.
//!
//! Pure arithmetic on seconds since 1970; the caller knows the time.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most windows of one schedule.
pub const WINDOWS_MAX: usize = 64;

const DAY_S: i64 = 86_400;

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

const WEEK: [Day; 7] = [
    Day::Mon,
    Day::Tue,
    Day::Wed,
    Day::Thu,
    Day::Fri,
    Day::Sat,
    Day::Sun,
];

/// A time in which a policy is in force. Everything that it says must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Window {
    /// Not before, `2026-11-25T19:00:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// No longer from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// Days of the week; all when empty. A window over midnight is of the day that it begins on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// From this time of day, `19:00`; midnight when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<TimeOfDay>,
    /// To this time of day; midnight when absent. Not after `start`: on the next day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<TimeOfDay>,
    /// What `days`, `start` and `end` are ahead of UTC, in minutes, −1440 to 1440.
    #[serde(skip_serializing_if = "is_zero")]
    pub utc_offset_min: i32,
}

fn is_zero(minutes: &i32) -> bool {
    *minutes == 0
}

impl Window {
    /// Whether it is that time, in seconds since 1970.
    pub fn is_on(&self, now_s: i64) -> bool {
        let begun = self.from.is_none_or(|from| from.0 <= now_s);
        let ended = self.to.is_some_and(|to| to.0 <= now_s);
        begun && !ended && self.is_on_in_week(now_s + 60 * i64::from(self.utc_offset_min))
    }

    fn is_on_in_week(&self, local_s: i64) -> bool {
        let (day, second) = (local_s.div_euclid(DAY_S), local_s.rem_euclid(DAY_S));
        let start = self.start.map_or(0, TimeOfDay::seconds);
        let end = self.end.map_or(DAY_S, TimeOfDay::seconds);
        let is_day = |day: i64| {
            // The first of January 1970 was a Thursday.
            let at = (day + 3).rem_euclid(7) as usize;
            self.days.is_empty() || self.days.contains(&WEEK[at])
        };
        if start < end {
            return is_day(day) && (start..end).contains(&second);
        }
        (second >= start && is_day(day)) || (second < end && is_day(day - 1))
    }

    /// Whether it says anything, and nothing impossible.
    pub(super) fn is_sound(&self) -> bool {
        let in_order = match (self.from, self.to) {
            (Some(from), Some(to)) => from < to,
            _ => true,
        };
        in_order && self.utc_offset_min.abs() <= 1_440 && *self != Window::default()
    }
}

/// An instant, in seconds since 1970; written in RFC 3339, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

/// A time of day, in minutes since midnight; written `19:30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    fn seconds(self) -> i64 {
        i64::from(self.0) * 60
    }

    fn parse(text: &str) -> Option<TimeOfDay> {
        let (hour, minute) = text.split_once(':')?;
        let (hour, minute) = (two_digits(hour)?, two_digits(minute)?);
        (hour < 24 && minute < 60).then_some(TimeOfDay((hour * 60 + minute) as u16))
    }
}

fn two_digits(text: &str) -> Option<i64> {
    digits(text, 2)
}

fn digits(text: &str, len: usize) -> Option<i64> {
    let are = text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    are.then(|| text.parse().ok())?
}

impl Timestamp {
    fn parse(text: &str) -> Option<Timestamp> {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.split('-');
        let (year, month, day) = (date.next()?, date.next()?, date.next()?);
        let (year, month, day) = (digits(year, 4)?, two_digits(month)?, two_digits(day)?);
        let mut time = time.split(':');
        let (hour, minute, second) = (time.next()?, time.next()?, time.next()?);
        let (hour, minute) = (two_digits(hour)?, two_digits(minute)?);
        let second = two_digits(second)?;
        let sound = hour < 24 && minute < 60 && second < 60 && (1..=12).contains(&month);
        let days = days_since_1970(year, month, day);
        // A day that the month does not have comes back as another.
        let real = sound && civil(days) == (year, month, day);
        (real && date.next().is_none() && time.next().is_none())
            .then_some(Timestamp(days * DAY_S + hour * 3600 + minute * 60 + second))
    }
}

/// Days from the first of January 1970 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil).
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a day since 1970 (the same, civil_from_days).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * of_era + of_era / 4 - of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = of_era + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0.div_euclid(DAY_S));
        let second = self.0.rem_euclid(DAY_S);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        Timestamp::parse(&text)
            .ok_or_else(|| D::Error::custom("must be an instant in UTC, \"2026-11-25T19:00:00Z\""))
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TimeOfDay, D::Error> {
        let text = String::deserialize(deserializer)?;
        TimeOfDay::parse(&text)
            .ok_or_else(|| D::Error::custom("must be a time of day, \"00:00\" to \"23:59\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        Timestamp::parse(text).unwrap().0
    }

    #[test]
    fn instants_are_read_as_they_are_written() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2026-11-25T19:30:15Z", 1_795_635_015),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ];
        for (text, seconds) in cases {
            assert_eq!(at(text), seconds, "{text}");
            assert_eq!(Timestamp(seconds).to_string(), text);
        }
        for wrong in [
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01",
            "2026-01-01T00:00:00+01:00",
            "+026-01-01T00:00:00Z",
        ] {
            assert_eq!(Timestamp::parse(wrong), None, "{wrong}");
        }
        for wrong in ["24:00", "7:00", "19:60", "19", "-1:00"] {
            assert_eq!(TimeOfDay::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn windows_are_on_when_they_say() {
        // The 25th of November 2026 is a Wednesday.
        let cases = [
            (
                r#"{"start": "19:00", "end": "22:00"}"#,
                "2026-11-25T19:00:00Z",
                true,
            ),
            (
                r#"{"start": "19:00", "end": "22:00"}"#,
                "2026-11-25T22:00:00Z",
                false,
            ),
            (r#"{"days": ["wed"]}"#, "2026-11-25T00:00:00Z", true),
            (r#"{"days": ["wed"]}"#, "2026-11-26T00:00:00Z", false),
            (
                r#"{"days": ["wed"], "start": "22:00", "end": "02:00"}"#,
                "2026-11-26T01:59:59Z",
                true,
            ),
            (
                r#"{"days": ["wed"], "start": "22:00", "end": "02:00"}"#,
                "2026-11-25T01:00:00Z",
                false,
            ),
            (
                r#"{"days": ["wed"], "start": "22:00", "end": "02:00"}"#,
                "2026-11-25T23:00:00Z",
                true,
            ),
            (
                r#"{"days": ["thu"], "utc_offset_min": 60}"#,
                "2026-11-25T23:30:00Z",
                true,
            ),
            (
                r#"{"from": "2026-11-25T00:00:00Z"}"#,
                "2026-11-24T23:59:59Z",
                false,
            ),
            (
                r#"{"to": "2026-11-25T00:00:00Z"}"#,
                "2026-11-25T00:00:00Z",
                false,
            ),
            (
                r#"{"from": "2026-11-25T00:00:00Z", "to": "2026-11-26T00:00:00Z"}"#,
                "2026-11-25T12:00:00Z",
                true,
            ),
        ];
        for (text, now, on) in cases {
            let window: Window = serde_json::from_str(text).unwrap();
            assert!(window.is_sound());
            assert_eq!(window.is_on(at(now)), on, "{text} at {now}");
        }
        assert!(!Window::default().is_sound());
    }
}
