//! `xyl sched-rtds`: says which pools have the scheduler RTDS. Its parameters are not there yet.

use serde_json::{Value, json};
use xen_port::SchedulerId;
use xyl_engine::control::cpu_pools;
use xyl_engine::control::sched;
use xyl_engine::host::pools::Pool;

use crate::complete::{domain_names, pool_names};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Show or set shares under the scheduler RTDS
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Lists the CPU pools with this scheduler. The parameters of their domains are not there yet: `xl sched-rtds` has them.

Examples:
  xyl sched-rtds
  xyl sched-rtds -d web

JSON: an array of {pool}"
)]
pub struct Args {
    /// The domain to show or change
    #[arg(short, long, add = domain_names())]
    domain: Option<String>,
    /// One vCPU, or all
    #[arg(short, long, num_args = 0..=1)]
    vcpuid: Option<Option<String>>,
    /// Period in microseconds
    #[arg(short, long)]
    period: Option<u32>,
    /// Time within each period, in microseconds
    #[arg(short, long)]
    budget: Option<u32>,
    /// Whether a vCPU may use time that others leave, 0 or 1
    #[arg(short, long)]
    extratime: Option<u8>,
    /// Only this CPU pool
    #[arg(short = 'c', long, add = pool_names())]
    cpupool: Option<String>,
}

impl Args {
    fn changes(&self) -> bool {
        self.period.is_some() || self.budget.is_some() || self.extratime.is_some()
    }
}

/// Runs `xyl sched-rtds`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let Some(asked) = &args.domain else {
        if args.changes() {
            return Err(Failure::usage(
                "these parameters are a domain's: say which with -d DOMAIN",
            ));
        }
        return list(args, context);
    };
    let domain = context.find(asked)?;
    sched::check_scheduler(context.hv()?, &domain.info, SchedulerId::Rtds)?;
    Err(not_there_yet())
}

fn not_there_yet() -> Failure {
    Failure::not_there_yet(
        "the parameters of the scheduler RTDS are not there yet: use `xl sched-rtds`",
    )
}

fn list(args: &Args, context: &Context) -> Outcome {
    let pools = context.pools()?;
    let only = args.cpupool.as_deref();
    let only = only
        .map(|asked| cpu_pools::find(&pools, asked))
        .transpose()?;
    let shown = |pool: &&Pool| {
        pool.scheduler == SchedulerId::Rtds && only.is_none_or(|only| only.id == pool.id)
    };
    let names: Vec<String> = pools.iter().filter(shown).map(Pool::shown).collect();
    if context.json() {
        let array = names.iter().map(|name| json!({ "pool": name })).collect();
        return Ok(context.out.json(&Value::Array(array))?);
    }
    for name in &names {
        let line = format!("Cpupool {}: sched=RTDS", Shown::line(name));
        context.out.line(line)?;
    }
    match names.is_empty() {
        true => Ok(()),
        false => Err(not_there_yet()),
    }
}
