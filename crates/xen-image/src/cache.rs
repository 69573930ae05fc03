//! The cache of unpacked kernels, by content, so that a host unpacks each kernel once.
//!
//! It is a flat directory of files:
//! - `<sha256 of the packed file>.kernel`: an [`entry`], with a page of header and the unpacked image;
//! - `id-<identity of the packed file>`: a symbolic link to an entry, so that a known file is neither read nor hashed
//!   again (see [`identity`]);
//! - `tmp-*`: entries that are being written.
//!
//! A user who can write here controls what guests run. So the directory and each entry must belong to the user of
//! this process, and no other user may write to them. All files are opened relative to the checked directory, so that
//! it cannot be exchanged.
//!
//! A failing cache does no harm. A failed lookup is a miss, and a failed store is a message.

mod entry;
mod identity;

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat};

use crate::source::Source;

pub(crate) use entry::ContentHash;
pub(crate) use identity::Identity;

/// Bits of a file's mode that let others write to it.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Age after which a temporary file is removed. A younger one may have a living writer.
const TEMPORARY_MAX_AGE: Duration = Duration::from_secs(3600);
/// Maximum number of stored identities. A host has only a few kernels.
const IDENTITIES_MAX: usize = 256;

const ENTRY_SUFFIX: &str = ".kernel";
const IDENTITY_PREFIX: &str = "id-";
const TEMPORARY_PREFIX: &str = "tmp-";

/// The reasons why there is no cache, or why it does not store an image.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory cannot be made or opened.
    #[error(
        "cannot use {} to keep unpacked kernels: {source}; each start unpacks its kernel again",
        path.display()
    )]
    Open {
        /// Path of the directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Users other than this one could change the directory.
    #[error(
        "will not use {} to keep unpacked kernels: it belongs to user {uid} with mode {mode:04o}, \
         and others could change what guests run; make it belong to user {wanted_uid}, with mode \
         0700, or remove it",
        path.display()
    )]
    NotPrivate {
        /// Path of the directory.
        path: PathBuf,
        /// User id of the owner.
        uid: u32,
        /// Permission bits of the file.
        mode: u32,
        /// User id that the owner must have.
        wanted_uid: u32,
    },
    /// The image is larger than the cache.
    #[error("an image of {size_bytes} bytes is larger than the cache ({max_bytes} bytes)")]
    TooLarge {
        /// The image's size.
        size_bytes: u64,
        /// The cache's size.
        max_bytes: u64,
    },
    /// An image could not be stored.
    #[error("cannot {operation} in {}: {source}", path.display())]
    Store {
        /// The action that failed, as a verb phrase.
        operation: &'static str,
        /// Path of the directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
}

/// Options of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// The most bytes that all entries may have together; the ones not used for longest go first.
    pub max_bytes: u64,
    /// Minimum age of a file in milliseconds before its identity is stored. Its times do not show a change within one
    /// tick of the file system's clock.
    pub settle_ms: u64,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 30,
            settle_ms: 2000,
        }
    }
}

/// A directory with unpacked kernels.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    directory: OwnedFd,
    uid: u32,
    options: CacheOptions,
    boot_id: String,
}

impl Cache {
    /// Default path of the cache.
    pub const DEFAULT_PATH: &str = "/var/cache/xyl/kernels";

    /// Opens the cache in the directory `path`, and makes that directory, with mode 0700, if it is
    /// not there.
    ///
    /// # Errors
    /// [`CacheError::Open`] and [`CacheError::NotPrivate`]. Their messages are warnings: loading
    /// works without a cache.
    pub fn open(path: &Path, options: CacheOptions) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Open {
            path: path.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let stat = rustix::fs::fstat(&directory).map_err(|error| failed(error.into()))?;
        let wanted_uid = rustix::process::geteuid().as_raw();
        if stat.st_uid != wanted_uid || stat.st_mode & WRITABLE_BY_OTHERS != 0 {
            let (uid, mode) = (stat.st_uid, stat.st_mode & 0o7777);
            return Err(CacheError::NotPrivate {
                path: path.to_owned(),
                uid,
                mode,
                wanted_uid,
            });
        }
        let boot_id = entry::boot_id();
        Ok(Self {
            path: path.to_owned(),
            directory,
            uid: wanted_uid,
            options,
            boot_id,
        })
    }

