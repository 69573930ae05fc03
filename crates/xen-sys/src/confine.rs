//! Runs a computation in a child process without rights, for code that reads hostile bytes.
//!
//! The child is a copy of this process ([`fork`](libc::fork)), so it has a small input in memory already ([`compute`]). A large
//! one is an open file, which the child reads ([`compute_from`]). Before the computation it closes all other files but two, leaves root, drops capabilities and lowers its limits. A filter
//! (seccomp(2)) refuses all system calls except those for memory and writing. The result is an answer of fixed size
//! and a file in memory, or a stream that the caller reads meanwhile ([`filter_from`]). The caller must treat each as hostile bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};
use std::time::{Duration, Instant};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::process::{Process, wait_for};

/// User and group id of the child if this process runs as root: the user `nobody`.
const NOBODY: libc::c_uint = 65_534;
/// The exit code of a child that could not give something up.
const NOT_CONFINED: libc::c_int = 125;

/// The resource limits of a computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComputeLimits {
    /// Memory in bytes in addition to this process's memory.
    pub memory_max_bytes: u64,
    /// The largest output, in bytes.
    pub output_max_bytes: u64,
    /// CPU time, in whole seconds.
    pub cpu_max_s: u64,
    /// Time limit of this process for the child's answer.
    pub wait_limit: Duration,
}

/// The results of a computation.
#[derive(Debug)]
pub struct Computed<const ANSWER: usize> {
    /// Result of the computation, of fixed size.
    pub answer: [u8; ANSWER],
    /// The file that it wrote, which no process can write to any more.
    pub output: File,
    /// The file's length in bytes.
    pub output_bytes: u64,
}

/// Runs `work` in a child and waits for it. `work` writes to a file in memory and returns an answer. It must not use
/// a lock that another thread of this process may hold, except the allocator's.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] after the time limit; [`io::ErrorKind::BrokenPipe`] if the child ended without a
/// complete answer, because of a limit or a refused system call; an error of the system if there is no child.
pub fn compute<const ANSWER: usize>(
    limits: &ComputeLimits,
    work: impl FnOnce(&mut dyn Write) -> [u8; ANSWER],
) -> io::Result<Computed<ANSWER>> {
    compute_in_child(limits, None, work)
}

/// Runs `work` as [`compute`] does. `work` also reads an open file, from its current position on.
///
/// # Errors
/// See [`compute`].
pub fn compute_from<const ANSWER: usize>(
    limits: &ComputeLimits,
    input: &File,
    work: impl FnOnce(&mut dyn Read, &mut dyn Write) -> [u8; ANSWER],
) -> io::Result<Computed<ANSWER>> {
    let mut from = input;
    compute_in_child(limits, Some(input.as_raw_fd()), |output| {
        work(&mut from, output)
    })
}

fn compute_in_child<const ANSWER: usize>(
    limits: &ComputeLimits,
    input: Option<RawFd>,
    work: impl FnOnce(&mut dyn Write) -> [u8; ANSWER],
) -> io::Result<Computed<ANSWER>> {
    let deadline = Instant::now() + limits.wait_limit;
    let output = memory_file()?;
    let (answer, process) = start(limits, input, output.try_clone()?, work)?;
    let answer = receive(answer, &process, deadline)?;
    let output_bytes = output.metadata()?.len();
    Ok(Computed {
        answer,
        output,
        output_bytes,
    })
}

/// Starts the child. Returns the end of the pipe that its answer comes through.
fn start<const ANSWER: usize>(
    limits: &ComputeLimits,
    input: Option<RawFd>,
    output: File,
    work: impl FnOnce(&mut dyn Write) -> [u8; ANSWER],
) -> io::Result<(PipeReader, Process)> {
    let (answer, answer_end) = io::pipe()?;
    let written = [output.as_raw_fd(), answer_end.as_raw_fd()];
    let child = Child {
        limits: resource_limits(limits)?,
        filter: filter(input)?,
        files: written.into_iter().chain(input).collect(),
    };
    // SAFETY: the child runs `Child::run`, which never returns, on its own copy of this memory. Of this process's threads it has
    // only this one: locks of others may be held for ever, and `work` uses none but the allocator's, which `fork` puts in order.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => child.run(output, answer_end.into(), work),
        pid => Ok((answer, Process::of_child(pid)?)),
    }
}

