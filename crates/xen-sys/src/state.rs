//! The state of vCPUs and of Xen's own devices, as an image of a domain has it.

use xen_abi::domctl::{self, Domctl};
use xen_abi::xen::HYPERVISOR_DOMCTL;
use xen_port::{DomId, Errno, Result, TscInfo, VcpuId, VcpuPart};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::Xen;
use crate::privcmd::Site;
use crate::xen::Failure;

/// Further registers of a vCPU as an image has them: the payload of `XEN_DOMCTL_set_ext_vcpucontext`, in which Xen finds no address.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct ExtendedBytes([u8; domctl::PAYLOAD_BYTES]);

/// Bytes of a number of a vCPU.
const VCPU_BYTES: usize = 4;

impl Xen {
    pub(crate) fn read_hvm_context(&self, domid: DomId) -> Result<Vec<u8>> {
        let site = Site::domain("XEN_DOMCTL_gethvmcontext", domid);
        let size_bytes = self.ask_hvm_context(site, domid, 0)?.0;
        Ok(self.ask_hvm_context(site, domid, size_bytes)?.1)
    }

    /// Reads the records into a buffer of this size. Without a buffer Xen says the size that the records need.
    fn ask_hvm_context(&self, site: Site, domid: DomId, size_bytes: u32) -> Result<(u32, Vec<u8>)> {
        let room = size_bytes as usize;
        self.with_release(site, |release| {
            let mut call = self.privcmd.call(room)?;
            let buffer = call.reserve::<u8>(room)?;
            let request = domctl::HvmContext {
                size: size_bytes,
                pad: 0,
                buffer: if room == 0 { 0 } else { buffer.address() },
            };
            let version = release.interface().domctl;
            let command = domctl::GET_HVM_CONTEXT;
            let op = call.put(&Domctl::new(version, command, domid.0, &request))?;
            // SAFETY: `op` is one domctl, `buffer` has `size` bytes or is null.
            unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
            let answer: domctl::HvmContext = call.get(&op)?.payload();
            let filled = if room == 0 { 0 } else { answer.size as usize };
            Ok((answer.size, call.get_slice(&buffer, filled)?))
        })
    }

    pub(crate) fn write_hvm_context(&self, domid: DomId, records: &[u8]) -> Result<()> {
        let site = Site::domain("XEN_DOMCTL_sethvmcontext", domid);
        let size = size_of_list(site, records.len())?;
        self.with_release(site, |release| {
            let mut call = self.privcmd.call(records.len())?;
            let buffer = call.put_slice(records)?;
            let request = domctl::HvmContext {
                size,
                pad: 0,
                buffer: buffer.address(),
            };
            let version = release.interface().domctl;
            let command = domctl::SET_HVM_CONTEXT;
            let op = call.put(&Domctl::new(version, command, domid.0, &request))?;
            // SAFETY: `op` is one domctl, `buffer` has `size` bytes.
            unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
            Ok(())
        })
    }

    pub(crate) fn read_tsc_info(&self, domid: DomId) -> Result<TscInfo> {
        let request = domctl::TscInfo::new_zeroed();
        let op = "XEN_DOMCTL_gettscinfo";
        let answer: domctl::TscInfo = self
            .domctl(op, domctl::GET_TSC_INFO, domid, &request)?
            .payload();
        Ok(TscInfo {
            mode: answer.tsc_mode,
            khz: answer.gtsc_khz,
            incarnation: answer.incarnation,
            elapsed_ns: answer.elapsed_nsec,
        })
    }

    pub(crate) fn write_tsc_info(&self, domid: DomId, tsc: &TscInfo) -> Result<()> {
        let request = domctl::TscInfo {
            tsc_mode: tsc.mode,
            gtsc_khz: tsc.khz,
            incarnation: tsc.incarnation,
            pad: 0,
            elapsed_nsec: tsc.elapsed_ns,
        };
        let op = "XEN_DOMCTL_settscinfo";
        self.domctl(op, domctl::SET_TSC_INFO, domid, &request)
            .map(drop)
    }

    pub(crate) fn read_pv_vcpu(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        part: VcpuPart,
    ) -> Result<Vec<u8>> {
        match part {
            VcpuPart::Basic => Ok(self.read_vcpu_context(domid, vcpu)?.unwrap_or_default()),
            VcpuPart::Extended => self.read_extended(domid, vcpu),
            VcpuPart::Xsave => self.read_xsave(domid, vcpu),
            VcpuPart::Msrs => self.read_msrs(domid, vcpu),
        }
    }

    pub(crate) fn write_pv_vcpu(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        part: VcpuPart,
        state: &[u8],
    ) -> Result<()> {
        match part {
            VcpuPart::Basic => self.write_vcpu_context(domid, vcpu, state),
            VcpuPart::Extended => self.write_extended(domid, vcpu, state),
            VcpuPart::Xsave => self.write_xsave(domid, vcpu, state),
            VcpuPart::Msrs => self.write_msrs(domid, vcpu, state),
        }
    }

    fn read_extended(&self, domid: DomId, vcpu: VcpuId) -> Result<Vec<u8>> {
        let request = domctl::ExtVcpuContext {
            vcpu: vcpu.0,
            ..domctl::ExtVcpuContext::new_zeroed()
        };
        let op = "XEN_DOMCTL_get_ext_vcpucontext";
        let answer: domctl::ExtVcpuContext = self
            .domctl(op, domctl::GET_EXT_VCPU_CONTEXT, domid, &request)?
            .payload();
        let mut bytes = answer.as_bytes().to_vec();
        bytes.truncate(answer.size as usize);
        Ok(bytes)
    }

