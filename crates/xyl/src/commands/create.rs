//! `xyl create`: creates a domain from a configuration file.
//!
//! The module reads and plans the configuration, and has the engine create the domain. It starts the VM's monitor,
//! and opens the console before the domain runs.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use clap::ValueHint;
use os_port::{Files, SystemFiles};
use serde_json::json;
use xen_port::{CpuMap, DomId};
use xen_sys::Standby;
use xenstore::Client;
use xl_cfg::types::NameRule;
use xl_cfg::{Autoballoon, Config, Report, Source};
use xyl_engine::Notice;
use xyl_engine::config::admission::Outcome as Verdict;
use xyl_engine::config::libxl_json;
use xyl_engine::config::plan::{self, Planned};
use xyl_engine::config::plan_here::{self, Place};
use xyl_engine::control::{autoballoon, vcpus};
use xyl_engine::host::topology;
use xyl_engine::operation::create::{CreateRequest, SavedGuest, create, restore};
use xyl_engine::operation::preview::{self, Preview};
use xyl_engine::supervise::monitor::{self};
use xyl_engine::vm::Vm;
use xyl_engine::vm::monitor_lock;
use xyl_engine::vm::names;
use xyl_engine::vm::spec::VmSpec;
use xyl_engine::vm::store;
use xyl_engine::{AutostartError, Cancel, Dirs, EngineError, Host};
use xyl_host::xl_conf;

use crate::commands::console::outcome;
use crate::commands::monitor::start_in_background;
use crate::console::{Console, ConsoleError, Options};
use crate::context::Context;
use crate::error::{Exit, Failure, Outcome};
use crate::interrupts::Interrupts;
use crate::json::{self, Layout};
use crate::output::stderr_has_colours;
use crate::shown::Shown;
use crate::stderr::{self, Kind};

/// Create a domain from a configuration file
#[derive(Debug, clap::Args)]
#[command(
    after_help = "key=value arguments are read after the file, and override its settings. One argument may hold several \
settings, separated by `;`. /dev/null as the file takes all settings from the command line.

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
    /// Leave the domain paused
    #[arg(short)]
    paused: bool,
    /// Attach to the console before the domain starts
    #[arg(short)]
    console: bool,
    /// Stay in the foreground as the VM's monitor until the VM has ended; with -c the console is shown meanwhile, and
    /// -e makes this option pointless
    #[arg(short = 'F')]
    foreground: bool,
    /// Check the configuration and the files that it names, and print the configuration as JSON
    #[arg(short = 'n', long = "dryrun")]
    dry_run: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Print the configuration as JSON on standard error first
    #[arg(short)]
    debug: bool,
    /// Start no monitor: nothing handles a reboot or crash of the guest
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
    /// Whether the command goes on after the create
    #[arg(skip)]
    goes_on: bool,
    /// The saved guest that the domain gets
    #[arg(skip)]
    saved: Option<SavedGuest>,
}

impl Args {
    /// The arguments of a create that is a part of another command.
    fn of_part(file: &Path) -> Args {
        Args {
            paused: false,
            console: false,
            foreground: false,
            dry_run: false,
            quiet: true,
            debug: false,
            no_monitor: false,
            defconfig: Some(file.to_owned()),
            vncviewer: false,
            vncviewer_autopass: false,
            ignore_global_affinity_masks: false,
            words: Vec::new(),
            goes_on: true,
            saved: None,
        }
    }

    /// The arguments of a create for a saved guest. With `no_monitor` nothing handles its reboot or crash.
    pub fn of_restore(saved: SavedGuest, paused: bool, no_monitor: bool) -> Args {
        Args {
            paused,
            no_monitor,
            quiet: false,
            goes_on: false,
            saved: Some(saved),
            ..Args::of_part(Path::new(""))
        }
    }

    /// Whether this process becomes the VM's monitor. With `-e` it does not.
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
        for warning in xl_conf::not_obeyed(context.xl_conf()?) {
            context.warning(warning);
        }
    }
    if args.dry_run || context.dry_run() {
        check_pool(context, &planned)?;
        preview(args, context, &planned)?;
        return print_plan(context, &planned);
    }
    if args.debug {
        show_record(&planned.spec)?;
    }
    let host = context.open_host()?;
    create_and_follow(args, context, &planned, host)
}

/// Prints the configuration as JSON on standard error.
pub fn show_record(spec: &VmSpec) -> Outcome {
    let text = json::text(&record_of(spec), Layout::Xl)?;
    stderr::line(format_args!("{text}"));
    Ok(())
}

