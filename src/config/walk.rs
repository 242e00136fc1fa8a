//! Finds every mistake in a YAML tree, where deserialization would stop at the first.
//!
//! The tree is held against the JSON schema of the wanted type. What the schema cannot express (is
//! this text a URL?) is asked of the type itself: one value at a time is set into a tree that is
//! known to be good, and the whole is deserialized. Whatever is wrong is taken out of the tree and
//! noted, so that later checks can go on with the rest.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use serde_yaml::{Mapping, Value as Yaml};

use super::{doubt::Doubt, mistake::Mistake};

/// A path of keys from the root, without list indices.
type Keys<'a> = &'a [String];

/// Compares YAML trees with what a `T` is made of.
pub(super) struct Walk<'a, T> {
    /// The JSON schema of `T`, without references.
    pub schema: &'a Json,
    /// A tree that is a good `T`, with the required keys at least.
    pub good: &'a Yaml,
    /// The name of the file, for mistakes.
    pub source: &'a str,
    /// The variable that set the value at a path, if one did.
    pub set_by: &'a dyn Fn(&str) -> Option<String>,
    /// The mistakes found so far.
    pub mistakes: Vec<Mistake>,
    /// What is missing or wrong.
    pub doubt: Doubt,
    /// `T` is only deserialized into.
    pub wanted: PhantomData<T>,
}

impl<T: DeserializeOwned> Walk<'_, T> {
    /// Takes out of `tree` whatever is wrong, and records why.
    pub fn prune(&mut self, tree: &mut Yaml) {
        let schema = self.schema;
        let Some(mapping) = tree.as_mapping_mut() else {
            self.report(&[], "is not a mapping; write sections like \"homeserver:\" with their keys indented beneath".to_owned());
            *tree = Yaml::Mapping(Mapping::new());
            return;
        };
        self.prune_mapping(mapping, schema, &[]);
    }

    fn prune_mapping(&mut self, mapping: &mut Mapping, schema: &Json, at: Keys<'_>) {
        let Some(known) = schema.get("properties").and_then(Json::as_object) else { return };
        let open = schema.get("additionalProperties") != Some(&Json::Bool(false));
        let mut wrong = Vec::new();
        for (key, value) in mapping.iter_mut() {
            let name = key_name(key);
            let path = [at, std::slice::from_ref(&name)].concat();
            let good = match known.get(&name).filter(|_| key.is_string()) {
                Some(schema) => self.prune_value(value, schema, &path),
                None if open => true,
                None if self.is_overall(at, &name) => self.report(&path, overall_key(at)),
                None => self.report(&path, unknown_key(&name, known)),
            };
            if !good {
                wrong.push(key.clone());
            }
        }
        self.require(mapping, schema, at);
        for key in wrong {
            mapping.remove(key);
        }
    }

    /// Whether a key that an item of a list cannot have is known at the same place at the top level.
    fn is_overall(&self, at: Keys<'_>, name: &str) -> bool {
        let Some((item, rest)) = at.split_first() else { return false };
        let mut section = Some(self.schema);
        for key in rest {
            section = section.and_then(|schema| schema.get("properties")?.get(key));
        }
        let known = section.and_then(|schema| schema.get("properties")?.get(name));
        item.ends_with(']') && known.is_some()
    }

    fn require(&mut self, mapping: &Mapping, schema: &Json, at: Keys<'_>) {
        let names = schema.get("required").and_then(Json::as_array).into_iter().flatten();
        for name in names.filter_map(Json::as_str).filter(|name| !mapping.contains_key(*name)) {
            let path = [at, &[name.to_owned()]].concat();
            let hint = match schema.pointer(&format!("/properties/{name}")) {
                Some(schema) if schema.get("properties").is_some() => {
                    let required = schema.get("required").and_then(Json::as_array);
                    let keys: Vec<_> =
                        required.into_iter().flatten().filter_map(Json::as_str).collect();
                    format!("write this section, with {}", keys.join(", "))
                }
                Some(schema) => format!("write {}", Form::of(schema).hint()),
                None => "write it".to_owned(),
            };
            self.report(&path, format!("is missing; {hint}"));
        }
    }

    /// Whether the value may stay.
    fn prune_value(&mut self, value: &mut Yaml, schema: &Json, at: Keys<'_>) -> bool {
        if schema.get("properties").is_some() {
            return match value {
                Yaml::Mapping(mapping) => {
                    self.prune_mapping(mapping, schema, at);
                    true
                }
                // Every key of the section is commented out.
                Yaml::Null => {
                    *value = Yaml::Mapping(Mapping::new());
                    self.require(&Mapping::new(), schema, at);
                    true
                }
                _ => self
                    .report(at, "is not a section; write its keys indented beneath it".to_owned()),
            };
        }
        let form = Form::of(schema);
        if value.is_null() && !form.nullable {
            return self.report(at, format!("is empty; write {}, or remove the key", form.hint()));
        }
        if let (Yaml::Sequence(items), Some(schema)) = (&mut *value, schema.get("items")) {
            self.prune_items(items, schema, at);
            return true;
        }
        match self.fault(value, &form, at, |value| value.clone()) {
            Some(message) => self.report(at, message),
            None => true,
        }
    }

    /// Takes out of a list the items that are wrong. Those with keys of their own stay, without what is wrong in
    /// them, so that the others keep their places.
    fn prune_items(&mut self, items: &mut Vec<Yaml>, schema: &Json, at: Keys<'_>) {
        let form = Form::of(schema);
        let mut index = 0_usize;
        items.retain_mut(|item| {
            let (last, before) = at.split_last().map_or(("", at), |(l, b)| (l.as_str(), b));
            let item_at = [before, &[format!("{last}[{index}]")]].concat();
            index = index.saturating_add(1);
            if schema.get("properties").is_some() {
                self.prune_value(item, schema, &item_at);
                return true;
            }
            let alone = |item: &Yaml| Yaml::Sequence(vec![item.clone()]);
            match self.fault(item, &form, at, alone) {
                Some(message) => self.report(&item_at, message),
                None => true,
            }
        });
    }

    /// What is wrong with one value, which `wrap` turns into what stands at the path.
    fn fault(
        &self,
        value: &Yaml,
        form: &Form<'_>,
        at: Keys<'_>,
        wrap: impl Fn(&Yaml) -> Yaml,
    ) -> Option<String> {
        let mut probe = self.good.clone();
        set(&mut probe, at, wrap(value));
        let fits = form.allows(value) && serde_yaml::from_value::<T>(probe).is_ok();
        (!fits).then(|| form.complain(value))
    }

    /// Records a mistake. Always false: what is wrong may not stay.
    fn report(&mut self, at: Keys<'_>, message: String) -> bool {
        let path = at.join(".");
        self.doubt.note(path.clone());
        let mistake = match (self.set_by)(&path) {
            Some(variable) => Mistake { source: "environment".to_owned(), path: variable, message },
            None => Mistake { source: self.source.to_owned(), path, message },
        };
        self.mistakes.push(mistake);
        false
    }
}

