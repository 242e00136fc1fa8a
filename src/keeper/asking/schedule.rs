//! Whom to ask next for a session's key, and when: a pure function.

use std::collections::BTreeSet;

use ruma::OwnedUserId;

use crate::state::PowerLevel;

/// How long a key may be on its way before anybody is asked for it, in milliseconds.
pub const PATIENCE: i64 = 2_000;
/// How many users one round asks, once whoever made the session was asked.
pub const AT_ONCE: usize = 2;
/// How many rounds there are. With the waits between them that is a little over three hours.
pub const MOST_ROUNDS: u32 = 12;
/// How long the first of them waits for an answer, in milliseconds.
const FIRST_WAIT: i64 = 4_000;
/// How long any of them waits at most.
const LONGEST_WAIT: i64 = 3_600_000;

/// A member who may have the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub user_id: OwnedUserId,
    /// With which power.
    pub power: PowerLevel,
    /// Whether the event is the user's own: their device made the session.
    pub is_maker: bool,
}

/// How far the asking is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// How many rounds there were.
    pub rounds: u32,
    /// When the next one is due, in milliseconds.
    pub due_at: i64,
    /// Who was asked in this turn.
    pub asked: &'a BTreeSet<OwnedUserId>,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Ask these, and look again at a time in milliseconds.
    Ask {
        /// Whom, in their order. Empty when there is nobody.
        users: Vec<OwnedUserId>,
        /// Whether everybody was asked before, and this begins anew.
        anew: bool,
        /// When the next round is due.
        due_at: i64,
    },
    /// Nobody has it, or nobody says so.
    GiveUp,
}

/// How long the round after `rounds` others waits for an answer, in milliseconds: 4 s, twice as long each time, never
/// more than an hour.
pub fn wait(rounds: u32) -> i64 {
    let factor = 2_i64.checked_pow(rounds).unwrap_or(i64::MAX);
    FIRST_WAIT.saturating_mul(factor).min(LONGEST_WAIT)
}

/// Whom to ask at `now`, in milliseconds: the maker alone first, whose answer is the best there is, then the others,
/// two at a time, those with the highest power first. When everybody was asked, it begins anew: an answer may have
/// been lost, and somebody may have come online.
pub fn next(progress: Progress<'_>, candidates: &[Candidate], now: i64) -> Step {
    if now < progress.due_at {
        return Step::Wait;
    }
    if progress.rounds >= MOST_ROUNDS {
        return Step::GiveUp;
    }
    let due_at = now.saturating_add(wait(progress.rounds));
    let users = pick(candidates, progress.asked);
    if users.is_empty() && !progress.asked.is_empty() {
        let users = pick(candidates, &BTreeSet::new());
        return Step::Ask { users, anew: true, due_at };
    }
    Step::Ask { users, anew: false, due_at }
}

fn pick(candidates: &[Candidate], asked: &BTreeSet<OwnedUserId>) -> Vec<OwnedUserId> {
    let mut left: Vec<&Candidate> =
        candidates.iter().filter(|candidate| !asked.contains(&candidate.user_id)).collect();
    if let Some(maker) = left.iter().find(|candidate| candidate.is_maker) {
        return vec![maker.user_id.clone()];
    }
    left.sort_by(|a, b| b.power.cmp(&a.power).then_with(|| a.user_id.cmp(&b.user_id)));
    left.into_iter().take(AT_ONCE).map(|candidate| candidate.user_id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::UserId;

    use super::*;

    fn user(name: &str) -> OwnedUserId {
        UserId::parse(format!("@{name}:localhost")).unwrap()
    }

    fn candidate(name: &str, power: i64, is_maker: bool) -> Candidate {
        Candidate { user_id: user(name), power: PowerLevel::Level(power), is_maker }
    }

    fn members() -> Vec<Candidate> {
        vec![
            candidate("low", 0, false),
            candidate("maker", 0, true),
            candidate("b", 50, false),
            candidate("a", 50, false),
            candidate("high", 100, false),
        ]
    }

    /// Plays the asking to its end: who was asked at which time, and how often it began anew.
    fn play(candidates: &[Candidate]) -> (Vec<(i64, Vec<OwnedUserId>)>, usize, i64) {
        let (mut asked, mut turns) = (BTreeSet::new(), 0);
        let (mut rounds, mut now, mut due_at) = (0, 1000, 1000);
        let mut said = Vec::new();
        loop {
            match next(Progress { rounds, due_at, asked: &asked }, candidates, now) {
                Step::Wait => now = due_at,
                Step::GiveUp => return (said, turns, now),
                Step::Ask { users, anew, due_at: later } => {
                    if anew {
                        asked.clear();
                        turns += 1;
                    }
                    asked.extend(users.iter().cloned());
                    said.push((now, users));
                    (rounds, due_at) = (rounds + 1, later);
                }
            }
        }
    }

    #[test]
    fn the_maker_is_asked_first_then_the_powerful_two_at_a_time() {
        let (said, _, _) = play(&members());
        let users: Vec<_> = said.iter().take(4).map(|(_, users)| users.clone()).collect();
        let named = |names: &[&str]| names.iter().map(|name| user(name)).collect::<Vec<_>>();
        assert_eq!(
            users,
            [named(&["maker"]), named(&["high", "a"]), named(&["b", "low"]), named(&["maker"])]
        );
    }

    #[test]
    fn the_waits_double_up_to_an_hour() {
        let (said, _, _) = play(&members());
        let waits: Vec<i64> = said.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert_eq!(waits[..4], [4_000, 8_000, 16_000, 32_000]);
        assert!(waits.iter().all(|wait| *wait <= LONGEST_WAIT));
        assert_eq!(waits.last(), Some(&LONGEST_WAIT));
    }

    #[test]
    fn nobody_is_asked_before_the_time() {
        let progress = Progress { rounds: 0, due_at: 10, asked: &BTreeSet::new() };
        assert_eq!(next(progress, &members(), 9), Step::Wait);
    }

    #[test]
    fn whoever_comes_later_is_asked_in_his_turn() {
        let asked: BTreeSet<_> = members().into_iter().map(|member| member.user_id).collect();
        let mut more = members();
        more.push(candidate("late", 0, false));
        let step = next(Progress { rounds: 3, due_at: 0, asked: &asked }, &more, 5);
        assert_eq!(step, Step::Ask { users: vec![user("late")], anew: false, due_at: 32_005 });
    }

    proptest! {
        #[test]
        fn asking_ends_and_never_asks_more_than_two(powers in prop::collection::vec(0..100_i64, 0..40)) {
            let candidates: Vec<Candidate> = powers
                .iter()
                .enumerate()
                .map(|(number, power)| candidate(&format!("u{number}"), *power, number == 0))
                .collect();
            let (said, turns, ended) = play(&candidates);
            prop_assert_eq!(said.len(), MOST_ROUNDS as usize);
            prop_assert!(said.iter().all(|(_, users)| users.len() <= AT_ONCE));
            prop_assert!(ended <= 1000 + i64::from(MOST_ROUNDS) * LONGEST_WAIT);
            // Nobody twice before everybody once.
            if candidates.len() > 2 * MOST_ROUNDS as usize {
                prop_assert_eq!(turns, 0);
            }
        }
    }
}
