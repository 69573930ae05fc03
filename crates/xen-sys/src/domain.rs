//! Domains: create, describe, pause, resume and destroy.

use std::time::Instant;

use xen_abi::Release;
use xen_abi::domctl::{self, ArchDomainConfig, Bitmap, Domctl};
use xen_abi::event_channel;
use xen_abi::sched;
use xen_abi::sysctl::{self, Sysctl};
use xen_abi::xen::{
    DOMID_FIRST_RESERVED, HYPERVISOR_DOMCTL, HYPERVISOR_EVENT_CHANNEL_OP, HYPERVISOR_SCHED_OP,
    HYPERVISOR_SYSCTL,
};
use xen_port::{
    CpuMap, CreateDomain, DomId, DomainFlags, DomainInfo, Errno, EvtchnPort, Gfn, GuestKind,
    HvError, Result, ShutdownReason, Trigger, VcpuId,
};
use zerocopy::FromZeros;

use crate::Xen;
use crate::host::BITMAP_BYTES;
use crate::privcmd::Site;

/// Domains that are asked for in the first call; most hosts have fewer, and they fit the memory that is there.
const FIRST_BATCH: u32 = 64;
/// Domains that are asked for in each further call.
const LIST_BATCH: u32 = 1024;
/// Emulated devices of an HVM domain.
const HVM_DEVICES: u32 = domctl::EMU_ALL & !domctl::EMU_VPCI;

impl Xen {
    pub(crate) fn read_domain_info(&self, domid: DomId) -> Result<Option<DomainInfo>> {
        let op = "XEN_DOMCTL_getdomaininfo";
        let request = domctl::DomainInfo::new_zeroed();
        let answer = match self.domctl(op, domctl::GET_DOMAIN_INFO, domid, &request) {
            Err(error) if error.is(Errno::ESRCH) => return Ok(None),
            answer => answer?.payload::<domctl::DomainInfo>(),
        };
        // Xen up to 4.21 returns the next domain if this one does not exist.
        Ok((answer.domain == domid.0).then(|| domain_info(&answer)))
    }

    pub(crate) fn list_domains(&self) -> Result<Vec<DomainInfo>> {
        let mut domains: Vec<DomainInfo> = Vec::new();
        let (mut first, mut batch_size) = (0, FIRST_BATCH);
        while first < DOMID_FIRST_RESERVED {
            let batch = self.list_domains_from(first, batch_size)?;
            domains.extend(batch.iter().map(domain_info));
            match batch.last() {
                Some(last) if batch.len() == batch_size as usize => {
                    first = last.domain.saturating_add(1)
                }
                _ => break,
            }
            batch_size = LIST_BATCH;
        }
        Ok(domains)
    }

    fn list_domains_from(&self, first: u16, batch_size: u32) -> Result<Vec<domctl::DomainInfo>> {
        self.with_sysctl_version(Site::host("XEN_SYSCTL_getdomaininfolist"), |version| {
            let mut call = self
                .privcmd
                .call(batch_size as usize * size_of::<domctl::DomainInfo>())?;
            let buffer = call.reserve::<domctl::DomainInfo>(batch_size as usize)?;
            let request = sysctl::GetDomainInfoList {
                first_domain: first,
                pad: 0,
                max_domains: batch_size,
                buffer: buffer.address(),
                num_domains: 0,
                tail: 0,
            };
            let op = call.put(&Sysctl::new(
                version,
                sysctl::GET_DOMAIN_INFO_LIST,
                &request,
            ))?;
            // SAFETY: `op` is one sysctl, `buffer` has `max_domains` entries.
            unsafe { call.run(HYPERVISOR_SYSCTL, &[op.address()]) }?;
            let answer: sysctl::GetDomainInfoList = call.get(&op)?.payload();
            Ok(call.get_slice(&buffer, answer.num_domains as usize)?)
        })
    }

    pub(crate) fn make_domain(&self, request: &CreateDomain) -> Result<DomId> {
        let wanted = request.domid.unwrap_or(DomId(0));
        let site = Site {
            op: "XEN_DOMCTL_createdomain",
            domid: request.domid,
        };
        self.with_release(site, |release| {
            let domctl = encode(request, release)
                .encode(release, wanted.0)
                .map_err(|refused| site.nonsense(refused.to_string()))?;
            Ok(DomId(self.run_plain(&domctl)?.domain))
        })
    }

