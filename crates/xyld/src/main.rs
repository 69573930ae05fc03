//! The program `xyld`: its arguments, and which of its parts runs.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use xen_sim::machine::Host as SimulatedHost;
use xyl_host::{HOST, Site};
use xyld::events::Hub;
use xyld::world::World;
use xyld::{access, gateway, openapi, server};

/// Serve the API of Xyl on a socket
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "The socket belongs to root and the group xyl. Roles are in /etc/xyl/access.toml; docs/api.md has all of it.

Examples:
  xyld
  curl --unix-socket /run/xyl/api.sock http://xyl/v1/vms
  xyld web                                     the page, for a browser on this machine
  XYL_HOST=sim:$HOME/xyl-host xyld             a simulated host; its socket is $HOME/xyl-host/run/xyl/api.sock

Environment:
  XYL_HOST=sim:FOLDER   serve a simulated host with its files in FOLDER"
)]
struct Args {
    /// Path of the socket
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Group whose members may use the socket
    #[arg(long, default_value = "xyl", value_name = "NAME")]
    group: String,
    /// Allow the simulated host of XYL_HOST on a machine that has Xen
    #[arg(long)]
    simulated: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Serve the page on a port of 127.0.0.1, and print its address
    Web {
        /// The port; 0 is a free one
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// Print the OpenAPI document
    Openapi,
    /// Be a simulated host
    #[command(hide = true)]
    SimulatedHost {
        /// Folder with its files
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    // The child that unpacks a kernel is waited for.
    xen_sys::expect_children();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            server::log(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    match &args.action {
        None => serve(args).map(|never| match never {}),
        Some(Action::Web { port }) => {
            let site = site(args, false)?;
            let ready = |address: &str| println!("{address}");
            let served = gateway::serve(socket_of(args, &site), *port, ready);
            served
                .map(|never| match never {})
                .map_err(|error| format!("cannot serve the page on 127.0.0.1: {error}"))
        }
        Some(Action::Openapi) => {
            println!("{:#}", openapi::document());
            Ok(())
        }
        Some(Action::SimulatedHost { folder }) => {
            xen_sim::machine::serve(folder).map_err(|error| error.to_string())
        }
    }
}

fn serve(args: &Args) -> Result<Infallible, String> {
    let site = site(args, true)?;
    let path = socket_of(args, &site);
    let access = match site.as_simulated() {
        Some(host) => host.folder().join(access::PATH.trim_start_matches('/')),
        None => PathBuf::from(access::PATH),
    };
    let failed = |error| format!("cannot serve {}: {error}", path.display());
    let socket = server::open(&path, &args.group).map_err(failed)?;
    // A simulated host ends without guests and commands. This connection keeps it.
    let _connection = match site.as_simulated() {
        Some(_) => Some(site.hypervisor().map_err(|error| error.to_string())?),
        None => None,
    };
    let world = World {
        site,
        access,
        hub: Hub::default(),
    };
    server::serve(Arc::new(world), socket).map_err(failed)
}

fn socket_of(args: &Args, site: &Site) -> PathBuf {
    let default = || site.dirs.run.join("api.sock");
    args.socket.clone().unwrap_or_else(default)
}

/// The host that `XYL_HOST` names. With `switches_on` a simulated one is started.
fn site(args: &Args, switches_on: bool) -> Result<Site, String> {
    let value = std::env::var_os(HOST).unwrap_or_default();
    let value = value.to_string_lossy();
    if value.is_empty() {
        return Ok(Site::this_machine());
    }
    let folder = xyl_host::simulated_folder(&value).ok_or_else(|| {
        format!("{HOST}={value} is not valid: sim:FOLDER selects a simulated host")
    })?;
    if xyl_host::is_beside_xen() && !args.simulated {
        return Err(format!(
            "this machine has Xen, and {HOST}={value} names a simulated host: unset {HOST}, or give --simulated"
        ));
    }
    let host = SimulatedHost::in_folder(&folder).map_err(|error| error.to_string())?;
    if switches_on {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        host.power_on(&program, &["simulated-host"])
            .map_err(|error| error.to_string())?;
    }
    Ok(Site::simulated(host))
}
