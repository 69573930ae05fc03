//! Kinds of devices: one file for each kind, and the table of all of them.
//!
//! A kind says everything of its devices: which nodes a create writes and who may do what with them, what a soft
//! reset does to them, what a destroy waits for and removes, which member of libxl's record it is. Create, soft reset, destroy, restart,
//! adopt and `fsck` iterate [`KINDS`] and name no kind.
//!
//! To add a kind: write one file beside `vif.rs` with its `impl Kind`, and put it into [`KINDS`]. `bus` has the handshake with a
//! backend.
//!
//! Rule: which devices a domain has is read below `/libxl/D/device` alone, which no guest can write. The nodes of
//! frontend and backend are outputs. A domain with a device of a kind that is not in the table is not Xyl's to take down.

pub mod assignable;
pub mod bus;
pub mod console;
mod disk_users;
pub mod driver_side;
pub mod hotplug;
pub(crate) mod machine;
pub mod nodes;
pub mod passed_through;
mod pci;
mod qemu;
pub mod script;
mod vbd;
mod vfb;
mod vif;
mod vkb;

use std::time::{Duration, Instant};

use os_port::{FILES_MAX, Files, LoopDevice, OpenFile};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;
use xen_port::DomId;
use xenstore::Path;

use crate::device::console::Ring;
use crate::device::driver_side::DriverSide;
use crate::device::hotplug::Hotplug;
use crate::device::nodes::{Access, NodeRule};
use crate::device::qemu::Wanted;
use crate::device_model::{self, QemuId};
use crate::error::DeviceError;
use crate::vm::spec::VmSpec;
use crate::{EngineError, Host};

/// Time limit for backends to close the devices of a domain, as in libxl (`LIBXL_DESTROY_TIMEOUT`).
const DETACH_LIMIT: Duration = Duration::from_secs(10);

/// Every kind that Xyl can make and take down.
pub const KINDS: &[&dyn Kind] = &[
    &console::Console,
    &vbd::Vbd,
    &vif::Vif,
    &vfb::Vfb,
    &vkb::Vkb,
    &pci::Pci,
    &machine::DeviceModel,
];

/// What the console of a domain is made from.
#[derive(Clone, Copy, Debug)]
pub struct DeviceInput {
    /// Number of the domain.
    pub domid: DomId,
    /// The ring of its console.
    pub console: Ring,
}

/// The VM that gets devices.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// The domain of the VM.
    pub domid: DomId,
    /// UUID of the VM.
    pub uuid: Uuid,
}

/// A device of a VM's record.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its number among the devices of the kind.
    pub number: u32,
    /// Its complete description, as in xl.cfg.
    pub text: String,
    /// Its entry in libxl's record.
    pub json: Json,
}

/// A device of a domain: its kind and its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceName {
    /// libxl's name of the kind.
    pub kind: String,
    /// Its number among the devices of this kind.
    pub number: u32,
}

/// Deadline and cancel of the operation that attaches devices.
pub struct Patience<'a> {
    /// Time at which the operation's step has to end.
    pub deadline: Instant,
    /// Whether the operation was cancelled.
    pub is_cancelled: Box<dyn Fn() -> bool + 'a>,
    /// Name of the step, for the error of its deadline.
    pub step: &'a str,
}

impl Patience<'_> {
    /// The earlier one of the step's deadline and a limit from now on.
    pub fn within(&self, host: &Host, limit: Duration) -> Instant {
        self.deadline.min(host.clock.now() + limit)
    }

    /// Refuses to wait on after a cancel or the deadline.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`], [`EngineError::Deadline`].
    pub fn check(&self, host: &Host) -> Result<(), EngineError> {
        if (self.is_cancelled)() {
            return Err(EngineError::Cancelled);
        }
        match host.clock.now() < self.deadline {
            true => Ok(()),
            false => Err(DeviceError::TooSlow {
                step: self.step.to_owned(),
            }
            .into()),
        }
    }
}

/// A kind of devices. What has a default is left out by kinds that have nothing of it.
pub trait Kind {
    /// libxl's name of the kind: its folder below `/libxl/D/device`.
    fn name(&self) -> &'static str;

    /// The member of libxl's record that lists the devices. `None`: libxl makes the device without one.
    fn json_member(&self) -> Option<&'static str>;

