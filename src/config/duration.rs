//! A time with its unit, as an operator writes it.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A length of time in whole milliseconds, written as a whole number and a unit: `250ms`, `3s`,
/// `10m`, `1h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(u64);

/// The units, largest first, with their milliseconds.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A text that is no [`Duration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a duration; write a number and a unit, like \"3s\" (units: ms, s, m, h, d)")]
pub struct DurationError;

impl Duration {
    /// The given number of milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// The given number of seconds, or the longest time there is if that is less.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000))
    }

    /// The same length as the standard library's type.
    pub const fn get(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.get()
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, size): &&(&str, u64)| self.0 >= *size && self.0.is_multiple_of(*size);
        let (unit, size) = UNITS.iter().find(fits).copied().unwrap_or(("s", 1_000));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).ok_or(DurationError)?;
        let number: u64 = number.parse().map_err(|_| DurationError)?;
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(DurationError)?;
        number.checked_mul(*size).map(Self).ok_or(DurationError)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "time-span", "pattern": "^[0-9]+(ms|s|m|h|d)$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_it_is_read() {
        for text in ["250ms", "3s", "10m", "1h", "7d", "0s", "1001ms", "90s"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
        assert_eq!("120s".parse::<Duration>().unwrap().to_string(), "2m");
        assert_eq!("0ms".parse::<Duration>().unwrap().to_string(), "0s");
    }

    #[test]
    fn a_duration_has_the_length_it_says() {
        assert_eq!("2m".parse::<Duration>().unwrap().get(), std::time::Duration::from_secs(120));
    }

    #[test]
    fn what_is_not_a_number_and_a_unit_is_no_duration() {
        for text in ["", "3", "s", "3 s", "-3s", "3parsecs", "1.5s", "3S", "99999999999999999999s"]
        {
            assert_eq!(text.parse::<Duration>(), Err(DurationError), "{text:?}");
        }
        assert_eq!("18446744073709551615d".parse::<Duration>(), Err(DurationError));
    }
}
