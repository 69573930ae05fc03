//! A process that stands by: it is there at once, and becomes a program when it is let go.
//!
//! Starting a program takes far longer than making a process. Whoever has to be sure of a successor
//! makes the process, goes on with its work, and lets it go at the end; should it die, it is let go by that.
//!
//! Until it becomes the program it shares this process's memory, as `posix_spawn`'s child does: to copy the page tables, and
//! then each page that either of the two writes to, takes several times as long as all else here. So it may not touch that memory:
//! it has a stack of its own, reads what was written down for it before it was there, and calls nothing but the kernel.

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::syscall::syscall;

/// Where the child has its end of the pipe, above standard input, output and error.
const GO: RawFd = 3;
/// The exit code of a child whose program could not be started, as a shell's.
const NO_PROGRAM: i32 = 127;

/// What a process that stands by becomes.
#[derive(Debug)]
pub struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// The program at a path; the words after its name; its environment as `NAME=VALUE`.
    ///
    /// # Errors
    /// `InvalidInput` where one of them holds a NUL byte.
    pub fn new(
        path: &Path,
        args: impl IntoIterator<Item = Vec<u8>>,
        env: impl IntoIterator<Item = Vec<u8>>,
    ) -> io::Result<Program> {
        use std::os::unix::ffi::OsStrExt;
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut words = vec![path.clone()];
        for arg in args {
            words.push(CString::new(arg)?);
        }
        let env: Result<_, _> = env.into_iter().map(CString::new).collect();
        Ok(Program {
            path,
            args: words,
            env: env?,
        })
    }
}

/// A child that stands by. It is let go when this is dropped, or when this process ends.
#[derive(Debug)]
pub struct Standby {
    pid: libc::pid_t,
    _go: PipeWriter,
}

impl Standby {
    /// Makes the process: in a process group of its own, with `input` as its standard input, `output` as its
    /// standard output and error, and no other open file.
    ///
    /// # Errors
    /// Those of `pipe`, `mmap` and `clone`.
    pub fn start(
        program: Program,
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
    ) -> io::Result<Standby> {
        let fds = [input.as_raw_fd(), output.as_raw_fd(), output.as_raw_fd()];
        let (wait, go) = io::pipe()?;
        let orders = Orders::new(program, fds, (&wait, &go))?;
        let pid = orders.carry_out()?;
        Ok(Standby { pid, _go: go })
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Leaves it standing by until this process has ended, so that its start does not compete with what is left to
    /// be done here.
    pub fn let_go_at_exit(self) {
        // The kernel closes the pipe when all else of this process is gone.
        std::mem::forget(self);
    }

    /// Ends it, whatever it has become.
    pub fn end(self) {
        // SAFETY: both take numbers; nobody else waits for this child, so its number is still its own. One that
        // has ended already is as good, so their results do not matter.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, ptr::null_mut(), 0);
        }
    }
}

/// What a child reads while it stands by, and the stack it stands on.
struct Orders {
    stack: Stack,
    /// Where the input, output and error of the program are now.
    fds: [RawFd; 3],
    /// The end of the pipe that the child reads, and the one that it has to close.
    wait: RawFd,
    go: RawFd,
    /// Holds the words that `args` and `env` point to.
    program: Program,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// The signals that the program is to begin with: those blocked here.
    blocked: KernelSignals,
    /// Zero before there is a child, and as soon as the child has left this memory (`CLONE_CHILD_CLEARTID`, clone(2)).
    child: AtomicI32,
}

