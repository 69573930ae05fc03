//! HVM domains, built on the model and looked at as hvmloader and Xen would.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use common::*;
use proptest::prelude::*;
use xen_build::{
    BuildError, BuildRequest, Built, ExtentCounts, FIRMWARE, HvmMachine, HvmRam, build_hvm,
    check_hvm, hvm_module_addresses,
};
use xen_image::{Image, Limits, Unfit};
use xen_port::{DomId, Errno, GuestKind, HvmParam};
use xen_sim::model::{DIRT, Model};

const GIB: u64 = 1 << 30;
const ENTRY: u64 = MIB;
const HVM_INFO: u64 = 0x9_f800;
const IOREQ_SERVERS: u64 = 0xf_eff0;
const STORE: u64 = 0xf_effc;
const IDENT_PT: u64 = 0xf_effe;
const CONSOLE: u64 = 0xf_efff;
/// Pages of the graphics card's window.
const VGA_HOLE: std::ops::Range<u64> = 0xa0..0xc0;

/// An image as hvmloader is: 32-bit, at 1 MiB, no notes.
fn parts() -> Kernel {
    Kernel::default().part(ENTRY, pattern(5 * PAGE + 7, 3), 2 * PAGE)
}

fn hvmloader() -> Image {
    Image::parse("hvmloader", narrow(&parts().elf()), &Limits::default()).unwrap()
}

fn firmware() -> Ramdisk {
    ramdisk(256 << 10)
}

/// A domain of the model that was built.
struct Guest {
    model: Model,
    domid: DomId,
    built: Built,
    ram: HvmRam,
}

impl Guest {
    fn new(target_kib: u64, max_kib: u64, machine: &HvmMachine) -> Guest {
        let model = Model::new(16384);
        let (image, firmware) = (hvmloader(), firmware());
        let domid = new_domain(&model, GuestKind::Hvm, max_kib);
        let ramdisks = [&firmware];
        let modules = boot_modules(&ramdisks, FIRMWARE);
        let request = BuildRequest {
            modules: &modules,
            max_kib,
            ..request(domid, &image, target_kib)
        };
        let built = build_hvm(&model, &request, machine).unwrap();
        let ram = check_hvm(&request, machine).unwrap();
        let guest = Guest {
            model,
            domid,
            built,
            ram,
        };
        guest.check(&request, &firmware);
        guest
    }

    /// Looks at everything that hvmloader, the device model and Xen rely on.
    fn check(&self, request: &BuildRequest<'_>, firmware: &Ramdisk) {
        let model = &self.model;
        let loader = model.read(self.domid, ENTRY, (7 * PAGE) as usize);
        let content = &parts().parts[0].content;
        assert!(loader.starts_with(content));
        assert!(loader[content.len()..].iter().all(|byte| *byte == 0));
        self.check_start_info(firmware);
        self.check_info_table(request);
        self.check_memory_map();
        self.check_special();
        let (store, console) = (self.built.store_gfn.0, self.built.console_gfn.0);
        assert_eq!((store, console), (STORE, CONSOLE));
        check_aftermath(model, self.domid, store, console);
        assert!(VGA_HOLE.clone().all(|page| !self.has(page)), "VGA hole");
    }

    fn check_start_info(&self, firmware: &Ramdisk) {
        let read = |address, len| self.model.read(self.domid, address, len);
        let cpu = self.model.domain(self.domid).unwrap().hvm_cpu.unwrap();
        assert_eq!((u64::from(cpu.eip), cpu.nr_vcpus), (ENTRY, 0));
        let info = read(cpu.ebx.into(), 56);
        assert_eq!((u32_at(&info, 0), u32_at(&info, 12)), (0x336e_c578, 1));
        assert_eq!(u64_at(&info, 32), 0, "no RSDP");
        let module = read(u64_at(&info, 16), 32);
        let name = read(u64_at(&module, 16), FIRMWARE.len() + 1);
        assert_eq!(name, [FIRMWARE.as_bytes(), &[0]].concat());
        let len = u64_at(&module, 8) as usize;
        assert_eq!(read(u64_at(&module, 0), len), firmware.bytes);
    }

