//! A guest is saved to a file: it is destroyed then, runs on, or is paused; the disk is full; and the process that saves it dies, or is
//! refused something, at every call. Either the guest runs and there is no file, or the file is whole and the guest is gone.
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
use xen_port::{DomId, HvmParam, Hypervisor, ShutdownReason};
use xen_sim::{Ended, Fault, LastingFault, Moment, SuspendManner, World};
use xen_stream::{Limits, Reader, StreamKind, Summary};
use xyl_engine::supervise::requests::{self, AfterSave, Asking, Done, Request};
use xyl_engine::{Cancel, EngineError, ErrorCode, Host, recover};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const FILE: &str = "/srv/guest.saved";

fn world_of(bench: &Bench) -> (World, DomId) {
    let world = World::new(256);
    world.xen.set_version(xen_sim::version());
    let domid = bench.must(&world, |host| bench.create(host, "guest", UUID));
    world.guests.set_manner(domid, SuspendManner::Good);
    // Its drivers have an interrupt for event channels.
    world
        .xen
        .set_hvm_param(domid, HvmParam::CallbackIrq, 1)
        .unwrap();
    (world, domid)
}

fn save(host: &mut Host, domid: DomId, then: AfterSave) -> Result<Done, EngineError> {
    save_until(host, domid, then, &Cancel::new(), &mut |_, _| ())
}

fn save_until(
    host: &mut Host,
    domid: DomId,
    then: AfterSave,
    cancel: &Cancel,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Done, EngineError> {
    let info = host.hv.domain_info(domid)?;
    let info = info.ok_or_else(|| EngineError::NoSuchDomain(domid.to_string()))?;
    let request = Request::Save {
        file: PathBuf::from(FILE),
        config: None,
        then,
    };
    requests::ask(host, &info, &request, &mut Asking { cancel, progress })
}

/// The files in the folder of the saved guest that were not there before.
fn saved_files(world: &World) -> Vec<PathBuf> {
    let files = world.snapshot().files;
    let names = files.keys().filter(|path| path.starts_with("/srv"));
    let is_image = |path: &&PathBuf| path.extension().is_some_and(|end| end == "img");
    names.filter(|path| !is_image(path)).cloned().collect()
}

/// Whether the file is whole, and has the guest's configuration.
fn check_file(world: &World) -> Result<(), String> {
    let bytes = world.disk.contents(Path::new(FILE)).ok_or("no file")?;
    let mut reader = Reader::new(bytes.as_slice(), StreamKind::XlFile, Limits::default());
    let (summary, error) = Summary::read(&mut reader);
    if let Some(error) = error {
        return Err(error.to_string());
    }
    let config = summary.file.ok_or("no configuration")?;
    let config: serde_json::Value =
        serde_json::from_slice(config.config.text()).map_err(|error| error.to_string())?;
    match config["c_info"]["name"] == "guest" {
        true => Ok(()),
        false => Err(format!("{config}")),
    }
}

#[test]
fn a_saved_guest_is_gone_and_its_file_is_whole() {
    let bench = Bench::with_devices();
    let (world, domid) = world_of(&bench);
    let saved = bench.must(&world, |host| save(host, domid, AfterSave::Destroy));
    check_file(&world).unwrap();
    let size = world.disk.contents(Path::new(FILE)).unwrap().len() as u64;
    assert!(matches!(saved, Done::Saved(saved) if saved.size_bytes == size));
    assert_eq!(saved_files(&world), [PathBuf::from(FILE)]);
    assert!(world.xen.domain(domid).is_none());
    let record = format!("/var/lib/xyl/vm/{UUID}/config.cfg");
    assert_eq!(world.disk.contents(Path::new(&record)), None);
}

#[test]
fn a_checkpoint_leaves_the_guest_as_it_was_or_paused() {
    let bench = Bench::with_devices();
    for (then, pauses) in [(AfterSave::Run, 0), (AfterSave::Pause, 1)] {
        let (world, domid) = world_of(&bench);
        bench.must(&world, |host| save(host, domid, then));
        check_file(&world).unwrap();
        let domain = world.xen.domain(domid).unwrap();
        assert_eq!((domain.shutdown, domain.pauses), (None, pauses));
    }
}

#[test]
fn a_guest_that_was_suspended_stays_so_after_a_checkpoint() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench);
    bench.must(&world, |host| {
        let info = host.hv.domain_info(domid)?.unwrap();
        requests::ask_for(host, &info, &Request::Suspend)
    });
    bench.must(&world, |host| save(host, domid, AfterSave::Run));
    check_file(&world).unwrap();
    let suspended = Some(ShutdownReason::Suspend);
    assert_eq!(world.xen.domain(domid).unwrap().shutdown, suspended);
}

/// Whether the guest runs as before, and there is no file.
fn runs_without_file(world: &World, domid: DomId) -> Result<(), String> {
    let Some(domain) = world.xen.domain(domid) else {
        return Err("it is gone".to_owned());
    };
    // It had taken the request when its process died, and suspends itself later: its monitor resumes it.
    let late = format!("/run/xyl/vm/{UUID}/late-suspend");
    let is_late = domain.shutdown == Some(ShutdownReason::Suspend)
        && world.disk.contents(Path::new(&late)).is_some();
    match (
        domain.is_running() || is_late,
        saved_files(world).as_slice(),
    ) {
        (true, []) => Ok(()),
        (runs, files) => Err(format!("runs: {runs} ({:?}), {files:?}", domain.shutdown)),
    }
}

