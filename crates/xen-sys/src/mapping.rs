//! Memory mapped into this process, owned, and copied without references to it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use xen_port::{HvError, PAGE_SIZE, Result};

/// A range of this process's address space; unmapped when dropped.
///
/// Others may write to the memory behind it at any time, so nothing here makes a reference to it: bytes are copied in and out
/// with volatile accesses, or by the kernel.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    size_bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; what is behind it is only reached by volatile accesses.
unsafe impl Send for Mapping {}
// SAFETY: as above; writing takes `&mut self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `nr_pages` of a file at `offset_bytes`, shared, for reading and perhaps writing.
    pub(crate) fn of_file(
        file: &File,
        offset_bytes: u64,
        nr_pages: usize,
        writable: bool,
    ) -> io::Result<Self> {
        let protection = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let offset = libc::off_t::try_from(offset_bytes).map_err(io::Error::other)?;
        Self::map(
            nr_pages,
            protection,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            offset,
        )
    }

    /// Maps `nr_pages` of new zeroed memory that stays in RAM and is not copied to children.
    pub(crate) fn of_locked_memory(nr_pages: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let mapping = Self::map(
            nr_pages,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )?;
        let start = mapping.start.as_ptr().cast();
        // SAFETY: the range is this mapping, which is ours alone.
        let failed = unsafe {
            libc::madvise(start, mapping.size_bytes, libc::MADV_DONTFORK) != 0
                || libc::mlock(start, mapping.size_bytes) != 0
        };
        if failed {
            Err(io::Error::last_os_error())
        } else {
            Ok(mapping)
        }
    }

    fn map(
        nr_pages: usize,
        protection: i32,
        flags: i32,
        fd: i32,
        offset: libc::off_t,
    ) -> io::Result<Self> {
        let too_large = || io::Error::from_raw_os_error(libc::ENOMEM);
        let size_bytes = nr_pages.checked_mul(PAGE_SIZE).ok_or_else(too_large)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_bytes,
                protection,
                flags,
                fd,
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(too_large)?;
        Ok(Self { start, size_bytes })
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Pointer to `len` bytes at `offset`. An error that names `op` if they are outside the mapping.
    fn range(&self, op: &'static str, offset: usize, len: usize) -> Result<NonNull<u8>> {
        match offset.checked_add(len) {
            // SAFETY: offset + len <= size, so the pointer stays within the mapping or one past it.
            Some(end) if end <= self.size_bytes => Ok(unsafe { self.start.add(offset) }),
            _ => Err(HvError::Nonsense {
                op,
                what: format!(
                    "bytes {offset:#x} + {len:#x} of a mapping of {:#x}",
                    self.size_bytes
                ),
            }),
        }
    }

    /// Copies `bytes` to `offset`.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        let to = self.range("write to mapped memory", offset, bytes.len())?;
        // SAFETY: `range` checked the bounds; `to` is within a live mapping and written only through volatile stores.
        unsafe { store(to, bytes) };
        Ok(())
    }

    /// Copies from `offset`.
    pub(crate) fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let from = self.range("read from mapped memory", offset, bytes.len())?;
        // SAFETY: `range` checked the bounds; `from` is within a live mapping and read only through volatile loads.
        unsafe { load(from, bytes) };
        Ok(())
    }

    /// Sets `len` bytes at `offset` to zero.
    pub(crate) fn zero(&mut self, offset: usize, len: usize) -> Result<()> {
        self.range("zero mapped memory", offset, len)?;
        const ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
        let mut done = 0;
        while done < len {
            let piece = ZEROS.get(..(len - done).min(PAGE_SIZE)).unwrap_or(&ZEROS);
            self.write(offset + done, piece)?;
            done += piece.len();
        }
        Ok(())
    }

    /// Has the kernel read `len` bytes of `file` from `file_offset` straight to `offset`.
    pub(crate) fn read_file(
        &mut self,
        offset: usize,
        len: usize,
        file: &File,
        file_offset: u64,
    ) -> Result<io::Result<()>> {
        let to = self.range("read a file to mapped memory", offset, len)?;
        let mut done = 0;
        while done < len {
            let position = match libc::off_t::try_from(file_offset + done as u64) {
                Ok(position) => position,
                Err(error) => return Ok(Err(io::Error::other(error))),
            };
            // SAFETY: `range` checked that len bytes from `to` are inside the mapping; the kernel writes at most the rest of them.
            let read = unsafe {
                libc::pread(
                    file.as_raw_fd(),
                    to.add(done).as_ptr().cast(),
                    len - done,
                    position,
                )
            };
            match read {
                1.. => done += read.unsigned_abs(),
                0 => return Ok(Err(io::ErrorKind::UnexpectedEof.into())),
                _ => {
                    let error = io::Error::last_os_error();
                    match error.raw_os_error() {
                        Some(libc::EINTR) => {}
                        // Some kernels do not copy to pages that they do not manage: go by way of a buffer.
                        Some(libc::EFAULT) => {
                            return self.read_file_buffered(
                                offset + done,
                                len - done,
                                file,
                                file_offset + done as u64,
                            );
                        }
                        _ => return Ok(Err(error)),
                    }
                }
            }
        }
        Ok(Ok(()))
    }

    fn read_file_buffered(
        &mut self,
        offset: usize,
        len: usize,
        file: &File,
        file_offset: u64,
    ) -> Result<io::Result<()>> {
        let mut position = file_offset;
        self.fill(offset, len, &mut |piece| {
            file.read_exact_at(piece, position)?;
            position += piece.len() as u64;
            Ok(())
        })
    }

    /// Has `fill` make the bytes of `offset .. offset + len` in pieces, in order.
    pub(crate) fn fill(
        &mut self,
        offset: usize,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>> {
        const PIECE: usize = 256 << 10;
        self.range("fill mapped memory", offset, len)?;
        let mut buffer = vec![0_u8; len.min(PIECE)];
        let mut done = 0;
        while done < len {
            let size = (len - done).min(PIECE);
            buffer.truncate(size);
            if let Err(error) = fill(&mut buffer) {
                return Ok(Err(error));
            }
            self.write(offset + done, &buffer)?;
            done += size;
        }
        Ok(Ok(()))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by us and nothing keeps a pointer into it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size_bytes) };
    }
}

