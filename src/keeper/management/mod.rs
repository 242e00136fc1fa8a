//! The management room: administrators write to the keeper, and it answers and tells what needs them.
//!
//! Whatever is written there passes the homeserver, which is trusted with none of it. So a command counts only from
//! an administrator's cross-signed device, under the identity that was seen first, at an index of its session where no
//! message stood before, once for each event and not when it is old. In a room that is not encrypted, where the
//! homeserver could write anything, only what reads is answered.
//!
//! Recovery: a message is taken up in a commit of its own before anything is done, so a kill may lose an answer and
//! never repeats a command. Which commands were carried out stands in the ledger.

mod notices;
mod parse;
mod render;
mod trouble;

use std::time::Duration;

use ruma::{OwnedUserId, RoomId, TransactionId};
use serde_json::{Value, json, value::RawValue};

pub use self::notices::Notices;
use self::{parse::Said, render::Message};
use super::{
    KeeperError,
    clock::now_ms,
    ingest::Taker,
    operator::{Answer, Caller, Operator, Request},
};
use crate::{
    crypto::Decrypted,
    homeserver::Homeserver,
    state::{MegolmContent, Membership, RoomEvent},
    store::{Asked, MemberRow, TalkRow, commands, people, rooms, talk},
};

/// How often it is looked whether something was written.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How old a command may be, in milliseconds.
const STALE: i64 = 300_000;
/// How long the key of a message is awaited, in milliseconds.
const KEY_WAITS: i64 = 60_000;
/// How often an answer is tried.
const TRIES: u32 = 5;

/// Reads what is written and answers it.
#[derive(Clone)]
pub struct Talker {
    /// Reads and judges.
    pub taker: Taker,
    /// Sends.
    pub homeserver: Homeserver,
    /// Does what is asked.
    pub operator: Operator,
}

/// What the keeper makes of a message.
enum Judged {
    /// It is awaited: its key did not come yet.
    Waits,
    /// It counts: what was said, and whether it was encrypted.
    Counts(Box<Spoken>),
    /// It is not for the keeper.
    Nothing,
    /// It does not count, and why: a word for the ledger and a sentence.
    Refused(&'static str, &'static str),
}

/// A message that counts.
struct Spoken {
    said: Said,
    /// Its place in its session, and the identity behind it, where it was encrypted.
    place: Option<(String, u32, Option<String>)>,
}

/// Takes in an event of the management room, as part of the commit that takes it from the inbox. Only what an
/// administrator wrote is kept.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn take(
    taker: &Taker,
    db: &mut sqlx::SqliteConnection,
    room: &RoomId,
    event: &RoomEvent,
    body: &str,
) -> Result<(), KeeperError> {
    let rules = taker.rules.global();
    let is_there = rules.management_room.as_deref() == Some(room);
    let is_message = matches!(event.event_type.as_str(), "m.room.message" | "m.room.encrypted");
    if !is_there || !is_message || event.is_redacted || !rules.admins.contains(&event.sender) {
        return Ok(());
    }
    let row = TalkRow {
        event_id: event.event_id.clone(),
        room_id: room.to_owned(),
        received_at: now_ms(),
        body: body.to_owned(),
    };
    talk::insert(&taker.store, db, &row).await?;
    Ok(())
}

