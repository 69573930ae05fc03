//! PCI devices of the host that PV guests have. All of a domain's devices are on one virtual bus, which domain 0's driver pciback serves.
//!
//! A device goes to a domain when that is made, before its guest runs: node `domid` (`/libxl/pci`), reset, right to its memory, ports and
//! interrupt, Xen's IOMMU. Then one transaction writes the nodes of the bus, and pciback exports the devices (state 3). At the end
//! pciback closes; each device goes to quarantine, is reset, and is assignable again. The node `domid` is written first and
//! removed last, so a later process finds each device of a dead one. Xen itself takes a domain's devices into quarantine when it
//! destroys the domain.
//!
//! The toolstack's copy has the bus, 0. The number of a device is that of its address. `hotplug` has the devices that come and go while the
//! guest runs.
//!
//! Facts: `libxl_pci.c`, `xen/io/pciif.h`, `drivers/xen/xen-pciback/xenbus.c` of Linux.

mod hotplug;

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use xen_port::{DomId, Errno, GuestKind, HostResource, HvError, PciSbdf};
use xenstore::Tree;
use xl_cfg::types;

use crate::device::bus::{self, AttachLimits, Attaching, BackendDomain, Device, State, Tables};
use crate::device::hotplug::{Hotplug, parse, says_nothing};
use crate::device::nodes::{Access, NodeRule, back, copy_of, own};
use crate::device::qemu::Wanted;
use crate::device::{Kind, Owner, Patience, Recorded, assignable};
use crate::error::{DeviceError, PciError};
use crate::vm::paths::{home, node};
use crate::vm::pci::{PassedPci, Which};
use crate::vm::spec::VmSpec;
use crate::{EngineError, Host};

/// libxl's name of the kind.
const KIND: &str = "pci";
/// The setting of xl.cfg that lists the devices.
const SETTING: &str = "pci";
/// The number of a domain's virtual bus.
const BUS: u32 = 0;
/// Time limit for pciback to take and to export the devices.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks whether pciback has exported the devices.
const EXPORT_RECHECK: Duration = Duration::from_millis(5);
/// The remedy where pciback does nothing.
const REMEDY: &str = "`dmesg` may tell more";

/// The kind of PCI devices.
pub struct Pci;

/// The source of the nodes of a domain's bus.
struct Nodes {
    device: Device,
    name: String,
    nr_devices: usize,
}

type Rule = NodeRule<Nodes>;

const TABLES: Tables<Nodes> = Tables {
    frontend: FRONTEND,
    backend: BACKEND,
    copy: COPY,
};

const FRONTEND: &[Rule] = &[
    own("backend", "guest: where its backend is", |n| {
        Some(n.device.backend())
    }),
    own("backend-id", "guest", |_| Some("0".to_owned())),
    own("state", "guest and backend", |_| Some("1".to_owned())),
];

/// The nodes `key-I`, `dev-I`, `vdevfn-I`, `name-I`, `opts-I` and `state-I` of each device come to these.
const BACKEND: &[Rule] = &[
    back("frontend", "backend", |n| Some(n.device.frontend())),
    back("frontend-id", "backend", |n| {
        Some(n.device.domid.to_string())
    }),
    back("online", "backend: whether the devices stay", |_| {
        Some("1".to_owned())
    }),
    back("state", "backend, guest", |_| Some("1".to_owned())),
    back("domain", "libxl", |n| Some(n.name.clone())),
    back("num_devs", "backend; pci-list", |n| {
        Some(n.nr_devices.to_string())
    }),
];

const COPY: &[Rule] = &[
    copy_of("frontend", |n| Some(n.device.frontend())),
    copy_of("backend", |n| Some(n.device.backend())),
];

/// A device of a VM, found on the host.
struct Found<'a> {
    passed: &'a PassedPci,
    device: PciSbdf,
}

