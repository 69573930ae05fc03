//! Reads a file of `xl save` in a child process without rights. [`check`] says what it holds, for `xyl check-image`. `start_of` and
//! `stream_of` read it for a restore.
//!
//! The file is hostile input. The child ([`xen_sys::compute_from`], [`xen_sys::filter_from`]) has the open file, and no privcmd, no
//! xenstore, no other files and no rights. What comes from it is untrusted input too: an answer of fixed length, or a stream that
//! the child has written anew and that a reader with the same limits parses once more.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::time::Duration;

use serde_json::Value;
use xen_stream::{
    Config, Event, FileHeader, Guest, Limits, PageKind, Reader, Record, StreamError, StreamKind,
    Summary, Writer,
};
use xen_sys::{ComputeLimits, Filtered, compute_from, filter_from};

/// Limits of the child: room for a record and the set of pages, and an hour for the largest guests.
const LIMITS: ComputeLimits = ComputeLimits {
    memory_max_bytes: 512 << 20,
    output_max_bytes: 0,
    cpu_max_s: 3600,
    wait_limit: Duration::from_secs(3600),
};
/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Contents of a file of `xl save`, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedImage {
    /// The guest's configuration.
    pub config: SavedConfig,
    /// Version of the Xen that saved the guest, major and minor. Major 0 stands for a converted image.
    pub xen: Option<(u64, u64)>,
    /// Version of the libxc stream.
    pub version: Option<u64>,
    /// Whether the image is of a PV guest. Otherwise it is of an HVM or PVH guest.
    pub is_pv: bool,
    /// Number of vCPUs that have registers.
    pub nr_vcpus: u64,
    /// Number of page entries by kind.
    pub entries: PageEntries,
    /// Number of different pages that the guest has, unless they were too many to count.
    pub guest_pages: Option<u64>,
    /// Length of QEMU's state in bytes, if there is one.
    pub qemu_bytes: Option<u64>,
    /// Number of records that were skipped, since a reader need not know them.
    pub skipped_records: u64,
    /// Number of bytes that were read.
    pub length_bytes: u64,
    /// The damage, or the reason why Xyl does not read further.
    pub damage: Option<ImageDamage>,
}

/// A guest's configuration in a saved image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedConfig {
    /// Form of the configuration.
    pub form: ConfigForm,
    /// Name of the guest. Its characters are printable.
    pub name: Option<String>,
    /// Type of the guest: `pv`, `pvh` or `hvm`.
    pub kind: Option<&'static str>,
    /// Largest memory of the guest in KiB.
    pub memory_max_kib: Option<u64>,
    /// Largest number of vCPUs.
    pub vcpus_max: Option<u64>,
}

/// Forms of the configuration in a saved image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfigForm {
    /// There is none.
    #[default]
    None,
    /// JSON in the form of libxl.
    Json,
    /// JSON that cannot be parsed.
    BadJson,
}

/// Number of page entries of each kind. A page that was sent again counts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageEntries {
    /// Pages with data.
    pub data: u64,
    /// Page tables of a PV guest.
    pub tables: u64,
    /// Pages that come without contents.
    pub allocate: u64,
    /// Pages that the guest does not have.
    pub absent: u64,
    /// Pages of broken memory.
    pub broken: u64,
    /// Pages that are to be compared.
    pub verified: u64,
}

/// A place of an image, and the reason why it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDamage {
    /// Offset of the first byte of the damaged part.
    pub offset_bytes: u64,
    /// The part of the image, in printable ASCII.
    pub part: String,
    /// The cause, in printable ASCII.
    pub cause: String,
}

/// Reads an open file from its current position on.
///
/// # Errors
/// No child could be started, or it ran into a limit.
pub fn check(file: &File) -> io::Result<SavedImage> {
    let computed = compute_from(&LIMITS, file, |from, _| {
        let from = BufReader::with_capacity(BUFFER_BYTES, from);
        Answer::of(from).to_bytes()
    })?;
    Ok(Answer::from_bytes(&computed.answer).into_image())
}

// ---- for a restore --------------------------------------------------------------------------------