/// Copies `bytes` to `to` with volatile stores, eight bytes at a time where `to` is aligned: as fast as memcpy under emulation, and
/// half as fast on real CPUs, where wider stores would cost twice as much under emulation.
///
/// # Safety
/// `to` is valid for writes of `bytes.len()` bytes.
unsafe fn store(to: NonNull<u8>, bytes: &[u8]) {
    let (head, words, tail) = split(to, bytes.len());
    let (first, rest) = bytes.split_at(head);
    let (middle, last) = rest.split_at(words * 8);
    for (index, byte) in first.iter().enumerate() {
        // SAFETY: index < head <= len.
        unsafe { to.add(index).write_volatile(*byte) };
    }
    for (index, word) in middle.as_chunks::<8>().0.iter().enumerate() {
        // SAFETY: head + 8 * index + 8 <= len, and `split` made that address a multiple of eight.
        unsafe {
            to.add(head + index * 8)
                .cast::<u64>()
                .write_volatile(u64::from_ne_bytes(*word))
        };
    }
    debug_assert_eq!(last.len(), tail);
    for (index, byte) in last.iter().enumerate() {
        // SAFETY: head + 8 * words + index < len.
        unsafe { to.add(head + words * 8 + index).write_volatile(*byte) };
    }
}

/// Copies from `from` to `bytes` with volatile loads, eight bytes at a time where `from` is aligned.
///
/// # Safety
/// `from` is valid for reads of `bytes.len()` bytes.
unsafe fn load(from: NonNull<u8>, bytes: &mut [u8]) {
    let (head, words, _) = split(from, bytes.len());
    let (first, rest) = bytes.split_at_mut(head);
    let (middle, last) = rest.split_at_mut(words * 8);
    for (index, byte) in first.iter_mut().enumerate() {
        // SAFETY: index < head <= len.
        *byte = unsafe { from.add(index).read_volatile() };
    }
    for (index, word) in middle.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        // SAFETY: head + 8 * index + 8 <= len, and `split` made that address a multiple of eight.
        *word = unsafe { from.add(head + index * 8).cast::<u64>().read_volatile() }.to_ne_bytes();
    }
    for (index, byte) in last.iter_mut().enumerate() {
        // SAFETY: head + 8 * words + index < len.
        *byte = unsafe { from.add(head + words * 8 + index).read_volatile() };
    }
}

