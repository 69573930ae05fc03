//! A domain's memory: limits, allocation, maps, page tables, mappings, HVM parameters.

use std::fs::File;
use std::io;

use xen_abi::domctl;
use xen_abi::hvm;
use xen_abi::memory;
use xen_abi::mmu;
use xen_abi::xen::{HYPERVISOR_HVM_OP, HYPERVISOR_MEMORY_OP, HYPERVISOR_MMUEXT_OP};
use xen_port::{
    DomId, E820Entry, Errno, Gfn, GuestMemory, HvmParam, Mfn, PAGE_SIZE, PageTableLevel,
    PopulateFlags, Result,
};

use crate::Xen;
use crate::mapping::Mapping;
use crate::privcmd::Site;

/// Extents of one populate call: 128 KiB of frame numbers.
const POPULATE_BATCH: usize = 16 << 10;

impl Xen {
    pub(crate) fn write_max_mem(&self, domid: DomId, max_kib: u64) -> Result<()> {
        let request = domctl::MaxMem { max_memkb: max_kib };
        self.domctl("XEN_DOMCTL_max_mem", domctl::MAX_MEM, domid, &request)
            .map(drop)
    }

    pub(crate) fn write_paging_mempool(&self, domid: DomId, size_bytes: u64) -> Result<()> {
        let request = domctl::PagingMempool {
            size: size_bytes.next_multiple_of(PAGE_SIZE as u64),
        };
        let op = "XEN_DOMCTL_set_paging_mempool_size";
        self.domctl(op, domctl::SET_PAGING_MEMPOOL_SIZE, domid, &request)
            .map(drop)
    }

    pub(crate) fn stake_claim(&self, domid: DomId, nr_pages: u64) -> Result<()> {
        let mut call = self.privcmd.call(0)?;
        let request = memory::Reservation {
            extent_start: 0,
            nr_extents: nr_pages,
            extent_order: 0,
            mem_flags: 0,
            domid: domid.0,
            pad: [0; 3],
        };
        let argument = call.put(&request)?;
        // SAFETY: `argument` is the one structure that this sub-operation reads; it has no list.
        unsafe {
            call.run(
                HYPERVISOR_MEMORY_OP,
                &[memory::CLAIM_PAGES.into(), argument.address()],
            )
        }
        .map_err(|errno| Site::domain("XENMEM_claim_pages", domid).error(errno))?;
        Ok(())
    }

    pub(crate) fn populate(
        &self,
        domid: DomId,
        order: u32,
        flags: PopulateFlags,
        start: &[Gfn],
    ) -> Result<Vec<Mfn>> {
        let mut frames = Vec::with_capacity(start.len());
        for batch in start.chunks(POPULATE_BATCH) {
            let made = self.populate_batch(domid, order, flags, batch)?;
            let complete = made.len() == batch.len();
            frames.extend(made);
            if !complete {
                break;
            }
        }
        Ok(frames)
    }

    fn populate_batch(
        &self,
        domid: DomId,
        order: u32,
        flags: PopulateFlags,
        start: &[Gfn],
    ) -> Result<Vec<Mfn>> {
        let site = Site::domain("XENMEM_populate_physmap", domid);
        let numbers: Vec<u64> = start.iter().map(|gfn| gfn.0).collect();
        let mut call = self.privcmd.call(size_of_val(numbers.as_slice()))?;
        let list = call.put_slice(&numbers)?;
        let request = memory::Reservation {
            extent_start: list.address(),
            nr_extents: numbers.len() as u64,
            extent_order: order,
            mem_flags: mem_flags(flags),
            domid: domid.0,
            pad: [0; 3],
        };
        let argument = call.put(&request)?;
        // SAFETY: `argument` is the one structure; `list` has `nr_extents` entries.
        let made = unsafe {
            call.run(
                HYPERVISOR_MEMORY_OP,
                &[memory::POPULATE_PHYSMAP.into(), argument.address()],
            )
        }
        .map_err(|errno| site.error(errno))?;
        Ok(call
            .get_slice(&list, made.cast_unsigned() as usize)?
            .into_iter()
            .map(Mfn)
            .collect())
    }