impl Talker {
    /// Answers what is written, for ever.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub async fn run(self) -> Result<(), KeeperError> {
        loop {
            for row in self.waiting().await? {
                match self.hear(&row).await {
                    Err(KeeperError::Store(error)) => return Err(KeeperError::Store(error)),
                    Err(error) => {
                        tracing::warn!(%error, "a message in the management room waits");
                    }
                    Ok(()) => {}
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn waiting(&self) -> Result<Vec<TalkRow>, KeeperError> {
        let store = &self.taker.store;
        Ok(talk::waiting(store, &mut *store.read().await?).await?)
    }

    async fn hear(&self, row: &TalkRow) -> Result<(), KeeperError> {
        let Ok(event) = RoomEvent::parse_str(&row.body) else { return self.pass_over(row).await };
        match self.judge(row, &event).await? {
            Judged::Waits => Ok(()),
            Judged::Nothing => self.pass_over(row).await,
            Judged::Refused(code, why) => self.refuse(row, &event, code, why).await,
            Judged::Counts(spoken) => self.obey(row, &event, *spoken).await,
        }
    }

    /// What a message comes to, by itself.
    async fn judge(&self, row: &TalkRow, event: &RoomEvent) -> Result<Judged, KeeperError> {
        let age = row.received_at.saturating_sub(event.origin_server_ts);
        if event.event_type == "m.room.message" {
            let Some(said) = said(&Value::Object(event.content.clone())) else {
                return Ok(Judged::Nothing);
            };
            if self.is_encrypted(&row.room_id).await? {
                return Ok(Judged::Refused(
                    "not_encrypted",
                    "this was not encrypted, so anybody may have written it",
                ));
            }
            if age > STALE {
                return Ok(stale());
            }
            return Ok(Judged::Counts(Box::new(Spoken { said, place: None })));
        }
        let device = &self.taker.device;
        device.track([event.sender.as_ref()]).await?;
        device.pump().await?;
        let Some(decrypted) = device.decrypt(&row.room_id, &row.body).await? else {
            let waited = now_ms().saturating_sub(row.received_at);
            return Ok(match waited {
                0..KEY_WAITS => Judged::Waits,
                _ => Judged::Refused("undecryptable", "I have no key for this message"),
            });
        };
        let Some(said) = inner_content(&decrypted).as_ref().and_then(said) else {
            return Ok(Judged::Nothing);
        };
        if age > STALE {
            return Ok(stale());
        }
        if decrypted.mismatched_sender || !decrypted.cross_signed {
            return Ok(Judged::Refused(
                "not_cross_signed",
                "the device that wrote this is not cross-signed by its owner",
            ));
        }
        let Ok(megolm) = MegolmContent::parse(&event.content) else { return Ok(Judged::Nothing) };
        if !self.is_pinned(&event.sender, &decrypted).await? {
            return Ok(Judged::Refused(
                "identity_changed",
                "your cross-signing identity is another than the one that counts; have it confirmed on the command line, with `statekeeper confirm-identity`",
            ));
        }
        let newest = decrypted.vouchers.newest;
        Ok(Judged::Counts(Box::new(Spoken {
            said,
            place: Some((megolm.session_id, megolm.message_index, newest)),
        })))
    }

    /// Whether the identity behind a message is the one that counts, or the first one that is seen.
    async fn is_pinned(
        &self,
        sender: &OwnedUserId,
        decrypted: &Decrypted,
    ) -> Result<bool, KeeperError> {
        if decrypted.vouchers.newest.is_none() {
            return Ok(false);
        }
        let known = people::identity(&mut *self.taker.store.read().await?, sender).await?;
        Ok(known.is_none_or(|known| decrypted.vouchers.are_all(&known.master_key)))
    }

    async fn is_encrypted(&self, room: &RoomId) -> Result<bool, KeeperError> {
        let known = rooms::get(&mut *self.taker.store.read().await?, room).await?;
        Ok(known.is_none_or(|room| room.encrypted))
    }

    async fn pass_over(&self, row: &TalkRow) -> Result<(), KeeperError> {
        let mut transaction = self.taker.store.begin().await?;
        talk::take(&mut transaction, &row.event_id).await?;
        Ok(transaction.commit().await?)
    }

    /// Says why a message does not count, once. It is not told what it asked for: that may not be what was written.
    async fn refuse(
        &self,
        row: &TalkRow,
        event: &RoomEvent,
        code: &str,
        why: &str,
    ) -> Result<(), KeeperError> {
        let mut transaction = self.taker.store.begin().await?;
        if !talk::take(&mut transaction, &row.event_id).await? {
            return Ok(());
        }
        self.note_refused(&mut transaction, event, code).await?;
        transaction.commit().await?;
        tracing::warn!(sender = %event.sender, code, "a message in the management room does not count");
        self.react(row, "❌").await;
        self.say(&row.room_id, Some(row), &Message::line(why)).await;
        Ok(())
    }

    async fn note_refused(
        &self,
        db: &mut sqlx::SqliteConnection,
        event: &RoomEvent,
        code: &str,
    ) -> Result<(), KeeperError> {
        let asked = Asked::about("message", None, None);
        let outcome = format!("refused:{code}");
        Ok(commands::note(db, event.sender.as_str(), &asked, &outcome, now_ms()).await?)
    }

    /// Takes a message up, and does what it asks for.
    async fn obey(
        &self,
        row: &TalkRow,
        event: &RoomEvent,
        spoken: Spoken,
    ) -> Result<(), KeeperError> {
        let Spoken { said, place } = spoken;
        let encrypted = place.is_some();
        let mut transaction = self.taker.store.begin().await?;
        if let Some((session, index, identity)) = place {
            if !talk::take_index(&mut transaction, &session, index).await? {
                drop(transaction);
                return self
                    .refuse(
                        row,
                        event,
                        "replayed",
                        "this stood in another message before: I do not do it again",
                    )
                    .await;
            }
            if let Some(identity) = identity {
                people::see_identity(&mut transaction, &event.sender, &identity, now_ms()).await?;
            }
        }
        if !talk::take(&mut transaction, &row.event_id).await? {
            return Ok(());
        }
        transaction.commit().await?;
        let (reaction, message) = self.answer(event, said, encrypted).await?;
        self.react(row, reaction).await;
        self.say(&row.room_id, Some(row), &message).await;
        Ok(())
    }

    async fn answer(
        &self,
        event: &RoomEvent,
        said: Said,
        encrypted: bool,
    ) -> Result<(&'static str, Message), KeeperError> {
        let request = match said {
            Said::Help => return Ok(("✅", render::help())),
            Said::Wrong(why) => return Ok(("❌", Message::line(&why))),
            Said::Request(request) => request,
        };
        if !matches!(request, Request::Query(_)) && !encrypted {
            let mut transaction = self.taker.store.begin().await?;
            let (actor, asked) = (event.sender.as_str(), request.asked());
            commands::note(&mut transaction, actor, &asked, "refused:not_encrypted", now_ms())
                .await?;
            transaction.commit().await?;
            let why =
                "I do this in an encrypted room alone: here the homeserver could have written it";
            return Ok(("❌", Message::line(why)));
        }
        let caller = Caller::Matrix(event.sender.clone());
        Ok(match (self.operator.perform(&caller, &request).await, &request) {
            (Ok(Answer::Done(done)), Request::Command(command)) => {
                ("✅", render::done(command, &done))
            }
            (Ok(answer), _) => ("✅", render::answer(&answer)),
            (Err(refusal), _) => ("❌", Message::line(&refusal.message)),
        })
    }

    /// Reacts to a message: that it was taken up is seen at a glance. A reaction is not encrypted, as clients' are not.
    async fn react(&self, row: &TalkRow, key: &str) {
        let relation = json!({ "rel_type": "m.annotation", "event_id": row.event_id, "key": key });
        let content = json!({ "m.relates_to": relation });
        self.send(&row.room_id, "m.reaction", &content).await;
    }

    /// Says something, as a notice: encrypted where the room is.
    pub(super) async fn say(&self, room: &RoomId, to: Option<&TalkRow>, message: &Message) {
        let mut content = json!({
            "msgtype": "m.notice",
            "body": message.plain,
            "format": "org.matrix.custom.html",
            "formatted_body": message.html,
        });
        if let (Some(to), Some(content)) = (to, content.as_object_mut()) {
            let relation = json!({ "m.in_reply_to": { "event_id": to.event_id } });
            content.insert("m.relates_to".to_owned(), relation);
        }
        match self.is_encrypted(room).await {
            Ok(false) => self.send(room, "m.room.message", &content).await,
            Ok(true) => self.say_encrypted(room, &content).await,
            Err(error) => tracing::warn!(%error, "an answer could not be given"),
        }
    }

    async fn say_encrypted(&self, room: &RoomId, content: &Value) {
        let relation = content.get("m.relates_to").cloned();
        for attempt in 1..=TRIES {
            match self.encrypted(room, content).await {
                Ok(mut encrypted) => {
                    // Which message it answers the homeserver sees, as of any client.
                    if let (Some(relation), Some(content)) = (relation, encrypted.as_object_mut()) {
                        content.insert("m.relates_to".to_owned(), relation);
                    }
                    return self.send(room, "m.room.encrypted", &encrypted).await;
                }
                Err(error) => {
                    tracing::warn!(%error, attempt, "an answer could not be encrypted");
                    tokio::time::sleep(LOOK_EVERY * attempt).await;
                }
            }
        }
    }

    async fn encrypted(&self, room: &RoomId, content: &Value) -> Result<Value, KeeperError> {
        let joined = self.joined(room).await?;
        let message = ("m.room.message", content);
        Ok(self.taker.device.encrypt_message(room, &joined, message).await?)
    }

    async fn joined(&self, room: &RoomId) -> Result<Vec<OwnedUserId>, KeeperError> {
        let members = rooms::present_members(&mut *self.taker.store.read().await?, room).await?;
        let is_meant = |member: &MemberRow| {
            member.membership == Membership::Join && member.user_id != self.taker.keeper
        };
        Ok(members.into_iter().filter(is_meant).map(|member| member.user_id).collect())
    }

    /// Sends an event: under one transaction id, however often it is tried.
    async fn send(&self, room: &RoomId, event_type: &str, content: &Value) {
        let Ok(body) = RawValue::from_string(content.to_string()) else { return };
        let id = TransactionId::new();
        for attempt in 1..=TRIES {
            match self.homeserver.send_event(room, event_type, id.as_str(), &body).await {
                Ok(_) => return,
                Err(error) if error.is_transient() => {
                    let wait = error.retry_after().unwrap_or(LOOK_EVERY * attempt);
                    tokio::time::sleep(wait).await;
                }
                Err(error) => {
                    tracing::warn!(%error, %room, "something could not be said in the management room");
                    return;
                }
            }
        }
    }
}

fn stale() -> Judged {
    Judged::Refused("stale", "this is old, and may not be wanted any more; write it once more")
}

/// What the inner event of a decrypted message says, where it is a message.
fn inner_content(decrypted: &Decrypted) -> Option<Value> {
    let mut inner: Value = serde_json::from_str(decrypted.event.get()).ok()?;
    let is_message = inner.get("type").and_then(Value::as_str) == Some("m.room.message");
    is_message.then(|| inner.get_mut("content").map(Value::take))?
}

/// What a message's content says to the keeper. An edit says nothing: what was asked for first counts.
fn said(content: &Value) -> Option<Said> {
    let is_edit = content
        .get("m.relates_to")
        .and_then(|relation| relation.get("rel_type"))
        .is_some_and(|kind| kind == "m.replace");
    if is_edit || content.get("msgtype")? != "m.text" {
        return None;
    }
    let plain = content.get("body")?.as_str()?;
    let formatted = content.get("formatted_body").and_then(Value::as_str);
    parse::read(plain, formatted)
}
