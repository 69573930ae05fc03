//! libxl's record of a domain, the file `userdata-d.DOMID.UUID.libxl-json`.
//!
//! `write` makes the record of a domain of Xyl, so that xl can manage it. `read` turns the record of a domain of xl into a
//! configuration of Xyl, for `xyl adopt`.

pub mod read;
pub mod write;
