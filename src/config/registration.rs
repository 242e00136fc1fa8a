//! The registration: what the homeserver is told about the application service.
//!
//! Application Service API, "Registration".

use std::{fmt::Write as _, path::Path};

use rand::{CryptoRng, Rng, distr::Alphanumeric, distr::SampleString};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    Config,
    doubt::Doubt,
    load::{Reading, parse_yaml, read_tree, unreadable},
    mistake::{ConfigErrors, Mistake},
};

/// The annotated sample, which is the template of whatever is generated.
const SAMPLE: &str = include_str!("../../registration.yaml");

/// Letters and digits in a generated token: 64 of 62 kinds are 381 bits.
const TOKEN_LENGTH: usize = 64;

/// An application service as its registration file describes it to the homeserver.
///
/// Keys that are not listed here belong to other implementations or to unstable features, and are
/// left alone.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Registration {
    /// What the homeserver knows the application service by.
    pub id: String,
    /// Where the homeserver reaches the application service. Without it nothing is ever pushed.
    pub url: Option<String>,
    /// The secret that the application service shows to the homeserver.
    #[schemars(with = "String", extend("writeOnly" = true))]
    pub as_token: SecretString,
    /// The secret that the homeserver shows to the application service.
    #[schemars(with = "String", extend("writeOnly" = true))]
    pub hs_token: SecretString,
    /// The localpart of the application service's own user, which is never the keeper.
    pub sender_localpart: String,
    /// The users, aliases and rooms that the application service answers for.
    pub namespaces: Namespaces,
    /// Whether the homeserver's rate limits hold for the application service's users. Absent is
    /// true.
    #[serde(default = "yes")]
    #[schemars(extend("default" = true))]
    pub rate_limited: bool,
    /// Whether the homeserver pushes ephemeral data.
    #[serde(default)]
    #[schemars(extend("default" = false))]
    pub receive_ephemeral: bool,
    /// The third-party protocols that the application service bridges.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub protocols: Vec<String>,
}

/// What an application service answers for.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub struct Namespaces {
    /// Users, by their ids.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub users: Vec<Namespace>,
    /// Room aliases.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub aliases: Vec<Namespace>,
    /// Rooms, by their ids.
    #[serde(default)]
    #[schemars(extend("default" = []))]
    pub rooms: Vec<Namespace>,
}

/// Some of the users, aliases or rooms.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct Namespace {
    /// Whether nobody else may use what fits.
    pub exclusive: bool,
    /// A regular expression that an id has to fit from its beginning.
    pub regex: String,
}

impl Registration {
    /// A registration that fits the configuration, with fresh secrets from `rng`.
    pub fn generate<R: CryptoRng>(config: &Config, rng: &mut R) -> Self {
        let bot = format!("@{}:{}", config.appservice.bot.localpart, config.homeserver.domain);
        let bot = Namespace { exclusive: true, regex: format!("^{}$", regex::escape(&bot)) };
        Self {
            id: "statekeeper".to_owned(),
            url: Some(config.appservice.address.as_str().trim_end_matches('/').to_owned()),
            as_token: token(rng),
            hs_token: token(rng),
            sender_localpart: format!("_statekeeper_{}", random_localpart(rng)),
            namespaces: Namespaces { users: vec![bot], ..Namespaces::default() },
            rate_limited: false,
            receive_ephemeral: false,
            protocols: Vec::new(),
        }
    }

    /// Reads a registration from the text of its file, which messages call `source`. Whether it fits a configuration
    /// is for [`Registration::mistakes`] to say.
    ///
    /// # Errors
    ///
    /// Every value that is missing or has the wrong form.
    pub fn parse(text: &str, source: &str) -> Result<Self, ConfigErrors> {
        let draft = RegistrationDraft::parse(text, source);
        match draft.registration {
            Some(registration) if draft.mistakes.is_empty() => Ok(registration),
            _ => Err(ConfigErrors(draft.mistakes)),
        }
    }

