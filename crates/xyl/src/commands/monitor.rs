//! `xyl monitor`: the process that watches over one VM. `xyl create` starts it in the background.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use uuid::Uuid;
use xen_port::DomId;
use xyl_engine::EngineError;
use xyl_engine::monitor::{self, Vm};

use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Watch over a VM, and do what its configuration says when it ends
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`xyl create` starts this in the background for each VM, before the domain runs. Started by hand, it
watches over a VM that lost its process.

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
    // It keeps no folder of whoever started it in use.
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
///
/// It may start before the domain runs, once the VM's record is written: it waits for the domain's end
/// all the same, and ends when the domain is taken back.
pub fn start_in_background(context: &Context, name: &str, vm: Vm) -> Result<Child, EngineError> {
    let log = log_path(context, name);
    let no_log = |source| EngineError::io("open the monitor's log", &log, source);
    let out = open_log(&log).map_err(no_log)?;
    let errors = out.try_clone().map_err(no_log)?;
    let program = std::env::current_exe().map_err(|source| {
        EngineError::io("find the program at", Path::new("/proc/self/exe"), source)
    })?;
    Command::new(&program)
        .args([
            "-T",
            "monitor",
            &vm.domid.to_string(),
            &vm.uuid.hyphenated().to_string(),
        ])
        .env_remove("XYL_JSON")
        .env_remove("XYL_DRY_RUN")
        .envs(context.host_variable())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        // A group of its own: Ctrl-C on the terminal is not meant for it.
        .process_group(0)
        .spawn()
        .map_err(|source| EngineError::io("start the monitor", &program, source))
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// Beside xl's own logs, whose names begin with `xl-`.
fn log_path(context: &Context, name: &str) -> PathBuf {
    context
        .dirs
        .log
        .join(format!("xyl-{}.log", name.replace('/', "_")))
}
