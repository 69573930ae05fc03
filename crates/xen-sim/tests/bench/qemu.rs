//! A host with QEMU, for the tests of devices that it serves.

use std::path::Path;

use xen_port::DomId;
use xen_sim::{Ended, Moment, Snapshot, World};
use xyl_engine::{EngineError, Host, recover};

use super::Bench;

const QEMU: &str = "/usr/libexec/xen-qemu-system-i386";
/// An image on that host.
pub const IMAGE: &str = "/srv/a.qcow2";

/// The first sector of a qcow2 image, with its backing file at this place.
pub fn qcow2(backing_at: u8) -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..4].copy_from_slice(b"QFI\xfb");
    image[7] = 3;
    image[15] = backing_at;
    image
}

/// A host with QEMU and an image.
pub fn world() -> World {
    let world = World::new(256);
    install(&world);
    world
}

/// Gives a host QEMU and an image.
pub fn install(world: &World) {
    world.disk.put(Path::new(QEMU), b"\x7fELF");
    world.disk.put(Path::new(IMAGE), &qcow2(0));
    world.programs.add(Path::new(QEMU), |_| os_port::Ended {
        code: Some(1),
        errors: Vec::new(),
    });
}

/// The domains of all QEMUs that run.
pub fn qemus(world: &World) -> Vec<String> {
    let running = world.programs.running().into_iter();
    let domain = |launch: os_port::Launch| {
        let words = launch.arguments().to_vec();
        let mut words = words.into_iter().skip_while(|word| word != "-xen-domid");
        words.nth(1).unwrap().to_string_lossy().into_owned()
    };
    running.map(|(_, launch)| domain(launch)).collect()
}

pub fn nodes_of(now: &Snapshot, what: &str) -> Vec<String> {
    let all = now.nodes.keys().filter(|path| path.contains(what));
    all.cloned().collect()
}

/// Kills an act at each of its calls, recovers, and looks whether all is whole.
pub fn kill_at_each_call(
    before: impl Fn(&Bench, &World) -> Option<DomId>,
    act: impl Fn(&Bench, &mut Host, Option<DomId>) -> Result<(), EngineError>,
    is_whole: impl Fn(&World) -> Result<(), String>,
) {
    let bench = Bench::new();
    let mut call = 1;
    loop {
        let world = world();
        let domid = before(&bench, &world);
        let doom = Some((call, Moment::ALL[(call % 3) as usize]));
        let (ended, _) = bench.process(&world, doom, |host| act(&bench, host, domid));
        if let Ended::Well(outcome) = ended {
            outcome.unwrap();
            assert!(call > 50, "only {call} calls");
            return;
        }
        bench.must(&world, |host| recover::all(host, false).map(drop));
        if let Err(fault) = is_whole(&world) {
            panic!("killed after call {call}: {fault}");
        }
        call += 1;
    }
}
