//! Drops the rights that a VM's monitor does not need, after it has opened all it needs.
//!
//! The monitor keeps the hypervisor open, so code that has taken it over could still change the whole host. This
//! module removes what makes that easy, and what most kernel exploits need: other programs, other processes' memory,
//! file systems, namespaces, network, io_uring, BPF. The list names forbidden calls, not allowed ones. So a new call
//! of a later C library does not end the process that restarts a guest.
//!
//! A monitor whose VM has network interfaces keeps [`Network::Links`]: it makes them ports of a bridge when it restarts its guest.
//! The kernel looks at the rights of the sender of each request, so a socket that was opened before does not suffice: `CAP_NET_ADMIN`
//! stays. A new socket can be one of rtnetlink, with this type and protocol, or the doorbell's. No monitor can send requests of the
//! range `SIOC*` to a socket: with this right they change bridges, addresses and even a network card's firmware. `TUNSETIFF` fails, too, but
//! for the monitor of an HVM guest whose network cards are emulated ([`Network::Taps`]).
//!
//! What is left: rtnetlink has no protocol for links alone. Such a monitor can change routes, addresses, queues and their filters
//! (`cls_bpf`), and make interfaces such as macvtap; one with [`Network::Taps`] makes a tap that reads a bridge's traffic. A monitor that a guest has taken over can so read and change the
//! traffic of other guests. The mend is a helper process that keeps the right and only joins a VM's interfaces to their bridges.
//! All other monitors cannot make that socket.
//!
//! Hot-plug scripts need all of that, and a boot loader is confined by a process with rights. They are run by a child that was made before ([`ScriptRunner`](crate::ScriptRunner)).
//!
//! Landlock is not used. A core goes to any path that the operator names, and the next domain's kernel may be
//! anywhere, so no list of folders would be correct.

use std::collections::BTreeMap;
use std::io;

use os_port::Bounds;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use crate::taps::TUNSETIFF;

/// Capabilities that root keeps, as bits of capabilities(7). They allow access to other users' files, such as a
/// kernel or a core (`CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`). They allow locking the buffers of hypercalls if the
/// kernel has no /dev/xen/hypercall (`CAP_IPC_LOCK`).
const KEPT_CAPABILITIES: u32 = 1 << 1 | 1 << 2 | 1 << 14;

/// The capability to change network interfaces (`CAP_NET_ADMIN`).
const NET_ADMIN: u32 = 1 << 12;
/// The requests of /dev/net/tun that QEMU does not need, besides the first one (`linux/if_tun.h`): to make the interface stay, to give it to a
/// user or group or another type, its queues, index, filters, programs and carrier. The kernel asks for no right for most of them.
const OTHER_TUN_REQUESTS: [u64; 13] = [
    0x4004_54cb,
    0x4004_54cc,
    0x4004_54cd,
    0x4004_54ce,
    0x4004_54d1,
    0x4004_54d9,
    0x4004_54da,
    0x4010_54d5,
    0x4010_54d6,
    0x8004_54e0,
    0x8004_54e1,
    0x4004_54e2,
    0x8004_54e2,
];
/// The requests to sockets (`linux/sockios.h`, `linux/wireless.h`): first and last. Those to files and terminals are outside.
const SOCKET_REQUESTS: (u64, u64) = (0x8900, 0x8bff);

/// The right to the host's network that a process keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It changes nothing.
    None,
    /// Rtnetlink: it changes network interfaces.
    Links,
    /// The same, and it makes taps.
    Taps,
}

/// The right to start programs that a process keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// It starts none.
    None,
    /// It starts QEMU, which then becomes another user and confines itself to a folder. It listens at a Unix socket for QEMU's channels.
    Qemu,
    /// The same, and that QEMU shows the guest's display: it listens at a TCP socket. The process restricts QEMU's files of privcmd,
    /// which it takes from it (`Child::keep_to_domain`).
    QemuWithDisplay,
}

/// The capabilities for that: to send QEMU's user a signal, to become that user, and chroot(2) (capabilities(7)).
const QEMU: u32 = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 18;
/// The system calls for that.
const CALLS_OF_QEMU: [i64; 2] = [libc::SYS_execve, libc::SYS_chroot];
/// The capability to take files of a process of another user (`CAP_SYS_PTRACE`). ptrace(2) and its like are refused. What is left is
/// `/proc/PID/mem`, which a process that may write to any file does not need.
const PTRACE: u32 = 1 << 19;

