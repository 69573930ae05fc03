//! A Xen that runs bare 32-bit PV guests: the source that Debian's package is made from, without Debian's patches, built with
//! CONFIG_PV32, which Debian's package has not. For tests alone: it has none of the suite's security updates either.
//!
//! The hypervisor alone is built (about two minutes); all the rest of the lab's root is Debian's. It is built once and kept
//! beside the roots.

use crate::error::{Error, Result, at};
use crate::process::{remove_tree, run_quietly, step};
use crate::root::{self, Xen};
use crate::setup;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Options of the build that differ from Xen's defaults.
const CONFIG: &str = "CONFIG_PV32=y\nCONFIG_DEBUG=n\n";
/// Suffix of Xen's version, so that it is not mistaken for Debian's.
const VENDOR_VERSION: &str = "XEN_VENDORVERSION=-pv32";
/// Changes when the recipe or the configuration above does.
const RECIPE: u32 = 1;

/// Path of the hypervisor; builds it if needed. The caller holds the lock of the folder.
pub fn ensure(roots: &Path) -> Result<PathBuf> {
    let kept = roots.join(format!("xen-4.17-pv32-{RECIPE}"));
    if kept.exists() {
        return Ok(kept);
    }
    setup::ensure_compilers()?;
    let building = roots.join("building-xen");
    let made = step("build Xen 4.17 with CONFIG_PV32", || {
        remove_tree(&building)?;
        let source = fetch(&building)?;
        compile(&source)?;
        // Whole at once, or not at all.
        let xen = source.join("xen/xen");
        fs::rename(&xen, &kept).map_err(at("rename", &xen))
    });
    remove_tree(&building)?;
    made.map(|()| kept)
}

/// Debian's source of Xen, unpacked, by an apt of its own that knows the suite's sources alone. Apt checks the signatures.
fn fetch(building: &Path) -> Result<PathBuf> {
    let lists = building.join("lists");
    fs::create_dir_all(lists.join("partial")).map_err(at("make", &lists))?;
    let sources = building.join("sources.list");
    let line = root::source_line(Xen::V4_17Pv32)?;
    fs::write(&sources, line).map_err(at("write", &sources))?;
    let option = |name: &str, value: &OsStr| {
        let mut option = std::ffi::OsString::from(format!("-o{name}="));
        option.push(value);
        option
    };
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .current_dir(building)
            .arg(option("Dir::Etc::SourceList", sources.as_os_str()))
            .arg(option("Dir::Etc::SourceParts", OsStr::new("/dev/null")))
            .arg(option("Dir::State::Lists", lists.as_os_str()))
            .arg(option("Dir::Cache", building.as_os_str()))
            .arg(option("APT::Sandbox::User", OsStr::new("root")))
            .arg(option("Acquire::Retries", OsStr::new("3")))
            .args(words);
        run_quietly(&mut command).map(drop)
    };
    apt(&["update"])
        .and_then(|()| apt(&["source", "--download-only", "xen"]))
        .map_err(|error| match error {
            Error::Interrupted => Error::Interrupted,
            error => Error::Unreachable {
                what: "Debian's source of Xen".into(),
                source: Box::new(error),
            },
        })?;
    unpack(building)
}

fn unpack(building: &Path) -> Result<PathBuf> {
    let is_source = |path: &PathBuf| path.to_string_lossy().contains(".orig.tar");
    let archive = paths_in(building)?.into_iter().find(is_source);
    let archive = archive.ok_or_else(|| Error::Missing {
        what: "Debian's source of Xen has no .orig.tar".into(),
        remedy: "report this: the package is built otherwise now".into(),
    })?;
    let tree = building.join("tree");
    fs::create_dir_all(&tree).map_err(at("make", &tree))?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--file"])
        .arg(&archive)
        .arg("-C")
        .arg(&tree);
    run_quietly(&mut tar)?;
    Ok(tree)
}

fn paths_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(at("read", folder))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn compile(source: &Path) -> Result<()> {
    let xen = source.join("xen");
    let config = xen.join(".config");
    fs::write(&config, CONFIG).map_err(at("write", &config))?;
    let make = |words: &[&str]| {
        let mut command = Command::new("make");
        command.current_dir(&xen).arg(VENDOR_VERSION).args(words);
        run_quietly(&mut command).map(drop)
    };
    make(&["olddefconfig"])?;
    let configured = fs::read_to_string(&config).map_err(at("read", &config))?;
    if !configured.lines().any(|line| line == "CONFIG_PV32=y") {
        return Err(Error::Missing {
            what: "this Xen has no CONFIG_PV32".into(),
            remedy: "report this: its configuration is another one now".into(),
        });
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    make(&[&format!("-j{cores}"), "build"])
}
