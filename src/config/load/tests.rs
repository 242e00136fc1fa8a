//! Reading a configuration: what is told of mistakes, and what comes of good ones.

use super::*;

fn draft(yaml: &str, environment: &[(&str, &str)]) -> Draft {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let environment = environment.iter().map(own).collect();
    Draft::parse(yaml, "config.yaml", Path::new("/etc/statekeeper"), &environment)
}

fn with(extra: &str) -> String {
    format!("{SMALLEST}\n{extra}")
}

fn lines(yaml: &str, environment: &[(&str, &str)]) -> Vec<String> {
    draft(yaml, environment).mistakes.iter().map(Mistake::to_string).collect()
}

fn good(yaml: &str, environment: &[(&str, &str)]) -> Config {
    draft(yaml, environment).finish().unwrap()
}

#[test]
fn a_mistake_says_where_it_is_and_how_to_mend_it() {
    let cases = [
        (
            "sharing: { gate_timeout: 3 parsecs }",
            r#"config.yaml: sharing.gate_timeout: "3 parsecs" is not a duration; write a number and a unit, like "3s""#,
        ),
        (
            "sharing: { gate_timout: 3s }",
            r#"config.yaml: sharing.gate_timout: there is no such key; did you mean "gate_timeout"?"#,
        ),
        ("shareing: {}", r#"config.yaml: shareing: there is no such key; did you mean "sharing"?"#),
        (
            "sharing: { refresh_per_second: lots }",
            r#"config.yaml: sharing.refresh_per_second: "lots" is not a whole number; write 1 or more, without a unit"#,
        ),
        (
            "sharing: { refresh_per_second: 0 }",
            "config.yaml: sharing.refresh_per_second: 0 is not a whole number; write 1 or more, without a unit",
        ),
        (
            "sharing: { devices: crosssigned }",
            r#"config.yaml: sharing.devices: "crosssigned" is not one of cross_signed, all; did you mean "cross_signed"?"#,
        ),
        (
            "access: { invite_from: [\"*:a.b\", example.org] }",
            r#"config.yaml: access.invite_from[1]: "example.org" is not a pattern for user ids; write one for a whole user id, like "*:example.org" or "@ops:example.org""#,
        ),
        (
            "access: { admins: [ops] }",
            r#"config.yaml: access.admins[0]: "ops" is not a user id; write one like "@ops:example.org""#,
        ),
        (
            "admin: { listen: localhost }",
            r#"config.yaml: admin.listen: "localhost" is not an address and port; write an IP address and a port, like "127.0.0.1:29330""#,
        ),
        ("admin: 5", "config.yaml: admin: is not a section; write its keys indented beneath it"),
        (
            "rotation: { messages: }",
            "config.yaml: rotation.messages: is empty; write 1 or more, without a unit, or remove the key",
        ),
        (
            "state: { exempt: m.room.name }",
            r#"config.yaml: state.exempt: "m.room.name" is not a list; write one like ["first", "second"]"#,
        ),
    ];
    for (extra, line) in cases {
        assert_eq!(lines(&with(extra), &[]), [line], "{extra}");
    }
}

#[test]
fn every_mistake_is_reported_and_not_only_the_first() {
    let yaml = r#"
            homeserver: { address: "ftp://x", domain: "not a server", request_timeout: 5 }
            appservice: { listen: x, address: "http://127.0.0.1:1", bot: { localpart: "@Bot" } }
            store: { url: "postgres://x" }
            state: { reseal: always, exempt: [""] }
            colour: blue
        "#;
    let text = lines(yaml, &[]).join("\n");
    for path in [
        "homeserver.domain",
        "homeserver.request_timeout",
        "appservice.listen",
        "appservice.registration",
        "state.reseal",
        "colour",
    ] {
        assert!(text.contains(&format!("config.yaml: {path}: ")), "{path} in:\n{text}");
    }
}

#[test]
fn what_is_wrong_with_the_meaning_is_reported_beside_what_is_wrong_with_the_form() {
    let yaml = with(
        r#"
admin: { listen: "127.0.0.1:29330" }
logging: { level: "info,=", format: xml }
state: { exempt: ["m.*"] }
sharing: { gate_timeout: soon }"#,
    )
    .replace("http://127.0.0.1:8008", "ftp://127.0.0.1")
    .replace("\"statekeeper\"", "\"@State\"")
    .replace("passphrase_file: \"data/passphrase\"", "url: \"sqlite::memory:\"");
    let text = lines(&yaml, &[]).join("\n");
    for path in [
        "homeserver.address",
        "appservice.bot.localpart",
        "admin.listen",
        "store.url",
        "store",
        "logging.level",
        "logging.format",
        "state.exempt[0]",
        "sharing.gate_timeout",
    ] {
        assert!(text.contains(&format!("config.yaml: {path}: ")), "{path} in:\n{text}");
    }
}

#[test]
fn malformed_yaml_is_reported_with_its_line_and_column() {
    let lines = lines("homeserver:\n  address: \"x\n", &[]);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("config.yaml:") && lines[0].contains("is not YAML"), "{lines:?}");
    assert!(draft("a: 1\na: 2\n", &[]).mistakes[0].message.contains("duplicate"));
}

