//! Ramdisks and other modules. Their bytes go to the guest; this crate does not parse them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::load::{check_regular, check_size, open_regular};

/// An open file that is copied to the guest's memory unchanged. Linux unpacks its ramdisk itself.
#[derive(Debug)]
pub struct Module {
    path: PathBuf,
    file: File,
    size_bytes: u64,
}

impl Module {
    /// Opens the regular file at `path`, of 1 to `max_bytes` bytes.
    ///
    /// # Errors
    /// [`Error`]: the file is missing, not readable, not a regular file, empty or too large.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self, Error> {
        let (file, _) = open_regular(path)?;
        Self::of_file(path, file, max_bytes)
    }

    /// Takes a file that is open already. `path` is for messages alone.
    ///
    /// # Errors
    /// [`Error`]: the file is not a regular file, empty or too large.
    pub fn of_file(path: &Path, file: File, max_bytes: u64) -> Result<Self, Error> {
        let size_bytes = check_regular(path, &file)?.len();
        check_size(path, size_bytes, max_bytes)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            size_bytes,
        })
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes when it was opened; at least 1.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The open file, for a builder that has the kernel read it straight into the guest's memory.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` with the module's bytes from `offset` on; all of them have to be inside its size.
    ///
    /// # Errors
    /// [`Error::Read`] when the buffer reaches beyond the module's end, when the file has shrunk since it was opened, or
    /// when reading it fails.
    pub fn read_into(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let failed = |source| Error::Read {
            path: self.path.clone(),
            offset,
            source,
        };
        if offset
            .checked_add(buffer.len() as u64)
            .is_none_or(|end| end > self.size_bytes)
        {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.file.read_exact_at(buffer, offset).map_err(failed)
    }
}
