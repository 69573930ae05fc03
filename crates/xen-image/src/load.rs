//! Loads an [`Image`] from a path, within limits and through the cache.

use std::any::Any;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::bytes::array_at;
use crate::bzimage::SetupHeader;
use crate::cache::{Cache, CacheOptions, ContentHash, Identity};
use crate::compression::Compression;
use crate::error::{Error, Malformed};
use crate::image::{self, Image};
use crate::limits::Limits;
use crate::source::Source;
use crate::unpack::{InProcess, Unpack, Unpacked};

/// Maximum number of compression layers. A distribution's bzImage has one, a gzip'ed bzImage two.
const LAYERS_MAX: usize = 3;
/// The length of the magic number at the start of ELF.
const MAGIC_BYTES: u64 = 4;

/// The origin of an image's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The file is an ELF image without compression.
    Plain,
    /// The cache had the file's identity. The packed file was not read.
    CachedByIdentity,
    /// The cache had the file's content. The packed file was read and hashed.
    CachedByContent,
    /// The image was unpacked now.
    Unpacked {
        /// Message for the log: the reason why the cache did not store it. `None` if it did, or if there is no cache.
        not_cached: Option<String>,
    },
}

/// Loads kernels, within limits, with a cache if there is one.
#[derive(Debug)]
pub struct Loader {
    /// The size limits of a kernel.
    pub limits: Limits,
    /// Folder of unpacked kernels, used for packed kernels only. Without it, or if it is not usable, each load
    /// unpacks.
    pub cache: Option<CacheFolder>,
    /// The implementation that unpacks: this process, or a confined one.
    pub unpack: Rc<dyn Unpack>,
}

impl Default for Loader {
    /// The usual limits, no cache, and this process unpacks.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            cache: None,
            unpack: Rc::new(InProcess),
        }
    }
}

/// The directory of a [`Cache`] that is opened when it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFolder {
    /// Path of the directory.
    pub path: PathBuf,
    /// Options of the cache.
    pub options: CacheOptions,
}

impl Loader {
    /// Loads the kernel at `path`: plain ELF, a bzImage, or either of them packed.
    ///
    /// A plain image and a cached one stay in their files. Headers and notes are read and parsed once; a builder
    /// reads the segments later. A change of the file in between can change the bytes of segments, which are not
    /// checked, but no checked value.
    ///
    /// # Errors
    /// [`Error`]: the file is missing, not readable, not a regular file, empty, too large or cut off; or it is not a
    /// valid kernel, or exceeds a limit.
    pub fn load(&self, path: &Path) -> Result<Image, Error> {
        let (file, metadata) = open_regular(path)?;
        self.load_opened(path, file, &metadata, true)
    }

