//! The schema, the sample and the reference, generated from the configuration's own types.

use std::fmt::Write as _;

use serde_json::Value as Json;
use serde_yaml::{Mapping, Value as Yaml};

use super::{
    Config,
    defaults::add_to_schema,
    load::{SMALLEST, schema_of},
    mistake::ConfigErrors,
};

/// The widest line of a comment or a list.
const WIDTH: usize = 96;

const SAMPLE_HEAD: &str = "\
# Every key of Statekeeper's configuration, with its default. Keys marked \"required\" have none; all
# others may be left out. Paths are relative to this file.
#
# A variable in the environment sets a key over this file: STATEKEEPER__SHARING__GATE_TIMEOUT=5s.
# `statekeeper check --config FILE` names every mistake.
#
# yaml-language-server: $schema=statekeeper.schema.json
";

const REFERENCE_HEAD: &str = "\
# Configuration

One YAML file, given with `--config`. [`config/statekeeper.sample.yaml`](../config/statekeeper.sample.yaml) shows every
key with its default, and [`config/statekeeper.schema.json`](../config/statekeeper.schema.json) lets an editor check as you
type. `statekeeper check --config FILE` reads the file and the registration, and names every mistake in one go.

- **Paths** are relative to the folder of the configuration, in `store.url` as well.
- **Durations** are a whole number and a unit: `250ms`, `3s`, `10m`, `1h`, `7d`.
- **Unknown keys** are mistakes, so that a misspelt one is not passed over.
- **The environment** sets keys over the file. A key's variable is its path in capitals, with `STATEKEEPER__` before it and
  `__` for each dot; what stands under `defaults` is named without that; a list is written as in YAML: `STATEKEEPER__ACCESS__INVITE_FROM='[\"*:example.org\"]'`. A secret or a
  secret's file from the environment takes the place of the file's.
- **Exit codes**: 0 when all is well, 1 when something is to be mended, 2 when the command was not called properly.
";

/// The JSON schema of the configuration file, for editors.
///
/// # Errors
///
/// When it cannot be written as JSON.
pub fn schema() -> Result<String, serde_json::Error> {
    let mut schema = schema_of::<Config>();
    drop_section_defaults(&mut schema);
    add_to_schema(&mut schema);
    let mut text = serde_json::to_string_pretty(&schema)?;
    text.push('\n');
    Ok(text)
}

/// Takes out the defaults of whole sections, which repeat those of their keys.
fn drop_section_defaults(schema: &mut Json) {
    let Some(keys) = schema.get_mut("properties").and_then(Json::as_object_mut) else { return };
    for property in keys.values_mut() {
        if let Some(section) = property.as_object_mut().filter(|it| it.contains_key("properties")) {
            section.remove("default");
        }
        drop_section_defaults(property);
    }
}

/// A configuration with every key, its meaning and its default, or an example where it is required.
///
/// # Errors
///
/// When the built-in example is not a good configuration.
pub fn sample() -> Result<String, ConfigErrors> {
    let (defaults, schema) = (example()?, schema_of::<Config>());
    let mut out = SAMPLE_HEAD.to_owned();
    for (name, value) in &defaults {
        out.push('\n');
        write_key(&mut out, name, value, &schema, 0);
    }
    Ok(out)
}

/// The reference in Markdown: a table for each section.
///
/// # Errors
///
/// When the built-in example is not a good configuration.
pub fn markdown() -> Result<String, ConfigErrors> {
    let (defaults, schema) = (example()?, schema_of::<Config>());
    let mut out = REFERENCE_HEAD.to_owned();
    for (name, value) in &defaults {
        let Some(section) = property(&schema, name) else { continue };
        let (name, about) = (text(name), description(section));
        let head = "| key | default | meaning |\n|---|---|---|";
        let _ = writeln!(out, "\n## `{name}`\n\n{about}\n\n{head}");
        match section.get("items") {
            Some(item) => write_item_rows(&mut out, &format!("{name}[]"), item),
            None if !value.is_mapping() => write_row(&mut out, name, &schema, section),
            None => write_rows(&mut out, &[name.to_owned()], value, section),
        }
    }
    Ok(out)
}

/// The sample's values: keys in the order of the types.
fn example() -> Result<Mapping, ConfigErrors> {
    let config = Config::from_yaml_for_test(SMALLEST)?;
    match serde_yaml::to_value(&config) {
        Ok(Yaml::Mapping(mapping)) => Ok(mapping),
        _ => Ok(Mapping::new()),
    }
}

