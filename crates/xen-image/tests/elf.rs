//! ELF images and their notes: what is accepted, what it means, and what is refused with which words.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use common::{
    Bits, Elf, Notes, PADDR, SHT_NOTE, VIRT_BASE, kernel64, linux, linux_notes, note, pv_notes,
    pv64_notes,
};
use xen_image::elfnote::types;
use xen_image::{
    Class, Error, Image, KernelKind, Limits, Machine, Malformed, PaeMode, Phys32Reloc, PvWidth,
    Unfit, XenNotes,
};

fn parse(elf: &Elf) -> Image {
    Image::parse("kernel", elf.build(), &Limits::default()).unwrap()
}

fn refused(elf: &Elf) -> Malformed {
    Image::parse("kernel", elf.build(), &Limits::default()).unwrap_err()
}

fn unfit(result: Result<impl std::fmt::Debug, Error>) -> Unfit {
    match result.unwrap_err() {
        Error::Unfit { source, .. } => source,
        other => panic!("{other}"),
    }
}

#[test]
fn a_linux_can_be_pv_and_pvh() {
    let image = Image::parse("kernel", linux(), &Limits::default()).unwrap();
    assert_eq!(
        (image.class(), image.machine()),
        (Class::Elf64, Machine::X86_64)
    );
    assert_eq!(
        image.kinds(),
        [KernelKind::Pv64, KernelKind::Pvh { entry: 0x100_0020 }]
    );

    let pv = image.pv().unwrap();
    assert_eq!(pv.width, PvWidth::Bits64);
    assert_eq!(pv.virt, VIRT_BASE + PADDR..VIRT_BASE + PADDR + 0x2800);
    assert_eq!(pv.paddr, PADDR..PADDR + 0x2800);
    assert_eq!(pv.pfns(), 0x1000..0x1003);
    assert_eq!(pv.entry, VIRT_BASE + PADDR + 0x10);
    assert_eq!(pv.pfn_of(pv.hypercall_page.unwrap()), Some(0x1001));
    assert_eq!(pv.init_p2m, Some(0x80_0000_0000));
    assert!(pv.unmapped_ramdisk);
    assert_eq!(pv.features.supported.0, 0x811);
    assert_eq!(pv.features.required.0, 1);

    let pvh = image.pvh().unwrap();
    assert_eq!(pvh.gfns(), 0x1000..0x1003);
    assert_eq!(pvh.entry, 0x100_0020);
}

#[test]
fn segments_read_as_bytes_then_zeros() {
    let image = Image::parse("kernel", linux(), &Limits::default()).unwrap();
    let segment = image.segments()[1];
    let mut buffer = [0xffu8; 32];
    image.read_segment_into(&segment, 4, &mut buffer).unwrap();
    assert_eq!(&buffer[..12], b"the second's");
    assert_eq!(buffer[12..], [0; 20]);
    image
        .read_segment_into(&segment, 0x7ff, &mut buffer[..1])
        .unwrap();
    assert_eq!(buffer[0], 0);
    assert!(
        image
            .read_segment_into(&segment, 0x7ff, &mut buffer[..2])
            .is_err()
    );
    assert!(
        image
            .read_segment_into(&segment, u64::MAX, &mut buffer[..2])
            .is_err()
    );
}

#[test]
fn a_32_bit_kernel_is_named_as_one() {
    let notes = pv_notes()
        .long(types::VIRT_BASE, 0xc000_0000)
        .text(types::PAE_MODE, "yes,bimodal");
    let elf = Elf::new(Bits::B32)
        .load(PADDR, 0xc000_0000 + PADDR, b"code", 0x1000)
        .note_segment(&notes.0)
        .change(|elf| elf.entry = 0xc000_0000 + PADDR);
    let image = parse(&elf);
    assert_eq!(
        image.kinds(),
        [KernelKind::Pv32 {
            pae: PaeMode::Bimodal
        }]
    );
    assert_eq!(image.pv().unwrap().entry, 0xc100_0000);
    let reason = image.pvh().unwrap_err();
    let kind = KernelKind::Pv32 {
        pae: PaeMode::Bimodal,
    };
    assert!(
        matches!(&reason, Error::Unfit { source: Unfit::PvOnly { kind: named }, .. } if *named == kind),
        "{reason}"
    );
}

