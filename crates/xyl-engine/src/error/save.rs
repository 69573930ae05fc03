//! Errors of `operation::save`: the reasons why a guest is not saved.

use std::path::PathBuf;

use xen_port::DomId;

/// The reasons why a guest is not saved. It runs on as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// Something other than a regular file exists at the path.
    #[error("{path} is no file that could be replaced: name another", path = path.display())]
    NoFile {
        /// Path of the file.
        path: PathBuf,
    },
    /// The path is not UTF-8, so the journal cannot record it.
    #[error("{path} is no text in UTF-8: name another file", path = path.display())]
    NoText {
        /// Path of the file.
        path: PathBuf,
    },
    /// The configuration for the file is not JSON.
    #[error("the configuration for {path} is no JSON of libxl: {why}", path = path.display())]
    BadConfig {
        /// Path of the file.
        path: PathBuf,
        /// Error of the parser.
        why: String,
    },
    /// Xyl neither writes nor reads the state of these.
    #[error("domain {domid} is a 32-bit PV guest, whose state Xyl does not save: use `xl save`")]
    Pv32 {
        /// Number of the domain.
        domid: DomId,
    },
    /// The domain has devices of the host, whose state is not in its memory.
    #[error(
        "domain {domid} has PCI devices, whose state cannot be saved: detach them first (`xyl pci-detach {domid}`)"
    )]
    PassedThrough {
        /// Number of the domain.
        domid: DomId,
    },
    /// Its state could not be read or written.
    #[error("domain {domid}, {path}: {source}", path = path.display())]
    State {
        /// Number of the domain.
        domid: DomId,
        /// Path that the complete file would have got.
        path: PathBuf,
        /// Error of the part that reads and writes its state.
        source: Box<xen_build::SaveError>,
    },
    /// Writing the file failed.
    #[error(
        "domain {domid} is not saved to {path}: {written} bytes were written, then: {source}{remedy}", path = path.display()
    )]
    Write {
        /// Number of the domain.
        domid: DomId,
        /// Path that the complete file would have got.
        path: PathBuf,
        /// Number of bytes that were written.
        written: u64,
        /// Error of the system.
        source: std::io::Error,
        /// The remedy, or an empty text.
        remedy: &'static str,
    },
}
