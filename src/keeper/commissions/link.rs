//! Room and space say that they belong together.

use std::time::{Duration, Instant};

use ruma::RoomId;

use super::{Went, Work};
use crate::{
    homeserver::HomeserverError,
    keeper::KeeperError,
    state::{JsonMap, is_link},
    store::{Blueprint, CommissionRow, SpaceLink, rooms},
};

/// How long it is waited for that what was said comes back.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(20);

impl Work {
    /// Has both sides say it once, and waits until the keeper has heard it: from the end of the commission on, its policy
    /// for the room may hang on it.
    pub(super) async fn link(
        &mut self,
        row: &CommissionRow,
        room: &RoomId,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        let done = usize::try_from(row.done).unwrap_or(0);
        let Some(link) = wanted.spaces.get(done) else { return self.next(row).await };
        if self.looks > 0 && self.is_heard(room, link).await? {
            return self.linked(done, wanted).await;
        }
        if self.looks > 0 && self.since.elapsed() < COMES_BACK_WITHIN {
            return Ok(self.comes());
        }
        if self.looks > 0 {
            self.note(&format!(
                "the homeserver has not told that {room} is in {}: look at it with `statekeeper room`",
                link.space
            ))
            .await?;
            return self.linked(done, wanted).await;
        }
        if !self.say(room, link).await? {
            return self.linked(done, wanted).await;
        }
        self.since = Instant::now();
        Ok(self.comes())
    }

    /// This one is done.
    async fn linked(&mut self, done: usize, wanted: &Blueprint) -> Result<Went, KeeperError> {
        self.looks = 0;
        self.progress(done.saturating_add(1), wanted.spaces.len()).await?;
        Ok(Went::On)
    }

    /// Says it on both sides. Whether both could and did. To say it again makes no new event.
    async fn say(&self, room: &RoomId, link: &SpaceLink) -> Result<bool, KeeperError> {
        let space = &link.space;
        let listed = self.put(space, ("m.space.child", room.as_str()), &link.child).await?;
        if let Err(error) = &listed {
            self.note(&format!(
                "{space} could not be made to list the room ({error}): put m.space.child of {room} there"
            ))
            .await?;
        }
        // A room that did not claim the space goes on not to.
        if link.parent.is_empty() {
            return Ok(false);
        }
        let claimed = self.put(room, ("m.space.parent", space.as_str()), &link.parent).await?;
        if let Err(error) = &claimed {
            self.note(&format!("the room could not be made to claim {space} ({error})")).await?;
        }
        Ok(listed.is_ok() && claimed.is_ok() && is_link(&link.parent) && is_link(&link.child))
    }

    async fn is_heard(&self, room: &RoomId, link: &SpaceLink) -> Result<bool, KeeperError> {
        let known = rooms::get(&mut *self.lanes.taker.store.read().await?, room).await?;
        Ok(known.is_some_and(|known| known.spaces.contains(&link.space)))
    }

    /// Says something in plain; the inner error is the homeserver's no.
    pub(super) async fn put(
        &self,
        room: &RoomId,
        (event_type, state_key): (&str, &str),
        content: &JsonMap,
    ) -> Result<Result<(), HomeserverError>, KeeperError> {
        let content = serde_json::value::to_raw_value(content)?;
        match self.lanes.homeserver.put_state(room, event_type, state_key, &content).await {
            Ok(_) => Ok(Ok(())),
            Err(error) if error.is_transient() || error.is_unknown_device() => Err(error.into()),
            Err(error) => Ok(Err(error)),
        }
    }
}
