//! What a VM's next domain has of the one before, and what is found wrong while that is still in place.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo, SchedulerId, SchedulerParams, ShutdownReason};
use xen_sim::World;
use xenstore::{Path as Node, Tree};
use xyl_engine::control::{memory, vcpus};
use xyl_engine::operation::restart;
use xyl_engine::recover;
use xyl_engine::vm::{domains, store};
use xyl_engine::{EngineError, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const OTHER_UUID: &str = "6a1d0c4e-0000-4000-8000-000000000002";

/// A world with one process, which lives on.
struct Bench {
    world: World,
    host: Host,
    bench: bench::Bench,
}

impl Bench {
    fn new() -> Bench {
        let bench = bench::Bench::new();
        let world = World::new(256);
        let host = bench.host(&world, &world.fate(None));
        Bench { world, host, bench }
    }

    fn create(&mut self, name: &str, uuid: &str, more: &str) -> Result<DomId, EngineError> {
        let text = format!("{}{more}\n", self.bench.config(name, uuid));
        self.bench.create_from(&mut self.host, &text)
    }

    fn restart(&mut self, domid: DomId, keeps_old: bool) -> Result<DomId, EngineError> {
        self.world.shut_down(domid, ShutdownReason::Reboot);
        let uuid = Uuid::parse_str(UUID).unwrap();
        restart::restart(&mut self.host, uuid, domid, keeps_old).map(Option::unwrap)
    }

    fn info(&self, domid: DomId) -> DomainInfo {
        self.host.hv.domain_info(domid).unwrap().unwrap()
    }

    fn node(&mut self, path: &str) -> String {
        self.host
            .store
            .read_text(&Node::new(path).unwrap())
            .unwrap()
    }

    /// Whether a domain still has the VM's UUID, name and nodes.
    fn is_in_place(&mut self, domid: DomId, name: &str) -> bool {
        let uuid = Uuid::parse_str(UUID).unwrap();
        &self.info(domid).handle == uuid.as_bytes()
            && self.node(&format!("/local/domain/{domid}/name")) == name
    }
}

#[test]
fn what_was_changed_while_it_ran_outlives_a_restart() {
    let mut bench = Bench::new();
    let old = bench
        .create("web", UUID, "vcpus = 1\nmaxvcpus = 3")
        .unwrap();
    let info = bench.info(old);
    let host = &mut bench.host;
    domains::rename(host, &info, "web-old").unwrap();
    memory::set_maximum(host, &info, 16 << 10).unwrap();
    memory::set_target(host, &info, 12 << 10).unwrap();
    vcpus::set_online(&mut host.store, &info, 2).unwrap();
    let share = SchedulerParams::Credit2 {
        weight: 512,
        cap: 40,
    };
    host.hv.set_scheduler_params(old, &share).unwrap();
    bench.create("web", OTHER_UUID, "").unwrap();

    let new = bench.restart(old, false).unwrap();
    let home = format!("/local/domain/{new}");
    assert_eq!(bench.node(&format!("{home}/name")), "web-old");
    assert_eq!(bench.node(&format!("{home}/memory/target")), "12288");
    assert_eq!(bench.node(&format!("{home}/memory/static-max")), "16384");
    assert_eq!(bench.node(&format!("{home}/cpu/1/availability")), "online");
    assert_eq!(bench.node(&format!("{home}/cpu/2/availability")), "offline");
    let now = bench.host.hv.scheduler_params(new, SchedulerId::Credit2);
    assert_eq!(now.unwrap(), share);
    // And the life after that.
    let text = store::read(&*bench.host.files, &bench.host.dirs, UUID).unwrap();
    assert!(text.contains("name = \"web-old\""), "{text}");
    let next = bench.restart(new, false).unwrap();
    assert!(bench.is_in_place(next, "web-old"));
}

#[test]
fn a_name_that_is_taken_or_held_leaves_the_ended_domain_in_place() {
    let mut bench = Bench::new();
    let old = bench.create("web", UUID, "").unwrap();
    let other = bench.create("other", OTHER_UUID, "").unwrap();
    let lock = bench.host.dirs.name_lock("web");
    let held = bench.host.files.lock(&lock, None).unwrap().unwrap();
    let refused = bench.restart(old, false);
    assert!(
        matches!(refused, Err(EngineError::NameBusy { .. })),
        "{refused:?}"
    );
    assert!(bench.is_in_place(old, "web"));
    drop(held);
    // xl takes no lock.
    let name = Node::new(&format!("/local/domain/{other}/name")).unwrap();
    bench.host.store.write(&name, b"web").unwrap();
    let refused = bench.restart(old, false);
    assert!(
        matches!(refused, Err(EngineError::NameTaken { .. })),
        "{refused:?}"
    );
    assert!(bench.is_in_place(old, "web"));
}

#[test]
fn no_two_domains_are_set_aside_under_one_name() {
    let mut bench = Bench::new();
    let first = bench.create("web", UUID, "").unwrap();
    // The clock stands still: the second domain gets the second into its name, and the third finds both names taken.
    let second = bench.restart(first, true).unwrap();
    let third = bench.restart(second, true).unwrap();
    let names = [first, second].map(|old| bench.node(&format!("/local/domain/{old}/name")));
    assert_ne!(names[0], names[1]);
    let refused = bench.restart(third, true);
    assert!(
        matches!(refused, Err(EngineError::NameTaken { .. })),
        "{refused:?}"
    );
    assert!(bench.is_in_place(third, "web"));
}

#[test]
fn devices_of_xl_leave_the_ended_domain_in_place() {
    let mut bench = Bench::new();
    let old = bench.create("web", UUID, "").unwrap();
    let device = Node::new(&format!("/libxl/{old}/device/vif/0")).unwrap();
    bench.host.store.write(&device, b"").unwrap();
    let refused = bench.restart(old, false);
    assert!(
        matches!(refused, Err(EngineError::ForeignDevices { .. })),
        "{refused:?}"
    );
    assert!(bench.is_in_place(old, "web"));
}

#[test]
fn a_pool_is_found_by_its_name_and_gives_shares_by_its_own_scheduler() {
    let mut bench = Bench::new();
    bench.world.xen.add_pool(1, SchedulerId::Credit);
    bench.world.xen.add_pool(2, SchedulerId::Null);
    for (id, name) in [(0, "Pool-0"), (1, "Pool-2"), (2, "bare")] {
        let path = Node::new(&format!("/local/pool/{id}/name")).unwrap();
        bench.host.store.write(&path, name.as_bytes()).unwrap();
    }
    let more = "pool = \"Pool-2\"\ncpu_weight = 512";
    let domid = bench.create("web", UUID, more).unwrap();
    assert_eq!(bench.info(domid).cpupool, 1);
    let share = bench.host.hv.scheduler_params(domid, SchedulerId::Credit);
    assert!(
        matches!(share, Ok(SchedulerParams::Credit { weight: 512, .. })),
        "{share:?}"
    );

    let refused = bench.create("other", OTHER_UUID, "pool = \"Pool-1\"");
    assert!(
        matches!(refused, Err(EngineError::NoSuchPool(_))),
        "{refused:?}"
    );
    let refused = bench.create("other", OTHER_UUID, "pool = \"bare\"\ncap = 10");
    let error = refused.unwrap_err();
    assert!(
        matches!(error.cause(), EngineError::NoShares("null")),
        "{error}"
    );
}

#[test]
fn a_recovery_drops_the_records_of_vms_without_a_domain() {
    let mut bench = Bench::new();
    let gone = bench.create("gone", UUID, "").unwrap();
    bench.create("web", OTHER_UUID, "").unwrap();
    let deadline = bench.host.clock.now();
    bench.host.hv.destroy_domain(gone, deadline).unwrap();
    let has_record = |host: &Host, uuid| store::read(&*host.files, &host.dirs, uuid).is_ok();
    recover::all(&mut bench.host, false).unwrap();
    assert!(has_record(&bench.host, UUID));
    recover::all(&mut bench.host, true).unwrap();
    assert!(!has_record(&bench.host, UUID));
    assert!(has_record(&bench.host, OTHER_UUID));
}
