//! What outlives a power cut: the records of VMs, and the configuration of a VM that was given up.
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
use xen_port::ShutdownReason;
use xen_sim::{Ended, World};
use xyl_engine::supervise::monitor::watch;
use xyl_engine::vm::{Vm, store};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";

fn record(name: &str) -> PathBuf {
    Path::new("/var/lib/xyl/vm").join(UUID).join(name)
}

#[test]
fn the_records_of_a_vm_outlive_a_power_cut() {
    let bench = Bench::new();
    let world = World::new(256);
    bench.must(&world, |host| bench.create(host, "guest", UUID));
    let names = ["config.cfg", "admission.json"];
    let before = names.map(|name| world.disk.contents(&record(name)).unwrap());
    let world = world.lose_power();
    let after = names.map(|name| world.disk.contents(&record(name)).unwrap_or_default());
    assert_eq!(after, before);
    assert!(
        world
            .disk
            .paths()
            .iter()
            .all(|path| !path.starts_with("/run"))
    );
    assert!(world.snapshot().domains.is_empty());
}

#[test]
fn a_record_that_is_changed_is_the_old_or_the_new_one_after_a_power_cut() {
    let bench = Bench::new();
    let write = |text: &'static str| {
        move |host: &mut xyl_engine::Host| store::write(&*host.files, &host.dirs, UUID, text)
    };
    let mut was_changed = 0;
    for call in 1.. {
        let world = World::new(256);
        bench.must(&world, write("name = \"old\"\n"));
        let doom = Some((call, xen_sim::Moment::After));
        let (ended, _) = bench.process(&world, doom, write("name = \"new\"\n"));
        let world = world.lose_power();
        let now = world.disk.contents(&record("config.cfg")).unwrap();
        match ended {
            Ended::Killed => {
                let is_new = now == b"name = \"new\"\n";
                assert!(is_new || now == b"name = \"old\"\n", "{call}");
                was_changed += u32::from(is_new);
            }
            Ended::Well(outcome) => {
                outcome.unwrap();
                assert_eq!(now, b"name = \"new\"\n");
                break;
            }
        }
    }
    assert!(was_changed > 0);
}

/// A VM is given up: its kernel has gone.
#[test]
fn the_configuration_of_a_vm_that_was_given_up_outlives_a_power_cut() {
    let bench = Bench::new();
    let world = World::new(256);
    let domid = bench.must(&world, |host| bench.create(host, "guest", UUID));
    let text = world.disk.contents(&record("config.cfg")).unwrap();
    std::fs::remove_file(bench.kernel()).unwrap();
    world.shut_down(domid, ShutdownReason::Reboot);
    let uuid = uuid::Uuid::parse_str(UUID).unwrap();
    let (ended, _) = bench.process(&world, None, |host| {
        watch(host, Vm { domid, uuid }, &mut |_| ())
    });
    assert!(matches!(ended, Ended::Well(Err(_))), "{ended:?}");
    let kept = Path::new("/var/lib/xyl/kept").join(format!("{UUID}.cfg"));
    assert_eq!(world.disk.contents(&kept).as_ref(), Some(&text));
    let world = world.lose_power();
    assert_eq!(world.disk.contents(&kept), Some(text));
}
