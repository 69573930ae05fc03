//! Fills a new domain with the memory and the CPU state of a libxc stream.
//!
//! [`restore`] is called by the operation that restores a VM. That operation has created the domain as for a build: its vCPUs, its
//! memory limit, its paging memory pool, its event channels, and the CPU policy of its configuration. Afterwards it introduces
//! the domain to xenstored and unpauses it.
//!
//! The image is hostile input. [`Reader`] checks its format, its order and its limits ([`RestoreRequest::limits`]); `restore` checks
//! what depends on the domain. So a process without rights can read the image, and write what it read with
//! [`xen_stream::Writer`] into a pipe to the process that calls `restore`.

//!
//! # Requests to the hypervisor
//!
//! For a PVH domain of 64 MiB:
//!
//! | request | hypercalls |
//! |---|---|
//! | `set_memory_map`, `set_cpu_policy`, `set_tsc_info` | 3 |
//! | `populate_physmap`: blocks of 2 MiB, once for each record of pages | 17 |
//! | `map_foreign`: the pages of one record | 17 mappings |
//! | `map_foreign`: the rings | 1 mapping |
//! | `set_hvm_params`, all of them | 1 multicall |
//! | `set_hvm_context` | 1 |
//! | `map_grant_frames` | 1 mapping |
//!
//! A PV domain has a `domain_info`, mappings of its P2M, start info and shared info, one `pin_tables` for each 1024 tables, and four
//! requests for each vCPU in addition.

mod error;
mod hvm;
mod memory;
mod populated;
mod pv;

use std::io::Read;
use std::ops::ControlFlow;

use xen_port::{
    CpuPolicy, CpuidLeaf, DomId, DomainInfo, E820Entry, E820Kind, Gfn, GuestKind, HvmParam,
    Hypervisor, MsrEntry, TscInfo,
};
use xen_stream::{Event, Guest, ImageHeader, Limits, Pages, PvInfo, Reader, Record};

use self::error::{During, Result};
pub use self::error::{RestoreError, RestoreStep};
use self::hvm::HvmState;
use self::memory::Memory;
use self::pv::{PvPages, PvState};
use crate::container::Ram;
use crate::grants::seed_grants;
use crate::pvh::HOLE_FIRST;
use crate::request::Channel;
use crate::span::PageSpan;
use crate::special::SPECIAL;

/// Pages that a domain may have besides those of `maxmem`: the slack of [`crate::memory::max_mem_kib`].
const EXTRA_PAGES: u64 = 256;
/// Numbers without pages that a PV guest may have below its last one: a hole of 4 GiB for devices.
const HOLE_PAGES: u64 = 1 << 20;

/// A domain to restore into. It has its vCPUs, its memory limit and its event channels, and no memory yet.
#[derive(Clone, Copy, Debug)]
pub struct RestoreRequest<'a> {
    /// Number of the domain.
    pub domid: DomId,
    /// Type of the domain, by its configuration.
    pub kind: GuestKind,
    /// Memory that the domain may have, in KiB (`maxmem`).
    pub max_kib: u64,
    /// vCPUs that the domain has.
    pub max_vcpus: u32,
    /// Channel to xenstored.
    pub store: Channel,
    /// Channel to xenconsoled.
    pub console: Channel,
    /// PVH and HVM: parameters of the configuration that no image has, such as `TimerMode`. Those that an image can have are left out,
    /// because the guest runs with the values that it had.
    pub hvm_params: &'a [(HvmParam, u64)],
}

impl RestoreRequest<'_> {
    /// Largest number of pages that the domain may have.
    #[must_use]
    pub fn max_pages(&self) -> u64 {
        (self.max_kib / 4).saturating_add(EXTRA_PAGES)
    }

    /// The limits that the reader of the image must have. The caller may narrow them.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            vcpu_end: self.max_vcpus,
            pfn_end: match self.kind {
                // The image has a table entry for each number, so the numbers must be few.
                GuestKind::Pv => self.max_pages().saturating_add(HOLE_PAGES),
                GuestKind::Pvh | GuestKind::Hvm => default.pfn_end,
            },
            ..default
        }
    }
}

/// A report on a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Pages whose contents were written. An image of a live save has some pages more than once.
    pub pages_written: u64,
    /// Pages that the domain has now.
    pub pages_populated: u64,
}

/// Facts about a restored domain that the rest of the toolstack needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Frame of xenstore's ring for xenstored and the node `store/ring-ref`: machine frame for PV, guest frame for
    /// PVH and HVM.
    pub store_gfn: Gfn,
    /// Frame of the console's ring, for `console/ring-ref`.
    pub console_gfn: Gfn,
    /// Whether the image had a CPU policy, as those of Xen 4.14 and later have. Otherwise the domain keeps the one that it had.
    pub has_cpu_policy: bool,
    /// Pages that the domain has.
    pub pages_populated: u64,
    /// Pages whose contents were written.
    pub pages_written: u64,
}