/// The first parts of an image: what is known of its guest before its memory is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageStart {
    /// The guest's configuration: JSON of libxl, as untrusted text.
    pub config: Vec<u8>,
    /// Whether the image is of a PV guest. Otherwise it is of an HVM or PVH guest.
    pub is_pv: bool,
    /// Whether the guest is a 32-bit PV guest.
    pub is_pv32: bool,
}

/// Reads the first parts of an open file. `None` for a file without JSON.
///
/// # Errors
/// The image is damaged, or no child could be started.
pub(crate) fn start_of(file: &File) -> Result<Option<ImageStart>, ImageError> {
    let mut reader = filtered(file, Limits::default(), has_begun)?;
    let mut config = None;
    let (mut is_pv, mut is_pv32) = (false, false);
    while let Some(event) = reader.next_event()? {
        match &event {
            Event::File(header) if header.config != Config::None => {
                config = Some(header.config.text().to_vec());
            }
            Event::Image(header) => is_pv = header.guest == Guest::Pv,
            Event::Record(Record::PvInfo(info)) => is_pv32 = !info.is_64_bit,
            _ => {}
        }
        if has_begun(&event) {
            break;
        }
    }
    Ok(config.map(|config| ImageStart {
        config,
        is_pv,
        is_pv32,
    }))
}

/// The stream of an open file, from its start on.
///
/// # Errors
/// No child could be started.
pub(crate) fn stream_of(file: &File, limits: Limits) -> io::Result<ImageReader> {
    filtered(file, limits, |_| false)
}

/// A reader of what a child has read of an image.
pub(crate) type ImageReader = Reader<BufReader<Filtered>>;

/// The reasons why an image is not read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The image is damaged, or not one that Xyl reads.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The file cannot be read, or no child could be started.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Whether this is the last part of an image's start: the first record of the libxc stream, which a PV guest's width is in.
fn has_begun(event: &Event<'_>) -> bool {
    matches!(event, Event::Record(_) | Event::Pages(_))
}

fn filtered(
    mut file: &File,
    limits: Limits,
    is_last: fn(&Event<'_>) -> bool,
) -> io::Result<ImageReader> {
    file.rewind()?;
    let stream = filter_from(&LIMITS, file, |from, to| {
        copy(from, to, limits, is_last).is_some()
    })?;
    let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
    Ok(Reader::new(stream, StreamKind::XlFile, limits))
}

/// Reads an image, and writes it anew up to the last part that is wanted. This runs in the child. `None` for an image that is not
/// whole.
fn copy(
    from: &mut dyn Read,
    to: &mut dyn Write,
    limits: Limits,
    is_last: fn(&Event<'_>) -> bool,
) -> Option<()> {
    let from = BufReader::with_capacity(BUFFER_BYTES, from);
    let to = BufWriter::with_capacity(BUFFER_BYTES, Plain(to));
    let mut reader = Reader::new(from, StreamKind::XlFile, limits);
    let mut writer = Writer::new(to, StreamKind::XlFile, limits);
    while let Some(event) = reader.next_event().ok()? {
        if !matches!(event, Event::Skipped { .. }) {
            writer.event(&event).ok()?;
        }
        if is_last(&event) {
            break;
        }
    }
    writer.into_inner().flush().ok()
}

/// Writes with the one call that the child may make.
struct Plain<'w>(&'w mut dyn Write);

impl Write for Plain<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// ---- the answer of a check ------------------------------------------------------------------------

/// Number of numbers in an answer.
const NUMBERS: usize = 24;
const NUMBER_BYTES: usize = 8;
/// Number and length of the texts in an answer. Each begins with the number of its bytes.
const TEXTS: usize = 3;
const TEXT_BYTES: usize = 320;
const ANSWER_BYTES: usize = NUMBERS * NUMBER_BYTES + TEXTS * TEXT_BYTES;

/// The child's answer. A hostile file may control all of its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answer {
    numbers: [u64; NUMBERS],
    /// Name of the guest, damaged part, cause.
    texts: [String; TEXTS],
}

