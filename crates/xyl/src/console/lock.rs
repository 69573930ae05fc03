//! One session at a time on a domain's console, xl's included.
//!
//! The lock is that of `tools/console/client/main.c`: a file in the lock folder with an exclusive
//! flock, which its holder removes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use xen_port::DomId;

use super::ConsoleError;

/// The lock, released when dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of a domain's console. None where the host has no such folder or lets no
    /// file be made there: then there is nothing to lock.
    pub fn take(folder: &Path, domid: DomId, domain: &str) -> Result<Option<Lock>, ConsoleError> {
        let path = folder.join(format!("xenconsole.{domid}"));
        loop {
            let options = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path);
            let Ok(file) = options else { return Ok(None) };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_still(&file, &path) => return Ok(Some(Lock { path, _file: file })),
                // Its last holder removed the file after it was opened here.
                Ok(()) | Err(Errno::INTR) => {}
                Err(_) => {
                    return Err(ConsoleError::Locked {
                        domain: domain.to_owned(),
                        path,
                    });
                }
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Nothing can be done about a file that stays; the lock itself goes with the descriptor.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether the path still leads to the open file.
fn is_still(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => open.dev() == named.dev() && open.ino() == named.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_session_is_refused_until_the_first_ends() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path(), DomId(7), "domain 7").unwrap();
        assert!(first.is_some());
        assert!(matches!(
            Lock::take(folder.path(), DomId(7), "domain 7"),
            Err(ConsoleError::Locked { .. })
        ));
        assert!(
            Lock::take(folder.path(), DomId(8), "domain 8")
                .unwrap()
                .is_some()
        );
        drop(first);
        assert!(
            Lock::take(folder.path(), DomId(7), "domain 7")
                .unwrap()
                .is_some()
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_folder_is_no_error() {
        assert!(
            Lock::take(Path::new("/nonexistent"), DomId(1), "domain 1")
                .unwrap()
                .is_none()
        );
    }
}