    /// Path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The unpacked image of the file with this identity, if it is here and whole.
    pub(crate) fn by_identity(&self, identity: &Identity) -> Option<Source> {
        self.lookup(&identity.link_name(), OFlags::empty())
    }

    /// The unpacked image of the file with this content, if it is here and whole.
    pub(crate) fn by_content(&self, content: &ContentHash) -> Option<Source> {
        self.lookup(&content.file_name(), OFlags::NOFOLLOW)
    }

    fn lookup(&self, name: &str, flags: OFlags) -> Option<Source> {
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::openat(&self.directory, name, flags, Mode::empty()).ok()?;
        let file = File::from(opened);
        let metadata = file
            .metadata()
            .ok()
            .filter(|metadata| self.is_private(metadata))?;
        let header = entry::Header::read(&file, metadata.len())?;
        if !header.is_of_boot(&self.boot_id) {
            header.verify(&file)?;
            self.stamp(name, &header);
        }
        self.mark_used(&file);
        Some(Source::File {
            file,
            start: entry::HEADER_BYTES,
            len: header.image_bytes,
        })
    }

    fn is_private(&self, metadata: &Metadata) -> bool {
        let closed = metadata.mode() & WRITABLE_BY_OTHERS == 0;
        metadata.is_file() && metadata.uid() == self.uid && closed
    }

    /// Records that an entry was verified in this boot. If the write fails, the next lookup verifies again.
    fn stamp(&self, name: &str, header: &entry::Header) {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        if let Ok(opened) = rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            header.write_stamped(&File::from(opened), &self.boot_id);
        }
    }

    /// Sets the time of last change, which eviction takes as the time of last use.
    fn mark_used(&self, file: &File) {
        // A cache on a read-only file system evicts nothing, so this may fail.
        let _ = file.set_modified(SystemTime::now());
    }

    /// Keeps `image`, which `content` unpacks to.
    pub(crate) fn store(&self, content: &ContentHash, image: &Source) -> Result<(), CacheError> {
        let size_bytes = image.len().saturating_add(entry::HEADER_BYTES);
        if size_bytes > self.options.max_bytes {
            let max_bytes = self.options.max_bytes;
            return Err(CacheError::TooLarge {
                size_bytes,
                max_bytes,
            });
        }
        self.tidy(size_bytes);
        let temporary = temporary_name();
        let kept = self.write_entry(&temporary, image).and_then(|()| {
            rustix::fs::renameat(
                &self.directory,
                &*temporary,
                &self.directory,
                content.file_name(),
            )
            .map_err(|error| self.failed("give an entry its name", error))
        });
        if kept.is_err() {
            self.remove(OsStr::new(&temporary));
        }
        kept
    }

    fn write_entry(&self, name: &str, image: &Source) -> Result<(), CacheError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let opened = rustix::fs::openat(&self.directory, name, flags, mode)
            .map_err(|error| self.failed("make an entry", error))?;
        entry::write(&File::from(opened), image, &self.boot_id)
            .map_err(|error| self.failed("write an entry", error))
    }

    /// Remembers that the file with this identity has this content.
    pub(crate) fn link(
        &self,
        identity: &Identity,
        content: &ContentHash,
    ) -> Result<(), CacheError> {
        if !identity.is_settled(Duration::from_millis(self.options.settle_ms)) {
            return Ok(());
        }
        let temporary = temporary_name();
        rustix::fs::symlinkat(content.file_name(), &self.directory, &*temporary)
            .map_err(|error| self.failed("make a link", error))?;
        rustix::fs::renameat(
            &self.directory,
            &*temporary,
            &self.directory,
            identity.link_name(),
        )
        .map_err(|error| self.failed("give a link its name", error))
    }

    /// Frees `room_bytes` and removes files that are not used. After a failure the next call tries again.
    fn tidy(&self, room_bytes: u64) {
        let Ok(files) = self.files() else { return };
        let mut listing = Listing::of(files);
        for temporary in listing.abandoned_temporaries(SystemTime::now()) {
            self.remove(&temporary);
        }
        for entry in listing.entries_to_evict(self.options.max_bytes.saturating_sub(room_bytes)) {
            self.remove(&entry);
        }
        for link in listing.links_to_drop(|link| self.leads_somewhere(link)) {
            self.remove(&link);
        }
    }

    fn leads_somewhere(&self, link: &OsStr) -> bool {
        rustix::fs::statat(&self.directory, link, AtFlags::empty()).is_ok()
    }

    fn files(&self) -> io::Result<Vec<ListedFile>> {
        let mut files = Vec::new();
        for found in Dir::read_from(&self.directory)? {
            let name = OsStr::from_bytes(found?.file_name().to_bytes()).to_owned();
            // Another process may have removed the file meanwhile, as this one does.
            if let Ok(stat) = rustix::fs::statat(&self.directory, &*name, AtFlags::SYMLINK_NOFOLLOW)
            {
                files.push(ListedFile::new(name, &stat));
            }
        }
        Ok(files)
    }

    fn remove(&self, name: &OsStr) {
        // Gone already, or not to be removed: neither matters to anyone.
        let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
    }

    fn failed(&self, operation: &'static str, source: impl Into<io::Error>) -> CacheError {
        CacheError::Store {
            operation,
            path: self.path.clone(),
            source: source.into(),
        }
    }
}

