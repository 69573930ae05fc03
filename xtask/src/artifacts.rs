//! Builds what the lab's boots take in: the release programs and the test guest.

use crate::error::Result;
use crate::places;
use crate::process::{run, step};
use std::path::PathBuf;
use std::process::Command;

/// The target that the programs are built for, by its own name even where it is the host's: only so
/// do the flags below stay away from build scripts and macros, which they would break.
pub const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Linked statically, at a fixed address. For programs that run for milliseconds, loading libraries and relocating
/// would take longer than their work.
const FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static --cfg getrandom_backend=\"linux_getrandom\"";

/// Compiler options of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As they are installed and measured: the slowest to build.
    Release,
    /// For the lab's tests: the same code without optimisation across crates.
    Lab,
}

impl Profile {
    /// Cargo's name of it, and of its folder.
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Lab => "lab",
        }
    }

    /// Folder of its programs.
    pub fn folder(self) -> Result<PathBuf> {
        Ok(places::target()?.join(TRIPLE).join(self.name()))
    }
}

/// Builds the programs and examples of the workspace, and the test guest.
pub fn build(profile: Profile) -> Result<()> {
    step("build the programs", || {
        run(cargo()
            .args([
                "build",
                "--quiet",
                "--profile",
                profile.name(),
                "--target",
                TRIPLE,
                "--workspace",
                "--exclude",
                "xtask",
                "--bins",
                "--examples",
            ])
            .env("RUSTFLAGS", FLAGS))
    })?;
    build_guest()
}

/// Builds the test guest, a workspace of its own.
pub fn build_guest() -> Result<()> {
    step("build the test guest", || {
        run(cargo()
            .args(["build", "--quiet", "--release", "--manifest-path"])
            .arg(guest_manifest()))
    })
}

/// The test guest's own workspace.
pub fn guest_manifest() -> PathBuf {
    places::workspace().join("guest/Cargo.toml")
}

/// Cargo, in the clone's top folder.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(places::workspace());
    command
}
