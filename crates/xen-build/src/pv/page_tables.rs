//! A PV domain's first page tables.
//!
//! A 64-bit kernel has four levels, a 32-bit one three (PAE). A table is a page of 512 entries, and the entries
//! contain machine frames. Xen accepts a page as a page table only if the guest cannot write to it. So each page
//! table is mapped read-only.

use std::ops::Range;

use xen_port::{Mfn, PAGE_SHIFT};

use crate::span::PageSpan;

/// The number of levels of the tables. An entry of a level-1 table maps a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paging {
    /// A 64-bit kernel's.
    FourLevels,
    /// Three levels of a 32-bit kernel: four entries at the top. Xen requires the last one, for its own use.
    ThreeLevels,
}

impl Paging {
    /// The levels, the top one first.
    fn levels(self) -> impl Iterator<Item = u32> {
        let top = match self {
            Self::FourLevels => 4,
            Self::ThreeLevels => 3,
        };
        (1..=top).rev()
    }

    /// The bits of a virtual page number that tables go by. Above them a 64-bit address repeats the highest.
    fn virt_page_mask(self) -> u64 {
        match self {
            Self::FourLevels => (1 << 36) - 1,
            Self::ThreeLevels => (1 << 20) - 1,
        }
    }
}

const ENTRIES: u64 = 1 << ENTRIES_SHIFT;
const ENTRIES_SHIFT: u32 = 9;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// Flags of level-1 entries. Xen adds USER for a 64-bit kernel, which runs in ring 3.
const PAGE_FLAGS: u64 = PRESENT | WRITABLE | ACCESSED;
const TABLE_FLAGS: u64 = PRESENT | WRITABLE | ACCESSED | DIRTY | USER;

/// Pages in a row, at virtual addresses in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) paging: Paging,
    pub(crate) virt: u64,
    pub(crate) pages: PageSpan,
}

impl Mapping {
    /// The virtual page numbers.
    fn virt_pages(self) -> PageSpan {
        PageSpan::new(self.virt >> PAGE_SHIFT, self.pages.count)
    }
}

/// The range of a table: a table of level `level` covers the addresses of one entry of the level above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    level: u32,
    /// The virtual page numbers in it agree in these bits, those above the level's own.
    prefix: u64,
}

impl Place {
    /// The tables of level `level` that a mapping needs, as prefixes in a row.
    fn prefixes(level: u32, mapping: Mapping) -> Range<u64> {
        let pages = mapping.virt_pages();
        if pages.is_empty() {
            return 0..0;
        }
        let (shift, mask) = (level * ENTRIES_SHIFT, mapping.paging.virt_page_mask());
        let first = (pages.first & mask) >> shift;
        let last = ((pages.end() - 1) & mask) >> shift;
        first..last + 1
    }

    /// The table that entry `index` is for.
    fn child(self, index: u64) -> Place {
        Place {
            level: self.level - 1,
            prefix: self.prefix << ENTRIES_SHIFT | index,
        }
    }

    /// The virtual page number that entry `index` maps, in a level-1 table.
    fn virt_page(self, index: u64) -> u64 {
        self.prefix << ENTRIES_SHIFT | index
    }
}

/// The tables for one mapping, in consecutive pages: the top one first, then level by level, in ascending address
/// order.
///
/// Only numbers are stored. So refusing a kernel with an absurdly high mapping costs nothing.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    mapping: Mapping,
    first: u64,
    /// Tables of a level, in runs of prefixes.
    runs: Vec<(u32, Range<u64>)>,
}

impl Tables {
    /// All tables that `mapping` needs, from page `first` on.
    pub(crate) fn new(mapping: Mapping, first: u64) -> Tables {
        let levels = mapping.paging.levels();
        let mut runs: Vec<(u32, Range<u64>)> = levels
            .map(|level| (level, Place::prefixes(level, mapping)))
            .collect();
        runs.extend(xens_own_table(mapping));
        Tables {
            mapping,
            first,
            runs,
        }
    }

