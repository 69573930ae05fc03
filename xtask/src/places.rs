//! Paths of the project's files and folders.

use crate::error::{Error, Result, at};
use std::path::{Path, PathBuf};

/// The top folder of the clone.
pub fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// The lab's scripts: what a boot takes in as /xyl-lab/lab.
pub fn lab() -> PathBuf {
    workspace().join("lab")
}

/// Cargo's target folder: this program itself lies in TARGET/debug or TARGET/release.
pub fn target() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(at("find", "xtask's own path"))?;
    own.parent()
        .and_then(Path::parent)
        .map(Path::to_owned)
        .ok_or_else(|| Error::Usage(format!("{} is in no target folder", own.display())))
}

/// Folder of the roots between runs: $XYL_LAB_CACHE, else $XDG_CACHE_HOME/xyl-lab, else ~/.cache/xyl-lab.
pub fn cache() -> Result<PathBuf> {
    let from_env = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(dir) = from_env("XYL_LAB_CACHE") {
        return Ok(dir.into());
    }
    if let Some(dir) = from_env("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(dir).join("xyl-lab"));
    }
    match from_env("HOME") {
        Some(home) => Ok(PathBuf::from(home).join(".cache/xyl-lab")),
        None => Err(Error::Missing {
            what: "no place for the lab's roots: HOME is not set".into(),
            remedy: "set XYL_LAB_CACHE to a folder with 2 GB of space".into(),
        }),
    }
}

/// Folder of the boots' temporary folders.
pub fn runs() -> Result<PathBuf> {
    Ok(cache()?.join("runs"))
}

/// Folder of the Xens that are built here.
pub fn xens() -> Result<PathBuf> {
    Ok(cache()?.join("xens"))
}

/// Folder of the roots.
pub fn roots() -> Result<PathBuf> {
    Ok(cache()?.join("roots"))
}
