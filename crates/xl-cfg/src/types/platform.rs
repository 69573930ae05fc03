//! The domain's rights towards Xen and the host: privileges, passthrough, labels.

use serde::{Deserialize, Serialize};

use crate::keyword::keywords;
use crate::reader::Reader;

keywords! {
    /// Whether the IOMMU is set up for the domain, and how.
    Passthrough {
        /// Enabled if the configuration passes devices through.
        Default = "default",
        /// Not at all.
        Disabled = "disabled",
        /// In whatever way suits the host.
        Enabled = "enabled",
        /// With its own tables, synchronised with the guest's.
        SyncPt = "sync_pt",
        /// With the guest's own second-level page tables.
        SharePt = "share_pt",
    }
}

/// The domain's rights towards Xen and the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The CPU pool (`pool`).
    pub pool: Option<String>,
    /// Whether the domain may not be moved or saved (`nomigrate`).
    pub no_migrate: Option<bool>,
    /// Whether it serves devices to others (`driver_domain`).
    pub driver_domain: Option<bool>,
    /// Setup of the IOMMU (`passthrough`).
    pub passthrough: Option<Passthrough>,
    /// The XSM label (`seclabel`).
    pub security_label: Option<String>,
    /// The XSM label while the domain is built (`init_seclabel`).
    pub init_security_label: Option<String>,
    /// Whether the guest gets ACPI tables (`acpi`).
    pub acpi: Option<bool>,
    /// Whether a PV guest sees the host's memory map (`e820_host`). Set by itself when PCI devices are passed.
    pub e820_host: Option<bool>,
    /// Whether the suspend event channel is compatible with xend (`xend_suspend_evtchn_compat`).
    pub xend_suspend_event_channel: Option<bool>,
}

impl Platform {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            pool: reader.wanted("pool", "a pool's name", "`xl cpupool-list` shows the pools"),
            no_migrate: reader.flag("nomigrate"),
            driver_domain: reader.flag("driver_domain"),
            passthrough: reader.keyword_any_case("passthrough"),
            security_label: reader.filled("seclabel"),
            init_security_label: reader.filled("init_seclabel"),
            acpi: reader.flag("acpi"),
            e820_host: reader.flag("e820_host"),
            xend_suspend_event_channel: reader.flag("xend_suspend_evtchn_compat"),
        }
    }
}
