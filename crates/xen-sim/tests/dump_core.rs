//! A core is dumped: what is in it; and the process that dumps it dies, or is refused something, at every call. The guest
//! runs on, and there is a whole core or none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::io::ErrorKind;
use std::path::Path;

use bench::Bench;
use uuid::Uuid;
use xen_port::{DomId, Hypervisor, PAGE_SIZE, ShutdownReason};
use xen_sim::{Ended, Fault, LastingFault, Moment, Sabotage, Snapshot, World};
use xyl_engine::operation::dump_core::{DumpError, DumpRequest, Dumped, dump_core};
use xyl_engine::operation::{destroy, run};
use xyl_engine::recover;
use xyl_engine::supervise::status;
use xyl_engine::{Cancel, EngineError, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const FILE: &str = "/srv/web.core";

fn world() -> World {
    let world = World::new(256);
    world.xen.set_version(xen_sim::version());
    world
}

/// A guest that runs, and a folder with an older core.
fn world_of(bench: &Bench) -> (World, DomId) {
    let world = world();
    let domid = bench.must(&world, |host| bench.create(host, "web", UUID));
    world.disk.put(Path::new(FILE), b"older");
    (world, domid)
}

fn dump(host: &mut Host, domid: DomId) -> Result<Dumped, EngineError> {
    dump_to(host, domid, false, &Cancel::new())
}

fn dump_to(
    host: &mut Host,
    domid: DomId,
    is_live: bool,
    cancel: &Cancel,
) -> Result<Dumped, EngineError> {
    let request = DumpRequest {
        domid,
        file: Path::new(FILE),
        is_live,
        progress: &mut |_, _| (),
    };
    dump_core(host, request, cancel)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The pages of a core and their numbers, by the headers of its sections: names come first of them, pages last but one.
fn pages(core: &[u8]) -> Vec<(u64, &[u8])> {
    let count = usize::from(u16::from_le_bytes(core[60..62].try_into().unwrap()));
    let place = |section: usize| {
        let header = 64 + section * 64;
        let (offset, size) = (number(core, header + 24), number(core, header + 32));
        &core[offset as usize..][..size as usize]
    };
    let numbers = place(count - 1).chunks_exact(8).map(|word| number(word, 0));
    numbers
        .zip(place(count - 2).chunks_exact(PAGE_SIZE))
        .collect()
}

fn core_of(world: &World) -> Vec<u8> {
    world.disk.contents(Path::new(FILE)).unwrap()
}

#[test]
fn every_page_of_the_guest_is_in_its_core() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench);
    let dumped = bench.must(&world, |host| dump(host, domid));
    let core = core_of(&world);
    let tot_pages = world.xen.domain(domid).unwrap().tot_pages;
    assert_eq!(dumped.size_bytes, core.len() as u64);
    assert_eq!((dumped.nr_pages, dumped.nr_missing), (tot_pages, 0));
    let pages = pages(&core);
    assert_eq!(pages.len() as u64, tot_pages);
    assert!(pages.is_sorted_by_key(|(number, _)| *number));
    for (number, bytes) in pages {
        let there = world.xen.read(domid, number * PAGE_SIZE as u64, PAGE_SIZE);
        assert!(bytes == there, "page {number:#x}");
    }
    assert_eq!(world.snapshot().mappings, 0);
}

#[test]
fn a_guest_that_stood_still_stays_so_and_a_live_one_is_never_stopped() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench);
    world.xen.pause_domain(domid).unwrap();
    bench.must(&world, |host| dump(host, domid));
    assert_eq!(world.xen.domain(domid).unwrap().pauses, 1);
    world.xen.unpause_domain(domid).unwrap();
    world.xen.forget_calls();
    bench.must(&world, |host| dump_to(host, domid, true, &Cancel::new()));
    let calls = world.xen.calls();
    assert!(
        calls.iter().all(|call| !call.op.contains("pause")),
        "{calls:?}"
    );
    assert!(calls.iter().any(|call| call.op == "map_foreign"));
}