fn write_key(out: &mut String, name: &Yaml, value: &Yaml, parent: &Json, depth: usize) {
    let Some(schema) = property(parent, name) else { return };
    let (indent, name) = ("  ".repeat(depth), text(name));
    let required = if is_required(parent, name) { " Required." } else { "" };
    let section = schema.get("properties").is_some();
    let about = match section {
        true => description(schema),
        false => format!("{}{}{required}", description(schema), choice(schema)),
    };
    for line in wrap(&about, WIDTH - indent.len()) {
        let _ = writeln!(out, "{indent}# {line}");
    }
    match value {
        Yaml::Mapping(keys) => {
            let _ = writeln!(out, "{indent}{name}:");
            keys.iter().for_each(|(name, value)| write_key(out, name, value, schema, depth + 1));
        }
        Yaml::Null => {
            let _ = writeln!(out, "{indent}# {name}: \"\"");
        }
        value if is_derived(schema, value) => {
            let _ = writeln!(out, "{indent}# {name}: {}", flow(value));
        }
        Yaml::Sequence(items) if indent.len() + name.len() + flow(value).len() > WIDTH => {
            let _ = writeln!(out, "{indent}{name}:");
            for item in items {
                let _ = writeln!(out, "{indent}  - {}", flow(item));
            }
        }
        value => {
            let _ = writeln!(out, "{indent}{name}: {}", flow(value));
        }
    }
    if let Some(item) = schema.get("items").filter(|item| item.get("properties").is_some()) {
        write_example(out, name, item);
    }
}

fn write_rows(out: &mut String, at: &[String], value: &Yaml, schema: &Json) {
    let Some(keys) = value.as_mapping() else { return };
    for (name, value) in keys {
        let Some(property) = property(schema, name) else { continue };
        let path = [at, &[text(name).to_owned()]].concat();
        if value.is_mapping() {
            write_rows(out, &path, value, property);
            continue;
        }
        write_row(out, &path.join("."), schema, property);
    }
}

/// One row: the key at `path`, which is a property of `parent`.
fn write_row(out: &mut String, path: &str, parent: &Json, property: &Json) {
    let name = path.rsplit('.').next().unwrap_or(path);
    let default = match property.get("default") {
        _ if is_required(parent, name) => "*required*".to_owned(),
        None | Some(Json::Null) => "*none*".to_owned(),
        Some(default) => format!("`{}`", spaced(default)),
    };
    let about = format!("{}{}", description(property), choice(property)).replace('|', "\\|");
    let _ = writeln!(out, "| `{path}` | {default} | {about} |");
}

/// The keys of a list's items. Sections that stand at the top level as well are named and no more.
fn write_item_rows(out: &mut String, path: &str, item: &Json) {
    for (name, property) in item.get("properties").and_then(Json::as_object).into_iter().flatten() {
        let path = format!("{path}.{name}");
        write_row(out, &path, item, property);
        if name == "match" {
            write_item_rows(out, &path, property);
        }
    }
}

/// What an item of a list looks like, as a comment under the list.
fn write_example(out: &mut String, name: &str, item: &Json) {
    let mut lines = String::new();
    let Some(matches) = item.pointer("/properties/match/properties").and_then(Json::as_object)
    else {
        return write_plain_example(out, name, item);
    };
    for (key, property) in matches {
        for line in wrap(&description(property), WIDTH - 8) {
            let _ = writeln!(lines, "      # {line}");
        }
        let _ = writeln!(lines, "      {key}: []");
    }
    let _ = writeln!(out, "# {name}:\n#   - match:");
    for line in lines.lines() {
        let _ = writeln!(out, "# {line}");
    }
    let sections = item.get("properties").and_then(Json::as_object).into_iter().flatten();
    for (section, property) in sections.filter(|(section, _)| *section != "match") {
        let _ = writeln!(out, "#     # {}", description(property));
        let value = if property.get("properties").is_some() { "{}" } else { "false" };
        let _ = writeln!(out, "#     {section}: {value}");
    }
}

