//! QEMU of a VM: the backend of disks that domain 0's kernel cannot serve, of channels, and of framebuffers with their keyboards; and the
//! device model of an HVM guest, which emulates its machine.
//!
//! Each domain that starts with such devices has one QEMU for them. Each disk that is attached later has another one ([`QemuId`]): a QEMU
//! that a guest has used gets no further file and no command. Each QEMU gets its images
//! as open files, and opens them when it gets commands (`commands`). It becomes a user of its own, in a folder with three devices and nothing else (`Dirs::qemu_cage`). The kernel refuses it hypercalls and new processes, and bounds its memory. QEMU's
//! own filter (`-sandbox`) is not used: Debian builds QEMU without it. A device model is a process of its own (`machine.rs`). It makes hypercalls
//! until it has restricted itself to its domain, and is then confined to an empty folder (`Dirs::device_model_cage`): it has no way to
//! xenstore, to grants, or to other domains. It needs no record: each process that takes the domain down finds it by
//! its user, and before it has become that user by its arguments, which it could change. Its errors are kept until it serves its devices. Later
//! ones are dropped: a guest can cause any number of them.
//!
//! Facts: `hw/xen/xen-bus.c`, `hw/block/xen-block.c`, `os-posix.c` and `softmmu/vl.c` of QEMU.

mod arguments;
pub(crate) mod commands;
mod machine;
mod processes;

use core::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use os_port::{Bounds, Cage, Child, Given, Launch, OpenFile, Opening};
use xen_port::DomId;
use xenstore::Tree;

use crate::error::DeviceError;
use crate::host::dom0::QEMU_NUMBER_MAX;
use crate::vm::paths::node;
use crate::{EngineError, Host};
use arguments::{Confinement, arguments};
use commands::Drive;
use processes::may_be_there;

pub use crate::host::dom0::QemuId;
pub use machine::{Machine, MachineCard, MachineDisk};
pub use processes::{END_TOKEN, end, end_one, find, find_one, has_others, watch_ends};

/// Paths of QEMU below `/usr`: Debian's, then that of Xen's own installation.
const BINARIES: [&str; 2] = [
    "libexec/xen-qemu-system-i386",
    "lib/xen/bin/qemu-system-i386",
];
/// The devices that QEMU opens after it has confined itself: event channels, grants, xenstore.
const DEVICES: [&str; 3] = ["/dev/xen/evtchn", "/dev/xen/gntdev", "/dev/xen/xenbus"];
/// Longest time in which QEMU has to start. The step that attaches devices has 60 s for all of them.
const START_LIMIT: Duration = Duration::from_secs(45);
/// Longest time in which it has to say whether it knows an option.
const PROBE_LIMIT: Duration = Duration::from_secs(20);
/// Pause between two looks whether it has confined itself.
const CONFINED_PAUSE: Duration = Duration::from_millis(20);
/// QEMU has a thread for each disk, and up to 64 for its requests.
const THREADS_OF_DISK: u64 = 72;
/// Threads beside these.
const OTHER_THREADS: u64 = 64;
/// The least limit of a file's size for a device model, in bytes. A screen in text mode, which uses little video memory, has room.
const FILE_MIN_BYTES: u64 = 8 << 20;
/// Longest wait between two looks whether the operation is cancelled.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Largest file with QEMU's features, in bytes.
const FEATURES_MAX_BYTES: u64 = 4096;
/// Token of the wait for QEMU's start.
const TOKEN: &str = "xyl-qemu";

/// The QEMU that is to be started for a domain.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its domain and number.
    pub qemu: QemuId,
    /// The first device that needs it, for errors.
    pub device: &'a str,
    /// The disks that it is to serve.
    pub drives: &'a [Drive],
    /// Their images, open as the guest may use them.
    pub files: &'a [&'a OpenFile],
    /// The names of the terminals (ptys) that it opens.
    pub terminals: &'a [String],
    /// The sockets at which it listens, with their names.
    pub sockets: &'a [(String, OpenFile)],
    /// The guest's display that it shows.
    pub display: Option<&'a Display>,
    /// The machine that it emulates, if it is the device model of an HVM guest.
    pub machine: Option<&'a Machine<'a>>,
}

