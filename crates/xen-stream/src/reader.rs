//! [`Reader`], which gives the parts of a stream one by one.

use std::io::Read;

use crate::emulator::{self, EmulatorContext, EmulatorXenstore};
use crate::error::{Cause, Part, StreamError};
use crate::fields::{Fields, all_zero, padding_bytes, within};
use crate::file::{FileHead, FileHeader};
use crate::headers::{ImageHeader, LibxlHeader};
use crate::kinds::{LibxcKind, LibxlKind, OPTIONAL};
use crate::limits::Limits;
use crate::order::{Order, State, StreamKind};
use crate::pages::{self, PAGE_BYTES, PageEntry, Pages};
use crate::record::{self, Record};
use crate::source::Source;

/// Largest record of an unknown type. Xen's libraries accept no larger record.
const SKIPPED_MAX_BYTES: u64 = 128 << 20;

/// A part of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The header of xl's file, with the configuration.
    File(FileHeader),
    /// The header of the libxl stream.
    Libxl(LibxlHeader),
    /// A libxc stream follows in the libxl stream.
    LibxcContext,
    /// The headers of the libxc stream.
    Image(ImageHeader),
    /// A record of the libxc stream that has no pages.
    Record(Record),
    /// Pages of the guest.
    Pages(Pages<'a>),
    /// Nodes in xenstore of an emulator.
    EmulatorXenstore(EmulatorXenstore),
    /// State of an emulator.
    EmulatorContext(EmulatorContext),
    /// A record of an unknown type that may be skipped.
    Skipped {
        /// Type of the record.
        part: Part,
        /// Length of its body.
        length_bytes: u32,
    },
    /// The end of the libxl stream.
    End,
}

/// Reads a stream. It reads no byte behind the stream's end, so the sender's next message stays in `R`.
///
/// Its memory is the pages of one record (4 MiB), and one other record of a limited length. Small reads are frequent: `R` should
/// be buffered, unless bytes behind the stream are needed.
#[derive(Debug)]
pub struct Reader<R> {
    source: Source<R>,
    order: Order,
    limits: Limits,
    /// The part that is being read, and the offset of its first byte.
    part: Part,
    part_at_bytes: u64,
    entries: Vec<PageEntry>,
    contents: Vec<u8>,
}

/// A part that was read.
enum Got {
    Event(Event<'static>),
    /// The pages are in the reader's buffers.
    Pages {
        is_verified: bool,
        contents_bytes: usize,
    },
    Nothing,
}

impl<R: Read> Reader<R> {
    /// Creates the reader of a stream of this kind.
    pub fn new(from: R, kind: StreamKind, limits: Limits) -> Reader<R> {
        Reader {
            source: Source::new(from, limits),
            order: Order::new(kind, limits),
            limits,
            part: Part::AfterEnd,
            part_at_bytes: 0,
            entries: Vec::new(),
            contents: Vec::new(),
        }
    }

    /// Number of bytes that were read.
    pub fn offset_bytes(&self) -> u64 {
        self.source.offset_bytes()
    }

    /// The source of the bytes, behind the last one that was read.
    pub fn into_inner(self) -> R {
        self.source.into_inner()
    }

    /// Reads the next part. Returns `None` after the end of the stream. After an error it returns the same error
    /// again.
    ///
    /// # Errors
    /// The stream is damaged, breaks a limit or the order, or cannot be read.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, StreamError> {
        self.part_at_bytes = self.source.offset_bytes();
        match self.read_part() {
            Ok(Got::Event(event)) => Ok(Some(event)),
            Ok(Got::Nothing) => Ok(None),
            Ok(Got::Pages {
                is_verified,
                contents_bytes,
            }) => {
                let contents = self.contents.get(..contents_bytes).unwrap_or_default();
                let pages = Pages::new(&self.entries, contents, is_verified);
                Ok(Some(Event::Pages(pages)))
            }
            Err(cause) => Err(self.order.fail(StreamError {
                offset_bytes: self.part_at_bytes,
                part: self.part,
                cause,
            })),
        }
    }

    fn read_part(&mut self) -> Result<Got, Cause> {
        match self.order.state() {
            State::FileHeader => self.read_file_header(),
            State::LibxlHeader => self.read_libxl_header(),
            State::LibxcContext | State::Emulators => self.read_libxl_record(),
            State::ImageHeader => self.read_image_header(),
            State::Libxc => self.read_libxc_record(),
            State::Ended => Ok(Got::Nothing),
            State::Failed => Err(Cause::Misplaced),
        }
    }

    fn read_file_header(&mut self) -> Result<Got, Cause> {
        self.part = Part::FileHeader;
        let head = FileHead::parse(&self.source.array()?, &self.limits)?;
        self.part = Part::Config;
        let optional = self.source.vec(head.optional_bytes)?;
        let header = head.with_optional(&optional)?;
        self.order.pass(State::FileHeader, State::LibxlHeader)?;
        Ok(Got::Event(Event::File(header)))
    }

