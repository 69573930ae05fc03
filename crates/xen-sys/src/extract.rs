//! Runs a program that reads what a guest has written, such as a boot loader ([`os_port::Spawn::extract`]).
//!
//! The program runs in namespaces of its own: mounts, processes, network, IPC, host name, cgroups. Its root is a small file system in
//! memory. There it has the system's programs and libraries ([`READABLE`]) and the disk, all without the right to write, `/dev/null`,
//! and a folder for its output. It is a user of its own, without a capability or a way to get one, and with few resources
//! ([`LIMITS`]). A filter refuses it sockets, namespaces, mounts and what most exploits of the kernel need.
//!
//! The child is a copy of this process. It makes its root, gives up all rights, and becomes the program. Another thread of this
//! process may hold a lock, so the child takes no lock and no memory: all that it needs is made before it.
//!
//! Nothing is left on the host, also when a process is killed. The child's mounts end with its namespace. The folder for output is a file system
//! without a place in the host's tree: it ends with its last descriptor. The program is the first process of its namespace, so all
//! that it has started ends with it, and the kernel kills it when the thread that has started it ends.

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Instant;

use os_port::{
    ANSWER_INSIDE, AttachedLoop, DISK_INSIDE, DeviceNumber, EXTRACTED_FILES_MAX, Extracted,
    Extraction, FileKind, LoopDevices, LoopRequest, OUTPUT_INSIDE, OpenFile,
};
use seccompiler::BpfProgram;

use crate::loops::SystemLoopDevices;
use crate::process::Process;
use crate::rights::filters_of_extraction;
use crate::spawn::{end_first, open_null, run_until};
use crate::standby::{NO_PROGRAM, Words, pointers};

/// The paths of the host that the program can read. A symbolic link among them, such as `/bin`, is one for the program too.
const READABLE: [&str; 8] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/ld.so.cache",
];
/// Folder that the program's root covers, in the child's namespace alone. Each host has it, and the program needs nothing in it.
const PLACE: &str = "/run";
/// Label of the loop device of an image.
const LABEL: &str = "xyl-boot-loader";
/// The first user of such programs. QEMU's users are below, up to 1901114111 (`QemuId::user` of the engine). The PID of the process that starts the program is
/// added, so no two programs are one user at a time.
const USERS_FROM: u32 = 1_902_000_000;
/// Linux's largest PID.
const PID_MAX: u32 = 1 << 22;
/// Options of the root's file system. It has folders, links and devices alone.
const ROOT_OPTIONS: &CStr = c"mode=755,size=1m,nr_inodes=256";
/// Options of the folder for output: two files that are as large as they may be, and a few more.
const OUTPUT_OPTIONS: [(&CStr, &CStr); 3] = [
    (c"mode", c"0700"),
    (c"size", c"513m"),
    (c"nr_inodes", c"32"),
];
/// The largest file that the program writes, in bytes.
const FILE_MAX_BYTES: u64 = 256 << 20;
/// Resources and their limits for the program. Python maps some hundred MiB of addresses at most.
const LIMITS: [(u32, u64); 8] = [
    (libc::RLIMIT_AS, 256 << 20),
    (libc::RLIMIT_FSIZE, FILE_MAX_BYTES),
    (libc::RLIMIT_CPU, 120),
    // With 0 the kernel would start the host's program for cores (core(5)).
    (libc::RLIMIT_CORE, 1),
    (libc::RLIMIT_NPROC, 6),
    (libc::RLIMIT_NOFILE, 64),
    (libc::RLIMIT_MEMLOCK, 0),
    (libc::RLIMIT_MSGQUEUE, 0),
];
/// The namespaces of the program.
const NAMESPACES: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;
/// The first descriptor that no standard file of the program has.
const ABOVE_STANDARD: RawFd = 3;
/// The last signal's number.
const SIGNAL_MAX: c_int = 64;

