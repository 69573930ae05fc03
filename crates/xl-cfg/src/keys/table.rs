//! The table of settings: those of xl.cfg(5) and of xl's parser (Xen 4.14 to 4.22), and obsolete ones of xend.

use super::Guests::{Any, Arm, Hvm, HvmAndPvh, Pv, PvAndPvh, Pvh};
use super::KeyClass::{Common, Core, Niche};
use super::{Guests, KeyClass, KeyInfo, Standing};

const fn key(name: &'static str, class: KeyClass, guests: Guests) -> KeyInfo {
    KeyInfo {
        name,
        class,
        guests,
        standing: Standing::Current,
    }
}

const fn deprecated(name: &'static str, guests: Guests, help: &'static str) -> KeyInfo {
    KeyInfo {
        name,
        class: Niche,
        guests,
        standing: Standing::Deprecated(help),
    }
}

const fn ignored(name: &'static str, help: &'static str) -> KeyInfo {
    KeyInfo {
        name,
        class: Niche,
        guests: Any,
        standing: Standing::Ignored(help),
    }
}

/// Builds an entry. `why` follows "take the line out" in the message.
const fn gone(name: &'static str, why: &'static str) -> KeyInfo {
    KeyInfo {
        standing: Standing::Gone(why),
        ..ignored(name, "")
    }
}

const fn renamed(name: &'static str, to: &'static str) -> KeyInfo {
    KeyInfo {
        standing: Standing::Renamed(to),
        ..ignored(name, "")
    }
}

/// A setting of xend, the toolstack before xl.
const fn xend(name: &'static str) -> KeyInfo {
    gone(name, ": it is from xend's time")
}