#[test]
fn a_wish_to_cancel_is_heard_in_the_middle() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench);
    let before = world.snapshot();
    let cancel = Cancel::new();
    let by_signal = bench.process(&world, None, |host| {
        let request = DumpRequest {
            domid,
            file: Path::new(FILE),
            is_live: false,
            progress: &mut |_, _| cancel.request(),
        };
        dump_core(host, request, &cancel)
    });
    let by_file = bench.process(&world, None, |host| {
        let (files, dirs) = (host.files.clone(), host.dirs.clone());
        let request = DumpRequest {
            domid,
            file: Path::new(FILE),
            is_live: false,
            progress: &mut |_, _| {
                let vms = status::all(&*files, &dirs).unwrap();
                let under_way = vms.iter().find_map(|vm| vm.past().under_way().cloned());
                let (uuid, id) = (Uuid::parse_str(UUID).unwrap(), under_way.unwrap().begin.id);
                run::ask_to_cancel(&*files, &dirs, uuid, &id).unwrap();
            },
        };
        dump_core(host, request, &Cancel::new())
    });
    for (ended, _) in [by_signal, by_file] {
        let Ended::Well(Err(error)) = ended else {
            panic!("{ended:?}");
        };
        assert_eq!(error.to_string(), "write its memory: cancelled");
    }
    let asked = format!("/run/xyl/vm/{UUID}/cancel");
    let life = os_port::mem::Life::new(0);
    os_port::Files::remove(&world.disk.of(&life), Path::new(&asked)).unwrap();
    as_before_or_done(&world, &before).unwrap();
    assert_eq!(core_of(&world), b"older");
}

/// The folder of the core cannot be written any more, so the dump is neither finished nor undone.
#[test]
fn a_dump_that_is_stuck_does_not_keep_its_vm_from_its_end() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench);
    let (ended, _) = bench.process(&world, None, |host| {
        let request = DumpRequest {
            domid,
            file: Path::new(FILE),
            is_live: false,
            progress: &mut |_, _| world.fail_always(LastingFault::read_only_disk("/srv")),
        };
        dump_core(host, request, &Cancel::new())
    });
    assert!(matches!(ended, Ended::Well(Err(_))), "{ended:?}");
    let (again, _) = bench.process(&world, None, |host| dump(host, domid));
    let Ended::Well(Err(error)) = again else {
        panic!("{again:?}");
    };
    assert!(matches!(error, EngineError::Unfinished { .. }), "{error:?}");
    bench.must(&world, |host| destroy::destroy(host, domid, false));
    assert!(!world.snapshot().domains.contains_key(&domid));
    let journal = format!("/run/xyl/vm/{UUID}/journal");
    assert_eq!(world.disk.contents(Path::new(&journal)), None);
}

#[test]
fn a_full_disk_is_told_of_by_step_domain_file_and_bytes() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench);
    let refusals = (20..).map(|call| {
        let fate = world.fate(None).with_fault(Some(Fault { call, choice: 0 }));
        match bench.run(&world, fate, |host| dump(host, domid)).0 {
            Ended::Well(outcome) => outcome.err(),
            Ended::Killed => None,
        }
    });
    let is_full = |error: &EngineError| match error.cause() {
        EngineError::Dump(DumpError::Write {
            domid: of,
            path,
            written,
            size,
            source,
            remedy,
        }) => {
            assert_eq!((*of, path.as_path()), (domid, Path::new(FILE)), "{error}");
            assert!(written < size, "{error}");
            source.kind() == ErrorKind::StorageFull && !remedy.is_empty()
        }
        _ => false,
    };
    let full = refusals.take(200).flatten().find(is_full);
    let full = full.expect("no disk was full");
    assert_eq!(full.step(), Some("write its memory"));
}

#[test]
fn a_guest_that_would_be_crashed_by_being_read_is_left_alone() {
    let bench = Bench::new();
    let world = world();
    let text = bench
        .config("web", UUID)
        .replace("memory = 8", "memory = 8\nmaxmem = 16");
    let domid = bench.must(&world, |host| bench.create_from(host, &text));
    world.disk.put(Path::new(FILE), b"older");
    let (ended, _) = bench.process(&world, None, |host| dump(host, domid));
    let Ended::Well(Err(error)) = ended else {
        panic!("{ended:?}");
    };
    assert!(
        matches!(error.cause(), EngineError::Dump(DumpError::OnDemand { .. })),
        "{error}"
    );
    // One that has ended cannot be crashed any more.
    world.shut_down(domid, ShutdownReason::Crash);
    let dumped = bench.must(&world, |host| dump(host, domid));
    assert!(dumped.nr_pages > 0);
}

