//! Why a domain's core is not written.
//!
//! `operation::dump_core` makes these errors.

use std::path::PathBuf;

use xen_port::DomId;

/// Why there is no core.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// What stands at the path is no file.
    #[error("{path} is no file that could be replaced: name another")]
    NoFile {
        /// Path of the core file.
        path: PathBuf,
    },
    /// The path is no text, so no journal can hold it.
    #[error("{path} is no text in UTF-8: name another file")]
    NoText {
        /// Path of the core file.
        path: PathBuf,
    },
    /// The domain has pages that Xen would have to find memory for.
    #[error(
        "domain {domid}: {pages} of its pages have no memory yet (`memory` is below `maxmem`), and reading them all would take \
         more than is set aside for them, at which Xen crashes the domain: wait until its balloon driver has given them back"
    )]
    OnDemand {
        /// Number of the domain.
        domid: DomId,
        /// Pages beyond those that Xen has set aside.
        pages: u64,
    },
    /// None of its vCPUs was ever started.
    #[error("domain {domid} has no vCPU that was ever started, so there is nothing to see")]
    NoVcpu {
        /// Number of the domain.
        domid: DomId,
    },
    /// The file could not be written.
    #[error(
        "the core of domain {domid}, {path}: {written} of {size} bytes were written, then: {source}{remedy}"
    )]
    Write {
        /// Number of the domain.
        domid: DomId,
        /// The file, by the name that it was to get.
        path: PathBuf,
        /// Bytes that had been written.
        written: u64,
        /// Bytes that it was to have.
        size: u64,
        /// What the system said.
        source: std::io::Error,
        /// What to do, where that is known.
        remedy: &'static str,
    },
}
