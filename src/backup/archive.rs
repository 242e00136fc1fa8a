//! The file: a tar archive, encrypted as a whole by `age` under a passphrase. First comes what says what it is, and then
//! the databases. Both are read and written in passing, however large they are.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    iter::once,
    path::Path,
};

use age::{DecryptError, Decryptor, EncryptError, Encryptor, scrypt};
use ruma::OwnedUserId;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{BackupError, FORMAT, error::file};

/// The first entry's name.
const MANIFEST: &str = "manifest.json";
/// The most bytes of it.
const LARGEST_MANIFEST: u64 = 64 << 10;
/// What trying a passphrase costs: 2 to the power of this, in blocks of a kibibyte. It takes 128 MiB and some tenths of a second.
const WORK: u8 = 17;
/// The most that opening may cost, where somebody else made the file: a gibibyte.
const MOST_WORK: u8 = 20;
/// Who may read a file, once it is unpacked.
const MODE: u32 = 0o600;

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this form.
    pub format: u32,
    /// The version of Statekeeper that made it.
    pub made_by: String,
    /// When, in milliseconds.
    pub made_at: i64,
    /// Whose store it is.
    pub user_id: OwnedUserId,
    /// The device that this one had.
    pub device_id: String,
    /// What follows, in its order.
    pub files: Vec<Packed>,
}

/// A file in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Its name.
    pub name: String,
    /// How many bytes it has.
    pub size: u64,
}

/// Only the version, which every version's manifest has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Writes a backup of the files at `paths`, of which `manifest` tells.
///
/// # Errors
///
/// [`BackupError`] when something cannot be read or written.
pub(super) fn pack<W: Write>(
    out: W,
    passphrase: &SecretString,
    manifest: &Manifest,
    paths: &[&Path],
) -> Result<W, BackupError> {
    let mut recipient = scrypt::Recipient::new(passphrase.clone());
    recipient.set_work_factor(WORK);
    let encryptor = Encryptor::with_recipients(once(&recipient as &dyn age::Recipient))
        .map_err(|error| BackupError::NotWritten(encrypting(error)))?;
    let sealed = encryptor.wrap_output(out).map_err(BackupError::NotWritten)?;
    let mut archive = tar::Builder::new(sealed);
    let told =
        serde_json::to_vec(manifest).map_err(|error| BackupError::NotWritten(error.into()))?;
    let header = |size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(MODE);
        header.set_mtime(u64::try_from(manifest.made_at / 1000).unwrap_or(0));
        header
    };
    let length = u64::try_from(told.len()).unwrap_or(u64::MAX);
    archive
        .append_data(&mut header(length), MANIFEST, told.as_slice())
        .map_err(BackupError::NotWritten)?;
    for (packed, path) in manifest.files.iter().zip(paths) {
        let content = File::open(path).map_err(file(path))?;
        archive
            .append_data(&mut header(packed.size), &packed.name, content.take(packed.size))
            .map_err(BackupError::NotWritten)?;
    }
    let sealed = archive.into_inner().map_err(BackupError::NotWritten)?;
    sealed.finish().map_err(BackupError::NotWritten)
}

fn encrypting(error: EncryptError) -> io::Error {
    match error {
        EncryptError::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// Reads a backup, and has each file written by what `make` opens for it. Nothing of it may be used before this
/// returns: only then it is known to be whole.
///
/// # Errors
///
/// [`BackupError`] says what is wrong with it.
pub(super) fn unpack(
    from: impl Read,
    passphrase: &SecretString,
    fits: impl FnOnce(&Manifest) -> Result<(), BackupError>,
    mut make: impl FnMut(&str) -> Result<File, BackupError>,
) -> Result<Manifest, BackupError> {
    let decryptor = Decryptor::new_buffered(BufReader::new(from)).map_err(opening)?;
    if !decryptor.is_scrypt() {
        return Err(BackupError::NoBackup("it is not encrypted under a passphrase"));
    }
    let mut identity = scrypt::Identity::new(passphrase.clone());
    identity.set_max_work_factor(MOST_WORK);
    let opened = decryptor.decrypt(once(&identity as &dyn age::Identity)).map_err(opening)?;
    let mut archive = tar::Archive::new(opened);
    let mut entries = archive.entries().map_err(BackupError::Damaged)?;
    let mut next = || -> Result<_, BackupError> {
        let entry = entries.next().transpose().map_err(BackupError::Damaged)?;
        let entry = entry.ok_or(BackupError::NoBackup("it lacks a file that it should have"))?;
        let is_file = entry.header().entry_type().is_file();
        is_file.then_some(entry).ok_or(BackupError::NoBackup("there is something else in it"))
    };
    let manifest = manifest(next()?)?;
    fits(&manifest)?;
    for packed in &manifest.files {
        let mut entry = next()?;
        let named = entry.path_bytes().as_ref() == packed.name.as_bytes();
        if !named || entry.size() != packed.size {
            return Err(BackupError::NoBackup("a file in it is another than it says"));
        }
        let mut file = make(&packed.name)?;
        let copied = io::copy(&mut entry, &mut file).map_err(BackupError::Damaged)?;
        if copied != packed.size {
            return Err(BackupError::Damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        file.sync_all().map_err(BackupError::NotWritten)?;
    }
    // The last part vouches for there being no more: without it somebody has cut the file off.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(BackupError::Damaged)?;
    Ok(manifest)
}

fn manifest(entry: tar::Entry<'_, impl Read>) -> Result<Manifest, BackupError> {
    if entry.path_bytes().as_ref() != MANIFEST.as_bytes() || entry.size() > LARGEST_MANIFEST {
        return Err(BackupError::NoBackup("it does not say what it is"));
    }
    let mut told = Vec::new();
    entry.take(LARGEST_MANIFEST).read_to_end(&mut told).map_err(BackupError::Damaged)?;
    let not_ours =
        |_: serde_json::Error| BackupError::NoBackup("what it says of itself is malformed");
    let version: Version = serde_json::from_slice(&told).map_err(not_ours)?;
    if version.format > FORMAT {
        return Err(BackupError::NewerFormat(version.format));
    }
    serde_json::from_slice(&told).map_err(not_ours)
}

/// Why `age` does not open it.
fn opening(error: DecryptError) -> BackupError {
    match error {
        DecryptError::Io(error) => BackupError::Damaged(error),
        DecryptError::InvalidHeader | DecryptError::UnknownFormat => {
            BackupError::NoBackup("it is no file of age's, or damaged at its beginning")
        }
        DecryptError::ExcessiveWork { .. } => {
            BackupError::NoBackup("opening it would cost more than a gibibyte of memory")
        }
        DecryptError::DecryptionFailed
        | DecryptError::InvalidMac
        | DecryptError::KeyDecryptionFailed
        | DecryptError::NoMatchingKeys => BackupError::DoesNotOpen,
    }
}

#[cfg(test)]
mod tests;