#[test]
fn a_kernel_without_notes_is_not_a_xen_kernel() {
    let image = parse(&Elf::new(Bits::B64).load(PADDR, 0, b"code", 0x1000));
    assert!(image.notes().is_none() && image.kinds().is_empty());
    assert_eq!(unfit(image.pv()), Unfit::NoXenNotes);
    assert_eq!(unfit(image.pvh()), Unfit::NoXenNotes);
}

#[test]
fn a_pvh_only_kernel_is_named_as_one() {
    // As the PV shim, and as a Linux with CONFIG_XEN_PVH alone.
    for notes in [Notes::default(), pv_notes()] {
        let image = parse(&kernel64(&notes.quad(types::PHYS32_ENTRY, PADDR)));
        assert_eq!(unfit(image.pv()), Unfit::PvhOnly);
        assert_eq!(image.kinds(), [KernelKind::Pvh { entry: 0x100_0000 }]);
    }
}

#[test]
fn notes_for_another_loader_or_xen_are_refused_for_pv() {
    let other_loader = Notes::default()
        .text(types::GUEST_OS, "plan9")
        .text(types::XEN_VERSION, "xen-3.0");
    let image = parse(&kernel64(&other_loader));
    assert!(matches!(unfit(image.pv()), Unfit::OtherLoader { .. }));
    assert_eq!(unfit(image.pvh()), Unfit::NoPvhEntry);
    let other_xen = Notes::default()
        .text(types::GUEST_OS, "linux")
        .text(types::XEN_VERSION, "xen-2.0");
    assert_eq!(
        unfit(parse(&kernel64(&other_xen)).pv()),
        Unfit::OtherXen {
            version: "xen-2.0".to_owned()
        }
    );
}

#[test]
fn a_kernel_that_must_be_dom0_is_refused() {
    let image = parse(&kernel64(&linux_notes().text(types::FEATURES, "!dom0")));
    assert_eq!(unfit(image.pv()), Unfit::Dom0Only);
    assert_eq!(unfit(image.pvh()), Unfit::Dom0Only);
}

#[test]
fn mixed_widths_are_refused_for_pv_alone() {
    let image = parse(&kernel64(&linux_notes()).change(|elf| elf.machine = 3));
    assert!(matches!(unfit(image.pv()), Unfit::MixedWidths { .. }));
    assert!(image.pvh().is_ok());
}

#[test]
fn pv_addresses_have_to_make_sense() {
    let base = || pv_notes().quad(types::VIRT_BASE, VIRT_BASE);
    let cases: [(&str, Notes); 10] = [
        ("PADDR_OFFSET", pv_notes().quad(types::PADDR_OFFSET, 0)),
        ("PADDR_OFFSET", base().quad(types::PADDR_OFFSET, PADDR + 1)),
        ("start", base().quad(types::PADDR_OFFSET, 8)),
        (
            "VIRT_BASE",
            pv_notes().quad(types::VIRT_BASE, VIRT_BASE + 8),
        ),
        (
            "VIRT_BASE",
            pv_notes().quad(types::VIRT_BASE, 0u64.wrapping_sub(PADDR)),
        ),
        (
            "VIRT_BASE",
            pv_notes().quad(types::VIRT_BASE, 0x0000_7fff_ffff_f000),
        ),
        (
            "VIRT_BASE",
            pv_notes().quad(types::VIRT_BASE, 0xffff_8100_0000_0000),
        ),
        (
            "ENTRY",
            base().quad(types::ENTRY, VIRT_BASE + PADDR + 0x2800),
        ),
        ("INIT_P2M", base().quad(types::INIT_P2M, VIRT_BASE + PADDR)),
        (
            "HYPERCALL_PAGE",
            base().quad(types::HYPERCALL_PAGE, VIRT_BASE + PADDR + 4),
        ),
    ];
    for (wanted, notes) in cases {
        match unfit(parse(&kernel64(&notes)).pv()) {
            Unfit::BadAddress { what, .. } => assert_eq!(what, wanted),
            other => panic!("{wanted}: {other}"),
        }
    }
    let outside = base().quad(types::HYPERCALL_PAGE, VIRT_BASE + PADDR + 0x3000);
    assert!(matches!(
        unfit(parse(&kernel64(&outside)).pv()),
        Unfit::BadAddress {
            what: "HYPERCALL_PAGE",
            ..
        }
    ));
}

