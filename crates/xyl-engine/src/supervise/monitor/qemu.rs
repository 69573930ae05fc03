//! The monitor's watch over the QEMUs of its VM. A guest whose QEMU has ended waits for its devices for ever, so the log says it. An HVM guest
//! whose device model has ended cannot run at all: it counts as crashed, and the VM does what `on_crash` says.

use std::time::Duration;

use xen_port::{DomainFlags, DomainInfo, ShutdownReason};

use crate::device;
use crate::device_model::{self, QemuId};
use crate::vm::Vm;
use crate::{EngineError, Host};

/// Time that a paused domain has to go, once its device model has ended, in seconds: libxl pauses a domain that it destroys, ends the device model,
/// and takes its devices away before the domain itself.
const GOING_LIMIT_S: u64 = 12;
/// Pause between two looks whether it has gone.
const GOING_PAUSE: Duration = Duration::from_millis(500);
/// Token of the end of a QEMU.
pub(super) const TOKEN: &str = device_model::END_TOKEN;

/// Watches over the QEMUs of the VM's domain, if it has one.
pub(super) fn watch(host: &mut Host, vm: Vm) {
    host.sources.remove(TOKEN);
    // A monitor that needs no QEMU has given this right up.
    if host.process.may_start_qemu() {
        device_model::watch_ends(host, vm.domid);
    }
}

/// Removes what a first QEMU that has ended leaves in xenstore. A console would open the terminal that has the number of its terminal next.
fn forget(host: &mut Host, vm: Vm) -> Result<(), EngineError> {
    device::forget_serial_lines(host, vm.domid)?;
    if !device_model::find_one(host, QemuId::first(vm.domid)).is_empty() {
        return Ok(());
    }
    device::forget_terminals(host, vm.domid)?;
    device_model::forget_ended(host, vm.domid)
}

/// A QEMU has ended. Logs it if the guest runs on and has a device that no QEMU serves now: a detach, a soft reset and a destroy end one, too.
pub(super) fn heed_end(
    host: &mut Host,
    vm: Vm,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    watch(host, vm);
    let info = host.hv.domain_info(vm.domid)?;
    let runs = info.is_some_and(|info| {
        let flags = info.flags;
        &info.handle == vm.uuid.as_bytes() && !flags.dying && !flags.shutdown && !flags.paused
    });
    forget(host, vm)?;
    if device::machine::is_lost(host, vm.domid)? {
        return end_without_machine(host, vm, log);
    }
    let unserved = device::without_qemu(host, vm.domid)?;
    if runs && !unserved.is_empty() {
        log(&format!(
            "QEMU of domain {} has ended: the guest waits for ever for what it served: {}. `xyl destroy` and `xyl create` give it new ones",
            vm.domid,
            unserved.join(", ")
        ));
    }
    Ok(())
}

/// Has a domain whose device model ended while no monitor watched count as crashed, too.
pub(super) fn heed_earlier_end(
    host: &mut Host,
    vm: Vm,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    if !host.process.may_start_qemu() || !device::machine::is_lost(host, vm.domid)? {
        return Ok(());
    }
    device::forget_serial_lines(host, vm.domid)?;
    end_without_machine(host, vm, log)
}

/// The flags of the VM's domain, if it is there and neither ended nor about to go.
fn flags(host: &Host, vm: Vm) -> Result<Option<DomainFlags>, EngineError> {
    let info = host.hv.domain_info(vm.domid)?;
    let is_its = |info: &DomainInfo| &info.handle == vm.uuid.as_bytes();
    let flags = info.filter(is_its).map(|info| info.flags);
    Ok(flags.filter(|flags| !flags.dying && !flags.shutdown))
}

/// Has a domain count as crashed whose device model has ended: its vCPUs wait for ever at their next access to a device. A domain that is
/// about to go keeps its end.
fn end_without_machine(
    host: &mut Host,
    vm: Vm,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    let limit = host.clock.now() + Duration::from_secs(GOING_LIMIT_S);
    while flags(host, vm)?.is_some_and(|flags| flags.paused) && host.clock.now() < limit {
        host.wait_for(&[], GOING_PAUSE)?;
    }
    if flags(host, vm)?.is_some() {
        log(&format!(
            "the device model (QEMU) of domain {} has ended, and the guest cannot run without it: it counts as crashed",
            vm.domid
        ));
        host.hv.remote_shutdown(vm.domid, ShutdownReason::Crash)?;
    }
    Ok(())
}