    /// Loads a kernel from an open file that has no path on this host, such as one that a boot loader has found. `path` is for messages
    /// alone. The cache is asked for the content, and not for the file's identity.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_file(&self, path: &Path, file: File) -> Result<Image, Error> {
        let metadata = check_regular(path, &file)?;
        self.load_opened(path, file, &metadata, false)
    }

    fn load_opened(
        &self,
        path: &Path,
        file: File,
        metadata: &Metadata,
        has_identity: bool,
    ) -> Result<Image, Error> {
        let magic = read_start(path, &file, metadata.len().min(MAGIC_BYTES))?;
        if image::is_elf(&magic) {
            check_size(path, metadata.len(), self.limits.decompressed_max_bytes)?;
            let source = Source::File {
                file,
                start: 0,
                len: metadata.len(),
            };
            return Image::from_source(path.to_owned(), Origin::Plain, source, &self.limits)
                .map_err(|source| malformed(path, source));
        }
        check_size(path, metadata.len(), self.limits.compressed_max_bytes)?;
        self.load_packed(path, &file, metadata, has_identity)
    }

    /// Loads a kernel, packed or not, that is in memory already. `path` is for messages alone; the cache is not asked.
    ///
    /// # Errors
    /// [`Malformed`], as for [`Self::load`].
    pub fn load_bytes(&self, path: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Image, Malformed> {
        let origin = if image::is_elf(&bytes) {
            Origin::Plain
        } else {
            Origin::Unpacked { not_cached: None }
        };
        let elf = self.take_out(bytes)?;
        Image::from_source(path.into(), origin, elf, &self.limits)
    }

    fn load_packed(
        &self,
        path: &Path,
        file: &File,
        metadata: &Metadata,
        has_identity: bool,
    ) -> Result<Image, Error> {
        let opened = self
            .cache
            .as_ref()
            .map(|folder| Cache::open(&folder.path, folder.options));
        let not_cached = match opened {
            Some(Ok(cache)) => {
                let identity = match has_identity {
                    true => Some(identity_of(path, file, metadata)?),
                    false => None,
                };
                return self.load_with_cache(path, file, (metadata, identity), &cache);
            }
            Some(Err(error)) => Some(error.to_string()),
            None => None,
        };
        let packed = read_start(path, file, metadata.len())?;
        let _turn = self.wait_for_turn(path)?;
        let mut image = self
            .load_bytes(path, packed)
            .map_err(|source| malformed(path, source))?;
        image.set_origin(Origin::Unpacked { not_cached });
        Ok(image)
    }

    fn wait_for_turn(&self, path: &Path) -> Result<Box<dyn Any>, Error> {
        let turn = self.unpack.wait_for_turn();
        turn.map_err(|source| Error::NoTurn {
            path: path.to_owned(),
            source,
        })
    }

    fn load_with_cache(
        &self,
        path: &Path,
        file: &File,
        (metadata, identity): (&Metadata, Option<Identity>),
        cache: &Cache,
    ) -> Result<Image, Error> {
        if let Some(identity) = &identity
            && let Some(source) = cache.by_identity(identity)
            && let Some(image) = self.cached_image(path, Origin::CachedByIdentity, source)
        {
            return Ok(image);
        }
        let packed = read_start(path, file, metadata.len())?;
        let content = ContentHash::of(&packed);
        let identity = identity.and_then(|identity| unchanged(identity, file));
        let known = || {
            let source = cache.by_content(&content)?;
            self.cached_image(path, Origin::CachedByContent, source)
        };
        let mut found = known();
        let mut turn = None;
        if found.is_none() {
            turn = Some(self.wait_for_turn(path)?);
            // Another process may have unpacked it meanwhile.
            found = known();
        }
        if let Some(image) = found {
            // Without the link, the next lookup finds the entry by its content.
            let _ = identity.map(|identity| cache.link(&identity, &content));
            return Ok(image);
        }
        let mut image = self
            .load_bytes(path, packed)
            .map_err(|source| malformed(path, source))?;
        let kept = cache
            .store(&content, image.source())
            .and_then(|()| identity.map_or(Ok(()), |identity| cache.link(&identity, &content)));
        drop(turn);
        image.set_origin(Origin::Unpacked {
            not_cached: kept.err().map(|error| error.to_string()),
        });
        Ok(image)
    }

    /// The cache's copy, if it is a valid image within the limits. If not, unpacking again reports the reason.
    fn cached_image(&self, path: &Path, origin: Origin, source: Source) -> Option<Image> {
        if source.len() > self.limits.decompressed_max_bytes {
            return None;
        }
        Image::from_source(path.to_owned(), origin, source, &self.limits).ok()
    }
}

fn identity_of(path: &Path, file: &File, metadata: &Metadata) -> Result<Identity, Error> {
    Identity::of(file, metadata).map_err(|source| Error::Read {
        path: path.to_owned(),
        offset: 0,
        source,
    })
}

/// The file's identity, if it did not change while the file was read.
fn unchanged(before: Identity, file: &File) -> Option<Identity> {
    let metadata = file.metadata().ok()?;
    Identity::of(file, &metadata)
        .ok()
        .filter(|after| *after == before)
}

/// Out of the wrappings.
impl Loader {
    /// Takes an image out of all its wrappings.
    fn take_out(&self, mut bytes: Vec<u8>) -> Result<Source, Malformed> {
        for layer in 0..LAYERS_MAX {
            if image::is_elf(&bytes) {
                break;
            }
            let unpacked = self.take_off_layer(&bytes).map_err(|error| match error {
                Malformed::UnknownFormat { .. } if layer > 0 => Malformed::UnknownContent,
                other => other,
            })?;
            match unpacked {
                Unpacked::Memory(unpacked) => bytes = unpacked,
                Unpacked::File { file, len_bytes } => {
                    drop(std::mem::take(&mut bytes));
                    let source = Source::File {
                        file,
                        start: 0,
                        len: len_bytes,
                    };
                    let magic = source.read_vec("magic number", 0, len_bytes.min(MAGIC_BYTES))?;
                    if image::is_elf(&magic) {
                        return Ok(source);
                    }
                    bytes = self.read_packed(&source)?;
                }
            }
        }
        if image::is_elf(&bytes) {
            return Ok(Source::Memory(bytes));
        }
        // Still packed is one layer too many; anything else never was a kernel.
        match Compression::detect(&bytes) {
            None if !SetupHeader::detect(&bytes) => Err(Malformed::UnknownContent),
            _ => Err(Malformed::TooManyLayers { max: LAYERS_MAX }),
        }
    }

