//! `HYPERVISOR_memory_op`: a domain's memory (memory.h).

use crate::GuestHandle;
use crate::layout::{abi, c_constants};

c_constants! {
    /// Gives memory back.
    DECREASE_RESERVATION: u32 = 1, "XENMEM_decrease_reservation";
    /// Highest machine frame.
    MAXIMUM_RAM_PAGE: u32 = 2, "XENMEM_maximum_ram_page";
    /// Pages a domain has.
    CURRENT_RESERVATION: u32 = 3, "XENMEM_current_reservation";
    /// Pages a domain may have.
    MAXIMUM_RESERVATION: u32 = 4, "XENMEM_maximum_reservation";
    /// The frames of the table that leads from machine frames to the guests' own numbers.
    MACHPHYS_MFN_LIST: u32 = 5, "XENMEM_machphys_mfn_list";
    /// Allocates memory at given guest frames.
    POPULATE_PHYSMAP: u32 = 6, "XENMEM_populate_physmap";
    /// Puts a special page into the guest's memory.
    ADD_TO_PHYSMAP: u32 = 7, "XENMEM_add_to_physmap";
    /// Sets a domain's memory map.
    SET_MEMORY_MAP: u32 = 13, "XENMEM_set_memory_map";
    /// Highest guest frame.
    MAXIMUM_GPFN: u32 = 14, "XENMEM_maximum_gpfn";
    /// Takes a page out of the guest's memory.
    REMOVE_FROM_PHYSMAP: u32 = 15, "XENMEM_remove_from_physmap";
    /// Sets the target of populate-on-demand.
    SET_POD_TARGET: u32 = 16, "XENMEM_set_pod_target";
    /// Gets it.
    GET_POD_TARGET: u32 = 17, "XENMEM_get_pod_target";
    /// Pages that memory sharing has freed.
    GET_SHARING_FREED_PAGES: u32 = 18, "XENMEM_get_sharing_freed_pages";
    /// Pages that are shared.
    GET_SHARING_SHARED_PAGES: u32 = 19, "XENMEM_get_sharing_shared_pages";
    /// Stakes or cancels a claim.
    CLAIM_PAGES: u32 = 24, "XENMEM_claim_pages";
    /// Frames of a resource such as a grant table.
    ACQUIRE_RESOURCE: u32 = 28, "XENMEM_acquire_resource";

    /// Flag: reserve the addresses, allocate when touched.
    MEMF_POPULATE_ON_DEMAND: u32 = 1 << 16, "XENMEMF_populate_on_demand";
    /// Flag: the node named, or none.
    MEMF_EXACT_NODE_REQUEST: u32 = 1 << 17, "XENMEMF_exact_node_request";
    /// Flags: frames whose addresses have at most so many bits, here none more than 1; n bits are n times that.
    MEMF_ADDRESS_BITS_1: u32 = 1, "XENMEMF_address_bits(1)";
    /// Flag: node 0; node n is n + 1 from bit 8.
    MEMF_NODE_0: u32 = 1 << 8, "XENMEMF_node(0)";

    /// Physmap space: the shared-info page.
    MAPSPACE_SHARED_INFO: u32 = 0, "XENMAPSPACE_shared_info";
    /// Physmap space: grant-table frames.
    MAPSPACE_GRANT_TABLE: u32 = 1, "XENMAPSPACE_grant_table";

    /// Resource: an I/O request server's pages.
    RESOURCE_IOREQ_SERVER: u32 = 0, "XENMEM_resource_ioreq_server";
    /// Resource: a grant table.
    RESOURCE_GRANT_TABLE: u32 = 1, "XENMEM_resource_grant_table";
    /// Its shared frames.
    RESOURCE_GRANT_TABLE_SHARED: u32 = 0, "XENMEM_resource_grant_table_id_shared";
    /// Its status frames.
    RESOURCE_GRANT_TABLE_STATUS: u32 = 1, "XENMEM_resource_grant_table_id_status";
}

