//! The memory that this program takes by itself: its code and constants, which are in its file as well.

use std::fs;
use std::io;
use std::ops::Range;

/// The entry of one mapping in `/proc/PID/smaps`.
struct Mapping<'a> {
    range: Range<usize>,
    permissions: &'a str,
    path: &'a str,
    /// KiB that are not as they are in the file.
    changed_kib: u64,
}

/// Releases memory of a process that will wait for hours: the pages of the program's code and constants, and free
/// memory of the allocator. Returns the size of the program's pages in bytes.
///
/// The kernel reads the pages from the file again when they are used, with a fault for each few pages.
///
/// # Errors
/// An error of the system. Some pages may have been released before it.
pub fn give_back() -> io::Result<usize> {
    trim_heap();
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let program = fs::read_link("/proc/self/exe")?;
    let mut given_back_bytes = 0;
    for range in untouched(&smaps, &program.to_string_lossy()) {
        let start = std::ptr::without_provenance_mut(range.start);
        // SAFETY: the range is one whole mapping of this program's file, private, not writable, and none of its pages differs
        // from the file in memory or in swap, so that what the kernel reads there again is what was there. Nothing makes
        // it writable later: the loader has done so with others, before `main`. No Rust value lives in it but constants.
        if unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
        given_back_bytes += range.len();
    }
    Ok(given_back_bytes)
}

/// Gives the kernel all whole pages of the heap that are free.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and the allocator's own lock; what is in use stays where it is.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The mappings of a file that are unchanged and not writable.
fn untouched(smaps: &str, file: &str) -> Vec<Range<usize>> {
    let is_untouched = |mapping: &Mapping<'_>| {
        mapping.path == file
            && mapping.changed_kib == 0
            && matches!(mapping.permissions, "r-xp" | "r--p")
    };
    let mappings = mappings(smaps).into_iter().filter(is_untouched);
    mappings.map(|mapping| mapping.range).collect()
}

fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = head(line) {
            mappings.push(mapping);
        } else if let Some(mapping) = mappings.last_mut() {
            mapping.changed_kib += changed_kib(line);
        }
    }
    mappings
}

/// A mapping's first line: addresses, permissions, offset, device, inode, path.
fn head(line: &str) -> Option<Mapping<'_>> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let permissions = words.next()?;
    Some(Mapping {
        range: number(start)?..number(end)?,
        permissions,
        path: words.nth(3).unwrap_or_default().trim_start(),
        changed_kib: 0,
    })
}

/// The size in KiB of pages that differ from the file, if the line states one.
fn changed_kib(line: &str) -> u64 {
    let Some((key, value)) = line.split_once(':') else {
        return 0;
    };
    match key {
        // A page that was written to is the process's own from then on. (`Private_Dirty` counts those of a file that was
        // just installed, too: the disk does not have them yet.)
        "Anonymous" | "Swap" => {
            let kib = value.trim().trim_end_matches(" kB").parse();
            // An unreadable number counts as a change, so nothing is given back.
            kib.unwrap_or(1)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00200000-003d8000 r--p 00000000 08:01 42                         /usr/bin/xyl
Size:               1888 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  0 kB
003d8000-00a45000 r-xp 001d7000 08:01 42                         /usr/bin/xyl
Private_Dirty:       400 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
00a45000-00a4e000 r--p 00843000 08:01 42                         /usr/bin/xyl
Private_Dirty:        28 kB
Anonymous:            28 kB
00a4e000-00a52000 rw-p 0084b000 08:01 42                         /usr/bin/xyl
Private_Dirty:         0 kB
00a52000-00a53000 r--p 00000000 08:01 42                         /usr/bin/xyl
Private_Dirty:         0 kB
Swap:                  4 kB
7ffc0000-7ffd0000 r-xp 00000000 00:00 0                          [vdso]
7fff0000-7fff1000 r--p 00000000 00:00 0 
";

    #[test]
    fn only_what_is_as_in_the_file_is_given_back() {
        assert_eq!(
            untouched(SMAPS, "/usr/bin/xyl"),
            [0x20_0000..0x3d_8000, 0x3d_8000..0xa4_5000]
        );
        assert!(untouched("nonsense\n1-x r--p\n", "/usr/bin/xyl").is_empty());
    }

    #[test]
    fn this_program_goes_on_without_what_it_has_given_back() {
        let before = mappings(&fs::read_to_string("/proc/self/smaps").unwrap()).len();
        assert!(give_back().unwrap() > 100_000);
        let after = mappings(&fs::read_to_string("/proc/self/smaps").unwrap()).len();
        assert!(before > 0 && after > 0);
    }
}