/// Reads a domain's memory and CPU state from `from`: from the image header to the record END of libxc. The caller has read what
/// comes before, and reads on behind it.
///
/// `progress` is called after each batch of pages; `Break` ends the restore with [`RestoreError::Cancelled`].
///
/// # Errors
/// The image is refused, or a request failed. The domain has a part of its memory then and must be destroyed.
pub fn restore<R: Read>(
    hv: &dyn Hypervisor,
    request: &RestoreRequest<'_>,
    from: &mut Reader<R>,
    progress: &mut dyn FnMut(RestoreProgress) -> ControlFlow<()>,
) -> std::result::Result<Restored, RestoreError> {
    check_header(request, from)?;
    let mut job = Job::new(hv, request);
    job.set_memory_map()?;
    loop {
        match from.next_event()? {
            Some(Event::Record(Record::End)) => return job.finish(),
            Some(Event::Record(record)) => job.record(record)?,
            Some(Event::Pages(pages)) => job.pages(&pages, progress)?,
            Some(Event::Skipped { .. }) => {}
            _ => return Err(RestoreError::Misplaced { wanted: "record" }),
        }
    }
}

/// Reads the image header, and checks that it is of the type of the request.
fn check_header<R: Read>(request: &RestoreRequest<'_>, from: &mut Reader<R>) -> Result<()> {
    let Some(Event::Image(ImageHeader { guest, .. })) = from.next_event()? else {
        return Err(RestoreError::Misplaced {
            wanted: "image header",
        });
    };
    match (request.kind, guest) {
        (GuestKind::Pv, Guest::Pv) | (GuestKind::Pvh | GuestKind::Hvm, Guest::Hvm) => Ok(()),
        (wanted, found) => Err(RestoreError::OtherKind { wanted, found }),
    }
}

/// The domain to restore into.
#[derive(Clone, Copy)]
struct Target<'a> {
    hv: &'a dyn Hypervisor,
    domid: DomId,
    max_pages: u64,
    store: Channel,
    console: Channel,
}

impl Target<'_> {
    fn domain_info(&self) -> Result<DomainInfo> {
        let domid = self.domid;
        let info = self.hv.domain_info(domid);
        let info = info.during(domid, RestoreStep::ReadDomain)?;
        info.ok_or(RestoreError::NoDomain { domid })
    }

    /// Writes whole pages.
    fn write(&self, frames: &[Gfn], bytes: &[u8], step: RestoreStep) -> Result<()> {
        let mapped = self.hv.map_foreign(self.domid, frames);
        let written = mapped.and_then(|mut memory| memory.write(0, bytes));
        written.during(self.domid, step)
    }
}

/// The frames of the rings.
struct Rings {
    store: Gfn,
    console: Gfn,
}

/// The state that comes after the pages.
enum State {
    Hvm(HvmState),
    Pv(PvState),
}

/// A restore that is under way.
struct Job<'a> {
    request: &'a RestoreRequest<'a>,
    target: Target<'a>,
    memory: Memory<'a>,
    policy: CpuPolicy,
    state: State,
}

