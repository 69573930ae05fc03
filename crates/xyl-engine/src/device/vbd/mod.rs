//! Disks, served by domain 0's kernel (blkback), by the VM's QEMU (`qdisk`), or by a driver domain.
//!
//! A block device is served as it is, an image by a loop device that the kernel detaches when blkback closes it. The image is
//! opened once: all checks are about the open file, and it stays open until blkback has the device. No program is started.
//! Before the backend's nodes are written, the disk must have no other user (`disk_users`); a lock for each disk keeps
//! two VMs that start at once apart. libxl's hot-plug script is named in the backend's nodes for xl's sake, which runs it when it
//! removes a device. `node` is not written: that script would detach the loop device it names, which may be another's by then.
//!
//! A driver domain opens the image itself: its script is named in the nodes, and domain 0 looks at no file.
//!
//! Facts: `xen-blkback/xenbus.c` of Linux, `libxl_disk.c`, `tools/hotplug/Linux/block`.

mod attach;
mod detach;
mod driver;
mod image;
mod nodes;
mod qdisk;
mod record;

use std::time::{Duration, Instant};

use os_port::Files;
use serde_json::Value as Json;
use xen_port::DomId;
use xenstore::Tree;
use xl_cfg::types::Vdev;

use crate::device::bus::{self, Device, QEMU_DISKS, elsewhere};
use crate::device::disk_users::Seen;
use crate::device::driver_side::DriverSide;
use crate::device::hotplug::{self, Hotplug, Single, Sought};
use crate::device::nodes::Access as NodeAccess;
use crate::device::qemu::{self, Wanted};
use crate::device::{Kind, Owner, Patience, Recorded};
use crate::error::DeviceError;
use crate::vm::disk::{Disk, Server};
use crate::vm::paths::node;
use crate::vm::spec::VmSpec;
use crate::{EngineError, Host};
use attach::{
    attach, await_earlier_loops, claim, is_open, open, refuse_empty_device, refuse_other_users,
    what,
};
pub(super) use attach::{open_emulated, open_to_read};
use detach::{Left, has_own_script};
use nodes::TABLES;
use record::{cfg_of_json, to_json};

/// libxl's name of the kind.
const KIND: &str = "vbd";
/// The setting of xl.cfg that lists disks.
const SETTING: &str = "disk";
/// Longest wait for the requests of an earlier domain.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks at loop devices, for whose end no event comes.
const CLOSE_PAUSE: Duration = Duration::from_millis(20);
/// Largest file of sysfs that is read, in bytes.
const ATTRIBUTE_MAX_BYTES: u64 = 256;
/// End of that script's path, wherever Xen is installed.
const SCRIPT_END: &str = "/xen/scripts/block";
/// The script that xl runs when it removes a disk.
const SCRIPT: &str = "/etc/xen/scripts/block";

/// The kind of disks.
pub struct Vbd;