pub(super) static KEYS: &[KeyInfo] = &[
    // The domain.
    key("name", Core, Any),
    key("type", Core, Any),
    key("uuid", Common, Any),
    key("pool", Common, Any),
    key("on_poweroff", Core, Any),
    key("on_reboot", Core, Any),
    key("on_watchdog", Core, Any),
    key("on_crash", Core, Any),
    key("on_soft_reset", Core, Any),
    key("seclabel", Niche, Any),
    key("init_seclabel", Niche, Any),
    key("nomigrate", Common, Any),
    key("driver_domain", Niche, Any),
    key("xend_suspend_evtchn_compat", Niche, Any),
    key("passthrough", Common, Any),
    key("xenstore_feature_mask", Niche, Any),
    key("xenstore_quota", Niche, Any),
    key("max_grant_frames", Niche, Any),
    key("max_maptrack_frames", Niche, Any),
    key("max_grant_version", Niche, Any),
    key("max_event_channels", Niche, Any),
    // Processors.
    key("vcpus", Core, Any),
    key("maxvcpus", Core, Any),
    key("cpus", Common, Any),
    key("cpus_soft", Common, Any),
    key("cpu_weight", Common, Any),
    key("cap", Common, Any),
    key("period", Niche, Any),
    key("extratime", Niche, Any),
    gone(
        "slice",
        ": it belonged to the SEDF scheduler, which is gone",
    ),
    gone(
        "latency",
        ": it belonged to the SEDF scheduler, which is gone",
    ),
    key("cpuid", Common, Any),
    key("nestedhvm", Common, HvmAndPvh),
    key("vpmu", Niche, Arm),
    key("vmtrace_buf_kb", Niche, Any),
    key("altp2m", Niche, Any),
    key("altp2m_count", Niche, Any),
    deprecated("altp2mhvm", Hvm, "set `altp2m` in its place"),
    key("msr_relaxed", Niche, Any),
    key("tsc_mode", Niche, Any),
    // Not without effect on PV guests: an error.
    key("timer_mode", Niche, Any),
    key("localtime", Common, Any),
    key("rtc_timeoffset", Common, Any),
    // Memory.
    key("memory", Core, Any),
    key("maxmem", Core, Any),
    key("shadow_memory", Niche, Any),
    key("hap", Common, HvmAndPvh),
    key("oos", Niche, HvmAndPvh),
    key("vnuma", Niche, Any),
    // Settings of the boot.
    key("kernel", Core, Any),
    key("ramdisk", Core, Any),
    key("cmdline", Core, Any),
    key("root", Common, Any),
    key("extra", Common, Any),
    key("bootloader", Common, PvAndPvh),
    key("bootloader_args", Common, PvAndPvh),
    key("bootloader_restrict", Common, PvAndPvh),
    key("bootloader_user", Common, PvAndPvh),
    key("firmware", Common, Any),
    key("pvshim", Common, PvAndPvh),
    key("pvshim_path", Common, Pvh),
    key("pvshim_cmdline", Common, Pvh),
    key("pvshim_extra", Common, Pvh),
    key("e820_host", Niche, Pv),
    deprecated(
        "builder",
        Any,
        "write `type = \"pv\"`, `type = \"pvh\"` or `type = \"hvm\"`",
    ),
    ignored("pvh", "set `type` to `pvh` if the guest is one"),
    // Devices.
    key("disk", Core, Any),
    key("vif", Core, Any),
    ignored("vif2", "netchannel2 is gone; use `vif`"),
    key("vfb", Niche, Any),
    key("vkb", Niche, Any),
    key("vtpm", Niche, Any),
    key("p9", Niche, Any),
    key("pvcalls", Niche, Any),
    key("channel", Niche, Any),
    key("vdispl", Niche, Any),
    key("vsnd", Niche, Any),
    key("virtio", Niche, Any),
    key("usbctrl", Niche, Any),
    key("usbdev", Niche, Any),
    key("pci", Common, Any),
    key("pci_msitranslate", Common, Any),
    key("pci_power_mgmt", Common, Any),
    key("pci_permissive", Common, Any),
    key("pci_seize", Common, Any),
    key("rdm", Niche, Hvm),
    key("rdm_mem_boundary", Niche, Hvm),
    key("dtdev", Niche, Arm),
    key("ioports", Niche, Any),
    key("irqs", Niche, Any),
    key("iomem", Niche, Any),
    // Displays.
    key("vnc", Common, Any),
    key("vnclisten", Common, Any),
    key("vncpasswd", Common, Any),
    key("vncdisplay", Common, Any),
    key("vncunused", Common, Any),
    key("sdl", Niche, Any),
    key("opengl", Niche, Any),
    key("display", Niche, Any),
    key("xauthority", Niche, Any),
    key("keymap", Common, Any),
    ignored("vncconsole", "use the option -V of the create command"),
    ignored("vncviewer", "use the option -V of the create command"),
    key("vga", Common, Hvm),
    deprecated("stdvga", Hvm, "set `vga` in its place"),
    key("videoram", Common, Hvm),
    key("nographic", Niche, Hvm),
    key("gfx_passthru", Niche, Hvm),
    key("spice", Niche, Hvm),
    key("spiceport", Niche, Hvm),
    key("spicetls_port", Niche, Hvm),
    key("spicehost", Niche, Hvm),
    key("spicedisable_ticketing", Niche, Hvm),
    key("spicepasswd", Niche, Hvm),
    key("spiceagent_mouse", Niche, Hvm),
    key("spicevdagent", Niche, Hvm),
    key("spice_clipboard_sharing", Niche, Hvm),
    key("spiceusbredirection", Niche, Hvm),
    key("spice_image_compression", Niche, Hvm),
    key("spice_streaming_video", Niche, Hvm),
    // The emulated machine.
    key("boot", Common, Hvm),
    key("bios", Common, Hvm),
    key("bios_path_override", Niche, Hvm),
    key("firmware_override", Niche, Hvm),
    renamed("hvmloader_override", "firmware_override"),
    key("hdtype", Niche, Hvm),
    key("pae", Common, Hvm),
    key("acpi", Common, Any),
    key("acpi_s3", Niche, Hvm),
    key("acpi_s4", Niche, Hvm),
    key("acpi_laptop_slate", Niche, Hvm),
    key("acpi_firmware", Niche, Hvm),
    key("apic", Common, Hvm),
    key("nx", Common, Hvm),
    key("hpet", Common, Hvm),
    key("hvm_pirq", Niche, Hvm),
    key("vpt_align", Niche, Hvm),
    key("viridian", Common, Hvm),
    key("mmio_hole", Niche, Hvm),
    key("smbios", Niche, Hvm),
    key("smbios_firmware", Niche, Hvm),
    key("ms_vm_genid", Niche, Hvm),
    key("mca_caps", Niche, Hvm),
    key("serial", Common, Hvm),
    key("usb", Common, Hvm),
    key("usbversion", Common, Hvm),
    key("usbdevice", Common, Hvm),
    key("soundhw", Niche, Hvm),
    key("vkb_device", Niche, Hvm),
    key("vendor_device", Niche, Hvm),
    key("xen_platform_pci", Common, Hvm),
    key("xen_platform_pci_bar_uc", Niche, Hvm),
    // The device model.
    ignored(
        "device_model",
        "write `device_model_override` if you want another device model than the usual one",
    ),
    key("device_model_version", Niche, Any),
    key("device_model_override", Niche, Any),
    key("device_model_stubdomain_override", Niche, Any),
    key("device_model_stubdomain_seclabel", Niche, Any),
    key("device_model_user", Niche, Any),
    key("device_model_args", Niche, Any),
    key("device_model_args_pv", Niche, Any),
    key("device_model_args_hvm", Niche, Any),
    key("dm_restrict", Common, Any),
    key("stubdomain_kernel", Niche, Any),
    key("stubdomain_cmdline", Niche, Any),
    key("stubdomain_ramdisk", Niche, Any),
    key("stubdomain_memory", Niche, Any),
    // Arm.
    key("device_tree", Niche, Arm),
    key("gic_version", Niche, Arm),
    key("tee", Niche, Arm),
    key("sve", Niche, Arm),
    key("nr_spis", Niche, Arm),
    key("vuart", Niche, Arm),
    key("arm_sci", Niche, Arm),
    key("llc_colors", Niche, Any),
    key("trap_unmapped_accesses", Niche, Arm),
    // Gone.
    gone("assisted_xapic", ": no released Xen reads it"),
    gone("assisted_x2apic", ": no released Xen reads it"),
    gone("tmem", ": Xen has no transcendent memory any more"),
    ignored("monitor", "set what QEMU needs with `device_model_args`"),
    ignored(
        "vcpu_avail",
        "write how many are online at the start with `vcpus`, how many there can be with `maxvcpus`",
    ),
    ignored("cdrom", "write a disk with `devtype=cdrom`"),
    gone("isa", ": HVM guests have an ISA bus anyway"),
    ignored("ne2000", "choose a network card with `model=` in `vif`"),
    ignored(
        "fda",
        "floppy disks are not supported; QEMU takes them with `device_model_args`",
    ),
    ignored(
        "fdb",
        "floppy disks are not supported; QEMU takes them with `device_model_args`",
    ),
    ignored("guest_os_type", "write `viridian` for Windows guests"),
    ignored(
        "ip",
        "give an address with `ip=` in `vif`, or on the kernel's command line",
    ),
    ignored("netmask", "give addresses on the kernel's command line"),
    ignored("gateway", "give addresses on the kernel's command line"),
    ignored("hostname", "give it on the kernel's command line"),
    ignored("dhcp", "give it on the kernel's command line, as `ip=dhcp`"),
    ignored("nfs_server", "give it on the kernel's command line"),
    ignored("nfs_root", "give it on the kernel's command line"),
    ignored("interface", "give it on the kernel's command line"),
    xend("on_xend_start"),
    xend("on_xend_stop"),
    xend("access_control"),
    xend("cpuid_check"),
    xend("vscsi"),
    xend("vusb"),
    xend("features"),
    xend("machine_address_size"),
    xend("suppress_spurious_page_faults"),
    xend("superpages"),
    xend("s3_integrity"),
];
