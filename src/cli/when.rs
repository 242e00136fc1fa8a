//! Points in time, as people write and read them.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveTime};

use crate::config::Duration;
pub(super) use crate::keeper::clock::{to_millisecond, to_second};

/// A point in time, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Milliseconds since the Unix epoch.
    At(i64),
    /// So long before now.
    Ago(Duration),
}

/// A text that is no [`When`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a time; write one like 2026-01-31T09:30:00Z or 2026-01-31T09:30:00+01:00, a day like \
     2026-01-31 (from its midnight, UTC), or how long ago, like 7d or 12h (units: ms, s, m, h, d)"
)]
pub(super) struct WhenError;

impl When {
    /// The point in time, in milliseconds since the Unix epoch, where it is `now` (the same).
    pub(super) fn as_of(self, now: i64) -> i64 {
        match self {
            Self::At(time) => time,
            Self::Ago(length) => {
                now.saturating_sub(i64::try_from(length.get().as_millis()).unwrap_or(i64::MAX))
            }
        }
    }
}

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<Self, WhenError> {
        if let Ok(length) = text.parse() {
            return Ok(Self::Ago(length));
        }
        if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            return Ok(Self::At(day.and_time(NaiveTime::MIN).and_utc().timestamp_millis()));
        }
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| WhenError)?;
        Ok(Self::At(time.timestamp_millis()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JANUARY: i64 = 1_769_851_800_000;

    #[test]
    fn a_time_has_its_offset_and_a_day_begins_at_midnight_utc() {
        for (text, time) in [
            ("2026-01-31T09:30:00Z", JANUARY),
            ("2026-01-31T10:30:00+01:00", JANUARY),
            ("2026-01-31T09:30:00.250Z", JANUARY + 250),
            ("2026-01-31", JANUARY - 34_200_000),
            ("1970-01-01", 0),
        ] {
            assert_eq!(text.parse(), Ok(When::At(time)), "{text}");
        }
        assert_eq!(to_second(JANUARY), "2026-01-31T09:30:00Z");
        assert_eq!(to_millisecond(JANUARY + 7), "2026-01-31T09:30:00.007Z");
    }

    #[test]
    fn a_duration_is_counted_back_from_now() {
        let ago = |text: &str| text.parse::<When>().unwrap().as_of(JANUARY);
        assert_eq!(ago("12h"), JANUARY - 43_200_000);
        assert_eq!(ago("7d"), JANUARY - 604_800_000);
        assert!(ago("18446744073709551615ms") < 0);
    }

    #[test]
    fn what_is_no_time_is_refused_with_what_is_one() {
        for text in [
            "",
            "yesterday",
            "7",
            "7 d",
            "-7d",
            "2026-02-30",
            "2026-1-31x",
            "31.01.2026",
            "2026-01-31T09:30:00",
            "2026-01-31T25:00:00Z",
            "09:30",
        ] {
            assert_eq!(text.parse::<When>(), Err(WhenError), "{text:?}");
        }
        for allowed in ["2026-01-31T09:30:00Z", "2026-01-31 ", "7d", "12h"] {
            assert!(WhenError.to_string().contains(allowed), "{allowed}");
        }
    }
}