impl Kind for Vbd {
    fn name(&self) -> &'static str {
        KIND
    }

    fn json_member(&self) -> Option<&'static str> {
        Some("disks")
    }

    fn setting(&self) -> Option<&'static str> {
        Some(SETTING)
    }

    fn recorded(&self, spec: &VmSpec) -> Vec<Recorded> {
        let recorded = |disk: &Disk| Recorded {
            number: disk.vdev.number,
            text: disk.cfg_text(),
            json: to_json(disk),
        };
        spec.disks.iter().map(recorded).collect()
    }

    fn number_of_json(&self, entry: &Json) -> Option<u32> {
        let name = entry.get("vdev").and_then(Json::as_str)?;
        Vdev::parse(name).map(|vdev| vdev.number)
    }

    fn cfg_of_json(&self, entry: &Json) -> Option<String> {
        cfg_of_json(entry)
    }

    /// libxl's record can name a disk that was taken out.
    fn is_attached(
        &self,
        host: &mut Host,
        domid: DomId,
        entry: &Json,
    ) -> Result<bool, EngineError> {
        let name = entry.get("vdev").and_then(Json::as_str);
        for number in bus::numbers(host, domid, KIND)? {
            let path = node(&format!("/libxl/{domid}/device/{KIND}/{number}/dev"))?;
            if name.is_some() && host.store.read_text_opt(&path)?.as_deref() == name {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Compares the image, by the toolstack's own copy.
    fn is_as_recorded(
        &self,
        host: &mut Host,
        (domid, number): (DomId, u32),
        spec: &VmSpec,
    ) -> Result<bool, EngineError> {
        let mut disks = spec.disks.iter();
        let Some(disk) = disks.find(|disk| disk.vdev.number == number) else {
            return Ok(false);
        };
        let path = node(&format!("/libxl/{domid}/device/{KIND}/{number}/params"))?;
        let image = host.store.read_text_opt(&path)?;
        Ok(image == Some(disk.params()))
    }

    fn keep_only(&self, spec: &mut VmSpec, numbers: &[u32]) {
        spec.disks
            .retain(|disk| numbers.contains(&disk.vdev.number));
    }

    fn folders(&self, domid: DomId) -> Vec<String> {
        bus::folders(KIND, domid)
    }

    fn table(&self) -> Vec<(String, NodeAccess, &'static str)> {
        TABLES.rows(KIND)
    }

    /// A monitor whose VM had no device for QEMU when it began cannot start one.
    fn check_rights(&self, host: &Host, spec: &VmSpec) -> Result<(), EngineError> {
        let mut disks = spec.disks.iter();
        let for_qemu = disks.find(|disk| disk.server == Server::Qemu);
        qemu::check_right(host, for_qemu.map(what))
    }

    fn nr_files_of_qemu(&self, spec: &VmSpec) -> usize {
        let disks = spec.disks.iter();
        disks.filter(|disk| disk.server == Server::Qemu).count()
    }

    /// Opens each disk and looks for other users, before anything of the domain is made.
    fn check(&self, host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
        let here: Vec<&Disk> = spec.disks.iter().filter(|disk| is_here(disk)).collect();
        if here.is_empty() {
            return Ok(());
        }
        let seen = Seen::of(host)?;
        for disk in here {
            let file = open(&*host.files, disk)?;
            refuse_empty_device(host, disk, &file)?;
            if disk.server == Server::Qemu {
                qdisk::check(host, disk, &file)?;
            }
            refuse_other_users(host, &seen, disk, &file, None)?;
            let deadline = host.clock.now() + CLOSE_LIMIT;
            await_earlier_loops(host, (spec.uuid, disk), &file, deadline)?;
            claim(&*host.files, disk, file)?;
        }
        Ok(())
    }

    fn preview(&self, files: &dyn Files, spec: &VmSpec) -> Result<(), EngineError> {
        let mut disks = spec.disks.iter().filter(|disk| is_here(disk));
        disks.try_for_each(|disk| open(files, disk).map(drop))
    }

    fn name_backends(&self, host: &mut Host, spec: &mut VmSpec) -> Result<(), EngineError> {
        let mut disks = spec.disks.iter_mut();
        disks.try_for_each(|disk| name_backend(host, disk))
    }

    fn attach(
        &self,
        host: &mut Host,
        owner: Owner,
        spec: &VmSpec,
        wanted: &mut Wanted,
        patience: &Patience<'_>,
    ) -> Result<(), EngineError> {
        let disks: Vec<&Disk> = spec.disks.iter().collect();
        attach(host, owner, &disks, wanted, patience)
    }

    fn hotplug(&self) -> Option<&'static dyn Hotplug> {
        Some(&Vbd)
    }

    fn driver_side(&self) -> Option<&'static dyn DriverSide> {
        Some(&Vbd)
    }

    fn detach(&self, host: &mut Host, domid: DomId, deadline: Instant) -> Result<(), EngineError> {
        let devices = bus::devices(host, domid, KIND)?;
        let (here, there): (Vec<Device>, Vec<Device>) =
            devices.into_iter().partition(Device::is_here);
        let (of_qemu, devices): (Vec<Device>, Vec<Device>) = here.into_iter().partition(is_of_qemu);
        elsewhere::ask_all(host, &there)?;
        let left = Left::of(host, &devices)?;
        let open = bus::detach(host, &devices, deadline)?;
        tell_of_open(host, &open);
        left.await_gone(host, deadline)?;
        qdisk::detach(host, domid, &of_qemu, deadline)?;
        elsewhere::finish(host, &there, deadline)
    }

    fn without_qemu(&self, host: &mut Host, domid: DomId) -> Result<Vec<String>, EngineError> {
        let found = qdisk::without_qemu(host, domid)?.into_iter();
        Ok(found.map(|device| self.words(device.number)).collect())
    }

    fn foreign(&self, host: &mut Host, domid: DomId, number: &str) -> Result<bool, EngineError> {
        match bus::device_of(host, domid, KIND, number)? {
            Some(device) => has_own_script(host, &device),
            None => Ok(true),
        }
    }

    /// xl's QEMU is not confined, and nothing has looked at its image.
    fn is_not_for_adopt(
        &self,
        host: &mut Host,
        domid: DomId,
        number: &str,
    ) -> Result<bool, EngineError> {
        let device = bus::device_of(host, domid, KIND, number)?;
        Ok(device.is_some_and(|device| device.served_by == QEMU_DISKS))
    }
}