impl Programs {
    fn capabilities(self) -> u32 {
        match self {
            Programs::None => 0,
            Programs::Qemu => QEMU,
            Programs::QemuWithDisplay => QEMU | PTRACE,
        }
    }

    fn needs(self, call: i64) -> bool {
        let starts_qemu = self.may_start_qemu() && CALLS_OF_QEMU.contains(&call);
        let takes_files = self == Programs::QemuWithDisplay && call == libc::SYS_pidfd_getfd;
        starts_qemu || takes_files
    }

    /// Whether it starts QEMU, with a display or without.
    pub fn may_start_qemu(self) -> bool {
        self != Programs::None
    }
}

impl Network {
    /// Whether it changes network interfaces.
    pub fn may_change_links(self) -> bool {
        self != Network::None
    }

    fn capabilities(self) -> u32 {
        match self {
            Network::None => 0,
            Network::Links | Network::Taps => NET_ADMIN,
        }
    }
}

/// System calls that fail with `EPERM` from then on.
const FORBIDDEN: [i64; 46] = [
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
    // Nothing is connected to: the socket to xenstored is open. `other_sockets` is about new sockets.
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
/// The second number of `ioctl`.
const IOCTL_OF_X32: i64 = 514 | X32;
/// All numbers of `ioctl`.
const CALLS_OF_IOCTL: [i64; 3] = [libc::SYS_ioctl, libc::SYS_ioctl | X32, IOCTL_OF_X32];

/// Drops rights for the rest of this thread's life, and for threads and processes that it starts: new rights by
/// programs, all capabilities but the kept ones and those for `network`, and the listed system calls. The process must have one
/// thread.
///
/// # Errors
/// An error of the system. Some rights may have been dropped before it.
pub fn give_up_rights(network: Network, programs: Programs) -> io::Result<()> {
    // SAFETY: the call takes numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    drop_capabilities(KEPT_CAPABILITIES | network.capabilities() | programs.capabilities())?;
    for filter in filters(network, programs).map_err(io::Error::other)? {
        seccompiler::apply_filter(&filter).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Drops capabilities with Linux's capset(2), version 3: effective, permitted and inheritable bits for each half of
/// 32 capabilities.
fn drop_capabilities(but: u32) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let head: [u32; 2] = [VERSION_3, 0];
    let mut halves = [[0_u32; 3]; 2];
    // SAFETY: the call writes two structures of the length that version 3 has, into memory that is ours.
    let got = unsafe { libc::syscall(libc::SYS_capget, head.as_ptr(), halves.as_mut_ptr()) };
    let [[_, permitted, _], _] = halves;
    let kept = permitted & but;
    let wanted = [[kept, kept, 0], [0; 3]];
    // SAFETY: the call reads the same structures, which outlive it.
    let set = unsafe { libc::syscall(libc::SYS_capset, head.as_ptr(), wanted.as_ptr()) };
    match (got, set) {
        (0, 0) => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Builds one filter for the refused calls, and one for `clone3`. The filter cannot read the arguments of `clone3`,
/// because they are in memory. So `clone3` fails as on a kernel without it, and C libraries use `clone`.
fn filters(network: Network, programs: Programs) -> Result<[BpfProgram; 2], BackendError> {
    let sockets = other_sockets(network, programs)?;
    let mut more = BTreeMap::new();
    if network == Network::Taps {
        for call in CALLS_OF_IOCTL {
            more.insert(call, network_requests(true)?);
        }
    }
    filters_but(|call| programs.needs(call), sockets, more)
}

/// Calls that a program which reads what a guest has written does not need besides: those that take memory which none of its limits counts,
/// sockets, the kernel's log, and new limits.
const FORBIDDEN_OF_EXTRACTION: [i64; 11] = [
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_socketpair,
    libc::SYS_syslog,
    libc::SYS_setrlimit,
    libc::SYS_prlimit64,
];
/// Requests that such a program makes of its files: `TCGETS`, `TIOCGWINSZ`, `FIONREAD`, `FIONBIO`, `FIONCLEX`, `FIOCLEX` (asm-generic/ioctls.h),
/// `BLKGETSIZE`, `BLKSSZGET`, `BLKGETSIZE64` (linux/fs.h). The disk may be a loop device, which others would detach.
const REQUESTS_OF_EXTRACTION: [u64; 9] = [
    0x5401,
    0x5413,
    0x541b,
    0x5421,
    0x5450,
    0x5451,
    0x1260,
    0x1268,
    0x8008_1272,
];

/// The filters of a program that reads what a guest has written. It starts programs, makes no socket, and cannot outlive its parent.
pub(crate) fn filters_of_extraction() -> Result<[BpfProgram; 2], BackendError> {
    let others = || {
        let all = REQUESTS_OF_EXTRACTION.iter();
        let all = all.map(|request| {
            SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *request)
        });
        SeccompRule::new(all.collect::<Result<_, _>>()?)
    };
    let keeps_on = || {
        let signal = u64::from(libc::PR_SET_PDEATHSIG.unsigned_abs());
        let is_it = SeccompCmpOp::Eq;
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, is_it, signal)?;
        SeccompRule::new(vec![condition])
    };
    let mut more = BTreeMap::new();
    for call in FORBIDDEN_OF_EXTRACTION {
        for call in [call, call | X32] {
            more.insert(call, Vec::new());
        }
    }
    for call in CALLS_OF_IOCTL {
        more.insert(call, vec![others()?]);
    }
    for call in [libc::SYS_prctl, libc::SYS_prctl | X32] {
        more.insert(call, vec![keeps_on()?]);
    }
    for call in [libc::SYS_prlimit64, libc::SYS_prlimit64 | X32] {
        more.insert(call, vec![sets_limit()?]);
    }
    filters_but(|call| call == libc::SYS_execve, Vec::new(), more)
}

/// A rule that matches prlimit64(2) with a new limit. The C library reads limits with the same call.
fn sets_limit() -> Result<SeccompRule, BackendError> {
    let is_given = SeccompCmpOp::Ne;
    let condition = SeccompCondition::new(2, SeccompCmpArgLen::Qword, is_given, 0)?;
    SeccompRule::new(vec![condition])
}

/// A filter that refuses new limits. QEMU as a device model would take the limit of its addresses away while it is root.
fn limits_filter() -> Result<BpfProgram, BackendError> {
    let mut rules = BTreeMap::new();
    for call in [libc::SYS_prlimit64, libc::SYS_prlimit64 | X32] {
        rules.insert(call, vec![sets_limit()?]);
    }
    for call in [libc::SYS_setrlimit, libc::SYS_setrlimit | X32] {
        rules.insert(call, Vec::new());
    }
    program(rules, libc::EPERM)
}

/// Builds these filters, without the calls that are needed. `refused_sockets` match the sockets that are refused: without a rule it
/// is all of them. The rules in `more` take the place of those for the same call.
fn filters_but(
    is_needed: impl Fn(i64) -> bool,
    refused_sockets: Vec<SeccompRule>,
    more: BTreeMap<i64, Vec<SeccompRule>>,
) -> Result<[BpfProgram; 2], BackendError> {
    let all = FORBIDDEN.iter().chain(&FORBIDDEN_OF_ARCH);
    let refused = all.filter(|call| !is_needed(**call));
    let of_x32 = refused.clone().map(|call| call | X32);
    let of_x32_alone = OF_X32_ALONE.iter().map(|call| call | X32);
    let all = refused.copied().chain(of_x32).chain(of_x32_alone);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = all.map(|call| (call, Vec::new())).collect();
    for call in [libc::SYS_clone, libc::SYS_clone | X32] {
        rules.insert(call, new_namespaces()?);
    }
    rules.insert(libc::SYS_socket, refused_sockets);
    for call in CALLS_OF_IOCTL {
        rules.insert(call, network_requests(false)?);
    }
    rules.insert(libc::SYS_socket | X32, Vec::new());
    rules.extend(more);
    let absent = [libc::SYS_clone3, libc::SYS_clone3 | X32].map(|call| (call, Vec::new()));
    Ok([
        program(rules, libc::EPERM)?,
        program(absent.into_iter().collect(), libc::ENOSYS)?,
    ])
}

/// Rules that match if a new process would get its own namespace.
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

/// The first arguments of socket(2): family, type, and perhaps protocol.
type Socket = &'static [libc::c_int];

/// The socket of a VM's doorbell (`os_port::Doorbells`). A monitor binds it and listens at it, and never connects it.
const DOORBELL: Socket = &[
    libc::AF_UNIX,
    libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
];
/// A socket of rtnetlink (`os_port::SystemLinks`).
const LINKS: Socket = &[
    libc::AF_NETLINK,
    libc::SOCK_RAW | libc::SOCK_CLOEXEC,
    libc::NETLINK_ROUTE,
];
/// The socket of a channel, at which a monitor listens before it hands it to QEMU.
const CHANNEL: Socket = &[libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC];
/// The sockets at which QEMU listens for viewers of a display.
const DISPLAY_SOCKETS: &[Socket] = &[&[libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC]];

/// Rules that match a socket that a monitor does not make, and that a QEMU does not make which it starts.
fn other_sockets(network: Network, programs: Programs) -> Result<Vec<SeccompRule>, BackendError> {
    let mut made = vec![DOORBELL];
    if network.may_change_links() {
        made.push(LINKS);
    }
    if programs.may_start_qemu() {
        made.push(CHANNEL);
    }
    if programs == Programs::QemuWithDisplay {
        made.extend(DISPLAY_SOCKETS);
    }
    other_than(&made)
}

/// Rules that match all sockets but these. A socket is another one than each of these if for each one argument differs: one rule for
/// each choice of these arguments.
fn other_than(sockets: &[Socket]) -> Result<Vec<SeccompRule>, BackendError> {
    let mut choices = vec![Vec::new()];
    for socket in sockets {
        let before = std::mem::take(&mut choices);
        for (argument, value) in (0..).zip(*socket) {
            for choice in &before {
                choices.push([choice.clone(), vec![(argument, *value)]].concat());
            }
        }
    }
    let rule = |choice: Vec<(u8, libc::c_int)>| {
        let differ = choice.into_iter();
        let differ = differ.map(|(argument, value)| is_not(argument, value));
        SeccompRule::new(differ.collect::<Result<_, _>>()?)
    };
    choices.into_iter().map(rule).collect()
}

/// Rules that match the requests about taps and those to sockets, whatever file they are sent to. `makes_taps` leaves the one for a new tap.
fn network_requests(makes_taps: bool) -> Result<Vec<SeccompRule>, BackendError> {
    let new = (!makes_taps).then_some(TUNSETIFF);
    let of_taps = OTHER_TUN_REQUESTS.into_iter().chain(new).map(|request| {
        let is_it = SeccompCmpOp::Eq;
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, is_it, request)?;
        SeccompRule::new(vec![condition])
    });
    let mut rules = of_taps.collect::<Result<Vec<_>, _>>()?;
    rules.push(requests_to_sockets()?);
    Ok(rules)
}

/// A rule that matches the requests to sockets, whatever file they are sent to.
fn requests_to_sockets() -> Result<SeccompRule, BackendError> {
    let request = |is, value| SeccompCondition::new(1, SeccompCmpArgLen::Dword, is, value);
    let (first, last) = SOCKET_REQUESTS;
    SeccompRule::new(vec![
        request(SeccompCmpOp::Ge, first)?,
        request(SeccompCmpOp::Le, last)?,
    ])
}

/// The request to privcmd that maps pages of a guest (`IOCTL_PRIVCMD_MMAPBATCH_V2` of xen/privcmd.h).
const MAP_PAGES: u64 = 0x0020_5004;

/// A filter that refuses each request to privcmd, but for [`MAP_PAGES`] on request: their numbers have the type `P` (`linux/ioctl.h`,
/// `xen/privcmd.h`). Those to the other devices of Xen have other types.
fn hypercall_filter(may_map: bool) -> Result<BpfProgram, BackendError> {
    const TYPE: u64 = 0xff00;
    const PRIVCMD: u64 = (b'P' as u64) << 8;
    let of_privcmd = || {
        let is_of = SeccompCmpOp::MaskedEq(TYPE);
        let mut conditions = vec![SeccompCondition::new(
            1,
            SeccompCmpArgLen::Dword,
            is_of,
            PRIVCMD,
        )?];
        if may_map {
            let is_other = SeccompCmpOp::Ne;
            let other = SeccompCondition::new(1, SeccompCmpArgLen::Dword, is_other, MAP_PAGES)?;
            conditions.push(other);
        }
        Ok::<_, BackendError>(vec![SeccompRule::new(conditions)?])
    };
    let mut rules = BTreeMap::new();
    for call in CALLS_OF_IOCTL {
        rules.insert(call, of_privcmd()?);
    }
    program(rules, libc::ENOTTY)
}

/// Number of the filters of a program with bounds.
pub(crate) const FILTERS: usize = 3;

/// Calls that make processes, which only x86 has. No program that is a backend needs them.
#[cfg(target_arch = "x86_64")]
const PROCESSES_OF_ARCH: [i64; 2] = [libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const PROCESSES_OF_ARCH: [i64; 0] = [];

/// The flag with which a message connects a TCP socket (`MSG_FASTOPEN` of linux/socket.h).
const FAST_OPEN: u64 = 0x2000_0000;
/// The calls that send messages, with the number of their argument for flags.
const SENDS: [(i64, u8); 3] = [
    (libc::SYS_sendto, 3),
    (libc::SYS_sendmsg, 2),
    (libc::SYS_sendmmsg, 3),
];
/// Numbers of `sendmsg` and `sendmmsg` of x32.
const SENDS_OF_X32: [(i64, u8); 2] = [(X32 | 518, 2), (X32 | 538, 3)];

/// Rules against messages that connect their socket.
fn connecting_messages() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let calls = SENDS
        .into_iter()
        .flat_map(|(call, flags)| [(call, flags), (call | X32, flags)]);
    let mut rules = BTreeMap::new();
    for (call, flags) in calls.chain(SENDS_OF_X32) {
        let connects = SeccompCmpOp::MaskedEq(FAST_OPEN);
        let condition = SeccompCondition::new(flags, SeccompCmpArgLen::Dword, connects, FAST_OPEN)?;
        rules.insert(call, vec![SeccompRule::new(vec![condition])?]);
    }
    Ok(rules)
}

/// The filters of a program with bounds: against hypercalls, new processes, sockets, connections and network interfaces. A thread is no process: `clone`
/// makes it, and `clone3` fails as on a kernel without it; so does io_uring, whose requests no filter sees. A device model makes hypercalls
/// until it restricts itself.
pub(crate) fn filters_of_bounded(bounds: Bounds) -> Result<[BpfProgram; FILTERS], BackendError> {
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let no_thread = || {
        let is_unset = SeccompCmpOp::MaskedEq(thread);
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, is_unset, 0)?;
        Ok::<_, BackendError>(vec![SeccompRule::new(vec![condition])?])
    };
    let both = PROCESSES_OF_ARCH
        .iter()
        .flat_map(|call| [*call, call | X32]);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = both.map(|call| (call, Vec::new())).collect();
    for call in [libc::SYS_clone, libc::SYS_clone | X32] {
        rules.insert(call, no_thread()?);
    }
    let sockets = match bounds.has_display {
        true => other_than(DISPLAY_SOCKETS)?,
        false => Vec::new(),
    };
    rules.insert(libc::SYS_socket, sockets);
    for call in [
        libc::SYS_socket | X32,
        libc::SYS_connect,
        libc::SYS_connect | X32,
    ] {
        rules.insert(call, Vec::new());
    }
    for call in CALLS_OF_IOCTL {
        rules.insert(call, network_requests(false)?);
    }
    rules.append(&mut connecting_messages()?);
    let absent = [libc::SYS_clone3, libc::SYS_io_uring_setup];
    let absent = absent.into_iter().flat_map(|call| [call, call | X32]);
    let absent = absent.map(|call| (call, Vec::new()));
    Ok([
        match bounds.is_device_model {
            true => limits_filter()?,
            false => hypercall_filter(bounds.has_display)?,
        },
        program(rules, libc::EPERM)?,
        program(absent.collect(), libc::ENOSYS)?,
    ])
}

