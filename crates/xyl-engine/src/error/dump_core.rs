//! Errors of `operation::dump_core`: the reasons why a core is not written.

use std::path::PathBuf;

use xen_port::DomId;

/// The reasons why a core is not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// Something other than a regular file exists at the path.
    #[error("{path} is no file that could be replaced: name another")]
    NoFile {
        /// Path of the core file.
        path: PathBuf,
    },
    /// The path is not UTF-8, so the journal cannot record it.
    #[error("{path} is no text in UTF-8: name another file")]
    NoText {
        /// Path of the core file.
        path: PathBuf,
    },
    /// The domain has pages without memory. Xen would have to allocate them for the dump.
    #[error(
        "domain {domid}: {pages} of its pages have no memory yet (`memory` is below `maxmem`), and reading them all would take \
         more than is set aside for them, at which Xen crashes the domain: wait until its balloon driver has given them back"
    )]
    OnDemand {
        /// Number of the domain.
        domid: DomId,
        /// Number of pages beyond those that Xen has set aside.
        pages: u64,
    },
    /// The VM has ended too often within an hour.
    #[error(
        "{per_hour} cores of this VM were written within the last hour, and more are not (`[cores] per_hour` of the policy)"
    )]
    TooManyInAnHour {
        /// Number of cores that are written within an hour.
        per_hour: u32,
    },
    /// The folder of the cores has as many files as it may have.
    #[error(
        "{folder} has {kept} files, and gets no more (`[cores] kept` of the policy): remove those that nobody needs", folder = folder.display()
    )]
    TooManyKept {
        /// The folder of the cores.
        folder: PathBuf,
        /// Number of files that it may have.
        kept: u32,
    },
    /// The file system has too little free space.
    #[error(
        "{folder} has {free_mib} MiB free, and the core needs {wanted_mib} MiB, of which {min_free_mib} MiB stay free (`[cores] min_free_mib` of the policy)", folder = folder.display()
    )]
    DiskTooFull {
        /// The folder of the cores.
        folder: PathBuf,
        /// Free space in MiB.
        free_mib: u64,
        /// The core's size and what stays free, in MiB.
        wanted_mib: u64,
        /// Space in MiB that must stay free.
        min_free_mib: u64,
    },
    /// No vCPU of the domain was ever started.
    #[error("domain {domid} has no vCPU that was ever started, so there is nothing to see")]
    NoVcpu {
        /// Number of the domain.
        domid: DomId,
    },
    /// Writing the file failed.
    #[error(
        "the core of domain {domid}, {path}: {written} of {size} bytes were written, then: {source}{remedy}"
    )]
    Write {
        /// Number of the domain.
        domid: DomId,
        /// Path that the complete file would have got.
        path: PathBuf,
        /// Number of bytes that were written.
        written: u64,
        /// Size of the complete file in bytes.
        size: u64,
        /// Error of the system.
        source: std::io::Error,
        /// The remedy, or an empty text.
        remedy: &'static str,
    },
}
