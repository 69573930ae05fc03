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
    ("restore", MOVING),
    ("resume", MOVING),
    ("save", MOVING),
    ("suspend", MOVING),
    (
        "vncviewer",
        "start a viewer yourself: the display's address and port are in the nodes console/vnc-listen and console/vnc-port of the domain, in /local/domain/DOMID of xenstore",
    ),
    ("xenstore-quota-get", QUOTA),
    ("xenstore-quota-set", QUOTA),
];

const QUOTA: &str = "it needs requests that xenstored has since Xen 4.22; use the command of the same name of `xl` there";
const MOVING: &str = "use `xl` for a domain that is to be saved or moved";

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
    ("pci-attach", PCI),
    ("pci-detach", PCI),
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
const PCI: &str = "Xyl gives PCI devices to a PV guest when it is made (`pci = [ ... ]`), and takes them at its end, not while it runs; change the configuration and start the guest anew, or use `xl`, with a domain that xl has made";
const USB: &str = "Xyl has no part that gives USB controllers to a domain, which needs the driver usbback or QEMU; use `xl`, with a domain that xl has made";
const DISPLAY: &str =
    "a virtual display needs a backend in another domain, which Xyl cannot manage; use `xl`";
const SOUND: &str =
    "a virtual sound device needs a backend in another domain, which Xyl cannot manage; use `xl`";
const TPM: &str =
    "a virtual TPM needs a domain with its backend (vtpmmgr), which Xyl cannot manage; use `xl`";

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
