//! The state of a PVH or HVM domain besides its memory.

use xen_port::{Gfn, HvmParam};
use xen_stream::{self as stream, HvmContext, Record};

use super::error::{During, RestoreError, RestoreStep, Result};
use super::memory::Memory;
use super::{Rings, Target};

/// The parameters that an image can have: those that releases of Xen from 4.6 on have written.
const IN_IMAGE: [HvmParam; 17] = [
    HvmParam::StorePfn,
    HvmParam::IoreqPfn,
    HvmParam::BufIoreqPfn,
    HvmParam::Viridian,
    HvmParam::IdentPt,
    HvmParam::Vm86Tss,
    HvmParam::ConsolePfn,
    HvmParam::AcpiIoportsLocation,
    HvmParam::PagingRingPfn,
    HvmParam::MonitorRingPfn,
    HvmParam::SharingRingPfn,
    HvmParam::IoreqServerPfn,
    HvmParam::NrIoreqServerPages,
    HvmParam::VmGenerationIdAddr,
    HvmParam::X87FipWidth,
    HvmParam::Vm86TssSized,
    HvmParam::McaCap,
];
/// Pages that are empty in a restored domain, as libxc leaves them: rings, and pages for requests to QEMU.
const CLEARED: [HvmParam; 4] = [
    HvmParam::StorePfn,
    HvmParam::ConsolePfn,
    HvmParam::IoreqPfn,
    HvmParam::BufIoreqPfn,
];
/// First and last type of the records that Xen knows, besides header and end.
const RECORD_TYPES: std::ops::RangeInclusive<u16> = 2..=20;

/// The records of the state, until all pages are there.
#[derive(Default)]
pub(super) struct HvmState {
    context: Vec<u8>,
    params: Vec<(HvmParam, u64)>,
}

impl HvmState {
    /// Takes a record of the state.
    pub(super) fn take(&mut self, record: Record) -> Result<()> {
        match record {
            Record::HvmContext(context) => {
                check_context(&context)?;
                self.context = context;
            }
            Record::HvmParams(params) => self.params = known(&params)?,
            _ => {}
        }
        Ok(())
    }

    /// Sets the parameters, and loads the state of the vCPUs and of Xen's devices.
    pub(super) fn load(
        self,
        target: &Target<'_>,
        memory: &Memory<'_>,
        config: &[(HvmParam, u64)],
    ) -> Result<Rings> {
        let rings = Rings {
            store: self.ring(memory, HvmParam::StorePfn, "page of xenstore's ring")?,
            console: self.ring(memory, HvmParam::ConsolePfn, "page of the console's ring")?,
        };
        self.clear_pages(target, memory)?;
        let domid = target.domid;
        let set = target
            .hv
            .set_hvm_params(domid, &self.all_params(target, config));
        set.during(domid, RestoreStep::SetHvmParams)?;
        let loaded = target.hv.set_hvm_context(domid, &self.context);
        loaded.during(domid, RestoreStep::SetHvmContext)?;
        Ok(rings)
    }

    fn param(&self, wanted: HvmParam) -> Option<u64> {
        let mut params = self.params.iter();
        params.find_map(|(param, value)| (*param == wanted).then_some(*value))
    }

    /// The page of a ring, which must be there.
    fn ring(&self, memory: &Memory<'_>, param: HvmParam, what: &'static str) -> Result<Gfn> {
        let pfn = self.param(param).ok_or(RestoreError::Missing { what })?;
        memory
            .gfn(pfn)
            .ok_or(RestoreError::Value { what, value: pfn })
    }

    fn clear_pages(&self, target: &Target<'_>, memory: &Memory<'_>) -> Result<()> {
        let pages = CLEARED.iter().filter_map(|param| self.param(*param));
        let mut frames: Vec<Gfn> = pages.filter_map(|pfn| memory.gfn(pfn)).collect();
        frames.sort_unstable();
        frames.dedup();
        let mapped = target.hv.map_foreign(target.domid, &frames);
        let cleared = mapped.and_then(|mut memory| memory.zero(0, memory.size_bytes()));
        cleared.during(target.domid, RestoreStep::ClearRings)
    }

    /// The parameters of the image, the event channels, and those of the configuration that no image has.
    fn all_params(&self, target: &Target<'_>, config: &[(HvmParam, u64)]) -> Vec<(HvmParam, u64)> {
        let mut params = self.params.clone();
        params.push((HvmParam::StoreEvtchn, target.store.port.0.into()));
        params.push((HvmParam::ConsoleEvtchn, target.console.port.0.into()));
        let is_new = |(param, _): &&(HvmParam, u64)| !IN_IMAGE.contains(param);
        params.extend(config.iter().filter(is_new));
        params
    }
}

/// Checks that Xen can know each record. Xen checks what is in them.
fn check_context(context: &[u8]) -> Result<()> {
    let damaged = |_| RestoreError::Missing {
        what: "list of records in the state of the guest",
    };
    let context = HvmContext::parse(context).map_err(damaged)?;
    let mut codes = context.records.iter().map(|record| record.code);
    match codes.find(|code| !RECORD_TYPES.contains(code)) {
        None => Ok(()),
        Some(code) => Err(RestoreError::Value {
            what: "type of a record in the state of the guest",
            value: code.into(),
        }),
    }
}

/// The parameters of an image. `PAE_ENABLED` of old images has no effect and is left out.
fn known(params: &[stream::HvmParam]) -> Result<Vec<(HvmParam, u64)>> {
    let mut known = Vec::new();
    for param in params {
        match HvmParam::from_number(param.index) {
            Some(HvmParam::PaeEnabled) => {}
            Some(name) if IN_IMAGE.contains(&name) => known.push((name, param.value)),
            _ => {
                return Err(RestoreError::Value {
                    what: "number of an HVM parameter",
                    value: param.index.into(),
                });
            }
        }
    }
    Ok(known)
}
