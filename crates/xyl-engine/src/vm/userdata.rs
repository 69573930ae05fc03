//! libxl's files of a domain ("userdata"): `/var/lib/xen/userdata-d.DOMID.UUID.NAME`.
//!
//! The file `libxl-json` contains the domain's configuration. xl reads it in each command on a domain, so Xyl writes
//! one for each of its domains. The text ends with a NUL byte, because libxl reads the file into a buffer of exactly
//! its size and parses it as a C string. Without the NUL, xl would read beyond its buffer.
//!
//! xl changes these files, a domain's devices and a domain's memory limits under one lock, `domain-userdata-lock`. So
//! does Xyl. Order of locks: first the VM lock (`VmGuard`), then this one.
//!
//! libxl rewrites the record only when devices change. It reads name, memory, vCPUs and CPU share from xenstore and
//! Xen each time. Xyl does the same.
//!
//! Facts: `libxl__userdata_path` and `libxl__userdata_destroyall` (`libxl_dom.c`), `libxl__set_domain_configuration`
//! and `libxl__lock_domain_userdata` (`libxl_internal.c`), `libxl_retrieve_domain_configuration` (`libxl_domain.c`).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use os_port::{Files, Lock, list_if_there, remove_if_there};
use serde_json::Value;
use xen_port::DomId;

use crate::vm::store::write_whole;
use crate::{EngineError, Host};

/// Maximum number of bytes that are read of a record. xl's records have a few KiB.
pub(crate) const RECORD_MAX_BYTES: u64 = 1 << 20;
/// Time limit for a command of xl to release the lock. libxl holds it for a few system calls.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
/// Name of libxl's lock.
const LOCK_NAME: &str = "domain-userdata-lock";

/// Path of a domain's libxl-json; `uuid` is the VM's UUID in text.
pub fn json_path(xen_lib: &Path, domid: DomId, uuid: &str) -> PathBuf {
    path(xen_lib, 'd', domid, uuid, "libxl-json")
}

/// Path of a file. `class` is `d` for data, `n` for a file that is being written, `l` for a lock.
fn path(xen_lib: &Path, class: char, domid: DomId, uuid: &str, name: &str) -> PathBuf {
    xen_lib.join(format!("userdata-{class}.{domid}.{uuid}.{name}"))
}

/// The bytes of a record: its JSON and a NUL.
pub fn encode_json(record: &Value) -> Vec<u8> {
    let mut bytes = record.to_string().into_bytes();
    bytes.push(0);
    bytes
}

/// Parses the bytes of a record. Accepts one without the NUL, because earlier versions of Xyl wrote such records.
///
/// # Errors
/// An error of the JSON parser.
pub fn decode_json(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(bytes.strip_suffix(b"\0").unwrap_or(bytes))
}

/// Reads a domain's libxl-json.
///
/// # Errors
/// [`EngineError::Io`] if it cannot be read, [`EngineError::Record`] if it is not JSON.
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

/// Writes a domain's libxl-json atomically, under libxl's lock.
///
/// # Errors
/// [`EngineError::Io`]; [`EngineError::Deadline`] if a process of xl holds the lock.
pub fn write_json(
    host: &Host,
    domid: DomId,
    uuid: &str,
    record: &Value,
) -> Result<(), EngineError> {
    let (files, xen_lib) = (&*host.files, host.dirs.xen_lib.as_path());
    let _lock = lock(host, domid, uuid)?;
    let new = path(xen_lib, 'n', domid, uuid, "libxl-json");
    let path = json_path(xen_lib, domid, uuid);
    write_whole(files, &new, &path, &encode_json(record))
}

/// Changes a domain's libxl-json. The caller has libxl's lock of the domain, so no change of xl is lost. `change` returns whether it has changed
/// anything. A domain without the file, which another toolstack has made, stays without it.
///
/// # Errors
/// As [`read_json`] and [`write_json`].
pub(crate) fn change_json(
    host: &Host,
    domid: DomId,
    uuid: &str,
    change: impl FnOnce(&mut Value) -> bool,
) -> Result<(), EngineError> {
    let (files, xen_lib) = (&*host.files, host.dirs.xen_lib.as_path());
    let mut record = match read_json(files, xen_lib, domid, uuid) {
        Err(EngineError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Ok(());
        }
        read => read?,
    };
    let new = path(xen_lib, 'n', domid, uuid, "libxl-json");
    if !change(&mut record) {
        // A process that died while it wrote has left it. Nobody writes it now, because the lock is held.
        return remove_if_there(files, &new)
            .map_err(|source| EngineError::io("remove", &new, source));
    }
    let path = json_path(xen_lib, domid, uuid);
    write_whole(files, &new, &path, &encode_json(&record))
}

