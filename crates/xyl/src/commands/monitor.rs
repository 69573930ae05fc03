//! `xyl monitor`: the process that supervises one VM.
//!
//! This module starts monitors: [`start_in_background`] for `xyl create`, and [`replace_lost_monitors`] for a VM whose
//! monitor has died. The loop of a monitor is [`xyl_engine::supervise::monitor`].

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use os_port::{Launch, Process, SystemFiles, SystemProcess, lock_for_child, lock_of_stdin};
use rustix::fs::OFlags;
use uuid::Uuid;
use xen_port::DomId;
use xen_sys::{Network, Programs, ScriptRunner, Standby, Streams};
use xyl_engine::config::{boot_loader, plan};
use xyl_engine::device;
use xyl_engine::supervise::monitor;
use xyl_engine::supervise::requests::{self, Needs};
use xyl_engine::vm::Vm;
use xyl_engine::vm::journal;
use xyl_engine::vm::monitor_lock;
use xyl_engine::vm::spec::VmSpec;
use xyl_engine::vm::store;
use xyl_engine::{EngineError, Host, device_model};

use crate::context::Context;
use crate::error::{Failure, Outcome};

/// File mode of a monitor's log.
const LOG_MODE: u32 = 0o640;

/// Supervise a VM, and do what its configuration says when it ends
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`xyl create` starts this in the background for each VM, before the domain runs. Started by hand, it \
supervises a VM whose monitor has died.

Examples:
  xyl monitor $(xyl domid web) $(xyl list --json web | jq -r '.[0].uuid')"
)]
pub struct Args {
    /// Domid of the VM's domain now
    domid: u16,
    /// UUID of the VM
    uuid: Uuid,
}

/// Runs `xyl monitor`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    if context.would(format!("supervise the VM {}", args.uuid))? {
        return Ok(());
    }
    // The folder of the command that started the monitor must not stay in use.
    std::env::set_current_dir("/").map_err(|source| Failure::io("go to /", source))?;
    let mut host = context.open_host()?;
    let vm = Vm {
        domid: DomId(args.domid),
        uuid: args.uuid,
    };
    let lock = lock_of_stdin(&context.dirs.watch(vm.uuid));
    // All files and sockets that the monitor needs are open now.
    let mut rights = rights_of(&mut host, vm);
    if rights.programs.may_start_qemu()
        && let Err(error) = device_model::make_cage(&host)
    {
        context.say(format!("warning: {error}"));
    }
    let mut runner = None;
    if rights.runs_scripts {
        match ScriptRunner::start(check_launch) {
            Ok(started) => {
                let started = Rc::new(started);
                host.spawn = started.clone();
                runner = Some(started);
            }
            Err(error) => {
                rights.runs_scripts = false;
                context.say(format!(
                    "warning: no process that runs scripts and boot loaders: {error}"
                ));
            }
        }
    }
    if let Err(error) = xen_sys::give_up_rights(rights.network, rights.programs) {
        rights = Rights::ALL;
        context.say(format!(
            "warning: this monitor keeps its rights: {error}; the kernel needs CONFIG_SECCOMP_FILTER"
        ));
    }
    host.process = Box::new(MonitorProcess { rights, runner });
    Ok(monitor::watch_with(&mut host, vm, lock, &mut |line| {
        context.say(line)
    })?)
}

/// Refuses a program that the child with all rights does not run.
fn check_launch(launch: &Launch) -> std::io::Result<()> {
    match launch.is_script() {
        true => device::script::check_launch(&SystemFiles, launch),
        false => boot_loader::check_launch(&SystemFiles, launch),
    }
}

/// The rights that a monitor keeps.
#[derive(Clone, Copy)]
struct Rights {
    /// That to the host's network.
    network: Network,
    /// That to start programs.
    programs: Programs,
    /// Whether a child of it, which keeps all rights, runs hot-plug scripts and boot loaders for it.
    runs_scripts: bool,
}

impl Rights {
    /// All that a monitor can have.
    const ALL: Rights = Rights {
        network: Network::Taps,
        programs: Programs::QemuWithDisplay,
        runs_scripts: true,
    };
}

