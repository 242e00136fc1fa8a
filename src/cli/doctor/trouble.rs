//! What the keeper itself has found to be wrong, where nothing else was found that says so.

use super::report::{Finding, Level};
use crate::{
    admin::Trouble,
    cli::{running::ToldTrouble, when::to_second},
};

/// Adds what the keeper tells of a trouble, unless a check of the doctor's own has found the same.
pub(super) fn add(findings: &mut Vec<Finding>, told: &ToldTrouble) {
    let check = check_of(told.cause);
    if findings.iter().any(|known| known.check == check && known.level >= Level::Warning) {
        return;
    }
    findings.retain(|known| known.check != check);
    let (cause, since) = (told.cause.cause(), to_second(told.since));
    findings.push(match told.until {
        None => Finding::trouble(check, format!("{cause}, since {since}"), told.cause.mend()),
        Some(_) => Finding::warning(check, format!("{cause}, at {since}"), told.cause.mend()),
    });
}

/// The check whose business it is.
fn check_of(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Homeserver => "homeserver",
        Trouble::Token => "token",
        Trouble::Localpart => "namespace",
        Trouble::Unreached => "ping",
        Trouble::Device | Trouble::OtherDevice => "device",
        Trouble::Identity => "cross_signing",
        Trouble::Clock => "clock",
        Trouble::OneTimeKeys => "one_time_keys",
        Trouble::StoreFull => "disk",
        Trouble::StoreReadOnly => "writable",
        Trouble::Store => "store",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_keeper_found_takes_the_place_of_what_looked_fine_and_of_nothing_worse() {
        let told = ToldTrouble { cause: Trouble::StoreFull, since: 0, until: None };
        let mut findings = vec![Finding::fine("disk", "5 MiB are free")];
        add(&mut findings, &told);
        let [found] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((found.check, found.level), ("disk", Level::Trouble));
        assert_eq!(found.fix.as_deref(), Some(Trouble::StoreFull.mend()));
        add(&mut findings, &ToldTrouble { cause: Trouble::StoreFull, since: 5, until: Some(6) });
        assert_eq!(findings.len(), 1);
    }
}
