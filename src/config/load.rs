//! Reads a configuration from a file and from the environment.

use std::{
    marker::PhantomData,
    path::{Path, PathBuf},
};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use serde_yaml::{Mapping, Value as Yaml};

use super::{
    Config,
    defaults::Moved,
    doubt::Doubt,
    environment::{Environment, Overlay, environment},
    mistake::{ConfigErrors, Mistake},
    policies::inherit,
    read_secret,
    registration::{Registration, RegistrationDraft},
    validate::{socket_fault, validate},
    walk::{Walk, set},
};

/// The smallest configuration that is complete, with the values of the sample.
pub(super) const SMALLEST: &str = r#"
homeserver: { address: "http://127.0.0.1:8008", domain: "localhost" }
appservice:
  listen: "127.0.0.1:29330"
  address: "http://127.0.0.1:29330"
  registration: "registration.yaml"
  bot: { localpart: "statekeeper" }
store: { passphrase_file: "data/passphrase" }
"#;

/// A configuration as far as it is good, and what is wrong with the rest.
#[derive(Debug)]
pub struct Draft {
    /// The configuration, with other values in place of what is missing or wrong; `None` where the file cannot be
    /// read at all.
    config: Option<Config>,
    /// What those values stand for.
    doubt: Doubt,
    /// Everything that is wrong.
    pub mistakes: Vec<Mistake>,
    /// The registration's path, if it can be made out.
    pub registration: Option<PathBuf>,
}

