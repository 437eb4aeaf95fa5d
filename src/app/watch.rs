//! Notices that one of the files a configuration was read from is another one than before.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Files, Stamp};

/// How often the files are looked at. Events of the file system miss what mounts and editors do to a file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// For how many looks a file that has gone is waited for: who replaces one may remove it first.
const MISSED: u32 = 5;

/// The files, as they were when they were read.
pub(super) struct FileWatch {
    files: Files,
}

impl FileWatch {
    pub(super) fn new(files: Files) -> Self {
        Self { files }
    }

    /// What was read now. After a refusal some may not have been read again: they are watched on, as they are.
    pub(super) fn were_read(&mut self, files: Files, refused: bool) {
        let before = std::mem::replace(&mut self.files, files);
        if refused {
            let unread =
                before.into_iter().filter(|(path, _)| !self.files.iter().any(|(read, _)| read == path));
            let unread: Vec<_> = unread.map(|(path, _)| (Stamp::of(&path), path)).collect();
            self.files.extend(unread.into_iter().map(|(stamp, path)| (path, stamp)));
        }
    }

    /// Waits until a file has changed and all have then stayed the same for one look: who writes one may still be
    /// writing, and a key follows its certificate.
    pub(super) async fn changed(&self) {
        let mut interval = tokio::time::interval(LOOK_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut still = Still::new(&self.files);
        interval.tick().await;
        loop {
            interval.tick().await;
            if still.look(self.files.iter().map(|(path, _)| Stamp::of(path)).collect()) {
                return;
            }
        }
    }
}

/// Decides from look to look whether there is something to read.
struct Still<'a> {
    read: &'a [(PathBuf, Option<Stamp>)],
    seen: Vec<Option<Stamp>>,
    /// Looks that have shown the same.
    same: u32,
}

impl<'a> Still<'a> {
    fn new(read: &'a Files) -> Self {
        Self { read, seen: Vec::new(), same: 0 }
    }

    fn look(&mut self, now: Vec<Option<Stamp>>) -> bool {
        self.same = if now == self.seen { self.same + 1 } else { 0 };
        self.seen = now;
        let changed = || self.read.iter().zip(&self.seen).filter(|((_, read), seen)| *seen != read);
        let patience = if changed().any(|(_, seen)| seen.is_none()) { MISSED } else { 1 };
        self.same >= patience && changed().next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Something done to two files.
    type Step<'a> = &'a dyn Fn(&Path, &Path);

    /// What a look at these two files shows after each of some steps, and whether they are read then.
    fn looks(steps: &[Step<'_>]) -> Vec<bool> {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        std::fs::write(&one, "1").expect("written");
        std::fs::write(&two, "2").expect("written");
        let stamps = || [&one, &two].map(|path| Stamp::of(path)).to_vec();
        let files: Files = [one.clone(), two.clone()].into_iter().zip(stamps()).collect();
        let mut still = Still::new(&files);
        let taken = steps.iter().map(|step| {
            step(&one, &two);
            still.look(stamps())
        });
        taken.collect()
    }

    #[test]
    fn a_file_is_read_when_it_has_stayed_the_same_for_a_look() {
        let nothing = |_: &Path, _: &Path| {};
        let write =
            |text: &'static str| move |one: &Path, _: &Path| std::fs::write(one, text).expect("written");
        assert_eq!(looks(&[&nothing, &nothing]), [false, false]);
        let half = write("half");
        let whole = write("whole, at last");
        assert_eq!(looks(&[&half, &whole, &nothing]), [false, false, true]);
    }

    #[test]
    fn a_file_that_has_gone_is_waited_for_a_while_and_no_longer() {
        let nothing = |_: &Path, _: &Path| {};
        let remove = |one: &Path, _: &Path| std::fs::remove_file(one).expect("removed");
        let back = |one: &Path, _: &Path| std::fs::write(one, "again").expect("written");
        assert_eq!(looks(&[&remove, &nothing, &back, &nothing]), [false, false, false, true]);
        assert_eq!(
            looks(&[&remove, &nothing, &nothing, &nothing, &nothing, &nothing]),
            [false, false, false, false, false, true]
        );
    }
}
