//! What administrators are told unasked: who is held, what broke a rule, what keeps the keeper from its work. What comes
//! at once is told at once, and what comes often is summarised.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ruma::RoomId;
use serde::{Deserialize, Serialize};

use super::{Talker, render};
use crate::{
    admin::Readiness,
    keeper::{KeeperError, clock::now_ms},
    state::Membership,
    store::{buried, people, rooms, set_meta, tuples},
};

/// How often it is looked whether there is something to be told.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long after a notice there is no other, in milliseconds.
const QUIET: i64 = 300_000;
/// Under which key it is kept what was told.
const TOLD: &str = "management_told";

/// Tells administrators what needs them.
pub struct Notices {
    /// Speaks.
    pub talker: Talker,
    /// What the keeper lacks.
    pub readiness: Readiness,
}

/// Rooms, users and the rules that these broke there, and how often.
type Broken = (String, String, String, i64);

/// What there is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct News {
    /// Members who are held: room, user, reason.
    held: BTreeSet<(String, String, String)>,
    /// Rooms in which the keeper is not elevated.
    not_elevated: BTreeSet<String>,
    /// How many current events cannot be read.
    undecryptable: i64,
    /// Rooms with values that the keeper sealed itself before its store was lost or put back, and how many.
    lost: BTreeMap<String, i64>,
    /// Until when events that broke a rule are counted.
    breaches_until: i64,
}

impl Notices {
    /// Tells what there is to be told, for ever.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub async fn run(self) -> Result<(), KeeperError> {
        let mut told = self.told().await?;
        let mut quiet_until = 0;
        loop {
            let now = now_ms();
            if now >= quiet_until
                && self.readiness.missing().is_empty()
                && self.tell(&mut told).await?
            {
                quiet_until = now.saturating_add(QUIET);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn told(&self) -> Result<News, KeeperError> {
        let kept = self.talker.taker.store.meta(TOLD).await?;
        let kept = kept.and_then(|kept| serde_json::from_str(&kept).ok());
        Ok(kept.unwrap_or_else(|| News { breaches_until: now_ms(), ..News::default() }))
    }

    /// Tells what is new. Returns whether anything was.
    async fn tell(&self, told: &mut News) -> Result<bool, KeeperError> {
        let taker = &self.talker.taker;
        let Some(room) = taker.rules.global().management_room.clone() else { return Ok(false) };
        let Some((now, breaches)) = self.look(&room, told).await? else { return Ok(false) };
        let entries = entries(told, &now, &breaches);
        if entries.is_empty() {
            // What is over is forgotten, so that it is told when it comes again.
            let now = News { breaches_until: told.breaches_until, ..now };
            if *told != now {
                self.keep(&now).await?;
                *told = now;
            }
            return Ok(false);
        }
        self.keep(&now).await?;
        *told = now;
        let message = render::notice("this may need you:", entries);
        self.talker.say(&room, None, &message).await;
        Ok(true)
    }

    /// What there is to be told now; `None` while the keeper is not in the room to tell it.
    async fn look(
        &self,
        room: &RoomId,
        told: &News,
    ) -> Result<Option<(News, Vec<Broken>)>, KeeperError> {
        let db = &mut *self.talker.taker.store.read().await?;
        let is_there = rooms::get(db, room).await?;
        if !is_there.is_some_and(|room| room.membership == Membership::Join && room.loaded) {
            return Ok(None);
        }
        let held = people::holds(db, None, None).await?.into_iter();
        let not_elevated = rooms::all(db).await?;
        let not_elevated = not_elevated.iter().filter(|room| room.status() == "not_elevated");
        let now = News {
            held: held
                .map(|hold| (hold.room_id.to_string(), hold.user_id.to_string(), hold.reason))
                .collect(),
            not_elevated: not_elevated.map(|room| room.room_id.to_string()).collect(),
            undecryptable: tuples::count_unreadable(db).await?,
            lost: buried::by_room(db).await?.into_iter().collect(),
            breaches_until: now_ms(),
        };
        let breaches =
            tuples::breaches_between(db, told.breaches_until, now.breaches_until).await?;
        Ok(Some((now, breaches)))
    }

    /// Before it is told: a kill may lose a notice, and never repeats all of them.
    async fn keep(&self, news: &News) -> Result<(), KeeperError> {
        let kept = serde_json::to_string(news)?;
        let mut transaction = self.talker.taker.store.begin().await?;
        set_meta(&mut transaction, TOLD, &kept).await?;
        Ok(transaction.commit().await?)
    }
}

/// What is new since `told`, a line each.
fn entries(told: &News, now: &News, breaches: &[Broken]) -> Vec<String> {
    let mut entries = Vec::new();
    for (room, user, reason) in now.held.difference(&told.held) {
        entries
            .push(format!("{user} is held in {room}: {reason}; `approve {room} {user}` or `deny`"));
    }
    for room in now.not_elevated.difference(&told.not_elevated) {
        entries.push(format!("I am not elevated in {room}: nothing new is sealed there"));
    }
    for (room, count) in &now.lost {
        if told.lost.get(room).is_none_or(|before| before < count) {
            entries.push(format!(
                "{count} values in {room} were sealed by me before my store was lost or put back, and I cannot read what \
                 they were made from: have a member who reads them set them once more"
            ));
        }
    }
    let lost = |news: &News| news.lost.values().sum::<i64>();
    if now.undecryptable - lost(now) > told.undecryptable - lost(told) {
        entries
            .push(format!("{} state events cannot be read: `rooms` says where", now.undecryptable));
    }
    for (room, user, rule, count) in breaches {
        entries.push(format!("{user} broke the rule `{rule}` in {room}, times: {count}"));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_not_told_again_and_what_comes_again_is() {
        let hold = ("!r:h".to_owned(), "@bob:h".to_owned(), "not_vouched".to_owned());
        let held = News { held: BTreeSet::from([hold]), undecryptable: 2, ..News::default() };
        let nothing = News::default();
        assert_eq!(entries(&nothing, &held, &[]).len(), 2);
        assert!(entries(&held, &held, &[]).is_empty());
        assert!(entries(&held, &nothing, &[]).is_empty());
        let broken = [("!r:h".to_owned(), "@eve:h".to_owned(), "power".to_owned(), 3)];
        let told = entries(&held, &held, &broken);
        assert_eq!(told, ["@eve:h broke the rule `power` in !r:h, times: 3"]);
    }
}
