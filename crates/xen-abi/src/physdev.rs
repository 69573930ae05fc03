//! `HYPERVISOR_physdev_op`: interrupts of the host's devices (physdev.h).

use crate::layout::{abi, c_constants};

c_constants! {
    /// Gives a domain an interrupt of the host.
    MAP_PIRQ: u32 = 13, "PHYSDEVOP_map_pirq";
    /// Takes it away.
    UNMAP_PIRQ: u32 = 14, "PHYSDEVOP_unmap_pirq";
    /// Kind of interrupt: a line.
    MAP_PIRQ_TYPE_GSI: u32 = 1, "MAP_PIRQ_TYPE_GSI";
}

abi! {
    /// Argument of `PHYSDEVOP_map_pirq`.
    struct MapPirq = "struct physdev_map_pirq", 40 {
        /// The domain.
        0 domid: u16;
        /// Padding.
        2 pad: u16 = "";
        /// `MAP_PIRQ_TYPE_*`.
        4 kind: u32 = "type";
        /// The host's number of the interrupt.
        8 index: i32;
        /// The domain's number of it; negative lets Xen choose.
        12 pirq: i32;
        /// For message-signalled interrupts.
        16 bus: i32;
        /// For message-signalled interrupts.
        20 devfn: i32;
        /// For message-signalled interrupts.
        24 entry_nr: i32;
        /// Padding.
        28 pad2: u32 = "";
        /// For message-signalled interrupts.
        32 table_base: u64;
    }
    /// Argument of `PHYSDEVOP_unmap_pirq`.
    struct UnmapPirq = "struct physdev_unmap_pirq", 8 {
        /// The domain.
        0 domid: u16;
        /// Padding.
        2 pad: u16 = "";
        /// The domain's number of the interrupt.
        4 pirq: i32;
    }
}