#[test]
fn a_32_bit_pv_kernel_ends_below_4_gib() {
    let notes = pv_notes().long(types::VIRT_BASE, 0xff00_0000);
    let elf = Elf::new(Bits::B32)
        .load(PADDR, 0, b"code", 0x1000)
        .note_segment(&notes.0);
    assert!(matches!(
        unfit(parse(&elf).pv()),
        Unfit::BadAddress {
            what: "VIRT_BASE",
            ..
        }
    ));
}

#[test]
fn pvh_addresses_have_to_make_sense() {
    let outside = parse(&kernel64(
        &Notes::default().quad(types::PHYS32_ENTRY, PADDR - 1),
    ));
    assert!(matches!(
        unfit(outside.pvh()),
        Unfit::BadAddress {
            what: "PHYS32_ENTRY",
            ..
        }
    ));
    let notes = Notes::default().quad(types::PHYS32_ENTRY, 0xffff_f000);
    let high = Elf::new(Bits::B64)
        .load(0xffff_f000, 0, b"code", 0x1001)
        .note_segment(&notes.0);
    assert!(matches!(
        unfit(parse(&high).pvh()),
        Unfit::BadAddress { what: "end", .. }
    ));
}

#[test]
fn paddr_offset_shifts_segments() {
    let notes = pv_notes()
        .quad(types::VIRT_BASE, 0)
        .quad(types::PADDR_OFFSET, PADDR - 0x1000);
    let image = parse(&kernel64(&notes).change(|elf| elf.entry = 0x1000));
    let kernel = image.pv().unwrap();
    assert_eq!(kernel.virt, 0x1000..0x3800);
    assert_eq!(kernel.segment_paddr(&image.segments()[1]), 0x3000);
}

#[test]
fn notes_are_found_in_sections_when_segments_have_none() {
    let bare = || Elf::new(Bits::B64).load(PADDR, 0, b"code", 0x3000);
    let image = parse(&bare().section(".notes", SHT_NOTE, &linux_notes().0));
    assert_eq!(image.kinds().len(), 2);
    // Others' notes in a segment are not Xen's.
    let image = parse(&bare().note_segment(&note(b"GNU\0", 3, b"build")).section(
        ".notes",
        SHT_NOTE,
        &linux_notes().0,
    ));
    assert_eq!(image.kinds().len(), 2);
    // Xen's notes in a segment are all that counts.
    let image = parse(&bare().note_segment(&pv64_notes().0).section(
        ".notes",
        SHT_NOTE,
        &linux_notes().0,
    ));
    assert_eq!(image.kinds(), [KernelKind::Pv64]);
    // A segment at offset 0 is a linker's mistake.
    let image = parse(
        &bare()
            .note_segment(&linux_notes().0)
            .change(|elf| elf.phdrs[1].offset = 0),
    );
    assert!(image.notes().is_none());
}

const LEGACY: &str = "GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,\
    VIRT_ENTRY=0xffffffff81000000,HYPERCALL_PAGE=0x1000,FEATURES=!writable_page_tables|pae_pgdir_above_4gb,\
    PAE=yes[extended-cr3],LOADER=generic,BSD_SYMTAB";

