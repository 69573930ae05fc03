//! Helpers for the unit tests of several modules.

use xen_port::{CreateDomain, GuestKind};

/// A request for a PV domain with one vCPU and default settings.
pub(crate) fn pv_request(handle: [u8; 16]) -> CreateDomain {
    CreateDomain {
        domid: None,
        kind: GuestKind::Pv,
        handle,
        ssidref: 0,
        hap: false,
        oos_off: false,
        nested_virt: false,
        vpmu: false,
        iommu: false,
        max_vcpus: 1,
        max_evtchn_port: 1023,
        max_grant_frames: None,
        max_maptrack_frames: None,
        max_grant_version: 2,
        cpupool: 0,
        msr_relaxed: false,
        vmtrace_size_bytes: 0,
        hvm_pirq: false,
    }
}
