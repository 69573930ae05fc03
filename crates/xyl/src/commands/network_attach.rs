//! `xyl network-attach`: gives a running domain a network interface.

use xyl_engine::device::hotplug;

use super::device_attach::Attach;
use super::network_list::NIC;
use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;
use xyl_host::xl_conf;

/// Attach a network interface to a running domain
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The interface is described as in the setting `vif` of xl.cfg (xl-network-configuration(5)), in one or several \
arguments. With `script` that hot-plug script of root's sets it up, as with xl. Without `devid` it gets the first free number, and without `mac` the address that a create would give it: the same one \
each time. The domain keeps it over a reboot. Ctrl-C takes the attach back.

Examples:
  xyl network-attach web
  xyl network-attach web bridge=dmz mac=00:16:3e:00:00:01
  xyl network-attach web bridge=dmz,rate=10Mb/s,vifname=web.dmz
  xyl network-attach web script=vif-route,ip=10.0.0.5,gatewaydev=eth0
  xyl -N network-attach web bridge=dmz   only check it"
)]
pub struct Args {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The interface, as in xl.cfg
    #[arg(value_name = "KEY=VALUE")]
    nic: Vec<String>,
}

/// Runs `xyl network-attach`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let defaults = xl_conf::defaults(context.xl_conf()?).vif;
    let attach = Attach {
        kind: NIC,
        device: hotplug::for_request(NIC, &args.nic.join(","), &defaults)?,
        is_dry_run: false,
    };
    attach.run(context, &args.domain)
}
