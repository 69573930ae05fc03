//! Commands of xl that Xyl does not have yet, with advice for each. [`crate::resolve`] uses the table.

/// The name of each command and its advice.
pub const COMMANDS: &[(&str, &str)] = &[
    ("migrate", MOVING),
    ("migrate-receive", MOVING),
    (
        "qemu-monitor-command",
        "a QEMU of Xyl takes commands only while it starts; `block-attach` and `block-detach` change its disks; use `xl` for a domain that xl has made",
    ),
    (
        "remus",
        "it sends checkpoints of a domain to another host; use `xl` for such a domain",
    ),
    (
        "vncviewer",
        "start a viewer yourself: the display's address and port are in the nodes console/vnc-listen and console/vnc-port of the domain, in /local/domain/DOMID of xenstore",
    ),
    ("xenstore-quota-get", QUOTA),
    ("xenstore-quota-set", QUOTA),
];

const QUOTA: &str = "it needs requests that xenstored has since Xen 4.22; use the command of the same name of `xl` there";
const MOVING: &str = "use `xl` for a domain that is to be moved";

/// Commands of xl that are refused with exit code 1: what they would change needs something that Xyl or the host lacks. Each with
/// that, and a remedy.
pub const REFUSED: &[(&str, &str)] = &[
    ("cd-eject", CDROM),
    ("cd-insert", CDROM),
    (
        "config-update",
        "since Xen 4.5 what it stores has no effect on a restart; change the configuration file and create the domain anew",
    ),
    (
        "dt-overlay",
        "device trees are those of Arm hosts, and this is none",
    ),
    ("usbctrl-attach", USB),
    ("usbctrl-detach", USB),
    ("usbdev-attach", USB),
    ("usbdev-detach", USB),
    ("vdispl-attach", DISPLAY),
    ("vdispl-detach", DISPLAY),
    ("vsnd-attach", SOUND),
    ("vsnd-detach", SOUND),
    ("vtpm-attach", TPM),
    ("vtpm-detach", TPM),
];

const CDROM: &str = "the disc of a drive can be changed in HVM guests alone: the protocol of PV and PVH guests' disks has no word for it; `block-detach` and `block-attach` exchange a drive with its disc; use `xl` for an HVM guest";
const USB: &str = "Xyl has no part that gives USB controllers to a domain, which needs the driver usbback or QEMU; use `xl`, with a domain that xl has made";
const DISPLAY: &str =
    "a virtual display needs a backend in another domain, which Xyl cannot manage; use `xl`";
const SOUND: &str =
    "a virtual sound device needs a backend in another domain, which Xyl cannot manage; use `xl`";
const TPM: &str =
    "a virtual TPM needs a domain with its backend (vtpmmgr), which Xyl cannot manage; use `xl`";

/// The number of arguments without which xl prints the usage of a command of [`REFUSED`].
const ARGUMENTS: &[(&str, usize)] = &[
    ("cd-eject", 2),
    ("cd-insert", 3),
    ("usbctrl-attach", 1),
    ("usbctrl-detach", 2),
    ("usbdev-attach", 2),
    ("usbdev-detach", 3),
    ("vdispl-attach", 1),
    ("vdispl-detach", 2),
    ("vsnd-attach", 2),
    ("vsnd-detach", 2),
    ("vtpm-attach", 1),
    ("vtpm-detach", 2),
];

/// Returns the number of arguments that a command of [`REFUSED`] needs.
pub fn arguments(name: &str) -> usize {
    let mut rows = ARGUMENTS.iter();
    rows.find(|(known, _)| *known == name)
        .map_or(0, |(_, count)| *count)
}

/// Returns what a command of [`REFUSED`] lacks.
pub fn refusal(name: &str) -> Option<&'static str> {
    find(REFUSED, name)
}

/// Returns the advice for a command of [`COMMANDS`].
pub fn instead(name: &str) -> Option<&'static str> {
    find(COMMANDS, name)
}

fn find(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    let mut rows = table.iter();
    rows.find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}
