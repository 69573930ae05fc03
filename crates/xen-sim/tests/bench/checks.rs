//! Looks at a world from outside: what is there, what belongs to it, and what belongs to nobody. Nothing here comes from
//! the engine; the layout of nodes and files is written down a second time on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo, GuestKind};
use xen_sim::{Snapshot, World};

use crate::bench::{BRIDGE, is_bridged};

/// Event channels that a domain gets from the toolstack: xenstore's and the console's.
const PORTS: usize = 2;

/// The world must be whole: every page counted, nothing of anybody who is not there, and the bystander as he was.
pub fn whole(
    world: &World,
    now: &Snapshot,
    start: &Snapshot,
    bystander: DomId,
) -> Result<(), String> {
    let mut faults = Vec::new();
    memory(now, start, &mut faults);
    owners(now, &mut faults);
    files(now, &mut faults);
    ports(world, now, &mut faults);
    loops(now, &mut faults);
    links(now, &mut faults);
    untouched(now, start, bystander, &mut faults);
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("; ")),
    }
}

fn memory(now: &Snapshot, start: &Snapshot, faults: &mut Vec<String>) {
    let sum = |snapshot: &Snapshot| {
        let pages: u64 = snapshot.domains.values().map(|one| one.tot_pages).sum();
        pages + snapshot.free_pages
    };
    if sum(now) != sum(start) {
        faults.push(format!("{} pages in all, not {}", sum(now), sum(start)));
    }
    if now.claimed_pages > 0 {
        faults.push(format!("{} pages claimed", now.claimed_pages));
    }
    if now.mappings > 0 {
        faults.push(format!("{} mappings", now.mappings));
    }
}

fn uuid_of(info: &DomainInfo) -> String {
    Uuid::from_bytes(info.handle).hyphenated().to_string()
}

/// Every node below a domain's or a VM's folder has one who is there.
fn owners(now: &Snapshot, faults: &mut Vec<String>) {
    let vms: Vec<String> = now.domains.values().map(uuid_of).collect();
    if vms.iter().collect::<BTreeSet<_>>().len() < vms.len() {
        faults.push("two domains of one VM".to_owned());
    }
    let mut strays = BTreeSet::new();
    for node in now.nodes.keys() {
        let parts: Vec<&str> = node.split('/').skip(1).collect();
        let (owner, is_there) = match parts.as_slice() {
            ["local", "domain", "0", "backend", _, domid, ..] => (*domid, is_domain(now, domid)),
            ["local", "domain", "0", "error", "backend", _, domid, ..] => {
                (*domid, is_domain(now, domid))
            }
            ["local", "domain", domid, ..] => (*domid, *domid == "0" || is_domain(now, domid)),
            ["libxl", domid, ..] => (*domid, is_domain(now, domid)),
            ["vm", uuid, ..] => (*uuid, vms.iter().any(|vm| vm == uuid)),
            _ => continue,
        };
        if !is_there {
            strays.insert(format!("/{}/../{owner}", parts.first().unwrap_or(&"")));
        }
    }
    faults.extend(
        strays
            .iter()
            .map(|stray| format!("nodes of nobody: {stray}")),
    );
}

fn is_domain(now: &Snapshot, text: &str) -> bool {
    let domid = text.parse().map(DomId);
    domid.is_ok_and(|domid| now.domains.contains_key(&domid))
}

/// Whether a VM has lost its domain to a restart that failed: its monitor tries again, with its record.
fn waits_for_its_next(now: &Snapshot, uuid: &str) -> bool {
    let path = format!("/run/xyl/vm/{uuid}/journal");
    let journal = now.files.get(Path::new(&path)).map(Vec::as_slice);
    let journal = String::from_utf8_lossy(journal.unwrap_or_default());
    let from_last_begin = journal.rfind("{\"begin\"").map(|at| &journal[at..]);
    from_last_begin.is_some_and(|last| {
        let is_restart = ["\"kind\":\"restart\"", "\"kind\":\"rename-restart\""]
            .iter()
            .any(|kind| last.contains(kind));
        is_restart && last.contains("\"outcome\":\"undone\"")
    })
}

