//! What Xyl keeps of a VM on disk: its configuration, as its administrator wrote it.
//!
//! `/var/lib/xyl/vm/UUID/config.cfg` is plain xl.cfg, with what the command line and Xyl itself
//! added at its end. Whoever restarts the VM reads it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::{Dirs, EngineError};

/// Largest record that is read back, in bytes; the same limit as a configuration file's.
const RECORD_MAX_BYTES: u64 = 1 << 20;

/// The record's path.
pub fn path(dirs: &Dirs, uuid: &str) -> PathBuf {
    dirs.vm(uuid).join("config.cfg")
}

/// Writes the record, whole or not at all.
pub fn write(dirs: &Dirs, uuid: &str, text: &str) -> Result<(), EngineError> {
    let folder = dirs.vm(uuid);
    fs::create_dir_all(&folder)
        .map_err(|source| EngineError::io("create folder", &folder, source))?;
    let new = folder.join("config.new");
    let path = path(dirs, uuid);
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .map_err(|source| EngineError::io("create", &new, source))?;
    file.write_all(text.as_bytes())
        .map_err(|source| EngineError::io("write", &new, source))?;
    fs::rename(&new, &path).map_err(|source| EngineError::io("rename", &path, source))
}

/// Reads the record.
pub fn read(dirs: &Dirs, uuid: &str) -> Result<String, EngineError> {
    let path = path(dirs, uuid);
    let size = fs::metadata(&path)
        .map_err(|source| EngineError::io("read", &path, source))?
        .len();
    if size > RECORD_MAX_BYTES {
        let what = format!("{size} bytes: too large for a configuration");
        return Err(EngineError::Record { path, what });
    }
    fs::read_to_string(&path).map_err(|source| EngineError::io("read", &path, source))
}

/// Removes the VM's folder; one that is not there is fine.
pub fn remove(dirs: &Dirs, uuid: &str) -> Result<(), EngineError> {
    let folder = dirs.vm(uuid);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::io("remove", &folder, error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(root.path());
        write(&dirs, "u-1", "name = \"g\"\n").unwrap();
        assert_eq!(read(&dirs, "u-1").unwrap(), "name = \"g\"\n");
        remove(&dirs, "u-1").unwrap();
        remove(&dirs, "u-1").unwrap();
        assert!(read(&dirs, "u-1").is_err());
    }
}
