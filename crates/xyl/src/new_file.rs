//! The path and the progress of a large file that a command has written: a core, a saved guest.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::error::Failure;

/// Delay before the first line of progress.
const QUIET_FOR: Duration = Duration::from_secs(1);
/// Interval between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Resolves links to the path of the file. Refuses a path at which something other than a regular file exists.
pub fn whole_path(file: &Path) -> Result<PathBuf, Failure> {
    let of_file = |source| Failure::io(format!("use {}", file.display()), source);
    match std::fs::canonicalize(file) {
        Ok(path) if path.is_file() => Ok(path),
        Ok(_) => Err(Failure::refused(format!(
            "{} is no file that could be replaced: name another",
            file.display()
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::path::absolute(file).map_err(of_file)
        }
        Err(error) => Err(of_file(error)),
    }
}

/// Progress of a long write, printed on standard error.
pub struct Progress<'c> {
    context: &'c Context,
    domid: u16,
    next: Instant,
}

impl Progress<'_> {
    /// Progress of a write about this domain.
    pub fn new(context: &Context, domid: u16) -> Progress<'_> {
        Progress {
            context,
            domid,
            next: Instant::now() + QUIET_FOR,
        }
    }

    /// Prints the progress, if it is time: bytes written, and about how many they will be.
    pub fn tell(&mut self, written: u64, size: u64) {
        const MIB: u64 = 1 << 20;
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + TELL_EVERY;
        self.context.say(format!(
            "domain {}: {} of {} MiB",
            self.domid,
            written / MIB,
            size.div_ceil(MIB)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        std::fs::write(&old, "x").unwrap();
        assert_eq!(whole_path(&new).unwrap(), new);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&old, &link).unwrap();
        assert_eq!(whole_path(&link).unwrap(), old.canonicalize().unwrap());
        assert!(whole_path(folder.path()).is_err());
        assert!(whole_path(Path::new("/dev/null")).is_err());
    }
}