/// Every file is one that is known, and has one who is there.
fn files(now: &Snapshot, faults: &mut Vec<String>) {
    let vms: BTreeMap<String, DomId> = now
        .domains
        .values()
        .map(|info| (uuid_of(info), info.domid))
        .collect();
    let known = |path: &str| {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match parts.as_slice() {
            ["var", "lib", "xyl", "vm", uuid, "config.cfg"]
            | ["var", "lib", "xyl", "vm", uuid, "admission.json"]
            | ["run", "xyl", "vm", uuid, "journal"] => {
                vms.contains_key(*uuid) || waits_for_its_next(now, uuid)
            }
            ["var", "lib", "xen", name] => {
                let mut words = name.splitn(4, '.');
                let class = words.next().unwrap_or_default();
                let domid = words.next().unwrap_or_default().to_owned();
                let uuid = words.next().unwrap_or_default();
                // libxl's lock: left over by a process that died.
                let is_known = matches!(
                    (class, words.next()),
                    ("userdata-d", Some("libxl-json"))
                        | ("userdata-l", Some("domain-userdata-lock"))
                );
                let owner = vms.get(uuid).map(DomId::to_string);
                is_known && owner == Some(domid)
            }
            ["run", "xyl", "watch", uuid] | ["run", "xyl", "vm", uuid, "restart-delay"] => {
                vms.contains_key(*uuid)
            }
            ["sys", "bus", "xen-backend", "devices", device, ..] => {
                let domid = device.split('-').nth(1);
                domid.is_some_and(|domid| is_domain(now, domid))
            }
            ["srv", _] => true,
            ["run", "xen", "domid-history"] | ["run", "xyl", "names" | "names.lock"] => true,
            _ => false,
        }
    };
    let strays = now.files.keys().filter_map(|path| path.to_str());
    faults.extend(
        strays
            .filter(|path| !known(path))
            .map(|path| format!("file of nobody: {path}")),
    );
}

/// Every loop device is a disk of a VM that is there.
fn loops(now: &Snapshot, faults: &mut Vec<String>) {
    let vms: Vec<String> = now.domains.values().map(uuid_of).collect();
    for one in &now.loops {
        let owner = one.label.split('/').next().unwrap_or_default();
        if !vms.iter().any(|vm| vm == owner) {
            faults.push(format!(
                "loop device of nobody: {} ({})",
                one.number, one.label
            ));
        }
    }
}

/// Every network interface but the bridge is that of a device that is there.
fn links(now: &Snapshot, faults: &mut Vec<String>) {
    let of_guests = now.links.iter().filter(|link| link.name != BRIDGE);
    for link in of_guests {
        let id = link.name.strip_prefix("vif");
        let id = id.and_then(|name| name.strip_suffix(".0"));
        let copy = id.map(|id| format!("/libxl/{id}/device/vif/0/backend"));
        if !copy.is_some_and(|copy| now.nodes.contains_key(&copy)) {
            faults.push(format!("network interface of nobody: {}", link.name));
        }
    }
}

fn ports(world: &World, now: &Snapshot, faults: &mut Vec<String>) {
    // One that has ended has none to come back to.
    let alive = now.domains.values().filter(|info| !info.flags.shutdown);
    for domid in alive.map(|info| info.domid) {
        let count = world
            .xen
            .domain(domid)
            .map_or(0, |domain| domain.ports.len());
        if count < PORTS {
            faults.push(format!("domain {domid} has {count} event channels"));
        }
    }
}