#[test]
fn a_full_disk_leaves_the_guest_and_no_file() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench);
    let (ended, _) = bench.process(&world, None, |host| {
        let mut fill = |_, _| world.fail_always(LastingFault::full_disk("/srv"));
        save_until(host, domid, AfterSave::Destroy, &Cancel::new(), &mut fill)
    });
    let Ended::Well(Err(error)) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(error.code(), ErrorCode::Save);
    runs_without_file(&world, domid).unwrap();
}

#[test]
fn a_cancel_leaves_the_guest_and_no_file() {
    let bench = Bench::new();
    let (world, domid) = world_of(&bench);
    let cancel = Cancel::new();
    let (ended, _) = bench.process(&world, None, |host| {
        let mut stop = |_, _| cancel.request();
        save_until(host, domid, AfterSave::Destroy, &cancel, &mut stop)
    });
    let Ended::Well(Err(error)) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(error.code(), ErrorCode::Cancelled);
    runs_without_file(&world, domid).unwrap();
}

/// Whether what a recovery has left is one of both: the guest and no file, or the file and no guest.
fn is_settled(world: &World, domid: DomId, then: AfterSave) -> Result<(), String> {
    if saved_files(world).is_empty() {
        return runs_without_file(world, domid);
    }
    check_file(world)?;
    let domain = world.xen.domain(domid);
    match (then, domain) {
        (AfterSave::Destroy, None) => Ok(()),
        (AfterSave::Run, Some(domain)) if domain.is_running() => Ok(()),
        (AfterSave::Pause, Some(domain)) if domain.shutdown.is_none() && domain.pauses == 1 => {
            Ok(())
        }
        (_, domain) => Err(format!("the file is there, and {domain:?}")),
    }
}

/// The calls of a save that a sweep takes: all with `XYL_SIM_FULL`, else those about the end of the guest, and one of seven before.
fn calls(count: u64) -> impl Iterator<Item = u64> {
    let is_full = std::env::var_os("XYL_SIM_FULL").is_some();
    (1..=count).filter(move |call| is_full || call % 7 == 1 || count - call < 70)
}

/// The hidden file is gone when the next process looks: the guest is never destroyed without a file. An older file of the name does not count.
#[test]
fn a_lost_file_never_costs_the_guest() {
    let bench = Bench::new();
    let then = AfterSave::Destroy;
    let count = {
        let (world, domid) = world_of(&bench);
        bench
            .process(&world, None, |host| save(host, domid, then))
            .1
    };
    let mut lost = 0;
    for call in calls(count) {
        let (world, domid) = world_of(&bench);
        world.disk.put(Path::new(FILE), b"an older one");
        bench.process(&world, Some((call, Moment::Before)), |host| {
            save(host, domid, then)
        });
        for path in saved_files(&world) {
            if path != Path::new(FILE) {
                bench.must(&world, |host| {
                    host.files.remove(&path).unwrap();
                    Ok(())
                });
                lost += 1;
            }
        }
        let (ended, _) = bench.process(&world, None, |host| recover::all(host, true));
        let is_saved = check_file(&world).is_ok();
        let domain = world.xen.domain(domid);
        assert!(
            is_saved != domain.is_some(),
            "{call}: {ended:?}, {is_saved}"
        );
    }
    assert!(lost > 5, "{lost}");
}

/// Kills or refuses a save at calls of its process. Afterwards another process recovers.
fn sweep(then: AfterSave) {
    let bench = Bench::new();
    let count = {
        let (world, domid) = world_of(&bench);
        bench
            .process(&world, None, |host| save(host, domid, then))
            .1
    };
    assert!(count > 30, "{count}");
    for call in calls(count) {
        let moment = Moment::ALL[(call % 3) as usize];
        let (world, domid) = world_of(&bench);
        bench.process(&world, Some((call, moment)), |host| save(host, domid, then));
        bench.must(&world, |host| recover::all(host, false));
        is_settled(&world, domid, then)
            .unwrap_or_else(|error| panic!("{call} {moment:?}: {error}"));
        // The three differ in their ends alone.
        if then != AfterSave::Destroy {
            continue;
        }
        let (world, domid) = world_of(&bench);
        let fate = world.fate(None).with_fault(Some(Fault { call, choice: 0 }));
        let (ended, _) = bench.run(&world, fate, |host| save(host, domid, then));
        bench.must(&world, |host| recover::all(host, true));
        is_settled(&world, domid, then)
            .unwrap_or_else(|error| panic!("{call}: {error}; {ended:?}"));
    }
}

#[test]
fn a_save_may_die_at_every_call() {
    sweep(AfterSave::Destroy);
}

#[test]
fn a_checkpoint_may_die_at_every_call() {
    sweep(AfterSave::Run);
}

#[test]
fn a_save_that_leaves_the_guest_paused_may_die_at_every_call() {
    sweep(AfterSave::Pause);
}