    pub(crate) fn end_domain(&self, domid: DomId, deadline: Instant) -> Result<()> {
        let op = "XEN_DOMCTL_destroydomain";
        let mut begun = false;
        loop {
            match self.domctl(op, domctl::DESTROY_DOMAIN, domid, &()) {
                Ok(_) => return Ok(()),
                // Another process has finished the destroy that began here.
                Err(error) if begun && error.is(Errno::ESRCH) => return Ok(()),
                Err(error) if error.is(Errno::EAGAIN) || error.is(Errno::ERESTART) => begun = true,
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Err(HvError::Deadline {
                    op,
                    domid: Some(domid),
                });
            }
            std::thread::yield_now();
        }
    }

    /// A domctl without a payload.
    pub(crate) fn tell_domain(&self, op: &'static str, cmd: u32, domid: DomId) -> Result<()> {
        self.domctl(op, cmd, domid, &()).map(drop)
    }

    pub(crate) fn shut_domain_down(&self, domid: DomId, reason: ShutdownReason) -> Result<()> {
        let mut call = self.privcmd.call(0)?;
        let request = sched::RemoteShutdown {
            domain_id: domid.0,
            pad: 0,
            reason: reason.number().into(),
        };
        let argument = call.put(&request)?;
        // SAFETY: `argument` is the one structure that this sub-operation reads.
        unsafe {
            call.run(
                HYPERVISOR_SCHED_OP,
                &[sched::REMOTE_SHUTDOWN.into(), argument.address()],
            )
        }
        .map_err(|errno| Site::domain("SCHEDOP_remote_shutdown", domid).error(errno))?;
        Ok(())
    }

    pub(crate) fn trigger(&self, domid: DomId, vcpu: VcpuId, trigger: Trigger) -> Result<()> {
        let trigger = match trigger {
            Trigger::Nmi => domctl::TRIGGER_NMI,
            Trigger::Reset => domctl::TRIGGER_RESET,
            Trigger::Init => domctl::TRIGGER_INIT,
            Trigger::Power => domctl::TRIGGER_POWER,
            Trigger::Sleep => domctl::TRIGGER_SLEEP,
        };
        let request = domctl::SendTrigger {
            trigger,
            vcpu: vcpu.0,
        };
        self.domctl(
            "XEN_DOMCTL_sendtrigger",
            domctl::SEND_TRIGGER,
            domid,
            &request,
        )
        .map(drop)
    }

    pub(crate) fn rename_handle(&self, domid: DomId, handle: [u8; 16]) -> Result<()> {
        let request = domctl::SetDomainHandle { handle };
        self.domctl(
            "XEN_DOMCTL_setdomainhandle",
            domctl::SET_DOMAIN_HANDLE,
            domid,
            &request,
        )
        .map(drop)
    }

    pub(crate) fn read_address_size(&self, domid: DomId) -> Result<u32> {
        let answer: domctl::AddressSize = self
            .domctl(
                "XEN_DOMCTL_get_address_size",
                domctl::GET_ADDRESS_SIZE,
                domid,
                &domctl::AddressSize { size: 0 },
            )?
            .payload();
        Ok(answer.size)
    }

    pub(crate) fn narrow_addresses(&self, domid: DomId) -> Result<()> {
        self.domctl(
            "XEN_DOMCTL_set_address_size",
            domctl::SET_ADDRESS_SIZE,
            domid,
            &domctl::AddressSize { size: 32 },
        )
        .map(drop)
    }

    pub(crate) fn read_node_affinity(&self, domid: DomId) -> Result<CpuMap> {
        self.with_release(
            Site::domain("XEN_DOMCTL_getnodeaffinity", domid),
            |release| {
                let mut call = self.privcmd.call(BITMAP_BYTES)?;
                let bitmap = call.reserve::<u8>(BITMAP_BYTES)?;
                let nodemap = Bitmap {
                    bitmap: bitmap.address(),
                    nr_bits: BITMAP_BYTES as u32 * 8,
                    pad: 0,
                };
                let request = domctl::NodeAffinity { nodemap };
                let version = release.interface().domctl;
                let op = call.put(&Domctl::new(
                    version,
                    domctl::GET_NODE_AFFINITY,
                    domid.0,
                    &request,
                ))?;
                // SAFETY: `op` is one domctl, `bitmap` has `nr_bits` bits.
                unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
                Ok(CpuMap::from_bytes(&call.get_slice(&bitmap, BITMAP_BYTES)?))
            },
        )
    }