    /// The setting of xl.cfg that lists the devices. `None`: no setting does.
    fn setting(&self) -> Option<&'static str> {
        None
    }

    /// The devices of a VM's record.
    fn recorded(&self, _spec: &VmSpec) -> Vec<Recorded> {
        Vec::new()
    }

    /// The devices of a VM as libxl's record has them.
    fn to_json(&self, spec: &VmSpec) -> Vec<Json> {
        let recorded = self.recorded(spec).into_iter();
        recorded.map(|device| device.json).collect()
    }

    /// The number of a device in libxl's record.
    fn number_of_json(&self, _entry: &Json) -> Option<u32> {
        None
    }

    /// A device of libxl's record as xl.cfg says it; `None` where Xyl cannot serve it.
    fn cfg_of_json(&self, _entry: &Json) -> Option<String> {
        None
    }

    /// Whether a domain has a device of its record, by the toolstack's own copy.
    ///
    /// # Errors
    /// Those of xenstore.
    fn is_attached(
        &self,
        _host: &mut Host,
        _domid: DomId,
        _entry: &Json,
    ) -> Result<bool, EngineError> {
        Ok(true)
    }

    /// The nodes below the domain's home that each domain has, in this order.
    fn nodes(&self) -> &'static [NodeRule<DeviceInput>] {
        &[]
    }

    /// The nodes of one device for the documentation: path, rights of the guest, reader.
    fn table(&self) -> Vec<(String, Access, &'static str)> {
        Vec::new()
    }

    /// Whether the backend of a device goes on with it over a soft reset. The backend of any other closes it before the reset, and
    /// takes it anew after it: it is attached from the VM's record, by [`Kind::numbers`] and [`Kind::keep_only`].
    fn is_kept(&self, _number: &str) -> bool {
        false
    }

    /// Nodes below the domain's home that keep their values over a soft reset, since their writer does not write them again.
    fn kept_nodes(&self) -> &'static [&'static str] {
        &[]
    }

    /// The numbers of a VM's devices by its record. A device that is not among them cannot be attached again.
    fn numbers(&self, spec: &VmSpec) -> Vec<u32> {
        let recorded = self.recorded(spec).into_iter();
        recorded.map(|device| device.number).collect()
    }

    /// The numbers of the devices that a domain has, by what no guest can write.
    ///
    /// # Errors
    /// Those of xenstore.
    fn numbers_there(&self, host: &mut Host, domid: DomId) -> Result<Vec<u32>, EngineError> {
        let numbers = bus::numbers(host, domid, self.name())?;
        Ok(numbers.iter().filter_map(|one| one.parse().ok()).collect())
    }

    /// Whether a device of a domain is the one that the VM's record has of this number. xl may have put another one in its place.
    ///
    /// # Errors
    /// Those of xenstore.
    fn is_as_recorded(
        &self,
        _host: &mut Host,
        _device: (DomId, u32),
        _spec: &VmSpec,
    ) -> Result<bool, EngineError> {
        Ok(true)
    }

    /// Takes the devices out of a VM's record whose numbers are not among these.
    fn keep_only(&self, _spec: &mut VmSpec, _numbers: &[u32]) {}

    /// Folders of domain 0 in xenstore for all devices of this kind of a domain. A destroy removes them.
    fn folders(&self, domid: DomId) -> Vec<String>;

    /// Refuses what this process cannot give a VM, because it has given up a right.
    ///
    /// # Errors
    /// [`DeviceError::NoRight`].
    fn check_rights(&self, _host: &Host, _spec: &VmSpec) -> Result<(), EngineError> {
        Ok(())
    }

    /// Number of open files that the VM's QEMU gets for its devices of this kind.
    fn nr_files_of_qemu(&self, _spec: &VmSpec) -> usize {
        0
    }

    /// Refuses what the host cannot give a VM, before anything of its domain is made.
    ///
    /// # Errors
    /// Why it cannot.
    fn check(&self, _host: &mut Host, _spec: &VmSpec) -> Result<(), EngineError> {
        Ok(())
    }

    /// Refuses what a look at the files of a VM can find wrong, for a dry run.
    ///
    /// # Errors
    /// Which file cannot be used.
    fn preview(&self, _files: &dyn Files, _spec: &VmSpec) -> Result<(), EngineError> {
        Ok(())
    }

    /// Finds the driver domains of a VM's devices, and puts their names in place of their numbers: the VM's next domain looks for
    /// the names.
    ///
    /// # Errors
    /// [`DeviceError::NoBackendDomain`], [`DeviceError::BackendDomainGone`].
    fn name_backends(&self, _host: &mut Host, _spec: &mut VmSpec) -> Result<(), EngineError> {
        Ok(())
    }

    /// Attaches all devices of a VM to its domain, which does not run yet, and waits for their backends. For those that QEMU serves
    /// the nodes are written, and `qemu` learns what it needs for them. A failure leaves some of them, which [`Kind::detach`] finds.
    ///
    /// # Errors
    /// Why a device cannot be attached.
    fn attach(
        &self,
        _host: &mut Host,
        _owner: Owner,
        _spec: &VmSpec,
        _qemu: &mut Wanted,
        _patience: &Patience<'_>,
    ) -> Result<(), EngineError> {
        Ok(())
    }

    /// The part of the kind for single devices of a running domain. `None`: they cannot be attached or detached.
    fn hotplug(&self) -> Option<&'static dyn Hotplug> {
        None
    }

    /// The part of the kind in a driver domain. `None`: such a domain cannot serve its devices.
    fn driver_side(&self) -> Option<&'static dyn DriverSide> {
        None
    }

    /// Whether [`Kind::detach`] waits for a backend.
    fn is_waited_for(&self) -> bool {
        true
    }

    /// Takes all devices of a domain away, with all that the host has of them. The guest is not asked. A backend that is too slow
    /// is no error.
    ///
    /// # Errors
    /// Those of xenstore and the host.
    fn detach(
        &self,
        _host: &mut Host,
        _domid: DomId,
        _deadline: Instant,
    ) -> Result<(), EngineError> {
        Ok(())
    }

    /// Whether a domain has devices of this kind that the toolstack's copy does not have.
    ///
    /// # Errors
    /// Those of xenstore.
    fn has_more(&self, _host: &mut Host, _domid: DomId) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Whether a device of this kind is none that Xyl could have made, and so not Xyl's to take down.
    ///
    /// # Errors
    /// Those of xenstore.
    fn foreign(&self, _host: &mut Host, _domid: DomId, _number: &str) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Whether a hot-plug script takes a device of a domain down.
    ///
    /// # Errors
    /// Those of xenstore.
    fn runs_scripts(&self, _host: &mut Host, _domid: DomId) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Whether Xyl could take a device down but not serve the same to the VM's next domain, so that it cannot take the VM over.
    ///
    /// # Errors
    /// Those of xenstore.
    fn is_not_for_adopt(
        &self,
        _host: &mut Host,
        _domid: DomId,
        _number: &str,
    ) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// The devices of a domain that are to stay, and whose QEMU has ended, in words.
    ///
    /// # Errors
    /// Those of xenstore.
    fn without_qemu(&self, _host: &mut Host, _domid: DomId) -> Result<Vec<String>, EngineError> {
        Ok(Vec::new())
    }

    /// Waits, with a limit, until the backend has done what it would do to nodes that are about to be removed.
    ///
    /// # Errors
    /// Those of xenstore. A backend that is too slow is none.
    fn settle(&self, _host: &mut Host, _domid: DomId) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Refuses what the host cannot give a VM, before anything of its domain is made.
