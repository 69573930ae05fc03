//! `xyl trigger` and `xyl button-press`: send an NMI, a button press or another trigger to a domain.

use xen_port::{Trigger, VcpuId};
use xyl_engine::supervise::requests::Request;

use crate::complete::{domain_names, vcpu_numbers};
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// Send a trigger to a domain
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl trigger web nmi          make Linux print backtraces, or dump
  xyl trigger web nmi 1        only on vCPU 1
  xyl trigger win power        press an HVM guest's power button")]
pub struct Args {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The trigger
    #[arg(value_name = "TRIGGER")]
    name: Name,
    /// Number of the vCPU
    #[arg(default_value_t = 0, add = vcpu_numbers(false))]
    vcpu: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Name {
    Nmi,
    Reset,
    Init,
    Power,
    Sleep,
    S3resume,
}

/// Runs `xyl trigger`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let (trigger, word) = match args.name {
        Name::Nmi => (Trigger::Nmi, "nmi"),
        Name::Reset => (Trigger::Reset, "reset"),
        Name::Init => (Trigger::Init, "init"),
        Name::Power => (Trigger::Power, "power"),
        Name::Sleep => (Trigger::Sleep, "sleep"),
        Name::S3resume => {
            return Err(Failure::not_there_yet(
                "the trigger s3resume is not there yet: it wakes HVM guests; use `xl trigger DOMAIN s3resume`",
            ));
        }
    };
    let vcpu = VcpuId(args.vcpu);
    context.change(&args.domain, &Request::Trigger { vcpu, trigger }, |domid| {
        format!("send {word} to vCPU {vcpu} of domain {domid}")
    })
}

/// Press an ACPI button of a domain
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The same as `xyl trigger DOMAIN power` and `xyl trigger DOMAIN sleep`, which xl prefers.

Examples:
  xyl button-press win power"
)]
pub struct ButtonArgs {
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The button: power or sleep
    button: Button,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Button {
    Power,
    Sleep,
}

/// Runs `xyl button-press`.
pub fn run_button(args: &ButtonArgs, context: &Context) -> Outcome {
    let (trigger, word) = match args.button {
        Button::Power => (Trigger::Power, "power"),
        Button::Sleep => (Trigger::Sleep, "sleep"),
    };
    context.warning(format!(
        "button-press is deprecated: use `xyl trigger DOMAIN {word}`"
    ));
    let vcpu = VcpuId(0);
    context.change(&args.domain, &Request::Trigger { vcpu, trigger }, |domid| {
        format!("press the {word} button of domain {domid}")
    })
}
