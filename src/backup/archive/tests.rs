//! Backups in memory: whole ones, and what can become of them.

use std::path::PathBuf;

use ruma::owned_user_id;
use tempfile::TempDir;

use super::*;

fn passphrase(text: &str) -> SecretString {
    SecretString::from(text)
}

fn manifest(names: &[&str]) -> Manifest {
    Manifest {
        format: FORMAT,
        made_by: "0.1.0".to_owned(),
        made_at: 1_769_851_800_000,
        user_id: owned_user_id!("@keeper:localhost"),
        device_id: "KEEPER".to_owned(),
        files: names.iter().map(|name| Packed { name: (*name).to_owned(), size: 0 }).collect(),
    }
}

/// Packs files with this content.
fn packed(mut manifest: Manifest, contents: &[&[u8]]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let mut paths: Vec<PathBuf> = Vec::new();
    for (packed, content) in manifest.files.iter_mut().zip(contents) {
        packed.size = content.len() as u64;
        paths.push(folder.path().join(paths.len().to_string()));
        std::fs::write(paths.last().unwrap(), content).unwrap();
    }
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    pack(Vec::new(), &passphrase("right"), &manifest, &paths).unwrap()
}

fn unpacked(backup: &[u8], text: &str) -> (TempDir, Result<Manifest, BackupError>) {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = folder.path().join(name);
        File::create_new(&path).map_err(file(&path))
    };
    let manifest = unpack(backup, &passphrase(text), |_| Ok(()), make);
    (folder, manifest)
}

/// More than one of the pieces that are encrypted apart.
fn large() -> Vec<u8> {
    (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect()
}

#[test]
fn what_is_packed_is_unpacked_as_it_was() {
    let backup = packed(manifest(&["one", "two"]), &[&large(), b"small"]);
    assert!(!backup.windows(5).any(|window| window == b"small"));
    let (folder, told) = unpacked(&backup, "right");
    let told = told.unwrap();
    assert_eq!((told.user_id.as_str(), told.files[1].size), ("@keeper:localhost", 5));
    assert_eq!(std::fs::read(folder.path().join("one")).unwrap(), large());
    assert_eq!(std::fs::read(folder.path().join("two")).unwrap(), b"small");
}

#[test]
fn another_passphrase_does_not_open_it() {
    let backup = packed(manifest(&["one"]), &[b"small"]);
    let (folder, told) = unpacked(&backup, "wrong");
    assert!(matches!(told, Err(BackupError::DoesNotOpen)), "{told:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn one_that_is_cut_off_anywhere_is_not_whole() {
    let backup = packed(manifest(&["one"]), &[&large()]);
    let ends = [0, 10, 150, 1000, 65_536, 131_000, backup.len() - 1000, backup.len() - 1];
    for end in ends {
        let told = unpacked(&backup[..end], "right").1;
        assert!(told.is_err(), "{end} of {}", backup.len());
    }
}

#[test]
fn one_with_a_byte_changed_anywhere_is_not_taken() {
    let backup = packed(manifest(&["one"]), &[&large()]);
    for at in [3, 30, 60, 100, 190, 1000, 70_000, backup.len() - 600, backup.len() - 1] {
        let mut changed = backup.clone();
        changed[at] ^= 1;
        let told = unpacked(&changed, "right").1;
        assert!(told.is_err(), "byte {at} of {}", backup.len());
    }
}

#[test]
fn one_with_something_behind_it_is_not_taken() {
    let mut backup = packed(manifest(&["one"]), &[b"small"]);
    backup.extend_from_slice(b"more");
    assert!(unpacked(&backup, "right").1.is_err());
}

#[test]
fn a_later_format_is_named_and_not_read() {
    let newer = Manifest { format: FORMAT + 1, ..manifest(&["one"]) };
    let told = unpacked(&packed(newer, &[b"small"]), "right").1;
    assert!(matches!(told, Err(BackupError::NewerFormat(2))), "{told:?}");
}

#[test]
fn one_that_is_not_of_this_making_is_told_apart() {
    let told = unpacked(b"SQLite format 3\0", "right").1;
    assert!(matches!(told, Err(BackupError::NoBackup(_))), "{told:?}");
    // A proper file of age's, with another archive in it.
    let recipient = scrypt_recipient();
    let encryptor = Encryptor::with_recipients(once(&recipient as &dyn age::Recipient)).unwrap();
    let mut sealed = encryptor.wrap_output(Vec::new()).unwrap();
    let mut archive = tar::Builder::new(&mut sealed);
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    archive.append_data(&mut header, "evil", b"evil".as_slice()).unwrap();
    archive.finish().unwrap();
    drop(archive);
    let told = unpacked(&sealed.finish().unwrap(), "right").1;
    assert!(matches!(told, Err(BackupError::NoBackup(_))), "{told:?}");
}

fn scrypt_recipient() -> scrypt::Recipient {
    let mut recipient = scrypt::Recipient::new(passphrase("right"));
    recipient.set_work_factor(10);
    recipient
}
