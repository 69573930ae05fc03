//! [`PageSet`], a set of page numbers below a limit.

/// Page numbers below a limit, one bit each.
#[derive(Debug)]
pub(super) struct PageSet {
    words: Vec<u64>,
    end: u64,
}

impl PageSet {
    /// The empty set of numbers below `end`.
    pub(super) fn new(end: u64) -> PageSet {
        PageSet {
            words: vec![0; usize::try_from(end.div_ceil(64)).unwrap_or(usize::MAX)],
            end,
        }
    }

    /// Allows numbers below `end`, if it is larger than before.
    pub(super) fn extend_to(&mut self, end: u64) {
        let words = usize::try_from(end.div_ceil(64)).unwrap_or(usize::MAX);
        self.words.resize(words.max(self.words.len()), 0);
        self.end = self.end.max(end);
    }

    pub(super) fn insert(&mut self, page: u64) {
        if let Some(word) = self.words.get_mut((page / 64) as usize) {
            *word |= 1 << (page % 64);
        }
    }

    /// Adds the pages of a bitmap: bit n of byte m stands for page 8 m + n.
    pub(super) fn add_bitmap(&mut self, bitmap: &[u8]) {
        for (word, bytes) in self.words.iter_mut().zip(bitmap.as_chunks::<8>().0) {
            *word |= u64::from_le_bytes(*bytes);
        }
    }

    /// Number of pages.
    pub(super) fn len(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// The pages, in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let words = (0..)
            .step_by(64)
            .zip(&self.words)
            .filter(|(_, word)| **word != 0);
        let pages = words.flat_map(|(first, word)| {
            let is_there = move |bit: &u64| word >> bit & 1 != 0;
            (0..64).filter(is_there).map(move |bit| first + bit)
        });
        pages.take_while(|page| *page < self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_in_order_and_below_the_limit() {
        let mut pages = PageSet::new(130);
        pages.insert(129);
        pages.insert(5);
        pages.insert(500);
        let mut bitmap = [0; 24];
        bitmap[8] = 0b11;
        bitmap[23] = 0xff;
        pages.add_bitmap(&bitmap);
        assert_eq!(pages.iter().collect::<Vec<_>>(), [5, 64, 65, 129]);
        pages.extend_to(200);
        pages.insert(199);
        assert_eq!((pages.len(), pages.iter().last()), (13, Some(199)));
        assert!(PageSet::new(0).iter().next().is_none());
    }
}
