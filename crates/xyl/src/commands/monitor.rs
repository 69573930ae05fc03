//! `xyl monitor`: the process that watches over one VM. `xyl create` starts it in the background.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use os_port::{Launch, Process, SystemFiles, SystemProcess, lock_for_child, lock_of_stdin};
use rustix::fs::OFlags;
use uuid::Uuid;
use xen_port::DomId;
use xen_sys::{Standby, Streams};
use xyl_engine::EngineError;
use xyl_engine::supervise::monitor::{self};
use xyl_engine::vm::Vm;
use xyl_engine::vm::journal;
use xyl_engine::vm::monitor_lock;

use crate::context::Context;
use crate::error::{Failure, Outcome};

/// The mode of a monitor's log.
const LOG_MODE: u32 = 0o640;

/// Watch over a VM, and do what its configuration says when it ends
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`xyl create` starts this in the background for each VM, before the domain runs. Started by hand, it \
watches over a VM that lost its process.

Examples:
  xyl monitor $(xyl domid web) $(xyl list --json web | jq -r '.[0].uuid')"
)]
pub struct Args {
    /// The VM's domain now
    domid: u16,
    /// The VM's UUID
    uuid: Uuid,
}

/// Runs `xyl monitor`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    if context.would(format!("watch over the VM {}", args.uuid))? {
        return Ok(());
    }
    // It keeps no folder of whoever started it in use.
    std::env::set_current_dir("/").map_err(|source| Failure::io("go to /", source))?;
    let mut host = context.open_host()?;
    host.process = Box::new(Watcher);
    let vm = Vm {
        domid: DomId(args.domid),
        uuid: args.uuid,
    };
    let lock = lock_of_stdin(&context.dirs.watch(vm.uuid));
    // All that it needs is open.
    if let Err(error) = xen_sys::give_up_rights() {
        context.say(format!(
            "warning: this monitor keeps its rights: {error}; the kernel needs CONFIG_SECCOMP_FILTER"
        ));
    }
    Ok(monitor::watch_with(&mut host, vm, lock, &mut |line| {
        context.say(line)
    })?)
}

/// This process, which waits for months.
struct Watcher;

impl Process for Watcher {
    fn id(&self) -> u32 {
        SystemProcess.id()
    }

    fn is_running(&self, id: u32) -> bool {
        SystemProcess.is_running(id)
    }

    fn new_uuid(&self) -> [u8; 16] {
        SystemProcess.new_uuid()
    }

    fn rest(&self) {
        // Where that fails it only takes more memory.
        let _ = xen_sys::program::give_back();
    }
}

/// Starts the process that watches over a VM. What it says goes to a log of the VM's.
///
/// It may start before the domain runs, once the VM's record is written: it waits for the domain's end
/// all the same, and ends when the domain is taken back. It stands by until the answer is dropped or this
/// process dies, and does not compete with it for the CPU meanwhile.
pub fn start_in_background(context: &Context, name: &str, vm: Vm) -> Result<Standby, EngineError> {
    let lock = lock_for(context, vm.uuid, None)?;
    start_with(context, name, vm, lock)
}

/// The lock of whoever watches over a VM, to be given to the new process: so that nobody takes the VM for one
/// without a monitor meanwhile.
pub fn lock_for(
    context: &Context,
    uuid: Uuid,
    deadline: Option<Instant>,
) -> Result<Option<File>, EngineError> {
    let watch = context.dirs.watch(uuid);
    lock_for_child(&watch, deadline).map_err(|source| EngineError::io("lock", &watch, source))
}

