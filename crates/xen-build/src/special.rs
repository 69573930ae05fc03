//! The special pages of PVH and HVM domains: fixed guest frames below 0xff000, for rings and for Xen.
//!
//! The frames are those of libxc (`special_pfn` and `ioreq_server_pfn` in `xg_dom_x86.c`), so that domains of both toolstacks look
//! the same to guests and tools.

use xen_port::{HvmParam, PAGE_SHIFT};

use crate::request::BuildRequest;
use crate::span::PageSpan;

/// The special pages (`X86_HVM_NR_SPECIAL_PAGES` up to `X86_HVM_END_SPECIAL_REGION`).
pub(crate) const SPECIAL: PageSpan = PageSpan {
    first: 0xf_eff8,
    count: 8,
};
/// HVM: pages for further I/O request servers, in front of the special pages.
pub(crate) const IOREQ_SERVERS: PageSpan = PageSpan {
    first: 0xf_eff0,
    count: 8,
};
/// Frame of the paging ring.
pub(crate) const PAGING_RING: u64 = SPECIAL.first;
/// Frame of the ring of an introspection tool. A PVH domain has no page there: the tool populates it itself.
pub(crate) const MONITOR_RING: u64 = SPECIAL.first + 1;
/// Frame of the ring of memory sharing.
pub(crate) const SHARING_RING: u64 = SPECIAL.first + 2;
/// Frame of the buffered requests of the default I/O request server.
pub(crate) const BUF_IOREQ: u64 = SPECIAL.first + 3;
/// Frame of xenstore's ring.
pub(crate) const STORE: u64 = SPECIAL.first + 4;
/// Frame of the default I/O request server.
pub(crate) const IOREQ: u64 = SPECIAL.first + 5;
/// Frame of the identity page directory.
pub(crate) const IDENT_PT: u64 = SPECIAL.first + 6;
/// Frame of the console's ring.
pub(crate) const CONSOLE: u64 = SPECIAL.first + 7;

/// The parameters that tell guest and Xen the pages which both types of domains have.
pub(crate) fn params(request: &BuildRequest<'_>) -> Vec<(HvmParam, u64)> {
    let BuildRequest { store, console, .. } = request;
    vec![
        (HvmParam::StorePfn, STORE),
        (HvmParam::StoreEvtchn, store.port.0.into()),
        (HvmParam::ConsolePfn, CONSOLE),
        (HvmParam::ConsoleEvtchn, console.port.0.into()),
        (HvmParam::IdentPt, IDENT_PT << PAGE_SHIFT),
        (HvmParam::MonitorRingPfn, MONITOR_RING),
    ]
}

/// A 32-bit page directory of 4 MiB pages that maps every address to itself.
pub(crate) fn identity_directory() -> Vec<u8> {
    // Present, writable, for users, accessed, dirty, large.
    const FLAGS: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 7;
    (0..1024_u32)
        .flat_map(|index| (index << 22 | FLAGS).to_le_bytes())
        .collect()
}
