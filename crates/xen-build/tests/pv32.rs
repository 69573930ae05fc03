//! 32-bit PV domains, built on the model and looked at as their kernels would.

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
use xen_build::{BootModule, BuildError, BuildRequest, ModuleContent, Step, build_pv, check_pv};
use xen_image::elfnote::types;
use xen_image::{Image, Limits};
use xen_port::{DomId, GuestKind, Mfn, PageTableLevel, PvMode, VersionInfo};
use xen_sim::model::Model;

const VIRT_BASE: u64 = 0xc000_0000;
const TARGET_KIB: u64 = 64 << 10;

fn kernel(virt_base: u64, pae: &str) -> Image {
    let elf = Kernel::default()
        .part(MIB, pattern(3 * PAGE, 1), 5 * PAGE)
        .text(types::GUEST_OS, "tests")
        .text(types::LOADER, "generic")
        .text(types::XEN_VERSION, "xen-3.0")
        .text(types::PAE_MODE, pae)
        .number(types::VIRT_BASE, virt_base)
        .number(types::ENTRY, virt_base + MIB + 0x40)
        .number(types::HYPERCALL_PAGE, virt_base + MIB + PAGE)
        .elf();
    Image::parse("test-kernel", narrow(&elf), &Limits::default()).unwrap()
}

fn bare<'a>(domid: DomId, kernel: &'a Image) -> BuildRequest<'a> {
    BuildRequest {
        allow_bare_pv32: true,
        ..request(domid, kernel, TARGET_KIB)
    }
}

/// A host that runs them.
fn host() -> Model {
    let model = Model::new(128);
    model.set_version(VersionInfo {
        major: 4,
        minor: 17,
        extra: String::new(),
        compiler: String::new(),
        compile_by: String::new(),
        compile_domain: String::new(),
        compile_date: String::new(),
        capabilities: "xen-3.0-x86_64 xen-3.0-x86_32p".to_owned(),
        changeset: String::new(),
        command_line: String::new(),
        build_id: String::new(),
        page_size_bytes: 4096,
        virt_start: 0,
    });
    model
}

/// What the page tables map: virtual address, frame, writable; and the frames that are tables.
#[derive(Default)]
struct Walk {
    leaves: BTreeMap<u64, (u64, bool)>,
    tables: BTreeSet<u64>,
}

impl Walk {
    fn table(&mut self, model: &Model, frame: u64, level: u32, virt: u64) {
        assert!(self.tables.insert(frame), "one table only");
        let table = model.frame(Mfn(frame));
        for index in 0..512_u64 {
            let entry = u64_at(&table, index as usize * 8);
            if entry & 1 == 0 {
                assert_eq!(entry, 0);
                continue;
            }
            assert!(level < 3 || index < 4, "four entries at the top");
            let target = (entry & 0x000f_ffff_ffff_f000) >> 12;
            let virt = virt | index << (12 + 9 * (level - 1));
            if level > 1 {
                assert_eq!(entry & 0xfff, 0x67);
                self.table(model, target, level - 1, virt);
            } else {
                self.leaves.insert(virt, (target, entry & 2 != 0));
            }
        }
    }
}

fn built(virt_base: u64, pae: &str) -> (Model, DomId, Walk) {
    let model = host();
    let image = kernel(virt_base, pae);
    let domid = new_domain(&model, GuestKind::Pv, TARGET_KIB);
    let request = bare(domid, &image);
    let built = build_pv(&model, &request).unwrap();
    check_aftermath(&model, domid, built.store_gfn.0, built.console_gfn.0);
    let cpu = model.domain(domid).unwrap().pv_cpu.unwrap();
    let mut walk = Walk::default();
    walk.table(&model, cpu.cr3.0, 3, 0);
    (model, domid, walk)
}

#[test]
fn a_ramdisk_whose_length_does_not_fit_is_refused() {
    let path = std::env::temp_dir().join(format!("xen-build-ramdisk-{}", std::process::id()));
    let file = std::fs::File::create(&path).unwrap();
    // A file with nothing in it takes no room.
    file.set_len(4 << 30).unwrap();
    let ramdisk = xen_image::Module::open(&path, u64::MAX).unwrap();
    std::fs::remove_file(&path).unwrap();
    let modules = [BootModule {
        content: ModuleContent::File(&ramdisk),
        cmdline: "",
    }];
    let image = kernel(VIRT_BASE, "yes,bimodal");
    let request = BuildRequest {
        modules: &modules,
        target_kib: 8 << 20,
        max_kib: 8 << 20,
        ..bare(DomId(1), &image)
    };
    let refused = check_pv(&request).unwrap_err();
    assert!(matches!(refused, BuildError::Layout { .. }), "{refused}");
}

