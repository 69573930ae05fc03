//! Loop devices of disks. A process that dies while it attaches one frees the device, and blkback opens its number afterwards: no image of
//! another guest goes there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::collections::BTreeMap;
use std::path::Path;

use bench::Bench;
use xen_port::DomId;
use xen_sim::{Ended, Moment, World};
use xyl_engine::{EngineError, ErrorCode, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const OTHER_UUID: &str = "6a1d0c4e-0000-4000-8000-000000000002";

fn create(bench: &Bench, host: &mut Host, uuid: &str, image: &str) -> Result<DomId, EngineError> {
    let text = bench.config(&format!("guest{}", &uuid[35..]), uuid);
    bench.create_from(host, &format!("{text}disk = [ '{image},raw,xvda,rw' ]\n"))
}

/// The loop devices that blkback has open, with the backends that have them.
fn served(world: &World) -> BTreeMap<String, Vec<String>> {
    let mut served: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, value) in &world.snapshot().nodes {
        let Some(backend) = path.strip_suffix("/physical-device") else {
            continue;
        };
        let parts: Vec<&str> = backend.rsplit('/').collect();
        let open = format!(
            "/sys/bus/xen-backend/devices/vbd-{}-{}/physical_device",
            parts[1], parts[0]
        );
        if world.disk.contents(Path::new(&open)).is_some() {
            let device = String::from_utf8_lossy(value).into_owned();
            served.entry(device).or_default().push(backend.to_owned());
        }
    }
    served
}

#[test]
fn no_image_goes_to_a_loop_device_that_another_guest_has() {
    let bench = Bench::new();
    let (mut call, mut nr_left_open) = (1, 0);
    loop {
        let world = World::new(256);
        for image in ["/srv/a.img", "/srv/b.img"] {
            world.disk.put(Path::new(image), &[1; 4096]);
        }
        let doom = Some((call, Moment::ALL[(call % 3) as usize]));
        let first = |host: &mut Host| create(&bench, host, UUID, "/srv/a.img");
        if let (Ended::Well(outcome), _) = bench.process(&world, doom, first) {
            outcome.unwrap();
            break;
        }
        let is_bare = world.snapshot().loops.is_empty() && !served(&world).is_empty();
        let second = |host: &mut Host| Ok(create(&bench, host, OTHER_UUID, "/srv/b.img"));
        let outcome = bench.must(&world, second);
        let served = served(&world);
        match outcome {
            Ok(_) => nr_left_open += u32::from(is_bare),
            Err(error) => assert_eq!(error.code(), ErrorCode::DiskBusy, "{error}"),
        }
        let shared = served.values().any(|backends| backends.len() > 1);
        assert!(!shared, "killed after call {call}: {served:?}");
        call += 1;
    }
    assert!(nr_left_open > 0);
}
