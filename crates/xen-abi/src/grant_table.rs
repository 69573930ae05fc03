//! Grant tables (grant_table.h): shared entries and the queries a toolstack makes.

use crate::layout::{abi, c_constants};

c_constants! {
    /// Asks for the size of a table.
    QUERY_SIZE: u32 = 6, "GNTTABOP_query_size";
    /// Asks for the version of a table.
    GET_VERSION: u32 = 10, "GNTTABOP_get_version";
    /// Entry type: none.
    GTF_INVALID: u32 = 0, "GTF_invalid";
    /// Entry type: the page may be mapped.
    GTF_PERMIT_ACCESS: u32 = 1, "GTF_permit_access";
    /// Entry flag: for reading only.
    GTF_READONLY: u32 = 1 << 2, "GTF_readonly";
    /// The entry for the console ring that toolstacks reserve.
    RESERVED_CONSOLE: u32 = 0, "GNTTAB_RESERVED_CONSOLE";
    /// The entry for the xenstore ring that toolstacks reserve.
    RESERVED_XENSTORE: u32 = 1, "GNTTAB_RESERVED_XENSTORE";
    /// Status of a grant operation: done.
    STATUS_OKAY: i16 = 0, "GNTST_okay";
}

abi! {
    /// An entry of a version 1 table.
    struct EntryV1 = "struct grant_entry_v1", 8 {
        /// `GTF_*`.
        0 flags: u16;
        /// The domain that may use the page.
        2 domid: u16;
        /// The page.
        4 frame: u32;
    }
    /// Argument of `GNTTABOP_query_size`.
    struct QuerySize = "struct gnttab_query_size", 16 {
        /// In: the domain.
        0 dom: u16;
        /// Padding.
        2 pad: u16 = "";
        /// Out: frames it has.
        4 nr_frames: u32;
        /// Out: frames it may have.
        8 max_nr_frames: u32;
        /// Out: `STATUS_*`.
        12 status: i16;
        /// Padding.
        14 tail: u16 = "";
    }
    /// Argument of `GNTTABOP_get_version`.
    struct GetVersion = "struct gnttab_get_version", 8 {
        /// In: the domain.
        0 dom: u16;
        /// Padding.
        2 pad: u16;
        /// Out: 1 or 2.
        4 version: u32;
    }
}
