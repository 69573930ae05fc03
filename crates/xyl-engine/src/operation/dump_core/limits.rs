//! Limits for the cores that are written when a guest ends.
//!
//! A guest decides when it crashes, so it must not fill domain 0's disk by that. The host's policy has the limits (`[cores]`). When a
//! VM's cores were begun stands in `/run/xyl/vm/UUID/cores`: lines of `SECONDS DOMID`, the seconds being those since the host was
//! started. `xyl dump-core` has no limits: an administrator asks for that core.

use std::path::{Path, PathBuf};

use os_port::list_if_there;
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, PAGE_SIZE};
use xyl_audit::Policy;
use xyl_audit::policy::Cores;

use crate::error::DumpError;
use crate::vm::Vm;
use crate::vm::store;
use crate::{EngineError, Host};

/// An hour in seconds.
const HOUR_S: u64 = 3600;
/// Largest note that is read, in bytes.
const NOTE_MAX_BYTES: u64 = 64 << 10;
/// Size of a page's entry in the table of pages, in bytes.
const ENTRY_SIZE_BYTES: u64 = 16;
/// Number of bytes in a MiB.
const MIB: u64 = 1 << 20;

/// Refuses a core that is beyond a limit, and counts one that is not. A core that another monitor has begun for the same domain was
/// counted then.
pub(super) fn take(host: &Host, vm: Vm, info: &DomainInfo, file: &Path) -> Result<(), EngineError> {
    // Without a policy the guest ends all the same.
    let policy = Policy::load(&*host.files, &host.dirs.policy);
    let limits = policy.map(|policy| policy.cores).unwrap_or_default();
    let folder = host.dirs.dump();
    refuse_many_files(host, &folder, file, limits)?;
    refuse_full_disk(host, &folder, info, limits)?;
    count(host, vm, limits)
}

fn refuse_many_files(
    host: &Host,
    folder: &Path,
    file: &Path,
    limits: Cores,
) -> Result<(), EngineError> {
    let names = list_if_there(&*host.files, folder)
        .map_err(|source| EngineError::io("list", folder, source))?;
    let own = file.file_name();
    // One that is being written has a hidden name.
    let is_other = |name: &&String| !name.starts_with('.') && Some(name.as_ref()) != own;
    let nr_others = names.iter().filter(is_other).count();
    match u32::try_from(nr_others).is_ok_and(|others| others < limits.kept) {
        true => Ok(()),
        false => Err(DumpError::TooManyKept {
            folder: folder.to_owned(),
            kept: limits.kept,
        }
        .into()),
    }
}

fn refuse_full_disk(
    host: &Host,
    folder: &Path,
    info: &DomainInfo,
    limits: Cores,
) -> Result<(), EngineError> {
    let free_bytes = host
        .files
        .free_bytes(folder)
        .map_err(|source| EngineError::io("look for free space on", folder, source))?;
    let page_size_bytes = PAGE_SIZE as u64 + ENTRY_SIZE_BYTES;
    let size_mib = info.tot_pages.saturating_mul(page_size_bytes).div_ceil(MIB);
    let wanted_mib = size_mib.saturating_add(limits.min_free_mib);
    match free_bytes / MIB >= wanted_mib {
        true => Ok(()),
        false => Err(DumpError::DiskTooFull {
            folder: folder.to_owned(),
            free_mib: free_bytes / MIB,
            wanted_mib,
            min_free_mib: limits.min_free_mib,
        }
        .into()),
    }
}

fn count(host: &Host, vm: Vm, limits: Cores) -> Result<(), EngineError> {
    let now_s = host.clock.since_boot_s();
    let mut begun = read(host, vm.uuid);
    begun.retain(|(begun_s, _)| begun_s + HOUR_S > now_s);
    if begun.iter().any(|(_, domid)| *domid == vm.domid) {
        return Ok(());
    }
    if begun.len() as u64 >= u64::from(limits.per_hour) {
        return Err(DumpError::TooManyInAnHour {
            per_hour: limits.per_hour,
        }
        .into());
    }
    begun.push((now_s, vm.domid));
    let lines: String = begun
        .iter()
        .map(|(begun_s, domid)| format!("{begun_s} {domid}\n"))
        .collect();
    let path = path(host, vm.uuid);
    store::write_whole(
        &*host.files,
        &path.with_extension("new"),
        &path,
        lines.as_bytes(),
    )
}

fn path(host: &Host, uuid: Uuid) -> PathBuf {
    host.dirs.vm_run(uuid).join("cores")
}

/// Start times and domains of the VM's cores. Lines that cannot be parsed are ignored.
fn read(host: &Host, uuid: Uuid) -> Vec<(u64, DomId)> {
    let bytes = host.files.read(&path(host, uuid), NOTE_MAX_BYTES);
    let text = String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default();
    let entry = |line: &str| {
        let (begun_s, domid) = line.split_once(' ')?;
        Some((begun_s.parse().ok()?, DomId(domid.parse().ok()?)))
    };
    text.lines().filter_map(entry).collect()
}