fn untouched(now: &Snapshot, start: &Snapshot, bystander: DomId, faults: &mut Vec<String>) {
    if now.domains.get(&bystander) != start.domains.get(&bystander) {
        faults.push("the bystander's domain has changed".to_owned());
    }
    let Some(uuid) = start.domains.get(&bystander).map(uuid_of) else {
        return;
    };
    let own = format!("/local/domain/{bystander}");
    let roots = [own, format!("/vm/{uuid}"), format!("/libxl/{bystander}")];
    for (node, value) in &start.nodes {
        let is_own = roots.iter().any(|root| is_below(node, root));
        if is_own && now.nodes.get(node) != Some(value) {
            faults.push(format!("the bystander's {node} has changed"));
        }
    }
    for (file, bytes) in &start.files {
        let is_own = file.to_str().is_some_and(|file| file.contains(&uuid));
        if is_own && now.files.get(file) != Some(bytes) {
            faults.push(format!("the bystander's {} has changed", file.display()));
        }
    }
}

fn is_below(node: &str, root: &str) -> bool {
    node.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The VM's domain with all that belongs to it; none where there is nothing of it at all.
pub fn vm(now: &Snapshot, uuid: &str, names: &[&str]) -> Result<Option<DomainInfo>, String> {
    let handle = Uuid::parse_str(uuid).unwrap().into_bytes();
    let Some(info) = now.domains.values().find(|info| info.handle == handle) else {
        return Ok(None);
    };
    let id = info.domid;
    let text = |node: String| {
        let value = now.nodes.get(&node);
        value.map(|value| String::from_utf8_lossy(value).into_owned())
    };
    let name = text(format!("/local/domain/{id}/name")).unwrap_or_default();
    if !names.contains(&name.as_str()) {
        return Err(format!("domain {id} is called `{name}`, not {names:?}"));
    }
    let kind = match info.kind() {
        GuestKind::Pv => "pv",
        _ => "pvh",
    };
    let wanted = [
        (format!("/local/domain/{id}/vm"), format!("/vm/{uuid}")),
        (format!("/vm/{uuid}/name"), name.clone()),
        (format!("/libxl/{id}/type"), kind.to_owned()),
        (format!("/local/domain/{id}/domid"), id.to_string()),
    ];
    for (node, value) in wanted {
        if text(node.clone()).as_ref() != Some(&value) {
            return Err(format!("{node} is {:?}", text(node.clone())));
        }
    }
    for file in [
        format!("/var/lib/xyl/vm/{uuid}/config.cfg"),
        format!("/var/lib/xen/userdata-d.{id}.{uuid}.libxl-json"),
    ] {
        let bytes = now.files.get(Path::new(&file));
        if bytes.is_none_or(Vec::is_empty) {
            return Err(format!("{file} is missing or empty"));
        }
        // libxl parses its record as a C string.
        let ends_in_nul = bytes.is_some_and(|bytes| bytes.ends_with(b"}\0"));
        if file.ends_with(".libxl-json") && !ends_in_nul {
            return Err(format!("{file} does not end in a NUL"));
        }
    }
    if !has_given_a_reset_up(now, info) {
        disks(now, info)?;
        nic(now, info)?;
    }
    Ok(Some(info.clone()))
}

/// Whether the domain has ended because its soft reset could not be finished. Then it may have lost its devices.
fn has_given_a_reset_up(now: &Snapshot, info: &DomainInfo) -> bool {
    let path = format!("/run/xyl/vm/{}/journal", uuid_of(info));
    let journal = now.files.get(Path::new(&path)).map(Vec::as_slice);
    let journal = String::from_utf8_lossy(journal.unwrap_or_default());
    info.flags.shutdown && journal.contains("{\"given_up\":")
}

/// The VM's two disks, if it has any, by the toolstack's own copy and the kernel, unless its guest has thrown a frontend away.
fn disks(now: &Snapshot, info: &DomainInfo) -> Result<(), String> {
    let id = info.domid;
    if !record_has(now, info, "disk = ") {
        return Ok(());
    }
    for number in [51712, 51728] {
        let backend = format!("/local/domain/0/backend/vbd/{id}/{number}");
        let copy = now
            .nodes
            .get(&format!("/libxl/{id}/device/vbd/{number}/backend"));
        if copy.map(Vec::as_slice) != Some(backend.as_bytes()) {
            return Err(format!("domain {id} has lost disk {number}"));
        }
        let frontend = format!("/local/domain/{id}/device/vbd/{number}/state");
        let open = format!("/sys/bus/xen-backend/devices/vbd-{id}-{number}/physical_device");
        if now.nodes.contains_key(&frontend) && !now.files.contains_key(Path::new(&open)) {
            return Err(format!("disk {number} of domain {id} is not open"));
        }
    }
    Ok(())
}

/// The VM's network interface, if it has one: a port of the bridge, unless its guest has thrown the frontend away.
fn nic(now: &Snapshot, info: &DomainInfo) -> Result<(), String> {
    let id = info.domid;
    if !record_has(now, info, "vif = ") {
        return Ok(());
    }
    let copy = now.nodes.get(&format!("/libxl/{id}/device/vif/0/backend"));
    let backend = format!("/local/domain/0/backend/vif/{id}/0");
    if copy.map(Vec::as_slice) != Some(backend.as_bytes()) {
        return Err(format!("domain {id} has lost its network interface"));
    }
    let frontend = format!("/local/domain/{id}/device/vif/0/state");
    match now.nodes.contains_key(&frontend) && !is_bridged(now, id) {
        true => Err(format!("domain {id} is not connected to the bridge")),
        false => Ok(()),
    }
}

/// Whether the VM's record has a text.
fn record_has(now: &Snapshot, info: &DomainInfo, text: &str) -> bool {
    let path = format!("/var/lib/xyl/vm/{}/config.cfg", uuid_of(info));
    let record = now.files.get(Path::new(&path));
    let record = record.map(Vec::as_slice).unwrap_or_default();
    String::from_utf8_lossy(record).contains(text)
}

/// The domain has all that it was to be given before its first instruction.
pub fn fitted(world: &World, domid: DomId) -> Result<(), String> {
    let Some(domain) = world.xen.domain(domid) else {
        return Err(format!("domain {domid} is gone"));
    };
    // A PV guest finds its channels in its start info, not in parameters.
    let is_pv = domain.pv_cpu.is_some();
    let has = [
        ("a vCPU", domain.nr_vcpus == 1),
        ("registers", is_pv || domain.hvm_cpu.is_some()),
        ("a memory map", !domain.memory_map.is_empty()),
        ("parameters", is_pv || !domain.params.is_empty()),
        ("a limit of memory", domain.max_pages >= domain.tot_pages),
        ("memory", domain.tot_pages > 0),
    ];
    match has.iter().find(|(_, has)| !has) {
        Some((what, _)) => Err(format!("domain {domid} runs without {what}")),
        None => Ok(()),
    }
}

/// The backend serves both disks of a domain.
pub fn served(now: &Snapshot, domid: DomId) -> Result<(), String> {
    for number in [51712, 51728] {
        let state = format!("/local/domain/0/backend/vbd/{domid}/{number}/state");
        let open = format!("/sys/bus/xen-backend/devices/vbd-{domid}-{number}/physical_device");
        let is_open = now.files.contains_key(Path::new(&open));
        if now.nodes.get(&state).map(Vec::as_slice) != Some(b"2") || !is_open {
            return Err(format!("disk {number} of domain {domid} has no backend"));
        }
    }
    Ok(())
}

/// A domain that was set aside: none of the VMs', and named after one of them and the time.
pub fn aside(now: &Snapshot, known: &[&str]) -> Option<(DomId, String)> {
    let info = now
        .domains
        .values()
        .find(|info| !known.contains(&uuid_of(info).as_str()))?;
    let name = now.nodes.get(&format!("/local/domain/{}/name", info.domid));
    let name = name.map(|name| String::from_utf8_lossy(name).into_owned());
    Some((info.domid, name.unwrap_or_default()))
}
