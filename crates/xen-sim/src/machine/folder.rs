//! The folder of a simulated host. Only the user of the command may own it and write to it.
//!
//! A user who can write to the folder controls where commands write: one symbolic link is enough. So this module
//! refuses a folder of another user, a folder that others can write to, and a folder with other contents.
//! [`Host`](super::Host) calls it before it uses the folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::MachineError;

/// The file that marks a folder as a host's. A process that starts or stops the host holds its lock.
pub(super) const MARK: &str = "power.lock";
/// Bits of a folder's mode that let others write to it.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Creates the folder with mode 0700, or checks the existing one. Returns its lock file.
///
/// # Errors
/// [`MachineError::NotPrivate`], [`MachineError::NotAHost`], and errors of the system.
pub(super) fn prepare(folder: &Path) -> Result<File, MachineError> {
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above).map_err(MachineError::new("make", folder))?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(MachineError::new("make", folder)(error));
        }
        _ => check(folder)?,
    }
    // The mark is made first, so it is there when another process has begun to fill the folder.
    if let Some(found) = any_name(folder)?
        && !folder.join(MARK).exists()
    {
        return Err(MachineError::NotAHost {
            path: folder.to_owned(),
            found,
        });
    }
    let path = folder.join(MARK);
    let lock = options().write(true).truncate(false).open(&path);
    lock.map_err(MachineError::new("open", &path))
}

/// Whether this folder is a folder, this user's, and no other's to write to.
///
/// # Errors
/// As [`prepare`].
pub(super) fn check(folder: &Path) -> Result<(), MachineError> {
    let failed = |error: rustix::io::Errno| MachineError::new("open", folder)(error.into());
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&opened).map_err(failed)?;
    let wanted_uid = own_uid();
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_folder && stat.st_uid == wanted_uid && stat.st_mode & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(MachineError::NotPrivate {
        path: folder.to_owned(),
        uid: stat.st_uid,
        mode: stat.st_mode & 0o7777,
        wanted_uid,
    })
}

/// Any name in a folder.
fn any_name(folder: &Path) -> Result<Option<String>, MachineError> {
    let failed = MachineError::new("list", folder);
    let mut entries = fs::read_dir(folder).map_err(&failed)?;
    let first = entries.next().transpose().map_err(&failed)?;
    Ok(first.map(|entry| entry.file_name().to_string_lossy().into_owned()))
}

/// Opens a log in the folder to add to it.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    options().append(true).open(path)
}

/// Writes a file that is not there yet; one that is there stays as it is.
pub(super) fn write_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made?.write_all(bytes),
    }
}

/// Makes a file for this user alone, or opens the one that is there; no symbolic link leads away from it.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW.bits();
    options
        .create(true)
        .mode(0o600)
        .custom_flags(flags.cast_signed());
    options
}

/// Checks that the process at the other end of a socket has this user.
///
/// # Errors
/// [`MachineError::ForeignPeer`], and errors of the system.
pub(super) fn check_peer(socket: impl AsFd, path: &Path) -> Result<(), MachineError> {
    let peer = rustix::net::sockopt::socket_peercred(socket)
        .map_err(|errno| MachineError::new("look who answers at", path)(errno.into()))?;
    let uid = peer.uid.as_raw();
    if uid == own_uid() {
        return Ok(());
    }
    Err(MachineError::ForeignPeer {
        path: path.to_owned(),
        uid,
    })
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_folder_is_this_users_alone() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("a/host");
        prepare(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join(MARK)), 0o600);
        // Preparing the folder again succeeds.
        fs::write(folder.join("other"), "").unwrap();
        prepare(&folder).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for bits in [0o777, 0o1777, 0o720, 0o702] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(bits)).unwrap();
            let refused = prepare(folder.path());
            assert!(matches!(
                refused,
                Err(MachineError::NotPrivate { mode, .. }) if mode == bits
            ));
        }
        assert!(any_name(folder.path()).unwrap().is_none());
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        // Only root can give a folder away.
        if chown(folder.path(), Some(65534), None).is_err() {
            return;
        }
        let refused = prepare(folder.path());
        assert!(matches!(
            refused,
            Err(MachineError::NotPrivate { uid: 65534, .. })
        ));
    }

    #[test]
    fn a_folder_that_holds_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("precious"), "").unwrap();
        let refused = prepare(folder.path());
        assert!(matches!(
            refused,
            Err(MachineError::NotAHost { found, .. }) if found == "precious"
        ));
        assert!(!folder.path().join(MARK).exists());
    }

    #[test]
    fn no_link_is_followed() {
        let above = tempfile::tempdir().unwrap();
        let (folder, target) = (above.path().join("host"), above.path().join("target"));
        fs::create_dir(&target).unwrap();
        symlink(&target, &folder).unwrap();
        assert!(prepare(&folder).is_err());
        let (log, file) = (target.join("log"), above.path().join("file"));
        symlink(&file, &log).unwrap();
        assert!(open_log(&log).is_err());
        write_once(&log, b"text").unwrap();
        assert!(!file.exists());
    }
}
