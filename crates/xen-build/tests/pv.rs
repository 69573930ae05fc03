//! 64-bit PV domains, built on the model and looked at as their kernels would.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use proptest::prelude::*;
use xen_build::{BuildError, BuildRequest, Built, ExtentCounts, Step, build_pv, check_pv};
use xen_image::elfnote::types;
use xen_image::{Loader, Unfit};
use xen_port::{DomId, E820Entry, E820Kind, Errno, GuestKind, Hypervisor, Mfn, PageTableLevel};
use xen_sim::model::{DIRT, Model};

const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
const P2M_BASE: u64 = 0x0000_0080_0000_0000;
const HYPERCALL_OFFSET: u64 = 0x1000;

/// What a PV kernel asks for.
#[derive(Clone, Copy, Debug)]
struct Wishes {
    virt_base: u64,
    paddr: u64,
    bss_pages: u64,
    separate_p2m: bool,
    unmapped_ramdisk: bool,
}

/// Like Linux, but small.
const LINUX: Wishes = Wishes {
    virt_base: VIRT_BASE,
    paddr: MIB,
    bss_pages: 20,
    separate_p2m: true,
    unmapped_ramdisk: true,
};
/// Like a small system without any notes that it need not have.
const PLAIN: Wishes = Wishes {
    virt_base: 0,
    paddr: 0,
    bss_pages: 2,
    separate_p2m: false,
    unmapped_ramdisk: false,
};

fn kernel(wishes: Wishes) -> Kernel {
    let Wishes {
        virt_base,
        paddr,
        bss_pages,
        separate_p2m,
        unmapped_ramdisk,
    } = wishes;
    let mut kernel = Kernel::default()
        .part(paddr, pattern(3 * PAGE, 1), 0)
        .part(
            paddr + 3 * PAGE + 0x800,
            pattern(0x123, 2),
            bss_pages * PAGE,
        )
        .text(types::GUEST_OS, "tests")
        .text(types::LOADER, "generic")
        .text(types::XEN_VERSION, "xen-3.0")
        .text(types::FEATURES, "!writable_page_tables|pae_pgdir_above_4gb")
        .number(types::VIRT_BASE, virt_base)
        .number(types::ENTRY, virt_base + paddr + 0x40)
        .number(types::HYPERCALL_PAGE, virt_base + paddr + HYPERCALL_OFFSET);
    if separate_p2m {
        kernel = kernel.number(types::INIT_P2M, P2M_BASE);
    }
    if unmapped_ramdisk {
        kernel = kernel.number(types::MOD_START_PFN, 1);
    }
    kernel
}

/// A mapping of the page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaf {
    frame: u64,
    writable: bool,
}

/// The guest as its page tables show it.
struct Guest<'a> {
    model: &'a Model,
    domid: DomId,
    leaves: BTreeMap<u64, Leaf>,
    tables: BTreeSet<u64>,
}

impl<'a> Guest<'a> {
    fn new(model: &'a Model, domid: DomId) -> Guest<'a> {
        let top = model.domain(domid).unwrap().pv_cpu.unwrap().cr3;
        let mut guest = Guest {
            model,
            domid,
            leaves: BTreeMap::new(),
            tables: BTreeSet::new(),
        };
        guest.walk(top.0, 4, 0, true);
        guest
    }

    fn walk(&mut self, frame: u64, level: u32, virt: u64, writable: bool) {
        assert!(
            self.tables.insert(frame),
            "frame {frame:#x} is one table only"
        );
        let table = self.model.frame(Mfn(frame));
        for index in 0..512_u64 {
            let entry = u64_at(&table, index as usize * 8);
            if entry & 1 == 0 {
                assert_eq!(entry, 0, "nothing in an entry that is not present");
                continue;
            }
            assert_eq!(entry & 0x80, 0, "no large pages");
            let target = (entry & 0x000f_ffff_ffff_f000) >> 12;
            let writable = writable && entry & 2 != 0;
            let virt = virt | index << (12 + 9 * (level - 1));
            if level > 1 {
                assert_eq!(entry & 0xfff, 0x67);
                self.walk(target, level - 1, virt, writable);
            } else {
                assert_eq!(entry & 0xffd, 0x21);
                let virt = if virt >> 47 == 1 {
                    virt | 0xffff << 48
                } else {
                    virt
                };
                self.leaves.insert(
                    virt,
                    Leaf {
                        frame: target,
                        writable,
                    },
                );
            }
        }
    }

    fn read(&self, virt: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let at = virt + bytes.len() as u64;
            let leaf = self
                .leaves
                .get(&(at & !0xfff))
                .unwrap_or_else(|| panic!("{at:#x} is not mapped"));
            let page = self.model.frame(Mfn(leaf.frame));
            let start = (at & 0xfff) as usize;
            let count = (4096 - start).min(len - bytes.len());
            bytes.extend(&page[start..start + count]);
        }
        bytes
    }

