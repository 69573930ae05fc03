//! Commands of xl that Xyl does not have yet, and what to use meanwhile.

/// Name and advice of each.
pub const COMMANDS: &[(&str, &str)] = &[
    ("block-attach", DEVICES),
    ("block-detach", DEVICES),
    ("block-list", DEVICES),
    (
        "button-press",
        "use `xyl trigger DOMAIN power` or `xyl trigger DOMAIN sleep`",
    ),
    ("cd-eject", DEVICES),
    ("cd-insert", DEVICES),
    ("channel-list", DEVICES),
    (
        "config-update",
        "change the configuration file, and create the domain anew",
    ),
    ("cpupool-cpu-add", POOLS),
    ("cpupool-cpu-remove", POOLS),
    ("cpupool-create", POOLS),
    ("cpupool-destroy", POOLS),
    ("cpupool-list", POOLS),
    ("cpupool-migrate", POOLS),
    ("cpupool-numa-split", POOLS),
    ("cpupool-rename", POOLS),
    ("debug-keys", XL),
    ("devd", XL),
    ("dt-overlay", "it is for Arm hosts, which Xyl does not know"),
    ("getenforce", XL),
    ("loadpolicy", XL),
    ("migrate", MOVING),
    ("migrate-receive", MOVING),
    ("network-attach", DEVICES),
    ("network-detach", DEVICES),
    ("network-list", DEVICES),
    ("pci-assignable-add", DEVICES),
    ("pci-assignable-list", DEVICES),
    ("pci-assignable-remove", DEVICES),
    ("pci-attach", DEVICES),
    ("pci-detach", DEVICES),
    ("pci-list", DEVICES),
    ("psr-cat-set", XL),
    ("psr-cat-show", XL),
    ("psr-cmt-attach", XL),
    ("psr-cmt-detach", XL),
    ("psr-cmt-show", XL),
    ("psr-hwinfo", XL),
    ("psr-mba-set", XL),
    ("psr-mba-show", XL),
    ("qemu-monitor-command", XL),
    ("remus", MOVING),
    ("restore", MOVING),
    ("resume", MOVING),
    ("save", MOVING),
    ("sched-rtds", XL),
    ("set-parameters", XL),
    ("setenforce", XL),
    ("sharing", XL),
    ("suspend", MOVING),
    ("usb-list", DEVICES),
    ("usbctrl-attach", DEVICES),
    ("usbctrl-detach", DEVICES),
    ("usbdev-attach", DEVICES),
    ("usbdev-detach", DEVICES),
    ("vdispl-attach", DEVICES),
    ("vdispl-detach", DEVICES),
    ("vdispl-list", DEVICES),
    ("vkb-attach", DEVICES),
    ("vkb-detach", DEVICES),
    ("vkb-list", DEVICES),
    (
        "vncviewer",
        "connect a VNC viewer to the address in the domain's configuration",
    ),
    ("vsnd-attach", DEVICES),
    ("vsnd-detach", DEVICES),
    ("vsnd-list", DEVICES),
    ("vtpm-attach", DEVICES),
    ("vtpm-detach", DEVICES),
    ("vtpm-list", DEVICES),
    ("xenstore-quota-get", XL),
    ("xenstore-quota-set", XL),
];

const XL: &str = "use the command of the same name of `xl` meanwhile";
const DEVICES: &str =
    "Xyl's domains have no devices but their console; use `xl` for a domain that needs others";
const MOVING: &str = "use `xl` for a domain that is to be saved or moved";
const POOLS: &str = "use `xl` to manage CPU pools; `xyl list -c` shows which pool a domain is in";

/// What to use instead of a command, if it is one of these.
pub fn instead(name: &str) -> Option<&'static str> {
    COMMANDS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, instead)| *instead)
}
