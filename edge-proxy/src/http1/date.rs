//! The `Date` of answers that come without one, written once a second per thread.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

/// Length of a date as RFC 9110, section 5.6.7, wants it.
const LEN: usize = 29;

thread_local! {
    /// The second since 1970 and its text.
    static WRITTEN: Cell<(u64, [u8; LEN])> = const { Cell::new((u64::MAX, [b' '; LEN])) };
}

/// The date of now.
pub fn now() -> [u8; LEN] {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let (written, mut text) = WRITTEN.get();
    if written != second {
        let date = httpdate::fmt_http_date(now);
        if date.len() == LEN {
            text.copy_from_slice(date.as_bytes());
        }
        WRITTEN.set((second, text));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_have_the_fixed_form() {
        let text = super::now();
        let text = std::str::from_utf8(&text).unwrap();
        assert!(httpdate::parse_http_date(text).is_ok(), "{text}");
    }
}
