//! `xyl devd`: serves the devices of other domains, in a driver domain.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use os_port::{Files, Launch, Process, SystemFiles, SystemProcess, create_folder_durably};
use xen_port::DomId;
use xen_sys::{Standby, Streams};
use xyl_engine::EngineError;
use xyl_engine::supervise::devd;

use super::monitor::{log_path, open_log};
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Serve the devices of other domains, in a driver domain
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A driver domain has disks or network cards, and serves devices of other domains: in their configurations stands \
`backend=NAME` with its name. There this process does for each disk and network interface what the toolstack does in domain 0: it attaches an image \
to a loop device, makes an interface a port of its bridge or runs its script, and takes all of it down later. The toolstack in domain 0 \
may be xl or xyl. It keeps no state: killed and started again, it goes on.

The domain needs the kernel drivers xen-blkback, xen-netback, xen-privcmd, loop and bridge, and the bridges that the configurations name. \
systemd starts it with the unit xyl-devd.service.

Without `-F` it goes to the background, and its messages to /var/log/xen/xyl-devd.log.

Examples:
  xyl devd
  xyl devd -F
  xyl devd -p /run/xyl-devd.pid"
)]
pub struct Args {
    /// Stay in the foreground
    #[arg(short = 'F')]
    foreground: bool,
    /// Write the process ID to this file
    #[arg(short = 'p', value_name = "FILE", value_hint = ValueHint::FilePath)]
    pidfile: Option<PathBuf>,
}

/// Runs `xyl devd`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    if context.would("serve the devices of other domains".to_owned())? {
        return Ok(());
    }
    match args.foreground {
        true => serve(args, context),
        false => start(args, context),
    }
}

fn serve(args: &Args, context: &Context) -> Outcome {
    let mut host = context.open_driver_domain()?;
    let own = devd::own_domid(&mut host)?;
    if own == DomId::ZERO {
        return Err(Failure::refused(
            "this is domain 0, whose devices need no `xyl devd`: it is for driver domains",
        ));
    }
    let run = &context.dirs.run;
    create_folder_durably(&SystemFiles, run).map_err(EngineError::from)?;
    let path = run.join("devd");
    let lock = SystemFiles.lock(&path, Some(host.clock.now()));
    let lock = lock.map_err(|source| EngineError::io("lock", &path, source))?;
    let _lock = lock.ok_or_else(|| {
        Failure::refused("another `xyl devd` serves the devices of this domain already")
    })?;
    if let Some(pidfile) = &args.pidfile {
        write_pid(pidfile, SystemProcess.id())?;
    }
    context.say(format!("serving the devices in domain {own}"));
    Ok(devd::serve(&mut host, own, &mut |text| context.say(text))?)
}

/// Starts the same in the background.
fn start(args: &Args, context: &Context) -> Outcome {
    let log = log_path(context, "devd");
    let out = open_log(&log).map_err(|source| EngineError::io("open the log", &log, source))?;
    let program = std::env::current_exe();
    let program = program.map_err(|source| Failure::io("find this program", source))?;
    let failed = |source| EngineError::io("start", &program, source);
    let launch = Launch::new(&program).map_err(failed)?;
    let launch = launch.args(["-T", "devd", "-F"]);
    let launch = match context.host_variable() {
        Some(host) => launch.on_host(host),
        None => launch,
    };
    let input = File::open("/dev/null").map_err(failed)?;
    let streams = Streams {
        input: input.as_fd(),
        output: out.as_fd(),
        errors: out.as_fd(),
    };
    let child = Standby::start(&launch, streams).map_err(failed)?;
    if let Some(pidfile) = &args.pidfile {
        write_pid(pidfile, child.id())?;
    }
    drop(child);
    Ok(())
}

fn write_pid(path: &Path, pid: u32) -> Outcome {
    let written = std::fs::write(path, format!("{pid}\n"));
    Ok(written.map_err(|source| EngineError::io("write", path, source))?)
}
