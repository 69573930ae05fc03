//! Guests that may suspend themselves after Xyl has given up.
//!
//! A guest takes the request first, and then freezes its programs and devices, which may take long or fail. Xyl cannot see which.
//! So a file of the VM's run folder says for some minutes that the guest is to be resumed if it suspends itself. The VM's monitor
//! looks at it when it finds its guest suspended. A new request to suspend removes it.

use std::path::PathBuf;

use os_port::remove_if_there;
use uuid::Uuid;
use xen_port::DomId;

use super::{domain_of, is_suspended, let_run};
use crate::vm::{Vm, store};
use crate::{Dirs, EngineError, Host, VmGuard};

/// Time for which the guest is expected to suspend itself, in seconds. Linux stops freezing its programs after 20 s.
const EXPECTED_S: u64 = 300;
/// Largest such file that is read, in bytes: two numbers.
const FILE_MAX_BYTES: u64 = 64;

fn path(dirs: &Dirs, uuid: Uuid) -> PathBuf {
    dirs.vm_run(uuid).join("late-suspend")
}

/// Says that the domain's guest is to be resumed if it suspends itself. If the disk is full, it stays suspended.
pub(super) fn expect(host: &Host, uuid: Uuid, domid: DomId) {
    let path = path(&host.dirs, uuid);
    let until_s = host.clock.since_boot_s() + EXPECTED_S;
    let new = path.with_extension("new");
    let text = format!("{domid} {until_s}");
    if let Err(error) = store::write_whole(&*host.files, &new, &path, text.as_bytes()) {
        (host.notice)(&format!(
            "warning: if domain {domid} suspends itself now, nobody resumes it: {error}"
        ));
    }
}

/// Expects nothing any more.
pub(super) fn forget(host: &Host, uuid: Uuid) -> Result<(), EngineError> {
    let path = path(&host.dirs, uuid);
    remove_if_there(&*host.files, &path).map_err(|source| EngineError::io("remove", &path, source))
}

/// Whether this domain's guest is to be resumed if it is suspended.
fn is_expected(host: &Host, vm: Vm) -> bool {
    let read = host.files.read(&path(&host.dirs, vm.uuid), FILE_MAX_BYTES);
    let Ok(text) = read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) else {
        return false;
    };
    let mut numbers = text.split(' ').map(str::parse::<u64>);
    let (Some(Ok(domid)), Some(Ok(until_s))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    u64::from(vm.domid.0) == domid && host.clock.since_boot_s() < until_s
}

/// Resumes a guest that has suspended itself too late. Whether it has.
pub(crate) fn resume(host: &mut Host, vm: Vm) -> Result<bool, EngineError> {
    if !is_expected(host, vm) {
        return Ok(false);
    }
    let owner = VmGuard::take(host, vm.uuid)?;
    owner.report_recovered(host);
    // Another process may have had its turn.
    let info = domain_of(host, vm.uuid, vm.domid)?;
    let Some(info) = info.filter(|info| is_suspended(info) && is_expected(host, vm)) else {
        return Ok(true);
    };
    let_run(host, &info)?;
    forget(host, vm.uuid)?;
    Ok(true)
}