/// The stream that a child makes of an open file: hostile bytes, too. Dropping it ends the child.
#[derive(Debug)]
pub struct Filtered {
    stream: PipeReader,
    answer: Option<PipeReader>,
    process: Process,
    limit: Duration,
}

/// Has a child read an open file, from its current position on, and write a stream. The caller reads the stream meanwhile, so its
/// length has no limit. `work` returns whether the stream is whole: a read at the end of one that is not fails with
/// [`io::ErrorKind::InvalidData`]. The time limit is for each read.
///
/// # Errors
/// See [`compute`].
pub fn filter_from(
    limits: &ComputeLimits,
    input: &File,
    work: impl FnOnce(&mut dyn Read, &mut dyn Write) -> bool,
) -> io::Result<Filtered> {
    let (stream, end) = io::pipe()?;
    let mut from = input;
    let end = File::from(std::os::fd::OwnedFd::from(end));
    let (answer, process) = start(limits, Some(input.as_raw_fd()), end, |output| {
        [u8::from(work(&mut from, output))]
    })?;
    Ok(Filtered {
        stream,
        answer: Some(answer),
        process,
        limit: limits.wait_limit,
    })
}

impl Filtered {
    /// Looks whether the stream that has ended is whole.
    fn check_end(&mut self) -> io::Result<()> {
        let Some(answer) = self.answer.take() else {
            return Ok(());
        };
        match receive::<1>(answer, &self.process, Instant::now() + self.limit)? {
            [0] => Err(io::ErrorKind::InvalidData.into()),
            _ => Ok(()),
        }
    }
}

impl Read for Filtered {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let deadline = Instant::now() + self.limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let stream = self.stream.as_fd();
            // Interrupted by a signal, it is asked again.
            let [is_ready, _] = wait_for([stream, stream], false, left)?;
            if is_ready {
                break;
            }
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        match self.stream.read(into)? {
            0 if !into.is_empty() => self.check_end().map(|()| 0),
            length => Ok(length),
        }
    }
}

impl Drop for Filtered {
    fn drop(&mut self) {
        // One that has been waited for is no process any more.
        if self.answer.is_some() && self.process.kill().is_ok() {
            let _ = self.process.wait();
        }
    }
}

/// Creates a file that exists only in memory.
fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a constant, and the descriptor that the call makes is ours alone.
    unsafe {
        match libc::memfd_create(c"computed".as_ptr(), libc::MFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(File::from_raw_fd(fd)),
        }
    }
}

/// Resources and their limits for the child.
type ResourceLimits = [(u32, u64); 6];

fn resource_limits(limits: &ComputeLimits) -> io::Result<ResourceLimits> {
    let addresses = own_addresses_bytes()?.saturating_add(limits.memory_max_bytes);
    Ok([
        (libc::RLIMIT_AS, addresses),
        (libc::RLIMIT_CPU, limits.cpu_max_s),
        (libc::RLIMIT_FSIZE, limits.output_max_bytes),
        (libc::RLIMIT_CORE, 0),
        (libc::RLIMIT_NPROC, 0),
        (libc::RLIMIT_NOFILE, 0),
    ])
}

/// The addresses that this process has in use, in bytes: the first number of `statm`, in pages (proc(5)).
fn own_addresses_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text
        .split(' ')
        .next()
        .and_then(|word| word.parse::<u64>().ok());
    // SAFETY: the call takes a number.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let pages = pages.ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages.saturating_mul(u64::try_from(page_bytes).unwrap_or(4096)))
}

/// The system calls that are left: to write, to read the input, to get and give back memory that holds no code, to end. Any other
/// ends the child.
fn filter(input: Option<RawFd>) -> io::Result<BpfProgram> {
    const FREE: [i64; 11] = [
        libc::SYS_write,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    const WITHOUT_CODE: [i64; 2] = [libc::SYS_mmap, libc::SYS_mprotect];
    let without_code = || {
        let no_code = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
        let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, no_code, 0)?;
        SeccompRule::new(vec![condition])
    };
    let of_file = |file: RawFd| {
        let (file, equal) = (u64::from(file.unsigned_abs()), SeccompCmpOp::Eq);
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, equal, file)?;
        SeccompRule::new(vec![condition])
    };
    let build = || -> Result<BpfProgram, seccompiler::BackendError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            FREE.map(|call| (call, Vec::new())).into_iter().collect();
        for call in WITHOUT_CODE {
            rules.insert(call, vec![without_code()?]);
        }
        if let Some(file) = input {
            rules.insert(libc::SYS_read, vec![of_file(file)?]);
        }
        let others = SeccompAction::KillProcess;
        let arch = std::env::consts::ARCH.try_into()?;
        SeccompFilter::new(rules, others, SeccompAction::Allow, arch)?.try_into()
    };
    build().map_err(io::Error::other)
}