/// Orders that a child may be reading. Not a box, which would promise that nobody else does.
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
        program: Program,
        fds: [RawFd; 3],
        (wait, go): (&PipeReader, &PipeWriter),
    ) -> io::Result<Orders> {
        Ok(Orders {
            stack: Stack::new()?,
            fds,
            wait: wait.as_raw_fd(),
            go: go.as_raw_fd(),
            args: pointers(&program.args),
            env: pointers(&program.env),
            program,
            blocked: 0,
            child: AtomicI32::new(0),
        })
    }

    /// Makes the child. The orders stay until it has left this memory.
    fn carry_out(mut self) -> io::Result<libc::pid_t> {
        let blocked = set_blocked_signals(ALL_SIGNALS);
        self.blocked = blocked;
        let orders = InUse::of(self);
        let pid = orders.orders().clone_process();
        let error = io::Error::last_os_error();
        set_blocked_signals(blocked);
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *in_use);
        in_use.extend(before.into_iter().filter_map(InUse::free_if_done));
        if pid < 0 {
            orders.orders().child.store(0, Ordering::Release);
            orders.free_if_done();
            return Err(error);
        }
        in_use.push(orders);
        // The child does so, too: whoever is first, a signal to this process group does not reach it from now on.
        // SAFETY: the call takes numbers; the child has not been waited for, so its number is still its own.
        unsafe { libc::setpgid(pid, pid) };
        Ok(pid)
    }

    fn clone_process(&self) -> libc::pid_t {
        const FLAGS: c_int = libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
        // Before the child is there: it may be gone before `clone` returns.
        self.child.store(1, Ordering::Release);
        // SAFETY: the child begins in `stand_by`, with `self` for its argument and the stack, which is its alone. It shares our
        // memory, so: (1) it writes to nothing but its stack: it makes system calls without the C library, whose `errno`
        // would be ours, and takes no lock and no memory; (2) what it reads is `self` alone, which is leaked, is not written
        // to while the child is there (but for `child`, an atomic, by the kernel), and is not freed before the kernel has cleared
        // `child`, which it does when the child has another program's memory or has ended; when this process ends first, its
        // memory stays for the child; (3) no signal handler of ours runs in it: signals are blocked when it begins, and it
        // puts all handlers back before it unblocks them.
        unsafe {
            libc::clone(
                stand_by,
                self.stack.top(),
                FLAGS,
                ptr::from_ref(self).cast_mut().cast(),
                ptr::null_mut::<libc::pid_t>(),
                ptr::null_mut::<c_void>(),
                self.child.as_ptr(),
            )
        }
    }
}

/// The words' addresses, and a null after them, as `execve` wants them.
fn pointers(words: &[CString]) -> Vec<*const c_char> {
    let addresses = words.iter().map(|word| word.as_ptr());
    addresses.chain([ptr::null()]).collect()
}

/// Memory for a child to stand on.
struct Stack(*mut c_void);

impl Stack {
    /// The child's calls are three deep and hold a few words each.
    const SIZE_BYTES: usize = 64 << 10;

    fn new() -> io::Result<Stack> {
        const ACCESS: c_int = libc::PROT_READ | libc::PROT_WRITE;
        const KIND: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new mapping, of no file and at no place that we name, changes no other memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), Self::SIZE_BYTES, ACCESS, KIND, -1, 0) };
        match start {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            start => Ok(Stack(start)),
        }
    }

    /// Its end, where a stack begins; a multiple of the page size, so aligned as the calling convention wants it.
    fn top(&self) -> *mut c_void {
        self.0.wrapping_byte_add(Self::SIZE_BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever drops it knows that nobody stands on it.
        unsafe { libc::munmap(self.0, Self::SIZE_BYTES) };
    }
}

/// A set of signals as the kernel has it: bit `n - 1` for signal `n`.
type KernelSignals = u64;
const ALL_SIGNALS: KernelSignals = u64::MAX;