    pub(crate) fn give_back(&self, domid: DomId, pages: &[Gfn]) -> Result<()> {
        pages
            .chunks(POPULATE_BATCH)
            .try_for_each(|batch| self.give_batch_back(domid, batch))
    }

    fn give_batch_back(&self, domid: DomId, pages: &[Gfn]) -> Result<()> {
        let site = Site::domain("XENMEM_decrease_reservation", domid);
        let numbers: Vec<u64> = pages.iter().map(|gfn| gfn.0).collect();
        let mut call = self.privcmd.call(size_of_val(numbers.as_slice()))?;
        let list = call.put_slice(&numbers)?;
        let request = memory::Reservation {
            extent_start: list.address(),
            nr_extents: numbers.len() as u64,
            extent_order: 0,
            mem_flags: 0,
            domid: domid.0,
            pad: [0; 3],
        };
        let argument = call.put(&request)?;
        // SAFETY: `argument` is the one structure; `list` has `nr_extents` entries.
        let done = unsafe {
            call.run(
                HYPERVISOR_MEMORY_OP,
                &[memory::DECREASE_RESERVATION.into(), argument.address()],
            )
        }
        .map_err(|errno| site.error(errno))?;
        match done.cast_unsigned() as usize == numbers.len() {
            true => Ok(()),
            false => {
                let detail = format!(": {done} of {} done", numbers.len());
                Err(site.error_with(Errno::EINVAL, detail))
            }
        }
    }

    pub(crate) fn write_memory_map(&self, domid: DomId, map: &[E820Entry]) -> Result<()> {
        let entries: Vec<memory::E820Entry> = map
            .iter()
            .map(|entry| memory::E820Entry::new(entry.start, entry.size_bytes, entry.kind.number()))
            .collect();
        let mut call = self.privcmd.call(size_of_val(entries.as_slice()))?;
        let list = call.put_slice(&entries)?;
        let request = memory::ForeignMemoryMap {
            domid: domid.0,
            pad: [0; 3],
            map: memory::MemoryMap {
                nr_entries: entries.len() as u32,
                pad: 0,
                buffer: list.address(),
            },
        };
        let argument = call.put(&request)?;
        // SAFETY: `argument` is the one structure; `list` has `nr_entries` entries.
        unsafe {
            call.run(
                HYPERVISOR_MEMORY_OP,
                &[memory::SET_MEMORY_MAP.into(), argument.address()],
            )
        }
        .map_err(|errno| Site::domain("XENMEM_set_memory_map", domid).error(errno))?;
        Ok(())
    }

    pub(crate) fn pin(&self, domid: DomId, tables: &[(PageTableLevel, Mfn)]) -> Result<()> {
        let ops: Vec<mmu::ExtOp> = tables.iter().map(pin_op).collect();
        self.mmuext(Site::domain("MMUEXT_PIN_TABLE", domid), domid, &ops)
    }

    pub(crate) fn clear(&self, domid: DomId, pages: &[Gfn]) -> Result<()> {
        let op = |page: &Gfn| mmu::ExtOp {
            cmd: mmu::CLEAR_PAGE,
            pad: 0,
            mfn: page.0,
            arg2: 0,
        };
        let ops: Vec<mmu::ExtOp> = pages.iter().map(op).collect();
        self.mmuext(Site::domain("MMUEXT_CLEAR_PAGE", domid), domid, &ops)
    }

    /// Runs operations on frames of a PV domain, in order. An error contains the number of completed ones.
    fn mmuext(&self, site: Site, domid: DomId, ops: &[mmu::ExtOp]) -> Result<()> {
        let mut call = self.privcmd.call(size_of_val(ops))?;
        let list = call.put_slice(ops)?;
        let done = call.reserve::<u32>(1)?;
        let arguments = [
            list.address(),
            ops.len() as u64,
            done.address(),
            domid.0.into(),
        ];
        // SAFETY: `list` has as many operations as Xen is told of, none of which holds an address; `done` is the one count that Xen
        // writes.
        if let Err(errno) = unsafe { call.run(HYPERVISOR_MMUEXT_OP, &arguments) } {
            let detail = format!(": {} of {} done", call.get(&done)?, ops.len());
            return Err(site.error_with(errno, detail));
        }
        Ok(())
    }

