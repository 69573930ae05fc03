//! The record of a VM on disk: its configuration, as the administrator wrote it.
//!
//! `/var/lib/xyl/vm/UUID/config.cfg` is in the format of xl.cfg. Settings from the command line and from Xyl follow
//! at its end. A restart reads it.

use std::path::{Path as FilePath, PathBuf};

use os_port::{
    Files, create_folder_durably, list_if_there, remove_folder_if_there, remove_if_there,
    write_durably,
};
use uuid::Uuid;

use crate::{Dirs, EngineError, Host};

/// Maximum number of bytes that are read of a record, as for a configuration file.
const RECORD_MAX_BYTES: u64 = 1 << 20;

/// Path of a VM's record.
pub fn path(dirs: &Dirs, uuid: &str) -> PathBuf {
    dirs.vm(uuid).join("config.cfg")
}

/// Writes the record atomically. It survives a power cut.
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

/// Path of the temporary file of the record.
fn unfinished(dirs: &Dirs, uuid: &str) -> PathBuf {
    dirs.vm(uuid).join("config.new")
}

/// Removes the temporary file of a process that died while it wrote.
pub(crate) fn remove_unfinished(host: &Host, uuid: Uuid) -> Result<(), EngineError> {
    let path = unfinished(&host.dirs, &uuid.hyphenated().to_string());
    remove_if_there(&*host.files, &path).map_err(|source| EngineError::io("remove", &path, source))
}

/// Writes a file atomically, through the temporary file `new`. If it fails, `new` is removed.
///
/// It is not synced, so a power cut may undo it. Files that must survive one are written by [`write_durably`].
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
        // The caller gets the first error. The next write replaces the temporary file.
        let _ = remove_if_there(files, new);
    }
    renamed
}

/// Whether the VM has no record. False if that cannot be read.
pub fn is_absent(host: &Host, uuid: Uuid) -> bool {
    let folder = host.dirs.vm(&uuid.hyphenated().to_string());
    list_if_there(&*host.files, &folder).is_ok_and(|names| names.is_empty())
}

/// Reads the record of a VM.
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

/// Path of the configuration of a VM whose restart was given up.
pub fn kept_path(dirs: &Dirs, uuid: &str) -> PathBuf {
    kept_folder(dirs).join(format!("{uuid}.cfg"))
}

/// Folder of the files of [`kept_path`].
pub fn kept_folder(dirs: &Dirs) -> PathBuf {
    dirs.lib.join("kept")
}

/// Whether [`keep`] has saved the VM's configuration.
pub(crate) fn is_kept(host: &Host, uuid: Uuid) -> bool {
    let path = kept_path(&host.dirs, &uuid.hyphenated().to_string());
    host.files.read(&path, RECORD_MAX_BYTES).is_ok()
}

/// Moves the record to [`kept_path`], where only a create of the VM removes it. Returns the new path. The old file is
/// removed after the new one is synced.
pub(crate) fn keep(host: &Host, uuid: Uuid) -> Result<PathBuf, EngineError> {
    let to = keep_copy(host, uuid)?;
    remove(&*host.files, &host.dirs, &uuid.hyphenated().to_string())?;
    Ok(to)
}

/// Copies the record to where nothing removes it but a create of the VM; the path of the copy, which is on the disk.
pub(crate) fn keep_copy(host: &Host, uuid: Uuid) -> Result<PathBuf, EngineError> {
    let uuid = uuid.hyphenated().to_string();
    let to = kept_path(&host.dirs, &uuid);
    let text = read(&*host.files, &host.dirs, &uuid)?;
    let (files, folder) = (&*host.files, to.parent().unwrap_or(&to));
    create_folder_durably(files, folder)?;
    write_durably(files, &to.with_extension("new"), &to, text.as_bytes())?;
    Ok(to)
}

/// Removes the file of [`keep`], because the VM has a domain again.
pub(crate) fn remove_kept(host: &Host, uuid: Uuid) -> Result<(), EngineError> {
    let path = kept_path(&host.dirs, &uuid.hyphenated().to_string());
    remove_if_there(&*host.files, &path).map_err(|source| EngineError::io("remove", &path, source))
}

/// Removes the VM's folder. A missing folder is no error.
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
