//! Domains of the model, saved and restored.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use common::*;
use proptest::prelude::*;
use xen_build::{
    Channel, RestoreError, RestoreRequest, Restored, SaveError, SaveFailure, SaveProgress,
    SaveRequest, SaveSummary, build_pv, build_pvh, restore, save,
};
use xen_image::elfnote::types;
use xen_port::{
    CpuidLeaf, DomId, Errno, EvtchnPort, FrameKind, Gfn, GuestKind, HvmParam, Hypervisor, Mfn,
    PageTableLevel, PopulateFlags, ShutdownReason, TscInfo, VcpuId, VcpuPart,
};
use xen_sim::model::Model;
use xen_stream::{
    Event, Guest, ImageHeader, Limits, Page, PageKind, Reader, Record, StreamKind, Writer,
};

const TARGET_KIB: u64 = 8 << 10;
const STORE: u64 = 0xf_effc;
const CONSOLE: u64 = 0xf_efff;
/// A page that the kernel does not use.
const FREE_PAGE: u64 = 0x500;

fn host() -> Model {
    let model = Model::new(4096);
    model.set_version(xen_sim::version());
    model
}

/// A PVH guest that has written to some of its pages.
fn pvh_guest(model: &Model) -> DomId {
    let kernel = Kernel::default()
        .part(MIB, pattern(2 * PAGE + 5, 1), PAGE)
        .note(types::PHYS32_ENTRY, &0x10_0010_u32.to_le_bytes())
        .build();
    let domid = new_domain(model, GuestKind::Pvh, TARGET_KIB);
    let request = request(domid, &kernel, TARGET_KIB);
    build_pvh(model, &request).unwrap();
    for page in FREE_PAGE..FREE_PAGE + 20 {
        model.guest_writes(domid, page, &pattern(PAGE, page));
    }
    model.guest_writes(domid, STORE, &pattern(PAGE, 3));
    model.set_tsc_info(domid, &TSC).unwrap();
    domid
}

const TSC: TscInfo = TscInfo {
    mode: 1,
    khz: 2_000_000,
    incarnation: 3,
    elapsed_ns: 4 << 40,
};

fn save_request(domid: DomId, kind: GuestKind, live: bool) -> SaveRequest {
    SaveRequest { domid, kind, live }
}

type Report<'a> = &'a mut dyn FnMut(SaveProgress) -> ControlFlow<()>;

fn save_with(
    model: &Model,
    request: &SaveRequest,
    report: Report<'_>,
) -> (Vec<u8>, Result<SaveSummary, SaveFailure<Errno>>) {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, StreamKind::Libxc, Limits::default());
    let mut suspend = || {
        model.shut_down(request.domid, ShutdownReason::Suspend);
        Ok(())
    };
    let saved = save(model, request, &mut writer, &mut suspend, report);
    assert_eq!(writer.is_complete(), saved.is_ok());
    (bytes, saved)
}

fn saved(model: &Model, domid: DomId, kind: GuestKind) -> Vec<u8> {
    let request = save_request(domid, kind, false);
    let (bytes, saved) = save_with(model, &request, &mut |_| ControlFlow::Continue(()));
    saved.unwrap();
    bytes
}

fn restore_request(domid: DomId, kind: GuestKind) -> RestoreRequest<'static> {
    let channel = |port| Channel {
        port: EvtchnPort(port),
        backend: DomId(0),
    };
    RestoreRequest {
        domid,
        kind,
        max_kib: TARGET_KIB,
        max_vcpus: 2,
        store: channel(7),
        console: channel(8),
        hvm_params: &[(HvmParam::TimerMode, 1)],
    }
}

fn restored(
    model: &Model,
    request: &RestoreRequest<'_>,
    image: &[u8],
) -> Result<Restored, RestoreError> {
    let mut reader = Reader::new(image, StreamKind::Libxc, request.limits());
    let restored = restore(model, request, &mut reader, &mut |_| {
        ControlFlow::Continue(())
    });
    assert_eq!(model.live_mappings(), 0, "mappings");
    restored
}

/// Restores an image into a new domain.
fn restored_anew(model: &Model, kind: GuestKind, image: &[u8]) -> DomId {
    let domid = new_domain(model, kind, TARGET_KIB);
    restored(model, &restore_request(domid, kind), image).unwrap();
    domid
}

/// The numbers of all pages of a domain.
fn pages_of(model: &Model, domid: DomId) -> Vec<u64> {
    let extents = model.domain(domid).unwrap().extents;
    let pages = |(first, (order, _)): (&u64, &(u32, _))| *first..*first + (1 << *order);
    extents.iter().flat_map(pages).collect()
}

fn page(model: &Model, domid: DomId, page: u64) -> Vec<u8> {
    model.read(domid, page * PAGE, PAGE as usize)
}

