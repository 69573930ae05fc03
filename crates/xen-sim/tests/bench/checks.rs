//! Looks at a world from outside: what is there, what belongs to it, and what belongs to nobody. Nothing here comes from
//! the engine; the layout of nodes and files is written down a second time on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xen_sim::{Snapshot, World};

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
            ["run", "xyl", "watch", uuid] | ["run", "xyl", "vm", uuid, "brake"] => {
                vms.contains_key(*uuid)
            }
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
    let wanted = [
        (format!("/local/domain/{id}/vm"), format!("/vm/{uuid}")),
        (format!("/vm/{uuid}/name"), name.clone()),
        (format!("/libxl/{id}/type"), "pvh".to_owned()),
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
    Ok(Some(info.clone()))
}

/// The domain has all that it was to be given before its first instruction.
pub fn fitted(world: &World, domid: DomId) -> Result<(), String> {
    let Some(domain) = world.xen.domain(domid) else {
        return Err(format!("domain {domid} is gone"));
    };
    let has = [
        ("a vCPU", domain.nr_vcpus == 1),
        ("registers", domain.hvm_cpu.is_some()),
        ("a memory map", !domain.memory_map.is_empty()),
        ("parameters", !domain.params.is_empty()),
        ("a limit of memory", domain.max_pages >= domain.tot_pages),
        ("memory", domain.tot_pages > 0),
    ];
    match has.iter().find(|(_, has)| !has) {
        Some((what, _)) => Err(format!("domain {domid} runs without {what}")),
        None => Ok(()),
    }
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