impl Draft {
    /// Reads a file, lays the environment over it, and finds every mistake. The secrets are not
    /// read: that is [`Draft::check_secrets`].
    pub fn read(path: &Path, environment: &Environment) -> Self {
        let source = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return Self::hopeless(unreadable(&source, &error)),
        };
        Self::parse(&text, &source, &folder_of(path), environment)
    }

    fn parse(text: &str, source: &str, base: &Path, environment: &Environment) -> Self {
        let mut tree = match parse_yaml(text, source) {
            Ok(tree) => tree,
            Err(mistake) => return Self::hopeless(mistake),
        };
        let schema = schema_of::<Config>();
        let mut overlay = Overlay::default();
        overlay.lay(&mut tree, environment, &schema);
        let good = serde_yaml::from_str(&format!(
            "{SMALLEST}policies: [{{}}]\nspaces: [{{ room: \"!space:example.org\" }}]\n"
        ));
        let good = good.unwrap_or(Yaml::Null);
        let mut mistakes = std::mem::take(&mut overlay.mistakes);
        let moved = Moved::up(&mut tree, (source, &overlay), &mut mistakes);
        let mut walk = Walk::<Config> {
            schema: &schema,
            good: &good,
            source,
            set_by: &|path| overlay.variable_at(path),
            mistakes,
            doubt: Doubt::default(),
            wanted: PhantomData,
        };
        walk.prune(&mut tree);
        let Walk { mut mistakes, doubt, .. } = walk;
        let registration = tree
            .get("appservice")
            .and_then(|section| section.get("registration")?.as_str())
            .map(|path| base.join(path));
        invite_own_users_by_default(&mut tree);
        doubt.stand_in(&mut tree, &good);
        inherit(&mut tree);
        let mut config = serde_yaml::from_value::<Config>(tree).ok();
        if let Some(config) = &mut config {
            for (path, message) in validate(config, &doubt) {
                mistakes.push(overlay.mistake(source, path, message));
            }
            resolve(config, base);
            if let Some(message) = socket_fault(config).filter(|_| !doubt.touches("store.url")) {
                mistakes.push(overlay.mistake(source, "admin.socket".to_owned(), message));
            }
        } else if mistakes.is_empty() {
            mistakes.push(unusable(source));
        }
        moved.name(&mut mistakes);
        Self { config, doubt, mistakes, registration }
    }

    /// Adds what is wrong with the files of secrets, which are read for it and forgotten.
    #[must_use]
    pub fn check_secrets(mut self, source: &Path) -> Self {
        let Some(config) = &self.config else { return self };
        let tokens = config.spaces.iter().enumerate().filter_map(|(index, space)| {
            let path = space.admin_token_file.as_ref()?;
            let error = read_secret(path).err()?;
            let message = format!(
                "cannot read {}: {error}; write a server administrator's access token into it",
                path.display()
            );
            Some((format!("spaces[{index}].admin_token_file"), message))
        });
        let mut found: Vec<(String, String)> = tokens.collect();
        found.extend(self.passphrase_mistake(&config.store));
        found.extend(dashboard_mistake(&config.admin.dashboard));
        for (path, message) in found.into_iter().filter(|(path, _)| !self.doubt.touches(path)) {
            self.mistakes.push(Mistake { source: source.display().to_string(), path, message });
        }
        self
    }

    fn passphrase_mistake(&self, store: &super::Store) -> Option<(String, String)> {
        let is_in_doubt = ["store.passphrase", "store.passphrase_file"]
            .iter()
            .any(|path| self.doubt.touches(path));
        let error = store.read_passphrase().err().filter(|_| !is_in_doubt)?;
        let key = match error {
            super::PassphraseError::Unreadable { .. } => "store.passphrase_file",
            // Validation has said so already.
            super::PassphraseError::Missing => return None,
            super::PassphraseError::Empty => "store",
        };
        Some((key.to_owned(), wants_a_line(&error)))
    }

    /// The configuration with its registration, if nothing is wrong with either and they fit one another.
    ///
    /// # Errors
    ///
    /// Every mistake there is.
    pub fn finish_with(
        mut self,
        registration: RegistrationDraft,
    ) -> Result<(Config, Registration), ConfigErrors> {
        let (registration, mistakes) = registration.fitting(self.config.as_ref(), &self.doubt);
        self.mistakes.extend(mistakes);
        match (self.config, registration) {
            (Some(config), Some(registration)) if self.mistakes.is_empty() => {
                Ok((config, registration))
            }
            _ => Err(ConfigErrors(self.mistakes)),
        }
    }

    /// The configuration, if nothing is wrong with it.
    ///
    /// # Errors
    ///
    /// Every mistake there is.
    pub fn finish(self) -> Result<Config, ConfigErrors> {
        match self.config {
            Some(config) if self.mistakes.is_empty() => Ok(config),
            _ => Err(ConfigErrors(self.mistakes)),
        }
    }

    fn hopeless(mistake: Mistake) -> Self {
        Self { config: None, doubt: Doubt::default(), mistakes: vec![mistake], registration: None }
    }
}

impl Config {
    /// Reads a configuration from a YAML file and from this process's environment. Relative paths
    /// in it are made absolute from the file's folder.
    ///
    /// # Errors
    ///
    /// Every mistake in it, also when the passphrase cannot be read.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Draft::read(path, &environment()).check_secrets(path).finish()
    }

    /// Reads a configuration from YAML text, without the environment; paths stay relative.
    ///
    /// # Errors
    ///
    /// Every mistake in it.
    pub fn from_yaml_for_test(yaml: &str) -> Result<Self, ConfigErrors> {
        Draft::parse(yaml, "config.yaml", Path::new(""), &Environment::new()).finish()
    }
}

