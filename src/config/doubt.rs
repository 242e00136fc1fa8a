//! What cannot be read of a tree, and what stands in for it, so that the rules about the rest are weighed all the
//! same.

use serde_yaml::Value as Yaml;

/// The paths of keys that are missing, or whose values have the wrong form.
#[derive(Debug, Clone, Default)]
pub(super) struct Doubt(Vec<String>);

/// One step of a path: `users[1]` is a key and an index.
#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Doubt {
    /// Notes that what stands at a path, like `sharing.gate_timeout` or `namespaces.users[0].regex`, is missing or
    /// wrong.
    pub fn note(&mut self, path: String) {
        self.0.push(path);
    }

    /// Whether what stands at a path, above it or beneath it is in doubt: a rule that leans on it says nothing.
    pub fn touches(&self, path: &str) -> bool {
        self.0.iter().any(|noted| is_within(noted, path) || is_within(path, noted))
    }

    /// Puts values from `good` in the place of what is in doubt, as far as `good` has any.
    pub fn stand_in(&self, tree: &mut Yaml, good: &Yaml) {
        for path in &self.0 {
            let steps = steps(path);
            if let Some(value) = find(good, &steps) {
                place(tree, &steps, value.clone());
            }
        }
    }
}

fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn steps(path: &str) -> Vec<Step<'_>> {
    let parts = path.split(['.', '[']).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.strip_suffix(']').and_then(|index| index.parse().ok()) {
            Some(index) => Step::Index(index),
            None => Step::Key(part),
        })
        .collect()
}

/// The value at a path; for an item of a list that of the first one, which is as good.
fn find<'a>(good: &'a Yaml, steps: &[Step<'_>]) -> Option<&'a Yaml> {
    steps.iter().try_fold(good, |value, step| match step {
        Step::Key(key) => value.get(*key),
        Step::Index(_) => value.get(0),
    })
}

fn place(tree: &mut Yaml, steps: &[Step<'_>], value: Yaml) {
    let Some((first, rest)) = steps.split_first() else {
        *tree = value;
        return;
    };
    match first {
        Step::Key(key) => {
            if !tree.is_mapping() {
                *tree = Yaml::Mapping(serde_yaml::Mapping::new());
            }
            if let Some(mapping) = tree.as_mapping_mut() {
                place(mapping.entry(Yaml::from(*key)).or_insert(Yaml::Null), rest, value);
            }
        }
        Step::Index(index) => {
            if let Some(item) = tree.get_mut(*index) {
                place(item, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(paths: &[&str]) -> Doubt {
        Doubt(paths.iter().map(|path| (*path).to_owned()).collect())
    }

    #[test]
    fn a_rule_is_touched_by_doubt_above_and_beneath_what_it_leans_on_and_not_beside_it() {
        let doubt = doubt(&["store.url", "access.admins[1]", "admin"]);
        for path in ["store.url", "store", "access.admins", "access.admins[1]", "admin.listen"] {
            assert!(doubt.touches(path), "{path}");
        }
        for path in ["store.passphrase", "access.admins[0]", "administrators", "logging"] {
            assert!(!doubt.touches(path), "{path}");
        }
    }

    #[test]
    fn what_is_in_doubt_is_stood_in_for_and_the_rest_stays() {
        let mut tree = serde_yaml::from_str("{a: 5, list: [{x: 1}, {y: 2}, 7], b: kept}").unwrap();
        let good = serde_yaml::from_str("{a: {c: 1}, list: [{x: 0, y: 0}], b: 0}").unwrap();
        doubt(&["a", "list[0].y", "list[1].x", "list[2]", "list[9].x", "none"])
            .stand_in(&mut tree, &good);
        let wanted: Yaml = serde_yaml::from_str(
            "{a: {c: 1}, list: [{x: 1, y: 0}, {y: 2, x: 0}, {x: 0, y: 0}], b: kept}",
        )
        .unwrap();
        assert_eq!(tree, wanted);
    }
}
