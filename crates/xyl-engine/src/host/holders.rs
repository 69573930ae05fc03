//! Lists the possible holders of a domain that was destroyed and still exists. `xyl destroy` and `recover::fsck` use
//! it.
//!
//! Xen keeps a domain until the last reference to its pages is dropped, and does not report who holds one. So this
//! module lists all candidates: backends and their devices, the domain's QEMU, and processes in domain 0 that map
//! memory of other domains.

use xen_port::{DomId, DomainInfo, PAGE_SIZE};
use xenstore::{Path, Tree};

use crate::host::dom0::{Kernel, Program};
use crate::{EngineError, Host};

/// Size of a page in KiB.
const PAGE_KIB: u64 = (PAGE_SIZE / 1024) as u64;
/// Daemons that map a page or two of every guest, and unmap them when they hear of its end.
const DAEMONS: [&str; 3] = ["xenstored", "oxenstored", "xenconsoled"];
/// Names of a device's states (`XenbusState` in Xen's public header io/xenbus.h).
const STATES: [&str; 9] = [
    "unknown",
    "initialising",
    "waiting for the guest",
    "initialised",
    "connected",
    "closing",
    "closed",
    "reconfiguring",
    "reconfigured",
];

/// Describes the possible holders of a dying domain, one on each line. The first line says what Xen still has of the
/// domain.
pub fn explain(
    host: &mut Host,
    kernel: &Kernel,
    info: &DomainInfo,
) -> Result<Vec<String>, EngineError> {
    let mut lines = vec![kept_by_xen(info)];
    let before = lines.len();
    lines.extend(backends(host, info.domid)?);
    lines.extend(kernel_devices(kernel, info.domid));
    let programs = kernel.programs();
    lines.extend(device_models(&programs, info.domid));
    let (daemons, others) = mappers(host.process.id(), kernel, &programs);
    lines.extend(others);
    if lines.len() == before {
        // The daemons are listed only without other candidates, because they always map some guest's pages.
        lines.extend(daemons);
        lines.push(
            "if none of these, another domain has mapped its pages: `xl debug-keys g; xl dmesg` shows the grants in use"
                .to_owned(),
        );
    }
    Ok(lines)
}

fn kept_by_xen(info: &DomainInfo) -> String {
    let kib = |pages: u64| pages.saturating_mul(PAGE_KIB);
    let mut text = format!(
        "Xen keeps {} pages of it ({} KiB)",
        info.tot_pages,
        kib(info.tot_pages)
    );
    for (pages, what) in [
        (info.shr_pages, "shared with other domains"),
        (info.paged_pages, "paged out"),
        (info.outstanding_pages, "claimed"),
    ] {
        if pages > 0 {
            text.push_str(&format!(", {pages} {what}"));
        }
    }
    text
}

/// Devices of the domain that a backend still has.
fn backends(host: &mut Host, domid: DomId) -> Result<Vec<String>, EngineError> {
    let mut lines = Vec::new();
    for folder in backend_folders(host)? {
        let path = folder
            .join(&domid.to_string())
            .map_err(xenstore::Error::from)?;
        for number in host.children(&path)? {
            let state = path.join(&number).and_then(|path| path.join("state"));
            let state = host
                .store
                .read_opt(&state.map_err(xenstore::Error::from)?)?;
            let state =
                state.and_then(|text| std::str::from_utf8(&text).ok()?.parse::<usize>().ok());
            let word = state
                .and_then(|state| STATES.get(state))
                .unwrap_or(&"unknown");
            lines.push(format!("its backend {path}/{number} is {word}"));
        }
    }
    Ok(lines)
}

/// Paths `/local/domain/B/backend/KIND` of every domain that serves devices.
pub(crate) fn backend_folders(host: &mut Host) -> Result<Vec<Path>, EngineError> {
    let mut folders = Vec::new();
    let homes = Path::new("/local/domain").map_err(xenstore::Error::from)?;
    for domid in host.children(&homes)? {
        let backend = homes.join(&domid).and_then(|home| home.join("backend"));
        let backend = backend.map_err(xenstore::Error::from)?;
        for kind in host.children(&backend)? {
            folders.push(backend.join(&kind).map_err(xenstore::Error::from)?);
        }
    }
    Ok(folders)
}

