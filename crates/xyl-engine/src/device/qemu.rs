//! Devices of a VM that QEMU serves. A VM starts with one QEMU for all of them, of whatever kind. A disk that is attached later has another
//! one.
//!
//! Each kind writes the nodes of its devices, and puts what QEMU needs for them into [`Wanted`]. Then QEMU is started once, and has to
//! take them all. Nodes that a dead process has left without a QEMU are removed by the kind's detach.

use std::rc::Rc;
use std::time::Duration;

use os_port::{Child, Lock, OpenFile};
use xen_port::DomId;
use xenstore::Tree;

use crate::device::Patience;
use crate::device::bus::{self, AttachLimits, Attaching, Device};
use crate::device_model::commands::{Drive, Refusal, has_served, refusal};
use crate::device_model::{self, Display, QemuId, Request};
use crate::error::DeviceError;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// Longest time in which QEMU has to take its devices of one kind, once it runs.
const TAKE_LIMIT: Duration = Duration::from_secs(30);
/// The remedy where it does nothing.
const REMEDY: &str = "destroy the VM, and create it again";

/// The devices that a QEMU of a domain is to serve, with all that it gets for them.
pub struct Wanted {
    /// The QEMU that serves them.
    qemu: QemuId,
    /// The devices, in words, whose nodes are written.
    devices: Vec<(Device, String)>,
    /// Disks that it serves.
    drives: Vec<Drive>,
    /// Images of these disks.
    files: Vec<OpenFile>,
    /// The names of its terminals.
    terminals: Vec<String>,
    /// The sockets at which it listens, with their names.
    sockets: Vec<(String, OpenFile)>,
    /// The guest's display.
    display: Option<Display>,
    /// Locks of the host that are held until QEMU runs.
    locks: Vec<Box<dyn Lock>>,
    /// Whether the QEMU of an earlier domain of this number is gone.
    has_begun: bool,
}

impl Wanted {
    /// Nothing yet, for this QEMU.
    pub fn of(qemu: QemuId) -> Wanted {
        Wanted {
            qemu,
            devices: Vec::new(),
            drives: Vec::new(),
            files: Vec::new(),
            terminals: Vec::new(),
            sockets: Vec::new(),
            display: None,
            locks: Vec::new(),
            has_begun: false,
        }
    }

    /// Ends a QEMU that is there still, before the first nodes are written: it would take the devices, or be taken for this one. Before
    /// the first QEMU of a domain, those of an earlier domain of its number.
    ///
    /// # Errors
    /// The system's.
    pub fn begin(&mut self, host: &Host) -> Result<(), EngineError> {
        if self.has_begun {
            return Ok(());
        }
        match self.qemu.number {
            0 => device_model::end(host, self.qemu.domid)?,
            _ => device_model::end_one(host, self.qemu)?,
        }
        self.has_begun = true;
        Ok(())
    }

    /// The QEMU that is to serve them.
    pub fn qemu(&self) -> QemuId {
        self.qemu
    }

    /// A device for which QEMU needs nothing, whose nodes are written.
    pub fn add(&mut self, device: Device, what: String) {
        self.devices.push((device, what));
    }

    /// A framebuffer with the display that QEMU shows, whose nodes are written.
    pub fn add_display(&mut self, device: Device, what: String, display: Display) {
        self.devices.push((device, what));
        self.display = Some(display);
    }

    /// Holds a lock of the host until QEMU runs.
    pub fn hold(&mut self, lock: Box<dyn Lock>) {
        self.locks.push(lock);
    }

    /// A disk with its image, whose nodes are written.
    pub fn add_disk(&mut self, device: Device, drive: Drive, file: OpenFile) {
        self.devices.push((device, drive.what.clone()));
        self.drives.push(drive);
        self.files.push(file);
    }

    /// A device with a terminal of this name in QEMU, whose nodes are written.
    pub fn add_terminal(&mut self, device: Device, what: String, name: String) {
        self.devices.push((device, what));
        self.terminals.push(name);
    }

    /// A device with a socket of this name at which QEMU listens, whose nodes are written.
    pub fn add_socket(&mut self, device: Device, what: String, name: String, socket: OpenFile) {
        self.devices.push((device, what));
        self.sockets.push((name, socket));
    }

