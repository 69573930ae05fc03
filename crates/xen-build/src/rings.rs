//! The pages through which a domain talks to xenconsoled and xenstored.
//!
//! Both start all zero. The console's page has had a field `connection` since Xen 4.21: 1 while nobody serves the console,
//! which a xenconsoled of that time sets to 0 when it comes. An older xenconsoled never does, and a guest that heeds the
//! field would wait for ever: so it stays 0 here, "served", which means to every guest what it always meant.

use crate::area::Area;
use crate::error::{Result, Step};
use crate::span::PAGE_BYTES;

/// Makes both pages zero.
pub(crate) fn clear(area: &mut Area, store: u64, console: u64) -> Result<()> {
    area.zero(Step::ClearRings, store * PAGE_BYTES, PAGE_BYTES)?;
    area.zero(Step::ClearRings, console * PAGE_BYTES, PAGE_BYTES)
}
