//! Hypercalls and mappings of foreign memory through `/dev/xen/privcmd`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use xen_abi::linux::{
    Hypercall, MmapBatchV2, MmapResource, PRIVCMD_HYPERCALL, PRIVCMD_MMAP_RESOURCE,
    PRIVCMD_MMAPBATCH_V2,
};
use xen_abi::xen::{HYPERVISOR_MULTICALL, MulticallEntry};
use xen_port::{DomId, Errno, Gfn, HvError, PAGE_SIZE, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::arena::{Arena, Slot, Source};
use crate::device::Device;
use crate::mapping::Mapping;

/// Counters of a [`Xen`](crate::Xen) handle since its creation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Times the kernel was asked for a hypercall; a multicall counts once.
    pub hypercalls: u64,
    /// Hypercalls made by way of multicalls.
    pub multicall_entries: u64,
    /// Times foreign frames or a resource were mapped.
    pub map_calls: u64,
    /// Frames mapped by them.
    pub mapped_frames: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hypercalls: AtomicU64,
    multicall_entries: AtomicU64,
    map_calls: AtomicU64,
    mapped_frames: AtomicU64,
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// The failed call, for an error text: Xen's name of it, and its domain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    pub(crate) op: &'static str,
    pub(crate) domid: Option<DomId>,
}

impl Site {
    pub(crate) fn host(op: &'static str) -> Self {
        Self { op, domid: None }
    }

    pub(crate) fn domain(op: &'static str, domid: DomId) -> Self {
        Self {
            op,
            domid: Some(domid),
        }
    }

    pub(crate) fn error(self, errno: Errno) -> HvError {
        self.error_with(errno, String::new())
    }

    pub(crate) fn error_with(self, errno: Errno, detail: String) -> HvError {
        HvError::Call {
            op: self.op,
            domid: self.domid,
            errno,
            detail,
        }
    }

    pub(crate) fn nonsense(self, what: impl Into<String>) -> HvError {
        HvError::Nonsense {
            op: self.op,
            what: what.into(),
        }
    }
}

/// The open driver and the memory for its hypercalls.
#[derive(Debug)]
pub(crate) struct Privcmd {
    device: Device,
    arena: Mutex<Arena>,
    counters: Counters,
}

impl Privcmd {
    pub(crate) fn open() -> Result<Self> {
        let device = Device::open("/dev/xen/privcmd", 0)?;
        let source = match Device::open("/dev/xen/hypercall", 0) {
            Ok(device) => Source::Driver(device),
            Err(HvError::NotXen { .. }) => Source::Locked,
            Err(error) => return Err(error),
        };
        Ok(Self {
            device,
            arena: Mutex::new(Arena::new(source)?),
            counters: Counters::default(),
        })
    }

