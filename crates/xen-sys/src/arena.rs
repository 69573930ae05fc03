//! Memory for hypercall arguments: always present, so that Xen can read and write it at any time.

use std::fs::File;
use std::marker::PhantomData;
use std::ops::Range;

use xen_port::{HvError, PAGE_SIZE, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::device::Device;
use crate::mapping::Mapping;

/// The source of hypercall memory.
#[derive(Debug)]
pub(crate) enum Source {
    /// The driver's own pages, which never move (Linux 4.18 and later).
    Driver(Device),
    /// Ordinary memory, locked, for older kernels. The kernel may still move a page at the wrong moment; the hypercall then fails with
    /// `EFAULT`.
    Locked,
}

impl Source {
    fn map(&self, nr_pages: usize) -> Result<Mapping> {
        let path = "/dev/xen/hypercall";
        match self {
            Self::Driver(device) => {
                let file: &File = device.file();
                Mapping::of_file(file, 0, nr_pages, true)
                    .map_err(|source| device.error("map hypercall memory", source))
            }
            Self::Locked => Mapping::of_locked_memory(nr_pages).map_err(|source| HvError::Driver {
                path: path.into(),
                op: "not there; lock memory instead",
                source,
            }),
        }
    }
}

/// One block of hypercall memory. The hypercalls of a handle use it one after the other.
#[derive(Debug)]
pub(crate) struct Arena {
    source: Source,
    memory: Mapping,
    used: usize,
}

/// `count` values of `T` in an [`Arena`], until it is cleared.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    address: u64,
    offset: usize,
    count: usize,
    kind: PhantomData<T>,
}

impl<T> Slot<T> {
    /// The address for Xen.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

/// Pages of a new arena: enough for every call but those with long lists. Each page costs time when a process starts and ends.
const FIRST_PAGES: usize = 2;
/// Each value starts at a multiple of this.
const ALIGNMENT: usize = 16;

impl Arena {
    pub(crate) fn new(source: Source) -> Result<Self> {
        let memory = source.map(FIRST_PAGES)?;
        Ok(Self {
            source,
            memory,
            used: 0,
        })
    }

    /// Empties the arena and makes room for `size_bytes` of values and their alignment.
    pub(crate) fn clear(&mut self, size_bytes: usize) -> Result<()> {
        self.used = 0;
        if self.memory.size_bytes() < size_bytes {
            self.memory = self.source.map(size_bytes.div_ceil(PAGE_SIZE))?;
        }
        Ok(())
    }

    /// Copies one value in.
    pub(crate) fn put<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<Slot<T>> {
        self.put_slice(std::slice::from_ref(value))
    }

    /// Copies values in, one after the other.
    pub(crate) fn put_slice<T: IntoBytes + Immutable>(&mut self, values: &[T]) -> Result<Slot<T>> {
        let slot = self.take(values.len())?;
        self.memory.write(slot.offset, values.as_bytes())?;
        Ok(slot)
    }

    /// Sets aside zeroed memory for `count` values that Xen writes.
    pub(crate) fn reserve<T: FromBytes>(&mut self, count: usize) -> Result<Slot<T>> {
        let slot = self.take(count)?;
        self.memory.zero(slot.offset, size_of::<T>() * count)?;
        Ok(slot)
    }

    /// Copies one value out.
    pub(crate) fn get<T: FromBytes + IntoBytes>(&self, slot: &Slot<T>) -> Result<T> {
        let mut value = T::new_zeroed();
        self.memory.read(slot.offset, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies the first `count` values out.
    pub(crate) fn get_slice<T: FromBytes + IntoBytes + Copy>(
        &self,
        slot: &Slot<T>,
        count: usize,
    ) -> Result<Vec<T>> {
        if count > slot.count {
            return Err(HvError::Nonsense {
                op: "read a hypercall's answer",
                what: format!("{count} entries in a buffer of {}", slot.count),
            });
        }
        let mut values = vec![T::new_zeroed(); count];
        self.memory
            .read(slot.offset, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }

    fn take<T>(&mut self, count: usize) -> Result<Slot<T>> {
        let Range { start, end } = self.free_range(size_of::<T>().saturating_mul(count))?;
        self.used = end;
        Ok(Slot {
            address: self.memory.address() + start as u64,
            offset: start,
            count,
            kind: PhantomData,
        })
    }

    fn free_range(&self, size_bytes: usize) -> Result<Range<usize>> {
        let start = self.used.next_multiple_of(ALIGNMENT);
        start
            .checked_add(size_bytes)
            .filter(|end| *end <= self.memory.size_bytes())
            .map(|end| start..end)
            .ok_or_else(|| HvError::Nonsense {
                op: "fill a hypercall buffer",
                what: format!(
                    "{size_bytes} bytes more than the {} of {}",
                    self.used,
                    self.memory.size_bytes()
                ),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> Arena {
        Arena::new(Source::Locked).unwrap()
    }

    #[test]
    fn values_come_back_and_do_not_overlap() {
        let mut arena = arena();
        arena.clear(0).unwrap();
        let one = arena.put(&0x1111_2222_u32).unwrap();
        let many = arena.put_slice(&[1_u64, 2, 3]).unwrap();
        let empty = arena.reserve::<u16>(5).unwrap();
        assert_eq!(arena.get(&one).unwrap(), 0x1111_2222);
        assert_eq!(arena.get_slice(&many, 3).unwrap(), [1, 2, 3]);
        assert_eq!(arena.get_slice(&empty, 5).unwrap(), [0; 5]);
        assert_eq!(many.address() % 16, 0);
        assert!(many.address() >= one.address() + 4);
        assert!(empty.address() >= many.address() + 24);
    }

    #[test]
    fn clearing_reuses_the_memory_and_zeroes_what_is_reserved() {
        let mut arena = arena();
        let before = arena.put(&[0xff_u8; 64]).unwrap().address();
        arena.clear(64).unwrap();
        let slot = arena.reserve::<u8>(64).unwrap();
        assert_eq!(slot.address(), before);
        assert_eq!(arena.get_slice(&slot, 64).unwrap(), [0; 64]);
    }

    #[test]
    fn it_grows_when_asked_and_refuses_what_does_not_fit() {
        let mut arena = arena();
        assert!(arena.put(&[0_u8; FIRST_PAGES * PAGE_SIZE + 1]).is_err());
        arena.clear(10 * PAGE_SIZE).unwrap();
        let slot = arena.put(&[7_u8; 10 * PAGE_SIZE]).unwrap();
        assert!(arena.reserve::<u64>(usize::MAX).is_err());
        assert!(arena.reserve::<u8>(1).is_err());
        assert_eq!(arena.get(&slot).unwrap()[10 * PAGE_SIZE - 1], 7);
    }

    #[test]
    fn an_answer_cannot_be_longer_than_its_buffer() {
        let mut arena = arena();
        let slot = arena.reserve::<u64>(2).unwrap();
        assert!(arena.get_slice(&slot, 3).is_err());
    }
}
