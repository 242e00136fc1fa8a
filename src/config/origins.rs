//! Where each setting comes from: the line of the file, the variable, or the default.

use std::{fmt, path::Path};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Value as Yaml;

use super::{
    Config,
    defaults::DEFAULTS,
    environment::{Environment, Overlay},
    load::{parse_yaml, schema_of, unreadable},
    mistake::Mistake,
};

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file, counted from 1.
    Line(String, usize),
    /// A variable in the environment.
    Variable(String),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(file, line) => write!(f, "{file}:{line}"),
            Self::Variable(variable) => f.write_str(variable),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A configuration as it was written. Holds secrets, and so has no form for debugging.
pub struct Origins {
    source: String,
    text: String,
    tree: Yaml,
    overlay: Overlay,
}

impl Origins {
    /// Reads a file, and the environment over it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is not YAML.
    pub fn read(path: &Path, environment: &Environment) -> Result<Self, Mistake> {
        let source = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(&source, &error))?;
        Self::parse(source, text, environment)
    }

    fn parse(source: String, text: String, environment: &Environment) -> Result<Self, Mistake> {
        let mut tree = parse_yaml(&text, &source)?;
        let mut overlay = Overlay::default();
        overlay.lay(&mut tree, environment, &schema_of::<Config>());
        Ok(Self { source, text, tree, overlay })
    }

    /// Where the policy at a place in the list comes from.
    pub fn of_policy(&self, index: usize) -> Origin {
        self.at(&[Step::Key("policies"), Step::Item(index)]).unwrap_or(Origin::Default)
    }

    /// Where a room's setting comes from (`sharing.devices`), for rooms with this policy or with none.
    pub fn of_setting(&self, policy: Option<usize>, key: &str) -> Origin {
        let key: Vec<Step<'_>> = key.split('.').map(Step::Key).collect();
        let own = policy.and_then(|index| {
            self.at(&[&[Step::Key("policies"), Step::Item(index)], &key[..]].concat())
        });
        let under_heading = || self.at(&[&[Step::Key(DEFAULTS)], &key[..]].concat());
        own.or_else(|| self.at(&key)).or_else(under_heading).unwrap_or(Origin::Default)
    }

    fn at(&self, path: &[Step<'_>]) -> Option<Origin> {
        let mut value = &self.tree;
        let mut name = String::new();
        for step in path {
            match step {
                Step::Key(key) => {
                    value = value.get(*key)?;
                    name.push_str(if name.is_empty() { "" } else { "." });
                    name.push_str(key);
                }
                Step::Item(index) => {
                    value = value.get(*index)?;
                    name.push_str(&format!("[{index}]"));
                }
            }
        }
        if let Some(variable) = self.overlay.variable_at(&name) {
            return Some(Origin::Variable(variable));
        }
        let line = line_of(&self.text, path)?;
        Some(Origin::Line(self.source.clone(), line))
    }
}

/// One step down in a tree.
#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Item(usize),
}

/// The line of a key, or of a list's item. The parser tells positions only with an error, so one is made
/// where the path ends. A key that is merged in (`<<`) counts where it is not written out.
fn line_of(text: &str, path: &[Step<'_>]) -> Option<usize> {
    [false, true].into_iter().find_map(|merged| {
        let find = Find { path, merged };
        let found = find.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
        Some(found.location()?.line())
    })
}

/// Goes down a path, and ends with an error at its end.
#[derive(Clone, Copy)]
struct Find<'a> {
    path: &'a [Step<'a>],
    /// Whether to look into what is merged in.
    merged: bool,
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.path {
            [] => deserializer.deserialize_any(End),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what lies on the path")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (wanted, rest) = match self.path {
            [Step::Key(wanted), rest @ ..] => (*wanted, rest),
            _ => ("", self.path),
        };
        while let Some(key) = map.next_key_seed(Key { wanted, last: rest.is_empty() })? {
            match key {
                Found::Wanted => map.next_value_seed(Find { path: rest, ..self })?,
                Found::Merge if self.merged => map.next_value_seed(self)?,
                Found::Merge | Found::Other => map.next_value::<IgnoredAny>().map(|_| ())?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        match self.path {
            [Step::Item(index), rest @ ..] => {
                for _ in 0..*index {
                    list.next_element::<IgnoredAny>()?;
                }
                list.next_element_seed(Find { path: rest, ..self })?;
            }
            // Several mappings that are merged in.
            _ => while list.next_element_seed(self)?.is_some() {},
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
}

/// Refuses everything, and so tells where it stands.
struct End;

impl Visitor<'_> for End {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the path")
    }
}

