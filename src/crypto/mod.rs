//! Cryptography: the keeper's Olm device through `matrix-sdk-crypto`, its state sessions through
//! `vodozemac`. Nothing is invented here.

mod at_hand;
mod carry_over;
mod device;
mod encrypting;
mod eraser;
mod error;
mod files;
mod forwarded;
mod forwarding;
mod history;
mod key_store;
mod known_users;
mod published;
mod pump;
mod put_off;
mod ratchets;
mod speech;
mod state_session;
mod vouchers;

pub use self::{
    carry_over::{CarriedOver, carry_over},
    device::{Decrypted, KeeperDevice, KnownDevice, KnownUser, MadeSession, Received, ToDevice},
    encrypting::{Encrypted, IN_ONE_REQUEST, Turn},
    error::CryptoError,
    files::EncryptedFile,
    forwarded::{ForgedKey, ForwardedKey, Forwarder, OpeningKey},
    history::{HistoryBundle, ROOM_KEY_BUNDLE, ToldBundle, bundle_content},
    published::{Published, Shown, signed_devices},
    state_session::{KeySnapshot, MEGOLM, Sealed, StateSession, wipe},
    vouchers::Vouchers,
};

/// Whether there is a key store in a folder.
pub fn has_key_store(folder: &std::path::Path) -> bool {
    folder.join(eraser::FILE).is_file()
}
