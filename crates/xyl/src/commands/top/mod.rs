//! `xyl top`: prints repeatedly how much CPU and memory the domains use.

mod sample;
mod screen;
mod table;

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::output::{is_dumb_terminal, uuid};
use sample::Sample;
use table::{SortBy, Table};

/// Watch what domains use of the host
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The columns are those of xentop, as far as Xyl knows them: states are d dying, s shut down, \
b blocked, c crashed, p paused, r running; CPU(%) is in per cent of one CPU.

Keys: q quits, s sorts by the next column, r the other way round, + and - change the delay, \
the arrows scroll.

Examples:
  xyl top
  xyl top -b -i 2 -d 5 | tail -n +2
  xyl top -b -i 1 --json

JSON: with -b, for each sample an object {time_s, total_memory_kib, free_memory_kib, nr_cpus, \
domains [{domid, name, uuid, state, cpu_time_ns, cpu_percent, memory_kib, memory_percent, \
max_memory_kib (or null), vcpus, ssidref}]}"
)]
pub struct Args {
    /// Print samples one after the other, without a screen
    #[arg(short, long)]
    batch: bool,
    /// Seconds between samples
    #[arg(short, long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    delay: u32,
    /// End after so many samples
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    iterations: Option<u32>,
    /// Show names in full
    #[arg(short, long)]
    full_name: bool,
}

/// Runs `xyl top`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    if args.batch || context.json() {
        return batch(args, context);
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "this is no terminal to draw on: use `xyl top -b`",
        ));
    }
    if is_dumb_terminal() {
        return Err(Failure::usage(
            "this terminal cannot be drawn on (TERM=dumb): use `xyl top -b`",
        ));
    }
    screen::run(args, context)
}

fn batch(args: &Args, context: &Context) -> Outcome {
    let mut before = None;
    let mut nr_left = args.iterations;
    loop {
        let sample = Sample::take(context)?;
        if let Some(why) = &sample.nameless {
            context.warning(why);
        }
        let table = Table::new(&sample, before.as_ref(), SortBy::Domid, args.full_name);
        if context.json() {
            context.out.json(&to_json(&sample, before.as_ref()))?;
        } else {
            context.out.line(table.header())?;
            for row in table.rows() {
                context.out.line(row)?;
            }
        }
        context.out.flush()?;
        before = Some(sample);
        nr_left = nr_left.map(|left| left - 1);
        if nr_left == Some(0) {
            return Ok(());
        }
        std::thread::sleep(delay(args));
    }
}

fn delay(args: &Args) -> Duration {
    Duration::from_secs(u64::from(args.delay))
}

fn to_json(sample: &Sample, before: Option<&Sample>) -> Value {
    let domains = sample.domains.iter().map(|domain| {
        let info = &domain.info;
        json!({
            "domid": info.domid.0,
            "name": domain.name,
            "uuid": uuid(&info.handle),
            "state": table::state(info),
            "cpu_time_ns": info.cpu_time_ns,
            "cpu_percent": sample.cpu_percent(domain, before),
            "memory_kib": info.tot_pages * 4,
            "memory_percent": sample.memory_percent(info.tot_pages),
            "max_memory_kib": table::max_kib(info),
            "vcpus": info.nr_online_vcpus,
            "ssidref": info.ssidref,
        })
    });
    json!({
        "time_s": sample.time_s,
        "total_memory_kib": sample.phys.total_pages * 4,
        "free_memory_kib": sample.phys.free_pages * 4,
        "nr_cpus": sample.phys.nr_cpus,
        "domains": domains.collect::<Vec<Value>>(),
    })
}
