//! Errors of `config::shim`: the reasons why a guest cannot run in the PV shim.

use std::path::PathBuf;

use thiserror::Error;

/// The reasons why a guest cannot run in the PV shim.
#[derive(Debug, Error)]
pub enum ShimError {
    /// The host has no hardware virtualisation. The shim is a PVH guest and needs it.
    #[error(
        "the PV shim needs hardware virtualisation, which this host does not have or has switched off in its firmware: switch it on (VT-x or AMD-V), or give the guest a 64-bit PV kernel and type=\"pv\" without `pvshim`"
    )]
    NoHardwareVirtualisation,
    /// The host has no shim at the known paths.
    #[error(
        "there is no PV shim on this host; looked at {}: install the package of Xen that has `xen-shim`, or name it with `pvshim_path`",
        list_paths(.looked_at)
    )]
    NotFound {
        /// The paths where a shim was expected.
        looked_at: Vec<PathBuf>,
    },
    /// The shim was built without support for 32-bit PV kernels.
    #[error(
        "{kernel} is a 32-bit PV kernel, and the PV shim {shim} was built without 32-bit PV (CONFIG_PV32): name another shim with `pvshim_path`, or use a 64-bit kernel",
        kernel = .kernel.display(),
        shim = .shim.display()
    )]
    WithoutPv32 {
        /// Path of the guest's kernel.
        kernel: PathBuf,
        /// Path of the shim.
        shim: PathBuf,
    },
    /// An option on the shim's command line disables 32-bit PV kernels.
    #[error(
        "{kernel} is a 32-bit PV kernel, and `{word}` on the shim's command line switches those off: take it out of `pvshim_cmdline` or `pvshim_extra`, or of [shim] in the policy",
        kernel = .kernel.display()
    )]
    Pv32SwitchedOff {
        /// Path of the guest's kernel.
        kernel: PathBuf,
        /// The option that disables them.
        word: String,
    },
    /// The kernel is 32-bit without PAE.
    #[error(
        "{kernel} is a 32-bit PV kernel without PAE, which no Xen has run since 2009: use one with PAE",
        kernel = .kernel.display()
    )]
    NoPae {
        /// Path of the guest's kernel.
        kernel: PathBuf,
    },
    /// The guest's command line is longer than the limit.
    #[error("the guest's command line has {len} bytes, and a PV kernel is given {max}: shorten it")]
    CommandLineTooLong {
        /// Length of the command line in bytes.
        len: usize,
        /// Maximum length in bytes.
        max: usize,
    },
}

/// Formats paths on one line, separated by commas.
pub(crate) fn list_paths(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", ")
}
