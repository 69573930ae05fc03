//! Domain 0's kernel, as procfs and sysfs show it: processes, network interfaces, loop devices, and devices that
//! backends serve to guests.
//!
//! `host::holders`, `host::xl_process`, `recover::fsck` and `supervise::adopt` use this module.
//!
//! Facts: proc(5); `/sys/block/loopN/loop/backing_file`; `/sys/bus/xen-backend/devices/KIND-DOMID-ID`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use os_port::{
    Clock, HeldProcess, KernelFiles, Launch, ProcessSignal, Spawn, SystemClock, SystemKernelFiles,
    ends_within, run_to_success,
};
use xen_port::DomId;
use xen_sys::SystemSpawn;

/// The user of domain 0's own QEMU would be this; that of domain D is D more. systemd's table of user ids leaves this range free.
const QEMU_USERS_FROM: u32 = 1_900_000_000;
/// The distance from the user of a domain's QEMU to that of its next one. No domid is as large.
const QEMU_USERS_STEP: u32 = 1 << 16;
/// The largest number of a domain's QEMU that serves devices.
pub(crate) const QEMU_NUMBER_MAX: u16 = 16;
/// The number of the device model of an HVM guest.
const DEVICE_MODEL: u16 = QEMU_NUMBER_MAX + 1;
/// Time limit for a system command, and for a process to end after a signal.
const LIMIT: Duration = Duration::from_secs(10);
/// Starts of the names of QEMU's file: its own, and Debian's for Xen.
const QEMUS: [&str; 2] = ["qemu", "xen-qemu-system-"];
/// Folder of all processes.
const PROC: &str = "/proc";
/// The list of users (passwd(5)).
const USERS: &str = "/etc/passwd";
/// Folder of all network interfaces.
const NET: &str = "/sys/class/net";
/// Folder of all block devices.
const BLOCK: &str = "/sys/block";
/// Devices through which a process maps memory of other domains.
const MAPPING_DEVICES: [&str; 3] = ["/dev/xen/privcmd", "/proc/xen/privcmd", "/dev/xen/gntdev"];

/// One QEMU of a domain. Number 0 serves what the domain has from its start. The last one is the device model of an HVM guest. Each other one
/// serves one disk that was attached later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QemuId {
    /// The domain that it serves.
    pub domid: DomId,
    /// Number of it.
    pub number: u16,
}

impl QemuId {
    /// The QEMU with which a domain starts.
    pub fn first(domid: DomId) -> QemuId {
        QemuId { domid, number: 0 }
    }

    /// The device model of an HVM guest.
    pub fn device_model(domid: DomId) -> QemuId {
        let number = DEVICE_MODEL;
        QemuId { domid, number }
    }

    /// A QEMU of a disk that was attached later. `None`: there is none of this number.
    pub(crate) fn later(domid: DomId, number: u16) -> Option<QemuId> {
        (1..=QEMU_NUMBER_MAX)
            .contains(&number)
            .then_some(QemuId { domid, number })
    }

    /// All that a domain can have.
    pub(crate) fn all(domid: DomId) -> impl Iterator<Item = QemuId> {
        (0..=DEVICE_MODEL).map(move |number| QemuId { domid, number })
    }

    /// The QEMU that has this user; `None` for the user of no QEMU of Xyl's.
    fn of_user(uid: u32) -> Option<QemuId> {
        let offset = uid.checked_sub(QEMU_USERS_FROM)?;
        let number = u16::try_from(offset / QEMU_USERS_STEP).ok();
        let domid = u16::try_from(offset % QEMU_USERS_STEP).ok()?;
        let number = number.filter(|number| *number <= DEVICE_MODEL)?;
        Some(QemuId {
            domid: DomId(domid),
            number,
        })
    }

    /// The user that it becomes. No other process has this user.
    pub(crate) fn user(self) -> u32 {
        QEMU_USERS_FROM + u32::from(self.number) * QEMU_USERS_STEP + u32::from(self.domid.0)
    }
}

/// The procfs, sysfs and devfs of domain 0.
#[derive(Clone)]
pub struct Kernel {
    files: Rc<dyn KernelFiles>,
    spawn: Rc<dyn Spawn>,
    clock: Rc<dyn Clock>,
}

