//! The device model of an HVM guest: a QEMU of its own that emulates the guest's machine. It is the last kind in [`super::KINDS`], since it
//! opens the images of disks that the guest has by PV drivers, too, after these are attached.
//!
//! The guest has one, with number 0, and it has one node in the toolstack's copy. That node is written before QEMU is started, and removed
//! after QEMU has ended, so each process that takes the domain down looks for one. Without its device model an HVM guest cannot run:
//! the monitor has it count as crashed.
//!
//! Facts: `libxl_dm.c`; `xl console` and `xl vncviewer` for the nodes of terminals and of the screen.

use std::path::Path;
use std::time::Instant;

use os_port::{Accepts, FILES_MAX, FileKind, OpenFile, Opening};
use xen_port::DomId;
use xenstore::{Path as StorePath, Tree};

use crate::device::nodes::{Access, NodeRule, copy_of};
use crate::device::qemu::Wanted;
use crate::device::vif::card::{self, Card};
use crate::device::{Kind, Owner, Patience, bus, vbd, vfb};
use crate::device_model::{self, Display, Machine, MachineCard, MachineDisk, QemuId, Request};
use crate::error::DeviceError;
use crate::vm::hvm::{self, Hvm};
use crate::vm::paths::{home, node};
use crate::vm::spec::VmSpec;
use crate::{EngineError, Host};

/// Name of the kind in the toolstack's copy. libxl passes over a kind that it does not know.
pub(super) const KIND: &str = "device-model";
/// Number of the one device model.
const NUMBER: &str = "0";
/// The device model in words.
const WHAT: &str = "the device model";

/// The kind of device models.
pub struct DeviceModel;

/// The node of a device model below `/libxl/D/device/device-model/0`.
const COPY: &[NodeRule<()>] = &[copy_of("type", |()| Some("qemu".to_owned()))];

impl Kind for DeviceModel {
    fn name(&self) -> &'static str {
        KIND
    }

    fn json_member(&self) -> Option<&'static str> {
        None
    }

    fn table(&self) -> Vec<(String, Access, &'static str)> {
        let rows = COPY.iter().map(|rule| {
            let path = format!("/libxl/D/device/{KIND}/{NUMBER}/{}", rule.path);
            (
                path,
                rule.access,
                "xyl: whether the domain has a device model",
            )
        });
        let terminal = (
            "~/serial/N/tty".to_owned(),
            Access::GuestReads,
            "xl console, xyl console",
        );
        rows.chain([terminal]).collect()
    }

    /// They are below the domain's roots.
    fn folders(&self, _: DomId) -> Vec<String> {
        Vec::new()
    }

    fn check_rights(&self, host: &Host, spec: &VmSpec) -> Result<(), EngineError> {
        if spec.hvm.is_none() || host.process.may_show_displays() {
            return Ok(());
        }
        let device = WHAT.to_owned();
        Err(DeviceError::NoRightToQemu { device }.into())
    }

    fn check(&self, host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
        let Some(hvm) = &spec.hvm else {
            return Ok(());
        };
        device_model::binary(host, WHAT)?;
        open_kernel(&*host.files, spec)?;
        match &hvm.screen.vnc {
            Some(vnc) => vfb::free_display(host, vnc).map(drop),
            None => Ok(()),
        }
    }

    fn preview(&self, files: &dyn os_port::Files, spec: &VmSpec) -> Result<(), EngineError> {
        match &spec.hvm {
            Some(_) => open_kernel(files, spec).map(drop),
            None => Ok(()),
        }
    }

    fn attach(
        &self,
        host: &mut Host,
        owner: Owner,
        spec: &VmSpec,
        _: &mut Wanted,
        patience: &Patience<'_>,
    ) -> Result<(), EngineError> {
        match &spec.hvm {
            Some(hvm) => start(host, owner, spec, hvm, patience),
            None => Ok(()),
        }
    }

    fn detach(&self, host: &mut Host, domid: DomId, _: Instant) -> Result<(), EngineError> {
        device_model::end_one(host, QemuId::device_model(domid))?;
        host.store.rm(&node(&device_model::folder(domid))?)?;
        host.store.rm(&device_model::pid_node(domid)?)?;
        Ok(host.store.rm(&copy(domid)?)?)
    }

    /// xl's is not confined in the same way.
    fn is_not_for_adopt(&self, _: &mut Host, _: DomId, _: &str) -> Result<bool, EngineError> {
        Ok(true)
    }

    fn without_qemu(&self, host: &mut Host, domid: DomId) -> Result<Vec<String>, EngineError> {
        let found = is_lost(host, domid)?.then(|| WHAT.to_owned());
        Ok(found.into_iter().collect())
    }

    fn is_waited_for(&self) -> bool {
        false
    }
}

