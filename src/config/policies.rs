//! What a policy leaves out.

use serde_json::Value as Json;
use serde_yaml::Value as Yaml;

use super::{
    Config, Policy,
    section::{OVERALL, SECTIONS},
    walk::set,
};

/// Fills in what each entry of `policies` leaves out, from the top level.
pub(super) fn inherit(tree: &mut Yaml) {
    let defaults = tree.clone();
    let policies = tree.get_mut("policies").and_then(Yaml::as_sequence_mut);
    for policy in policies.into_iter().flatten() {
        for section in SECTIONS {
            let keys = defaults.get(section).and_then(Yaml::as_mapping);
            let mut keys = keys.cloned().unwrap_or_default();
            if let Some(Yaml::Mapping(own)) = policy.get(section).cloned() {
                keys.extend(own);
            }
            set(policy, &[section.to_owned()], Yaml::Mapping(keys));
        }
        if policy.get("noop").is_none()
            && let Some(noop) = defaults.get("noop")
        {
            set(policy, &["noop".to_owned()], noop.clone());
        }
    }
}

impl Config {
    /// Each setting that may differ from room to room, with its path and its value for rooms of the policy
    /// at this place in the list, or of none.
    pub fn settings(&self, policy: Option<usize>) -> Vec<(String, Json)> {
        let none = || Policy {
            sharing: self.sharing.clone(),
            state: self.state.clone(),
            rotation: self.rotation.clone(),
            enforce: self.enforce.clone(),
            noop: self.noop,
            ..Policy::default()
        };
        let policy = policy.and_then(|index| self.policies.get(index)).cloned();
        let tree = serde_yaml::to_value(policy.unwrap_or_else(none)).unwrap_or_default();
        let json = |value: &Yaml| serde_json::to_value(value).unwrap_or_default();
        let mut settings = Vec::new();
        for section in SECTIONS {
            let keys = tree.get(section).and_then(Yaml::as_mapping).into_iter().flatten();
            for (key, value) in keys.filter_map(|(key, value)| Some((key.as_str()?, value))) {
                if !OVERALL.contains(&(section, key)) {
                    settings.push((format!("{section}.{key}"), json(value)));
                }
            }
        }
        settings.extend(tree.get("noop").map(|noop| ("noop".to_owned(), json(noop))));
        settings
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Action, Devices, Invitees, load::read_with as read};

    #[test]
    fn what_a_policy_leaves_out_is_as_at_the_top_level() {
        let config = read(
            r#"
sharing: { devices: all, invitees: none, budget: { burst: 7 } }
enforce: { shape: redact }
noop: true
policies:
  - match: { rooms: ["!a:localhost"] }
    sharing: { invitees: all }
  - match: { servers: ["*.example.org"] }
    sharing:
    enforce: { power: report }
    noop: false
"#,
        )
        .unwrap();
        let [first, second] = &config.policies[..] else { panic!("two policies") };
        assert_eq!((first.sharing.devices, first.sharing.invitees), (Devices::All, Invitees::All));
        assert_eq!(first.sharing.budget.burst, 7);
        assert_eq!((first.enforce.shape, first.enforce.power), (Action::Redact, Action::Restore));
        assert!(first.noop);
        assert_eq!(second.sharing, config.sharing);
        assert_eq!((second.enforce.shape, second.enforce.power), (Action::Redact, Action::Report));
        assert!(!second.noop);
        assert_eq!(second.state, config.state);
    }

