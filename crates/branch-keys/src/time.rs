//! The wall clock and dates as text. Only this file reads a clock.

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, macros::format_description};

/// Reads the wall clock, in whole microseconds.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub(crate) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::from(std::time::SystemTime::now());
    now.replace_microsecond(now.microsecond()).expect("a microsecond of this second")
}

/// Reads a monotonic clock, to measure how long something takes.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
pub(crate) fn monotonic() -> std::time::Instant {
    std::time::Instant::now()
}

/// Returns a date as a key store writes it: `2026-11-27T20:41:20.856881Z`.
pub(crate) fn to_text(date: OffsetDateTime) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    date.to_offset(time::UtcOffset::UTC).format(&format).expect("a date of this millennium")
}

/// The inverse of [`to_text`]. It also accepts other fractions of a second, of up to nine digits.
pub(crate) fn from_text(text: &str) -> Option<OffsetDateTime> {
    let is_utc = text.len() <= "2026-11-27T20:41:20.856881000Z".len() && text.ends_with('Z');
    is_utc.then(|| OffsetDateTime::parse(text, &Rfc3339).ok()).flatten()
}

/// Returns now, or the next microsecond after `previous` if the clock is behind it.
///
/// The clock of the host that wrote `previous` may be ahead of this one's.
pub(crate) fn after(previous: OffsetDateTime, now: OffsetDateTime) -> OffsetDateTime {
    now.max(previous.saturating_add(Duration::microseconds(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_every_client_are_read() {
        let text = "2026-11-27T20:41:20.856881Z";
        assert_eq!(to_text(from_text(text).unwrap()), text);
        for (theirs, ours) in [
            ("2026-11-27T20:41:20.856000Z", "2026-11-27T20:41:20.856000Z"),
            ("2026-11-27T20:41:20.8Z", "2026-11-27T20:41:20.800000Z"),
            ("2026-11-27T20:41:20Z", "2026-11-27T20:41:20.000000Z"),
        ] {
            assert_eq!(to_text(from_text(theirs).unwrap()), ours);
        }
        for text in ["", "2026-11-27", "2026-11-27T20:41:20", "2026-11-27T20:41:20+00:00"] {
            assert_eq!(from_text(text), None, "{text}");
        }
    }

    #[test]
    fn a_date_is_later_than_the_previous_one() {
        let date = |text| from_text(text).unwrap();
        let now = date("2026-11-27T20:41:20.000000Z");
        let ahead = date("2026-11-27T20:41:25.000000Z");
        assert_eq!(after(ahead, now), date("2026-11-27T20:41:25.000001Z"));
        assert_eq!(after(now, ahead), ahead);
        assert_eq!(super::now().nanosecond() % 1_000, 0);
    }
}
