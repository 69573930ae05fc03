//! `xyl stop --all`: shuts all of Xyl's VMs down before the host ends, in the reverse order of their starts.
//!
//! The VMs stop in waves: first those that no other VM waits for at its start. One deadline is for all. Each wave has an
//! equal part of the time until then at least: a VM that does not stop holds up those before it for no longer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use os_port::SystemFiles;
use serde_json::{Value, json};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xyl_engine::config::autostart;
use xyl_engine::control::power::PowerRequest;
use xyl_engine::operation::restart;
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::supervise::states;
use xyl_engine::vm::domains;
use xyl_engine::vm::without_domain;
use xyl_engine::{EngineError, Host};

use crate::commands::recover::replace_dead_monitors;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::interrupts::Interrupts;
use crate::shown::Shown;

/// Shut all of Xyl's VMs down
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The VMs stop in the reverse order of their starts (`xyl autostart`): a VM stops before those that it waits for, and one that does \
not start with the host is among the first. Domains of xl are left alone. One time limit is for all, and VMs that hang take no time \
from others: with three VMs that wait for each other, each has a third of the time at least. \
After the time limit, --destroy ends those that still run, as if their power failed. Without it they run on, and the exit code is 1. \
Ctrl-C ends the wait; a guest that was asked shuts down all the same.

The unit xyl-guests.service runs this when the host stops, before Debian's xendomains, which would save the VMs with xl.

Examples:
  xyl stop --all --dry-run
  xyl stop --all
  xyl stop --all --timeout 120 --destroy

JSON: an array of {name, uuid, domid, wave, outcome, seconds}; outcome is planned (of a dry run), stopped, destroyed or runs-on; \
domid and seconds are null where there is none"
)]
pub struct Args {
    /// All of Xyl's VMs; `xyl shutdown` is for one
    #[arg(short, long, required = true)]
    all: bool,
    /// Time limit for all, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u32,
    /// Destroy the VMs that still run then
    #[arg(long)]
    destroy: bool,
    /// Print the plan, and stop no VM
    #[arg(short = 'n', long = "dry-run")]
    dry_run: bool,
}

/// Pause between two looks at the domains.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Pause between two checks for dead monitors.
const MONITORS_EVERY: Duration = Duration::from_secs(2);
/// Time that the monitor of a domain that has shut down gets to act. A domain that is there after it is kept on purpose.
const KEPT_AFTER: Duration = Duration::from_secs(10);
/// Time limit for all destroyed domains to be gone. The unit xyl-guests.service gives the command 120 s beyond its own limit.
const GONE_LIMIT: Duration = Duration::from_secs(100);

/// A VM that is to stop.
struct Vm {
    uuid: Uuid,
    name: String,
    wave: u32,
    /// Its domain, if it has one.
    domid: Option<DomId>,
    /// The domain that was asked to shut down.
    asked: Option<DomId>,
    /// Time at which its domain was first seen to have shut down.
    shut_down_at: Option<Instant>,
    end: Option<(&'static str, Duration)>,
}

impl Vm {
    fn shown(&self) -> Shown<'_> {
        Shown::name(&self.name)
    }

    /// The VM's domain among these.
    fn domain_among<'i>(&self, infos: &'i [DomainInfo]) -> Option<&'i DomainInfo> {
        infos
            .iter()
            .find(|info| &info.handle == self.uuid.as_bytes())
    }
}

/// Runs `xyl stop`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let mut host = context.open_host()?;
    let mut run = Run {
        context,
        args,
        begun: Instant::now(),
        vms: find_all(context, &mut host)?,
    };
    let is_dry = args.dry_run || context.dry_run();
    let outcome = match is_dry {
        true => run.print_plan(),
        false => run.stop_all(&mut host),
    };
    context.count(&host);
    if context.json() {
        let rows = run.vms.iter().map(|vm| as_json(vm, is_dry)).collect();
        context.out.json(&Value::Array(rows))?;
    }
    outcome
}

/// All of Xyl's VMs, those of the first wave first.
fn find_all(context: &Context, host: &mut Host) -> Result<Vec<Vm>, Failure> {
    let infos = domains::list(&*host.hv)?;
    let own = states::own_domains(&host.records(), &infos);
    let names = context.names_or_warning(&own);
    let with_domain = own.iter().zip(names).map(|(info, name)| {
        let uuid = Uuid::from_bytes(info.handle);
        (
            uuid,
            name.unwrap_or_else(|| uuid.to_string()),
            Some(info.domid),
        )
    });
    let without = without_domain::all(&host.records(), &infos).into_iter();
    let without = without.map(|vm| (vm.uuid, vm.name, None));
    let waves = stop_waves(context)?;
    let mut vms: Vec<Vm> = with_domain
        .chain(without)
        .map(|(uuid, name, domid)| Vm {
            uuid,
            wave: waves.get(&name).copied().unwrap_or(0),
            name,
            domid,
            asked: None,
            shut_down_at: None,
            end: None,
        })
        .collect();
    vms.sort_by(|one, other| (one.wave, &one.name).cmp(&(other.wave, &other.name)));
    close_up(&mut vms);
    Ok(vms)
}

