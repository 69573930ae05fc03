//! libxl's files of a domain ("userdata"): `/var/lib/xen/userdata-d.DOMID.UUID.NAME`.
//!
//! The one that is named `libxl-json` holds the domain's configuration. xl reads it for each command on a domain, so Xyl writes
//! one for each of its own domains. Its text ends in a NUL byte: libxl reads the file into a buffer of exactly
//! its size and parses that as a C string. A record without the NUL makes xl read beyond its buffer.
//!
//! Facts: `libxl__userdata_path` and `libxl__userdata_destroyall` (`libxl_dom.c`), `libxl__set_domain_configuration`
//! (`libxl_internal.c`).

use std::path::{Path, PathBuf};

use os_port::{Files, list_if_there, remove_if_there};
use serde_json::Value;
use xen_port::DomId;

use crate::EngineError;
use crate::vm::store::write_whole;

/// Largest record that is read, in bytes. Those of xl are a few KiB.
pub(crate) const RECORD_MAX_BYTES: u64 = 1 << 20;

/// Path of a domain's libxl-json; `uuid` is the VM's UUID in text.
pub fn json_path(xen_lib: &Path, domid: DomId, uuid: &str) -> PathBuf {
    path(xen_lib, 'd', domid, uuid, "libxl-json")
}

/// `class` is `d` for a file, `n` for one that is being written, `l` for a lock.
fn path(xen_lib: &Path, class: char, domid: DomId, uuid: &str, name: &str) -> PathBuf {
    xen_lib.join(format!("userdata-{class}.{domid}.{uuid}.{name}"))
}

/// The bytes of a record: its JSON and a NUL.
pub fn encode_json(record: &Value) -> Vec<u8> {
    let mut bytes = record.to_string().into_bytes();
    bytes.push(0);
    bytes
}

/// The record in these bytes. A record without its NUL is accepted: Xyl wrote such ones once.
///
/// # Errors
/// What is wrong with the JSON.
pub fn decode_json(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(bytes.strip_suffix(b"\0").unwrap_or(bytes))
}

/// Reads a domain's libxl-json.
///
/// # Errors
/// [`EngineError::Io`] where it cannot be read, [`EngineError::Record`] where it is no JSON.
pub fn read_json(
    files: &dyn Files,
    xen_lib: &Path,
    domid: DomId,
    uuid: &str,
) -> Result<Value, EngineError> {
    let path = json_path(xen_lib, domid, uuid);
    let bytes = files
        .read(&path, RECORD_MAX_BYTES)
        .map_err(|source| EngineError::io("read", &path, source))?;
    decode_json(&bytes).map_err(|error| EngineError::Record {
        path,
        what: format!("not JSON: {error}"),
    })
}

/// Writes a domain's libxl-json, whole or not at all.
///
/// # Errors
/// [`EngineError::Io`].
pub fn write_json(
    files: &dyn Files,
    xen_lib: &Path,
    domid: DomId,
    uuid: &str,
    record: &Value,
) -> Result<(), EngineError> {
    let new = path(xen_lib, 'n', domid, uuid, "libxl-json");
    files
        .create_folder(xen_lib)
        .map_err(|source| EngineError::io("create folder", xen_lib, source))?;
    let path = json_path(xen_lib, domid, uuid);
    write_whole(files, &new, &path, &encode_json(record))
}

/// Removes every userdata file of the domain, those of Xyl and those of xl.
///
/// # Errors
/// [`EngineError::Io`].
pub fn remove_all(
    files: &dyn Files,
    xen_lib: &Path,
    domid: DomId,
    uuid: &str,
) -> Result<(), EngineError> {
    let middle = format!(".{domid}.{uuid}.");
    let names =
        list_if_there(files, xen_lib).map_err(|source| EngineError::io("list", xen_lib, source))?;
    for name in names {
        if name.starts_with("userdata-") && name.contains(&middle) {
            let path = xen_lib.join(name);
            remove_if_there(files, &path)
                .map_err(|source| EngineError::io("remove", &path, source))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use os_port::SystemFiles;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_record_ends_in_a_nul_and_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let record = json!({"c_info": {"name": "g"}});
        let (domid, uuid) = (DomId(3), "u-1");
        write_json(&SystemFiles, folder.path(), domid, uuid, &record).unwrap();
        let bytes = fs::read(json_path(folder.path(), domid, uuid)).unwrap();
        assert_eq!(
            bytes.iter().position(|byte| *byte == 0),
            Some(bytes.len() - 1)
        );
        let read = read_json(&SystemFiles, folder.path(), domid, uuid);
        assert_eq!(read.unwrap(), record);
    }

    #[test]
    fn a_record_without_its_nul_is_read_too() {
        assert_eq!(decode_json(b"{}").unwrap(), json!({}));
        assert!(decode_json(b"{}\0\0").is_err());
    }

    #[test]
    fn all_files_of_one_domain_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: &str| fs::write(folder.path().join(name), "").unwrap();
        touch("userdata-d.3.u-1.libxl-json");
        touch("userdata-d.3.u-1.xl");
        touch("userdata-d.33.u-1.xl");
        remove_all(&SystemFiles, folder.path(), DomId(3), "u-1").unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(folder.path().join("userdata-d.33.u-1.xl").exists());
    }
}
