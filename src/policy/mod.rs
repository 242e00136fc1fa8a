//! What the organisation wants: who is let in, and who is given which key.
//!
//! Everything here is pure: no I/O, no clock, no randomness.

pub mod access;
pub mod entitlement;
pub mod glob;
pub mod hierarchy;
pub mod inviting;
pub mod preview;
pub mod rooms;

pub use access::{AccessPolicy, ServerGlob};
pub use entitlement::{
    DeviceFacts, DevicePolicy, Entitlement, HoldReason, InviteePolicy, Judgement, MemberFacts,
    MemberPolicy, SharingPolicy, UserFacts, WithheldCode, Word, entitlement, hold, judge,
    member_may_read,
};
pub use glob::UserGlob;
pub use hierarchy::{Bounds, Child, Found, walk};
pub use inviting::{Invitation, gets_history, invitation, shares_history};
pub use preview::PreviewPolicy;
pub use rooms::{RoomFacts, RoomMatch};
