//! `xyl sched-credit` and `xyl sched-credit2`: show or set the CPU shares of domains and the parameters of
//! schedulers.

use serde_json::{Value, json};
use xen_port::{DomainInfo, SchedulerGlobals, SchedulerId};
use xyl_engine::control::sched;
use xyl_engine::host::pools::Pools;
use xyl_engine::supervise::requests;
use xyl_engine::vm::domains;

use crate::complete::{domain_names, pool_names};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::json;
use crate::output::left;
use crate::shown::{self, Shown};

/// Show or set shares under the credit2 scheduler
#[derive(Debug, clap::Args)]
#[command(after_help = CREDIT2_HELP)]
pub struct Credit2Args {
    /// The domain to show or change
    #[arg(short, long, add = domain_names())]
    domain: Option<String>,
    /// Its weight against the others, 1 to 65535 (256 is usual)
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    weight: Option<u16>,
    /// Its limit, in per cent of one CPU; 0 for no limit
    #[arg(short, long)]
    cap: Option<u16>,
    /// Show or set the scheduler's own parameters
    #[arg(short, long)]
    schedparam: bool,
    /// Shortest time that a vCPU runs, in microseconds
    #[arg(short, long = "ratelimit_us", requires = "schedparam")]
    ratelimit_us: Option<u32>,
    /// Only this CPU pool
    #[arg(short = 'p', long, add = pool_names(), conflicts_with_all = ["domain", "weight", "cap"])]
    cpupool: Option<String>,
}

const CREDIT2_HELP: &str = "Examples:
  xyl sched-credit2
  xyl sched-credit2 -d web
  xyl sched-credit2 -d web -w 512 -c 150
  xyl sched-credit2 -s -r 2000

JSON: an array of pools {pool, ratelimit_us, domains [{domid, name, weight, cap}]}; with -d one pool \
with one domain, with -s one pool with all of its domains";

/// Show or set shares under the credit scheduler
#[derive(Debug, clap::Args)]
#[command(after_help = CREDIT_HELP)]
pub struct CreditArgs {
    /// The domain to show or change
    #[arg(short, long, add = domain_names())]
    domain: Option<String>,
    /// Its weight against the others, 1 to 65535 (256 is usual)
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    weight: Option<u16>,
    /// Its limit, in per cent of one CPU; 0 for no limit
    #[arg(short, long)]
    cap: Option<u16>,
    /// Show or set the scheduler's own parameters
    #[arg(short, long, conflicts_with_all = ["domain", "weight", "cap"])]
    schedparam: bool,
    /// Time slice in milliseconds
    #[arg(short, long = "tslice_ms", requires = "schedparam")]
    tslice_ms: Option<u32>,
    /// Shortest time that a vCPU runs, in microseconds
    #[arg(short, long = "ratelimit_us", requires = "schedparam")]
    ratelimit_us: Option<u32>,
    /// Time after which a vCPU no longer counts as cache-warm, in microseconds
    #[arg(short, long = "migration_delay_us", requires = "schedparam")]
    migration_delay_us: Option<u32>,
    /// Only this CPU pool
    #[arg(short = 'p', long, add = pool_names(), conflicts_with_all = ["domain", "weight", "cap"])]
    cpupool: Option<String>,
}

const CREDIT_HELP: &str = "Examples:
  xyl sched-credit
  xyl sched-credit -d web -w 512
  xyl sched-credit -s -t 10

JSON: an array of pools {pool, tslice_ms, ratelimit_us, migration_delay_us, \
domains [{domid, name, weight, cap}]}; with -d one pool with one domain, with -s one pool with \
all of its domains";

/// Options that both commands have.
struct Request<'a> {
    scheduler: SchedulerId,
    domain: Option<&'a str>,
    weight: Option<u16>,
    cap: Option<u16>,
    schedparam: bool,
    globals: sched::GlobalsChange,
    cpupool: Option<&'a str>,
}

/// Runs `xyl sched-credit2`.
pub fn run_credit2(args: &Credit2Args, context: &Context) -> Outcome {
    run(
        &Request {
            scheduler: SchedulerId::Credit2,
            domain: args.domain.as_deref(),
            weight: args.weight,
            cap: args.cap,
            schedparam: args.schedparam,
            globals: sched::GlobalsChange {
                ratelimit_us: args.ratelimit_us,
                ..Default::default()
            },
            cpupool: args.cpupool.as_deref(),
        },
        context,
    )
}

