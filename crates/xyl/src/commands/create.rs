//! `xyl create`: a domain from its configuration.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use clap::ValueHint;
use os_port::SystemFiles;
use serde_json::json;
use xen_port::{CpuMap, DomId};
use xen_sys::Standby;
use xenstore::Client;
use xl_cfg::types::NameRule;
use xl_cfg::{Config, Report, Source};
use xyl_engine::Notice;
use xyl_engine::config::admission::Outcome as Verdict;
use xyl_engine::config::libxl_json;
use xyl_engine::config::plan::{self, Planned};
use xyl_engine::control::vcpus;
use xyl_engine::host::topology;
use xyl_engine::operation::create::{CreateRequest, create};
use xyl_engine::operation::preview::{self, Preview};
use xyl_engine::supervise::monitor::{self};
use xyl_engine::vm::Vm;
use xyl_engine::vm::monitor_lock;
use xyl_engine::vm::names;
use xyl_engine::vm::spec::VmSpec;
use xyl_engine::vm::store;
use xyl_engine::{Cancel, Dirs, EngineError, Host};

use crate::commands::console::outcome;
use crate::commands::monitor::start_in_background;
use crate::console::{Console, ConsoleError, Options};
use crate::context::Context;
use crate::error::{Exit, Failure, Outcome};
use crate::interrupts::Interrupts;
use crate::json::{self, Layout};
use crate::output::stderr_has_colours;
use crate::shown::Shown;
use crate::tell::{self, Kind};
use crate::xlconf;

/// Create a domain from a configuration file
#[derive(Debug, clap::Args)]
#[command(
    after_help = "key=value arguments are read after the file, and override what it says; one may hold several \
settings, with `;` between. /dev/null as the file takes all settings from the command line.

Examples:
  xyl create web.cfg
  xyl create -c web.cfg                        with its console, from the first byte on
  xyl create -p web.cfg memory=512             paused, with other memory
  xyl create /dev/null 'name=\"t\"; kernel=\"/boot/k\"; memory=64'
  xyl create -n web.cfg                        only check it and its files, and print it

JSON: {domid, name, uuid}; warnings about the configuration on standard error as {warning: ...}, its errors as \
{error: {message, exit_code, findings: [...]}}, each {severity, code, file, line, column, length, key, message, notes, \
help, suggestion: {file, line, column, length, replacement}}; with -n the configuration with every default filled in, by topic: {name, uuid, type, \
platform, processors, memory, boot, actions, time, limits, disks, ..., raw}, where raw has each setting as it was given. \
Without --json, -n prints libxl's own form, as `xl create -n` does: {c_info, b_info, ...}."
)]
pub struct Args {
    /// Leave it paused
    #[arg(short)]
    paused: bool,
    /// Attach to its console before it starts
    #[arg(short)]
    console: bool,
    /// Stay in the foreground until it has ended, doing what its configuration says about that; with -c its console is
    /// here meanwhile, and with -e there is nothing to stay for
    #[arg(short = 'F')]
    foreground: bool,
    /// Only check the configuration and the files that it names, and print it as JSON
    #[arg(short = 'n', long = "dryrun")]
    dry_run: bool,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Print the configuration as JSON on standard error first
    #[arg(short)]
    debug: bool,
    /// Leave nobody to watch over it: a reboot or crash of the guest is not handled
    #[arg(short = 'e')]
    no_monitor: bool,
    /// The configuration file
    #[arg(short = 'f', long = "defconfig", value_name = "FILE", value_hint = ValueHint::FilePath)]
    defconfig: Option<PathBuf>,
    /// Connect a VNC viewer: for HVM guests, not there yet
    #[arg(short = 'V', long = "vncviewer")]
    vncviewer: bool,
    /// Give the viewer its password: for HVM guests, not there yet
    #[arg(short = 'A', long = "vncviewer-autopass")]
    vncviewer_autopass: bool,
    /// Do not apply the masks of xl.conf to its vCPUs
    #[arg(long)]
    ignore_global_affinity_masks: bool,
    /// The configuration file, and settings that override it
    #[arg(value_name = "FILE|KEY=VALUE", value_hint = ValueHint::FilePath)]
    words: Vec<String>,
}

