//! Journals that have lost their end, of guests that run: no recovery may destroy a guest, or anything of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::path::{Path, PathBuf};

use bench::Bench;
use bench::common::{Kernel, MIB, PAGE, pattern};
use uuid::Uuid;
use xen_image::elfnote::types;
use xen_port::{DomId, Errno, Hypervisor, ShutdownReason};
use xen_sim::{Ended, LastingFault, Snapshot, World};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::recover::{self, Recovered};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";

fn uuid() -> Uuid {
    Uuid::parse_str(UUID).unwrap()
}

fn journal() -> PathBuf {
    Path::new("/run/xyl/vm").join(UUID).join("journal")
}

fn damaged() -> PathBuf {
    Path::new("/run/xyl/damaged").join(UUID)
}

/// A world with a guest that runs, and how it came to be so.
struct Case {
    name: &'static str,
    world: World,
    domid: DomId,
}

fn config_of_pv(folder: &Path) -> String {
    let kernel = Kernel::default()
        .text(types::XEN_VERSION, "xen-3.0")
        .text(types::LOADER, "generic")
        .text(types::GUEST_OS, "GRUB")
        .text(types::PAE_MODE, "yes")
        .number(types::VIRT_BASE, 0)
        .number(types::ENTRY, MIB)
        .number(types::HYPERCALL_PAGE, MIB)
        .part(MIB, pattern(PAGE, 1), PAGE);
    let path = folder.join("pv-kernel");
    std::fs::write(&path, kernel.elf()).unwrap();
    format!(
        "name = \"guest\"\nuuid = \"{UUID}\"\ntype = \"pv\"\nmemory = 8\nkernel = \"{}\"\n",
        path.display()
    )
}

fn created(bench: &Bench, text: &str) -> (World, DomId) {
    let world = World::new(256);
    let domid = bench.must(&world, |host| bench.create_from(host, text));
    (world, domid)
}

fn restarted(bench: &Bench, text: &str, keeps_old: bool) -> (World, DomId) {
    let (world, old) = created(bench, text);
    world.shut_down(old, ShutdownReason::Reboot);
    let domid = bench.must(&world, |host| {
        restart::restart(host, uuid(), old, keeps_old)
    });
    (world, domid.unwrap())
}

fn cases(bench: &Bench) -> Vec<Case> {
    let pvh = bench.config("guest", UUID);
    let pv = config_of_pv(bench.kernel().parent().unwrap());
    let case = |name, (world, domid)| Case { name, world, domid };
    vec![
        case("PVH, created", created(bench, &pvh)),
        case("PV, created", created(bench, &pv)),
        case("PVH, restarted", restarted(bench, &pvh, false)),
        case("PV, restarted", restarted(bench, &pv, false)),
        case(
            "PVH, restarted with its old domain kept",
            restarted(bench, &pvh, true),
        ),
        case(
            "PV, restarted with its old domain kept",
            restarted(bench, &pv, true),
        ),
    ]
}

/// What the guest has, without the journal, and what is made of it when it is set aside.
fn without_journal(world: &World) -> Snapshot {
    let mut now = world.snapshot();
    let is_of_journal = |path: &Path| {
        path.starts_with("/run/xyl/damaged")
            || path == Path::new("/run/xyl/damaged-reported")
            || path.starts_with("/run/xyl/vm")
            || path == Path::new("/run/xyl/busy")
    };
    now.files.retain(|path, _| !is_of_journal(path));
    now.folders.retain(|path| !is_of_journal(path));
    now
}

/// Recovers with the journal cut to so many bytes; what was said.
fn recover_cut(bench: &Bench, world: &World, whole: &[u8], size_bytes: usize) -> Vec<Recovered> {
    let life = os_port::mem::Life::new(0);
    let files = world.disk.of(&life);
    os_port::remove_if_there(&files, &damaged()).unwrap();
    world.disk.put(&journal(), &whole[..size_bytes]);
    bench.must(world, |host| recover::all(host, true))
}

fn runs_still(bench: &Bench, case: &Case, cuts: impl Iterator<Item = usize>) {
    let Case { name, world, domid } = case;
    let whole = world.disk.contents(&journal()).unwrap();
    let before = without_journal(world);
    assert!(!before.domains[domid].flags.paused, "{name}");
    for size_bytes in cuts.take_while(|cut| *cut <= whole.len()) {
        let told = recover_cut(bench, world, &whole, size_bytes);
        let now = without_journal(world);
        let changes = [now.losses(&before), now.leaks(&before, &|_| false)].concat();
        assert!(
            now == before,
            "{name}, cut to {size_bytes} bytes: {told:?}: {changes:?}"
        );
        let was_set_aside = world.disk.contents(&damaged()).is_some();
        let has_failed = told.iter().any(|one| one.has_failed);
        assert_eq!(
            was_set_aside, has_failed,
            "{name}, cut to {size_bytes} bytes: {told:?}"
        );
    }
}

fn line_ends(text: &[u8]) -> Vec<usize> {
    let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).collect()
}

#[test]
fn a_guest_outlives_a_journal_cut_at_any_line() {
    let bench = Bench::new();
    for case in &cases(&bench) {
        let whole = case.world.disk.contents(&journal()).unwrap();
        runs_still(&bench, case, line_ends(&whole).into_iter());
    }
}