    fn frame_of(&self, page: u64) -> u64 {
        self.model.frame_of(self.domid, page).unwrap().0
    }
}

/// Looks at everything that the boot contract promises.
fn check(
    model: &Model,
    wishes: Wishes,
    request: &BuildRequest<'_>,
    ramdisk: Option<&Ramdisk>,
    built: &Built,
) {
    let guest = Guest::new(model, request.domid);
    let cpu = model.domain(request.domid).unwrap().pv_cpu.unwrap();
    assert_eq!(cpu.rip, wishes.virt_base + wishes.paddr + 0x40);
    let info = guest.read(cpu.rsi, 1168);
    check_start_info(&guest, wishes, request, built, &info);
    check_tables(&guest, wishes, &info);
    check_p2m(&guest, wishes, request, &info);
    check_kernel(&guest, wishes);
    check_ramdisk(&guest, wishes, &info, ramdisk);
    check_aftermath(model, request.domid, built.store_gfn.0, built.console_gfn.0);
    let domain = model.domain(request.domid).unwrap();
    assert_eq!(domain.pinned, [(PageTableLevel::L4, cpu.cr3)]);
    assert_eq!(
        domain.hypercall_page.unwrap().0,
        guest.frame_of((wishes.paddr + HYPERCALL_OFFSET) / PAGE)
    );
    assert_eq!(domain.tot_pages, request.target_kib / 4);
    let limit = request.max_kib.max(request.target_kib) / 4 * PAGE;
    assert_eq!(
        domain.memory_map,
        [E820Entry {
            start: 0,
            size_bytes: limit,
            kind: E820Kind::Ram
        }]
    );
    for ring in [built.store_gfn, built.console_gfn] {
        assert!(model.frame(Mfn(ring.0)).iter().all(|byte| *byte == 0));
    }
    let shared = model.frame(domain.shared_info);
    let masked: Vec<usize> = (0..4096).filter(|offset| shared[*offset] != 0).collect();
    assert_eq!(
        masked,
        (0..32).map(|vcpu| vcpu * 64 + 1).collect::<Vec<_>>()
    );
}

fn check_start_info(
    guest: &Guest<'_>,
    wishes: Wishes,
    request: &BuildRequest<'_>,
    built: &Built,
    info: &[u8],
) {
    let domain = guest.model.domain(request.domid).unwrap();
    assert!(info.starts_with(b"xen-3.0-x86_64\0"));
    assert_eq!(u64_at(info, 32), request.target_kib / 4, "nr_pages");
    assert_eq!(u64_at(info, 40), domain.shared_info.0 << 12, "shared_info");
    assert_eq!(u64_at(info, 56), built.store_gfn.0, "store_mfn");
    assert_eq!(u32_at(info, 64), STORE_PORT);
    assert_eq!(u64_at(info, 72), built.console_gfn.0, "console mfn");
    assert_eq!(u32_at(info, 80), CONSOLE_PORT);
    let cmdline = &info[128..1152];
    assert!(cmdline.starts_with(request.cmdline.as_bytes()));
    assert!(
        cmdline[request.cmdline.len()..]
            .iter()
            .all(|byte| *byte == 0)
    );
    let page = guest.read(domain.pv_cpu.unwrap().rsi, 4096);
    assert!(
        page[1168..].iter().all(|byte| *byte == 0),
        "nothing behind start_info"
    );
    // The order: start_info, xenstore, console, page tables, stack.
    let cpu = domain.pv_cpu.unwrap();
    let pages = [cpu.rsi + PAGE, cpu.rsi + 2 * PAGE].map(|virt| guest.leaves[&virt].frame);
    assert_eq!(pages, [built.store_gfn.0, built.console_gfn.0]);
    let (pt_base, nr_tables) = (u64_at(info, 88), u64_at(info, 96));
    assert_eq!(pt_base, cpu.rsi + 3 * PAGE);
    assert_eq!(guest.leaves[&pt_base].frame, cpu.cr3.0);
    assert_eq!(cpu.rsp, pt_base + (nr_tables + 1) * PAGE);
    assert_eq!(wishes.separate_p2m, u64_at(info, 1160) != 0);
}

