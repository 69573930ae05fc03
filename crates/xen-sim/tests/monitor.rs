//! The process that watches over a VM: reboot loops, restarts that fail, and its death at any call,
//! after which its heir does what is left to do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

#[path = "../../xen-build/tests/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use common::{Kernel, MIB, PAGE, pattern};
use uuid::Uuid;
use xen_image::elfnote::types;
use xen_port::{DomId, DomainInfo, Errno, Hypervisor, ShutdownReason};
use xen_sim::{Ended, Fate, LastingFault, Moment, Turns, World};
use xenstore::{ErrorName, Path as Node, Tree};
use xyl_engine::config::plan;
use xyl_engine::control::power::{self, PowerRequest};
use xyl_engine::operation::create::{CreateRequest, create};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::recover;
use xyl_engine::supervise::monitor::{self};
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::supervise::restart_backoff;
use xyl_engine::supervise::states::{self, Listed};
use xyl_engine::vm::Vm;
use xyl_engine::vm::domains::DomainRef;
use xyl_engine::vm::monitor_lock;
use xyl_engine::vm::state::{self, VmState};
use xyl_engine::vm::store;
use xyl_engine::{Cancel, Dirs, EngineError, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const OTHER_UUID: &str = "6a1d0c4e-0000-4000-8000-000000000002";

fn uuid() -> Uuid {
    Uuid::parse_str(UUID).unwrap()
}

struct Bench {
    folder: tempfile::TempDir,
    world: World,
}

impl Bench {
    /// A host with a guest.
    fn new() -> (Bench, Vm) {
        let bench = Bench {
            folder: tempfile::tempdir().unwrap(),
            world: World::new(256),
        };
        bench.world.xen.set_version(xen_sim::version());
        bench.install_kernel();
        let domid = bench.create().unwrap();
        (
            bench,
            Vm {
                domid,
                uuid: uuid(),
            },
        )
    }

    fn kernel(&self) -> PathBuf {
        self.folder.path().join("kernel")
    }

    fn install_kernel(&self) {
        let elf = Kernel::default()
            .part(MIB, pattern(5, 1), PAGE)
            .note(types::PHYS32_ENTRY, &0x10_0010_u32.to_le_bytes())
            .elf();
        std::fs::write(self.kernel(), elf).unwrap();
    }

    fn host(&self, fate: &Fate) -> Host {
        let handles = self.world.handles(fate).unwrap();
        let mut dirs = Dirs::below(Path::new("/"));
        dirs.kernel_cache = self.folder.path().join("cache");
        Host {
            hv: handles.hv,
            store: handles.store,
            dirs,
            files: handles.files,
            clock: handles.clock,
            process: handles.process,
            spawn: handles.spawn,
            doorbells: handles.doorbells,
            sources: Default::default(),
            kernel: xyl_engine::host::dom0::Kernel::system(),
            devices: handles.devices,
            notice: Rc::new(|_| ()),
        }
    }

    fn free_host(&self) -> Host {
        self.host(&self.world.fate(None))
    }

    fn create(&self) -> Result<DomId, EngineError> {
        self.create_named("guest", UUID)
    }

    fn create_named(&self, name: &str, uuid: &str) -> Result<DomId, EngineError> {
        let text = format!(
            "name = \"{name}\"\nuuid = \"{uuid}\"\ntype = \"pvh\"\nmemory = 8\nkernel = \"{}\"\n\
             on_crash = \"coredump-restart\"\non_watchdog = \"coredump-destroy\"\n",
            self.kernel().display()
        );
        let planned = plan::plan_record("bench", &text, &mut || Ok(vec![(0, 0)]))?;
        let mut request = CreateRequest {
            spec: &planned.spec,
            config_text: &planned.config_text(),
            paused: false,
            process_ends: false,
            before_start: &mut |_, _| Ok(()),
            watch: &mut |host, _| {
                let uuid = Uuid::parse_str(uuid).unwrap();
                monitor_lock::create_file(&*host.files, &host.dirs, uuid)
            },
            notice: &mut |_| (),
        };
        create(&mut self.free_host(), &mut request, &Cancel::new())
    }

    /// The VM's domain, if it runs.
    fn running(&self) -> Option<DomId> {
        let domains = self.world.xen.domain_list().unwrap();
        let runs = |info: &&xen_port::DomainInfo| {
            info.handle == *uuid().as_bytes() && !info.flags.shutdown && !info.flags.paused
        };
        domains.iter().find(runs).map(|info| info.domid)
    }

    /// A domain's console has been served; a destroy would wait for that.
    fn serve_console(&self, domid: DomId) {
        let tty = Node::new(&format!("/local/domain/{domid}/console/tty")).unwrap();
        let mut store = self.world.store.client(0).unwrap();
        store.write(&tty, b"/dev/pts/0").unwrap();
    }

    /// Ends the VM's domain, if it runs, for the n-th time: by reboots, and then a power-off.
    fn end(&self, ends: &mut u32, reboots: u32) {
        if let Some(domid) = self.running() {
            *ends += 1;
            self.serve_console(domid);
            let reason = match *ends <= reboots {
                true => ShutdownReason::Reboot,
                false => ShutdownReason::Poweroff,
            };
            self.world.shut_down(domid, reason);
        }
    }

    fn passed_s(&self) -> u64 {
        self.world.clock.passed().as_secs()
    }

    fn has_file(&self, path: &Path) -> bool {
        self.world.disk.contents(path).is_some()
    }
}

#[test]
fn a_guest_that_reboots_all_the_time_is_slowed_down_and_one_that_has_run_is_not() {
    let (bench, vm) = Bench::new();
    let (mut ends, mut starts_s, mut lines) = (0, vec![], vec![]);
    bench.end(&mut ends, 5);
    let mut host = bench.free_host();
    let begun_s = bench.passed_s();
    monitor::watch(&mut host, vm, &mut |line| {
        lines.push(line.to_owned());
        if line.starts_with("restarted as") {
            starts_s.push(bench.passed_s() - begun_s);
            if starts_s.len() == 4 {
                bench
                    .world
                    .clock
                    .advance(Duration::from_secs(restart_backoff::SHORT_LIFE_S));
            }
            bench.end(&mut ends, 5);
        }
    })
    .unwrap();
    // After the first end at once, then 2, 4 and 8 s later; after a life of 10 s at once again.
    assert_eq!(starts_s, [0, 2, 6, 14, 24], "{lines:#?}");
    assert!(
        lines
            .iter()
            .any(|line| line.contains("waits 8 s") && line.contains("4 times in a row"))
    );
    let left = bench.world.snapshot();
    assert!(left.domains.is_empty());
    assert!(!bench.has_file(&host.dirs.watch(uuid())));
}

#[test]
fn a_wait_ends_with_the_domain() {
    let (bench, vm) = Bench::new();
    let mut ends = 0;
    bench.end(&mut ends, 9);
    let mut host = bench.free_host();
    monitor::watch(&mut host, vm, &mut |line| {
        if line.starts_with("restarted as") {
            bench.end(&mut ends, 9);
        }
        if line.contains("waits 4 s") {
            // While it waits, somebody destroys the domain.
            let now = bench.world.clock.passed();
            assert!(now < Duration::from_secs(20));
            let domains = bench.world.xen.domain_list().unwrap();
            let ours = domains.iter().find(|d| d.handle == *uuid().as_bytes());
            let limit = std::time::Instant::now();
            bench
                .world
                .xen
                .destroy_domain(ours.unwrap().domid, limit)
                .unwrap();
        }
    })
    .unwrap();
    assert_eq!(ends, 3);
    assert!(store::read(&*host.files, &host.dirs, UUID).is_err());
    assert!(!bench.has_file(&host.dirs.watch(uuid())));
}

#[test]
fn a_restart_that_fails_is_tried_again_until_it_works() {
    let (bench, vm) = Bench::new();
    let (mut ends, mut failures) = (0, 0);
    bench.end(&mut ends, 1);
    std::fs::remove_file(bench.kernel()).unwrap();
    let mut host = bench.free_host();
    monitor::watch(&mut host, vm, &mut |line| {
        if line.starts_with("not restarted") {
            assert!(bench.running().is_none());
            failures += 1;
            if failures == 2 {
                bench.install_kernel();
            }
        }
        bench.end(&mut ends, 1);
    })
    .unwrap();
    assert_eq!((ends, failures), (2, 2));
    assert!(!bench.has_file(&host.dirs.watch(uuid())));
    assert!(!bench.has_file(&store::kept_path(&host.dirs, UUID)));
}

/// No guest can start then; but that is no fault of this one, and none of its tries.
#[test]
fn a_policy_that_cannot_be_read_uses_up_no_try() {
    let (bench, vm) = Bench::new();
    let (mut ends, mut errors) = (0, 0);
    let mut host = bench.free_host();
    let policy = host.dirs.policy.clone();
    let write = |text: &str| {
        let host = bench.free_host();
        host.files.create_folder(policy.parent().unwrap()).unwrap();
        host.files.write(&policy, text.as_bytes()).unwrap();
    };
    write("this is no policy");
    bench.end(&mut ends, 1);
    let outcome = monitor::watch(&mut host, vm, &mut |line| {
        if line.contains("The next try follows") {
            errors += 1;
        }
        if errors > restart_backoff::TRIES + 2 {
            write("version = 1");
        }
        bench.end(&mut ends, 1);
    });
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(ends, 2);
    assert!(!bench.has_file(&store::kept_path(&host.dirs, UUID)));
}

#[test]
fn a_restart_that_cannot_work_leaves_the_configuration_where_the_log_says() {
    let (bench, vm) = Bench::new();
    let mut lines = vec![];
    bench.end(&mut 0, 1);
    std::fs::remove_file(bench.kernel()).unwrap();
    let mut host = bench.free_host();
    let begun_s = bench.passed_s();
    let outcome = monitor::watch(&mut host, vm, &mut |line| lines.push(line.to_owned()));
    assert!(outcome.is_err());
    let tries = lines.iter().filter(|l| l.starts_with("not restarted"));
    assert_eq!(tries.count(), restart_backoff::TRIES as usize, "{lines:#?}");
    assert_eq!(bench.passed_s() - begun_s, 2 + 4 + 8 + 16);
    let kept = store::kept_path(&host.dirs, UUID);
    let last = lines.last().unwrap();
    assert!(last.contains(&format!("xyl create {}", kept.display())));
    let text = String::from_utf8(bench.world.disk.contents(&kept).unwrap()).unwrap();
    assert!(text.contains(UUID), "{text}");
    // Nothing that comes later takes it away but the VM's next start.
    recover::all(&mut bench.free_host(), true).unwrap();
    assert!(bench.create().is_err());
    assert!(bench.has_file(&kept));
    bench.install_kernel();
    bench.create().unwrap();
    assert!(!bench.has_file(&kept));
}

/// The policy has changed since the guest was created. Its ended domain stays, and what the log says to type works, whatever the
/// VM's name.
#[test]
fn a_restart_that_the_policy_refuses_leaves_the_ended_domain_in_place() {
    let (bench, vm) = Bench::new();
    let policy = bench.free_host().dirs.policy;
    bench
        .world
        .disk
        .put(&policy, b"version = 1\n[guests]\npvh = \"refuse\"\n");
    bench.end(&mut 0, 1);
    let mut host = bench.free_host();
    let mut lines = Vec::new();
    let outcome = monitor::watch(&mut host, vm, &mut |line| lines.push(line.to_owned()));
    let is_refusal = matches!(&outcome, Err(EngineError::NotAdmitted { .. }));
    assert!(is_refusal, "{outcome:?}");
    let info = host.hv.domain_info(vm.domid).unwrap().unwrap();
    assert!(info.flags.shutdown && &info.handle == uuid().as_bytes());
    let states = states::of_domains(&host.records(), &*host.clock, &[info]);
    assert_eq!(states, [VmState::GivenUp]);
    let kept = store::kept_path(&host.dirs, UUID);
    let advice = format!("xyl destroy {}; xyl create {}", vm.domid, kept.display());
    assert!(lines.last().unwrap().ends_with(&advice), "{lines:#?}");
    bench.serve_console(vm.domid);
    destroy::destroy(&mut host, vm.domid, false).unwrap();
    assert!(bench.has_file(&kept));
    assert!(!bench.has_file(&kept.with_extension("json")));
    bench.world.disk.put(&policy, b"version = 1\n");
    bench.create().unwrap();
    assert!(!bench.has_file(&kept));
}

/// What the host says of the VM that was asked for by its name and has no domain.
fn found_without_domain(bench: &Bench) -> Option<Listed> {
    let host = bench.free_host();
    let asked = DomainRef::Name("guest".to_owned());
    states::find_without_domain(&*host.hv, &host.records(), &*host.clock, &asked).unwrap()
}

/// A VM whose restart fails for this reason, again and again, until it is destroyed by its name.
fn waits_until_it_is_destroyed(fail: impl FnOnce(&Bench)) {
    let (bench, vm) = Bench::new();
    bench.end(&mut 0, 1);
    fail(&bench);
    let mut host = bench.free_host();
    let mut failures = 0;
    let outcome = monitor::watch(&mut host, vm, &mut |line| {
        if !line.contains("The next try follows") {
            return;
        }
        failures += 1;
        // Later tries leave other journals.
        if failures < 3 {
            return;
        }
        let found = found_without_domain(&bench).unwrap();
        assert_eq!(found.last_domid, Some(vm.domid));
        assert!(matches!(found.state, VmState::WaitingForRestart { .. }));
        assert_eq!((found.memory_kib, found.nr_vcpus), (8 << 10, 1));
        let mut other = bench.free_host();
        let (infos, listed) = states::list(&*other.hv, &other.records(), &*other.clock).unwrap();
        assert!(infos.is_empty());
        assert_eq!(listed, [found]);
        let refused = bench.create_named("guest", OTHER_UUID);
        let holds = |error: &EngineError| matches!(error, EngineError::NameOfVm { .. });
        assert!(refused.as_ref().is_err_and(holds), "{refused:?}");
        let kept = restart::call_off(&mut other, uuid()).unwrap();
        assert_eq!(kept, Some(store::kept_path(&other.dirs, UUID)));
    });
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(failures, 3);
    assert!(found_without_domain(&bench).is_none());
    bench.world.lift_faults();
    assert!(bench.world.xen.domain_list().unwrap().is_empty());
    let files = bench.world.disk.paths();
    let left: Vec<_> = files
        .iter()
        .filter(|file| file.to_string_lossy().contains(UUID))
        .collect();
    assert_eq!(left, [&store::kept_path(&host.dirs, UUID)]);
    // Its name is free, and its configuration works still.
    bench.install_kernel();
    bench.create_named("guest", OTHER_UUID).unwrap();
}

#[test]
fn a_vm_that_waits_for_its_kernel_keeps_its_name_until_it_is_destroyed() {
    waits_until_it_is_destroyed(|bench| std::fs::remove_file(bench.kernel()).unwrap());
}

#[test]
fn a_vm_that_waits_for_memory_keeps_its_name_until_it_is_destroyed() {
    waits_until_it_is_destroyed(|bench| {
        bench.world.fail_always(LastingFault::Xen {
            op: "populate_physmap",
            errno: Errno::ENOMEM,
        });
    });
}

#[test]
fn what_is_given_up_is_known_until_the_vm_is_created_again() {
    let (bench, vm) = Bench::new();
    bench.end(&mut 0, 1);
    std::fs::remove_file(bench.kernel()).unwrap();
    let mut host = bench.free_host();
    assert!(monitor::watch(&mut host, vm, &mut |_| ()).is_err());
    let asked = DomainRef::Name("guest".to_owned());
    let given_up = || states::find_given_up(&*host.hv, &host.records(), &asked).unwrap();
    assert!(found_without_domain(&bench).is_none());
    let (of, note) = given_up().unwrap();
    assert_eq!((of, note.name.as_str()), (uuid(), "guest"));
    assert!(note.why.contains("kernel"), "{}", note.why);
    let states = states::of_vms(&host.records(), &*host.clock, &[], &[uuid()]);
    assert_eq!(states, [VmState::GivenUp]);
    for _ in 0..2 {
        let told = recover::all(&mut bench.free_host(), true).unwrap();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].uuid == uuid() && !told[0].has_failed);
    }
    bench.install_kernel();
    // Another VM gets the name, which is free.
    let other = bench.create_named("guest", OTHER_UUID).unwrap();
    assert!(given_up().is_none());
    assert!(bench.has_file(&store::kept_path(&host.dirs, UUID)));
    destroy::destroy(&mut bench.free_host(), other, false).unwrap();
}