impl Request<'_> {
    /// Whether it maps the guest's memory.
    fn maps_memory(&self) -> bool {
        self.display.is_some() || self.machine.is_some()
    }
}

/// A guest's display.
#[derive(Debug)]
pub struct Display {
    /// The VNC server; `None` where the display is not shown.
    pub listening: Option<Listening>,
    /// Name of the keyboard's layout; `None` for QEMU's default.
    pub keymap: Option<String>,
}

/// A VNC server.
#[derive(Debug)]
pub struct Listening {
    /// The address at which it listens.
    pub address: Ipv4Addr,
    /// Number of the display.
    pub display: u32,
    /// A file with the password; `None` lets everybody in.
    pub password: Option<OpenFile>,
}

impl Display {
    fn password(&self) -> Option<&OpenFile> {
        self.listening.as_ref()?.password.as_ref()
    }
}

/// The folder of a domain's QEMU in xenstore. libxl's path.
pub fn folder(domid: DomId) -> String {
    format!("/local/domain/0/device-model/{domid}")
}

/// The QEMU of this host.
///
/// # Errors
/// [`DeviceError::NoQemu`]; that of a file that cannot be opened.
pub fn binary(host: &Host, device: &str) -> Result<PathBuf, EngineError> {
    let places = BINARIES.map(|place| host.dirs.usr.join(place));
    let mut there = places
        .iter()
        .filter(|place| host.files.open(place, &Opening::disk(false)).is_ok());
    match there.next() {
        Some(place) => Ok(place.clone()),
        None => Err(DeviceError::NoQemu {
            device: device.to_owned(),
            places: places.map(|place| place.display().to_string()).join(", "),
        }
        .into()),
    }
}

/// The bounds of a QEMU with this number of disks. Each thread has a stack of 8 MiB, and for each the C library may reserve 64 MiB of
/// addresses. QEMU ends if it cannot start a thread, so there is room for all of them. A device model maps all of the guest's memory, which
/// counts as addresses alone; a part of it may be mapped twice.
fn bounds(request: &Request<'_>) -> Bounds {
    let nr_disks = request
        .machine
        .map_or(request.files.len(), |machine| machine.disks.len());
    let nr_disks = u64::try_from(nr_disks).unwrap_or(u64::MAX);
    let guest_kib = request.machine.map_or(0, |machine| machine.max_kib);
    let guest_bytes = guest_kib.saturating_mul(2 << 10);
    let nr_threads = nr_disks.saturating_mul(THREADS_OF_DISK);
    let nr_threads = nr_threads.saturating_add(OTHER_THREADS);
    Bounds {
        nr_threads,
        memory_bytes: (1 << 30) + nr_threads.saturating_mul(10 << 20),
        addresses_bytes: (2_u64 << 30)
            .saturating_add(nr_threads.saturating_mul(80 << 20))
            .saturating_add(guest_bytes),
        file_bytes: request
            .machine
            .map(|machine| file_bytes(request.files, machine)),
        has_display: request.display.is_some(),
        is_device_model: request.machine.is_some(),
    }
}

/// The largest size that a device model can give a file, in bytes: that of its largest image that is a file, since raw images do not grow, or that
/// of a screen. Each image of a guest that has taken it over can become as large as the largest. QEMU 10.0 has each screen in a file in
/// memory, with four bytes for a pixel that has one byte of video memory at least.
fn file_bytes(files: &[&OpenFile], machine: &Machine<'_>) -> u64 {
    // The files begin with those of the disks.
    let disks = machine.disks.iter().zip(files);
    let images = disks.filter(|(disk, _)| disk.is_writable && !disk.is_block);
    let largest = images.map(|(_, file)| file.facts().size_bytes).max();
    let screen_bytes = machine.hvm.video_kib.saturating_mul(4 << 10);
    let screen_bytes = FILE_MIN_BYTES.saturating_add(screen_bytes);
    largest.unwrap_or(0).max(screen_bytes)
}

/// Makes the folder for QEMU, if it is not there. A monitor needs it made before it gives up its rights.
///
/// # Errors
/// That of the system.
pub fn make_cage(host: &Host) -> Result<(), EngineError> {
    let cage = host.dirs.qemu_cage();
    let made = host.files.make_cage(&Cage {
        folder: &cage,
        devices: &DEVICES,
    });
    made.map_err(|source| EngineError::io("make the folder for QEMU", &cage, source))
}

