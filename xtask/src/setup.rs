//! The packages that the lab needs: checks them, and installs missing ones with apt-get.

use crate::error::{Error, Result};
use crate::process::{as_root, is_installed, run_quietly, step};
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// Program, and the Debian package that has it. QEMU is looked at by itself.
const PROGRAMS: [(&str, &str); 8] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("sfdisk", "fdisk"),
    ("setpriv", "util-linux"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("gpgv", "gpgv"),
];

/// Programs for the build of Xen, and their packages.
const COMPILERS: [(&str, &str); 6] = [
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("make", "make"),
    ("bison", "bison"),
    ("flex", "flex"),
    ("python3", "python3"),
];

/// The signing keys of the newest suite whose packages the lab uses.
const NEWEST_SUITE_KEYS: &str = "/usr/share/keyrings/debian-archive-trixie-stable.gpg";

/// The QEMU that is known to emulate Xen well enough. Newer ones lose PVH guests (`lab/README.md`).
const QEMU_VERSION: &str = "7.2";

/// The QEMU to run: $XYL_LAB_QEMU, else the one in PATH.
pub fn qemu() -> OsString {
    std::env::var_os("XYL_LAB_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into())
}

/// Installs what is missing. Does nothing, and needs no root, when all is there.
pub fn ensure() -> Result<()> {
    let packages = missing_packages();
    if !packages.is_empty() {
        install(&packages)?;
    }
    check_qemu()
}

/// Installs what is missing to build a Xen.
pub fn ensure_compilers() -> Result<()> {
    let packages = missing_of(&COMPILERS);
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages)
}

fn missing_of(programs: &[(&str, &str)]) -> Vec<String> {
    programs
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| (*package).to_owned())
        .collect()
}

fn missing_packages() -> Vec<String> {
    let mut packages = missing_of(&PROGRAMS);
    if !Path::new(NEWEST_SUITE_KEYS).exists() {
        packages.push("debian-archive-keyring".into());
    }
    if std::env::var_os("XYL_LAB_QEMU").is_none() && !is_installed("qemu-system-x86_64") {
        // Spelt out, because backports offer a newer one that runs Xen worse.
        for package in ["qemu-system-x86", "qemu-system-common", "qemu-system-data"] {
            packages.push(format!("{package}=1:{QEMU_VERSION}*"));
        }
    }
    packages
}

fn install(packages: &[String]) -> Result<()> {
    if !is_installed("apt-get") {
        return Err(Error::Missing {
            what: format!("missing on this machine: {}", packages.join(", ")),
            remedy: "there is no apt-get here: install them by hand".into(),
        });
    }
    step(&format!("install {}", packages.join(" ")), || {
        run_quietly(apt_get()?.arg("update"))?;
        run_quietly(
            apt_get()?
                .args(["install", "-y", "--no-install-recommends"])
                .args(packages),
        )?;
        Ok(())
    })
}

fn apt_get() -> Result<Command> {
    let mut command = as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    Ok(command)
}

fn check_qemu() -> Result<()> {
    let qemu = qemu();
    let version = run_quietly(Command::new(&qemu).arg("--version"))?;
    let wanted = format!("version {QEMU_VERSION}.");
    if std::env::var_os("XYL_LAB_QEMU").is_some() || version.contains(&wanted) {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!(
            "the lab wants QEMU {QEMU_VERSION}, whose emulation runs Xen and its guests; found: {}",
            version.lines().next().unwrap_or("nothing")
        ),
        remedy: format!(
            "install Debian 12's qemu-system-x86, or set XYL_LAB_QEMU={} to try this one",
            qemu.to_string_lossy()
        ),
    })
}