    fn check_info_table(&self, request: &BuildRequest<'_>) {
        let page = self.model.read(self.domid, 0x9_f000, 4096);
        let table = &page[0x800..0x830];
        assert_eq!((&table[..8], u32_at(table, 8)), (&b"HVM INFO"[..], 48));
        let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum, 0, "checksum");
        assert_eq!(u32_at(table, 16), request.max_vcpus);
        assert_eq!(u64::from(u32_at(table, 20)), self.ram.low_end / PAGE);
        assert_eq!(u64::from(u32_at(table, 24)), IOREQ_SERVERS);
        assert_eq!(u64::from(u32_at(table, 28)), self.ram.high_end / PAGE);
        let online: u32 = table[32..].iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(online, request.online_vcpus);
        assert!(page[..0x800].iter().all(|byte| *byte == 0));
        assert!(page[0x830..].iter().all(|byte| *byte == 0));
    }

    fn check_memory_map(&self) {
        let map = self.model.domain(self.domid).unwrap().memory_map;
        let ranges: Vec<_> = map
            .iter()
            .map(|entry| {
                (
                    entry.start,
                    entry.start + entry.size_bytes,
                    entry.kind.number(),
                )
            })
            .collect();
        let mut expected = vec![(MIB, self.ram.low_end, 1)];
        if self.ram.high_end > 0 {
            expected.push((4 * GIB, self.ram.high_end, 1));
        }
        assert_eq!(ranges, expected);
    }

    fn check_special(&self) {
        let params = self.model.domain(self.domid).unwrap().params;
        let param = |param: HvmParam| params[&(param as u32)];
        for (name, value) in [
            (HvmParam::StorePfn, STORE),
            (HvmParam::StoreEvtchn, STORE_PORT.into()),
            (HvmParam::ConsolePfn, CONSOLE),
            (HvmParam::ConsoleEvtchn, CONSOLE_PORT.into()),
            (HvmParam::IdentPt, IDENT_PT << 12),
            (HvmParam::PagingRingPfn, 0xf_eff8),
            (HvmParam::MonitorRingPfn, 0xf_eff9),
            (HvmParam::SharingRingPfn, 0xf_effa),
            (HvmParam::BufIoreqPfn, 0xf_effb),
            (HvmParam::IoreqPfn, 0xf_effd),
            (HvmParam::IoreqServerPfn, IOREQ_SERVERS),
            (HvmParam::NrIoreqServerPages, 8),
        ] {
            assert_eq!(param(name), value, "{name:?}");
        }
        for page in (IOREQ_SERVERS..=CONSOLE).filter(|page| *page != IDENT_PT) {
            assert!(self.has(page));
            let bytes = self.model.read(self.domid, page << 12, 4096);
            assert!(bytes.iter().all(|byte| *byte == 0), "page {page:#x}");
        }
        let directory = self.model.read(self.domid, IDENT_PT << 12, 4096);
        assert!(
            (0..1024).all(|index| u32_at(&directory, index * 4) == (index as u32) << 22 | 0xe7)
        );
    }

    /// Whether a page has memory.
    fn has(&self, page: u64) -> bool {
        self.model.frame_of(self.domid, page).is_some()
    }

    fn tot_pages(&self) -> u64 {
        self.model.domain(self.domid).unwrap().tot_pages
    }
}

fn built(memory_kib: u64) -> Guest {
    Guest::new(memory_kib, memory_kib, &HvmMachine::default())
}

fn extents(nr_1gib: u64, nr_2mib: u64, nr_4kib: u64) -> ExtentCounts {
    ExtentCounts {
        nr_1gib,
        nr_2mib,
        nr_4kib,
    }
}

/// Single pages of each domain: the first 2 MiB but the window of the graphics card, and the special ones.
const SINGLE: u64 = 512 - 0x20 + 16;

#[test]
fn small_domains_are_below_the_hole() {
    let guest = built(64 << 10);
    assert_eq!(guest.built.extents, extents(0, 31, SINGLE));
    assert_eq!((guest.ram.low_end, guest.ram.high_end), (64 * MIB, 0));
    assert_eq!(guest.ram.size_kib, 64 << 10);
    assert_eq!(guest.tot_pages(), 16384 - 0x20 + 16);
}

#[test]
fn memory_that_the_hole_displaces_is_above_4_gib() {
    let guest = built(3584 << 10);
    assert_eq!((guest.ram.low_end, guest.ram.high_end), (3584 * MIB, 0));
    // Two whole GiB, and 1024 - 2 and 512 MiB around them.
    assert_eq!(guest.built.extents, extents(2, 511 + 256, SINGLE));
    let guest = built(6 << 20);
    assert_eq!(guest.ram.low_end, 0xf000_0000);
    assert_eq!(guest.ram.hole_start, 0xf000_0000);
    assert_eq!(guest.ram.high_end, 4 * GIB + (6 * GIB - 0xf000_0000));
    // Below: 2 GiB, 1022 and 768 MiB. Above: 2 GiB and 256 MiB.
    assert_eq!(guest.built.extents, extents(4, 511 + 384 + 128, SINGLE));
    assert!(guest.has(0xe_ffff) && guest.has(0x10_0000));
    assert!(!guest.has(0xf_0000) && !guest.has(0xf_efef) && !guest.has(0xf_f000));
}

