//! The memory functions that the compiler calls. On this target they normally come from libc.

use core::arch::asm;

/// C `memcpy`.
///
/// # Safety
/// As in C: both areas are valid for `len` bytes and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both areas; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// C `memmove`.
///
/// # Safety
/// As in C: both areas are valid for `len` bytes; they may overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: `to` does not lie inside the source, so copying upwards reads each byte in time.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the caller vouches for both areas; `len` is not 0 here; copying downwards reads each
    // byte before it is overwritten. The direction flag is clear again afterwards.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") len => _, inout("rdi") to.add(len - 1) => _,
             inout("rsi") from.add(len - 1) => _, options(nostack));
    }
    to
}

/// C `memset`.
///
/// # Safety
/// As in C: the area is valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the area; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") value as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// C `memcmp`.
///
/// # Safety
/// As in C: both areas are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(one: *const u8, two: *const u8, len: usize) -> i32 {
    let mut i = 0;
    while i < len {
        // SAFETY: `i` is below `len`, for which the caller vouches. Volatile, so that the compiler
        // does not turn this loop into a call of memcmp.
        let (a, b) = unsafe { (one.add(i).read_volatile(), two.add(i).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        i += 1;
    }
    0
}

/// C `bcmp`: as `memcmp`, only equality counts.
///
/// # Safety
/// As in C: both areas are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(one: *const u8, two: *const u8, len: usize) -> i32 {
    // SAFETY: the contract is the same.
    unsafe { memcmp(one, two, len) }
}

/// Named by the tables of the precompiled `core`; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