impl Kind for Pci {
    fn name(&self) -> &'static str {
        KIND
    }

    fn json_member(&self) -> Option<&'static str> {
        Some("pcidevs")
    }

    fn setting(&self) -> Option<&'static str> {
        Some(SETTING)
    }

    /// A device with a name has the number of the bus.
    fn recorded(&self, spec: &VmSpec) -> Vec<Recorded> {
        let recorded = |passed: &PassedPci| Recorded {
            number: match &passed.which {
                Which::Address(device) => device.0,
                Which::Name(_) => BUS,
            },
            text: passed.cfg_text(),
            json: to_json(passed),
        };
        spec.pci.iter().map(recorded).collect()
    }

    fn number_of_json(&self, entry: &Json) -> Option<u32> {
        let name = entry.get("name").filter(|name| !says_nothing(name));
        match name {
            Some(_) => None,
            None => address_of_json(entry).map(|device| device.0),
        }
    }

    fn numbers_there(&self, host: &mut Host, domid: DomId) -> Result<Vec<u32>, EngineError> {
        let devices = assignable::devices_of(host, domid)?.into_iter();
        Ok(devices.map(|device| device.0).chain([BUS]).collect())
    }

    fn cfg_of_json(&self, entry: &Json) -> Option<String> {
        cfg_of_json(entry)
    }

    fn is_attached(
        &self,
        host: &mut Host,
        domid: DomId,
        entry: &Json,
    ) -> Result<bool, EngineError> {
        let name = entry.get("name").and_then(Json::as_str).unwrap_or_default();
        let device = match name {
            "" => address_of_json(entry),
            name => assignable::named(host, name)?,
        };
        match device {
            Some(device) => Ok(assignable::owner(host, device)? == Some(domid)),
            None => Ok(false),
        }
    }

    fn folders(&self, domid: DomId) -> Vec<String> {
        bus::folders(KIND, domid)
    }

    fn table(&self) -> Vec<(String, Access, &'static str)> {
        TABLES.rows(KIND)
    }

    fn check(&self, host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
        if spec.has_iommu {
            assignable::check_iommu(host)?;
        }
        if spec.pci.is_empty() {
            return Ok(());
        }
        refuse_shim(spec)?;
        assignable::check_host(host)?;
        for found in find_all(host, spec)? {
            check_one(host, &found, spec.max_kib)?;
        }
        Ok(())
    }

    fn attach(
        &self,
        host: &mut Host,
        owner: Owner,
        spec: &VmSpec,
        _: &mut Wanted,
        patience: &Patience<'_>,
    ) -> Result<(), EngineError> {
        if spec.pci.is_empty() {
            return Ok(());
        }
        refuse_shim(spec)?;
        begin(host, owner.domid)?;
        let lock = assignable::lock(host)?;
        let found = find_all(host, spec)?;
        for one in &found {
            patience.check(host)?;
            give(host, owner.domid, one)?;
        }
        drop(lock);
        write_bus(host, owner.domid, &found, patience)
    }

    fn hotplug(&self) -> Option<&'static dyn Hotplug> {
        Some(&Pci)
    }

    /// libxl keeps no copy of a bus.
    fn has_more(&self, host: &mut Host, domid: DomId) -> Result<bool, EngineError> {
        // Without the driver of the backends there is none.
        Ok(host.kernel.has_pciback() && has_bus(host, domid)?)
    }

    fn detach(&self, host: &mut Host, domid: DomId, deadline: Instant) -> Result<(), EngineError> {
        let devices = match has_bus(host, domid)? {
            true => vec![bus_of(domid)],
            false => bus::devices(host, domid, KIND)?,
        };
        // pciback resets a device when it closes. One that is too slow loses it all the same.
        bus::close_all(host, &devices, deadline)?;
        for device in assignable::devices_of(host, domid)? {
            match take_back(host, domid, device) {
                Err(error) if error.is_connection_lost() => return Err(error),
                // The domain has to end all the same. Its devices go to quarantine with it.
                Err(error) => (host.notice)(&format!(
                    "PCI device {device} of domain {domid} is not taken back whole: {error}"
                )),
                Ok(()) => {}
            }
        }
        bus::remove(host, &devices)
    }

    fn foreign(&self, host: &mut Host, domid: DomId, number: &str) -> Result<bool, EngineError> {
        Ok(bus::device_of(host, domid, KIND, number)?.is_none())
    }
}

/// Refuses a VM that the policy starts in the PV shim: it is a PVH guest for Xen then.
fn refuse_shim(spec: &VmSpec) -> Result<(), EngineError> {
    if spec.kind == GuestKind::Pv {
        return Ok(());
    }
    let what = "pci: the guest would start in the PV shim, as a PVH guest, and Xen gives no PCI devices to those: use a 64-bit PV kernel without `pvshim`".to_owned();
    Err(DeviceError::Unsupported { what }.into())
}

