//! The one place that reads the clock, and how its times are written.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat};

/// Milliseconds since the Unix epoch by this machine's clock.
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}

/// A time in milliseconds since the Unix epoch as RFC 3339 writes it in UTC, to the second.
pub fn to_second(milliseconds: i64) -> String {
    written(milliseconds, SecondsFormat::Secs)
}

/// The same to the millisecond.
pub fn to_millisecond(milliseconds: i64) -> String {
    written(milliseconds, SecondsFormat::Millis)
}

fn written(milliseconds: i64, format: SecondsFormat) -> String {
    // What no calendar holds was not written by a keeper.
    DateTime::from_timestamp_millis(milliseconds)
        .map_or_else(|| milliseconds.to_string(), |time| time.to_rfc3339_opts(format, true))
}