fn check_same_pvh(model: &Model, old: DomId, new: DomId) {
    let pages = pages_of(model, old);
    assert_eq!(pages_of(model, new), pages);
    for number in pages {
        match number {
            STORE | CONSOLE => assert!(page(model, new, number).iter().all(|byte| *byte == 0)),
            _ => assert!(
                page(model, new, number) == page(model, old, number),
                "{number:#x}"
            ),
        }
    }
    let (before, after) = (model.domain(old).unwrap(), model.domain(new).unwrap());
    assert_eq!(after.tot_pages, before.tot_pages);
    assert_eq!(model.tsc_info(new).unwrap(), TSC);
    assert_eq!(
        model.hvm_context(new).unwrap(),
        model.hvm_context(old).unwrap()
    );
    let param = |param: HvmParam| after.params.get(&(param as u32)).copied();
    assert_eq!(param(HvmParam::StoreEvtchn), Some(7));
    assert_eq!(param(HvmParam::ConsoleEvtchn), Some(8));
    assert_eq!(param(HvmParam::TimerMode), Some(1));
    for of_image in [
        HvmParam::StorePfn,
        HvmParam::ConsolePfn,
        HvmParam::IdentPt,
        HvmParam::MonitorRingPfn,
    ] {
        assert_eq!(
            param(of_image),
            before.params.get(&(of_image as u32)).copied()
        );
    }
    check_aftermath(model, new, STORE, CONSOLE);
}

#[test]
fn a_pvh_guest_comes_back_as_it_was() {
    let model = host();
    let domid = pvh_guest(&model);
    let image = saved(&model, domid, GuestKind::Pvh);
    let new = restored_anew(&model, GuestKind::Pvh, &image);
    check_same_pvh(&model, domid, new);
    // Full blocks of 2 MiB come back as extents of 2 MiB.
    let orders: Vec<u32> = model
        .domain(new)
        .unwrap()
        .extents
        .values()
        .map(|(order, _)| *order)
        .collect();
    assert_eq!(orders.iter().filter(|order| **order == 9).count(), 4);
}

#[test]
fn a_second_restore_of_the_image_is_the_same() {
    let model = host();
    let domid = pvh_guest(&model);
    let image = saved(&model, domid, GuestKind::Pvh);
    let first = restored_anew(&model, GuestKind::Pvh, &image);
    model.shut_down(first, ShutdownReason::Suspend);
    let image = saved(&model, first, GuestKind::Pvh);
    let second = restored_anew(&model, GuestKind::Pvh, &image);
    check_same_pvh(&model, first, second);
}

#[test]
fn a_guest_whose_memory_grows_meanwhile_comes_back_whole() {
    let model = host();
    let domid = pvh_guest(&model);
    let request = save_request(domid, GuestKind::Pvh, true);
    let new_page = 0x10_0003;
    let (image, outcome) = save_with(&model, &request, &mut |_| {
        if model.frame_of(domid, new_page).is_none() {
            let flags = PopulateFlags::default();
            let page = [Gfn(new_page)];
            model.populate_physmap(domid, 0, flags, &page).unwrap();
            model.guest_writes(domid, new_page, &pattern(PAGE, 8));
        }
        ControlFlow::Continue(())
    });
    outcome.unwrap();
    let new = restored_anew(&model, GuestKind::Pvh, &image);
    check_same_pvh(&model, domid, new);
}

#[test]
fn a_guest_with_a_page_far_away_is_refused() {
    for page in [1 << 33, 1 << 40] {
        let model = host();
        let domid = pvh_guest(&model);
        let flags = PopulateFlags::default();
        model
            .populate_physmap(domid, 0, flags, &[Gfn(page)])
            .unwrap();
        let request = save_request(domid, GuestKind::Pvh, false);
        let (_, outcome) = save_with(&model, &request, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(
            outcome,
            Err(SaveFailure::Save(SaveError::Guest { .. }))
        ));
    }
}

#[test]
fn a_running_hvm_guest_is_refused() {
    let model = host();
    let domid = new_domain(&model, GuestKind::Hvm, TARGET_KIB);
    let request = save_request(domid, GuestKind::Hvm, true);
    let (_, outcome) = save_with(&model, &request, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(
        outcome,
        Err(SaveFailure::Save(SaveError::Unsupported { .. }))
    ));
    assert!(!model.tracks_writes(domid));
}

#[test]
fn pages_that_a_running_guest_writes_to_are_sent_again() {
    let model = host();
    let domid = pvh_guest(&model);
    let request = save_request(domid, GuestKind::Pvh, true);
    let (image, outcome) = save_with(&model, &request, &mut |progress| {
        assert!(model.tracks_writes(domid));
        let is_last_batch = progress.round_pages_done == progress.round_pages;
        let is_running = model.domain(domid).unwrap().shutdown.is_none();
        // Many writes at first, few in the last rounds.
        let writes = if is_last_batch && is_running {
            200 >> (2 * progress.round)
        } else {
            0
        };
        for number in 0..writes {
            let contents = pattern(PAGE, 31 * u64::from(progress.round) + number);
            model.guest_writes(domid, FREE_PAGE + number, &contents);
        }
        ControlFlow::Continue(())
    });
    let summary = outcome.unwrap();
    assert!(!model.tracks_writes(domid));
    assert!(summary.rounds >= 3, "{summary:?}");
    assert!((1..50).contains(&summary.pages_suspended), "{summary:?}");
    let new = restored_anew(&model, GuestKind::Pvh, &image);
    check_same_pvh(&model, domid, new);
}

#[test]
fn a_page_that_the_guest_gave_back_meanwhile_is_removed() {
    let model = host();
    let domid = pvh_guest(&model);
    let request = save_request(domid, GuestKind::Pvh, true);
    let mut is_gone = false;
    let (image, outcome) = save_with(&model, &request, &mut |progress| {
        if progress.round_pages_done == progress.round_pages && !is_gone {
            is_gone = true;
            model.guest_writes(domid, FREE_PAGE, &[1]);
            model.remove_pages(domid, &[Gfn(FREE_PAGE)]).unwrap();
        }
        ControlFlow::Continue(())
    });
    outcome.unwrap();
    let new = restored_anew(&model, GuestKind::Pvh, &image);
    assert!(!pages_of(&model, new).contains(&FREE_PAGE));
    check_same_pvh(&model, domid, new);
}