/// The states of a VM at each line of its monitor's log, until it is given up; each follows from the one before.
#[test]
fn each_state_of_a_vm_follows_from_the_one_before() {
    let (bench, vm) = Bench::new();
    let mut host = bench.free_host();
    let state_now = || {
        let host = bench.free_host();
        let infos = host.hv.domain_list().unwrap();
        states::of_vms(&host.records(), &*host.clock, &infos, &[uuid()])[0]
    };
    let mut seen = vec![state_now()];
    let mut ends = 0;
    bench.end(&mut ends, 9);
    let _ = monitor::watch(&mut host, vm, &mut |line| {
        seen.push(state_now());
        if line.starts_with("restarted as") {
            if ends == 2 {
                std::fs::remove_file(bench.kernel()).unwrap();
            }
            bench.end(&mut ends, 9);
        }
    });
    seen.push(state_now());
    seen.dedup_by_key(|state| state.word());
    let words: Vec<&str> = seen.iter().map(|state| state.word()).collect();
    for word in ["running", "ended", "waiting-for-restart", "given-up"] {
        assert!(words.contains(&word), "{words:?}");
    }
    for pair in seen.windows(2) {
        assert!(follows(pair[0], pair[1]), "{pair:?} of {words:?}");
    }
}

/// Whether events lead from a state to one of the same kind, two of them at most: between two looks more than one thing happens.
fn follows(from: VmState, to: VmState) -> bool {
    let after = |state: VmState| {
        let events = state::EVENTS.iter();
        events.filter_map(move |(event, _)| state::next(state, *event).ok())
    };
    let is_it = |state: &VmState| state.word() == to.word();
    after(from).any(|next| is_it(&next) || after(next).any(|next| is_it(&next)))
}

