//! What the organisation wants: who is let in, and who is given which key.
//!
//! Everything here is pure: no I/O, no clock, no randomness.

pub mod entitlement;
pub mod glob;

pub use entitlement::{
    DeviceFacts, DevicePolicy, Entitlement, InviteePolicy, MemberFacts, SharingPolicy,
    WithheldCode, entitlement,
};
pub use glob::UserGlob;
