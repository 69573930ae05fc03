//! libxl's record of a domain, the file `userdata-d.DOMID.UUID.libxl-json`. [`crate::vm::userdata`] reads and writes
//! the file.
//!
//! The record is libxl's `libxl_domain_config` as JSON, without members that have their default. `schema` is the
//! table of its members. `write` builds the record of a domain of Xyl, so that xl can manage it. `read` turns the
//! record of a domain of xl into a configuration of Xyl, for `xyl adopt`.

pub mod read;
mod schema;
pub mod write;

use crate::vm::spec::VmSpec;

/// The input of a record.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The VM that the record describes.
    pub spec: &'a VmSpec,
    /// Paging memory in KiB.
    pub shadow_kib: u64,
    /// Name of the CPU pool, if the configuration sets one.
    pub pool: Option<&'a str>,
}