impl Hotplug for Vbd {
    fn detach_command(&self) -> &'static str {
        "block-detach"
    }

    fn words(&self, number: u32) -> String {
        format!("disk {number}")
    }

    fn complete(&self, host: &mut Host, _: Owner, text: &str) -> Result<String, EngineError> {
        self.with_named_backend(host, text)
    }

    fn with_named_backend(&self, host: &mut Host, text: &str) -> Result<String, EngineError> {
        let mut disk = described(text)?;
        name_backend(host, &mut disk)?;
        Ok(disk.cfg_text())
    }

    fn read(&self, text: &str) -> Result<Box<dyn Single>, EngineError> {
        Ok(Box::new(OneDisk(described(text)?)))
    }

    /// Takes the name of a disk or its number, as xl does, and the path of its image.
    fn find(&self, host: &mut Host, domid: DomId, asked: &str) -> Result<Device, EngineError> {
        let wanted = Vdev::parse(asked).map(|vdev| vdev.number);
        let is_it = |host: &mut Host, number: &str| {
            let path = node(&format!("/libxl/{domid}/device/{KIND}/{number}/params"))?;
            Ok(match wanted {
                Some(wanted) => number.parse() == Ok(wanted),
                None => host.store.read_text_opt(&path)?.as_deref() == Some(asked),
            })
        };
        let sought = Sought {
            kind: KIND,
            word: "disk",
            list_command: "block-list",
            detach_command: self.detach_command(),
            domid,
            asked,
        };
        let device = sought.find(host, is_it, has_own_script)?;
        if is_of_qemu(&device) {
            qdisk::refuse_xls(host, &device)?;
        }
        Ok(device)
    }

    fn starts_qemu(&self, text: &str) -> bool {
        self.read(text)
            .is_ok_and(|disk| disk.served_by() == QEMU_DISKS)
    }

    fn check_right_to_take_away(
        &self,
        host: &mut Host,
        device: &Device,
    ) -> Result<(), EngineError> {
        let words = is_of_qemu(device).then(|| self.words(device.number));
        qemu::check_right(host, words)
    }

    fn is_served(&self, host: &mut Host, device: &Device) -> Result<bool, EngineError> {
        if !device.is_here() {
            return Ok(!elsewhere::has_failed(host, device)?);
        }
        match is_of_qemu(device) {
            true => qdisk::is_served(host, device),
            false => is_open(host, device),
        }
    }

    fn take_away(
        &self,
        host: &mut Host,
        device: &Device,
        deadline: Instant,
    ) -> Result<(), EngineError> {
        if !device.is_here() {
            return elsewhere::take_away(host, device, deadline);
        }
        if is_of_qemu(device) {
            return qdisk::take_away(host, device, deadline);
        }
        let left = Left::of(host, std::slice::from_ref(device))?;
        let state = bus::await_one_closed(host, device, deadline)?;
        if !matches!(state, bus::State::Closed | bus::State::Unknown) {
            tell_of_open(host, std::slice::from_ref(device));
        }
        bus::remove_one(host, device)?;
        left.await_gone(host, deadline)
    }
}

