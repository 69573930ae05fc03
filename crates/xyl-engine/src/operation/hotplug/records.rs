//! The entry of a device in the VM's record and in libxl's record of its domain.
//!
//! xl changes libxl's record alone, and at an attach alone: the entry of a device that it has detached stays there. So a device
//! is gone once the toolstack's own copy in xenstore is. [`follow_xl`] brings the VM's record to the devices of its domain,
//! before a restart and a soft reset.
//!
//! Facts: "Device removal routines are not touched" in `libxl_internal.h`.

use serde_json::Value as Json;
use xen_port::DomId;

use super::Target;
use crate::config::plan;
use crate::device::bus::elsewhere;
use crate::device::hotplug::{Single, is_same_entry};
use crate::device::{DeviceName, KINDS, Kind, Recorded};
use crate::error::DeviceError;
use crate::operation::OfVm;
use crate::vm::{store, userdata};
use crate::{EngineError, Host};

/// The devices of one kind of a VM, in both records.
#[derive(Clone, Copy)]
struct Lists {
    vm: OfVm,
    domid: DomId,
    kind: &'static dyn Kind,
}

impl Lists {
    fn of(target: &Target) -> Lists {
        Lists {
            vm: target.vm,
            domid: target.domid,
            kind: target.kind,
        }
    }
}

/// Adds a device to both records, in place of an entry of its number. libxl attaches a device under the lock of its record, so
/// the entry is left from an earlier device if the domain has none of this number then.
///
/// # Errors
/// [`DeviceError::Exists`] if another toolstack has attached one of this number: nothing was changed then.
pub(super) fn add(
    host: &mut Host,
    target: &Target,
    device: &dyn Single,
) -> Result<(), EngineError> {
    let (number, lists) = (device.number(), Lists::of(target));
    let _lock = userdata::lock(host, target.domid, &target.vm.text())?;
    if target.has(host, number)? {
        return Err(DeviceError::Exists {
            domid: target.domid,
            device: device.what(),
        }
        .into());
    }
    change_own(host, lists, |devices| {
        devices.retain(|one| one.number != number);
        devices.push(Recorded {
            number,
            text: device.text(),
            json: device.to_json(),
        });
        Ok(())
    })?;
    change_libxls_locked(host, lists, |entries| {
        entries.retain(|entry| lists.kind.number_of_json(entry) != Some(number));
        entries.push(device.to_json());
        true
    })
}

/// Removes a device from both records.
pub(super) fn remove(host: &Host, target: &Target, number: u32) -> Result<(), EngineError> {
    remove_from(host, Lists::of(target), number)
}

/// Removes a device of any kind from both records.
pub(crate) fn forget(
    host: &Host,
    vm: OfVm,
    domid: DomId,
    device: &DeviceName,
) -> Result<(), EngineError> {
    let kind = KINDS.iter().find(|kind| kind.name() == device.kind);
    let Some(&kind) = kind else {
        return Ok(());
    };
    remove_from(host, Lists { vm, domid, kind }, device.number)
}

fn remove_from(host: &Host, lists: Lists, number: u32) -> Result<(), EngineError> {
    change_libxls(host, lists, |entries| {
        let before = entries.len();
        entries.retain(|entry| lists.kind.number_of_json(entry) != Some(number));
        entries.len() != before
    })?;
    remove_own_from(host, lists, number)
}

/// Takes back what [`add`] has done. An entry that another toolstack has written meanwhile stays, and so does any entry while the
/// domain has a device of this number: the undo of the attach has removed the one of this operation.
pub(super) fn take_back(
    host: &mut Host,
    target: &Target,
    device: &dyn Single,
) -> Result<(), EngineError> {
    let added = device.to_json();
    let lock = userdata::lock(host, target.domid, &target.vm.text())?;
    let is_there = target.vm.still_has(host, target.domid)? && target.has(host, device.number())?;
    change_libxls_locked(host, Lists::of(target), |entries| {
        if is_there {
            return false;
        }
        let before = entries.len();
        entries.retain(|entry| !is_same_entry(entry, &added));
        entries.len() != before
    })?;
    drop(lock);
    remove_own(host, target, device.number())
}

/// Whether libxl's record has another entry for a device than the one that [`add`] writes: another toolstack has attached it.
pub(super) fn is_anothers(
    host: &Host,
    target: &Target,
    device: &dyn Single,
) -> Result<bool, EngineError> {
    let (number, added) = (device.number(), device.to_json());
    let listed = libxls(host, Lists::of(target))?;
    let mut listed = listed.iter();
    Ok(listed.any(|entry| {
        target.kind.number_of_json(entry) == Some(number) && !is_same_entry(entry, &added)
    }))
}

/// Removes a device from the VM's own record.
pub(super) fn remove_own(host: &Host, target: &Target, number: u32) -> Result<(), EngineError> {
    remove_own_from(host, Lists::of(target), number)
}

fn remove_own_from(host: &Host, lists: Lists, number: u32) -> Result<(), EngineError> {
    change_own(host, lists, |devices| {
        devices.retain(|one| one.number != number);
        Ok(())
    })
}

/// The list in libxl's record.
fn libxls(host: &Host, lists: Lists) -> Result<Vec<Json>, EngineError> {
    let mut listed = Vec::new();
    change_libxls(host, lists, |entries| {
        listed = std::mem::take(entries);
        false
    })?;
    Ok(listed)
}

/// Changes the list in libxl's record. `change` returns whether it has changed anything.
fn change_libxls(
    host: &Host,
    lists: Lists,
    change: impl FnOnce(&mut Vec<Json>) -> bool,
) -> Result<(), EngineError> {
    let _lock = userdata::lock(host, lists.domid, &lists.vm.text())?;
    change_libxls_locked(host, lists, change)
}

