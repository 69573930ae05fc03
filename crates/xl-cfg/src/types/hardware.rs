//! Host hardware that the guest may touch: I/O ports, interrupts, memory.

use serde::{Deserialize, Serialize};

use crate::diag::Code;
use crate::number::parse_digits;
use crate::reader::Reader;

/// A range of I/O ports (`ioports`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// A range of host memory mapped into the guest (`iomem`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRange {
    /// The first host frame.
    pub first_mfn: u64,
    /// Number of pages.
    pub nr_pages: u64,
    /// First frame of the range in the guest.
    pub first_gfn: u64,
}

/// Host hardware that the guest may touch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// I/O port ranges (`ioports`).
    pub ports: Vec<PortRange>,
    /// Ranges of host memory (`iomem`).
    pub memory: Vec<MemoryRange>,
    /// Host interrupt numbers (`irqs`).
    pub irqs: Vec<u32>,
    /// Host device tree nodes (`dtdev`, Arm).
    pub device_tree_nodes: Vec<String>,
}

impl Hardware {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            ports: read_items(
                reader,
                "ioports",
                parse_ports,
                "write hexadecimal ports, as in `2f8-2ff`",
            ),
            memory: read_items(
                reader,
                "iomem",
                parse_memory,
                "write hexadecimal frames, as in `fe000,10` or `fe000,10@d0000`",
            ),
            irqs: read_items(reader, "irqs", parse_irq, "write a decimal number"),
            device_tree_nodes: reader.strings("dtdev"),
        }
    }
}

fn read_items<T>(
    reader: &mut Reader<'_>,
    key: &str,
    parse: fn(&str) -> Option<T>,
    help: &str,
) -> Vec<T> {
    let mut items = Vec::new();
    for text in reader.texts(key) {
        match parse(text.text) {
            Some(item) => items.push(item),
            None => reader.error(
                Code::BadValue,
                text.whole_if_all(),
                format!("`{}` is no item of `{key}`", text.text),
                help,
            ),
        }
    }
    items
}

fn hex(text: &str) -> Option<u64> {
    parse_digits(text.strip_prefix("0x").unwrap_or(text), 16)
}

fn parse_ports(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text| hex(text).and_then(|port| u16::try_from(port).ok());
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(PortRange { first, last })
}

fn parse_memory(text: &str) -> Option<MemoryRange> {
    let (start, rest) = text.split_once(',')?;
    let (pages, gfn) = rest
        .split_once('@')
        .map_or((rest, None), |(pages, gfn)| (pages, Some(gfn)));
    let (first_mfn, nr_pages) = (hex(start)?, hex(pages)?);
    let first_gfn = gfn.map_or(Some(first_mfn), hex)?;
    // x86 physical addresses have 52 bits, frames 40.
    let fits = |first: u64| {
        first
            .checked_add(nr_pages)
            .is_some_and(|end| end <= 1 << 40)
    };
    (nr_pages > 0 && fits(first_mfn) && fits(first_gfn)).then_some(MemoryRange {
        first_mfn,
        nr_pages,
        first_gfn,
    })
}

fn parse_irq(text: &str) -> Option<u32> {
    parse_digits(text, 10)
        .and_then(|irq| u32::try_from(irq).ok())
        .filter(|&irq| irq < u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(
            parse_ports("2f8"),
            Some(PortRange {
                first: 0x2f8,
                last: 0x2f8
            })
        );
        assert_eq!(
            parse_ports("0x2f8-2ff"),
            Some(PortRange {
                first: 0x2f8,
                last: 0x2ff
            })
        );
        for text in ["", "-", "2ff-2f8", "10000", "2f8-", "2f8-2ff-300", "g"] {
            assert_eq!(parse_ports(text), None, "{text}");
        }
    }

    #[test]
    fn memory() {
        let range = |first_mfn, nr_pages, first_gfn| {
            Some(MemoryRange {
                first_mfn,
                nr_pages,
                first_gfn,
            })
        };
        assert_eq!(parse_memory("fe000,10"), range(0xfe000, 0x10, 0xfe000));
        assert_eq!(parse_memory("fe000,1@d0000"), range(0xfe000, 1, 0xd0000));
        for text in [
            "",
            "fe000",
            "fe000,",
            "fe000,0",
            "fe000,1@",
            "ffffffffffffffff,2",
            "fe000,1,2",
        ] {
            assert_eq!(parse_memory(text), None, "{text}");
        }
    }
}