/// Kills the monitor of a guest that reboots twice and then powers off, at every call; sometimes
/// somebody recovers in between. The heir brings it to the same end, without pauses of its own.
#[test]
fn a_monitor_can_be_killed_at_any_call() {
    let mut deaths = 0;
    for call in 1.. {
        let moment = Moment::ALL[call as usize % 3];
        let (bench, vm) = Bench::new();
        let mut ends = 0;
        bench.end(&mut ends, 2);
        let begun_s = bench.passed_s();
        let fate = bench.world.fate(Some((call, moment)));
        let ended = fate.run(|| {
            monitor::watch(&mut bench.host(&fate), vm, &mut |line| {
                if line.starts_with("restarted as") {
                    bench.end(&mut ends, 2);
                }
            })
        });
        let was_killed = matches!(ended, Ended::Killed);
        let mut host = bench.free_host();
        if was_killed {
            deaths += 1;
            if call % 2 == 0 {
                recover::all(&mut host, false).unwrap();
            }
            let lost = monitor_lock::without_monitor(&*host.files, &host.dirs).unwrap();
            // Before it had its post, or after all was done, there is none to inherit.
            bench.end(&mut ends, 2);
            if !lost.is_empty() {
                assert_eq!(lost, [uuid()]);
                // One that waits for what never comes makes calls for ever.
                let heir = bench.world.fate(Some((10_000, Moment::Before)));
                let ended = heir.run(|| {
                    let mut host = bench.host(&heir);
                    monitor::watch(&mut host, vm, &mut |_| bench.end(&mut ends, 2))
                });
                let is_done = matches!(ended, Ended::Well(Ok(())));
                assert!(is_done, "killed {moment:?} call {call}, then {ended:?}");
            }
        }
        let what = format!("killed {moment:?} call {call}");
        if was_killed {
            // It may have died while it put things away.
            recover::all(&mut host, false).unwrap();
        }
        assert_eq!(ends, 3, "{what}");
        let domains = bench.world.xen.domain_list().unwrap();
        assert!(domains.is_empty(), "{what}: {domains:?}");
        let waited_s = bench.passed_s() - begun_s;
        assert!((2..=4).contains(&waited_s), "{what}: {waited_s} s");
        let files = bench.world.disk.paths();
        let left: Vec<_> = files
            .iter()
            .filter(|file| file.to_string_lossy().contains(UUID))
            .collect();
        // One that died between its work's end and its lock's leaves an empty lock.
        let is_lock = |file: &&PathBuf| **file == host.dirs.vm_lock(uuid());
        assert!(
            left.into_iter().all(|file| is_lock(&file)),
            "{what}: {files:?}"
        );
        if !was_killed {
            break;
        }
    }
    println!("{deaths} deaths");
    assert!(deaths > 100, "{deaths}");
}

