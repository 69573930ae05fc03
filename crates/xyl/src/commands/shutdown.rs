//! `xyl shutdown` and `xyl reboot`: ask guests to stop, and wait for them with `-w`.

use std::time::Duration;

use xen_port::{DomId, DomainInfo};
use xyl_engine::control::power::{self, End, PowerDelivery, PowerRequest, Until};
use xyl_engine::report::vms::reason_name;
use xyl_engine::supervise::requests::{self, Done, Request};
use xyl_engine::vm::domains;
use xyl_engine::{ErrorCode, Host};

use crate::commands::recover::replace_dead_monitors;
use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Ask a domain to shut down
#[derive(Debug, clap::Args)]
#[command(after_help = SHUTDOWN_HELP)]
pub struct ShutdownArgs {
    #[command(flatten)]
    common: CommonArgs,
}

const SHUTDOWN_HELP: &str = "The guest gets the request through xenstore, and must acknowledge it within 60 s. When the domain has shut \
down, its monitor does what the configuration says (on_poweroff).

Examples:
  xyl shutdown web
  xyl shutdown -w web          wait until it has shut down
  xyl shutdown -ww web         wait until it is gone
  xyl shutdown -a -w --timeout 300";

/// Ask a domain to reboot
#[derive(Debug, clap::Args)]
#[command(after_help = REBOOT_HELP)]
pub struct RebootArgs {
    #[command(flatten)]
    common: CommonArgs,
}

const REBOOT_HELP: &str = "The guest gets the request through xenstore, and must acknowledge it within 60 s. When the domain has shut \
down, its monitor does what the configuration says (on_reboot). A restarted domain has another number.

Examples:
  xyl reboot web
  xyl reboot -w web            wait until it has shut down for the reboot";

#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// All domains but domain 0
    #[arg(short, long, conflicts_with = "domain")]
    all: bool,
    /// Wait until it has shut down; twice, until it is gone
    #[arg(short, long, action = clap::ArgAction::Count)]
    wait: u8,
    /// Press the ACPI button of an HVM guest without PV drivers
    #[arg(short = 'F')]
    fallback: bool,
    /// Wait at most this long: for the guest to take the request (default 60), and with -w for its end (default no
    /// limit)
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The domain: its number, its name, or uuid=...
    #[arg(required_unless_present = "all", add = domain_names())]
    domain: Option<String>,
}

/// Time limit for a guest to acknowledge a request, as in libxl.
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(60);

/// Runs `xyl shutdown`.
pub fn run_shutdown(args: &ShutdownArgs, context: &Context) -> Outcome {
    run(&args.common, PowerRequest::Poweroff, context)
}

/// Runs `xyl reboot`.
pub fn run_reboot(args: &RebootArgs, context: &Context) -> Outcome {
    run(&args.common, PowerRequest::Reboot, context)
}

