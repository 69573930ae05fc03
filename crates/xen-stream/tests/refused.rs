//! Streams that are refused: each rule by its cause, then random damage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use common::{
    again, cause, cpuid_policy, emulators, extended, file_header, hvm_context, hvm_file,
    hvm_header, hvm_parts, hvm_record, image_header, libxl_header, longs, pages, pv_file, pv_parts,
    record, tsc_info, vcpu_msrs, words, xl_file,
};
use proptest::prelude::*;
use xen_stream::{
    Cause, Config, Event, FileHeader, Guest, HvmContext, HvmContextError, ImageHeader, Limits,
    Page, PageKind, Part, Reader, Record, StreamKind, Summary, VcpuPart, VcpuState, Writer,
};

/// The cause for which a libxc stream of these parts is refused.
fn libxc(parts: &[Vec<u8>]) -> Cause {
    cause(&parts.concat(), StreamKind::Libxc)
}

/// A PV stream in which one part is another.
fn pv_with(at: usize, part: Vec<u8>) -> Cause {
    let mut parts = pv_parts(3);
    parts[at] = part;
    libxc(&parts)
}

fn hvm_with(at: usize, part: Vec<u8>) -> Cause {
    let mut parts = hvm_parts(3);
    parts[at] = part;
    libxc(&parts)
}

/// A stream without one part.
fn without(mut parts: Vec<Vec<u8>>, at: usize) -> Cause {
    parts.remove(at);
    libxc(&parts)
}

/// A stream in which a part came a second time, at another place.
fn and(mut parts: Vec<Vec<u8>>, at: usize, part: Vec<u8>) -> Cause {
    parts.insert(at, part);
    libxc(&parts)
}

fn changed(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

#[test]
fn file_headers_of_other_formats_are_refused_by_name() {
    let file = |at, value| cause(&changed(pv_file(), at, value), StreamKind::XlFile);
    assert_eq!(file(0, b'x'), Cause::Magic);
    assert_eq!(file(36, 1), Cause::LegacyStream);
    assert_eq!(file(36, 7), Cause::UnknownFlags { flags: 4 });
    let mut foreign = pv_file();
    foreign[32..36].reverse();
    assert_eq!(cause(&foreign, StreamKind::XlFile), Cause::ForeignByteOrder);
    // The configuration's length, and a NUL in it.
    assert!(matches!(file(48, 200), Cause::Length { .. }));
    assert_eq!(file(60, 0), Cause::Nul);
    // The configuration of xl of Xen 4.4, and no length of a configuration.
    assert_eq!(file(36, 2), Cause::NotJson);
    let no_length = Cause::Length {
        length_bytes: 0,
        min_bytes: 4,
        max_bytes: 4 << 20,
    };
    assert_eq!(file(44, 0), no_length);
    let mut huge = pv_file();
    huge[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        cause(&huge, StreamKind::XlFile),
        Cause::Length { .. }
    ));
}

#[test]
fn stream_headers_of_other_formats_are_refused_by_name() {
    let libxl = |at, value| cause(&changed(libxl_header(), at, value), StreamKind::Libxl);
    assert_eq!(libxl(0, b'x'), Cause::Magic);
    assert_eq!(libxl(11, 3), Cause::Version { version: 3 });
    assert_eq!(libxl(15, 1), Cause::BigEndian);
    assert_eq!(libxl(15, 4), Cause::UnknownFlags { flags: 4 });
    let image = |at, value| libxc(&[changed(image_header(3, 1), at, value)]);
    assert_eq!(image(0, 0), Cause::Magic);
    assert_eq!(image(8, b'x'), Cause::Magic);
    assert_eq!(image(15, 4), Cause::Version { version: 4 });
    assert_eq!(image(15, 1), Cause::Version { version: 1 });
    assert_eq!(image(17, 1), Cause::BigEndian);
    assert_eq!(image(17, 2), Cause::UnknownFlags { flags: 2 });
    assert_eq!(image(18, 1), Cause::NotZero);
    assert_eq!(image(24, 3), Cause::GuestType { code: 3 });
    let shift = Cause::Value {
        field: "page_shift",
        value: 13,
    };
    assert_eq!(image(28, 13), shift);
    assert_eq!(image(30, 1), Cause::NotZero);
}

