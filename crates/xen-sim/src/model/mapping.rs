//! Frames of the model, mapped as guest memory.

use std::io;

use xen_port::{DomId, GuestMemory, HvError, Mfn, PAGE_SIZE, Result};

use super::{DIRT, Model};

/// Size of the pieces that `fill_with` requests: small and odd, so that a wrong offset is noticed.
const FILL_PIECE_BYTES: usize = 3333;

/// Frames in a row, as if mapped.
pub(super) struct Mapping {
    pub model: Model,
    pub domid: DomId,
    pub frames: Vec<Mfn>,
}

impl Mapping {
    /// Calls `act` for each part of the range in one frame, with the frame's bytes and the part's offset in the
    /// range.
    fn pieces(
        &self,
        op: &'static str,
        offset: usize,
        len: usize,
        mut act: impl FnMut(&mut [u8], usize),
    ) -> Result<()> {
        let beyond = || HvError::Nonsense {
            op,
            what: format!("{len} bytes at {offset} are beyond the mapping"),
        };
        if offset
            .checked_add(len)
            .is_none_or(|end| end > self.size_bytes())
        {
            return Err(beyond());
        }
        let mut state = self.model.state();
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let frame = self.frames.get(at / PAGE_SIZE).ok_or_else(beyond)?;
            let bytes = state
                .frames
                .entry(frame.0)
                .or_insert_with(|| vec![DIRT; PAGE_SIZE]);
            let start = at % PAGE_SIZE;
            let end = PAGE_SIZE.min(start + (len - done));
            act(bytes.get_mut(start..end).ok_or_else(beyond)?, done);
            done += end - start;
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut state = self.model.state();
        if let Some(count) = state.live_mappings.get_mut(&self.domid.0) {
            *count -= 1;
        }
    }
}

impl GuestMemory for Mapping {
    fn size_bytes(&self) -> usize {
        self.frames.len() * PAGE_SIZE
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.model.called("GuestMemory::write", None, bytes.len())?;
        self.pieces("write", offset, bytes.len(), |piece, done| {
            piece
                .iter_mut()
                .zip(bytes.iter().skip(done))
                .for_each(|(to, from)| *to = *from);
        })
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.model.called("GuestMemory::read", None, bytes.len())?;
        self.pieces("read", offset, bytes.len(), |piece, done| {
            bytes
                .iter_mut()
                .skip(done)
                .zip(piece.iter())
                .for_each(|(to, from)| *to = *from);
        })
    }

    fn zero(&mut self, offset: usize, len: usize) -> Result<()> {
        self.model.called("GuestMemory::zero", None, len)?;
        self.pieces("zero", offset, len, |piece, _| piece.fill(0))
    }

    fn fill_with(
        &mut self,
        offset: usize,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>> {
        self.model.called("GuestMemory::fill_with", None, len)?;
        let mut buffer = vec![DIRT; FILL_PIECE_BYTES];
        for start in (0..len).step_by(FILL_PIECE_BYTES) {
            buffer.resize(FILL_PIECE_BYTES.min(len - start), DIRT);
            if let Err(error) = fill(&mut buffer) {
                return Ok(Err(error));
            }
            self.pieces("fill_with", offset + start, buffer.len(), |piece, done| {
                piece
                    .iter_mut()
                    .zip(buffer.iter().skip(done))
                    .for_each(|(to, from)| *to = *from);
            })?;
        }
        Ok(Ok(()))
    }
}