#[test]
fn writes_are_not_tracked_after_any_failure() {
    let model = host();
    let domid = pvh_guest(&model);
    let request = save_request(domid, GuestKind::Pvh, true);
    model.forget_calls();
    save_with(&model, &request, &mut |_| ControlFlow::Continue(()))
        .1
        .unwrap();
    for number in firsts_of(&model) {
        model.fail_at(number, Errno::EPERM);
        let (_, outcome) = save_with(&model, &request, &mut |_| ControlFlow::Continue(()));
        let failed = model.calls()[number].op;
        model.fail_at(usize::MAX, Errno::EPERM);
        assert!(!model.tracks_writes(domid), "{failed}");
        assert!(matches!(
            outcome,
            Err(SaveFailure::Save(SaveError::Hypervisor { .. }))
        ));
    }
}

/// The numbers of those calls that are not of the same method as the one before.
fn firsts_of(model: &Model) -> Vec<usize> {
    let calls = model.calls();
    let is_first = |number: &usize| *number == 0 || calls[*number].op != calls[number - 1].op;
    (0..calls.len()).filter(is_first).collect()
}

#[test]
fn tracking_that_was_left_on_is_started_anew() {
    let model = host();
    let domid = pvh_guest(&model);
    model.track_writes(domid).unwrap();
    let request = save_request(domid, GuestKind::Pvh, true);
    let (_, outcome) = save_with(&model, &request, &mut |_| ControlFlow::Continue(()));
    outcome.unwrap();
    assert!(!model.tracks_writes(domid));
}

#[test]
fn a_save_can_be_cancelled() {
    let model = host();
    let domid = pvh_guest(&model);
    for live in [false, true] {
        let request = save_request(domid, GuestKind::Pvh, live);
        let (_, outcome) = save_with(&model, &request, &mut |_| ControlFlow::Break(()));
        assert!(matches!(
            outcome,
            Err(SaveFailure::Save(SaveError::Cancelled { .. }))
        ));
        assert!(!model.tracks_writes(domid));
    }
}

#[test]
fn the_guest_must_be_suspended_and_of_the_right_type() {
    let model = host();
    let domid = pvh_guest(&model);
    let save = |request: SaveRequest, answer: Result<(), Errno>| {
        let mut writer = Writer::new(Vec::new(), StreamKind::Libxc, Limits::default());
        let mut answer = || answer;
        let mut report = |_| ControlFlow::Continue(());
        save(&model, &request, &mut writer, &mut answer, &mut report).unwrap_err()
    };
    let request = save_request(domid, GuestKind::Pvh, false);
    assert!(matches!(
        save(request, Err(Errno::ETIME)),
        SaveFailure::Suspend(Errno::ETIME)
    ));
    let running = save(request, Ok(()));
    assert!(matches!(
        running,
        SaveFailure::Save(SaveError::NotSuspended { .. })
    ));
    let other = save(save_request(domid, GuestKind::Hvm, false), Ok(()));
    assert!(matches!(
        other,
        SaveFailure::Save(SaveError::OtherKind { .. })
    ));
    let none = save(save_request(DomId(99), GuestKind::Pvh, false), Ok(()));
    assert!(matches!(
        none,
        SaveFailure::Save(SaveError::NoDomain { .. })
    ));
}

#[test]
fn the_cpu_policy_travels() {
    let model = host();
    let domid = pvh_guest(&model);
    let leaf = |a| CpuidLeaf {
        leaf: 7,
        subleaf: 0,
        a,
        b: 2,
        c: 3,
        d: 4,
    };
    model.set_leaves(domid, vec![leaf(1)]);
    let image = saved(&model, domid, GuestKind::Pvh);
    let new = new_domain(&model, GuestKind::Pvh, TARGET_KIB);
    model.set_leaves(new, vec![leaf(9)]);
    let request = restore_request(new, GuestKind::Pvh);
    assert!(restored(&model, &request, &image).unwrap().has_cpu_policy);
    assert_eq!(model.cpu_policy(new).unwrap().leaves, [leaf(1)]);
}

/// An image of a PVH guest whose pages and state are given.
struct Forged {
    version: u32,
    pages: Vec<Vec<(u64, PageKind)>>,
    params: Vec<(u32, u64)>,
    context: Vec<u8>,
}

impl Forged {
    /// An image that is right.
    fn new(model: &Model) -> Forged {
        let domid = new_domain(model, GuestKind::Pvh, TARGET_KIB);
        Forged {
            version: 3,
            pages: vec![vec![
                (5, PageKind::Data),
                (STORE, PageKind::Data),
                (CONSOLE, PageKind::Data),
            ]],
            params: vec![(1, STORE), (17, CONSOLE)],
            context: model.hvm_context(domid).unwrap(),
        }
    }

