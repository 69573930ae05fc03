//! The code that runs in the child before it executes its program.
//!
//! The child shares its parent's memory. So this code calls only the kernel: no C library, no allocator, no lock. It
//! writes only to the child's own stack. A test reads the compiled code and refuses any other call.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::os::fd::RawFd;
use std::ptr;

use os_port::FILES_MAX;

use crate::rights::FILTERS;
use crate::syscall::syscall;

/// Descriptor of the child's end of the pipe, after standard input, output and error.
const GO: RawFd = 3;
/// The exit code of a child whose program could not be started, as a shell's.
pub(crate) const NO_PROGRAM: i32 = 127;
/// The umask of a program: files are for their owner only.
pub(super) const UMASK: usize = 0o077;
/// The umask of a script of the administrator, as that of a shell of root's: other programs read its files.
pub(super) const UMASK_OF_SCRIPT: usize = 0o022;
/// Signals of the terminal, which are for the process group that the child leaves.
const TERMINAL_SIGNALS: [c_int; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP];
/// The last signal's number.
const SIGNAL_MAX: usize = 64;
/// No limit of this kind.
const UNLIMITED: u64 = libc::RLIM64_INFINITY;
/// Resource, limit, and the maximum to which the program may raise it. They are those of a service under systemd. The
/// limits of a user's shell (`ulimit -t`, `ulimit -f`) must not end a process that runs for months.
const LIMITS: [(u32, u64, u64); 7] = [
    (libc::RLIMIT_CORE, 0, 0),
    (libc::RLIMIT_CPU, UNLIMITED, UNLIMITED),
    (libc::RLIMIT_FSIZE, UNLIMITED, UNLIMITED),
    (libc::RLIMIT_DATA, UNLIMITED, UNLIMITED),
    (libc::RLIMIT_AS, UNLIMITED, UNLIMITED),
    (libc::RLIMIT_STACK, 8 << 20, UNLIMITED),
    (libc::RLIMIT_NOFILE, 1024, 524_288),
];
/// Number of descriptors that are closed one by one if the kernel does not list the open ones.
const DESCRIPTORS_MAX: usize = 65_536;

/// Number of further limits of a program with bounds.
pub(super) const NR_LIMITS: usize = 5;

/// The data that the child reads. The addresses stay valid until the child executes its program.
pub(super) struct Plan {
    /// Present descriptors of the program's standard input, output and error.
    pub files: [RawFd; 3],
    /// Present descriptors of further files. A negative number ends the list.
    pub more: [RawFd; FILES_MAX],
    /// Seccomp filters for the program; a null pointer for none.
    pub filters: [*const libc::sock_fprog; FILTERS],
    /// Further resource limits of the program, which it cannot raise: resource and limit.
    pub limits: Option<[(u32, u64); NR_LIMITS]>,
    /// PID of the process with which it dies.
    pub starter: Option<u32>,
    /// Umask of the program.
    pub umask: usize,
    /// The end of the pipe that the child reads.
    pub wait: RawFd,
    /// The parent's end of the pipe, which the child has to close.
    pub go: RawFd,
    /// The program's path.
    pub path: *const c_char,
    /// Arguments of the program, its name first; a null pointer is the last.
    pub args: *const *const c_char,
    /// Environment of the program; a null pointer is the last.
    pub env: *const *const c_char,
}

/// A set of signals as the kernel has it: bit `n - 1` for signal `n`.
pub(super) type KernelSignals = u64;
pub(super) const ALL_SIGNALS: KernelSignals = u64::MAX;
const NO_SIGNALS: KernelSignals = 0;

/// Blocks these signals and no others; those that were blocked before.
pub(super) fn set_blocked_signals(blocked: KernelSignals) -> KernelSignals {
    let mut before: KernelSignals = 0;
    let new = ptr::from_ref(&blocked).expose_provenance();
    let old = ptr::from_mut(&mut before).expose_provenance();
    let how = libc::SIG_SETMASK as usize;
    call(
        libc::SYS_rt_sigprocmask,
        [how, new, old, size_of::<KernelSignals>()],
    );
    before
}