fn start_with(
    context: &Context,
    name: &str,
    vm: Vm,
    lock: Option<File>,
) -> Result<Standby, EngineError> {
    let log = log_path(context, name);
    let out = match open_log(&log) {
        // A VM is watched over without words too.
        Err(source) if is_disk_full(&source) => OpenOptions::new().write(true).open("/dev/null"),
        opened => opened,
    };
    let out = out.map_err(|source| EngineError::io("open the monitor's log", &log, source))?;
    let path = std::env::current_exe().map_err(|source| {
        EngineError::io("find the program at", Path::new("/proc/self/exe"), source)
    })?;
    let no_start = |source| EngineError::io("start the monitor", &path, source);
    let launch = Launch::new(&path).map_err(no_start)?.args(words(vm));
    let launch = match context.host_variable() {
        Some(host) => launch.on_host(host),
        None => launch,
    };
    let input = match lock {
        Some(lock) => lock,
        None => File::open("/dev/null").map_err(no_start)?,
    };
    let streams = Streams {
        input: input.as_fd(),
        output: out.as_fd(),
        errors: out.as_fd(),
    };
    Standby::start(&launch, streams).map_err(no_start)
}

/// The monitor's words after `xyl`.
fn words(vm: Vm) -> [String; 4] {
    let (domid, uuid) = (vm.domid.to_string(), vm.uuid.hyphenated().to_string());
    ["-T".to_owned(), "monitor".to_owned(), domid, uuid]
}

/// A monitor that was started in the place of one that had died.
pub struct Heir {
    /// The VM that it supervises.
    pub vm: Vm,
    /// Name of the VM.
    pub name: String,
    /// The new process.
    pub pid: u32,
}

impl Heir {
    /// What happened, in words.
    pub fn line(&self) -> String {
        format!(
            "its monitor had died: process {} watches over it now",
            self.pid
        )
    }
}

/// A VM that has lost its monitor, and gets none.
pub struct NoHeir {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Name of the VM.
    pub name: String,
    /// Why no monitor could be started.
    pub failure: Failure,
}

impl NoHeir {
    /// What happened, in words.
    pub fn line(&self) -> String {
        format!(
            "its monitor had died, and none could be started: {}",
            self.failure
        )
    }
}

/// Starts a monitor for each VM that has lost its own. Where none has, that costs a look into one folder
/// and at the lock of each of its files. What fails with one VM keeps no other from its monitor.
pub fn replace_the_lost(context: &Context) -> Result<Vec<Result<Heir, NoHeir>>, Failure> {
    let lost = monitor_lock::lost(&SystemFiles, &context.dirs)?;
    if !lost.is_empty() {
        // Without it nobody gets one, which is to be said once.
        context.hv()?;
    }
    let started = lost.into_iter().filter_map(|uuid| {
        let heir = heir(context, uuid).transpose()?;
        Some(heir.map_err(|failure| NoHeir {
            uuid,
            name: name_of(context, uuid),
            failure,
        }))
    });
    Ok(started.collect())
}

fn name_of(context: &Context, uuid: Uuid) -> String {
    journal::name(&SystemFiles, &context.dirs, uuid)
        .unwrap_or_else(|| uuid.hyphenated().to_string())
}

/// Starts a monitor for a VM that has none; `None` where another process does that just now.
fn heir(context: &Context, uuid: Uuid) -> Result<Option<Heir>, Failure> {
    let lock = lock_for(context, uuid, None)?;
    lock.map(|lock| heir_with(context, uuid, lock)).transpose()
}

/// Starts a monitor for a VM, with the lock of whoever watches over it.
pub fn heir_with(context: &Context, uuid: Uuid, lock: File) -> Result<Heir, Failure> {
    let domains = context.hv()?.domain_list()?;
    let domain = domains.iter().find(|info| &info.handle == uuid.as_bytes());
    let vm = Vm {
        // Where there is none, the monitor finds out why by the UUID.
        domid: domain.map_or(DomId::ZERO, |info| info.domid),
        uuid,
    };
    let name = name_of(context, uuid);
    let child = start_with(context, &name, vm, Some(lock))?;
    Ok(Heir {
        vm,
        name,
        pid: child.id(),
    })
}

fn is_disk_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem
    )
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    // Administrators of the group may read it, whatever the umask of whoever typed the command.
    options.create(true).append(true).mode(LOG_MODE);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options.open(path)
}

/// Beside xl's own logs, whose names begin with `xl-`.
fn log_path(context: &Context, name: &str) -> PathBuf {
    context
        .dirs
        .log
        .join(format!("xyl-{}.log", name.replace('/', "_")))
}