    pub(crate) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            hypercalls: read(&self.counters.hypercalls),
            multicall_entries: read(&self.counters.multicall_entries),
            map_calls: read(&self.counters.map_calls),
            mapped_frames: read(&self.counters.mapped_frames),
        }
    }

    /// Prepares a hypercall with room for `array_bytes` of arrays in addition to its structures.
    pub(crate) fn call(&self, array_bytes: usize) -> Result<Call<'_>> {
        // The call's structure, and alignment.
        const STRUCTURES: usize = 512;
        // A panic while it was held leaves the arena usable: every call clears it first.
        let mut arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        arena.clear(array_bytes + STRUCTURES)?;
        Ok(Call {
            privcmd: self,
            arena,
        })
    }

    /// Asks the kernel for a hypercall; the answer is not negative.
    ///
    /// # Safety
    /// `op` with `arguments` makes Xen access no memory of this process but what a [`Call`] holds in its arena.
    unsafe fn hypercall(&self, op: u64, arguments: [u64; 5]) -> std::result::Result<i32, Errno> {
        let mut hypercall = Hypercall { op, arg: arguments };
        add(&self.counters.hypercalls, 1);
        // SAFETY: the structure is the ioctl's; the caller vouches for the hypercall.
        unsafe { self.device.ioctl(PRIVCMD_HYPERCALL, &mut hypercall) }
            .map_err(|error| errno_of(&error))
    }

    /// Maps frames of a domain, in the order given.
    pub(crate) fn map_frames(&self, domid: DomId, frames: &[Gfn]) -> Result<Mapping> {
        if frames.is_empty() {
            return Err(Site::domain(MAP_BATCH, domid).nonsense("no frames to map"));
        }
        let mapping = self.reserve_addresses(frames.len())?;
        let numbers: Vec<u64> = frames.iter().map(|frame| frame.0).collect();
        let mut errors = vec![0; frames.len()];
        match self.map_batch(domid, mapping.address(), &numbers, &mut errors) {
            // ENOENT: some frame is paged out; the list of errors says which.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(Site::domain(MAP_BATCH, domid).error(errno)),
        }
        for ((address, frame), error) in (mapping.address()..)
            .step_by(PAGE_SIZE)
            .zip(frames)
            .zip(errors)
        {
            match Errno(-error) {
                Errno(0) => {}
                Errno::ENOENT => self.page_in(domid, address, *frame)?,
                errno => {
                    return Err(HvError::Map {
                        domid,
                        gfn: *frame,
                        errno,
                    });
                }
            }
        }
        Ok(mapping)
    }

    /// Copies whole pages of a domain, of which some may not be there; which were. They are mapped for reading alone, so that
    /// a PV domain's page tables can be copied too.
    pub(crate) fn copy_frames(
        &self,
        domid: DomId,
        frames: &[Gfn],
        bytes: &mut [u8],
    ) -> Result<Vec<bool>> {
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        let mapping = Mapping::of_file(self.device.file(), 0, frames.len(), false)
            .map_err(|source| self.cannot_reserve(source))?;
        let numbers: Vec<u64> = frames.iter().map(|frame| frame.0).collect();
        // The driver may not reach every entry. Such an entry counts as not mapped.
        let mut errors = vec![-Errno::EIO.0; frames.len()];
        match self.map_batch(domid, mapping.address(), &numbers, &mut errors) {
            // ENOENT: some frame is paged out; that one is left out.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(Site::domain(MAP_BATCH, domid).error(errno)),
        }
        let pages = bytes.chunks_exact_mut(PAGE_SIZE).zip(&errors);
        for (index, (page, error)) in pages.enumerate() {
            // The address of a frame that was not mapped must not be accessed.
            if *error == 0 {
                mapping.read(index * PAGE_SIZE, page)?;
            }
        }
        Ok(errors.iter().map(|error| *error == 0).collect())
    }

    /// Maps one frame that was paged out: asks until Xen's pager has brought it back.
    fn page_in(&self, domid: DomId, address: u64, frame: Gfn) -> Result<()> {
        /// Each try has Xen ask the pager for the frame.
        const TRIES: u32 = 1000;
        for _ in 0..TRIES {
            match self.map_batch(domid, address, &[frame.0], &mut [0]) {
                Ok(()) => return Ok(()),
                Err(Errno::ENOENT) => std::thread::sleep(std::time::Duration::from_micros(100)),
                Err(errno) => {
                    return Err(HvError::Map {
                        domid,
                        gfn: frame,
                        errno,
                    });
                }
            }
        }
        Err(HvError::Map {
            domid,
            gfn: frame,
            errno: Errno::ENOENT,
        })
    }

    fn map_batch(
        &self,
        domid: DomId,
        address: u64,
        frames: &[u64],
        errors: &mut [i32],
    ) -> std::result::Result<(), Errno> {
        let mut batch = MmapBatchV2 {
            num: u32::try_from(frames.len()).map_err(|_| Errno::E2BIG)?,
            dom: domid.0,
            pad: 0,
            addr: address,
            arr: frames.as_ptr() as u64,
            err: errors.as_mut_ptr() as u64,
        };
        add(&self.counters.map_calls, 1);
        add(&self.counters.mapped_frames, frames.len() as u64);
        // SAFETY: `arr` and `err` are slices of `num` entries that live across the call, `errors` borrowed mutably. The driver puts frames
        // only behind addresses of a mapping of its own file, which nothing refers to by reference.
        let done = unsafe { self.device.ioctl(PRIVCMD_MMAPBATCH_V2, &mut batch) };
        done.map(drop).map_err(|error| errno_of(&error))
    }

    /// Maps frames of a resource of a domain.
    pub(crate) fn map_resource(
        &self,
        domid: DomId,
        kind: u32,
        id: u32,
        nr_frames: u32,
    ) -> Result<Mapping> {
        let mapping = self.reserve_addresses(nr_frames as usize)?;
        let mut resource = MmapResource {
            dom: domid.0,
            pad: 0,
            kind,
            id,
            idx: 0,
            num: nr_frames.into(),
            addr: mapping.address(),
        };
        add(&self.counters.map_calls, 1);
        add(&self.counters.mapped_frames, nr_frames.into());
        // SAFETY: `addr` is the start of a mapping of this file of `num` pages, which nothing refers to by reference.
        let done = unsafe { self.device.ioctl(PRIVCMD_MMAP_RESOURCE, &mut resource) };
        done.map(|_| mapping)
            .map_err(|error| Site::domain("XENMEM_acquire_resource", domid).error(errno_of(&error)))
    }

    /// A range of addresses that the driver will put frames behind.
    fn reserve_addresses(&self, nr_pages: usize) -> Result<Mapping> {
        Mapping::of_file(self.device.file(), 0, nr_pages, true)
            .map_err(|source| self.cannot_reserve(source))
    }

    fn cannot_reserve(&self, source: std::io::Error) -> HvError {
        self.device
            .error("reserve addresses for foreign memory", source)
    }
}