/// The child's first function: waits until it may start, and becomes the program.
pub(super) extern "C" fn stand_by(plan: *mut c_void) -> c_int {
    // SAFETY: `Orders::clone_process` hands this over, and it stays for as long as this runs.
    let plan = unsafe { &*plan.cast_const().cast::<Plan>() };
    // While it is open in the child too, the wait would never end.
    call(libc::SYS_close, [plan.go as usize, 0, 0, 0]);
    leave_session();
    if !die_with_starter(plan) || !take_files(plan) {
        return NO_PROGRAM;
    }
    wait_to_be_let_go();
    set_surroundings(plan.umask);
    set_limits(plan);
    set_default_actions();
    if !set_filters(plan) {
        return NO_PROGRAM;
    }
    set_blocked_signals(NO_SIGNALS);
    let path = plan.path.expose_provenance();
    let args = plan.args.expose_provenance();
    let env = plan.env.expose_provenance();
    call(libc::SYS_execve, [path, args, env, 0]);
    NO_PROGRAM
}

/// A system call of the child's.
fn call(number: c_long, arguments: [usize; 4]) -> isize {
    // SAFETY: the callers name no memory but that of the plan, of constants and of their own stack, as the call wants it.
    unsafe { syscall(number, arguments) }
}

/// A session of its own: from now on no terminal's signals are for it, and those that have come before are dropped.
fn leave_session() {
    call(libc::SYS_setsid, [0; 4]);
    for signal in &TERMINAL_SIGNALS {
        // To ignore a signal drops one that waits (sigaction(2)).
        let action: KernelAction = [libc::SIG_IGN, 0, 0, 0];
        set_action(*signal as usize, &action);
        set_action(*signal as usize, &DEFAULT_ACTION);
    }
}

/// Has the kernel kill the child when its starter ends, if that is planned. Returns false for a starter that has ended already.
fn die_with_starter(plan: &Plan) -> bool {
    let Some(starter) = plan.starter else {
        return true;
    };
    let signal = libc::SIGKILL as usize;
    call(
        libc::SYS_prctl,
        [libc::PR_SET_PDEATHSIG as usize, signal, 0, 0],
    );
    call(libc::SYS_getppid, [0; 4]) == starter as isize
}

/// Arranges the files: standard input, output and error as planned, then the pipe and the further files, and no others. Returns whether
/// that succeeded.
fn take_files(plan: &Plan) -> bool {
    let [input, output, error] = plan.files;
    let planned = [input, output, error, plan.wait]
        .into_iter()
        .chain(plan.more);
    let mut files = [-1_isize; GO as usize + 1 + FILES_MAX];
    let mut first_free = 0;
    for (file, planned) in files.iter_mut().zip(planned) {
        if planned < 0 {
            break;
        }
        *file = planned as isize;
        first_free += 1;
    }
    // They are moved away from their targets first, because a standard file of the parent may have been closed.
    for file in files.iter_mut().take(first_free) {
        let duplicate = libc::F_DUPFD as usize;
        *file = call(
            libc::SYS_fcntl,
            [file.unsigned_abs(), duplicate, first_free, 0],
        );
    }
    for (target, file) in files.iter().take(first_free).enumerate() {
        if *file < 0 || call(libc::SYS_dup3, [file.unsigned_abs(), target, 0, 0]) < 0 {
            return false;
        }
    }
    close_from(first_free);
    true
}

/// Closes all descriptors from this one on. `close_range` came with Linux 5.9, and a filter may refuse it.
fn close_from(first: usize) {
    let all = [first, libc::c_uint::MAX as usize, 0, 0];
    if call(libc::SYS_close_range, all) == 0 || close_listed(first) {
        return;
    }
    let mut fd = first;
    while fd < DESCRIPTORS_MAX {
        call(libc::SYS_close, [fd, 0, 0, 0]);
        fd += 1;
    }
}

/// Closes the descriptors from `first` on that `/proc/self/fd` lists. Returns false if it cannot be read.
fn close_listed(first: usize) -> bool {
    let folder = c"/proc/self/fd".as_ptr().expose_provenance();
    let here = libc::AT_FDCWD as usize;
    let flags = (libc::O_RDONLY | libc::O_DIRECTORY) as usize;
    let list = call(libc::SYS_openat, [here, folder, flags, 0]);
    if list < 0 {
        return false;
    }
    let list = list.unsigned_abs();
    let mut entries = [0_u8; 2048];
    loop {
        let place = entries.as_mut_ptr().expose_provenance();
        let size = call(libc::SYS_getdents64, [list, place, entries.len(), 0]);
        if size <= 0 {
            call(libc::SYS_close, [list, 0, 0, 0]);
            return size == 0;
        }
        let mut rest = entries.get(..size.unsigned_abs()).unwrap_or_default();
        while let Some((number, after)) = next_entry(rest) {
            if let Some(fd) = number
                && fd >= first
                && fd != list
            {
                call(libc::SYS_close, [fd, 0, 0, 0]);
            }
            rest = after;
        }
    }
}