fn check_tables(guest: &Guest<'_>, wishes: Wishes, info: &[u8]) {
    let (pt_base, nr_tables) = (u64_at(info, 88), u64_at(info, 96));
    let cpu = guest.model.domain(guest.domid).unwrap().pv_cpu.unwrap();
    let row: Vec<u64> = guest
        .leaves
        .keys()
        .copied()
        .filter(|virt| *virt >= wishes.virt_base)
        .collect();
    let end = wishes.virt_base + row.len() as u64 * PAGE;
    assert_eq!(row.last().unwrap() + PAGE, end, "no hole in the mapping");
    assert_eq!(end % (4 * MIB), 0, "the mapping ends at 4 MiB");
    assert!(end - cpu.rsp >= 512 << 10, "512 KiB of padding");
    assert!(
        end - cpu.rsp < (512 << 10) + 4 * MIB + PAGE,
        "and not much more"
    );
    let mut seen = BTreeSet::new();
    for (virt, leaf) in &guest.leaves {
        assert!(
            seen.insert(leaf.frame),
            "frame {:#x} is mapped twice",
            leaf.frame
        );
        assert_eq!(
            leaf.writable,
            !guest.tables.contains(&leaf.frame),
            "{virt:#x}"
        );
        if *virt >= wishes.virt_base {
            assert_eq!(leaf.frame, guest.frame_of((virt - wishes.virt_base) / PAGE));
        }
    }
    for number in 0..nr_tables {
        let leaf = guest.leaves[&(pt_base + number * PAGE)];
        assert!(guest.tables.contains(&leaf.frame) && !leaf.writable);
    }
    let separate = u64_at(info, 1160).saturating_sub((u64_at(info, 32) * 8).div_ceil(PAGE));
    let others = if wishes.separate_p2m { separate } else { 0 };
    assert_eq!(
        guest.tables.len() as u64,
        nr_tables + others,
        "no other tables"
    );
}

fn check_p2m(guest: &Guest<'_>, wishes: Wishes, request: &BuildRequest<'_>, info: &[u8]) {
    let list = u64_at(info, 104);
    let nr_pages = request.target_kib / 4;
    let len = nr_pages as usize * 8;
    let whole = len.next_multiple_of(4096);
    let bytes = guest.read(list, whole);
    for page in (0..nr_pages).step_by(97).chain([nr_pages - 1]) {
        assert_eq!(
            u64_at(&bytes, page as usize * 8),
            guest.frame_of(page),
            "page {page}"
        );
    }
    assert!(bytes[len..].iter().all(|byte| *byte == 0));
    if wishes.separate_p2m {
        assert_eq!(list, P2M_BASE);
        let first = u64_at(info, 1152);
        assert_eq!(guest.leaves[&P2M_BASE].frame, guest.frame_of(first));
        let mapped = guest
            .leaves
            .keys()
            .filter(|virt| **virt < wishes.virt_base)
            .count();
        assert_eq!(mapped, whole / 4096, "the list and nothing else");
    }
}

