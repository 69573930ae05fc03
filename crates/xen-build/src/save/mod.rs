//! Writes the memory and the CPU state of a domain as a libxc stream.
//!
//! [`save`] is called by the operation that saves a VM. That operation writes what comes before and after the libxc stream: the
//! header of xl's file with the configuration, the headers of libxl, and QEMU's state. It also suspends the guest, and resumes
//! it when the save fails.
//!
//! The stream is the one that xl writes, so that xl can restore it. A page of zeros is written whole, as xl does: Xen does not
//! promise that a new page is zero, and the format has no other way to say it.

//!
//! # Requests to the hypervisor
//!
//! For a PVH domain of 64 MiB that is suspended:
//!
//! | request | hypercalls |
//! |---|---|
//! | `domain_info`, before and after the suspend | 2 |
//! | `maximum_gpfn`: the numbers reach up to the special pages below 4 GiB | 1 |
//! | `version`, `cpu_policy`, `tsc_info` | some 12 |
//! | `frame_kinds`: one for each 1024 numbers, with or without pages | 1020 |
//! | `copy_pages`: one for each 1024 numbers among which there are pages | 17 mappings |
//! | `hvm_context` | 2 |
//! | `hvm_param`, each parameter that an image can have | 16 |
//!
//! A save while the guest runs adds `track_writes`, a `take_written_pages` for each round and one more, and `stop_tracking_writes`; and
//! it asks for the kinds and the contents of pages again. A PV domain has no numbers without pages between its pages, so it
//! needs 16 `frame_kinds`; it has its P2M copied in addition, and two to seven requests for each vCPU.
//!
//! # A guest that gives memory back while it is saved
//!
//! Xen does not note that of a PVH guest. A page that has gone is sent as absent if the guest wrote to it before; otherwise the
//! restored domain has it, with its old contents. libxc does the same. Pages of a PV guest that got another frame are sent again after
//! the suspend; a P2M that moved or grew ends the save with an error.
//!
//! A PV kernel that counts all pages that it could get by hotplug (around Linux 3.19 to 4.4 with
//! `CONFIG_XEN_BALLOON_MEMORY_HOTPLUG_LIMIT`) is refused: its P2M has more entries than the domain can have pages. libxc shortens it.

mod error;
mod hvm;
mod page_set;
mod pages;
mod pv;

use std::io::Write;
use std::ops::ControlFlow;

use xen_port::{CpuPolicy, DomId, DomainInfo, Errno, GuestKind, Hypervisor, ShutdownReason};
use xen_stream::{self as stream, Guest, ImageHeader, Record, Writer};

use self::error::During;
pub use self::error::{SaveError, SaveFailure, SaveStep};
use self::page_set::PageSet;
use self::pages::{GuestState, Memory, Sender};
use self::pv::PvMemory;

/// Version of the libxc stream that is written.
const STREAM_VERSION: u32 = 3;
/// Passes over the memory while the guest runs, besides the first. libxc makes as many.
const ROUNDS_MAX: u32 = 5;
/// So few pages are left for the time in which the guest is suspended.
const FEW_PAGES: u64 = 50;
/// Numbers without pages that a PVH or HVM guest may have below its largest one: the hole below 4 GiB, and 64 GiB in which it maps
/// pages of other domains. The guest chooses that number, and each number costs time and memory of this process.
const HOLES_PAGES: u64 = (1 << 20) + (1 << 24);

/// A domain to save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveRequest {
    /// Number of the domain.
    pub domid: DomId,
    /// Type of the domain.
    pub kind: GuestKind,
    /// Writes the memory while the guest runs, and suspends the guest only for the rest. Otherwise the guest is suspended
    /// first. A Xen without shadow paging, such as Debian's, refuses it for a PV domain with `Errno::EOPNOTSUPP`.
    pub live: bool,
}

/// A report on a save.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveProgress {
    /// Number of the pass over the memory, from 0. A save that is not live has one.
    pub round: u32,
    /// Pages of this pass that were written or left out.
    pub round_pages_done: u64,
    /// Pages of this pass.
    pub round_pages: u64,
    /// Pages of all passes whose contents were written.
    pub pages_written: u64,
}

/// Numbers about a save.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveSummary {
    /// Number of passes over the memory.
    pub rounds: u32,
    /// Pages of all passes whose contents were written.
    pub pages_written: u64,
    /// Pages that were written after the guest was suspended.
    pub pages_suspended: u64,
}

