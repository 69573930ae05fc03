//! Exceptions. None is expected: each is shown, then the domain crashes.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use testguest_logic::command::Reason;

use crate::hypercall::{self, TrapInfo};
use crate::say;

const VECTORS: usize = 20;
/// Distance between two stubs in boot.S.
const STUB_SIZE: u64 = 16;

unsafe extern "C" {
    static pv_trap_stubs: u8;
    static pvh_trap_stubs: u8;
}

/// Registers that the stubs in boot.S leave on the stack.
#[repr(C)]
struct Frame {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

static FAILING: AtomicBool = AtomicBool::new(false);

/// `true` the first time: a failure while a failure is being shown must not be shown too.
pub fn first_failure() -> bool {
    !FAILING.swap(true, Ordering::Relaxed)
}

#[unsafe(no_mangle)]
extern "C" fn trap_entry(frame: &Frame) -> ! {
    if first_failure() {
        let cr2 = crate::platform::fault_address();
        say!(
            "trap {} error {:#x} rip {:#x} rsp {:#x} cr2 {:#x}",
            frame.vector,
            frame.error,
            frame.rip,
            frame.rsp,
            cr2
        );
    }
    hypercall::end(Reason::Crash)
}

/// Registers the handlers with Xen (PV).
pub fn install_pv() -> Result<(), hypercall::Errno> {
    const FLAT_KERNEL_CS: u16 = 0xe033;
    let mut table = [TrapInfo {
        vector: 0,
        flags: 0,
        code_selector: FLAT_KERNEL_CS,
        address: 0,
    }; VECTORS + 1];
    for (entry, vector) in table.iter_mut().zip(0..VECTORS as u8) {
        entry.vector = vector;
        entry.address = (&raw const pv_trap_stubs) as u64 + u64::from(vector) * STUB_SIZE;
    }
    // SAFETY: each address is one of the PV stubs; the last entry's address is 0.
    unsafe { hypercall::set_trap_table(&table) }
}

#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate {
    low: u64,
    high: u64,
}

static mut IDT: [Gate; VECTORS] = [Gate { low: 0, high: 0 }; VECTORS];

/// Loads an interrupt descriptor table (PVH).
pub fn install_pvh() {
    const CODE_SELECTOR: u64 = 8;
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e;
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    let idt = (&raw mut IDT).cast::<Gate>();
    for vector in 0..VECTORS {
        let stub = (&raw const pvh_trap_stubs) as u64 + vector as u64 * STUB_SIZE;
        let low = (stub & 0xffff)
            | CODE_SELECTOR << 16
            | PRESENT_INTERRUPT_GATE << 40
            | ((stub >> 16) & 0xffff) << 48;
        // SAFETY: the index is inside the table; nothing else uses it: there is one CPU, and no
        // table is loaded yet.
        unsafe {
            idt.add(vector).write(Gate {
                low,
                high: stub >> 32,
            })
        };
    }
    let pointer = Pointer {
        limit: (size_of::<[Gate; VECTORS]>() - 1) as u16,
        base: idt as u64,
    };
    // SAFETY: the table is filled and static.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, readonly)) };
}