/// Commands and flags of the calls that make a mount without a place (`linux/mount.h`).
const FSOPEN_CLOEXEC: usize = 1;
const FSMOUNT_CLOEXEC: usize = 1;
const FSCONFIG_SET_STRING: usize = 1;
const FSCONFIG_CMD_CREATE: usize = 6;
const MOUNT_ATTR_NOSUID: usize = 2;
const MOUNT_ATTR_NODEV: usize = 4;
const MOUNT_ATTR_NOEXEC: usize = 8;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;

/// Runs the program to its end. An image becomes a loop device, which goes with the last descriptor of it, too.
pub(crate) fn extract(extraction: &Extraction<'_>) -> io::Result<Extracted> {
    let Extraction { launch, disk, .. } = extraction;
    let deadline = Instant::now() + extraction.limit;
    let until = (deadline, Some(extraction.is_cancelled));
    // A child has no way to report each reason why it could not become the program.
    File::open(launch.program())?;
    let user = USERS_FROM + std::process::id() % PID_MAX;
    let output = Output::make(user)?;
    let (device, _attached) = device_of(disk)?;
    let root = root_of(launch.program(), device)?;
    let null = open_null()?;
    let (errors, end) = io::pipe()?;
    let words = Words::of(launch)?;
    let child = Child {
        root: &root,
        place: text(Path::new(PLACE))?,
        output: (output.mount.as_raw_fd(), inside(OUTPUT_INSIDE)?),
        streams: [null.as_raw_fd(), end.as_raw_fd()],
        user,
        filters: filters_of_extraction().map_err(io::Error::other)?,
        args: pointers(&words.args),
        env: pointers(&words.env),
        path: &words.path,
    };
    let process = child.start()?;
    drop(end);
    // Where memory is short, it ends before QEMUs and daemons. It has no /proc to change that.
    let first = end_first(process.id());
    let ended = first.and_then(|()| run_until(until, launch, errors, &process));
    let ended = ended.inspect_err(|_| {
        // One that has been killed and waited for is no error here.
        let _ = process.kill();
    })?;
    let files = match ended.code {
        Some(0) => output.files()?,
        _ => Vec::new(),
    };
    Ok(Extracted { ended, files })
}