/// From each call of the monitor on, the host lacks something: space on a disk, a quota of xenstored, memory. The guest
/// reboots meanwhile. When the host is well again, the monitor goes on, and the restarts happen.
#[test]
fn a_monitor_outlives_each_shortage_of_the_host() {
    let shortages = [
        LastingFault::full_disk("/run"),
        LastingFault::full_disk("/"),
        LastingFault::Disk {
            below: "/".into(),
            errno: Errno::EIO,
        },
        LastingFault::read_only_disk("/"),
        LastingFault::store_quota(),
        LastingFault::Store {
            error: ErrorName::Enomem,
        },
        LastingFault::Store {
            error: ErrorName::Eio,
        },
    ];
    let hypercalls = [
        "domain_info",
        "domain_list",
        "create_domain",
        "populate_physmap",
        "unpause_domain",
    ];
    let of_xen = hypercalls.map(|op| LastingFault::Xen {
        op,
        errno: Errno::ENOMEM,
    });
    for shortage in shortages.iter().chain(&of_xen) {
        let faults = (1..)
            .step_by(stride(13))
            .take_while(|call| outlives(shortage, *call))
            .count();
        println!("{faults} times {shortage:?}");
        assert!(faults > 10, "{faults}");
    }
}

/// The old domain is gone, and the host has no memory for the next one: the monitor waits for as long as it says.
#[test]
fn a_monitor_whose_vm_has_no_domain_waits_before_it_tries_again() {
    let (bench, vm) = Bench::new();
    let mut ends = 0;
    bench.end(&mut ends, 1);
    let mut host = bench.free_host();
    let shortage = LastingFault::Xen {
        op: "populate_physmap",
        errno: Errno::ENOMEM,
    };
    bench.world.fail_always(shortage);
    let begun_s = bench.passed_s();
    let mut tries_s = Vec::new();
    let outcome = monitor::watch(&mut host, vm, &mut |line| {
        if line.contains("The next try follows") {
            tries_s.push(bench.passed_s() - begun_s);
            if tries_s.len() == 4 {
                bench.world.lift_faults();
            }
        }
        bench.end(&mut ends, 1);
    });
    assert!(outcome.is_ok(), "{outcome:?}");
    let pauses: Vec<u64> = tries_s.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses, [2, 4, 8]);
}