impl Args {
    /// Whether this process stays to watch over the VM. Without anybody to watch there is nothing to stay for.
    fn stays(&self) -> bool {
        self.foreground && !self.no_monitor
    }
}

/// Runs `xyl create`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    if args.vncviewer || args.vncviewer_autopass {
        return Err(Failure::not_there_yet(
            "-V and -A connect a VNC viewer to an HVM guest's display, which is not there yet: leave them out",
        ));
    }
    let (file, overrides) = split(args)?;
    let planned = plan(args, context, read(context, &file, &overrides)?)?;
    if !args.quiet {
        show_warnings(context, planned.config.report());
        for warning in xlconf::not_obeyed(context.xl_conf()?) {
            context.warning(warning);
        }
    }
    if args.dry_run || context.dry_run() {
        check_pool(context, &planned)?;
        preview(args, context, &planned)?;
        return print_plan(context, &planned);
    }
    if args.debug {
        let text = json::text(&record_of(&planned.spec), Layout::Xl)?;
        tell::line(format_args!("{text}"));
    }
    let mut host = context.open_host()?;
    let interrupts = Interrupts::catch()?;
    let created = create_now(args, context, &planned, &mut host, &interrupts.cancel)?;
    let outcome = follow(args, context, &planned, created, &mut host, interrupts);
    context.count(&host);
    // What the process holds goes with it, all at once, and faster.
    std::mem::forget(host);
    outcome
}

/// A console that was to be opened before the start.
type Attached = Option<Result<Attachment, ConsoleError>>;

/// A console, and the connection to xenstored that it was opened by where that is not the create's.
struct Attachment {
    console: Console,
    store: Option<Client>,
}

/// What a create leaves to its command.
struct Created {
    vm: Vm,
    console: Attached,
    monitor: Option<Standby>,
}

/// Creates the domain, with its monitor and its console there before it runs.
fn create_now(
    args: &Args,
    context: &Context,
    planned: &Planned,
    host: &mut Host,
    cancel: &Cancel,
) -> Result<Created, Failure> {
    let uuid = planned.spec.uuid;
    let is_monitored = !args.stays() && !args.no_monitor;
    let (mut console, mut monitor) = (None, None);
    let process_ends = !args.console && !args.stays();
    let mut before_start = |host: &mut Host, domid: DomId| {
        if args.console {
            console = open_console(args, context, host, domid)?;
        }
        if process_ends {
            xen_sys::take_precedence_to_end();
        }
        Ok(())
    };
    let mut watch = |_: &mut Host, domid: DomId| {
        if is_monitored {
            let vm = Vm { domid, uuid };
            monitor = Some(start_in_background(context, &planned.spec.name, vm)?);
        } else if args.no_monitor {
            monitor_lock::dismiss(&SystemFiles, &context.dirs, uuid)?;
        } else {
            // This process will, if it lives until then.
            monitor_lock::want(&SystemFiles, &context.dirs, uuid)?;
        }
        Ok(())
    };
    let mut notice = |notice: Notice<'_>| match notice {
        Notice::Step(step) => context.note(1, || {
            format!("create {}: {step}", Shown::name(&planned.spec.name))
        }),
        Notice::Warning(text) if !args.quiet => context.warning(text),
        Notice::Warning(_) => {}
    };
    let mut request = CreateRequest {
        spec: &planned.spec,
        config_text: &planned.config_text(),
        paused: args.paused,
        process_ends,
        watch: &mut watch,
        before_start: &mut before_start,
        notice: &mut notice,
    };
    match create(host, &mut request, cancel) {
        Ok(domid) => Ok(Created {
            vm: Vm { domid, uuid },
            console,
            monitor,
        }),
        Err(error) => {
            // It would end by itself, but later.
            if let Some(monitor) = monitor {
                monitor.end();
            }
            Err(cancelled(&error).unwrap_or_else(|| planned.locate(error).into()))
        }
    }
}