/// Takes libxl's lock of a domain, and waits for a process of xl that holds it. `uuid` is the VM's UUID as text.
///
/// Dropping the lock removes its file, as libxl does. Each side checks that the locked file is still the one at the
/// path.
///
/// # Errors
/// [`EngineError::Io`]; [`EngineError::Deadline`] if a process of xl holds the lock.
pub(crate) fn lock(host: &Host, domid: DomId, uuid: &str) -> Result<Box<dyn Lock>, EngineError> {
    let path = path(&host.dirs.xen_lib, 'l', domid, uuid, LOCK_NAME);
    let deadline = host.clock.now() + LOCK_LIMIT;
    let lock = host
        .files
        .lock(&path, Some(deadline))
        .map_err(|source| EngineError::io("lock", &path, source))?;
    lock.ok_or_else(|| EngineError::Deadline {
        what: format!(
            "another process, probably of xl, holds {}: wait for that process or end it (`fuser {}` shows it), then repeat this",
            path.display(),
            path.display()
        ),
        limit_s: LOCK_LIMIT.as_secs(),
    })
}

/// Removes all userdata files of the domain, also those of xl, under libxl's lock.
///
/// # Errors
/// [`EngineError::Io`]; [`EngineError::Deadline`] if a process of xl holds the lock.
pub fn remove_all(host: &Host, domid: DomId, uuid: &str) -> Result<(), EngineError> {
    let (files, xen_lib) = (&*host.files, host.dirs.xen_lib.as_path());
    let names =
        list_if_there(files, xen_lib).map_err(|source| EngineError::io("list", xen_lib, source))?;
    let middle = format!(".{domid}.{uuid}.");
    let is_one = |name: &String| name.starts_with("userdata-") && name.contains(&middle);
    if !names.iter().any(is_one) {
        return Ok(());
    }
    // Dropping the lock removes its file.
    let _lock = lock(host, domid, uuid)?;
    let is_file = |name: &String| is_one(name) && !name.ends_with(LOCK_NAME);
    for name in names.into_iter().filter(is_file) {
        let path = xen_lib.join(name);
        remove_if_there(files, &path).map_err(|source| EngineError::io("remove", &path, source))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use xen_sim::model::Model;
    use xenstore::mem::MemStore;

    use super::*;
    use crate::Dirs;

    const DOMID: DomId = DomId(3);

    fn host() -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().unwrap();
        let store = MemStore::new().client(0).unwrap();
        let host = Host::new(Box::new(Model::new(64)), store, Dirs::below(folder.path()));
        (folder, host)
    }

    fn names(host: &Host) -> Vec<String> {
        host.files.list(&host.dirs.xen_lib).unwrap()
    }

    #[test]
    fn the_record_ends_in_a_nul_and_is_read_back() {
        let (_folder, host) = host();
        let record = json!({"c_info": {"name": "g"}});
        write_json(&host, DOMID, "u-1", &record).unwrap();
        let bytes = fs::read(json_path(&host.dirs.xen_lib, DOMID, "u-1")).unwrap();
        let nul = bytes.iter().position(|byte| *byte == 0);
        assert_eq!(nul, Some(bytes.len() - 1));
        let read = read_json(&*host.files, &host.dirs.xen_lib, DOMID, "u-1");
        assert_eq!(read.unwrap(), record);
        assert_eq!(names(&host), ["userdata-d.3.u-1.libxl-json"]);
    }

    #[test]
    fn a_record_without_its_nul_is_read_too() {
        assert_eq!(decode_json(b"{}").unwrap(), json!({}));
        assert!(decode_json(b"{}\0\0").is_err());
    }

    #[test]
    fn all_files_of_one_domain_are_removed() {
        let (_folder, host) = host();
        write_json(&host, DOMID, "u-1", &json!({})).unwrap();
        for name in [
            "userdata-d.3.u-1.xl",
            "userdata-l.3.u-1.domain-userdata-lock",
            "userdata-d.33.u-1.xl",
        ] {
            fs::write(host.dirs.xen_lib.join(name), "").unwrap();
        }
        remove_all(&host, DOMID, "u-1").unwrap();
        assert_eq!(names(&host), ["userdata-d.33.u-1.xl"]);
    }

    #[test]
    fn the_lock_of_xl_keeps_others_out() {
        let (_folder, host) = host();
        write_json(&host, DOMID, "u-1", &json!({})).unwrap();
        let path = host
            .dirs
            .xen_lib
            .join("userdata-l.3.u-1.domain-userdata-lock");
        // As libxl does.
        let file = fs::File::create(&path).unwrap();
        file.lock().unwrap();
        let release = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            fs::remove_file(path).unwrap();
            file.unlock().unwrap();
        });
        write_json(&host, DOMID, "u-1", &json!({"a": 1})).unwrap();
        assert!(release.is_finished() || release.join().is_ok());
        assert_eq!(names(&host), ["userdata-d.3.u-1.libxl-json"]);
    }
}
