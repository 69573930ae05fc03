//! `xyl vkb-attach`: gives a running domain a virtual keyboard and pointer.

use xyl_engine::device::hotplug;
use xyl_engine::vm::nic::VifDefaults;

use super::device_attach::Attach;
use super::device_lists::KEYBOARD;
use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;

/// Attach a virtual keyboard to a running domain
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The keyboard is described as in the setting `vkb` of xl.cfg, in one or several arguments. Only `backend-type=linux` can be attached \
to a running domain: a program of domain 0 that you run serves it. Xyl writes the nodes and does not wait for that program, as xl. The keyboard of a \
framebuffer is QEMU's, and comes with the setting `vfb`. The domain keeps the keyboard over a reboot.

Examples:
  xyl vkb-attach web backend-type=linux
  xyl vkb-attach web backend-type=linux,unique-id=tablet
  xyl -N vkb-attach web backend-type=linux   only check it"
)]
pub struct Args {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The keyboard, as in xl.cfg
    #[arg(value_name = "KEY=VALUE", required = true)]
    keyboard: Vec<String>,
}

/// Runs `xyl vkb-attach`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let text = args.keyboard.join(",");
    let attach = Attach {
        kind: KEYBOARD,
        device: hotplug::for_request(KEYBOARD, &text, &VifDefaults::default())?,
        is_dry_run: false,
    };
    attach.run(context, &args.domain)
}