fn run(args: &CommonArgs, request: PowerRequest, context: &Context) -> Outcome {
    let mut host = context.open_host()?;
    let chosen = chosen(args, context, &mut host)?;
    let mut asked = Vec::new();
    let mut first_failure = None;
    for info in chosen {
        match ask(args, request, context, &mut host, &info) {
            Ok(Some(how)) => asked.push((info, how)),
            Ok(None) => {}
            // It has ended since the list was made.
            Err(failure) if args.all && has_gone(&failure) => {}
            // With `-a`, a failure does not keep the other domains from the request.
            Err(failure) if args.all => {
                context.warn(&failure);
                first_failure.get_or_insert(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    // Without its monitor, a rebooting VM would not start again.
    replace_dead_monitors(context);
    let not_taken = wait_until_taken(args, context, &mut host, &asked)?;
    let first_failure = first_failure.or(not_taken);
    if args.wait > 0 {
        wait_until_ended(
            args,
            context,
            &mut host,
            asked.into_iter().map(|(info, _)| info).collect(),
        )?;
    }
    match first_failure {
        Some(_) => Err(Failure::refused(
            "some domains could not be asked, or have not taken the request; see above",
        )),
        None => Ok(()),
    }
}

fn has_gone(failure: &Failure) -> bool {
    failure.code() == ErrorCode::NoSuchDomain
}

fn chosen(
    args: &CommonArgs,
    context: &Context,
    host: &mut Host,
) -> Result<Vec<DomainInfo>, Failure> {
    match &args.domain {
        Some(asked) => Ok(vec![context.find_on(host, asked)?.info]),
        None => {
            let infos = domains::list(&*host.hv)?;
            let is_guest = |info: &DomainInfo| info.domid != DomId::ZERO && !info.flags.xs_domain;
            Ok(infos.into_iter().filter(is_guest).collect())
        }
    }
}

fn ask(
    args: &CommonArgs,
    request: PowerRequest,
    context: &Context,
    host: &mut Host,
    info: &DomainInfo,
) -> Result<Option<PowerDelivery>, Failure> {
    let verb = match request {
        PowerRequest::Poweroff => "shut down",
        PowerRequest::Reboot => "reboot",
    };
    let request = Request::Power {
        request,
        fallback: args.fallback,
    };
    if context.would_change(host, info, &request, || {
        format!("ask domain {} to {verb}", info.domid)
    })? {
        return Ok(None);
    }
    requests::check(host, info, &request)?;
    context.say(format!("asking domain {} to {verb}", info.domid));
    Ok(match requests::ask_for(host, info, &request)? {
        Done::Delivered {
            how: PowerDelivery::HasShutDown,
        } => {
            context.say(format!("domain {} has shut down already", info.domid));
            Some(PowerDelivery::HasShutDown)
        }
        Done::Delivered { how } => Some(how),
        Done::Plain | Done::Dumped(_) | Done::Saved(_) => None,
    })
}

/// Waits until the guests have taken the request from xenstore. With `-a`, returns the first failure after all have
/// been waited for.
fn wait_until_taken(
    args: &CommonArgs,
    context: &Context,
    host: &mut Host,
    asked: &[(DomainInfo, PowerDelivery)],
) -> Result<Option<Failure>, Failure> {
    let mut first_failure = None;
    let limit = args.timeout.map_or(ACKNOWLEDGE_LIMIT, Duration::from_secs);
    for (info, how) in asked {
        if *how == PowerDelivery::ByXenstore {
            let waiting = context.waiting(format!("for domain {} to take the request", info.domid));
            let taken = power::wait_for_acknowledgement(host, info, limit, &mut |spent| {
                waiting.tick()(spent);
                replace_dead_monitors(context);
            });
            drop(waiting);
            match taken.map_err(Failure::from) {
                Err(failure) if args.all && has_gone(&failure) => {}
                // With `-a`, a failure does not end the wait for the others.
                Err(failure) if args.all => {
                    context.warn(&failure);
                    first_failure.get_or_insert(failure);
                }
                other => other?,
            }
        }
    }
    Ok(first_failure)
}

fn wait_until_ended(
    args: &CommonArgs,
    context: &Context,
    host: &mut Host,
    infos: Vec<DomainInfo>,
) -> Outcome {
    let until = if args.wait == 1 {
        Until::ShutDown
    } else {
        Until::Gone
    };
    let limit = args.timeout.map(Duration::from_secs);
    let waiting = context.waiting(match infos.as_slice() {
        [one] => format!("for domain {} to end", one.domid),
        many => format!("for {} domains to end", many.len()),
    });
    let mut ended = |domid: DomId, end: End| {
        waiting.pause();
        context.say(match end {
            End::ShutDown(reason) => {
                format!("domain {domid} has shut down ({})", reason_name(reason))
            }
            End::Gone => format!("domain {domid} is gone"),
        });
    };
    let mut tick = waiting.tick();
    let mut tick = |spent| {
        tick(spent);
        replace_dead_monitors(context);
    };
    Ok(power::wait_for_end(
        host, &infos, until, limit, &mut tick, &mut ended,
    )?)
}
