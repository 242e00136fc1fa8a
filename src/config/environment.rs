//! The environment, which sets keys over the file.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use serde_yaml::Value as Yaml;

use super::{
    mistake::Mistake,
    walk::{Form, set},
};

/// What the name of a variable that sets a key begins with.
const PREFIX: &str = "STATEKEEPER__";

/// What stands between the parts of a path in a variable's name.
const SEPARATOR: &str = "__";

/// The secrets that may stand in the configuration, or with `_file` behind their name in a file of their own: the
/// section, and the name.
const SECRETS: [(&[&str], &str); 3] = [
    (&["store"], "passphrase"),
    (&["admin", "dashboard"], "token"),
    (&["admin", "dashboard"], "proxy_secret"),
];

/// The variables that may set keys: names and values.
pub type Environment = BTreeMap<String, String>;

/// The variables of this process that may set keys. One that is not UTF-8 is kept with its bad parts
/// replaced, so that it is judged like any other wrong value.
pub fn environment() -> Environment {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect()
}

/// What the environment sets.
#[derive(Default)]
pub(super) struct Overlay {
    /// The path of each key that is set, and the variable that does it.
    set_by: BTreeMap<String, String>,
    /// What is wrong with the variables themselves.
    pub mistakes: Vec<Mistake>,
}

impl Overlay {
    /// Sets in `tree` what the variables say.
    pub fn lay(&mut self, tree: &mut Yaml, environment: &Environment, schema: &Json) {
        let known = leaves(schema, &[]);
        for (variable, text) in environment {
            let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
            let path: Vec<_> = rest.split(SEPARATOR).map(str::to_lowercase).collect();
            let Some((_, schema)) = known.iter().find(|(known, _)| *known == path) else {
                self.unknown(variable, &known);
                continue;
            };
            let Some(value) = self.value(variable, text, &Form::of(schema)) else { continue };
            self.displace(tree, &path);
            set(tree, &path, value);
            self.set_by.insert(path.join("."), variable.clone());
        }
    }

    /// A text as it stands, anything else as YAML.
    fn value(&mut self, variable: &str, text: &str, form: &Form<'_>) -> Option<Yaml> {
        if form.is_text() {
            return Some(Yaml::from(text));
        }
        match serde_yaml::from_str(text) {
            Ok(value) => Some(value),
            Err(_) => {
                let message = format!("is not YAML; write {}", form.hint());
                self.mistakes.push(from_environment(variable, message));
                None
            }
        }
    }

    /// A secret from the environment takes the place of the file's, in whichever way either is
    /// given: the two ways exclude each other only where they stand side by side.
    fn displace(&self, tree: &mut Yaml, path: &[String]) {
        let Some((key, section)) = path.split_last() else { return };
        let pair = SECRETS.iter().find(|(at, name)| {
            at.iter().eq(section)
                && key.strip_prefix(name).is_some_and(|end| ["", "_file"].contains(&end))
        });
        let Some((_, name)) = pair else { return };
        let other = if key == name { format!("{name}_file") } else { (*name).to_owned() };
        if self.set_by.contains_key(&[section, std::slice::from_ref(&other)].concat().join(".")) {
            return;
        }
        let mut found = Some(tree);
        for key in section {
            found = found.and_then(|tree| tree.get_mut(key.as_str()));
        }
        if let Some(section) = found.and_then(Yaml::as_mapping_mut) {
            section.remove(other.as_str());
        }
    }

    fn unknown(&mut self, variable: &str, known: &[(Vec<String>, &Json)]) {
        let names: Vec<String> = known.iter().map(|(path, _)| variable_for(path)).collect();
        let guess = names
            .iter()
            .map(|name| (strsim::jaro_winkler(variable, name), name))
            .max_by(|(one, _), (other, _)| one.total_cmp(other));
        let guess = guess.map(|(_, name)| format!("; did you mean {name}?")).unwrap_or_default();
        self.mistakes.push(from_environment(variable, format!("sets no key{guess}")));
    }

    /// The variable that set the key at a path, with the index where the path has one.
    pub fn variable_at(&self, path: &str) -> Option<String> {
        let (key, index) = path.split_at(path.find('[').unwrap_or(path.len()));
        self.set_by.get(key).map(|variable| format!("{variable}{index}"))
    }

    /// A mistake in the value at a path, which this or the file called `source` has set.
    pub fn mistake(&self, source: &str, path: String, message: String) -> Mistake {
        match self.variable_at(&path) {
            Some(variable) => from_environment(&variable, message),
            None => Mistake { source: source.to_owned(), path, message },
        }
    }
}

fn from_environment(variable: &str, message: String) -> Mistake {
    Mistake { source: "environment".to_owned(), path: variable.to_owned(), message }
}

/// The variable that sets the key at a path.
fn variable_for(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join(SEPARATOR).to_uppercase())
}

/// Every key that holds a value, with its schema.
fn leaves<'a>(schema: &'a Json, at: &[String]) -> Vec<(Vec<String>, &'a Json)> {
    let Some(keys) = schema.get("properties").and_then(Json::as_object) else {
        return vec![(at.to_vec(), schema)];
    };
    let below = |(name, schema): (&String, &'a Json)| {
        leaves(schema, &[at, std::slice::from_ref(name)].concat())
    };
    keys.iter().flat_map(below).collect()
}
