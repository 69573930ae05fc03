//! Streams that are right: typed parts, golden bytes, and the way back to the same bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use common::{again, emulators, hvm_file, hvm_parts, pv_file, pv_parts, record, xl_file};
use xen_stream::{
    Cause, Config, Emulator, EmulatorContext, EmulatorKind, Event, FileHeader, Guest, ImageHeader,
    LibxlHeader, Limits, PAGE_BYTES, PAGES_MAX, Page, PageKind, Part, PvInfo, Reader, Record,
    StreamKind, Summary, TscInfo, Writer,
};

#[test]
fn a_stream_that_is_read_and_written_has_the_same_bytes() {
    for (bytes, kind) in [
        (pv_file(), StreamKind::XlFile),
        (hvm_file(), StreamKind::XlFile),
        (
            pv_file()[common::file_header(JSON).len()..].to_vec(),
            StreamKind::Libxl,
        ),
        (pv_parts(3).concat(), StreamKind::Libxc),
        (pv_parts(2).concat(), StreamKind::Libxc),
        (hvm_parts(3).concat(), StreamKind::Libxc),
        (hvm_parts(2).concat(), StreamKind::Libxc),
    ] {
        assert_eq!(again(&bytes, kind).unwrap(), bytes);
    }
}

/// The configuration of the streams in `common`.
const JSON: &str = r#"{"c_info": {"type": "pv", "name": "guest"}}"#;

#[test]
fn a_pv_image_has_its_parts_in_order() {
    let bytes = pv_file();
    let mut reader = Reader::new(&bytes[..], StreamKind::XlFile, Limits::default());
    let header = FileHeader::with_json(JSON.as_bytes());
    assert_eq!(header.config.text(), JSON.as_bytes());
    assert_eq!(reader.next_event().unwrap(), Some(Event::File(header)));
    let libxl = LibxlHeader {
        is_converted: false,
    };
    assert_eq!(reader.next_event().unwrap(), Some(Event::Libxl(libxl)));
    assert_eq!(reader.next_event().unwrap(), Some(Event::LibxcContext));
    let image = ImageHeader {
        version: 3,
        guest: Guest::Pv,
        xen: (4, 17),
    };
    assert_eq!(reader.next_event().unwrap(), Some(Event::Image(image)));
    let info = Record::PvInfo(PvInfo { is_64_bit: true });
    assert_eq!(reader.next_event().unwrap(), Some(Event::Record(info)));
    let Some(Event::Record(Record::CpuidPolicy(leaves))) = reader.next_event().unwrap() else {
        panic!("no CPUID policy");
    };
    assert_eq!(
        (leaves.len(), leaves[0].leaf, leaves[0].registers),
        (2, 0, [13, 1, 2, 3])
    );
    let Some(Event::Record(Record::MsrPolicy(msrs))) = reader.next_event().unwrap() else {
        panic!("no MSR policy");
    };
    assert_eq!(
        (msrs.len(), msrs[0].index, msrs[0].value),
        (1, 0xce, 1 << 31)
    );
    let end = Event::Record(Record::StaticDataEnd);
    assert_eq!(reader.next_event().unwrap(), Some(end));
    let Some(Event::Record(Record::P2mFrames(p2m))) = reader.next_event().unwrap() else {
        panic!("no P2M");
    };
    assert_eq!((p2m.last_pfn, p2m.frames), (3, vec![2]));
    let Some(Event::Pages(pages)) = reader.next_event().unwrap() else {
        panic!("no pages");
    };
    let table = PageKind::Table {
        level: 4,
        is_pinned: true,
    };
    let expected = [
        Page {
            pfn: 0,
            kind: PageKind::Data,
            contents: Some(&[0xaa; PAGE_BYTES]),
        },
        Page {
            pfn: 1,
            kind: table,
            contents: Some(&[0xbb; PAGE_BYTES]),
        },
        Page {
            pfn: 2,
            kind: PageKind::Data,
            contents: Some(&[0xcc; PAGE_BYTES]),
        },
        Page {
            pfn: 3,
            kind: PageKind::Absent,
            contents: None,
        },
    ];
    assert_eq!(pages.iter().collect::<Vec<_>>(), expected);
    let tsc = TscInfo {
        mode: 0,
        khz: 2_400_000,
        elapsed_ns: 123_456_789,
        incarnation: 1,
    };
    let tsc = Event::Record(Record::TscInfo(tsc));
    assert_eq!(reader.next_event().unwrap(), Some(tsc));
    let mut rest = 0;
    while reader.next_event().unwrap().is_some() {
        rest += 1;
    }
    // The shared info page, 4 records for each of 2 vCPUs, both ends.
    assert_eq!(rest, 1 + 8 + 2);
    assert_eq!(reader.next_event().unwrap(), None);
}

