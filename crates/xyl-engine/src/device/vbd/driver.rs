//! Disks in a driver domain.

use os_port::DeviceNumber;
use uuid::Uuid;
use xl_cfg::types::Vdev;

use super::attach::{
    Served, await_earlier_loops, busy, is_open, open, refuse_empty_device, refuse_other_users,
};
use super::{SCRIPT_END, Vbd};
use crate::device::bus::{self, Device, State};
use crate::device::disk_users::Seen;
use crate::device::driver_side::{DriverSide, KERNEL_LIMIT, KERNEL_PAUSE, backend_nodes, write};
use crate::error::DeviceError;
use crate::vm::disk::{Access, Disk, ImageFormat, Server};
use crate::{EngineError, Host};

impl DriverSide for Vbd {
    /// Once blkback knows the block device, another one cannot take its place.
    fn set_up(&self, host: &mut Host, device: &Device) -> Result<(), EngineError> {
        let names = ["script", "physical-device"];
        let [script, known] = backend_nodes(host, device, names)?;
        if let Some(script) = script.filter(|script| !script.ends_with(SCRIPT_END)) {
            let what = format!(
                "disk {}: its script {script} is not run by Xyl: name the block device that the script would make",
                device.number
            );
            return Err(DeviceError::Unsupported { what }.into());
        }
        // It is open until blkback has it.
        let served = match known {
            Some(_) => None,
            None => Some(serve(host, device)?),
        };
        await_open(host, device)?;
        if let Some((disk, served, seen)) = &served
            && let Some(intruder) = served.intruder(host, seen, device)?
        {
            return Err(busy(disk, intruder.user));
        }
        write(host, device, "hotplug-status", "connected")
    }
}

/// Opens the image of a disk, and writes for blkback which block device shows it.
fn serve(host: &mut Host, device: &Device) -> Result<(Disk, Served, Seen), EngineError> {
    let disk = disk_of(host, device)?;
    let file = open(&*host.files, &disk)?;
    refuse_empty_device(host, &disk, &file)?;
    let seen = Seen::of_kernel(host)?;
    refuse_other_users(host, &seen, &disk, &file, Some(device.domid))?;
    // A guest that has lost the image may have writes under way.
    let deadline = host.clock.now() + KERNEL_LIMIT;
    await_earlier_loops(host, (Uuid::nil(), &disk), &file, deadline)?;
    let served = Served::new(host, Uuid::nil(), (&disk, file), &seen)?;
    let DeviceNumber { major, minor } = served.number;
    write(host, device, "physical-device-path", &served.path)?;
    write(
        host,
        device,
        "physical-device",
        &format!("{major:x}:{minor:x}"),
    )?;
    Ok((disk, served, seen))
}

/// The disk that the nodes of its backend describe.
fn disk_of(host: &mut Host, device: &Device) -> Result<Disk, EngineError> {
    let names = ["params", "mode", "dev", "device-type"];
    let [params, mode, dev, kind] = backend_nodes(host, device, names)?;
    let vdev = dev.as_deref().and_then(Vdev::parse);
    let unsupported = |why: &str| DeviceError::Unsupported {
        what: format!("disk {}: its nodes {why}", device.number),
    };
    Ok(Disk {
        target: params.ok_or_else(|| unsupported("name no image"))?.into(),
        vdev: vdev.ok_or_else(|| unsupported("name no disk"))?,
        format: ImageFormat::Raw,
        server: Server::Kernel,
        access: match mode.as_deref() {
            Some("w!") => Access::WriteShared,
            Some("w") => Access::Write,
            _ => Access::Read,
        },
        is_cdrom: kind.as_deref() == Some("cdrom"),
        discard: None,
        direct_io_safe: false,
        trusted: None,
        backend: None,
        script: None,
    })
}

/// Waits until blkback has opened the block device.
fn await_open(host: &mut Host, device: &Device) -> Result<(), EngineError> {
    let deadline = host.clock.now() + KERNEL_LIMIT;
    while !is_open(host, device)? {
        let state = bus::state_here(host, device)?;
        let is_over = host.clock.now() >= deadline;
        if is_over || matches!(state, State::Closing | State::Closed | State::Unknown) {
            let device = format!("disk {}", device.number);
            let cause = format!(
                "it is {} and has not opened the block device",
                state.words()
            );
            return Err(DeviceError::Backend { device, cause }.into());
        }
        host.wait_for(&[], KERNEL_PAUSE)?;
    }
    Ok(())
}
