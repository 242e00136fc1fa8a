//! `defaults`: what holds where no policy says otherwise, under a heading of its own instead of at the top level.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use serde_yaml::Value as Yaml;

use super::{environment::Overlay, mistake::Mistake, section::SECTIONS, walk::set};

/// The heading.
pub(super) const DEFAULTS: &str = "defaults";
const NOOP: &str = "noop";

/// The settings that stood under the heading and are at the top level now, by their paths there.
#[derive(Debug, Default)]
pub(super) struct Moved(BTreeSet<String>);

impl Moved {
    /// Moves what stands under the heading to the top level. What the environment says there counts.
    pub(super) fn up(
        tree: &mut Yaml,
        (source, overlay): (&str, &Overlay),
        mistakes: &mut Vec<Mistake>,
    ) -> Self {
        let mut moved = Self::default();
        let found = tree.as_mapping_mut().and_then(|tree| tree.remove(DEFAULTS));
        let mut tell = |path: &str, message: &str| {
            let path = format!("{DEFAULTS}{path}");
            mistakes.push(overlay.mistake(source, path, message.to_owned()));
        };
        let sections = match found {
            None | Some(Yaml::Null) => return moved,
            Some(Yaml::Mapping(sections)) => sections,
            Some(_) => {
                tell("", "is not a section; write its keys indented beneath it");
                return moved;
            }
        };
        for (name, value) in sections {
            let name = name.as_str().unwrap_or_default().to_owned();
            let keys: Vec<(Vec<String>, Yaml)> = match value {
                value if name == NOOP => vec![(vec![name.clone()], value)],
                _ if !SECTIONS.contains(&name.as_str()) => {
                    let all = SECTIONS.join(", ");
                    tell(
                        &format!(".{name}"),
                        &format!("cannot stand here, where only {all} and {NOOP} can"),
                    );
                    continue;
                }
                Yaml::Null => continue,
                Yaml::Mapping(keys) => keys
                    .into_iter()
                    .map(|(key, value)| {
                        (vec![name.clone(), key.as_str().unwrap_or_default().to_owned()], value)
                    })
                    .collect(),
                _ => {
                    tell(
                        &format!(".{name}"),
                        "is not a section; write its keys indented beneath it",
                    );
                    continue;
                }
            };
            for (path, value) in keys {
                let dotted = path.join(".");
                let stands =
                    path.iter().try_fold(&*tree, |tree, key| tree.get(key.as_str())).is_some();
                if !stands {
                    set(tree, &path, value);
                    moved.0.insert(dotted);
                } else if overlay.variable_at(&dotted).is_none() {
                    tell(&format!(".{dotted}"), "stands at the top level as well; write it once");
                }
            }
        }
        moved
    }

    /// Names a mistake by where its setting was written.
    pub(super) fn name(&self, mistakes: &mut [Mistake]) {
        for mistake in mistakes {
            let was_moved = self.0.iter().any(|moved| {
                mistake
                    .path
                    .strip_prefix(moved.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            });
            if was_moved {
                mistake.path = format!("{DEFAULTS}.{}", mistake.path);
            }
        }
    }
}

/// Adds the heading to the configuration's JSON schema: the same sections as at the top level.
pub(super) fn add_to_schema(schema: &mut Json) {
    let Some(known) = schema.get_mut("properties").and_then(Json::as_object_mut) else { return };
    let sections = SECTIONS.iter().chain([&NOOP]);
    let sections: serde_json::Map<String, Json> =
        sections.filter_map(|name| Some(((*name).to_owned(), known.get(*name)?.clone()))).collect();
    known.insert(DEFAULTS.to_owned(), json!({
        "description": "What holds where no policy says otherwise, under a heading of its own instead of at the top level.",
        "type": "object",
        "properties": sections,
        "additionalProperties": false,
    }));
}

#[cfg(test)]
mod tests {
    use crate::config::{Action, Invitees, load::read_with as read};

    #[test]
    fn what_stands_under_the_heading_holds_as_at_the_top_level() {
        let config = read(
            "state:\n\
             sharing: { invitees: none }\n\
             defaults:\n\
             \u{20} enforce: { power: redact }\n\
             \u{20} state: { journal_days: 7 }\n\
             \u{20} rotation:\n\
             \u{20} noop: true\n\
             policies:\n\
             - match: { rooms: ['!a:localhost'] }\n\
             \u{20} enforce: { shape: redact }\n\
             \u{20} noop: false\n",
        )
        .unwrap();
        assert_eq!((config.enforce.power, config.state.journal_days), (Action::Redact, 7));
        assert_eq!((config.sharing.invitees, config.noop), (Invitees::None, true));
        let policy = &config.policies[0];
        assert_eq!((policy.enforce.power, policy.enforce.shape), (Action::Redact, Action::Redact));
        assert_eq!((policy.state.journal_days, policy.noop), (7, false));
    }

    #[test]
    fn a_mistake_under_the_heading_is_told_with_its_path() {
        for (defaults, line) in [
            (
                "{ state: { journal_days: 0 } }",
                "defaults.state.journal_days: 0 is not a whole number; write 1 or more, without a unit",
            ),
            (
                "{ state: { jurnal_days: 1 } }",
                "defaults.state.jurnal_days: there is no such key; did you mean \"journal_days\"?",
            ),
            (
                "{ homeserver: { domain: b } }",
                "defaults.homeserver: cannot stand here, where only sharing, state, rotation, enforce and noop can",
            ),
            (
                "{ enforce: [] }",
                "defaults.enforce: is not a section; write its keys indented beneath it",
            ),
            ("7", "defaults: is not a section; write its keys indented beneath it"),
        ] {
            let told = read(&format!("defaults: {defaults}")).unwrap_err();
            assert_eq!(told, [format!("config.yaml: {line}")], "{defaults}");
        }
        let told = read("noop: true\ndefaults: { noop: true }").unwrap_err();
        let line = "config.yaml: defaults.noop: stands at the top level as well; write it once";
        assert_eq!(told, [line]);
    }
}