impl Answer {
    /// Reads the file. This runs in the child.
    fn of(from: impl Read) -> Answer {
        let mut reader = Reader::new(from, StreamKind::XlFile, Limits::default());
        let (summary, error) = Summary::read(&mut reader);
        let config = summary.file.as_ref().map(SavedConfig::of);
        Answer::from_image(SavedImage::of(&summary, config.unwrap_or_default(), error))
    }

    fn from_image(image: SavedImage) -> Answer {
        let SavedImage {
            config,
            entries,
            damage,
            ..
        } = image;
        // 0 stands for nothing.
        let option = |number: Option<u64>| number.map_or(0, |number| number.saturating_add(1));
        let (major, minor) = image.xen.unzip();
        let kind = config.kind.and_then(|kind| position(&KINDS, &kind));
        let form = position(&FORMS, &config.form);
        let numbers = [
            option(form),
            option(kind),
            option(config.memory_max_kib),
            option(config.vcpus_max),
            option(major),
            option(minor),
            option(image.version),
            u64::from(image.is_pv),
            image.nr_vcpus,
            entries.data,
            entries.tables,
            entries.allocate,
            entries.absent,
            entries.broken,
            entries.verified,
            option(image.guest_pages),
            option(image.qemu_bytes),
            image.skipped_records,
            image.length_bytes,
            option(damage.as_ref().map(|damage| damage.offset_bytes)),
            u64::from(config.name.is_some()),
            0,
            0,
            0,
        ];
        let (part, cause) = damage
            .map(|damage| (damage.part, damage.cause))
            .unwrap_or_default();
        Answer {
            numbers,
            texts: [config.name.unwrap_or_default(), part, cause],
        }
    }

    fn into_image(self) -> SavedImage {
        let option = |number: u64| number.checked_sub(1);
        let [
            form,
            kind,
            memory,
            vcpus,
            major,
            minor,
            version,
            is_pv,
            rest @ ..,
        ] = self.numbers;
        let [
            nr_vcpus,
            data,
            tables,
            allocate,
            absent,
            broken,
            verified,
            rest @ ..,
        ] = rest;
        let [
            guest_pages,
            qemu_bytes,
            skipped_records,
            length_bytes,
            damage_at,
            has_name,
            ..,
        ] = rest;
        let [name, part, cause] = self.texts;
        SavedImage {
            config: SavedConfig {
                form: option(form)
                    .and_then(|form| at(&FORMS, form))
                    .unwrap_or_default(),
                name: (has_name != 0).then_some(name),
                kind: option(kind).and_then(|kind| at(&KINDS, kind)),
                memory_max_kib: option(memory),
                vcpus_max: option(vcpus),
            },
            xen: option(major).zip(option(minor)),
            version: option(version),
            is_pv: is_pv != 0,
            nr_vcpus,
            entries: PageEntries {
                data,
                tables,
                allocate,
                absent,
                broken,
                verified,
            },
            guest_pages: option(guest_pages),
            qemu_bytes: option(qemu_bytes),
            skipped_records,
            length_bytes,
            damage: option(damage_at).map(|offset_bytes| ImageDamage {
                offset_bytes,
                part,
                cause,
            }),
        }
    }

    fn to_bytes(&self) -> [u8; ANSWER_BYTES] {
        let numbers = self.numbers.iter().flat_map(|number| number.to_le_bytes());
        let texts = self.texts.iter().flat_map(|text| {
            let text = text.as_bytes().get(..text.len().min(TEXT_BYTES));
            let text = text.unwrap_or_default().iter().copied();
            text.chain(std::iter::repeat(0)).take(TEXT_BYTES)
        });
        let mut bytes = [0; ANSWER_BYTES];
        let all = numbers.chain(texts);
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        bytes
    }

