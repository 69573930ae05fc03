//! `xyl metrics`: prints what the host and its VMs use and how they are, in Prometheus's text format.

mod exposition;
mod families;
mod sample;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::error::{Failure, Outcome};
use exposition::{as_json, text};
use sample::Sample;

/// Print metrics of the host and its VMs for Prometheus
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The text is that of Prometheus's exposition format. With --output it goes to a file, which is replaced in one step, so that \
node_exporter's textfile collector never reads a half one. Labels name a VM by its UUID; xen_domain_info has its name. The directions of a \
network interface are the guest's. Disks that QEMU serves have no counters. A source that cannot be read has the value 0 in xyl_source_up, its \
metrics are missing, and a warning says why; the exit code is 0. Without Xen's list of domains the command fails, and FILE stays as it is. \
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
    let sample = Sample::take(context, args.leftovers)?;
    for (source, why) in &sample.missing {
        context.warning(format!("no metrics of {}: {why}", source.word()));
    }
    let families = families::all(&sample);
    let Some(file) = &args.output else {
        return Ok(match context.json() {
            true => context.out.json(&as_json(&families))?,
            false => context.out.part(text(&families))?,
        });
    };
    if context.would(format!("write {}", file.display()))? {
        return Ok(());
    }
    replace(file, text(&families).as_bytes())
}

/// Replaces a file by another one in its folder, which all users can read. If that fails, the other one is removed.
///
/// The folder may be another user's, such as that of node_exporter, so a file that is there already is never opened.
fn replace(file: &Path, contents: &[u8]) -> Outcome {
    // node_exporter reads the files whose names end with `.prom`.
    let mut new = file.as_os_str().to_owned();
    new.push(format!(".new-{}", std::process::id()));
    let new = PathBuf::from(new);
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o644).open(&new);
    let failed = |source| Failure::io(format!("write {}", file.display()), source);
    let mut opened = opened.map_err(failed)?;
    let written = opened
        .write_all(contents)
        .and_then(|()| std::fs::rename(&new, file));
    written.map_err(|source| {
        let _ = std::fs::remove_file(&new);
        failed(source)
    })
}
