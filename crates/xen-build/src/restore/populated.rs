//! [`Populated`], the pages that a domain has so far.

use std::collections::BTreeMap;

/// Pages of one block: those of an extent of 2 MiB.
const BLOCK_PAGES: u64 = 512;
const BLOCK_WORDS: usize = (BLOCK_PAGES / 64) as usize;

/// A set of page numbers. A hostile image may have any numbers, so memory is used for blocks with pages alone.
#[derive(Debug, Default)]
pub(super) struct Populated {
    blocks: BTreeMap<u64, [u64; BLOCK_WORDS]>,
    len: u64,
}

impl Populated {
    /// Number of pages.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn contains(&self, page: u64) -> bool {
        let block = self.blocks.get(&(page / BLOCK_PAGES));
        let word = block.and_then(|block| block.get(word_of(page)));
        word.is_some_and(|word| word & bit_of(page) != 0)
    }

    pub(super) fn insert(&mut self, page: u64) {
        let block = self.blocks.entry(page / BLOCK_PAGES).or_default();
        if let Some(word) = block.get_mut(word_of(page)) {
            self.len += u64::from(*word & bit_of(page) == 0);
            *word |= bit_of(page);
        }
    }

    pub(super) fn remove(&mut self, page: u64) {
        let Some(block) = self.blocks.get_mut(&(page / BLOCK_PAGES)) else {
            return;
        };
        if let Some(word) = block.get_mut(word_of(page)) {
            self.len -= u64::from(*word & bit_of(page) != 0);
            *word &= !bit_of(page);
        }
        if block.iter().all(|word| *word == 0) {
            self.blocks.remove(&(page / BLOCK_PAGES));
        }
    }
}

fn word_of(page: u64) -> usize {
    (page % BLOCK_PAGES / 64) as usize
}

fn bit_of(page: u64) -> u64 {
    1 << (page % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_count_once() {
        let mut pages = Populated::default();
        for page in [0, 63, 64, u64::MAX, 64] {
            pages.insert(page);
        }
        assert_eq!(pages.len(), 4);
        assert!(pages.contains(u64::MAX) && pages.contains(63) && !pages.contains(65));
        pages.remove(64);
        pages.remove(65);
        assert_eq!((pages.len(), pages.contains(64)), (3, false));
        pages.remove(u64::MAX);
        assert_eq!(pages.blocks.len(), 1, "no empty block stays");
    }
}