/// The same of an item without sections: its required keys first.
fn write_plain_example(out: &mut String, name: &str, item: &Json) {
    let mut keys: Vec<(&String, &Json)> =
        item.get("properties").and_then(Json::as_object).into_iter().flatten().collect();
    keys.sort_by_key(|(key, _)| !is_required(item, key));
    let _ = writeln!(out, "# {name}:");
    let mut lead = "  -";
    for (key, property) in keys {
        let required = if is_required(item, key) { " Required." } else { "" };
        let about = format!("{}{}{required}", description(property), choice(property));
        for line in wrap(&about, WIDTH - 6) {
            let _ = writeln!(out, "# {lead} # {line}");
            lead = "   ";
        }
        let value = property.get("default").or(property.get("example"));
        let _ = writeln!(out, "#     {key}: {}", value.map(spaced).unwrap_or_default());
    }
}

fn property<'a>(schema: &'a Json, name: &Yaml) -> Option<&'a Json> {
    schema.get("properties")?.get(text(name))
}

fn text(name: &Yaml) -> &str {
    name.as_str().unwrap_or_default()
}

fn is_required(schema: &Json, name: &str) -> bool {
    let names = schema.get("required").and_then(Json::as_array);
    names.is_some_and(|names| names.iter().any(|required| required == name))
}

/// Whether the default follows from other keys, so that a written one would stop doing so.
fn is_derived(schema: &Json, value: &Yaml) -> bool {
    let default = schema.get("default").filter(|default| !default.is_null());
    default
        .is_some_and(|default| Ok(default) != serde_json::to_value(value).as_ref().map_err(|_| ()))
}

/// A description as one line.
fn description(schema: &Json) -> String {
    let text = schema.get("description").and_then(Json::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The words to choose from and their meaning, in brackets.
fn choice(schema: &Json) -> String {
    let variants = schema.get("oneOf").and_then(Json::as_array).into_iter().flatten();
    let word = |variant: &Json| {
        let meaning = description(variant);
        let meaning = meaning.trim_end_matches('.');
        variant.get("const")?.as_str().map(|word| format!(" `{word}`: {}.", lower_first(meaning)))
    };
    variants.filter_map(word).collect()
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// A value on one line: JSON is YAML.
fn flow(value: &Yaml) -> String {
    serde_json::to_value(value).map(|value| spaced(&value)).unwrap_or_default()
}

/// A value as JSON with spaces in its lists, and without the slash that a URL type puts after a host.
fn spaced(value: &Json) -> String {
    match value {
        Json::Array(items) => {
            format!("[{}]", items.iter().map(spaced).collect::<Vec<_>>().join(", "))
        }
        Json::String(url) if url.starts_with("http") => {
            Json::from(url.trim_end_matches('/')).to_string()
        }
        value => value.to_string(),
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                let _ = write!(line, " {word}");
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: &str = "is stale; write it anew with `statekeeper config-sample`, `config-schema` or `config-reference`";

    #[test]
    fn the_committed_files_are_what_the_types_say() {
        let sample = include_str!("../../config/statekeeper.sample.yaml");
        let committed_schema = include_str!("../../config/statekeeper.schema.json");
        let reference = include_str!("../../docs/CONFIGURATION.md");
        assert!(super::sample().unwrap() == sample, "the sample {FRESH}");
        assert!(super::schema().unwrap() == committed_schema, "the schema {FRESH}");
        assert!(markdown().unwrap() == reference, "the reference {FRESH}");
    }

    #[test]
    fn the_sample_is_a_good_configuration_and_says_the_defaults() {
        let sample = Config::from_yaml_for_test(&super::sample().unwrap()).unwrap();
        let smallest = Config::from_yaml_for_test(SMALLEST).unwrap();
        assert_eq!(serde_yaml::to_value(sample).unwrap(), serde_yaml::to_value(smallest).unwrap());
    }

    #[test]
    fn the_sample_shows_every_key() {
        fn names(schema: &Json) -> Vec<String> {
            let keys = schema.get("properties").and_then(Json::as_object).into_iter().flatten();
            keys.flat_map(|(name, schema)| [vec![name.clone()], names(schema)].concat()).collect()
        }
        let sample = super::sample().unwrap();
        let names = names(&schema_of::<Config>());
        assert!(names.len() > 40, "{names:?}");
        for name in names {
            assert!(
                sample.contains(&format!(" {name}:")) || sample.contains(&format!("\n{name}:")),
                "{name}"
            );
        }
    }

    #[test]
    fn every_key_has_a_meaning() {
        fn check(schema: &Json) {
            for (name, schema) in
                schema.get("properties").and_then(Json::as_object).into_iter().flatten()
            {
                assert!(!description(schema).is_empty(), "{name}");
                check(schema);
            }
        }
        check(&schema_of::<Config>());
    }
}