/// A create that was cancelled and has left nothing, as that.
fn cancelled(error: &EngineError) -> Option<Failure> {
    match error {
        EngineError::Cancelled => Some(Failure::Cancelled { step: None }),
        EngineError::Step(failure)
            if matches!(failure.cause, EngineError::Cancelled)
                && failure.left_behind.is_empty()
                && failure.outcome == Some(xyl_saga::Outcome::Undone) =>
        {
            Some(Failure::Cancelled {
                step: Some(failure.step),
            })
        }
        _ => None,
    }
}

/// A console that cannot be had is no reason to take the domain back: it is told of afterwards.
fn open_console(
    args: &Args,
    context: &Context,
    host: &mut Host,
    domid: DomId,
) -> Result<Attached, EngineError> {
    let Some(info) = host.hv.domain_info(domid)? else {
        return Ok(None);
    };
    let folders = context.console_folders();
    // Beside a console this process watches over the VM, by its own connection.
    let mut own_store = match args.stays() {
        true => Some(context.open_store().map_err(Failure::into_engine_error)?),
        false => None,
    };
    let store = own_store.as_mut().unwrap_or(&mut host.store);
    let console = Console::open(store, &info, &Options::default(), &folders);
    Ok(Some(console.map(|console| Attachment {
        console,
        store: own_store,
    })))
}

/// What follows the start: its console, or its end in the foreground.
fn follow(
    args: &Args,
    context: &Context,
    planned: &Planned,
    created: Created,
    host: &mut Host,
    interrupts: Interrupts,
) -> Outcome {
    let Created {
        vm,
        console,
        monitor,
    } = created;
    if context.json() {
        let uuid = planned.spec.uuid_text();
        context
            .out
            .json(&json!({"domid": vm.domid.0, "name": planned.spec.name, "uuid": uuid}))?;
        context.out.flush()?;
    }
    if args.stays() {
        interrupts.end_the_command()?;
        let shown = show_beside(context, console).unwrap_or_else(|failure| {
            context.warning(format!("its console cannot be shown: {failure}"));
            None
        });
        let watched = monitor::watch(host, vm, &mut |line| context.say(line));
        // The session ends with the domain, and gives the terminal its modes back.
        let _ = shown.map(JoinHandle::join);
        return Ok(watched?);
    }
    // The console has a way with signals of its own.
    drop(interrupts);
    let Some(console) = console else {
        monitor.into_iter().for_each(Standby::let_go_at_exit);
        return Ok(());
    };
    drop(monitor);
    match console {
        Ok(Attachment { console, .. }) => outcome(console.run(host.hv.as_ref(), &mut host.store)?),
        Err(error) => Err(Failure::refused(format!(
            "domain {} was created and runs, but its console cannot be shown: {error}",
            vm.domid
        ))),
    }
}

/// Shows a console while this process watches over the VM. Leaving it leaves the process where it is; a signal ends both.
fn show_beside(context: &Context, attached: Attached) -> Result<Option<JoinHandle<()>>, Failure> {
    let Some(attached) = attached else {
        return Ok(None);
    };
    let Attachment { console, store } = attached?;
    // Within create_now a connection of its own was opened for it.
    let Some(mut store) = store else {
        return Ok(None);
    };
    let open_hypervisor = context.hypervisor_opener();
    let style = context.style();
    let show = move || {
        let ending = open_hypervisor().and_then(|hv| Ok(console.run(hv.as_ref(), &mut store)?));
        match ending.map(outcome) {
            Ok(Err(Failure::Signal(signal))) => {
                std::process::exit(Exit::Signal(signal).number().into())
            }
            Ok(_) => {}
            Err(failure) => style.message(Kind::Warning, &failure.to_string()),
        }
    };
    let thread = std::thread::Builder::new().spawn(show);
    Ok(Some(thread.map_err(|source| {
        Failure::io("start a thread for the console", source)
    })?))
}