/// The same, for a caller that has libxl's lock of the domain.
fn change_libxls_locked(
    host: &Host,
    lists: Lists,
    change: impl FnOnce(&mut Vec<Json>) -> bool,
) -> Result<(), EngineError> {
    let Some(member) = lists.kind.json_member() else {
        return Ok(());
    };
    userdata::change_json(host, lists.domid, &lists.vm.text(), |record| {
        let Some(record) = record.as_object_mut() else {
            return false;
        };
        let mut entries = match record.get(member) {
            Some(Json::Array(entries)) => entries.clone(),
            _ => Vec::new(),
        };
        if !change(&mut entries) {
            return false;
        }
        match entries.is_empty() {
            true => _ = record.remove(member),
            false => _ = record.insert(member.to_owned(), Json::Array(entries)),
        }
        true
    })
}

/// Changes the list in the VM's own record. A domain of xl has none.
fn change_own(
    host: &Host,
    lists: Lists,
    change: impl FnOnce(&mut Vec<Recorded>) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let (vm, kind) = (lists.vm, lists.kind);
    let Some(setting) = kind.setting() else {
        return Ok(());
    };
    if store::is_absent(host, vm.uuid) {
        return Ok(());
    }
    let before = kind.recorded(&plan::of_record(host, vm.uuid)?.spec);
    let mut after = before.clone();
    change(&mut after)?;
    if after == before {
        return Ok(());
    }
    let (files, uuid) = (&*host.files, vm.text());
    let path = store::path(&host.dirs, &uuid);
    let text = store::read(files, &host.dirs, &uuid)?;
    let new = plan::change_list(&path.display().to_string(), &text, setting, |entries| {
        *entries = after.into_iter().map(|device| device.text).collect();
    })?;
    store::write(files, &host.dirs, &uuid, &new)
}

/// Brings the VM's record to the devices of its domain: those that xl has attached are added, or take the place of the one of
/// their number; those that xl has detached are removed. xl keeps them so over a restart too. The `kept` ones stay in the
/// record: the domain lacks them for now.
///
/// # Errors
/// [`EngineError::ForeignDevices`] for a device of xl that Xyl cannot serve.
pub(crate) fn follow_xl(
    host: &mut Host,
    vm: OfVm,
    domid: DomId,
    kept: &[DeviceName],
) -> Result<(), EngineError> {
    if store::is_absent(host, vm.uuid) {
        return Ok(());
    }
    for &kind in KINDS.iter().filter(|kind| kind.setting().is_some()) {
        let lists = Lists { vm, domid, kind };
        let own = kind.recorded(&plan::of_record(host, vm.uuid)?.spec);
        let mut changed = Vec::new();
        for entry in libxls(host, lists)? {
            if kind.is_attached(host, domid, &entry)? {
                changed.extend(followed(host, lists, &own, entry)?);
            }
        }
        let there = kind.numbers_there(host, domid)?;
        let stays = |number: u32| {
            let is_kept = |one: &DeviceName| one.kind == kind.name() && one.number == number;
            there.contains(&number) || kept.iter().any(is_kept)
        };
        change_own(host, lists, |devices| {
            devices.retain(|one| stays(one.number));
            for (number, device) in changed {
                put(devices, number, device);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The device of an entry of libxl's record with its number, if the VM's record does not have it. A device of a driver domain that is gone
/// is left out, with a warning: its number would be another domain's one day.
fn followed(
    host: &mut Host,
    lists: Lists,
    own: &[Recorded],
    entry: Json,
) -> Result<Option<(u32, Option<Recorded>)>, EngineError> {
    let Some(number) = lists.kind.number_of_json(&entry) else {
        return Ok(None);
    };
    let mut own = own.iter().filter(|one| one.number == number);
    if own.any(|own| is_same_entry(&own.json, &entry)) {
        return Ok(None);
    }
    let text = lists.kind.cfg_of_json(&entry);
    let text = text.ok_or_else(|| EngineError::ForeignDevices {
        domid: lists.domid,
        devices: format!("{} {number}", lists.kind.name()),
    })?;
    let named = match lists.kind.hotplug() {
        // A driver domain that is named may be between two domains itself: the next domain of the VM looks for it.
        Some(hotplug) if !has_named_backend(&text) => hotplug.with_named_backend(host, &text),
        _ => Ok(text),
    };
    let device = match named {
        Ok(text) => Some(Recorded {
            number,
            text,
            json: entry,
        }),
        Err(EngineError::Device(
            error @ (DeviceError::NoBackendDomain { .. } | DeviceError::BackendDomainGone { .. }),
        )) => {
            (host.notice)(&format!(
                "warning: {error}: xl has attached it to domain {}, and the next domain of the VM is without it",
                lists.domid
            ));
            None
        }
        Err(error) => return Err(error),
    };
    Ok(Some((number, device)))
}

/// Whether a description names its driver domain, and not by its number.
fn has_named_backend(text: &str) -> bool {
    let mut words = text.split(',').map(str::trim);
    let backend = words.find_map(|word| word.strip_prefix("backend="));
    backend.is_some_and(elsewhere::is_name)
}

/// Puts a device in the place of the one of this number.
fn put(devices: &mut Vec<Recorded>, number: u32, device: Option<Recorded>) {
    let own = devices.iter().position(|one| one.number == number);
    match (own, device) {
        (Some(own), Some(device)) => devices.splice(own..=own, [device]).for_each(drop),
        (Some(own), None) => drop(devices.remove(own)),
        (None, device) => devices.extend(device),
    }
}
