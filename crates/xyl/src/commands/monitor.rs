//! `xyl monitor`: the process that watches over one VM. `xyl create` starts it in the background.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use uuid::Uuid;
use xen_port::DomId;
use xyl_engine::monitor::{self, Vm};

use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Watch over a VM, and do what its configuration says when it ends
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`xyl create` starts this in the background for each VM. Started by hand, it watches over a VM that
lost its process.

Examples:
  xyl monitor $(xyl domid web) $(xyl list --json web | jq -r '.[0].uuid')"
)]
pub struct Args {
    /// The VM's domain now
    domid: u16,
    /// The VM's UUID
    uuid: Uuid,
}

/// Runs `xyl monitor`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    // It has no terminal and no folder of whoever started it. Where it leads a session already, as
    // under a service manager, there is nothing to leave.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").map_err(|source| Failure::io("go to /", source))?;
    let mut host = context.open_host()?;
    let vm = Vm {
        domid: DomId(args.domid),
        uuid: args.uuid,
    };
    context.say(format!(
        "watching over domain {} ({})",
        args.domid, args.uuid
    ));
    Ok(monitor::watch(&mut host, vm, &mut |line| {
        context.say(line)
    })?)
}

/// Starts the process that watches over a VM. What it says goes to a log of the VM's.
pub fn start_in_background(context: &Context, name: &str, vm: Vm) -> Outcome {
    let cannot = |source| {
        Failure::io(
            format!(
                "start the process that watches over domain {} (it runs, but a reboot or crash of it will not be handled)",
                vm.domid
            ),
            source,
        )
    };
    let log = open_log(context, name).map_err(cannot)?;
    let errors = log.try_clone().map_err(cannot)?;
    let program = std::env::current_exe().map_err(cannot)?;
    Command::new(program)
        .args([
            "-T",
            "monitor",
            &vm.domid.to_string(),
            &vm.uuid.hyphenated().to_string(),
        ])
        .env_remove("XYL_JSON")
        .env_remove("XYL_DRY_RUN")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map(drop)
        .map_err(cannot)
}

fn open_log(context: &Context, name: &str) -> std::io::Result<File> {
    std::fs::create_dir_all(&context.dirs.log)?;
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_path(context, name))
}

/// Beside xl's own logs, whose names begin with `xl-`.
fn log_path(context: &Context, name: &str) -> PathBuf {
    context
        .dirs
        .log
        .join(format!("xyl-{}.log", name.replace('/', "_")))
}