/// Decides what the configuration asks for, under this host's masks.
fn plan(args: &Args, context: &Context, config: Config) -> Result<Planned, Failure> {
    let defaults = xlconf::defaults(context.xl_conf()?);
    let only_checking = args.dry_run || context.dry_run();
    let mut topology = || match context.hv() {
        Ok(hv) => topology::of(hv),
        // A configuration can be checked where there is no Xen: then every CPU counts as there.
        Err(_) if only_checking => Ok((0..MANY_CPUS).map(|cpu| (cpu, 0)).collect()),
        Err(failure) => Err(failure.into_engine_error()),
    };
    let mut planned = plan::plan(config, &defaults, &mut topology)?;
    if !args.ignore_global_affinity_masks && !only_checking {
        apply_masks(context, &mut planned.spec)?;
    }
    Ok(planned)
}

/// More CPUs than any host that Xen runs on has.
const MANY_CPUS: u32 = 16_384;

/// Keeps the vCPUs within the masks of xl.conf.
fn apply_masks(context: &Context, spec: &mut VmSpec) -> Outcome {
    let masks: Vec<_> = xlconf::cpu_masks(context.xl_conf()?, spec.kind).collect();
    if masks.is_empty() {
        return Ok(());
    }
    let mut allowed: CpuMap = topology::of(context.hv()?)?
        .into_iter()
        .map(|(cpu, _)| cpu)
        .collect();
    for mask in masks {
        let mask = vcpus::resolve(context.hv()?, mask)?;
        allowed = common(&allowed, &mask);
    }
    let all = allowed.clone();
    spec.hard_affinity.resize(spec.max_vcpus as usize, all);
    for map in &mut spec.hard_affinity {
        *map = common(map, &allowed);
        if map.is_empty() {
            return Err(Failure::refused(
                "the masks of xl.conf (vm.cpumask, vm.hvm.cpumask, vm.pv.cpumask) leave a vCPU no CPU: \
                 change `cpus`, or repeat with --ignore-global-affinity-masks",
            ));
        }
    }
    Ok(())
}

fn common(one: &CpuMap, other: &CpuMap) -> CpuMap {
    one.iter().filter(|cpu| other.contains(*cpu)).collect()
}