    /// Starts QEMU, if a device needs it, and waits until it has taken them all. A QEMU with a display can map the memory of guests. It
    /// gets that of its own domain alone before it reads an image, which a guest may have written, and before the guest runs.
    ///
    /// # Errors
    /// [`DeviceError::NoQemu`], [`DeviceError::Qemu`], those of [`Patience::check`], the system and xenstore.
    pub fn serve(&self, host: &mut Host, patience: &Patience<'_>) -> Result<(), EngineError> {
        let Some((_, first)) = self.devices.first() else {
            return Ok(());
        };
        let request = Request {
            qemu: self.qemu,
            device: first,
            drives: &self.drives,
            files: &self.files.iter().collect::<Vec<_>>(),
            terminals: &self.terminals,
            sockets: &self.sockets,
            display: self.display.as_ref(),
            machine: None,
        };
        let child = device_model::start(host, &request)?;
        let check = |host: &Host| patience.check(host);
        device_model::await_running(host, &request, &child, &check)?;
        device_model::await_confined(host, &request, &child, &check)?;
        device_model::keep_to_domain(&request, &child)?;
        device_model::serve(&request, &child)?;
        let of_one_kind = self
            .devices
            .chunk_by(|(one, _), (next, _)| one.served_by == next.served_by);
        for devices in of_one_kind {
            await_taken(host, (devices, &self.drives), &child, patience)?;
        }
        // A monitor watches over the QEMUs of its domain.
        if host.sources.has_doorbell() {
            device_model::watch_ends(host, self.qemu.domid);
        }
        Ok(())
    }
}

/// Waits until QEMU has taken these devices of one kind.
fn await_taken(
    host: &mut Host,
    (devices, drives): (&[(Device, String)], &[Drive]),
    child: &Rc<dyn Child>,
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    // QEMU writes the state of a disk's backend before it has done all for it.
    let ready = devices.iter().map(|(_, what)| {
        let is_disk = drives.iter().any(|drive| drive.what == *what);
        move |_: &Host| Ok(!is_disk || has_served(&child.said(), what))
    });
    let ready: Vec<_> = ready.collect();
    let attaching = devices.iter().zip(&ready);
    let attaching = attaching.map(|((device, what), is_ready)| Attaching {
        device: *device,
        what,
        is_ready,
    });
    let has_ended = || !matches!(child.end(), Ok(None));
    let refused = || refusal(&child.said());
    let patience = Patience {
        deadline: patience.deadline,
        is_cancelled: Box::new(|| (patience.is_cancelled)() || has_ended() || refused().is_some()),
        step: patience.step,
    };
    let limits = AttachLimits {
        limit: TAKE_LIMIT,
        remedy: REMEDY,
        patience: &patience,
    };
    let taken = bus::await_attached(host, &attaching.collect::<Vec<_>>(), limits);
    let Err(error) = taken else {
        return Ok(());
    };
    if let Some(Refusal {
        what: device,
        cause,
    }) = refused()
    {
        let what = format!("cannot serve it: {cause}");
        return Err(DeviceError::Qemu { device, what }.into());
    }
    Err(match (error, devices.first()) {
        (
            EngineError::Device(
                DeviceError::Silent { device, .. } | DeviceError::Backend { device, .. },
            ),
            _,
        ) => device_model::failure(&device, "does not serve it", child).into(),
        (EngineError::Cancelled, Some((_, first))) if has_ended() => {
            device_model::failure(first, "has ended", child).into()
        }
        (other, _) => other,
    })
}

/// Ends the QEMUs of a domain, and takes these devices away that the first one has served. The nodes go last: a later process looks for a
/// QEMU where they are.
///
/// # Errors
/// Those of the system and of xenstore.
pub fn detach(host: &mut Host, domid: DomId, devices: &[Device]) -> Result<(), EngineError> {
    if devices.is_empty() {
        return Ok(());
    }
    device_model::end(host, domid)?;
    host.store.rm(&node(&device_model::folder(domid))?)?;
    bus::remove(host, devices)
}

/// Those of these devices of a domain that are to stay, if its first QEMU, which serves them, has ended.
///
/// # Errors
/// Those of xenstore.
pub fn without_first(
    host: &mut Host,
    domid: DomId,
    devices: Vec<Device>,
) -> Result<Vec<Device>, EngineError> {
    let mut found = Vec::new();
    for device in devices {
        if bus::is_to_stay(&mut host.store, &device)? {
            found.push(device);
        }
    }
    if !found.is_empty() && !device_model::find_one(host, QemuId::first(domid)).is_empty() {
        found.clear();
    }
    Ok(found)
}

/// Refuses a device that needs QEMU, in a process that has given up the right to start one.
///
/// # Errors
/// [`DeviceError::NoRightToQemu`].
pub fn check_right(host: &Host, device: Option<String>) -> Result<(), EngineError> {
    match device {
        Some(device) if !host.process.may_start_qemu() => {
            Err(DeviceError::NoRightToQemu { device }.into())
        }
        _ => Ok(()),
    }
}