/// Creates the domain, and does afterwards what the arguments say.
pub fn create_and_follow(
    args: &Args,
    context: &Context,
    planned: &Planned,
    mut host: Host,
) -> Outcome {
    let interrupts = Interrupts::catch()?;
    let created = create_with_room(args, context, planned, &mut host, &interrupts.cancel)?;
    let outcome = follow(args, context, planned, created, &mut host, interrupts);
    context.count(&host);
    // The process ends now. The kernel frees its memory and mappings faster than the destructor would.
    std::mem::forget(host);
    outcome
}

/// Plans the VM of a configuration file, for a saved guest.
pub fn plan_of_file(context: &Context, file: &Path) -> Result<Planned, Failure> {
    let planned = plan(&Args::of_part(file), context, read(context, file, &[])?)?;
    show_warnings(context, planned.config.report());
    Ok(planned)
}

/// Creates the VM `name` of a configuration file, as a part of another command. Its monitor begins at once.
///
/// # Errors
/// [`AutostartError::OtherName`] if the configuration has another name; else as `xyl create`.
pub fn create_part(
    context: &Context,
    name: &str,
    file: &Path,
    cancel: &Cancel,
) -> Result<Vm, Failure> {
    let args = Args::of_part(file);
    let planned = plan(&args, context, read_unattended(context, file)?)?;
    if planned.spec.name != name {
        let error = AutostartError::OtherName {
            config: file.to_owned(),
            name: name.to_owned(),
            found: planned.spec.name,
        };
        return Err(EngineError::from(error).into());
    }
    let mut host = context.open_host()?;
    let created = create_with_room(&args, context, &planned, &mut host, cancel)?;
    context.count(&host);
    drop(created.monitor);
    Ok(created.vm)
}

/// The name of the VM of a configuration file, which is checked as by `xyl create -n`.
pub fn checked_name(context: &Context, file: &Path) -> Result<String, Failure> {
    let args = Args {
        dry_run: true,
        ..Args::of_part(file)
    };
    let planned = plan(&args, context, read_unattended(context, file)?)?;
    show_warnings(context, planned.config.report());
    Ok(planned.spec.name)
}

/// Reads a configuration that starts without an administrator who has looked at it: no other user may be able to change it. What is
/// parsed is what was read of the checked file.
fn read_unattended(context: &Context, file: &Path) -> Result<Config, Failure> {
    let bytes = SystemFiles
        .read_trusted(file, Source::MAX_BYTES as u64)
        .map_err(|source| Failure::io(format!("read {}", file.display()), source))?;
    parse(
        context,
        file,
        Source::from_bytes(file.display().to_string(), &bytes)?,
        &[],
    )
}

/// The console, if the create was to open one before the domain starts.
type Attached = Option<Result<Attachment, ConsoleError>>;

/// An open console. `store` is the connection to xenstored that it was opened with, unless that is the create's own.
struct Attachment {
    console: Console,
    store: Option<Client>,
}

/// Results of a create that the command needs afterwards.
struct Created {
    vm: Vm,
    console: Attached,
    monitor: Option<Standby>,
}

/// Creates the domain. If too little memory is free for it, domain 0 gives memory up first, where xl.conf allows that.
fn create_with_room(
    args: &Args,
    context: &Context,
    planned: &Planned,
    host: &mut Host,
    cancel: &Cancel,
) -> Result<Created, Failure> {
    let outcome = create_now(args, context, planned, host, cancel);
    let Some((wanted_mib, free_mib)) = outcome.as_ref().err().and_then(missing_room) else {
        return outcome;
    };
    if !balloons(context, host)? {
        return outcome;
    }
    if !args.quiet {
        context.say(format!(
            "domain 0 gives up {} MiB for {}",
            wanted_mib.saturating_sub(free_mib),
            Shown::name(&planned.spec.name)
        ));
    }
    let given_up = autoballoon::free(host, wanted_mib, cancel);
    let given_up = given_up.map_err(|error| in_words(planned, error))?;
    let outcome = create_now(args, context, planned, host, cancel);
    if outcome.is_err() {
        given_up.give_back(host);
    }
    outcome
}