/// The block device of a disk, and what keeps it there.
fn device_of(disk: &OpenFile) -> io::Result<(libc::dev_t, Option<AttachedLoop>)> {
    let number = |device: DeviceNumber| libc::makedev(device.major, device.minor);
    match disk.facts().kind {
        FileKind::Block(device) => Ok((number(device), None)),
        FileKind::Regular => {
            let request = LoopRequest::whole(disk, true, LABEL);
            let attached = SystemLoopDevices.attach(&request)?;
            Ok((number(attached.facts().device), Some(attached)))
        }
        FileKind::Other => Err(ErrorKind::InvalidInput.into()),
    }
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The place in the child's namespace of a path in the program's root, before that is the root.
fn inside(path: impl AsRef<Path>) -> io::Result<CString> {
    let path = path.as_ref();
    text(&Path::new(PLACE).join(path.strip_prefix("/").unwrap_or(path)))
}

/// An entry of the program's root.
enum Entry {
    Folder(CString),
    /// An empty file, for a bind mount.
    File(CString),
    Link {
        target: CString,
        path: CString,
    },
    /// A file or folder of the host, without the right to write.
    Bind {
        from: CString,
        to: CString,
    },
    Device {
        path: CString,
        mode: libc::mode_t,
        number: libc::dev_t,
    },
}

/// The entries of the program's root, in the order in which they are made.
fn root_of(program: &Path, disk: libc::dev_t) -> io::Result<Vec<Entry>> {
    let mut root = Vec::new();
    let mut folders = Vec::new();
    for path in READABLE.map(Path::new) {
        add_readable(&mut root, &mut folders, path)?;
    }
    if !READABLE.iter().any(|path| program.starts_with(path)) {
        add_readable(&mut root, &mut folders, program)?;
    }
    for folder in [OUTPUT_INSIDE, "/dev"] {
        add_folders(&mut root, &mut folders, Path::new(folder))?;
    }
    let device = |path: &str, mode, number| {
        let path = inside(path)?;
        io::Result::Ok(Entry::Device { path, mode, number })
    };
    root.push(device(DISK_INSIDE, libc::S_IFBLK | 0o444, disk)?);
    let null = libc::makedev(1, 3);
    root.push(device("/dev/null", libc::S_IFCHR | 0o666, null)?);
    Ok(root)
}

/// Adds a path of the host, if it is there.
fn add_readable(root: &mut Vec<Entry>, folders: &mut Vec<PathBuf>, path: &Path) -> io::Result<()> {
    let Ok(facts) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let parent = path.parent().unwrap_or(Path::new("/"));
    add_folders(root, folders, parent)?;
    let (from, to) = (text(path)?, inside(path)?);
    if facts.is_symlink() && READABLE.iter().any(|known| path == Path::new(known)) {
        let target = text(&fs::read_link(path)?)?;
        root.push(Entry::Link { target, path: to });
        return Ok(());
    }
    root.push(match facts.is_dir() {
        true => Entry::Folder(to.clone()),
        false => Entry::File(to.clone()),
    });
    root.push(Entry::Bind { from, to });
    Ok(())
}

/// Adds a folder and those above it, each once.
fn add_folders(root: &mut Vec<Entry>, there: &mut Vec<PathBuf>, folder: &Path) -> io::Result<()> {
    let mut way: Vec<&Path> = folder.ancestors().collect();
    way.reverse();
    for folder in way.into_iter().skip(1) {
        if !there.iter().any(|one| one == folder) {
            there.push(folder.to_owned());
            root.push(Entry::Folder(inside(folder)?));
        }
    }
    Ok(())
}

/// The folder into which the program writes: a file system in memory.
struct Output {
    mount: OwnedFd,
}

impl Output {
    /// Makes it for a user, with the empty file for the answer.
    fn make(user: u32) -> io::Result<Output> {
        let number = CString::new(user.to_string())?;
        let system = new_descriptor(
            libc::SYS_fsopen,
            [address(c"tmpfs"), FSOPEN_CLOEXEC, 0, 0, 0],
        )?;
        let owner = [(c"uid", number.as_c_str()), (c"gid", number.as_c_str())];
        for (name, value) in OUTPUT_OPTIONS.into_iter().chain(owner) {
            let (name, value) = (address(name), address(value));
            configure(&system, [FSCONFIG_SET_STRING, name, value])?;
        }
        configure(&system, [FSCONFIG_CMD_CREATE, 0, 0])?;
        let flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        let mount = new_descriptor(
            libc::SYS_fsmount,
            [descriptor(&system), FSMOUNT_CLOEXEC, flags, 0, 0],
        )?;
        let output = Output { mount };
        let name = Path::new(ANSWER_INSIDE).file_name().unwrap_or_default();
        let answer = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(output.folder().join(name))?;
        std::os::unix::fs::fchown(&answer, Some(user), Some(user))?;
        Ok(output)
    }

    /// Its path for this process, by the descriptor: it has no other one.
    fn folder(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.mount.as_raw_fd()))
    }

    /// The regular files in it, or none if they are too many. Their writers have ended. The names are the program's, so no name is followed out of the folder.
    fn files(&self) -> io::Result<Vec<(String, File)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.folder())? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(self.folder().join(&name));
            let Ok(file) = opened else {
                continue;
            };
            if file.metadata()?.is_file() {
                files.push((name, file));
            }
        }
        if files.len() > EXTRACTED_FILES_MAX {
            files.clear();
        }
        Ok(files)
    }
}

fn address(text: &CStr) -> usize {
    text.as_ptr().expose_provenance()
}

