//! Files of a process that can be killed.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Instant;

use os_port::mem::ProcessFiles;
use os_port::{Append, Files, Lock};

use crate::fate::Fate;

/// The disk behind a fate.
pub(crate) struct MortalFiles {
    pub inner: ProcessFiles,
    pub fate: Fate,
}

fn dead<T>() -> io::Result<T> {
    Err(ErrorKind::Interrupted.into())
}

fn half(bytes: &[u8]) -> &[u8] {
    bytes.get(..bytes.len() / 2).unwrap_or_default()
}

impl MortalFiles {
    fn call<T>(&self, effect: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.fate.call(effect, dead)
    }
}

impl Files for MortalFiles {
    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        self.call(|| self.inner.read(path, max_bytes))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let midway = || drop(self.inner.write(path, half(bytes)));
        self.fate
            .call_in_parts(Some(midway), || self.inner.write(path, bytes), dead)
    }

    fn append_to(&self, path: &Path) -> io::Result<Box<dyn Append>> {
        let fate = self.fate.clone();
        let opened = self.call(|| self.inner.append_to(path))?;
        Ok(Box::new(MortalAppend {
            inner: opened,
            fate,
            late: Vec::new(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(|| self.inner.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.fate.forgets("remove") {
            return self.call(|| Ok(()));
        }
        self.call(|| self.inner.remove(path))
    }

    /// Midway, one file of the folder is gone.
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        if self.fate.forgets("remove_folder") {
            return self.call(|| Ok(()));
        }
        let midway = || {
            let names = self.inner.list(path).unwrap_or_default();
            if let Some(first) = names.first() {
                drop(self.inner.remove(&path.join(first)));
            }
        };
        self.fate
            .call_in_parts(Some(midway), || self.inner.remove_folder(path), dead)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.call(|| self.inner.create_folder(path))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.call(|| self.inner.list(folder))
    }

    fn lock(&self, path: &Path, deadline: Option<Instant>) -> io::Result<Option<Box<dyn Lock>>> {
        let lock = self.call(|| self.inner.lock(path, deadline))?;
        Ok(lock.map(|inner| {
            Box::new(MortalLock {
                inner: Some(inner),
                fate: self.fate.clone(),
            }) as Box<dyn Lock>
        }))
    }
}

struct MortalAppend {
    inner: Box<dyn Append>,
    fate: Fate,
    /// What is still to be written by a process that writes late.
    late: Vec<u8>,
}

impl Append for MortalAppend {
    /// Midway, a part of it is written, and most often one that ends within a line.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let now = match self.fate.writes_late() {
            true => std::mem::replace(&mut self.late, bytes.to_vec()),
            false => bytes.to_vec(),
        };
        let bytes = now.as_slice();
        let cut = bytes.len().saturating_sub(bytes.len() / 3);
        let inner = std::cell::RefCell::new(&mut self.inner);
        let part = bytes.get(..cut).unwrap_or_default();
        self.fate.call_in_parts(
            Some(|| drop(inner.borrow_mut().append(part))),
            || inner.borrow_mut().append(bytes),
            dead,
        )
    }
}

struct MortalLock {
    inner: Option<Box<dyn Lock>>,
    fate: Fate,
}

impl Lock for MortalLock {
    fn leave(mut self: Box<Self>) {
        if let Some(inner) = self.inner.take() {
            inner.leave();
        }
    }
}

impl Drop for MortalLock {
    /// The file goes with one call, and with another one the lock; the kernel frees those of the dead.
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            let inner = std::cell::Cell::new(Some(inner));
            self.fate.call(|| drop(inner.take()), || drop(inner.take()));
        }
    }
}