    /// The file's text: the annotated sample with this registration's values.
    pub fn to_yaml(&self) -> Zeroizing<String> {
        let mut yaml = Zeroizing::new(String::with_capacity(2 * SAMPLE.len()));
        for line in SAMPLE.lines() {
            if let Some(lines) = self.lines_in_place_of(line) {
                yaml.push_str(&lines);
            } else {
                yaml.push_str(line);
                yaml.push('\n');
            }
        }
        yaml
    }

    /// What stands in the place of a line of the sample; `None` to keep the line.
    fn lines_in_place_of(&self, line: &str) -> Option<Zeroizing<String>> {
        let (key, _) = line.split_once(':')?;
        let value = match key {
            "id" => quote(&self.id),
            "url" => self.url.as_deref().map_or_else(|| Zeroizing::new("null".to_owned()), quote),
            "as_token" => quote(self.as_token.expose_secret()),
            "hs_token" => quote(self.hs_token.expose_secret()),
            "sender_localpart" => quote(&self.sender_localpart),
            "    - exclusive" => {
                return Some(Zeroizing::new(namespace_lines(&self.namespaces.users)));
            }
            // Written together with the line before it.
            "      regex" => return Some(Zeroizing::default()),
            "rate_limited" => Zeroizing::new(self.rate_limited.to_string()),
            "receive_ephemeral" => Zeroizing::new(self.receive_ephemeral.to_string()),
            _ => return None,
        };
        Some(Zeroizing::new(format!("{key}: {}\n", *value)))
    }

    /// What is wrong with this registration for the given configuration, with paths in the file
    /// that is called `source`.
    pub fn mistakes(&self, config: &Config, source: &str) -> Vec<Mistake> {
        let faults = self.faults(config).into_iter();
        faults.map(|fault| at(source, &fault.path, fault.message)).collect()
    }

    fn faults(&self, config: &Config) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |path: &str, leans_on: &[&'static str], message: Option<String>| {
            let (path, own) = (path.to_owned(), vec![path.to_owned()]);
            let leans_on = leans_on.to_vec();
            faults.extend(message.map(|message| Fault { path, own, leans_on, message }));
        };
        check(
            "id",
            &[],
            self.id.is_empty().then(|| "is empty; write one like \"statekeeper\"".into()),
        );
        check("url", &["appservice.address"], self.url_fault(config));
        check("as_token", &[], token_fault(&self.as_token));
        check("hs_token", &[], token_fault(&self.hs_token));
        let same = self.as_token.expose_secret() == self.hs_token.expose_secret();
        let same = same.then(|| "is the same as as_token; write a secret of its own".into());
        check("hs_token", &[], same);
        check("sender_localpart", &["appservice.bot.localpart"], self.sender_fault(config));
        for (index, namespace) in self.namespaces.users.iter().enumerate() {
            let broken = from_the_start(&namespace.regex).is_none();
            let path = format!("namespaces.users[{index}].regex");
            check(&path, &[], broken.then(|| "is not a regular expression; mend it".to_owned()));
        }
        faults.extend(self.namespace_fault(config).map(|message| {
            Fault {
                path: "namespaces.users".to_owned(),
                own: (0..self.namespaces.users.len())
                    .map(|index| format!("namespaces.users[{index}].regex"))
                    .collect(),
                leans_on: vec!["appservice.bot.localpart", "homeserver.domain"],
                message,
            }
        }));
        faults
    }

    /// What an operator should know although it is not wrong.
    pub fn warnings(&self, source: &str) -> Vec<Mistake> {
        let limited = self.rate_limited.then(|| {
            at(
                source,
                "rate_limited",
                "is not false: the homeserver's limits will delay keys; write false".to_owned(),
            )
        });
        let ephemeral = self.receive_ephemeral.then(|| {
            at(
                source,
                "receive_ephemeral",
                "is true: Statekeeper has no use for ephemeral data; write false".to_owned(),
            )
        });
        limited.into_iter().chain(ephemeral).collect()
    }

    fn url_fault(&self, config: &Config) -> Option<String> {
        let address = config.appservice.address.as_str().trim_end_matches('/');
        match self.url.as_deref().map(|url| url.trim_end_matches('/')) {
            Some(url) if url == address => None,
            Some(url) => Some(format!(
                "{url:?} is not appservice.address; write {address:?} here, or this there"
            )),
            None => Some(format!("is missing, so nothing would ever arrive; write {address:?}")),
        }
    }

    fn sender_fault(&self, config: &Config) -> Option<String> {
        if self.sender_localpart.is_empty() {
            return Some("is empty; write a random one".to_owned());
        }
        (self.sender_localpart == config.appservice.bot.localpart).then(|| {
            "is the keeper itself, for whom the homeserver does not answer /sync; write a random one that nobody uses".to_owned()
        })
    }

    fn namespace_fault(&self, config: &Config) -> Option<String> {
        let bot = config.bot_user_id().ok()?;
        let holds_bot = |namespace: &&Namespace| {
            from_the_start(&namespace.regex).is_some_and(|regex| regex.is_match(bot.as_bytes()))
        };
        let wanted = format!("\"^{}$\"", regex::escape(bot.as_str()));
        match self.namespaces.users.iter().find(holds_bot) {
            Some(_) => None,
            None => Some(format!(
                "no regex fits the keeper, {bot}; write one like {wanted}, with exclusive: true"
            )),
        }
    }
}