/// Folder of the device model in the toolstack's copy.
fn copy(domid: DomId) -> Result<StorePath, EngineError> {
    node(&format!("/libxl/{domid}/device/{KIND}/{NUMBER}"))
}

/// Whether the toolstack's copy says that a domain has a device model of Xyl's.
fn has_copy(host: &mut Host, domid: DomId) -> Result<bool, EngineError> {
    let numbers = bus::numbers(host, domid, KIND)?;
    Ok(numbers.iter().any(|number| number == NUMBER))
}

/// Whether a domain is to have a device model, and its QEMU has ended.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn is_lost(host: &mut Host, domid: DomId) -> Result<bool, EngineError> {
    Ok(has_copy(host, domid)?
        && device_model::find_one(host, QemuId::device_model(domid)).is_empty())
}

/// Whether another toolstack has started the device model of a domain, whatever it is: a process of any user, or a stub domain.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn is_of_others(host: &mut Host, domid: DomId) -> Result<bool, EngineError> {
    if has_copy(host, domid)? {
        return Ok(false);
    }
    let stub = home(domid, "image/device-model-domid")?;
    let pid = device_model::pid_node(domid)?;
    Ok(host.store.exists(&stub)? || host.store.exists(&pid)?)
}

/// The files of a device model, in the order in which QEMU gets them, and what the first ones are.
struct Files {
    disks: Vec<MachineDisk>,
    files: Vec<OpenFile>,
    has_kernel: bool,
    has_ramdisk: bool,
    /// The last files are those of their taps.
    cards: Vec<MachineCard>,
}

impl Files {
    fn open(host: &Host, owner: Owner, spec: &VmSpec) -> Result<Files, EngineError> {
        let (mut disks, mut files) = (Vec::new(), Vec::new());
        for (slot, disk) in hvm::emulated(&spec.disks) {
            let file = vbd::open_emulated(host, owner.uuid, disk)?;
            disks.push(MachineDisk {
                slot,
                is_block: !matches!(file.facts().kind, FileKind::Regular),
                is_writable: disk.is_writable(),
            });
            files.push(file);
        }
        let (kernel, ramdisk) = open_kernel(&*host.files, spec)?;
        let (has_kernel, has_ramdisk) = (kernel.is_some(), ramdisk.is_some());
        files.extend(kernel.into_iter().chain(ramdisk));
        let mut cards = Vec::new();
        for card in card::open_all(host, owner.domid, &spec.nics)? {
            let Card {
                devid,
                model,
                mac,
                file,
            } = card;
            cards.push(MachineCard { devid, model, mac });
            files.push(file);
        }
        Ok(Files {
            disks,
            files,
            has_kernel,
            has_ramdisk,
            cards,
        })
    }
}

/// Opens the kernel and the ramdisk that QEMU loads, if the guest does not boot from its disks.
fn open_kernel(
    files: &dyn os_port::Files,
    spec: &VmSpec,
) -> Result<(Option<OpenFile>, Option<OpenFile>), EngineError> {
    if spec.kernel.as_os_str().is_empty() {
        return Ok((None, None));
    }
    let ramdisk = spec.ramdisk.as_ref().map(|path| open(files, path));
    Ok((Some(open(files, &spec.kernel)?), ramdisk.transpose()?))
}

fn open(files: &dyn os_port::Files, path: &Path) -> Result<OpenFile, EngineError> {
    let opening = Opening {
        accepts: Accepts::Regular,
        ..Opening::disk(false)
    };
    let opened = files.open(path, &opening);
    opened.map_err(|source| EngineError::io("open", path, source))
}

