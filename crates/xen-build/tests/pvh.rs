//! PVH domains, built on the model and looked at as their kernels would.

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
use xen_build::cpu_policy::{CpuPolicyOptions, apply_default_policy};
use xen_build::{
    BootModule, BuildError, BuildRequest, Built, ExtentCounts, ModuleContent, Step, build_pvh,
    check_pvh,
};
use xen_image::elfnote::types;
use xen_image::{Image, SegmentBytes, Unfit};
use xen_port::{DomId, E820Entry, E820Kind, Errno, GuestKind, HvmParam};
use xen_sim::model::{DIRT, Model};

const ENTRY: u32 = 0x10_0010;
const HOLE: u64 = 0xfc00_0000;
const STORE: u64 = 0xf_effc;
const CONSOLE: u64 = 0xf_efff;
const IDENT_PT: u64 = 0xf_effe;

fn kernel() -> Kernel {
    Kernel::default()
        .part(MIB, pattern(2 * PAGE + 5, 1), PAGE)
        .part(MIB + 8 * PAGE + 0x80, pattern(0x345, 2), 3 * PAGE)
        .note(types::PHYS32_ENTRY, &ENTRY.to_le_bytes())
}

/// A Linux that looks for the RSDP below 1 MiB.
fn old_linux() -> Kernel {
    kernel().text(types::GUEST_OS, "linux")
}

fn new_linux() -> Kernel {
    old_linux().note(types::SUPPORTED_FEATURES, &(1_u32 << 15).to_le_bytes())
}

/// What a PVH kernel reads at its start.
struct StartInfo {
    modules: Vec<(u64, u64, String)>,
    cmdline: String,
    rsdp: u64,
    map: Vec<(u64, u64, u32)>,
}