    pub(crate) fn fill_hypercall_page(&self, domid: DomId, gfn: Gfn) -> Result<()> {
        let request = domctl::HypercallInit { gmfn: gfn.0 };
        self.domctl(
            "XEN_DOMCTL_hypercall_init",
            domctl::HYPERCALL_INIT,
            domid,
            &request,
        )
        .map(drop)
    }

    pub(crate) fn write_pod_target(&self, domid: DomId, target_pages: u64) -> Result<()> {
        let mut call = self.privcmd.call(0)?;
        let request = memory::PodTarget {
            target_pages,
            tot_pages: 0,
            pod_cache_pages: 0,
            pod_entries: 0,
            domid: domid.0,
            pad: [0; 3],
        };
        let argument = call.put(&request)?;
        // SAFETY: `argument` is the one structure that this sub-operation reads and writes.
        unsafe {
            call.run(
                HYPERVISOR_MEMORY_OP,
                &[memory::SET_POD_TARGET.into(), argument.address()],
            )
        }
        .map_err(|errno| Site::domain("XENMEM_set_pod_target", domid).error(errno))?;
        Ok(())
    }

    /// Maps frames of a domain for reading and writing, in the order given; one ioctl.
    ///
    /// # Errors
    /// [`HvError::Map`](xen_port::HvError::Map) with the first frame that could not be mapped.
    pub fn foreign_memory(&self, domid: DomId, frames: &[Gfn]) -> Result<ForeignMemory> {
        Ok(ForeignMemory {
            mapping: self.privcmd.map_frames(domid, frames)?,
        })
    }

    /// Maps the first frames of a domain's grant table.
    ///
    /// # Errors
    /// [`HvError::Call`](xen_port::HvError::Call) if Xen refuses them.
    pub fn grant_table_memory(&self, domid: DomId, nr_frames: u32) -> Result<ForeignMemory> {
        let kind = memory::RESOURCE_GRANT_TABLE;
        let mapping = self.privcmd.map_resource(
            domid,
            kind,
            memory::RESOURCE_GRANT_TABLE_SHARED,
            nr_frames,
        )?;
        Ok(ForeignMemory { mapping })
    }

    pub(crate) fn read_hvm_param(&self, domid: DomId, param: HvmParam) -> Result<u64> {
        let mut call = self.privcmd.call(0)?;
        let argument = call.put(&hvm::Param {
            domid: domid.0,
            pad: 0,
            index: param as u32,
            value: 0,
        })?;
        // SAFETY: `argument` is the one structure that this operation reads and writes.
        unsafe {
            call.run(
                HYPERVISOR_HVM_OP,
                &[hvm::GET_PARAM.into(), argument.address()],
            )
        }
        .map_err(|errno| {
            Site::domain("HVMOP_get_param", domid)
                .error_with(errno, format!(": parameter {param:?}"))
        })?;
        Ok(call.get(&argument)?.value)
    }

    pub(crate) fn write_hvm_params(&self, domid: DomId, params: &[(HvmParam, u64)]) -> Result<()> {
        let site = Site::domain("HVMOP_set_param", domid);
        let failed = |param: HvmParam, errno: Errno| {
            Err(site.error_with(errno, format!(": parameter {param:?}")))
        };
        match params {
            [] => Ok(()),
            [(param, value)] => match self.write_hvm_param(domid, *param, *value)? {
                Ok(()) => Ok(()),
                Err(errno) => failed(*param, errno),
            },
            _ => {
                let answers = self.write_params_at_once(site, domid, params)?;
                match params.iter().zip(answers).find(|(_, answer)| *answer < 0) {
                    None => Ok(()),
                    Some(((param, _), answer)) => failed(
                        *param,
                        Errno(i32::try_from(-answer).unwrap_or(Errno::EIO.0)),
                    ),
                }
            }
        }
    }