    #[test]
    fn a_mistake_in_a_policy_is_told_with_its_path() {
        let cases = [
            (
                r#"[{ match: { rooms: ["a:b"] } }]"#,
                r#"policies[0].match.rooms[0]: "a:b" is not a room id; write one like "!room:example.org""#,
            ),
            (
                r##"[{ match: { aliases: ["#a:b", "team"] } }]"##,
                r##"policies[0].match.aliases[1]: "team" is not a pattern for room aliases; write one for a whole alias, like "#ops:example.org" or "#team-*:*""##,
            ),
            (
                r#"[{ match: { servers: ["https://x"] } }]"#,
                r#"policies[0].match.servers[0]: "https://x" is not a pattern for server names; write one for a whole server name, like "example.org" or "*.example.org""#,
            ),
            (
                r#"[{ match: { spaces: "!a:b" } }]"#,
                r#"policies[0].match.spaces: "!a:b" is not a list; write one like ["first", "second"]"#,
            ),
            (
                r#"[{ match: { rooms: ["!a:b"] } }, { match: { room: ["!a:b"] } }]"#,
                r#"policies[1].match.room: there is no such key; did you mean "rooms"?"#,
            ),
            (
                r#"[{ match: { rooms: ["!a:b"] }, sharing: { device: all } }]"#,
                r#"policies[0].sharing.device: there is no such key; did you mean "devices"?"#,
            ),
            (
                r#"[{ match: { rooms: ["!a:b"] }, sharing: { refresh_per_second: 3 } }]"#,
                r#"policies[0].sharing.refresh_per_second: holds for all rooms together; write it under "sharing" at the top level"#,
            ),
            (
                r#"[{ match: { rooms: ["!a:b"] }, access: {} }]"#,
                "policies[0].access: holds for all rooms together; write it at the top level",
            ),
            (
                r#"[{ match: { rooms: ["!a:b"] }, enforce: { power: kick } }]"#,
                r#"policies[0].enforce.power: "kick" is not one of report, restore, redact"#,
            ),
            (
                r#"[{ match: { rooms: ["!a:b"] }, rotation: { messages: 0 } }]"#,
                "policies[0].rotation.messages: 0 is not a whole number; write 1 or more, without a unit",
            ),
            (
                r#"[{ match: { rooms: ["!a:b"] }, state: { exempt: ["m.*"] } }]"#,
                r#"policies[0].state.exempt[0]: "m.*" is not an event type; write one in full, like "m.room.tombstone""#,
            ),
            (
                "[{ sharing: { devices: all } }]",
                "policies[0].match: matches no room in particular; write rooms, aliases, spaces or servers, or set what is for all rooms at the top level",
            ),
            (
                "[{ match: { rooms: [] } }]",
                "policies[0].match: matches no room in particular; write rooms, aliases, spaces or servers, or set what is for all rooms at the top level",
            ),
            ("[5]", "policies[0]: is not a section; write its keys indented beneath it"),
            ("{}", r#"policies: a mapping is not a list; write one like ["first", "second"]"#),
        ];
        for (policies, line) in cases {
            let mistakes = read(&format!("policies: {policies}")).unwrap_err();
            assert_eq!(mistakes, [format!("config.yaml: {line}")], "{policies}");
        }
    }

    #[test]
    fn every_setting_that_differs_by_room_is_taken_from_a_policy() {
        let config = read(
            r##"
policies:
  - match: { rooms: ["!a:b"], aliases: ["#x:*"], spaces: ["!s:b"], servers: ["b"] }
    sharing: { unasked: false, members: approved, devices: all, refresh_window: 1s }
    state: { seal: encrypted_rooms, journal_days: 3, warn_membership_reasons: true }
    rotation: { settle: 1m, when: at_once, reseal: all, reseal_per_second: 2 }
    enforce: { power: redact, ownership: report, critical: redact, timestamp: restore, shape: restore, plain: redact, replay: restore }
    noop: true
"##,
        )
        .unwrap();
        let written = serde_yaml::to_value(&config.policies[0]).unwrap();
        let default = serde_yaml::to_value(crate::config::Policy::default()).unwrap();
        let differs = |path: &str| {
            let at = |tree: &serde_yaml::Value| {
                path.split('.').try_fold(tree.clone(), |tree, key| tree.get(key).cloned()).unwrap()
            };
            at(&written) != at(&default)
        };
        for path in [
            "match.rooms",
            "match.aliases",
            "match.spaces",
            "match.servers",
            "sharing.unasked",
            "sharing.members",
            "sharing.devices",
            "sharing.refresh_window",
            "state.seal",
            "state.journal_days",
            "state.warn_membership_reasons",
            "rotation.settle",
            "rotation.when",
            "rotation.reseal",
            "rotation.reseal_per_second",
            "enforce.power",
            "enforce.ownership",
            "enforce.critical",
            "enforce.timestamp",
            "enforce.shape",
            "enforce.plain",
            "enforce.replay",
            "noop",
        ] {
            assert!(differs(path), "{path}");
        }
    }
}