/// A rule that a registration breaks.
struct Fault {
    path: String,
    /// The keys of the registration that the rule leans on.
    own: Vec<String>,
    /// The keys of the configuration that the rule leans on.
    leans_on: Vec<&'static str>,
    message: String,
}

/// A registration as far as it is good, and what is wrong with the rest.
#[derive(Debug)]
pub struct RegistrationDraft {
    source: String,
    /// The registration, with the sample's values in place of what is missing or wrong.
    registration: Option<Registration>,
    /// What those values stand for.
    doubt: Doubt,
    mistakes: Vec<Mistake>,
}

impl RegistrationDraft {
    /// Reads a registration file, and finds every value that is missing or has the wrong form.
    pub fn read(path: &Path) -> Self {
        let source = path.display().to_string();
        match std::fs::read_to_string(path).map(Zeroizing::new) {
            Ok(text) => Self::parse(&text, &source),
            Err(error) => {
                let mut mistake = unreadable(&source, &error);
                if error.kind() == std::io::ErrorKind::NotFound {
                    mistake.message = "there is no such file; write it with `statekeeper registration --config FILE --out FILE`".to_owned();
                }
                Self::hopeless(&source, mistake)
            }
        }
    }

    fn parse(text: &str, source: &str) -> Self {
        let trees =
            parse_yaml(SAMPLE, source).and_then(|good| Ok((good, parse_yaml(text, source)?)));
        let (good, tree) = match trees {
            Ok(trees) => trees,
            Err(mistake) => return Self::hopeless(source, mistake),
        };
        let Reading { value, doubt, mistakes } = read_tree(tree, &good, source);
        Self { source: source.to_owned(), registration: value, doubt, mistakes }
    }

    fn hopeless(source: &str, mistake: Mistake) -> Self {
        let (registration, doubt) = (None, Doubt::default());
        Self { source: source.to_owned(), registration, doubt, mistakes: vec![mistake] }
    }

    /// What could be read, and everything that is wrong with it, by itself and for a configuration of which
    /// `doubt` cannot be relied on.
    pub(super) fn fitting(
        self,
        config: Option<&Config>,
        doubt: &Doubt,
    ) -> (Option<Registration>, Vec<Mistake>) {
        let mut mistakes = self.mistakes;
        if let (Some(registration), Some(config)) = (&self.registration, config) {
            let told = registration.faults(config).into_iter().filter(|fault| {
                !fault.own.iter().any(|path| self.doubt.touches(path))
                    && !fault.leans_on.iter().any(|path| doubt.touches(path))
            });
            mistakes.extend(told.map(|fault| at(&self.source, &fault.path, fault.message)));
        }
        (self.registration, mistakes)
    }
}

/// The expression as homeservers use it, for a match that starts where the id does; `None` if it is
/// none. User ids are ASCII, so no Unicode tables are wanted.
fn from_the_start(regex: &str) -> Option<regex::bytes::Regex> {
    let anchored = format!("^(?:{regex})");
    regex::bytes::RegexBuilder::new(&anchored).unicode(false).build().ok()
}

fn at(source: &str, path: &str, message: String) -> Mistake {
    Mistake { source: source.to_owned(), path: path.to_owned(), message }
}