    fn write_hvm_param(
        &self,
        domid: DomId,
        param: HvmParam,
        value: u64,
    ) -> Result<std::result::Result<(), Errno>> {
        let mut call = self.privcmd.call(0)?;
        let argument = call.put(&hvm::Param {
            domid: domid.0,
            pad: 0,
            index: param as u32,
            value,
        })?;
        // SAFETY: `argument` is the one structure that this operation reads.
        let answer = unsafe {
            call.run(
                HYPERVISOR_HVM_OP,
                &[hvm::SET_PARAM.into(), argument.address()],
            )
        };
        Ok(answer.map(drop))
    }

    fn write_params_at_once(
        &self,
        site: Site,
        domid: DomId,
        params: &[(HvmParam, u64)],
    ) -> Result<Vec<i64>> {
        /// A parameter, its entry of the multicall, and their alignment.
        const BYTES_EACH: usize = 128;
        let mut call = self.privcmd.call(params.len() * BYTES_EACH)?;
        let mut calls = Vec::with_capacity(params.len());
        for (param, value) in params {
            let request = hvm::Param {
                domid: domid.0,
                pad: 0,
                index: *param as u32,
                value: *value,
            };
            calls.push((
                HYPERVISOR_HVM_OP,
                [hvm::SET_PARAM.into(), call.put(&request)?.address()],
            ));
        }
        // SAFETY: each entry's address is of the one structure that this operation reads.
        unsafe { call.run_all(site, &calls) }
    }
}

fn mem_flags(flags: PopulateFlags) -> u32 {
    let on_demand = if flags.on_demand {
        memory::MEMF_POPULATE_ON_DEMAND
    } else {
        0
    };
    let exact = if flags.exact_node {
        memory::MEMF_EXACT_NODE_REQUEST
    } else {
        0
    };
    // The field has eight bits. A node that does not fit counts as no node.
    let node = flags
        .node
        .filter(|node| *node < 0xff)
        .map_or(0, |node| (node + 1) * memory::MEMF_NODE_0);
    let address = if flags.below_4gib {
        32 * memory::MEMF_ADDRESS_BITS_1
    } else {
        0
    };
    on_demand | exact | node | address
}

fn pin_op((level, table): &(PageTableLevel, Mfn)) -> mmu::ExtOp {
    let cmd = match level {
        PageTableLevel::L1 => mmu::PIN_L1_TABLE,
        PageTableLevel::L2 => mmu::PIN_L2_TABLE,
        PageTableLevel::L3 => mmu::PIN_L3_TABLE,
        PageTableLevel::L4 => mmu::PIN_L4_TABLE,
    };
    mmu::ExtOp {
        cmd,
        pad: 0,
        mfn: table.0,
        arg2: 0,
    }
}

/// Pages of another domain in this process; unmapped when dropped. The domain may change them at any time: bytes are copied in
/// and out, and nothing refers to them.
#[derive(Debug)]
pub struct ForeignMemory {
    pub(crate) mapping: Mapping,
}

impl GuestMemory for ForeignMemory {
    fn size_bytes(&self) -> usize {
        self.mapping.size_bytes()
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.mapping.write(offset, bytes)
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.mapping.read(offset, bytes)
    }

    fn zero(&mut self, offset: usize, len: usize) -> Result<()> {
        self.mapping.zero(offset, len)
    }

    fn fill_with(
        &mut self,
        offset: usize,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>> {
        self.mapping.fill(offset, len, fill)
    }

    fn fill_from_file(
        &mut self,
        offset: usize,
        len: usize,
        file: &File,
        file_offset: u64,
    ) -> Result<io::Result<()>> {
        self.mapping.read_file(offset, len, file, file_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn populate_flags_are_xens() {
        assert_eq!(mem_flags(PopulateFlags::default()), 0);
        let flags = PopulateFlags {
            on_demand: true,
            node: Some(2),
            exact_node: true,
            below_4gib: true,
        };
        assert_eq!(mem_flags(flags), 1 << 16 | 1 << 17 | 3 << 8 | 32);
        assert_eq!(
            mem_flags(PopulateFlags {
                node: Some(300),
                ..flags
            }),
            1 << 16 | 1 << 17 | 32
        );
    }
}
