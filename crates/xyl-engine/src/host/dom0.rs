//! What domain 0's kernel shows of the host: processes, network interfaces, loop devices, and the
//! devices that it serves to guests.
//!
//! Facts: proc(5); `/sys/block/loopN/loop/backing_file`; `/sys/bus/xen-backend/devices/KIND-DOMID-ID`.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use os_port::{Launch, Spawn, run_to_success};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use xen_port::DomId;
use xen_sys::SystemSpawn;

/// Largest file of the kernel's that is read, in bytes: the mappings of a process with very many.
const FILE_MAX_BYTES: u64 = 16 << 20;
/// How long a command of the system, or a process that is to end, may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The devices through which a process maps the memory of other domains.
const MAPPING_DEVICES: [&str; 3] = ["/dev/xen/privcmd", "/proc/xen/privcmd", "/dev/xen/gntdev"];

/// Where the kernel shows it.
#[derive(Clone, Debug)]
pub struct Kernel {
    proc: PathBuf,
    sys: PathBuf,
    spawn: Rc<dyn Spawn>,
}

/// A running process of domain 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Process id (PID).
    pub pid: u32,
    /// When it was started, in the kernel's clock ticks: a number that is used again belongs to another process.
    started: u64,
    /// Whether it is root's: the real, effective, saved and file system's user. What another user's process says in its
    /// arguments and files is that user's word.
    pub is_roots: bool,
    /// Its arguments, its own name first.
    pub args: Vec<String>,
}

impl Program {
    /// The last part of the name that it goes by.
    pub fn name(&self) -> &str {
        let name = self.args.first().map_or("", String::as_str);
        name.rsplit('/').next().unwrap_or(name)
    }

    /// What was typed to start it, shortened.
    pub fn line(&self) -> String {
        let line = self.args.join(" ");
        let printable = line.chars().map(|c| if c.is_control() { ' ' } else { c });
        printable.take(120).collect()
    }

    /// The argument after `option`.
    pub fn option(&self, option: &str) -> Option<&str> {
        let mut args = self.args.iter().skip_while(|arg| *arg != option);
        args.nth(1).map(String::as_str)
    }
}

impl Kernel {
    /// The kernel of this host.
    pub fn system() -> Kernel {
        Kernel::below(Path::new("/"))
    }

    /// The same folders below `root`.
    pub fn below(root: &Path) -> Kernel {
        Kernel {
            proc: root.join("proc"),
            sys: root.join("sys"),
            spawn: Rc::new(SystemSpawn),
        }
    }

    /// All processes of this machine that have arguments, which threads of the kernel have not.
    pub fn programs(&self) -> Vec<Program> {
        let pids = names(&self.proc).into_iter();
        let mut programs: Vec<Program> = pids
            .filter_map(|name| self.program(name.parse().ok()?))
            .collect();
        programs.sort_by_key(|program| program.pid);
        programs
    }

