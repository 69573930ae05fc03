//! What a process that watches over a VM for months gives up once it has all that it needs open.
//!
//! It has the hypervisor open, and so could change the whole host by way of it: this is no prison for code that has been taken
//! over. It takes away what makes that easy, and what most faults of kernels need: other programs, other processes' memory,
//! file systems, namespaces, network, io_uring, BPF. A list of what is forbidden, not of what is allowed: a system call that a
//! later C library uses in the place of another must not end the one process that restarts a guest.
//!
//! Landlock is not used. A core goes to whatever path the operator names, and the kernel of the next domain may lie anywhere, so
//! there is no list of folders that would be true.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// What root keeps, as bits of capabilities(7): to read and write files of other users, such as a kernel or a core in a user's
/// folder (`CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`), and to lock the buffers of hypercalls in memory where the kernel has no
/// /dev/xen/hypercall (`CAP_IPC_LOCK`).
const KEPT_CAPABILITIES: u32 = 1 << 1 | 1 << 2 | 1 << 14;

/// System calls that fail with `EPERM` from then on.
const FORBIDDEN: [i64; 49] = [
    // Other programs, and other processes' memory.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // File systems and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    // Sockets: the one to xenstored is open.
    libc::SYS_socket,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    // The kernel itself, and its parts with the most faults.
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_personality,
    libc::SYS_vhangup,
];

/// Calls that only x86 has.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_OF_ARCH: [i64; 5] = [
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_mknod,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_OF_ARCH: [i64; 0] = [];

/// On x86 the same calls have a second number where the kernel takes x32 programs: with this bit, and some with another number
/// (arch/x86/entry/syscalls/syscall_64.tbl: execve, ptrace, kexec_load, process_vm_readv, process_vm_writev, execveat).
const X32: i64 = 0x4000_0000;
const OF_X32_ALONE: [i64; 6] = [520, 521, 528, 539, 540, 545];

/// Gives up, for the rest of this thread's life and for those that it starts: new rights by programs, all capabilities but two,
/// and the calls of the list. For a process with one thread.
///
/// # Errors
/// What the kernel says; some of it may have been given up before.
pub fn give_up_rights() -> io::Result<()> {
    // SAFETY: the call takes numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    drop_capabilities()?;
    for filter in filters().map_err(io::Error::other)? {
        seccompiler::apply_filter(&filter).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Linux's capset(2), version 3: for each half of 32 capabilities what is effective, permitted and inheritable.
fn drop_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let head: [u32; 2] = [VERSION_3, 0];
    let mut halves = [[0_u32; 3]; 2];
    // SAFETY: the call writes two structures of the length that version 3 has, into memory that is ours.
    let got = unsafe { libc::syscall(libc::SYS_capget, head.as_ptr(), halves.as_mut_ptr()) };
    let [[_, permitted, _], _] = halves;
    let kept = permitted & KEPT_CAPABILITIES;
    let wanted = [[kept, kept, 0], [0; 3]];
    // SAFETY: the call reads the same structures, which outlive it.
    let set = unsafe { libc::syscall(libc::SYS_capset, head.as_ptr(), wanted.as_ptr()) };
    match (got, set) {
        (0, 0) => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// One filter for the calls that are refused, and one for `clone3`: its arguments are in memory, which a filter cannot read, so
/// it is as on a kernel that has no such call, and C libraries use `clone` then.
fn filters() -> Result<[BpfProgram; 2], BackendError> {
    let refused = FORBIDDEN.iter().chain(&FORBIDDEN_OF_ARCH);
    let of_x32 = refused.clone().map(|call| call | X32);
    let of_x32_alone = OF_X32_ALONE.iter().map(|call| call | X32);
    let all = refused.copied().chain(of_x32).chain(of_x32_alone);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = all.map(|call| (call, Vec::new())).collect();
    for call in [libc::SYS_clone, libc::SYS_clone | X32] {
        rules.insert(call, new_namespaces()?);
    }
    let absent = [libc::SYS_clone3, libc::SYS_clone3 | X32].map(|call| (call, Vec::new()));
    Ok([
        program(rules, libc::EPERM)?,
        program(absent.into_iter().collect(), libc::ENOSYS)?,
    ])
}

/// Those that match where a new process would get a namespace of its own.
fn new_namespaces() -> Result<Vec<SeccompRule>, BackendError> {
    const NAMESPACES: [libc::c_int; 7] = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let rule = |flag: libc::c_int| {
        let flag = u64::from(flag.unsigned_abs());
        let is_set = SeccompCmpOp::MaskedEq(flag);
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, is_set, flag)?;
        SeccompRule::new(vec![condition])
    };
    NAMESPACES.into_iter().map(rule).collect()
}

/// A filter in which calls that match fail with this error, and all others go on.
fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: libc::c_int,
) -> Result<BpfProgram, BackendError> {
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;

    /// What a check says in a child without rights: its exit code.
    fn without_rights(check: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child uses no lock that another thread may hold but the allocator's, and ends without a return.
        match unsafe { libc::fork() } {
            0 => {
                let code = match give_up_rights() {
                    Ok(()) => check(),
                    Err(_) => 100,
                };
                // SAFETY: the call takes a number.
                unsafe { libc::_exit(code) }
            }
            pid => Process::of_child(pid).unwrap().wait().unwrap().unwrap(),
        }
    }

    fn errno() -> i32 {
        io::Error::last_os_error().raw_os_error().unwrap_or(0)
    }

    #[test]
    fn what_is_forbidden_fails() {
        let none = std::ptr::null::<u8>();
        // SAFETY: each call is refused before it looks at its arguments.
        let code = without_rights(|| unsafe {
            let calls = [
                libc::SYS_execve,
                libc::SYS_socket,
                libc::SYS_bpf,
                libc::SYS_io_uring_setup,
                libc::SYS_unshare,
                libc::SYS_process_vm_readv,
            ];
            let is_refused = |call: i64| libc::syscall(call, none) == -1 && errno() == libc::EPERM;
            let namespace = libc::CLONE_NEWUSER | libc::SIGCHLD;
            i32::from(!calls.into_iter().all(is_refused))
                | i32::from(libc::syscall(libc::SYS_clone, namespace, none) != -1) << 1
                | i32::from(libc::syscall(libc::SYS_clone3, none, 0) != -1) << 2
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn what_a_monitor_does_goes_on() {
        let path = std::env::temp_dir().join(format!("xen-sys-rights-{}", std::process::id()));
        let code = without_rights(|| {
            let thread = std::thread::spawn(|| 7).join();
            let written = std::fs::write(&path, "a core");
            let limits = crate::ComputeLimits {
                memory_max_bytes: 16 << 20,
                output_max_bytes: 1 << 20,
                cpu_max_s: 10,
                wait_limit: std::time::Duration::from_secs(10),
            };
            let computed = crate::compute(&limits, |_| [1]);
            i32::from(thread.ok() != Some(7))
                | i32::from(written.is_err()) << 1
                | i32::from(!computed.is_ok_and(|computed| computed.answer == [1])) << 2
        });
        std::fs::remove_file(&path).unwrap();
        assert_eq!(code, 0);
    }

    #[test]
    fn few_capabilities_are_left() {
        let code = without_rights(|| {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let of = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok())
            };
            let left = of("CapPrm:").zip(of("CapEff:"));
            let is_little = |bits: u64| bits & !u64::from(KEPT_CAPABILITIES) == 0;
            i32::from(!left.is_some_and(|(one, other)| is_little(one) && is_little(other)))
                | i32::from(!status.contains("NoNewPrivs:\t1")) << 1
        });
        assert_eq!(code, 0);
    }
}