fn check_kernel(guest: &Guest<'_>, wishes: Wishes) {
    for part in kernel(wishes).parts {
        let bytes = guest.read(
            wishes.virt_base + part.paddr,
            part.content.len() + part.bss as usize,
        );
        assert!(bytes.starts_with(&part.content));
        assert!(
            bytes[part.content.len()..].iter().all(|byte| *byte == 0),
            "bss"
        );
    }
    let gap = guest.read(wishes.virt_base + wishes.paddr + 3 * PAGE, 0x800);
    assert!(gap.iter().all(|byte| *byte == 0), "gaps between segments");
}

fn check_ramdisk(guest: &Guest<'_>, wishes: Wishes, info: &[u8], ramdisk: Option<&Ramdisk>) {
    let (start, len, flags) = (u64_at(info, 112), u64_at(info, 120), u32_at(info, 48));
    let Some(ramdisk) = ramdisk else {
        assert_eq!((start, len, flags), (0, 0, 0));
        return;
    };
    assert_eq!(len, ramdisk.bytes.len() as u64);
    let whole = len.next_multiple_of(PAGE) as usize;
    let bytes = if wishes.unmapped_ramdisk {
        assert_eq!(flags, 8, "SIF_MOD_START_PFN");
        guest.model.read(guest.domid, start * PAGE, whole)
    } else {
        assert_eq!(flags, 0);
        guest.read(start, whole)
    };
    assert!(bytes.starts_with(&ramdisk.bytes));
    assert!(
        bytes[ramdisk.bytes.len()..].iter().all(|byte| *byte == 0),
        "the last page's end"
    );
}

/// Builds a domain on a fresh host and looks at it.
fn build_and_check(
    wishes: Wishes,
    target_kib: u64,
    ramdisk_len: Option<u64>,
    prepare: impl Fn(&Model),
) -> Built {
    let model = Model::new(16384);
    prepare(&model);
    let image = kernel(wishes).build();
    let domid = new_domain(&model, GuestKind::Pv, target_kib);
    let ramdisk = ramdisk_len.map(ramdisk);
    let ramdisks: Vec<&Ramdisk> = ramdisk.iter().collect();
    let modules = boot_modules(&ramdisks, "");
    let request = BuildRequest {
        modules: &modules,
        ..request(domid, &image, target_kib)
    };
    let built = build_pv(&model, &request).unwrap();
    check(&model, wishes, &request, ramdisk.as_ref(), &built);
    built
}

#[test]
fn a_linux_like_kernel_finds_what_it_asked_for() {
    let built = build_and_check(LINUX, 64 << 10, Some(MIB + 123), |_| ());
    assert_eq!(
        built.extents,
        ExtentCounts {
            nr_1gib: 0,
            nr_2mib: 32,
            nr_4kib: 0
        }
    );
}

#[test]
fn a_plain_kernel_finds_everything_in_a_row() {
    build_and_check(PLAIN, 64 << 10, Some(MIB + 123), |_| ());
    build_and_check(PLAIN, 4 << 10, None, |_| ());
}

#[test]
fn the_padding_is_there_wherever_the_row_ends() {
    for pages in (1..1100).step_by(61) {
        build_and_check(PLAIN, 16 << 10, Some(pages * PAGE), |_| ());
    }
}

#[test]
fn a_kernel_that_stays_in_its_file_is_read_from_there() {
    let (model, file) = (Model::new(128), file(&kernel(LINUX).elf()));
    let image = Loader::default().load(file.path()).unwrap();
    let domid = new_domain(&model, GuestKind::Pv, 64 << 10);
    let request = request(domid, &image, 64 << 10);
    let built = build_pv(&model, &request).unwrap();
    check(&model, LINUX, &request, None, &built);
}

#[test]
fn a_file_that_shrank_is_named() {
    let (model, ramdisk) = (Model::new(128), ramdisk(5000));
    let ramdisks = [&ramdisk];
    let modules = boot_modules(&ramdisks, "");
    let kernel_file = file(&kernel(LINUX).elf());
    let image = Loader::default().load(kernel_file.path()).unwrap();
    for shrunk in [&ramdisk.file, &kernel_file] {
        let domid = new_domain(&model, GuestKind::Pv, 64 << 10);
        let request = BuildRequest {
            modules: &modules,
            ..request(domid, &image, 64 << 10)
        };
        shrunk.as_file().set_len(100).unwrap();
        let error = build_pv(&model, &request).unwrap_err().to_string();
        assert!(error.contains(shrunk.path().to_str().unwrap()), "{error}");
        assert_eq!(model.live_mappings(), 0);
        model
            .destroy_domain(domid, std::time::Instant::now())
            .unwrap();
    }
}

