//! The process of a VM: it watches the domain, acts on its end, and serves requests.
//!
//! `monitor` is its loop, `requests` is what commands ask of it, `restart_backoff` delays restarts
//! of a guest that ends too often, `status` is what `xyl ops` shows, `states` is what
//! `xyl list` shows of each VM, and `adopt` takes over a domain of xl.

pub mod adopt;
pub mod devd;
pub mod monitor;
pub mod requests;
pub mod restart_backoff;
pub mod states;
pub mod status;