///
/// # Errors
/// The first device's.
pub(crate) fn check(host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
    check_rights(host, spec)?;
    check_files_of_qemu(spec)?;
    KINDS.iter().try_for_each(|kind| kind.check(host, spec))
}

/// Refuses a VM whose QEMU would get more files than a program can.
fn check_files_of_qemu(spec: &VmSpec) -> Result<(), EngineError> {
    let nr_files: usize = KINDS.iter().map(|kind| kind.nr_files_of_qemu(spec)).sum();
    if nr_files <= FILES_MAX {
        return Ok(());
    }
    let what = format!(
        "the VM's QEMU would get {nr_files} files for disks, channels with sockets and the VNC password, and {FILES_MAX} is the most: let domain 0's kernel serve some disks, with format=raw and without backendtype, or attach them with `xyl block-attach`"
    );
    Err(DeviceError::Unsupported { what }.into())
}

/// Refuses what this process cannot give a VM, because it has given up a right.
///
/// # Errors
/// The first device's.
pub(crate) fn check_rights(host: &Host, spec: &VmSpec) -> Result<(), EngineError> {
    let mut kinds = KINDS.iter();
    kinds.try_for_each(|kind| kind.check_rights(host, spec))
}

/// Opens a VM's first disk for a program of domain 0 that reads it before the guest has it.
///
/// # Errors
/// [`DeviceError::Unsupported`] for a VM without disks; that of a disk that cannot be opened.
pub(crate) fn open_first_disk(host: &Host, spec: &VmSpec) -> Result<OpenFile, EngineError> {
    match spec.disks.first() {
        Some(disk) => vbd::open_to_read(&*host.files, disk),
        None => {
            let what = "the VM has no disk, and `bootloader` needs one".to_owned();
            Err(DeviceError::Unsupported { what }.into())
        }
    }
}