    pub(crate) fn allocate_unbound(&self, domid: DomId, remote: DomId) -> Result<EvtchnPort> {
        let mut call = self.privcmd.call(0)?;
        let argument = call.put(&event_channel::AllocUnbound {
            dom: domid.0,
            remote_dom: remote.0,
            port: 0,
        })?;
        // SAFETY: `argument` is the one structure that this sub-operation reads and writes.
        unsafe {
            call.run(
                HYPERVISOR_EVENT_CHANNEL_OP,
                &[event_channel::ALLOC_UNBOUND.into(), argument.address()],
            )
        }
        .map_err(|errno| Site::domain("EVTCHNOP_alloc_unbound", domid).error(errno))?;
        Ok(EvtchnPort(call.get(&argument)?.port))
    }

    pub(crate) fn close_ports(&self, domid: DomId) -> Result<()> {
        let mut call = self.privcmd.call(0)?;
        let argument = call.put(&event_channel::Reset { dom: domid.0 })?;
        // SAFETY: `argument` is the one structure that this sub-operation reads.
        unsafe {
            call.run(
                HYPERVISOR_EVENT_CHANNEL_OP,
                &[event_channel::RESET.into(), argument.address()],
            )
        }
        .map_err(|errno| Site::domain("EVTCHNOP_reset", domid).error(errno))?;
        Ok(())
    }
}

fn encode(request: &CreateDomain, release: Release) -> domctl::CreateDomain {
    let hardware = request.kind != GuestKind::Pv;
    let flag = |wanted: bool, flag: u32| if wanted { flag } else { 0 };
    let or_default =
        |limit: Option<u32>| limit.map_or(-1, |frames| i32::try_from(frames).unwrap_or(i32::MAX));
    domctl::CreateDomain {
        ssidref: request.ssidref,
        handle: request.handle,
        flags: flag(hardware, domctl::CDF_HVM)
            | flag(hardware && request.hap, domctl::CDF_HAP)
            | flag(hardware && request.oos_off, domctl::CDF_OOS_OFF)
            | flag(hardware && request.nested_virt, domctl::CDF_NESTED_VIRT)
            | flag(request.vpmu, domctl::CDF_VPMU)
            | flag(request.iommu, domctl::CDF_IOMMU),
        // A PV domain has no tables of its own that the IOMMU could share.
        iommu_opts: flag(request.iommu && !hardware, domctl::IOMMU_NO_SHAREPT),
        max_vcpus: request.max_vcpus,
        max_evtchn_port: request.max_evtchn_port,
        max_grant_frames: or_default(request.max_grant_frames),
        max_maptrack_frames: or_default(request.max_maptrack_frames),
        grant_opts: request.max_grant_version & domctl::GRANT_VERSION_MASK,
        altp2m: None,
        vmtrace_size_bytes: request.vmtrace_size_bytes,
        cpupool_id: request.cpupool,
        arch: ArchDomainConfig {
            emulation_flags: devices(request, release),
            misc_flags: flag(request.msr_relaxed, domctl::MSR_RELAXED),
        },
    }
}

/// Emulated devices. Xen takes no other set for a kind of guest (`emulation_flags_ok`). For HVM it has USE_PIRQ always up to
/// 4.18, and as it is asked for from 4.19 on.
fn devices(request: &CreateDomain, release: Release) -> u32 {
    match request.kind {
        GuestKind::Pv => 0,
        GuestKind::Pvh => domctl::EMU_LAPIC,
        GuestKind::Hvm if release < Release::V4_19 || request.hvm_pirq => HVM_DEVICES,
        GuestKind::Hvm => HVM_DEVICES & !domctl::EMU_USE_PIRQ,
    }
}