    fn image(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, StreamKind::Libxc, Limits::default());
        let header = ImageHeader {
            version: self.version,
            guest: Guest::Hvm,
            xen: (4, 17),
        };
        writer.image_header(&header).unwrap();
        if self.version > 2 {
            writer.record(&Record::StaticDataEnd).unwrap();
        }
        let contents = [9; PAGE as usize];
        for record in &self.pages {
            let page = |(pfn, kind): &(u64, PageKind)| Page {
                pfn: *pfn,
                kind: *kind,
                contents: kind.has_contents().then_some(&contents),
            };
            writer
                .pages(&record.iter().map(page).collect::<Vec<_>>())
                .unwrap();
        }
        writer
            .record(&Record::HvmContext(self.context.clone()))
            .unwrap();
        let params = self
            .params
            .iter()
            .map(|(index, value)| xen_stream::HvmParam {
                index: *index,
                value: *value,
            });
        writer.record(&Record::HvmParams(params.collect())).unwrap();
        writer.record(&Record::End).unwrap();
        bytes
    }

    /// Restores it into a new domain of one vCPU less than Xen would allow.
    fn restore(&self, model: &Model) -> Result<Restored, RestoreError> {
        let domid = new_domain(model, GuestKind::Pvh, TARGET_KIB);
        restored(
            model,
            &restore_request(domid, GuestKind::Pvh),
            &self.image(),
        )
    }
}