const MAP_BATCH: &str = "IOCTL_PRIVCMD_MMAPBATCH_V2";

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno)
}

/// A hypercall that is being put together, and its answer. The arena is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    privcmd: &'a Privcmd,
    arena: MutexGuard<'a, Arena>,
}

impl Call<'_> {
    pub(crate) fn put<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<Slot<T>> {
        self.arena.put(value)
    }

    pub(crate) fn put_slice<T: IntoBytes + Immutable>(&mut self, values: &[T]) -> Result<Slot<T>> {
        self.arena.put_slice(values)
    }

    pub(crate) fn reserve<T: FromBytes>(&mut self, count: usize) -> Result<Slot<T>> {
        self.arena.reserve(count)
    }

    pub(crate) fn get<T: FromBytes + IntoBytes>(&self, slot: &Slot<T>) -> Result<T> {
        self.arena.get(slot)
    }

    pub(crate) fn get_slice<T: FromBytes + IntoBytes + Copy>(
        &self,
        slot: &Slot<T>,
        count: usize,
    ) -> Result<Vec<T>> {
        self.arena.get_slice(slot, count)
    }

    /// Makes the hypercall; the answer is not negative.
    ///
    /// # Safety
    /// Every address among `arguments`, and in the structures that they lead to, is of a [`Slot`] of this call (or 0 where Xen takes
    /// that as none). The arguments name no more entries there than the slot has.
    pub(crate) unsafe fn run(
        &mut self,
        op: u64,
        arguments: &[u64],
    ) -> std::result::Result<i32, Errno> {
        let mut five = [0; 5];
        five.iter_mut()
            .zip(arguments)
            .for_each(|(to, from)| *to = *from);
        // SAFETY: the caller vouches that Xen stays within the arena, which `self` borrows alone and refers to by no reference.
        unsafe { self.privcmd.hypercall(op, five) }
    }

    /// Makes several hypercalls in one; each answer as Xen gave it.
    ///
    /// # Safety
    /// As of [`run`](Self::run), for each entry.
    pub(crate) unsafe fn run_all(
        &mut self,
        site: Site,
        calls: &[(u64, [u64; 2])],
    ) -> Result<Vec<i64>> {
        let entry = |&(op, [a, b]): &(u64, [u64; 2])| MulticallEntry {
            op,
            result: 0,
            args: [a, b, 0, 0, 0, 0],
        };
        let entries: Vec<MulticallEntry> = calls.iter().map(entry).collect();
        let slot = self.put_slice(&entries)?;
        add(
            &self.privcmd.counters.multicall_entries,
            entries.len() as u64,
        );
        // SAFETY: `slot` has as many entries as Xen is told of; the caller vouches for what they lead to.
        unsafe {
            self.run(
                HYPERVISOR_MULTICALL,
                &[slot.address(), entries.len() as u64],
            )
        }
        .map_err(|errno| site.error(errno))?;
        let answers = self.get_slice(&slot, entries.len())?;
        Ok(answers.iter().map(|entry| entry.result as i64).collect())
    }
}