    /// The tables that it needs in addition to those of `others`, which map other addresses.
    pub(crate) fn beside(others: &Tables, mapping: Mapping, first: u64) -> Tables {
        let mut runs = Vec::new();
        for level in mapping.paging.levels() {
            let wanted = Place::prefixes(level, mapping);
            let taken = Place::prefixes(level, others.mapping);
            runs.push((level, wanted.start..wanted.end.min(taken.start)));
            runs.push((level, wanted.start.max(taken.end)..wanted.end));
        }
        runs.retain(|(_, run)| !run.is_empty());
        Tables {
            mapping,
            first,
            runs,
        }
    }

    /// Pages of the tables.
    pub(crate) fn span(&self) -> PageSpan {
        PageSpan::new(
            self.first,
            self.runs.iter().map(|(_, run)| run.end - run.start).sum(),
        )
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        self.runs.iter().flat_map(|(level, run)| {
            run.clone().map(|prefix| Place {
                level: *level,
                prefix,
            })
        })
    }

    /// The page of a table, if it is one of these.
    fn page_of(&self, place: Place) -> Option<u64> {
        let mut page = self.first;
        for (level, run) in &self.runs {
            if *level == place.level && run.contains(&place.prefix) {
                return Some(page + (place.prefix - run.start));
            }
            page += run.end - run.start;
        }
        None
    }

    /// The page that is mapped at a virtual page number, if it is one of these.
    fn mapped_page(&self, virt_page: u64) -> Option<u64> {
        let mask = self.mapping.paging.virt_page_mask();
        let offset = virt_page.wrapping_sub(self.mapping.virt_pages().first) & mask;
        (offset < self.mapping.pages.count).then(|| self.mapping.pages.first + offset)
    }
}

/// The level-2 table of a 32-bit kernel's last GiB, if the mapping does not reach it. Xen maps its table of pages
/// there (`create_pae_xen_mappings`), and refuses tables without it.
fn xens_own_table(mapping: Mapping) -> Option<(u32, Range<u64>)> {
    const LAST: u64 = 3;
    let is_there = Place::prefixes(2, mapping).contains(&LAST);
    (mapping.paging == Paging::ThreeLevels && !is_there).then_some((2, LAST..LAST + 1))
}

/// The tables of one domain: those of the mapping that it starts in, and those of another one, if there is one.
pub(crate) struct TableSet<'a> {
    pub(crate) groups: Vec<&'a Tables>,
}