#[test]
fn a_32_bit_kernel_finds_what_it_asked_for() {
    for virt_base in [VIRT_BASE, 0, 0x8000_0000] {
        let (model, domid, walk) = built(virt_base, "yes");
        let domain = model.domain(domid).unwrap();
        let cpu = domain.pv_cpu.unwrap();
        assert_eq!(domain.address_size_bits, 32);
        assert_eq!(cpu.mode, PvMode::Bits32 { extended_cr3: true });
        assert_eq!(domain.pinned, [(PageTableLevel::L3, cpu.cr3)]);
        assert!(domain.low_pages.is_empty());
        assert_eq!(cpu.rip, virt_base + MIB + 0x40);

        // Everything in a row, tables read-only, and a level-2 table for the last GiB.
        for (index, (virt, (frame, writable))) in walk.leaves.iter().enumerate() {
            assert_eq!(*virt, virt_base + index as u64 * PAGE);
            assert_eq!(*frame, domain.frame(index as u64).unwrap().0);
            assert_eq!(*writable, !walk.tables.contains(frame));
        }
        let top = model.frame(cpu.cr3);
        assert_ne!(u64_at(&top, 24) & 1, 0);

        // start_info, as a 32-bit kernel reads it.
        let page = walk.leaves[&cpu.rsi].0;
        let info = model.frame(Mfn(page));
        assert!(info.starts_with(b"xen-3.0-x86_32p\0"));
        let number = |offset| u64::from(u32_at(&info, offset));
        assert_eq!(number(32), TARGET_KIB / 4);
        assert_eq!(number(36), domain.shared_info.0 << 12);
        let [store, console] = [1, 2].map(|page| walk.leaves[&(cpu.rsi + page * PAGE)].0);
        assert_eq!([number(44), number(52)], [store, console]);
        assert_eq!(
            [number(48), number(56)],
            [u64::from(STORE_PORT), u64::from(CONSOLE_PORT)]
        );
        let (pt_base, nr_tables) = (number(60), number(64));
        assert_eq!(walk.leaves[&pt_base].0, cpu.cr3.0);
        assert_eq!(nr_tables, walk.tables.len() as u64);
        assert_eq!(cpu.rsp, pt_base + (nr_tables + 1) * PAGE);
        assert!(info[80..].starts_with(b"root=/dev/xvda1 quiet\0"));
        assert!(info[1104..].iter().all(|byte| *byte == 0));

        // The table of machine frames, 32 bits each.
        let list = number(68);
        for page in (0..TARGET_KIB / 4).step_by(61) {
            let at = list + page * 4;
            let bytes = model.frame(Mfn(walk.leaves[&(at & !0xfff)].0));
            let frame = u64::from(u32_at(&bytes, (at & 0xfff) as usize));
            assert_eq!(frame, domain.frame(page).unwrap().0, "page {page}");
        }
        let first = model.frame(Mfn(walk.leaves[&(virt_base + MIB)].0));
        assert!(pattern(3 * PAGE, 1).starts_with(&first));
    }
}

#[test]
fn nobody_builds_one_by_accident() {
    let image = kernel(VIRT_BASE, "yes");
    for model in [host(), Model::new(128)] {
        let domid = new_domain(&model, GuestKind::Pv, TARGET_KIB);
        let request = request(domid, &image, TARGET_KIB);
        assert!(matches!(check_pv(&request), Err(BuildError::Pv32)));
        assert!(matches!(build_pv(&model, &request), Err(BuildError::Pv32)));
        assert_eq!(model.domain(domid).unwrap().tot_pages, 0);
    }
    // A Xen that runs none says so before it has given any memory.
    let model = Model::new(128);
    let domid = new_domain(&model, GuestKind::Pv, TARGET_KIB);
    let error = build_pv(&model, &bare(domid, &image)).unwrap_err();
    assert!(
        matches!(
            error,
            BuildError::Hypervisor {
                step: Step::MakePv32,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(model.domain(domid).unwrap().tot_pages, 0);
}

#[test]
fn a_kernel_without_pae_is_refused_and_one_beyond_the_hole_too() {
    let domid = DomId(1);
    let without = kernel(VIRT_BASE, "no");
    assert!(matches!(
        check_pv(&bare(domid, &without)),
        Err(BuildError::NoPae)
    ));
    // The mapping would end where Xen's own addresses begin.
    let high = kernel(0xf500_0000, "yes");
    let request = BuildRequest {
        target_kib: 8 << 20,
        max_kib: 8 << 20,
        ..bare(domid, &high)
    };
    assert!(matches!(check_pv(&request), Err(BuildError::Layout { .. })));
}