abi! {
    /// `XENMEM_populate_physmap` and its kin, `XENMEM_claim_pages`.
    struct Reservation = "struct xen_memory_reservation", 32 {
        /// u64 frames: in where, out what was allocated.
        0 extent_start: GuestHandle;
        /// Number of extents.
        8 nr_extents: u64;
        /// Each of 2^order pages.
        16 extent_order: u32;
        /// `MEMF_*`.
        20 mem_flags: u32;
        /// The domain.
        24 domid: u16;
        /// Padding.
        26 pad: [u16; 3] = "";
    }
    /// Argument of `XENMEM_add_to_physmap`.
    struct AddToPhysmap = "struct xen_add_to_physmap", 24 {
        /// The domain.
        0 domid: u16;
        /// Pages, where the space takes ranges.
        2 size: u16;
        /// `MAPSPACE_*`.
        4 space: u32;
        /// Index in that space.
        8 idx: u64;
        /// Frame at which the page shall appear.
        16 gpfn: u64;
    }
    /// Argument of `XENMEM_remove_from_physmap`.
    struct RemoveFromPhysmap = "struct xen_remove_from_physmap", 16 {
        /// The domain.
        0 domid: u16;
        /// Padding.
        2 pad: [u16; 3] = "";
        /// The frame.
        8 gpfn: u64;
    }
    /// An array of [`E820Entry`]s.
    struct MemoryMap = "struct xen_memory_map", 16 {
        /// Number of entries.
        0 nr_entries: u32;
        /// Padding.
        4 pad: u32 = "";
        /// Address of the entries.
        8 buffer: GuestHandle;
    }
    /// Argument of `XENMEM_set_memory_map`.
    struct ForeignMemoryMap = "struct xen_foreign_memory_map", 24 {
        /// The domain.
        0 domid: u16;
        /// Padding.
        2 pad: [u16; 3] = "";
        /// Its map.
        8 map: MemoryMap;
    }
    /// Argument of `XENMEM_{get,set}_pod_target`.
    struct PodTarget = "struct xen_pod_target", 40 {
        /// In: pages to have.
        0 target_pages: u64;
        /// Out: pages there are.
        8 tot_pages: u64;
        /// Out: pages kept back.
        16 pod_cache_pages: u64;
        /// Out: entries not populated.
        24 pod_entries: u64;
        /// The domain.
        32 domid: u16;
        /// Padding.
        34 pad: [u16; 3] = "";
    }
    /// Argument of `XENMEM_machphys_mfn_list`.
    struct MachphysMfnList = "struct xen_machphys_mfn_list", 24 {
        /// Entries that the list has room for.
        0 max_extents: u32;
        /// Padding.
        4 pad: u32 = "";
        /// u64 frames: the first of each 2 MiB of the table.
        8 extent_start: GuestHandle;
        /// Out: entries that were filled in.
        16 nr_extents: u32;
        /// Padding.
        20 pad2: u32 = "";
    }
    /// Argument of `XENMEM_acquire_resource`.
    struct AcquireResource = "struct xen_mem_acquire_resource", 32 {
        /// The domain.
        0 domid: u16;
        /// `RESOURCE_*`.
        2 kind: u16 = "type";
        /// Which of that type.
        4 id: u32;
        /// In and out: frames.
        8 nr_frames: u32;
        /// Zero.
        12 pad: u32;
        /// The first frame.
        16 frame: u64;
        /// u64 frames.
        24 frame_list: GuestHandle;
    }
}

/// An entry of an x86 memory map as the BIOS gives it: 20 bytes, packed (hvm/e820.h).
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::KnownLayout,
    zerocopy::Immutable,
)]
#[repr(C)]
pub struct E820Entry {
    /// First address, low then high half.
    pub addr: [u32; 2],
    /// Length in bytes, low then high half.
    pub size: [u32; 2],
    /// 1 RAM, 2 reserved, 3 ACPI, 4 ACPI non-volatile, 5 unusable.
    pub kind: u32,
}

const _: () = assert!(size_of::<E820Entry>() == 20, "size of E820Entry");

impl E820Entry {
    /// An entry for `size` bytes from `addr`.
    pub fn new(addr: u64, size: u64, kind: u32) -> Self {
        Self {
            addr: halves(addr),
            size: halves(size),
            kind,
        }
    }
}

fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn an_e820_entry_is_two_little_endian_u64_and_a_u32() {
        let entry = E820Entry::new(0x1_0000_2000, 0x3_0000_0004, 2);
        let expected: Vec<u8> = [
            &0x1_0000_2000_u64.to_le_bytes()[..],
            &0x3_0000_0004_u64.to_le_bytes()[..],
            &2_u32.to_le_bytes()[..],
        ]
        .concat();
        assert_eq!(entry.as_bytes(), expected);
    }
}