/// Refuses what a look at a VM's files can find wrong.
///
/// # Errors
/// The first device's.
pub(crate) fn preview(files: &dyn Files, spec: &VmSpec) -> Result<(), EngineError> {
    KINDS.iter().try_for_each(|kind| kind.preview(files, spec))
}

/// Attaches all devices of a VM.
///
/// # Errors
/// The first device's.
pub(crate) fn attach(
    host: &mut Host,
    owner: Owner,
    spec: &VmSpec,
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    let mut wanted = Wanted::of(QemuId::first(owner.domid));
    let mut kinds = KINDS.iter();
    kinds.try_for_each(|kind| kind.attach(host, owner, spec, &mut wanted, patience))?;
    wanted.serve(host, patience)
}

/// Takes all devices of a domain away. A backend that does not answer uses up no more than its kind's share of the time.
///
/// # Errors
/// The first kind's.
pub(crate) fn detach(host: &mut Host, domid: DomId, deadline: Instant) -> Result<(), EngineError> {
    let deadline = deadline.min(host.clock.now() + DETACH_LIMIT);
    let names = host.children(&folder_of(domid)?)?;
    let mut there = Vec::new();
    for kind in KINDS {
        if names.iter().any(|name| name == kind.name()) || kind.has_more(host, domid)? {
            there.push(*kind);
        }
    }
    // The device model has images of disks open, and must not have them when they count as free.
    if names.iter().any(|name| name == machine::KIND) {
        device_model::end_one(host, QemuId::device_model(domid))?;
    }
    // Of the kinds that are waited for, interfaces come after disks: the time of their scripts is none that a disk needs to close.
    let (waited_for, others): (Vec<&dyn Kind>, Vec<&dyn Kind>) =
        there.into_iter().partition(|kind| kind.is_waited_for());
    for (kind, kinds_left) in waited_for.iter().zip((1..=waited_for.len()).rev()) {
        let now = host.clock.now();
        let share = share(deadline.saturating_duration_since(now), kinds_left);
        kind.detach(host, domid, now + share)?;
    }
    let mut others = others.iter();
    others.try_for_each(|kind| kind.detach(host, domid, deadline))?;
    device_model::end_left(host, domid)
}

/// One kind's part of the time that is left for so many kinds.
fn share(left: Duration, kinds: usize) -> Duration {
    left / u32::try_from(kinds).unwrap_or(u32::MAX).max(1)
}

/// Loop devices that Xyl has attached, and that the kernel detaches by itself, with the UUIDs of their VMs.
///
/// # Errors
/// Those of sysfs.
pub(crate) fn labelled_loops(host: &Host) -> Result<Vec<(LoopDevice, Uuid)>, EngineError> {
    let all = disk_users::loops(host)?.into_iter();
    let own = all.filter(|one| one.is_autoclear).filter_map(|one| {
        let (uuid, _) = disk_users::disk_of_label(&one.label)?;
        Some((one, uuid))
    });
    Ok(own.collect())
}

/// The devices of a domain that are to stay, and whose QEMU has ended, in words.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn without_qemu(host: &mut Host, domid: DomId) -> Result<Vec<String>, EngineError> {
    let mut found = Vec::new();
    for kind in KINDS {
        found.extend(kind.without_qemu(host, domid)?);
    }
    Ok(found)
}

/// Empties the nodes with the terminals of a domain's channels, whose QEMU is gone.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn forget_terminals(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    console::forget_terminals(host, domid)
}

/// Removes the nodes with the terminals of a domain's serial lines, if its device model is gone.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn forget_serial_lines(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    machine::forget_terminals(host, domid)
}