/// Runs `xyl sched-credit`.
pub fn run_credit(args: &CreditArgs, context: &Context) -> Outcome {
    run(
        &Request {
            scheduler: SchedulerId::Credit,
            domain: args.domain.as_deref(),
            weight: args.weight,
            cap: args.cap,
            schedparam: args.schedparam,
            globals: sched::GlobalsChange {
                tslice_ms: args.tslice_ms,
                ratelimit_us: args.ratelimit_us,
                vcpu_migr_delay_us: args.migration_delay_us,
            },
            cpupool: args.cpupool.as_deref(),
        },
        context,
    )
}

fn run(request: &Request, context: &Context) -> Outcome {
    if request.domain.is_none() && (request.weight.is_some() || request.cap.is_some()) {
        return Err(Failure::usage(
            "a weight or cap is a domain's: say which with -d DOMAIN",
        ));
    }
    match request.domain {
        // xl also looks at `-s` first.
        _ if request.schedparam => globals(request, context),
        Some(asked) => one_domain(request, asked, context),
        None => all_pools(request, context),
    }
}

fn one_domain(request: &Request, asked: &str, context: &Context) -> Outcome {
    let domain = context.find(asked)?;
    if request.weight.is_none() && request.cap.is_none() {
        let name = context.name_of(&domain)?;
        return show_domain(request, context, (domain.info, name));
    }
    let share = requests::Request::Share {
        scheduler: request.scheduler,
        change: sched::ShareChange {
            weight: request.weight,
            cap: request.cap,
        },
    };
    let mut host = context.open_host()?;
    context.change_on(&mut host, &domain.info, &share, |domid| {
        format!("set the share of domain {domid}")
    })
}

fn show_domain(request: &Request, context: &Context, domain: Named) -> Outcome {
    if context.json() {
        let pool = domain.0.cpupool;
        let globals = sched::globals(context.hv()?, pool, request.scheduler)?;
        let name = context.pools()?.name(pool);
        let value = pool_json(request, context, &name, &globals, &[domain])?;
        return Ok(context.out.json(&Value::Array(vec![value]))?);
    }
    context.out.line(DOMAINS_HEADER)?;
    print_shares(request, context, &[domain])
}

/// A domain and its name.
type Named = (DomainInfo, Option<String>);

fn domains_and_names(context: &Context) -> Result<Vec<Named>, Failure> {
    let infos = domains::list(context.hv()?)?;
    let names = context.names_or_warning(&infos);
    Ok(infos.into_iter().zip(names).collect())
}

fn members(pool: u32, all: &[Named]) -> Vec<Named> {
    let members = all.iter().filter(|(info, _)| info.cpupool == pool);
    members.cloned().collect()
}

/// A pool's scheduler parameters and the shares of these domains, as JSON.
fn pool_json(
    request: &Request,
    context: &Context,
    name: &str,
    globals: &SchedulerGlobals,
    domains: &[Named],
) -> Result<Value, Failure> {
    let mut value = globals_json(name, globals);
    json::set(
        &mut value,
        "domains",
        domains_json(request, context, domains)?,
    );
    Ok(value)
}

const DOMAINS_HEADER: &str = "Name                                ID Weight  Cap";

fn print_shares(request: &Request, context: &Context, domains: &[Named]) -> Outcome {
    for (info, name) in domains {
        let (weight, cap) = sched::share(context.hv()?, info, request.scheduler)?;
        let name = shown::cell(name.as_deref());
        context.out.line(format!(
            "{} {:4} {weight:6} {cap:4}",
            left(&name, 33),
            info.domid.0
        ))?;
    }
    Ok(())
}

fn domains_json(
    request: &Request,
    context: &Context,
    domains: &[Named],
) -> Result<Vec<Value>, Failure> {
    domains
        .iter()
        .map(|(info, name)| {
            let (weight, cap) = sched::share(context.hv()?, info, request.scheduler)?;
            Ok(json!({"domid": info.domid.0, "name": name, "weight": weight, "cap": cap}))
        })
        .collect()
}

