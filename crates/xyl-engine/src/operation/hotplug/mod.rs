//! Devices of a running domain: attach and detach of one device, for each kind that has [`Hotplug`].
//!
//! A device stands in three places: the VM's record (`/var/lib/xyl`), libxl's record of the domain, and xenstore. An attach
//! writes both records first and undoes them if the device cannot be attached. A detach removes the device first. So a
//! restart by xl gives the next domain the devices that the last one had. A restart by Xyl does too: it first brings the VM's
//! record to what xl has changed (`records::follow_xl`).
//!
//! xl can attach or detach at the same time. libxl's record is changed under libxl's lock, one device alone. The undo of an
//! attach removes an entry or a device only if libxl's record has an entry that says the same as the one that this operation
//! wrote. So a process that finishes an attach of a dead one can remove the same disk that xl has attached meanwhile.
//!
//! `attach` and `detach` have the steps, `records` changes the records. The VM's monitor calls `detach::finish_going` when a
//! guest lets a device go after the detach has timed out, and `lost::report` when a backend has changed its state.

pub mod attach;
pub mod detach;
pub(crate) mod lost;
pub(crate) mod records;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo, GuestKind};

use crate::device::bus::{BackendDomain, Device};
use crate::device::hotplug::{self, Hotplug};
use crate::device::{Kind as DeviceKind, Owner, bus};
use crate::error::DeviceError;
use crate::operation::OfVm;
use crate::{EngineError, Host};

/// The domain that gets or loses a device, and the device's kind.
pub(crate) struct Target {
    vm: OfVm,
    domid: DomId,
    kind: &'static dyn DeviceKind,
    hotplug: &'static dyn Hotplug,
}

impl Target {
    fn new(vm: OfVm, domid: DomId, kind: &str) -> Result<Target, EngineError> {
        let (kind, hotplug) = hotplug::kind(kind)?;
        Ok(Target {
            vm,
            domid,
            kind,
            hotplug,
        })
    }

    fn owner(&self) -> Owner {
        Owner {
            domid: self.domid,
            uuid: self.vm.uuid,
        }
    }

    /// The device of a number with a backend of this kind in this domain.
    fn device(
        &self,
        number: u32,
        served_by: &'static str,
        backend_domain: BackendDomain,
    ) -> Device {
        Device {
            domid: self.domid,
            kind: self.kind.name(),
            served_by,
            number,
            backend_domain,
        }
    }

    /// The device of a number, by the toolstack's own copy. One that is not there yet would be domain 0's, with a backend of this kind.
    fn device_there(
        &self,
        host: &mut Host,
        number: u32,
        served_by: &'static str,
    ) -> Result<Device, EngineError> {
        let text = number.to_string();
        let device = bus::device_of(host, self.domid, self.kind.name(), &text)?;
        Ok(device.unwrap_or_else(|| self.device(number, served_by, BackendDomain::DOM0)))
    }

    /// Whether the domain has a device of this number, by the toolstack's own copy.
    fn has(&self, host: &mut Host, number: u32) -> Result<bool, EngineError> {
        Ok(self.kind.numbers_there(host, self.domid)?.contains(&number))
    }
}

/// The domain, unless it is domain 0, another VM's by now, or about to go.
fn living(host: &Host, info: &DomainInfo) -> Result<DomainInfo, EngineError> {
    if info.domid == DomId::ZERO {
        return Err(EngineError::ControlDomain("changing its devices"));
    }
    if info.kind() == GuestKind::Hvm {
        let what = format!(
            "domain {} is an HVM guest, whose devices Xyl does not change while it runs yet: shut it down, change its configuration, and create it again",
            info.domid
        );
        return Err(DeviceError::Unsupported { what }.into());
    }
    let now = host.hv.domain_info(info.domid)?;
    now.filter(|now| now.handle == info.handle && !now.flags.dying)
        .ok_or_else(|| EngineError::NoSuchDomain(info.domid.to_string()))
}

fn uuid_of(info: &DomainInfo) -> Uuid {
    Uuid::from_bytes(info.handle)
}
