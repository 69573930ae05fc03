//! System calls without the C library, for a child that shares its parent's memory and so its parent's `errno`.

use std::ffi::c_long;

/// Makes a system call; its fifth argument is 0. Returns its result, or a negative error number.
///
/// # Safety
/// That of the system call: memory at an argument that is an address must be valid for the call.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn syscall(number: c_long, [a, b, c, d]: [usize; 4]) -> isize {
    let mut result = number as isize;
    // SAFETY: this is the calling convention of Linux on x86-64 (syscall(2)): it changes `rax`, `rcx` and `r11`, and
    // the memory that the caller has answered for.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") 0_usize,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Makes a system call through the C library, on architectures where Xyl is only compiled.
///
/// # Safety
/// That of the system call: memory at an argument that is an address must be valid for the call.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn syscall(number: c_long, [a, b, c, d]: [usize; 4]) -> isize {
    // SAFETY: the caller answers for the arguments.
    let result = unsafe { libc::syscall(number, a, b, c, d, 0_usize) } as isize;
    match result {
        -1 => -std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(1, |code| code as isize),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_results_and_errors() {
        // SAFETY: neither call takes an address.
        let (pid, bad) = unsafe {
            (
                syscall(libc::SYS_getpid, [0; 4]),
                syscall(libc::SYS_close, [usize::MAX, 0, 0, 0]),
            )
        };
        assert_eq!(pid, std::process::id() as isize);
        assert_eq!(bad, -(libc::EBADF as isize));
    }
}
