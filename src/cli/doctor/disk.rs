//! The store: is it there, is it writable, is it private, and is there room for it to grow?

use std::{fs::OpenOptions, os::unix::fs::PermissionsExt as _, path::Path};

use super::report::Finding;
use crate::{
    admin::Trouble,
    config::Config,
    store::{Beside, NotBeside},
};

/// With less than this the next days are in danger, in bytes.
const LITTLE: u64 = 1 << 30;
/// With less than this SQLite fails soon, in bytes.
const NEXT_TO_NOTHING: u64 = 64 << 20;

/// Looks at the store's files.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let Some(path) = config.store.sqlite_path() else { return Vec::new() };
    let mut findings = vec![shape(path).await];
    if path.exists() {
        findings.push(writable(path));
        findings.push(private(path));
    }
    findings.push(space(path));
    findings
}

async fn shape(path: &Path) -> Finding {
    match Beside::open(path).await {
        Ok(store) => match store.close().await {
            Ok(()) => {
                Finding::fine("store", format!("{}: is a store of this version", path.display()))
            }
            Err(error) => unusable(&error),
        },
        Err(error @ NotBeside::NoStore(_)) => {
            Finding::warning("store", error.to_string(), "start the keeper: it makes the store")
        }
        Err(error) => unusable(&error),
    }
}

fn unusable(error: &NotBeside) -> Finding {
    Finding::trouble("store", error.to_string(), Trouble::Store.mend())
}

/// Nothing is written.
fn writable(path: &Path) -> Finding {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let folder_takes = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK);
    let opened = OpenOptions::new().append(true).open(path);
    let trouble = match (opened, folder_takes) {
        (Ok(_), Ok(())) => {
            return Finding::fine("writable", format!("{}: can be written", path.display()));
        }
        (Err(error), _) => format!("{}: cannot be written: {error}", path.display()),
        (_, Err(error)) => format!("{}: nothing can be made in it: {error}", folder.display()),
    };
    Finding::trouble(
        "writable",
        trouble,
        "give the keeper's user the file and its folder, and see whether the file system is mounted \
         read-only; if this is another user than the keeper's, call it as the keeper's",
    )
}

fn private(path: &Path) -> Finding {
    let mode = std::fs::metadata(path).map(|found| found.permissions().mode()).unwrap_or(0);
    if mode & 0o007 == 0 {
        return Finding::fine("permissions", "the store is private");
    }
    let folder = path.parent().and_then(|folder| std::fs::metadata(folder).ok());
    if folder.is_some_and(|folder| folder.permissions().mode() & 0o001 == 0) {
        return Finding::fine("permissions", "the store's folder is private");
    }
    Finding::warning(
        "permissions",
        format!("{}: everybody on this machine may read it", path.display()),
        format!("`chmod o= {}`, and the same for its folder", path.display()),
    )
}

fn space(path: &Path) -> Finding {
    let folder = path.ancestors().skip(1).find(|folder| folder.exists());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let free = match rustix::fs::statvfs(folder) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => {
            return Finding::skipped("disk", format!("{}: {error}", folder.display()));
        }
    };
    let text = format!("{} MiB are free on the store's disk", free >> 20);
    let fix = "make room: delete what is not needed, or move the store to a larger disk";
    match free {
        0..NEXT_TO_NOTHING => Finding::trouble("disk", text, fix),
        NEXT_TO_NOTHING..LITTLE => Finding::warning("disk", text, fix),
        _ => Finding::fine("disk", text),
    }
}