#[test]
fn nothing_is_kept_of_a_domain_of_xls() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench);
    let life = os_port::mem::Life::new(0);
    let folders = [
        format!("/var/lib/xyl/vm/{UUID}"),
        format!("/run/xyl/vm/{UUID}"),
    ];
    for folder in &folders {
        os_port::Files::remove_folder(&world.disk.of(&life), Path::new(folder)).unwrap();
    }
    let before = world.snapshot();
    bench.must(&world, |host| dump(host, domid));
    let now = world.snapshot();
    assert_eq!(
        (now.leaks(&before, &|_| false), now.folders),
        (vec![], before.folders)
    );
}

// ---- deaths and refusals ------------------------------------------------------------------------------

/// All is as it was, but for the VM's journal; or the new core is there, whole, and all else is as it was.
fn as_before_or_done(world: &World, before: &Snapshot) -> Result<(), String> {
    let now = world.snapshot();
    let mut faults = now.leaks(before, &|_| false);
    let journal = format!("/run/xyl/vm/{UUID}/journal");
    let may_change = |loss: &String| loss.contains(&journal) || loss.contains(FILE);
    faults.extend(
        now.losses(before)
            .into_iter()
            .filter(|loss| !may_change(loss)),
    );
    let core = core_of(world);
    if core != b"older" && (core.len() < 8 << 20 || !core.ends_with(b".xen_pfn\0")) {
        faults.push(format!("a core of {} bytes", core.len()));
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("; ")),
    }
}

/// Every call, with `XYL_SIM_FULL` each moment of it, else one, with a recovery that may be killed too; how many deaths, or
/// what was found.
fn sweep(bench: &Bench, sound: &Bench) -> Result<u64, String> {
    let mut deaths = 0;
    for call in 1.. {
        let mut killed = false;
        let turn = Moment::ALL[(call % 3) as usize];
        let is_full = std::env::var_os("XYL_SIM_FULL").is_some();
        for moment in Moment::ALL {
            if !is_full && moment != turn {
                continue;
            }
            let (world, domid) = world_of(sound);
            let before = world.snapshot();
            let (ended, _) = bench.process(&world, Some((call, moment)), |host| dump(host, domid));
            let what = format!("{moment:?} call {call}");
            match ended {
                Ended::Killed => {
                    killed = true;
                    deaths += 1;
                    let second = Some((1 + (call + deaths) % 25, moment));
                    let recovery = |host: &mut Host| recover::all(host, false);
                    let killed_too = bench.process(&world, second, recovery).0;
                    let told = bench.must(&world, recovery);
                    as_before_or_done(&world, &before)
                        .map_err(|fault| format!("{what}, {killed_too:?}, {told:?}: {fault}"))?;
                    let again = bench.must(&world, recovery);
                    if !again.is_empty() {
                        return Err(format!("{what}: {again:?}"));
                    }
                }
                Ended::Well(outcome) => {
                    outcome.map_err(|error| error.to_string())?;
                    as_before_or_done(&world, &before)?;
                }
            }
        }
        if !killed {
            break;
        }
    }
    Ok(deaths)
}

#[test]
fn it_can_be_killed_at_any_call() {
    let bench = Bench::new();
    let deaths = sweep(&bench, &bench).unwrap();
    println!("{deaths} deaths");
    assert!(deaths > 40, "{deaths}");
}

#[test]
fn a_forgotten_undo_is_found() {
    let sound = Bench::new();
    for forgotten in ["remove", "unpause_domain"] {
        let mut mutant = Bench::new();
        mutant.sabotage = Some(Sabotage::Forget(forgotten));
        sweep(&mutant, &sound).expect_err(forgotten);
    }
}

#[test]
fn any_call_can_be_refused() {
    let bench = Bench::new();
    let (mut faults, mut refused) = (0, 0);
    for call in 1.. {
        let mut made = true;
        for choice in 0.. {
            let (world, domid) = world_of(&bench);
            let before = world.snapshot();
            let fate = world.fate(None).with_fault(Some(Fault { call, choice }));
            let (ended, calls) = bench.run(&world, fate.clone(), |host| dump(host, domid));
            made = calls >= call;
            let Some(given) = fate.given_fault() else {
                break;
            };
            faults += 1;
            let Ended::Well(outcome) = ended else {
                panic!("{given}");
            };
            refused += u64::from(outcome.is_err());
            bench.must(&world, |host| recover::all(host, true));
            if let Err(fault) = as_before_or_done(&world, &before) {
                panic!("{given} at call {call}, {outcome:?}: {fault}");
            }
        }
        if !made {
            break;
        }
    }
    println!("{faults} faults, {refused} refused");
    assert!(refused > 50, "{refused} of {faults}");
}