impl TableSet<'_> {
    /// Each table with its page number and the page's bytes. `frame_of` returns the machine frame of a page.
    pub(crate) fn filled(
        &self,
        frame_of: impl Fn(u64) -> Mfn,
    ) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let places = self
            .groups
            .iter()
            .flat_map(|group| group.places().zip(group.span().pages()));
        places.map(move |(place, page)| {
            let entries = (0..ENTRIES).map(|index| self.entry(place, index, &frame_of));
            (page, entries.flat_map(u64::to_le_bytes).collect())
        })
    }

    fn entry(&self, place: Place, index: u64, frame_of: &impl Fn(u64) -> Mfn) -> u64 {
        let target = if place.level == 1 {
            let page = self
                .groups
                .iter()
                .find_map(|group| group.mapped_page(place.virt_page(index)));
            page.map(|page| (page, self.page_flags(page)))
        } else {
            let table = self
                .groups
                .iter()
                .find_map(|group| group.page_of(place.child(index)));
            table.map(|page| (page, TABLE_FLAGS))
        };
        target.map_or(0, |(page, flags)| frame_of(page).0 << PAGE_SHIFT | flags)
    }

    fn page_flags(&self, page: u64) -> u64 {
        let is_table = self.groups.iter().any(|group| group.span().contains(page));
        if is_table {
            PAGE_FLAGS & !WRITABLE
        } else {
            PAGE_FLAGS
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Follows `virt` from the top table, in page `top`; gives the page and whether it is writable at every level.
    fn walk(tables: &HashMap<u64, Vec<u8>>, top: u64, virt: u64) -> Option<(u64, bool)> {
        let mut page = top;
        let mut writable = true;
        for level in Paging::FourLevels.levels() {
            let table = &tables[&page];
            let index = (virt >> (PAGE_SHIFT + (level - 1) * ENTRIES_SHIFT)) % ENTRIES;
            let bytes = table[index as usize * 8..][..8].try_into().unwrap();
            let entry = u64::from_le_bytes(bytes);
            if entry & PRESENT == 0 {
                return None;
            }
            writable &= entry & WRITABLE != 0;
            page = (entry & 0x000f_ffff_ffff_f000) >> PAGE_SHIFT;
        }
        Some((page, writable))
    }

    #[test]
    fn a_linux_like_mapping_takes_one_table_of_each_upper_level() {
        let mapping = Mapping {
            paging: Paging::FourLevels,
            virt: 0xffff_ffff_8000_0000,
            pages: PageSpan::new(0, 2048),
        };
        let tables = Tables::new(mapping, 1000);
        assert_eq!(tables.span(), PageSpan::new(1000, 3 + 4));
        let filled = TableSet {
            groups: vec![&tables],
        }
        .filled(Mfn)
        .collect();
        assert_eq!(walk(&filled, 1000, 0xffff_ffff_8000_0000), Some((0, true)));
        assert_eq!(
            walk(&filled, 1000, 0xffff_ffff_807f_ffff),
            Some((2047, true))
        );
        assert_eq!(walk(&filled, 1000, 0xffff_ffff_8080_0000), None);
        for page in tables.span().pages() {
            assert_eq!(
                walk(&filled, 1000, 0xffff_ffff_8000_0000 + (page << 12)),
                Some((page, false))
            );
        }
    }

    #[test]
    fn a_32_bit_mapping_has_a_table_for_the_last_gib_whether_it_reaches_it_or_not() {
        let of = |virt| {
            let pages = PageSpan::new(0, 1024);
            let paging = Paging::ThreeLevels;
            Tables::new(
                Mapping {
                    paging,
                    virt,
                    pages,
                },
                100,
            )
        };
        let (low, high) = (of(0x10_0000), of(0xc000_0000));
        // One of level 3, two of level 2, three of level 1: 4 MiB from 1 MiB on.
        assert_eq!(low.span(), PageSpan::new(100, 1 + 2 + 3));
        assert_eq!(high.span(), PageSpan::new(100, 1 + 1 + 2));
        for tables in [&low, &high] {
            let groups = vec![tables];
            let filled: HashMap<u64, Vec<u8>> = TableSet { groups }.filled(Mfn).collect();
            let last = u64::from_le_bytes(filled[&100][24..32].try_into().unwrap());
            assert_eq!(last & 0xfff, TABLE_FLAGS);
            assert!(tables.span().contains(last >> PAGE_SHIFT));
            assert!(filled[&100][32..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn mappings_beside_each_other_share_what_covers_both() {
        let kernel = Tables::new(
            Mapping {
                paging: Paging::FourLevels,
                virt: 0x10_0000,
                pages: PageSpan::new(0, 512),
            },
            100,
        );
        let near = Tables::beside(
            &kernel,
            Mapping {
                paging: Paging::FourLevels,
                virt: 0x4000_0000,
                pages: PageSpan::new(600, 3),
            },
            603,
        );
        assert_eq!(near.span().count, 2, "one of level 2, one of level 1");
        let filled = TableSet {
            groups: vec![&kernel, &near],
        }
        .filled(Mfn)
        .collect();
        assert_eq!(walk(&filled, 100, 0x10_0000), Some((0, true)));
        assert_eq!(walk(&filled, 100, 0x2f_f000), Some((511, true)));
        assert_eq!(walk(&filled, 100, 0x4000_2000), Some((602, true)));
        assert_eq!(walk(&filled, 100, 0x4000_3000), None);
    }
}