/// The shortage begins at this call, and ends after some errors; whether the monitor lived so long.
fn outlives(shortage: &LastingFault, call: u64) -> bool {
    let what = format!("{shortage:?} from call {call} on");
    let (bench, vm) = Bench::new();
    let (mut ends, mut lines, mut errors) = (0, vec![], 0);
    bench.end(&mut ends, 2);
    let fate = bench.world.fate(None).failing_from(call, shortage.clone());
    let mut host = bench.host(&fate);
    let outcome = monitor::watch(&mut host, vm, &mut |line| {
        lines.push(line.to_owned());
        if line.contains("The next try follows") {
            errors += 1;
        }
        // More than the tries after which a restart is given up.
        if errors > restart_backoff::TRIES + 2 {
            fate.lift_faults();
        }
        bench.end(&mut ends, 2);
    });
    assert!(outcome.is_ok(), "{what}: {outcome:?}, {lines:#?}");
    assert_eq!(ends, 3, "{what}: {lines:#?}");
    fate.lift_faults();
    let domains = bench.world.xen.domain_list().unwrap();
    assert!(domains.is_empty(), "{what}: {domains:?}, {lines:#?}");
    fate.calls() >= call
}

// ---- a guest that soft-resets itself as soon as it runs ------------------------------------------------

/// What is seen of such a guest: when it asked, and when it ran again, by the world's clock.
#[derive(Default)]
struct Storm {
    resets: Mutex<Vec<(Duration, Duration)>>,
    lines: Mutex<Vec<String>>,
}