/// Sets the value at a path of keys, making mappings on the way. A key with an index stands for the
/// first item of its list, where there is one.
pub(super) fn set(tree: &mut Yaml, at: Keys<'_>, value: Yaml) {
    let Some((first, rest)) = at.split_first() else {
        *tree = value;
        return;
    };
    if !tree.is_mapping() {
        *tree = Yaml::Mapping(Mapping::new());
    }
    if let Some((name, _)) = first.split_once('[')
        && let Some(item) = tree.get_mut(name).and_then(|list| list.as_sequence_mut()?.first_mut())
    {
        return set(item, rest, value);
    }
    if let Some(mapping) = tree.as_mapping_mut() {
        set(mapping.entry(Yaml::from(first.as_str())).or_insert(Yaml::Null), rest, value);
    }
}

fn key_name(key: &Yaml) -> String {
    match key {
        Yaml::String(name) => name.clone(),
        Yaml::Number(number) => number.to_string(),
        Yaml::Bool(truth) => truth.to_string(),
        _ => "?".to_owned(),
    }
}

fn overall_key(at: Keys<'_>) -> String {
    match at.get(1..) {
        Some(section) if !section.is_empty() => {
            let section = section.join(".");
            format!("holds for all rooms together; write it under \"{section}\" at the top level")
        }
        _ => "holds for all rooms together; write it at the top level".to_owned(),
    }
}

fn unknown_key(name: &str, known: &Map<String, Json>) -> String {
    match nearest(name, known.keys().map(String::as_str)) {
        Some(nearest) => format!("there is no such key; did you mean \"{nearest}\"?"),
        None => {
            let names: Vec<_> = known.keys().map(String::as_str).collect();
            format!("there is no such key; the keys here are {}", names.join(", "))
        }
    }
}

