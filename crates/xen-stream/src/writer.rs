//! [`Writer`], which writes a stream part by part, byte for byte as xl, libxl and libxc do.

use std::io::{self, IoSlice, Write};

use crate::emulator::{self, EmulatorContext, EmulatorXenstore};
use crate::error::{Cause, Part, StreamError};
use crate::fields::{Fields, length_of, padding_bytes, same, within_stream};
use crate::file::FileHeader;
use crate::headers::{ImageHeader, LibxlHeader};
use crate::kinds::{LibxcKind, LibxlKind};
use crate::limits::Limits;
use crate::order::{Order, State, StreamKind};
use crate::pages::{self, PAGES_MAX, Page, PageEntry};
use crate::reader::Event;
use crate::record::{self, Record};

/// Writes a stream. It refuses parts that a [`crate::Reader`] with the same limits would refuse, or would read as other parts.
/// It runs the reader's parser over each part before it writes it. No reader checks the contents of pages or QEMU's state.
/// After an error each call returns the same error again, and [`Writer::is_complete`] is false.
///
/// Pages go from the caller's memory to `W` by `write_vectored`, so there is no copy of them. `W` should not be buffered.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    order: Order,
    limits: Limits,
    offset_bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Creates the writer of a stream of this kind.
    pub fn new(to: W, kind: StreamKind, limits: Limits) -> Writer<W> {
        Writer {
            to,
            order: Order::new(kind, limits),
            limits,
            offset_bytes: 0,
        }
    }

    /// Number of bytes that were written.
    pub fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// Whether all of the stream was written, without an error.
    pub fn is_complete(&self) -> bool {
        self.order.state() == State::Ended
    }

    /// The target of the bytes.
    pub fn into_inner(self) -> W {
        self.to
    }

    /// Writes any part of a stream.
    ///
    /// # Errors
    /// The part is not allowed here, or cannot be written.
    pub fn event(&mut self, event: &Event<'_>) -> Result<(), StreamError> {
        match event {
            Event::File(header) => self.file_header(header),
            Event::Libxl(header) => self.libxl_header(header),
            Event::LibxcContext => self.libxc_context(),
            Event::Image(header) => self.image_header(header),
            Event::Record(record) => self.record(record),
            Event::Pages(pages) => self.pages(&pages.iter().collect::<Vec<_>>()),
            Event::EmulatorXenstore(nodes) => self.emulator_xenstore(nodes),
            Event::EmulatorContext(context) => self.emulator_context(context),
            Event::Skipped { part, .. } => self.refuse(*part, Cause::UnknownRecord),
            Event::End => self.end(),
        }
    }

    /// Writes the header of xl's file, with the configuration.
    ///
    /// # Errors
    /// See [`Writer::event`].
    pub fn file_header(&mut self, header: &FileHeader) -> Result<(), StreamError> {
        self.write_part(Part::FileHeader, |writer| {
            writer.order.pass(State::FileHeader, State::LibxlHeader)?;
            let bytes = header.to_bytes()?;
            same(&FileHeader::parse(&bytes, &writer.limits)?, header)?;
            Ok(bytes)
        })
    }

    /// Writes the header of the libxl stream.
    ///
    /// # Errors
    /// See [`Writer::event`].
    pub fn libxl_header(&mut self, header: &LibxlHeader) -> Result<(), StreamError> {
        self.write_part(Part::LibxlHeader, |writer| {
            writer.order.pass(State::LibxlHeader, State::LibxcContext)?;
            Ok(header.to_bytes())
        })
    }

    /// Writes the record after which the libxc stream follows.
    ///
    /// # Errors
    /// See [`Writer::event`].
    pub fn libxc_context(&mut self) -> Result<(), StreamError> {
        self.libxl_record(LibxlKind::LibxcContext, |order| {
            order.pass_libxc_context()?;
            Ok(Vec::new())
        })
    }

    /// Writes the headers of the libxc stream.
    ///
    /// # Errors
    /// See [`Writer::event`].
    pub fn image_header(&mut self, header: &ImageHeader) -> Result<(), StreamError> {
        self.write_part(Part::ImageHeader, |writer| {
            let bytes = header.to_bytes();
            same(&ImageHeader::parse(Fields::of(&bytes).bytes()?)?, header)?;
            writer.order.pass_image_header(header)?;
            Ok(bytes)
        })
    }

    /// Writes a record of the libxc stream that has no pages.
    ///
    /// # Errors
    /// See [`Writer::event`].
    pub fn record(&mut self, record: &Record) -> Result<(), StreamError> {
        let kind = record.kind();
        self.write_part(Part::LibxcRecord { code: kind.code() }, |writer| {
            let body = record.body()?;
            let length_bytes = length_of(&body)?;
            record::check_length(kind, length_bytes, &writer.limits)?;
            same(&Record::parse(kind, body.clone(), &writer.limits)?, record)?;
            writer.order.pass_record(record)?;
            framed(kind.code(), &body)
        })
    }

    /// Writes pages as one record: 1 to [`PAGES_MAX`] pages.
    ///
    /// # Errors
    /// See [`Writer::event`].
    pub fn pages(&mut self, pages: &[Page<'_>]) -> Result<(), StreamError> {
        let code = LibxcKind::PageData.code();
        let written = self.pages_head(pages).and_then(|head| {
            let contents = pages.iter().filter_map(|page| page.contents);
            let contents = contents.map(|contents| IoSlice::new(contents));
            let mut slices: Vec<IoSlice<'_>> = std::iter::once(IoSlice::new(&head))
                .chain(contents)
                .collect();
            self.write(&mut slices)
        });
        written.or_else(|cause| self.refuse(Part::LibxcRecord { code }, cause))
    }

    /// Checks pages. Returns all of their record before the contents.
    fn pages_head(&mut self, pages: &[Page<'_>]) -> Result<Vec<u8>, Cause> {
        if !(1..=PAGES_MAX).contains(&pages.len()) {
            return Err(Cause::Value {
                field: "count",
                value: pages.len() as u64,
            });
        }
        let has_wrong_contents =
            |page: &&Page<'_>| page.kind.has_contents() != page.contents.is_some();
        if let Some(page) = pages.iter().find(has_wrong_contents) {
            return Err(Cause::PageContents { pfn: page.pfn });
        }
        let entries: Vec<PageEntry> = pages
            .iter()
            .map(|page| PageEntry {
                pfn: page.pfn,
                kind: page.kind,
            })
            .collect();
        self.order.libxc()?.pass_pages(&entries)?;
        let (code, count) = (LibxcKind::PageData.code(), pages.len() as u64);
        // At most 4 MiB.
        let length_bytes = pages::record_bytes(&entries) as u32;
        let mut head = [code.to_le_bytes(), length_bytes.to_le_bytes()].concat();
        head.extend(count.to_le_bytes());
        head.extend(
            entries
                .iter()
                .flat_map(|entry| entry.to_u64().to_le_bytes()),
        );
        Ok(head)
    }

    /// Writes nodes in xenstore of an emulator.
    ///
    /// # Errors
    /// See [`Writer::event`].
    pub fn emulator_xenstore(&mut self, nodes: &EmulatorXenstore) -> Result<(), StreamError> {
        let kind = LibxlKind::EmulatorXenstore;
        self.libxl_record(kind, |order| {
            let body = nodes.to_bytes();
            same(&EmulatorXenstore::parse(&body)?, nodes)?;
            order.pass_emulator(kind, nodes.emulator)?;
            Ok(body)
        })
    }

    /// Writes the state of an emulator.
    ///
    /// # Errors
    /// See [`Writer::event`].
    pub fn emulator_context(&mut self, context: &EmulatorContext) -> Result<(), StreamError> {
        let kind = LibxlKind::EmulatorContext;
        self.libxl_record(kind, |order| {
            order.pass_emulator(kind, context.emulator)?;
            Ok(context.to_bytes())
        })
    }

    /// Writes the end of the libxl stream.
    ///
    /// # Errors
    /// See [`Writer::event`].
    pub fn end(&mut self) -> Result<(), StreamError> {
        self.libxl_record(LibxlKind::End, |order| {
            order.pass_libxl_end()?;
            Ok(Vec::new())
        })
    }

    fn libxl_record(
        &mut self,
        kind: LibxlKind,
        body: impl FnOnce(&mut Order) -> Result<Vec<u8>, Cause>,
    ) -> Result<(), StreamError> {
        self.write_part(Part::LibxlRecord { code: kind.code() }, |writer| {
            let body = body(&mut writer.order)?;
            emulator::check_length(kind, length_of(&body)?, &writer.limits)?;
            framed(kind.code(), &body)
        })
    }

    fn write_part(
        &mut self,
        part: Part,
        bytes: impl FnOnce(&mut Writer<W>) -> Result<Vec<u8>, Cause>,
    ) -> Result<(), StreamError> {
        let written = bytes(self).and_then(|bytes| self.write(&mut [IoSlice::new(&bytes)]));
        written.or_else(|cause| self.refuse(part, cause))
    }

    /// Ends the stream with an error.
    fn refuse(&mut self, part: Part, cause: Cause) -> Result<(), StreamError> {
        Err(self.order.fail(StreamError {
            offset_bytes: self.offset_bytes,
            part,
            cause,
        }))
    }

    /// Writes all bytes of the slices.
    fn write(&mut self, mut slices: &mut [IoSlice<'_>]) -> Result<(), Cause> {
        let mut left: usize = slices.iter().map(|slice| slice.len()).sum();
        within_stream(self.offset_bytes, left, &self.limits)?;
        while left > 0 {
            let length = match self.to.write_vectored(slices) {
                Ok(length) if (1..=left).contains(&length) => length,
                Ok(_) => return Err(Cause::Io(io::ErrorKind::WriteZero)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Cause::Io(error.kind())),
            };
            self.offset_bytes = self.offset_bytes.saturating_add(length as u64);
            left -= length;
            IoSlice::advance_slices(&mut slices, length);
        }
        Ok(())
    }
}

/// A record: type, length, body, and zeros that fill it up.
fn framed(code: u32, body: &[u8]) -> Result<Vec<u8>, Cause> {
    let length_bytes = length_of(body)?;
    let mut bytes = [code.to_le_bytes(), length_bytes.to_le_bytes()].concat();
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len() + padding_bytes(length_bytes), 0);
    Ok(bytes)
}