/// Whether a hot-plug script takes a device of a domain down. Not every process can have one run.
///
/// # Errors
/// Those of xenstore.
pub fn runs_scripts(host: &mut Host, domid: DomId) -> Result<bool, EngineError> {
    for kind in KINDS {
        if kind.runs_scripts(host, domid)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Devices of a domain that Xyl cannot take down, as `KIND NUMBER`, by the toolstack's own record.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn foreign(host: &mut Host, domid: DomId) -> Result<Vec<String>, EngineError> {
    let mut found = Vec::new();
    for (name, number) in all(host, domid)? {
        let kind = KINDS.iter().find(|kind| kind.name() == name);
        let is_foreign = match kind {
            Some(kind) => kind.foreign(host, domid, &number)?,
            None => true,
        };
        if is_foreign {
            found.push(format!("{name} {number}"));
        }
    }
    Ok(found)
}

/// Devices of a domain with which Xyl cannot take it over, as `KIND NUMBER`: the foreign ones, and those of QEMU.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn not_for_adopt(host: &mut Host, domid: DomId) -> Result<Vec<String>, EngineError> {
    let mut found = foreign(host, domid)?;
    for (name, number) in all(host, domid)? {
        let kind = KINDS.iter().find(|kind| kind.name() == name);
        if let Some(kind) = kind
            && kind.is_not_for_adopt(host, domid, &number)?
        {
            found.push(format!("{name} {number}, which QEMU serves"));
        }
    }
    Ok(found)
}

/// Takes the devices that a domain no longer has out of libxl's record of it.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn drop_detached(
    host: &mut Host,
    domid: DomId,
    record: &mut Json,
) -> Result<(), EngineError> {
    for kind in KINDS {
        let member = kind.json_member().and_then(|name| record.get_mut(name));
        let Some(entries) = member.and_then(Json::as_array_mut) else {
            continue;
        };
        for entry in std::mem::take(entries) {
            if kind.is_attached(host, domid, &entry)? {
                entries.push(entry);
            }
        }
    }
    Ok(())
}

/// The devices of a domain, by what a soft reset does to them.
#[derive(Debug, Default)]
pub(crate) struct Resettable {
    /// Those that are detached and attached again.
    pub again: Vec<DeviceName>,
    /// Those that the guest was asked to let go. They are detached.
    pub going: Vec<DeviceName>,
    /// Those that Xyl cannot take down, as `KIND NUMBER`.
    pub lost: Vec<String>,
}

/// The devices of a domain before a soft reset.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn resettable(host: &mut Host, domid: DomId) -> Result<Resettable, EngineError> {
    let mut found = Resettable::default();
    for (name, number) in all(host, domid)? {
        let kind = KINDS.iter().find(|kind| kind.name() == name);
        if kind.is_some_and(|kind| kind.is_kept(&number)) {
            continue;
        }
        let device = match kind {
            Some(kind) if !kind.foreign(host, domid, &number)? => {
                bus::device_of(host, domid, kind.name(), &number)?
            }
            _ => None,
        };
        let Some(device) = device else {
            found.lost.push(format!("{name} {number}"));
            continue;
        };
        let list = match bus::is_going(host, &device)? {
            true => &mut found.going,
            false => &mut found.again,
        };
        list.push(DeviceName {
            kind: name,
            number: device.number,
        });
    }
    Ok(found)
}

/// The devices of a domain that its VM's record does not have, as `KIND NUMBER`.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn not_recorded(
    host: &mut Host,
    domid: DomId,
    spec: &VmSpec,
    devices: &[DeviceName],
) -> Result<Vec<String>, EngineError> {
    let mut missing = Vec::new();
    for DeviceName { kind: name, number } in devices {
        let kind = KINDS.iter().find(|kind| kind.name() == name);
        let recorded = kind.filter(|kind| kind.numbers(spec).contains(number));
        let is_it = match recorded {
            Some(kind) => kind.is_as_recorded(host, (domid, *number), spec)?,
            None => false,
        };
        if !is_it {
            missing.push(format!("{name} {number}"));
        }
    }
    Ok(missing)
}

/// Attaches these devices of a VM's record, and no others of it.
///
/// # Errors
/// The first device's.
pub(crate) fn attach_again(
    host: &mut Host,
    owner: Owner,
    mut spec: VmSpec,
    devices: &[DeviceName],
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    for kind in KINDS {
        let ours = devices.iter().filter(|device| device.kind == kind.name());
        let numbers: Vec<u32> = ours.map(|device| device.number).collect();
        kind.keep_only(&mut spec, &numbers);
    }
    attach(host, owner, &spec, patience)
}

/// Nodes below a domain's home that keep their values over a soft reset.
pub(crate) fn kept_nodes() -> impl Iterator<Item = &'static str> {
    KINDS.iter().flat_map(|kind| kind.kept_nodes()).copied()
}

/// The folder of the toolstack's own copy of a domain's devices.
fn folder_of(domid: DomId) -> Result<Path, EngineError> {
    Ok(Path::new(&format!("/libxl/{domid}/device")).map_err(xenstore::Error::from)?)
}