    fn read_libxl_header(&mut self) -> Result<Got, Cause> {
        self.part = Part::LibxlHeader;
        let header = LibxlHeader::parse(&self.source.array()?)?;
        self.order.pass(State::LibxlHeader, State::LibxcContext)?;
        Ok(Got::Event(Event::Libxl(header)))
    }

    fn read_image_header(&mut self) -> Result<Got, Cause> {
        self.part = Part::ImageHeader;
        let header = ImageHeader::parse(&self.source.array()?)?;
        self.order.pass_image_header(&header)?;
        Ok(Got::Event(Event::Image(header)))
    }

    /// Reads type and length of a record.
    fn read_record_header(&mut self) -> Result<(u32, u32), Cause> {
        let bytes = self.source.array::<8>()?;
        let mut fields = Fields::of(&bytes);
        Ok((fields.u32()?, fields.u32()?))
    }

    /// Reads the body of a record, and what fills it up.
    fn read_body(&mut self, length_bytes: u32) -> Result<Vec<u8>, Cause> {
        let body = self.source.vec(length_bytes)?;
        self.read_padding(length_bytes)?;
        Ok(body)
    }

    fn read_padding(&mut self, length_bytes: u32) -> Result<(), Cause> {
        let mut padding = [0; 8];
        let padding = padding
            .get_mut(..padding_bytes(length_bytes))
            .unwrap_or_default();
        self.source.fill(padding)?;
        all_zero(padding)
    }

    /// Skips the body of a record whose type is not known.
    fn skip(&mut self, code: u32, length_bytes: u32) -> Result<Got, Cause> {
        if code & OPTIONAL == 0 {
            return Err(Cause::UnknownRecord);
        }
        within(length_bytes, 0, SKIPPED_MAX_BYTES)?;
        self.source.skip(length_bytes)?;
        self.read_padding(length_bytes)?;
        Ok(Got::Event(Event::Skipped {
            part: self.part,
            length_bytes,
        }))
    }

    fn read_libxl_record(&mut self) -> Result<Got, Cause> {
        self.part = Part::LibxlRecordHeader;
        let (code, length_bytes) = self.read_record_header()?;
        self.part = Part::LibxlRecord { code };
        let Some(kind) = LibxlKind::from_code(code) else {
            return self.skip(code, length_bytes);
        };
        self.order.admit_libxl(kind)?;
        emulator::check_length(kind, length_bytes, &self.limits)?;
        let body = self.read_body(length_bytes)?;
        Ok(Got::Event(match kind {
            LibxlKind::EmulatorXenstore => {
                let nodes = EmulatorXenstore::parse(&body)?;
                self.order.pass_emulator(kind, nodes.emulator)?;
                Event::EmulatorXenstore(nodes)
            }
            LibxlKind::EmulatorContext => {
                let context = EmulatorContext::parse(&body)?;
                self.order.pass_emulator(kind, context.emulator)?;
                Event::EmulatorContext(context)
            }
            LibxlKind::LibxcContext => {
                self.order.pass_libxc_context()?;
                Event::LibxcContext
            }
            LibxlKind::End => {
                self.order.pass_libxl_end()?;
                Event::End
            }
            LibxlKind::CheckpointEnd | LibxlKind::CheckpointState => {
                return Err(Cause::Checkpointed);
            }
        }))
    }

    fn read_libxc_record(&mut self) -> Result<Got, Cause> {
        self.part = Part::LibxcRecordHeader;
        let (code, length_bytes) = self.read_record_header()?;
        self.part = Part::LibxcRecord { code };
        let Some(kind) = LibxcKind::from_code(code) else {
            return self.skip(code, length_bytes);
        };
        self.order.libxc()?.admit(kind)?;
        if kind == LibxcKind::PageData {
            return self.read_pages(length_bytes);
        }
        record::check_length(kind, length_bytes, &self.limits)?;
        let record = Record::parse(kind, self.read_body(length_bytes)?, &self.limits)?;
        self.order.pass_record(&record)?;
        Ok(Got::Event(Event::Record(record)))
    }

    fn read_pages(&mut self, length_bytes: u32) -> Result<Got, Cause> {
        let min_bytes = (pages::COUNT_BYTES + pages::ENTRY_BYTES) as u64;
        within(length_bytes, min_bytes, pages::RECORD_MAX_BYTES)?;
        let count = pages::count(length_bytes, &self.source.array()?)?;
        let entries = self.source.vec((count * pages::ENTRY_BYTES) as u32)?;
        self.entries = pages::parse_entries(&entries)?;
        let right_bytes = pages::record_bytes(&self.entries);
        within(length_bytes, right_bytes, right_bytes)?;
        let order = self.order.libxc()?;
        let is_verified = order.is_verified();
        order.pass_pages(&self.entries)?;
        let with_contents = |entry: &&PageEntry| entry.kind.has_contents();
        let contents_bytes = self.entries.iter().filter(with_contents).count() * PAGE_BYTES;
        if self.contents.len() < contents_bytes {
            self.contents.resize(contents_bytes, 0);
        }
        let contents = self.contents.get_mut(..contents_bytes);
        self.source.fill(contents.unwrap_or_default())?;
        Ok(Got::Pages {
            is_verified,
            contents_bytes,
        })
    }
}