/// The data that the child needs, made before its start.
struct Child {
    limits: ResourceLimits,
    filter: BpfProgram,
    /// The files that stay open.
    files: Vec<RawFd>,
}

impl Child {
    /// The child: drops its rights, computes, answers, ends.
    fn run<const ANSWER: usize>(
        &self,
        mut output: File,
        answer: std::os::fd::OwnedFd,
        work: impl FnOnce(&mut dyn Write) -> [u8; ANSWER],
    ) -> ! {
        if !self.give_up() {
            end(NOT_CONFINED);
        }
        let answered = work(&mut output);
        match File::from(answer).write_all(&answered) {
            Ok(()) => end(0),
            Err(_) => end(1),
        }
    }

    /// Drops all rights. Returns false if one could not be dropped.
    fn give_up(&self) -> bool {
        // SAFETY: these calls take numbers, or constants and structures that outlive them. They change this child alone, which
        // has one thread; no Rust value stands for the descriptors that are closed, but for those that the child never uses.
        unsafe {
            let all: u64 = u64::MAX;
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const all,
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
            // Linux forgets the signal at the parent's death when the user changes, so it is set after that.
            let confined = self.close_files()
                && leave_root()
                && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
                && libc::prctl(libc::PR_SET_DUMPABLE, 0) == 0
                && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
            let limited = self.limits.iter().all(|(resource, most)| {
                let both = [*most, *most];
                let none = std::ptr::null_mut::<[u64; 2]>();
                libc::syscall(libc::SYS_prlimit64, 0, *resource, both.as_ptr(), none) == 0
            });
            confined && limited && seccompiler::apply_filter(&self.filter).is_ok()
        }
    }

    /// Closes all descriptors but those that stay.
    fn close_files(&self) -> bool {
        close_but(&self.files)
    }
}

/// Closes all descriptors of a process that will not return but one.
pub(crate) fn close_all_but(file: RawFd) -> bool {
    close_but(&[file])
}

fn close_but(files: &[RawFd]) -> bool {
    let mut kept: Vec<u32> = files.iter().map(|file| file.unsigned_abs()).collect();
    kept.sort_unstable();
    let firsts = std::iter::once(0).chain(kept.iter().map(|file| file + 1));
    // The end is not closed, but the last of all numbers is no descriptor's.
    let ends = kept.iter().copied().chain([u32::MAX]);
    let all = firsts.zip(ends).all(|(first, end)| {
        let last = end.saturating_sub(1);
        // SAFETY: the call takes numbers; see `give_up`.
        first >= end || unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0
    });
    all || close_each_but(&kept)
}

/// Closes all descriptors but some, one by one: `close_range` came with Linux 5.9.
fn close_each_but(kept: &[u32]) -> bool {
    let mut limit = [0_u64; 2];
    let none = std::ptr::null::<[u64; 2]>();
    // SAFETY: the call writes two numbers of 64 bits, which `limit` has room for.
    let read = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            libc::RLIMIT_NOFILE,
            none,
            limit.as_mut_ptr(),
        )
    };
    let [soft, _] = limit;
    // Linux's own largest limit (`fs.nr_open` as it comes).
    let end = u32::try_from(soft).unwrap_or(u32::MAX).min(1 << 20);
    for fd in (0..end).filter(|fd| !kept.contains(fd)) {
        // SAFETY: the call takes a number; see `give_up`.
        unsafe { libc::syscall(libc::SYS_close, fd) };
    }
    read == 0
}

