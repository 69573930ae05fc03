//! The way to a file: who can make a path lead to another file.
//!
//! A user who owns a folder or a symbolic link on the way chooses where the path leads. So the file must be a regular one of
//! that user: the path then gives no more than the user has. A folder that many can write to has no such user, unless it has
//! the sticky bit: no link is followed from there on, and the file must be a regular one.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::process::geteuid;

use crate::open::FileFacts;

/// Largest number of symbolic links on a way, as Linux has it.
const LINKS_MAX: u32 = 40;
/// The user id of root.
const ROOT: u32 = 0;
/// Mode bits: the group or all others can write.
const OTHERS_WRITE: u32 = 0o022;
/// Mode bits of a file that can be executed.
const EXECUTABLE: u32 = 0o111;
/// Mode bit: only its owner removes an entry of the folder.
const STICKY: u32 = 0o1000;

/// The error for a file that was not opened because a user other than root can choose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UntrustedWay {
    /// The folder or symbolic link on the way.
    pub place: PathBuf,
    /// User id of its owner. `None`: a folder that other users can write to.
    pub uid: Option<u32>,
    /// User id of the file's owner.
    pub owner: u32,
}

impl fmt::Display for UntrustedWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, owner) = (self.place.display(), self.owner);
        match self.uid {
            Some(uid) => write!(
                f,
                "user {uid} owns {place} on the way and can make it lead anywhere, but user {owner} owns the file, or it is not a \
                 regular one: `chown root {place}`, or give an image that user {uid} owns"
            ),
            None => write!(
                f,
                "other users than root can write to {place} on the way and make it lead anywhere, and the file of user {owner} \
                 is not a regular one, or behind a symbolic link: `chmod go-w {place}`, or `chmod +t {place}`"
            ),
        }
    }
}

impl std::error::Error for UntrustedWay {}

/// The error for a program that is not run, because of its rights or of those of a folder or link on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UntrustedProgram {
    /// A user other than root owns the file, folder or link.
    OwnedBy {
        /// The file, folder or link.
        place: PathBuf,
        /// User id of its owner.
        uid: u32,
    },
    /// Other users than its owner can write to the file, or exchange what is in the folder.
    WritableByOthers {
        /// The file or folder.
        place: PathBuf,
    },
    /// The file is not executable.
    NotExecutable {
        /// Path of the file.
        place: PathBuf,
    },
}

impl fmt::Display for UntrustedProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnedBy { place, uid } => {
                let place = place.display();
                write!(f, "user {uid} owns {place}, not root: `chown root {place}`")
            }
            Self::WritableByOthers { place } => {
                let place = place.display();
                write!(f, "other users can change {place}: `chmod go-w {place}`")
            }
            Self::NotExecutable { place } => {
                let place = place.display();
                write!(f, "{place} is not executable: `chmod +x {place}`")
            }
        }
    }
}

impl std::error::Error for UntrustedProgram {}

/// The users other than root that can change where a path leads.
#[derive(Debug, Default)]
pub(crate) struct Way {
    owners: Vec<(u32, PathBuf)>,
    /// The first folder of root's that others can write to, and whether a link follows it.
    shared: Option<PathBuf>,
    has_link_after_shared: bool,
}

impl Way {
    fn add_folder(&mut self, stat: &Stat, place: &Path) {
        let is_shared = stat.st_mode & OTHERS_WRITE != 0 && stat.st_mode & STICKY == 0;
        match stat.st_uid {
            ROOT if is_shared && self.shared.is_none() => self.shared = Some(place.to_owned()),
            ROOT => {}
            uid => self.owners.push((uid, place.to_owned())),
        }
    }

    fn add_link(&mut self, stat: &Stat, place: &Path) {
        self.has_link_after_shared |= self.shared.is_some();
        if stat.st_uid != ROOT {
            self.owners.push((stat.st_uid, place.to_owned()));
        }
    }

    /// Refuses a file that such a user could not have given by its own rights.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`], which contains [`UntrustedWay`].
    pub(crate) fn check(&self, is_regular: bool, owner: u32) -> io::Result<()> {
        let refuse = |place: &Path, uid| {
            let place = place.to_owned();
            let why = UntrustedWay { place, uid, owner };
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
        };
        let mut owners = self.owners.iter();
        if let Some((uid, place)) = owners.find(|(uid, _)| !is_regular || *uid != owner) {
            return refuse(place, Some(*uid));
        }
        match &self.shared {
            Some(place) if !is_regular || self.has_link_after_shared => refuse(place, None),
            _ => Ok(()),
        }
    }
}

