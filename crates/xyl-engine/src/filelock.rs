//! Advisory lock files that vanish when they are released, as libxl uses them.
//!
//! The holder removes the file before it closes it, so whoever gets the lock must check that the
//! file it has locked is still the one at the path (libxl's `libxl__lock_file` follows the same
//! protocol, which makes these locks work between both toolstacks).

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::EngineError;

/// A lock that is held; released, and its file removed, when dropped.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    _file: File,
}

impl FileLock {
    /// Waits for the lock.
    pub fn acquire(path: &Path) -> Result<FileLock, EngineError> {
        loop {
            let file = open(path)?;
            file.lock()
                .map_err(|source| EngineError::io("lock", path, source))?;
            if let Some(lock) = FileLock::if_current(path, file) {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock if nobody holds it.
    pub fn try_acquire(path: &Path) -> Result<Option<FileLock>, EngineError> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => {
                    return Err(EngineError::io("lock", path, source));
                }
            }
            if let Some(lock) = FileLock::if_current(path, file) {
                return Ok(Some(lock));
            }
        }
    }

    /// `None` where the file was removed by the holder before.
    fn if_current(path: &Path, file: File) -> Option<FileLock> {
        let ours = file.metadata().ok()?;
        let there = std::fs::metadata(path).ok()?;
        let same = ours.dev() == there.dev() && ours.ino() == there.ino();
        same.then(|| FileLock {
            path: path.to_owned(),
            _file: file,
        })
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Nothing is lost where the file cannot be removed: the lock itself ends with the file's closing.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> Result<File, EngineError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|source| EngineError::io("create folder", parent, source))?;
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| EngineError::io("open", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_no_file_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/lock");
        let held = FileLock::acquire(&path).unwrap();
        assert!(FileLock::try_acquire(&path).unwrap().is_none());
        drop(held);
        assert!(!path.exists());
        let again = FileLock::try_acquire(&path).unwrap();
        assert!(again.is_some());
    }
}