/// The virtual bus of a domain.
fn bus_of(domid: DomId) -> Device {
    Device {
        domid,
        kind: KIND,
        served_by: KIND,
        number: BUS,
        backend_domain: BackendDomain::DOM0,
    }
}

/// Whether domain 0 has a backend for a domain's bus.
fn has_bus(host: &mut Host, domid: DomId) -> Result<bool, EngineError> {
    Ok(host.store.exists(&node(&bus_of(domid).backend())?)?)
}

/// Makes the folder of the kind in the toolstack's copy: by it a later process knows that the domain may have devices.
fn begin(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    let record = node(&format!("/libxl/{domid}"))?;
    let folder = node(&format!("/libxl/{domid}/device/{KIND}"))?;
    host.store.try_transaction(|transaction| {
        if !transaction.exists(&record)? {
            return Err(EngineError::NoSuchDomain(domid.to_string()));
        }
        transaction.mkdir(&folder)?;
        Ok(())
    })
}

/// Writes the nodes of a domain's bus with its first devices, and waits until pciback has exported them.
fn write_bus(
    host: &mut Host,
    domid: DomId,
    found: &[Found<'_>],
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    let device = bus_of(domid);
    let name = host.store.read_text_opt(&home(domid, "name")?)?;
    let nodes = Nodes {
        device,
        name: name.unwrap_or_default(),
        nr_devices: found.len(),
    };
    let mut more = Vec::new();
    for (place, one) in found.iter().enumerate() {
        let backend = device.backend();
        let of_device = nodes_of(place, one).into_iter();
        more.extend(of_device.map(|(name, value)| (format!("{backend}/{name}"), value)));
    }
    bus::write_with(host, &device, SETTING, (&TABLES, &nodes), &more)?;
    await_exported(host, device, patience)
}

/// The devices of a VM with their addresses. No device may be named twice.
fn find_all<'a>(host: &mut Host, spec: &'a VmSpec) -> Result<Vec<Found<'a>>, EngineError> {
    let mut all: Vec<Found<'a>> = Vec::new();
    for passed in &spec.pci {
        let device = match &passed.which {
            Which::Address(device) => *device,
            Which::Name(name) => {
                assignable::named(host, name)?.ok_or_else(|| PciError::NoSuchName(name.clone()))?
            }
        };
        if all.iter().any(|one| one.device == device) {
            let what = format!("{}: device {device} is there twice", passed.what());
            return Err(DeviceError::Unsupported { what }.into());
        }
        all.push(Found { passed, device });
    }
    Ok(all)
}

/// Refuses a device that the domain cannot get.
fn check_one(host: &mut Host, found: &Found<'_>, max_kib: u64) -> Result<(), EngineError> {
    let device = found.device;
    match found.passed.is_seized {
        true => assignable::check_add(host, &seized(device))?,
        false => assignable::check_free(host, device)?,
    }
    let resources = host.kernel.pci_resources(device);
    let resources = resources.map_err(assignable::failed(device, "list its memory"))?;
    let lowest = resources.iter().filter_map(|resource| match resource {
        HostResource::Memory { first, .. } => Some(first.0 * 4),
        _ => None,
    });
    // A PV guest sees the device's memory at the host's addresses, and Xyl's memory map of it has no hole there.
    match lowest.min().filter(|lowest| max_kib > *lowest) {
        Some(lowest) => {
            let what = format!(
                "{}: the memory of device {device} begins at {} MiB of the host, and the guest's reaches beyond: give it less memory (`maxmem`), or use `xl`, which has `e820_host`",
                found.passed.what(),
                lowest / 1024
            );
            Err(DeviceError::Unsupported { what }.into())
        }
        None => Ok(()),
    }
}

fn seized(device: PciSbdf) -> assignable::NewAssignable {
    assignable::NewAssignable {
        device,
        name: None,
        is_forced: false,
    }
}

/// Gives a device to a domain that does not run yet.
fn give(host: &mut Host, domid: DomId, found: &Found<'_>) -> Result<(), EngineError> {
    let device = found.device;
    if found.passed.is_seized {
        assignable::seize(host, device)?;
    }
    assignable::check_free(host, device)?;
    // Xen refuses it if another domain has the device, whatever the nodes say.
    assignable::quarantine(host, device)?;
    assignable::note_owner(host, device, domid)?;
    reset(host, device);
    let resources = host.kernel.pci_resources(device);
    for resource in resources.map_err(assignable::failed(device, "list its memory"))? {
        host.hv.set_permission(domid, resource, true)?;
    }
    match found.passed.is_permissive {
        true => make_permissive(host, device)?,
        false => assignable::end_permissive(host, device)?,
    }
    let assigned = host.hv.assign_pci(domid, device, found.passed.is_relaxed);
    assigned.map_err(|source| {
        PciError::NotAssigned {
            device,
            domid,
            source,
        }
        .into()
    })
}

