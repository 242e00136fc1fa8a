//! What administrators are told of the keeper's troubles: of one that lasts at once, and of one that kept the keeper from
//! telling as soon as it is over.

use std::collections::BTreeMap;

use super::notices::QUIET;
use crate::{
    admin::{Past, Trouble, Troubles},
    keeper::clock::to_second,
};

/// How long the homeserver has to have been away to be told of, in milliseconds: a restart of it is no news.
const WORTH_TELLING: i64 = 15_000;

/// When each trouble was last told of, and the beginning of the one that was told of, in milliseconds.
pub(super) type Told = BTreeMap<Trouble, (i64, i64)>;

/// What is to be told at `now`, a line each. Of one cause not more often than it is to be quiet, but for its end.
pub(super) fn tellable(told: &mut Told, troubles: &Troubles, now: i64) -> Vec<String> {
    let is_quiet = |told: &Told, trouble: Trouble| {
        told.get(&trouble).is_some_and(|(at, _)| now.saturating_sub(*at) < QUIET)
    };
    let was_told = |told: &Told, trouble: Trouble, since: i64| {
        told.get(&trouble).is_some_and(|(_, begun)| *begun == since)
    };
    let mut entries = Vec::new();
    let past = troubles.take_past(|past| {
        was_told(told, past.trouble, past.since) || !is_quiet(told, past.trouble)
    });
    let mut by_trouble: BTreeMap<Trouble, Vec<Past>> = BTreeMap::new();
    for past in past {
        if was_told(told, past.trouble, past.since) {
            let until = to_second(past.until);
            entries.push(format!("this is over since {until}: {}", past.trouble.cause()));
        } else if is_worth_telling(&past) {
            by_trouble.entry(past.trouble).or_default().push(past);
        }
    }
    for (trouble, past) in by_trouble {
        entries.push(it_was(trouble, &past));
        told.insert(trouble, (now, i64::MIN));
    }
    for lasting in troubles.lasting() {
        let (trouble, since) = (lasting.trouble, lasting.since);
        if was_told(told, trouble, since) || is_quiet(told, trouble) {
            continue;
        }
        entries.push(format!(
            "{}, since {}. Mend it: {}",
            trouble.cause(),
            to_second(since),
            trouble.mend()
        ));
        told.insert(trouble, (now, since));
    }
    entries
}

fn is_worth_telling(past: &Past) -> bool {
    past.trouble != Trouble::Homeserver || past.until.saturating_sub(past.since) >= WORTH_TELLING
}

/// That a trouble was, once or several times, and what mends it should it come again.
fn it_was(trouble: Trouble, past: &[Past]) -> String {
    let first = past.first().map_or(0, |past| past.since);
    let last = past.last().map_or(0, |past| past.until);
    let times = match past.len() {
        0 | 1 => String::new(),
        many => format!(", {many} times"),
    };
    format!(
        "{}, from {} to {}{times}. Should it come again: {}",
        trouble.cause(),
        to_second(first),
        to_second(last),
        trouble.mend()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_that_lasts_is_told_once_and_that_it_is_over_once() {
        let (mut told, troubles) = (Told::new(), Troubles::default());
        troubles.begin(Trouble::Clock, 1_000);
        let entries = tellable(&mut told, &troubles, 2_000);
        assert_eq!(entries.len(), 1);
        assert!(entries[0].contains("since 1970-01-01T00:00:01Z"), "{entries:?}");
        assert!(entries[0].contains(Trouble::Clock.mend()), "{entries:?}");
        assert!(tellable(&mut told, &troubles, QUIET * 3).is_empty());
        troubles.end(Trouble::Clock, QUIET * 3);
        let entries = tellable(&mut told, &troubles, QUIET * 3);
        assert!(entries[0].starts_with("this is over since"), "{entries:?}");
        assert!(tellable(&mut told, &troubles, QUIET * 3).is_empty());
    }

    #[test]
    fn what_was_while_nothing_could_be_told_is_told_with_both_times() {
        let (mut told, troubles) = (Told::new(), Troubles::default());
        troubles.begin(Trouble::Homeserver, 0);
        troubles.end(Trouble::Homeserver, 60_000);
        let entries = tellable(&mut told, &troubles, 60_000);
        let start = "the homeserver does not answer, from 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z. Should";
        assert!(entries[0].starts_with(start), "{entries:?}");
        assert!(tellable(&mut told, &troubles, 61_000).is_empty());
    }

    #[test]
    fn a_homeserver_that_was_restarted_is_no_news_and_one_that_does_so_all_the_time_is_summarised()
    {
        let (mut told, troubles) = (Told::new(), Troubles::default());
        let away = |from: i64, to: i64| {
            troubles.begin(Trouble::Homeserver, from);
            troubles.end(Trouble::Homeserver, to);
        };
        away(0, 5_000);
        assert!(tellable(&mut told, &troubles, 5_000).is_empty());
        away(10_000, 30_000);
        assert_eq!(tellable(&mut told, &troubles, 30_000).len(), 1);
        away(40_000, 60_000);
        assert!(tellable(&mut told, &troubles, 60_000).is_empty());
        away(70_000, 90_000);
        let entries = tellable(&mut told, &troubles, QUIET + 90_000);
        assert!(entries[0].contains(", 2 times. Should it come again"), "{entries:?}");
    }
}
