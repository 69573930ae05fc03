//! `xyl start`: starts the VMs that start with the host, in their order.
//!
//! VMs that do not wait for each other start at once, one behind the other. A VM that waits for others starts when each
//! of these is ready, or has failed, or has come to its time limit. So no VM holds up another without end.

mod ready;

use std::time::{Duration, Instant};

use os_port::SystemFiles;
use serde_json::{Value, json};
use xen_port::DomId;
use xyl_engine::config::autostart::{self, Entry, Ready, Start, StartPlan};
use xyl_engine::{AutostartError, Cancel, EngineError, ErrorCode};

use crate::commands::autostart::as_json;
use crate::commands::create::create_part;
use crate::commands::recover::replace_dead_monitors;
use crate::complete::autostart_names;
use crate::context::{Context, FoundVm};
use crate::error::{Failure, Outcome};
use crate::interrupts::Interrupts;
use crate::json;
use crate::shown::Shown;
use ready::Watch;

/// Start the VMs that start with the host
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`xyl autostart` shows these VMs. A VM starts when the VMs that it waits for (`--after`) are ready. One that does not get \
ready in its time, or does not start, holds up no other: the others go on, and the exit code is 1 at the end. A VM that runs already is left \
as it is. The policy decides about each VM as for `xyl create`. Ctrl-C leaves the VMs that run, and takes back a start that is under way.

Examples:
  xyl start --all
  xyl start --all --dry-run      print the plan
  xyl start nas web              only these, in their order

JSON: an array of {name, config, order, after, ready, ready_timeout_s, delay_s, waits_for, outcome, domid, seconds, error}; outcome is \
planned (of a dry run), ready, runs-already, not-ready, failed or not-started; domid, seconds and error are null where there is none"
)]
pub struct Args {
    /// All VMs that start with the host
    #[arg(
        short,
        long,
        conflicts_with = "names",
        required_unless_present = "names"
    )]
    all: bool,
    /// Print the plan, and start no VM
    #[arg(short = 'n', long = "dry-run")]
    dry_run: bool,
    /// Names of VMs that start with the host
    #[arg(value_name = "NAME", add = autostart_names())]
    names: Vec<String>,
}

/// Pause between two looks at the VMs that are to get ready.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Pause between two checks for dead monitors.
const MONITORS_EVERY: Duration = Duration::from_secs(2);

/// Runs `xyl start`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let (plan, errors) = plan(args, context)?;
    for error in &errors {
        context.warn(&Failure::from(EngineError::from(error.clone())));
    }
    let mut run = Run::new(context, plan);
    if args.dry_run || context.dry_run() {
        run.print_plan()?;
    } else {
        run.start_all()?;
    }
    if context.json() {
        let rows = run.vms.iter().map(Vm::as_json).collect();
        context.out.json(&Value::Array(rows))?;
    }
    run.result(errors)
}

/// The plan of the VMs that were asked for, and the errors of files.
fn plan(args: &Args, context: &Context) -> Result<(StartPlan, Vec<AutostartError>), Failure> {
    let (mut entries, mut errors) = autostart::read(&SystemFiles, &context.dirs)?;
    for name in &args.names {
        if !entries.iter().any(|entry| entry.name == *name) {
            return Err(EngineError::from(AutostartError::Unknown(name.clone())).into());
        }
    }
    if !args.all {
        entries.retain(|entry| args.names.contains(&entry.name));
        errors.clear();
    }
    let mut plan = autostart::plan(entries, &context.dirs);
    errors.append(&mut plan.refused);
    Ok((plan, errors))
}

/// State of one VM of the plan.
enum State {
    /// It has not started yet.
    Waits,
    /// It runs, and is to get ready.
    Started { since: Instant, watch: Watch },
    /// There is nothing more to wait for.
    Settled(Settled),
}

/// End of a VM's start.
enum Settled {
    Ready,
    RunsAlready,
    NotReady,
    Failed(Box<Failure>),
}