fn make_permissive(host: &Host, device: PciSbdf) -> Result<(), EngineError> {
    (host.notice)(&format!(
        "PCI device {device} is permissive: its guest may write to all of its configuration space, which can harm the host"
    ));
    let permissive = host.kernel.make_pci_permissive(device);
    permissive.map_err(assignable::failed(device, "make it permissive"))
}

/// Takes a device from a domain that does not run any more, and makes it assignable again.
fn take_back(host: &mut Host, domid: DomId, device: PciSbdf) -> Result<(), EngineError> {
    let is_gone = |error: &HvError| {
        error.is(Errno::ENODEV) || error.is(Errno::EOPNOTSUPP) || error.is(Errno::ESRCH)
    };
    match host.hv.deassign_pci(domid, device) {
        // Xen has taken it already, or the domain never got it.
        Err(error) if is_gone(&error) => {}
        other => other?,
    }
    reset(host, device);
    assignable::end_permissive(host, device)?;
    assignable::forget_owner(host, device)
}

/// Resets a device. As in libxl, one that cannot be reset is reported, and no failure.
fn reset(host: &Host, device: PciSbdf) {
    let why = match host.kernel.reset_pci(device) {
        Ok(true) => return,
        Ok(false) => "domain 0's kernel knows no way to".to_owned(),
        Err(error) => error.to_string(),
    };
    (host.notice)(&format!(
        "PCI device {device} is not reset, and may keep what its last user has left in it: {why}"
    ));
}

/// The nodes of one device below the backend's folder, as libxl writes them.
fn nodes_of(index: usize, found: &Found<'_>) -> Vec<(String, String)> {
    let (passed, address) = (found.passed, found.device.to_string());
    let options = format!(
        "msitranslate={},power_mgmt={},permissive={},rdm_policy={}",
        u8::from(passed.msi_translate),
        u8::from(passed.power_management),
        u8::from(passed.is_permissive),
        passed.rdm_policy()
    );
    let name = match &passed.which {
        Which::Name(name) => Some(name.clone()),
        Which::Address(_) => None,
    };
    let devfn = passed.virtual_devfn.filter(|devfn| *devfn != 0);
    let values = [
        ("key", Some(address.clone())),
        ("dev", Some(address)),
        ("vdevfn", devfn.map(|devfn| format!("{devfn:x}"))),
        ("name", name),
        ("opts", Some(options)),
        ("state", Some("1".to_owned())),
    ];
    let named = |(name, value): (&str, Option<String>)| Some((format!("{name}-{index}"), value?));
    values.into_iter().filter_map(named).collect()
}

/// Waits until pciback has exported all devices of a domain's bus: its state is 3 then.
fn await_exported(
    host: &mut Host,
    device: Device,
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    let deadline = host.clock.now() + EXPORT_LIMIT;
    let attaching = [Attaching {
        device,
        what: SETTING,
        is_ready: &|_| Ok(true),
    }];
    loop {
        let left = deadline.saturating_duration_since(host.clock.now());
        let limits = AttachLimits {
            limit: left,
            remedy: REMEDY,
            patience,
        };
        // It tells what pciback says about a failure.
        bus::await_attached(host, &attaching, limits)?;
        let state = bus::state(host, &device)?;
        if matches!(state, State::Initialised | State::Connected) {
            return Ok(());
        }
        if left.is_zero() {
            return Err(DeviceError::Silent {
                device: SETTING.to_owned(),
                state: state.words(),
                limit_s: EXPORT_LIMIT.as_secs(),
                remedy: REMEDY,
            }
            .into());
        }
        host.wait_for(&[], EXPORT_RECHECK)?;
    }
}