fn descriptor(file: &OwnedFd) -> usize {
    file.as_raw_fd().unsigned_abs() as usize
}

fn configure(system: &OwnedFd, [command, name, value]: [usize; 3]) -> io::Result<()> {
    let arguments = [descriptor(system), command, name, value, 0];
    match system_call(libc::SYS_fsconfig, arguments) {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a call that returns a new descriptor.
fn new_descriptor(number: c_long, arguments: [usize; 5]) -> io::Result<OwnedFd> {
    match RawFd::try_from(system_call(number, arguments)) {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a call of those for mounts. They read texts at most, which end with a zero.
fn system_call(number: c_long, [a, b, c, d, e]: [usize; 5]) -> c_long {
    // SAFETY: the callers give numbers, null, and addresses of texts that outlive the call; the kernel reads them and writes nothing.
    unsafe { libc::syscall(number, a, b, c, d, e) }
}

/// All that the child needs.
struct Child<'a> {
    root: &'a [Entry],
    place: CString,
    /// The folder for output, and its place.
    output: (RawFd, CString),
    /// Standard input, and the file for standard output and error.
    streams: [RawFd; 2],
    user: u32,
    filters: [BpfProgram; 2],
    path: &'a CStr,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
}

/// The step at which a child has failed.
type Failed = &'static str;

/// Whether a call has succeeded.
fn check(result: impl Into<c_long>, step: Failed) -> Result<(), Failed> {
    match result.into() {
        0.. => Ok(()),
        _ => Err(step),
    }
}

impl Child<'_> {
    fn start(&self) -> io::Result<Process> {
        let flags = NAMESPACES | libc::SIGCHLD;
        // SAFETY: without `CLONE_VM` and with no stack of its own the child goes on here on a copy of this memory, as after `fork`. It runs
        // `become_program`, which never returns, so it drops no value. Of this process's threads it has only this one, and it uses no
        // lock: it calls the kernel, by functions of the C library that do nothing else.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        match libc::pid_t::try_from(pid) {
            Ok(0) => self.become_program(),
            Ok(pid) if pid > 0 => Process::of_child(pid),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The child. What fails is said where the program's errors go.
    fn become_program(&self) -> ! {
        let step = match self.prepare() {
            Ok(()) => "start it",
            Err(step) => step,
        };
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let mut said = [0; 256];
        let mut rest = said.as_mut_slice();
        let _ = writeln!(rest, "it was not started: cannot {step} (errno {errno})");
        let size = 256 - rest.len();
        // SAFETY: the first call reads the text, which is ours; the second takes a number and does not return.
        unsafe {
            libc::write(libc::STDERR_FILENO, said.as_ptr().cast(), size);
            libc::_exit(NO_PROGRAM)
        }
    }

    /// Returns where a step has failed, or the program could not be started.
    fn prepare(&self) -> Result<(), Failed> {
        let output = self.take_files()?;
        self.make_root(output)?;
        self.enter_root()?;
        // SAFETY: the calls take numbers.
        unsafe {
            let first = ABOVE_STANDARD.unsigned_abs();
            let closed = libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
            check(closed, "close the files of its parent")?;
        }
        set_limits()?;
        self.leave_root_user()?;
        set_default_actions();
        for filter in &self.filters {
            let set = seccompiler::apply_filter(filter);
            set.map_err(|_| "set its filters: the kernel needs CONFIG_SECCOMP_FILTER")?;
        }
        // SAFETY: path, arguments and environment are texts, and lists of addresses of texts with a null pointer at the end.
        unsafe { libc::execve(self.path.as_ptr(), self.args.as_ptr(), self.env.as_ptr()) };
        Ok(())
    }

    /// Takes a session of its own, and its standard files. Returns the descriptor of the folder for output. All are moved away first,
    /// because a standard file of this process may be closed, and one of them may have its descriptor.
    fn take_files(&self) -> Result<RawFd, Failed> {
        const STEP: Failed = "take its files";
        let [input, output] = self.streams;
        // SAFETY: the calls take numbers.
        unsafe {
            libc::setsid();
            let moved = [input, output, self.output.0];
            let [input, output, folder] =
                moved.map(|file| libc::fcntl(file, libc::F_DUPFD, ABOVE_STANDARD));
            for (file, target) in [(input, 0), (output, 1), (output, 2)] {
                check(libc::dup2(file, target), STEP)?;
            }
            check(folder, STEP)?;
            Ok(folder)
        }
    }

    /// Makes the program's root at its place.
    fn make_root(&self, output: RawFd) -> Result<(), Failed> {
        let none = ptr::null();
        let mount = |from: *const c_char, to: &CStr, kind: *const c_char, flags, options| {
            // SAFETY: the call reads texts that outlive it, or gets null pointers.
            unsafe { libc::mount(from, to.as_ptr(), kind, flags, options) }
        };
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(
            mount(none, c"/", none, private, ptr::null()),
            "keep its mounts from the host",
        )?;
        // SAFETY: the call takes a number.
        unsafe { libc::umask(0) };
        let (kind, options) = (c"tmpfs".as_ptr(), ROOT_OPTIONS.as_ptr().cast());
        let made = mount(kind, &self.place, kind, libc::MS_NOSUID, options);
        check(made, "make its root")?;
        for entry in self.root {
            make_entry(entry)?;
        }
        let arguments = [
            output.unsigned_abs() as usize,
            address(c""),
            libc::AT_FDCWD as usize,
            address(&self.output.1),
            MOVE_MOUNT_F_EMPTY_PATH,
        ];
        let moved = system_call(libc::SYS_move_mount, arguments);
        check(moved, "mount its folder for output")?;
        let sealed = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID;
        check(
            mount(none, &self.place, none, sealed, ptr::null()),
            "make its root read-only",
        )
    }

    /// Makes it the root of the namespace.
    fn enter_root(&self) -> Result<(), Failed> {
        const STEP: Failed = "enter its root";
        // SAFETY: the calls read texts that outlive them, or get null pointers.
        unsafe {
            check(libc::chdir(self.place.as_ptr()), STEP)?;
            let (here, root) = (c".".as_ptr(), c"/".as_ptr());
            let moved = libc::mount(here, root, ptr::null(), libc::MS_MOVE, ptr::null());
            check(moved, STEP)?;
            check(libc::chroot(here), STEP)?;
            check(libc::chdir(root), STEP)?;
            libc::umask(0o077);
        }
        Ok(())
    }

    /// Becomes its user, which drops all capabilities, and gives up the way to new rights. Linux forgets the signal at the parent's death
    /// when the user changes, so it is set after that.
    fn leave_root_user(&self) -> Result<(), Failed> {
        let user = self.user;
        // SAFETY: the calls take numbers and null pointers. By way of the kernel alone: the C library would have other threads follow, and
        // here are none.
        unsafe {
            let none = ptr::null::<libc::gid_t>();
            let groups = libc::syscall(libc::SYS_setgroups, 0, none);
            check(groups, "leave root's groups")?;
            let group = libc::syscall(libc::SYS_setresgid, user, user, user);
            check(group, "leave root's group")?;
            let left = libc::syscall(libc::SYS_setresuid, user, user, user);
            check(left, "become another user")?;
            let bound = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            check(bound, "end with its parent")?;
            let no_new = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            check(no_new, "give up the way to new rights")?;
        }
        match has_reader() {
            true => Ok(()),
            false => Err("go on without its parent"),
        }
    }
}

/// Whether the process that reads the program's errors is there: the parent. It may have ended before the child asked for the signal at
/// its end.
fn has_reader() -> bool {
    let mut errors = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the call reads and writes one structure, which is ours and outlives it.
    let found = unsafe { libc::poll(&raw mut errors, 1, 0) };
    found >= 0 && errors.revents & libc::POLLERR == 0
}

fn make_entry(entry: &Entry) -> Result<(), Failed> {
    let none = ptr::null();
    // SAFETY: the calls take numbers, and texts that outlive them.
    unsafe {
        match entry {
            Entry::Folder(path) => check(libc::mkdir(path.as_ptr(), 0o755), "make a folder"),
            Entry::File(path) => {
                let made = libc::mknod(path.as_ptr(), libc::S_IFREG | 0o444, 0);
                check(made, "make a file")
            }
            Entry::Link { target, path } => {
                let made = libc::symlink(target.as_ptr(), path.as_ptr());
                check(made, "make a link")
            }
            Entry::Bind { from, to } => {
                let (from, to) = (from.as_ptr(), to.as_ptr());
                let bound = libc::mount(from, to, none, libc::MS_BIND, ptr::null());
                check(bound, "mount a folder of the system")?;
                let sealed = libc::MS_REMOUNT
                    | libc::MS_BIND
                    | libc::MS_RDONLY
                    | libc::MS_NOSUID
                    | libc::MS_NODEV;
                let sealed = libc::mount(none, to, none, sealed, ptr::null());
                check(sealed, "make a folder of the system read-only")
            }
            Entry::Device { path, mode, number } => {
                let made = libc::mknod(path.as_ptr(), *mode, *number);
                check(made, "make a device")
            }
        }
    }
}

fn set_limits() -> Result<(), Failed> {
    for (resource, most) in LIMITS {
        let both = [most, most];
        let none = ptr::null_mut::<[u64; 2]>();
        // SAFETY: the call reads two numbers of 64 bits, which outlive it, and gets a null pointer for the old ones.
        let set = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, both.as_ptr(), none) };
        check(set, "set its limits")?;
    }
    Ok(())
}

/// Sets all signals to their default action, and blocks none: this process may ignore some, or block them.
fn set_default_actions() {
    let none: u64 = 0;
    // SAFETY: the calls take numbers, and a set of signals of the length that the kernel has, which outlives them.
    unsafe {
        for signal in 1..=SIGNAL_MAX {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut::<u64>(),
            size_of::<u64>(),
        );
    }
}

/// An image that begins with these bytes; `None` where this process may run no such program.
#[cfg(test)]
pub(crate) fn image_of_test(bytes: &[u8]) -> Option<OpenFile> {
    use os_port::{Files, Opening, SystemFiles};

    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("xen-sys-disk-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, [bytes, &[0; 4096]].concat()).unwrap();
    let opened = SystemFiles.open(&path, &Opening::disk(false)).unwrap();
    fs::remove_file(&path).unwrap();
    let may_run = device_of(&opened).is_ok() && Output::make(0).is_ok();
    if !may_run {
        eprintln!("not checked: this process may make no namespaces or loop devices");
    }
    may_run.then_some(opened)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use os_port::Launch;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);
    /// A script that is cancelled.
    const CANCELLED: &str = "exec sleep 1001";
    /// A process runs one program at a time.
    static ONE: Mutex<()> = Mutex::new(());

    fn run(script: &str, limit: Duration) -> Option<io::Result<Extracted>> {
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let image = image_of_test(b"text of the guest\n")?;
        let shell = Launch::new(Path::new("/bin/sh")).unwrap();
        let launch = shell.args(["-c", script]);
        Some(extract(&Extraction {
            launch: &launch,
            disk: &image,
            limit,
            is_cancelled: &|| script == CANCELLED,
        }))
    }

    fn said(extracted: &Extracted) -> String {
        String::from_utf8_lossy(&extracted.ended.errors).into_owned()
    }

    #[test]
    fn a_program_reads_the_disk_and_its_files_come_back() {
        let script = "head -c 17 /disk >/output/kernel && printf 'kernel /output/kernel' >/output/answer && ln -s /usr/bin/env /output/link && mkdir /output/folder";
        let Some(extracted) = run(script, LIMIT) else {
            return;
        };
        let extracted = extracted.unwrap();
        assert_eq!(extracted.ended.code, Some(0), "{}", said(&extracted));
        let mut found: Vec<(String, String)> = Vec::new();
        for (name, mut file) in extracted.files {
            let mut contents = String::new();
            file.read_to_string(&mut contents).unwrap();
            found.push((name, contents));
        }
        found.sort();
        let wanted = [
            ("answer", "kernel /output/kernel"),
            ("kernel", "text of the guest"),
        ];
        let wanted = wanted.map(|(name, contents)| (name.to_owned(), contents.to_owned()));
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_program_has_no_rights_and_sees_nothing_else_of_the_host() {
        // Each line that is printed is a way out.
        let script = "\
            echo x >/disk && echo disk; echo x >/usr/x && echo usr; echo x >/x && echo root; mkdir /dev/x && echo dev; \
            for place in /proc /sys /run /var /home /root /tmp /etc/passwd; do [ -e $place ] && echo $place; done; \
            mount -t tmpfs x /output 2>/dev/null && echo mount; unshare -U true 2>/dev/null && echo unshare; mkfifo /output/fifo 2>/dev/null && echo fifo; \
            [ $(id -u) -gt 1902000000 ] && [ $(id -G) -gt 1902000000 ] || echo user; \
            [ $$ = 1 ] || echo pid; ls / | tr '\\n' ' ' >/output/answer; exit 0";
        let Some(extracted) = run(script, LIMIT) else {
            return;
        };
        let mut extracted = extracted.unwrap();
        let said = said(&extracted);
        let wrong: Vec<&str> = said.lines().filter(|line| !line.contains(": ")).collect();
        assert!(wrong.is_empty(), "{said}");
        let mut there = String::new();
        extracted.files[0].1.read_to_string(&mut there).unwrap();
        let known = [
            "bin", "dev", "disk", "etc", "lib", "lib32", "lib64", "libx32", "output", "sbin", "usr",
        ];
        assert!(
            there.split_whitespace().all(|name| known.contains(&name)),
            "{there}"
        );
    }

    #[test]
    fn limits_end_a_program_and_a_failure_leaves_no_file() {
        let Some(failed) = run("echo x >/output/kernel; echo why >&2; exit 3", LIMIT) else {
            return;
        };
        let failed = failed.unwrap();
        assert_eq!((failed.ended.code, failed.files.len()), (Some(3), 0));
        assert_eq!(said(&failed), "why\n");
        let late = run("sleep 1000 & sleep 1000", Duration::from_millis(300)).unwrap();
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
        let cancelled = run(CANCELLED, LIMIT).unwrap().unwrap_err();
        assert_eq!(cancelled.kind(), ErrorKind::Interrupted);
        let many = "for n in 1 2 3 4 5 6 7 8 9; do : >/output/$n; done";
        assert!(run(many, LIMIT).unwrap().unwrap().files.is_empty());
        let large = run("yes | head -c 300000000 >/output/kernel", LIMIT)
            .unwrap()
            .unwrap();
        assert_ne!(large.ended.code, Some(0));
    }

    #[test]
    fn all_that_a_program_has_started_ends_with_it() {
        let Some(extracted) = run("setsid sleep 1000 & exit 0", LIMIT) else {
            return;
        };
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(extracted.unwrap().ended.code, Some(0));
        let user = (USERS_FROM + std::process::id()).to_string();
        for entry in fs::read_dir("/proc").unwrap() {
            let status = fs::read_to_string(entry.unwrap().path().join("status"));
            let uid = format!("Uid:\t{user}\t");
            assert!(!status.is_ok_and(|status| status.contains(&uid)));
        }
    }
}