/// Starts the device model of a domain that does not run yet, and waits until it is confined.
fn start(
    host: &mut Host,
    owner: Owner,
    spec: &VmSpec,
    hvm: &Hvm,
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    let (domid, qemu) = (owner.domid, QemuId::device_model(owner.domid));
    device_model::end_one(host, qemu)?;
    write_copy(host, domid)?;
    let files = Files::open(host, owner, spec)?;
    if files.files.len() >= FILES_MAX {
        let what = format!(
            "{WHAT} gets {FILES_MAX} files at most: take emulated disks or network cards out"
        );
        return Err(DeviceError::Unsupported { what }.into());
    }
    // No other VM takes the display until QEMU listens.
    let (listening, _lock) = match &hvm.screen.vnc {
        Some(vnc) => {
            let (listening, lock) = vfb::listen(host, domid, vnc, patience)?;
            (Some(listening), Some(lock))
        }
        None => (None, None),
    };
    let display = listening.map(|listening| Display {
        listening: Some(listening),
        keymap: hvm.screen.keymap.clone(),
    });
    let machine = Machine {
        hvm,
        max_kib: spec.max_kib.max(spec.target_kib),
        vcpus: spec.vcpus,
        max_vcpus: spec.max_vcpus,
        disks: &files.disks,
        has_kernel: files.has_kernel,
        has_ramdisk: files.has_ramdisk,
        cards: &files.cards,
        cmdline: spec.cmdline.as_deref().unwrap_or_default(),
    };
    let request = Request {
        qemu,
        device: WHAT,
        drives: &[],
        files: &files.files.iter().collect::<Vec<_>>(),
        terminals: &[],
        sockets: &[],
        display: display.as_ref(),
        machine: Some(&machine),
    };
    let child = device_model::start(host, &request)?;
    let check = |host: &Host| patience.check(host);
    // A QEMU that restricts itself says nothing in xenstore, from QEMU 8 on. It runs before it becomes its user.
    device_model::await_confined(host, &request, &child, &check)?;
    device_model::keep_to_domain(&request, &child)?;
    // It is a precaution for the host: the guest can do without.
    let _ = child.be_ended_first();
    announce_terminals(host, domid, child.id(), hvm.nr_serial)?;
    // A monitor watches over the QEMUs of its domain.
    if host.sources.has_doorbell() {
        device_model::watch_ends(host, domid);
    }
    Ok(())
}

/// Writes to the toolstack's copy that the domain has a device model.
fn write_copy(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    let folder = copy(domid)?;
    for rule in COPY {
        let path = folder.join(rule.path).map_err(xenstore::Error::from)?;
        let value = (rule.value)(&()).unwrap_or_default();
        host.store.write(&path, value.as_bytes())?;
    }
    Ok(())
}

/// Writes where the terminals of the serial lines are. QEMU has opened them in the order of the lines, as the guest's code did not run yet.
fn announce_terminals(
    host: &mut Host,
    domid: DomId,
    pid: u32,
    nr_serial: usize,
) -> Result<(), EngineError> {
    if nr_serial == 0 {
        return Ok(());
    }
    let terminals = host.kernel.terminals(pid);
    if terminals.len() != nr_serial {
        let what = format!(
            "has {} terminals open, not one for each of {nr_serial} serial lines",
            terminals.len()
        );
        let device = WHAT.to_owned();
        return Err(DeviceError::Qemu { device, what }.into());
    }
    let home_path = StorePath::domain(domid.0);
    let mut nodes = Vec::new();
    for (line, terminal) in terminals.iter().enumerate() {
        nodes.push((home(domid, &tty(line))?, terminal.display().to_string()));
    }
    host.store.try_transaction(|transaction| {
        // Another toolstack may have destroyed the domain meanwhile.
        if !transaction.exists(&home_path)? {
            return Err(EngineError::NoSuchDomain(domid.to_string()));
        }
        for (path, terminal) in &nodes {
            transaction.write(path, terminal.as_bytes())?;
        }
        Ok(())
    })
}

/// The node with the terminal of a serial line, below the domain's home.
fn tty(line: usize) -> String {
    format!("serial/{line}/tty")
}

/// Removes the nodes with the terminals of a device model that has ended: another process may get the terminals.
///
/// # Errors
/// Those of xenstore.
pub(super) fn forget_terminals(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    match is_lost(host, domid)? {
        true => Ok(host.store.rm(&home(domid, "serial")?)?),
        false => Ok(()),
    }
}