impl Settled {
    fn word(&self) -> &'static str {
        match self {
            Settled::Ready => "ready",
            Settled::RunsAlready => "runs-already",
            Settled::NotReady => "not-ready",
            Settled::Failed(_) => "failed",
        }
    }
}

/// A VM of the plan, and how far its start is.
struct Vm {
    start: Start,
    state: State,
    domid: Option<DomId>,
    took: Option<Duration>,
    is_planned_only: bool,
}

impl Vm {
    fn as_json(&self) -> Value {
        let mut value = as_json(&self.start.entry);
        json::set(&mut value, "waits_for", self.start.waits_for.clone());
        let outcome = match &self.state {
            State::Settled(settled) => settled.word(),
            _ if self.is_planned_only => "planned",
            State::Started { .. } => "not-ready",
            State::Waits => "not-started",
        };
        json::set(&mut value, "outcome", outcome);
        json::set(&mut value, "domid", json!(self.domid.map(|domid| domid.0)));
        let seconds = self.took.map(|took| took.as_secs_f64());
        json::set(&mut value, "seconds", json!(seconds));
        let error = match &self.state {
            State::Settled(Settled::Failed(failure)) => {
                let mut details = failure.details();
                json::set(&mut details, "message", failure.to_string());
                details
            }
            _ => Value::Null,
        };
        json::set(&mut value, "error", error);
        value
    }
}

/// The run of a plan.
struct Run<'c> {
    context: &'c Context,
    vms: Vec<Vm>,
    next_start: Instant,
}

