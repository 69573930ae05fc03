//! PCI devices of the host that domains can get: those that the driver pciback has and no domain.
//!
//! A device is with its own driver, with none, or with pciback; and with domain 0 or in quarantine ([`DomId::IO`]), where it reaches no
//! memory. [`add`] and [`remove`] change both, under a lock. They keep no journal: each begins with what sysfs and the nodes of libxl say
//! (`/libxl/pci/DDDD-BB-SS-F`), so the next `add` or `remove` of a device finishes what a dead process has begun. `driver_path`
//! is written before the device loses its driver, so that is known to each later process.
//!
//! The commands call it, and the kind of PCI devices.
//!
//! Facts: `libxl_pci.c`; `xen/drivers/passthrough/pci.c`.

use std::io;
use std::time::Duration;

use os_port::Lock;
use xen_port::{DomId, Errno, HvError, PciSbdf};
use xenstore::{Path, Tree};

use crate::device::disk_users::{self, Seen};
use crate::error::PciError;
use crate::host::pci::{Block, PCIBACK};
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// Folder in xenstore of what toolstacks know of PCI devices.
const FOLDER: &str = "/libxl/pci";
/// Start of the node `driver_path`. The driver's name follows.
const DRIVER_PATH: &str = "/sys/bus/pci/drivers/";
/// Time limit of the wait for another process that changes the assignable devices.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// A device that is to be made assignable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAssignable {
    /// Address of the device.
    pub device: PciSbdf,
    /// A name for it.
    pub name: Option<String>,
    /// Whether domain 0 may lose it while it uses it.
    pub is_forced: bool,
}

/// A device that domains can get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignable {
    /// Address of the device.
    pub device: PciSbdf,
    /// The name that it was given.
    pub name: Option<String>,
}

/// Makes a device assignable. For one that is assignable already, only its name changes.
///
/// # Errors
/// Those of [`check_add`]; [`PciError::Driver`] and [`PciError::Quarantine`], after which the device is where it was; those of
/// xenstore.
pub fn add(host: &mut Host, new: &NewAssignable) -> Result<(), EngineError> {
    let lock = lock(host)?;
    let added = add_locked(host, new);
    drop(lock);
    added
}

fn add_locked(host: &mut Host, new: &NewAssignable) -> Result<(), EngineError> {
    check_add(host, new)?;
    let device = new.device;
    let had = driver_of(host, device)?;
    if had.as_deref().is_none_or(|driver| driver == PCIBACK) {
        // Domain 0 does not use it. Xen refuses it if a domain has the device, whatever the nodes say: it stays as it is then.
        quarantine(host, device)?;
    }
    if had.as_deref() != Some(PCIBACK) {
        let outcome = take_from_driver(host, device).and_then(|()| quarantine(host, device));
        if let Err(error) = outcome {
            return Err(given_back(host, device, had.is_some(), error));
        }
    }
    write_name(host, device, new.name.as_deref())
}

/// Refuses a device that cannot be made assignable, and changes nothing.
///
/// # Errors
/// [`PciError::BadName`], [`PciError::NameTaken`], [`PciError::NoIommu`], [`PciError::Absent`], [`PciError::NoPciback`],
/// [`PciError::Bridge`], [`PciError::Assigned`], [`PciError::InUse`]; those of xenstore and Xen. Xen's own word that a domain has the
/// device ([`PciError::AssignedUnnamed`]) comes at the change alone.
pub fn check_add(host: &mut Host, new: &NewAssignable) -> Result<(), EngineError> {
    let device = new.device;
    if let Some(name) = &new.name {
        check_name(host, device, name)?;
    }
    check_host(host)?;
    if !host.kernel.has_pci(device) {
        return Err(PciError::Absent(device).into());
    }
    if host.kernel.is_pci_bridge(device) {
        return Err(PciError::Bridge(device).into());
    }
    if let Some(domid) = owner(host, device)? {
        return Err(PciError::Assigned { device, domid }.into());
    }
    if new.is_forced {
        return Ok(());
    }
    match user(host, device) {
        Some(user) => Err(PciError::InUse { device, user }.into()),
        None => Ok(()),
    }
}