/// Parses the first of some directory entries. Returns its name as a number, if it is one, and the other entries.
///
/// An entry has the inode (8 bytes), an offset (8), its length (2), a type (1) and the name, which ends with a zero
/// (getdents64(2)).
fn next_entry(entries: &[u8]) -> Option<(Option<usize>, &[u8])> {
    let (low, high) = (*entries.get(16)?, *entries.get(17)?);
    let length = usize::from(low) | usize::from(high) << 8;
    let (entry, after) = entries.split_at_checked(length)?;
    let mut number = None;
    let mut digits = entry.get(19..)?;
    while let [digit @ b'0'..=b'9', rest @ ..] = digits {
        let value: usize = number.unwrap_or(0);
        number = Some(value.wrapping_mul(10).wrapping_add((digit - b'0') as usize));
        digits = rest;
    }
    Some((number, after))
}

/// Until the other end of the pipe is closed.
fn wait_to_be_let_go() {
    let mut byte = 0_u8;
    let place = ptr::from_mut(&mut byte).expose_provenance();
    while call(libc::SYS_read, [GO as usize, place, 1, 0]) == -(libc::EINTR as isize) {}
    call(libc::SYS_close, [GO as usize, 0, 0, 0]);
}

/// Sets the program's filters, if it gets some, after the right to new rights is given up. Returns whether that succeeded.
fn set_filters(plan: &Plan) -> bool {
    for filter in &plan.filters {
        let no_rights = [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0];
        let set = libc::SECCOMP_SET_MODE_FILTER as usize;
        let filter_set = [set, 0, filter.expose_provenance(), 0];
        let is_refused = |number, arguments| call(number, arguments) != 0;
        if !filter.is_null()
            && (is_refused(libc::SYS_prctl, no_rights) || is_refused(libc::SYS_seccomp, filter_set))
        {
            return false;
        }
    }
    true
}

/// Sets the program's own limits, if it has some.
fn set_limits(plan: &Plan) {
    let Some(limits) = &plan.limits else {
        return;
    };
    for (resource, limit) in limits {
        set_limit(*resource, *limit, *limit);
    }
}

fn set_limit(resource: u32, limit: u64, most: u64) {
    let both = [limit, most];
    let place = both.as_ptr().expose_provenance();
    call(libc::SYS_prlimit64, [0, resource as usize, place, 0]);
}

/// Umask, folder, limits and scheduling, whatever they were here. Only root can raise a limit or its priority: with a
/// simulated host of another user they stay as they are.
fn set_surroundings(umask: usize) {
    call(libc::SYS_umask, [umask, 0, 0, 0]);
    let root = c"/".as_ptr().expose_provenance();
    call(libc::SYS_chdir, [root, 0, 0, 0]);
    for (resource, limit, most) in &LIMITS {
        set_limit(*resource, *limit, *most);
    }
    let priority: c_int = 0;
    let place = ptr::from_ref(&priority).expose_provenance();
    let policy = libc::SCHED_OTHER as usize;
    call(libc::SYS_sched_setscheduler, [0, policy, place, 0]);
    let whose = libc::PRIO_PROCESS as usize;
    call(libc::SYS_setpriority, [whose, 0, 0, 0]);
}

/// The kernel's structure for a signal's action; the handler comes first.
type KernelAction = [usize; 4];
const DEFAULT_ACTION: KernelAction = [libc::SIG_DFL, 0, 0, 0];

/// Sets all signals to their default action, so that no handler of the parent runs here, and the program ignores
/// none.
fn set_default_actions() {
    let mut signal = 1;
    while signal <= SIGNAL_MAX {
        set_action(signal, &DEFAULT_ACTION);
        signal += 1;
    }
}