impl Storm {
    /// Such a guest, its monitor, and a command that comes after so long; how long that took.
    fn run(
        &self,
        bench: &Bench,
        vm: Vm,
        after: Duration,
        command: impl FnOnce(&mut Host) + Send,
    ) -> Duration {
        let turns = Turns::fair(7, &bench.world.clock, 3);
        let (monitor, guest) = (turns.servant(0), turns.servant(1));
        let fates = [monitor, guest, turns.seat(2)].map(|seat| bench.world.fate(None).seated(seat));
        let took = std::thread::scope(|scope| {
            let [monitor, guest, operator] = &fates;
            scope.spawn(|| {
                monitor.run(|| {
                    let log = &mut |line: &str| self.lines.lock().unwrap().push(line.to_owned());
                    monitor::watch(&mut bench.host(monitor), vm, log).unwrap();
                })
            });
            scope.spawn(|| guest.run(|| self.reset_all_the_time(bench, guest, vm.domid)));
            let command = scope.spawn(|| {
                let ended = operator.run(|| {
                    let mut host = bench.host(operator);
                    let due = host.clock.now() + after;
                    host.clock.wait_until(due);
                    let begun = host.clock.now();
                    command(&mut host);
                    host.clock.now() - begun
                });
                match ended {
                    Ended::Well(took) => took,
                    Ended::Killed => panic!("it did not end"),
                }
            });
            command.join().unwrap()
        });
        assert_eq!(turns.stuck(), None);
        took
    }

    /// Such a guest beside another VM, whose monitor is asked to pause it after so long; the calls that this monitor has made until
    /// then.
    fn run_beside(&self, bench: &Bench, vm: Vm, other: Vm, after: Duration) -> u64 {
        let turns = Turns::fair(7, &bench.world.clock, 4);
        let seats = [
            turns.servant(0),
            turns.servant(1),
            turns.servant(2),
            turns.seat(3),
        ];
        let fates = seats.map(|seat| bench.world.fate(None).seated(seat));
        let calls = std::thread::scope(|scope| {
            let [monitor, guest, bystander, operator] = &fates;
            let watch = |fate: &Fate, vm: Vm| {
                fate.run(|| monitor::watch(&mut bench.host(fate), vm, &mut |_| ()).unwrap())
            };
            scope.spawn(move || watch(monitor, vm));
            scope.spawn(move || watch(bystander, other));
            scope.spawn(|| guest.run(|| self.reset_all_the_time(bench, guest, vm.domid)));
            let operator = scope.spawn(|| {
                operator.run(|| {
                    let mut host = bench.host(operator);
                    let due = host.clock.now() + after;
                    host.clock.wait_until(due);
                    let calls = bystander.calls();
                    let info = host.hv.domain_info(other.domid).unwrap().unwrap();
                    requests::ask_for(&mut host, &info, &Request::Pause).unwrap();
                    for domid in [vm.domid, other.domid] {
                        destroy::destroy(&mut host, domid, false).unwrap();
                    }
                    calls
                })
            });
            match operator.join().unwrap() {
                Ended::Well(calls) => calls,
                Ended::Killed => panic!("it did not end"),
            }
        });
        assert_eq!(turns.stuck(), None);
        calls
    }

    /// The guest.
    fn reset_all_the_time(&self, bench: &Bench, fate: &Fate, domid: DomId) {
        let host = bench.host(fate);
        let mut asked = None;
        while let Some(info) = host.hv.domain_info(domid).unwrap() {
            let now = bench.world.clock.passed();
            if !info.flags.shutdown && !info.flags.paused && !info.flags.dying {
                let reset = asked.replace(now).map(|asked| (asked, now));
                self.resets.lock().unwrap().extend(reset);
                bench.world.shut_down(domid, ShutdownReason::SoftReset);
            }
            let next = host.clock.now() + Duration::from_millis(1);
            host.clock.wait_until(next);
        }
    }

    fn lines_of(&self, text: &str) -> usize {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|line| line.contains(text)).count()
    }
}

#[test]
fn a_storm_of_soft_resets_gets_a_quarter_of_the_time_and_one_line_a_minute() {
    let (bench, vm) = Bench::new();
    bench.serve_console(vm.domid);
    let storm = Storm::default();
    let took = storm.run(&bench, vm, Duration::from_secs(100), |host| {
        destroy::destroy(host, vm.domid, false).unwrap();
    });
    let resets = storm.resets.lock().unwrap();
    // The first one waits for nothing, so it takes what a reset takes.
    let (begun, ran) = resets[0];
    let (alone, count) = (ran - begun, resets.len() as u32 - 1);
    let each = (resets[resets.len() - 1].1 - ran) / count;
    assert!(
        each >= (alone * 3).max(Duration::from_secs(1)),
        "{each:?} for each of {count}, {alone:?} for the first"
    );
    assert!(count > 80, "{count}");
    let longest = resets.iter().map(|(asked, ran)| *ran - *asked).max();
    assert!(longest.unwrap() < Duration::from_secs(2), "{longest:?}");
    assert_eq!(
        storm.lines_of("asked for a soft reset"),
        2,
        "{:?}",
        storm.lines
    );
    assert_eq!(
        storm.lines_of("each waits for 3 times as long"),
        1,
        "{:?}",
        storm.lines
    );
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(bench.world.xen.domain_list().unwrap().is_empty());
}

