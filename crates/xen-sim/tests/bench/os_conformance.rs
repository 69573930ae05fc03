//! What the toolstack relies on of an operating system's devices, a check each. The same checks run on the system in memory,
//! on the system that runs the tests, and in the lab.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fmt::Debug;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use os_port::{
    AttachedLoop, Clock, Doorbells, EventSource, Files, Heard, HostDevices, Launch, Link,
    LinkChange, LinkIndex, LinkName, LoopDevice, LoopRequest, OpenFile, Opening,
    SystemBlockDevices, SystemClock, SystemDoorbells, SystemFiles, SystemLinks,
};
use xen_port::Errno;

/// A check that fails says why.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The ports of one process.
pub struct Ports<'p> {
    pub files: &'p dyn Files,
    pub clock: &'p dyn Clock,
    pub doorbells: &'p dyn Doorbells,
    /// Adds a network interface of a kind, such as `veth`.
    pub add_link: &'p dyn Fn(&LinkName, &str) -> std::io::Result<()>,
    pub devices: &'p HostDevices,
    /// A folder for files of a check.
    pub folder: PathBuf,
}

impl<'p> Ports<'p> {
    /// The ports of the real system.
    pub fn real(devices: &'p HostDevices, folder: PathBuf) -> Ports<'p> {
        Ports {
            files: &SystemFiles,
            clock: &SystemClock,
            doorbells: &SystemDoorbells,
            add_link: &add_with_ip,
            devices,
            folder,
        }
    }
}

/// The devices of the real system.
pub fn real_devices() -> HostDevices {
    HostDevices {
        loops: Rc::new(xen_sys::SystemLoopDevices),
        blocks: Rc::new(SystemBlockDevices::system()),
        links: Rc::new(SystemLinks),
        taps: Rc::new(xen_sys::SystemTaps),
    }
}

/// Adds a link by ip(8).
fn add_with_ip(name: &LinkName, kind: &str) -> std::io::Result<()> {
    let args = ["link", "add", name.as_str(), "type", kind];
    let launch = Launch::of_system("ip")?.args(args);
    os_port::run_to_success(&xen_sys::SystemSpawn, &launch, Duration::from_secs(20))
}

/// Runs checks, and calls `tell` with the line of each. Returns the number of failures.
pub fn run_all(ports: &Ports<'_>, checks: &[(&str, Check)], tell: &mut dyn FnMut(&str)) -> usize {
    let failed = |(what, check): &(&str, Check)| has_failed(what, check(ports), tell);
    checks.iter().map(failed).map(usize::from).sum()
}

/// Calls `tell` with the line of a check. Returns whether the check failed.
pub fn has_failed(what: &str, outcome: Outcome, tell: &mut dyn FnMut(&str)) -> bool {
    match &outcome {
        Ok(()) => tell(&format!("ok   {what}")),
        Err(why) => tell(&format!("FAIL {what}: {why}")),
    }
    outcome.is_err()
}

/// Looks at one thing.
pub type Check = fn(&Ports<'_>) -> Outcome;

/// The checks of loop devices. The real ones need root and `/dev/loop-control`.
pub const LOOP_CHECKS: &[(&str, Check)] = &[
    (
        "a loop device shows its file, and goes with its last user",
        autoclear,
    ),
    (
        "a loop device shows a part of its file, and is detached by its file's identity",
        part_of_a_file,
    ),
    ("a loop device of a read-only file is read-only", read_only),
    ("two loop devices have different numbers", two),
    ("a label is short text", labels),
];

/// The checks of doorbells.
pub const DOORBELL_CHECKS: &[(&str, Check)] = &[
    (
        "a ring wakes the owner of a doorbell, and one back the caller",
        rings,
    ),
    ("the end of one side is seen by the other", ends),
    ("a new doorbell takes the place of a dead one", replaced),
];

/// The checks of network interfaces. The real ones need a network namespace.
pub const LINK_CHECKS: &[(&str, Check)] = &[
    ("a network interface is changed by its index", link_changes),
    ("a bridge has ports", bridge),
    ("what is not there is told apart", no_link),
];

pub fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Outcome {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: {found:?}, not {expected:?}").into()),
    }
}

const MIB: u64 = 1 << 20;
const LABEL: &str = "xyl-conformance";

impl Ports<'_> {
    /// A file of one MiB, open.
    fn image(&self, name: &str, is_writable: bool) -> std::io::Result<OpenFile> {
        let path = self.folder.join(name);
        self.files.create_folder(&self.folder)?;
        self.files.write(&path, &vec![7; MIB as usize])?;
        self.files.open(&path, &Opening::disk(is_writable))
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.files.remove(&self.folder.join(name))
    }