/// The memory that a create wanted and that was free, in MiB, if that is why it failed.
fn missing_room(failure: &Failure) -> Option<(u64, u64)> {
    let Failure::Engine(error) = failure else {
        return None;
    };
    match error.cause() {
        EngineError::NotEnoughMemory {
            wanted_mib,
            free_mib,
        } => Some((*wanted_mib, *free_mib)),
        _ => None,
    }
}

/// Whether domain 0 gives memory up for new domains.
fn balloons(context: &Context, host: &Host) -> Result<bool, Failure> {
    match context.xl_conf()?.autoballoon {
        Autoballoon::On => Ok(true),
        Autoballoon::Off => Ok(false),
        Autoballoon::Auto => Ok(autoballoon::is_automatic(&*host.hv)?),
    }
}

/// Creates the domain. The monitor and the console are ready before the domain runs.
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
    let process_ends = !args.console && !args.stays() && !args.goes_on;
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
            monitor_lock::remove_file(&SystemFiles, &context.dirs, uuid)?;
        } else {
            // This process becomes the monitor later. If it dies before, another monitor takes its place.
            monitor_lock::create_file(&SystemFiles, &context.dirs, uuid)?;
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
    let outcome = match &args.saved {
        Some(saved) => restore(host, &mut request, saved, cancel),
        None => create(host, &mut request, cancel),
    };
    match outcome {
        Ok(domid) => Ok(Created {
            vm: Vm { domid, uuid },
            console,
            monitor,
        }),
        Err(error) => {
            // The monitor would notice the failed create by itself, but later.
            if let Some(monitor) = monitor {
                monitor.end();
            }
            Err(in_words(planned, error))
        }
    }
}

/// The failure of a create, with the place in its configuration.
fn in_words(planned: &Planned, error: EngineError) -> Failure {
    cancelled(&error).unwrap_or_else(|| planned.locate(error).into())
}

/// Turns a cancelled and fully undone create into [`Failure::Cancelled`].
fn cancelled(error: &EngineError) -> Option<Failure> {
    match error {
        EngineError::Cancelled => Some(Failure::Cancelled { step: None }),
        EngineError::Step(failure)
            if matches!(failure.cause, EngineError::Cancelled)
                && failure.left_behind.is_empty()
                && failure.outcome == Some(xyl_saga::Outcome::Undone) =>
        {
            Some(Failure::Cancelled {
                step: Some(failure.step.clone()),
            })
        }
        _ => None,
    }
}

/// Opens the domain's console. A failure does not stop the create; the command reports it afterwards.
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
    // A process that shows the console and is the monitor needs a second connection for the console.
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

/// Runs the console, or the foreground monitor, after the domain has started.
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
        // The session ends with the domain, and restores the terminal's modes.
        let _ = shown.map(JoinHandle::join);
        return Ok(watched?);
    }
    // The console handles signals itself.
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