fn is_not(argument: u8, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    let value = u64::from(value.unsigned_abs());
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
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
    use os_port::{Doorbells, SystemDoorbells};

    /// Runs a check in a child without rights. Returns its exit code.
    fn without_rights(check: impl FnOnce() -> i32) -> i32 {
        with_rights(Network::None, check)
    }

    /// Runs a check in a child with these rights alone. Returns its exit code.
    fn with_rights(network: Network, check: impl FnOnce() -> i32) -> i32 {
        confined(|| give_up_rights(network, Programs::None).is_ok(), check)
    }

    /// Runs a check in a child that confines itself first. Returns its exit code.
    fn confined(confine: impl FnOnce() -> bool, check: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child uses no lock that another thread may hold but the allocator's, and ends without a return.
        match unsafe { libc::fork() } {
            0 => {
                let code = match confine() {
                    true => check(),
                    false => 100,
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
                libc::SYS_connect,
                libc::SYS_bpf,
                libc::SYS_io_uring_setup,
                libc::SYS_unshare,
                libc::SYS_process_vm_readv,
            ];
            let new = |family, kind| libc::socket(family, kind, 0) != -1 || errno() != libc::EPERM;
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let sockets = new(libc::AF_INET, libc::SOCK_SEQPACKET | flags)
                || new(libc::AF_INET6, libc::SOCK_DGRAM)
                || new(libc::AF_PACKET, libc::SOCK_RAW)
                || new(libc::AF_NETLINK, libc::SOCK_RAW)
                || new(libc::AF_UNIX, libc::SOCK_DGRAM | flags)
                || new(libc::AF_UNIX, libc::SOCK_STREAM | flags);
            let is_refused = |call: i64| libc::syscall(call, none) == -1 && errno() == libc::EPERM;
            let namespace = libc::CLONE_NEWUSER | libc::SIGCHLD;
            i32::from(!calls.into_iter().all(is_refused))
                | i32::from(libc::syscall(libc::SYS_clone, namespace, none) != -1) << 1
                | i32::from(libc::syscall(libc::SYS_clone3, none, 0) != -1) << 2
                | i32::from(sockets) << 3
        });
        assert_eq!(code, 0);
    }

    /// Whether a socket cannot be made.
    fn is_refused_socket(family: i32, kind: i32, protocol: i32) -> bool {
        // SAFETY: the call takes numbers.
        let socket = unsafe { libc::socket(family, kind, protocol) };
        socket == -1 && errno() == libc::EPERM
    }

    /// The error of a request to a file that is not open: the kernel looks at the file first, a filter before that.
    fn errno_of_request(request: libc::Ioctl) -> i32 {
        // SAFETY: no such file is open, so nothing looks at the argument.
        match unsafe { libc::ioctl(-1, request, std::ptr::null::<u8>()) } {
            -1 => errno(),
            _ => 0,
        }
    }

    /// Whether the requests that change the host's network are refused, and those beside them are not.
    fn are_refused_requests() -> bool {
        errno_of_request(TUNSETIFF) == libc::EPERM && are_others_refused()
    }

    /// The same but for the request that makes a tap. Those that QEMU makes of a tap are allowed.
    fn are_others_refused() -> bool {
        const TUNGETIFF: libc::Ioctl = 0x8004_54d2;
        const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
        const TUNSETSNDBUF: libc::Ioctl = 0x4004_54d4;
        const SIOCADDRT: libc::Ioctl = 0x890b;
        const SIOCSIFHWADDR: libc::Ioctl = 0x8924;
        const SIOCETHTOOL: libc::Ioctl = 0x8946;
        const SIOCBRADDIF: libc::Ioctl = 0x89a2;
        const SIOCDEVPRIVATE: libc::Ioctl = 0x89f0;
        const SIOCIWFIRSTPRIV: libc::Ioctl = 0x8be0;
        let mut refused = [
            SOCKET_REQUESTS.0,
            SIOCADDRT,
            SIOCSIFHWADDR,
            SIOCETHTOOL,
            SIOCBRADDIF,
            SIOCDEVPRIVATE,
            SIOCIWFIRSTPRIV,
            SOCKET_REQUESTS.1,
        ]
        .into_iter()
        .chain(OTHER_TUN_REQUESTS);
        let mut allowed = [
            libc::FIONREAD,
            libc::TCGETS,
            0x88ff,
            0x8c00,
            TUNGETIFF,
            TUNSETOFFLOAD,
            TUNSETSNDBUF,
        ]
        .into_iter();
        refused.all(|request| errno_of_request(request) == libc::EPERM)
            && allowed.all(|request| errno_of_request(request) == libc::EBADF)
    }

    #[test]
    fn a_monitor_of_a_vm_with_interfaces_has_rtnetlink_and_no_other_socket_more() {
        const NETLINK_XFRM: i32 = 6;
        const NETLINK_NETFILTER: i32 = 12;
        const NETLINK_GENERIC: i32 = 16;
        let links = (libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC);
        let code = with_rights(Network::Links, || {
            let lo = os_port::LinkName::parse("lo");
            let found = lo.and_then(|lo| os_port::Links::find(&os_port::SystemLinks, &lo));
            let refused = [
                (links.0, links.1, NETLINK_XFRM),
                (links.0, links.1, NETLINK_NETFILTER),
                (links.0, links.1, NETLINK_GENERIC),
                (links.0, libc::SOCK_RAW, libc::NETLINK_ROUTE),
                (links.0, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0),
                (libc::AF_INET, links.1, 0),
                (libc::AF_INET, libc::SOCK_DGRAM, 0),
                (libc::AF_PACKET, links.1, 0),
                (libc::AF_UNIX, links.1, 0),
                (libc::AF_UNIX, libc::SOCK_STREAM, 0),
            ];
            let mut refused = refused.into_iter();
            let is_refused =
                refused.all(|(family, kind, protocol)| is_refused_socket(family, kind, protocol));
            i32::from(!found.is_ok_and(|link| link.is_some()))
                | i32::from(!is_refused) << 1
                | i32::from(!are_refused_requests()) << 2
        });
        assert_eq!(code, 0);
        // Without interfaces it has none at all.
        let code = without_rights(|| {
            let is_refused = is_refused_socket(links.0, links.1, libc::NETLINK_ROUTE);
            i32::from(!is_refused) | i32::from(!are_refused_requests()) << 1
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn a_monitor_of_a_vm_with_network_cards_makes_taps_and_nothing_else_more() {
        let code = with_rights(Network::Taps, || {
            let makes_taps = errno_of_request(TUNSETIFF) == libc::EBADF;
            i32::from(!makes_taps) | i32::from(!are_others_refused()) << 1
        });
        assert_eq!(code, 0);
    }

    const TCP: (i32, i32) = (libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC);

    /// Whether a TCP socket listens, and all others that a display could misuse are refused.
    fn listens_alone(has_channels: bool) -> bool {
        let refused = [
            (libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC),
            (libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC),
            (libc::AF_INET6, TCP.1),
            (libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC),
            (libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC),
        ];
        let mut refused = refused.into_iter();
        let listener = std::net::TcpListener::bind("127.0.0.1:0");
        // SAFETY: the call is refused before it looks at its arguments.
        let connected = unsafe { libc::syscall(libc::SYS_connect, -1, 0, 0) };
        let may_not_connect = connected == -1 && errno() == libc::EPERM;
        listener.is_ok()
            && is_refused_socket(CHANNEL[0], CHANNEL[1], 0) != has_channels
            && may_not_connect
            && refused.all(|(family, kind)| is_refused_socket(family, kind, 0))
    }

    #[test]
    fn a_monitor_with_a_display_listens_and_connects_to_nothing() {
        for network in [Network::None, Network::Links] {
            let confine = || give_up_rights(network, Programs::QemuWithDisplay).is_ok();
            let code = confined(confine, || {
                let is_rtnetlink = network == Network::Links;
                let links = is_refused_socket(libc::AF_NETLINK, LINKS[1], LINKS[2]);
                // SAFETY: the call takes numbers.
                let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, -1, 0, 0) };
                let of_taken = errno();
                i32::from(!listens_alone(true))
                    | i32::from(links == is_rtnetlink) << 1
                    | i32::from(taken != -1 || of_taken != libc::EBADF) << 2
            });
            assert_eq!(code, 0, "{network:?}");
        }
    }

    #[test]
    fn a_bounded_program_makes_no_hypercalls_and_only_a_display_listens_and_maps() {
        const HYPERCALL: libc::Ioctl = 0x0030_5000;
        const RESTRICT: libc::Ioctl = 0x0002_5006;
        for has_display in [false, true] {
            let filters = filters_of_bounded(bounds(has_display, false)).unwrap();
            let confine = || {
                // SAFETY: the call takes numbers.
                unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
                let mut filters = filters.iter();
                filters.all(|filter| seccompiler::apply_filter(filter).is_ok())
            };
            let code = confined(confine, || {
                let map = errno_of_request(MAP_PAGES as libc::Ioctl);
                let mut others = [HYPERCALL, RESTRICT].into_iter();
                let is_refused = others.all(|request| errno_of_request(request) == libc::ENOTTY);
                let maps = map == libc::EBADF;
                let listens = match has_display {
                    true => listens_alone(false),
                    false => !is_refused_socket(TCP.0, TCP.1, 0),
                };
                i32::from(maps != has_display)
                    | i32::from(!is_refused) << 1
                    | i32::from(listens != has_display) << 2
                    | i32::from(!connects_by_no_other_way()) << 3
                    | i32::from(!are_refused_requests()) << 4
            });
            assert_eq!(code, 0, "{has_display}");
        }
    }

    /// Whether messages do not connect their socket, and io_uring is not there.
    fn connects_by_no_other_way() -> bool {
        let flags = [0, FAST_OPEN as libc::c_int];
        // SAFETY: the calls name no file, so they end before they look at other arguments.
        let [plain, connecting] = flags.map(|flags| unsafe {
            libc::sendto(-1, std::ptr::null(), 0, flags, std::ptr::null(), 0);
            errno()
        });
        // SAFETY: the call is refused before it looks at its arguments.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 0, 0) };
        ring == -1 && errno() == libc::ENOSYS && (plain, connecting) == (libc::EBADF, libc::EPERM)
    }

    fn bounds(has_display: bool, is_device_model: bool) -> Bounds {
        Bounds {
            nr_threads: 1,
            memory_bytes: 1,
            addresses_bytes: 1,
            file_bytes: Some(1 << 20),
            has_display,
            is_device_model,
        }
    }

    #[test]
    fn a_device_model_makes_hypercalls_and_changes_no_limit() {
        const HYPERCALL: libc::Ioctl = 0x0030_5000;
        let filters = filters_of_bounded(bounds(false, true)).unwrap();
        let confine = || {
            // SAFETY: the call takes numbers.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            let mut filters = filters.iter();
            filters.all(|filter| seccompiler::apply_filter(filter).is_ok())
        };
        let code = confined(confine, || {
            let is_made = errno_of_request(HYPERCALL) == libc::EBADF;
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: the calls read and write a structure that is ours.
            let (read, set) = unsafe {
                let read = libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit);
                (read, libc::setrlimit(libc::RLIMIT_CORE, &raw const limit))
            };
            let is_kept = set == -1 && errno() == libc::EPERM;
            let listens = is_refused_socket(TCP.0, TCP.1, 0);
            i32::from(!is_made)
                | i32::from(read != 0) << 1
                | i32::from(!is_kept) << 2
                | i32::from(!listens) << 3
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn a_monitor_answers_at_its_doorbell() {
        let path = std::env::temp_dir().join(format!("xen-sys-bell-{}", std::process::id()));
        let code = without_rights(|| {
            let Ok(mut doorbell) = SystemDoorbells.install(&path) else {
                return 1;
            };
            i32::from(doorbell.take().is_err()) << 1
                | i32::from(doorbell.ring_back().is_err()) << 2
                | i32::from(doorbell.uninstall().is_err()) << 3
                | i32::from(SystemDoorbells.call(&path).is_ok()) << 4
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
        for network in [Network::None, Network::Links, Network::Taps] {
            few_are_left(network);
        }
    }

    fn few_are_left(network: Network) {
        let allowed = KEPT_CAPABILITIES | network.capabilities();
        let code = with_rights(network, || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let of = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok())
            };
            let left = of("CapPrm:").zip(of("CapEff:"));
            let is_little = |bits: u64| bits & !u64::from(allowed) == 0;
            i32::from(!left.is_some_and(|(one, other)| is_little(one) && is_little(other)))
                | i32::from(!status.contains("NoNewPrivs:\t1")) << 1
        });
        assert_eq!(code, 0);
    }
}
