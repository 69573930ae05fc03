//! The commands about CPU pools, besides `cpupool-create`.

use serde_json::{Value, json};
use xen_port::CpuMap;
use xl_cfg::types::CpuList;
use xyl_engine::control::cpu_pools::{self, Refused};
use xyl_engine::host::pools::{Pool, Pools};
use xyl_engine::supervise::requests::Request;

use crate::complete::{cpu_lists, domain_names, pool_names};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::output::{left, right};
use crate::shown::{self, Shown};

/// List CPU pools
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl cpupool-list
  xyl cpupool-list -c          which CPUs each has

JSON: an array of {id, name, scheduler, cpus (an array of numbers), nr_domains}")]
pub struct ListArgs {
    /// List the CPUs of each pool
    #[arg(short, long)]
    cpus: bool,
    /// Only this pool: its number or its name
    #[arg(value_name = "POOL", add = pool_names())]
    pool: Option<String>,
}

/// Runs `xyl cpupool-list`.
pub fn run_list(args: &ListArgs, context: &Context) -> Outcome {
    let pools = context.pools()?;
    let shown: Vec<&Pool> = match &args.pool {
        Some(asked) => vec![cpu_pools::find(&pools, asked)?],
        None => pools.iter().collect(),
    };
    if context.json() {
        let array = shown.into_iter().map(as_json).collect();
        return Ok(context.out.json(&Value::Array(array))?);
    }
    let columns = match args.cpus {
        true => "CPU list",
        false => "CPUs   Sched     Active   Domain count",
    };
    context.out.line(format!("{}{columns}", left("Name", 19)))?;
    for pool in shown {
        context.out.line(row(pool, args.cpus))?;
    }
    Ok(())
}

fn row(pool: &Pool, cpus: bool) -> String {
    let name = left(&shown::cell(pool.name.as_deref()), 19);
    if cpus {
        let numbers: Vec<String> = pool.cpus.iter().map(|cpu| cpu.to_string()).collect();
        return format!("{name}{}", numbers.join(","));
    }
    format!(
        "{name}{:3} {}       y       {:4}",
        pool.cpus.len(),
        right(pool.scheduler.name(), 9),
        pool.nr_domains
    )
}

/// A pool as JSON.
pub fn as_json(pool: &Pool) -> Value {
    json!({
        "id": pool.id,
        "name": pool.name,
        "scheduler": pool.scheduler.name(),
        "cpus": pool.cpus.iter().collect::<Vec<_>>(),
        "nr_domains": pool.nr_domains,
    })
}

/// Destroy a CPU pool without domains
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Its CPUs are in no pool afterwards: `xyl cpupool-cpu-add` gives them to another one.

Examples:
  xyl cpupool-destroy fast"
)]
pub struct DestroyArgs {
    /// The pool: its number or its name
    #[arg(add = pool_names())]
    pool: String,
}

/// Runs `xyl cpupool-destroy`.
pub fn run_destroy(args: &DestroyArgs, context: &Context) -> Outcome {
    if context.dry_run() {
        cpu_pools::check_destroy(cpu_pools::find(&context.pools()?, &args.pool)?)?;
    }
    if context.would(format!("destroy the CPU pool {}", args.pool))? {
        return Ok(());
    }
    Ok(cpu_pools::destroy(&mut context.open_host()?, &args.pool)?)
}

/// Give a CPU pool another name
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl cpupool-rename fast faster")]
pub struct RenameArgs {
    /// The pool: its number or its name
    #[arg(add = pool_names())]
    pool: String,
    /// Its new name
    new_name: String,
}

/// Runs `xyl cpupool-rename`.
pub fn run_rename(args: &RenameArgs, context: &Context) -> Outcome {
    if context.dry_run() {
        let pools = context.pools()?;
        let own = cpu_pools::find(&pools, &args.pool)?.id;
        cpu_pools::check_name(&pools, &args.new_name, Some(own))?;
    }
    let would = format!("rename the CPU pool {} to `{}`", args.pool, args.new_name);
    if context.would(would)? {
        return Ok(());
    }
    let mut host = context.open_host()?;
    Ok(cpu_pools::rename(&mut host, &args.pool, &args.new_name)?)
}

/// Add free CPUs to a CPU pool
#[derive(Debug, clap::Args)]
#[command(
    after_help = "CPUs are numbers and ranges with commas between: 0-3,^1,8; node:0 means all CPUs of a NUMA node. A CPU that is \
not free is named, and the others are added; as with xl, the exit code is 0 then.

Examples:
  xyl cpupool-cpu-add fast 2-3
  xyl cpupool-cpu-add fast node:1"
)]
pub struct CpuAddArgs {
    /// The pool: its number or its name
    #[arg(add = pool_names())]
    pool: String,
    /// The CPUs
    #[arg(add = cpu_lists())]
    cpus: String,
}