/// Shows a console in a second thread while this process is the VM's monitor. Leaving the console leaves the monitor
/// running; a signal ends both.
fn show_beside(context: &Context, attached: Attached) -> Result<Option<JoinHandle<()>>, Failure> {
    let Some(attached) = attached else {
        return Ok(None);
    };
    let Attachment { console, store } = attached?;
    // `create_now` opens a connection for this console.
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

/// Plans the VM from its configuration, with the defaults and masks of this host.
fn plan(args: &Args, context: &Context, config: Config) -> Result<Planned, Failure> {
    let defaults = xl_conf::defaults(context.xl_conf()?);
    let only_checking = args.dry_run || context.dry_run();
    let place = Place {
        hv: &|| context.hv().map_err(Failure::into_engine_error),
        files: &SystemFiles,
        dirs: &context.dirs,
        is_check: only_checking,
    };
    let mut planned = plan_here::plan(config, &defaults, &place)?;
    if !args.ignore_global_affinity_masks && !only_checking {
        apply_masks(context, &mut planned.spec)?;
    }
    Ok(planned)
}

/// Restricts the vCPUs to the masks of xl.conf.
fn apply_masks(context: &Context, spec: &mut VmSpec) -> Outcome {
    let masks: Vec<_> = xl_conf::cpu_masks(context.xl_conf()?, spec.kind).collect();
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

/// Checks that the CPU pool exists. Without Xen, a dry run skips this check.
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

/// Prints the results of the checks that a create makes of files and policy. A dry run fails if the create would be
/// refused.
fn preview(args: &Args, context: &Context, planned: &Planned) -> Outcome {
    let Preview { decision, warnings } =
        preview::preview(&SystemFiles, &context.dirs, &planned.spec)
            .map_err(|error| planned.locate(error))?;
    let kernel = planned.spec.kernel.display();
    if let Some(decision) = decision {
        let line = decision.line();
        match decision.outcome {
            Verdict::Allow => context.note(1, || format!("{kernel} would be {line}")),
            Verdict::ConvertToShim if args.quiet => {}
            // `preview::preview` has returned an error where the policy refuses the guest.
            Verdict::ConvertToShim | Verdict::Refuse => {
                context.say(format!("{kernel} would be {line}"));
            }
        }
    }
    if !args.quiet {
        for warning in warnings {
            context.warning(warning);
        }
    }
    Ok(())
}

/// Prints the plan of a dry run: in libxl's form as xl does, or with `--json` in Xyl's own form.
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

/// A configuration file as JSON of libxl. Without a size of the memory for page tables, so that a reader computes it.
pub fn record_of_file(context: &Context, file: &Path) -> Result<serde_json::Value, Failure> {
    let mut record = record_of(&plan_of_file(context, file)?.spec);
    let build = record
        .get_mut("b_info")
        .and_then(|build| build.as_object_mut());
    build.map(|build| build.remove("shadow_memkb"));
    Ok(record)
}

fn record_of(spec: &VmSpec) -> serde_json::Value {
    libxl_json::write::record(&libxl_json::Source {
        spec,
        shadow_kib: 0,
        pool: spec.pool.as_deref(),
    })
}

/// Returns the path of the configuration file, and the settings from the command line.
fn split(args: &Args) -> Result<(PathBuf, Vec<&str>), Failure> {
    let (file, overrides) = file_and_settings(&args.words, args.defconfig.as_deref())?;
    let missing = || {
        Failure::usage(
            "no configuration is given: give a FILE, or /dev/null and settings as KEY=VALUE",
        )
    };
    Ok((file.ok_or_else(missing)?, overrides))
}

/// Returns the configuration file among the words, or that of the option `-f`, and the settings among the words.
///
/// # Errors
/// [`Failure::Usage`] for a second file.
pub fn file_and_settings<'w>(
    words: &'w [String],
    defconfig: Option<&Path>,
) -> Result<(Option<PathBuf>, Vec<&'w str>), Failure> {
    let words = words.iter().map(String::as_str);
    let (overrides, files): (Vec<&str>, Vec<&str>) = words.partition(|word| word.contains('='));
    match (defconfig, files.as_slice()) {
        (Some(file), []) => Ok((Some(file.to_owned()), overrides)),
        (None, []) => Ok((None, overrides)),
        (None, [file]) => Ok((Some(PathBuf::from(file)), overrides)),
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
    parse(context, file, Source::read_file(file)?, overrides)
}

/// Parses the text of a file. The file's place decides which names are allowed.
fn parse(
    context: &Context,
    file: &Path,
    source: Source,
    overrides: &[&str],
) -> Result<Config, Failure> {
    let names = match is_kept(&context.dirs, file) {
        true => NameRule::Any,
        false => names::rule(&SystemFiles, &context.dirs)?,
    };
    Ok(plan::parse(source, overrides, names)?)
}

/// Whether the file is in the folder for configurations of VMs whose restart was given up. Such a VM has its name
/// already.
///
/// The check follows links and relative paths. A file that does not exist is in no folder.
fn is_kept(dirs: &Dirs, file: &Path) -> bool {
    match (file.canonicalize(), store::kept_folder(dirs).canonicalize()) {
        (Ok(file), Ok(folder)) => file.starts_with(folder),
        _ => false,
    }
}

/// Prints the warnings about a configuration.
pub fn show_warnings(context: &Context, report: &Report) {
    if context.json() {
        for finding in report.located() {
            let details = serde_json::to_value(&finding).unwrap_or_default();
            context
                .style()
                .with_details(Kind::Warning, finding.message, details);
        }
    } else if !report.is_empty() {
        stderr::line(format_args!(
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

    fn step(left_behind: Vec<(String, EngineError)>) -> EngineError {
        let outcome = left_behind.is_empty().then_some(Ended::Undone);
        EngineError::Step(Box::new(xyl_saga::Failure {
            step: "share out the CPU".to_owned(),
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
        let left = vec![("make the domain".to_owned(), EngineError::NoPv)];
        assert!(cancelled(&step(left)).is_none(), "something is left");
        assert!(cancelled(&EngineError::NoPv).is_none());
    }
}
