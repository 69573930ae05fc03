//! Sets of memory ranges in a fixed array: what the memory test must leave alone.

/// A full set was asked to take one more range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// At most 32 half-open ranges `[start, end)` of bytes; empty ones are not stored.
#[derive(Debug, Clone, Default)]
pub struct Ranges {
    ranges: [(u64, u64); 32],
    len: usize,
}

impl Ranges {
    /// An empty set.
    pub const fn new() -> Self {
        Self {
            ranges: [(0, 0); 32],
            len: 0,
        }
    }

    /// Adds `size` bytes at `start`.
    pub fn add(&mut self, start: u64, size: u64) -> Result<(), Full> {
        if size == 0 {
            return Ok(());
        }
        let slot = self.ranges.get_mut(self.len).ok_or(Full)?;
        *slot = (start, start.saturating_add(size));
        self.len += 1;
        Ok(())
    }

    /// Whether any byte of the `size` bytes at `start` lies in the set.
    pub fn overlaps(&self, start: u64, size: u64) -> bool {
        let end = start.saturating_add(size);
        self.iter().any(|(from, to)| start < to && from < end)
    }

    /// Whether one single range holds all `size` bytes at `start`.
    pub fn contains(&self, start: u64, size: u64) -> bool {
        let Some(end) = start.checked_add(size) else {
            return false;
        };
        self.iter().any(|(from, to)| from <= start && end <= to)
    }

    /// The ranges, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().copied().take(self.len)
    }

    /// Number of bytes in the ranges. Overlaps count twice.
    pub fn total(&self) -> u64 {
        self.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_and_containment() {
        let mut ranges = Ranges::new();
        ranges.add(0x1000, 0x1000).unwrap();
        ranges.add(0x9000, 0).unwrap();
        assert!(ranges.overlaps(0x1fff, 1));
        assert!(ranges.overlaps(0x0, 0x1001));
        assert!(!ranges.overlaps(0x2000, 0x1000));
        assert!(!ranges.overlaps(0x9000, 1));
        assert!(ranges.contains(0x1000, 0x1000));
        assert!(!ranges.contains(0x1800, 0x1000));
        assert!(!ranges.contains(u64::MAX, 2));
        assert_eq!(ranges.total(), 0x1000);
    }

    #[test]
    fn the_33rd_is_refused() {
        let mut ranges = Ranges::new();
        for i in 0..32 {
            ranges.add(i, 1).unwrap();
        }
        assert_eq!(ranges.add(99, 1), Err(Full));
    }
}
