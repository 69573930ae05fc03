//! What Xyl keeps of a VM on disk: its configuration, as its administrator wrote it.
//!
//! `/var/lib/xyl/vm/UUID/config.cfg` is plain xl.cfg, with what the command line and Xyl itself
//! added at its end. Whoever restarts the VM reads it.

use std::path::{Path as FilePath, PathBuf};

use os_port::{
    Files, create_folder_durably, list_if_there, remove_folder_if_there, remove_if_there,
    write_durably,
};
use uuid::Uuid;

use crate::{Dirs, EngineError, Host};

/// Largest record that is read back, in bytes; the same limit as a configuration file's.
const RECORD_MAX_BYTES: u64 = 1 << 20;

/// The record's path.
pub fn path(dirs: &Dirs, uuid: &str) -> PathBuf {
    dirs.vm(uuid).join("config.cfg")
}

/// Writes the record, whole or not at all. It outlives a power cut.
pub fn write(files: &dyn Files, dirs: &Dirs, uuid: &str, text: &str) -> Result<(), EngineError> {
    create_folder_durably(files, &dirs.vm(uuid))?;
    let new = unfinished(dirs, uuid);
    Ok(write_durably(
        files,
        &new,
        &path(dirs, uuid),
        text.as_bytes(),
    )?)
}

/// What a record is written to first.
fn unfinished(dirs: &Dirs, uuid: &str) -> PathBuf {
    dirs.vm(uuid).join("config.new")
}

/// Removes what a process left that died while it wrote the record.
pub(crate) fn remove_unfinished(host: &Host, uuid: Uuid) -> Result<(), EngineError> {
    let path = unfinished(&host.dirs, &uuid.hyphenated().to_string());
    remove_if_there(&*host.files, &path).map_err(|source| EngineError::io("remove", &path, source))
}

/// Writes a file, whole or not at all, by way of another one, which goes when that fails. A power cut may take it back;
/// what must outlive one is written by [`write_durably`].
pub(crate) fn write_whole(
    files: &dyn Files,
    new: &FilePath,
    path: &FilePath,
    bytes: &[u8],
) -> Result<(), EngineError> {
    let written = files
        .write(new, bytes)
        .map_err(|source| EngineError::io("write", new, source));
    let renamed = written.and_then(|()| {
        files
            .rename(new, path)
            .map_err(|source| EngineError::io("rename", path, source))
    });
    if renamed.is_err() {
        // That it failed is told; what stays of it, the next who writes replaces.
        let _ = remove_if_there(files, new);
    }
    renamed
}

/// Whether nothing is recorded of the VM. What cannot be looked at may hold a record.
pub(crate) fn is_absent(host: &Host, uuid: Uuid) -> bool {
    let folder = host.dirs.vm(&uuid.hyphenated().to_string());
    list_if_there(&*host.files, &folder).is_ok_and(|names| names.is_empty())
}

/// Reads the record.
pub fn read(files: &dyn Files, dirs: &Dirs, uuid: &str) -> Result<String, EngineError> {
    let path = path(dirs, uuid);
    let bytes = files
        .read(&path, RECORD_MAX_BYTES)
        .map_err(|source| EngineError::io("read", &path, source))?;
    String::from_utf8(bytes).map_err(|_| EngineError::Record {
        path,
        what: "not UTF-8: no configuration".to_owned(),
    })
}

/// Where the record goes of a VM that could not be restarted.
pub fn kept_path(dirs: &Dirs, uuid: &str) -> PathBuf {
    kept_folder(dirs).join(format!("{uuid}.cfg"))
}

/// The folder of the files of [`kept_path`].
pub fn kept_folder(dirs: &Dirs) -> PathBuf {
    dirs.lib.join("kept")
}

/// Whether [`keep`] has kept the VM's configuration.
pub(crate) fn is_kept(host: &Host, uuid: Uuid) -> bool {
    let path = kept_path(&host.dirs, &uuid.hyphenated().to_string());
    host.files.read(&path, RECORD_MAX_BYTES).is_ok()
}

/// Puts the record where nothing removes it but a create of the VM; the new path. The old one goes when the new one is on
/// the disk.
pub(crate) fn keep(host: &Host, uuid: Uuid) -> Result<PathBuf, EngineError> {
    let uuid = uuid.hyphenated().to_string();
    let to = kept_path(&host.dirs, &uuid);
    let text = read(&*host.files, &host.dirs, &uuid)?;
    let (files, folder) = (&*host.files, to.parent().unwrap_or(&to));
    create_folder_durably(files, folder)?;
    write_durably(files, &to.with_extension("new"), &to, text.as_bytes())?;
    remove(&*host.files, &host.dirs, &uuid)?;
    Ok(to)
}

/// Removes what [`keep`] kept: the VM has a domain again.
pub(crate) fn remove_kept(host: &Host, uuid: Uuid) -> Result<(), EngineError> {
    let path = kept_path(&host.dirs, &uuid.hyphenated().to_string());
    remove_if_there(&*host.files, &path).map_err(|source| EngineError::io("remove", &path, source))
}

/// Removes the VM's folder; one that is not there is fine.
pub fn remove(files: &dyn Files, dirs: &Dirs, uuid: &str) -> Result<(), EngineError> {
    let folder = dirs.vm(uuid);
    remove_folder_if_there(files, &folder)
        .map_err(|source| EngineError::io("remove", &folder, source))
}

#[cfg(test)]
mod tests {
    use os_port::SystemFiles;

    use super::*;

    #[test]
    fn is_read_back_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(root.path());
        let files = &SystemFiles;
        write(files, &dirs, "u-1", "name = \"g\"\n").unwrap();
        assert_eq!(read(files, &dirs, "u-1").unwrap(), "name = \"g\"\n");
        remove(files, &dirs, "u-1").unwrap();
        remove(files, &dirs, "u-1").unwrap();
        assert!(read(files, &dirs, "u-1").is_err());
    }
}
