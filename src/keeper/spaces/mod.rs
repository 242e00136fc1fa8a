//! Spaces: following what lies beneath them, and providing for, and inviting, those who may join a room and have not.
//!
//! - [`follow`] walks down from the followed spaces, joins what it may, and reports what it may not;
//! - [`assist`] joins, with the homeserver's administration where that is to help;
//! - [`survey`] compares what is found there with what was found before;
//! - [`news`] takes in what changes who may read a room before he joins it, in the commit that brings it;
//! - [`provide`] gives these people the keys, at the pace of their space;
//! - [`inviting`] invites them, and whoever knocks, with the room's history, at the same pace;
//! - [`turns`] is what these two have in common: turn after turn, until there is nothing to do;
//! - [`viewing`] is what a visit to a room knows of them.

pub(super) mod advice;
mod assist;
pub(super) mod follow;
pub(super) mod inviting;
pub(super) mod news;
pub(super) mod paces;
pub(super) mod provide;
pub(super) mod rules;
pub(super) mod survey;
mod turns;
mod viewing;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

use super::KeeperError;
use crate::store::Store;

/// Tells those who follow spaces, and those who provide for their people, that there is something to do. What is
/// noted while a commit is being made is told once it is made, or by another commit a little before: whoever is told
/// waits for the commit that is being made ([`settled`]).
#[derive(Clone, Debug, Default)]
pub struct Bells {
    walk: Arc<Bell>,
    provide: Arc<Bell>,
    invite: Arc<Bell>,
}

#[derive(Debug, Default)]
struct Bell {
    noted: AtomicBool,
    rung: Notify,
}

impl Bell {
    fn ring_if_noted(&self) {
        if self.noted.swap(false, Ordering::SeqCst) {
            self.rung.notify_one();
        }
    }
}

/// Waits until the commit that is being made, if one is, has been made.
async fn settled(store: &Store) -> Result<(), KeeperError> {
    drop(store.begin().await?);
    Ok(())
}

impl Bells {
    /// Something changed that a walk would find.
    pub(super) fn note_walk(&self) {
        self.walk.noted.store(true, Ordering::SeqCst);
    }

    /// Somebody has to be provided for.
    pub(super) fn note_provide(&self) {
        self.provide.noted.store(true, Ordering::SeqCst);
    }

    /// Somebody has to be invited.
    pub(super) fn note_invite(&self) {
        self.invite.noted.store(true, Ordering::SeqCst);
    }

    /// Everything has to be looked at.
    pub(super) fn ring_all(&self) {
        self.note_walk();
        self.note_provide();
        self.note_invite();
        self.ring();
    }

    /// Tells what was noted: after the commit.
    pub(super) fn ring(&self) {
        self.walk.ring_if_noted();
        self.provide.ring_if_noted();
        self.invite.ring_if_noted();
    }
}
