//! Files with secrets in them: their owner's alone, and written as a whole or not at all.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// Who may read the file: its owner.
const MODE: u32 = 0o600;
/// How often somebody else may end with the same draft just now.
const MOST_TRIES: usize = 10;

/// A file that is being written. Until [`WholeFile::keep`] nobody sees it under its name, and dropped before, it leaves
/// nothing behind. What a killed process left of one is written over by the next.
pub(super) struct WholeFile {
    path: PathBuf,
    draft: PathBuf,
    file: File,
    force: bool,
}

impl WholeFile {
    /// Begins to write the file at `path`. Without `force` one that is there stays, also one that appears meanwhile.
    ///
    /// # Errors
    ///
    /// When there is such a file and no `force`, another process is writing it, or the folder cannot be written.
    pub(super) fn create(path: &Path, force: bool) -> anyhow::Result<Self> {
        if !force && path.symlink_metadata().is_ok() {
            return Err(there(path));
        }
        let begun = || -> io::Result<Self> {
            let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy();
            let draft = folder(path).join(format!(".{name}.part"));
            let file = locked(&draft)?;
            file.set_permissions(Permissions::from_mode(MODE))?;
            file.set_len(0)?;
            Ok(Self { path: path.to_owned(), draft, file, force })
        };
        begun().with_context(|| format!("{}: cannot be written", path.display()))
    }

    /// The file is whole: it stands under its name, and on the disk.
    ///
    /// # Errors
    ///
    /// As [`WholeFile::create`]. The file that was there before is there still.
    pub(super) fn keep(self) -> anyhow::Result<()> {
        let cannot = || format!("{}: cannot be written", self.path.display());
        self.file.sync_all().with_context(cannot)?;
        match self.put_in_place() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(there(&self.path));
            }
            placed => placed.with_context(cannot)?,
        }
        File::open(folder(&self.path)).and_then(|folder| folder.sync_all()).with_context(cannot)
    }

    fn put_in_place(&self) -> io::Result<()> {
        if self.force {
            return fs::rename(&self.draft, &self.path);
        }
        match fs::hard_link(&self.draft, &self.path) {
            // A file system may know no links.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                if self.path.symlink_metadata().is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                fs::rename(&self.draft, &self.path)
            }
            linked => linked,
        }
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        // After a rename it is gone already.
        let _ = fs::remove_file(&self.draft);
    }
}

fn there(path: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "{}: there is such a file already; write to another, or replace it with --force",
        path.display()
    )
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Opens the draft, which one process at a time writes.
fn locked(draft: &Path) -> io::Result<File> {
    for _ in 0..MOST_TRIES {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(MODE).open(draft)?;
        match file.try_lock() {
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process is writing it"));
            }
            Ok(()) => {}
        }
        // Whoever had the lock may have ended: then this file stands under its last name, or under none.
        let still = fs::symlink_metadata(draft).ok().map(|found| (found.dev(), found.ino()));
        let opened = file.metadata()?;
        if still == Some((opened.dev(), opened.ino())) {
            return Ok(file);
        }
    }
    Err(io::Error::other("another process is writing it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
        let mut file = WholeFile::create(path, force)?;
        file.write_all(text.as_bytes()).unwrap();
        file.keep()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_stands_under_its_name_once_it_is_whole_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut file = WholeFile::create(&path, false).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        file.keep().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "half");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn what_is_given_up_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        drop(WholeFile::create(&folder.path().join("out"), false).unwrap());
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_is_there_is_replaced_on_demand_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        write(&path, "old", false).unwrap();
        assert!(write(&path, "new", false).unwrap_err().to_string().contains("--force"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        write(&path, "new", true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_file_that_appears_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut file = WholeFile::create(&path, false).unwrap();
        file.write_all(b"mine").unwrap();
        fs::write(&path, "theirs").unwrap();
        assert!(file.keep().unwrap_err().to_string().contains("--force"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn a_draft_of_a_killed_process_is_written_over_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(folder.path().join(".out.part"), "longer than what comes").unwrap();
        let mut file = WholeFile::create(&path, false).unwrap();
        let error = WholeFile::create(&path, false).err().unwrap();
        assert!(format!("{error:#}").contains("another process"), "{error:#}");
        file.write_all(b"new").unwrap();
        file.keep().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