impl<'c> Run<'c> {
    fn new(context: &'c Context, plan: StartPlan) -> Run<'c> {
        let vms = plan.starts.into_iter().map(|start| Vm {
            start,
            state: State::Waits,
            domid: None,
            took: None,
            is_planned_only: false,
        });
        Run {
            context,
            vms: vms.collect(),
            next_start: Instant::now(),
        }
    }

    fn print_plan(&mut self) -> Outcome {
        for vm in &mut self.vms {
            vm.is_planned_only = true;
            if !self.context.json() {
                self.context.out.line(plan_line(&vm.start))?;
            }
        }
        Ok(())
    }

    fn start_all(&mut self) -> Outcome {
        let interrupts = Interrupts::catch()?;
        let mut next_check = Instant::now() + MONITORS_EVERY;
        while !self.is_settled() {
            self.start_next(&interrupts.cancel);
            self.look();
            if interrupts.cancel.is_requested() {
                return interrupts.end_the_command();
            }
            if Instant::now() >= next_check {
                replace_dead_monitors(self.context);
                next_check = Instant::now() + MONITORS_EVERY;
            }
            if !self.is_settled() {
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        let is_settled = |vm: &Vm| matches!(vm.state, State::Settled(_));
        self.vms.iter().all(is_settled)
    }

    /// Whether a VM waits for no other one any more.
    fn may_start(&self, vm: &Vm) -> bool {
        let is_open = |name: &String| {
            let other = self
                .vms
                .iter()
                .find(|other| other.start.entry.name == *name);
            other.is_some_and(|other| !matches!(other.state, State::Settled(_)))
        };
        matches!(vm.state, State::Waits) && !vm.start.waits_for.iter().any(is_open)
    }

    /// Starts all VMs that may start now, up to one with a pause behind it.
    fn start_next(&mut self, cancel: &Cancel) {
        for at in 0..self.vms.len() {
            let may_start = self.vms.get(at).is_some_and(|vm| self.may_start(vm));
            if !may_start || cancel.is_requested() || Instant::now() < self.next_start {
                continue;
            }
            let Some(vm) = self.vms.get_mut(at) else {
                continue;
            };
            start_one(self.context, vm, cancel);
            if vm.domid.is_some() {
                let delay_s = vm.start.entry.delay_s.into();
                self.next_start = Instant::now() + Duration::from_secs(delay_s);
            }
        }
    }

    /// Looks which VMs are ready by now.
    fn look(&mut self) {
        for vm in &mut self.vms {
            let entry = &vm.start.entry;
            let (State::Started { since, watch }, Some(domid)) = (&mut vm.state, vm.domid) else {
                continue;
            };
            let spent = since.elapsed();
            let name = Shown::name(&entry.name).to_string();
            let settled = if watch.is_ready(self.context, domid) {
                self.context
                    .say(format!("{name} is ready after {} s", spent.as_secs()));
                Settled::Ready
            } else if spent.as_secs() >= entry.ready_timeout_s.into() {
                self.context.warning(format!(
                    "{name} is not ready after {} s ({}): the others go on; it runs on",
                    entry.ready_timeout_s, entry.ready
                ));
                Settled::NotReady
            } else {
                continue;
            };
            vm.took = Some(spent);
            vm.state = State::Settled(settled);
        }
    }

    fn result(self, errors: Vec<AutostartError>) -> Outcome {
        let is_bad = |vm: &&Vm| {
            matches!(
                vm.state,
                State::Settled(Settled::NotReady | Settled::Failed(_))
            )
        };
        let bad = self.vms.iter().filter(is_bad).count();
        match (bad, errors.into_iter().next()) {
            (0, None) => Ok(()),
            (0, Some(error)) => Err(EngineError::from(error).into()),
            _ => Err(Failure::refused(format!(
                "{bad} of {} VMs did not start, or did not get ready: the lines above give the reasons",
                self.vms.len()
            ))),
        }
    }
}

/// The line of a dry run about a VM.
fn plan_line(start: &Start) -> String {
    let entry = &start.entry;
    let mut line = format!(
        "would start {} ({})",
        Shown::name(&entry.name),
        entry.config.display()
    );
    if !start.waits_for.is_empty() {
        line += &format!(", after {}", start.waits_for.join(" and "));
    }
    if entry.ready != Ready::None {
        line += &format!(
            ", ready by {} within {} s",
            entry.ready, entry.ready_timeout_s
        );
    }
    if entry.delay_s > 0 {
        line += &format!(", then a pause of {} s", entry.delay_s);
    }
    Shown::line(&line).to_string()
}

/// Starts a VM, unless it runs.
fn start_one(context: &Context, vm: &mut Vm, cancel: &Cancel) {
    let Entry { name, config, .. } = &vm.start.entry;
    for missing in &vm.start.missing {
        context.warning(format!(
            "{} does not wait for {}, which does not start with the host",
            Shown::name(name),
            Shown::name(missing)
        ));
    }
    match running(context, name) {
        Ok(false) => {}
        Ok(true) => {
            context.say(format!("{} runs already", Shown::name(name)));
            vm.state = State::Settled(Settled::RunsAlready);
            return;
        }
        Err(failure) => return fail(context, vm, failure),
    }
    // What was on the console before belongs to an earlier domain.
    let watch = Watch::begin(context, &vm.start.entry);
    match create_part(context, name, config, cancel) {
        Ok(created) => {
            vm.domid = Some(created.domid);
            context.say(format!(
                "{} is started (domain {})",
                Shown::name(name),
                created.domid
            ));
            vm.state = match vm.start.entry.ready {
                Ready::None => State::Settled(Settled::Ready),
                _ => State::Started {
                    since: Instant::now(),
                    watch,
                },
            };
        }
        Err(failure) => fail(context, vm, failure),
    }
}

fn fail(context: &Context, vm: &mut Vm, failure: Failure) {
    context.warning(format!(
        "{} does not start:",
        Shown::name(&vm.start.entry.name)
    ));
    context.warn(&failure);
    vm.state = State::Settled(Settled::Failed(Box::new(failure)));
}

/// Whether a VM of this name has a domain, of any toolstack, or gets its next one.
fn running(context: &Context, name: &str) -> Result<bool, Failure> {
    match context.find_vm(name) {
        Ok(FoundVm::WithDomain(_) | FoundVm::WithoutDomain(_)) => Ok(true),
        Err(failure) if matches!(failure.code(), ErrorCode::NoSuchDomain | ErrorCode::GivenUp) => {
            Ok(false)
        }
        Err(failure) => Err(failure),
    }
}
