//! Fails every call of a create, one after the other, on real Xen, and checks that nothing is left.
//!
//! `fault_sweep pv|pvh|shim KERNEL EVERY FIRST`: creates a domain with the n-th hypercall failing, for every EVERY-th n from
//! FIRST (0 is the first call) until a create gets through; then the same with the n-th xenstore request; then with a cancel at
//! each step. `1 0` means all of them; `5 0` to `5 4` together, too.
//! After each, the domains, the claimed and free memory, the xenstore tree and the files must be what
//! they were. Needs root in a dom0.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path as FilePath;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use xen_port::*;
use xenstore::transport::{Limits, Transport};
use xenstore::{Client, Path, Settings, Tree};
use xyl_engine::Notice;
use xyl_engine::config::plan;
use xyl_engine::operation::create::{CreateRequest, create};
use xyl_engine::operation::destroy;
use xyl_engine::{Cancel, Dirs, EngineError, Host};

/// Value of a counter of calls: no call fails.
const NEVER: u64 = u64::MAX;

/// The hypervisor, failing its n-th call once.
struct FaultyXen {
    inner: xen_sys::Xen,
    left: Rc<Cell<u64>>,
}

impl FaultyXen {
    fn tick(&self, op: &'static str) -> Result<()> {
        match self.left.get() {
            NEVER => Ok(()),
            0 => {
                self.left.set(NEVER);
                Err(HvError::Call {
                    op,
                    domid: None,
                    errno: Errno::ENOMEM,
                    detail: " (injected)".to_owned(),
                })
            }
            n => {
                self.left.set(n - 1);
                Ok(())
            }
        }
    }
}

macro_rules! delegate {
    ($($name:ident($($arg:ident: $ty:ty),*) ($($by_ref:ident: $of:ty),*) -> $ret:ty;)*) => {
        $(fn $name(&self, $($arg: $ty,)* $($by_ref: &$of,)*) -> Result<$ret> {
            self.tick(stringify!($name))?;
            self.inner.$name($($arg,)* $($by_ref,)*)
        })*
    };
}

type Affinities = (Option<CpuMap>, Option<CpuMap>);

impl Hypervisor for FaultyXen {
    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.inner.counters()
    }

    hypervisor_methods!(delegate);

    fn destroy_domain(&self, domid: DomId, deadline: Instant) -> Result<()> {
        self.tick("destroy_domain")?;
        self.inner.destroy_domain(domid, deadline)
    }

    fn set_vcpu_affinity(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        hard: Option<&CpuMap>,
        soft: Option<&CpuMap>,
        force: bool,
    ) -> Result<Affinities> {
        self.tick("set_vcpu_affinity")?;
        self.inner.set_vcpu_affinity(domid, vcpu, hard, soft, force)
    }

    fn map_foreign(&self, domid: DomId, frames: &[Gfn]) -> Result<Box<dyn GuestMemory>> {
        self.tick("map_foreign")?;
        self.inner.map_foreign(domid, frames)
    }

    fn map_grant_frames(&self, domid: DomId, nr_frames: u32) -> Result<Box<dyn GuestMemory>> {
        self.tick("map_grant_frames")?;
        self.inner.map_grant_frames(domid, nr_frames)
    }
}

/// Size of a xenstore message's header: type, request, transaction and length, 32 bits each.
const HEADER_BYTES: usize = 16;

/// A way to xenstored that refuses the n-th request once: the daemon gets a request it must refuse
/// in its place, one of an unknown type.
struct FaultyTransport {
    inner: Box<dyn Transport>,
    left: Arc<AtomicU64>,
}

impl AsFd for FaultyTransport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Transport for FaultyTransport {
    fn send(&mut self, packets: &[u8], deadline: Instant) -> io::Result<()> {
        let mut packets = packets.to_vec();
        let mut at = 0;
        while let Some(header) = packets.get(at..at + HEADER_BYTES) {
            let length = u32::from_le_bytes(header.get(12..16).unwrap().try_into().unwrap());
            if self.spoil() {
                let kind = packets.get_mut(at..at + 4).unwrap();
                kind.copy_from_slice(&0xfffe_u32.to_le_bytes());
            }
            at += HEADER_BYTES + length as usize;
        }
        self.inner.send(&packets, deadline)
    }