impl Way {
    /// Refuses a program that a user other than root and the one of this process can change or exchange.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`], which contains [`UntrustedProgram`].
    pub(crate) fn check_program(&self, path: &Path, facts: &FileFacts) -> io::Result<()> {
        let own = geteuid().as_raw();
        let is_foreign = |uid: u32| uid != ROOT && uid != own;
        let place = path.to_owned();
        let mut owners = self.owners.iter();
        let why = if let Some((uid, place)) = owners.find(|(uid, _)| is_foreign(*uid)) {
            let (place, uid) = (place.clone(), *uid);
            UntrustedProgram::OwnedBy { place, uid }
        } else if let Some(place) = &self.shared {
            let place = place.clone();
            UntrustedProgram::WritableByOthers { place }
        } else if is_foreign(facts.uid) {
            let uid = facts.uid;
            UntrustedProgram::OwnedBy { place, uid }
        } else if facts.mode & OTHERS_WRITE != 0 {
            UntrustedProgram::WritableByOthers { place }
        } else if facts.mode & EXECUTABLE == 0 {
            UntrustedProgram::NotExecutable { place }
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }
}

/// Finds a file as the kernel does, one part of the path after the other, and notes who can change the way to it.
pub(crate) fn find(path: &Path) -> io::Result<(OwnedFd, Way)> {
    let mut way = Way::default();
    let mut left = parts(path);
    let mut at = PathBuf::from(".");
    let mut here = enter(Path::new("."))?;
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == OsStr::new("/") {
            (at, here) = (PathBuf::from("/"), enter(Path::new("/"))?);
            continue;
        }
        way.add_folder(&rustix::fs::fstat(&here)?, &at);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = rustix::fs::openat(&here, &part, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&next)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            (at, here) = (at.join(&part), next);
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(rustix::io::Errno::LOOP.into());
        }
        way.add_link(&stat, &at.join(&part));
        let target = rustix::fs::readlinkat(next.as_fd(), "", Vec::new())?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        for part in parts(&target).into_iter().rev() {
            left.push_front(part);
        }
    }
    Ok((here, way))
}

/// Makes a symbolic link in a folder that root and the user of this process alone can change or exchange.
pub(crate) fn make_link(path: &Path, target: &Path) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (here, mut way) = find(folder)?;
    way.add_folder(&rustix::fs::fstat(&here)?, folder);
    let own = geteuid().as_raw();
    way.owners.retain(|(uid, _)| *uid != own);
    way.check(false, ROOT)?;
    Ok(rustix::fs::symlinkat(target, &here, name)?)
}

fn enter(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, folder, flags, Mode::empty())?)
}