    fn write_extended(&self, domid: DomId, vcpu: VcpuId, state: &[u8]) -> Result<()> {
        let op = "XEN_DOMCTL_set_ext_vcpucontext";
        let names_vcpu = state.get(..VCPU_BYTES) == Some(&vcpu.0.to_ne_bytes()[..]);
        if !names_vcpu || state.len() > domctl::PAYLOAD_BYTES {
            return Err(Site::domain(op, domid).error(Errno::EINVAL));
        }
        let mut payload = ExtendedBytes([0; domctl::PAYLOAD_BYTES]);
        for (to, from) in payload.0.iter_mut().zip(state) {
            *to = *from;
        }
        self.domctl(op, domctl::SET_EXT_VCPU_CONTEXT, domid, &payload)
            .map(drop)
    }

    fn read_xsave(&self, domid: DomId, vcpu: VcpuId) -> Result<Vec<u8>> {
        let site = Site::domain("XEN_DOMCTL_getvcpuextstate", domid);
        self.with_release(site, |release| {
            let version = release.interface().domctl;
            let request = |mask, size, buffer| {
                let request = domctl::VcpuExtState {
                    vcpu: vcpu.0,
                    pad: 0,
                    xfeature_mask: mask,
                    size,
                    buffer,
                };
                Domctl::new(version, domctl::GET_VCPU_EXT_STATE, domid.0, &request)
            };
            let known: domctl::VcpuExtState = self.run_plain(&request(0, 0, 0))?.payload();
            if known.xfeature_mask == 0 {
                return Ok(Vec::new());
            }
            let room = usize::try_from(known.size).map_err(|_| Errno::EOVERFLOW)?;
            let mut call = self.privcmd.call(room)?;
            let buffer = call.reserve::<u8>(room)?;
            let op = call.put(&request(known.xfeature_mask, known.size, buffer.address()))?;
            // SAFETY: `op` is one domctl, `buffer` has `size` bytes.
            unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
            let answer: domctl::VcpuExtState = call.get(&op)?.payload();
            Ok(call.get_slice(&buffer, usize::try_from(answer.size).unwrap_or(usize::MAX))?)
        })
    }

    fn write_xsave(&self, domid: DomId, vcpu: VcpuId, state: &[u8]) -> Result<()> {
        let site = Site::domain("XEN_DOMCTL_setvcpuextstate", domid);
        self.with_release(site, |release| {
            let mut call = self.privcmd.call(state.len())?;
            let buffer = call.put_slice(state)?;
            let request = domctl::VcpuExtState {
                vcpu: vcpu.0,
                pad: 0,
                xfeature_mask: 0,
                size: state.len() as u64,
                buffer: buffer.address(),
            };
            let version = release.interface().domctl;
            let command = domctl::SET_VCPU_EXT_STATE;
            let op = call.put(&Domctl::new(version, command, domid.0, &request))?;
            // SAFETY: `op` is one domctl, `buffer` has `size` bytes.
            unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
            Ok(())
        })
    }

    fn read_msrs(&self, domid: DomId, vcpu: VcpuId) -> Result<Vec<u8>> {
        let site = Site::domain("XEN_DOMCTL_get_vcpu_msrs", domid);
        self.with_release(site, |release| {
            let version = release.interface().domctl;
            let request = |count, msrs| {
                let request = domctl::VcpuMsrs {
                    vcpu: vcpu.0,
                    msr_count: count,
                    msrs,
                };
                Domctl::new(version, domctl::GET_VCPU_MSRS, domid.0, &request)
            };
            let known: domctl::VcpuMsrs = self.run_plain(&request(0, 0))?.payload();
            if known.msr_count == 0 {
                return Ok(Vec::new());
            }
            let room = known.msr_count as usize;
            let mut call = self.privcmd.call(room * size_of::<domctl::VcpuMsr>())?;
            let msrs = call.reserve::<domctl::VcpuMsr>(room)?;
            let op = call.put(&request(known.msr_count, msrs.address()))?;
            // SAFETY: `op` is one domctl, `msrs` has `msr_count` entries.
            unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
            let answer: domctl::VcpuMsrs = call.get(&op)?.payload();
            let msrs = call.get_slice(&msrs, answer.msr_count as usize)?;
            Ok::<_, Failure>(msrs.as_bytes().to_vec())
        })
    }

    fn write_msrs(&self, domid: DomId, vcpu: VcpuId, state: &[u8]) -> Result<()> {
        let site = Site::domain("XEN_DOMCTL_set_vcpu_msrs", domid);
        let (entries, rest) = state.as_chunks::<{ size_of::<domctl::VcpuMsr>() }>();
        if !rest.is_empty() {
            return Err(site.error(Errno::EINVAL));
        }
        let msr_count = size_of_list(site, entries.len())?;
        self.with_release(site, |release| {
            let mut call = self.privcmd.call(state.len())?;
            let msrs = call.put_slice(state)?;
            let request = domctl::VcpuMsrs {
                vcpu: vcpu.0,
                msr_count,
                msrs: msrs.address(),
            };
            let version = release.interface().domctl;
            let command = domctl::SET_VCPU_MSRS;
            let op = call.put(&Domctl::new(version, command, domid.0, &request))?;
            // SAFETY: `op` is one domctl, `msrs` has the bytes of `msr_count` entries.
            unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
            Ok(())
        })
    }
}

/// A number of entries or bytes, as a request has it.
fn size_of_list(site: Site, count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| site.error(Errno::E2BIG))
}