/// Refuses a host on which no domain can get a PCI device.
///
/// # Errors
/// [`PciError::NoIommu`], [`PciError::NoPciback`]; those of Xen.
pub fn check_host(host: &Host) -> Result<(), EngineError> {
    check_iommu(host)?;
    match host.kernel.has_pciback() {
        true => Ok(()),
        false => Err(PciError::NoPciback.into()),
    }
}

/// Refuses a host whose IOMMU Xen does not use.
///
/// # Errors
/// [`PciError::NoIommu`]; those of Xen.
pub(super) fn check_iommu(host: &Host) -> Result<(), EngineError> {
    let caps = host.hv.phys_info()?.caps;
    match caps.pv_directio || caps.hvm_directio {
        true => Ok(()),
        false => Err(PciError::NoIommu.into()),
    }
}

fn check_name(host: &mut Host, device: PciSbdf, name: &str) -> Result<(), EngineError> {
    let is_printable = name.bytes().all(|byte| byte.is_ascii_graphic());
    if name.is_empty() || name.len() > PciError::NAME_MAX_BYTES || !is_printable {
        return Err(PciError::BadName(name.to_owned()).into());
    }
    match named(host, name)?.filter(|other| *other != device) {
        Some(other) => Err(PciError::NameTaken {
            name: name.to_owned(),
            device: other,
        }
        .into()),
        None => Ok(()),
    }
}

/// The use of a device by domain 0, in words. What cannot be seen counts as a use.
fn user(host: &mut Host, device: PciSbdf) -> Option<String> {
    let interfaces = host.kernel.interfaces_of_pci(device);
    if let Some(used) = interfaces.iter().find(|one| one.is_up || one.is_port) {
        let state = if used.is_port {
            "a port of a bridge or bond"
        } else {
            "up"
        };
        return Some(format!("its network interface {} is {state}", used.name));
    }
    let blocks = host.kernel.blocks_of_pci(device);
    if blocks.is_empty() {
        return unseen_disks(host, device);
    }
    match Seen::of(host) {
        Ok(seen) => blocks
            .iter()
            .find_map(|block| user_of_disk(host, &seen, block)),
        Err(error) => Some(format!("the users of its disks cannot be seen: {error}")),
    }
}

/// The use of one of a device's disks or partitions, in words.
fn user_of_disk(host: &mut Host, seen: &Seen, block: &Block) -> Option<String> {
    let name = &block.name;
    if block.is_hidden {
        return Some(format!(
            "{name} is one of several ways to a disk, whose users cannot be seen"
        ));
    }
    match disk_users::any(host, seen, &block.path()) {
        Ok(user) => user.map(|user| format!("its disk {name} has the user {user}")),
        Err(error) => Some(format!(
            "the users of its disk {name} cannot be seen: {error}"
        )),
    }
}

/// A storage controller whose driver shows no disk, in words. There may be some all the same: under other controllers, or of a driver
/// that makes none by itself.
fn unseen_disks(host: &Host, device: PciSbdf) -> Option<String> {
    let has_driver = match host.kernel.pci_driver(device) {
        Ok(driver) => driver.is_some_and(|driver| driver != PCIBACK),
        Err(_) => true,
    };
    let is_unseen = has_driver && host.kernel.is_pci_storage(device);
    is_unseen.then(|| {
        "it is a storage controller, and the users of its disks cannot be seen, since the kernel shows none".to_owned()
    })
}

/// Gives a device to pciback. The name of its driver is kept first.
fn take_from_driver(host: &mut Host, device: PciSbdf) -> Result<(), EngineError> {
    let kernel = host.kernel.clone();
    match driver_of(host, device)?.as_deref() {
        Some(PCIBACK) => return Ok(()),
        Some(driver) => {
            let path = format!("{DRIVER_PATH}{driver}");
            host.store
                .write(&info(device, "driver_path")?, path.as_bytes())?;
            let unbound = kernel.unbind_pci(device, driver);
            unbound.map_err(failed(device, &format!("take it from its driver {driver}")))?;
        }
        None => {}
    }
    let slot = kernel.add_slot(device);
    slot.map_err(failed(device, "give pciback a slot for it"))?;
    let bound = kernel.bind_pci(device, PCIBACK);
    bound.map_err(failed(device, "give it to pciback"))
}

