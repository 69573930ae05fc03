//! The actions when a guest powers off, reboots, crashes or asks for a soft reset.

use serde::{Deserialize, Serialize};

use crate::keyword::keywords;
use crate::reader::Reader;

keywords! {
    /// The action for a domain that has stopped.
    Action {
        /// Destroy the domain.
        Destroy = "destroy",
        /// Destroy it and create it again with the same configuration.
        Restart = "restart",
        /// Keep it under another name, and create it again.
        RenameRestart = "rename-restart",
        /// Keep it as it is.
        Preserve = "preserve",
        /// Write its memory to a file, then destroy it.
        CoredumpDestroy = "coredump-destroy",
        /// Write its memory to a file, then restart it.
        CoredumpRestart = "coredump-restart",
        /// Reset its Xen interfaces and let it go on (HVM, for kexec).
        SoftReset = "soft-reset",
    }
}

/// The action for each reason to stop: the `on_*` settings, with defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actions {
    /// The guest powered off. Default: destroy.
    pub on_poweroff: Action,
    /// The guest asked for a reboot. Default: restart.
    pub on_reboot: Action,
    /// Xen's watchdog ran out. Default: destroy.
    pub on_watchdog: Action,
    /// The guest crashed. Default: destroy.
    pub on_crash: Action,
    /// The guest asked for a soft reset. Default: soft-reset.
    pub on_soft_reset: Action,
}

impl Actions {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let mut action = |key, default| reader.keyword(key).unwrap_or(default);
        Self {
            on_poweroff: action("on_poweroff", Action::Destroy),
            on_reboot: action("on_reboot", Action::Restart),
            on_watchdog: action("on_watchdog", Action::Destroy),
            on_crash: action("on_crash", Action::Destroy),
            on_soft_reset: action("on_soft_reset", Action::SoftReset),
        }
    }
}