#[test]
fn bss_is_zero_where_xen_does_not_clear_pages_too() {
    build_and_check(LINUX, 64 << 10, None, |model| model.refuse_to_clear());
}

#[test]
fn memory_comes_in_pages_where_xen_has_no_superpages() {
    let built = build_and_check(LINUX, 20 << 10, None, |model| model.limit_extents(9, 3));
    assert_eq!(
        built.extents,
        ExtentCounts {
            nr_1gib: 0,
            nr_2mib: 3,
            nr_4kib: 7 * 512
        }
    );
}

#[test]
fn the_requests_of_a_64_mib_domain() {
    let model = Model::new(128);
    let image = kernel(LINUX).build();
    let domid = new_domain(&model, GuestKind::Pv, 64 << 10);
    model.forget_calls();
    build_pv(&model, &request(domid, &image, 64 << 10)).unwrap();
    let calls: Vec<_> = model
        .calls()
        .into_iter()
        .filter(|call| !call.op.starts_with("GuestMemory"))
        .collect();
    let names: Vec<&str> = calls.iter().map(|call| call.op).collect();
    assert_eq!(
        names,
        [
            "domain_info",
            "set_memory_map",
            "claim_pages",
            "populate_physmap",
            "clear_pages",
            "map_foreign",
            "init_hypercall_page",
            "pin_tables",
            "set_pv_boot_cpu",
            "map_grant_frames",
        ]
    );
    let mapped = calls
        .iter()
        .find(|call| call.op == "map_foreign")
        .unwrap()
        .items;
    // Kernel 4 of 24, list 32 and its 3 tables, start_info, rings, 5 tables, shared info.
    assert_eq!(mapped, 4 + 32 + 3 + 3 + 5 + 1);
}

#[test]
fn memory_that_is_not_filled_is_not_touched() {
    let model = Model::new(128);
    let image = kernel(LINUX).build();
    let domid = new_domain(&model, GuestKind::Pv, 64 << 10);
    build_pv(&model, &request(domid, &image, 64 << 10)).unwrap();
    assert_eq!(model.read(domid, 0, 4096), vec![DIRT; 4096]);
    assert_eq!(model.read(domid, 63 * MIB, 4096), vec![DIRT; 4096]);
}

#[test]
fn a_failure_anywhere_leaves_no_claim_and_no_mapping() {
    let image = kernel(LINUX).build();
    let ramdisk = ramdisk(5000);
    let ramdisks = [&ramdisk];
    let modules = boot_modules(&ramdisks, "");
    for number in 0.. {
        let model = Model::new(128);
        // Fewer superpages than wanted: all kinds of calls are made.
        model.limit_extents(9, 5);
        let domid = new_domain(&model, GuestKind::Pv, 20 << 10);
        model.fail_at(number, Errno::EINVAL);
        let request = BuildRequest {
            modules: &modules,
            ..request(domid, &image, 20 << 10)
        };
        let built = build_pv(&model, &request);
        if built.is_ok() {
            assert!(number > 20, "{number} calls were tried");
            return;
        }
        let text = built.unwrap_err().to_string();
        assert!(text.contains("of domain 1: "), "{text}");
        assert_eq!(
            model.domain(domid).unwrap().claimed_pages,
            0,
            "after call {number}"
        );
        assert_eq!(model.live_mappings(), 0, "after call {number}");
    }
}

