//! Opens files that a configuration names, such as disk images. [`Files::open`](crate::Files::open) is the way to it.
//!
//! A path is opened once. All checks concern the opened file, and later users get its descriptor. So a change of the path
//! after the check has no effect. A FIFO or a character device is never opened: a FIFO could block this process, and the
//! open of a device may act.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FileType, FlockOperation, MemfdFlags, Mode, OFlags, ResolveFlags, SealFlags, SeekFrom,
};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::way::{self, Way};

/// File mode of a socket.
const SOCKET_MODE: Mode = Mode::from_raw_mode(0o600);
/// Number of connections that may wait at a socket.
const SOCKET_BACKLOG: i32 = 16;

/// Number of a device: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DeviceNumber {
    /// Major number: the driver.
    pub major: u32,
    /// Minor number: the device of this driver.
    pub minor: u32,
}

impl DeviceNumber {
    /// Splits a device number as stat(2) returns it.
    pub fn of_stat(number: u64) -> DeviceNumber {
        DeviceNumber {
            major: rustix::fs::major(number),
            minor: rustix::fs::minor(number),
        }
    }

    /// Parses `MAJOR:MINOR` in decimal, as sysfs has it.
    pub fn parse(text: &str) -> Option<DeviceNumber> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(DeviceNumber {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Identity of a file on this host, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FileId {
    /// The file system's device.
    pub device: DeviceNumber,
    /// Number of the file in its file system.
    pub inode: u64,
}

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A block device with its number.
    Block(DeviceNumber),
    /// Any other kind: a folder, a FIFO, a socket, a character device.
    Other,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileKind::Regular => f.write_str("regular file"),
            FileKind::Block(number) => write!(f, "block device {number}"),
            FileKind::Other => f.write_str("folder, FIFO, socket or character device"),
        }
    }
}

/// Facts about an opened file. They were read from the descriptor, not from the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FileFacts {
    /// The kind of the file.
    pub kind: FileKind,
    /// Identity of the file, or of the device node of a block device.
    pub id: FileId,
    /// Size of the file or of the device, in bytes.
    pub size_bytes: u64,
    /// User id of the owner.
    pub uid: u32,
    /// Permission bits of the mode.
    pub mode: u32,
    /// Time of the last change of its contents, in seconds since 1970.
    pub modified_s: i64,
}

/// Which kinds of files [`Files::open`](crate::Files::open) accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// A regular file only.
    Regular,
    /// A regular file or a block device.
    Disk,
    /// A program that root runs: an executable file that root or the user of this process owns, and that no other user can change or
    /// exchange. Such a file is refused with [`UntrustedProgram`](crate::UntrustedProgram).
    Program,
}

impl Accepts {
    fn accepts(self, kind: FileKind) -> bool {
        match kind {
            FileKind::Regular => true,
            FileKind::Block(_) => self == Accepts::Disk,
            FileKind::Other => false,
        }
    }

    /// Refuses a file of another kind.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`], which contains [`WrongKind`].
    pub(crate) fn check(self, found: FileKind) -> io::Result<()> {
        match self.accepts(found) {
            true => Ok(()),
            false => Err(WrongKind { found }.into()),
        }
    }
}

/// The error for a file that was not opened because of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongKind {
    /// The kind of the file.
    pub found: FileKind,
}

impl fmt::Display for WrongKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is a {}", self.found)
    }
}

impl std::error::Error for WrongKind {}

impl From<WrongKind> for io::Error {
    fn from(why: WrongKind) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, why)
    }
}

/// Options for opening a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening<'a> {
    /// The accepted kinds.
    pub accepts: Accepts,
    /// Whether it is opened for writing too.
    pub is_writable: bool,
    /// Whether a block device is claimed (`O_EXCL`): the open fails if another process or a mount has claimed it, or a
    /// part of it. Regular files are not claimed.
    pub is_exclusive: bool,
    /// A folder that contains the file. The way from it to the file leads through no symbolic link. Without a folder
    /// symbolic links are followed, as for `/dev/vg/volume`.
    pub beneath: Option<&'a Path>,
    /// Whether a user other than root must not choose the file: see [`UntrustedWay`](crate::UntrustedWay).
    pub is_guarded: bool,
}