/// A running process of domain 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Process id (PID).
    pub pid: u32,
    /// Start time in the kernel's clock ticks. With it, a later process with the same PID is recognised.
    started: u64,
    /// Whether its real, effective, saved and file system user are all root. Other users control their processes'
    /// arguments and files, so these prove nothing.
    pub is_roots: bool,
    /// Command line of the process, its name first.
    pub args: Vec<String>,
}

impl Program {
    /// Last part of the program's path.
    pub fn name(&self) -> &str {
        let name = self.args.first().map_or("", String::as_str);
        name.rsplit('/').next().unwrap_or(name)
    }

    /// The command line as one text, shortened.
    pub fn line(&self) -> String {
        let line = self.args.join(" ");
        let printable = line.chars().map(|c| if c.is_control() { ' ' } else { c });
        printable.take(120).collect()
    }

    /// The argument after `option`, if it is there.
    pub fn option(&self, option: &str) -> Option<&str> {
        let mut args = self.args.iter().skip_while(|arg| *arg != option);
        args.nth(1).map(String::as_str)
    }
}

impl Kernel {
    /// The folders of this host.
    pub fn system() -> Kernel {
        Kernel::below(Path::new("/"))
    }

    /// The same folders below `root`.
    pub fn below(root: &Path) -> Kernel {
        Kernel::new(
            Rc::new(SystemKernelFiles::below(root)),
            Rc::new(SystemSpawn),
            Rc::new(SystemClock),
        )
    }

    /// The kernel behind these ports.
    pub fn new(files: Rc<dyn KernelFiles>, spawn: Rc<dyn Spawn>, clock: Rc<dyn Clock>) -> Kernel {
        Kernel {
            files,
            spawn,
            clock,
        }
    }

    /// The port to procfs and sysfs.
    pub(super) fn files(&self) -> &dyn KernelFiles {
        &*self.files
    }

    /// The text of a file; empty if it cannot be read.
    pub(super) fn text(&self, path: &Path) -> String {
        let bytes = self.files.read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The names in a folder; none if it cannot be read.
    pub(super) fn names(&self, folder: &Path) -> Vec<String> {
        self.files.list(folder).unwrap_or_default()
    }

    /// The TCP ports at which programs of this host listen, at any address.
    pub fn listened_ports(&self) -> BTreeSet<u16> {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| self.text(Path::new(path)));
        let lines = tables.iter().flat_map(|table| table.lines());
        lines.filter_map(listened_port).collect()
    }

    /// Returns all processes with arguments. Kernel threads have none.
    pub fn programs(&self) -> Vec<Program> {
        let pids = self.names(Path::new(PROC)).into_iter();
        let mut programs: Vec<Program> = pids
            .filter_map(|name| self.program(name.parse().ok()?))
            .collect();
        programs.sort_by_key(|program| program.pid);
        programs
    }

    /// Returns one process. `None` if it has ended.
    pub fn program(&self, pid: u32) -> Option<Program> {
        let program = self.process(pid)?;
        let has_args = program.args.iter().any(|arg| !arg.is_empty());
        has_args.then_some(program)
    }

    /// A process, with or without arguments.
    fn process(&self, pid: u32) -> Option<Program> {
        let started = self.started(pid)?;
        let args = self.files.read(&self.of(pid, "cmdline")).ok()?;
        let args = args.strip_suffix(&[0]).unwrap_or(&args);
        let args = args
            .split(|byte| *byte == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned());
        Some(Program {
            pid,
            started,
            is_roots: self.is_roots(pid),
            args: args.collect(),
        })
    }

    /// Whether a user may have a process. One call of the kernel.
    pub(crate) fn may_have_process_of(&self, uid: u32) -> bool {
        self.files.may_have_process_of(uid)
    }

    /// The processes of all users of Xyl's QEMUs, each with its domain.
    pub fn processes_of_qemus(&self) -> Vec<(Program, DomId)> {
        let pids = self.names(Path::new(PROC)).into_iter();
        let pids = pids.filter_map(|name| name.parse().ok());
        let qemus = pids.filter_map(|pid| {
            let qemu = QemuId::of_user(self.user(pid)?)?;
            Some((self.process(pid)?, qemu.domid))
        });
        // procfs shows one that has ended until its parent has looked at it.
        let has_ended = |program: &Program| {
            let held = self.hold(program).ok().flatten();
            held.is_some_and(|held| held.is_ready().unwrap_or(false))
        };
        qemus.filter(|(program, _)| !has_ended(program)).collect()
    }