/// The wave of each VM that starts with the host.
fn stop_waves(context: &Context) -> Result<BTreeMap<String, u32>, Failure> {
    let (entries, errors) = autostart::read(&SystemFiles, &context.dirs)?;
    let plan = autostart::plan(entries, &context.dirs);
    for error in errors.iter().chain(&plan.refused) {
        context.warning(error.to_string());
    }
    Ok(plan.stop_waves())
}

/// Numbers the waves anew, so that each has a VM. The VMs are in the order of the waves.
fn close_up(vms: &mut [Vm]) {
    let mut waves: Vec<u32> = vms.iter().map(|vm| vm.wave).collect();
    waves.dedup();
    for vm in vms {
        let wave = waves.iter().position(|wave| *wave == vm.wave);
        vm.wave = wave.and_then(|wave| u32::try_from(wave).ok()).unwrap_or(0);
    }
}

fn as_json(vm: &Vm, is_dry: bool) -> Value {
    let outcome = match vm.end {
        Some((word, _)) => word,
        None if is_dry => "planned",
        None => "runs-on",
    };
    json!({
        "name": vm.name,
        "uuid": vm.uuid.hyphenated().to_string(),
        "domid": vm.domid.map(|domid| domid.0),
        "wave": vm.wave,
        "outcome": outcome,
        "seconds": vm.end.map(|(_, took)| took.as_secs_f64()),
    })
}

/// The run of a stop.
struct Run<'r> {
    context: &'r Context,
    args: &'r Args,
    begun: Instant,
    vms: Vec<Vm>,
}