/// Looks for the pool where there is a Xen to ask; a configuration can be checked anywhere.
fn check_pool(context: &Context, planned: &Planned) -> Outcome {
    if planned.spec.pool.is_none() {
        return Ok(());
    }
    match context.open_host() {
        Ok(mut host) => preview::check_pool(&mut host, &planned.spec)
            .map_err(|error| planned.locate(error).into()),
        Err(Failure::NotXen { .. }) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// What a create would say of the files and of the policy: what it would refuse fails a dry run too.
fn preview(args: &Args, context: &Context, planned: &Planned) -> Outcome {
    let Preview { decision, warnings } =
        preview::preview(&SystemFiles, &context.dirs, &planned.spec)
            .map_err(|error| planned.locate(error))?;
    let line = decision.line();
    let kernel = planned.spec.kernel.display();
    match decision.outcome {
        Verdict::Allow => context.note(1, || format!("{kernel} would be {line}")),
        Verdict::ConvertToShim if args.quiet => {}
        Verdict::ConvertToShim => context.say(format!("{kernel} would be {line}")),
        Verdict::Refuse => return Err(Failure::refused(format!("{kernel} would be {line}"))),
    }
    if !args.quiet {
        for warning in warnings {
            context.warning(warning);
        }
    }
    Ok(())
}

/// What a dry run prints: libxl's form of the configuration as xl does, or with --json Xyl's own.
fn print_plan(context: &Context, planned: &Planned) -> Outcome {
    if context.json() {
        let config = serde_json::to_value(&planned.config.domain).map_err(|error| {
            Failure::refused(format!(
                "the configuration cannot be written as JSON: {error}"
            ))
        })?;
        return Ok(context.out.json(&config)?);
    }
    Ok(context.out.xl_json(&record_of(&planned.spec))?)
}

fn record_of(spec: &VmSpec) -> serde_json::Value {
    libxl_json::write::record(&libxl_json::Source {
        spec,
        shadow_kib: 0,
        pool: spec.pool.as_deref(),
    })
}

/// The file, and the settings of the command line.
fn split(args: &Args) -> Result<(PathBuf, Vec<&str>), Failure> {
    let (overrides, mut files): (Vec<&str>, Vec<&str>) = args
        .words
        .iter()
        .map(String::as_str)
        .partition(|word| word.contains('='));
    if let Some(file) = &args.defconfig {
        files.insert(0, "");
        return match files.as_slice() {
            [_] => Ok((file.clone(), overrides)),
            _ => Err(too_many(&files)),
        };
    }
    match files.as_slice() {
        [file] => Ok((PathBuf::from(file), overrides)),
        [] => Err(Failure::usage(
            "which configuration? give a FILE, or /dev/null and settings as KEY=VALUE",
        )),
        _ => Err(too_many(&files)),
    }
}

fn too_many(files: &[&str]) -> Failure {
    Failure::usage(format!(
        "one configuration file is wanted, not also {}",
        files.last().unwrap_or(&"")
    ))
}

fn read(context: &Context, file: &Path, overrides: &[&str]) -> Result<Config, Failure> {
    let names = match is_kept(&context.dirs, file) {
        true => NameRule::Any,
        false => names::rule(&SystemFiles, &context.dirs)?,
    };
    Ok(plan::parse(Source::read_file(file)?, overrides, names)?)
}

/// Whether the file lies where configurations are kept of VMs whose restart was given up: those VMs have their names
/// already. Links and relative paths are followed; what cannot be found lies nowhere.
fn is_kept(dirs: &Dirs, file: &Path) -> bool {
    match (file.canonicalize(), store::kept_folder(dirs).canonicalize()) {
        (Ok(file), Ok(folder)) => file.starts_with(folder),
        _ => false,
    }
}

fn show_warnings(context: &Context, report: &Report) {
    if context.json() {
        for finding in report.located() {
            let details = serde_json::to_value(&finding).unwrap_or_default();
            context
                .style()
                .with_details(Kind::Warning, finding.message, details);
        }
    } else if !report.is_empty() {
        tell::line(format_args!(
            "{}",
            report.render(stderr_has_colours()).trim_end()
        ));
    }
}

#[cfg(test)]
mod tests {
    use xyl_engine::ErrorCode;
    use xyl_saga::Outcome as Ended;

    use super::*;

    fn step(left_behind: Vec<(&'static str, EngineError)>) -> EngineError {
        let outcome = left_behind.is_empty().then_some(Ended::Undone);
        EngineError::Step(Box::new(xyl_saga::Failure {
            step: "share out the CPU",
            cause: EngineError::Cancelled,
            left_behind,
            outcome,
        }))
    }

    #[test]
    fn a_cancelled_create_says_that_nothing_is_left() {
        let failure = cancelled(&step(Vec::new())).unwrap();
        assert_eq!(failure.code(), ErrorCode::Cancelled);
        assert_eq!(failure.details()["step"], "share out the CPU");
        assert!(failure.to_string().contains("nothing of it is left"));
        assert!(cancelled(&EngineError::Cancelled).is_some());
        let left = vec![("make the domain", EngineError::NoPv)];
        assert!(cancelled(&step(left)).is_none(), "something is left");
        assert!(cancelled(&EngineError::NoPv).is_none());
    }
}
