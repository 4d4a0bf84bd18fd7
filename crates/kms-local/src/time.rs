//! Clocks and date formats. Only this file reads a clock: everything else takes `now`.

use std::time::{Duration, Instant, SystemTime};

use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};

/// Reads the wall clock, for dates, expiry and signatures.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// Reads the monotonic clock, for rates.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// Reads the clock of Tokio's timers.
pub(crate) fn timer() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Returns whole milliseconds since the epoch, or 0 for an earlier time.
pub(crate) fn to_millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// The inverse of [`to_millis`]. `None` past the end of the clock.
pub(crate) fn from_millis(millis: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// Returns seconds since the epoch with a fraction, which is how AWS JSON writes a timestamp.
pub(crate) fn to_epoch_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |age| {
        Duration::from_millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)).as_secs_f64()
    })
}

/// Parses `YYYYMMDDTHHMMSSZ`, the format of `X-Amz-Date`.
pub(crate) fn parse_amz_date(text: &str) -> Option<SystemTime> {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    PrimitiveDateTime::parse(text, format).ok().map(|date| date.assume_utc().into())
}

/// Formats `YYYYMMDDTHHMMSSZ`.
pub(crate) fn format_amz_date(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// Formats `YYYY-MM-DDTHH:MM:SSZ`.
pub(crate) fn format_iso8601(time: SystemTime) -> String {
    let text = format_amz_date(time);
    let (date, clock) = text.split_at(8);
    format!(
        "{}-{}-{}{}:{}:{}",
        &date[..4],
        &date[4..6],
        &date[6..],
        &clock[..3],
        &clock[3..5],
        &clock[5..]
    )
}

/// Formats a `Date` header. `None` if the date is out of range.
pub(crate) fn format_http_date(time: SystemTime) -> Option<String> {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    OffsetDateTime::from(time).format(format).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amz_dates_round_trip() {
        let time = parse_amz_date("20240229T235958Z").unwrap();
        assert_eq!(to_millis(time), 1_709_251_198_000);
        assert_eq!(format_amz_date(time), "20240229T235958Z");
        assert_eq!(format_iso8601(time), "2024-02-29T23:59:58Z");
    }

    #[test]
    fn http_dates_are_formatted() {
        let time = parse_amz_date("19941106T084937Z").unwrap();
        assert_eq!(format_http_date(time).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn malformed_amz_dates_are_refused() {
        for text in ["", "20240229", "20230229T000000Z", "20240229T000000", "20240229T000000Z "] {
            assert_eq!(parse_amz_date(text), None, "{text:?}");
        }
    }
}