    /// The processes of a user that run. A process can change its arguments and remove them; its user is the kernel's word.
    pub fn processes_of(&self, uid: u32) -> Vec<Program> {
        if !self.files.may_have_process_of(uid) {
            return Vec::new();
        }
        let pids = self.names(Path::new(PROC)).into_iter();
        let pids = pids.filter_map(|name| name.parse().ok());
        let its = pids.filter(|pid| self.user(*pid) == Some(uid));
        let its = its.filter_map(|pid| self.process(pid));
        its.filter(|program| !self.has_ended(program)).collect()
    }

    /// Whether a process has ended with all its threads. procfs shows it until its parent has looked at it.
    fn has_ended(&self, program: &Program) -> bool {
        match self.hold(program) {
            Ok(Some(held)) => held.is_ready().unwrap_or(false),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Whether a process belongs to root, by its `status`. The owner of its folder is no proof: it is root for every
    /// process that is not dumpable (proc(5)).
    pub(crate) fn is_roots(&self, pid: u32) -> bool {
        self.user(pid) == Some(0)
    }

    /// The user of a process: the real, effective, saved and file system's one, where all four are the same.
    fn user(&self, pid: u32) -> Option<u32> {
        let text = self.text(&self.of(pid, "status"));
        let uids = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let uids: Vec<u32> = uids
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        match uids.as_slice() {
            [uid, others @ ..] if others.len() == 3 && others.iter().all(|other| other == uid) => {
                Some(*uid)
            }
            _ => None,
        }
    }

    /// Whether a process belongs to root, or to a user for the QEMU of a domain. No other user can be it.
    pub fn is_of_qemus_user(&self, program: &Program, domid: DomId) -> bool {
        let user = self.user(program.pid);
        user.is_some_and(|uid| uid == 0 || self.qemu_users(domid).contains(&uid))
    }

    /// The reason why a process that calls itself the QEMU of a domain is not taken for it; `None` where it is one. Any process can give
    /// itself such arguments. Its user and the program that it executes are the kernel's word.
    pub fn doubts_about_qemu(&self, program: &Program, domid: DomId) -> Option<String> {
        let pid = program.pid;
        // One that has ended needs no end.
        let now = self.process(pid)?;
        let user = self.user(pid);
        // A QEMU can change its arguments; no other process has its user.
        let is_of_xyl = user
            .and_then(QemuId::of_user)
            .is_some_and(|qemu| qemu.domid == domid);
        if is_of_xyl && now.started == program.started {
            return None;
        }
        let now = self.program(pid)?;
        if now != *program {
            return Some(format!("process {pid} is another one now"));
        }
        let is_qemus = user.is_some_and(|uid| uid == 0 || self.qemu_users(domid).contains(&uid));
        if !is_qemus {
            let user = user.map_or("several users".to_owned(), |uid| format!("the user {uid}"));
            return Some(format!(
                "process {pid} is of {user}, who is neither root nor a user for QEMU: look at it, and end it yourself"
            ));
        }
        let exe = self.files.link(&self.of(pid, "exe")).unwrap_or_default();
        let file = exe.file_name().unwrap_or_default().to_string_lossy();
        if !QEMUS.iter().any(|start| file.starts_with(start)) {
            return Some(format!(
                "process {pid} executes {}, which is no QEMU: look at it, and end it yourself",
                exe.display()
            ));
        }
        let domid = domid.to_string();
        (program.option("-xen-domid") != Some(&domid))
            .then(|| format!("process {pid} does not serve domain {domid}"))
    }

    /// The users that Xyl and libxl let the QEMU of a domain run as, beside root (`libxl__domain_get_device_model_uid` in
    /// `libxl_dm.c`).
    fn qemu_users(&self, domid: DomId) -> Vec<u32> {
        let text = self.text(Path::new(USERS));
        let own = format!("xen-qemuuser-domid{domid}");
        let users = text.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, uid) = (fields.next()?, fields.next()?, fields.next()?);
            let uid: u32 = uid.parse().ok()?;
            match name {
                "xen-qemuuser-shared" => Some(uid),
                "xen-qemuuser-range-base" => uid.checked_add(domid.0.into()),
                name => (name == own).then_some(uid),
            }
        });
        let of_xyl = QemuId::all(domid).map(QemuId::user);
        users.filter(|uid| *uid != 0).chain(of_xyl).collect()
    }

    fn started(&self, pid: u32) -> Option<u64> {
        self.stat(pid, 22)?.parse().ok()
    }

    /// Whether a process is stopped by a signal, or has ended.
    pub fn is_stopped(&self, pid: u32) -> bool {
        self.stat(pid, 3)
            .is_none_or(|state| matches!(state.as_str(), "T" | "Z" | "X"))
    }

    /// A field of `stat` after the second. The second is the name in brackets, which may contain any character.
    fn stat(&self, pid: u32, field: usize) -> Option<String> {
        let text = self.text(&self.of(pid, "stat"));
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        fields.nth(field.checked_sub(3)?).map(str::to_owned)
    }

    fn of(&self, pid: u32, file: &str) -> PathBuf {
        Path::new(PROC).join(pid.to_string()).join(file)
    }

    /// Path of the file behind a process's descriptor.
    pub fn descriptor(&self, pid: u32, number: u32) -> Option<PathBuf> {
        let path = self.of(pid, "fd").join(number.to_string());
        self.files.link(&path).ok()
    }

    /// The terminals (ptys) whose other ends a process has open, in the order of its descriptors. Their numbers are the kernel's word.
    pub fn terminals(&self, pid: u32) -> Vec<PathBuf> {
        let folder = self.of(pid, "fd");
        let names = self.names(&folder).into_iter();
        let mut numbers: Vec<u32> = names.filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        let is_master = |number: &u32| {
            let file = self.descriptor(pid, *number);
            file.is_some_and(|file| file.ends_with("ptmx"))
        };
        let masters = numbers.into_iter().filter(is_master);
        let terminal = |number: u32| {
            let text = self.text(&self.of(pid, "fdinfo").join(number.to_string()));
            let index = text
                .lines()
                .find_map(|line| line.strip_prefix("tty-index:"))?;
            let index: u32 = index.trim().parse().ok()?;
            Some(PathBuf::from(format!("/dev/pts/{index}")))
        };
        masters.filter_map(terminal).collect()
    }

    /// Reads the last `max_bytes` bytes of the file behind a process's descriptor. It is that file, even if its path now
    /// names another one.
    ///
    /// `None` unless it is a regular file that this process's user owns. Opening a FIFO could block, and opening a
    /// device could have effects.
    pub fn end_of_descriptor(&self, pid: u32, number: u32, max_bytes: u64) -> Option<Vec<u8>> {
        let path = self.of(pid, "fd").join(number.to_string());
        self.files.read_end_of_own(&path, max_bytes).ok()
    }

    /// Whether a process has the hypervisor open, and so can create domains. True if this cannot be read.
    pub fn can_make_domains(&self, pid: u32) -> bool {
        let folder = self.of(pid, "fd");
        let Ok(numbers) = self.files.list(&folder) else {
            return self.started(pid).is_some();
        };
        let targets = numbers
            .iter()
            .filter_map(|number| self.files.link(&folder.join(number)).ok());
        targets
            .filter_map(|target| target.to_str().map(|text| text.ends_with("xen/privcmd")))
            .any(|is_it| is_it)
    }

    /// Memory of other domains that a process maps, in KiB, for each device that it is mapped through.
    pub fn foreign_mappings(&self, pid: u32) -> Vec<(&'static str, u64)> {
        let text = self.text(&self.of(pid, "maps"));
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

    /// Names of the devices that backends in this kernel serve to a domain, such as `vif-5-0`.
    pub fn devices_served_to(&self, domid: DomId) -> Vec<String> {
        let mut found = self.names(Path::new("/sys/bus/xen-backend/devices"));
        let middle = format!("-{domid}-");
        found.retain(|name| name.contains(&middle));
        found.sort_unstable();
        found
    }

    /// Names of network interfaces that netback or tun(4) created. QEMU uses tun(4). A VLAN or bridge on top of one
    /// is not included.
    pub fn guest_interfaces(&self) -> Vec<String> {
        let mut found = self.names(Path::new(NET));
        found.retain(|name| self.is_of_netback_or_tun(name));
        found.sort_unstable();
        found
    }

    /// Whether the interface has a device on the bus xen-backend (netback), or a file `tun_flags` (tun).
    fn is_of_netback_or_tun(&self, name: &str) -> bool {
        let folder = Path::new(NET).join(name);
        let bus = self.files.link(&folder.join("device/subsystem"));
        let bus = bus.unwrap_or_default();
        let is_netbacks = bus.file_name().is_some_and(|bus| bus == "xen-backend");
        let is_on_another = self
            .names(&folder)
            .iter()
            .any(|entry| entry.starts_with("lower_"));
        (is_netbacks || self.files.exists(&folder.join("tun_flags"))) && !is_on_another
    }

    /// The domain of an interface of netback, by its device on the bus xen-backend. Its name may be any.
    pub fn netback_domain(&self, name: &str) -> Option<DomId> {
        let device = self.netback_device(name)?;
        let (domid, _) = device.strip_prefix("vif-")?.split_once('-')?;
        Some(DomId(domid.parse().ok()?))
    }

    /// The device of a network interface on its bus, such as `vif-3-0` for one of netback.
    pub(super) fn netback_device(&self, name: &str) -> Option<String> {
        let device = self.files.link(&self.interface(name).join("device"));
        Some(device.ok()?.file_name()?.to_str()?.to_owned())
    }

    /// The folder of a network interface.
    pub(super) fn interface(&self, name: &str) -> PathBuf {
        Path::new(NET).join(name)
    }

    /// Path of the file behind a loop device such as `loop0`.
    pub fn backing_file(&self, device: &str) -> Option<PathBuf> {
        let path = Path::new(BLOCK).join(device).join("loop/backing_file");
        let text = String::from_utf8(self.files.read(&path).ok()?).ok()?;
        Some(PathBuf::from(text.trim_end_matches('\n')))
    }

    /// Whether a device such as `/dev/loop0` is mounted, or used by another device.
    pub fn is_in_use(&self, device: &str) -> bool {
        let text = self.text(Path::new("/proc/self/mounts"));
        let node = format!("/dev/{device}");
        let is_mounted = text.lines().any(|line| {
            line.split(' ')
                .next()
                .is_some_and(|from| from.starts_with(&node))
        });
        let holders = self.names(&Path::new(BLOCK).join(device).join("holders"));
        is_mounted || !holders.is_empty()
    }

    /// Runs a system program such as `losetup`. The error contains its standard error.
    pub fn run(&self, program: &str, args: &[&str]) -> io::Result<()> {
        let launch = Launch::of_system(program)?.args(args);
        run_to_success(&*self.spawn, &launch, LIMIT)
    }

    /// Ends a process with SIGTERM, or with SIGKILL if it has not ended after ten seconds. A process that has ended is
    /// no error.
    pub fn end(&self, program: &Program) -> io::Result<()> {
        for signal in [ProcessSignal::Terminate, ProcessSignal::Kill] {
            let Some(process) = self.hold(program)? else {
                return Ok(());
            };
            process.send(signal)?;
            if ends_within(&*process, &*self.clock, LIMIT)? {
                return Ok(());
            }
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("process {} does not end", program.pid),
        ))
    }

    /// Sends processes a signal, and waits until they have ended, up to ten seconds.
    ///
    /// # Errors
    /// The system's error.
    pub fn send_to_all(&self, programs: &[Program], signal: ProcessSignal) -> io::Result<()> {
        let mut sent = Vec::new();
        for program in programs {
            if let Some(process) = self.hold(program)? {
                process.send(signal)?;
                sent.push(process);
            }
        }
        let deadline = self.clock.now() + LIMIT;
        for process in sent {
            let left = deadline.saturating_duration_since(self.clock.now());
            ends_within(&*process, &*self.clock, left)?;
        }
        Ok(())
    }

    /// Opens a pidfd of the process, so that a signal cannot reach a later process with its PID.
    pub fn hold(&self, program: &Program) -> io::Result<Option<Box<dyn HeldProcess>>> {
        let held = self.files.hold(program.pid)?;
        let is_it = self.started(program.pid) == Some(program.started);
        Ok(held.filter(|_| is_it))
    }
}