/// The monitor of another VM is woken by each reset; it makes few calls for that, and serves requests meanwhile.
#[test]
fn soft_resets_of_one_guest_cost_the_monitors_of_others_few_calls() {
    let (bench, vm) = Bench::new();
    let other = bench.create_named("other", OTHER_UUID).unwrap();
    let other = Vm {
        domid: other,
        uuid: Uuid::parse_str(OTHER_UUID).unwrap(),
    };
    bench.serve_console(vm.domid);
    bench.serve_console(other.domid);
    let storm = Storm::default();
    let calls = storm.run_beside(&bench, vm, other, Duration::from_secs(60));
    let count = storm.resets.lock().unwrap().len() as u64;
    assert!((40..70).contains(&count), "{count}");
    println!("{calls} calls for {count} resets");
    // A reset has two events, and one look follows them: a hypercall, and calls that wait.
    assert!(calls <= count * 4, "{calls} calls for {count} resets");
}

/// A reset that Xen holds up for long, 2.6 s, makes the next one wait for two seconds, and no command for any.
#[test]
fn the_rest_after_a_slow_soft_reset_is_three_times_as_long_and_holds_up_no_command() {
    let slow_storm = |after, command: fn(&mut Host, &DomainInfo)| {
        let (bench, vm) = Bench::new();
        bench.serve_console(vm.domid);
        bench.world.xen.refuse_resets(60, Errno::EBUSY);
        let storm = Storm::default();
        let took = storm.run(&bench, vm, after, |host| {
            let info = host.hv.domain_info(vm.domid).unwrap().unwrap();
            command(host, &info);
            destroy::destroy(host, vm.domid, false).unwrap();
        });
        assert!(bench.world.xen.domain_list().unwrap().is_empty());
        assert!(took < Duration::from_millis(100), "{took:?}");
        let resets = storm.resets.into_inner().unwrap();
        let waits = resets.iter().map(|(asked, ran)| *ran - *asked);
        waits.collect::<Vec<_>>()
    };
    // In the middle of the rest.
    let waits = slow_storm(Duration::from_millis(3500), |host, info| {
        assert!(info.flags.shutdown && !info.flags.paused);
        let (hv, store) = (&*host.hv, &mut host.store);
        power::ask(hv, store, info, PowerRequest::Poweroff, false).unwrap();
    });
    assert_eq!(waits.len(), 1);
    assert!(waits[0] > Duration::from_secs(2), "{waits:?}");
    // Some resets later.
    let waits = slow_storm(Duration::from_secs(20), |_, _| ());
    let rest = waits[0] * 3..waits[0] * 3 + Duration::from_millis(100);
    assert!(rest.contains(&waits[1]), "{:?}", &waits[..2]);
    let rest = Duration::from_secs(1)..Duration::from_millis(1100);
    assert!(rest.contains(&waits[2]), "{:?}", &waits[..3]);
}

/// The file that the core of a guest that has ended goes to.
const CORE: &str = "/var/lib/xen/dump/guest";

#[test]
fn a_core_is_dumped_before_the_guest_is_restarted_or_destroyed() {
    let (bench, vm) = Bench::new();
    let mut lines: Vec<String> = vec![];
    bench.world.shut_down(vm.domid, ShutdownReason::Crash);
    monitor::watch(&mut bench.free_host(), vm, &mut |line| {
        if line.starts_with("restarted as") {
            assert!(bench.has_file(Path::new(CORE)));
            bench.world.disk.put(Path::new(CORE), b"seen");
            bench
                .world
                .shut_down(bench.running().unwrap(), ShutdownReason::Watchdog);
        }
        lines.push(line.to_owned());
    })
    .unwrap();
    let cores = lines
        .iter()
        .filter(|line| line.contains(" is in /var/lib/xen/dump/guest: "));
    assert_eq!(cores.count(), 2, "{lines:#?}");
    assert!(bench.world.disk.contents(Path::new(CORE)).unwrap().len() > 8 << 20);
    assert!(bench.world.xen.domain_list().unwrap().is_empty());
}

/// The guest crashes that often, each time after so long; the lines about its cores.
fn cores_of_crashes(bench: &Bench, vm: Vm, crashes: u32, life: Duration) -> Vec<String> {
    let (mut lines, mut ends) = (Vec::new(), 1);
    bench.world.shut_down(vm.domid, ShutdownReason::Crash);
    monitor::watch(&mut bench.free_host(), vm, &mut |line| {
        if line.contains("the core of") {
            lines.push(line.to_owned());
        }
        if line.starts_with("restarted as") {
            bench.world.clock.advance(life);
            ends += 1;
            let reason = match ends > crashes {
                true => ShutdownReason::Poweroff,
                false => ShutdownReason::Crash,
            };
            bench.world.shut_down(bench.running().unwrap(), reason);
        }
    })
    .unwrap();
    lines
}

fn nr_refused(lines: &[String], why: &str) -> usize {
    let refused = lines.iter().filter(|line| line.contains("was not dumped"));
    refused.filter(|line| line.contains(why)).count()
}

#[test]
fn a_guest_that_crashes_again_and_again_gets_three_cores_an_hour() {
    let (bench, vm) = Bench::new();
    let lines = cores_of_crashes(&bench, vm, 6, Duration::from_secs(60));
    assert_eq!(
        (lines.len(), nr_refused(&lines, "per_hour")),
        (6, 3),
        "{lines:#?}"
    );
    let (bench, vm) = Bench::new();
    let lines = cores_of_crashes(&bench, vm, 6, Duration::from_secs(1300));
    assert_eq!((lines.len(), nr_refused(&lines, "")), (6, 0), "{lines:#?}");
}