#[test]
fn any_text_is_judged_without_a_panic() {
    for yaml in ["", "5", "- a", "a: !tag b", "? [a]\n: b", "<<: 5", "homeserver: !x {a: b}"] {
        assert!(!draft(yaml, &[]).mistakes.is_empty(), "{yaml}");
    }
}

#[test]
fn the_environment_sets_any_key_over_the_file() {
    let config = good(
        &with("sharing: { gate_timeout: 9s }"),
        &[
            ("STATEKEEPER__SHARING__GATE_TIMEOUT", "5s"),
            ("STATEKEEPER__SHARING__REFRESH_PER_SECOND", "7"),
            ("STATEKEEPER__APPSERVICE__BOT__LOCALPART", "12345"),
            ("STATEKEEPER__ACCESS__INVITE_FROM", "[\"@a:b\", '*:c']"),
            ("STATEKEEPER_UNRELATED", "x"),
        ],
    );
    assert_eq!(config.sharing.gate_timeout.to_string(), "5s");
    assert_eq!(config.sharing.refresh_per_second, 7);
    assert_eq!(config.appservice.bot.localpart, "12345");
    assert_eq!(config.access.invite_from.len(), 2);
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let found = lines(
        SMALLEST,
        &[
            ("STATEKEEPER__SHARING__GATE_TIMEOUT", "soon"),
            ("STATEKEEPER__SHARNG__DEVICES", "all"),
            ("STATEKEEPER__ACCESS__ADMINS", "[ops]"),
            ("STATEKEEPER__ADMIN__LISTEN", "127.0.0.1:29330"),
        ],
    );
    let text = found.join("\n");
    assert_eq!(found.len(), 4, "{text}");
    for start in [
        "environment: STATEKEEPER__SHARING__GATE_TIMEOUT: \"soon\" is not a duration",
        "environment: STATEKEEPER__SHARNG__DEVICES: sets no key; did you mean STATEKEEPER__SHARING__DEVICES?",
        "environment: STATEKEEPER__ACCESS__ADMINS[0]: ",
        "environment: STATEKEEPER__ADMIN__LISTEN: ",
    ] {
        assert!(text.contains(start), "{start} in:\n{text}");
    }
}

#[test]
fn a_passphrase_from_the_environment_takes_the_place_of_the_files() {
    let inline = SMALLEST.replace("passphrase_file: \"data/passphrase\"", "passphrase: secret");
    let config = good(&inline, &[("STATEKEEPER__STORE__PASSPHRASE_FILE", "p")]);
    assert!(config.store.passphrase.is_none());
    assert_eq!(config.store.passphrase_file, Some("/etc/statekeeper/p".into()));
    let both =
        [("STATEKEEPER__STORE__PASSPHRASE", "a"), ("STATEKEEPER__STORE__PASSPHRASE_FILE", "p")];
    assert_eq!(draft(&inline, &both).mistakes.len(), 1);
}