#[test]
fn a_lack_of_memory_is_told_in_figures() {
    for claim in [true, false] {
        let model = Model::new(48);
        let image = kernel(LINUX).build();
        let domid = new_domain(&model, GuestKind::Pv, 64 << 10);
        let request = BuildRequest {
            claim,
            ..request(domid, &image, 64 << 10)
        };
        let error = build_pv(&model, &request).unwrap_err();
        let BuildError::OutOfMemory {
            wanted_mib: 64,
            free_mib: Some(free),
            step,
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(
            (free, step),
            if claim {
                (48, Step::Claim)
            } else {
                (0, Step::Populate)
            }
        );
        assert_eq!(model.domain(domid).unwrap().claimed_pages, 0);
    }
}

#[test]
fn a_domain_that_is_gone_is_named() {
    let model = Model::new(64);
    let image = kernel(LINUX).build();
    let error = build_pv(&model, &request(DomId(7), &image, 64 << 10)).unwrap_err();
    assert!(
        matches!(
            error,
            BuildError::NoDomain {
                domid: DomId(7),
                step: Step::ReadDomain
            }
        ),
        "{error}"
    );
}

fn refusal(image: &xen_image::Image, change: impl FnOnce(&mut BuildRequest<'_>)) -> BuildError {
    let mut request = request(DomId(1), image, 64 << 10);
    change(&mut request);
    let error = check_pv(&request).unwrap_err();
    // What is refused is refused before the first request.
    let model = Model::new(128);
    assert_eq!(
        build_pv(&model, &request).unwrap_err().to_string(),
        error.to_string()
    );
    assert!(model.calls().is_empty());
    error
}

#[test]
fn too_little_memory_says_how_much_would_do() {
    let image = kernel(LINUX).build();
    let error = refusal(&image, |request| request.target_kib = 2048);
    let BuildError::TooLittleMemory {
        given_mib: 2,
        needed_mib,
    } = error
    else {
        panic!("{error}")
    };
    check_pv(&request(DomId(1), &image, needed_mib << 10)).unwrap();
    let error = refusal(&image, |request| {
        request.target_kib = (needed_mib - 1) << 10
    });
    assert!(
        matches!(error, BuildError::TooLittleMemory { needed_mib: again, .. } if again == needed_mib)
    );
}

#[test]
fn a_ramdisk_larger_than_memory_says_how_much_would_do() {
    let ramdisk = ramdisk(9 * MIB);
    let ramdisks = [&ramdisk];
    let modules = boot_modules(&ramdisks, "");
    for wishes in [LINUX, PLAIN] {
        let image = kernel(wishes).build();
        let with = |mib: u64| BuildRequest {
            modules: &modules,
            ..request(DomId(1), &image, mib << 10)
        };
        let BuildError::TooLittleMemory { needed_mib, .. } = check_pv(&with(8)).unwrap_err() else {
            panic!()
        };
        check_pv(&with(needed_mib)).unwrap();
        check_pv(&with(needed_mib - 1)).unwrap_err();
    }
}

#[test]
fn requests_that_cannot_be_are_refused_by_name() {
    let image = kernel(LINUX).build();
    let long = "x".repeat(1024);
    let fits = "x".repeat(1023);
    check_pv(&BuildRequest {
        cmdline: &fits,
        ..request(DomId(1), &image, 64 << 10)
    })
    .unwrap();
    let mut too_long = request(DomId(1), &image, 64 << 10);
    too_long.cmdline = &long;
    let error = check_pv(&too_long).unwrap_err();
    assert!(
        matches!(
            error,
            BuildError::CommandLineTooLong {
                len: 1024,
                max: 1023,
                ..
            }
        ),
        "{error}"
    );
    let error = refusal(&image, |request| request.cmdline = "a\0b");
    assert!(
        matches!(error, BuildError::CommandLineZero { position: 1, .. }),
        "{error}"
    );
    let error = refusal(&image, |request| request.max_vcpus = 0);
    assert!(
        matches!(error, BuildError::Vcpus { given: 0, .. }),
        "{error}"
    );
    let error = refusal(&image, |request| request.target_kib = u64::MAX);
    assert!(
        matches!(error, BuildError::TooMuchMemory { what: "memory", .. }),
        "{error}"
    );
    let (one, two) = (ramdisk(1), ramdisk(1));
    let ramdisks = [&one, &two];
    let modules = boot_modules(&ramdisks, "");
    let both = BuildRequest {
        modules: &modules,
        ..request(DomId(1), &image, 64 << 10)
    };
    let error = check_pv(&both).unwrap_err();
    assert!(
        matches!(
            error,
            BuildError::TooManyModules {
                given: 2,
                max: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn kernels_that_cannot_be_are_refused() {
    let translated = kernel(LINUX)
        .text(types::FEATURES, "!auto_translated_physmap")
        .build();
    let error = refusal(&translated, |_| ());
    assert!(
        matches!(
            error,
            BuildError::RequiredFeature {
                feature: "auto_translated_physmap",
                ..
            }
        ),
        "{error}"
    );
    let pvh_only = Kernel::default()
        .part(MIB, pattern(64, 0), 0)
        .note(types::PHYS32_ENTRY, &[0, 0, 16, 0])
        .build();
    let error = refusal(&pvh_only, |_| ());
    assert!(
        matches!(
            error,
            BuildError::Image(xen_image::Error::Unfit {
                source: Unfit::PvhOnly,
                ..
            })
        ),
        "{error}"
    );
}

#[test]
fn a_kernel_that_wants_to_be_absurdly_high_is_refused_at_once() {
    for paddr in [1 << 40, 1 << 46, 1 << 62] {
        let image = kernel(Wishes {
            virt_base: 0,
            paddr,
            ..PLAIN
        });
        let image = xen_image_of(&image);
        let Some(image) = image else { continue };
        let error = refusal(&image, |_| ());
        assert!(
            matches!(
                error,
                BuildError::TooLittleMemory { .. }
                    | BuildError::Layout { .. }
                    | BuildError::Image(_)
            ),
            "{error}"
        );
    }
}

/// `xen-image` may refuse it first.
fn xen_image_of(kernel: &Kernel) -> Option<xen_image::Image> {
    std::panic::catch_unwind(|| kernel.build()).ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_size_gives_a_domain_that_holds_or_a_figure_that_would(
        linux in any::<bool>(),
        separate_p2m in any::<bool>(),
        unmapped_ramdisk in any::<bool>(),
        // 4 MiB to 8 GiB, all magnitudes alike, odd numbers of pages too.
        magnitude in 12..23_u32,
        fraction in 0.0..1.0_f64,
        ramdisk_len in proptest::option::of(1..3 * MIB),
        superpages in 0..40_usize,
    ) {
        let base = if linux { LINUX } else { PLAIN };
        let separate_p2m = separate_p2m && linux;
        let wishes = Wishes { separate_p2m, unmapped_ramdisk, ..base };
        let target_kib = ((1 << magnitude) as f64 * (1.0 + fraction)) as u64;
        let limit = if target_kib < 65536 { superpages } else { usize::MAX };
        let model = Model::new(32768);
        model.limit_extents(9, limit);
        let image = kernel(wishes).build();
        let domid = new_domain(&model, GuestKind::Pv, target_kib);
        let ramdisk = ramdisk_len.map(ramdisk);
        let ramdisks: Vec<&Ramdisk> = ramdisk.iter().collect();
        let modules = boot_modules(&ramdisks, "");
        let request = BuildRequest { modules: &modules, ..request(domid, &image, target_kib) };
        match build_pv(&model, &request) {
            Ok(built) => check(&model, wishes, &request, ramdisk.as_ref(), &built),
            Err(BuildError::TooLittleMemory { given_mib, needed_mib }) => {
                prop_assert!(needed_mib > given_mib);
                let enough = BuildRequest { target_kib: needed_mib << 10, max_kib: needed_mib << 10, ..request };
                prop_assert!(check_pv(&enough).is_ok());
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn any_command_line_that_fits_is_there(cmdline in "[ -~]{0,1023}") {
        let model = Model::new(64);
        let image = kernel(PLAIN).build();
        let domid = new_domain(&model, GuestKind::Pv, 8 << 10);
        let request = BuildRequest { cmdline: &cmdline, ..request(domid, &image, 8 << 10) };
        let built = build_pv(&model, &request).unwrap();
        check(&model, PLAIN, &request, None, &built);
    }
}
