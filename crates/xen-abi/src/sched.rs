//! Structures of `HYPERVISOR_sched_op` (sched.h).

use crate::layout::{abi, c_constants};

c_constants! {
    /// Shuts another domain down.
    REMOTE_SHUTDOWN: u32 = 4, "SCHEDOP_remote_shutdown";
    /// Reason: clean power-off.
    SHUTDOWN_POWEROFF: u32 = 0, "SHUTDOWN_poweroff";
    /// Reason: clean reboot.
    SHUTDOWN_REBOOT: u32 = 1, "SHUTDOWN_reboot";
    /// Reason: ready to be saved.
    SHUTDOWN_SUSPEND: u32 = 2, "SHUTDOWN_suspend";
    /// Reason: crash.
    SHUTDOWN_CRASH: u32 = 3, "SHUTDOWN_crash";
    /// Reason: watchdog.
    SHUTDOWN_WATCHDOG: u32 = 4, "SHUTDOWN_watchdog";
    /// Reason: asks for a soft reset.
    SHUTDOWN_SOFT_RESET: u32 = 5, "SHUTDOWN_soft_reset";
}

abi! {
    /// Argument of `SCHEDOP_remote_shutdown`.
    struct RemoteShutdown = "struct sched_remote_shutdown", 8 {
        /// The domain.
        0 domain_id: u16;
        /// Padding.
        2 pad: u16 = "";
        /// `SHUTDOWN_*`.
        4 reason: u32;
    }
}