/// A token travels in an HTTP header, so it has to be visible ASCII.
fn token_fault(token: &SecretString) -> Option<String> {
    let token = token.expose_secret();
    let usable = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    (!usable).then(|| {
        "is not a token; write a long random one of letters and digits, or let `statekeeper registration` write the file".to_owned()
    })
}

fn token<R: CryptoRng>(rng: &mut R) -> SecretString {
    SecretString::from(Alphanumeric.sample_string(rng, TOKEN_LENGTH))
}

/// Sixteen random characters that a user id may hold.
fn random_localpart<R: CryptoRng>(rng: &mut R) -> String {
    let mut letter = || char::from_digit(rng.random_range(0..36), 36).unwrap_or('0');
    std::iter::repeat_with(&mut letter).take(16).collect()
}

fn namespace_lines(namespaces: &[Namespace]) -> String {
    let mut lines = String::new();
    for Namespace { exclusive, regex } in namespaces {
        let regex = quote(regex);
        // Writing to a String does not fail.
        let _ = writeln!(lines, "    - exclusive: {exclusive}\n      regex: {}", *regex);
    }
    lines
}

/// A text in double quotes, with YAML's escapes, which JSON's are part of.
fn quote(text: &str) -> Zeroizing<String> {
    Zeroizing::new(serde_json::Value::from(text).to_string())
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::SMALLEST;

    fn config() -> Config {
        let yaml = SMALLEST.replace("localhost\"", "chat.example.org\"");
        Config::from_yaml_for_test(&yaml).unwrap()
    }

    fn generated() -> Registration {
        Registration::generate(&config(), &mut rand::rng())
    }

    fn mistaken_paths(registration: &Registration) -> Vec<String> {
        registration.mistakes(&config(), "r.yaml").into_iter().map(|it| it.path).collect()
    }

    #[test]
    fn a_generated_registration_is_read_back_and_fits_its_configuration() {
        let written = generated();
        let read = Registration::parse(&written.to_yaml(), "r.yaml").unwrap();
        assert_eq!(read.as_token.expose_secret(), written.as_token.expose_secret());
        assert_eq!(read.hs_token.expose_secret(), written.hs_token.expose_secret());
        assert_eq!(read.sender_localpart, written.sender_localpart);
        assert_eq!(read.namespaces.users, written.namespaces.users);
        assert_eq!(read.mistakes(&config(), "r.yaml"), []);
        assert_eq!(read.warnings("r.yaml"), []);
    }

    #[test]
    fn a_generated_registration_keeps_the_samples_comments_and_none_of_its_values() {
        let yaml = generated().to_yaml();
        for line in SAMPLE.lines().filter(|line| line.trim_start().starts_with('#')) {
            assert!(yaml.contains(line), "{line}");
        }
        assert!(!yaml.contains("replaced by"));
        assert!(!yaml.contains("localhost"));
    }

    #[test]
    fn two_registrations_share_no_secret() {
        let (one, other) = (generated(), generated());
        assert_ne!(one.as_token.expose_secret(), one.hs_token.expose_secret());
        assert_ne!(one.as_token.expose_secret(), other.as_token.expose_secret());
        assert_ne!(one.hs_token.expose_secret(), other.hs_token.expose_secret());
        assert_ne!(one.sender_localpart, other.sender_localpart);
    }

    #[test]
    fn the_namespace_holds_the_keeper_and_nobody_else() {
        let regex = &generated().namespaces.users[0].regex;
        let regex = from_the_start(regex).unwrap();
        let regex = |user_id: &str| regex.is_match(user_id.as_bytes());
        assert!(regex("@statekeeper:chat.example.org"));
        assert!(!regex("@statekeeper:chatXexample.org"));
        assert!(!regex("@statekeeper:chat.example.org.evil"));
        assert!(!regex("@other:chat.example.org"));
    }

    #[test]
    fn the_samples_own_tokens_are_refused() {
        let sample = Registration::parse(SAMPLE, "r.yaml").unwrap();
        let paths = mistaken_paths(&sample);
        assert!(paths.contains(&"as_token".to_owned()) && paths.contains(&"hs_token".to_owned()));
    }

    #[test]
    fn every_disagreement_with_the_configuration_is_named() {
        let mut registration = generated();
        registration.id.clear();
        registration.url = Some("http://elsewhere:1".into());
        registration.hs_token = registration.as_token.clone();
        registration.sender_localpart = "statekeeper".into();
        registration.namespaces.users =
            vec![Namespace { exclusive: true, regex: "@other:.*".into() }];
        assert_eq!(
            mistaken_paths(&registration),
            ["id", "url", "hs_token", "sender_localpart", "namespaces.users"]
        );
    }

    #[test]
    fn a_broken_regex_and_an_absent_url_are_mistakes() {
        let mut registration = generated();
        registration.url = None;
        registration.namespaces.users[0].regex = "(".into();
        assert_eq!(
            mistaken_paths(&registration),
            ["url", "namespaces.users[0].regex", "namespaces.users"]
        );
    }

    #[test]
    fn an_operators_own_regex_is_understood() {
        let mut registration = generated();
        for regex in
            [r"@\w+:chat\.example\.org", "@statekeeper", "(?i)@STATEKEEPER:.*", "@[a-z]+:.*$"]
        {
            registration.namespaces.users[0].regex = regex.into();
            assert_eq!(mistaken_paths(&registration), [""; 0], "{regex}");
        }
        registration.namespaces.users[0].regex = "statekeeper:.*".into();
        assert_eq!(mistaken_paths(&registration), ["namespaces.users"]);
    }

    #[test]
    fn rate_limits_for_the_keeper_are_warned_about() {
        let yaml = generated().to_yaml().replace("rate_limited: false\n", "");
        let registration = Registration::parse(&yaml, "r.yaml").unwrap();
        let warnings = registration.warnings("r.yaml");
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0].path, "rate_limited");
    }

    #[test]
    fn a_registration_with_several_wrong_values_names_each_and_repeats_no_token() {
        let yaml = "id: 5\nurl: null\nas_token: [hunter2]\nsender_localpart: x\nnamespaces: { users: [{ exclusive: maybe }] }\nextra: kept\n";
        let errors = Registration::parse(yaml, "r.yaml").unwrap_err();
        let text = errors.to_string();
        for path in ["id", "as_token", "hs_token", "users[0].exclusive", "users[0].regex"] {
            assert!(text.contains(&format!("{path}: ")), "{path} in {text}");
        }
        assert!(!text.contains("hunter2") && !text.contains("extra"), "{text}");
    }

    #[test]
    fn the_rules_about_what_can_be_read_are_weighed_beside_what_cannot() {
        let yaml = "id: ''\nurl: null\nas_token: [hunter2]\nhs_token: 'two words'\nsender_localpart: statekeeper\nnamespaces: { users: [{ exclusive: maybe, regex: '(' }, { exclusive: true, regex: '@x' }] }\n";
        let paths = |doubtful: &[&str]| {
            let mut doubt = Doubt::default();
            doubtful.iter().for_each(|path| doubt.note((*path).to_owned()));
            let draft = RegistrationDraft::parse(yaml, "r.yaml");
            let (_, mistakes) = draft.fitting(Some(&config()), &doubt);
            mistakes.into_iter().map(|it| it.path).collect::<Vec<_>>()
        };
        let wanted = [
            "as_token",
            "namespaces.users[0].exclusive",
            "id",
            "url",
            "hs_token",
            "sender_localpart",
            "namespaces.users[0].regex",
            "namespaces.users",
        ];
        assert_eq!(paths(&[]), wanted);
        let fewer = paths(&["homeserver.domain", "appservice.bot", "appservice.address"]);
        let wanted: Vec<_> = wanted
            .into_iter()
            .filter(|path| !["url", "sender_localpart", "namespaces.users"].contains(path))
            .collect();
        assert_eq!(fewer, wanted, "what leans on a configuration that cannot be read is not told");
    }

    #[test]
    fn secrets_are_not_in_the_debug_form() {
        let registration = generated();
        let debug = format!("{registration:?}");
        assert!(!debug.contains(registration.as_token.expose_secret()));
        assert!(!debug.contains(registration.hs_token.expose_secret()));
    }
}
