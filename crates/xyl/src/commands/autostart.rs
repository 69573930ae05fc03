//! `xyl autostart`: shows and changes which VMs start with the host.

use std::path::{Path, PathBuf};

use clap::ValueHint;
use os_port::SystemFiles;
use serde_json::{Value, json};
use xyl_engine::config::autostart::{self, Entry, Ready};

use crate::commands::create::checked_name;
use crate::complete::autostart_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::output::left;
use crate::shown::Shown;

/// Show or change which VMs start with the host
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Each VM that starts with the host has a file /etc/xyl/autostart.d/NAME.toml, which may be edited; docs/host-life.md has its format. \
It names the configuration by its path, so a later change of the configuration counts. `xyl start --all` starts these VMs. \
The unit xyl-guests.service does so when the host starts. \
A VM that xendomains starts as well (from /etc/xen/auto) would be xl's: take it out there.

Examples:
  xyl autostart                                  list them
  xyl autostart add /etc/xen/nas.cfg --order -10 --ready tcp:10.0.0.2:2049
  xyl autostart add /etc/xen/web.cfg --after nas --ready console:login: --ready-timeout 90
  xyl autostart add /etc/xen/db.cfg --ready xenstore:data/ready=1
  xyl autostart remove web

JSON: an array of {name, config, order, after, ready, ready_timeout_s, delay_s}"
)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Start a VM with the host, or change how it starts
    Add(AddArgs),
    /// List the VMs that start with the host
    List,
    /// Start a VM no longer with the host; it runs on
    Remove {
        /// Name of the VM
        #[arg(add = autostart_names())]
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The VM's configuration file
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Place in the sequence: lower numbers start first
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    order: i32,
    /// A VM that has to be ready before; repeat for several
    #[arg(long, value_name = "NAME", action = clap::ArgAction::Append, add = autostart_names())]
    after: Vec<String>,
    /// Sign that it is ready: none, xenstore:PATH, xenstore:PATH=VALUE, console:TEXT or tcp:HOST:PORT
    #[arg(long, value_name = "SIGN", default_value = "none")]
    ready: Ready,
    /// Seconds to wait for that sign; then the others go on
    #[arg(long, value_name = "SECONDS", default_value_t = autostart::READY_TIMEOUT_S)]
    ready_timeout: u32,
    /// Pause after its start, in seconds, before another VM starts
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    delay: u32,
}

/// Runs `xyl autostart`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    match &args.action {
        None | Some(Action::List) => list(context),
        Some(Action::Add(args)) => add(args, context),
        Some(Action::Remove { name }) => {
            if context.would(format!("no longer start {name} with the host"))? {
                return Ok(());
            }
            Ok(autostart::remove(&SystemFiles, &context.dirs, name)?)
        }
    }
}

fn add(args: &AddArgs, context: &Context) -> Outcome {
    let config = std::path::absolute(&args.file)
        .map_err(|source| Failure::io(format!("find {}", args.file.display()), source))?;
    if config.to_str().is_none() {
        return Err(Failure::usage(
            "the path of the configuration is not UTF-8: rename it",
        ));
    }
    let name = checked_name(context, &config)?;
    let mut entry = Entry::new(&name, &config);
    entry.order = args.order;
    entry.after = args.after.clone();
    entry.ready = args.ready.clone();
    entry.ready_timeout_s = args.ready_timeout;
    entry.delay_s = args.delay;
    if context.would(format!("start {name} with the host"))? {
        return Ok(());
    }
    autostart::add(&SystemFiles, &context.dirs, &entry)?;
    let (all, _) = autostart::read(&SystemFiles, &context.dirs)?;
    for after in &entry.after {
        if !all.iter().any(|other| other.name == *after) {
            context.warning(format!(
                "{} waits for {}, which does not start with the host",
                Shown::name(&name),
                Shown::name(after)
            ));
        }
    }
    if let Some(link) = started_by_xendomains(&config) {
        context.warning(format!(
            "xendomains starts this VM with xl, before Xyl starts its own: remove {}",
            link.display()
        ));
    }
    Ok(())
}

/// Folder of the configurations that Debian's xendomains starts.
const XENDOMAINS_AUTO: &str = "/etc/xen/auto";

/// The file in xendomains' folder that is this configuration.
fn started_by_xendomains(config: &Path) -> Option<PathBuf> {
    let config = config.canonicalize().ok()?;
    let mut links = std::fs::read_dir(XENDOMAINS_AUTO).ok()?.flatten();
    let link = links.find(|link| link.path().canonicalize().is_ok_and(|path| path == config));
    link.map(|link| link.path())
}

fn list(context: &Context) -> Outcome {
    let (entries, errors) = autostart::read(&SystemFiles, &context.dirs)?;
    let plan = autostart::plan(entries.clone(), &context.dirs);
    if context.json() {
        let rows = entries.iter().map(as_json).collect();
        context.out.json(&Value::Array(rows))?;
    } else {
        print_table(context, &entries)?;
    }
    let errors: Vec<_> = errors.into_iter().chain(plan.refused).collect();
    for error in &errors {
        context.warning(error.to_string());
    }
    match errors.into_iter().next() {
        Some(error) => Err(xyl_engine::EngineError::from(error).into()),
        None => Ok(()),
    }
}

fn print_table(context: &Context, entries: &[Entry]) -> Outcome {
    if entries.is_empty() {
        return Ok(());
    }
    let widths = [24, 6, 20, 30];
    let row = |cells: [&str; 5]| {
        let [cells @ .., last] = cells;
        let padded = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| left(cell, width) + " ");
        padded.collect::<String>() + last
    };
    context
        .out
        .line(row(["NAME", "ORDER", "AFTER", "READY", "CONFIGURATION"]))?;
    for entry in entries {
        let after = entry.after.join(",");
        context.out.line(row([
            &Shown::name(&entry.name).to_string(),
            &entry.order.to_string(),
            &Shown::line(if after.is_empty() {
                "-"
            } else {
                after.as_str()
            })
            .to_string(),
            &Shown::line(&entry.ready.to_string()).to_string(),
            &Shown::line(&entry.config.to_string_lossy()).to_string(),
        ]))?;
    }
    Ok(())
}

/// The members of an entry as JSON.
pub fn as_json(entry: &Entry) -> Value {
    json!({
        "name": entry.name,
        "config": entry.config,
        "order": entry.order,
        "after": entry.after,
        "ready": entry.ready.to_string(),
        "ready_timeout_s": entry.ready_timeout_s,
        "delay_s": entry.delay_s,
    })
}
