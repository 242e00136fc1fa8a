//! What administrators are told unasked: who is held, what broke a rule, what keeps the keeper from its work. What comes
//! at once is told at once, and what comes often is summarised.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ruma::{OwnedRoomId, RoomId};
use serde::{Deserialize, Serialize};

use super::{
    Talker, render,
    trouble::{Told, tellable},
};
use crate::{
    admin::Readiness,
    keeper::{
        KeeperError,
        clock::now_ms,
        renewal::{self, Cause},
        spaces::advice::give_power,
    },
    state::Membership,
    store::{buried, ledger, people, rooms, set_meta, tuples, wars},
};

/// How often it is looked whether there is something to be told.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long after a notice there is no other, in milliseconds.
pub(super) const QUIET: i64 = 300_000;
/// For how long what a lost value was made from is looked for before it is told of, in milliseconds.
const LOOKED_FOR: i64 = 60_000;
/// How long a commit may take, in milliseconds: what was found before that is there to be read.
const SETTLED: i64 = 5_000;
/// How many rooms are named in one line.
const NAMED: usize = 5;
/// Under which key it is kept what was told.
const TOLD: &str = "management_told";

/// Tells administrators what needs them.
pub struct Notices {
    /// Speaks.
    pub talker: Talker,
    /// What the keeper lacks.
    pub readiness: Readiness,
}

/// What was found to be told.
struct Found {
    news: News,
    breaches: Vec<Broken>,
    /// What gives the keeper the power that it lacks, by room.
    mends: BTreeMap<String, String>,
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
    /// Why the keeper has another device than before, and which.
    renewed: Option<(Cause, String)>,
    /// Whose changes the keeper restores no more before an administrator says so: room, user.
    wars: BTreeSet<(String, String)>,
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
        let mut told_of = Told::default();
        let mut quiet_until = 0;
        loop {
            let now = now_ms();
            let room = self.room().await?.filter(|_| self.readiness.missing().is_empty());
            if let Some(room) = room {
                self.tell_troubles(&room, &mut told_of).await;
                if now >= quiet_until && self.tell(&room, &mut told).await? {
                    quiet_until = now.saturating_add(QUIET);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.readiness.troubles().changed() => {}
            }
        }
    }

    /// The management room, where there is one and the keeper is in it.
    async fn room(&self) -> Result<Option<OwnedRoomId>, KeeperError> {
        let taker = &self.talker.taker;
        let Some(room) = taker.rules.global().management_room.clone() else { return Ok(None) };
        let known = rooms::get(&mut *taker.store.read().await?, &room).await?;
        let is_in = known.is_some_and(|room| room.membership == Membership::Join && room.loaded);
        Ok(is_in.then_some(room))
    }

    /// Tells what is wrong with the keeper, and what was while it could not tell.
    async fn tell_troubles(&self, room: &RoomId, told: &mut Told) {
        let entries = tellable(told, self.readiness.troubles(), now_ms());
        if !entries.is_empty() {
            let message = render::notice("this keeps me from my work, or did:", entries);
            self.talker.say(room, None, &message).await;
        }
    }

    async fn told(&self) -> Result<News, KeeperError> {
        let kept = self.talker.taker.store.meta(TOLD).await?;
        let kept = kept.and_then(|kept| serde_json::from_str(&kept).ok());
        Ok(kept.unwrap_or_else(|| News { breaches_until: now_ms(), ..News::default() }))
    }

    /// Tells what is new. Returns whether anything was.
    async fn tell(&self, room: &RoomId, told: &mut News) -> Result<bool, KeeperError> {
        let found = self.look(told).await?;
        let entries = entries(told, &found);
        let now = found.news;
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
        self.talker.say(room, None, &message).await;
        Ok(true)
    }