/// The rights that the monitor of a VM needs: for the boot loader and the devices of the record, for the devices of the domain, and for an
/// interface that is to be attached. It keeps them where it cannot read the record or the requests: what fails now can succeed later.
fn rights_of(host: &mut Host, vm: Vm) -> Rights {
    let asked = requests::needs(host, vm.uuid).unwrap_or(Needs {
        links: true,
        qemu: true,
        scripts: true,
    });
    // xl may have given the domain an interface that the record does not have.
    let is_taken_down = device::runs_scripts(host, vm.domid).unwrap_or(true);
    let (network, (has_display, needs_qemu), has_scripts) = match plan::of_record(host, vm.uuid) {
        Ok(planned) => {
            let spec = &planned.spec;
            let (display, qemu) = (spec.maps_memory(), spec.needs_qemu());
            (network_of(spec), (display, qemu), spec.runs_programs())
        }
        Err(_) if store::is_absent(host, vm.uuid) => (Network::None, (false, false), false),
        Err(_) => (Network::Taps, (true, true), true),
    };
    Rights {
        network: match (network, asked.links) {
            (Network::None, true) => Network::Links,
            (network, _) => network,
        },
        programs: match (has_display, asked.qemu || needs_qemu) {
            (true, _) => Programs::QemuWithDisplay,
            (false, true) => Programs::Qemu,
            (false, false) => Programs::None,
        },
        runs_scripts: asked.scripts || has_scripts || is_taken_down,
    }
}

/// The right to the network that the devices of a VM need.
fn network_of(spec: &VmSpec) -> Network {
    match (spec.has_cards(), spec.has_links()) {
        (true, _) => Network::Taps,
        (false, true) => Network::Links,
        (false, false) => Network::None,
    }
}

/// The monitor's process. It gives free memory back to the kernel while it waits.
struct MonitorProcess {
    rights: Rights,
    /// The child that runs scripts and boot loaders, which may have ended.
    runner: Option<Rc<ScriptRunner>>,
}

impl Process for MonitorProcess {
    fn id(&self) -> u32 {
        SystemProcess.id()
    }

    fn is_running(&self, id: u32) -> bool {
        SystemProcess.is_running(id)
    }

    fn started_ticks(&self, id: u32) -> Option<u64> {
        SystemProcess.started_ticks(id)
    }

    fn new_uuid(&self) -> [u8; 16] {
        SystemProcess.new_uuid()
    }

    fn rest(&self) {
        // A failure costs memory only.
        let _ = xen_sys::program::give_back();
    }

    fn may_change_links(&self) -> bool {
        self.rights.network.may_change_links()
    }

    fn may_make_taps(&self) -> bool {
        self.rights.network == Network::Taps
    }

    fn may_start_qemu(&self) -> bool {
        self.rights.programs.may_start_qemu()
    }

    fn may_show_displays(&self) -> bool {
        self.rights.programs == Programs::QemuWithDisplay
    }

    fn may_run_scripts(&self) -> bool {
        let mut runner = self.runner.iter();
        self.rights.runs_scripts && runner.all(|runner| runner.is_there())
    }
}

/// Starts the monitor of a VM. Its messages go to the VM's log.
///
/// The VM's record must be written; the domain need not run yet. The monitor ends if the create is undone.
///
/// The new process stands by, and uses no CPU, until the [`Standby`] is dropped or this process dies.
pub fn start_in_background(context: &Context, name: &str, vm: Vm) -> Result<Standby, EngineError> {
    let lock = lock_for(context, vm.uuid, None)?;
    start_with(context, name, vm, lock)
}

/// Takes the monitor lock of a VM for a new process. With it the VM is never seen without a monitor. `None` if
/// another process has the lock at the deadline.
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
        // With a full disk, the monitor runs without a log.
        Err(source) if is_disk_full(&source) => OpenOptions::new().write(true).open("/dev/null"),
        opened => opened,
    };
    let out = out.map_err(|source| EngineError::io("open the monitor's log", &log, source))?;
    let path = std::env::current_exe().map_err(|source| {
        EngineError::io("find the program at", Path::new("/proc/self/exe"), source)
    })?;
    let no_start = |source| EngineError::io("start the monitor", &path, source);
    let launch = Launch::new(&path).map_err(no_start)?.args(arguments(vm));
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