#[test]
fn unknown_and_unsupported_records_are_refused() {
    let hvm = |part| and(hvm_parts(3), 5, part);
    assert_eq!(hvm(record(0x13, &[])), Cause::UnknownRecord);
    assert_eq!(hvm(record(0x0b, b"blob")), Cause::Obsolete);
    assert_eq!(hvm(record(0x0e, &[])), Cause::Checkpointed);
    assert_eq!(hvm(record(0x0f, &[0; 8])), Cause::Checkpointed);
    let layer = |part| {
        let mut parts = emulators();
        parts.push(part);
        cause(&xl_file(&hvm_parts(3), &parts), StreamKind::XlFile)
    };
    assert_eq!(layer(record(6, &[])), Cause::UnknownRecord);
    assert_eq!(layer(record(4, &[])), Cause::Checkpointed);
    assert_eq!(layer(record(1, &[])), Cause::Repeated);
    assert_eq!(layer(emulators()[1].clone()), Cause::Repeated);
    let for_pv = cause(&xl_file(&pv_parts(3), &emulators()), StreamKind::XlFile);
    assert_eq!(for_pv, Cause::NotForGuest { guest: Guest::Pv });
    let mut early = file_header("{}");
    early.extend(libxl_header());
    early.extend(record(0, &[]));
    let needs = "LIBXC_CONTEXT";
    assert_eq!(cause(&early, StreamKind::XlFile), Cause::TooEarly { needs });
}

#[test]
fn the_order_of_records_is_checked() {
    let early = |needs| Cause::TooEarly { needs };
    let late = |before| Cause::TooLate { before };
    // Static data first.
    assert_eq!(without(pv_parts(3), 1), early("X86_PV_INFO"));
    assert_eq!(without(pv_parts(3), 4), early("STATIC_DATA_END"));
    assert_eq!(without(hvm_parts(3), 3), early("STATIC_DATA_END"));
    assert_eq!(and(hvm_parts(3), 3, cpuid_policy()), Cause::Repeated);
    let mut late_policy = hvm_parts(3);
    late_policy.remove(1);
    late_policy.insert(3, cpuid_policy());
    assert_eq!(libxc(&late_policy), late("STATIC_DATA_END"));
    assert_eq!(and(pv_parts(3), 1, pv_parts(3)[1].clone()), Cause::Repeated);
    let version = Cause::NotInVersion { version: 2 };
    assert_eq!(and(hvm_parts(2), 1, cpuid_policy()), version);
    assert_eq!(and(hvm_parts(2), 1, record(0x10, &[])), version);
    // Then the P2M, pages, and state.
    assert_eq!(without(pv_parts(3), 5), early("X86_PV_P2M_FRAMES"));
    assert_eq!(without(pv_parts(3), 6), early("PAGE_DATA"));
    let p2m = pv_parts(3)[5].clone();
    assert_eq!(and(pv_parts(3), 6, p2m.clone()), Cause::Repeated);
    assert_eq!(and(pv_parts(3), 7, p2m), Cause::Repeated);
    let again = pages(&[0], &[1]);
    assert_eq!(and(pv_parts(3), 9, again.clone()), late("SHARED_INFO"));
    assert_eq!(and(hvm_parts(3), 8, again), late("HVM_CONTEXT"));
    assert_eq!(and(hvm_parts(3), 4, record(0xd, &[])), early("PAGE_DATA"));
    assert_eq!(and(hvm_parts(3), 8, tsc_info()), Cause::Repeated);
    let vcpu = pv_parts(3)[9].clone();
    assert_eq!(and(pv_parts(3), 10, vcpu), Cause::Repeated);
    let without_registers = record(4, &words(&[1, 0]));
    assert_eq!(and(pv_parts(3), 10, without_registers), Cause::Repeated);
    // Then the end.
    let missing = |what| Cause::Missing { what };
    assert_eq!(without(pv_parts(3), 8), missing("SHARED_INFO"));
    assert_eq!(
        without(pv_parts(3), 9),
        missing("X86_PV_VCPU_BASIC of vCPU 0")
    );
    let without_registers = pv_with(9, record(4, &words(&[0, 0])));
    assert_eq!(without_registers, missing("X86_PV_VCPU_BASIC of vCPU 0"));
    assert_eq!(without(hvm_parts(3), 7), missing("HVM_CONTEXT"));
    assert_eq!(without(hvm_parts(3), 8), missing("HVM_PARAMS"));
}

#[test]
fn a_guest_has_only_the_records_of_its_type() {
    let for_hvm = Cause::NotForGuest { guest: Guest::Hvm };
    for part in [1, 5, 8, 9, 10, 11, 12] {
        assert_eq!(and(hvm_parts(3), 3, pv_parts(3)[part].clone()), for_hvm);
    }
    let for_pv = Cause::NotForGuest { guest: Guest::Pv };
    for part in [7, 8] {
        assert_eq!(and(pv_parts(3), 8, hvm_parts(3)[part].clone()), for_pv);
    }
}

