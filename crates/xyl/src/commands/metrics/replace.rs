//! Replaces a file in one step, in a folder that another user may own.
//!
//! node_exporter's folder belongs to its user. Root must follow no link that this user makes, and must open no file of it. So the folder is opened
//! once, without symbolic links in its path, and all else happens in that folder.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

/// The new file: all users can read it.
const FILE_MODE: Mode = Mode::RUSR
    .union(Mode::WUSR)
    .union(Mode::RGRP)
    .union(Mode::ROTH);

/// Replaces a file. If that fails, the old one stays, and nothing is left of the new one.
///
/// # Errors
/// Those of the system; [`ErrorKind::InvalidInput`] for a path without a name.
pub fn replace(file: &Path, contents: &[u8]) -> Result<()> {
    let name = file.file_name().ok_or(ErrorKind::InvalidInput)?;
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = open_folder(folder)?;
    // node_exporter reads the files whose names end with `.prom`.
    let mut new = OsString::from(".");
    new.push(name);
    new.push(".new");
    // A process that was killed may have left it.
    let _ = rustix::fs::unlinkat(&folder, &new, AtFlags::empty());
    let written = write_new(&folder, &new, contents)
        .and_then(|()| Ok(rustix::fs::renameat(&folder, &new, &folder, name)?));
    if written.is_err() {
        let _ = rustix::fs::unlinkat(&folder, &new, AtFlags::empty());
    }
    written
}

fn open_folder(folder: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(rustix::fs::CWD, folder, flags, Mode::empty(), resolve).map_err(Error::from)
}

fn write_new(folder: &OwnedFd, new: &OsString, contents: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(folder, new, flags, FILE_MODE)?;
    // Whatever the umask of the caller is.
    rustix::fs::fchmod(&opened, FILE_MODE)?;
    File::from(opened).write_all(contents)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_and_no_link_is_followed() {
        let root = tempfile::tempdir().unwrap();
        // The temporary folder's own path may have links.
        let root = root.path().canonicalize().unwrap();
        let (own, other) = (root.join("own"), root.join("other"));
        std::fs::create_dir(&own).unwrap();
        std::fs::create_dir(&other).unwrap();
        let file = own.join("xyl.prom");

        // What a process that was killed has left, and what a hostile one has put there.
        std::fs::write(other.join("secret"), "secret").unwrap();
        symlink(other.join("secret"), own.join(".xyl.prom.new")).unwrap();
        symlink(other.join("secret"), &file).unwrap();
        replace(&file, b"one").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"one");
        assert_eq!(std::fs::read(other.join("secret")).unwrap(), b"secret");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        replace(&file, b"two").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(&own).unwrap().count(), 1);

        symlink(&other, root.join("link")).unwrap();
        let followed = replace(&root.join("link/xyl.prom"), b"three");
        assert_eq!(
            followed.unwrap_err().raw_os_error(),
            Some(rustix::io::Errno::LOOP.raw_os_error())
        );
        assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
        assert_eq!(
            replace(Path::new("/"), b"").unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
}