#[test]
fn cores_leave_space_on_the_disk_and_are_not_too_many() {
    let (bench, vm) = Bench::new();
    // The guest has 8 MiB, and 256 MiB stay free.
    bench.world.disk.set_free_bytes(264 << 20);
    let lines = cores_of_crashes(&bench, vm, 1, Duration::from_secs(60));
    assert_eq!(nr_refused(&lines, "min_free_mib"), 1, "{lines:#?}");
    assert!(!bench.has_file(Path::new(CORE)));

    let (bench, vm) = Bench::new();
    bench.world.disk.set_free_bytes(300 << 20);
    for number in 0..16 {
        let path = Path::new(CORE).with_file_name(format!("other-{number}"));
        bench.world.disk.put(&path, b"a core");
    }
    let lines = cores_of_crashes(&bench, vm, 1, Duration::from_secs(60));
    assert_eq!(nr_refused(&lines, "kept"), 1, "{lines:#?}");
    // One that replaces the VM's last core makes no more of them.
    let (bench, vm) = Bench::new();
    bench.world.disk.put(Path::new(CORE), b"a core");
    for number in 0..15 {
        let path = Path::new(CORE).with_file_name(format!("other-{number}"));
        bench.world.disk.put(&path, b"a core");
    }
    let lines = cores_of_crashes(&bench, vm, 2, Duration::from_secs(60));
    assert_eq!(nr_refused(&lines, ""), 0, "{lines:#?}");
}

#[test]
fn a_core_that_cannot_be_had_is_told_of_and_the_guest_is_restarted() {
    let (bench, vm) = Bench::new();
    let mut lines: Vec<String> = vec![];
    bench.world.xen.fail_always("vcpu_context", Errno::EPERM);
    bench.world.shut_down(vm.domid, ShutdownReason::Crash);
    monitor::watch(&mut bench.free_host(), vm, &mut |line| {
        if line.starts_with("restarted as") {
            bench
                .world
                .shut_down(bench.running().unwrap(), ShutdownReason::Poweroff);
        }
        lines.push(line.to_owned());
    })
    .unwrap();
    assert!(
        lines.iter().any(|line| line.contains("was not dumped")),
        "{lines:#?}"
    );
    assert!(
        lines.iter().any(|line| line.starts_with("restarted as")),
        "{lines:#?}"
    );
    let files = bench.world.disk.paths();
    assert!(
        files
            .iter()
            .all(|file| !file.starts_with("/var/lib/xen/dump")),
        "{files:?}"
    );
}

/// Of so many calls one is tried; each of them with `XYL_SIM_FULL`.
fn stride(usual: usize) -> usize {
    match std::env::var_os("XYL_SIM_FULL") {
        Some(_) => 1,
        None => usual,
    }
}

/// The monitor of a guest that has crashed dies at every call (one of four without `XYL_SIM_FULL`); its heir dumps what is not dumped, and restarts the guest.
#[test]
fn a_monitor_that_dumps_can_be_killed_at_any_call() {
    let mut deaths = 0;
    for call in (1_u64..).step_by(stride(4)) {
        let moment = Moment::ALL[call as usize % 3];
        let (bench, vm) = Bench::new();
        bench.serve_console(vm.domid);
        bench.world.shut_down(vm.domid, ShutdownReason::Crash);
        let fate = bench.world.fate(Some((call, moment)));
        // The next one is powered off as soon as it runs.
        let watch = |host: &mut Host| monitor::watch(host, vm, &mut |_| bench.end(&mut 1, 0));
        let was_killed = matches!(fate.run(|| watch(&mut bench.host(&fate))), Ended::Killed);
        let what = format!("killed {moment:?} call {call}");
        if was_killed {
            deaths += 1;
            let mut host = bench.free_host();
            bench.end(&mut 1, 0);
            if !monitor_lock::without_monitor(&*host.files, &host.dirs)
                .unwrap()
                .is_empty()
            {
                // One that waits for what never comes makes calls for ever.
                let heir = bench.world.fate(Some((10_000, Moment::Before)));
                let ended = heir.run(|| watch(&mut bench.host(&heir)));
                let is_done = matches!(ended, Ended::Well(Ok(())));
                assert!(is_done, "{what}, then {ended:?}");
            }
            recover::all(&mut host, false).unwrap();
        }
        let core = bench.world.disk.contents(Path::new(CORE));
        let files = bench.world.disk.paths();
        let cores = files
            .iter()
            .filter(|file| file.starts_with("/var/lib/xen/dump"));
        assert_eq!(cores.count(), 1, "{what}: {files:?}");
        assert!(core.unwrap().len() > 8 << 20, "{what}");
        let domains = bench.world.xen.domain_list().unwrap();
        assert!(domains.is_empty(), "{what}: {domains:?}");
        if !was_killed {
            break;
        }
    }
    println!("{deaths} deaths");
    assert!(deaths > 40, "{deaths}");
}
