//! A process that stands by: it is there at once, and becomes a program when it is let go.
//!
//! Starting a program takes far longer than making a process. Whoever has to be sure of a successor
//! makes the process, goes on with its work, and lets it go at the end; should it die, it is let go by that.

use std::ffi::{CString, c_char};
use std::io::{self, PipeWriter};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::ptr;

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
    /// Those of `pipe` and `fork`.
    pub fn start(
        program: &Program,
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
    ) -> io::Result<Standby> {
        let args = pointers(&program.args);
        let env = pointers(&program.env);
        let (wait, go) = io::pipe()?;
        // SAFETY: the child calls nothing but system calls until it becomes another program or ends, so it does
        // not matter what other threads of this process were doing, nor who held a lock.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let fds = [input.as_raw_fd(), output.as_raw_fd(), output.as_raw_fd()];
                let pipe = (wait.as_raw_fd(), go.as_raw_fd());
                become_program(fds, pipe, &program.path, &args, &env)
            }
            pid => Ok(Standby { pid, _go: go }),
        }
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

/// The words' addresses, and a null after them, as `execve` wants them.
fn pointers(words: &[CString]) -> Vec<*const c_char> {
    let addresses = words.iter().map(|word| word.as_ptr());
    addresses.chain([ptr::null()]).collect()
}

/// In the child: waits to be let go, and becomes the program. Nothing but system calls, no memory asked for.
fn become_program(
    fds: [RawFd; 3],
    (wait, go): (RawFd, RawFd),
    path: &CString,
    args: &[*const c_char],
    env: &[*const c_char],
) -> ! {
    let mut byte = 0_u8;
    // SAFETY: these calls take numbers, addresses of the local `byte` and of words that the caller keeps, lists
    // that end with a null, and no other memory. `_exit` runs nothing of the parent's.
    unsafe {
        // The parent's end: as long as it is open here, the wait has no end.
        libc::close(go);
        libc::setpgid(0, 0);
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        // First out of the way of where they go: a standard file of the parent's may have been closed.
        let parked =
            [fds[0], fds[1], fds[2], wait].map(|fd| libc::fcntl(fd, libc::F_DUPFD, GO + 1));
        for (target, fd) in (0..).zip(parked) {
            if fd < 0 || libc::dup2(fd, target) < 0 {
                libc::_exit(NO_PROGRAM);
            }
        }
        if libc::syscall(libc::SYS_close_range, GO + 1, libc::c_uint::MAX, 0) != 0 {
            close_one_by_one(GO + 1);
        }
        while libc::read(GO, ptr::from_mut(&mut byte).cast(), 1) < 0
            && *libc::__errno_location() == libc::EINTR
        {}
        libc::close(GO);
        libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr());
        libc::_exit(NO_PROGRAM)
    }
}

/// Where there is no `close_range` (it came with Linux 5.9, and a filter may refuse it).
fn close_one_by_one(first: RawFd) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a local structure of the kind that the call fills.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    let end = RawFd::try_from(limit.rlim_cur).unwrap_or(RawFd::MAX);
    for fd in first..end {
        // SAFETY: nothing in this child uses a descriptor from `first` on any more.
        unsafe { libc::close(fd) };
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

    fn start(program: &Program, output: &Path) -> Standby {
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

    #[test]
    fn is_there_at_once_and_becomes_the_program_when_let_go() {
        let path = temporary("standby");
        let standby = start(&shell("echo $WORD; ls /proc/self/fd | wc -l >&2"), &path);
        let pid = standby.id();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        drop(standby);
        let deadline = Instant::now() + Duration::from_secs(60);
        let said = loop {
            let said = std::fs::read_to_string(&path).unwrap();
            if said.lines().count() == 2 {
                break said;
            }
            assert!(Instant::now() < deadline, "nothing but {said:?}");
            std::thread::yield_now();
        };
        // Standard input, output and error, and the folder that `ls` reads.
        assert_eq!(said, "said\n4\n");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn ends_before_it_became_anything() {
        let path = temporary("ended");
        let standby = start(&shell("echo started"), &path);
        let pid = standby.id();
        standby.end();
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_word_with_a_nul_is_refused() {
        let refused = Program::new(Path::new("/bin/sh"), [b"a\0b".to_vec()], []);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