/// The known name that somebody who wrote `name` probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    known
        .map(|known| (strsim::jaro_winkler(&name, known), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

/// What one value has to look like, as its schema says.
pub(super) struct Form<'a> {
    schema: &'a Json,
    /// Whether it may be left empty.
    nullable: bool,
    /// The first type that is not `null`: `string`, `integer`, `boolean` or `array`.
    kind: &'a str,
    /// The words to choose from, if there is a choice.
    words: Vec<&'a str>,
}

impl<'a> Form<'a> {
    /// Reads a schema without `properties`.
    pub fn of(schema: &'a Json) -> Self {
        let kinds: Vec<&str> = match schema.get("type") {
            Some(Json::String(kind)) => vec![kind],
            Some(Json::Array(kinds)) => kinds.iter().filter_map(Json::as_str).collect(),
            _ => vec!["string"],
        };
        let variants = schema.get("oneOf").and_then(Json::as_array).into_iter().flatten();
        let words = variants.filter_map(|variant| variant.get("const")?.as_str()).collect();
        let kind = kinds.iter().copied().find(|kind| *kind != "null").unwrap_or("string");
        Self { schema, nullable: kinds.contains(&"null"), kind, words }
    }

    /// Whether a text stands here as it is, so that an environment variable is not read as YAML.
    pub fn is_text(&self) -> bool {
        self.kind == "string"
    }

    fn allows(&self, value: &Yaml) -> bool {
        match value {
            Yaml::Null => self.nullable,
            Yaml::String(text) => {
                let chosen = self.words.is_empty() || self.words.contains(&text.as_str());
                self.kind == "string" && chosen
            }
            Yaml::Number(number) => {
                let least = self.schema.get("minimum").and_then(Json::as_u64).unwrap_or(0);
                self.kind == "integer" && number.as_u64().is_some_and(|number| number >= least)
            }
            Yaml::Bool(_) => self.kind == "boolean",
            Yaml::Sequence(_) => self.kind == "array",
            Yaml::Mapping(_) | Yaml::Tagged(_) => false,
        }
    }

    /// What is wrong with the value and what to write instead. A secret is not repeated.
    fn complain(&self, value: &Yaml) -> String {
        let shown = match value {
            _ if self.schema.get("writeOnly") == Some(&Json::Bool(true)) => "the value".to_owned(),
            Yaml::String(text) => format!("{text:?}"),
            Yaml::Number(number) => number.to_string(),
            Yaml::Bool(truth) => truth.to_string(),
            Yaml::Null => "an empty value".to_owned(),
            Yaml::Sequence(_) => "a list".to_owned(),
            Yaml::Mapping(_) => "a mapping".to_owned(),
            Yaml::Tagged(_) => "a tagged value".to_owned(),
        };
        if self.words.is_empty() {
            return format!("{shown} is not {}; write {}", self.noun(), self.hint());
        }
        let guess = value.as_str().and_then(|text| nearest(text, self.words.iter().copied()));
        let guess = guess.map(|word| format!("; did you mean \"{word}\"?")).unwrap_or_default();
        format!("{shown} is not one of {}{guess}", self.words.join(", "))
    }

    /// What the value has to be.
    fn noun(&self) -> &'static str {
        self.noun_and_hint().0
    }

    /// What to write, with an example.
    pub fn hint(&self) -> String {
        if !self.words.is_empty() {
            return format!("one of {}", self.words.join(", "));
        }
        match self.schema.get("minimum").and_then(Json::as_u64).filter(|least| *least > 0) {
            Some(least) => format!("{least} or more, without a unit"),
            None => self.noun_and_hint().1.to_owned(),
        }
    }

    fn noun_and_hint(&self) -> (&'static str, &'static str) {
        let format = self.schema.get("format").and_then(Json::as_str).unwrap_or_default();
        match (self.kind, format) {
            ("string", "time-span") => ("a duration", "a number and a unit, like \"3s\""),
            ("string", "uri") => ("a URL", "one like \"http://127.0.0.1:8008\""),
            ("string", "socket-address") => {
                ("an address and port", "an IP address and a port, like \"127.0.0.1:29330\"")
            }
            ("string", "ip-network") => {
                ("an address or a network", "one like \"127.0.0.1\" or \"10.0.0.0/8\"")
            }
            ("string", "matrix-server-name") => {
                ("a server name", "the part after the colon of a user id, like \"example.org\"")
            }
            ("string", "matrix-room-id-or-alias") => {
                ("a room id or address", "one like \"!room:example.org\" or \"#room:example.org\"")
            }
            ("string", "matrix-room-id") => ("a room id", "one like \"!room:example.org\""),
            ("string", "matrix-alias-glob") => (
                "a pattern for room aliases",
                "one for a whole alias, like \"#ops:example.org\" or \"#team-*:*\"",
            ),
            ("string", "matrix-user-id") => ("a user id", "one like \"@ops:example.org\""),
            ("string", "matrix-localpart") => {
                ("a localpart", "the part before the colon of a user id, like \"statekeeper\"")
            }
            ("string", "matrix-user-glob") => (
                "a pattern for user ids",
                "one for a whole user id, like \"*:example.org\" or \"@ops:example.org\"",
            ),
            ("string", "matrix-server-glob") => (
                "a pattern for server names",
                "one for a whole server name, like \"example.org\" or \"*.example.org\"",
            ),
            ("string", "matrix-event-type") => {
                ("an event type", "one in full, like \"m.room.tombstone\"")
            }
            ("string", "matrix-event-type-glob") => {
                ("a pattern for event types", "one for a whole event type, like \"m.rtc.*\"")
            }
            ("string", "room-name") => ("a room's name", "one of 1 to 255 characters"),
            ("string", "sqlite-url") => ("a store", "one like \"sqlite:data/statekeeper.db\""),
            ("string", "path") => ("a path", "the path of a file, relative to this file"),
            ("integer", _) => ("a whole number", "one of 0 or more, without a unit"),
            ("boolean", _) => ("a truth value", "true or false"),
            ("array", _) => ("a list", "one like [\"first\", \"second\"]"),
            _ => ("a text", "one in quotes"),
        }
    }
}
