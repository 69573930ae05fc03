//! Hypercalls: the raw call for both guest types, and typed wrappers for those used here.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use testguest_logic::command::Reason;

/// A failed hypercall: the positive error number, as in public/errno.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i64);

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "error {}", self.0)
    }
}

// Hypercall numbers (public/xen.h).
const SET_TRAP_TABLE: u64 = 0;
const MEMORY_OP: u64 = 12;
const UPDATE_VA_MAPPING: u64 = 14;
const XEN_VERSION: u64 = 17;
const CONSOLE_IO: u64 = 18;
const VCPU_OP: u64 = 24;
const SCHED_OP: u64 = 29;
const EVENT_CHANNEL_OP: u64 = 32;
const HVM_OP: u64 = 34;

const DOMID_SELF: u16 = 0x7ff0;

unsafe extern "C" {
    /// The hypercall page; see boot.S.
    pub static hypercall_page: [u8; 4096];
}

/// Whether hypercalls go through the hypercall page (PVH) or the `syscall` instruction (PV).
static THROUGH_PAGE: AtomicBool = AtomicBool::new(false);

/// Says that Xen has filled the hypercall page and that hypercalls go through it.
pub fn use_page() {
    THROUGH_PAGE.store(true, Ordering::Relaxed);
}

/// Whether hypercalls go through the page, that is, whether this is a PVH guest.
pub fn through_page() -> bool {
    THROUGH_PAGE.load(Ordering::Relaxed)
}