    /// What there is to be told now.
    async fn look(&self, told: &News) -> Result<Found, KeeperError> {
        let taker = &self.talker.taker;
        let db = &mut *taker.store.read().await?;
        let held = people::holds(db, None, None).await?.into_iter();
        let known = rooms::all(db).await?;
        let not_elevated = known.iter().filter(|room| room.status() == "not_elevated");
        let mends: BTreeMap<String, String> = not_elevated
            .map(|room| (room.room_id.to_string(), give_power(room, &taker.keeper)))
            .collect();
        let news = News {
            held: held
                .map(|hold| (hold.room_id.to_string(), hold.user_id.to_string(), hold.reason))
                .collect(),
            not_elevated: mends.keys().cloned().collect(),
            undecryptable: tuples::count_unreadable(db).await?,
            lost: buried::by_room(db, now_ms().saturating_sub(LOOKED_FOR)).await?,
            renewed: renewal::last(db).await?,
            wars: wars::standing(db, None)
                .await?
                .into_iter()
                .map(|(room, user)| (room.to_string(), user.to_string()))
                .collect(),
            // What is being written while this is read is told the next time.
            breaches_until: now_ms().saturating_sub(SETTLED).max(told.breaches_until),
        };
        let breaches =
            ledger::found_between(&taker.store, db, (told.breaches_until, news.breaches_until))
                .await?;
        Ok(Found { news, breaches, mends })
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
fn entries(told: &News, found: &Found) -> Vec<String> {
    let Found { news: now, breaches, mends } = found;
    let mut entries = Vec::new();
    for (room, user, reason) in now.held.difference(&told.held) {
        entries
            .push(format!("{user} is held in {room}: {reason}; `approve {room} {user}` or `deny`"));
    }
    for room in now.not_elevated.difference(&told.not_elevated) {
        let mend = mends.get(room).map(|mend| format!("; mend it: {mend}")).unwrap_or_default();
        entries.push(format!("I am not elevated in {room}: nothing new is sealed there{mend}"));
    }
    let newly = now.lost.iter().filter(|(room, count)| told.lost.get(*room) < Some(*count));
    let newly: Vec<(&String, &i64)> = newly.collect();
    if !newly.is_empty() {
        let values: i64 = newly.iter().map(|(_, count)| *count).sum();
        let rooms = newly.iter().take(NAMED).map(|(room, _)| room.as_str()).collect::<Vec<_>>();
        let more = if newly.len() > NAMED { " and others" } else { "" };
        entries.push(format!(
            "I sealed {values} values before my store was lost or put back, and cannot read what they were made from: have a \
             member who reads them set them once more, in {}{more}",
            rooms.join(", ")
        ));
    }
    if let Some((cause, device)) = now.renewed.as_ref().filter(|_| now.renewed != told.renewed) {
        let why = match cause {
            Cause::Restored => "a backup of my store was imported",
            Cause::GoneBack => "my store was put back from an older copy",
            Cause::Lost => "my store was lost, and with it my identity: my key has changed",
        };
        entries.push(format!(
            "I have another device, {device}, because {why}; everything is sealed anew"
        ));
    }
    let lost = |news: &News| news.lost.values().sum::<i64>();
    if now.undecryptable - lost(now) > told.undecryptable - lost(told) {
        entries.push(format!(
            "{} state events cannot be read: `rooms` says where; mend it: have a member who reads them set them once more",
            now.undecryptable
        ));
    }
    for (room, user, rule, count) in breaches {
        entries.push(format!("{user} broke the rule `{rule}` in {room}, times: {count}"));
    }
    for (room, user) in now.wars.difference(&told.wars) {
        entries.push(format!(
            "{user} goes on breaking rules in {room}: I restore nothing more that they change there; mend it: take their \
             power to send `m.room.encrypted`, remove them, or have me go on with `resume {room} {user}`"
        ));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(news: &News, breaches: &[Broken]) -> Found {
        Found { news: news.clone(), breaches: breaches.to_vec(), mends: BTreeMap::new() }
    }

    #[test]
    fn another_device_and_what_went_with_the_old_one_is_told_once() {
        let lost: BTreeMap<_, _> = (0..9).map(|room| (format!("!{room}:h"), 2)).collect();
        let renewed = Some((Cause::Lost, "NEW".to_owned()));
        let now = News { lost, undecryptable: 18, renewed, ..News::default() };
        let told = entries(&News::default(), &found(&now, &[]));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("18 values") && told[0].ends_with("!4:h and others"), "{told:?}");
        assert!(told[1].contains("NEW"), "{told:?}");
        assert!(entries(&now, &found(&now, &[])).is_empty());
    }

    #[test]
    fn what_was_told_is_not_told_again_and_what_comes_again_is() {
        let hold = ("!r:h".to_owned(), "@bob:h".to_owned(), "not_vouched".to_owned());
        let held = News { held: BTreeSet::from([hold]), undecryptable: 2, ..News::default() };
        let nothing = News::default();
        assert_eq!(entries(&nothing, &found(&held, &[])).len(), 2);
        assert!(entries(&held, &found(&held, &[])).is_empty());
        assert!(entries(&held, &found(&nothing, &[])).is_empty());
        let broken = [("!r:h".to_owned(), "@eve:h".to_owned(), "power".to_owned(), 3)];
        let told = entries(&held, &found(&held, &broken));
        assert_eq!(told, ["@eve:h broke the rule `power` in !r:h, times: 3"]);
        let wars = BTreeSet::from([("!r:h".to_owned(), "@eve:h".to_owned())]);
        let war = News { wars, ..held };
        let told = entries(&nothing, &found(&war, &[]));
        assert!(told.iter().any(|entry| entry.starts_with("@eve:h goes on breaking")), "{told:?}");
        assert!(entries(&war, &found(&war, &[])).is_empty());
    }
}
