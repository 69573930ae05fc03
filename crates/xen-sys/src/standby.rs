//! A standby process: it exists at once, and executes its program when it is released.
//!
//! Starting a program takes much longer than making a process. A process that must be sure of a replacement makes it
//! first, continues its own work, and releases it at the end. The death of this process releases it too.
//!
//! Until then it shares this process's memory, as the child of `posix_spawn` does. Copying the page tables, and later
//! each written page, would take several times as long. So the child must not change that memory. It has its own
//! stack, reads orders that were written before it existed, and calls only the kernel ([`child`]). The kernel's OOM
//! killer ends all processes that share a memory, so it may end the child together with this process.

mod child;

use std::ffi::{CString, OsString, c_char, c_int, c_void};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use os_port::{Bounds, FILES_MAX, Launch};
use seccompiler::BpfProgram;

use crate::process::Process;
use crate::rights::{FILTERS, filters_of_bounded};
use child::{ALL_SIGNALS, NR_LIMITS, Plan, set_blocked_signals, stand_by};

pub(crate) use child::NO_PROGRAM;

/// The standard files of a program.
#[derive(Clone, Copy, Debug)]
pub struct Streams<'a> {
    /// Standard input of the process.
    pub input: BorrowedFd<'a>,
    /// Standard output of the process.
    pub output: BorrowedFd<'a>,
    /// Standard error of the process.
    pub errors: BorrowedFd<'a>,
}

/// The files of a program beside its standard ones, and its limits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras<'a> {
    /// Files under the descriptors from [`os_port::FIRST_FILE`] on.
    pub files: &'a [BorrowedFd<'a>],
    /// The bounds of the program.
    pub bounds: Option<Bounds>,
    /// Whether it is a script of the administrator. The kernel kills it when the thread that starts it ends, and its files are readable.
    pub is_script: bool,
}

/// A child that stands by. It starts its program when this is dropped, or when this process ends.
#[derive(Debug)]
pub struct Standby {
    process: Process,
    go: PipeWriter,
}

impl Standby {
    /// Creates the child, with the surroundings that [`Launch`] lists and these standard files.
    ///
    /// # Errors
    /// Those of `pipe`, `mmap` and `clone`; `InvalidInput` if an argument contains a NUL byte.
    pub fn start(launch: &Launch, streams: Streams<'_>) -> io::Result<Standby> {
        Standby::start_with(launch, streams, &Extras::default())
    }

    /// As [`Standby::start`], with more than the standard files.
    ///
    /// # Errors
    /// As there; `InvalidInput` for too many files.
    pub(crate) fn start_with(
        launch: &Launch,
        streams: Streams<'_>,
        extras: &Extras<'_>,
    ) -> io::Result<Standby> {
        let files = [streams.input, streams.output, streams.errors].map(|file| file.as_raw_fd());
        let (wait, go) = io::pipe()?;
        let orders = Orders::new(Words::of(launch)?, files, extras, (&wait, &go))?;
        let process = orders.carry_out()?;
        Ok(Standby { process, go })
    }

    /// Process ID of the child.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Lets it become its program now.
    pub(crate) fn let_go(self) -> Process {
        drop(self.go);
        self.process
    }

    /// Lets the child stand by until this process has ended, so that its start does not compete for the CPU.
    pub fn let_go_at_exit(self) {
        // The kernel closes the pipe when all else of this process is gone.
        std::mem::forget(self);
    }