fn domain_info(info: &domctl::DomainInfo) -> DomainInfo {
    let has = |flag| info.flags & flag != 0;
    let reason = (info.flags >> domctl::INFO_SHUTDOWN_SHIFT & domctl::INFO_SHUTDOWN_MASK) as u8;
    DomainInfo {
        domid: DomId(info.domain),
        flags: DomainFlags {
            dying: has(domctl::INFO_DYING),
            hvm: has(domctl::INFO_HVM_GUEST),
            shutdown: has(domctl::INFO_SHUTDOWN),
            paused: has(domctl::INFO_PAUSED),
            blocked: has(domctl::INFO_BLOCKED),
            running: has(domctl::INFO_RUNNING),
            debugged: has(domctl::INFO_DEBUGGED),
            xs_domain: has(domctl::INFO_XS_DOMAIN),
            hap: has(domctl::INFO_HAP),
        },
        shutdown_reason: has(domctl::INFO_SHUTDOWN).then(|| ShutdownReason::from_number(reason)),
        tot_pages: info.tot_pages,
        max_pages: info.max_pages,
        outstanding_pages: info.outstanding_pages,
        shr_pages: info.shr_pages,
        paged_pages: info.paged_pages,
        shared_info_frame: Gfn(info.shared_info_frame),
        cpu_time_ns: info.cpu_time,
        nr_online_vcpus: info.nr_online_vcpus,
        max_vcpu_id: (info.max_vcpu_id != domctl::INVALID_MAX_VCPU_ID).then_some(info.max_vcpu_id),
        ssidref: info.ssidref,
        handle: info.handle,
        cpupool: info.cpupool,
        emulation_flags: info.arch.emulation_flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: GuestKind) -> CreateDomain {
        CreateDomain {
            domid: None,
            kind,
            handle: [1; 16],
            ssidref: 0,
            hap: true,
            oos_off: true,
            nested_virt: false,
            vpmu: false,
            iommu: false,
            max_vcpus: 1,
            max_evtchn_port: 1023,
            max_grant_frames: None,
            max_maptrack_frames: Some(u32::MAX),
            max_grant_version: 1,
            cpupool: 0,
            msr_relaxed: true,
            vmtrace_size_bytes: 0,
            hvm_pirq: false,
        }
    }

    #[test]
    fn each_kind_of_guest_gets_its_flags_and_devices() {
        let encode = |request: &CreateDomain| encode(request, Release::V4_17);
        let pv = encode(&request(GuestKind::Pv));
        assert_eq!((pv.flags, pv.arch.emulation_flags), (0, 0));
        let nested = encode(&CreateDomain {
            nested_virt: true,
            ..request(GuestKind::Pv)
        });
        assert_eq!(nested.flags, 0);
        let pvh = encode(&request(GuestKind::Pvh));
        assert_eq!((pvh.flags, pvh.arch.emulation_flags), (0b1011, 1));
        let hvm = encode(&request(GuestKind::Hvm));
        assert_eq!((hvm.flags, hvm.arch.emulation_flags), (0b1011, 0x3ff));
        assert_eq!(hvm.arch.misc_flags, 1);
    }

    #[test]
    fn interrupts_over_event_channels_are_a_choice_from_4_19_on() {
        let hvm = request(GuestKind::Hvm);
        let with_pirq = CreateDomain {
            hvm_pirq: true,
            ..hvm.clone()
        };
        for release in Release::ALL {
            let without = if release < Release::V4_19 {
                0x3ff
            } else {
                0x1ff
            };
            assert_eq!(encode(&hvm, release).arch.emulation_flags, without);
            assert_eq!(encode(&with_pirq, release).arch.emulation_flags, 0x3ff);
        }
    }

    #[test]
    fn limits_are_xens_default_where_none_is_given_and_never_negative_otherwise() {
        let encoded = encode(&request(GuestKind::Pv), Release::V4_20);
        assert_eq!(encoded.max_grant_frames, -1);
        assert_eq!(encoded.max_maptrack_frames, i32::MAX);
    }

    #[test]
    fn a_reason_counts_only_once_the_domain_has_shut_down() {
        let mut raw = domctl::DomainInfo::new_zeroed();
        raw.max_vcpu_id = domctl::INVALID_MAX_VCPU_ID;
        raw.flags = 3 << 16 | domctl::INFO_PAUSED;
        assert_eq!(domain_info(&raw).shutdown_reason, None);
        assert_eq!(domain_info(&raw).max_vcpu_id, None);
        raw.flags |= domctl::INFO_SHUTDOWN;
        let info = domain_info(&raw);
        assert_eq!(info.shutdown_reason, Some(ShutdownReason::Crash));
        assert!(info.flags.paused && !info.flags.dying);
    }
}