/// Splits `len` bytes at `start`: bytes before the first aligned word, aligned words, bytes after them.
fn split(start: NonNull<u8>, len: usize) -> (usize, usize, usize) {
    let head = start.as_ptr().align_offset(8).min(len);
    let words = (len - head) / 8;
    (head, words, len - head - words * 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Mapping {
        Mapping::map(
            2,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
        .unwrap()
    }

    #[test]
    fn every_alignment_and_length_is_copied_whole_and_nothing_beside_it() {
        for offset in 0..17 {
            for len in 0..40 {
                let mut mapping = memory();
                mapping.write(0, &[0xee; 64]).unwrap();
                let bytes: Vec<u8> = (1..=len as u8).collect();
                mapping.write(offset, &bytes).unwrap();
                let mut all = [0; 64];
                mapping.read(0, &mut all).unwrap();
                assert_eq!(all[offset..offset + len], bytes);
                assert!(
                    all[..offset]
                        .iter()
                        .chain(&all[offset + len..])
                        .all(|byte| *byte == 0xee)
                );
                let mut back = vec![0; len];
                mapping.read(offset, &mut back).unwrap();
                assert_eq!(back, bytes);
            }
        }
    }

    #[test]
    fn nothing_reaches_beyond_the_end() {
        let mut mapping = memory();
        assert_eq!(mapping.size_bytes(), 8192);
        mapping.write(8191, &[1]).unwrap();
        assert!(mapping.write(8192, &[1]).is_err());
        assert!(mapping.write(8190, &[1, 2, 3]).is_err());
        assert!(mapping.read(usize::MAX, &mut [0; 2]).is_err());
        assert!(mapping.zero(4096, 4097).is_err());
        assert!(mapping.fill(1, 8192, &mut |_| Ok(())).is_err());
    }

    #[test]
    fn zero_clears_just_its_range() {
        let mut mapping = memory();
        mapping.write(0, &[0xff; 8192]).unwrap();
        mapping.zero(3, 5000).unwrap();
        let mut all = vec![0; 8192];
        mapping.read(0, &mut all).unwrap();
        assert!(all[..3].iter().all(|byte| *byte == 0xff));
        assert!(all[3..5003].iter().all(|byte| *byte == 0));
        assert!(all[5003..].iter().all(|byte| *byte == 0xff));
    }

    #[test]
    fn files_are_read_straight_into_the_mapping() {
        let path = std::env::temp_dir().join(format!("xen-sys-mapping-{}", std::process::id()));
        std::fs::write(&path, (0..=255).collect::<Vec<u8>>()).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut mapping = memory();
        mapping.read_file(100, 16, &file, 32).unwrap().unwrap();
        let mut back = [0; 16];
        mapping.read(100, &mut back).unwrap();
        assert_eq!(back.to_vec(), (32..48).collect::<Vec<u8>>());
        let short = mapping.read_file(0, 16, &file, 250).unwrap().unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        mapping
            .read_file_buffered(0, 16, &file, 1)
            .unwrap()
            .unwrap();
        mapping.read(0, &mut back).unwrap();
        assert_eq!(back.to_vec(), (1..17).collect::<Vec<u8>>());
    }
}
