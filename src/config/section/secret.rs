//! Secrets: read from files, and written nowhere.

use std::{io, path::Path};

use secrecy::SecretString;
use serde::{Serialize as _, Serializer};
use zeroize::Zeroizing;

/// A secret that stands alone in a file, whose end of line does not count.
///
/// # Errors
///
/// When the file is not readable UTF-8.
pub fn read(path: &Path) -> io::Result<SecretString> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new)?;
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n'])))
}

/// A secret is written nowhere.
pub(super) fn never<S: Serializer>(
    _: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    None::<()>.serialize(serializer)
}