#[test]
fn what_is_written_has_these_bytes() {
    let mut writer = Writer::new(Vec::new(), StreamKind::XlFile, Limits::default());
    writer.file_header(&FileHeader::with_json(b"{}")).unwrap();
    writer
        .libxl_header(&LibxlHeader {
            is_converted: false,
        })
        .unwrap();
    writer.libxc_context().unwrap();
    let image = ImageHeader {
        version: 3,
        guest: Guest::Hvm,
        xen: (4, 20),
    };
    writer.image_header(&image).unwrap();
    writer.record(&Record::StaticDataEnd).unwrap();
    let page = Page {
        pfn: 0x123,
        kind: PageKind::Data,
        contents: Some(&[0x5a; PAGE_BYTES]),
    };
    let absent = Page {
        pfn: 0x124,
        kind: PageKind::Absent,
        contents: None,
    };
    writer.pages(&[page, absent]).unwrap();
    let written = writer.into_inner();
    let golden = [
        &b"Xen saved domain, xl format\n \0 \r"[..],
        b"\x04\x03\x02\x01\x03\0\0\0\0\0\0\0\x07\0\0\0\x03\0\0\0{}\0",
        b"LibxlFmt\0\0\0\x02\0\0\0\0",
        b"\x01\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xffXENF\0\0\0\x03\0\0\0\0\0\0\0\0",
        b"\x02\0\0\0\x0c\0\0\0\x04\0\0\0\x14\0\0\0",
        b"\x10\0\0\0\0\0\0\0",
        b"\x01\0\0\0\x18\x10\0\0\x02\0\0\0\0\0\0\0",
        b"\x23\x01\0\0\0\0\0\0\x24\x01\0\0\0\0\0\xf0",
        &[0x5a; PAGE_BYTES],
    ];
    assert_eq!(written, golden.concat());
}

#[test]
fn a_record_is_filled_up_with_zeros() {
    let mut writer = writer_behind_libxc();
    let emulator = Emulator {
        kind: EmulatorKind::Qemu,
        index: 0,
    };
    let before = writer.offset_bytes() as usize;
    let context = EmulatorContext {
        emulator,
        state: b"abc".to_vec(),
    };
    writer.emulator_context(&context).unwrap();
    writer.end().unwrap();
    let written = writer.into_inner();
    let golden = b"\x03\0\0\0\x0b\0\0\0\x02\0\0\0\0\0\0\0abc\0\0\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(&written[before..], golden);
}

fn writer_behind_libxc() -> Writer<Vec<u8>> {
    let bytes = hvm_file();
    let mut reader = Reader::new(&bytes[..], StreamKind::XlFile, Limits::default());
    let mut writer = Writer::new(Vec::new(), StreamKind::XlFile, Limits::default());
    while let Some(event) = reader.next_event().unwrap() {
        writer.event(&event).unwrap();
        if event == Event::Record(Record::End) {
            return writer;
        }
    }
    panic!("no end");
}

/// Takes one byte of each request, as a slow pipe does.
struct ByteByByte(Vec<u8>);

impl std::io::Write for ByteByByte {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend(bytes.first());
        Ok(bytes.len().min(1))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Read for ByteByByte {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() || self.0.is_empty() {
            return Ok(0);
        }
        buffer[0] = self.0.remove(0);
        Ok(1)
    }
}

#[test]
fn slow_pipes_change_nothing() {
    let bytes = hvm_file();
    let from = ByteByByte(bytes.clone());
    let mut reader = Reader::new(from, StreamKind::XlFile, Limits::default());
    let to = ByteByByte(Vec::new());
    let mut writer = Writer::new(to, StreamKind::XlFile, Limits::default());
    while let Some(event) = reader.next_event().unwrap() {
        writer.event(&event).unwrap();
    }
    assert_eq!(writer.into_inner().0, bytes);
}

#[test]
fn bytes_behind_the_end_stay_unread() {
    let bytes = [&pv_file()[..], b"next message"].concat();
    let mut reader = Reader::new(&bytes[..], StreamKind::XlFile, Limits::default());
    while reader.next_event().unwrap().is_some() {}
    assert_eq!(reader.into_inner(), b"next message");
}