/// Makes the empty folder of device models, if it is not there.
fn make_empty_cage(host: &Host) -> Result<(), EngineError> {
    let cage = host.dirs.device_model_cage();
    let made = host.files.make_cage(&Cage {
        folder: &cage,
        devices: &[],
    });
    made.map_err(|source| EngineError::io("make the folder for device models", &cage, source))
}

/// Makes the folder to which a QEMU is confined. Returns the folder and the arguments.
fn prepare(
    host: &Host,
    request: &Request<'_>,
    confinement: Confinement,
) -> Result<Vec<String>, EngineError> {
    match request.machine {
        Some(machine) => {
            make_empty_cage(host)?;
            let cage = host.dirs.device_model_cage();
            Ok(machine::arguments(request, machine, &cage, confinement))
        }
        None => {
            make_cage(host)?;
            Ok(arguments(request, &host.dirs.qemu_cage(), confinement))
        }
    }
}

/// Starts QEMU for a domain, whose devices' nodes are written. It has not connected to them when this returns.
///
/// # Errors
/// [`DeviceError::NoQemu`], [`DeviceError::Qemu`], those of the system and of xenstore.
pub fn start(host: &mut Host, request: &Request<'_>) -> Result<Rc<dyn Child>, EngineError> {
    let binary = binary(host, request.device)?;
    let confinement = confinement(host, &binary)?;
    let args = prepare(host, request, confinement)?;
    // An earlier domain of this number may have left the word that its QEMU runs. A later QEMU is not alone: the folder may have another one's nodes.
    let QemuId { domid, number } = request.qemu;
    let earlier = match number {
        0 => folder(domid),
        _ => format!("{}/state", folder(domid)),
    };
    host.store.rm(&node(&earlier)?)?;
    let failed = |source| EngineError::io("start", &binary, source);
    let launch = Launch::new(&binary).map_err(failed)?.args(args);
    let password = request.display.and_then(Display::password);
    let sockets = request.sockets.iter().map(|(_, socket)| socket);
    let files = request.files.iter().copied().chain(sockets);
    let files: Vec<&OpenFile> = files.chain(password).collect();
    let given = Given {
        output: None,
        keeps_errors: true,
        takes_commands: !request.drives.is_empty(),
        files: &files,
        bounds: Some(bounds(request)),
    };
    let child = host.spawn.start(&launch, &given).map_err(failed)?;
    // libxl knows one QEMU of a domain: the device model, if it has one.
    if number == 0 || request.machine.is_some() {
        let pid = pid_node(domid)?;
        host.store.write(&pid, child.id().to_string().as_bytes())?;
    }
    Ok(child)
}

/// libxl's node with the PID of a domain's first QEMU.
pub fn pid_node(domid: DomId) -> Result<xenstore::Path, EngineError> {
    node(&format!("/local/domain/{domid}/image/device-model-pid"))
}

/// The options by which this QEMU confines itself. It is asked once for each binary: [`Dirs`](crate::Dirs) has the note.
fn confinement(host: &Host, binary: &Path) -> Result<Confinement, EngineError> {
    let failed = |source| EngineError::io("look at", binary, source);
    let opened = host.files.open(binary, &Opening::disk(false));
    let facts = *opened.map_err(failed)?.facts();
    let identity = format!(
        "{} {:?} {} {}",
        binary.display(),
        facts.id,
        facts.size_bytes,
        facts.modified_s
    );
    let path = host.dirs.qemu_features();
    let known = host
        .files
        .read(&path, FEATURES_MAX_BYTES)
        .unwrap_or_default();
    let known = String::from_utf8_lossy(&known).into_owned();
    if let Some(word) = known.strip_prefix(&identity)
        && let Some(confinement) = Confinement::find(word.trim())
    {
        return Ok(confinement);
    }
    let launch = Launch::new(binary).map_err(failed)?;
    let asked = host.spawn.run(&launch.args(arguments::PROBE), PROBE_LIMIT);
    let confinement = match asked.map_err(failed)?.code {
        Some(0) => Confinement::RunWith,
        Some(_) => Confinement::Options,
        // A signal has ended it: that says nothing about the next time.
        None => return Ok(Confinement::Options),
    };
    // Without the note it is asked again.
    let _ = host.files.write(
        &path,
        format!("{identity} {}", confinement.word()).as_bytes(),
    );
    Ok(confinement)
}

