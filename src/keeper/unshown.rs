//! What came while a room's state was being fetched, and the state does not show: it is taken in afterwards.
//!
//! Most of what is put aside meanwhile stands in the fetched state and is not needed any more. Redactions and messages
//! never stand there, and what a member sealed does not where another one sealed over it.

use std::collections::BTreeSet;

use ruma::RoomId;
use sqlx::SqliteConnection;

use super::{KeeperError, hindsight::levels_of_fetched, ingest::Taker};
use crate::{
    homeserver::Homeserver,
    state::RoomEvent,
    store::{LevelsThen, inbox},
};

/// Of how many events it is asked which levels stood when they were sent: the rest is judged by today's.
const MOST_LOOKS: usize = 64;

/// Events that wait in the inbox, by their places in the stream.
#[derive(Debug, Default)]
pub(super) struct Unshown {
    /// Messages and redactions.
    timeline: Vec<i64>,
    /// Sealed events behind others, with the levels of their time as far as they are known.
    behind: Vec<(i64, Option<LevelsThen>)>,
}

impl Unshown {
    /// Looks through what came up to `fence`, after which `events` were fetched as the room's state.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the homeserver is away or the store fails.
    pub(super) async fn look(
        taker: &Taker,
        homeserver: &Homeserver,
        room: &RoomId,
        (fence, events): (i64, &[(RoomEvent, &str)]),
    ) -> Result<Self, KeeperError> {
        let untaken = inbox::untaken(&mut *taker.store.read().await?, room, fence).await?;
        let shown: BTreeSet<_> = events.iter().map(|(event, _)| &event.event_id).collect();
        let mut unshown = Self::default();
        for (seq, body) in untaken {
            let Ok(event) = RoomEvent::parse_str(&body) else { continue };
            if event.state_key.is_none() {
                unshown.timeline.push(seq);
            } else if event.is_encrypted()
                && event.sender != taker.keeper
                && !shown.contains(&event.event_id)
            {
                let levels = match unshown.behind.len() < MOST_LOOKS {
                    true => levels_of_fetched(taker, homeserver, room, &event).await?,
                    false => None,
                };
                unshown.behind.push((seq, levels));
            }
        }
        Ok(unshown)
    }

    /// Gives them back to be taken in, in the commit that takes the state in.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub(super) async fn give_back(&self, db: &mut SqliteConnection) -> Result<(), KeeperError> {
        for seq in &self.timeline {
            inbox::give_back(db, *seq).await?;
        }
        for (seq, levels) in &self.behind {
            inbox::give_back_behind(db, *seq, levels.as_ref()).await?;
        }
        Ok(())
    }
}