#[test]
fn a_larger_hole_displaces_more() {
    let machine = HvmMachine {
        mmio_hole_mib: 2048,
        ..HvmMachine::default()
    };
    let guest = Guest::new(6 << 20, 6 << 20, &machine);
    assert_eq!((guest.ram.low_end, guest.ram.high_end), (2 * GIB, 8 * GIB));
}

#[test]
fn video_memory_is_not_the_builders() {
    let machine = HvmMachine {
        video_ram_kib: 16 << 10,
        ..HvmMachine::default()
    };
    let guest = Guest::new(128 << 10, 128 << 10, &machine);
    assert_eq!(
        (guest.ram.size_kib, guest.ram.low_end),
        (112 << 10, 112 * MIB)
    );
    assert_eq!(guest.tot_pages(), 112 * 256 - 0x20 + 16);
    // The device model has room for it, and for its ROMs.
    let domain = guest.model.domain(guest.domid).unwrap();
    assert!(domain.max_pages - domain.tot_pages >= 16 * 256 + 256);
}

#[test]
fn memory_up_to_maxmem_is_populated_on_demand() {
    let guest = Guest::new(64 << 10, 256 << 10, &HvmMachine::default());
    assert_eq!(guest.built.extents, extents(0, 0, 16));
    let domain = guest.model.domain(guest.domid).unwrap();
    let reserved: u64 = domain.on_demand.values().map(|order| 1_u64 << order).sum();
    assert_eq!(reserved, 65536 - 0x20);
    assert!(!domain.on_demand.keys().any(|page| VGA_HOLE.contains(page)));
    assert_eq!(domain.tot_pages, 16384 - 0x20 + 16);
    assert_eq!(guest.ram.size_kib, 256 << 10);
}

#[test]
fn the_requests_of_a_64_mib_domain() {
    let model = Model::new(128);
    let (image, firmware) = (hvmloader(), firmware());
    let ramdisks = [&firmware];
    let modules = boot_modules(&ramdisks, FIRMWARE);
    let domid = new_domain(&model, GuestKind::Hvm, 64 << 10);
    model.forget_calls();
    let further = [(HvmParam::TimerMode, 1), (HvmParam::HpetEnabled, 1)];
    let request = BuildRequest {
        hvm_params: &further,
        modules: &modules,
        ..request(domid, &image, 64 << 10)
    };
    build_hvm(&model, &request, &HvmMachine::default()).unwrap();
    let calls = model.calls();
    let calls: Vec<_> = calls
        .iter()
        .filter(|call| !call.op.starts_with("GuestMemory"))
        .map(|call| (call.op, call.items))
        .collect();
    assert_eq!(
        calls,
        [
            ("set_memory_map", 1),
            ("claim_pages", 1),
            ("populate_physmap", 31),
            ("populate_physmap", SINGLE as usize),
            // hvm_info_table 1, hvmloader 8, firmware 64, start_info 1, special ones 16.
            ("map_foreign", 90),
            ("set_hvm_params", 14),
            ("set_hvm_boot_cpu", 1),
            ("map_grant_frames", 1),
        ]
    );
    assert_eq!(model.read(domid, 0, 4096), vec![DIRT; 4096], "not touched");
}

#[test]
fn online_vcpus_are_bits_of_the_table() {
    let (image, firmware) = (hvmloader(), firmware());
    let ramdisks = [&firmware];
    let modules = boot_modules(&ramdisks, FIRMWARE);
    for (max_vcpus, online_vcpus, first_bytes) in [
        (1, 1, [1, 0]),
        (9, 9, [0xff, 1]),
        (128, 128, [0xff, 0xff]),
        (128, 3, [7, 0]),
    ] {
        let model = Model::new(128);
        let domid = new_domain(&model, GuestKind::Hvm, 64 << 10);
        let request = BuildRequest {
            modules: &modules,
            max_vcpus,
            online_vcpus,
            ..request(domid, &image, 64 << 10)
        };
        let machine = HvmMachine {
            apic: online_vcpus > 3,
            ..HvmMachine::default()
        };
        let built = build_hvm(&model, &request, &machine).unwrap();
        let ram = check_hvm(&request, &machine).unwrap();
        assert_eq!(model.read(domid, HVM_INFO + 32, 2), first_bytes);
        assert_eq!(
            model.read(domid, HVM_INFO + 13, 1),
            [u8::from(machine.apic)]
        );
        let guest = Guest {
            model,
            domid,
            built,
            ram,
        };
        guest.check(&request, &firmware);
    }
}

