//! Why a PV guest cannot run in the PV shim.
//!
//! `config::shim` makes these errors.

use std::path::PathBuf;

use thiserror::Error;

/// Why a guest cannot run in the shim.
#[derive(Debug, Error)]
pub enum ShimError {
    /// The shim is a PVH guest.
    #[error(
        "the PV shim needs hardware virtualisation, which this host does not have or has switched off in its firmware: switch it on (VT-x or AMD-V), or give the guest a 64-bit PV kernel and type=\"pv\" without `pvshim`"
    )]
    NoHardwareVirtualisation,
    /// No shim was found.
    #[error(
        "there is no PV shim on this host; looked at {}: install the package of Xen that has `xen-shim`, or name it with `pvshim_path`",
        list_paths(.looked_at)
    )]
    NotFound {
        /// Where it was looked for.
        looked_at: Vec<PathBuf>,
    },
    /// The shim cannot run 32-bit PV kernels.
    #[error(
        "{kernel} is a 32-bit PV kernel, and the PV shim {shim} was built without 32-bit PV (CONFIG_PV32): name another shim with `pvshim_path`, or use a 64-bit kernel",
        kernel = .kernel.display(),
        shim = .shim.display()
    )]
    WithoutPv32 {
        /// The guest's kernel.
        kernel: PathBuf,
        /// Path of the shim.
        shim: PathBuf,
    },
    /// The shim's command line switches 32-bit PV off.
    #[error(
        "{kernel} is a 32-bit PV kernel, and `{word}` on the shim's command line switches those off: take it out of `pvshim_cmdline` or `pvshim_extra`, or of [shim] in the policy",
        kernel = .kernel.display()
    )]
    Pv32SwitchedOff {
        /// The guest's kernel.
        kernel: PathBuf,
        /// The option that switches it off.
        word: String,
    },
    /// A kernel with page tables of two levels.
    #[error(
        "{kernel} is a 32-bit PV kernel without PAE, which no Xen has run since 2009: use one with PAE",
        kernel = .kernel.display()
    )]
    NoPae {
        /// The guest's kernel.
        kernel: PathBuf,
    },
    /// The guest's command line is longer than what it can be given.
    #[error("the guest's command line has {len} bytes, and a PV kernel is given {max}: shorten it")]
    CommandLineTooLong {
        /// Its length in bytes.
        len: usize,
        /// The largest length in bytes.
        max: usize,
    },
}

/// Paths in one line, with commas between them.
pub(crate) fn list_paths(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", ")
}