    /// An unpacked layer that is packed itself, to be unpacked once more.
    fn read_packed(&self, source: &Source) -> Result<Vec<u8>, Malformed> {
        let (size_bytes, max_bytes) = (source.len(), self.limits.compressed_max_bytes);
        if size_bytes > max_bytes {
            return Err(Malformed::CompressedTooLarge {
                size_bytes,
                max_bytes,
            });
        }
        source.read_vec("unpacked layer", 0, size_bytes)
    }

    fn take_off_layer(&self, bytes: &[u8]) -> Result<Unpacked, Malformed> {
        if SetupHeader::detect(bytes) {
            return self.take_out_of_bzimage(bytes);
        }
        let format = Compression::detect(bytes).ok_or_else(|| unknown_format(bytes))?;
        self.unpack.unpack(format, bytes, &self.limits)
    }

    fn take_out_of_bzimage(&self, file: &[u8]) -> Result<Unpacked, Malformed> {
        let range = SetupHeader::parse(file)?.payload(file.len())?;
        let payload = file.get(range).unwrap_or_default();
        let format = Compression::detect(payload).ok_or_else(|| unknown_payload(payload))?;
        if !format.has_size_appended() {
            return self.unpack.unpack(format, payload, &self.limits);
        }
        let packed_len = payload.len().saturating_sub(size_of::<u32>());
        let (packed, size) = payload.split_at(packed_len);
        let unpacked = self.unpack.unpack(format, packed, &self.limits)?;
        let actual_bytes = match &unpacked {
            Unpacked::Memory(bytes) => bytes.len() as u64,
            Unpacked::File { len_bytes, .. } => *len_bytes,
        };
        match array_at(size, 0).map(u32::from_le_bytes) {
            Some(stated) if u64::from(stated) == actual_bytes => Ok(unpacked),
            stated => Err(Malformed::WrongSize {
                format,
                actual_bytes,
                stated_bytes: stated.unwrap_or_default(),
            }),
        }
    }
}

fn unknown_payload(payload: &[u8]) -> Malformed {
    let payload = if image::is_elf(payload) {
        "an ELF image that is not packed"
    } else {
        "packed in no known way"
    };
    Malformed::UnknownPayload { payload }
}

fn unknown_format(bytes: &[u8]) -> Malformed {
    let start = bytes
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ");
    Malformed::UnknownFormat { start }
}

fn malformed(path: &Path, source: Malformed) -> Error {
    Error::Malformed {
        path: path.to_owned(),
        source,
    }
}

/// Opens a regular file that is not empty. A pipe or a device is an error; the call does not wait for it.
pub(crate) fn open_regular(path: &Path) -> Result<(File, Metadata), Error> {
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open(path)
        .map_err(|source| open_error(path, source))?;
    let metadata = check_regular(path, &file)?;
    Ok((file, metadata))
}

/// Refuses an open file that is not regular, or empty.
pub(crate) fn check_regular(path: &Path, file: &File) -> Result<Metadata, Error> {
    let metadata = file.metadata().map_err(|source| open_error(path, source))?;
    if !metadata.is_file() {
        return Err(Error::NotAFile {
            path: path.to_owned(),
            found: kind_of(&metadata),
        });
    }
    if metadata.len() == 0 {
        return Err(Error::Empty {
            path: path.to_owned(),
        });
    }
    Ok(metadata)
}

fn open_error(path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::NotFound => Error::Missing { path },
        ErrorKind::PermissionDenied => Error::Denied { path },
        // Opening a socket returns this error.
        _ if source.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            Error::NotAFile {
                path,
                found: "a socket or a device that is not there",
            }
        }
        _ => Error::Open { path, source },
    }
}

fn kind_of(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_char_device() {
        "a character device"
    } else {
        "something else"
    }
}

pub(crate) fn check_size(path: &Path, size_bytes: u64, max_bytes: u64) -> Result<(), Error> {
    if size_bytes > max_bytes {
        return Err(Error::TooLarge {
            path: path.to_owned(),
            size_bytes,
            max_bytes,
        });
    }
    Ok(())
}

/// The first `len` bytes of a file; all of them have to be there.
fn read_start(path: &Path, file: &File, len: u64) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        offset: 0,
        source,
    };
    let len = usize::try_from(len).map_err(|_| failed(ErrorKind::OutOfMemory.into()))?;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(len)
        .map_err(|_| failed(ErrorKind::OutOfMemory.into()))?;
    bytes.resize(len, 0);
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes)
}
