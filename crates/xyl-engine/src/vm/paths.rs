//! Where a domain's nodes lie in xenstore.

use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xenstore::Path;

use crate::EngineError;

/// A UUID's 16 bytes in the usual form.
pub fn uuid_text(handle: &[u8; 16]) -> String {
    Uuid::from_bytes(*handle).hyphenated().to_string()
}

/// A path below a domain's home in xenstore.
pub(crate) fn home(domid: DomId, relative: &str) -> Result<Path, EngineError> {
    Ok(Path::domain(domid.0)
        .join(relative)
        .map_err(xenstore::Error::from)?)
}

/// Whether a domain has a part of `/vm`. Domain 0, whose UUID is all zeros, has none.
pub(crate) fn has_vm_part(info: &DomainInfo) -> bool {
    info.handle != [0; 16]
}

/// A path below a VM's own part of xenstore.
pub(crate) fn vm_path(info: &DomainInfo, relative: &str) -> Result<Path, EngineError> {
    let text = format!("/vm/{}/{relative}", uuid_text(&info.handle));
    Ok(Path::new(&text).map_err(xenstore::Error::from)?)
}
