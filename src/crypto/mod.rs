//! Cryptography: the keeper's Olm device through `matrix-sdk-crypto`, its state sessions through
//! `vodozemac`. Nothing is invented here.

mod apart;
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
mod room_keys;
mod speech;
mod state_session;
mod vouchers;

pub use self::{
    apart::{KEY_STORE, crypto_folder, has_key_store, key_store_cipher, owner_of},
    carry_over::{CarriedOver, carry_over},
    device::{Decrypted, KeeperDevice, KnownDevice, KnownUser, MadeSession, Received, ToDevice},
    encrypting::{Encrypted, IN_ONE_REQUEST, Turn},
    error::CryptoError,
    files::EncryptedFile,
    forwarded::{ForgedKey, ForwardedKey, Forwarder, OpeningKey},
    history::{HistoryBundle, ROOM_KEY_BUNDLE, ToldBundle, bundle_content},
    published::{Published, Shown, signed_devices},
    room_keys::{Maker, RoomKey, RoomKeys},
    state_session::{KeySnapshot, MEGOLM, Sealed, StateSession, wipe},
    vouchers::Vouchers,
};