/// Blocks these signals and no others; those that were blocked before.
fn set_blocked_signals(blocked: KernelSignals) -> KernelSignals {
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

/// The child: waits to be let go, and becomes the program. Nothing but system calls; see [`Orders::clone_process`].
extern "C" fn stand_by(orders: *mut c_void) -> c_int {
    // SAFETY: `clone_process` hands this over, and it stays for as long as this runs.
    let orders = unsafe { &*orders.cast_const().cast::<Orders>() };
    // As long as it is open here, too, the wait has no end.
    call(libc::SYS_close, [orders.go as usize, 0, 0, 0]);
    call(libc::SYS_setpgid, [0; 4]);
    if !take_files(orders) {
        return NO_PROGRAM;
    }
    wait_to_be_let_go();
    put_handlers_back();
    set_blocked_signals(orders.blocked);
    let path = orders.program.path.as_ptr().expose_provenance();
    let args = orders.args.as_ptr().expose_provenance();
    let env = orders.env.as_ptr().expose_provenance();
    call(libc::SYS_execve, [path, args, env, 0]);
    NO_PROGRAM
}

/// A system call of the child's.
fn call(number: c_long, arguments: [usize; 4]) -> isize {
    // SAFETY: the callers below name no memory but that of the orders and of their own stack, as the call wants it.
    unsafe { syscall(number, arguments) }
}

/// Standard input, output and error as ordered, the pipe after them, and no other open file. Whether that worked.
fn take_files(orders: &Orders) -> bool {
    let [input, output, error] = orders.fds;
    let mut files = [input, output, error, orders.wait].map(|fd| fd as isize);
    let first_free = GO as usize + 1;
    // First out of the way of where they go: a standard file of the parent's may have been closed.
    for file in &mut files {
        let duplicate = libc::F_DUPFD as usize;
        *file = call(
            libc::SYS_fcntl,
            [file.unsigned_abs(), duplicate, first_free, 0],
        );
    }
    for (target, file) in (0..).zip(files) {
        if file < 0 || call(libc::SYS_dup3, [file.unsigned_abs(), target, 0, 0]) < 0 {
            return false;
        }
    }
    if call(
        libc::SYS_close_range,
        [first_free, libc::c_uint::MAX as usize, 0, 0],
    ) != 0
    {
        close_one_by_one(first_free);
    }
    true
}

/// Where there is no `close_range` (it came with Linux 5.9, and a filter may refuse it).
fn close_one_by_one(first: usize) {
    let mut limits = [0_u64; 2];
    let answer = limits.as_mut_ptr().expose_provenance();
    call(
        libc::SYS_prlimit64,
        [0, libc::RLIMIT_NOFILE as usize, 0, answer],
    );
    let [end, _] = limits;
    for fd in first..end as usize {
        call(libc::SYS_close, [fd, 0, 0, 0]);
    }
}

/// Until the other end of the pipe is closed.
fn wait_to_be_let_go() {
    let mut byte = 0_u8;
    let place = ptr::from_mut(&mut byte).expose_provenance();
    while call(libc::SYS_read, [GO as usize, place, 1, 0]) == -(libc::EINTR as isize) {}
    call(libc::SYS_close, [GO as usize, 0, 0, 0]);
}

/// What the kernel keeps of a signal: its handler comes first. What is ignored is so in the new program as well.
type KernelAction = [usize; 4];

/// No handler of the parent's is to run here. A program begins with SIGPIPE as it is by default; Rust's start ignores it.
fn put_handlers_back() {
    for signal in 1..=64 {
        let mut action = KernelAction::default();
        let place = action.as_mut_ptr().expose_provenance();
        call(
            libc::SYS_rt_sigaction,
            [signal, 0, place, size_of::<KernelSignals>()],
        );
        let [handler, ..] = action;
        let is_handled = handler != libc::SIG_DFL && handler != libc::SIG_IGN;
        if is_handled || signal == libc::SIGPIPE as usize {
            let default = KernelAction::default();
            let place = default.as_ptr().expose_provenance();
            call(
                libc::SYS_rt_sigaction,
                [signal, place, 0, size_of::<KernelSignals>()],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    fn shell(script: &str) -> Program {
        let args = ["-c", script].map(|word| word.as_bytes().to_vec());
        Program::new(Path::new("/bin/sh"), args, [b"WORD=said".to_vec()]).unwrap()
    }

    fn start(program: Program, output: &Path) -> Standby {
        let input = File::open("/dev/null").unwrap();
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(output)
            .unwrap();
        Standby::start(program, input.as_fd(), output.as_fd()).unwrap()
    }

    fn temporary(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("xen-sys-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    /// What has been said once it is as many lines.
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
        let standby = start(shell("echo $WORD; ls /proc/self/fd | wc -l >&2"), &path);
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
        let standby = start(shell("echo $WORD"), &path);
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
    fn begins_with_the_signals_of_this_process_and_takes_no_handler_along() {
        extern "C" fn nothing(_: c_int) {}
        let path = temporary("signals");
        // SAFETY: the handler does nothing, and no other test uses the signal.
        unsafe { libc::signal(libc::SIGUSR2, nothing as *const () as libc::sighandler_t) };
        let standby = start(
            shell("cat /proc/self/status | grep -E 'Sig(Blk|Cgt)'"),
            &path,
        );
        drop(standby);
        let said = lines(&path, 2);
        assert_eq!(
            said,
            "SigBlk:\t0000000000000000\nSigCgt:\t0000000000000000\n"
        );
    }

    #[test]
    fn a_signal_to_a_process_that_stands_by_ends_it_when_it_is_let_go() {
        let path = temporary("pending");
        let standby = start(shell("echo started"), &path);
        let pid = standby.pid;
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
        let refused = Program::new(Path::new("/bin/sh"), [b"a\0b".to_vec()], []);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