    fn find(&self, attached: &AttachedLoop) -> std::io::Result<Option<LoopDevice>> {
        let number = attached.facts().number;
        let mut all = self.devices.loops.list()?.into_iter();
        Ok(all.find(|one| one.number == number))
    }

    /// Waits until no device has this file: others, such as udev, may have it open for a moment.
    fn await_gone(&self, file: &OpenFile) -> Outcome {
        for _ in 0..100 {
            let all = self.devices.loops.list()?;
            if all.iter().all(|one| one.backing != file.facts().id) {
                return Ok(());
            }
            let next = self.clock.now() + Duration::from_millis(100);
            self.clock.wait_until(next);
        }
        Err("the loop device stays".into())
    }
}

fn autoclear(ports: &Ports<'_>) -> Outcome {
    let file = ports.image("autoclear.img", true)?;
    let attached = ports
        .devices
        .loops
        .attach(&LoopRequest::whole(&file, false, LABEL))?;
    let facts = *attached.facts();
    same("read-only", facts.is_read_only, false)?;
    let device = ports.find(&attached)?.ok_or("not in the list")?;
    same("file", device.backing, file.facts().id)?;
    same("path", device.backing_path.as_path(), file.path())?;
    same("label", device.label.as_str(), LABEL)?;
    same("autoclear", device.is_autoclear, true)?;
    same("direct I/O", device.uses_direct_io, facts.uses_direct_io)?;
    same("limit", device.size_limit_bytes, None)?;
    let block = ports.devices.blocks.device(facts.device)?;
    let block = block.ok_or("no block device")?;
    same("size", block.size_bytes, MIB)?;
    same("name", block.name, format!("loop{}", facts.number))?;
    same("holders", block.holders.len(), 0)?;
    same("disk", block.disk, None)?;
    ports.remove("autoclear.img")?;
    let device = ports.find(&attached)?.ok_or("gone with its file's name")?;
    same("deleted", device.is_backing_deleted, true)?;
    drop(attached);
    ports.await_gone(&file)
}

fn part_of_a_file(ports: &Ports<'_>) -> Outcome {
    let file = ports.image("part.img", true)?;
    let other = ports.image("other.img", false)?;
    let loops = &ports.devices.loops;
    let attached = loops.attach(&LoopRequest {
        offset_bytes: 4096,
        size_limit_bytes: Some(MIB / 2),
        is_autoclear: false,
        ..LoopRequest::whole(&file, false, LABEL)
    })?;
    let facts = *attached.facts();
    let block = ports.devices.blocks.device(facts.device)?;
    same("size", block.map(|block| block.size_bytes), Some(MIB / 2))?;
    drop(attached);
    // It has no user, and stays.
    let all = loops.list()?;
    let device = all.iter().find(|one| one.number == facts.number);
    let device = device.ok_or("gone without a detach")?;
    let shown = (device.offset_bytes, device.size_limit_bytes);
    same("part", shown, (4096, Some(MIB / 2)))?;
    let foreign = loops.detach(facts.number, other.facts().id)?;
    same("another file's", foreign, false)?;
    let own = loops.detach(facts.number, file.facts().id)?;
    same("detached", own, true)?;
    ports.await_gone(&file)?;
    let again = loops.detach(facts.number, file.facts().id)?;
    same("detached again", again, false)?;
    ports.remove("part.img")?;
    Ok(ports.remove("other.img")?)
}

fn read_only(ports: &Ports<'_>) -> Outcome {
    let loops = &ports.devices.loops;
    for (is_writable, wanted) in [(false, false), (true, true)] {
        let file = ports.image("read-only.img", is_writable)?;
        let attached = loops.attach(&LoopRequest::whole(&file, wanted, LABEL))?;
        same("read-only", attached.facts().is_read_only, true)?;
        let block = ports.devices.blocks.device(attached.facts().device)?;
        same(
            "block device",
            block.map(|one| one.is_read_only),
            Some(true),
        )?;
        drop(attached);
        ports.await_gone(&file)?;
    }
    Ok(ports.remove("read-only.img")?)
}

fn two(ports: &Ports<'_>) -> Outcome {
    let file = ports.image("two.img", false)?;
    let loops = &ports.devices.loops;
    let attach = || loops.attach(&LoopRequest::whole(&file, true, LABEL));
    let (one, other) = (attach()?, attach()?);
    same("equal", one.facts().device == other.facts().device, false)?;
    drop((one, other));
    ports.await_gone(&file)?;
    Ok(ports.remove("two.img")?)
}