/// Size of a mapping in KiB, from its line in `maps`.
fn size_kib(line: &str) -> Option<u64> {
    let (from, rest) = line.split_once('-')?;
    let (to, _) = rest.split_once(' ')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some(address(to)?.checked_sub(address(from)?)? / 1024)
}

/// Adds a process of root to a test's procfs.
/// The local port of a line of /proc/net/tcp or tcp6 (proc(5)), if its socket listens.
fn listened_port(line: &str) -> Option<u16> {
    const LISTENS: &str = "0A";
    let mut words = line.split_whitespace();
    let (_, local, _, state) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let (_, port) = local.rsplit_once(':')?;
    match state == LISTENS {
        true => u16::from_str_radix(port, 16).ok(),
        false => None,
    }
}

#[cfg(test)]
pub(crate) fn pretend_process(
    root: &Path,
    pid: u32,
    args: &[&str],
    descriptors: &[(u32, &Path)],
    maps: &str,
) {
    let folder = root.join("proc").join(pid.to_string());
    std::fs::create_dir_all(folder.join("fd")).unwrap();
    std::fs::write(folder.join("cmdline"), args.join("\0") + "\0").unwrap();
    let stat = format!("{pid} (a) b) S 1 {}77 0", "0 ".repeat(17));
    std::fs::write(folder.join("stat"), stat).unwrap();
    std::fs::write(folder.join("maps"), maps).unwrap();
    pretend_uid(root, pid, 0);
    let exe = Path::new("/usr/bin").join(args.first().unwrap_or(&""));
    std::os::unix::fs::symlink(exe, folder.join("exe")).unwrap();
    for (number, target) in descriptors {
        std::os::unix::fs::symlink(target, folder.join("fd").join(number.to_string())).unwrap();
    }
}