#[test]
fn a_wrong_passphrase_is_never_repeated() {
    for passphrase in ["[hunter2]", "{ hunter2: hunter2 }", "!hunter2 hunter2", "4815162342"] {
        let value = format!("passphrase: {passphrase}");
        let yaml = SMALLEST.replace("passphrase_file: \"data/passphrase\"", &value);
        let draft = draft(&yaml, &[]);
        assert!(!draft.mistakes.is_empty(), "{passphrase}");
        let said = format!("{draft:?}");
        assert!(!said.contains("hunter2") && !said.contains("4815162342"), "{said}");
    }
}

#[test]
fn paths_start_from_the_configurations_folder() {
    let config = good(SMALLEST, &[]);
    assert_eq!(config.appservice.registration, Path::new("/etc/statekeeper/registration.yaml"));
    assert_eq!(config.store.url, "sqlite:/etc/statekeeper/data/statekeeper.db");
    let path = Path::new("/etc/statekeeper/data/passphrase");
    assert_eq!(config.store.passphrase_file.as_deref(), Some(path));
    let yaml = SMALLEST.replace("store: {", "store: { url: \"sqlite:///var/k.db?mode=rwc\", ");
    assert_eq!(good(&yaml, &[]).store.url, "sqlite:/var/k.db?mode=rwc");
}

#[test]
fn by_default_the_own_servers_users_may_invite_and_an_empty_list_is_nobody() {
    let user = ruma::user_id!("@alice:localhost");
    let config = good(SMALLEST, &[]);
    assert!(config.access.invite_from.iter().any(|glob| glob.matches(user)));
    assert!(!config.access.invite_from.iter().any(|glob| glob.matches(ruma::user_id!("@a:b"))));
    assert!(good(&with("access: { invite_from: [] }"), &[]).access.invite_from.is_empty());
}

#[test]
fn a_rate_keeps_the_default_of_its_own_place_where_one_half_is_written() {
    let config = good(
        &with("requests: { limits: { device: { burst: 7 } } }\nsharing: { budget: { burst: 9 } }"),
        &[("STATEKEEPER__REQUESTS__LIMITS__ROOM__PER_SECOND", "3")],
    );
    let limits = &config.requests.limits;
    assert_eq!((limits.device.burst, limits.device.per_second), (7, 5));
    assert_eq!((limits.room.burst, limits.room.per_second), (500, 3));
    assert_eq!((config.sharing.budget.burst, config.sharing.budget.per_second), (9, 500));
}

#[test]
fn a_mistake_about_who_is_given_keys_says_how_to_mend_it() {
    let cases = [
        (
            "access: { deny_servers: [\"https://x\"] }",
            r#"config.yaml: access.deny_servers[0]: "https://x" is not a pattern for server names; write one for a whole server name, like "example.org" or "*.example.org""#,
        ),
        (
            "access: { allow_users: [bob] }",
            r#"config.yaml: access.allow_users[0]: "bob" is not a pattern for user ids; write one for a whole user id, like "*:example.org" or "@ops:example.org""#,
        ),
        (
            "sharing: { members: vouchd }",
            r#"config.yaml: sharing.members: "vouchd" is not one of joined, vouched, approved; did you mean "vouched"?"#,
        ),
        (
            "sharing: { vouched_power: -1 }",
            "config.yaml: sharing.vouched_power: -1 is not a whole number; write one of 0 or more, without a unit",
        ),
        (
            "requests: { limits: { user: { per_second: 0 } } }",
            "config.yaml: requests.limits.user.per_second: 0 is not a whole number; write 1 or more, without a unit",
        ),
        (
            "requests: { cool_down: 300 }",
            r#"config.yaml: requests.cool_down: 300 is not a duration; write a number and a unit, like "3s""#,
        ),
    ];
    for (extra, line) in cases {
        assert_eq!(lines(&with(extra), &[]), [line], "{extra}");
    }
}

#[test]
fn a_section_whose_keys_are_all_commented_out_has_its_defaults() {
    assert_eq!(good(&with("sharing:\nstate:"), &[]).sharing, crate::config::Sharing::default());
}

