//! testguest: a tiny Xen guest kernel for the tests of Xyl. It boots as a 64-bit PV and as a PVH
//! guest, checks what the domain builder gave it, and does on command what tests need.
//!
//! There is one CPU, no interrupt and no heap: the main loop in [`guest`] polls event channels.

#![no_std]
#![no_main]

mod checks;
mod console;
mod events;
mod guest;
mod hostile;
mod hypercall;
mod memory;
mod memtest;
mod platform;
mod pv;
mod pvh;
mod store;
mod traps;

use core::arch::global_asm;
use core::panic::PanicInfo;

use testguest_logic::command::Reason;

use platform::Platform;

global_asm!(include_str!("boot.S"), options(att_syntax));

/// Entered from boot.S with the PV start info page and the builder's stack pointer.
#[unsafe(no_mangle)]
extern "C" fn pv_main(start_info: *mut pv::StartInfo, boot_stack: u64) -> ! {
    // SAFETY: this is the PV boot protocol: rsi held the address of the start info page.
    let platform = unsafe { pv::Pv::new(start_info, boot_stack) };
    guest::run(Platform::Pv(platform))
}

/// Entered from boot.S with the address of the PVH start info.
#[unsafe(no_mangle)]
extern "C" fn pvh_main(start_info: u32) -> ! {
    // SAFETY: this is the PVH boot protocol: ebx held the address, and boot.S has mapped it.
    let platform = unsafe { pvh::Pvh::new(u64::from(start_info)) };
    guest::run(Platform::Pvh(platform))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if traps::first_failure() {
        match info.location() {
            Some(at) => say!("panic: {} at {}:{}", info.message(), at.file(), at.line()),
            None => say!("panic: {}", info.message()),
        }
    }
    hypercall::end(Reason::Crash)
}