fn kernel_devices(kernel: &Kernel, domid: DomId) -> Vec<String> {
    let devices = kernel.devices_served_to(domid).into_iter();
    devices
        .map(|device| format!("domain 0's kernel still serves {device}"))
        .collect()
}

/// Device models: processes that emulate a domain's devices.
pub(crate) fn qemus(programs: &[Program]) -> impl Iterator<Item = (&Program, DomId)> {
    programs.iter().filter_map(|program| {
        let domid = program.option("-xen-domid")?.parse().ok()?;
        program
            .name()
            .contains("qemu")
            .then_some((program, DomId(domid)))
    })
}

fn device_models(programs: &[Program], domid: DomId) -> Vec<String> {
    let own = qemus(programs).filter(|(_, served)| *served == domid);
    own.map(|(program, _)| format!("its QEMU runs: process {}", program.pid))
        .collect()
}

/// Processes that map memory of other domains: first the daemons, then all others.
fn mappers(own_pid: u32, kernel: &Kernel, programs: &[Program]) -> (Vec<String>, Vec<String>) {
    let (mut daemons, mut others) = (Vec::new(), Vec::new());
    for program in programs {
        if program.pid == own_pid {
            continue;
        }
        for (device, kib) in kernel.foreign_mappings(program.pid) {
            let line = format!(
                "process {} (`{}`) maps {kib} KiB of other domains' memory through {device}",
                program.pid,
                program.line()
            );
            match DAEMONS.contains(&program.name()) {
                true => daemons.push(line),
                false => others.push(line),
            }
        }
    }
    (daemons, others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dirs;
    use crate::host::dom0::pretend_process;
    use xen_sim::model::Model;
    use xenstore::mem::MemStore;

    const MAP: &str = "7f0000000000-7f0000001000 rw-s 00000000 00:05 123    /dev/xen/privcmd\n";

    fn lines(root: &std::path::Path, store: &MemStore) -> Vec<String> {
        let client = store.client(0).unwrap();
        let mut host = Host::new(Box::new(Model::new(64)), client, Dirs::below(root));
        let info = DomainInfo {
            domid: DomId(7),
            tot_pages: 3,
            outstanding_pages: 1,
            ..DomainInfo::default()
        };
        explain(&mut host, &Kernel::below(root), &info).unwrap()
    }

    #[test]
    fn whoever_can_hold_it_is_named() {
        let root = tempfile::tempdir().unwrap();
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        let node = Path::new("/local/domain/0/backend/vbd/7/51712/state").unwrap();
        client.write(&node, b"4").unwrap();
        let other = Path::new("/local/domain/0/backend/vbd/8/51712/state").unwrap();
        client.write(&other, b"4").unwrap();
        std::fs::create_dir_all(root.path().join("sys/bus/xen-backend/devices/vbd-7-51712"))
            .unwrap();
        pretend_process(root.path(), 11, &["xenconsoled"], &[], MAP);
        pretend_process(root.path(), 12, &["python3", "hold.py"], &[], MAP);
        pretend_process(
            root.path(),
            13,
            &["qemu-system-i386", "-xen-domid", "7"],
            &[],
            "",
        );
        pretend_process(
            root.path(),
            14,
            &["qemu-system-i386", "-xen-domid", "8"],
            &[],
            "",
        );
        assert_eq!(
            lines(root.path(), &store),
            [
                "Xen keeps 3 pages of it (12 KiB), 1 claimed",
                "its backend /local/domain/0/backend/vbd/7/51712 is connected",
                "domain 0's kernel still serves vbd-7-51712",
                "its QEMU runs: process 13",
                "process 12 (`python3 hold.py`) maps 4 KiB of other domains' memory through /dev/xen/privcmd",
            ]
        );
    }

    #[test]
    fn the_daemons_are_named_where_nobody_else_is_found() {
        let root = tempfile::tempdir().unwrap();
        pretend_process(root.path(), 11, &["/usr/sbin/xenconsoled"], &[], MAP);
        let lines = lines(root.path(), &MemStore::new());
        assert!(lines[1].contains("xenconsoled"), "{lines:?}");
        assert!(lines[2].contains("debug-keys g"), "{lines:?}");
    }
}