#[test]
fn a_failure_anywhere_leaves_no_claim_and_no_mapping() {
    let (image, firmware) = (hvmloader(), firmware());
    let ramdisks = [&firmware];
    let modules = boot_modules(&ramdisks, FIRMWARE);
    for max_kib in [20 << 10, 40 << 10] {
        let mut number = 0;
        loop {
            let model = Model::new(128);
            model.limit_extents(9, 5);
            let domid = new_domain(&model, GuestKind::Hvm, max_kib);
            model.fail_at(number, Errno::EINVAL);
            let request = BuildRequest {
                modules: &modules,
                max_kib,
                ..request(domid, &image, 20 << 10)
            };
            let built = build_hvm(&model, &request, &HvmMachine::default());
            let domain = model.domain(domid).unwrap();
            assert_eq!(domain.claimed_pages, 0, "after call {number}");
            assert_eq!(model.live_mappings(), 0, "after call {number}");
            if built.is_ok() {
                break;
            }
            number += 1;
        }
        assert!(number > 15, "{number} calls were tried");
    }
}

#[test]
fn a_parameter_that_xen_refuses_fails_the_build() {
    let model = Model::new(128);
    let (image, firmware) = (hvmloader(), firmware());
    let ramdisks = [&firmware];
    let modules = boot_modules(&ramdisks, FIRMWARE);
    let domid = new_domain(&model, GuestKind::Hvm, 64 << 10);
    let request = BuildRequest {
        modules: &modules,
        hvm_params: &[(HvmParam::TimerMode, 9)],
        ..request(domid, &image, 64 << 10)
    };
    let error = build_hvm(&model, &request, &HvmMachine::default()).unwrap_err();
    let BuildError::Hypervisor { step, source, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(step, xen_build::Step::SetHvmParams);
    assert!(source.is(Errno::EINVAL));
}

/// The refusal of a request, which comes before the first call.
fn refusal(
    image: &Image,
    machine: &HvmMachine,
    change: impl FnOnce(&mut BuildRequest<'_>),
) -> BuildError {
    let firmware = firmware();
    let ramdisks = [&firmware];
    let modules = boot_modules(&ramdisks, FIRMWARE);
    let mut request = BuildRequest {
        modules: &modules,
        ..request(DomId(1), image, 64 << 10)
    };
    change(&mut request);
    let model = Model::new(128);
    build_hvm(&model, &request, machine).unwrap_err();
    assert!(model.calls().is_empty());
    check_hvm(&request, machine).unwrap_err()
}

fn unfit(error: BuildError) -> Unfit {
    match error {
        BuildError::Image(xen_image::Error::Unfit { source, .. }) => source,
        other => panic!("{other}"),
    }
}

#[test]
fn requests_that_cannot_be_are_refused_by_name() {
    let (image, usual) = (hvmloader(), HvmMachine::default());
    for mmio_hole_mib in [0, 255, 3841, u64::MAX] {
        let machine = HvmMachine {
            mmio_hole_mib,
            ..usual
        };
        let error = refusal(&image, &machine, |_| ());
        assert!(matches!(error, BuildError::MmioHole { .. }), "{error}");
    }
    let error = refusal(&image, &usual, |request| request.modules = &[]);
    assert!(matches!(error, BuildError::NoFirmware), "{error}");
    let error = refusal(&image, &usual, |request| request.target_kib = 1024);
    assert!(
        matches!(error, BuildError::TooLittleMemory { .. }),
        "{error}"
    );
    let all_video = HvmMachine {
        video_ram_kib: 65 << 10,
        ..usual
    };
    let error = refusal(&image, &all_video, |_| ());
    assert!(
        matches!(error, BuildError::TooLittleMemory { .. }),
        "{error}"
    );
    let error = refusal(&image, &usual, |request| request.max_kib = 16 << 30);
    assert!(matches!(error, BuildError::TooMuchMemory { .. }), "{error}");
    let error = refusal(&image, &usual, |request| request.max_vcpus = 129);
    assert!(
        matches!(error, BuildError::Vcpus { kind: "HVM", .. }),
        "{error}"
    );
}

#[test]
fn only_firmware_is_started() {
    let usual = HvmMachine::default();
    let parse = |elf| Image::parse("test", elf, &Limits::default()).unwrap();
    let error = refusal(&parse(parts().elf()), &usual, |_| ());
    assert_eq!(unfit(error), Unfit::NotBits32);
    let kernel = parts().number(xen_image::elfnote::types::ENTRY, ENTRY);
    let error = refusal(&parse(kernel.elf()), &usual, |_| ());
    assert_eq!(unfit(error), Unfit::NoFirmware);
    let huge = Kernel::default().part(ENTRY, pattern(64, 1), 65 * MIB);
    let error = refusal(&parse(narrow(&huge.elf())), &usual, |request| {
        request.target_kib = 256 << 10;
    });
    assert!(matches!(error, BuildError::Layout { .. }), "{error}");
    let low = Kernel::default().part(0x9_0000, pattern(64, 1), 0);
    let error = refusal(&parse(narrow(&low.elf())), &usual, |_| ());
    assert!(matches!(error, BuildError::Layout { .. }), "{error}");
    // It is accepted for this use alone.
    assert!(hvmloader().kinds().is_empty());
    assert_eq!(hvmloader().hvm_firmware().unwrap().entry, ENTRY as u32);
    // A kernel with a PVH entry can be in its place.
    let kernel = parts().number(xen_image::elfnote::types::PHYS32_ENTRY, ENTRY + 1);
    let firmware = parse(kernel.elf()).hvm_firmware().unwrap();
    assert_eq!(firmware.entry, ENTRY as u32 + 1);
}

#[test]
fn a_boot_larger_than_the_memory_is_refused_with_a_figure() {
    let ovmf = ramdisk(9 * MIB);
    let ramdisks = [&ovmf];
    let modules = boot_modules(&ramdisks, FIRMWARE);
    let image = hvmloader();
    let check = |mib: u64, video_mib: u64| {
        let request = BuildRequest {
            modules: &modules,
            max_kib: 256 << 10,
            ..request(DomId(1), &image, mib << 10)
        };
        let machine = HvmMachine {
            video_ram_kib: video_mib << 10,
            ..HvmMachine::default()
        };
        check_hvm(&request, &machine)
    };
    let error = check(8, 0).unwrap_err();
    let BuildError::TooLittleMemory { needed_mib, .. } = error else {
        panic!("{error}")
    };
    check(needed_mib, 0).unwrap();
    check(needed_mib - 1, 0).unwrap_err();
    // The figures are of the domain's memory, video memory included.
    check(needed_mib + 4, 4).unwrap();
    let error = check(needed_mib + 3, 4).unwrap_err();
    let BuildError::TooLittleMemory {
        given_mib,
        needed_mib: with_video,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((given_mib, with_video), (needed_mib + 3, needed_mib + 4));
}

#[test]
fn modules_are_where_their_addresses_say() {
    let model = Model::new(128);
    let (image, firmware, tables) = (hvmloader(), firmware(), ramdisk(5000));
    let domid = new_domain(&model, GuestKind::Hvm, 64 << 10);
    let ramdisks = [&firmware, &tables];
    let mut modules = boot_modules(&ramdisks, FIRMWARE);
    modules[1].cmdline = "";
    let request = BuildRequest {
        modules: &modules,
        ..request(domid, &image, 64 << 10)
    };
    let machine = HvmMachine::default();
    build_hvm(&model, &request, &machine).unwrap();
    let addresses = hvm_module_addresses(&request, &machine).unwrap();
    for (address, module) in addresses.into_iter().zip([&firmware, &tables]) {
        assert_eq!(model.read(domid, address, module.bytes.len()), module.bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_size_gives_a_domain_that_holds(
        magnitude in 12..23_u32,
        fraction in 0.0..1.0_f64,
        more in proptest::option::of(1.0..4.0_f64),
        video_ram_kib in 0..2500_u64,
        mmio_hole_mib in 256..3841_u64,
    ) {
        let target_kib = ((1 << magnitude) as f64 * (1.0 + fraction)) as u64;
        let max_kib = ((target_kib as f64 * more.unwrap_or(0.0)) as u64).max(target_kib);
        let machine = HvmMachine { video_ram_kib, mmio_hole_mib, apic: true };
        let guest = Guest::new(target_kib, max_kib, &machine);
        let pages_of = |kib: u64| (kib / 4 * 4 - video_ram_kib) / 4;
        let low = guest.ram.low_end / PAGE;
        let high = guest.ram.high_end.saturating_sub(4 * GIB) / PAGE;
        prop_assert_eq!(low + high, pages_of(max_kib));
        prop_assert_eq!(guest.tot_pages(), pages_of(target_kib) - 0x20 + 16);
    }
}
