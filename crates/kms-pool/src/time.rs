//! The only place that reads the clocks. Everything else takes `now` as an argument, or asks here.

use std::time::SystemTime;

use tokio::time::Instant;

/// The wall clock: expiry dates of credentials are wall-clock dates.
#[allow(clippy::disallowed_methods, reason = "this is the one reading of the clock")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// The clock for everything that lasts.
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}
