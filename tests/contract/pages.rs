//! Completions and manual pages: whatever the command line has is in them.

use std::fs;

use super::{CONFIG, Site};

const VERBS: [&str; 8] =
    ["doctor", "status", "rooms", "why", "approve", "rotate", "policy", "completions"];

#[test]
fn each_shells_completions_know_every_command_and_no_hidden_one() {
    let site = Site::new(CONFIG);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = site.run(&["completions", shell], &[]);
        assert_eq!((said.code, said.err.as_str()), (0, ""));
        for verb in VERBS {
            assert!(said.out.contains(verb), "{shell} does not know {verb}");
        }
    }
    assert_eq!(site.run(&["completions", "tcl"], &[]).code, 2);
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let site = Site::new(CONFIG);
    let said = site.run(&["man", "--out", "pages"], &[]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    for verb in VERBS {
        let page = fs::read_to_string(site.path(&format!("pages/statekeeper-{verb}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{verb}");
    }
    assert!(site.path("pages/statekeeper-policy-explain.1").exists());
    assert!(site.path("pages/statekeeper.1").exists());
    assert!(!site.path("pages/statekeeper-config-schema.1").exists());
    let page = fs::read_to_string(site.path("pages/statekeeper-why.1")).unwrap();
    assert!(page.contains("\\-\\-json"), "{page}");
}
