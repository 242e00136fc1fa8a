//! The rules that a homeserver holds for state in plain and cannot hold for encrypted state.

use ruma::UserId;

use super::{StateTuple, exempt::ExemptTypes, power::PowerLevels, validate::Refusal};

/// How far in the future, in milliseconds, an event's own time may lie before it is absurd: a day.
const FUTURE: i64 = 24 * 3_600_000;

/// A rule that a state event can break. What is judged on the packed key alone holds for events
/// that nobody can read, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// The sender has the power for the true type. Judged on the packed key.
    Power,
    /// A state key that is a user id is its sender's. Judged on the packed key.
    Ownership,
    /// What the room's own rules are made of is never encrypted. Judged on the packed key.
    Critical,
    /// No event comes from the far future.
    Timestamp,
    /// The content has the form that its type asks for, and is what the packed key says.
    Shape,
    /// What has to be encrypted is. The event says in plain what stands there under encryption, or what cannot count.
    Plain,
    /// The same rule, of an event in plain that is its tuple's value all the same: nothing was encrypted there yet, and
    /// the homeserver has checked its sender's power.
    Unsealed,
    /// A ciphertext stands once, where its author put it.
    Replay,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Power,
        Self::Ownership,
        Self::Critical,
        Self::Timestamp,
        Self::Shape,
        Self::Plain,
        Self::Unsealed,
        Self::Replay,
    ];

    /// The word for it in the store.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Ownership => "ownership",
            Self::Critical => "critical",
            Self::Timestamp => "timestamp",
            Self::Shape => "shape",
            Self::Plain => "plain",
            Self::Unsealed => "unsealed",
            Self::Replay => "replay",
        }
    }

    /// The word for it in metrics, in the ledger and in the configuration's `enforce`.
    pub fn told_as(self) -> &'static str {
        if self == Self::Unsealed { Self::Plain.as_label() } else { self.as_label() }
    }

    /// The rule of this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_label() == label)
    }

    /// Which rule an encrypted event breaks by its packed key alone, the gravest first.
    ///
    /// - `tuple`: what the packed key names.
    /// - `power`: the levels that stood when the event was sent.
    pub fn broken_on_key(
        tuple: &StateTuple,
        sender: &UserId,
        power: &PowerLevels,
        exempt: &ExemptTypes,
    ) -> Option<Self> {
        if exempt.is_critical(&tuple.event_type) {
            return Some(Self::Critical);
        }
        if !power.may_own(sender, &tuple.state_key) {
            return Some(Self::Ownership);
        }
        (!power.may_send_state(sender, &tuple.event_type)).then_some(Self::Power)
    }

    /// Whether it is judged on the packed key and the levels of its time.
    pub fn is_on_key(self) -> bool {
        matches!(self, Self::Power | Self::Ownership | Self::Critical)
    }

    /// Whether an event that breaks it may be its tuple's value all the same, or leaves that value standing.
    pub fn leaves_value(self) -> bool {
        matches!(self, Self::Timestamp | Self::Plain | Self::Unsealed)
    }

    /// Whether an event that breaks it is in plain, where it has to be encrypted.
    pub fn is_in_plain(self) -> bool {
        matches!(self, Self::Plain | Self::Unsealed)
    }

    /// Whether an event that broke it, and nothing else, was allowed to be its tuple's value.
    pub fn allows_value(self) -> bool {
        matches!(self, Self::Timestamp | Self::Unsealed)
    }

    /// Which rule a refused event broke; `None` where it broke none: its device may be signed yet,
    /// its author's identity be confirmed, and an exempt type is a matter of its own.
    pub fn of_refusal(refusal: &Refusal) -> Option<Self> {
        match refusal {
            Refusal::NoPower { .. } => Some(Self::Power),
            Refusal::NotOwner => Some(Self::Ownership),
            Refusal::Critical => Some(Self::Critical),
            Refusal::Shape(_) | Refusal::PackedKeyMismatch => Some(Self::Shape),
            // A ciphertext that was made for another room, or by somebody else, is used again as well.
            Refusal::Replayed | Refusal::WrongRoom | Refusal::SenderMismatch => Some(Self::Replay),
            Refusal::Exempt | Refusal::DeviceNotCrossSigned | Refusal::IdentityChanged => None,
        }
    }
}

/// Whether an event that arrives at `now` claims a time in the far future (both in milliseconds
/// since the epoch).
pub fn is_absurd_time(origin_server_ts: i64, now: i64) -> bool {
    origin_server_ts > now.saturating_add(FUTURE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    fn power(version: &str) -> PowerLevels {
        let levels =
            json!({ "users": { "@alice:a": 100, "@bob:a": 50 }, "events": { "m.room.name": 100 } });
        PowerLevels::from_content(levels.as_object(), &[], version)
    }

    fn broken(tuple: (&str, &str), version: &str) -> Option<Rule> {
        let tuple = StateTuple::new(tuple.0, tuple.1);
        let bob = user_id!("@bob:a");
        Rule::broken_on_key(&tuple, bob, &power(version), &ExemptTypes::default())
    }

    #[test]
    fn the_packed_key_alone_says_which_rule_is_broken() {
        assert_eq!(broken(("m.room.topic", ""), "11"), None);
        assert_eq!(broken(("m.room.name", ""), "11"), Some(Rule::Power));
        assert_eq!(broken(("com.example", "@alice:a"), "11"), Some(Rule::Ownership));
        assert_eq!(broken(("com.example", "@bob:a"), "11"), None);
        assert_eq!(broken(("m.room.power_levels", ""), "11"), Some(Rule::Critical));
        assert_eq!(broken(("m.room.name", "@alice:a"), "11"), Some(Rule::Ownership));
    }

    #[test]
    fn outranking_counts_only_in_room_versions_that_have_msc3757() {
        let version = "org.matrix.msc3757.11";
        assert_eq!(broken(("com.example", "@carol:a"), "11"), Some(Rule::Ownership));
        assert_eq!(broken(("com.example", "@carol:a"), version), None);
        assert_eq!(broken(("com.example", "@carol:a_list"), version), None);
        assert_eq!(broken(("com.example", "@alice:a"), version), Some(Rule::Ownership));
        assert_eq!(broken(("com.example", "@bob:a_list"), version), None);
        assert_eq!(broken(("com.example", "@bob:a_list"), "11"), Some(Rule::Ownership));
        assert_eq!(broken(("com.example", "@bob:ab"), version), None, "Bob outranks him");
    }

    #[test]
    fn a_time_is_absurd_from_more_than_a_day_ahead_on() {
        let now = 1_000_000;
        assert!(!is_absurd_time(0, now));
        assert!(!is_absurd_time(1_000_000 + 24 * 3_600_000, now));
        assert!(is_absurd_time(1_000_001 + 24 * 3_600_000, now));
        assert!(is_absurd_time(i64::MAX, now));
    }

    proptest! {
        #[test]
        fn a_label_names_its_rule(rule in prop::sample::select(&Rule::ALL[..])) {
            prop_assert_eq!(Rule::from_label(rule.as_label()), Some(rule));
        }

        /// Whoever has no power for a type never gets past the packed key, whatever the key.
        #[test]
        fn no_state_key_helps_past_the_power(key in ".{0,40}") {
            let tuple = StateTuple::new("m.room.name", key);
            let bob = user_id!("@bob:a");
            for version in ["1", "11", "12", "org.matrix.msc3757.11"] {
                let power = power(version);
                let rule = Rule::broken_on_key(&tuple, bob, &power, &ExemptTypes::default());
                prop_assert!(rule.is_some());
            }
        }
    }
}
