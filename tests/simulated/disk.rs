//! A disk that is full or read-only when a test wants it so. The keeper believes it: what stands between its calls and the
//! system's is `disk.c`.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

use super::Keeper;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/simulated/disk.c");

/// The disk of a keeper's store.
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// The disk of this keeper from its next start on. It is sound.
    pub fn of(keeper: &mut Keeper) -> Self {
        let disk = Self { folder: tempfile::tempdir().expect("a folder for the disk") };
        let library = disk.folder.path().join("disk.so");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", SOURCE, "-ldl", "-o"])
            .arg(&library)
            .status();
        assert!(compiled.is_ok_and(|status| status.success()), "cc, a C compiler, is missing");
        disk.is("sound");
        keeper.set_environment("LD_PRELOAD", library.to_str().expect("its path"));
        keeper.set_environment("TEST_DISK", disk.word().to_str().expect("its path"));
        disk
    }

    /// What it is from now on: `full`, `read-only` or `sound`.
    pub fn is(&self, word: &str) {
        fs::write(self.word(), word).expect("the disk's state can be written");
    }

    fn word(&self) -> PathBuf {
        self.folder.path().join("word")
    }
}