/// The parts of a path, with `/` as the first one of an absolute path.
fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;
    use crate::open::{Opening, open};

    const USER: u32 = 12345;

    fn refused(path: &Path) -> Option<UntrustedWay> {
        let error = open(path, &Opening::guest_disk(false)).err()?;
        let why = error.into_inner().unwrap();
        Some(*why.downcast::<UntrustedWay>().unwrap())
    }

    /// A folder, a regular file of root beside it, and whether this process may give files to others.
    fn bench() -> (tempfile::TempDir, PathBuf, PathBuf, bool) {
        let root = tempfile::tempdir().unwrap();
        let (home, secret) = (root.path().join("home"), root.path().join("secret"));
        fs::create_dir(&home).unwrap();
        fs::write(&secret, "secret").unwrap();
        let is_root = chown(&home, Some(USER), None).is_ok();
        (root, home, secret, is_root)
    }

    #[test]
    fn a_users_folder_leads_to_that_users_files_alone() {
        let (_root, home, secret, true) = bench() else {
            return;
        };
        let disk = home.join("disk.img");
        fs::write(&disk, "1").unwrap();
        assert_eq!(refused(&disk).unwrap().uid, Some(USER));
        chown(&disk, Some(USER), None).unwrap();
        assert_eq!(refused(&disk), None);
        fs::remove_file(&disk).unwrap();
        for target in [secret.as_path(), Path::new("../secret")] {
            symlink(target, &disk).unwrap();
            let why = refused(&disk).unwrap();
            assert_eq!((why.uid, why.owner), (Some(USER), ROOT));
            // A look at what the path leads to is not a guest's disk.
            assert!(open(&disk, &Opening::disk(false)).is_ok());
            fs::remove_file(&disk).unwrap();
        }
    }

    #[test]
    fn a_users_link_in_a_folder_of_all_counts_and_roots_does_not() {
        let (root, _, secret, true) = bench() else {
            return;
        };
        let all = root.path().join("all");
        fs::create_dir(&all).unwrap();
        fs::set_permissions(&all, PermissionsExt::from_mode(0o1777)).unwrap();
        let link = all.join("link");
        symlink(&secret, &link).unwrap();
        assert_eq!(refused(&link), None);
        std::os::unix::fs::lchown(&link, Some(USER), None).unwrap();
        assert_eq!(refused(&link).unwrap().place, link);
        // Without the sticky bit another user could have put the link there.
        std::os::unix::fs::lchown(&link, Some(ROOT), None).unwrap();
        fs::set_permissions(&all, PermissionsExt::from_mode(0o775)).unwrap();
        let why = refused(&link).unwrap();
        assert_eq!((why.uid, why.place), (None, all.clone()));
        let plain = all.join("plain");
        fs::write(&plain, "1").unwrap();
        assert_eq!(refused(&plain), None);
    }

    #[test]
    fn a_program_is_one_that_nobody_else_can_change_or_exchange() {
        let (root, home, _, is_root) = bench();
        let untrusted = |path: &Path| {
            let error = open(path, &Opening::program()).err()?;
            let why = error.into_inner().unwrap();
            Some(*why.downcast::<UntrustedProgram>().unwrap())
        };
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        let program = root.path().join("program");
        fs::write(&program, "#!/bin/sh").unwrap();
        mode(&program, 0o644);
        let place = program.clone();
        let refused = UntrustedProgram::NotExecutable { place };
        assert_eq!(untrusted(&program), Some(refused));
        mode(&program, 0o755);
        assert_eq!(untrusted(&program), None);
        mode(&program, 0o775);
        let place = program.clone();
        let refused = UntrustedProgram::WritableByOthers { place };
        assert_eq!(untrusted(&program), Some(refused));
        mode(&program, 0o755);
        // One that others can exchange, though they cannot write to it.
        let folder = root.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let inner = folder.join("program");
        fs::copy(&program, &inner).unwrap();
        mode(&folder, 0o777);
        let is_refused = untrusted(&inner).is_some();
        // A user's own folder is one that this process owns.
        assert_eq!(is_refused, is_root);
        let folder_itself = open(&folder, &Opening::program()).unwrap_err();
        assert_eq!(folder_itself.kind(), io::ErrorKind::InvalidInput);
        if is_root {
            let users = home.join("program");
            fs::copy(&program, &users).unwrap();
            let refused = UntrustedProgram::OwnedBy {
                place: home,
                uid: USER,
            };
            assert_eq!(untrusted(&users), Some(refused));
            chown(&program, Some(USER), None).unwrap();
            let refused = UntrustedProgram::OwnedBy {
                place: program.clone(),
                uid: USER,
            };
            assert_eq!(untrusted(&program), Some(refused));
        }
    }

    #[test]
    fn a_link_is_made_where_no_other_user_can_exchange_it() {
        let (root, home, secret, is_root) = bench();
        let link = root.path().join("link");
        make_link(&link, &secret).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), secret);
        let again = make_link(&link, &home).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        let all = root.path().join("all");
        fs::create_dir(&all).unwrap();
        fs::set_permissions(&all, PermissionsExt::from_mode(0o777)).unwrap();
        let refused = |path: &Path| make_link(path, &secret).unwrap_err().kind();
        if is_root {
            assert_eq!(refused(&home.join("x")), io::ErrorKind::PermissionDenied);
            assert_eq!(refused(&all.join("x")), io::ErrorKind::PermissionDenied);
        }
        assert_eq!(refused(&root.path().join("no/x")), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_way_of_links_in_a_circle_ends() {
        let (root, ..) = bench();
        let link = root.path().join("link");
        symlink(&link, &link).unwrap();
        let error = find(&link).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::LOOP.raw_os_error())
        );
    }
}