/// What a key is.
enum Found {
    Wanted,
    Merge,
    Other,
}

/// Reads a key; at the last one of the path it ends with an error.
struct Key<'a> {
    wanted: &'a str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        // Keys of a configuration are text; others have been told as mistakes.
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Found, E> {
        match key {
            key if key == self.wanted && self.last => Err(E::custom("here")),
            key if key == self.wanted => Ok(Found::Wanted),
            "<<" => Ok(Found::Merge),
            _ => Ok(Found::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
base: &base
  devices: all
  members: joined
sharing:
  <<: *base
  members: approved
state: { reseal: on_need,
  reseal_delay: 1s }
defaults: { state: { journal_days: 7 } }
policies:
  - match: { rooms: [\"!a:b\"] }
    sharing:
      # For these rooms.
      invitees: all
  -
    noop: true
    match:
      rooms: [\"!c:d\"]
";

    fn origins(environment: &[(&str, &str)]) -> Origins {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment = environment.iter().map(own).collect();
        Origins::parse("c.yaml".to_owned(), TEXT.to_owned(), &environment).ok().unwrap()
    }

    #[test]
    fn each_setting_is_found_on_its_line() {
        let origins = origins(&[]);
        let cases = [
            (None, "sharing.members", "c.yaml:6"),
            (None, "sharing.devices", "c.yaml:2"),
            (None, "sharing.invitees", "default"),
            (None, "state.reseal", "c.yaml:7"),
            (None, "state.reseal_delay", "c.yaml:8"),
            (None, "state.journal_days", "c.yaml:9"),
            (Some(0), "state.journal_days", "c.yaml:9"),
            (None, "noop", "default"),
            (Some(0), "sharing.invitees", "c.yaml:14"),
            (Some(0), "sharing.members", "c.yaml:6"),
            (Some(0), "noop", "default"),
            (Some(1), "noop", "c.yaml:16"),
            (Some(1), "sharing.invitees", "default"),
        ];
        for (policy, key, origin) in cases {
            assert_eq!(origins.of_setting(policy, key).to_string(), origin, "{policy:?} {key}");
        }
        assert_eq!(origins.of_policy(0).to_string(), "c.yaml:11");
        assert_eq!(origins.of_policy(1).to_string(), "c.yaml:16");
    }

    #[test]
    fn what_the_environment_sets_is_named_by_its_variable() {
        let origins = origins(&[
            ("STATEKEEPER__SHARING__MEMBERS", "vouched"),
            ("STATEKEEPER__SHARING__INVITEES", "none"),
        ]);
        let told = |policy, key| origins.of_setting(policy, key).to_string();
        assert_eq!(told(None, "sharing.members"), "STATEKEEPER__SHARING__MEMBERS");
        assert_eq!(told(Some(1), "sharing.invitees"), "STATEKEEPER__SHARING__INVITEES");
        assert_eq!(told(Some(0), "sharing.invitees"), "c.yaml:14");
    }

    #[test]
    fn policies_from_the_environment_are_named_by_their_variable() {
        let policies = "[{ match: { rooms: ['!a:b'] }, noop: true }]";
        let origins = origins(&[("STATEKEEPER__POLICIES", policies)]);
        let variable = Origin::Variable("STATEKEEPER__POLICIES[0].noop".to_owned());
        assert_eq!(origins.of_setting(Some(0), "noop"), variable);
        assert_eq!(origins.of_policy(0).to_string(), "STATEKEEPER__POLICIES[0]");
    }
}
