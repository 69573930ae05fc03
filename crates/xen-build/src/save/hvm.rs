//! The state of a PVH or HVM domain besides its memory.

use std::io::Write;

use xen_port::{DomId, HvmParam, Hypervisor};
use xen_stream::{self as stream, Record, Writer};

use super::error::{During, SaveError, SaveStep};

/// The parameters that an image has, in the order of libxc. The others come from the configuration, are in the state of the
/// vCPUs, or are event channels, which end with the domain.
const PARAMS: [HvmParam; 16] = [
    HvmParam::StorePfn,
    HvmParam::IoreqPfn,
    HvmParam::BufIoreqPfn,
    HvmParam::PagingRingPfn,
    HvmParam::MonitorRingPfn,
    HvmParam::SharingRingPfn,
    HvmParam::Vm86TssSized,
    HvmParam::ConsolePfn,
    HvmParam::AcpiIoportsLocation,
    HvmParam::Viridian,
    HvmParam::IdentPt,
    HvmParam::VmGenerationIdAddr,
    HvmParam::IoreqServerPfn,
    HvmParam::NrIoreqServerPages,
    HvmParam::X87FipWidth,
    HvmParam::McaCap,
];

/// Writes the state of the vCPUs and of Xen's devices, and the parameters.
pub(super) fn write_state<W: Write>(
    hv: &dyn Hypervisor,
    domid: DomId,
    to: &mut Writer<W>,
) -> Result<(), SaveError> {
    let context = hv.hvm_context(domid);
    let context = context.during(domid, SaveStep::ReadHvmContext)?;
    to.record(&Record::HvmContext(context))?;
    to.record(&Record::HvmParams(params(hv, domid)?))?;
    Ok(())
}

/// The parameters that are not zero.
fn params(hv: &dyn Hypervisor, domid: DomId) -> Result<Vec<stream::HvmParam>, SaveError> {
    let mut params = Vec::new();
    for param in PARAMS {
        let value = hv.hvm_param(domid, param);
        let value = value.during(domid, SaveStep::ReadHvmParams)?;
        if value != 0 {
            params.push(stream::HvmParam {
                index: param as u32,
                value,
            });
        }
    }
    Ok(params)
}