/// `-s`: shows or sets the parameters of one pool's scheduler. The default is Pool-0.
fn globals(request: &Request, context: &Context) -> Outcome {
    let pools = context.pools()?;
    let pool = request
        .cpupool
        .map_or(Ok(0), |asked| find_pool(&pools, asked))?;
    if request.globals.is_empty() {
        let globals = sched::globals(context.hv()?, pool, request.scheduler)?;
        if context.json() {
            let members = members(pool, &domains_and_names(context)?);
            let value = pool_json(request, context, &pools.name(pool), &globals, &members)?;
            return Ok(context.out.json(&Value::Array(vec![value]))?);
        }
        return Ok(context
            .out
            .line(globals_text(&pools.name(pool), &globals))?);
    }
    sched::check_globals(context.hv()?, pool, request.scheduler, &request.globals)?;
    if context.would(format!("set the scheduler of CPU pool {pool}"))? {
        return Ok(());
    }
    Ok(sched::set_globals(
        context.hv()?,
        pool,
        request.scheduler,
        &request.globals,
    )?)
}

fn find_pool(pools: &Pools, asked: &str) -> Result<u32, Failure> {
    pools.find(asked).map(|pool| pool.id).ok_or_else(|| {
        Failure::refused(format!(
            "there is no CPU pool `{asked}`; there are {}",
            pools.listed()
        ))
    })
}

/// Prints all pools with this scheduler, or one pool, and the shares of their domains.
fn all_pools(request: &Request, context: &Context) -> Outcome {
    let names = context.pools()?;
    let only = request
        .cpupool
        .map(|asked| find_pool(&names, asked))
        .transpose()?;
    let all = domains_and_names(context)?;
    let mut array = Vec::new();
    for pool in context.hv()?.cpu_pools()? {
        if pool.scheduler != request.scheduler || only.is_some_and(|only| only != pool.id) {
            continue;
        }
        let members = members(pool.id, &all);
        let globals = context.hv()?.scheduler_globals(pool.id)?;
        if context.json() {
            let name = names.name(pool.id);
            array.push(pool_json(request, context, &name, &globals, &members)?);
        } else {
            context
                .out
                .line(globals_text(&names.name(pool.id), &globals))?;
            context.out.line(DOMAINS_HEADER)?;
            print_shares(request, context, &members)?;
        }
    }
    if context.json() {
        context.out.json(&Value::Array(array))?;
    }
    Ok(())
}

fn globals_text(pool: &str, globals: &SchedulerGlobals) -> String {
    match globals {
        SchedulerGlobals::Credit {
            tslice_ms,
            ratelimit_us,
            vcpu_migr_delay_us,
        } => format!(
            "Cpupool {}: tslice={tslice_ms}ms ratelimit={ratelimit_us}us migration-delay={vcpu_migr_delay_us}us",
            Shown::line(pool)
        ),
        SchedulerGlobals::Credit2 { ratelimit_us } => {
            format!("Cpupool {}: ratelimit={ratelimit_us}us", Shown::line(pool))
        }
    }
}

fn globals_json(pool: &str, globals: &SchedulerGlobals) -> Value {
    match globals {
        SchedulerGlobals::Credit {
            tslice_ms,
            ratelimit_us,
            vcpu_migr_delay_us,
        } => json!({
            "pool": pool,
            "tslice_ms": tslice_ms,
            "ratelimit_us": ratelimit_us,
            "migration_delay_us": vcpu_migr_delay_us,
        }),
        SchedulerGlobals::Credit2 { ratelimit_us } => {
            json!({"pool": pool, "ratelimit_us": ratelimit_us})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_that_of_xl() {
        assert_eq!(
            DOMAINS_HEADER,
            format!("{:<33} {:>4} {:>6} {:>4}", "Name", "ID", "Weight", "Cap")
        );
    }

    #[test]
    fn a_pool_is_one_line() {
        assert_eq!(
            globals_text("Pool-0", &SchedulerGlobals::Credit2 { ratelimit_us: 1000 }),
            "Cpupool Pool-0: ratelimit=1000us"
        );
    }
}