impl Opening<'_> {
    /// A disk image or a block device, wherever it is, for a look at it.
    pub fn disk(is_writable: bool) -> Opening<'static> {
        Opening {
            accepts: Accepts::Disk,
            is_writable,
            is_exclusive: false,
            beneath: None,
            is_guarded: false,
        }
    }

    /// The same as [`Opening::disk`], for a guest. Root alone, or the owner of the file, chooses it.
    pub fn guest_disk(is_writable: bool) -> Opening<'static> {
        Opening {
            is_guarded: true,
            ..Opening::disk(is_writable)
        }
    }

    /// A program that root runs.
    pub fn program() -> Opening<'static> {
        Opening {
            accepts: Accepts::Program,
            is_guarded: true,
            ..Opening::disk(false)
        }
    }

    /// The same as [`Opening::guest_disk`] for writing, which claims a block device.
    pub fn claimed_disk() -> Opening<'static> {
        Opening {
            is_exclusive: true,
            ..Opening::guest_disk(true)
        }
    }
}

/// An open file, to be handed on by its descriptor. A file in memory has none.
#[derive(Debug)]
pub struct OpenFile {
    path: PathBuf,
    facts: FileFacts,
    is_writable: bool,
    descriptor: Option<OwnedFd>,
    /// The contents of a file in memory, at the time of the open.
    bytes: Vec<u8>,
    /// Exists for as long as the file in memory is open.
    #[cfg(feature = "mem")]
    lease: Option<Lease>,
}

/// Something that exists for as long as a file of a simulated host is open, in whichever process.
#[cfg(feature = "mem")]
pub type Lease = std::sync::Arc<dyn std::fmt::Debug + Send + Sync>;

impl OpenFile {
    /// A device that this process has opened for reading and writing. `path` is for messages.
    ///
    /// # Errors
    /// The system's error.
    pub fn of_device(path: &Path, descriptor: OwnedFd) -> io::Result<OpenFile> {
        Ok(OpenFile {
            is_writable: true,
            ..OpenFile::handed_over(path, descriptor)?
        })
    }

    /// A file that another process has opened for reading, and has handed over. `path` is for messages.
    ///
    /// # Errors
    /// The system's error.
    pub fn handed_over(path: &Path, descriptor: OwnedFd) -> io::Result<OpenFile> {
        Ok(OpenFile {
            path: path.to_owned(),
            facts: facts_of(descriptor.as_fd())?,
            is_writable: false,
            descriptor: Some(descriptor),
            bytes: Vec::new(),
            #[cfg(feature = "mem")]
            lease: None,
        })
    }

    /// The path under which it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Facts about the file at the time of the open.
    pub fn facts(&self) -> &FileFacts {
        &self.facts
    }

    /// Whether the descriptor is open for writing.
    pub fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// The descriptor; `None` for a file in memory.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }

    /// Reads the bytes from `offset` on. Returns how many there were.
    ///
    /// # Errors
    /// The system's error.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        if let Some(descriptor) = &self.descriptor {
            return Ok(rustix::io::pread(descriptor, bytes, offset)?);
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = self.bytes.get(start..).unwrap_or_default();
        let pairs = bytes.iter_mut().zip(there);
        Ok(pairs.map(|(to, from)| *to = *from).count())
    }

    /// Takes the lock of this open (flock(2)): for it alone if it is open for writing, else shared with other readers. Returns whether it
    /// was free. It lasts until each process has closed its descriptors of this open. A file in memory has no lock.
    ///
    /// # Errors
    /// The system's error.
    pub fn lock(&self) -> io::Result<bool> {
        let Some(descriptor) = &self.descriptor else {
            return Ok(true);
        };
        let operation = match self.is_writable {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::NonBlockingLockShared,
        };
        match rustix::fs::flock(descriptor, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// An open file of a simulated host: facts and contents without a descriptor.
    #[cfg(feature = "mem")]
    pub fn in_memory(path: &Path, facts: FileFacts, is_writable: bool, bytes: Vec<u8>) -> OpenFile {
        OpenFile {
            path: path.to_owned(),
            facts,
            is_writable,
            descriptor: None,
            bytes,
            lease: None,
        }
    }

    /// The same file with something that exists for as long as it is open.
    #[cfg(feature = "mem")]
    pub fn with_lease(mut self, lease: Lease) -> OpenFile {
        self.lease = Some(lease);
        self
    }

    /// The thing that exists for as long as the file is open.
    #[cfg(feature = "mem")]
    pub fn lease(&self) -> Option<Lease> {
        self.lease.clone()
    }
}

/// Opens a file of the real system. The first descriptor only names the file, so that its kind is known before an open
/// that could act. The second open goes to that very file.
pub(crate) fn open(path: &Path, opening: &Opening<'_>) -> io::Result<OpenFile> {
    let (place, way) = match opening.beneath {
        // The first open mounts what is mounted on demand. Its answer alone does not tell who chose the file.
        None if opening.is_guarded || opening.accepts == Accepts::Program => {
            drop(find(path)?);
            way::find(path)?
        }
        None => (find(path)?, Way::default()),
        Some(folder) => (find_beneath(folder, path)?, Way::default()),
    };
    let mut facts = facts_of(place.as_fd())?;
    opening.accepts.check(facts.kind)?;
    match opening.accepts {
        Accepts::Program => way.check_program(path, &facts)?,
        _ => way.check(facts.kind == FileKind::Regular, facts.uid)?,
    }
    let access = match opening.is_writable {
        true => OFlags::RDWR,
        false => OFlags::RDONLY,
    };
    let is_claimed = opening.is_exclusive && matches!(facts.kind, FileKind::Block(_));
    let claim = match is_claimed {
        true => OFlags::EXCL,
        false => OFlags::empty(),
    };
    let flags = access | claim | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = format!("/proc/self/fd/{}", place.as_raw_fd());
    let descriptor = rustix::fs::open(own, flags, Mode::empty())?;
    if let FileKind::Block(_) = facts.kind {
        facts.size_bytes = rustix::fs::seek(&descriptor, SeekFrom::End(0))?;
        rustix::fs::seek(&descriptor, SeekFrom::Start(0))?;
    }
    Ok(OpenFile {
        path: path.to_owned(),
        facts,
        is_writable: opening.is_writable,
        descriptor: Some(descriptor),
        bytes: Vec::new(),
        #[cfg(feature = "mem")]
        lease: None,
    })
}

/// A file in memory alone, which is sealed: no process changes it (memfd_create(2)).
pub(crate) fn keep_in_memory(name: &str, bytes: &[u8]) -> io::Result<OpenFile> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let descriptor = rustix::fs::memfd_create(name, flags)?;
    let mut left = bytes;
    while !left.is_empty() {
        let written = rustix::io::write(&descriptor, left)?;
        left = left.get(written..).unwrap_or_default();
    }
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&descriptor, seals)?;
    Ok(OpenFile {
        path: PathBuf::from(name),
        facts: facts_of(descriptor.as_fd())?,
        is_writable: false,
        descriptor: Some(descriptor),
        bytes: Vec::new(),
        #[cfg(feature = "mem")]
        lease: None,
    })
}

/// A Unix socket at which the process that gets it listens.
pub(crate) fn listen(path: &Path) -> io::Result<OpenFile> {
    crate::remove_if_there(&crate::SystemFiles, path)?;
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let descriptor = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    // Before the bind: the file has this mode from its first moment.
    rustix::fs::fchmod(&descriptor, SOCKET_MODE)?;
    rustix::net::bind(&descriptor, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&descriptor, SOCKET_BACKLOG)?;
    Ok(OpenFile {
        path: path.to_owned(),
        facts: facts_of(descriptor.as_fd())?,
        is_writable: true,
        descriptor: Some(descriptor),
        bytes: Vec::new(),
        #[cfg(feature = "mem")]
        lease: None,
    })
}

fn find(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Finds a file below a folder. No symbolic link leads out of the folder, and none is followed within it.
fn find_beneath(folder: &Path, path: &Path) -> io::Result<OwnedFd> {
    let inner = path
        .strip_prefix(folder)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(
        folder,
        inner,
        flags,
        Mode::empty(),
        resolve,
    )?)
}

