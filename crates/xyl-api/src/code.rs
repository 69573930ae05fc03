//! Stable codes for errors, for programs. A message may be reworded; a code never changes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// Stable code of an error. `docs/errors.md` lists them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// All codes, in the order of `docs/errors.md`.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code as programs see it.
            pub fn word(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => $word,)*
                }
            }
        }
    };
}

codes! {
    /// An argument is missing, malformed or unknown.
    Usage = "usage",
    /// No command has this name.
    UnknownCommand = "unknown-command",
    /// Several commands begin so.
    AmbiguousCommand = "ambiguous-command",
    /// Xyl cannot do this yet; xl can.
    NotThereYet = "not-there-yet",
    /// `xyl audit --fail-on` has found something that it names.
    Found = "found",
    /// The request cannot be carried out; the message says why.
    Refused = "refused",
    /// A file or stream of the command itself could not be used.
    Io = "io",
    /// This machine does not run Xen, or its driver is not loaded.
    NotXen = "not-a-xen-host",
    /// The console cannot be shown.
    Console = "console",
    /// A guest of this type has no such console.
    NoSuchConsole = "no-such-console",
    /// Xen has refused a hypercall.
    Hypervisor = "hypervisor",
    /// Xenstored has refused a request, or does not answer.
    Xenstore = "xenstore",
    /// A kernel or ramdisk cannot be used.
    BootFile = "boot-file",
    /// The domain's memory cannot be built.
    MemoryBuild = "memory-build",
    /// The configuration has errors: `findings` has each.
    Configuration = "configuration",
    /// The host has none of the CPUs that are named.
    NoSuchCpus = "no-such-cpus",
    /// Another domain has the name.
    NameTaken = "name-taken",
    /// Another process gives the name to a domain now.
    NameBusy = "name-busy",
    /// Another domain has the UUID.
    UuidTaken = "uuid-taken",
    /// No domain has this name, number or UUID.
    NoSuchDomain = "no-such-domain",
    /// No CPU pool has this name or number.
    NoSuchPool = "no-such-pool",
    /// The CPU pool cannot be made, changed or destroyed; the message says why.
    CpuPool = "cpu-pool",
    /// The PCI device cannot be made assignable, given to a domain, or taken back; the message says why.
    PciDevice = "pci-device",
    /// A parameter of Xen, or its security module, cannot be changed; the message says why.
    XenParameter = "xen-parameter",
    /// The scheduler of the CPU pool has no weights and caps.
    NoShares = "no-shares",
    /// Domain 0 cannot be changed like a guest.
    ControlDomain = "control-domain",
    /// The host has less free memory than is wanted.
    NotEnoughMemory = "not-enough-memory",
    /// The host has no hardware virtualisation.
    NoHardwareVirtualisation = "no-hardware-virtualisation",
    /// The host lacks what the configuration asks for.
    HostLacks = "host-lacks",
    /// This Xen has no security labels.
    LabelsUnsupported = "labels-unsupported",
    /// This Xen runs no PV guests.
    NoPv = "no-pv",
    /// This Xen runs no 32-bit PV guests without the shim.
    NoPv32 = "no-pv32",
    /// The guest cannot run in the PV shim.
    Shim = "shim",
    /// The boot loader of domain 0 has found no kernel on the guest's disk.
    BootLoader = "boot-loader",
    /// The policy of the host refuses the guest.
    NotAdmitted = "not-admitted",
    /// The policy of the host cannot be read.
    Policy = "policy",
    /// Advisories that the policy names cannot be read.
    Advisories = "advisories",
    /// Each free domid was in use a minute ago.
    NoFreshDomid = "no-fresh-domid",
    /// The domain has devices that another toolstack has made.
    ForeignDevices = "foreign-devices",
    /// A disk's image or block device cannot be used.
    DiskImage = "disk-image",
    /// A user other than root can make a disk's path lead to another file.
    DiskUntrusted = "disk-untrusted",
    /// The disk has another user.
    DiskBusy = "disk-busy",
    /// The bridge, the name or the script of a network interface cannot be used, or its script has failed.
    Network = "network",
    /// The backend of a device has failed, or does nothing.
    Backend = "backend",
    /// The domain has this device already.
    DeviceExists = "device-exists",
    /// The domain has no such device.
    NoSuchDevice = "no-such-device",
    /// The guest does not let the device go.
    DeviceHeld = "device-held",
    /// Xyl cannot serve a device of this description.
    DeviceUnsupported = "device-unsupported",
    /// No domain may have this name.
    BadName = "bad-name",
    /// No SysRq has this key.
    BadSysrq = "bad-sysrq-key",
    /// The guest has no PV drivers.
    NoPvDrivers = "no-pv-drivers",
    /// The domain is paused, so its guest takes no request.
    Paused = "paused",
    /// The domain has shut down already.
    HasShutDown = "has-shut-down",
    /// The domain has shut down or is gone, and its VM gets its next one.
    Restarting = "restarting",
    /// The VM has no domain, and waits for the next try to restart it.
    WaitsForRestart = "waits-for-restart",
    /// The VM has no monitor that could carry the request out.
    NoMonitor = "no-monitor",
    /// Too many requests wait for the VM.
    QueueFull = "queue-full",
    /// The VM has no domain, since its restart was given up.
    GivenUp = "given-up",
    /// More memory is wanted than the domain may have.
    AboveMaximum = "above-maximum",
    /// Less memory is wanted than the domain must have.
    BelowMinimum = "below-minimum",
    /// The maximum would be below the memory that the domain is to have.
    BelowTarget = "below-target",
    /// Xenstore does not have the domain's memory limits.
    NoMemoryLimits = "no-memory-limits",
    /// The domain cannot have so many vCPUs.
    VcpusOutOfRange = "vcpus-out-of-range",
    /// The domain does not have this vCPU.
    NoSuchVcpu = "no-such-vcpu",
    /// The domain is under another scheduler.
    OtherScheduler = "other-scheduler",
    /// A number is out of the range that Xen takes.
    OutOfRange = "out-of-range",
    /// The domain has what Xyl cannot take over.
    AdoptUnsupported = "adopt-unsupported",
    /// The domain has ended, or is ending.
    DomainEnding = "domain-ending",
    /// Another process may act on the domain's end.
    WatchedByAnother = "watched-by-another",
    /// A process does not end.
    ProcessStays = "process-stays",
    /// The files of the VMs that start with the host have an error.
    Autostart = "autostart",
    /// The domain cannot be soft-reset.
    SoftReset = "soft-reset",
    /// The guest cannot be suspended or resumed; the message says why.
    Suspend = "suspend",
    /// The guest cannot be saved; the message says why.
    Save = "save",
    /// The saved guest cannot be restored; the message says why.
    Restore = "restore",
    /// The domain's core cannot be dumped.
    DumpCore = "dump-core",
    /// A file of the host could not be used.
    File = "file",
    /// A record of Xyl's or libxl's is damaged.
    BadRecord = "bad-record",
    /// A journal could not be used.
    Journal = "journal",
    /// The journal has an operation or a step that this version does not know.
    UnknownOperation = "unknown-operation",
    /// The domain has run, so an undo does not destroy it.
    HasRun = "has-run",
    /// An earlier operation on the VM is not finished.
    Unfinished = "unfinished",
    /// The operation was cancelled.
    Cancelled = "cancelled",
    /// A wait has come to its time limit.
    Deadline = "deadline",
    /// The VM has another domain now.
    DomainReplaced = "domain-replaced",
    /// The VM's monitor has ended while it carried the request out, or its reply cannot be read.
    MonitorLost = "monitor-lost",
    /// The VM's monitor cannot read the request, or does not know it.
    UnknownRequest = "unknown-request",
}

impl ErrorCode {
    /// The code with this word.
    pub fn parse(word: &str) -> Option<ErrorCode> {
        ErrorCode::ALL
            .iter()
            .copied()
            .find(|code| code.word() == word)
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.word())
    }
}

/// A code of a later version is read as [`ErrorCode::Refused`].
impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ErrorCode, D::Error> {
        let word = String::deserialize(from)?;
        Ok(ErrorCode::parse(&word).unwrap_or(ErrorCode::Refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kebab_case_and_each_is_there_once() {
        let mut words: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.word()).collect();
        for word in &words {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(word.chars().all(fits), "{word}");
            assert_eq!(ErrorCode::parse(word).map(ErrorCode::word), Some(*word));
        }
        let nr_words = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), nr_words);
    }
}