fn set_action(signal: usize, action: &KernelAction) {
    let place = action.as_ptr().expose_provenance();
    let size = size_of::<KernelSignals>();
    call(libc::SYS_rt_sigaction, [signal, place, 0, size]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_folder_are_read_one_by_one() {
        let entry = |name: &[u8]| {
            let mut bytes = vec![0; 19];
            bytes.extend_from_slice(name);
            bytes.resize((bytes.len() + 8) / 8 * 8, 0);
            bytes[16] = u8::try_from(bytes.len()).unwrap();
            bytes
        };
        let all = [entry(b"."), entry(b"0"), entry(b"1023")].concat();
        let mut rest = all.as_slice();
        let mut numbers = Vec::new();
        while let Some((number, after)) = next_entry(rest) {
            numbers.push(number);
            rest = after;
        }
        assert_eq!(numbers, [None, Some(0), Some(1023)]);
        assert!(next_entry(&all[..17]).is_none() && next_entry(&all[..20]).is_none());
    }

    /// Disassembles the compiled code of the child.
    mod code {
        use std::collections::{BTreeMap, BTreeSet};
        use std::path::Path;
        use std::process::Command;

        /// A program's functions by their addresses: a name may be that of many, one for each type that it is for.
        struct Code {
            names: BTreeMap<u64, String>,
            /// Calls and jumps of each function.
            targets: BTreeMap<u64, BTreeSet<Target>>,
        }

        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        enum Target {
            Function(u64),
            /// A function of a library by its name, or an operand where the code does not say.
            Other(String),
        }

        impl Code {
            fn of(program: &Path) -> Option<Code> {
                let run = |option: &[&str]| {
                    let mut objdump = Command::new("objdump");
                    let output = objdump.args(option).arg(program).output().ok()?;
                    Some(String::from_utf8_lossy(&output.stdout).into_owned())
                };
                let disassembly = run(&["-d", "--no-show-raw-insn", "--demangle=rust"])?;
                Some(Code::read(&disassembly, &run(&["-R"])?))
            }

            /// Reads what `objdump -d` and `objdump -R` print.
            fn read(disassembly: &str, relocations: &str) -> Code {
                let slots = relocations.lines().filter_map(slot).collect();
                let mut code = Code {
                    names: BTreeMap::new(),
                    targets: BTreeMap::new(),
                };
                let mut function = 0;
                // The line that wrote each register last.
                let mut writes = BTreeMap::new();
                for line in disassembly.lines() {
                    if let Some((address, name)) = head(line) {
                        function = address;
                        writes.clear();
                        code.names.insert(address, name.to_owned());
                    } else if let Some(target) = target(&writes, line, &slots) {
                        code.targets.entry(function).or_default().insert(target);
                    }
                    writes.extend(written_register(line).map(|register| (register, line)));
                }
                code
            }

            /// The names of all functions that are reached from the first whose name begins like this. What a panic does is not
            /// looked into.
            fn reached_from(&self, start: &str) -> BTreeSet<String> {
                let is_first = |(_, name): &(&u64, &String)| name.starts_with(start);
                let (first, _) = self.names.iter().find(is_first).expect(start);
                let mut ahead = vec![Target::Function(*first)];
                let (mut seen, mut names) = (BTreeSet::new(), BTreeSet::new());
                while let Some(target) = ahead.pop() {
                    if !seen.insert(target.clone()) {
                        continue;
                    }
                    let (name, next) = match target {
                        Target::Other(name) => (name, None),
                        Target::Function(address) => {
                            let name = self.names.get(&address).cloned();
                            (name.unwrap_or_default(), self.targets.get(&address))
                        }
                    };
                    if !name.contains("core::panicking::") {
                        ahead.extend(next.cloned().unwrap_or_default());
                    }
                    names.insert(name.split('@').next().unwrap_or(&name).to_owned());
                }
                names
            }
        }

        /// The first line of a function: `ADDRESS <NAME>:`.
        fn head(line: &str) -> Option<(u64, &str)> {
            let (address, name) = line.strip_suffix(">:")?.split_once(" <")?;
            Some((number(address)?, name))
        }

        fn number(hex: &str) -> Option<u64> {
            u64::from_str_radix(hex.trim().trim_start_matches("0x"), 16).ok()
        }

        /// The address that the loader fills, and its target: `ADDRESS TYPE NAME@VERSION`, or `ADDRESS TYPE
        /// *ABS*+ADDRESS`.
        fn slot(line: &str) -> Option<(u64, Target)> {
            let mut words = line.split_whitespace();
            let (address, value) = (number(words.next()?)?, words.nth(1)?);
            let target = match value.strip_prefix("*ABS*+") {
                Some(function) => Target::Function(number(function)?),
                None => Target::Other(value.to_owned()),
            };
            Some((address, target))
        }

        /// The register that a line writes, by its name of 64 bits: the last operand.
        fn written_register(line: &str) -> Option<String> {
            let code = line.split('\t').next_back()?.split('#').next()?;
            let register = code.trim().rsplit_once(",%")?.1;
            Some(match register.strip_prefix('e') {
                Some(half) => format!("%r{half}"),
                None => format!("%{register}"),
            })
        }

        /// The target of a line's call or jump. An earlier line may have loaded it into a register.
        fn target(
            writes: &BTreeMap<String, &str>,
            line: &str,
            slots: &BTreeMap<u64, Target>,
        ) -> Option<Target> {
            let code = line.split('\t').next_back()?;
            let (word, operand) = code.split_once(char::is_whitespace)?;
            let is_call = word.starts_with("call");
            if !is_call && !word.starts_with('j') {
                return None;
            }
            let other = || Target::Other(operand.trim().to_owned());
            // `*0x10(%rip)  # ADDRESS <...>`: through a slot.
            let through = match operand.trim().strip_prefix('*') {
                Some(register) => writes.get(register).copied().unwrap_or(operand),
                None => operand,
            };
            if let Some((_, place)) = through.split_once("# ") {
                let slot = place.split(' ').next().and_then(number);
                return Some(
                    slot.and_then(|slot| slots.get(&slot).cloned())
                        .unwrap_or_else(other),
                );
            }
            match operand.split_once('<') {
                // A jump within a function.
                Some((_, name)) if name.contains("+0x") && !is_call => None,
                Some((address, _)) => Some(number(address).map_or_else(other, Target::Function)),
                // A jump by a table stays within its function; a call may lead anywhere.
                None => is_call.then(other),
            }
        }

        /// Functions that the child may call: its own, those that make system calls, what the compiler puts in for copies, and
        /// what the language puts in for iterators and checks, which use no memory but their caller's.
        fn is_allowed(name: &str) -> bool {
            const OWN: [&str; 3] = ["xen_sys::standby::child::", "xen_sys::syscall::", "core::"];
            let is_own = OWN.iter().any(|prefix| name.starts_with(prefix));
            // The last goes on with a panic.
            let others = ["memcpy", "memset", "_Unwind_Resume"];
            is_own || name.contains(" as core::") || others.contains(&name)
        }

        const DISASSEMBLY: &str = "\
0000000000001000 <a::b>:
    1000:\tcall   2000 <c::d>
    1005:\tjmp    1000 <a::b+0x3>
    1007:\tcall   *%rax
    1009:\tjmp    3000 <memcpy@plt>
    100b:\tcall   *0x10(%rip)        # 4000 <_DYNAMIC+0x350>
    100c:\tcall   *0x18(%rip)        # 4008 <_DYNAMIC+0x358>
    100d:\tret
0000000000002000 <c::d>:
    2000:\tmov    0x28(%rip),%rcx        # 4018 <_DYNAMIC+0x360>
    2000:\txor    %edi,%edi
    2001:\tcall   *%rcx
0000000000002800 <core::panicking::panic>:
    2800:\tcall   2900 <std::exit>
0000000000003000 <memcpy@plt>:
    3000:\tjmp    *0x20(%rip)        # 4010 <memcpy@GLIBC_2.14>
";
        const RELOCATIONS: &str = "\
OFFSET           TYPE              VALUE
0000000000004000 R_X86_64_RELATIVE  *ABS*+0x0000000000002800
0000000000004008 R_X86_64_GLOB_DAT  malloc@GLIBC_2.2.5
0000000000004010 R_X86_64_JUMP_SLOT  memcpy@GLIBC_2.14
0000000000004018 R_X86_64_GLOB_DAT  free@GLIBC_2.2.5
";

        #[test]
        fn calls_are_read_from_the_disassembly() {
            let reached = Code::read(DISASSEMBLY, RELOCATIONS).reached_from("a::b");
            let wanted = [
                "*%rax",
                "a::b",
                "c::d",
                "core::panicking::panic",
                "free",
                "malloc",
                "memcpy",
            ];
            assert_eq!(reached, wanted.map(str::to_owned).into());
        }

        #[test]
        fn the_child_calls_the_kernel_alone() {
            let program = std::env::current_exe().unwrap();
            let Some(code) = Code::of(&program) else {
                eprintln!("not checked: there is no objdump here");
                return;
            };
            let reached = code.reached_from("xen_sys::standby::child::stand_by");
            let foreign: Vec<_> = reached.iter().filter(|name| !is_allowed(name)).collect();
            assert!(foreign.is_empty(), "the child calls {foreign:?}");
        }
    }
}