    fn from_bytes(bytes: &[u8; ANSWER_BYTES]) -> Answer {
        let (numbers, texts) = bytes.split_at(NUMBERS * NUMBER_BYTES);
        let mut answer = Answer::default();
        let numbers = numbers.as_chunks().0.iter();
        for (to, from) in answer.numbers.iter_mut().zip(numbers) {
            *to = u64::from_le_bytes(*from);
        }
        let texts = texts.as_chunks::<TEXT_BYTES>().0.iter();
        for (to, from) in answer.texts.iter_mut().zip(texts) {
            *to = printable(&String::from_utf8_lossy(from));
        }
        answer
    }
}

/// Types of guests in a configuration.
const KINDS: [&str; 3] = ["pv", "pvh", "hvm"];
/// Forms of configurations.
const FORMS: [ConfigForm; 3] = [ConfigForm::None, ConfigForm::Json, ConfigForm::BadJson];

fn position<T: PartialEq>(all: &[T], one: &T) -> Option<u64> {
    let index = all.iter().position(|other| other == one);
    index.and_then(|index| index.try_into().ok())
}

fn at<T: Copy>(all: &[T], index: u64) -> Option<T> {
    let index = usize::try_from(index).ok()?;
    all.get(index).copied()
}

/// The text up to its first NUL, without control characters.
fn printable(text: &str) -> String {
    let text = text.split('\0').next().unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).collect()
}

impl SavedConfig {
    fn of(header: &FileHeader) -> SavedConfig {
        let form = |form| SavedConfig {
            form,
            ..SavedConfig::default()
        };
        match &header.config {
            Config::None => form(ConfigForm::None),
            Config::Json(_) => match serde_json::from_slice(header.config.text()) {
                Ok(json) => SavedConfig::of_json(&json),
                Err(_) => form(ConfigForm::BadJson),
            },
        }
    }

    fn of_json(json: &Value) -> SavedConfig {
        let number = |path| json.pointer(path).and_then(Value::as_u64);
        let text = |path| json.pointer(path).and_then(Value::as_str);
        let kind = text("/c_info/type").and_then(|kind| position(&KINDS, &kind));
        SavedConfig {
            form: ConfigForm::Json,
            name: text("/c_info/name").map(printable),
            kind: kind.and_then(|kind| at(&KINDS, kind)),
            memory_max_kib: number("/b_info/max_memkb"),
            vcpus_max: number("/b_info/max_vcpus"),
        }
    }
}

impl SavedImage {
    fn of(summary: &Summary, config: SavedConfig, error: Option<StreamError>) -> SavedImage {
        let image = summary.image;
        let numbers = |(major, minor)| (u64::from(major), u64::from(minor));
        SavedImage {
            config,
            xen: image.map(|image| numbers(image.xen)),
            version: image.map(|image| u64::from(image.version)),
            is_pv: image.is_some_and(|image| image.guest == Guest::Pv),
            nr_vcpus: summary.nr_vcpus,
            entries: PageEntries::of(summary),
            guest_pages: summary.guest_pages.get(),
            qemu_bytes: summary.emulator.map(|(_, length_bytes)| length_bytes),
            skipped_records: summary.skipped_records,
            length_bytes: summary.length_bytes,
            damage: error.map(|error| ImageDamage {
                offset_bytes: error.offset_bytes,
                part: error.part.to_string(),
                cause: error.cause.to_string(),
            }),
        }
    }
}