/// The disk of a description as in xl.cfg, if Xyl can serve it.
fn described(text: &str) -> Result<Disk, EngineError> {
    let config = hotplug::parse(SETTING, text)?;
    let unsupported = |what| EngineError::from(DeviceError::Unsupported { what });
    let disk = config.disks.first();
    let disk = disk.ok_or_else(|| unsupported("no disk is described".to_owned()))?;
    Disk::of_config(disk).map_err(unsupported)
}

/// Whether domain 0 serves a disk.
fn is_here(disk: &Disk) -> bool {
    disk.backend.is_none()
}

/// Finds the driver domain of a disk, and keeps its name: the VM's next domain looks for that.
fn name_backend(host: &mut Host, disk: &mut Disk) -> Result<(), EngineError> {
    let what = what(disk);
    elsewhere::name(host, &what, &mut disk.backend)
}

/// A disk that is attached to a running domain.
struct OneDisk(Disk);

impl Single for OneDisk {
    fn number(&self) -> u32 {
        self.0.vdev.number
    }

    fn what(&self) -> String {
        what(&self.0)
    }

    fn text(&self) -> String {
        self.0.cfg_text()
    }

    fn to_json(&self) -> Json {
        to_json(&self.0)
    }

    fn served_by(&self) -> &'static str {
        match self.0.server {
            Server::Kernel => KIND,
            Server::Qemu => QEMU_DISKS,
        }
    }

    fn check(&self, host: &mut Host, owner: Owner) -> Result<(), EngineError> {
        if let Some(backend) = &self.0.backend {
            let what = what(&self.0);
            return elsewhere::find_for(host, owner, &what, backend).map(drop);
        }
        let file = open(&*host.files, &self.0)?;
        refuse_empty_device(host, &self.0, &file)?;
        if self.0.server == Server::Qemu {
            qdisk::check(host, &self.0, &file)?;
        }
        let seen = Seen::of(host)?;
        refuse_other_users(host, &seen, &self.0, &file, Some(owner.domid))?;
        claim(&*host.files, &self.0, file).map(drop)
    }

    fn attach(
        &self,
        host: &mut Host,
        owner: Owner,
        patience: &Patience<'_>,
    ) -> Result<(), EngineError> {
        let mut wanted = qdisk::wanted_for_one(host, owner.domid, &self.0)?;
        attach(host, owner, &[&self.0], &mut wanted, patience)?;
        wanted.serve(host, patience)
    }
}

/// Whether a QEMU of domain 0 serves a disk.
fn is_of_qemu(device: &Device) -> bool {
    device.is_here() && device.served_by == QEMU_DISKS
}

/// Warns of disks of a domain whose nodes were removed before their backend had closed them. It is one line for all of them:
/// a guest that resets itself again and again gets one line a wait.
fn tell_of_open(host: &Host, devices: &[Device]) {
    let Some(first) = devices.first() else {
        return;
    };
    let numbers: Vec<String> = devices.iter().map(|one| one.number.to_string()).collect();
    (host.notice)(&format!(
        "warning: its backend in domain 0 has not closed disk {} of domain {} in time; its nodes were removed",
        numbers.join(", "),
        first.domid
    ));
}

#[cfg(test)]
mod tests;
