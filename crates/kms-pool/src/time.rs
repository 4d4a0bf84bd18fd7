//! The only place that reads the clock. Everything else takes `now` as an argument.

use std::time::SystemTime;

/// The wall clock: expiry dates of credentials are wall-clock dates.
#[allow(clippy::disallowed_methods, reason = "this is the one reading of the clock")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