/// The JSON schema of what a `T` is deserialized from, without references.
pub(super) fn schema_of<T: JsonSchema>() -> Json {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Parses one YAML document. An empty one is an empty mapping.
pub(super) fn parse_yaml(text: &str, source: &str) -> Result<Yaml, Mistake> {
    let parsed = serde_yaml::from_str::<Yaml>(text).and_then(|mut tree| {
        tree.apply_merge()?;
        Ok(tree)
    });
    match parsed {
        Ok(Yaml::Null) => Ok(Yaml::Mapping(Mapping::new())),
        Ok(tree) => Ok(tree),
        Err(error) => Err(Mistake {
            source: match error.location() {
                Some(at) => format!("{source}:{}:{}", at.line(), at.column()),
                None => source.to_owned(),
            },
            path: String::new(),
            message: format!("is not YAML: {error}"),
        }),
    }
}

/// The mistake of a file that cannot be read.
pub(super) fn unreadable(source: &str, error: &std::io::Error) -> Mistake {
    Mistake {
        source: source.to_owned(),
        path: String::new(),
        message: format!("cannot be read: {error}; check the path and its permissions"),
    }
}

/// What could be made of a tree.
pub(super) struct Reading<T> {
    /// The value, with other ones in place of what is missing or wrong.
    pub value: Option<T>,
    /// What those stand for.
    pub doubt: Doubt,
    /// Everything that is wrong.
    pub mistakes: Vec<Mistake>,
}

/// Deserializes a tree into a `T`, with values of `good` in place of what is wrong.
pub(super) fn read_tree<T: DeserializeOwned + JsonSchema>(
    mut tree: Yaml,
    good: &Yaml,
    source: &str,
) -> Reading<T> {
    let schema = schema_of::<T>();
    let mut walk = Walk::<T> {
        schema: &schema,
        good,
        source,
        set_by: &|_| None,
        mistakes: Vec::new(),
        doubt: Doubt::default(),
        wanted: PhantomData,
    };
    walk.prune(&mut tree);
    let Walk { mut mistakes, doubt, .. } = walk;
    doubt.stand_in(&mut tree, good);
    let value = serde_yaml::from_value(tree).ok();
    if value.is_none() && mistakes.is_empty() {
        mistakes.push(unusable(source));
    }
    Reading { value, doubt, mistakes }
}

/// The mistake for what passes every check and is refused in the end all the same. Deserialization's
/// own message may repeat a secret, so it is not given.
fn unusable(source: &str) -> Mistake {
    Mistake {
        source: source.to_owned(),
        path: String::new(),
        message: "cannot be used as it stands; compare it with the sample".to_owned(),
    }
}

/// The folder that relative paths in a file start from.
fn folder_of(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.parent().map(Path::to_owned).unwrap_or_default()
}

fn resolve(config: &mut Config, base: &Path) {
    config.appservice.registration = base.join(&config.appservice.registration);
    config.store.resolve(base);
    if let Some(path) = &mut config.admin.socket {
        *path = base.join(&*path);
    }
    for path in config.spaces.iter_mut().filter_map(|space| space.admin_token_file.as_mut()) {
        *path = base.join(&*path);
    }
    config.admin.dashboard.resolve(base);
}

/// What is wrong with a secret of the dashboard that is on.
fn dashboard_mistake(dashboard: &super::Dashboard) -> Option<(String, String)> {
    let error = dashboard.is_on().then(|| dashboard.read_secrets())?.err()?;
    Some((format!("admin.dashboard.{}", error.key()), wants_a_line(&error)))
}

/// A secret's trouble, with the mend.
fn wants_a_line(error: &impl std::fmt::Display) -> String {
    format!(
        "{error}; write a long random line into the file, for instance with `openssl rand -base64 33`"
    )
}

/// A default that depends on another section, and so cannot stand in its own.
fn invite_own_users_by_default(tree: &mut Yaml) {
    let domain = tree.get("homeserver").and_then(|section| section.get("domain")?.as_str());
    let Some(everybody) = domain.map(|domain| format!("*:{domain}")) else { return };
    if tree.get("access").is_none_or(|section| section.get("invite_from").is_none()) {
        let at = ["access".to_owned(), "invite_from".to_owned()];
        set(tree, &at, Yaml::Sequence(vec![everybody.into()]));
    }
}

/// The smallest configuration with something more, and the mistakes in it as they are told.
#[cfg(test)]
pub(super) fn read_with(extra: &str) -> Result<Config, Vec<String>> {
    let yaml = format!("{SMALLEST}\n{extra}");
    Config::from_yaml_for_test(&yaml)
        .map_err(|errors| errors.0.iter().map(Mistake::to_string).collect())
}

#[cfg(test)]
mod tests;