/// Writes a domain's memory and CPU state to `to`: from the image header to the record END of libxc.
///
/// `suspend` is called once: first, or after the passes of a live save. When it returns, the domain has shut down with the reason
/// `suspend`; this is checked. For an HVM domain it has also stopped QEMU, which writes to the guest's memory otherwise.
/// `progress` is called after each batch of pages, of at most 4 MiB; `Break` ends the save with [`SaveError::Cancelled`].
///
/// Xen no longer tracks the domain's writes afterwards, unless it has refused twice to stop. The domain stays suspended after
/// success, and after each failure that came later than `suspend`; then the caller resumes it. A process that dies may leave the
/// tracking on: the next process calls `stop_tracking_writes`.
///
/// # Errors
/// [`SaveFailure::Suspend`] is the error of `suspend`. [`SaveFailure::Save`] is any other; the image is then incomplete. A live save
/// of an HVM domain is [`SaveError::Unsupported`], because Xen does not track what QEMU writes.
pub fn save<W: Write, E>(
    hv: &dyn Hypervisor,
    request: &SaveRequest,
    to: &mut Writer<W>,
    suspend: &mut dyn FnMut() -> Result<(), E>,
    progress: &mut dyn FnMut(SaveProgress) -> ControlFlow<()>,
) -> Result<SaveSummary, SaveFailure<E>> {
    let domid = request.domid;
    let mut suspend = || -> Result<(), SaveFailure<E>> {
        suspend().map_err(SaveFailure::Suspend)?;
        Ok(check_suspended(&domain_info(hv, domid)?)?)
    };
    check_request(request, &domain_info(hv, domid)?)?;
    let tracking = if request.live {
        Some(Tracking::start(hv, domid)?)
    } else {
        suspend()?;
        None
    };
    let memory = memory(hv, request)?;
    write_static_data(hv, request, &memory, to)?;
    let mut sender = Sender {
        hv,
        domid,
        memory,
        to,
        report: progress,
        progress: SaveProgress::default(),
        summary: SaveSummary::default(),
        contents: Vec::new(),
    };
    match tracking {
        None => drop(sender.all(GuestState::Suspended)?),
        Some(tracking) => {
            let left = while_running(&mut sender, &tracking)?;
            suspend()?;
            the_rest(&mut sender, request, &tracking, left)?;
            tracking.end()?;
        }
    }
    let summary = sender.summary;
    write_state(hv, request, &sender.memory, sender.to)?;
    Ok(summary)
}

fn domain_info(hv: &dyn Hypervisor, domid: DomId) -> Result<DomainInfo, SaveError> {
    let info = hv.domain_info(domid).during(domid, SaveStep::ReadDomain)?;
    info.ok_or(SaveError::NoDomain { domid })
}

fn check_request(request: &SaveRequest, info: &DomainInfo) -> Result<(), SaveError> {
    let SaveRequest { domid, kind, live } = *request;
    match (info.kind() == kind, live && kind == GuestKind::Hvm) {
        (true, false) => Ok(()),
        (true, true) => Err(SaveError::Unsupported {
            domid,
            what: "a save of an HVM guest while it runs",
        }),
        (false, _) => Err(SaveError::OtherKind {
            domid,
            wanted: kind,
            found: info.kind(),
        }),
    }
}

fn check_suspended(info: &DomainInfo) -> Result<(), SaveError> {
    match info.shutdown_reason {
        Some(ShutdownReason::Suspend) => Ok(()),
        _ => Err(SaveError::NotSuspended { domid: info.domid }),
    }
}

fn memory(hv: &dyn Hypervisor, request: &SaveRequest) -> Result<Memory, SaveError> {
    let domid = request.domid;
    let info = domain_info(hv, domid)?;
    match request.kind {
        GuestKind::Pv => Ok(Memory::Machine(PvMemory::read(hv, &info)?)),
        GuestKind::Pvh | GuestKind::Hvm => {
            let last = hv.maximum_gpfn(domid).during(domid, SaveStep::ReadSize)?;
            match last.0 < info.max_pages.saturating_add(HOLES_PAGES) {
                true => Ok(Memory::SameNumbers { end: last.0 + 1 }),
                false => Err(SaveError::Guest {
                    domid,
                    what: "largest page number",
                }),
            }
        }
    }
}

/// Writes what comes before the pages.
fn write_static_data<W: Write>(
    hv: &dyn Hypervisor,
    request: &SaveRequest,
    memory: &Memory,
    to: &mut Writer<W>,
) -> Result<(), SaveError> {
    let domid = request.domid;
    let version = hv.version().during(domid, SaveStep::ReadVersion)?;
    to.image_header(&ImageHeader {
        version: STREAM_VERSION,
        guest: match request.kind {
            GuestKind::Pv => Guest::Pv,
            GuestKind::Pvh | GuestKind::Hvm => Guest::Hvm,
        },
        xen: (version.major.into(), version.minor.into()),
    })?;
    if let Memory::Machine(_) = memory {
        to.record(&PvMemory::info())?;
    }
    let policy = hv.cpu_policy(domid);
    write_policy(&policy.during(domid, SaveStep::ReadCpuPolicy)?, to)?;
    to.record(&Record::StaticDataEnd)?;
    if let Memory::Machine(pv) = memory {
        to.record(&pv.p2m_frames()?)?;
    }
    Ok(())
}

