//! `xyl block-attach`: gives a running domain a disk.

use xyl_engine::device::hotplug;
use xyl_engine::vm::nic::VifDefaults;

use super::device_attach::Attach;
use crate::complete::domain_names;
use crate::context::Context;
use crate::error::Outcome;

/// Kind of disks in requests and in libxl's records.
pub const DISK: &str = "vbd";

/// Attach a disk to a running domain
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The disk is described as in the setting `disk` of xl.cfg (xl-disk-configuration(5)), in one or several arguments: \
target, format, virtual device, access. The domain keeps it over a reboot. A disk that another domain, a mount or a volume uses is \
refused. An image in another format than raw gets a QEMU of its own. Ctrl-C takes the attach back.

Examples:
  xyl block-attach web /srv/data.img,raw,xvdb,rw
  xyl block-attach web phy:/dev/vg/data xvdb w
  xyl block-attach web vdev=xvdc,access=ro,target=/srv/old.img
  xyl block-attach web /srv/data.qcow2,qcow2,xvdd,rw
  xyl block-attach -d web /srv/data.img,raw,xvdb,rw   only check it"
)]
pub struct Args {
    /// Only check whether it can be attached
    #[arg(short = 'd', long)]
    dryrun: bool,
    /// The domain: its number, its name, or uuid=...
    #[arg(add = domain_names())]
    domain: String,
    /// The disk, as in xl.cfg
    #[arg(value_name = "DISK-SPEC", required = true)]
    disk: Vec<String>,
}

/// Runs `xyl block-attach`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let attach = Attach {
        kind: DISK,
        device: hotplug::for_request(DISK, &joined(&args.disk), &VifDefaults::default())?,
        is_dry_run: args.dryrun,
    };
    attach.run(context, &args.domain)
}

/// The arguments as one description. A target by name goes last, since it may contain commas.
fn joined(arguments: &[String]) -> String {
    let (targets, others): (Vec<&String>, Vec<&String>) = arguments
        .iter()
        .partition(|argument| argument.starts_with("target="));
    let parts: Vec<&str> = others
        .into_iter()
        .chain(targets)
        .map(String::as_str)
        .collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_one_description() {
        let joined = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            joined(&arguments)
        };
        assert_eq!(joined(&["phy:/dev/x", "xvdb", "w"]), "phy:/dev/x,xvdb,w");
        assert_eq!(
            joined(&["target=/a,b", "vdev=xvdb"]),
            "vdev=xvdb,target=/a,b"
        );
        for arguments in [
            &["phy:/dev/x", "xvdb", "w"][..],
            &["/dev/x,raw,xvdb,rw"],
            &["/dev/x", "raw", "xvdb"],
        ] {
            let defaults = VifDefaults::default();
            let text = hotplug::for_request(DISK, &joined(arguments), &defaults).unwrap();
            let wanted = "vdev=xvdb,access=rw,format=raw,target=/dev/x";
            assert_eq!(text, wanted, "{arguments:?}");
        }
    }
}
