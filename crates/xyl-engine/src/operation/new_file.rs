//! A large file that an operation writes: a core, a saved guest.
//!
//! It has a hidden name of its own until it is complete and on the disk, so no process reads half a file. The steps of the operation
//! call [`NewFile::open`], [`NewFile::sync`] and [`NewFile::give_name`], and as the undo [`NewFile::remove_unfinished`].

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use os_port::{Accepts, Append, Opening, remove_if_there};
use uuid::Uuid;
use xyl_saga::{Facts, Operation};

use crate::operation::OfVm;
use crate::{EngineError, Host};

/// The reasons why no file can be made at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadPath {
    /// The path has no file name.
    NoFile,
    /// The path is not UTF-8, so the journal cannot record it.
    NoText,
}

/// The file that an operation makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewFile {
    /// The name that it gets. An existing file is replaced.
    pub path: PathBuf,
    /// The hidden, unique name that it has until then, in the same folder.
    unfinished: PathBuf,
}

impl NewFile {
    /// A file that is to be made.
    pub fn at(host: &Host, path: &Path) -> Result<NewFile, BadPath> {
        let name = path.file_name().ok_or(BadPath::NoFile)?;
        let name = name.to_str().ok_or(BadPath::NoText)?;
        path.to_str().ok_or(BadPath::NoText)?;
        let unique = Uuid::from_bytes(host.process.new_uuid());
        Ok(NewFile {
            unfinished: path.with_file_name(format!(".{name}.{}.part", unique.simple())),
            path: path.to_owned(),
        })
    }

    /// The file of an operation that another process began.
    pub fn of_journal(operation: &Operation) -> Option<NewFile> {
        Some(NewFile {
            path: PathBuf::from(operation.text("file")?),
            unfinished: PathBuf::from(operation.text("unfinished")?),
        })
    }

    /// Adds the names to the arguments of the operation.
    pub fn add_to(&self, args: &mut Facts) {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        args.insert("file".to_owned(), text(&self.path).into());
        args.insert("unfinished".to_owned(), text(&self.unfinished).into());
    }

    /// Opens it for writing.
    pub fn open(&self, host: &Host) -> io::Result<Output> {
        let file = host.files.append_to(&self.unfinished)?;
        Ok(Output { file, written: 0 })
    }

    /// Waits until the disk has it. A process that dies before the next step has its file removed, so this needs no second time.
    pub fn sync(&self, host: &Host) -> io::Result<()> {
        host.files.append_to(&self.unfinished)?.sync()
    }

    /// The file that has the hidden name now: its identity for [`NewFile::give_name`], as text, and its size in bytes.
    pub fn identity(&self, host: &Host) -> io::Result<(String, u64)> {
        identity(host, &self.unfinished)
    }

    /// Gives it its name. With an identity, a file that has the name already is taken for this one only if it is the same file.
    pub fn give_name(
        &self,
        host: &Host,
        vm: &OfVm,
        wanted: Option<&str>,
    ) -> Result<(), EngineError> {
        let is_it = |wanted| identity(host, &self.path).is_ok_and(|(found, _)| found == wanted);
        match host.files.rename(&self.unfinished, &self.path) {
            // The process that died had renamed it.
            Err(error)
                if vm.is_taken_over
                    && error.kind() == ErrorKind::NotFound
                    && wanted.is_none_or(is_it) =>
            {
                Ok(())
            }
            other => other.map_err(|source| EngineError::io("rename to", &self.path, source)),
        }
    }

    /// Waits until the disk has its name too. Some file systems cannot sync a folder, or do not let root read it.
    pub fn sync_name(&self, host: &Host) -> Result<(), EngineError> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        match host.files.sync(folder) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied
                ) =>
            {
                Ok(())
            }
            other => other.map_err(|source| EngineError::io("sync", folder, source)),
        }
    }

    /// Removes it, while it has no name yet.
    pub fn remove_unfinished(&self, host: &Host) -> Result<(), EngineError> {
        let path = &self.unfinished;
        remove_if_there(&*host.files, path)
            .map_err(|source| EngineError::io("remove", path, source))
    }
}

fn identity(host: &Host, path: &Path) -> io::Result<(String, u64)> {
    let opening = Opening {
        accepts: Accepts::Regular,
        ..Opening::disk(false)
    };
    let opened = host.files.open(path, &opening)?;
    let facts = opened.facts();
    let text = format!("{} {}", facts.id.device, facts.id.inode);
    Ok((text, facts.size_bytes))
}

/// The file while it is being written.
pub(crate) struct Output {
    file: Box<dyn Append>,
    /// Number of bytes that were written.
    pub written: u64,
}

impl Output {
    /// Waits until the disk has all of it. An error of an earlier write that the system has kept back is reported here, to this open file.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    /// Writes bytes at its end.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// The remedy for an error of writing it, or an empty text.
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ": free some space, or name a file elsewhere"
        }
        ErrorKind::NotFound => ": make the folder, or name a file elsewhere",
        _ => "",
    }
}
