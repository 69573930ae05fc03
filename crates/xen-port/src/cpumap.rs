//! A set of CPUs.

use std::fmt;

/// A set of physical CPUs, printed as `xl` prints it: `0-3,6`, `all`, `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CpuMap {
    bytes: Vec<u8>,
}

impl CpuMap {
    /// The empty set.
    pub fn new() -> CpuMap {
        CpuMap::default()
    }

    /// The set of CPUs `0` to `nr_cpus - 1`.
    pub fn all(nr_cpus: u32) -> CpuMap {
        (0..nr_cpus).collect()
    }

    /// A set from Xen's bitmap: bit `n` of byte `n / 8` is CPU `n`.
    pub fn from_bytes(bytes: &[u8]) -> CpuMap {
        let len = bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
        CpuMap {
            bytes: bytes.iter().take(len).copied().collect(),
        }
    }

    /// The set as Xen's bitmap, padded or cut to `size_bytes`.
    pub fn to_bytes(&self, size_bytes: usize) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(size_bytes, 0);
        bytes
    }

    /// Adds one CPU.
    pub fn insert(&mut self, cpu: u32) {
        let index = cpu as usize / 8;
        if self.bytes.len() <= index {
            self.bytes.resize(index + 1, 0);
        }
        if let Some(byte) = self.bytes.get_mut(index) {
            *byte |= 1 << (cpu % 8);
        }
    }

    /// Takes one CPU out.
    pub fn remove(&mut self, cpu: u32) {
        if let Some(byte) = self.bytes.get_mut(cpu as usize / 8) {
            *byte &= !(1 << (cpu % 8));
        }
        *self = CpuMap::from_bytes(&self.bytes);
    }

    /// Whether a CPU is in the set.
    pub fn contains(&self, cpu: u32) -> bool {
        self.bytes
            .get(cpu as usize / 8)
            .is_some_and(|b| b & (1 << (cpu % 8)) != 0)
    }

    /// The CPUs in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.bytes.len() as u32 * 8).filter(|cpu| self.contains(*cpu))
    }

    /// Number of CPUs in the set.
    pub fn len(&self) -> u32 {
        self.bytes.iter().map(|b| b.count_ones()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Formats the set as `xl vcpu-list` does on a host of `nr_cpus`: `all` if it contains every CPU.
    pub fn display(&self, nr_cpus: u32) -> String {
        if (0..nr_cpus).all(|cpu| self.contains(cpu)) {
            "all".to_owned()
        } else {
            self.to_string()
        }
    }

    fn ranges(&self) -> Vec<(u32, u32)> {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        ranges
    }
}

impl FromIterator<u32> for CpuMap {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> CpuMap {
        let mut map = CpuMap::new();
        cpus.into_iter().for_each(|cpu| map.insert(cpu));
        map
    }
}

impl fmt::Display for CpuMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges();
        if ranges.is_empty() {
            return f.write_str("none");
        }
        for (i, (first, last)) in ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_ranges_as_xl_does() {
        let map: CpuMap = [0, 1, 2, 6, 8, 9].into_iter().collect();
        assert_eq!(map.to_string(), "0-2,6,8-9");
        assert_eq!(CpuMap::new().to_string(), "none");
        assert_eq!(CpuMap::all(4).display(4), "all");
        assert_eq!(CpuMap::all(3).display(4), "0-2");
    }

    #[test]
    fn trailing_zero_bytes_do_not_matter() {
        assert_eq!(CpuMap::from_bytes(&[1, 0, 0]), CpuMap::from_bytes(&[1]));
        assert_eq!(CpuMap::from_bytes(&[1]).to_bytes(4), vec![1, 0, 0, 0]);
        let mut map = CpuMap::all(9);
        map.remove(8);
        assert_eq!(map, CpuMap::all(8));
        assert_eq!(map.len(), 8);
    }
}