fn text(model: &Model, domid: DomId, address: u64) -> String {
    let bytes = model.read(domid, address, 70_000);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

fn start_info(model: &Model, domid: DomId) -> StartInfo {
    let base = u64::from(model.domain(domid).unwrap().hvm_cpu.unwrap().ebx);
    let info = model.read(domid, base, 56);
    assert_eq!(
        (u32_at(&info, 0), u32_at(&info, 4), u32_at(&info, 8)),
        (0x336e_c578, 1, 0)
    );
    let module = |index: u64| {
        let entry = model.read(domid, u64_at(&info, 16) + index * 32, 32);
        let cmdline = match u64_at(&entry, 16) {
            0 => String::new(),
            address => text(model, domid, address),
        };
        assert_eq!(u64_at(&entry, 24), 0);
        (u64_at(&entry, 0), u64_at(&entry, 8), cmdline)
    };
    let range = |index: u64| {
        let entry = model.read(domid, u64_at(&info, 40) + index * 24, 24);
        assert_eq!(u32_at(&entry, 20), 0);
        (u64_at(&entry, 0), u64_at(&entry, 8), u32_at(&entry, 16))
    };
    assert_eq!(u32_at(&info, 52), 0);
    StartInfo {
        modules: (0..u32_at(&info, 12).into()).map(module).collect(),
        cmdline: text(model, domid, u64_at(&info, 24)),
        rsdp: u64_at(&info, 32),
        map: (0..u32_at(&info, 48).into()).map(range).collect(),
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A table, its checksum checked.
fn table(model: &Model, domid: DomId, address: u64, signature: &[u8; 4]) -> Vec<u8> {
    assert_eq!(address % 16, 0);
    let len = u32_at(&model.read(domid, address, 8), 4) as usize;
    let bytes = model.read(domid, address, len);
    assert_eq!(&bytes[..4], signature);
    assert_eq!(sum(&bytes), 0, "checksum");
    bytes
}

/// Reads the tables as ACPI says they hang together.
fn check_acpi(model: &Model, domid: DomId, rsdp_address: u64, max_vcpus: u32, online: u32) {
    let rsdp = model.read(domid, rsdp_address, 36);
    assert_eq!(
        (&rsdp[..8], sum(&rsdp[..20]), sum(&rsdp), rsdp[15]),
        (&b"RSD PTR "[..], 0, 0, 2)
    );
    let xsdt = table(model, domid, u64_at(&rsdp, 24), b"XSDT");
    assert_eq!(xsdt.len(), 36 + 16);
    let fadt = table(model, domid, u64_at(&xsdt, 36), b"FACP");
    assert_eq!((fadt.len(), fadt[8]), (268, 5));
    assert_eq!(u64_at(&fadt, 140), u64::from(u32_at(&fadt, 40)), "X_DSDT");
    assert_eq!(
        u64_at(&fadt, 132),
        u64::from(u32_at(&fadt, 36)),
        "X_FIRMWARE_CTRL"
    );
    assert_eq!(u16_at(&fadt, 109), 0x24, "no VGA, no CMOS clock");
    assert_eq!(u32_at(&fadt, 112), 0x8175, "flags");
    assert_eq!(u64_at(&fadt, 148 + 4), 0xb000, "X_PM1a_EVT_BLK");
    assert_eq!(u64_at(&fadt, 172 + 4), 0xb004, "X_PM1a_CNT_BLK");
    assert_eq!(
        (u32_at(&fadt, 56), u32_at(&fadt, 64), u32_at(&fadt, 76)),
        (0xb000, 0xb004, 0),
        "no PM timer"
    );
    assert_eq!(u64_at(&fadt, 116 + 4), 0xcf9, "reset register");
    let facs = model.read(domid, u32_at(&fadt, 36).into(), 64);
    assert_eq!(
        (&facs[..4], u32_at(&facs, 4), u32_at(&fadt, 36) % 64),
        (&b"FACS"[..], 64, 0)
    );
    let dsdt = table(model, domid, u32_at(&fadt, 40).into(), b"DSDT");
    let devices = dsdt
        .windows(8)
        .filter(|window| window == b"ACPI0007")
        .count();
    assert_eq!(devices, max_vcpus as usize);
    let madt = table(model, domid, u64_at(&xsdt, 44), b"APIC");
    assert_eq!(u32_at(&madt, 36), 0xfee0_0000);
    assert_eq!(madt.len(), 44 + 8 * max_vcpus as usize);
    for (vcpu, entry) in madt[44..].chunks(8).enumerate() {
        let enabled = u8::from((vcpu as u32) < online);
        assert_eq!(entry, [0, 8, vcpu as u8, vcpu as u8 * 2, enabled, 0, 0, 0]);
    }
}

/// No overlaps, rising, whole pages; gives the RAM in bytes.
fn check_map(map: &[(u64, u64, u32)]) -> u64 {
    let mut end = 0;
    for (start, len, kind) in map {
        assert!(*start >= end, "{map:x?}");
        assert!(*len > 0 && start % PAGE == 0 && len % PAGE == 0, "{map:x?}");
        assert!([1, 2, 4].contains(kind));
        end = start + len;
    }
    map.iter()
        .filter(|(_, _, kind)| *kind == 1)
        .map(|(_, len, _)| len)
        .sum()
}

fn in_one_range(map: &[(u64, u64, u32)], start: u64, len: u64, kind: u32) -> bool {
    map.iter()
        .any(|(first, size, k)| *k == kind && start >= *first && start + len <= first + size)
}

/// Looks at everything that the boot contract promises.
fn check(
    model: &Model,
    image: &Kernel,
    request: &BuildRequest<'_>,
    ramdisks: &[&Ramdisk],
    built: &Built,
) {
    let domid = request.domid;
    let info = start_info(model, domid);
    assert_eq!(info.cmdline, request.cmdline);
    let ram = check_map(&info.map);
    let low_rsdp = info.map.contains(&(0xff000, PAGE, 4));
    let max_kib = request.max_kib.max(request.target_kib);
    assert_eq!(ram + u64::from(low_rsdp) * PAGE, max_kib / 4 * PAGE);
    check_map_given_to_xen(model, domid, &info.map);
    check_kernel(model, image, domid);
    check_modules(model, request, ramdisks, &info);
    check_acpi(
        model,
        domid,
        info.rsdp,
        request.max_vcpus,
        request.online_vcpus,
    );
    assert!(
        in_one_range(&info.map, info.rsdp, 36, 4),
        "the tables are kept by the map"
    );
    if low_rsdp {
        check_acpi(
            model,
            domid,
            0xfffc0,
            request.max_vcpus,
            request.online_vcpus,
        );
        assert!(
            model
                .read(domid, 0xff000, 4096 - 64)
                .iter()
                .all(|byte| *byte == 0)
        );
    }
    check_special(model, domid, &info.map, built);
    check_aftermath(model, domid, built.store_gfn.0, built.console_gfn.0);
    let cpu = model.domain(domid).unwrap().hvm_cpu.unwrap();
    assert_eq!(cpu.eip, ENTRY);
    assert!(in_one_range(&info.map, cpu.ebx.into(), 56, 1));
}

fn check_map_given_to_xen(model: &Model, domid: DomId, map: &[(u64, u64, u32)]) {
    let given = model.domain(domid).unwrap().memory_map.clone();
    let given: Vec<_> = given
        .into_iter()
        .map(
            |E820Entry {
                 start,
                 size_bytes,
                 kind,
             }| (start, size_bytes, kind.number()),
        )
        .collect();
    assert_eq!(given, map);
    assert_eq!(E820Kind::Nvs.number(), 4);
}

fn check_kernel(model: &Model, image: &Kernel, domid: DomId) {
    for part in &image.parts {
        let bytes = model.read(domid, part.paddr, part.content.len() + part.bss as usize);
        assert!(bytes.starts_with(&part.content));
        assert!(
            bytes[part.content.len()..].iter().all(|byte| *byte == 0),
            "bss"
        );
    }
}

fn check_modules(
    model: &Model,
    request: &BuildRequest<'_>,
    ramdisks: &[&Ramdisk],
    info: &StartInfo,
) {
    assert_eq!(info.modules.len(), ramdisks.len());
    for ((address, len, cmdline), (ramdisk, module)) in info
        .modules
        .iter()
        .zip(ramdisks.iter().zip(request.modules))
    {
        assert_eq!(
            (*len, cmdline.as_str()),
            (ramdisk.bytes.len() as u64, module.cmdline)
        );
        assert_eq!(address % PAGE, 0);
        assert!(in_one_range(&info.map, *address, *len, 1));
        let bytes = model.read(request.domid, *address, len.next_multiple_of(PAGE) as usize);
        assert!(bytes.starts_with(&ramdisk.bytes));
        assert!(
            bytes[ramdisk.bytes.len()..].iter().all(|byte| *byte == 0),
            "the last page's end"
        );
    }
    let mut taken: Vec<(u64, u64)> = info
        .modules
        .iter()
        .map(|(address, len, _)| (*address, *len))
        .collect();
    taken.push((
        u64::from(model.domain(request.domid).unwrap().hvm_cpu.unwrap().ebx),
        56,
    ));
    taken.sort();
    assert!(
        taken
            .windows(2)
            .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0),
        "no overlaps"
    );
}

fn check_special(model: &Model, domid: DomId, map: &[(u64, u64, u32)], built: &Built) {
    assert_eq!((built.store_gfn.0, built.console_gfn.0), (STORE, CONSOLE));
    let domain = model.domain(domid).unwrap().clone();
    let param = |param: HvmParam| domain.params[&(param as u32)];
    assert_eq!(
        (param(HvmParam::StorePfn), param(HvmParam::StoreEvtchn)),
        (STORE, STORE_PORT.into())
    );
    assert_eq!(
        (param(HvmParam::ConsolePfn), param(HvmParam::ConsoleEvtchn)),
        (CONSOLE, CONSOLE_PORT.into())
    );
    assert_eq!(param(HvmParam::IdentPt), IDENT_PT << 12);
    assert!(in_one_range(
        map,
        param(HvmParam::MonitorRingPfn) << 12,
        PAGE,
        2
    ));
    for page in [STORE, CONSOLE, IDENT_PT] {
        assert!(in_one_range(map, page << 12, PAGE, 2));
    }
    for ring in [STORE, CONSOLE] {
        assert!(
            model
                .read(domid, ring << 12, 4096)
                .iter()
                .all(|byte| *byte == 0)
        );
    }
    let directory = model.read(domid, IDENT_PT << 12, 4096);
    for index in 0..1024 {
        assert_eq!(u32_at(&directory, index * 4), (index as u32) << 22 | 0xe7);
    }
}

fn build_and_check(kernel: &Kernel, target_kib: u64, max_kib: u64) -> (Model, Built) {
    let model = Model::new(16384);
    let image = kernel.build();
    let domid = new_domain(&model, GuestKind::Pvh, max_kib);
    let request = BuildRequest {
        max_kib,
        ..request(domid, &image, target_kib)
    };
    let built = build_pvh(&model, &request).unwrap();
    check(&model, kernel, &request, &[], &built);
    (model, built)
}

#[test]
fn memory_comes_in_the_largest_extents_that_fit() {
    let extents = |nr_1gib, nr_2mib, nr_4kib| ExtentCounts {
        nr_1gib,
        nr_2mib,
        nr_4kib,
    };
    let mib = |mib: u64| build_and_check(&kernel(), mib << 10, mib << 10).1.extents;
    // One page of tables and three special ones, in the hole.
    assert_eq!(mib(64), extents(0, 32, 4));
    assert_eq!(mib(65), extents(0, 32, 256 + 4));
    assert_eq!(mib(1024), extents(1, 0, 4));
    // Three whole GiB and 960 MiB below the hole, and what it displaces, 1088 MiB, from 4 GiB on.
    assert_eq!(mib(5120), extents(4, (960 + 64) / 2, 4));
}

#[test]
fn memory_that_the_hole_displaces_is_above_4_gib() {
    let (model, _) = build_and_check(&kernel(), 5 << 20, 5 << 20);
    let info = start_info(&model, DomId(1));
    assert_eq!(
        info.map,
        [
            (0, HOLE, 1),
            (HOLE, PAGE, 4),
            (0xfeff_8000, 8 * PAGE, 2),
            (1 << 32, (5 << 30) - HOLE, 1),
        ]
    );
}

#[test]
fn an_old_linux_finds_the_rsdp_below_1_mib() {
    let (model, _) = build_and_check(&old_linux(), 64 << 10, 64 << 10);
    let map = start_info(&model, DomId(1)).map;
    assert_eq!(
        map[..3],
        [(0, 0xff000, 1), (0xff000, PAGE, 4), (MIB, 63 * MIB, 1)]
    );
    let (model, _) = build_and_check(&new_linux(), 64 << 10, 64 << 10);
    assert_eq!(start_info(&model, DomId(1)).map[0], (0, 64 * MIB, 1));
}

#[test]
fn a_kernel_that_lies_where_the_rsdp_would_be_keeps_its_place() {
    let low = Kernel::default()
        .part(0xf_8000, pattern(0x2_0000, 1), PAGE)
        .note(types::PHYS32_ENTRY, &ENTRY.to_le_bytes())
        .text(types::GUEST_OS, "linux");
    let (model, _) = build_and_check(&low, 64 << 10, 64 << 10);
    assert_eq!(start_info(&model, DomId(1)).map[0], (0, 64 * MIB, 1));
}

#[test]
fn memory_up_to_maxmem_is_populated_on_demand() {
    let (model, built) = build_and_check(&kernel(), 64 << 10, 256 << 10);
    assert_eq!(
        built.extents,
        ExtentCounts {
            nr_1gib: 0,
            nr_2mib: 0,
            nr_4kib: 4
        }
    );
    let domain = model.domain(DomId(1)).unwrap();
    assert_eq!(
        domain
            .on_demand
            .values()
            .map(|order| 1_u64 << order)
            .sum::<u64>(),
        65536
    );
    assert_eq!(domain.tot_pages, 16384 + 4);
    assert!(
        domain.pod_pages < 16384,
        "what was filled came from the cache"
    );
}

#[test]
fn modules_come_in_order_with_their_command_lines() {
    let (shim_kernel, initrd) = (ramdisk(3 * MIB + 1), ramdisk(PAGE));
    let ramdisks = [&shim_kernel, &initrd];
    let mut modules = boot_modules(&ramdisks, "");
    modules[0].cmdline = "console=hvc0";
    let model = Model::new(128);
    let (kernel, domid) = (kernel(), new_domain(&model, GuestKind::Pvh, 64 << 10));
    let image = kernel.build();
    let request = BuildRequest {
        modules: &modules,
        ..request(domid, &image, 64 << 10)
    };
    let built = build_pvh(&model, &request).unwrap();
    check(&model, &kernel, &request, &ramdisks, &built);
}

#[test]
fn a_kernel_is_a_module_as_it_was_parsed() {
    let model = Model::new(128);
    let (kernel, domid) = (kernel(), new_domain(&model, GuestKind::Pvh, 64 << 10));
    let (image, inner) = (kernel.build(), old_linux().build());
    let modules = [BootModule {
        content: ModuleContent::Kernel(&inner),
        cmdline: "console=hvc0",
    }];
    let request = BuildRequest {
        modules: &modules,
        ..request(domid, &image, 64 << 10)
    };
    build_pvh(&model, &request).unwrap();
    let info = start_info(&model, domid);
    let (address, len, cmdline) = info.modules.first().unwrap();
    assert_eq!(
        (*len, cmdline.as_str()),
        (inner.size_bytes(), "console=hvc0")
    );
    let SegmentBytes::Memory(wanted) = inner.bytes() else {
        panic!("it is in memory")
    };
    assert_eq!(model.read(domid, *address, wanted.len()), wanted);
}

#[test]
fn every_vcpu_up_to_128_is_in_the_tables() {
    for (max_vcpus, online_vcpus) in [(1, 1), (3, 2), (128, 128), (128, 7)] {
        let model = Model::new(128);
        let (kernel, domid) = (kernel(), new_domain(&model, GuestKind::Pvh, 64 << 10));
        let image = kernel.build();
        let request = BuildRequest {
            max_vcpus,
            online_vcpus,
            ..request(domid, &image, 64 << 10)
        };
        let built = build_pvh(&model, &request).unwrap();
        check(&model, &kernel, &request, &[], &built);
    }
}

#[test]
fn the_requests_of_a_64_mib_domain() {
    let model = Model::new(128);
    let image = kernel().build();
    let domid = new_domain(&model, GuestKind::Pvh, 64 << 10);
    model.forget_calls();
    let further = [(HvmParam::TimerMode, 1)];
    let request = BuildRequest {
        hvm_params: &further,
        ..request(domid, &image, 64 << 10)
    };
    build_pvh(&model, &request).unwrap();
    let calls = model.calls();
    let calls: Vec<_> = calls
        .iter()
        .filter(|call| !call.op.starts_with("GuestMemory"))
        .map(|call| (call.op, call.items))
        .collect();
    assert_eq!(
        calls,
        [
            ("set_memory_map", 3),
            ("claim_pages", 1),
            ("populate_physmap", 32),
            ("populate_physmap", 4),
            // Kernel 12, start_info 1, the hole's 4.
            ("map_foreign", 17),
            ("set_hvm_params", 7),
            ("set_hvm_boot_cpu", 1),
            ("map_grant_frames", 1),
        ]
    );
    assert_eq!(
        model.read(domid, 0, 4096),
        vec![DIRT; 4096],
        "what is not filled is not touched"
    );
}

#[test]
fn a_failure_anywhere_leaves_no_claim_and_no_mapping() {
    let image = old_linux().build();
    let ramdisk = ramdisk(5000);
    let ramdisks = [&ramdisk];
    let modules = boot_modules(&ramdisks, "x");
    for max_kib in [20 << 10, 40 << 10] {
        let mut number = 0;
        loop {
            let model = Model::new(128);
            model.limit_extents(9, 5);
            let domid = new_domain(&model, GuestKind::Pvh, max_kib);
            model.fail_at(number, Errno::EINVAL);
            let request = BuildRequest {
                modules: &modules,
                max_kib,
                ..request(domid, &image, 20 << 10)
            };
            let built = build_pvh(&model, &request);
            assert_eq!(
                model.domain(domid).unwrap().claimed_pages,
                0,
                "after call {number}"
            );
            assert_eq!(model.live_mappings(), 0, "after call {number}");
            if built.is_ok() {
                break;
            }
            number += 1;
        }
        assert!(number > 20, "{number} calls were tried");
    }
}

#[test]
fn a_lack_of_memory_is_told_in_figures() {
    for (claim, max_kib) in [(true, 64 << 10), (false, 64 << 10), (false, 128 << 10)] {
        let model = Model::new(48);
        let image = kernel().build();
        let domid = new_domain(&model, GuestKind::Pvh, max_kib);
        let request = BuildRequest {
            claim,
            max_kib,
            ..request(domid, &image, 64 << 10)
        };
        let error = build_pvh(&model, &request).unwrap_err();
        assert!(
            matches!(
                error,
                BuildError::OutOfMemory {
                    wanted_mib: 64,
                    free_mib: Some(_),
                    ..
                }
            ),
            "{error}"
        );
    }
}

fn refusal(image: &Image, change: impl FnOnce(&mut BuildRequest<'_>)) -> BuildError {
    let mut request = request(DomId(1), image, 64 << 10);
    change(&mut request);
    let error = check_pvh(&request).unwrap_err();
    // What is refused is refused before the first request.
    let model = Model::new(128);
    assert_eq!(
        build_pvh(&model, &request).unwrap_err().to_string(),
        error.to_string()
    );
    assert!(model.calls().is_empty());
    error
}

#[test]
fn requests_that_cannot_be_are_refused_by_name() {
    let image = kernel().build();
    let error = refusal(&image, |request| request.max_vcpus = 129);
    assert!(
        matches!(
            error,
            BuildError::Vcpus {
                given: 129,
                max: 128,
                ..
            }
        ),
        "{error}"
    );
    let error = refusal(&image, |request| request.target_kib = 1024);
    assert!(
        matches!(
            error,
            BuildError::TooLittleMemory {
                given_mib: 1,
                needed_mib: 2
            }
        ),
        "{error}"
    );
    let high = Kernel::default()
        .part(0xfbff_f000, pattern(64, 0), 0)
        .note(types::PHYS32_ENTRY, &0xfbff_f000_u32.to_le_bytes());
    let error = refusal(&high.build(), |request| request.target_kib = 8 << 20);
    assert!(matches!(error, BuildError::Layout { .. }), "{error}");
    let no_notes = Kernel::default().part(MIB, pattern(64, 0), 0).build();
    let error = refusal(&no_notes, |_| ());
    assert!(
        matches!(
            error,
            BuildError::Image(xen_image::Error::Unfit {
                source: Unfit::NoXenNotes,
                ..
            })
        ),
        "{error}"
    );
}

#[test]
fn a_boot_larger_than_what_is_there_at_the_start_is_refused() {
    let ramdisk = ramdisk(9 * MIB);
    let ramdisks = [&ramdisk];
    let modules = boot_modules(&ramdisks, "");
    let image = kernel().build();
    let with = |mib: u64| BuildRequest {
        modules: &modules,
        max_kib: 256 << 10,
        ..request(DomId(1), &image, mib << 10)
    };
    let error = check_pvh(&with(8)).unwrap_err();
    let BuildError::TooLittleMemory { needed_mib, .. } = error else {
        panic!("{error}")
    };
    check_pvh(&with(needed_mib)).unwrap();
    check_pvh(&with(needed_mib - 1)).unwrap_err();
}

#[test]
fn the_cpu_policy_costs_two_requests_and_none_for_pv() {
    let model = Model::new(64);
    let pv = new_domain(&model, GuestKind::Pv, 4096);
    let pvh = new_domain(&model, GuestKind::Pvh, 4096);
    model.forget_calls();
    apply_default_policy(&model, pv, GuestKind::Pv, CpuPolicyOptions::default()).unwrap();
    assert!(model.calls().is_empty());
    apply_default_policy(&model, pvh, GuestKind::Pvh, CpuPolicyOptions::default()).unwrap();
    assert!(model.calls().len() <= 2);
    let error = apply_default_policy(
        &model,
        DomId(9),
        GuestKind::Pvh,
        CpuPolicyOptions::default(),
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            BuildError::Hypervisor {
                step: Step::ReadCpuPolicy,
                ..
            }
        ),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_size_gives_a_domain_that_holds_or_a_figure_that_would(
        linux in any::<bool>(),
        magnitude in 11..24_u32,
        fraction in 0.0..1.0_f64,
        more in proptest::option::of(1.0..4.0_f64),
        ramdisk_lens in proptest::collection::vec(1..2 * MIB, 0..3),
        superpages in 0..40_usize,
        vcpus in (1..129_u32, 1..129_u32),
    ) {
        let target_kib = ((1 << magnitude) as f64 * (1.0 + fraction)) as u64;
        let max_kib = (target_kib as f64 * more.unwrap_or(0.0)) as u64;
        let limit = if target_kib < 65536 { superpages } else { usize::MAX };
        let model = Model::new(65536);
        model.limit_extents(9, limit);
        let kernel = if linux { old_linux() } else { kernel() };
        let image = kernel.build();
        let domid = new_domain(&model, GuestKind::Pvh, max_kib.max(target_kib));
        let ramdisks: Vec<Ramdisk> = ramdisk_lens.into_iter().map(ramdisk).collect();
        let ramdisks: Vec<&Ramdisk> = ramdisks.iter().collect();
        let modules = boot_modules(&ramdisks, "one two");
        let max_vcpus = vcpus.0.max(vcpus.1);
        let online_vcpus = vcpus.0.min(vcpus.1);
        let request =
            BuildRequest { modules: &modules, max_kib, max_vcpus, online_vcpus, ..request(domid, &image, target_kib) };
        match build_pvh(&model, &request) {
            Ok(built) => check(&model, &kernel, &request, &ramdisks, &built),
            Err(BuildError::TooLittleMemory { given_mib, needed_mib }) => {
                prop_assert!(needed_mib > given_mib);
                let enough = BuildRequest { target_kib: needed_mib << 10, ..request };
                prop_assert!(check_pvh(&enough).is_ok());
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn any_command_line_is_there(cmdline in "[ -~]{0,3000}") {
        let model = Model::new(64);
        let kernel = kernel();
        let image = kernel.build();
        let domid = new_domain(&model, GuestKind::Pvh, 8 << 10);
        let request = BuildRequest { cmdline: &cmdline, ..request(domid, &image, 8 << 10) };
        let built = build_pvh(&model, &request).unwrap();
        check(&model, &kernel, &request, &[], &built);
    }
}