#[test]
fn the_legacy_section_is_the_last_resort() {
    let elf = Elf::new(Bits::B64).load(VIRT_BASE + PADDR, 0, b"code", 0x3000);
    let image = parse(
        &elf.clone()
            .section("__xen_guest", 1, format!("{LEGACY}\0rest").as_bytes()),
    );
    let kernel = image.pv().unwrap();
    // Physical addresses are virtual ones, unless said otherwise.
    assert_eq!(kernel.paddr_offset, VIRT_BASE);
    assert_eq!(kernel.paddr, PADDR..PADDR + 0x3000);
    assert_eq!(kernel.entry, VIRT_BASE + PADDR);
    assert_eq!(kernel.hypercall_page, Some(VIRT_BASE + PADDR));
    let notes = image.notes().unwrap();
    assert_eq!(notes.pae_mode, Some(PaeMode::ExtendedCr3));
    assert!(notes.bsd_symtab);
    // Without a terminating zero it ends with its section.
    assert!(
        parse(&elf.section("__xen_guest", 1, LEGACY.as_bytes()))
            .pv()
            .is_ok()
    );
}

#[test]
fn legacy_values_are_checked() {
    for (text, wanted) in [
        ("VIRT_BASE=0xg", "VIRT_BASE"),
        ("VIRT_ENTRY=", "VIRT_ENTRY"),
        ("ELF_PADDR_OFFSET=99999999999999999999", "ELF_PADDR_OFFSET"),
        ("HYPERCALL_PAGE=0xffffffffffffffff", "HYPERCALL_PAGE"),
        ("LOADER=\x1b[31m", "__xen_guest"),
        ("VIRT_BASE=1,VIRT_BASE=2", "VIRT_BASE"),
        ("FEATURES=!teleport", "teleport"),
    ] {
        let error = XenNotes::parse_legacy(text.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
    let octal =
        XenNotes::parse_legacy(b"VIRT_BASE=010,ELF_PADDR_OFFSET=0,VIRT_ENTRY=10,PAE=yes,PAE=yes")
            .unwrap();
    assert_eq!(
        (octal.virt_base, octal.paddr_offset, octal.entry),
        (Some(8), Some(0), Some(10))
    );
    assert_eq!(octal.pae_mode, Some(PaeMode::Yes));
}

fn region_error(region: &[u8]) -> Malformed {
    XenNotes::parse_region(region).unwrap_err()
}

#[test]
fn notes_that_overrun_are_refused() {
    let whole = Notes::default().text(types::GUEST_OS, "linux").0;
    assert!(XenNotes::parse_region(&whole).unwrap().is_some());
    for cut in 1..whole.len() {
        // The last padding may be missing, and nothing at all is no note.
        if XenNotes::parse_region(&whole[..cut]).is_ok() {
            assert!(cut >= whole.len() - 2, "cut at {cut}");
        }
    }
    for (name_len, content_len) in [
        (u32::MAX, 0),
        (0, u32::MAX),
        (u32::MAX, u32::MAX),
        (12, 13),
        (0x8000_0000, 0x8000_0000),
    ] {
        let mut notes = whole.clone();
        notes[..4].copy_from_slice(&name_len.to_le_bytes());
        notes[4..8].copy_from_slice(&content_len.to_le_bytes());
        assert!(matches!(
            region_error(&notes),
            Malformed::NoteOverrun { .. }
        ));
    }
    assert!(matches!(
        region_error(&[1, 2, 3]),
        Malformed::NoteOverrun {
            part: "header",
            offset: 0
        }
    ));
    assert!(XenNotes::parse_region(&[0; 8]).unwrap().is_none());
    assert!(XenNotes::parse_region(&[]).unwrap().is_none());
}

/// The notes of `grub-mkimage -O i386-xen`, byte for byte: the last one claims 12 bytes, and 4 are left.
fn grub_notes() -> Vec<u8> {
    let mut notes = Notes::default()
        .text(types::GUEST_OS, "GRUB")
        .text(types::LOADER, "generic")
        .text(types::XEN_VERSION, "xen-3.0")
        .long(types::ENTRY, 0)
        .long(types::VIRT_BASE, 0)
        .text(types::PAE_MODE, "yes")
        .0;
    let claimed_at = notes.len() - 16;
    assert_eq!(notes[claimed_at..][..4], 4u32.to_le_bytes());
    notes[claimed_at] = 12;
    notes
}

#[test]
fn grub_for_32_bit_pv_is_named_as_a_32_bit_kernel() {
    let notes = grub_notes();
    assert_eq!(notes.len(), 0x84);
    let image = parse(
        &Elf::new(Bits::B32)
            .load(0, 0, b"code", 0x1000)
            .note_segment(&notes),
    );
    assert_eq!(
        image.kinds(),
        [KernelKind::Pv32 {
            pae: PaeMode::ExtendedCr3
        }]
    );
}

#[test]
fn only_a_string_that_ends_in_time_may_claim_too_much() {
    let notes = grub_notes();
    assert_eq!(
        XenNotes::parse_region(&notes).unwrap().unwrap().pae_mode,
        Some(PaeMode::ExtendedCr3)
    );
    // Its zero byte is gone.
    assert!(XenNotes::parse_region(&notes[..notes.len() - 1]).is_err());
    // A number, and a note of somebody else.
    for claimed in [
        Notes::default().quad(types::ENTRY, 1).0,
        note(b"GNU\0", 1, b"id\0\0\0\0\0\0"),
    ] {
        let mut notes = claimed;
        assert!(XenNotes::parse_region(&notes).is_ok());
        notes[4] = 12;
        assert!(matches!(
            region_error(&notes),
            Malformed::NoteOverrun {
                part: "content",
                ..
            }
        ));
    }
}

#[test]
fn a_note_inside_of_another_is_that_ones_content() {
    let inner = Notes::default().quad(types::ENTRY, 1).0;
    let outer = note(b"GNU\0", 1, &inner);
    assert!(XenNotes::parse_region(&outer).unwrap().is_none());
    // A length that ends amid the next note shifts all that follows: here onto bytes that are no note.
    let mut shifted = Notes::default()
        .text(types::GUEST_OS, "8 bytes")
        .quad(types::ENTRY, 1)
        .0;
    shifted[4] = 12;
    assert!(matches!(
        region_error(&shifted),
        Malformed::NoteOverrun { .. }
    ));
}

#[test]
fn the_same_note_twice_is_fine_and_another_value_is_not() {
    let twice = Notes::default().quad(types::ENTRY, 7).long(types::ENTRY, 7);
    assert_eq!(
        XenNotes::parse_region(&twice.0).unwrap().unwrap().entry,
        Some(7)
    );
    let contradictions = [
        Notes::default().quad(types::ENTRY, 7).quad(types::ENTRY, 8),
        Notes::default()
            .text(types::GUEST_OS, "linux")
            .text(types::GUEST_OS, "plan9"),
        Notes::default()
            .text(types::PAE_MODE, "yes")
            .text(types::PAE_MODE, "no"),
        Notes::default()
            .text(types::BSD_SYMTAB, "yes")
            .text(types::BSD_SYMTAB, "no"),
        Notes::default()
            .long(types::MOD_START_PFN, 1)
            .long(types::MOD_START_PFN, 0),
        Notes::default()
            .long(types::PHYS32_ENTRY, 1)
            .long(types::PHYS32_ENTRY, 2),
        Notes::default()
            .raw(types::PHYS32_RELOC, &[])
            .raw(types::PHYS32_RELOC, &[0, 16, 0, 0]),
    ];
    for notes in contradictions {
        assert!(matches!(
            region_error(&notes.0),
            Malformed::ContradictingNotes { .. }
        ));
    }
}

#[test]
fn features_are_joined() {
    let notes = Notes::default()
        .text(types::FEATURES, "writable_page_tables")
        .text(types::FEATURES, "!hvm_callback_vector")
        .long(types::SUPPORTED_FEATURES, 0x8000);
    let features = XenNotes::parse_region(&notes.0).unwrap().unwrap().features;
    assert_eq!((features.supported.0, features.required.0), (0x8101, 0x100));
    let unknown = Notes::default().text(types::FEATURES, "teleport|!levitate");
    assert!(
        matches!(region_error(&unknown.0), Malformed::UnknownRequiredFeature { name } if name == "levitate")
    );
}

#[test]
fn contents_of_the_wrong_form_are_refused() {
    let cases = [
        ("ENTRY", Notes::default().raw(types::ENTRY, &[1, 2, 3])),
        ("ENTRY", Notes::default().raw(types::ENTRY, &[])),
        (
            "VIRT_BASE",
            Notes::default().raw(types::VIRT_BASE, &[0; 16]),
        ),
        (
            "GUEST_OS",
            Notes::default().raw(types::GUEST_OS, b"\x1b]0;title\x07"),
        ),
        ("LOADER", Notes::default().raw(types::LOADER, &[b'x'; 5000])),
        (
            "PHYS32_ENTRY",
            Notes::default().quad(types::PHYS32_ENTRY, 1 << 32),
        ),
        (
            "PHYS32_RELOC",
            Notes::default().raw(types::PHYS32_RELOC, &[0; 5]),
        ),
        (
            "PHYS32_RELOC",
            Notes::default().raw(types::PHYS32_RELOC, &[0; 16]),
        ),
        (
            "PHYS32_RELOC",
            Notes::default().raw(types::PHYS32_RELOC, &[3, 0, 0, 0]),
        ),
        (
            "PHYS32_RELOC",
            Notes::default().raw(types::PHYS32_RELOC, &[0, 16, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]),
        ),
        (
            "SUPPORTED_FEATURES",
            Notes::default().raw(types::SUPPORTED_FEATURES, &[0; 3]),
        ),
        (
            "L1_MFN_VALID",
            Notes::default().raw(types::L1_MFN_VALID, &[0; 12]),
        ),
    ];
    for (wanted, notes) in cases {
        match region_error(&notes.0) {
            Malformed::BadNote { note, .. } => assert_eq!(note, wanted),
            other => panic!("{wanted}: {other}"),
        }
    }
}

#[test]
fn all_other_notes_are_read() {
    let notes = Notes::default()
        .raw(types::INFO, b"KEY=value\0")
        .raw(types::HYPERCALL_PAGE, &[1])
        .raw(types::HV_START_LOW, &[2, 0])
        .raw(types::L1_MFN_VALID, &[1, 0, 0, 0, 2, 0, 0, 0])
        .raw(types::XEN_VERSION, b"xen-3.0")
        .raw(types::PHYS32_RELOC, &[0, 0, 32, 0, 0, 16, 0, 0])
        .raw(99, b"of the future");
    let notes = XenNotes::parse_region(&notes.0).unwrap().unwrap();
    assert_eq!(
        (notes.hypercall_page, notes.hv_start_low),
        (Some(1), Some(2))
    );
    assert_eq!(
        (notes.l1_mfn_valid[0].mask, notes.l1_mfn_valid[0].value),
        (1, 2)
    );
    assert_eq!(notes.xen_version.as_deref(), Some("xen-3.0"));
    assert_eq!(
        notes.phys32_reloc,
        Some(Phys32Reloc {
            align: Some(0x20_0000),
            min: 0x1000,
            max: u32::MAX
        })
    );
}

#[test]
fn headers_of_other_images_are_refused() {
    let offsets: [(usize, u8, &str); 7] = [
        (4, 3, "EI_CLASS"),
        (5, 2, "EI_DATA"),
        (6, 0, "EI_VERSION"),
        (16, 1, "e_type"),
        (18, 40, "e_machine"),
        (54, 55, "e_phentsize"),
        (58, 63, "e_shentsize"),
    ];
    for (offset, value, wanted) in offsets {
        let mut elf = linux();
        elf[offset] = value;
        match Image::parse("kernel", elf, &Limits::default()).unwrap_err() {
            Malformed::BadElfHeader { field, .. } => assert_eq!(field, wanted),
            other => panic!("{wanted}: {other}"),
        }
    }
    let mut crowded = linux();
    crowded[56..58].copy_from_slice(&u16::MAX.to_le_bytes());
    crowded.resize(4 << 20, 0);
    assert!(matches!(
        Image::parse("kernel", crowded, &Limits::default()).unwrap_err(),
        Malformed::BadElfHeader {
            field: "e_phnum",
            ..
        }
    ));
}

#[test]
fn tables_have_to_be_inside_the_image() {
    for (field, width) in [(32, 8), (40, 8)] {
        for value in [u64::MAX, u64::MAX - 55, 1 << 40] {
            let mut elf = linux();
            elf[field..field + width].copy_from_slice(&value.to_le_bytes());
            assert!(matches!(
                Image::parse("kernel", elf, &Limits::default()).unwrap_err(),
                Malformed::BeyondEnd { .. }
            ));
        }
    }
}

#[test]
fn segments_have_to_make_sense() {
    let change = |change: fn(&mut common::Phdr)| {
        refused(&kernel64(&linux_notes()).change(|elf| change(&mut elf.phdrs[0])))
    };
    assert!(matches!(
        change(|phdr| phdr.mem_size = 3),
        Malformed::BadSegment { index: 0, .. }
    ));
    assert!(matches!(
        change(|phdr| phdr.offset = u64::MAX),
        Malformed::BeyondEnd { .. }
    ));
    assert!(matches!(
        change(|phdr| phdr.offset = 1 << 30),
        Malformed::BeyondEnd { .. }
    ));
    assert!(matches!(
        change(|phdr| phdr.align = 3),
        Malformed::BadSegment { .. }
    ));
    assert!(matches!(
        change(|phdr| phdr.align = 1 << 31),
        Malformed::BadSegment { .. }
    ));
    assert!(matches!(
        change(|phdr| phdr.paddr = u64::MAX - 5),
        Malformed::BadSegment { .. }
    ));
    assert!(matches!(
        change(|phdr| phdr.paddr = PADDR + 0x1000),
        Malformed::SegmentsOverlap {
            first: 0,
            second: 1,
            ..
        }
    ));
    assert!(matches!(
        change(|phdr| phdr.mem_size = 0x2001),
        Malformed::SegmentsOverlap { .. }
    ));
    assert!(matches!(
        change(|phdr| phdr.paddr = 0x10_0000_0000),
        Malformed::MemoryTooLarge { .. }
    ));
    let notes_cut_off =
        refused(&kernel64(&linux_notes()).change(|elf| elf.phdrs[2].file_size = 1 << 19));
    assert!(matches!(
        notes_cut_off,
        Malformed::BeyondEnd {
            what: "note segment",
            ..
        }
    ));
    let notes_endless =
        refused(&kernel64(&linux_notes()).change(|elf| elf.phdrs[2].file_size = u64::MAX));
    assert!(matches!(notes_endless, Malformed::TooManyNotes { .. }));
}

#[test]
fn segments_without_memory_or_permission_are_passed_over() {
    let image = parse(
        &kernel64(&linux_notes())
            .load(1 << 40, 0, b"", 0)
            .load(1 << 41, 0, b"x", 1)
            .change(|elf| {
                elf.phdrs[4].flags = 0;
            }),
    );
    assert_eq!(image.segments().len(), 2);
    assert!(matches!(
        refused(&Elf::new(Bits::B64)),
        Malformed::NoSegments
    ));
}

#[test]
fn many_note_segments_are_bounded_together() {
    let mut elf = kernel64(&Notes::default());
    let filler = note(b"GNU\0", 1, &[0; 300_000]);
    for _ in 0..4 {
        elf = elf.note_segment(&filler);
    }
    assert!(matches!(refused(&elf), Malformed::TooManyNotes { .. }));
}
