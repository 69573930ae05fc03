//! The first two entries of a domain's grant table: its console's and xenstore's rings.
//!
//! With them, xenconsoled and xenstored map the rings by grant, and need no right to map the domain's memory. The numbers
//! are `GNTTAB_RESERVED_*` and the layout that of `grant_entry_v1` in `xen/include/public/grant_table.h`.

use xen_port::{DomId, Gfn, Hypervisor};

use crate::bytes::Writer;
use crate::error::{BuildError, During, Result, Step};
use crate::request::BuildRequest;

/// Flag of a grant entry: `GTF_permit_access`.
const PERMIT_ACCESS: u16 = 1;

/// Writes entry 0 (`GNTTAB_RESERVED_CONSOLE`) and entry 1 (`GNTTAB_RESERVED_XENSTORE`).
pub(crate) fn seed(
    hv: &dyn Hypervisor,
    request: &BuildRequest<'_>,
    console: Gfn,
    store: Gfn,
) -> Result<()> {
    let console = (request.console.backend, console);
    seed_grants(hv, request.domid, console, (request.store.backend, store))
}

/// Writes the grant entries of a domain's rings again, as a build does. A domain with grant tables version 1 may have
/// overwritten its own. Each ring is given as its server's domid and its page.
pub fn seed_grants(
    hv: &dyn Hypervisor,
    domid: DomId,
    console: (DomId, Gfn),
    store: (DomId, Gfn),
) -> Result<()> {
    let entries = entry(Writer::new(), domid, console.0, console.1)?;
    let entries = entry(entries, domid, store.0, store.1)?;
    let mut table = hv
        .map_grant_frames(domid, 1)
        .during(domid, Step::SeedGrants)?;
    table
        .write(0, &entries.finish())
        .during(domid, Step::SeedGrants)
}

/// One entry of the grant table. It is empty if the domain would grant to itself, as a xenstore domain would.
fn entry(entries: Writer, domid: DomId, backend: DomId, gfn: Gfn) -> Result<Writer> {
    if backend == domid {
        return Ok(entries.zeros(8));
    }
    let frame = u32::try_from(gfn.0).map_err(|_| BuildError::FrameTooHigh {
        domid,
        step: Step::SeedGrants,
        frame: gfn.0,
    })?;
    Ok(entries.u16(PERMIT_ACCESS).u16(backend.0).u32(frame))
}