/// Arguments of the monitor's program.
fn arguments(vm: Vm) -> [String; 4] {
    let (domid, uuid) = (vm.domid.to_string(), vm.uuid.hyphenated().to_string());
    ["-T".to_owned(), "monitor".to_owned(), domid, uuid]
}

/// A new monitor in the place of a dead one.
pub struct ReplacementMonitor {
    /// The VM that the monitor supervises.
    pub vm: Vm,
    /// Name of the VM.
    pub name: String,
    /// Process ID of the new monitor.
    pub pid: u32,
}

impl ReplacementMonitor {
    /// The line about it in the command's report.
    pub fn line(&self) -> String {
        format!(
            "its monitor had died: process {} is its monitor now",
            self.pid
        )
    }
}

/// A VM whose monitor has died and could not be replaced.
pub struct MonitorNotReplaced {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Name of the VM.
    pub name: String,
    /// The reason why no monitor could be started.
    pub failure: Failure,
}

impl MonitorNotReplaced {
    /// The line about it in the command's report.
    pub fn line(&self) -> String {
        format!(
            "its monitor had died, and a new one could not be started: {}",
            self.failure
        )
    }
}

/// Starts a monitor for each VM whose monitor has died. One VM's failure does not affect the others.
///
/// If all monitors live, this reads one folder and tests the lock of each file in it.
pub fn replace_lost_monitors(
    context: &Context,
) -> Result<Vec<Result<ReplacementMonitor, MonitorNotReplaced>>, Failure> {
    let lost = monitor_lock::without_monitor(&SystemFiles, &context.dirs)?;
    if !lost.is_empty() {
        // Without the hypervisor no monitor can start. The error is reported once.
        context.hv()?;
    }
    let started = lost.into_iter().filter_map(|uuid| {
        let started = replace_one(context, uuid).transpose()?;
        Some(started.map_err(|failure| MonitorNotReplaced {
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

/// Starts a monitor for a supervised VM whose monitor has ended, and for no other VM.
pub fn replace_if_lost(
    context: &Context,
    uuid: Uuid,
) -> Result<Option<ReplacementMonitor>, Failure> {
    match monitor_lock::is_lost(&SystemFiles, &context.dirs, uuid)? {
        true => replace_one(context, uuid),
        false => Ok(None),
    }
}

/// Starts a monitor for a VM that has none. `None` if another process is starting one now.
fn replace_one(context: &Context, uuid: Uuid) -> Result<Option<ReplacementMonitor>, Failure> {
    let lock = lock_for(context, uuid, None)?;
    lock.map(|lock| start_with_lock(context, uuid, lock))
        .transpose()
}

/// Starts a monitor for a VM, and gives it the monitor lock `lock`.
pub fn start_with_lock(
    context: &Context,
    uuid: Uuid,
    lock: File,
) -> Result<ReplacementMonitor, Failure> {
    let domains = context.hv()?.domain_list()?;
    let domain = domains.iter().find(|info| &info.handle == uuid.as_bytes());
    let vm = Vm {
        // If the VM has no domain, the monitor looks its state up by the UUID.
        domid: domain.map_or(DomId::ZERO, |info| info.domid),
        uuid,
    };
    let name = name_of(context, uuid);
    let child = start_with(context, &name, vm, Some(lock))?;
    Ok(ReplacementMonitor {
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

/// Opens the log of a process in the background, and makes it.
pub fn open_log(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    // Members of the file's group may read the log, whatever the umask of the calling command.
    options.create(true).append(true).mode(LOG_MODE);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options.open(path)
}

/// Path of a monitor's log. It is beside xl's own logs, whose names begin with `xl-`.
pub fn log_path(context: &Context, name: &str) -> PathBuf {
    context
        .dirs
        .log
        .join(format!("xyl-{}.log", name.replace('/', "_")))
}