/// Changes from root to `nobody` and drops all capabilities. In a user namespace without `nobody` it only drops the
/// capabilities.
fn leave_root() -> bool {
    // Linux's capset(2), version 3: for each half of 32 capabilities what is effective, permitted and inheritable.
    const VERSION_3: u32 = 0x2008_0522;
    let head: [u32; 2] = [VERSION_3, 0];
    let none = [0_u32; 6];
    // SAFETY: the calls take numbers, and two structures of the lengths that version 3 wants, which outlive the call. By way of
    // the kernel alone: the C library would have other threads follow, and here are none.
    unsafe {
        if libc::geteuid() == 0 {
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>());
            libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY);
            libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY);
        }
        libc::syscall(libc::SYS_capset, head.as_ptr(), none.as_ptr()) == 0
    }
}

/// Ends the child at once, without the exit handlers of this process.
fn end(code: libc::c_int) -> ! {
    loop {
        // SAFETY: the call takes a number and does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

/// The child's answer, once it has ended.
fn receive<const ANSWER: usize>(
    mut answer: PipeReader,
    process: &Process,
    deadline: Instant,
) -> io::Result<[u8; ANSWER]> {
    let mut received = [0; ANSWER];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let [has_ended, _] = wait_for([process.as_fd(), answer.as_fd()], false, left)?;
        if has_ended {
            break;
        }
        if left.is_zero() {
            process.kill()?;
            process.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    // The answer fits into the pipe, so the child has never waited for its reader.
    let code = process.wait()?;
    let whole = answer.read_exact(&mut received);
    match (code, whole) {
        (Some(0), Ok(())) => Ok(received),
        (Some(NOT_CONFINED), _) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel does not let a process give up its rights: it needs CONFIG_SECCOMP_FILTER",
        )),
        (Some(code), _) => Err(io::Error::new(
            io::ErrorKind::BrokenPipe,
            format!("its process ended with exit code {code}"),
        )),
        (None, _) => Err(io::Error::new(
            io::ErrorKind::BrokenPipe,
            "its process ran into a limit, or did what it may not do, and was ended",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ComputeLimits = ComputeLimits {
        memory_max_bytes: 64 << 20,
        output_max_bytes: 1 << 20,
        cpu_max_s: 60,
        wait_limit: Duration::from_secs(60),
    };

    /// Writes alone: std::io::copy would use calls that the child may not make.
    struct Plain<'w>(&'w mut dyn Write);

    impl Write for Plain<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn fails(
        limits: &ComputeLimits,
        work: impl FnOnce(&mut dyn Write) -> [u8; 1],
    ) -> io::ErrorKind {
        compute(limits, work).unwrap_err().kind()
    }

    #[test]
    fn what_is_computed_comes_back() {
        let input = vec![7_u8; 1000];
        let computed = compute(&LIMITS, |output| {
            let doubled: Vec<u8> = input.iter().map(|byte| byte * 2).collect();
            output.write_all(&doubled).unwrap();
            *b"answer"
        });
        let computed = computed.unwrap();
        assert_eq!((&computed.answer, computed.output_bytes), (b"answer", 1000));
        let mut bytes = vec![0; 1000];
        std::os::unix::fs::FileExt::read_exact_at(&computed.output, &mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 14));
    }

    #[test]
    fn a_large_input_is_read_from_its_file() {
        let mut input = memory_file().unwrap();
        input.write_all(&[7; 100_000]).unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
        let sum = |from: &mut dyn Read| {
            let mut buffer = [0_u8; 1000];
            let mut sum = 0_u64;
            loop {
                match from.read(&mut buffer).unwrap() {
                    0 => return sum,
                    length => {
                        sum += buffer[..length]
                            .iter()
                            .map(|byte| u64::from(*byte))
                            .sum::<u64>()
                    }
                }
            }
        };
        let computed = compute_from(&LIMITS, &input, |from, _| sum(from).to_le_bytes());
        assert_eq!(computed.unwrap().answer, 700_000_u64.to_le_bytes());
        let mut filtered = Vec::new();
        std::io::Seek::rewind(&mut input).unwrap();
        let copy = |is_whole: bool| {
            move |from: &mut dyn Read, to: &mut dyn Write| {
                std::io::copy(&mut from.take(90_000), &mut Plain(to)).unwrap();
                is_whole
            }
        };
        let mut stream = filter_from(&LIMITS, &input, copy(true)).unwrap();
        stream.read_to_end(&mut filtered).unwrap();
        assert_eq!(filtered, [7; 90_000]);
        std::io::Seek::rewind(&mut input).unwrap();
        let mut stream = filter_from(&LIMITS, &input, copy(false)).unwrap();
        let error = stream.read_to_end(&mut filtered).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        // One that is not read to its end leaves no process.
        std::io::Seek::rewind(&mut input).unwrap();
        drop(filter_from(&LIMITS, &input, copy(true)).unwrap());
        // No other file can be read, not even the output.
        let other = compute_from(&LIMITS, &input, |_, output| {
            output.write_all(b"x").unwrap();
            let mut byte = 0_u8;
            // SAFETY: the call writes at most one byte, for which there is room.
            let length = (0..100).map(|fd| unsafe { libc::read(fd, (&raw mut byte).cast(), 1) });
            [length.max().unwrap_or(0) as u8]
        });
        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn whatever_is_not_computing_ends_the_child() {
        type Work = fn(&mut dyn Write) -> [u8; 1];
        let forbidden: [Work; 4] = [
            |_| [u8::from(File::open("/etc/passwd").is_ok())],
            |_| [u8::from(std::net::UdpSocket::bind("127.0.0.1:0").is_ok())],
            // SAFETY: the call takes numbers.
            |_| [u8::from(unsafe { libc::kill(libc::getppid(), 0) } == 0)],
            // SAFETY: a new mapping changes no other memory.
            |_| unsafe {
                let (code, kind) = (libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
                libc::mmap(std::ptr::null_mut(), 4096, code, kind, -1, 0);
                [0]
            },
        ];
        for work in forbidden {
            assert_eq!(fails(&LIMITS, work), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn memory_output_and_time_have_limits() {
        let too_much = |_: &mut dyn Write| {
            let mut memory: Vec<u8> = Vec::new();
            [u8::from(memory.try_reserve(1 << 30).is_err())]
        };
        assert_eq!(compute(&LIMITS, too_much).unwrap().answer, [1]);
        let too_long = compute(&LIMITS, |output| {
            let piece = [0; 64 << 10];
            let written = (0..).find(|_| output.write_all(&piece).is_err());
            [written.unwrap_or(0_u8)]
        });
        let too_long = too_long.unwrap();
        assert_eq!((too_long.answer, too_long.output_bytes), ([16], 1 << 20));
        let hurried = ComputeLimits {
            wait_limit: Duration::from_millis(20),
            ..LIMITS
        };
        let for_ever = |_: &mut dyn Write| loop {
            std::hint::spin_loop();
        };
        assert_eq!(fails(&hurried, for_ever), io::ErrorKind::TimedOut);
        let busy = ComputeLimits {
            cpu_max_s: 1,
            ..LIMITS
        };
        assert_eq!(fails(&busy, for_ever), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_child_has_no_rights_and_no_files() {
        let hurried = ComputeLimits {
            wait_limit: Duration::from_secs(20),
            ..LIMITS
        };
        let mut thread = 0;
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: the call takes nothing.
                send.send(unsafe { libc::gettid() }).unwrap();
                let for_ever = |_: &mut dyn Write| loop {
                    std::hint::spin_loop();
                };
                assert!(compute::<1>(&hurried, for_ever).is_err());
            });
            thread = receive.recv().unwrap();
            let list = format!("/proc/self/task/{thread}/children");
            let deadline = Instant::now() + Duration::from_secs(15);
            let text = |pid: &str, file: &str| {
                std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
            };
            loop {
                assert!(Instant::now() < deadline, "no child that is confined");
                let children = std::fs::read_to_string(&list).unwrap();
                let Some(pid) = children.split_whitespace().next() else {
                    continue;
                };
                let status = text(pid, "status");
                if !status.contains("Seccomp:\t2") {
                    continue;
                }
                assert!(status.contains("CapPrm:\t0000000000000000"), "{status}");
                assert!(status.contains("NoNewPrivs:\t1"), "{status}");
                // SAFETY: the call takes nothing.
                if unsafe { libc::geteuid() } == 0 {
                    assert!(
                        status.contains("Uid:\t65534\t65534\t65534\t65534"),
                        "{status}"
                    );
                    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
                    assert_eq!(open.count(), 2);
                }
                let number = pid.parse().unwrap();
                // SAFETY: the call takes numbers; the child is waited for by the other thread only after this.
                unsafe { libc::kill(number, libc::SIGKILL) };
                break;
            }
        });
    }
}
