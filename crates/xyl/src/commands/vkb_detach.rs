//! `xyl vkb-detach`: takes a virtual keyboard from a running domain.

use xyl_engine::supervise::requests::Request;

use super::device_lists::KEYBOARD;
use crate::complete::{domain_names, keyboard_numbers};
use crate::context::Context;
use crate::error::Outcome;

/// Detach a virtual keyboard from a running domain
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The guest and the program that serves the keyboard have 10 s to let it go. After them it is taken away, as with xl. \
The keyboard of a framebuffer cannot be detached.

Examples:
  xyl vkb-detach web 1"
)]
pub struct Args {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// Number of the keyboard, as `xyl vkb-list` shows it
    #[arg(value_name = "DEVID", add = keyboard_numbers())]
    keyboard: String,
}

/// Runs `xyl vkb-detach`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let request = Request::DetachDevice {
        kind: KEYBOARD.to_owned(),
        device: args.keyboard.clone(),
        force: false,
    };
    let would = |domid| format!("detach keyboard `{}` from domain {domid}", args.keyboard);
    context.change_and(&args.domain, &request, would, |_| ())
}