fn labels(ports: &Ports<'_>) -> Outcome {
    let file = ports.image("label.img", false)?;
    for label in ["x".repeat(64), "a\0b".to_owned()] {
        let refused = ports
            .devices
            .loops
            .attach(&LoopRequest::whole(&file, true, &label));
        let kind = refused.map(drop).map_err(|error| error.kind());
        same("refused", kind, Err(std::io::ErrorKind::InvalidInput))?;
    }
    Ok(ports.remove("label.img")?)
}

/// Waits for a source for a while; whether it has something then.
fn wakes(ports: &Ports<'_>, source: &dyn EventSource) -> Result<bool, std::io::Error> {
    let deadline = ports.clock.now() + Duration::from_secs(5);
    ports.clock.wait_for(source.readiness(), deadline)?;
    source.is_ready()
}

impl Ports<'_> {
    fn bell(&self, name: &str) -> std::io::Result<PathBuf> {
        self.files.create_folder(&self.folder)?;
        Ok(self.folder.join(name))
    }

    fn call_fails(&self, path: &std::path::Path) -> Option<std::io::ErrorKind> {
        self.doorbells.call(path).err().map(|error| error.kind())
    }
}

fn rings(ports: &Ports<'_>) -> Outcome {
    let path = ports.bell("rings.bell")?;
    let none = Some(std::io::ErrorKind::NotFound);
    same("no doorbell", ports.call_fails(&path), none)?;
    let mut bell = ports.doorbells.install(&path)?;
    same("silent", (bell.is_ready()?, bell.take()?), (false, false))?;
    let (one, other) = (ports.doorbells.call(&path)?, ports.doorbells.call(&path)?);
    same("calls", wakes(ports, &*bell)?, true)?;
    same("rung", (bell.take()?, bell.take()?), (true, false))?;
    one.ring()?;
    one.ring()?;
    same("rings", wakes(ports, &*bell)?, true)?;
    same("rung again", (bell.take()?, bell.take()?), (true, false))?;
    same("no answer", one.take()?, Heard::Nothing)?;
    bell.ring_back()?;
    same("rings back", wakes(ports, &*one)?, true)?;
    same(
        "answers",
        (one.take()?, other.take()?),
        (Heard::Ring, Heard::Ring),
    )?;
    same("one answer", one.take()?, Heard::Nothing)?;
    Ok(bell.uninstall()?)
}

fn ends(ports: &Ports<'_>) -> Outcome {
    let path = ports.bell("ends.bell")?;
    let mut bell = ports.doorbells.install(&path)?;
    let (one, other) = (ports.doorbells.call(&path)?, ports.doorbells.call(&path)?);
    same("rung", bell.take()?, true)?;
    drop(other);
    same("a caller ends", wakes(ports, &*bell)?, true)?;
    same(
        "that is no ring",
        (bell.take()?, bell.is_ready()?),
        (false, false),
    )?;
    bell.ring_back()?;
    drop(bell);
    same("an owner ends", wakes(ports, &*one)?, true)?;
    let heard = (one.take()?, one.take()?, one.take()?);
    same("heard", heard, (Heard::Ring, Heard::End, Heard::End))?;
    let broken = one.ring().map_err(|error| error.kind());
    same("a ring then", broken, Err(std::io::ErrorKind::BrokenPipe))
}

fn replaced(ports: &Ports<'_>) -> Outcome {
    let path = ports.bell("replaced.bell")?;
    drop(ports.doorbells.install(&path)?);
    let refused = Some(std::io::ErrorKind::ConnectionRefused);
    same("dead", ports.call_fails(&path), refused)?;
    let mut bell = ports.doorbells.install(&path)?;
    let _call = ports.doorbells.call(&path)?;
    same("rung", bell.take()?, true)?;
    // The owner before removes no other's.
    let other = ports.doorbells.install(&path)?;
    bell.uninstall()?;
    let there = ports.doorbells.call(&path).is_ok();
    same("still there", there, true)?;
    other.uninstall()?;
    other.uninstall()?;
    drop(ports.doorbells.install(&path)?);
    ports.doorbells.remove(&path)?;
    ports.doorbells.remove(&path)?;
    let none = Some(std::io::ErrorKind::NotFound);
    same("removed", ports.call_fails(&path), none)
}

fn name(text: &str) -> std::io::Result<LinkName> {
    LinkName::parse(text)
}