    /// Ends it, whatever it has become.
    pub fn end(self) {
        // A child that has ended is no error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes sure that the kernel keeps the exit status of this process's children. A parent may have let it ignore
/// `SIGCHLD`. Call it at the start of `main`.
pub fn expect_children() {
    // SAFETY: the call takes numbers, and no handler of ours is replaced: this runs before any is set.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// A seccomp filter in the form that the kernel needs.
struct Filter {
    head: Box<libc::sock_fprog>,
    /// Holds what the head's pointer leads to.
    _program: BpfProgram,
}

impl Filter {
    fn of(mut program: BpfProgram) -> io::Result<Filter> {
        let length = program.len().try_into().map_err(io::Error::other)?;
        // Both are the kernel's structure: `seccompiler` defines it a second time.
        let filter = program.as_mut_ptr().cast::<libc::sock_filter>();
        let head = Box::new(libc::sock_fprog {
            len: length,
            filter,
        });
        Ok(Filter {
            head,
            _program: program,
        })
    }

    fn address(&self) -> *const libc::sock_fprog {
        &raw const *self.head
    }
}

/// The filters of a program with bounds, and none of one without.
fn filters_of(bounds: Option<Bounds>) -> io::Result<Vec<Filter>> {
    let Some(bounds) = bounds else {
        return Ok(Vec::new());
    };
    let programs = filters_of_bounded(bounds).map_err(io::Error::other)?;
    programs.into_iter().map(Filter::of).collect()
}

/// The most open files of a program with bounds.
const NR_DESCRIPTORS: u64 = 1024;

/// The resource limits of a program with bounds.
fn limits_of(bounds: Bounds) -> [(u32, u64); NR_LIMITS] {
    let file_bytes = bounds.file_bytes.unwrap_or(libc::RLIM64_INFINITY);
    [
        (libc::RLIMIT_NPROC, bounds.nr_threads),
        (libc::RLIMIT_DATA, bounds.memory_bytes),
        (libc::RLIMIT_AS, bounds.addresses_bytes),
        (libc::RLIMIT_FSIZE, file_bytes),
        // QEMU raises a limit that can be raised, and QEMU 10.0 ends with an assertion where the filter refuses that.
        (libc::RLIMIT_NOFILE, NR_DESCRIPTORS),
    ]
}

/// The arguments of a program in the form that the kernel needs.
pub(crate) struct Words {
    pub path: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
}

impl Words {
    pub(crate) fn of(launch: &Launch) -> io::Result<Words> {
        let word = |word: &OsString| CString::new(word.as_bytes());
        let path = CString::new(launch.program().as_os_str().as_bytes())?;
        let mut args = vec![path.clone()];
        for arg in launch.arguments() {
            args.push(word(arg)?);
        }
        let mut env = Vec::new();
        for (name, value) in launch.environment() {
            env.push(CString::new(
                [name.as_bytes(), b"=", value.as_bytes()].concat(),
            )?);
        }
        Ok(Words { path, args, env })
    }
}

/// The data that a child reads while it stands by, and its stack.
struct Orders {
    stack: Stack,
    plan: Plan,
    /// Hold what the plan's pointers lead to.
    _words: Words,
    _args: Vec<*const c_char>,
    _env: Vec<*const c_char>,
    _filters: Vec<Filter>,
    /// Zero before there is a child, and as soon as the child has left this memory (`CLONE_CHILD_CLEARTID`, clone(2)).
    child: AtomicI32,
}

/// Orders that a child may be reading. A box would promise that only this process reads them.
struct InUse(NonNull<Orders>);

// SAFETY: the pointers in it are into memory that the orders own and that stays where it is; nothing in them is of one thread.
unsafe impl Send for InUse {}

/// The orders of the children that were in this memory when last looked at.
static IN_USE: Mutex<Vec<InUse>> = Mutex::new(Vec::new());

impl InUse {
    fn of(orders: Orders) -> InUse {
        InUse(NonNull::from(Box::leak(Box::new(orders))))
    }

    fn orders(&self) -> &Orders {
        // SAFETY: it was a box's, and is freed by nothing but `free_if_done`, which takes this.
        unsafe { self.0.as_ref() }
    }

    /// Frees those that no child reads any more, and keeps the others.
    fn free_if_done(self) -> Option<InUse> {
        if self.orders().child.load(Ordering::Acquire) != 0 {
            return Some(self);
        }
        // SAFETY: it was a box's, nobody else has this pointer here, and the child has left this memory.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        None
    }
}

impl Orders {
    fn new(
        words: Words,
        files: [RawFd; 3],
        extras: &Extras<'_>,
        (wait, go): (&PipeReader, &PipeWriter),
    ) -> io::Result<Orders> {
        let (args, env) = (pointers(&words.args), pointers(&words.env));
        let filters = filters_of(extras.bounds)?;
        let mut addresses = [ptr::null(); FILTERS];
        for (place, filter) in addresses.iter_mut().zip(&filters) {
            *place = filter.address();
        }
        let mut more = [-1; FILES_MAX];
        if extras.files.len() > more.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (place, file) in more.iter_mut().zip(extras.files) {
            *place = file.as_raw_fd();
        }
        Ok(Orders {
            stack: Stack::new()?,
            plan: Plan {
                files,
                more,
                filters: addresses,
                limits: extras.bounds.map(limits_of),
                starter: extras.is_script.then(std::process::id),
                umask: match extras.is_script {
                    true => child::UMASK_OF_SCRIPT,
                    false => child::UMASK,
                },
                wait: wait.as_raw_fd(),
                go: go.as_raw_fd(),
                path: words.path.as_ptr(),
                args: args.as_ptr(),
                env: env.as_ptr(),
            },
            _words: words,
            _args: args,
            _env: env,
            _filters: filters,
            child: AtomicI32::new(0),
        })
    }

    /// Makes the child. The orders stay until it has left this memory.
    fn carry_out(self) -> io::Result<Process> {
        let orders = InUse::of(self);
        let blocked = set_blocked_signals(ALL_SIGNALS);
        let made = orders.orders().clone_process();
        set_blocked_signals(blocked);
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *in_use);
        in_use.extend(before.into_iter().filter_map(InUse::free_if_done));
        if made.is_err() {
            orders.orders().child.store(0, Ordering::Release);
            orders.free_if_done();
        } else {
            in_use.push(orders);
        }
        made
    }

    fn clone_process(&self) -> io::Result<Process> {
        const FLAGS: c_int =
            libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::CLONE_PIDFD | libc::SIGCHLD;
        let mut pidfd: RawFd = -1;
        // Before the child is there: it may be gone before `clone` returns.
        self.child.store(1, Ordering::Release);
        // SAFETY: the child begins in `stand_by`, with the plan for its argument and the stack, which is its alone. It shares our
        // memory, so: (1) it writes to nothing but its stack: it makes system calls without the C library, whose `errno`
        // would be ours, and takes no lock and no memory; (2) what it reads is `self` alone, which is leaked, is not written
        // to while the child is there (but for `child`, an atomic, by the kernel), and is not freed before the kernel has cleared
        // `child`, which it does when the child has another program's memory or has ended; when this process ends first, its
        // memory stays for the child; (3) no signal handler of ours runs in it: signals are blocked when it begins, and it
        // puts all handlers back before it unblocks them. The kernel writes the descriptor to `pidfd` before `clone` returns.
        let pid = unsafe {
            libc::clone(
                stand_by,
                self.stack.top(),
                FLAGS,
                ptr::from_ref(&self.plan).cast_mut().cast(),
                ptr::from_mut(&mut pidfd),
                ptr::null_mut::<c_void>(),
                self.child.as_ptr(),
            )
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has made this descriptor for us (Linux 5.2, clone(2)), and nobody else has it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Process::new(pid, pidfd))
    }
}

/// Addresses of the arguments with a null pointer after them, for `execve`.
pub(crate) fn pointers(words: &[CString]) -> Vec<*const c_char> {
    let addresses = words.iter().map(|word| word.as_ptr());
    addresses.chain([ptr::null()]).collect()
}

/// The stack of a child. A guard area below it has no access: a child that overflows its stack dies.
struct Stack(*mut c_void);

impl Stack {
    /// The child's calls are a few deep and hold little: a list of descriptors is the most, with 2 KiB.
    const SIZE_BYTES: usize = 64 << 10;
    /// A multiple of each page size of Linux.
    const GUARD_BYTES: usize = 64 << 10;

    fn new() -> io::Result<Stack> {
        const KIND: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        let all = Self::GUARD_BYTES + Self::SIZE_BYTES;
        // SAFETY: a new mapping, of no file and at no place that we name, changes no other memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), all, libc::PROT_NONE, KIND, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack(start);
        let usable = start.wrapping_byte_add(Self::GUARD_BYTES);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is the upper part of the mapping, which is ours and which nobody uses yet.
        match unsafe { libc::mprotect(usable, Self::SIZE_BYTES, access) } {
            0 => Ok(stack),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Its end, where a stack begins; a multiple of the page size, so aligned as the calling convention wants it.
    fn top(&self) -> *mut c_void {
        self.0
            .wrapping_byte_add(Self::GUARD_BYTES + Self::SIZE_BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever drops it knows that nobody stands on it.
        unsafe { libc::munmap(self.0, Self::GUARD_BYTES + Self::SIZE_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::time::{Duration, Instant};

    fn shell(script: &str) -> Launch {
        let launch = Launch::new(Path::new("/bin/sh")).unwrap();
        launch.args(["-c", script]).on_host("said")
    }

    fn start(launch: Launch, output: &Path) -> Standby {
        let input = File::open("/dev/null").unwrap();
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(output)
            .unwrap();
        let streams = Streams {
            input: input.as_fd(),
            output: output.as_fd(),
            errors: output.as_fd(),
        };
        Standby::start(&launch, streams).unwrap()
    }

    fn temporary(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("xen-sys-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    /// Returns the text of a file when it has this number of lines.
    fn lines(path: &Path, count: usize) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let said = std::fs::read_to_string(path).unwrap();
            if said.lines().count() == count {
                std::fs::remove_file(path).unwrap();
                return said;
            }
            assert!(Instant::now() < deadline, "nothing but {said:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn is_there_at_once_and_becomes_the_program_when_let_go() {
        let path = temporary("standby");
        let standby = start(shell("echo $XYL_HOST; ls /proc/self/fd | wc -l >&2"), &path);
        let pid = standby.id();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        drop(standby);
        // Standard input, output and error, and the folder that `ls` reads.
        assert_eq!(lines(&path, 2), "said\n4\n");
    }

    #[test]
    fn what_happens_to_the_memory_meanwhile_does_not_matter() {
        let path = temporary("memory");
        let standby = start(shell("echo $XYL_HOST"), &path);
        let mut rubbish: Vec<Vec<u8>> = Vec::new();
        for size in 1..2000 {
            rubbish.push(vec![0xff; size]);
            if size % 3 == 0 {
                rubbish.swap_remove(size / 3);
            }
        }
        drop(standby);
        assert_eq!(lines(&path, 1), "said\n");
    }

    #[test]
    fn begins_with_no_signal_blocked_ignored_or_caught() {
        extern "C" fn nothing(_: c_int) {}
        let path = temporary("signals");
        // SAFETY: the handler does nothing, and no other test uses the signals.
        unsafe {
            libc::signal(libc::SIGUSR2, nothing as *const () as libc::sighandler_t);
            libc::signal(libc::SIGURG, libc::SIG_IGN);
        }
        let standby = start(
            shell("cat /proc/self/status | grep -E 'Sig(Blk|Ign|Cgt)'"),
            &path,
        );
        drop(standby);
        let none = "0000000000000000";
        let wanted = format!("SigBlk:\t{none}\nSigIgn:\t{none}\nSigCgt:\t{none}\n");
        assert_eq!(lines(&path, 3), wanted);
    }

    #[test]
    fn begins_with_surroundings_of_its_own() {
        let path = temporary("surroundings");
        let script = "umask; pwd; ulimit -c; ulimit -t; cut -d' ' -f6 /proc/$$/stat; echo $$; env";
        let standby = start(shell(script), &path);
        let pid = standby.id();
        drop(standby);
        let inherited = ["TZ", "LANG"]
            .iter()
            .filter(|name| std::env::var_os(name).is_some());
        let said = lines(&path, 9 + inherited.count());
        let said: Vec<&str> = said.lines().collect();
        let session = pid.to_string();
        assert_eq!(said[..4], ["0077", "/", "0", "unlimited"]);
        assert_eq!(said[4..6], [&session, &session]);
        let is_expected = |name: &str| matches!(name, "PATH" | "XYL_HOST" | "PWD" | "TZ" | "LANG");
        let mut names = said[6..].iter().filter_map(|line| line.split('=').next());
        // PWD is the shell's own.
        assert!(names.all(is_expected), "{said:?}");
    }

    #[test]
    fn the_stack_ends_where_nobody_can_touch_it() {
        let stack = Stack::new().unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let start = format!("{:x}-", stack.0.addr());
        let line = maps.lines().find(|line| line.starts_with(&start)).unwrap();
        assert!(line.contains(" ---p "), "{line}");
    }

    #[test]
    fn a_signal_to_a_process_that_stands_by_ends_it_when_it_is_let_go() {
        let path = temporary("pending");
        let standby = start(shell("echo started"), &path);
        let pid = standby.id().cast_signed();
        // SAFETY: it takes numbers; the child has not been waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        drop(standby);
        let mut status = 0;
        // SAFETY: the status is ours.
        unsafe { libc::waitpid(pid, &mut status, 0) };
        assert_eq!(libc::WTERMSIG(status), libc::SIGTERM);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn ends_before_it_became_anything() {
        let path = temporary("ended");
        let standby = start(shell("echo started"), &path);
        let pid = standby.id();
        standby.end();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_it_read_is_freed_when_it_has_gone() {
        let path = temporary("freed");
        for _ in 0..50 {
            start(shell("echo started"), &path).end();
        }
        // Those of the other tests, and the last.
        assert!(IN_USE.lock().unwrap().len() < 10);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_word_with_a_nul_is_refused() {
        let launch = Launch::new(Path::new("/bin/sh")).unwrap().args(["a\0b"]);
        let refused = Words::of(&launch).map(drop);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
