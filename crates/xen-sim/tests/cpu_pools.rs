//! CPU pools: a process that changes them dies at every call. No pool is left without a name, no CPU is lost, and the next process
//! can do what is left to do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use bench::Bench;
use xen_port::{CpuMap, DomId, Errno, Hypervisor, SchedulerId};
use xen_sim::{Ended, Moment, World};
use xl_cfg::PoolCpus;
use xyl_engine::control::cpu_pools::{self, NewPool};
use xyl_engine::error::PoolError;
use xyl_engine::host::pools::Pools;
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::{EngineError, ErrorCode, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const CPUS: u32 = 4;

/// A host with four CPUs on two nodes, two of them free, and domain 0.
fn world(bench: &Bench) -> World {
    let world = World::new(256);
    world.xen.set_cpus(CPUS);
    world.xen.set_nodes(2);
    world.xen.set_version(xen_sim::version());
    world.xen.add_control_domain(256);
    bench.must(&world, |host| {
        host.hv.remove_cpu_from_pool(0, 2)?;
        host.hv.remove_cpu_from_pool(0, 3)?;
        let path = xenstore::Path::new("/local/pool/0/name").unwrap();
        xenstore::Tree::write(&mut host.store, &path, b"Pool-0")?;
        Ok(())
    });
    world
}

fn fast() -> NewPool {
    NewPool {
        name: "fast".to_owned(),
        scheduler: SchedulerId::Null,
        cpus: [2, 3].into_iter().collect(),
    }
}

fn pools(bench: &Bench, world: &World) -> Pools {
    bench.must(world, |host| Pools::read(&*host.hv, &mut host.store))
}

/// Each pool has a name, and each CPU is in one pool or free.
fn check(bench: &Bench, world: &World, what: &str) {
    let pools = pools(bench, world);
    let free = world.xen.free_cpus().unwrap();
    for pool in pools.iter() {
        assert!(pool.name.is_some(), "{what}: pool {} has no name", pool.id);
    }
    for cpu in 0..CPUS {
        let in_pools = pools.iter().filter(|pool| pool.cpus.contains(cpu)).count();
        assert_eq!(
            in_pools + usize::from(free.contains(cpu)),
            1,
            "{what}: CPU {cpu}"
        );
    }
}

/// Kills `act` at each of its calls, and has `again` do what is left to do.
fn sweep(
    prepare: &dyn Fn(&mut Host) -> Result<(), EngineError>,
    act: &dyn Fn(&mut Host) -> Result<(), EngineError>,
    again: &dyn Fn(&mut Host) -> Result<(), EngineError>,
) {
    let bench = Bench::new();
    for moment in Moment::ALL {
        for call in 0.. {
            let world = world(&bench);
            bench.must(&world, |host| prepare(host));
            let (ended, _) = bench.process(&world, Some((call, moment)), |host| act(host));
            let is_over = matches!(ended, Ended::Well(_));
            if let Ended::Well(outcome) = ended {
                outcome.unwrap();
            }
            let what = format!("killed at call {call}, {moment:?}");
            check(&bench, &world, &what);
            bench.must(&world, |host| again(host));
            check(&bench, &world, &format!("{what}, and repeated"));
            if is_over {
                break;
            }
        }
    }
}

fn nothing(_: &mut Host) -> Result<(), EngineError> {
    Ok(())
}

fn create_fast(host: &mut Host) -> Result<(), EngineError> {
    cpu_pools::create(host, &fast()).map(drop)
}

/// Destroys the pool if it is there.
fn destroy_fast(host: &mut Host) -> Result<(), EngineError> {
    match cpu_pools::destroy(host, "fast") {
        Err(EngineError::NoSuchPool(_)) => Ok(()),
        outcome => outcome,
    }
}

#[test]
fn a_create_that_dies_leaves_no_pool_without_a_name() {
    sweep(&nothing, &create_fast, &|host| {
        destroy_fast(host)?;
        create_fast(host)
    });
}

#[test]
fn a_destroy_that_dies_can_be_repeated() {
    sweep(&create_fast, &destroy_fast, &|host| {
        destroy_fast(host)?;
        create_fast(host)
    });
}

#[test]
fn a_rename_that_dies_keeps_one_of_the_names() {
    let rename = |host: &mut Host| cpu_pools::rename(host, "1", "faster");
    sweep(&create_fast, &rename, &rename);
}

#[test]
fn a_split_that_dies_loses_no_cpu() {
    let split = |host: &mut Host| match cpu_pools::split_by_node(host) {
        // The domain 0 of this world puts no vCPU offline by itself.
        Err(EngineError::Pool(PoolError::VcpusStay { .. })) => Ok(()),
        outcome => outcome,
    };
    sweep(&nothing, &split, &nothing);
}

#[test]
fn a_host_is_split_by_node() {
    let bench = Bench::new();
    let world = world(&bench);
    let error = bench.process(&world, None, cpu_pools::split_by_node).0;
    let Ended::Well(Err(EngineError::Pool(PoolError::VcpusStay {
        online: 4,
        wanted: 2,
    }))) = error
    else {
        panic!("{error:?}")
    };
    world.xen.set_online_vcpus(DomId::ZERO, 2);
    bench.must(&world, cpu_pools::split_by_node);
    let pools = pools(&bench, &world);
    let shown: Vec<_> = pools
        .iter()
        .map(|pool| (pool.shown(), pool.cpus.to_string(), pool.scheduler))
        .collect();
    assert_eq!(
        shown,
        [
            (
                "Pool-node0".to_owned(),
                "0-1".to_owned(),
                SchedulerId::Credit2
            ),
            (
                "Pool-node1".to_owned(),
                "2-3".to_owned(),
                SchedulerId::Credit2
            ),
        ]
    );
    let again = bench.process(&world, None, cpu_pools::split_by_node).0;
    assert!(matches!(
        again,
        Ended::Well(Err(EngineError::Pool(PoolError::SeveralPools(2))))
    ));
}

#[test]
fn a_domain_moves_and_its_pool_cannot_be_destroyed() {
    let bench = Bench::new();
    let world = world(&bench);
    let domid = bench.must(&world, |host| bench.create(host, "web", UUID));
    bench.must(&world, create_fast);
    let move_to = |pool| {
        bench.process(&world, None, |host| {
            let info = host.hv.domain_info(domid)?.unwrap();
            requests::ask_for(host, &info, &Request::CpuPool { pool }).map(drop)
        })
    };
    assert!(matches!(move_to(1).0, Ended::Well(Ok(()))));
    assert_eq!(world.xen.domain(domid).unwrap().cpupool, 1);
    let refused = bench.process(&world, None, destroy_fast).0;
    assert!(matches!(
        refused,
        Ended::Well(Err(EngineError::Pool(PoolError::InUse {
            nr_domains: 1,
            ..
        })))
    ));
    let Ended::Well(Err(missing)) = move_to(7).0 else {
        panic!("moved to a pool that is not there")
    };
    assert_eq!(missing.code(), ErrorCode::NoSuchPool);
    assert!(matches!(move_to(0).0, Ended::Well(Ok(()))));
    bench.must(&world, destroy_fast);
    let control = bench.process(&world, None, |host| {
        let info = host.hv.domain_info(DomId::ZERO)?.unwrap();
        requests::ask_for(host, &info, &Request::CpuPool { pool: 0 }).map(drop)
    });
    let Ended::Well(Err(control)) = control.0 else {
        panic!("domain 0 was moved")
    };
    assert_eq!(control.code(), ErrorCode::ControlDomain);
}

#[test]
fn a_pool_that_cannot_be_made_whole_is_taken_back() {
    let bench = Bench::new();
    for op in ["add_cpu_to_pool", "create_cpu_pool"] {
        let world = world(&bench);
        world.xen.fail_always(op, Errno::ENOMEM);
        let Ended::Well(Err(_)) = bench.process(&world, None, create_fast).0 else {
            panic!("{op}: the pool was made")
        };
        assert_eq!(pools(&bench, &world).iter().count(), 1, "{op}");
        let nodes = world.snapshot().nodes;
        assert!(!nodes.contains_key("/local/pool/1/name"), "{op}");
        assert_eq!(world.xen.free_cpus().unwrap().to_string(), "2-3", "{op}");
    }
}

#[test]
fn names_and_cpus_are_checked_first() {
    let bench = Bench::new();
    let world = world(&bench);
    bench.must(&world, create_fast);
    for (name, is_taken) in [
        ("", false),
        ("17", false),
        ("a b", false),
        ("x\n", false),
        ("fast", true),
    ] {
        let new = NewPool {
            name: name.to_owned(),
            scheduler: SchedulerId::Credit,
            cpus: CpuMap::new(),
        };
        let Ended::Well(Err(EngineError::Pool(error))) = bench
            .process(&world, None, |host| cpu_pools::create(host, &new))
            .0
        else {
            panic!("{name:?}")
        };
        assert_eq!(
            matches!(error, PoolError::NameTaken { .. }),
            is_taken,
            "{name:?}: {error}"
        );
    }
    let pools = pools(&bench, &world);
    let wanted = |cpus: &str| {
        cpu_pools::wanted_cpus(&world.xen, &pools, &PoolCpus::Listed(cpus.parse().unwrap()))
    };
    assert!(matches!(
        wanted("1"),
        Err(EngineError::Pool(PoolError::InPool { cpu: 1, .. }))
    ));
    assert!(matches!(
        wanted("0-9"),
        Err(EngineError::Pool(PoolError::NoSuchCpu(4)))
    ));
    let none = cpu_pools::wanted_cpus(&world.xen, &pools, &PoolCpus::FreeOfNodes(vec![1]));
    assert!(matches!(none, Err(EngineError::Pool(PoolError::NoFreeCpu))));
}
