//! The keywords in the settings of an HVM guest's machine.

use crate::keyword::keywords;

keywords! {
    /// The firmware of an HVM guest.
    Bios {
        /// The BIOS of Bochs.
        Rombios = "rombios",
        /// The SeaBIOS firmware.
        Seabios = "seabios",
        /// OVMF, a UEFI firmware.
        Ovmf = "ovmf",
    }
}

keywords! {
    /// The graphics card.
    Vga {
        /// A plain card with VESA extensions.
        Std = "stdvga",
        /// A Cirrus Logic GD5446.
        Cirrus = "cirrus",
        /// No graphics card.
        None = "none",
        /// QXL, for SPICE.
        Qxl = "qxl",
    }
}

keywords! {
    /// The disk controller.
    DiskController {
        /// An IDE controller.
        Ide = "ide",
        /// An AHCI (SATA) controller.
        Ahci = "ahci",
    }
}

keywords! {
    /// Which variant of QEMU's xen-pvdevice the guest has.
    VendorDevice {
        /// No such device.
        None = "none",
        /// The variant of XenServer.
        Xenserver = "xenserver",
    }
}

keywords! {
    /// The kind of graphics card passed through.
    GraphicsPassthrough {
        /// Not passed through.
        Off = "off",
        /// Whichever it is.
        Default = "default",
        /// An Intel graphics device.
        Igd = "igd",
    }
}

keywords! {
    /// A group of Hyper-V enlightenments.
    Viridian {
        /// Hypercalls, processor index, APIC access: needed by all others.
        Base = "base",
        /// Frequencies of TSC and APIC.
        Freq = "freq",
        /// The partition's reference counter.
        TimeRefCount = "time_ref_count",
        /// The reference TSC.
        ReferenceTsc = "reference_tsc",
        /// Flushing of remote TLBs by hypercall.
        HcallRemoteTlbFlush = "hcall_remote_tlb_flush",
        /// The APIC assist page.
        ApicAssist = "apic_assist",
        /// Crash control registers.
        CrashCtl = "crash_ctl",
        /// The synthetic interrupt controller.
        Synic = "synic",
        /// The synthetic timers.
        Stimer = "stimer",
        /// Interrupts between processors by hypercall.
        HcallIpi = "hcall_ipi",
        /// Hypercalls for more than 64 processors.
        ExProcessorMasks = "ex_processor_masks",
        /// No limit on the number of processors is named.
        NoVpLimit = "no_vp_limit",
        /// Processors come and go.
        CpuHotplug = "cpu_hotplug",
    }
}

keywords! {
    /// A string in the guest's SMBIOS tables.
    SmbiosField {
        /// Vendor of the BIOS.
        BiosVendor = "bios_vendor",
        /// Version of the BIOS.
        BiosVersion = "bios_version",
        /// Manufacturer of the system.
        SystemManufacturer = "system_manufacturer",
        /// System product name.
        SystemProductName = "system_product_name",
        /// Version of the system.
        SystemVersion = "system_version",
        /// System serial number.
        SystemSerialNumber = "system_serial_number",
        /// Manufacturer of the baseboard.
        BaseboardManufacturer = "baseboard_manufacturer",
        /// Baseboard product name.
        BaseboardProductName = "baseboard_product_name",
        /// Version of the baseboard.
        BaseboardVersion = "baseboard_version",
        /// Baseboard serial number.
        BaseboardSerialNumber = "baseboard_serial_number",
        /// Baseboard asset tag.
        BaseboardAssetTag = "baseboard_asset_tag",
        /// Location of the baseboard in its chassis.
        BaseboardLocationInChassis = "baseboard_location_in_chassis",
        /// Manufacturer of the enclosure.
        EnclosureManufacturer = "enclosure_manufacturer",
        /// Enclosure serial number.
        EnclosureSerialNumber = "enclosure_serial_number",
        /// Enclosure asset tag.
        EnclosureAssetTag = "enclosure_asset_tag",
        /// Manufacturer of the battery.
        BatteryManufacturer = "battery_manufacturer",
        /// Battery device name.
        BatteryDeviceName = "battery_device_name",
        /// A string of the vendor's own; there can be 99.
        Oem = "oem",
    }
}
