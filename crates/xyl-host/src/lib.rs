//! The host that a program of Xyl works on: this machine, or the simulated one that `XYL_HOST` names.
//!
//! [`Site`] opens Xen, xenstored and the files of domain 0's kernel. The programs `xyl` and `xyld` use it. [`xl_conf`] reads the
//! administrator's defaults for new VMs. Nothing here prints, and nothing starts a host unasked.

mod site;
pub mod xl_conf;

pub use site::{HOST, SIMULATED, Site, SiteError, is_beside_xen, simulated_folder};