impl<'a> Job<'a> {
    fn new(hv: &'a dyn Hypervisor, request: &'a RestoreRequest<'a>) -> Job<'a> {
        let target = Target {
            hv,
            domid: request.domid,
            max_pages: request.max_pages(),
            store: request.store,
            console: request.console,
        };
        let (pv, state) = match request.kind {
            GuestKind::Pv => (Some(PvPages::default()), State::Pv(PvState::default())),
            GuestKind::Pvh | GuestKind::Hvm => (None, State::Hvm(HvmState::default())),
        };
        Job {
            request,
            target,
            memory: Memory::new(target, pv),
            policy: CpuPolicy::default(),
            state,
        }
    }

    /// Sets the memory map that the guest gets from Xen. No image has it.
    fn set_memory_map(&self) -> Result<()> {
        let domid = self.target.domid;
        let map = memory_map(self.request);
        if map.is_empty() {
            return Ok(());
        }
        let set = self.target.hv.set_memory_map(domid, &map);
        set.during(domid, RestoreStep::SetMemoryMap)
    }

    fn record(&mut self, record: Record) -> Result<()> {
        match record {
            Record::CpuidPolicy(leaves) => {
                self.policy.leaves = leaves.iter().map(port_leaf).collect();
            }
            Record::MsrPolicy(entries) => {
                self.policy.msrs = entries.iter().map(port_msr).collect();
            }
            Record::StaticDataEnd => self.set_policy()?,
            Record::TscInfo(tsc) => self.set_tsc(tsc)?,
            Record::PvInfo(info) => self.check_width(info)?,
            Record::Vcpu(vcpu) if vcpu.vcpu >= self.request.max_vcpus => {
                return Err(RestoreError::Value {
                    what: "number of a vCPU",
                    value: vcpu.vcpu.into(),
                });
            }
            Record::P2mFrames(p2m) if u64::from(p2m.last_pfn) >= self.request.limits().pfn_end => {
                return Err(RestoreError::Value {
                    what: "last page number",
                    value: p2m.last_pfn.into(),
                });
            }
            Record::Verify => return Err(self.unsupported("an image to compare")),
            record => match &mut self.state {
                State::Hvm(state) => state.take(record)?,
                State::Pv(state) => state.take(record, &mut self.memory),
            },
        }
        Ok(())
    }

    fn unsupported(&self, what: &'static str) -> RestoreError {
        RestoreError::Unsupported {
            domid: self.target.domid,
            what,
        }
    }

    /// Checks that image and domain are both of 64 bits.
    fn check_width(&self, info: PvInfo) -> Result<()> {
        let domid = self.target.domid;
        let bits = self.target.hv.address_size_bits(domid);
        let bits = bits.during(domid, RestoreStep::ReadDomain)?;
        match (info.is_64_bit, bits) {
            (true, 64) => Ok(()),
            _ => Err(self.unsupported("a 32-bit PV guest")),
        }
    }

    fn has_policy(&self) -> bool {
        !self.policy.leaves.is_empty() || !self.policy.msrs.is_empty()
    }

    /// Sets the CPU policy of the image. Xen checks it against what the host can do.
    fn set_policy(&self) -> Result<()> {
        if !self.has_policy() {
            return Ok(());
        }
        let domid = self.target.domid;
        let set = self.target.hv.set_cpu_policy(domid, &self.policy);
        set.during(domid, RestoreStep::SetCpuPolicy)
    }

    fn set_tsc(&self, tsc: xen_stream::TscInfo) -> Result<()> {
        let domid = self.target.domid;
        let tsc = TscInfo {
            mode: tsc.mode,
            khz: tsc.khz,
            incarnation: tsc.incarnation,
            elapsed_ns: tsc.elapsed_ns,
        };
        let set = self.target.hv.set_tsc_info(domid, &tsc);
        set.during(domid, RestoreStep::SetTsc)
    }

    fn pages(
        &mut self,
        pages: &Pages<'_>,
        progress: &mut dyn FnMut(RestoreProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        self.memory.take(pages)?;
        let report = progress(RestoreProgress {
            pages_written: self.memory.pages_written(),
            pages_populated: self.memory.pages_populated(),
        });
        match report {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(RestoreError::Cancelled {
                domid: self.target.domid,
            }),
        }
    }

    /// Loads the state, and grants the rings to their servers.
    fn finish(self) -> Result<Restored> {
        let has_cpu_policy = self.has_policy();
        let Job {
            request,
            target,
            memory,
            state,
            ..
        } = self;
        let rings = match state {
            State::Hvm(state) => state.load(&target, &memory, request.hvm_params)?,
            State::Pv(state) => state.load(&target, &memory)?,
        };
        let console = (target.console.backend, rings.console);
        let store = (target.store.backend, rings.store);
        seed_grants(target.hv, target.domid, console, store)?;
        Ok(Restored {
            store_gfn: rings.store,
            console_gfn: rings.console,
            has_cpu_policy,
            pages_populated: memory.pages_populated(),
            pages_written: memory.pages_written(),
        })
    }
}

fn port_leaf(leaf: &xen_stream::CpuidLeaf) -> CpuidLeaf {
    let [a, b, c, d] = leaf.registers;
    CpuidLeaf {
        leaf: leaf.leaf,
        subleaf: leaf.subleaf,
        a,
        b,
        c,
        d,
    }
}

fn port_msr(entry: &xen_stream::MsrEntry) -> MsrEntry {
    MsrEntry {
        index: entry.index,
        flags: entry.flags,
        value: entry.value,
    }
}

/// PV: one range up to the balloon limit. PVH: RAM around the hole below 4 GiB, as a build has it. HVM: none, because its firmware,
/// which asks for the map, does not run again.
fn memory_map(request: &RestoreRequest<'_>) -> Vec<E820Entry> {
    let pages = request.max_kib / 4;
    let mut map = match request.kind {
        GuestKind::Pv => vec![(PageSpan::new(0, pages), E820Kind::Ram)],
        GuestKind::Hvm => Vec::new(),
        GuestKind::Pvh => {
            let ram = Ram::around(HOLE_FIRST, pages);
            let hole = PageSpan::new(HOLE_FIRST, SPECIAL.end() - HOLE_FIRST);
            vec![
                (ram.low, E820Kind::Ram),
                (hole, E820Kind::Reserved),
                (ram.high, E820Kind::Ram),
            ]
        }
    };
    map.retain(|(span, _)| !span.is_empty());
    map.iter().map(|(span, kind)| span.as_e820(*kind)).collect()
}