    fn receive(&mut self, into: &mut Vec<u8>, deadline: Instant) -> io::Result<usize> {
        self.inner.receive(into, deadline)
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn describe(&self) -> String {
        format!("{} (faulty)", self.inner.describe())
    }
}

impl FaultyTransport {
    fn spoil(&self) -> bool {
        match self.left.load(Ordering::SeqCst) {
            NEVER => false,
            0 => {
                self.left.store(NEVER, Ordering::SeqCst);
                true
            }
            n => {
                self.left.store(n - 1, Ordering::SeqCst);
                false
            }
        }
    }
}

/// The state that must be the same before and after.
#[derive(Debug, PartialEq, Eq)]
struct World {
    domains: Vec<u16>,
    claimed_pages: u64,
    unscrubbed_and_free_pages: u64,
    nodes: BTreeMap<String, Vec<u8>>,
    files: Vec<String>,
}

impl World {
    /// Memory that Xen was still taking back when `before` was seen may be free by now.
    fn is_as_before(&self, before: &World) -> bool {
        let memory_is_back = self.unscrubbed_and_free_pages >= before.unscrubbed_and_free_pages;
        let unscrubbed_and_free_pages = before.unscrubbed_and_free_pages;
        let domains = self.domains.clone();
        let (nodes, files) = (self.nodes.clone(), self.files.clone());
        let claimed_pages = self.claimed_pages;
        let same = World {
            domains,
            claimed_pages,
            unscrubbed_and_free_pages,
            nodes,
            files,
        };
        memory_is_back && same == *before
    }
}

/// Time limit for Xen to free a destroyed domain. Xen does a part of it when it is idle.
const SETTLE_MAX: Duration = Duration::from_secs(5);

struct Sweep {
    host: Host,
    hypercalls_left: Rc<Cell<u64>>,
    requests_left: Arc<AtomicU64>,
    /// Which calls fail: every so many of them, from the first on.
    every: usize,
    first: u64,
    /// A way to look at the world that no fault touches.
    clean: (xen_sys::Xen, Client),
}

impl Sweep {
    fn open(every: usize, first: u64) -> Sweep {
        let hypercalls_left = Rc::new(Cell::new(NEVER));
        let requests_left = Arc::new(AtomicU64::new(NEVER));
        let xen = FaultyXen {
            inner: xen_sys::Xen::open().unwrap(),
            left: Rc::clone(&hypercalls_left),
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        let transport = FaultyTransport {
            inner: xenstore::transport::open(deadline).unwrap(),
            left: Arc::clone(&requests_left),
        };
        let store = Client::new(Box::new(transport), Settings::default());
        let clean = (xen_sys::Xen::open().unwrap(), Client::connect().unwrap());
        let host = Host::new(Box::new(xen), store, Dirs::system());
        Sweep {
            host,
            hypercalls_left,
            requests_left,
            every,
            first,
            clean,
        }
    }

    fn look(&mut self) -> World {
        let (xen, store) = &mut self.clean;
        let physical = xen.phys_info().unwrap();
        let mut nodes = BTreeMap::new();
        for root in ["/local/domain", "/vm", "/libxl"] {
            collect(store, &Path::new(root).unwrap(), &mut nodes);
        }
        let dirs = &self.host.dirs;
        let mut files = Vec::new();
        for folder in [&dirs.lib, &dirs.run, &dirs.xen_lib] {
            list_files(folder, &mut files);
        }
        files.sort();
        World {
            domains: xen
                .domain_list()
                .unwrap()
                .iter()
                // Xen frees the last of a destroyed domain a moment later.
                .filter(|domain| !domain.flags.dying)
                .map(|domain| domain.domid.0)
                .collect(),
            claimed_pages: physical.outstanding_pages,
            unscrubbed_and_free_pages: physical.free_pages + physical.scrub_pages,
            nodes,
            files,
        }
    }

    /// The world once it is as before, or after a while in any case.
    fn settled(&mut self, before: &World) -> World {
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let now = self.look();
            if now.is_as_before(before) || Instant::now() > deadline {
                return now;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One create; `arm` sets the fault just before it. Whether it got through, and the error if not.
    fn attempt(
        &mut self,
        config: &str,
        cancel: &Cancel,
        at_step: usize,
    ) -> std::result::Result<DomId, EngineError> {
        let planned = plan::plan_record("sweep", config, &mut || Ok(vec![(0, 0)]))?;
        let mut steps = 0;
        let mut request = CreateRequest {
            spec: &planned.spec,
            config_text: &planned.config_text(),
            paused: false,
            process_ends: false,
            watch: &mut |_, _| Ok(()),
            before_start: &mut |_, _| Ok(()),
            notice: &mut |notice| {
                if matches!(notice, Notice::Step(_)) {
                    steps += 1;
                    if steps == at_step {
                        cancel.request();
                    }
                }
            },
        };
        create(&mut self.host, &mut request, cancel)
    }

    fn disarm(&self) {
        self.hypercalls_left.set(NEVER);
        self.requests_left.store(NEVER, Ordering::SeqCst);
    }
}

fn collect(store: &mut Client, path: &Path, nodes: &mut BTreeMap<String, Vec<u8>>) {
    let Ok(children) = store.directory(path) else {
        return;
    };
    for child in children {
        let below = path.join(&child).unwrap();
        if let Ok(Some(value)) = store.read_opt(&below) {
            nodes.insert(below.to_string(), value);
            collect(store, &below, nodes);
        }
    }
}

fn list_files(folder: &FilePath, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            list_files(&entry.path(), files);
        } else {
            files.push(entry.path().display().to_string());
        }
    }
}

/// Runs one kind of fault over its whole range; how many places failed and were undone.
fn sweep(
    sweep: &mut Sweep,
    what: &str,
    config: &str,
    mut arm: impl FnMut(&Sweep, u64) -> (Cancel, usize),
) -> std::result::Result<u64, String> {
    let mut failed = 0;
    for n in (sweep.first..).step_by(sweep.every) {
        let before = sweep.look();
        let (cancel, at_step) = arm(sweep, n);
        let outcome = sweep.attempt(config, &cancel, at_step);
        sweep.disarm();
        match outcome {
            Ok(domid) => {
                destroy::destroy(&mut sweep.host, domid, false)
                    .map_err(|error| error.to_string())?;
                return Ok(failed);
            }
            Err(error) => {
                failed += 1;
                println!("{what} {n}: {}", error.to_string().replace('\n', " / "));
                let after = sweep.settled(&before);
                if !after.is_as_before(&before) {
                    return Err(format!(
                        "{what} {n} left something: {}",
                        difference(&before, &after)
                    ));
                }
            }
        }
    }
    Ok(failed)
}

fn difference(before: &World, after: &World) -> String {
    let nodes: Vec<_> = after
        .nodes
        .keys()
        .filter(|node| !before.nodes.contains_key(*node))
        .collect();
    let files: Vec<_> = after
        .files
        .iter()
        .filter(|file| !before.files.contains(file))
        .collect();
    format!(
        "domains {:?} -> {:?}, claimed {} -> {}, free {} -> {}, new nodes {nodes:?}, new files {files:?}",
        before.domains,
        after.domains,
        before.claimed_pages,
        after.claimed_pages,
        before.unscrubbed_and_free_pages,
        after.unscrubbed_and_free_pages,
    )
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kind, kernel, every, first] = arguments.as_slice() else {
        eprintln!("fault_sweep pv|pvh|shim KERNEL EVERY FIRST");
        return ExitCode::from(2);
    };
    let (Ok(every @ 1..), Ok(first)) = (every.parse(), first.parse()) else {
        eprintln!("fault_sweep: EVERY is a number from 1 on, FIRST one from 0 on");
        return ExitCode::from(2);
    };
    let kind_settings = match kind.as_str() {
        "shim" => "type = \"pvh\"\npvshim = 1\nmemory = 48",
        "pvh" => "type = \"pvh\"\nmemory = 16",
        _ => "type = \"pv\"\nmemory = 16",
    };
    let config = format!("name = \"sweep\"\n{kind_settings}\nkernel = \"{kernel}\"\n");
    let mut world = Sweep::open(every, first);
    // The first create of a boot gathers facts of the host, and gets through without those that it cannot have.
    let never = world.attempt(&config, &Cancel::new(), 0);
    let first = never.and_then(|domid| destroy::destroy(&mut world.host, domid, false));
    if let Err(error) = first {
        eprintln!("a create without any fault: {error}");
        return ExitCode::FAILURE;
    }
    let hypercalls = sweep(&mut world, "hypercall", &config, |world, n| {
        world.hypercalls_left.set(n);
        (Cancel::new(), 0)
    });
    let requests = sweep(&mut world, "xenstore request", &config, |world, n| {
        world.requests_left.store(n, Ordering::SeqCst);
        (Cancel::new(), 0)
    });
    let cancels = sweep(&mut world, "cancel at step", &config, |_, n| {
        (Cancel::new(), n as usize + 1)
    });
    match (hypercalls, requests, cancels) {
        (Ok(hypercalls), Ok(requests), Ok(cancels)) => {
            println!(
                "{kind}: {hypercalls} hypercalls, {requests} xenstore requests and {cancels} cancels failed, and left nothing"
            );
            ExitCode::SUCCESS
        }
        (hypercalls, requests, cancels) => {
            for error in [hypercalls.err(), requests.err(), cancels.err()]
                .into_iter()
                .flatten()
            {
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    }
}
