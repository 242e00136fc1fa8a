//! Where copies of a store lie for a moment: a folder beside it that is its owner's alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use super::{BackupError, error::file};

/// Who may look into the folder.
const FOLDER: u32 = 0o700;
/// Who may read a file in it.
const FILE: u32 = 0o600;
/// How often somebody else may end with the same folder just now.
const MOST_TRIES: usize = 10;

/// The folder. One process at a time has it, and it is gone when this is dropped; what a killed process left in it goes
/// with [`Workplace::clear`].
#[derive(Debug)]
pub(super) struct Workplace {
    path: PathBuf,
    /// Holds the lock.
    _folder: File,
}

/// Where the folder of a store is, whose name ends with `purpose`.
pub(super) fn beside(database: &Path, purpose: &str) -> PathBuf {
    let mut name = database.file_stem().unwrap_or_default().to_os_string();
    name.push(purpose);
    database.with_file_name(name)
}

impl Workplace {
    /// Takes the folder beside `database` whose name ends with `purpose`, and makes it where it is missing.
    ///
    /// # Errors
    ///
    /// [`BackupError::Busy`] when another process has it, [`BackupError::File`] when the system refuses.
    pub(super) fn open(database: &Path, purpose: &str) -> Result<Self, BackupError> {
        let path = beside(database, purpose);
        for _ in 0..MOST_TRIES {
            let made = DirBuilder::new().mode(FOLDER).create(&path);
            made.or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            })
            .map_err(file(&path))?;
            let folder = File::open(&path).map_err(file(&path))?;
            match folder.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(BackupError::Busy(path)),
                Err(TryLockError::Error(error)) => return Err(file(&path)(error)),
            }
            // Whoever had it may have removed it since; and a link leads elsewhere.
            let still = fs::symlink_metadata(&path).ok().map(|found| (found.dev(), found.ino()));
            let opened = folder.metadata().map_err(file(&path))?;
            if still == Some((opened.dev(), opened.ino())) {
                folder.set_permissions(Permissions::from_mode(FOLDER)).map_err(file(&path))?;
                return Ok(Self { path, _folder: folder });
            }
        }
        Err(BackupError::Busy(path))
    }

    /// Removes what is in it.
    ///
    /// # Errors
    ///
    /// [`BackupError::File`] when the system refuses.
    pub(super) fn clear(&self) -> Result<(), BackupError> {
        for entry in fs::read_dir(&self.path).map_err(file(&self.path))? {
            let path = entry.map_err(file(&self.path))?.path();
            let removed = match path.is_dir() && !path.is_symlink() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.map_err(file(&path))?;
        }
        Ok(())
    }

    /// A path in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a file in it.
    ///
    /// # Errors
    ///
    /// [`BackupError::File`] when it is there already, or the system refuses.
    pub(super) fn create(&self, name: &str) -> Result<(PathBuf, File), BackupError> {
        let path = self.join(name);
        let made = OpenOptions::new().write(true).create_new(true).mode(FILE).open(&path);
        Ok((path.clone(), made.map_err(file(&path))?))
    }

    /// Makes a folder in it.
    ///
    /// # Errors
    ///
    /// [`BackupError::File`] when it is there already, or the system refuses.
    pub(super) fn create_folder(&self, name: &str) -> Result<PathBuf, BackupError> {
        let path = self.join(name);
        DirBuilder::new().mode(FOLDER).create(&path).map_err(file(&path))?;
        Ok(path)
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error,
                "copies of the store could not be removed; the next export or import tries again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_its_owners_alone_has_one_user_and_is_gone_after_him() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("keeper.db");
        let workplace = Workplace::open(&database, "-export").unwrap();
        assert!(matches!(Workplace::open(&database, "-export"), Err(BackupError::Busy(_))));
        let path = folder.path().join("keeper-export");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, FOLDER);
        let (copy, _) = workplace.create("copy").unwrap();
        assert_eq!(fs::metadata(copy).unwrap().mode() & 0o777, FILE);
        drop(workplace);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper-export");
        fs::create_dir_all(path.join("inner")).unwrap();
        fs::write(path.join("copy"), "secret").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let workplace = Workplace::open(&folder.path().join("keeper.db"), "-export").unwrap();
        workplace.clear().unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, FOLDER);
    }

    #[test]
    fn a_link_to_another_folder_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("mine"), "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("keeper-export")).unwrap();
        assert!(Workplace::open(&folder.path().join("keeper.db"), "-export").is_err());
        assert!(elsewhere.join("mine").exists());
    }
}
