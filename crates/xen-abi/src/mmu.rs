//! Page tables of PV domains: `HYPERVISOR_mmuext_op` and `HYPERVISOR_mmu_update` (xen.h).

use crate::layout::{abi, c_constants};

c_constants! {
    /// Pins a table of the first level.
    PIN_L1_TABLE: u32 = 0, "MMUEXT_PIN_L1_TABLE";
    /// Pins a table of the second level.
    PIN_L2_TABLE: u32 = 1, "MMUEXT_PIN_L2_TABLE";
    /// Pins a table of the third level.
    PIN_L3_TABLE: u32 = 2, "MMUEXT_PIN_L3_TABLE";
    /// Pins a table of the fourth level.
    PIN_L4_TABLE: u32 = 3, "MMUEXT_PIN_L4_TABLE";
    /// Takes a pin away.
    UNPIN_TABLE: u32 = 4, "MMUEXT_UNPIN_TABLE";
    /// Makes a page zero.
    CLEAR_PAGE: u32 = 16, "MMUEXT_CLEAR_PAGE";
    /// Update: an entry of the machine-to-physical table.
    MACHPHYS_UPDATE: u64 = 1, "MMU_MACHPHYS_UPDATE";
}

abi! {
    /// One operation of `HYPERVISOR_mmuext_op`.
    struct ExtOp = "struct mmuext_op", 24 {
        /// Number of the operation.
        0 cmd: u32;
        /// Padding.
        4 pad: u32 = "";
        /// A machine frame or an address.
        8 mfn: u64 = "arg1.mfn";
        /// A second argument.
        16 arg2: u64;
    }
    /// One operation of `HYPERVISOR_mmu_update`.
    struct Update = "struct mmu_update", 16 {
        /// Machine address, with the kind of update in the two lowest bits.
        0 ptr: u64;
        /// New value.
        8 val: u64;
    }
}
