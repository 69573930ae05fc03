//! [`LibxcKind`] and [`LibxlKind`], the types of records.

/// Bit of a record's type: a reader that does not know the type may skip the record.
pub(crate) const OPTIONAL: u32 = 0x8000_0000;

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($(#[$kind_doc:meta])* $kind:ident = $code:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$kind_doc])* $kind,)*
        }

        impl $name {
            /// The type with this number, if it is known.
            pub fn from_code(code: u32) -> Option<$name> {
                match code {
                    $($code => Some($name::$kind),)*
                    _ => None,
                }
            }

            /// Number of the type in the stream.
            pub fn code(self) -> u32 {
                match self {
                    $($name::$kind => $code,)*
                }
            }

            /// Name of the type in Xen's documentation.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$kind => $text,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

kinds! {
    /// Types of the records of a libxc stream.
    LibxcKind {
        /// The end of the stream.
        End = 0x00 "END",
        /// Page frame numbers, and the contents of these pages.
        PageData = 0x01 "PAGE_DATA",
        /// Width of a PV guest.
        PvInfo = 0x02 "X86_PV_INFO",
        /// Pages that hold the P2M of a PV guest.
        P2mFrames = 0x03 "X86_PV_P2M_FRAMES",
        /// Registers of a vCPU.
        VcpuBasic = 0x04 "X86_PV_VCPU_BASIC",
        /// Further registers of a vCPU.
        VcpuExtended = 0x05 "X86_PV_VCPU_EXTENDED",
        /// Floating point and vector registers of a vCPU.
        VcpuXsave = 0x06 "X86_PV_VCPU_XSAVE",
        /// The shared info page.
        SharedInfo = 0x07 "SHARED_INFO",
        /// Mode and values of the TSC.
        TscInfo = 0x08 "X86_TSC_INFO",
        /// State of vCPUs and Xen's own devices.
        HvmContext = 0x09 "HVM_CONTEXT",
        /// HVM parameters by number.
        HvmParams = 0x0a "HVM_PARAMS",
        /// State of a toolstack, which no release has written.
        Toolstack = 0x0b "TOOLSTACK",
        /// Model specific registers of a vCPU.
        VcpuMsrs = 0x0c "X86_PV_VCPU_MSRS",
        /// Pages that follow are to be compared.
        Verify = 0x0d "VERIFY",
        /// The end of one image in a stream of several.
        Checkpoint = 0x0e "CHECKPOINT",
        /// Pages that the receiver of checkpoints has changed.
        CheckpointDirtyPfns = 0x0f "CHECKPOINT_DIRTY_PFN_LIST",
        /// The end of the static data.
        StaticDataEnd = 0x10 "STATIC_DATA_END",
        /// CPUID policy of the guest.
        CpuidPolicy = 0x11 "X86_CPUID_POLICY",
        /// MSR policy of the guest.
        MsrPolicy = 0x12 "X86_MSR_POLICY",
    }
}

kinds! {
    /// Types of the records of a libxl stream.
    LibxlKind {
        /// The end of the stream.
        End = 0x00 "END",
        /// A libxc stream follows.
        LibxcContext = 0x01 "LIBXC_CONTEXT",
        /// Nodes in xenstore of an emulator.
        EmulatorXenstore = 0x02 "EMULATOR_XENSTORE_DATA",
        /// State of an emulator.
        EmulatorContext = 0x03 "EMULATOR_CONTEXT",
        /// The end of one image in a stream of several.
        CheckpointEnd = 0x04 "CHECKPOINT_END",
        /// State of the receiver of checkpoints.
        CheckpointState = 0x05 "CHECKPOINT_STATE",
    }
}
