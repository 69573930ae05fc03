//! Paths of a domain's nodes in xenstore, and of files of a configuration.

use std::path::PathBuf;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xenstore::Path;

use crate::EngineError;

/// Formats a UUID's 16 bytes with hyphens.
pub fn uuid_text(handle: &[u8; 16]) -> String {
    Uuid::from_bytes(*handle).hyphenated().to_string()
}

/// Path of a xenstore node that the toolstack made.
pub(crate) fn node(text: &str) -> Result<Path, EngineError> {
    Ok(Path::new(text).map_err(xenstore::Error::from)?)
}

/// A path below a domain's home (`/local/domain/D`).
pub(crate) fn home(domid: DomId, relative: &str) -> Result<Path, EngineError> {
    Ok(Path::domain(domid.0)
        .join(relative)
        .map_err(xenstore::Error::from)?)
}

/// Whether a domain has a folder below `/vm`. Domain 0, whose UUID is all zeros, has none.
pub(crate) fn has_vm_part(info: &DomainInfo) -> bool {
    info.handle != [0; 16]
}

/// A path below the VM's folder (`/vm/UUID`).
pub(crate) fn vm_path(info: &DomainInfo, relative: &str) -> Result<Path, EngineError> {
    let text = format!("/vm/{}/{relative}", uuid_text(&info.handle));
    Ok(Path::new(&text).map_err(xenstore::Error::from)?)
}

/// Makes a path absolute, so that a restart does not depend on the working directory.
pub(crate) fn whole_path(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path))
}
