//! Locks that allow one session at a time on a domain's console.
//!
//! A session locks two files, and removes them when it ends. The first is in a folder of Xyl and excludes other
//! sessions of Xyl. The second is that of `tools/console/client/main.c` in `/var/lock` and excludes sessions of xl.
//! Every user may write to `/var/lock`, so another user can defeat the second lock.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use xen_port::DomId;

use super::ConsoleError;

/// One console lock. Dropping it releases it and removes the file.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes Xyl's own lock of a domain's console. Creates the folder if it is missing.
    pub fn take_own(folder: &Path, domid: DomId, domain: &str) -> Result<Lock, ConsoleError> {
        std::fs::create_dir_all(folder).map_err(|source| ConsoleError::Lock {
            domain: domain.to_owned(),
            path: folder.to_owned(),
            source,
        })?;
        Lock::take(folder, domid, domain)
    }

    /// Takes the lock in a folder. Does not follow a link at the file's path.
    fn take(folder: &Path, domid: DomId, domain: &str) -> Result<Lock, ConsoleError> {
        let path = folder.join(format!("xenconsole.{domid}"));
        let failed = |source| ConsoleError::Lock {
            domain: domain.to_owned(),
            path: path.clone(),
            source,
        };
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default())
                .open(&path)
                .map_err(failed)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_still(&file, &path) => return Ok(Lock { path, _file: file }),
                // The last holder may have removed the file after this process had opened it.
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

/// Takes the lock that xl's sessions use. If the file cannot be created, returns a warning instead: xl's sessions are
/// not excluded.
pub fn take_shared(
    folder: &Path,
    domid: DomId,
    domain: &str,
) -> Result<(Option<Lock>, Option<String>), ConsoleError> {
    match Lock::take(folder, domid, domain) {
        Ok(lock) => Ok((Some(lock), None)),
        Err(error @ ConsoleError::Lock { .. }) => Ok((
            None,
            Some(format!(
                "a session of xl on this console is not prevented: {error}"
            )),
        )),
        Err(error) => Err(error),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A file that cannot be removed does no harm. Closing the descriptor releases the lock.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether the path still names the open file.
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
        let take = |domid| Lock::take(folder.path(), DomId(domid), "domain 7");
        let first = take(7).unwrap();
        assert!(matches!(take(7), Err(ConsoleError::Locked { .. })));
        drop(take(8).unwrap());
        drop(first);
        drop(take(7).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_another_user_has_put_in_the_place_of_the_lock_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        let link = folder.path().join("xenconsole.7");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(
            Lock::take(folder.path(), DomId(7), "domain 7"),
            Err(ConsoleError::Lock { .. })
        ));
        let (lock, warning) = take_shared(folder.path(), DomId(7), "domain 7").unwrap();
        assert!(lock.is_none() && warning.is_some());
        assert!(!target.exists() && link.is_symlink());
    }
}
