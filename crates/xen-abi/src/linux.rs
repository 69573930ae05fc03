//! Linux's drivers: privcmd, evtchn, gntdev (`xen/privcmd.h`, `xen/evtchn.h`, `xen/gntdev.h` of Linux; libxen-dev has them in
//! `xen/sys`). Their ioctl numbers are `_IOC(_IOC_NONE, letter, number, size)`.

use crate::layout::{abi, c_constants};

/// The ioctl number of a Xen driver: no direction, a letter, a number, the size of its structure.
const fn ioc(letter: u8, number: u8, size_bytes: usize) -> u64 {
    (size_bytes as u64) << 16 | (letter as u64) << 8 | number as u64
}

c_constants! {
    /// privcmd: a hypercall ([`Hypercall`]).
    PRIVCMD_HYPERCALL: u64 = ioc(b'P', 0, size_of::<Hypercall>()), "IOCTL_PRIVCMD_HYPERCALL";
    /// privcmd: maps foreign frames with an error for each ([`MmapBatchV2`]).
    PRIVCMD_MMAPBATCH_V2: u64 = ioc(b'P', 4, size_of::<MmapBatchV2>()), "IOCTL_PRIVCMD_MMAPBATCH_V2";
    /// privcmd: maps a resource ([`MmapResource`]).
    PRIVCMD_MMAP_RESOURCE: u64 = ioc(b'P', 7, size_of::<MmapResource>()), "IOCTL_PRIVCMD_MMAP_RESOURCE";
    /// evtchn: binds a virtual interrupt.
    EVTCHN_BIND_VIRQ: u64 = ioc(b'E', 0, size_of::<EvtchnBindVirq>()), "IOCTL_EVTCHN_BIND_VIRQ";
    /// evtchn: binds a port of another domain.
    EVTCHN_BIND_INTERDOMAIN: u64 = ioc(b'E', 1, size_of::<EvtchnBindInterdomain>()), "IOCTL_EVTCHN_BIND_INTERDOMAIN";
    /// evtchn: allocates a port for another domain to bind.
    EVTCHN_BIND_UNBOUND_PORT: u64 = ioc(b'E', 2, size_of::<EvtchnBindUnboundPort>()), "IOCTL_EVTCHN_BIND_UNBOUND_PORT";
    /// evtchn: gives a port up.
    EVTCHN_UNBIND: u64 = ioc(b'E', 3, size_of::<EvtchnPort>()), "IOCTL_EVTCHN_UNBIND";
    /// evtchn: notifies.
    EVTCHN_NOTIFY: u64 = ioc(b'E', 4, size_of::<EvtchnPort>()), "IOCTL_EVTCHN_NOTIFY";
    /// gntdev: prepares a mapping of grants.
    GNTDEV_MAP_GRANT_REF: u64 = ioc(b'G', 0, size_of::<GntdevMap>()), "IOCTL_GNTDEV_MAP_GRANT_REF";
    /// gntdev: gives it up.
    GNTDEV_UNMAP_GRANT_REF: u64 = ioc(b'G', 1, size_of::<GntdevUnmap>()), "IOCTL_GNTDEV_UNMAP_GRANT_REF";
}

abi! {
    /// A hypercall. The ioctl's result is the hypercall's.
    struct Hypercall = "privcmd_hypercall_t", 48 {
        /// `HYPERVISOR_*`.
        0 op: u64;
        /// Its arguments.
        8 arg: [u64; 5];
    }
    /// A batch of foreign frames to map.
    struct MmapBatchV2 = "privcmd_mmapbatch_v2_t", 32 {
        /// Number of entries.
        0 num: u32;
        /// Domain that owns the pages.
        4 dom: u16;
        /// Padding.
        6 pad: u16 = "";
        /// Address in a mapping of the driver's file.
        8 addr: u64;
        /// Address of u64 frames.
        16 arr: u64;
        /// Address of i32 errors, each 0 or negative.
        24 err: u64;
    }
    /// Frames of a resource to map.
    struct MmapResource = "privcmd_mmap_resource_t", 32 {
        /// Domain that owns the pages.
        0 dom: u16;
        /// Padding.
        2 pad: u16 = "";
        /// Its type.
        4 kind: u32 = "type";
        /// Which of that type.
        8 id: u32;
        /// First frame.
        12 idx: u32;
        /// Number of entries.
        16 num: u64;
        /// Address in a mapping of the driver's file.
        24 addr: u64;
    }
    /// evtchn: a virtual interrupt.
    struct EvtchnBindVirq = "struct ioctl_evtchn_bind_virq", 4 {
        /// Its number.
        0 virq: u32;
    }
    /// evtchn: another domain's port.
    struct EvtchnBindInterdomain = "struct ioctl_evtchn_bind_interdomain", 8 {
        /// Domain that owns the page.
        0 remote_domain: u32;
        /// Which.
        4 remote_port: u32;
    }
    /// evtchn: a domain that may bind.
    struct EvtchnBindUnboundPort = "struct ioctl_evtchn_bind_unbound_port", 4 {
        /// Domain at the other end.
        0 remote_domain: u32;
    }
    /// evtchn: a port of this domain.
    struct EvtchnPort = "struct ioctl_evtchn_unbind", 4 {
        /// Its number.
        0 port: u32;
    }
    /// gntdev: a grant.
    struct GntdevGrantRef = "struct ioctl_gntdev_grant_ref", 8 {
        /// Domain at the other end.
        0 domid: u32;
        /// Its number.
        4 ref_: u32 = "ref";
    }
    /// gntdev: grants to map; more of them follow the first.
    struct GntdevMap = "struct ioctl_gntdev_map_grant_ref", 24 {
        /// Number of entries.
        0 count: u32;
        /// Zero.
        4 pad: u32;
        /// Out: offset for mmap in bytes.
        8 index: u64;
        /// The first grant.
        16 first: GntdevGrantRef = "refs[0]";
    }
    /// gntdev: a mapping to give up.
    struct GntdevUnmap = "struct ioctl_gntdev_unmap_grant_ref", 16 {
        /// Its offset.
        0 index: u64;
        /// Its pages.
        8 count: u32;
        /// Zero.
        12 pad: u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers_are_those_of_linux() {
        assert_eq!(PRIVCMD_HYPERCALL, 0x30_5000);
        assert_eq!(PRIVCMD_MMAPBATCH_V2, 0x20_5004);
        assert_eq!(PRIVCMD_MMAP_RESOURCE, 0x20_5007);
        assert_eq!(EVTCHN_BIND_INTERDOMAIN, 0x08_4501);
        assert_eq!(GNTDEV_MAP_GRANT_REF, 0x18_4700);
    }
}