/// Has Xen keep a device from all memory. Reserved memory is no obstacle, since the owner has no memory.
pub(super) fn quarantine(host: &Host, device: PciSbdf) -> Result<(), EngineError> {
    let assigned = host.hv.assign_pci(DomId::IO, device, true);
    assigned.map_err(|source| {
        if source.is(Errno::EBUSY) {
            return PciError::AssignedUnnamed(device).into();
        }
        let now = "where it was".to_owned();
        PciError::Quarantine {
            device,
            source,
            now,
        }
        .into()
    })
}

/// Gives a device that could not be made assignable back to the driver that it had. Returns the error with what became of the device.
fn given_back(
    host: &mut Host,
    device: PciSbdf,
    had_driver: bool,
    error: EngineError,
) -> EngineError {
    let back = end_quarantine(host, device)
        .and_then(|()| leave_pciback(host, device))
        .and_then(|()| match had_driver {
            true => rebind(host, device),
            false => Ok(None),
        });
    let now = match back {
        Ok(Some(driver)) => format!("with its driver {driver} again"),
        Ok(None) => "without a driver, as it was".to_owned(),
        Err(back) => format!("not with its driver again, for {back}"),
    };
    match error {
        EngineError::Pci(PciError::Quarantine { device, source, .. }) => PciError::Quarantine {
            device,
            source,
            now,
        }
        .into(),
        other => other,
    }
}

/// Takes a device out of the assignable ones. With `rebinds` its own driver gets it again.
///
/// # Errors
/// Those of [`check_remove`]; [`PciError::Driver`]; those of Xen and xenstore.
pub fn remove(host: &mut Host, device: PciSbdf, rebinds: bool) -> Result<(), EngineError> {
    let lock = lock(host)?;
    let removed = remove_locked(host, device, rebinds);
    drop(lock);
    removed
}

fn remove_locked(host: &mut Host, device: PciSbdf, rebinds: bool) -> Result<(), EngineError> {
    check_remove(host, device, rebinds)?;
    let driver = driver_of(host, device)?;
    if driver.is_none_or(|driver| driver == PCIBACK) && check_iommu(host).is_ok() {
        // Xen refuses it if a domain has the device, whatever the nodes say.
        quarantine(host, device)?;
    }
    end_quarantine(host, device)?;
    leave_pciback(host, device)?;
    if rebinds {
        rebind(host, device)?;
    } else {
        // The driver is still known: a later `remove` can give it the device.
        for name in ["name", "domid"] {
            host.store.rm(&info(device, name)?)?;
        }
    }
    Ok(())
}

/// Refuses a device that is not assignable, and changes nothing. One whose driver is known is no more, but can be given back to that
/// (`rebinds`).
///
/// # Errors
/// [`PciError::Absent`], [`PciError::NotAssignable`], [`PciError::Assigned`]; those of sysfs and xenstore.
pub fn check_remove(host: &mut Host, device: PciSbdf, rebinds: bool) -> Result<(), EngineError> {
    if !host.kernel.has_pci(device) {
        return Err(PciError::Absent(device).into());
    }
    let nodes = host.children(&info_folder(device)?)?;
    let mut nodes = nodes.iter();
    let is_known = nodes.any(|name| rebinds || name != "driver_path");
    if !is_known && !has_pciback(host, device)? {
        return Err(PciError::NotAssignable(device).into());
    }
    match owner(host, device)? {
        Some(domid) => Err(PciError::Assigned { device, domid }.into()),
        None => Ok(()),
    }
}