/// A hypercall with up to three arguments.
///
/// # Safety
/// The arguments are right for hypercall `number`; memory that they point to is valid.
unsafe fn hypercall(number: u64, one: u64, two: u64, three: u64) -> Result<u64, Errno> {
    let result: i64;
    if through_page() {
        let entry = (&raw const hypercall_page) as u64 + number * 32;
        // SAFETY: Xen filled the page with one entry of 32 bytes per hypercall; the caller vouches
        // for the arguments.
        unsafe {
            asm!("call {entry}", entry = in(reg) entry, inout("rax") number => result,
                 inout("rdi") one => _, inout("rsi") two => _, inout("rdx") three => _,
                 out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
    } else {
        // SAFETY: `syscall` is the hypercall instruction of 64-bit PV; the caller vouches for the
        // arguments.
        unsafe {
            asm!("syscall", inout("rax") number => result,
                 inout("rdi") one => _, inout("rsi") two => _, inout("rdx") three => _,
                 out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
    }
    if result < 0 {
        Err(Errno(-result))
    } else {
        Ok(result as u64)
    }
}

fn address<T>(value: &mut T) -> u64 {
    (&raw mut *value) as u64
}

/// Xen's version: (major, minor).
pub fn xen_version() -> (u16, u16) {
    const XENVER_VERSION: u64 = 0;
    // SAFETY: takes no memory.
    let version = unsafe { hypercall(XEN_VERSION, XENVER_VERSION, 0, 0) }.unwrap_or(0);
    ((version >> 16) as u16, version as u16)
}

/// Whether the vCPU is up, or an error when there is no such vCPU.
pub fn vcpu_is_up(vcpu: u32) -> Result<bool, Errno> {
    const VCPUOP_IS_UP: u64 = 3;
    // SAFETY: takes no memory.
    unsafe { hypercall(VCPU_OP, VCPUOP_IS_UP, u64::from(vcpu), 0) }.map(|up| up != 0)
}

/// Ends or suspends the domain. `start_info_mfn` is for PV and suspend only. Returns for suspend
/// (1: cancelled, 0: in a new domain), for a soft reset, and when Xen refuses.
pub fn shutdown(reason: Reason, start_info_mfn: u64) -> Result<u64, Errno> {
    const SCHEDOP_SHUTDOWN: u64 = 2;
    let mut argument = reason as u32;
    // SAFETY: the argument is a `sched_shutdown`, one 32-bit number.
    unsafe {
        hypercall(
            SCHED_OP,
            SCHEDOP_SHUTDOWN,
            address(&mut argument),
            start_info_mfn,
        )
    }
}

/// Ends the domain for good.
pub fn end(reason: Reason) -> ! {
    loop {
        let _ = shutdown(reason, 0);
    }
}

/// Sleeps until one of `ports` is pending or system time `deadline_ns` is past (0: no deadline).
/// May wake early.
pub fn poll(ports: &[u32], deadline_ns: u64) {
    const SCHEDOP_POLL: u64 = 3;
    #[repr(C)]
    struct SchedPoll {
        ports: *const u32,
        nr_ports: u32,
        timeout_ns: u64,
    }
    let mut argument = SchedPoll {
        ports: ports.as_ptr(),
        nr_ports: ports.len() as u32,
        timeout_ns: deadline_ns,
    };
    // SAFETY: the argument is a `sched_poll` whose ports outlive the call. A failure only makes
    // the caller look at its rings once more.
    let _ = unsafe { hypercall(SCHED_OP, SCHEDOP_POLL, address(&mut argument), 0) };
}

/// Signals an event channel.
pub fn notify(port: u32) {
    const EVTCHNOP_SEND: u64 = 4;
    let mut argument = port;
    // SAFETY: the argument is an `evtchn_send`, one 32-bit number. A channel that its other end
    // closed gives an error that changes nothing here.
    let _ = unsafe { hypercall(EVENT_CHANNEL_OP, EVTCHNOP_SEND, address(&mut argument), 0) };
}

/// Writes to Xen's own console. Release builds of Xen refuse that to guests.
pub fn xen_console(text: &str) {
    const CONSOLEIO_WRITE: u64 = 0;
    // SAFETY: the text is valid for its length. A refusal is expected and does not matter.
    let _ = unsafe {
        hypercall(
            CONSOLE_IO,
            CONSOLEIO_WRITE,
            text.len() as u64,
            text.as_ptr() as u64,
        )
    };
}

/// HVM parameters used here (public/hvm/params.h).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum HvmParam {
    /// The delivery of events to the guest.
    CallbackIrq = 0,
    /// Frame of the xenstore ring.
    StorePfn = 1,
    /// Event channel of the xenstore ring.
    StoreEvtchn = 2,
    /// Frame of the console ring.
    ConsolePfn = 17,
    /// Event channel of the console ring.
    ConsoleEvtchn = 18,
}

/// Xen's `xen_hvm_param` (public/hvm/hvm_op.h).
#[repr(C)]
struct HvmParamArgument {
    domid: u16,
    pad: u16,
    index: u32,
    value: u64,
}

impl HvmParamArgument {
    fn new(param: HvmParam, value: u64) -> Self {
        Self {
            domid: DOMID_SELF,
            pad: 0,
            index: param as u32,
            value,
        }
    }
}

/// Reads one of the domain's HVM parameters.
pub fn hvm_param(param: HvmParam) -> Result<u64, Errno> {
    const HVMOP_GET_PARAM: u64 = 1;
    let mut argument = HvmParamArgument::new(param, 0);
    // SAFETY: the argument is an `xen_hvm_param`.
    unsafe { hypercall(HVM_OP, HVMOP_GET_PARAM, address(&mut argument), 0) }?;
    Ok(argument.value)
}

/// Sets one of the domain's HVM parameters.
pub fn set_hvm_param(param: HvmParam, value: u64) -> Result<(), Errno> {
    const HVMOP_SET_PARAM: u64 = 0;
    let mut argument = HvmParamArgument::new(param, value);
    // SAFETY: the argument is an `xen_hvm_param`.
    unsafe { hypercall(HVM_OP, HVMOP_SET_PARAM, address(&mut argument), 0) }?;
    Ok(())
}

/// Maps the shared info page at guest frame `gfn` (HVM kinds of guest).
pub fn map_shared_info(gfn: u64) -> Result<(), Errno> {
    const XENMEM_ADD_TO_PHYSMAP: u64 = 7;
    const XENMAPSPACE_SHARED_INFO: u32 = 0;
    #[repr(C)]
    struct Argument {
        domid: u16,
        size: u16,
        space: u32,
        index: u64,
        gfn: u64,
    }
    let mut argument = Argument {
        domid: DOMID_SELF,
        size: 0,
        space: XENMAPSPACE_SHARED_INFO,
        index: 0,
        gfn,
    };
    // SAFETY: the argument is an `xen_add_to_physmap`.
    unsafe { hypercall(MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, address(&mut argument), 0) }?;
    Ok(())
}

/// Number of pages that the domain has now.
pub fn current_pages() -> Result<u64, Errno> {
    const XENMEM_CURRENT_RESERVATION: u64 = 3;
    pages_of_self(XENMEM_CURRENT_RESERVATION)
}

/// Maximum number of pages of the domain.
pub fn maximum_pages() -> Result<u64, Errno> {
    const XENMEM_MAXIMUM_RESERVATION: u64 = 4;
    pages_of_self(XENMEM_MAXIMUM_RESERVATION)
}

fn pages_of_self(operation: u64) -> Result<u64, Errno> {
    let mut domid = DOMID_SELF;
    // SAFETY: both operations take a `domid_t`.
    unsafe { hypercall(MEMORY_OP, operation, address(&mut domid), 0) }
}

/// The machine's highest page of memory: the last one that has an entry in the M2P.
pub fn maximum_ram_page() -> Result<u64, Errno> {
    const XENMEM_MAXIMUM_RAM_PAGE: u64 = 2;
    // SAFETY: takes no memory.
    unsafe { hypercall(MEMORY_OP, XENMEM_MAXIMUM_RAM_PAGE, 0, 0) }
}

/// An entry of an E820 memory map.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, packed)]
pub struct E820Entry {
    /// Address of the first byte.
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
    /// Kind; 1 is RAM.
    pub kind: u32,
}

/// The memory map that the toolstack gave to Xen. Returns how many entries were filled.
pub fn memory_map(entries: &mut [E820Entry]) -> Result<usize, Errno> {
    const XENMEM_MEMORY_MAP: u64 = 9;
    #[repr(C)]
    struct Argument {
        nr_entries: u32,
        buffer: *mut E820Entry,
    }
    let mut argument = Argument {
        nr_entries: entries.len() as u32,
        buffer: entries.as_mut_ptr(),
    };
    // SAFETY: the argument is an `xen_memory_map` whose buffer holds as many entries as it says.
    unsafe { hypercall(MEMORY_OP, XENMEM_MEMORY_MAP, address(&mut argument), 0) }?;
    Ok(argument.nr_entries as usize)
}

/// Sets the page table entry of virtual address `va` (PV).
///
/// # Safety
/// Nothing that Rust knows of lives at `va`, or it is mapped to the frame that holds it.
pub unsafe fn update_va_mapping(va: u64, entry: u64) -> Result<(), Errno> {
    const UVMF_INVLPG: u64 = 2;
    // SAFETY: Xen checks the entry; the caller vouches for what is behind the address.
    unsafe { hypercall(UPDATE_VA_MAPPING, va, entry, UVMF_INVLPG) }?;
    Ok(())
}

/// One entry of the PV trap table.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct TrapInfo {
    /// Number of the exception.
    pub vector: u8,
    /// Privilege level and event mask.
    pub flags: u8,
    /// Selector of the code segment.
    pub code_selector: u16,
    /// Handler; 0 in the entry that ends the table.
    pub address: u64,
}

/// Registers exception handlers (PV). The last entry of `table` must have address 0.
///
/// # Safety
/// The addresses are exception entry points.
pub unsafe fn set_trap_table(table: &[TrapInfo]) -> Result<(), Errno> {
    // SAFETY: the table ends with a zero entry; the caller vouches for the handlers.
    unsafe { hypercall(SET_TRAP_TABLE, table.as_ptr() as u64, 0, 0) }?;
    Ok(())
}