    /// One process, unless it has ended.
    pub fn program(&self, pid: u32) -> Option<Program> {
        let started = self.started(pid)?;
        let args = read(&self.of(pid, "cmdline")).ok()?;
        let args = args.strip_suffix(&[0]).unwrap_or(&args);
        let args: Vec<String> = args
            .split(|byte| *byte == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect();
        let has_args = args.iter().any(|arg| !arg.is_empty());
        has_args.then_some(Program {
            pid,
            started,
            is_roots: self.is_roots(pid),
            args,
        })
    }

    /// Whether a process is root's. The owner of its folder does not tell: that is root for each process that has made
    /// itself not dumpable (proc(5)).
    fn is_roots(&self, pid: u32) -> bool {
        let text = read(&self.of(pid, "status")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let uids = text.lines().find_map(|line| line.strip_prefix("Uid:"));
        uids.is_some_and(|uids| uids.split_whitespace().eq(["0"; 4]))
    }

    fn started(&self, pid: u32) -> Option<u64> {
        self.stat(pid, 22)?.parse().ok()
    }

    /// Whether a process has been stopped by a signal, or has ended.
    pub fn is_stopped(&self, pid: u32) -> bool {
        self.stat(pid, 3)
            .is_none_or(|state| matches!(state.as_str(), "T" | "Z" | "X"))
    }

    /// A field of `stat` after the second, which is in brackets and may hold anything.
    fn stat(&self, pid: u32, field: usize) -> Option<String> {
        let text = read(&self.of(pid, "stat")).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        fields.nth(field.checked_sub(3)?).map(str::to_owned)
    }

    fn of(&self, pid: u32, file: &str) -> PathBuf {
        self.proc.join(pid.to_string()).join(file)
    }

    /// What a descriptor of a process stands for.
    pub fn descriptor(&self, pid: u32, number: u32) -> Option<PathBuf> {
        fs::read_link(self.of(pid, "fd").join(number.to_string())).ok()
    }

    /// Opens the file that a descriptor of a process stands for, to read it: that very file, whatever its path leads to
    /// now. `None` unless it is a regular file of this process's user. Nothing else is opened: a FIFO would make this
    /// process wait, and a device may act.
    pub fn open_descriptor(&self, pid: u32, number: u32) -> Option<fs::File> {
        let path = self.of(pid, "fd").join(number.to_string());
        let place = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&place).ok()?;
        let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_regular || stat.st_uid != geteuid().as_raw() {
            return None;
        }
        let place = format!("/proc/self/fd/{}", place.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(place, flags, Mode::empty()).ok()?;
        Some(fs::File::from(opened))
    }

    /// Whether a process can talk to the hypervisor: only then can it make a domain. One that cannot be
    /// looked into is taken for one that can.
    pub fn can_make_domains(&self, pid: u32) -> bool {
        let folder = self.of(pid, "fd");
        let Ok(entries) = fs::read_dir(&folder) else {
            return self.started(pid).is_some();
        };
        let targets = entries
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        targets
            .filter_map(|target| target.to_str().map(|text| text.ends_with("xen/privcmd")))
            .any(|is_it| is_it)
    }

    /// How much memory of other domains a process maps, in KiB, by the device that it is mapped through.
    pub fn foreign_mappings(&self, pid: u32) -> Vec<(&'static str, u64)> {
        let text = read(&self.of(pid, "maps")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut found = Vec::new();
        for device in MAPPING_DEVICES {
            let lines = text.lines().filter(|line| line.ends_with(device));
            let kib: u64 = lines.filter_map(size_kib).sum();
            if kib > 0 {
                found.push((device, kib));
            }
        }
        found
    }

    /// The devices that this kernel serves to a domain, such as `vif-5-0`.
    pub fn devices_served_to(&self, domid: DomId) -> Vec<String> {
        let mut found = names(&self.sys.join("bus/xen-backend/devices"));
        let middle = format!("-{domid}-");
        found.retain(|name| name.contains(&middle));
        found.sort_unstable();
        found
    }

    /// The names of network interfaces that netback made, or a program by way of tun(4), as QEMU does. Whatever
    /// its name, a VLAN or another interface that lies on top of one is none of them.
    pub fn guest_interfaces(&self) -> Vec<String> {
        let mut found = names(&self.sys.join("class/net"));
        found.retain(|name| self.is_of_netback_or_tun(name));
        found.sort_unstable();
        found
    }

    /// Netback's interfaces have a device on the bus xen-backend, and tun's a file `tun_flags`.
    fn is_of_netback_or_tun(&self, name: &str) -> bool {
        let folder = self.sys.join("class/net").join(name);
        let bus = fs::read_link(folder.join("device/subsystem")).unwrap_or_default();
        let is_netbacks = bus.file_name().is_some_and(|bus| bus == "xen-backend");
        let is_on_another = names(&folder)
            .iter()
            .any(|entry| entry.starts_with("lower_"));
        (is_netbacks || folder.join("tun_flags").exists()) && !is_on_another
    }

    /// The file behind a loop device, such as `loop0`; `None` where there is none.
    pub fn backing_file(&self, device: &str) -> Option<PathBuf> {
        let path = self
            .sys
            .join("block")
            .join(device)
            .join("loop/backing_file");
        let text = String::from_utf8(read(&path).ok()?).ok()?;
        Some(PathBuf::from(text.trim_end_matches('\n')))
    }

    /// Whether something on this host is mounted from a device, such as `/dev/loop0`, or has it in use by
    /// another device.
    pub fn is_in_use(&self, device: &str) -> bool {
        let mounts = read(&self.proc.join("self/mounts")).unwrap_or_default();
        let text = String::from_utf8_lossy(&mounts).into_owned();
        let node = format!("/dev/{device}");
        let is_mounted = text.lines().any(|line| {
            line.split(' ')
                .next()
                .is_some_and(|from| from.starts_with(&node))
        });
        let holders = names(&self.sys.join("block").join(device).join("holders"));
        is_mounted || !holders.is_empty()
    }

    /// Runs a program of the system, such as `losetup`; what it says on standard error where it fails.
    pub fn run(&self, program: &str, args: &[&str]) -> io::Result<()> {
        let launch = Launch::of_system(program)?.args(args);
        run_to_success(&*self.spawn, &launch, LIMIT)
    }

    /// Ends a process: asks it to, and after a while does not ask. One that has ended is fine.
    pub fn end(&self, program: &Program) -> io::Result<()> {
        for signal in [Signal::TERM, Signal::KILL] {
            let Some(process) = self.hold(program)? else {
                return Ok(());
            };
            process.send(signal)?;
            if process.has_ended_within(LIMIT)? {
                return Ok(());
            }
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("process {} does not end", program.pid),
        ))
    }

    /// Takes hold of a process, so that a signal reaches it and no other that gets its number.
    pub fn hold(&self, program: &Program) -> io::Result<Option<Held>> {
        let Some(pid) = i32::try_from(program.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            other => Held(other?),
        };
        let is_it = self.started(program.pid) == Some(program.started);
        Ok(is_it.then_some(process))
    }
}

/// A process that is held: its number cannot become another's.
#[derive(Debug)]
pub struct Held(rustix::fd::OwnedFd);

impl Held {
    /// Sends it a signal; one that has ended is fine.
    pub fn send(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Err(Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Whether it ends within a time.
    pub fn has_ended_within(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        Ok(poll(&mut polled, Some(&limit))? > 0)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(FILE_MAX_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The names in a folder; none where it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// The size of a mapping, from its line in `maps`.
fn size_kib(line: &str) -> Option<u64> {
    let (from, rest) = line.split_once('-')?;
    let (to, _) = rest.split_once(' ')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some(address(to)?.checked_sub(address(from)?)? / 1024)
}

/// A process of root as its kernel shows it, for tests of those who look for one.
#[cfg(test)]
pub(crate) fn pretend_process(
    root: &Path,
    pid: u32,
    args: &[&str],
    descriptors: &[(u32, &Path)],
    maps: &str,
) {
    let folder = root.join("proc").join(pid.to_string());
    fs::create_dir_all(folder.join("fd")).unwrap();
    fs::write(folder.join("cmdline"), args.join("\0") + "\0").unwrap();
    let stat = format!("{pid} (a) b) S 1 {}77 0", "0 ".repeat(17));
    fs::write(folder.join("stat"), stat).unwrap();
    fs::write(folder.join("maps"), maps).unwrap();
    pretend_uid(root, pid, 0);
    for (number, target) in descriptors {
        std::os::unix::fs::symlink(target, folder.join("fd").join(number.to_string())).unwrap();
    }
}

/// From now on that process is this user's.
#[cfg(test)]
pub(crate) fn pretend_uid(root: &Path, pid: u32, uid: u32) {
    let status = root.join("proc").join(pid.to_string()).join("status");
    let text = format!("Name:\ta\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t0\t0\t0\t0\n");
    fs::write(status, text).unwrap();
}

/// An interface as the kernel shows one of netback's.
#[cfg(test)]
pub(crate) fn pretend_netback(root: &Path, name: &str) {
    let device = root.join("sys/class/net").join(name).join("device");
    fs::create_dir_all(&device).unwrap();
    std::os::unix::fs::symlink("../../../bus/xen-backend", device.join("subsystem")).unwrap();
}

/// An interface as the kernel shows one of tun's.
#[cfg(test)]
pub(crate) fn pretend_tun(root: &Path, name: &str) {
    let folder = root.join("sys/class/net").join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("tun_flags"), "0x1002\n").unwrap();
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::*;

    const MAPS: &str = "\
7f0000000000-7f0000001000 rw-s 00000000 00:05 123    /dev/xen/privcmd
7f0000002000-7f0000006000 rw-s 00000000 00:05 124    /dev/xen/gntdev
7f0000006000-7f0000008000 rw-s 00001000 00:05 124    /dev/xen/gntdev
7f0000010000-7f0000020000 r--p 00000000 00:05 125    /usr/lib/privcmd
";

    #[test]
    fn a_process_is_shown_with_what_it_holds() {
        let root = tempfile::tempdir().unwrap();
        let privcmd = Path::new("/dev/xen/privcmd");
        pretend_process(
            root.path(),
            12,
            &["/usr/bin/qemu", "-xen-domid", "7"],
            &[(4, privcmd)],
            MAPS,
        );
        pretend_process(root.path(), 3, &["sh"], &[], "");
        let kernel = Kernel::below(root.path());
        let programs = kernel.programs();
        assert_eq!(programs.len(), 2);
        let qemu = &programs[1];
        assert_eq!((qemu.pid, qemu.started, qemu.name()), (12, 77, "qemu"));
        assert_eq!(qemu.option("-xen-domid"), Some("7"));
        assert_eq!(
            kernel.foreign_mappings(12),
            [("/dev/xen/privcmd", 4), ("/dev/xen/gntdev", 24)]
        );
        assert!(kernel.can_make_domains(12) && !kernel.can_make_domains(3));
        assert!(!kernel.can_make_domains(99), "it has ended");
    }

    #[test]
    fn a_process_is_roots_only_if_all_its_users_are() {
        let root = tempfile::tempdir().unwrap();
        pretend_process(root.path(), 3, &["sh"], &[], "");
        let kernel = Kernel::below(root.path());
        assert!(kernel.program(3).unwrap().is_roots);
        let status = root.path().join("proc/3/status");
        for uids in [
            "1000\t0\t0\t0",
            "0\t0\t0\t1000",
            "65534\t65534\t65534\t65534",
            "0",
        ] {
            fs::write(&status, format!("Uid:\t{uids}\n")).unwrap();
            assert!(!kernel.program(3).unwrap().is_roots, "{uids}");
        }
        fs::remove_file(&status).unwrap();
        assert!(!kernel.program(3).unwrap().is_roots);
    }

    #[test]
    fn only_regular_files_of_this_user_are_opened() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        let pipe = root.path().join("pipe");
        fs::write(&file, "text").unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        let null = Path::new("/dev/null");
        let descriptors: [(u32, &Path); 3] = [(1, &file), (2, &pipe), (3, null)];
        pretend_process(root.path(), 3, &["sh"], &descriptors, "");
        let kernel = Kernel::below(root.path());
        let text = kernel.open_descriptor(3, 1).map(io::read_to_string);
        assert_eq!(text.unwrap().unwrap(), "text");
        for number in [2, 3, 4] {
            assert!(kernel.open_descriptor(3, number).is_none());
        }
        // Only root can give a file away.
        if std::os::unix::fs::chown(&file, Some(65534), None).is_ok() {
            assert!(kernel.open_descriptor(3, 1).is_none());
        }
    }

    #[test]
    fn a_process_is_ended_and_no_other_that_has_its_number() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // A process in the middle of its exec has no command line yet: wait until it answers.
        child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let kernel = Kernel::system();
        let program = kernel.program(child.id());
        let program = program.expect("a child of this process");
        let other = Program {
            started: program.started + 1,
            ..program.clone()
        };
        assert!(kernel.hold(&other).unwrap().is_none());
        kernel.end(&program).unwrap();
        assert!(!child.wait().unwrap().success());
        kernel.end(&program).unwrap();
    }

    #[test]
    fn a_program_that_fails_says_why() {
        let kernel = Kernel::system();
        kernel.run("true", &[]).unwrap();
        let error = kernel.run("ls", &["/nosuch"]).unwrap_err().to_string();
        assert!(error.contains("/nosuch"), "{error}");
        let missing = kernel.run("no-such-program", &[]).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
