//! VMs whose restart was given up: the time and the reason, for `xyl list` and `xyl ops`.
//!
//! The note is `/var/lib/xyl/kept/UUID.json`, beside the kept configuration (`UUID.cfg`). It survives a restart of the
//! host. It is removed when the VM gets a domain or is destroyed, and when a VM of its name is created. It does not
//! count if the configuration was removed.

use std::path::PathBuf;
use std::time::SystemTime;

use os_port::{Files, list_if_there, remove_if_there, write_durably};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::vm::store;
use crate::{Dirs, EngineError, Host};

/// The format's number.
const VERSION: u32 = 1;
/// Largest note that is read, in bytes.
const NOTE_MAX_BYTES: u64 = 64 << 10;
/// The longest cause that is noted, in bytes.
const WHY_MAX_BYTES: usize = 4 << 10;
/// Ending of the names of the notes.
const ENDING: &str = ".json";

/// A VM whose restart was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    version: u32,
    /// Name of the VM.
    pub name: String,
    /// Error of the last try.
    pub why: String,
    /// Time of the last try, in milliseconds since 1970.
    pub since_ms: u64,
}

fn path(dirs: &Dirs, uuid: Uuid) -> PathBuf {
    store::kept_folder(dirs).join(format!("{}{ENDING}", uuid.hyphenated()))
}

/// Notes that a VM's restart is given up. Its configuration must have been kept.
pub(crate) fn note(host: &Host, uuid: Uuid, name: &str, why: &str) -> Result<(), EngineError> {
    let since_1970 = host.clock.calendar().duration_since(SystemTime::UNIX_EPOCH);
    let since_ms = since_1970.unwrap_or_default().as_millis();
    let note = GivenUp {
        version: VERSION,
        name: name.to_owned(),
        why: cut(why).to_owned(),
        since_ms: u64::try_from(since_ms).unwrap_or(0),
    };
    let path = path(&host.dirs, uuid);
    let text = serde_json::to_vec(&note).map_err(|error| EngineError::Record {
        path: path.clone(),
        what: error.to_string(),
    })?;
    Ok(write_durably(
        &*host.files,
        &path.with_extension("json.new"),
        &path,
        &text,
    )?)
}

fn cut(why: &str) -> &str {
    let mut end = why.len().min(WHY_MAX_BYTES);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why.get(..end).unwrap_or_default()
}

/// Whether the VM's restart was given up, and why. A note that makes no sense counts as none.
pub fn read(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Option<GivenUp> {
    let bytes = files.read(&path(dirs, uuid), NOTE_MAX_BYTES).ok()?;
    let note: GivenUp = serde_json::from_slice(&bytes).ok()?;
    (note.version == VERSION).then_some(note)
}

/// All VMs whose restart was given up, in the order of their UUIDs.
pub fn all(files: &dyn Files, dirs: &Dirs) -> Vec<(Uuid, GivenUp)> {
    let names = list_if_there(files, &store::kept_folder(dirs)).unwrap_or_default();
    let is_kept = |uuid: &Uuid| names.contains(&format!("{}.cfg", uuid.hyphenated()));
    let mut uuids: Vec<Uuid> = names
        .iter()
        .filter_map(|name| Uuid::try_parse(name.strip_suffix(ENDING)?).ok())
        .filter(is_kept)
        .collect();
    uuids.sort_unstable();
    let note = |uuid: Uuid| Some((uuid, read(files, dirs, uuid)?));
    uuids.into_iter().filter_map(note).collect()
}

/// Removes the note: the VM has a domain, or is destroyed.
pub(crate) fn forget(host: &Host, uuid: Uuid) -> Result<(), EngineError> {
    let path = path(&host.dirs, uuid);
    remove_if_there(&*host.files, &path).map_err(|source| EngineError::io("remove", &path, source))
}

/// Removes the notes about VMs of this name: a VM of that name has been created. Configurations that are kept stay.
pub(crate) fn forget_named(host: &Host, name: &str) -> Result<(), EngineError> {
    let all = all(&*host.files, &host.dirs).into_iter();
    all.filter(|(_, given_up)| given_up.name == name)
        .try_for_each(|(uuid, _)| forget(host, uuid))
}