/// A name that no other process or thread uses.
fn temporary_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "{TEMPORARY_PREFIX}{}-{}-{number}",
        std::process::id(),
        since_epoch.as_nanos()
    )
}

struct ListedFile {
    name: std::ffi::OsString,
    size_bytes: u64,
    modified: Duration,
}

impl ListedFile {
    fn new(name: std::ffi::OsString, stat: &Stat) -> Self {
        let size_bytes = u64::try_from(stat.st_size).unwrap_or_default();
        let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
        let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
        Self {
            name,
            size_bytes,
            modified: Duration::new(seconds, nanos),
        }
    }
}

/// The files of the directory by kind, the least recently used first.
struct Listing {
    entries: Vec<ListedFile>,
    links: Vec<ListedFile>,
    temporaries: Vec<ListedFile>,
}

impl Listing {
    fn of(mut files: Vec<ListedFile>) -> Self {
        files.sort_by_key(|file| file.modified);
        let mut listing = Self {
            entries: Vec::new(),
            links: Vec::new(),
            temporaries: Vec::new(),
        };
        for file in files {
            let name = file.name.as_bytes();
            if name.ends_with(ENTRY_SUFFIX.as_bytes()) {
                listing.entries.push(file);
            } else if name.starts_with(IDENTITY_PREFIX.as_bytes()) {
                listing.links.push(file);
            } else if name.starts_with(TEMPORARY_PREFIX.as_bytes()) {
                listing.temporaries.push(file);
            }
        }
        listing
    }

    fn abandoned_temporaries(&self, now: SystemTime) -> Vec<std::ffi::OsString> {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let old = |file: &&ListedFile| now.saturating_sub(file.modified) > TEMPORARY_MAX_AGE;
        self.temporaries
            .iter()
            .filter(old)
            .map(|file| file.name.clone())
            .collect()
    }

    /// The entries that have to go so that the others have at most `max_bytes`.
    fn entries_to_evict(&mut self, max_bytes: u64) -> Vec<std::ffi::OsString> {
        let mut total: u64 = self.entries.iter().map(|entry| entry.size_bytes).sum();
        let over = |entry: &&ListedFile| {
            let is_over = total > max_bytes;
            total = total.saturating_sub(entry.size_bytes);
            is_over
        };
        self.entries
            .iter()
            .take_while(over)
            .map(|entry| entry.name.clone())
            .collect()
    }

    /// The links without an entry, and the oldest links above the maximum.
    fn links_to_drop(&self, leads_somewhere: impl Fn(&OsStr) -> bool) -> Vec<std::ffi::OsString> {
        let (kept, mut dropped): (Vec<_>, Vec<_>) = self
            .links
            .iter()
            .partition(|link| leads_somewhere(&link.name));
        let excess = kept.len().saturating_sub(IDENTITIES_MAX);
        dropped.extend(kept.into_iter().take(excess));
        dropped.into_iter().map(|link| link.name.clone()).collect()
    }
}
