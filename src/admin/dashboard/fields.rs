//! The fields of a form or a query.

use std::{fmt, str::FromStr};

use url::form_urlencoded;

/// How many fields are read at most.
const MOST: usize = 32;

/// What was filled in.
#[derive(Clone, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl fmt::Debug for Fields {
    /// Without what was filled in: a token may be among it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fields").finish_non_exhaustive()
    }
}

impl Fields {
    /// Reads what stands after the question mark, or in a form's body.
    pub(super) fn of(encoded: &[u8]) -> Self {
        Self(
            form_urlencoded::parse(encoded).take(MOST).map(|(k, v)| (k.into(), v.into())).collect(),
        )
    }

    /// What was filled in under a name, without the spaces around it; `""` for nothing.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim())
    }

    /// The same as a value; `None` for nothing, and for what is no such value.
    pub(super) fn parse<T: FromStr>(&self, name: &str) -> Option<T> {
        self.get(name).parse().ok()
    }

    /// Whether something was filled in that is no such value.
    pub(super) fn is_wrong<T: FromStr>(&self, name: &str) -> bool {
        !self.get(name).is_empty() && self.parse::<T>(name).is_none()
    }
}

/// A query with these fields, those left out that are empty.
pub(super) fn query(fields: &[(&str, &str)]) -> String {
    let filled = fields.iter().filter(|(_, value)| !value.is_empty());
    form_urlencoded::Serializer::new(String::new()).extend_pairs(filled).finish()
}

/// A page of the dashboard with a query.
pub(super) fn link(page: &str, fields: &[(&str, &str)]) -> String {
    let query = query(fields);
    if query.is_empty() {
        format!("/dashboard/{page}")
    } else {
        format!("/dashboard/{page}?{query}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_back_whatever_is_in_it() {
        let wild = "!a&b=c#d+e \"<>:ü%41";
        let link = link("room", &[("id", wild), ("none", "")]);
        let (page, query) = link.split_once('?').unwrap();
        assert_eq!(page, "/dashboard/room");
        let fields = Fields::of(query.as_bytes());
        assert_eq!((fields.get("id"), fields.get("none")), (wild, ""));
        assert_eq!(format!("{fields:?}"), "Fields { .. }");
    }
}