fn facts_of(file: BorrowedFd<'_>) -> io::Result<FileFacts> {
    let stat = rustix::fs::fstat(file)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::Regular,
        FileType::BlockDevice => FileKind::Block(DeviceNumber::of_stat(stat.st_rdev)),
        _ => FileKind::Other,
    };
    Ok(FileFacts {
        kind,
        id: FileId {
            device: DeviceNumber::of_stat(stat.st_dev),
            inode: stat.st_ino,
        },
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        uid: stat.st_uid,
        mode: stat.st_mode & 0o7777,
        modified_s: stat.st_mtime,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn kind_of(refused: io::Result<OpenFile>) -> FileKind {
        let why = refused.unwrap_err().into_inner().unwrap();
        why.downcast::<WrongKind>().unwrap().found
    }

    #[test]
    fn a_file_in_memory_is_read_by_its_descriptor_and_cannot_be_changed() {
        let kept = keep_in_memory("a-secret", b"secret").unwrap();
        let path = format!("/proc/self/fd/{}", kept.descriptor().unwrap().as_raw_fd());
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert!(fs::write(&path, b"other").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"secret");
    }

    #[test]
    fn a_socket_is_roots_and_takes_the_place_of_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        for _ in 0..2 {
            let socket = listen(&path).unwrap();
            assert_eq!(socket.facts().kind, FileKind::Other);
            let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap());
            assert_eq!(mode & 0o777, 0o600);
            std::os::unix::net::UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn only_files_and_disks_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (file, fifo) = (folder.path().join("file"), folder.path().join("fifo"));
        fs::write(&file, [0; 1000]).unwrap();
        rustix::fs::mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        let opened = open(&file, &Opening::disk(true)).unwrap();
        assert_eq!(opened.facts().kind, FileKind::Regular);
        assert_eq!(opened.facts().size_bytes, 1000);
        assert!(opened.is_writable() && opened.descriptor().is_some());
        // The FIFO has no writer: an open of it would not return.
        for other in [fifo.as_path(), folder.path(), Path::new("/dev/null")] {
            assert_eq!(
                kind_of(open(other, &Opening::disk(false))),
                FileKind::Other,
                "{other:?}"
            );
        }
        let missing = open(&folder.path().join("none"), &Opening::disk(false));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_link_leads_to_the_file_unless_it_must_be_beneath_a_folder() {
        let root = tempfile::tempdir().unwrap();
        let (inside, outside) = (root.path().join("inside"), root.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        fs::write(&outside, "secret").unwrap();
        fs::write(inside.join("file"), "1").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        let beneath = Opening {
            accepts: Accepts::Regular,
            is_writable: false,
            is_exclusive: false,
            beneath: Some(&inside),
            is_guarded: false,
        };
        assert!(open(&inside.join("link"), &Opening::disk(false)).is_ok());
        assert!(open(&inside.join("file"), &beneath).is_ok());
        let way_out = inside.join("../outside");
        for path in [inside.join("link"), way_out, outside.clone()] {
            assert!(open(&path, &beneath).is_err(), "{path:?}");
        }
    }

    #[test]
    fn the_lock_of_an_open_lasts_as_long_as_a_descriptor_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [0; 1000]).unwrap();
        let [first, other] = [true, true].map(|way| open(&path, &Opening::disk(way)).unwrap());
        let readers = [false, false].map(|way| open(&path, &Opening::disk(way)).unwrap());
        assert!(first.lock().unwrap() && !other.lock().unwrap() && !readers[0].lock().unwrap());
        let of_qemu = first.descriptor().unwrap().try_clone_to_owned().unwrap();
        drop(first);
        assert!(!other.lock().unwrap());
        drop(of_qemu);
        assert!(readers.iter().all(|one| one.lock().unwrap()) && !other.lock().unwrap());
    }

    #[test]
    fn device_numbers_are_read_as_sysfs_writes_them() {
        let number = DeviceNumber::parse("259:1048575\n").unwrap();
        assert_eq!(number.to_string(), "259:1048575");
        for text in ["", "7", "7:", "a:b", "7:-1"] {
            assert_eq!(DeviceNumber::parse(text), None, "{text}");
        }
    }
}