#[test]
fn lengths_are_checked_before_anything_is_allocated() {
    let huge = |code: u32| [code.to_le_bytes(), 0xffff_fff0_u32.to_le_bytes()].concat();
    for code in [0, 2, 3, 0x10, 0x11, 0x12] {
        assert!(matches!(
            and(pv_parts(3), 1, huge(code)),
            Cause::TooEarly { .. } | Cause::Missing { .. } | Cause::Length { .. }
        ));
    }
    for code in [1, 8] {
        assert!(matches!(
            and(hvm_parts(3), 4, huge(code)),
            Cause::Length { .. }
        ));
    }
    for code in [9, 10] {
        assert!(matches!(
            and(hvm_parts(3), 7, huge(code)),
            Cause::Length { .. }
        ));
    }
    for code in [4, 5, 6, 7, 12] {
        assert!(matches!(
            and(pv_parts(3), 7, huge(code)),
            Cause::Length { .. }
        ));
    }
    let length = |length_bytes, min_bytes, max_bytes| Cause::Length {
        length_bytes,
        min_bytes,
        max_bytes,
    };
    assert_eq!(hvm_with(9, record(0, &[0; 8])), length(8, 0, 0));
    assert_eq!(pv_with(1, record(2, &[8, 4, 0, 0])), length(4, 8, 8));
    assert_eq!(pv_with(8, record(7, &[0; 4095])), length(4095, 4096, 4096));
    assert_eq!(hvm_with(6, record(8, &[0; 16])), length(16, 24, 24));
    let skipped = [0x8000_0001_u32, (128 << 20) + 1]
        .map(u32::to_le_bytes)
        .concat();
    let too_long = length((128 << 20) + 1, 0, 128 << 20);
    assert_eq!(and(hvm_parts(3), 4, skipped), too_long);
    let ragged = Cause::Ragged {
        length_bytes: 25,
        entry_bytes: 24,
    };
    assert_eq!(hvm_with(1, record(0x11, &[0; 25])), ragged);
    let basic = record(4, &[0; 8 + 5000]);
    assert!(matches!(pv_with(9, basic), Cause::Length { .. }));
    let of_32_bits = record(4, &[0; 8 + 2800]);
    let width = Cause::Value {
        field: "length",
        value: 2800,
    };
    assert_eq!(pv_with(9, of_32_bits), width);
    let xsave = record(6, &[0; 8 + 15]);
    assert!(matches!(pv_with(11, xsave), Cause::Length { .. }));
    let msrs = record(12, &[0; 8 + 17]);
    assert!(matches!(pv_with(12, msrs), Cause::Ragged { .. }));
}

