//! The shared info page: event channel bits, and the clock. Every event channel stays masked: the
//! kernel takes no interrupts, it polls (SCHEDOP_poll wakes for masked channels too).

use core::arch::x86_64::_rdtsc;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use testguest_logic::clock::TimeInfo;

use crate::hypercall;

/// Xen's `vcpu_time_info` (public/xen.h).
#[repr(C)]
pub struct VcpuTimeInfo {
    version: AtomicU32,
    pad0: u32,
    tsc_timestamp: AtomicU64,
    system_time_ns: AtomicU64,
    tsc_to_system_mul: AtomicU32,
    tsc_shift: AtomicU8,
    flags: AtomicU8,
    pad1: [u8; 2],
}

/// `vcpu_info` (public/xen.h, x86).
#[repr(C)]
pub struct VcpuInfo {
    upcall_pending: AtomicU8,
    upcall_mask: AtomicU8,
    pending_selector: AtomicU64,
    /// Address of the last page fault (PV).
    pub cr2: AtomicU64,
    pad: u64,
    time: VcpuTimeInfo,
}

/// `shared_info` (public/xen.h, public/arch-x86/xen.h), 64-bit layout.
#[repr(C)]
pub struct SharedInfo {
    /// One record for each of the first 32 vCPUs.
    pub vcpu_info: [VcpuInfo; 32],
    evtchn_pending: [AtomicU64; 64],
    evtchn_mask: [AtomicU64; 64],
    wall_clock: [u32; 4],
    /// PV: number of entries of the p2m.
    pub max_pfn: AtomicU64,
    frame_list_list: AtomicU64,
    nmi_reason: AtomicU64,
    /// PV: root of the page tables in which `p2m_vaddr` is mapped, in CR3 form.
    pub p2m_cr3: AtomicU64,
    /// PV: virtual address of the p2m.
    pub p2m_vaddr: AtomicU64,
    p2m_generation: AtomicU64,
}

const _: () = assert!(size_of::<VcpuInfo>() == 64);
const _: () = assert!(core::mem::offset_of!(SharedInfo, evtchn_mask) == 2048 + 512);
const _: () = assert!(core::mem::offset_of!(SharedInfo, max_pfn) == 2048 + 1024 + 16);

static SHARED_INFO: AtomicPtr<SharedInfo> = AtomicPtr::new(ptr::null_mut());

/// Says where the shared info page is mapped, and masks every event channel there.
///
/// # Safety
/// The page stays mapped there, until the next call of this function or of [`detach`].
pub unsafe fn attach(page: *mut SharedInfo) {
    SHARED_INFO.store(page, Ordering::Relaxed);
    if let Some(shared) = shared_info() {
        shared
            .vcpu_info
            .iter()
            .take(1)
            .for_each(|vcpu| vcpu.upcall_mask.store(1, Ordering::Relaxed));
        for word in &shared.evtchn_mask {
            word.store(!0, Ordering::Relaxed);
        }
    }
}

/// Says that the shared info page is not mapped any more.
pub fn detach() {
    SHARED_INFO.store(ptr::null_mut(), Ordering::Relaxed);
}

/// The shared info page, while it is mapped.
pub fn shared_info() -> Option<&'static SharedInfo> {
    // SAFETY: `attach` was promised that the page is mapped; all that Xen changes in it are atomics.
    unsafe { SHARED_INFO.load(Ordering::Relaxed).as_ref() }
}

/// Clears the pending bit of `port`. To be done before looking at what the event announces.
pub fn clear_pending(port: u32) {
    let word = shared_info().and_then(|shared| shared.evtchn_pending.get(port as usize / 64));
    if let Some(word) = word {
        word.fetch_and(!(1 << (port % 64)), Ordering::SeqCst);
    }
}

/// Nanoseconds of system time; 0 while the shared info page is not mapped.
pub fn now_ns() -> u64 {
    let Some(time) = shared_info()
        .and_then(|shared| shared.vcpu_info.first())
        .map(|vcpu| &vcpu.time)
    else {
        return 0;
    };
    loop {
        let version = time.version.load(Ordering::Acquire);
        let info = TimeInfo {
            tsc_timestamp: time.tsc_timestamp.load(Ordering::Relaxed),
            system_time_ns: time.system_time_ns.load(Ordering::Relaxed),
            tsc_to_system_mul: time.tsc_to_system_mul.load(Ordering::Relaxed),
            tsc_shift: time.tsc_shift.load(Ordering::Relaxed) as i8,
        };
        // SAFETY: RDTSC exists on every 64-bit CPU and changes nothing.
        let tsc = unsafe { _rdtsc() };
        fence(Ordering::Acquire);
        if version & 1 == 0 && version == time.version.load(Ordering::Relaxed) {
            return info.system_time_ns(tsc);
        }
    }
}

/// Sleeps until one of `ports` is pending or `deadline_ns` is past (0: no deadline).
pub fn wait(ports: &[u32], deadline_ns: u64) {
    hypercall::poll(ports, deadline_ns);
}
