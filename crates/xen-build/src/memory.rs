//! Memory that a domain needs in addition to its own, by libxl's formulas. So Xen gets the same limits from both
//! toolstacks.

/// Additional memory of a domain in KiB: ACPI tables, special pages of PVH, pages of an introspection tool. libxl
/// uses the same value.
const MAX_MEM_SLACK_KIB: u64 = 1024;

/// The limit to set with `set_max_mem`, in KiB.
pub fn max_mem_kib(target_kib: u64) -> u64 {
    target_kib.saturating_add(MAX_MEM_SLACK_KIB)
}

/// Size for `set_paging_mempool` of a PVH or HVM domain, in bytes: 1 MiB for each vCPU, a page for each MiB of memory
/// for the table that maps it, and the same again for shadows without hardware-assisted paging.
///
/// The smallest guests need the MiB for each vCPU. libxl 4.17 omits it for PVH, and then Xen refuses guests below
/// about 24 MiB.
pub fn paging_mempool_size_bytes(max_kib: u64, max_vcpus: u32, hap: bool) -> u64 {
    const PAGE_BYTES: u64 = 4096;
    const PAGES_PER_VCPU: u64 = 256;
    let tables = if hap { 1 } else { 2 };
    let pages = PAGES_PER_VCPU * u64::from(max_vcpus) + tables * (max_kib / 1024);
    pages * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_libxl() {
        assert_eq!(max_mem_kib(65536), 66560);
        assert_eq!(paging_mempool_size_bytes(65536, 1, true), (256 + 64) * 4096);
        // No guest is too small to have room for Xen's own tables.
        assert_eq!(paging_mempool_size_bytes(1024, 1, true), (256 + 1) * 4096);
        assert_eq!(
            paging_mempool_size_bytes(1 << 20, 2, true),
            (512 + 1024) * 4096
        );
        assert_eq!(
            paging_mempool_size_bytes(1 << 20, 2, false),
            (512 + 2048) * 4096
        );
    }
}