/// All devices of a domain, by kind and number.
fn all(host: &mut Host, domid: DomId) -> Result<Vec<(String, String)>, EngineError> {
    let folder = folder_of(domid)?;
    let mut found = Vec::new();
    for kind in host.children(&folder)? {
        let below = folder.join(&kind).map_err(xenstore::Error::from)?;
        for number in host.children(&below)? {
            found.push((kind.clone(), number));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use xen_sim::model::Model;
    use xenstore::Tree;
    use xenstore::mem::MemStore;

    use super::*;
    use crate::Dirs;

    #[test]
    fn devices_are_those_of_the_toolstacks_own_record() {
        let folder = tempfile::tempdir().unwrap();
        let store = MemStore::new().client(0).unwrap();
        let dirs = Dirs::below(folder.path());
        let mut host = Host::new(Box::new(Model::new(64)), store, dirs);
        for (node, value) in [
            ("/libxl/7/device/console/0/backend", ""),
            ("/libxl/7/device/vif/1/backend", ""),
            (
                "/libxl/7/device/vbd/51712/backend",
                "/local/domain/0/backend/vbd/7/51712",
            ),
            (
                "/libxl/7/device/vbd/51728/backend",
                "/local/domain/0/backend/qdisk/7/51728",
            ),
            (
                "/libxl/7/device/vbd/51744/backend",
                "/local/domain/3/backend/vbd/7/51744",
            ),
            (
                "/libxl/7/device/vbd/x/backend",
                "/local/domain/0/backend/vbd/7/x",
            ),
            ("/local/domain/7/device/vif/0/backend", ""),
            ("/local/domain/0/backend/vif/7/0/state", ""),
        ] {
            let node = Path::new(node).unwrap();
            host.store.write(&node, value.as_bytes()).unwrap();
        }
        let mut found = foreign(&mut host, DomId(7)).unwrap();
        found.sort();
        assert_eq!(found, ["vbd x", "vif 1"]);
        let mut before_reset = resettable(&mut host, DomId(7)).unwrap();
        before_reset.lost.sort();
        assert_eq!(before_reset.lost, found);
        let disk = |number| DeviceName {
            kind: "vbd".to_owned(),
            number,
        };
        before_reset.again.sort_by_key(|device| device.number);
        assert_eq!(before_reset.again, [disk(51712), disk(51728), disk(51744)]);
        assert!(foreign(&mut host, DomId(8)).unwrap().is_empty());
    }

    /// netback never closes an interface; the disk's backend closes it once its turn has come.
    #[test]
    fn a_backend_that_does_not_answer_leaves_time_to_the_other_kinds() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = MemStore::new();
        let store = daemon.client(0).unwrap();
        let dirs = Dirs::below(folder.path());
        let mut host = Host::new(Box::new(Model::new(64)), store, dirs);
        let backend = "/local/domain/0/backend";
        for (node, value) in [
            (
                "/libxl/7/device/vif/0/backend",
                format!("{backend}/vif/7/0"),
            ),
            (
                "/libxl/7/device/vbd/51712/backend",
                format!("{backend}/vbd/7/51712"),
            ),
            ("/local/domain/0/backend/vif/7/0/state", "4".to_owned()),
            ("/local/domain/0/backend/vbd/7/51712/state", "4".to_owned()),
        ] {
            let node = Path::new(node).unwrap();
            host.store.write(&node, value.as_bytes()).unwrap();
        }
        let blkback = std::thread::spawn(move || {
            let mut store = daemon.client(0).unwrap();
            let state = Path::new("/local/domain/0/backend/vbd/7/51712/state").unwrap();
            while store.read_text_opt(&state).unwrap().as_deref() == Some("4") {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(20));
            let is_there = store.read_text_opt(&state).unwrap().is_some();
            store.write(&state, b"6").unwrap();
            is_there
        });
        let deadline = host.clock.now() + Duration::from_secs(1);
        detach(&mut host, DomId(7), deadline).unwrap();
        assert!(blkback.join().unwrap());
    }

    #[test]
    fn each_kind_has_a_name_and_folders_of_its_own() {
        for (index, kind) in KINDS.iter().enumerate() {
            for other in KINDS.iter().skip(index + 1) {
                assert_ne!(kind.name(), other.name());
                let domid = DomId(7);
                assert_ne!(kind.folders(domid), other.folders(domid));
            }
        }
    }
}
