//! Which files a configuration was read from, and how they looked just before: who watches them misses nothing in between.

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What changes with a file's content: when it was written, how long it is, and which file it is (`mv` may keep the rest;
/// a symbolic link that leads elsewhere now leads to another file).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    written: SystemTime,
    length: u64,
    file: (u64, u64),
}

impl Stamp {
    /// As it looks now; `None`: it is not there.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let file = (metadata.dev(), metadata.ino());
        Some(Self { written: metadata.modified().ok()?, length: metadata.len(), file })
    }
}

/// Every file that was read, or should have been, each with its stamp from before.
pub type Files = Vec<(PathBuf, Option<Stamp>)>;

/// Gathers them while a configuration is read.
#[derive(Default)]
pub(super) struct Seen(RefCell<Files>);

impl Seen {
    /// To be called before the file is read.
    pub(super) fn add(&self, path: &Path) {
        let mut files = self.0.borrow_mut();
        // Read twice, the first look counts: what was read then may be older than the second.
        if !files.iter().any(|(known, _)| known == path) {
            files.push((path.to_owned(), Stamp::of(path)));
        }
    }

    pub(super) fn all(self) -> Files {
        self.0.into_inner()
    }
}
