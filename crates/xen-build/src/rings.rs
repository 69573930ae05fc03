//! The pages that a domain shares with xenconsoled and xenstored.
//!
//! Both start as zeros. Since Xen 4.21 the console's page has a field `connection`: 1 until xenconsoled connects and
//! sets it to 0. An older xenconsoled never sets it, and a guest that obeys the field would wait for ever. So it is 0
//! here, which every guest takes as connected.

use crate::area::Area;
use crate::error::{Result, Step};
use crate::span::PAGE_BYTES;

/// Makes both pages zero.
pub(crate) fn clear(area: &mut Area, store: u64, console: u64) -> Result<()> {
    area.zero(Step::ClearRings, store * PAGE_BYTES, PAGE_BYTES)?;
    area.zero(Step::ClearRings, console * PAGE_BYTES, PAGE_BYTES)
}
