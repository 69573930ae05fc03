//! Writes every free page, then reads all of them: pages that are missing, read-only or one page
//! under two names are found.

use testguest_logic::ranges::Ranges;

/// Free memory, and a way to reach it.
pub trait Memory {
    /// RAM, in bytes.
    fn ram(&self) -> Ranges;
    /// The part of the memory in use, in whole pages.
    fn in_use(&self) -> Ranges;
    /// Makes page `pfn` reachable until the next call.
    fn map(&mut self, pfn: u64) -> Option<*mut u64>;
    /// Ends the last [`Memory::map`].
    fn unmap(&mut self) {}
}

/// Result of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Pages written and read.
    pub pages: u64,
    /// Number of pages with a wrong value.
    pub bad: u64,
    /// The first of those.
    pub first_bad: u64,
}

const LAST_WORD: usize = 4096 / 8 - 1;

fn pattern(pfn: u64) -> u64 {
    pfn.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x7465_7374_6775_6573
}

/// Runs the test.
pub fn run(memory: &mut impl Memory) -> Outcome {
    let mut outcome = Outcome {
        pages: 0,
        bad: 0,
        first_bad: 0,
    };
    each_free_page(memory, |pfn, page| {
        outcome.pages += 1;
        if let Some(page) = page {
            // SAFETY: the page is mapped and free; both words lie in it.
            unsafe {
                page.write_volatile(pattern(pfn));
                page.add(LAST_WORD).write_volatile(!pattern(pfn));
            }
        }
    });
    each_free_page(memory, |pfn, page| {
        let good = page.is_some_and(|page| {
            // SAFETY: as above.
            let words = unsafe { (page.read_volatile(), page.add(LAST_WORD).read_volatile()) };
            words == (pattern(pfn), !pattern(pfn))
        });
        if !good {
            if outcome.bad == 0 {
                outcome.first_bad = pfn;
            }
            outcome.bad += 1;
        }
    });
    outcome
}

fn each_free_page(memory: &mut impl Memory, mut visit: impl FnMut(u64, Option<*mut u64>)) {
    let (ram, in_use) = (memory.ram(), memory.in_use());
    for (start, end) in ram.iter() {
        for pfn in start.div_ceil(4096)..end / 4096 {
            if !in_use.overlaps(pfn * 4096, 4096) {
                let page = memory.map(pfn);
                visit(pfn, page);
            }
        }
    }
    memory.unmap();
}