#[test]
fn the_defaults_are_those_that_operators_are_told() {
    let state = good(SMALLEST, &[]).state;
    assert_eq!((state.exempt.len(), state.never_reseal.len()), (5, 8));
    assert!(state.never_reseal.iter().any(|glob| glob.matches("m.rtc.member")));
}

#[test]
fn the_rules_about_what_can_be_read_are_weighed_beside_what_cannot() {
    let yaml = r#"
homeserver: { address: "ftp://x", domain: "not a server", request_timeout: 0s }
appservice: { listen: x, address: "ftp://y", bot: { localpart: "@Bot" } }
admin: { listen: "127.0.0.1:29330" }
store: { url: "sqlite::memory:", passphrase_file: [] }
logging: { level: loud }
state: { exempt: [5, "m.*"] }
"#;
    let mut paths: Vec<_> = draft(yaml, &[]).mistakes.into_iter().map(|it| it.path).collect();
    paths.sort();
    let wanted = [
        "appservice.address",
        "appservice.bot.localpart",
        "appservice.listen",
        "appservice.registration",
        "homeserver.address",
        "homeserver.domain",
        "homeserver.request_timeout",
        "logging.level",
        "state.exempt[0]",
        "state.exempt[1]",
        "store.passphrase_file",
        "store.url",
    ];
    assert_eq!(paths, wanted, "each once, and nothing about what stands in for another value");
}

#[test]
fn a_level_that_is_none_is_a_mistake_that_names_what_is_allowed() {
    for level in ["loud", "info,loud", "statekeeper=loud", "", "info,,debug", "sqlx=", "=info"] {
        let found = lines(&with(&format!("logging: {{ level: {level:?} }}")), &[]);
        assert_eq!(found.len(), 1, "{level}: {found:?}");
        assert!(found[0].starts_with("config.yaml: logging.level: "), "{found:?}");
        assert!(found[0].contains("error, warn, info, debug, trace or off"), "{found:?}");
    }
    for level in
        ["info", "WARN", "off", "info,statekeeper::keeper=debug", "warn,hyper[x{y=1}]=trace"]
    {
        assert!(
            lines(&with(&format!("logging: {{ level: {level:?} }}")), &[]).is_empty(),
            "{level}"
        );
    }
}

#[test]
fn a_mistake_about_a_space_says_how_to_mend_it() {
    let cases = [
        (
            "[{ preview: all }]",
            "spaces[0].room: is missing; write one like \"!room:example.org\" or \"#room:example.org\"",
        ),
        (
            "[{ room: company }]",
            "spaces[0].room: \"company\" is not a room id or address; write one like \"!room:example.org\" or \"#room:example.org\"",
        ),
        (
            "[{ room: \"!a:b\", preview: some }]",
            "spaces[0].preview: \"some\" is not one of none, aesthetic, all",
        ),
        (
            "[{ room: \"#a:b\" }, { room: \"#a:b\" }]",
            "spaces[1].room: is spaces[0] already; remove one of them",
        ),
        (
            "[{ room: \"!a:b\", max_rooms: 10001 }]",
            "spaces[0].max_rooms: 10001 is too many; write 10000 or less",
        ),
        (
            "[{ room: \"!a:b\", max_depth: 0 }]",
            "spaces[0].max_depth: 0 is not a whole number; write 1 or more, without a unit",
        ),
        (
            "[{ room: \"!a:b\", rooms: [\"#c:d\"] }]",
            "spaces[0].rooms[0]: \"#c:d\" is not a room id; write one like \"!room:example.org\"",
        ),
        (
            "[{ room: \"!a:b\", admin_token_file: token }]",
            "spaces[0].admin_token_file: does nothing; write admin_assist: synapse beside it, or remove it",
        ),
        (
            "[{ room: \"!a:b\", admin_assist: synapse }]",
            "spaces[0].admin_token_file: is missing, which admin_assist: synapse needs; write the path of a file with a server administrator's access token",
        ),
    ];
    for (spaces, line) in cases {
        let yaml = format!("{SMALLEST}\nspaces: {spaces}");
        let mistakes = Config::from_yaml_for_test(&yaml).unwrap_err().0;
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(mistakes, [format!("config.yaml: {line}")], "{spaces}");
    }
}
