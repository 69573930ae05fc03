//! `xyl cpupool-create`: makes a CPU pool from a configuration file.

use std::path::{Path, PathBuf};

use clap::ValueHint;
use serde_json::json;
use xl_cfg::{PoolConfig, Source, parse_pool};
use xyl_engine::control::cpu_pools::{self, NewPool};

use crate::commands::create::{file_and_settings, show_warnings};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Make a CPU pool from a configuration file
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file has settings of xlcpupool.cfg(5): name, sched, and cpus or nodes. key=value arguments override it, or stand alone. \
Without a name the pool has that of the file. Its CPUs must be free: take them out of Pool-0 first.

Examples:
  xyl cpupool-cpu-remove Pool-0 2-3
  xyl cpupool-create fast.cfg
  xyl cpupool-create 'name=\"fast\"' 'sched=\"null\"' 'cpus=\"2-3\"'

JSON: {id, name, scheduler, cpus (an array of numbers), nr_domains}"
)]
pub struct Args {
    /// Only say what would be made
    #[arg(short = 'n', long = "dryrun")]
    dry_run: bool,
    /// The configuration file
    #[arg(short = 'f', long = "defconfig", value_name = "FILE", value_hint = ValueHint::FilePath)]
    defconfig: Option<PathBuf>,
    /// The configuration file, and settings that override it
    #[arg(value_name = "FILE|KEY=VALUE", value_hint = ValueHint::FilePath)]
    words: Vec<String>,
}

/// Runs `xyl cpupool-create`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let (file, settings) = file_and_settings(&args.words, args.defconfig.as_deref())?;
    let config = read(context, file.as_deref(), &settings)?;
    let pools = context.pools()?;
    let new = NewPool {
        name: name_of(&config, file.as_deref())?,
        scheduler: match config.scheduler {
            Some(scheduler) => cpu_pools::scheduler_id(scheduler),
            None => context.hv()?.scheduler_id()?,
        },
        cpus: cpu_pools::wanted_cpus(context.hv()?, &pools, &config.cpus)?,
    };
    cpu_pools::check_name(&pools, &new.name, None)?;
    if !context.json() {
        say(context, file.as_deref(), &new)?;
    }
    if args.dry_run || context.dry_run() {
        return Ok(());
    }
    let id = cpu_pools::create(&mut context.open_host()?, &new)?;
    if context.json() {
        let value = json!({
            "id": id,
            "name": new.name,
            "scheduler": new.scheduler.name(),
            "cpus": new.cpus.iter().collect::<Vec<_>>(),
            "nr_domains": 0,
        });
        context.out.json(&value)?;
    }
    Ok(())
}

fn read(context: &Context, file: Option<&Path>, settings: &[&str]) -> Result<PoolConfig, Failure> {
    let source = match file {
        Some(file) => Source::read_file(file)?,
        None => Source::from_bytes("/dev/null", b"")?,
    };
    let (config, report) = parse_pool(source, settings)?;
    show_warnings(context, &report);
    Ok(config)
}

/// The name of the pool: that of the configuration, otherwise that of the file.
fn name_of(config: &PoolConfig, file: Option<&Path>) -> Result<String, Failure> {
    let of_file = || Some(file?.file_name()?.to_string_lossy().into_owned());
    config
        .name
        .clone()
        .or_else(of_file)
        .ok_or_else(|| Failure::refused("the CPU pool has no name: give one with name=\"NAME\""))
}

/// Prints what xl prints.
fn say(context: &Context, file: Option<&Path>, new: &NewPool) -> Outcome {
    let file = file.map_or("command line".to_owned(), |file| file.display().to_string());
    let out = &context.out;
    out.line(format!("Using config file \"{}\"", Shown::line(&file)))?;
    out.line(format!("cpupool name:   {}", Shown::line(&new.name)))?;
    out.line(format!("scheduler:      {}", new.scheduler.name()))?;
    Ok(out.line(format!("number of cpus: {}", new.cpus.len()))?)
}