/// Waits until QEMU runs. `check` refuses to wait on.
///
/// # Errors
/// [`DeviceError::Qemu`], those of `check` and xenstore.
pub fn await_running(
    host: &mut Host,
    request: &Request<'_>,
    child: &Rc<dyn Child>,
    check: &dyn Fn(&Host) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let state = node(&format!("{}/state", folder(request.qemu.domid)))?;
    match host.store.watch(&state, TOKEN) {
        Err(error) if error.is_there_already() => {}
        other => other?,
    }
    host.sources
        .add(TOKEN, Rc::clone(child) as Rc<dyn os_port::EventSource>);
    let deadline = host.clock.now() + START_LIMIT;
    let outcome = loop {
        match look(host, request, child, &state, deadline) {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(error) => break Err(error),
        }
        if let Err(error) = check(host) {
            break Err(error);
        }
        let left = deadline.saturating_duration_since(host.clock.now());
        if let Err(error) = host.wait_for(&[TOKEN], left.min(LOOK_EVERY)) {
            break Err(error);
        }
    };
    host.sources.remove(TOKEN);
    let unwatched = host.store.unwatch(&state, TOKEN);
    outcome?;
    // It is a precaution for the host: the guest can do without.
    let _ = child.be_ended_first();
    Ok(unwatched?)
}

/// Waits until QEMU has confined itself: it says that it runs before that. `check` refuses to wait on.
///
/// # Errors
/// [`DeviceError::Qemu`], those of `check` and the system.
pub fn await_confined(
    host: &mut Host,
    request: &Request<'_>,
    child: &Rc<dyn Child>,
    check: &dyn Fn(&Host) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let deadline = host.clock.now() + START_LIMIT;
    while !is_confined(request, child)? {
        check(host)?;
        if host.clock.now() >= deadline {
            let what = format!("has not confined itself within {} s", START_LIMIT.as_secs());
            return Err(failure(request.device, &what, child).into());
        }
        // No event tells of it.
        host.wait_for(&[], CONFINED_PAUSE)?;
    }
    Ok(())
}

/// Has a QEMU that has confined itself serve its disks.
///
/// # Errors
/// [`DeviceError::Qemu`].
pub fn serve(request: &Request<'_>, child: &Rc<dyn Child>) -> Result<(), EngineError> {
    if request.drives.is_empty() {
        return Ok(());
    }
    let told = child.tell(commands::serve(request.drives).as_bytes());
    told.map_err(|source| {
        let what = format!("does not take commands ({source})");
        failure(request.device, &what, child).into()
    })
}

/// Leaves a QEMU with a display, and a device model, the memory of its own domain, of all guests whose memory it can map. It has confined itself, so it can open
/// no other file of privcmd, and its guest does not run yet.
///
/// # Errors
/// [`DeviceError::Qemu`].
pub fn keep_to_domain(request: &Request<'_>, child: &Rc<dyn Child>) -> Result<(), EngineError> {
    if !request.maps_memory() {
        return Ok(());
    }
    let kept = child.keep_to_domain(request.qemu.domid.0);
    kept.map_err(|source| {
        let device = request.device.to_owned();
        let what = format!(
            "could map the memory of all guests, and the kernel does not restrict it: {source}; that needs Linux 5.6 or later"
        );
        DeviceError::Qemu { device, what }.into()
    })
}

/// Whether QEMU has become its user, which is the last part of its confinement.
fn is_confined(request: &Request<'_>, child: &Rc<dyn Child>) -> Result<bool, EngineError> {
    let failed = |source| EngineError::io("look at", &PathBuf::from("QEMU"), source);
    if child.end().map_err(failed)?.is_some() {
        return Err(failure(request.device, "has ended", child).into());
    }
    child.is_of_user(request.qemu.user()).map_err(failed)
}

