//! Errors of `config::boot_loader`: the reasons why a boot loader finds no kernel on a guest's disk.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::list_paths;

/// The reasons why a boot loader of domain 0 finds no kernel on a guest's disk.
#[derive(Debug, Error)]
pub enum BootLoaderError {
    /// The host has no program of this name.
    #[error(
        "bootloader=\"{program}\": this host has none of {}: Debian's packages xen-utils-4.17 and the like have pygrub. Better, let GRUB run in the guest (docs/boot-from-disk.md)",
        list_paths(.looked_at)
    )]
    NotFound {
        /// The value of `bootloader`.
        program: String,
        /// The paths where it was looked for.
        looked_at: Vec<PathBuf>,
    },
    /// The program is not there, or a user other than root can change it.
    #[error("the boot loader {path} is not run: {source}", path = path.display())]
    Untrusted {
        /// Path of the program.
        path: PathBuf,
        /// The reason and the remedy.
        source: io::Error,
    },
    /// The process has given up the right to run boot loaders.
    #[error(
        "this monitor has no process that runs boot loaders, since its VM had none when it began, or that process has ended. It ends; the VM's next monitor has one: `xyl recover` starts it"
    )]
    NoRight,
    /// The program could not be started, or confined.
    #[error("the boot loader {program} cannot be run on {disk}: {source}", program = program.display(), disk = disk.display())]
    NotRun {
        /// Path of the program.
        program: PathBuf,
        /// Path of the disk.
        disk: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The program has failed.
    #[error(
        "the boot loader {program} finds no kernel on {disk}: it {why}. It reads the guest's disk in domain 0; GRUB in the guest reads more kinds of disks (docs/boot-from-disk.md)",
        program = program.display(),
        disk = disk.display()
    )]
    Failed {
        /// Path of the program.
        program: PathBuf,
        /// Path of the disk.
        disk: PathBuf,
        /// Its end, and what it has said.
        why: String,
    },
    /// The program has ended well, and its answer cannot be used.
    #[error(
        "the boot loader {program} has given an answer about {disk} that cannot be used: {what}",
        program = program.display(),
        disk = disk.display()
    )]
    Answer {
        /// Path of the program.
        program: PathBuf,
        /// Path of the disk.
        disk: PathBuf,
        /// The fault of the answer, in words.
        what: String,
    },
}

impl BootLoaderError {
    /// Whether the host is the cause, and not the VM.
    pub(super) fn is_of_the_host(&self) -> bool {
        matches!(
            self,
            BootLoaderError::NoRight | BootLoaderError::NotRun { .. }
        )
    }
}