#[test]
fn a_forged_image_is_refused_for_its_own_reason() {
    let model = host();
    let right = || Forged::new(&model);
    assert_eq!(right().restore(&model).unwrap().pages_populated, 3);

    let max_pages = restore_request(DomId(1), GuestKind::Pvh).max_pages();
    let mut too_many = right();
    too_many.pages.extend((0..=max_pages / 512).map(|block| {
        let first = 0x10_0000 + block * 512;
        (first..first + 512)
            .map(|pfn| (pfn, PageKind::Allocate))
            .collect()
    }));
    assert!(matches!(
        too_many.restore(&model),
        Err(RestoreError::TooManyPages { .. })
    ));

    // Pages that come again, and those that are far away, cost nothing more.
    let mut odd = right();
    odd.pages.extend(vec![
        vec![(5, PageKind::Data), (0xffff_fff0, PageKind::Data)];
        100
    ]);
    odd.pages.push(vec![(1 << 51, PageKind::Absent)]);
    assert_eq!(odd.restore(&model).unwrap().pages_populated, 4);

    let mut no_ring = right();
    no_ring.params.pop();
    assert!(matches!(
        no_ring.restore(&model),
        Err(RestoreError::Missing { .. })
    ));

    let mut ring_elsewhere = right();
    ring_elsewhere.params[0].1 = 6;
    assert!(matches!(
        ring_elsewhere.restore(&model),
        Err(RestoreError::Value { value: 6, .. })
    ));

    for index in [
        HvmParam::StoreEvtchn as u32,
        HvmParam::CallbackIrq as u32,
        4000,
    ] {
        let mut param = right();
        param.params.push((index, 1));
        let refused = param.restore(&model).unwrap_err();
        assert!(matches!(refused, RestoreError::Value { value, .. } if value == u64::from(index)));
    }

    let mut record = right();
    let end = record.context.len() - 8;
    record.context.splice(end..end, [99, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(
        record.restore(&model),
        Err(RestoreError::Value { value: 99, .. })
    ));
}

#[test]
fn an_image_of_xen_4_13_has_no_cpu_policy() {
    let model = host();
    let old = Forged {
        version: 2,
        ..Forged::new(&model)
    };
    assert!(!old.restore(&model).unwrap().has_cpu_policy);
}

#[test]
fn an_image_of_another_type_or_another_place_is_refused() {
    let model = host();
    let image = Forged::new(&model).image();
    let domid = new_domain(&model, GuestKind::Pv, TARGET_KIB);
    let refused = restored(&model, &restore_request(domid, GuestKind::Pv), &image);
    assert!(matches!(refused, Err(RestoreError::OtherKind { .. })));
    let domid = new_domain(&model, GuestKind::Pvh, TARGET_KIB);
    let request = restore_request(domid, GuestKind::Pvh);
    let mut reader = Reader::new(&image[..], StreamKind::Libxc, request.limits());
    assert!(matches!(reader.next_event(), Ok(Some(Event::Image(_)))));
    let refused = restore(&model, &request, &mut reader, &mut |_| {
        ControlFlow::Continue(())
    });
    assert!(matches!(refused, Err(RestoreError::Misplaced { .. })));
    let cut = restored(&model, &request, &image[..image.len() - 8]);
    assert!(matches!(cut, Err(RestoreError::Stream(_))));
}

#[test]
fn a_host_without_memory_refuses_with_numbers() {
    let model = host();
    let image = Forged::new(&model).image();
    let domid = new_domain(&model, GuestKind::Pvh, TARGET_KIB);
    model.limit_extents(0, 0);
    let refused = restored(&model, &restore_request(domid, GuestKind::Pvh), &image);
    assert!(matches!(
        refused,
        Err(RestoreError::Build(
            xen_build::BuildError::OutOfMemory { .. }
        ))
    ));
}

#[test]
fn a_restore_can_be_cancelled_and_fail_anywhere() {
    let model = host();
    let image = Forged::new(&model).image();
    let domid = new_domain(&model, GuestKind::Pvh, TARGET_KIB);
    let request = restore_request(domid, GuestKind::Pvh);
    let mut reader = Reader::new(&image[..], StreamKind::Libxc, request.limits());
    let cancelled = restore(&model, &request, &mut reader, &mut |_| {
        ControlFlow::Break(())
    });
    assert!(matches!(cancelled, Err(RestoreError::Cancelled { .. })));
    for number in 0.. {
        let domid = new_domain(&model, GuestKind::Pvh, TARGET_KIB);
        model.fail_at(number, Errno::EPERM);
        let outcome = restored(&model, &restore_request(domid, GuestKind::Pvh), &image);
        let calls = model.calls().len();
        model.fail_at(usize::MAX, Errno::EPERM);
        match outcome {
            Ok(_) if calls <= number => break,
            outcome => assert!(outcome.is_err(), "call {number}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// No change of an image makes the restore panic, or gives the domain more pages than it may have.
    #[test]
    fn damaged_images_do_no_harm(changes in prop::collection::vec((0_usize..40_000, any::<u8>()), 1..8)) {
        let model = host();
        let mut image = Forged::new(&model).image();
        let length = image.len();
        for (at, byte) in changes {
            image[at % length] = byte;
        }
        let domid = new_domain(&model, GuestKind::Pvh, TARGET_KIB);
        let request = restore_request(domid, GuestKind::Pvh);
        let _ = restored(&model, &request, &image);
        prop_assert!(model.domain(domid).unwrap().tot_pages <= request.max_pages());
    }
}

// ---- PV -------------------------------------------------------------------------------------------

const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
const P2M_BASE: u64 = 0x0000_0080_0000_0000;
const NR_PAGES: u64 = TARGET_KIB / 4;
/// Offsets in a vCPU's registers.
const RDX: usize = 616;
const GDT_FRAME: usize = 4832;
const GDT_ENTRIES: usize = 4960;
const CR1: usize = 4992;
const CR3: usize = 5008;
/// Offsets in the shared info.
const MAX_PFN: usize = 3088;
const FRAME_LIST_LIST: usize = 3096;
const P2M_CR3: usize = 3112;
const P2M_VADDR: usize = 3120;
const P2M_GENERATION: usize = 3128;

/// The form of the P2M that a PV guest has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Table {
    List,
    Tree,
}

fn set_word(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

fn frame(model: &Model, domid: DomId, page: u64) -> u64 {
    model.frame_of(domid, page).unwrap().0
}

/// The page of a domain that has a frame.
fn number(model: &Model, domid: DomId, wanted: u64) -> u64 {
    let mut pages = pages_of(model, domid).into_iter();
    pages
        .find(|page| frame(model, domid, *page) == wanted)
        .unwrap()
}

fn write_frame(model: &Model, domid: DomId, frame: u64, bytes: &[u8]) {
    let mut memory = model.map_foreign(domid, &[Gfn(frame)]).unwrap();
    memory.write(0, bytes).unwrap();
}

/// A PV guest as it is when it suspends itself.
fn pv_guest(model: &Model, table: Table) -> DomId {
    let kernel = Kernel::default()
        .part(MIB, pattern(3 * PAGE, 1), 20 * PAGE)
        .text(types::GUEST_OS, "tests")
        .text(types::LOADER, "generic")
        .text(types::XEN_VERSION, "xen-3.0")
        .number(types::VIRT_BASE, VIRT_BASE)
        .number(types::ENTRY, VIRT_BASE + MIB)
        .number(types::INIT_P2M, P2M_BASE)
        .build();
    let domid = new_domain(model, GuestKind::Pv, TARGET_KIB);
    build_pv(model, &request(domid, &kernel, TARGET_KIB)).unwrap();
    let cpu = model.domain(domid).unwrap().pv_cpu.unwrap();
    let start_info = (cpu.rsi - VIRT_BASE) / PAGE;
    let p2m = put_page_numbers(model, domid, start_info);

    let mut shared = vec![0x11; 4096];
    set_word(&mut shared, MAX_PFN, NR_PAGES);
    set_word(&mut shared, P2M_CR3, 0);
    set_word(&mut shared, P2M_VADDR, P2M_BASE);
    match table {
        Table::List => set_word(&mut shared, P2M_CR3, cpu.cr3.0 << 12),
        Table::Tree => {
            let list: Vec<u64> = (p2m..p2m + NR_PAGES / 512)
                .map(|page| frame(model, domid, page))
                .collect();
            let list: Vec<u8> = list.iter().flat_map(|frame| frame.to_le_bytes()).collect();
            model.guest_writes(domid, 0x601, &list);
            model.guest_writes(domid, 0x600, &frame(model, domid, 0x601).to_le_bytes());
            set_word(&mut shared, FRAME_LIST_LIST, frame(model, domid, 0x600));
        }
    }
    write_frame(
        model,
        domid,
        model.domain(domid).unwrap().shared_info.0,
        &shared,
    );

    let mut registers = vec![0; 5168];
    set_word(&mut registers, RDX, frame(model, domid, start_info));
    set_word(&mut registers, GDT_FRAME, frame(model, domid, FREE_PAGE));
    set_word(&mut registers, GDT_ENTRIES, 512);
    set_word(&mut registers, CR3, cpu.cr3.0 << 12);
    set_word(&mut registers, CR1, cpu.cr3.0 << 12);
    let set = |part, state: &[u8]| {
        model
            .set_pv_vcpu_state(domid, VcpuId(0), part, state)
            .unwrap()
    };
    set(VcpuPart::Basic, &registers);
    set(VcpuPart::Xsave, &[3; 16]);
    set(VcpuPart::Msrs, &[[1; 4], [0; 4], [2; 4], [2; 4]].concat());
    model.guest_writes(domid, FREE_PAGE + 1, &pattern(PAGE, 5));
    model.set_tsc_info(domid, &TSC).unwrap();
    domid
}

/// The guest replaces the frames of its rings in the start info. Returns the first page of its P2M.
fn put_page_numbers(model: &Model, domid: DomId, start_info: u64) -> u64 {
    let mut info = page(model, domid, start_info);
    for offset in [56, 72] {
        let ring = number(model, domid, u64_at(&info, offset));
        set_word(&mut info, offset, ring);
    }
    write_frame(model, domid, frame(model, domid, start_info), &info);
    u64_at(&info, 1152)
}

/// Virtual addresses, and the page and the flags of each.
fn addresses(model: &Model, domid: DomId, top: u64) -> BTreeMap<u64, (u64, u64)> {
    let numbers: BTreeMap<u64, u64> = pages_of(model, domid)
        .iter()
        .map(|page| (frame(model, domid, *page), *page))
        .collect();
    let mut found = BTreeMap::new();
    let mut tables = vec![(top, 4, 0)];
    while let Some((table, level, virt)) = tables.pop() {
        let bytes = model.frame(Mfn(table));
        for index in 0..512_u64 {
            let entry = u64_at(&bytes, index as usize * 8);
            let virt = virt | index << (12 + 9 * (level - 1));
            let target = entry >> 12 & 0xff_ffff_ffff;
            match (entry & 1, level) {
                (0, _) => {}
                (_, 1) => {
                    found.insert(virt, (numbers[&target], entry & 0xfff));
                }
                _ => tables.push((target, level - 1, virt)),
            }
        }
    }
    found
}

fn check_same_pv(model: &Model, old: DomId, new: DomId) {
    let state = |domid| {
        model
            .pv_vcpu_state(domid, VcpuId(0), VcpuPart::Basic)
            .unwrap()
    };
    let (before, after) = (state(old), state(new));
    let top = |state: &[u8]| u64_at(state, CR3) >> 12;
    let map = addresses(model, new, top(&after));
    assert_eq!(map, addresses(model, old, top(&before)));
    assert_eq!(u64_at(&after, CR1), u64_at(&after, CR3));
    assert_eq!(u64_at(&after, GDT_FRAME), frame(model, new, FREE_PAGE));
    assert_eq!(u64_at(&after, 512), 1 << 5, "online");
    let new_domain = model.domain(new).unwrap();
    assert_eq!(new_domain.pinned, [(PageTableLevel::L4, Mfn(top(&after)))]);
    for part in [VcpuPart::Extended, VcpuPart::Xsave, VcpuPart::Msrs] {
        let part = |domid| model.pv_vcpu_state(domid, VcpuId(0), part).unwrap();
        assert_eq!(part(new), part(old));
    }
    let start_info = number(model, new, u64_at(&after, RDX));
    let info = page(model, new, start_info);
    let old_info = page(model, old, start_info);
    for (offset, port) in [(56, 7), (72, 8)] {
        assert_eq!(
            u64_at(&info, offset),
            frame(model, new, u64_at(&old_info, offset))
        );
        assert_eq!(u32_at(&info, offset + 8), port);
    }
    assert_eq!(
        (u64_at(&info, 32), u64_at(&info, 40)),
        (NR_PAGES, new_domain.shared_info.0 << 12)
    );
    assert_eq!(info[128..], old_info[128..]);
    let p2m = u64_at(&info, 1152);
    for number in 0..NR_PAGES {
        let entry = model.read(new, p2m * PAGE + number * 8, 8);
        assert_eq!(u64_at(&entry, 0), frame(model, new, number));
    }
    check_contents(model, old, new, start_info, p2m);
    check_shared_info(model, new);
    assert_eq!(model.tsc_info(new).unwrap(), TSC);
    check_aftermath(model, new, u64_at(&info, 56), u64_at(&info, 72));
}

/// Pages that are no page tables and have no frames in them.
fn check_contents(model: &Model, old: DomId, new: DomId, start_info: u64, p2m: u64) {
    let frames: Vec<_> = (0..NR_PAGES)
        .map(|page| Gfn(frame(model, new, page)))
        .collect();
    let kinds = model.frame_kinds(new, &frames).unwrap();
    let tables = kinds
        .iter()
        .filter(|kind| **kind != FrameKind::Data)
        .count();
    assert!(tables > 4, "{tables}");
    for (number, kind) in (0..NR_PAGES).zip(kinds) {
        let has_frames = number == start_info || (p2m..p2m + NR_PAGES / 512).contains(&number);
        if kind == FrameKind::Data && !has_frames {
            assert!(
                page(model, new, number) == page(model, old, number),
                "{number:#x}"
            );
        }
    }
}

fn check_shared_info(model: &Model, domid: DomId) {
    let shared = model.frame(model.domain(domid).unwrap().shared_info);
    assert!(shared[2048..2560].iter().all(|byte| *byte == 0), "pending");
    assert!(shared[2560..3072].iter().all(|byte| *byte == 0xff), "masks");
    assert_eq!(shared[0..8], [0x11; 8]);
    assert_eq!(u64_at(&shared, 8), 0, "evtchn_pending_sel");
    assert_eq!(u64_at(&shared, MAX_PFN), NR_PAGES);
    assert_eq!(u64_at(&shared, FRAME_LIST_LIST), 0);
    assert_eq!(u64_at(&shared, P2M_VADDR), P2M_BASE);
}

#[test]
fn a_pv_guest_comes_back_as_it_was() {
    for table in [Table::List, Table::Tree] {
        let model = host();
        let domid = pv_guest(&model, table);
        let image = saved(&model, domid, GuestKind::Pv);
        let new = restored_anew(&model, GuestKind::Pv, &image);
        check_same_pv(&model, domid, new);
    }
}

#[test]
fn a_running_pv_guest_is_saved() {
    let model = host();
    let domid = pv_guest(&model, Table::List);
    let request = save_request(domid, GuestKind::Pv, true);
    let (image, outcome) = save_with(&model, &request, &mut |progress| {
        if model.domain(domid).unwrap().shutdown.is_none() {
            let contents = pattern(PAGE, u64::from(progress.round));
            model.guest_writes(domid, FREE_PAGE + 2, &contents);
        }
        ControlFlow::Continue(())
    });
    assert_eq!(outcome.unwrap().pages_suspended, 1);
    let new = restored_anew(&model, GuestKind::Pv, &image);
    check_same_pv(&model, domid, new);
}

#[test]
fn pages_of_a_running_pv_guest_that_get_another_frame_are_sent_again() {
    let model = host();
    let domid = pv_guest(&model, Table::List);
    let start_info = {
        let state = model
            .pv_vcpu_state(domid, VcpuId(0), VcpuPart::Basic)
            .unwrap();
        number(&model, domid, u64_at(&state, RDX))
    };
    let p2m = u64_at(&page(&model, domid, start_info), 1152);
    let request = save_request(domid, GuestKind::Pv, true);
    let mut has_changed = false;
    let (image, outcome) = save_with(&model, &request, &mut |progress| {
        // Behind the first pass, over both pages.
        if progress.round_pages_done == progress.round_pages && !has_changed {
            has_changed = true;
            exchange_two(&model, domid, p2m);
        }
        ControlFlow::Continue(())
    });
    outcome.unwrap();
    assert!(has_changed);
    let new = restored_anew(&model, GuestKind::Pv, &image);
    check_same_pv(&model, domid, new);
}

/// A guest exchanges the frames of two pages for new ones, and writes both into its P2M and its pages.
fn exchange_two(model: &Model, domid: DomId, p2m: u64) {
    for number in [FREE_PAGE + 7, FREE_PAGE + 9] {
        let new = model.exchange(domid, number).unwrap();
        let table = p2m + number / 512;
        let mut bytes = page(model, domid, table);
        set_word(&mut bytes, (number % 512) as usize * 8, new.0);
        model.guest_writes(domid, table, &bytes);
        model.guest_writes(domid, number, &pattern(PAGE, number));
    }
}

#[test]
fn a_frame_that_two_pages_claim_is_sent_once() {
    let model = host();
    let domid = pv_guest(&model, Table::Tree);
    let state = model
        .pv_vcpu_state(domid, VcpuId(0), VcpuPart::Basic)
        .unwrap();
    let start_info = number(&model, domid, u64_at(&state, RDX));
    let p2m = u64_at(&page(&model, domid, start_info), 1152);
    let claimed = frame(&model, domid, FREE_PAGE + 1);
    let number = NR_PAGES - 1;
    let mut bytes = page(&model, domid, p2m + number / 512);
    set_word(&mut bytes, (number % 512) as usize * 8, claimed);
    model.guest_writes(domid, p2m + number / 512, &bytes);
    let image = saved(&model, domid, GuestKind::Pv);
    let new = restored_anew(&model, GuestKind::Pv, &image);
    assert_eq!(model.domain(new).unwrap().tot_pages, NR_PAGES - 1);
}

#[test]
fn a_p2m_that_cannot_be_is_an_error() {
    let model = host();
    let changes: [(usize, u64); 6] = [
        (MAX_PFN, 0),
        (MAX_PFN, 1 << 40),
        (P2M_CR3, 0),
        (P2M_CR3, u64::MAX),
        (P2M_VADDR, 0),
        (P2M_VADDR, u64::MAX),
    ];
    for (offset, value) in changes {
        let domid = pv_guest(&model, Table::List);
        let frame = model.domain(domid).unwrap().shared_info;
        let mut shared = model.frame(frame);
        set_word(&mut shared, offset, value);
        if value == 0 && offset == P2M_CR3 {
            set_word(&mut shared, FRAME_LIST_LIST, 0);
        }
        write_frame(&model, domid, frame.0, &shared);
        let request = save_request(domid, GuestKind::Pv, false);
        let (_, outcome) = save_with(&model, &request, &mut |_| ControlFlow::Continue(()));
        let refused = matches!(outcome, Err(SaveFailure::Save(SaveError::Guest { .. })));
        assert!(refused, "{offset} {value:#x}: {outcome:?}");
    }
}

#[test]
fn a_p2m_that_changes_during_a_live_save_ends_it() {
    let model = host();
    let domid = pv_guest(&model, Table::List);
    let frame = model.domain(domid).unwrap().shared_info;
    let request = save_request(domid, GuestKind::Pv, true);
    let (_, outcome) = save_with(&model, &request, &mut |_| {
        let mut shared = model.frame(frame);
        set_word(&mut shared, P2M_GENERATION, 77);
        write_frame(&model, domid, frame.0, &shared);
        ControlFlow::Continue(())
    });
    assert!(matches!(
        outcome,
        Err(SaveFailure::Save(SaveError::Guest { .. }))
    ));
    assert!(!model.tracks_writes(domid));
}

#[test]
fn a_32_bit_pv_guest_is_refused() {
    let model = host();
    let domid = pv_guest(&model, Table::List);
    model.make_32_bit(domid);
    let request = save_request(domid, GuestKind::Pv, false);
    let (_, outcome) = save_with(&model, &request, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(
        outcome,
        Err(SaveFailure::Save(SaveError::Unsupported { .. }))
    ));
}

/// Pages of one record: number, kind and contents of each.
type PageList = Vec<(u64, PageKind, Option<[u8; PAGE as usize]>)>;

/// The image with changed records and pages.
fn changed(
    image: &[u8],
    record_change: &dyn Fn(&mut Record),
    page_change: &dyn Fn(&mut PageList),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = Reader::new(image, StreamKind::Libxc, Limits::default());
    let mut writer = Writer::new(&mut bytes, StreamKind::Libxc, Limits::default());
    while let Some(event) = reader.next_event().unwrap() {
        match event {
            Event::Record(mut record) => {
                record_change(&mut record);
                writer.record(&record).unwrap();
            }
            Event::Pages(pages) => {
                let mut list: PageList = pages
                    .iter()
                    .map(|page| (page.pfn, page.kind, page.contents.copied()))
                    .collect();
                page_change(&mut list);
                let pages: Vec<Page<'_>> = list
                    .iter()
                    .map(|(pfn, kind, contents)| Page {
                        pfn: *pfn,
                        kind: *kind,
                        contents: contents.as_ref(),
                    })
                    .collect();
                writer.pages(&pages).unwrap();
            }
            other => writer.event(&other).unwrap(),
        }
    }
    bytes
}

/// Sets a word in the registers of vCPU 0.
fn with_register(offset: usize, value: u64) -> impl Fn(&mut Record) {
    move |record| match record {
        Record::Vcpu(vcpu) if vcpu.part == xen_stream::VcpuPart::Basic => {
            set_word(&mut vcpu.state, offset, value);
        }
        _ => {}
    }
}

/// Changes the contents of one page.
fn with_page(number: u64, offset: usize, value: u64) -> impl Fn(&mut PageList) {
    move |pages| {
        let found = pages.iter_mut().find(|(pfn, ..)| *pfn == number);
        if let Some((_, _, Some(contents))) = found {
            set_word(contents, offset, value);
        }
    }
}

#[test]
fn a_forged_image_of_a_pv_guest_is_refused() {
    let model = host();
    let old = pv_guest(&model, Table::List);
    let state = model
        .pv_vcpu_state(old, VcpuId(0), VcpuPart::Basic)
        .unwrap();
    let top = number(&model, old, u64_at(&state, CR3) >> 12);
    let start_info = number(&model, old, u64_at(&state, RDX));
    let image = saved(&model, old, GuestKind::Pv);
    let refused = |record: &dyn Fn(&mut Record), page: &dyn Fn(&mut PageList)| {
        let domid = new_domain(&model, GuestKind::Pv, TARGET_KIB);
        let request = restore_request(domid, GuestKind::Pv);
        let image = changed(&image, record, page);
        restored(&model, &request, &image).err()
    };
    assert!(refused(&|_| (), &|_| ()).is_none());
    let registers = [
        (CR3, FREE_PAGE << 12),
        (CR3, NR_PAGES << 12),
        (CR1, FREE_PAGE << 12 | 1),
        (RDX, top),
        (RDX, NR_PAGES),
        (GDT_FRAME, top),
        (GDT_ENTRIES, 7169),
    ];
    for (offset, value) in registers {
        let error = refused(&with_register(offset, value), &|_| ());
        assert!(
            matches!(error, Some(RestoreError::Value { .. })),
            "{offset} {value:#x}: {error:?}"
        );
    }
    let pages = [
        // xenstore's ring, the console's ring, an entry of the top-level table.
        (start_info, 56, top),
        (start_info, 72, NR_PAGES),
        (top, 0, NR_PAGES << 12 | 1),
    ];
    for (page, offset, value) in pages {
        let error = refused(&|_| (), &with_page(page, offset, value));
        assert!(
            matches!(error, Some(RestoreError::Value { .. })),
            "{page:#x} {offset}: {error:?}"
        );
    }
    let in_p2m = |record: &mut Record| {
        if let Record::P2mFrames(p2m) = record {
            p2m.frames[0] = top;
        }
    };
    assert!(matches!(
        refused(&in_p2m, &|_| ()),
        Some(RestoreError::Value { .. })
    ));
    let no_table = |pages: &mut PageList| {
        let found = pages.iter_mut().find(|(pfn, ..)| *pfn == top);
        found.into_iter().for_each(|page| page.1 = PageKind::Data);
    };
    assert!(matches!(
        refused(&|_| (), &no_table),
        Some(RestoreError::Value { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// No change of an image of a PV guest makes the restore panic.
    #[test]
    fn damaged_pv_images_do_no_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let model = host();
        let domid = pv_guest(&model, Table::List);
        let mut image = saved(&model, domid, GuestKind::Pv);
        for (at, byte) in changes {
            let at = at.index(image.len());
            image[at] = byte;
        }
        let new = new_domain(&model, GuestKind::Pv, TARGET_KIB);
        let request = restore_request(new, GuestKind::Pv);
        let _ = restored(&model, &request, &image);
        prop_assert!(model.domain(new).unwrap().tot_pages <= request.max_pages());
    }
}