#[test]
fn a_guest_outlives_a_journal_cut_at_any_byte() {
    let bench = Bench::new();
    for case in &cases(&bench) {
        runs_still(&bench, case, 0..);
    }
}

/// The journal is at its last step but one, so what was made is taken back: not what has run meanwhile.
#[test]
fn an_undo_leaves_a_domain_that_somebody_has_unpaused() {
    let bench = Bench::new();
    let world = World::new(256);
    let planned = bench.plan(&bench.config("guest", UUID)).unwrap();
    let (ended, _) = bench.process(&world, None, |host| {
        let mut request = xyl_engine::operation::create::CreateRequest {
            spec: &planned.spec,
            config_text: &planned.config_text(),
            paused: false,
            process_ends: false,
            watch: &mut |_, _| Ok(()),
            before_start: &mut |_, domid| {
                world.xen.unpause_domain(domid).unwrap();
                Err(xyl_engine::EngineError::Cancelled)
            },
            notice: &mut |_| (),
        };
        xyl_engine::operation::create::create(host, &mut request, &xyl_engine::Cancel::new())
    });
    let Ended::Well(Err(xyl_engine::EngineError::Step(failure))) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!((failure.left_behind.len(), failure.outcome), (4, None));
    let told = bench.must(&world, |host| recover::all(host, true));
    assert!(
        told.iter().any(|one| one.has_failed && one.domid.is_some()),
        "{told:?}"
    );
    let now = world.snapshot();
    let info = now
        .domains
        .values()
        .find(|info| info.handle == *uuid().as_bytes());
    assert!(info.is_some_and(|info| !info.flags.paused));
    assert!(now.nodes.contains_key(&format!("/vm/{UUID}/name")));
}

/// A destroy that cannot end the VM's domain.
fn stuck_destroy(bench: &Bench) -> (World, DomId) {
    let (world, domid) = created(bench, &bench.config("guest", UUID));
    world.fail_always(LastingFault::Xen {
        op: "destroy_domain",
        errno: Errno::EIO,
    });
    let (ended, _) = bench.process(&world, None, |host| destroy::destroy(host, domid, false));
    assert!(matches!(ended, Ended::Well(Err(_))), "{ended:?}");
    (world, domid)
}

#[test]
fn a_second_destroy_of_a_stuck_one_begins_no_other() {
    let bench = Bench::new();
    let (world, domid) = stuck_destroy(&bench);
    for _ in 0..3 {
        let (again, _) = bench.process(&world, None, |host| destroy::destroy(host, domid, false));
        let Ended::Well(Err(error)) = again else {
            panic!("{again:?}");
        };
        assert!(
            matches!(error, xyl_engine::EngineError::Unfinished { .. }),
            "{error}"
        );
    }
    let text = String::from_utf8(world.disk.contents(&journal()).unwrap()).unwrap();
    assert_eq!(text.matches("{\"begin\"").count(), 2, "{text}");
    world.lift_faults();
    bench.must(&world, |host| destroy::destroy(host, domid, false));
    assert!(!world.snapshot().domains.contains_key(&domid));
    assert_eq!(world.disk.contents(&damaged()), None);
    assert_eq!(world.disk.contents(&journal()), None);
}

#[test]
fn a_stuck_destroy_keeps_its_name_and_fsck_knows_it() {
    let bench = Bench::new();
    let (world, domid) = stuck_destroy(&bench);
    let found = bench.must(&world, |host| {
        let (hv, store, index) = host.directory();
        xyl_engine::vm::domains::find_name(hv, store, &index, "guest")
    });
    assert_eq!(found.info.domid, domid);
    let kernel = xyl_engine::host::dom0::Kernel::below(Path::new("/nowhere"));
    let findings = bench.must(&world, |host| recover::fsck::look(host, &kernel));
    let kinds: Vec<_> = findings.iter().map(|finding| finding.leak.kind()).collect();
    assert!(kinds.contains(&"operation"), "{findings:?}");
}

#[test]
fn a_journal_that_was_set_aside_is_said_until_it_is_removed() {
    let bench = Bench::new();
    let (world, domid) = created(&bench, &bench.config("guest", UUID));
    world.xen.set_version(xen_sim::version());
    let mut bytes = world.disk.contents(&journal()).unwrap();
    bytes.extend(b"garbage\n");
    world.disk.put(&journal(), &bytes);
    let said = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let heard = said.clone();
    let core = Path::new("/core").to_owned();
    bench.must(&world, |host| {
        host.notice = std::rc::Rc::new(move |line| heard.borrow_mut().push(line.to_owned()));
        xyl_engine::operation::dump_core::dump_core(
            host,
            xyl_engine::operation::dump_core::DumpRequest {
                domid,
                file: &core,
                is_live: false,
                progress: &mut |_, _| (),
            },
            &xyl_engine::Cancel::new(),
        )
    });
    assert_eq!(said.borrow().len(), 1, "{said:?}");
    for _ in 0..2 {
        let told = bench.must(&world, |host| recover::all(host, true));
        assert_eq!(
            (told.len(), told[0].has_failed, told[0].domid),
            (1, true, Some(domid))
        );
    }
    let life = os_port::mem::Life::new(0);
    os_port::remove_if_there(&world.disk.of(&life), &damaged()).unwrap();
    assert!(
        bench
            .must(&world, |host| recover::all(host, true))
            .is_empty()
    );
}