/// Changes the user of a test's process.
#[cfg(test)]
pub(crate) fn pretend_uid(root: &Path, pid: u32, uid: u32) {
    let status = root.join("proc").join(pid.to_string()).join("status");
    let text = format!("Name:\ta\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t0\t0\t0\t0\n");
    std::fs::write(status, text).unwrap();
}

/// Changes the program that a test's process executes.
#[cfg(test)]
pub(crate) fn pretend_exe(root: &Path, pid: u32, exe: &str) {
    let link = root.join("proc").join(pid.to_string()).join("exe");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(exe, link).unwrap();
}

/// Adds a network interface of netback to a test's sysfs.
#[cfg(test)]
pub(crate) fn pretend_netback(root: &Path, name: &str) {
    let device = root.join("sys/class/net").join(name).join("device");
    std::fs::create_dir_all(&device).unwrap();
    std::os::unix::fs::symlink("../../../bus/xen-backend", device.join("subsystem")).unwrap();
}

/// Adds a network interface of netback, whose configuration has a name for it, to a test's sysfs.
#[cfg(test)]
pub(crate) fn pretend_named_netback(root: &Path, name: &str, device: &str) {
    let folder = root.join("sys/devices").join(device);
    std::fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink("../../bus/xen-backend", folder.join("subsystem")).unwrap();
    let net = root.join("sys/class/net").join(name);
    std::fs::create_dir_all(&net).unwrap();
    let target = Path::new("../../../devices").join(device);
    std::os::unix::fs::symlink(target, net.join("device")).unwrap();
}