impl Run<'_> {
    fn limit(&self) -> Duration {
        Duration::from_secs(self.args.timeout.into())
    }

    fn nr_waves(&self) -> u32 {
        self.vms.last().map_or(1, |vm| vm.wave + 1)
    }

    /// Time from the begin at which a wave is asked, if VMs of earlier waves still run.
    fn latest_begin(&self, wave: u32) -> Duration {
        self.limit() * wave / self.nr_waves()
    }

    fn print_plan(&self) -> Outcome {
        if self.context.json() {
            return Ok(());
        }
        for vm in &self.vms {
            let when = match vm.wave {
                0 => "at once".to_owned(),
                wave => format!(
                    "after those above, or after {} s",
                    self.latest_begin(wave).as_secs()
                ),
            };
            self.context
                .out
                .line(format!("would stop {} {when}", vm.shown()))?;
        }
        Ok(())
    }

    fn stop_all(&mut self, host: &mut Host) -> Outcome {
        let interrupts = Interrupts::catch()?;
        let mut next_check = Instant::now();
        while self.is_open() && self.begun.elapsed() < self.limit() {
            if interrupts.cancel.is_requested() {
                return interrupts.end_the_command();
            }
            // Without its monitor, a domain that has shut down stays.
            if Instant::now() >= next_check {
                replace_dead_monitors(self.context);
                next_check = Instant::now() + MONITORS_EVERY;
            }
            // Xen or xenstored may answer at the next look. After the limit the VMs are destroyed all the same.
            if let Err(failure) = self.look(host) {
                self.context.warn(&failure);
            }
            if self.is_open() {
                std::thread::sleep(LOOK_EVERY);
            }
        }
        drop(interrupts);
        match self.args.destroy {
            true => self.destroy_rest(host),
            false => self.result(),
        }
    }

    fn is_open(&self) -> bool {
        self.vms.iter().any(|vm| vm.end.is_none())
    }

    /// The last wave that may be asked now.
    fn wave_now(&self) -> u32 {
        let open = self.vms.iter().filter(|vm| vm.end.is_none());
        let by_ends = open.map(|vm| vm.wave).min().unwrap_or(0);
        let spent = self.begun.elapsed();
        let by_time = (0..self.nr_waves()).filter(|wave| self.latest_begin(*wave) <= spent);
        by_time.max().unwrap_or(0).max(by_ends)
    }

    /// Looks which VMs have ended, and asks those whose turn it is.
    fn look(&mut self, host: &mut Host) -> Outcome {
        let infos = domains::list(&*host.hv)?;
        let without = without_domain::all(&host.records(), &infos);
        let (wave_now, spent) = (self.wave_now(), self.begun.elapsed());
        let context = self.context;
        for vm in self.vms.iter_mut().filter(|vm| vm.end.is_none()) {
            let its = vm.domain_among(&infos);
            let is_due = vm.wave <= wave_now;
            match its {
                Some(info) => {
                    if has_stopped(vm, info) {
                        end(context, vm, "stopped", spent);
                    } else if is_due && !info.flags.shutdown && !info.flags.dying {
                        ask(context, host, vm, info);
                    }
                }
                None if !without.iter().any(|other| other.uuid == vm.uuid) => {
                    end(context, vm, "stopped", spent);
                }
                None if is_due => call_off(context, host, vm, spent),
                None => {}
            }
        }
        Ok(())
    }

    /// Destroys the VMs that still run, and domains that have shut down and are kept: all at once, under one limit.
    fn destroy_rest(&mut self, host: &mut Host) -> Outcome {
        let limit = Instant::now() + GONE_LIMIT;
        let (mut is_asked, mut is_warned) = (false, false);
        loop {
            let is_late = Instant::now() >= limit;
            // Xen may answer at the next look.
            match domains::list(&*host.hv) {
                Ok(infos) if !is_asked => {
                    self.ask_for_destroys(host, &infos);
                    is_asked = true;
                }
                Ok(infos) if self.count_left(&infos) == 0 => return self.result(),
                Ok(infos) if is_late => {
                    self.name_left(&infos);
                    return self.result();
                }
                Ok(_) => {}
                Err(error) if is_late => return Err(error.into()),
                Err(error) if !is_warned => {
                    self.context.warn(&Failure::from(error));
                    is_warned = true;
                }
                Err(_) => {}
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Asks for the destroy of each VM that has a domain. A VM that waits for its next domain gets none.
    fn ask_for_destroys(&mut self, host: &mut Host, infos: &[DomainInfo]) {
        let (context, spent) = (self.context, self.begun.elapsed());
        for vm in &mut self.vms {
            match (vm.domain_among(infos), vm.end.is_some()) {
                (Some(info), has_ended) => {
                    if !has_ended {
                        context.warning(format!("{} does not stop: it is destroyed", vm.shown()));
                    }
                    let asked = have_done(host, info, &Request::Destroy { force: false });
                    if let Err(error) = asked {
                        context.warn(&Failure::from(error));
                    }
                }
                (None, false) => call_off(context, host, vm, spent),
                (None, true) => {}
            }
        }
    }

    /// Notes which VMs have no domain any more. Returns the number of the others.
    fn count_left(&mut self, infos: &[DomainInfo]) -> usize {
        let spent = self.begun.elapsed();
        let mut nr_left = 0;
        for vm in &mut self.vms {
            match vm.domain_among(infos) {
                None => vm.end = vm.end.or(Some(("destroyed", spent))),
                Some(_) => nr_left += 1,
            }
        }
        nr_left
    }

    /// Names the VMs that still have a domain.
    fn name_left(&self, infos: &[DomainInfo]) {
        for vm in &self.vms {
            if let Some(info) = vm.domain_among(infos) {
                self.context.warning(format!(
                    "domain {} of {} still exists: `xyl fsck` lists what holds it",
                    info.domid,
                    vm.shown()
                ));
            }
        }
    }

    fn result(&self) -> Outcome {
        let open = self.vms.iter().filter(|vm| vm.end.is_none());
        let names: Vec<String> = open.map(|vm| vm.shown().to_string()).collect();
        match names.as_slice() {
            [] => Ok(()),
            names => Err(EngineError::Deadline {
                what: format!("not stopped: {}", names.join(", ")),
                limit_s: self.limit().as_secs(),
            }
            .into()),
        }
    }
}

/// Whether the domain has shut down, and is kept.
fn has_stopped(vm: &mut Vm, info: &DomainInfo) -> bool {
    if !info.flags.shutdown || info.flags.dying || vm.domid != Some(info.domid) {
        vm.shut_down_at = None;
        vm.domid = Some(info.domid);
        return false;
    }
    vm.shut_down_at.get_or_insert_with(Instant::now).elapsed() >= KEPT_AFTER
}

fn end(context: &Context, vm: &mut Vm, how: &'static str, spent: Duration) {
    context.say(format!(
        "{} has stopped after {} s",
        vm.shown(),
        spent.as_secs()
    ));
    vm.end = Some((how, spent));
}

/// Asks a domain to shut down, once. A failure leaves it to the time limit.
fn ask(context: &Context, host: &mut Host, vm: &mut Vm, info: &DomainInfo) {
    if vm.asked == Some(info.domid) {
        return;
    }
    vm.asked = Some(info.domid);
    context.say(format!(
        "asking {} (domain {}) to shut down",
        vm.shown(),
        info.domid
    ));
    let request = Request::Power {
        request: PowerRequest::Poweroff,
        fallback: true,
    };
    let asked =
        requests::check(host, info, &request).and_then(|()| have_done(host, info, &request));
    if let Err(error) = asked {
        context.warn(&Failure::from(error));
    }
}

/// Ends a VM that has no domain and waits for its next one. If it has got one meanwhile, the next look finds that.
fn call_off(context: &Context, host: &mut Host, vm: &mut Vm, spent: Duration) {
    match restart::call_off(host, vm.uuid) {
        Ok(Some(_)) => end(context, vm, "stopped", spent),
        Ok(None) => {}
        Err(error) => context.warn(&Failure::from(error)),
    }
}

/// Has the VM's monitor do something, without a wait: a VM whose lock is held must not hold up the others. A VM without a
/// monitor is changed by this process.
fn have_done(host: &mut Host, info: &DomainInfo, request: &Request) -> Result<(), EngineError> {
    match requests::post(host, info, request) {
        Err(EngineError::NoMonitor(_)) => requests::ask_for(host, info, request).map(drop),
        other => other,
    }
}