/// Gives a device back to domain 0 in Xen. One that is there already is no error.
fn end_quarantine(host: &Host, device: PciSbdf) -> Result<(), EngineError> {
    let absent = |error: &HvError| error.is(Errno::ENODEV) || error.is(Errno::EOPNOTSUPP);
    match host.hv.deassign_pci(DomId::IO, device) {
        Err(error) if !absent(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Takes a device from pciback, and its slot.
fn leave_pciback(host: &Host, device: PciSbdf) -> Result<(), EngineError> {
    if has_pciback(host, device)? {
        let unbound = host.kernel.unbind_pci(device, PCIBACK);
        unbound.map_err(failed(device, "take it from pciback"))?;
    }
    if !host.kernel.has_pciback() {
        return Ok(());
    }
    let slot = host.kernel.remove_slot(device);
    slot.map_err(failed(device, "remove pciback's slot for it"))
}

/// Gives a device to the driver that it had, whose name it returns. All that is known of the device goes, in one step.
fn rebind(host: &mut Host, device: PciSbdf) -> Result<Option<String>, EngineError> {
    let kept = host.store.read_text_opt(&info(device, "driver_path")?)?;
    let name = kept
        .as_deref()
        .and_then(|kept| kept.strip_prefix(DRIVER_PATH));
    let driver = name.filter(|name| !name.is_empty() && !name.contains('/'));
    if let Some(driver) = driver
        && driver_of(host, device)?.is_none()
    {
        let bound = host.kernel.bind_pci(device, driver);
        bound.map_err(failed(device, &format!("give it to its driver {driver}")))?;
    }
    host.store.rm(&info_folder(device)?)?;
    Ok(driver.map(str::to_owned))
}

/// Makes a device assignable, if it is not, for a domain that is to have it. The caller holds the lock.
///
/// # Errors
/// Those of [`add`].
pub(super) fn seize(host: &mut Host, device: PciSbdf) -> Result<(), EngineError> {
    let new = NewAssignable {
        device,
        name: None,
        is_forced: false,
    };
    match has_pciback(host, device)? {
        true => Ok(()),
        false => add_locked(host, &new),
    }
}

/// Refuses a device that is not assignable, or that a domain has.
///
/// # Errors
/// Those of [`check_remove`].
pub(super) fn check_free(host: &mut Host, device: PciSbdf) -> Result<(), EngineError> {
    check_remove(host, device, true)?;
    match has_pciback(host, device)? {
        true => Ok(()),
        false => Err(PciError::NotAssignable(device).into()),
    }
}

/// Takes from guests the right to write to all of a device's configuration space. pciback forgets it when it loses the device, so it gets
/// the device anew. A process that dies meanwhile leaves the device without a driver, and the next call finishes it. The node `domid`
/// keeps other processes away.
///
/// # Errors
/// [`PciError::Driver`].
pub(super) fn end_permissive(host: &Host, device: PciSbdf) -> Result<(), EngineError> {
    let kernel = &host.kernel;
    let is_permissive = kernel
        .is_pci_permissive(device)
        .map_err(failed(device, "say whether it is permissive"))?;
    if is_permissive {
        let unbound = kernel.unbind_pci(device, PCIBACK);
        unbound.map_err(failed(device, "take it from pciback"))?;
    }
    let driver = driver_of(host, device)?;
    let slots = kernel
        .pci_slots()
        .map_err(failed(device, "list pciback's slots"))?;
    if driver.is_none() && slots.contains(&device) {
        let bound = kernel.bind_pci(device, PCIBACK);
        bound.map_err(failed(device, "give it to pciback"))?;
    }
    Ok(())
}

/// Writes down that a domain gets a device.
///
/// # Errors
/// Those of xenstore.
pub(super) fn note_owner(
    host: &mut Host,
    device: PciSbdf,
    domid: DomId,
) -> Result<(), EngineError> {
    let path = info(device, "domid")?;
    Ok(host.store.write(&path, domid.to_string().as_bytes())?)
}

/// Removes the note of [`note_owner`].
///
/// # Errors
/// Those of xenstore.
pub(super) fn forget_owner(host: &mut Host, device: PciSbdf) -> Result<(), EngineError> {
    Ok(host.store.rm(&info(device, "domid")?)?)
}

/// The devices that a domain has, by the notes of [`note_owner`].
///
/// # Errors
/// Those of xenstore.
pub(super) fn devices_of(host: &mut Host, domid: DomId) -> Result<Vec<PciSbdf>, EngineError> {
    let mut found = Vec::new();
    for folder in host.children(&node(FOLDER)?)? {
        let Some(device) = device_of_folder(&folder) else {
            continue;
        };
        let noted = host.store.read_text_opt(&info(device, "domid")?)?;
        if noted.and_then(|noted| noted.parse().ok()) == Some(domid.0) {
            found.push(device);
        }
    }
    Ok(found)
}

/// Whether pciback has a device.
fn has_pciback(host: &Host, device: PciSbdf) -> Result<bool, EngineError> {
    Ok(driver_of(host, device)?.as_deref() == Some(PCIBACK))
}

/// The driver that has a device.
fn driver_of(host: &Host, device: PciSbdf) -> Result<Option<String>, EngineError> {
    let driver = host.kernel.pci_driver(device);
    driver.map_err(failed(device, "say which driver has it"))
}

/// The devices that domains can get, in the order of their addresses.
///
/// # Errors
/// Those of xenstore and Xen.
pub fn list(host: &mut Host) -> Result<Vec<Assignable>, EngineError> {
    let mut found = Vec::new();
    for device in host.kernel.pci_devices_of_pciback() {
        if owner(host, device)?.is_none() {
            let name = host.store.read_text_opt(&info(device, "name")?)?;
            found.push(Assignable { device, name });
        }
    }
    Ok(found)
}

/// The device that a toolstack has given this name.
///
/// # Errors
/// Those of xenstore.
pub fn named(host: &mut Host, name: &str) -> Result<Option<PciSbdf>, EngineError> {
    for folder in host.children(&node(FOLDER)?)? {
        let Some(device) = device_of_folder(&folder) else {
            continue;
        };
        if host.store.read_text_opt(&info(device, "name")?)?.as_deref() == Some(name) {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// The domain that has a device, by the node `domid`. A domain that has ended has none.
///
/// # Errors
/// Those of xenstore and Xen.
pub fn owner(host: &mut Host, device: PciSbdf) -> Result<Option<DomId>, EngineError> {
    let noted = host.store.read_text_opt(&info(device, "domid")?)?;
    let Some(domid) = noted.and_then(|domid| domid.parse().ok().map(DomId)) else {
        return Ok(None);
    };
    Ok(host.hv.domain_info(domid)?.map(|info| info.domid))
}

fn write_name(host: &mut Host, device: PciSbdf, name: Option<&str>) -> Result<(), EngineError> {
    let path = info(device, "name")?;
    match name {
        Some(name) => Ok(host.store.write(&path, name.as_bytes())?),
        None => Ok(host.store.rm(&path)?),
    }
}

fn info_folder(device: PciSbdf) -> Result<Path, EngineError> {
    node(&format!("{FOLDER}/{}", folder_of(device)))
}

/// A node of what toolstacks know of a device.
pub(super) fn info(device: PciSbdf, name: &str) -> Result<Path, EngineError> {
    node(&format!("{FOLDER}/{}/{name}", folder_of(device)))
}

/// The address as the name of a folder: `0000-03-00-0`.
fn folder_of(device: PciSbdf) -> String {
    device.to_string().replace([':', '.'], "-")
}

fn device_of_folder(folder: &str) -> Option<PciSbdf> {
    let mut parts = folder.split('-');
    let (segment, bus, slot, function) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_whole = parts.next().is_none();
    PciSbdf::parse(&format!("{segment}:{bus}:{slot}.{function}")).filter(|_| is_whole)
}

/// The error of a change that domain 0's kernel refuses.
pub(super) fn failed(device: PciSbdf, action: &str) -> impl FnOnce(io::Error) -> EngineError {
    let action = action.to_owned();
    move |source| {
        PciError::Driver {
            device,
            action,
            source,
        }
        .into()
    }
}

/// Holds the right to change the assignable devices.
pub(super) fn lock(host: &Host) -> Result<Box<dyn Lock>, EngineError> {
    let path = host.dirs.pci_lock();
    let deadline = host.clock.now() + LOCK_LIMIT;
    let lock = host.files.lock(&path, Some(deadline));
    let lock = lock.map_err(|source| EngineError::io("lock", &path, source))?;
    lock.ok_or_else(|| PciError::Busy(LOCK_LIMIT.as_secs()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_in_xenstore_are_addresses() {
        let device = PciSbdf::new(0, 3, 31, 7);
        assert_eq!(folder_of(device), "0000-03-1f-7");
        assert_eq!(device_of_folder("0000-03-1f-7"), Some(device));
        for other in [
            "0000-03-1f",
            "0000-03-1f-7-0",
            "0-3-1f-7",
            "x",
            "0000-03-20-0",
        ] {
            assert_eq!(device_of_folder(other), None, "{other}");
        }
    }
}