/// Adds a network interface of tun to a test's sysfs.
#[cfg(test)]
pub(crate) fn pretend_tun(root: &Path, name: &str) {
    let folder = root.join("sys/class/net").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("tun_flags"), "0x1002\n").unwrap();
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use std::fs;

    use rustix::fs::Mode;

    use super::*;

    const MAPS: &str = "\
7f0000000000-7f0000001000 rw-s 00000000 00:05 123    /dev/xen/privcmd
7f0000002000-7f0000006000 rw-s 00000000 00:05 124    /dev/xen/gntdev
7f0000006000-7f0000008000 rw-s 00001000 00:05 124    /dev/xen/gntdev
7f0000010000-7f0000020000 r--p 00000000 00:05 125    /usr/lib/privcmd
";

    #[test]
    fn the_terminals_of_a_process_are_the_kernels_word() {
        let root = tempfile::tempdir().unwrap();
        let (master, other) = (Path::new("/dev/pts/ptmx"), Path::new("/dev/pts/9"));
        let descriptors = [(11, master), (3, other), (4, master), (5, master)];
        pretend_process(root.path(), 12, &["qemu"], &descriptors, "");
        let folder = root.path().join("proc/12/fdinfo");
        std::fs::create_dir(&folder).unwrap();
        for (number, index) in [("4", "tty-index:\t7"), ("11", "tty-index:\t0"), ("5", "x")] {
            let text = format!("pos:\t0\nflags:\t02\n{index}\n");
            std::fs::write(folder.join(number), text).unwrap();
        }
        let kernel = Kernel::below(root.path());
        let wanted = ["/dev/pts/7", "/dev/pts/0"].map(PathBuf::from);
        assert_eq!(kernel.terminals(12), wanted);
        assert!(kernel.terminals(13).is_empty());
    }

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
    fn a_qemu_is_known_by_its_user_and_its_program() {
        let root = tempfile::tempdir().unwrap();
        let args = ["/usr/lib/xen/bin/qemu-system-i386", "-xen-domid", "7"];
        pretend_process(root.path(), 12, &args, &[], "");
        let etc = root.path().join("etc");
        fs::create_dir_all(&etc).unwrap();
        let users = "root:x:0:0::/:/bin/sh\nxen-qemuuser-range-base:x:1000:1::/:/\nxen-qemuuser-shared:x:900:1::/:/\n";
        fs::write(etc.join("passwd"), users).unwrap();
        let kernel = Kernel::below(root.path());
        let qemu = kernel.program(12).unwrap();
        assert_eq!(kernel.doubts_about_qemu(&qemu, DomId(7)), None);
        assert!(kernel.doubts_about_qemu(&qemu, DomId(8)).is_some());
        for (uid, is_qemus) in [(900, true), (1007, true), (1008, false), (1, false)] {
            pretend_uid(root.path(), 12, uid);
            let qemu = kernel.program(12).unwrap();
            let doubts = kernel.doubts_about_qemu(&qemu, DomId(7));
            assert_eq!(doubts.is_none(), is_qemus, "{uid}: {doubts:?}");
        }
        pretend_uid(root.path(), 12, 0);
        for (exe, is_qemus) in [
            ("/usr/bin/bash", false),
            ("/usr/bin/qemu-system-i386 (deleted)", true),
            ("/usr/libexec/xen-qemu-system-i386", true),
            ("/usr/libexec/xen-init-dom0", false),
        ] {
            pretend_exe(root.path(), 12, exe);
            assert_eq!(
                kernel.doubts_about_qemu(&qemu, DomId(7)).is_none(),
                is_qemus,
                "{exe}"
            );
        }
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
        let text = kernel.end_of_descriptor(3, 1, 3);
        assert_eq!(text.unwrap(), b"ext");
        for number in [2, 3, 4] {
            assert!(kernel.end_of_descriptor(3, number, 9).is_none());
        }
        // chown needs root.
        if std::os::unix::fs::chown(&file, Some(65534), None).is_ok() {
            assert!(kernel.end_of_descriptor(3, 1, 9).is_none());
        }
    }

    #[test]
    fn a_process_is_ended_and_no_other_that_has_its_number() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Between fork and exec, the command line is empty. The child's answer shows that the exec is done.
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
    fn the_processes_of_a_user_are_found_whatever_their_arguments_are() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (root, pid) = (tempfile::tempdir().unwrap(), child.id());
        pretend_process(root.path(), pid, &[], &[], "");
        let kernel = Kernel::below(root.path());
        assert!(kernel.processes_of(1_900_000_007).is_empty());
        pretend_uid(root.path(), pid, 1_900_000_007);
        let found = kernel.processes_of(1_900_000_007);
        assert_eq!(found.first().map(|program| program.pid), Some(pid));
        kernel.send_to_all(&found, ProcessSignal::Kill).unwrap();
        // Its parent has not looked at it yet.
        assert!(kernel.processes_of(1_900_000_007).is_empty());
        assert!(!child.wait().unwrap().success());
        assert!(Kernel::system().processes_of(1_900_000_007).is_empty());
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