#[test]
fn fields_are_checked() {
    let value = |field, value| Cause::Value { field, value };
    let pv_info = record(2, &[8, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(pv_with(1, pv_info), value("guest_width, pt_levels", 0x803));
    assert_eq!(
        pv_with(1, record(2, &[8, 4, 1, 0, 0, 0, 0, 0])),
        Cause::NotZero
    );
    let p2m =
        |first, last, frames: &[u64]| record(3, &[words(&[first, last]), longs(frames)].concat());
    assert_eq!(pv_with(5, p2m(1, 3, &[2])), value("p2m_start_pfn", 1));
    assert!(matches!(
        pv_with(5, p2m(0, 600, &[2])),
        Cause::Length { .. }
    ));
    let range = |pfn, pfn_end| Cause::PageRange { pfn, pfn_end };
    assert_eq!(pv_with(5, p2m(0, 3, &[3 + 1])), range(4, 4));
    let vcpu = record(4, &[words(&[4096, 0]), vec![0; 5168]].concat());
    assert_eq!(pv_with(9, vcpu), value("vcpu_id", 4096));
    let params = record(10, &[words(&[3, 0]), longs(&[1, 2])].concat());
    assert_eq!(hvm_with(8, params), value("count", 3));
    let padding = changed(record(0x8000_0001, b"abc"), 11, 1);
    assert_eq!(and(hvm_parts(3), 5, padding), Cause::NotZero);
    let emulator = |body: &[u8]| {
        let parts = [record(2, &[&words(&[2, 0])[..], body].concat())];
        cause(&xl_file(&hvm_parts(3), &parts), StreamKind::XlFile)
    };
    assert_eq!(emulator(b"key\0value"), Cause::Nul);
    assert_eq!(emulator(b"key\0"), Cause::Nul);
    for path in [
        &b"../x\0v\0"[..],
        b"/abs\0v\0",
        b"a//b\0v\0",
        b"\0v\0",
        b"k\xff\0v\0",
    ] {
        assert_eq!(emulator(path), Cause::NodeName);
    }
    let unknown = [record(3, &words(&[3, 0]))];
    let unknown = cause(&xl_file(&hvm_parts(3), &unknown), StreamKind::XlFile);
    assert_eq!(unknown, value("emulator_id", 3));
}

#[test]
fn further_registers_name_the_vcpu_of_their_record() {
    let with = |state: Vec<u8>| pv_with(10, record(5, &[words(&[0, 0]), state].concat()));
    let field = "vcpu";
    assert_eq!(
        with(extended(1, 120, 128)),
        Cause::Value { field, value: 1 }
    );
    for (size_bytes, real_bytes) in [(129, 128), (121, 120), (7, 128), (0, 128), (8, 7)] {
        let cause = with(extended(0, size_bytes, real_bytes));
        assert!(matches!(cause, Cause::Length { .. }), "{cause}");
    }
}

#[test]
fn entries_that_are_there_twice_are_refused() {
    let duplicate = |field, value| Cause::DuplicateEntry { field, value };
    let params = |indexes: [u64; 2]| {
        let [one, two] = indexes;
        let params = longs(&[one, 1, two, 1]);
        hvm_with(8, record(10, &[words(&[2, 0]), params].concat()))
    };
    assert_eq!(params([5, 5]), duplicate("index", 5));
    let value = 1 << 32 | 5;
    let field = "index";
    assert_eq!(params([5, value]), Cause::Value { field, value });
    let leaves = words(&[7, 1, 0, 0, 0, 0, 7, 1, 1, 1, 1, 1]);
    let leaf = duplicate("leaf, subleaf", 7 << 32 | 1);
    assert_eq!(hvm_with(1, record(0x11, &leaves)), leaf);
    let msrs = longs(&[0xce, 1, 0xce, 1]);
    let msr = duplicate("index", 0xce);
    assert_eq!(hvm_with(2, record(0x12, &msrs)), msr);
    let vcpu_msrs = |numbers| {
        pv_with(
            12,
            record(12, &[words(&[0, 0]), vcpu_msrs(numbers)].concat()),
        )
    };
    assert_eq!(vcpu_msrs(&[0x174, 0x174]), duplicate("index", 0x174));
    assert_eq!(vcpu_msrs(&[1 << 32]), Cause::NotZero);
}

#[test]
fn records_about_qemu_agree() {
    let with = |parts: &[Vec<u8>]| cause(&xl_file(&hvm_parts(3), parts), StreamKind::XlFile);
    let nodes = [&words(&[2, 0])[..], b"a/b\0x\0a/c\0x\0a/b\0y\0"].concat();
    assert_eq!(with(&[record(2, &nodes)]), Cause::DuplicateNode);
    for other in [[2, 1], [0, 0]] {
        let state = record(3, &[&words(&other)[..], b"state"].concat());
        let parts = [emulators()[0].clone(), state];
        assert_eq!(with(&parts), Cause::OtherEmulator);
    }
}

#[test]
fn pages_are_checked() {
    let kind = |pfn, code| Cause::PageType { pfn, code };
    for code in 5..=8 {
        let entry = pages(&[u64::from(code) << 60], &[]);
        assert_eq!(pv_with(6, entry.clone()), kind(0, code));
        assert_eq!(hvm_with(4, entry), kind(0, code));
    }
    // An HVM guest has no page tables that Xen knows of.
    assert_eq!(hvm_with(4, pages(&[1 << 60], &[0])), kind(0, 1));
    assert_eq!(hvm_with(4, pages(&[0xc << 60], &[0])), kind(0, 0xc));
    assert_eq!(hvm_with(4, pages(&[1 << 52], &[0])), Cause::NotZero);
    let range = |pfn, pfn_end| Cause::PageRange { pfn, pfn_end };
    assert_eq!(
        hvm_with(4, pages(&[1 << 32], &[0])),
        range(1 << 32, 1 << 32)
    );
    assert_eq!(pv_with(6, pages(&[4], &[0])), range(4, 4));
    let hole = 0xf << 60;
    assert_eq!(pv_with(6, pages(&[hole | 4], &[])), range(4, 4));
    // A hole of an HVM guest may be anywhere, a page without contents may not.
    let mut holes = hvm_parts(3);
    holes[4] = pages(&[hole | 1 << 32, 0xd << 60 | ((1 << 52) - 1)], &[]);
    assert!(again(&holes.concat(), StreamKind::Libxc).is_ok());
    let allocated = pages(&[0xe << 60 | 1 << 32], &[]);
    assert_eq!(hvm_with(4, allocated), range(1 << 32, 1 << 32));
    let count = |value| Cause::Value {
        field: "count",
        value,
    };
    let none = record(1, &[words(&[0, 0]), longs(&[0])].concat());
    assert_eq!(hvm_with(4, none), count(0));
    let reserved = record(1, &[words(&[1, 1]), longs(&[0xf << 60])].concat());
    assert_eq!(hvm_with(4, reserved), Cause::NotZero);
    // A page too few, and one too many.
    assert!(matches!(
        hvm_with(4, pages(&[0, 1], &[0])),
        Cause::Length { .. }
    ));
    assert!(matches!(
        hvm_with(4, pages(&[0xf << 60], &[0])),
        Cause::Length { .. }
    ));
}

#[test]
fn a_record_has_each_page_once_in_order() {
    let order = |pfn| Cause::PageOrder { pfn };
    let with = |pfns: &[u64]| pages(pfns, &vec![0; pfns.len()]);
    assert_eq!(hvm_with(4, with(&[4, 4])), order(4));
    assert_eq!(hvm_with(4, with(&[4, 5, 3])), order(3));
    // Neither with nor without contents.
    assert_eq!(hvm_with(4, pages(&[4, 0xf << 60 | 4], &[0])), order(4));
    // Xen 0: a converted image.
    let converted = |pfns: &[u64]| {
        let mut parts = hvm_parts(2);
        parts[0][32] = 0;
        parts[1] = with(pfns);
        again(&parts.concat(), StreamKind::Libxc).map(|bytes| bytes == parts.concat())
    };
    assert_eq!(converted(&[4, 5, 3]), Ok(true));
    let (field, value) = ("pfn", 4);
    let cause = converted(&[4, 5, 4]).unwrap_err().cause;
    assert_eq!(cause, Cause::DuplicateEntry { field, value });
}

#[test]
fn a_32_bit_guest_has_three_levels_of_page_tables() {
    let mut parts = pv_parts(3);
    parts[1] = record(2, &[4, 3, 0, 0, 0, 0, 0, 0]);
    let kind = Cause::PageType { pfn: 1, code: 0xc };
    assert_eq!(libxc(&parts), kind);
}

#[test]
fn the_state_of_a_guest_is_walked() {
    let parse = |state: &[u8]| HvmContext::parse(state).map(|context| context.nr_vcpus());
    let good = hvm_context(2);
    assert_eq!(parse(&good), Ok(2));
    let context = HvmContext::parse(&good).unwrap();
    assert_eq!(
        (context.header.cpuid, context.header.tsc_khz),
        (0x6fb, 2_000_000)
    );
    for length in 0..good.len() {
        assert!(parse(&good[..length]).is_err(), "{length}");
    }
    let end = hvm_record(0, 0, &[]);
    let cpu = hvm_record(2, 0, &[0; 8]);
    let state = |parts: &[&[u8]]| parse(&parts.concat());
    let header = hvm_header();
    assert_eq!(state(&[&cpu, &end]), Err(HvmContextError::NoHeader));
    assert_eq!(state(&[&header, &end]), Err(HvmContextError::NoVcpu));
    let second = hvm_record(2, 1, &[0; 8]);
    assert_eq!(
        state(&[&header, &second, &end]),
        Err(HvmContextError::NoVcpu)
    );
    let repeated = |code| Err(HvmContextError::Repeated { code, instance: 0 });
    assert_eq!(state(&[&header, &cpu, &cpu, &end]), repeated(2));
    assert_eq!(state(&[&header, &header, &end]), repeated(1));
    let at_bytes = header.len() + cpu.len();
    let not_last = Err(HvmContextError::End { at_bytes });
    assert_eq!(state(&[&header, &cpu, &end, &[0]]), not_last);
    assert_eq!(state(&[&header, &cpu, &hvm_record(0, 0, &[0])]), not_last);
    assert_eq!(
        state(&[&header, &cpu]),
        Err(HvmContextError::Cut { at_bytes })
    );
    let other = changed(header.clone(), 8, 0);
    assert!(matches!(
        state(&[&other, &cpu, &end]),
        Err(HvmContextError::Format { .. })
    ));
    let damaged = record(9, &[header, cpu].concat());
    assert!(matches!(
        hvm_with(7, damaged),
        Cause::HvmContext(HvmContextError::Cut { .. })
    ));
}

#[test]
fn the_state_of_a_guest_has_no_vcpu_outside_of_the_limit() {
    let with = |code, instance| {
        let state = [
            hvm_header(),
            hvm_record(2, 0, &[0; 8]),
            hvm_record(code, instance, &[0; 8]),
            hvm_record(0, 0, &[]),
        ];
        let mut parts = hvm_parts(3);
        parts[7] = record(9, &state.concat());
        again(&parts.concat(), StreamKind::Libxc).map_err(|error| error.cause)
    };
    for code in [2, 5, 6, 14, 16, 17, 18, 19, 20] {
        assert!(with(code, 4095).is_ok());
        let instance = 4096;
        let outside = HvmContextError::Vcpu { code, instance };
        assert_eq!(with(code, instance), Err(Cause::HvmContext(outside)));
    }
    // A device, and a type of a later Xen.
    assert!(with(4, 4096).is_ok() && with(21, 4096).is_ok());
}

#[test]
fn a_stream_is_not_longer_than_its_limit() {
    let bytes = hvm_file();
    let exact = Limits {
        stream_max_bytes: bytes.len() as u64,
        ..Limits::default()
    };
    let max_bytes = exact.stream_max_bytes - 1;
    let shorter = Limits {
        stream_max_bytes: max_bytes,
        ..exact
    };
    let read = |limits| {
        let mut reader = Reader::new(&bytes[..], StreamKind::XlFile, limits);
        Summary::read(&mut reader).1.map(|error| error.cause)
    };
    assert_eq!(read(exact), None);
    let too_long = Cause::StreamLength { max_bytes };
    assert_eq!(read(shorter), Some(too_long.clone()));
    let mut reader = Reader::new(&bytes[..], StreamKind::XlFile, exact);
    let mut writer = Writer::new(Vec::new(), StreamKind::XlFile, shorter);
    let mut written = Ok(());
    while let Some(event) = reader.next_event().unwrap() {
        written = writer.event(&event);
    }
    assert_eq!(written.unwrap_err().cause, too_long);
    assert!(!writer.is_complete() && writer.offset_bytes() <= max_bytes);
}

#[test]
fn an_error_names_its_place() {
    let mut parts = hvm_parts(3);
    parts[5] = pages(&[1 << 60], &[0]);
    let error = again(&parts.concat(), StreamKind::Libxc).unwrap_err();
    let before: usize = parts[..5].iter().map(Vec::len).sum();
    assert_eq!(error.offset_bytes, before as u64);
    assert_eq!(error.part, Part::LibxcRecord { code: 1 });
    let cut = &pv_file()[..pv_file().len() - 4];
    let error = again(cut, StreamKind::XlFile).unwrap_err();
    let stream_bytes = cut.len() as u64;
    assert_eq!(error.cause, Cause::Truncated { stream_bytes });
    assert_eq!(error.part, Part::LibxlRecordHeader);
}

#[test]
fn after_an_error_a_reader_returns_it_again() {
    // The first part, and the last one.
    let last = pv_file().len() - 8;
    for bytes in [changed(pv_file(), 0, 0), changed(pv_file(), last, 9)] {
        let mut reader = Reader::new(&bytes[..], StreamKind::XlFile, Limits::default());
        let first = loop {
            if let Err(error) = reader.next_event() {
                break error;
            }
        };
        assert_eq!(reader.next_event(), Err(first.clone()));
        let (summary, again) = Summary::read(&mut reader);
        assert_eq!((summary.is_whole, again), (false, Some(first)));
    }
}

/// Refuses all bytes after the first ones, as a full disk does.
struct FullDisk {
    left_bytes: usize,
}

impl std::io::Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match bytes.len().min(self.left_bytes) {
            0 => Err(std::io::ErrorKind::StorageFull.into()),
            length => {
                self.left_bytes -= length;
                Ok(length)
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes a stream to a disk that takes so many bytes of it.
fn write_to(left_bytes: usize) -> Writer<FullDisk> {
    let bytes = hvm_file();
    let mut reader = Reader::new(&bytes[..], StreamKind::XlFile, Limits::default());
    let to = FullDisk { left_bytes };
    let mut writer = Writer::new(to, StreamKind::XlFile, Limits::default());
    let mut first = None;
    while let Some(event) = reader.next_event().unwrap() {
        let error = writer.event(&event).err();
        // Once there is an error, it stays.
        if first.is_some() {
            assert_eq!(error, first);
        }
        first = error;
    }
    writer
}

#[test]
fn a_stream_that_could_not_be_written_is_not_complete() {
    let length = hvm_file().len();
    assert!(write_to(length).is_complete());
    // The last record, its second half, a record of pages, and the header are not written.
    for left_bytes in [length - 8, length - 4, 5000, 0] {
        let mut writer = write_to(left_bytes);
        assert!(!writer.is_complete(), "{left_bytes}");
        let error = writer.end().unwrap_err();
        assert_eq!(error.cause, Cause::Io(std::io::ErrorKind::StorageFull));
        assert_eq!(writer.offset_bytes(), left_bytes as u64);
    }
}

#[test]
fn a_stream_cut_off_anywhere_is_refused() {
    for file in [pv_file(), hvm_file()] {
        // Inside of pages all bytes are alike.
        let near_edge = |length: &usize| {
            length.is_multiple_of(61) || *length < 400 || file.len() - length < 700
        };
        for length in (0..file.len()).filter(near_edge) {
            let cause = cause(&file[..length], StreamKind::XlFile);
            let stream_bytes = length as u64;
            assert_eq!(cause, Cause::Truncated { stream_bytes }, "{length}");
        }
    }
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    let limits = Limits::default();
    let image = ImageHeader {
        version: 3,
        guest: Guest::Hvm,
        xen: (4, 20),
    };
    let begun = || {
        let mut writer = Writer::new(Vec::new(), StreamKind::Libxc, limits);
        writer.image_header(&image).unwrap();
        writer
    };
    let page = |pfn, kind, contents| Page {
        pfn,
        kind,
        contents,
    };
    let data = page(0, PageKind::Data, Some(&[0; 4096]));
    let early = begun().pages(&[data]).unwrap_err().cause;
    assert_eq!(
        early,
        Cause::TooEarly {
            needs: "STATIC_DATA_END"
        }
    );
    let pages = |pages: &[Page<'_>]| {
        let mut writer = begun();
        writer.record(&Record::StaticDataEnd).unwrap();
        writer.pages(pages).unwrap_err().cause
    };
    assert!(matches!(
        pages(&[]),
        Cause::Value {
            field: "count",
            value: 0
        }
    ));
    let empty = page(5, PageKind::Data, None);
    assert_eq!(pages(&[empty]), Cause::PageContents { pfn: 5 });
    let far = |kind, contents| pages(&[page(1 << 52, kind, contents)]);
    let range = |pfn_end| Cause::PageRange {
        pfn: 1 << 52,
        pfn_end,
    };
    assert_eq!(far(PageKind::Absent, None), range(1 << 52));
    assert_eq!(far(PageKind::Data, Some(&[0; 4096])), range(1 << 32));
    // No limit lets a number reach the bits of the kind.
    let without_limit = Limits {
        pfn_end: u64::MAX,
        ..limits
    };
    let mut writer = Writer::new(Vec::new(), StreamKind::Libxc, without_limit);
    writer.image_header(&image).unwrap();
    writer.record(&Record::StaticDataEnd).unwrap();
    let far = page(1 << 52, PageKind::Data, Some(&[0; 4096]));
    assert_eq!(writer.pages(&[far]).unwrap_err().cause, range(1 << 52));
    let mut writer = begun();
    let missing = writer.record(&Record::End).unwrap_err().cause;
    assert!(matches!(missing, Cause::Missing { .. }));
    // Nothing more after an error.
    let after = writer.record(&Record::StaticDataEnd).unwrap_err().cause;
    assert_eq!(after, missing);
    assert!(!writer.is_complete());
    let twice = begun().image_header(&image).unwrap_err().cause;
    assert_eq!(twice, Cause::Misplaced);
}

/// The cause for which a writer of a PV guest refuses this record.
fn written(record: Record) -> Cause {
    let bytes = pv_parts(3).concat();
    let mut reader = Reader::new(&bytes[..], StreamKind::Libxc, Limits::default());
    let mut writer = Writer::new(Vec::new(), StreamKind::Libxc, Limits::default());
    while let Some(event) = reader.next_event().unwrap() {
        if matches!(event, Event::Record(Record::SharedInfo(_))) {
            break;
        }
        writer.event(&event).unwrap();
    }
    writer.record(&record).unwrap_err().cause
}

#[test]
fn a_writer_refuses_values_that_a_reader_would() {
    let vcpu = |part, bytes| {
        let state = vec![1; bytes];
        Record::Vcpu(VcpuState {
            part,
            vcpu: 0,
            state,
        })
    };
    for (part, bytes) in [
        (VcpuPart::Basic, 100),
        (VcpuPart::Extended, 129),
        (VcpuPart::Xsave, 15),
    ] {
        assert!(matches!(written(vcpu(part, bytes)), Cause::Length { .. }));
    }
    let msrs = vcpu(VcpuPart::Msrs, 17);
    assert!(matches!(written(msrs), Cause::Ragged { .. }));
    let garbage = Record::HvmContext(b"garbage".to_vec());
    assert!(matches!(written(garbage), Cause::HvmContext(_)));
}

#[test]
fn a_writer_refuses_headers_that_a_reader_would() {
    let header = |json: &[u8]| {
        let mut writer = Writer::new(Vec::new(), StreamKind::XlFile, Limits::default());
        let header = FileHeader {
            config: Config::Json(json.to_vec()),
            ..FileHeader::with_json(b"")
        };
        writer.file_header(&header).unwrap_err().cause
    };
    let missing = Cause::Missing { what: "its JSON" };
    assert_eq!(header(b""), missing);
    assert_eq!(header(b"\0"), missing);
    assert_eq!(header(b"{}\0{}\0"), Cause::Nul);
    let mut writer = Writer::new(Vec::new(), StreamKind::Libxc, Limits::default());
    let image = ImageHeader {
        version: 4,
        guest: Guest::Hvm,
        xen: (4, 20),
    };
    let version = Cause::Version { version: 4 };
    assert_eq!(writer.image_header(&image).unwrap_err().cause, version);
}

#[test]
fn a_writer_puts_no_further_nodes_into_a_value() {
    let nodes = |path: &str, value: &[u8]| {
        let bytes = hvm_file();
        let mut reader = Reader::new(&bytes[..], StreamKind::XlFile, Limits::default());
        let mut writer = Writer::new(Vec::new(), StreamKind::XlFile, Limits::default());
        while let Some(event) = reader.next_event().unwrap() {
            if let Event::EmulatorXenstore(mut nodes) = event {
                nodes.nodes = vec![(path.to_owned(), value.to_vec())];
                return writer
                    .emulator_xenstore(&nodes)
                    .map_err(|error| error.cause);
            }
            writer.event(&event).unwrap();
        }
        panic!("no nodes");
    };
    assert_eq!(nodes("key", b"value"), Ok(()));
    assert_eq!(nodes("key", b"value\0other\0value"), Err(Cause::Ambiguous));
    assert_eq!(nodes("key", b"value\0"), Err(Cause::Nul));
    assert_eq!(nodes("../key", b"value"), Err(Cause::NodeName));
}

/// Reads all of a stream.
fn read_all(bytes: &[u8]) {
    let mut reader = Reader::new(bytes, StreamKind::XlFile, Limits::default());
    while let Ok(Some(event)) = reader.next_event() {
        if let Event::Pages(pages) = event {
            assert!(pages.iter().count() <= 1024);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_flipped_bit_is_an_error_or_other_data(is_pv: bool, at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut file = if is_pv { pv_file() } else { hvm_file() };
        let at = at.index(file.len());
        file[at] ^= 1_u8 << bit;
        // What is accepted is read as it stands there.
        if let Ok(written) = again(&file, StreamKind::XlFile) {
            let mut reader = Reader::new(&file[..], StreamKind::XlFile, Limits::default());
            let (summary, _) = Summary::read(&mut reader);
            // The type of a record may have become an unknown one that may be skipped.
            prop_assert!(written == file || summary.skipped_records > 0);
        }
    }

    #[test]
    fn damage_near_the_headers_is_no_panic(is_pv: bool, damage in prop::collection::vec((0_usize..600, any::<u8>()), 1..8), cut in any::<prop::sample::Index>()) {
        let mut file = if is_pv { pv_file() } else { hvm_file() };
        for (at, value) in damage {
            file[at] = value;
        }
        read_all(&file);
        read_all(&file[..cut.index(file.len())]);
    }

    #[test]
    fn random_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for prefix in [Vec::new(), file_header("{}"), [file_header("{}"), libxl_header(), record(1, &[]), image_header(3, 2)].concat()] {
            read_all(&[prefix, bytes.clone()].concat());
        }
        let _ = HvmContext::parse(&bytes);
        let _ = HvmContext::parse(&[hvm_header(), bytes].concat());
    }
}
