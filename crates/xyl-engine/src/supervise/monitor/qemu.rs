//! The monitor's watch over the VM's QEMU. A guest whose QEMU has ended waits for its devices for ever, so the log says it.

use std::rc::Rc;

use os_port::EventSource;
use xenstore::Tree;

use crate::device;
use crate::device_model;
use crate::vm::Vm;
use crate::{EngineError, Host};

/// Token of the end of QEMU.
pub(super) const TOKEN: &str = "xyl-qemu-end";

/// Watches over the QEMU of the VM's domain, if it has one. Returns whether it has.
pub(super) fn watch(host: &mut Host, vm: Vm) -> Result<bool, EngineError> {
    host.sources.remove(TOKEN);
    // A monitor that needs no QEMU has given this right up.
    if !host.process.may_start_qemu() {
        return Ok(false);
    }
    let pid = device_model::pid_node(vm.domid)?;
    if host.store.read_opt(&pid)?.is_none() {
        return Ok(false);
    }
    let Some(program) = device_model::find(host, vm.domid).into_iter().next() else {
        return Ok(false);
    };
    // One that cannot be held ends unseen.
    let Ok(Some(held)) = host.kernel.hold(&program) else {
        return Ok(false);
    };
    host.sources
        .add(TOKEN, Rc::new(held) as Rc<dyn EventSource>);
    Ok(true)
}

/// Removes what a QEMU that has ended leaves in xenstore. xl would send the process that has its PID next a signal, and a console would
/// open the terminal that has the number of its terminal next.
fn forget(host: &mut Host, vm: Vm) -> Result<(), EngineError> {
    let path = device_model::pid_node(vm.domid)?;
    let pid = host.store.read_text_opt(&path)?;
    let pid = pid.and_then(|text| text.trim().parse().ok());
    let is_there = pid.is_some_and(|pid| host.kernel.program(pid).is_some());
    if !device_model::find(host, vm.domid).is_empty() {
        return Ok(());
    }
    device::forget_terminals(host, vm.domid)?;
    match is_there {
        true => Ok(()),
        false => Ok(host.store.rm(&path)?),
    }
}

/// QEMU has ended. Logs it if the guest runs on and has no other one: a soft reset and a destroy end it, too.
pub(super) fn heed_end(
    host: &mut Host,
    vm: Vm,
    log: &mut dyn FnMut(&str),
) -> Result<(), EngineError> {
    if watch(host, vm)? {
        return Ok(());
    }
    let info = host.hv.domain_info(vm.domid)?;
    let runs = info.is_some_and(|info| {
        let flags = info.flags;
        &info.handle == vm.uuid.as_bytes() && !flags.dying && !flags.shutdown && !flags.paused
    });
    forget(host, vm)?;
    if runs {
        log(&format!(
            "QEMU of domain {} has ended: the guest waits for ever for the disks and channels that it served. `xyl destroy` and `xyl create` give it new ones",
            vm.domid
        ));
    }
    Ok(())
}