/// A device in libxl's record (`libxl_device_pci`).
fn to_json(passed: &PassedPci) -> Json {
    let mut entry = json!({});
    let mut set = |name: &str, value: Json| {
        if let Some(members) = entry.as_object_mut().filter(|_| !says_nothing(&value)) {
            members.insert(name.to_owned(), value);
        }
    };
    if let Which::Address(address) = &passed.which {
        set("func", json!(address.function()));
        set("dev", json!(address.0 >> 3 & 0x1f));
        set("bus", json!(address.0 >> 8 & 0xff));
        set("domain", json!(address.0 >> 16));
        set("vfunc_mask", json!(1 << address.function()));
    }
    set("vdevfn", json!(passed.virtual_devfn.unwrap_or(0)));
    set("msitranslate", json!(passed.msi_translate));
    set("power_mgmt", json!(passed.power_management));
    set("permissive", json!(passed.is_permissive));
    set("seize", json!(passed.is_seized));
    set("rdm_policy", json!(passed.rdm_policy()));
    if let Which::Name(name) = &passed.which {
        set("name", json!(name));
    }
    entry
}

fn address_of_json(entry: &Json) -> Option<PciSbdf> {
    let number = |name: &str| entry.get(name).map_or(Some(0), Json::as_u64);
    let (segment, bus) = (
        u16::try_from(number("domain")?),
        u8::try_from(number("bus")?),
    );
    let (device, function) = (u8::try_from(number("dev")?), u8::try_from(number("func")?));
    let (device, function) = (device.ok()?, function.ok()?);
    (device < 32 && function < 8)
        .then(|| Some(PciSbdf::new(segment.ok()?, bus.ok()?, device, function)))?
}

/// A device of libxl's record as xl.cfg says it; `None` where Xyl cannot give it to a guest.
fn cfg_of_json(entry: &Json) -> Option<String> {
    let members = entry.as_object()?;
    let name = members.get("name").filter(|name| !says_nothing(name));
    let mut text = match name {
        Some(name) => format!("name={}", name.as_str()?),
        None => address_of_json(entry)?.to_string(),
    };
    for (name, value) in members.iter().filter(|(_, value)| !says_nothing(value)) {
        match (name.as_str(), value) {
            ("func" | "dev" | "bus" | "domain" | "name", _) => {}
            // Several functions at once.
            ("vfunc_mask", value) if value.as_u64()?.count_ones() == 1 => {}
            ("vdevfn", value) => text += &format!(",vslot={:x}", value.as_u64()? >> 3),
            ("rdm_policy", Json::String(policy)) => text += &format!(",rdm_policy={policy}"),
            ("msitranslate" | "power_mgmt" | "permissive" | "seize", Json::Bool(true)) => {
                text += &format!(",{name}=1");
            }
            _ => return None,
        }
    }
    let devices: Vec<types::PciDevice> = parse(SETTING, &text).ok()?.pci;
    let kind = xen_port::GuestKind::Pv;
    let decided = PassedPci::all_of_config(&devices, kind).ok()?;
    decided.first().map(PassedPci::cfg_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(text: &str) -> PassedPci {
        let devices = parse(SETTING, text).unwrap().pci;
        let all = PassedPci::all_of_config(&devices, xen_port::GuestKind::Pv).unwrap();
        all.into_iter().next().unwrap()
    }

    #[test]
    fn a_device_of_libxls_record_is_that_of_the_configuration() {
        for text in [
            "03:00.0",
            "1234:03:1f.7,vslot=5,permissive=1,msitranslate=1,power_mgmt=1,seize=1,rdm_policy=relaxed",
            "name=nic",
        ] {
            let first = passed(text);
            assert_eq!(passed(&first.cfg_text()), first);
            let again = cfg_of_json(&to_json(&first)).unwrap();
            assert_eq!(passed(&again), first, "{again}");
        }
        for other in [
            json!({ "bus": 3, "vfunc_mask": 255 }),
            json!({ "bus": 300 }),
            json!({ "bus": 3, "no_such": 1 }),
        ] {
            assert_eq!(cfg_of_json(&other), None, "{other}");
        }
    }

    #[test]
    fn the_nodes_are_those_of_libxl() {
        let passed = passed("03:00.1,vslot=5,permissive=1");
        let found = Found {
            passed: &passed,
            device: PciSbdf::new(0, 3, 0, 1),
        };
        let nodes = nodes_of(1, &found);
        let nodes: Vec<String> = nodes
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        assert_eq!(
            nodes,
            [
                "key-1 0000:03:00.1",
                "dev-1 0000:03:00.1",
                "vdevfn-1 28",
                "opts-1 msitranslate=0,power_mgmt=0,permissive=1,rdm_policy=strict",
                "state-1 1",
            ]
        );
    }
}