/// Runs `xyl cpupool-cpu-add`.
pub fn run_cpu_add(args: &CpuAddArgs, context: &Context) -> Outcome {
    let pools = context.pools()?;
    let (pool, cpus) = pool_and_cpus(context, &pools, &args.pool, &args.cpus)?;
    if context.would(format!("add the CPUs {cpus} to the CPU pool {}", args.pool))? {
        return Ok(());
    }
    let refused = cpu_pools::add_cpus(context.hv()?, pool, &cpus);
    warn_of(context, &refused, "could not be added");
    Ok(())
}

/// Take CPUs out of a CPU pool
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The CPUs are in no pool afterwards. CPU 0 stays in pool 0, and the last CPU of a pool with domains stays there. A CPU \
that stays is named; as with xl, the exit code is 0 then.

Examples:
  xyl cpupool-cpu-remove Pool-0 2-3"
)]
pub struct CpuRemoveArgs {
    /// The pool: its number or its name
    #[arg(add = pool_names())]
    pool: String,
    /// The CPUs
    #[arg(add = cpu_lists())]
    cpus: String,
}

/// Runs `xyl cpupool-cpu-remove`.
pub fn run_cpu_remove(args: &CpuRemoveArgs, context: &Context) -> Outcome {
    let pools = context.pools()?;
    let (pool, cpus) = pool_and_cpus(context, &pools, &args.pool, &args.cpus)?;
    let would = format!("take the CPUs {cpus} out of the CPU pool {}", args.pool);
    if context.would(would)? {
        return Ok(());
    }
    let refused = cpu_pools::remove_cpus(context.hv()?, pool, &cpus);
    warn_of(context, &refused, "could not be taken out");
    if !refused.is_empty() {
        context.warning(format!(
            "a CPU that no other pool can get now is half taken out: add it to {} again, then repeat",
            Shown::name(&args.pool)
        ));
    }
    Ok(())
}

fn pool_and_cpus<'p>(
    context: &Context,
    pools: &'p Pools,
    pool: &str,
    cpus: &str,
) -> Result<(&'p Pool, CpuMap), Failure> {
    let list: CpuList = cpus.parse().map_err(|error| {
        Failure::usage(format!(
            "{error}: write numbers and ranges with commas between (0-3,^1,8), or node:0"
        ))
    })?;
    let pool = cpu_pools::find(pools, pool)?;
    Ok((pool, cpu_pools::listed(context.hv()?, &list)?))
}

fn warn_of(context: &Context, refused: &Refused, what: &str) {
    for (cpu, error) in refused {
        context.warning(format!("CPU {cpu} {what}: {error}"));
    }
}

/// Move a domain to another CPU pool
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The domain gets the share and the CPU affinity of a new domain in that pool. Its next domain, after a reboot, is in the \
pool of its configuration again, as with xl.

Examples:
  xyl cpupool-migrate web fast"
)]
pub struct MigrateArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The pool: its number or its name
    #[arg(add = pool_names())]
    pool: String,
}

/// Runs `xyl cpupool-migrate`.
pub fn run_migrate(args: &MigrateArgs, context: &Context) -> Outcome {
    let pool = cpu_pools::find(&context.pools()?, &args.pool)?.id;
    context.change(&args.domain, &Request::CpuPool { pool }, |domid| {
        format!("move domain {domid} to the CPU pool {}", args.pool)
    })
}

/// Make a CPU pool of each NUMA node
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Pool-0 is renamed and keeps the CPUs of the first node; domain 0 puts the vCPUs offline for which these are too few. \
Only a host with one pool can be split.

Examples:
  xyl cpupool-numa-split
  xyl -N cpupool-numa-split    show what it would do"
)]
pub struct NumaSplitArgs {}

/// Runs `xyl cpupool-numa-split`.
pub fn run_numa_split(_args: &NumaSplitArgs, context: &Context) -> Outcome {
    if context.dry_run() {
        let split = cpu_pools::plan_split(context.hv()?)?;
        let (node, cpus) = &split.first;
        let name = cpu_pools::node_pool_name(*node);
        context.would(format!("rename Pool-0 to {name}, with the CPUs {cpus}"))?;
        for (node, cpus) in &split.others {
            let name = cpu_pools::node_pool_name(*node);
            context.would(format!("make the CPU pool {name} with the CPUs {cpus}"))?;
        }
        return Ok(());
    }
    Ok(cpu_pools::split_by_node(&mut context.open_host()?)?)
}

#[cfg(test)]
mod tests {
    use xen_port::SchedulerId;

    use super::*;

    #[test]
    fn a_row_is_that_of_xl() {
        let pool = Pool {
            id: 0,
            name: Some("Pool-0".to_owned()),
            scheduler: SchedulerId::Credit2,
            nr_domains: 1,
            cpus: CpuMap::all(2),
        };
        assert_eq!(
            row(&pool, false),
            "Pool-0               2   credit2       y          1"
        );
        assert_eq!(row(&pool, true), "Pool-0             0,1");
    }
}