impl PageEntries {
    fn of(summary: &Summary) -> PageEntries {
        let mut entries = PageEntries {
            verified: summary.verified_entries,
            ..PageEntries::default()
        };
        for (kind, number) in &summary.entries {
            *match kind {
                PageKind::Data => &mut entries.data,
                PageKind::Table { .. } => &mut entries.tables,
                PageKind::Allocate => &mut entries.allocate,
                PageKind::Absent => &mut entries.absent,
                PageKind::Broken => &mut entries.broken,
            } += number;
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    use xen_stream::{HvmParam, ImageHeader, LibxlHeader, PAGE_BYTES, Page, Record, Writer};

    const JSON: &str = r#"{"c_info": {"type": "pvh", "name": "web"}, "b_info": {"max_vcpus": 2, "max_memkb": 32768}}"#;

    /// State of a guest with one vCPU: header, vCPU, end.
    fn hvm_context() -> Vec<u8> {
        let record = |code: u16, body: &[u8]| {
            let head = [code.to_le_bytes(), [0; 2]].concat();
            [&head[..], &(body.len() as u32).to_le_bytes(), body].concat()
        };
        let mut header = [0x5438_1286_u32, 1].map(u32::to_le_bytes).concat();
        header.resize(24, 0);
        [record(1, &header), record(2, &[0; 8]), record(0, &[])].concat()
    }

    fn image(json: &str) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), StreamKind::XlFile, Limits::default());
        let header = FileHeader::with_json(json.as_bytes());
        writer.file_header(&header).unwrap();
        let libxl = LibxlHeader {
            is_converted: false,
        };
        writer.libxl_header(&libxl).unwrap();
        writer.libxc_context().unwrap();
        let image = ImageHeader {
            version: 3,
            guest: Guest::Hvm,
            xen: (4, 17),
        };
        writer.image_header(&image).unwrap();
        writer.record(&Record::StaticDataEnd).unwrap();
        let page = |pfn| Page {
            pfn,
            kind: PageKind::Data,
            contents: Some(&[1; PAGE_BYTES]),
        };
        let absent = Page {
            pfn: 9,
            kind: PageKind::Absent,
            contents: None,
        };
        writer.pages(&[page(0), page(1), absent]).unwrap();
        let context = Record::HvmContext(hvm_context());
        writer.record(&context).unwrap();
        let param = HvmParam { index: 1, value: 2 };
        writer.record(&Record::HvmParams(vec![param])).unwrap();
        writer.record(&Record::End).unwrap();
        writer.end().unwrap();
        writer.into_inner()
    }

    fn checked(bytes: &[u8]) -> SavedImage {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        check(&file).unwrap()
    }

    #[test]
    fn an_image_is_read_in_a_child() {
        let bytes = image(JSON);
        let read = checked(&bytes);
        let config = SavedConfig {
            form: ConfigForm::Json,
            name: Some("web".to_owned()),
            kind: Some("pvh"),
            memory_max_kib: Some(32768),
            vcpus_max: Some(2),
        };
        let expected = SavedImage {
            config,
            xen: Some((4, 17)),
            version: Some(3),
            is_pv: false,
            nr_vcpus: 1,
            entries: PageEntries {
                data: 2,
                absent: 1,
                ..PageEntries::default()
            },
            guest_pages: Some(2),
            qemu_bytes: None,
            skipped_records: 0,
            length_bytes: bytes.len() as u64,
            damage: None,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn damage_has_its_place() {
        let bytes = image(JSON);
        let read = checked(&bytes[..bytes.len() - 20]);
        let damage = read.damage.unwrap();
        assert!(damage.offset_bytes > 8192 && !damage.cause.is_empty());
        assert_eq!((read.config.kind, read.entries.data), (Some("pvh"), 2));
        let other = checked(b"not an image, although it is as long as the header of an image");
        assert_eq!((other.damage.unwrap().offset_bytes, other.xen), (0, None));
    }

    #[test]
    fn configurations_are_hostile_input() {
        let config = |json: &str| checked(&image(json)).config;
        assert_eq!(config("{").form, ConfigForm::BadJson);
        let long = format!(r#"{{"c_info": {{"name": "{}"}}}}"#, "é".repeat(1000));
        assert!(config(&long).name.unwrap().len() <= TEXT_BYTES + 3);
        let control = config(r#"{"c_info": {"name": "a\u001b[2Jb\u0000c", "type": "odd"}}"#);
        assert_eq!(
            (control.name.as_deref(), control.kind),
            (Some("a[2Jb"), None)
        );
        assert_eq!(config(&"[".repeat(100_000)).form, ConfigForm::BadJson);
    }

    #[test]
    fn an_answer_is_read_as_hostile_bytes_are() {
        for byte in [0, 1, 0x1b, 0x80, 0xff] {
            let image = Answer::from_bytes(&[byte; ANSWER_BYTES]).into_image();
            let name = image.config.name.unwrap_or_default();
            assert!(!name.contains(char::is_control));
        }
    }
}