/// Whether QEMU runs by now.
fn look(
    host: &mut Host,
    request: &Request<'_>,
    child: &Rc<dyn Child>,
    state: &xenstore::Path,
    deadline: Instant,
) -> Result<bool, EngineError> {
    if host.store.read_opt(state)?.as_deref() == Some(b"running") {
        return Ok(true);
    }
    let end = child.end();
    let end = end.map_err(|source| EngineError::io("look at", &PathBuf::from("QEMU"), source))?;
    let what = match end {
        Some(_) => "has ended".to_owned(),
        None if host.clock.now() >= deadline => {
            format!("has not started within {} s", START_LIMIT.as_secs())
        }
        None => return Ok(false),
    };
    Err(failure(request.device, &what, child).into())
}

/// The error of a QEMU that does not do its work, with what it has said.
pub fn failure(device: &str, what: &str, child: &Rc<dyn Child>) -> DeviceError {
    let said = String::from_utf8_lossy(&child.said()).into_owned();
    let said: Vec<String> = said.lines().filter_map(commands::words).collect();
    let what = match said.is_empty() {
        true => format!("{what}, without a word"),
        false => format!("{what}: {}", said.join("; ")),
    };
    DeviceError::Qemu {
        device: device.to_owned(),
        what,
    }
}

/// Ends QEMUs that serve nothing any more. xl's `block-detach` and `xl destroy` leave one. It may have written to the folder of its disks after xl
/// has removed that, so the folder goes last. Costs a few calls of the kernel where none is there.
///
/// # Errors
/// Those of the system and of xenstore.
pub fn end_left(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    if !may_be_there(host, domid) {
        return Ok(());
    }
    end(host, domid)?;
    let of_disks = format!("/local/domain/0/backend/qdisk/{domid}");
    for left in [of_disks, folder(domid)] {
        host.store.rm(&node(&left)?)?;
    }
    Ok(())
}

/// Removes what QEMUs of a domain that have ended leave in xenstore: libxl's node with the PID of the first one, by which xl would send the
/// next process of this PID a signal, and the folder of all.
///
/// # Errors
/// Those of xenstore.
pub fn forget_ended(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    let path = pid_node(domid)?;
    let pid = host.store.read_text_opt(&path)?;
    let pid = pid.and_then(|text| text.trim().parse().ok());
    if pid.is_none_or(|pid| host.kernel.program(pid).is_none()) {
        host.store.rm(&path)?;
    }
    match find(host, domid).is_empty() {
        true => Ok(host.store.rm(&node(&folder(domid))?)?),
        false => Ok(()),
    }
}

/// A number of a QEMU for a disk that is attached to a running domain: the first that is not among these.
///
/// # Errors
/// [`DeviceError::Unsupported`] if all are.
pub fn free_number(device: &str, taken: &[u16]) -> Result<u16, EngineError> {
    let mut all = 1..=QEMU_NUMBER_MAX;
    all.find(|number| !taken.contains(number)).ok_or_else(|| {
        let what = format!("{device}: QEMU serves {QEMU_NUMBER_MAX} disks at most that were attached to a running domain: detach one, or restart the VM");
        DeviceError::Unsupported { what }.into()
    })
}

#[cfg(test)]
mod tests {
    use os_port::FILES_MAX;

    use super::*;

    #[test]
    fn all_threads_of_qemu_have_room() {
        let files = os_port::mem::MemFiles::default();
        let files = files.of(&os_port::mem::Life::new(1));
        let file = os_port::Files::keep_in_memory(&files, "x", b"").unwrap();
        for nr_disks in [1, FILES_MAX] {
            let bounds = bounds(&Request {
                qemu: QemuId::first(DomId(7)),
                device: "disk `xvda`",
                drives: &[],
                files: &vec![&file; nr_disks],
                terminals: &[],
                sockets: &[],
                display: None,
                machine: None,
            });
            assert!(bounds.memory_bytes > bounds.nr_threads * (8 << 20));
            assert!(bounds.addresses_bytes > bounds.nr_threads * (72 << 20));
            assert!(nr_disks > 1 || bounds.nr_threads == 136);
            assert_eq!(bounds.file_bytes, None);
        }
    }
}
