//! `xyl metrics`: prints what the host and its VMs use and how they are, in Prometheus's text format.

mod replace;

use std::path::PathBuf;

use xyl_engine::recover::fsck;
use xyl_engine::report::metrics::{self, Asked, Sample, as_json, text};

use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Print metrics of the host and its VMs for Prometheus
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The text is that of Prometheus's exposition format. With --output it goes to a file, which is replaced in one step, so that \
node_exporter's textfile collector never reads a half one. Labels name a VM by its UUID; xen_domain_info has its name. The directions of a \
network interface are the guest's. Disks that QEMU serves have no counters. A source that cannot be read has the value 0 in xyl_source_up, its \
metrics are missing, and a warning says why; the exit code is 0. Without Xen's list of domains the command fails, and FILE stays as it is. The path of FILE must have no symbolic links: its folder may be another user's. \
The units xyl-metrics.service and .timer run it twice a minute.

Examples:
  xyl metrics
  xyl metrics --output /var/lib/prometheus/node-exporter/xyl.prom
  xyl metrics --leftovers | grep xyl_leftovers

JSON: an array of {name, kind, help, samples: [{labels, value}]}; kind is gauge or counter"
)]
pub struct Args {
    /// Write to this file, which is replaced in one step
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Count leftovers too, as `xyl fsck` finds them: this takes two seconds
    #[arg(long)]
    leftovers: bool,
}

/// Runs `xyl metrics`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let sample = sample(context, args.leftovers)?;
    for (source, why) in &sample.missing {
        context.warning(format!("no metrics of {}: {why}", source.word()));
    }
    let families = metrics::all(&sample);
    let Some(file) = &args.output else {
        let written = match context.json() {
            true => context.out.json(&as_json(&families)),
            false => context.out.part(text(&families)),
        };
        return Ok(written?);
    };
    if context.would(format!("write {}", file.display()))? {
        return Ok(());
    }
    replace::replace(file, text(&families).as_bytes())
        .map_err(|source| Failure::io(format!("write {}", file.display()), source))
}

/// Takes the sample. `with_leftovers` takes two seconds more.
fn sample(context: &Context, with_leftovers: bool) -> Result<Sample, Failure> {
    let mut store = context.store().map_err(|failure| failure.to_string());
    let mut asked = Asked {
        reader: context.reader()?,
        kernel: &context.kernel(),
        store: match &mut store {
            Ok(store) => Ok(&mut **store),
            Err(why) => Err(why.clone()),
        },
    };
    let mut sample = Sample::take(&mut asked)?;
    if with_leftovers {
        sample.add_leftovers(leftovers(context).map_err(|failure| failure.to_string()));
    }
    Ok(sample)
}

fn leftovers(context: &Context) -> Result<Vec<&'static str>, Failure> {
    let mut host = context.open_host()?;
    let found = fsck::look(&mut host, &context.kernel())?;
    context.count(&host);
    Ok(found.iter().map(|finding| finding.leak.kind()).collect())
}