#[test]
fn unknown_optional_records_are_skipped() {
    let mut libxc = hvm_parts(3);
    libxc.insert(2, record(0x8000_0077, b"odd"));
    let mut others = emulators();
    others.push(record(0x8000_0001, &[1; 5000]));
    let bytes = xl_file(&libxc, &others);
    assert_eq!(again(&bytes, StreamKind::XlFile).unwrap(), hvm_file());
    let mut reader = Reader::new(&bytes[..], StreamKind::XlFile, Limits::default());
    let (summary, error) = Summary::read(&mut reader);
    assert_eq!((summary.skipped_records, error), (2, None));
}

#[test]
fn a_summary_counts() {
    let bytes = hvm_file();
    let mut reader = Reader::new(&bytes[..], StreamKind::XlFile, Limits::default());
    let (summary, error) = Summary::read(&mut reader);
    assert_eq!(error, None);
    assert!(summary.is_whole);
    assert_eq!(summary.length_bytes, bytes.len() as u64);
    assert_eq!(summary.entries[&PageKind::Data], 2);
    assert_eq!(summary.entries[&PageKind::Allocate], 1);
    assert_eq!(summary.guest_pages.get(), Some(3));
    assert_eq!(
        (summary.nr_vcpus, summary.cpuid_leaves, summary.hvm_params),
        (1, 2, 2)
    );
    assert_eq!(summary.emulator, Some((EmulatorKind::Qemu, 13)));
    assert_eq!(summary.emulator_nodes, 2);
    let cut = &bytes[..bytes.len() - 9];
    let mut reader = Reader::new(cut, StreamKind::XlFile, Limits::default());
    let (cut_summary, error) = Summary::read(&mut reader);
    assert!(!cut_summary.is_whole);
    assert_eq!(cut_summary.nr_vcpus, 1);
    let error = error.unwrap();
    let stream_bytes = cut.len() as u64;
    assert_eq!(error.cause, Cause::Truncated { stream_bytes });
    assert_eq!(error.part, Part::LibxlRecord { code: 3 });
}

#[test]
fn pages_after_a_verify_record_are_not_counted_twice() {
    let mut parts = hvm_parts(3);
    let at = parts.len() - 4;
    parts.insert(at, record(0xd, &[]));
    parts.insert(at + 1, common::pages(&[0], &[0x11]));
    let bytes = parts.concat();
    assert_eq!(again(&bytes, StreamKind::Libxc).unwrap(), bytes);
    let mut reader = Reader::new(&bytes[..], StreamKind::Libxc, Limits::default());
    let (summary, error) = Summary::read(&mut reader);
    assert_eq!(error, None);
    assert_eq!(
        (summary.verified_entries, summary.guest_pages.get()),
        (1, Some(3))
    );
}

#[test]
fn a_record_has_at_most_1024_pages() {
    let entries: Vec<u64> = (0..PAGES_MAX as u64).collect();
    let fills = vec![0; PAGES_MAX];
    let mut parts = hvm_parts(3);
    parts[4] = common::pages(&entries, &fills);
    assert_eq!(
        again(&parts.concat(), StreamKind::Libxc).unwrap(),
        parts.concat()
    );
    let more: Vec<u64> = (0..=PAGES_MAX as u64).map(|pfn| 0xe << 60 | pfn).collect();
    parts[4] = common::pages(&more, &[]);
    let count = Cause::Value {
        field: "count",
        value: 1025,
    };
    assert_eq!(common::cause(&parts.concat(), StreamKind::Libxc), count);
}

#[test]
fn a_file_may_have_no_configuration() {
    let mut bytes = pv_file();
    let rest = bytes.split_off(common::file_header(JSON).len());
    let mut none = common::file_header("");
    // Its length 0 alone is there, and the flag of JSON is not.
    none.truncate(52);
    none[36] = 2;
    none[44..52].copy_from_slice(&common::words(&[4, 0]));
    let bytes = [none, rest].concat();
    let mut reader = Reader::new(&bytes[..], StreamKind::XlFile, Limits::default());
    let Some(Event::File(header)) = reader.next_event().unwrap() else {
        panic!("no header");
    };
    assert_eq!(header.config, Config::None);
    assert_eq!(again(&bytes, StreamKind::XlFile).unwrap(), bytes);
}
