//! The file of a saved guest, as the writer of the stream sees it: `std::io::Write` over [`Output`].
//!
//! Small parts are gathered, and pages go to the file as they come. The error of the system is kept, because the stream's error has its
//! kind alone.

use std::io::{self, IoSlice, Write};

use crate::operation::new_file::Output;

/// Bytes that are gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// The file of a saved guest.
pub(super) struct ImageFile {
    output: Output,
    buffer: Vec<u8>,
    /// The error that has ended the writing.
    pub error: Option<io::Error>,
}

impl ImageFile {
    pub fn new(output: Output) -> ImageFile {
        ImageFile {
            output,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            error: None,
        }
    }

    /// The file itself. What was gathered must have been flushed.
    pub fn into_output(self) -> Output {
        self.output
    }

    /// Number of bytes in the file.
    pub fn written(&self) -> u64 {
        self.output.written
    }

    fn write_out(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let added = self.output.add(&self.buffer);
        self.buffer.clear();
        added.map_err(|error| {
            let kind = error.kind();
            self.error = Some(error);
            kind.into()
        })
    }
}

impl Write for ImageFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len().saturating_add(bytes.len()) > BUFFER_BYTES {
            self.write_out()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut length = 0;
        for slice in slices {
            length += self.write(slice)?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()
    }
}
