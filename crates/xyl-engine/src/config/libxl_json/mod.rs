//! libxl's record of a domain, the file `userdata-d.DOMID.UUID.libxl-json` ([`crate::vm::userdata`] has the file).
//!
//! The record is libxl's `libxl_domain_config` as JSON, in which what is at its default is left out. `schema` is the table of its
//! members. `write` makes the record of a domain of Xyl, so that xl can manage it. `read` turns the record of a
//! domain of xl into a configuration of Xyl, for `xyl adopt`.

pub mod read;
mod schema;
pub mod write;

use crate::vm::spec::VmSpec;

/// What a record is made from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The VM that the record describes.
    pub spec: &'a VmSpec,
    /// Paging memory in KiB.
    pub shadow_kib: u64,
    /// Its CPU pool's name, where that was asked for.
    pub pool: Option<&'a str>,
}