impl Ports<'_> {
    fn link(&self, text: &str) -> Result<Link, Box<dyn std::error::Error>> {
        let found = self.devices.links.find(&name(text)?)?;
        found.ok_or_else(|| format!("no link {text}").into())
    }

    fn change(&self, index: LinkIndex, changes: &[LinkChange]) -> Outcome {
        for change in changes {
            let changed = self.devices.links.change(index, change);
            changed.map_err(|error| format!("{change:?}: {error}"))?;
        }
        Ok(())
    }

    /// The error number of a change that is refused.
    fn refused(&self, index: LinkIndex, change: &LinkChange) -> Option<i32> {
        let refused = self.devices.links.change(index, change).err()?;
        refused.raw_os_error()
    }
}

fn link_changes(ports: &Ports<'_>) -> Outcome {
    (ports.add_link)(&name("xyl0")?, "veth")?;
    let link = ports.link("xyl0")?;
    same("kind", link.kind.as_deref(), Some("veth"))?;
    same(
        "new",
        (link.is_up, link.master, link.mtu_bytes),
        (false, None, 1500),
    )?;
    let address = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];
    let changes = [
        LinkChange::Name(name("xyl1.0-emu")?),
        LinkChange::Address(address),
        LinkChange::Mtu(1400),
        LinkChange::NoIpv6Address,
        LinkChange::Up,
    ];
    ports.change(link.index, &changes)?;
    let changed = ports.link("xyl1.0-emu")?;
    let expected = Link {
        index: link.index,
        name: "xyl1.0-emu".to_owned(),
        kind: Some("veth".to_owned()),
        master: None,
        is_up: true,
        mtu_bytes: 1400,
        address: Some(address),
        makes_ipv6_address: false,
    };
    same("changed", changed, expected)?;
    same("old name", ports.devices.links.find(&name("xyl0")?)?, None)?;
    ports.change(link.index, &[LinkChange::Down])?;
    same("down", ports.link("xyl1.0-emu")?.is_up, false)?;
    same("deleted", ports.devices.links.delete(link.index)?, true)?;
    same(
        "deleted again",
        ports.devices.links.delete(link.index)?,
        false,
    )
}

fn bridge(ports: &Ports<'_>) -> Outcome {
    let links = &ports.devices.links;
    (ports.add_link)(&name("xylbr")?, "bridge")?;
    let bridge = ports.link("xylbr")?;
    same("bridge", bridge.is_bridge(), true)?;
    same("no ports", links.ports_of(bridge.index)?, vec![])?;
    let mut members = Vec::new();
    for text in ["xyl0", "xyl1", "xyl2"] {
        (ports.add_link)(&name(text)?, "veth")?;
        members.push(ports.link(text)?.index);
    }
    let [first, second, other] = members[..] else {
        return Err("three links".into());
    };
    let join = LinkChange::Master(Some(bridge.index));
    ports.change(first, std::slice::from_ref(&join))?;
    ports.change(second, &[join.clone(), LinkChange::Up])?;
    let indices = |links: Vec<Link>| links.iter().map(|link| link.index).collect::<Vec<_>>();
    let found = indices(links.ports_of(bridge.index)?);
    same("ports", found, vec![first, second])?;
    // It is there already: no error.
    ports.change(first, &[join])?;
    ports.change(first, &[LinkChange::Master(None)])?;
    same("left", ports.link("xyl0")?.master, None)?;
    let to_no_bridge = LinkChange::Master(Some(other));
    let no_bridge = Some(Errno::EOPNOTSUPP.0);
    same("no bridge", ports.refused(first, &to_no_bridge), no_bridge)?;
    same("delete a bridge", links.delete(bridge.index)?, true)?;
    same("its port", ports.link("xyl1")?.master, None)?;
    for member in members {
        links.delete(member)?;
    }
    Ok(())
}

fn no_link(ports: &Ports<'_>) -> Outcome {
    let links = &ports.devices.links;
    same("name", links.find(&name("xyl-none")?)?, None)?;
    let nobody = LinkIndex(1_000_000);
    same(
        "change",
        ports.refused(nobody, &LinkChange::Up),
        Some(Errno::ENODEV.0),
    )?;
    same("delete", links.delete(nobody)?, false)?;
    (ports.add_link)(&name("xyl0")?, "veth")?;
    (ports.add_link)(&name("xyl1")?, "veth")?;
    let index = ports.link("xyl0")?.index;
    let taken = LinkChange::Name(name("xyl1")?);
    same("taken", ports.refused(index, &taken), Some(Errno::EEXIST.0))?;
    let tiny = ports.refused(index, &LinkChange::Master(Some(nobody)));
    same("no such master", tiny, Some(Errno::EINVAL.0))?;
    links.delete(index)?;
    links.delete(ports.link("xyl1")?.index)?;
    Ok(())
}