/// Writes the CPU policy. A part without entries has no record.
fn write_policy<W: Write>(policy: &CpuPolicy, to: &mut Writer<W>) -> Result<(), SaveError> {
    let leaves = policy.leaves.iter().map(|leaf| stream::CpuidLeaf {
        leaf: leaf.leaf,
        subleaf: leaf.subleaf,
        registers: [leaf.a, leaf.b, leaf.c, leaf.d],
    });
    let msrs = policy.msrs.iter().map(|msr| stream::MsrEntry {
        index: msr.index,
        flags: msr.flags,
        value: msr.value,
    });
    if !policy.leaves.is_empty() {
        to.record(&Record::CpuidPolicy(leaves.collect()))?;
    }
    if !policy.msrs.is_empty() {
        to.record(&Record::MsrPolicy(msrs.collect()))?;
    }
    Ok(())
}

/// Sends the memory of a running guest: all of it, and then what the guest has written to meanwhile, until that is little or it
/// was tried often. Returns the pages that are left.
fn while_running<W: Write>(
    sender: &mut Sender<'_, W>,
    tracking: &Tracking<'_>,
) -> Result<PageSet, SaveError> {
    let end = sender.memory.end();
    let mut left = sender.all(GuestState::Runs)?;
    for _ in 0..ROUNDS_MAX {
        left.add_bitmap(&tracking.take(end, false)?);
        if left.len() < FEW_PAGES {
            break;
        }
        left = sender.some(&left, GuestState::Runs)?;
    }
    Ok(left)
}

/// Sends the pages that are left after the guest was suspended. The guest may have got other frames, or more pages, since the memory
/// was looked at first. So it is looked at again: pages that are new or have another frame are sent too.
fn the_rest<W: Write>(
    sender: &mut Sender<'_, W>,
    request: &SaveRequest,
    tracking: &Tracking<'_>,
    mut left: PageSet,
) -> Result<(), SaveError> {
    let now = memory(sender.hv, request)?;
    left.extend_to(now.end());
    left.add_bitmap(&tracking.take(now.end(), true)?);
    now.add_changed(&sender.memory, &mut left)?;
    sender.memory = now;
    sender.some(&left, GuestState::Suspended).map(drop)
}

/// Writes what comes after the pages.
fn write_state<W: Write>(
    hv: &dyn Hypervisor,
    request: &SaveRequest,
    memory: &Memory,
    to: &mut Writer<W>,
) -> Result<(), SaveError> {
    let domid = request.domid;
    let tsc = hv.tsc_info(domid).during(domid, SaveStep::ReadTsc)?;
    to.record(&Record::TscInfo(stream::TscInfo {
        mode: tsc.mode,
        khz: tsc.khz,
        elapsed_ns: tsc.elapsed_ns,
        incarnation: tsc.incarnation,
    }))?;
    match memory {
        Memory::SameNumbers { .. } => hvm::write_state(hv, domid, to)?,
        Memory::Machine(pv) => pv.write_state(hv, &domain_info(hv, domid)?, to)?,
    }
    to.record(&Record::End)?;
    Ok(())
}

/// Xen notes the pages that the domain writes to, until this is dropped.
struct Tracking<'a> {
    hv: &'a dyn Hypervisor,
    domid: DomId,
    is_on: bool,
}

impl<'a> Tracking<'a> {
    /// Starts it. Another program, or an earlier process, may have left it on; it is started anew then.
    fn start(hv: &'a dyn Hypervisor, domid: DomId) -> Result<Tracking<'a>, SaveError> {
        let started = match hv.track_writes(domid) {
            Err(error) if error.is(Errno::EINVAL) => hv
                .stop_tracking_writes(domid)
                .and_then(|()| hv.track_writes(domid)),
            started => started,
        };
        started.during(domid, SaveStep::TrackWrites)?;
        Ok(Tracking {
            hv,
            domid,
            is_on: true,
        })
    }

    /// The pages below `end` that were written to since the last look.
    fn take(&self, end: u64, is_last: bool) -> Result<Vec<u8>, SaveError> {
        let written = self.hv.take_written_pages(self.domid, end, is_last);
        written.during(self.domid, SaveStep::ReadWritten)
    }

    /// Ends it. If that fails, it is tried once more when this is dropped.
    fn end(mut self) -> Result<(), SaveError> {
        let stopped = self.hv.stop_tracking_writes(self.domid);
        self.is_on = stopped.is_err();
        stopped.during(self.domid, SaveStep::TrackWrites)
    }
}

impl Drop for Tracking<'_> {
    fn drop(&mut self) {
        if self.is_on {
            // The save has failed with an error already.
            let _ = self.hv.stop_tracking_writes(self.domid);
        }
    }
}
