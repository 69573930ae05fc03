//! The part of a domain's memory that the builder fills, as one foreign mapping.
//!
//! A mapping is the most expensive part of a build after populating. Each one is a system call, and each page costs a
//! page-table update, which is a hypercall in a PV dom0. So there is one mapping, with only the pages that are
//! written.

use std::fs::File;

use xen_port::{DomId, Gfn, GuestMemory, HvError, Hypervisor};

use crate::error::{BuildError, During, Result, Step};
use crate::span::PageSpan;

/// Pages of a domain, mapped. Addresses are the domain's own (PV: pseudo-physical), in bytes.
pub(crate) struct Area {
    domid: DomId,
    memory: Box<dyn GuestMemory>,
    parts: Vec<Part>,
}

/// A span with its offset in the mapping.
#[derive(Clone, Copy)]
struct Part {
    span: PageSpan,
    offset: u64,
}

impl Area {
    /// Maps the pages of `spans`, which do not overlap. `gfn_of` returns the hypervisor's number of a page.
    pub(crate) fn map(
        hv: &dyn Hypervisor,
        domid: DomId,
        spans: &[PageSpan],
        gfn_of: impl Fn(u64) -> Gfn,
    ) -> Result<Area> {
        let spans = joined(spans);
        let frames: Vec<Gfn> = spans
            .iter()
            .flat_map(|span| span.pages())
            .map(gfn_of)
            .collect();
        let memory = hv.map_foreign(domid, &frames).during(domid, Step::Map)?;
        let parts = spans
            .iter()
            .scan(0, |offset, span| {
                let part = Part {
                    span: *span,
                    offset: *offset,
                };
                *offset += span.size_bytes();
                Some(part)
            })
            .collect();
        Ok(Area {
            domid,
            memory,
            parts,
        })
    }

    /// The mapping, for a caller that keeps it.
    pub(crate) fn into_memory(self) -> Box<dyn GuestMemory> {
        self.memory
    }

    /// Copies `bytes` to `address`.
    pub(crate) fn write(&mut self, step: Step, address: u64, bytes: &[u8]) -> Result<()> {
        let offset = self.offset(step, address, bytes.len())?;
        self.memory.write(offset, bytes).during(self.domid, step)
    }

    /// Writes pages that start with `bytes` and are zero otherwise.
    pub(crate) fn write_pages(&mut self, step: Step, span: PageSpan, bytes: &[u8]) -> Result<()> {
        self.write(step, span.address(), bytes)?;
        let len = bytes.len() as u64;
        let rest = span.size_bytes().saturating_sub(len);
        self.zero(step, span.address() + len, rest)
    }

    /// Makes `len` bytes at `address` zero.
    pub(crate) fn zero(&mut self, step: Step, address: u64, len: u64) -> Result<()> {
        let len = self.len(step, len)?;
        let offset = self.offset(step, address, len)?;
        self.memory.zero(offset, len).during(self.domid, step)
    }

    /// Has `len` bytes of `file`, from `file_offset` on, read straight into the memory at `address`. The inner error is
    /// that of reading.
    pub(crate) fn read_file(
        &mut self,
        step: Step,
        address: u64,
        len: u64,
        (file, file_offset): (&File, u64),
    ) -> Result<std::io::Result<()>> {
        let len = self.len(step, len)?;
        let offset = self.offset(step, address, len)?;
        self.memory
            .fill_from_file(offset, len, file, file_offset)
            .during(self.domid, step)
    }

    /// Offset of `len` bytes at `address` in the mapping. They must be in one of its parts.
    fn offset(&self, step: Step, address: u64, len: usize) -> Result<usize> {
        let inside = |part: &&Part| {
            let from_start = address.checked_sub(part.span.address());
            from_start.is_some_and(|start| {
                start
                    .checked_add(len as u64)
                    .is_some_and(|end| end <= part.span.size_bytes())
            })
        };
        let part = self.parts.iter().find(inside);
        let offset = part.map(|part| part.offset + (address - part.span.address()));
        offset
            .and_then(|offset| usize::try_from(offset).ok())
            .ok_or_else(|| {
                self.nonsense(
                    step,
                    format!("{len} bytes at {address:#x} are not in the mapping"),
                )
            })
    }

    fn len(&self, step: Step, len: u64) -> Result<usize> {
        usize::try_from(len)
            .map_err(|_| self.nonsense(step, format!("{len} bytes are too many to map")))
    }

    fn nonsense(&self, step: Step, what: String) -> BuildError {
        let source = HvError::Nonsense {
            op: "GuestMemory",
            what,
        };
        BuildError::Hypervisor {
            domid: self.domid,
            step,
            source,
        }
    }
}

/// The same pages in ascending order, with adjacent spans joined.
fn joined(spans: &[PageSpan]) -> Vec<PageSpan> {
    let mut sorted: Vec<PageSpan> = spans
        .iter()
        .copied()
        .filter(|span| !span.is_empty())
        .collect();
    sorted.sort();
    let mut joined: Vec<PageSpan> = Vec::new();
    for span in sorted {
        match joined.last_mut() {
            Some(last) if last.end() == span.first => last.count += span.count,
            _ => joined.push(span),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_and_empty_spans_left_out() {
        let spans = [
            PageSpan::new(8, 2),
            PageSpan::new(0, 0),
            PageSpan::new(4, 4),
            PageSpan::new(20, 1),
        ];
        assert_eq!(joined(&spans), [PageSpan::new(4, 6), PageSpan::new(20, 1)]);
    }
}
