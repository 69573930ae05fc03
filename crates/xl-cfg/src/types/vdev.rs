//! Names of virtual disks: `xvda1`, `hdc`, `sdb`, `d5p1`, or a bare number (xen-vbd-interface(7)).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::number;

/// A virtual disk as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vdev {
    /// The name as the configuration has it.
    pub name: String,
    /// The number that xenstore has for it: the last part of the path of its `vbd` nodes.
    pub number: u32,
}

impl fmt::Display for Vdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Set in the number of a disk beyond the sixteenth, or with a partition beyond the fifteenth.
const EXTENDED: u32 = 1 << 28;
const MAX_XVD_DISK: u32 = (1 << 20) - 1;

impl Vdev {
    /// Parses a name; `None` if it names no virtual disk.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let number = xvd(name)
            .or_else(|| bare_number(name))
            .or_else(|| ide(name))
            .or_else(|| scsi(name))?;
        Some(Self {
            name: name.to_owned(),
            number,
        })
    }
}

/// The name `xvd...` of a disk with this number; `None` if the number is that of another kind of disks.
#[must_use]
pub fn xvd_name(number: u32) -> Option<String> {
    let (disk, partition) = match (number >> 8, number & EXTENDED) {
        (202, _) => ((number & 0xff) >> 4, number & 15),
        (_, 0) => return None,
        _ => ((number & !EXTENDED) >> 8, number & 0xff),
    };
    let partition = match partition {
        0 => String::new(),
        partition => partition.to_string(),
    };
    (disk <= MAX_XVD_DISK).then(|| format!("xvd{}{partition}", letters(disk)))
}

/// The letters of a disk: `a` for 0, `z` for 25, `aa` for 26.
fn letters(disk: u32) -> String {
    let last = char::from(b'a' + (disk % 26) as u8);
    match disk / 26 {
        0 => last.to_string(),
        more => letters(more - 1) + &last.to_string(),
    }
}

fn xvd(name: &str) -> Option<u32> {
    let (disk, partition) =
        disk_and_partition(name, "xvd", MAX_XVD_DISK, 255).or_else(|| numbered_disk(name))?;
    if disk <= 15 && partition <= 15 {
        Some((202 << 8) | (disk << 4) | partition)
    } else {
        Some(EXTENDED | (disk << 8) | partition)
    }
}

/// Reads a name of the form `d5p1`: disk and partition.
fn numbered_disk(name: &str) -> Option<(u32, u32)> {
    let (disk, partition) = name.strip_prefix('d')?.split_once('p')?;
    let within = |text: &str, most: u32| {
        number::parse(text)
            .ok()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|&number| number <= most)
    };
    Some((within(disk, MAX_XVD_DISK)?, within(partition, 255)?))
}

/// The number itself, in decimal, hexadecimal or octal.
fn bare_number(name: &str) -> Option<u32> {
    let starts_with_digit = name.starts_with(|c: char| c.is_ascii_digit());
    let number = starts_with_digit
        .then(|| number::parse(name).ok())
        .flatten()?;
    u32::try_from(number)
        .ok()
        .filter(|&number| number <= i32::MAX.unsigned_abs())
}

fn ide(name: &str) -> Option<u32> {
    let (disk, partition) = disk_and_partition(name, "hd", 3, 63)?;
    let major = if disk < 2 { 3 } else { 22 };
    Some((major << 8) | ((disk & 1) << 6) | partition)
}

fn scsi(name: &str) -> Option<u32> {
    let (disk, partition) = disk_and_partition(name, "sd", 15, 15)?;
    Some((8 << 8) | (disk << 4) | partition)
}

/// Splits `PREFIXaa12` into disk (`a` is 0, `aa` 26) and partition (0 if there is none).
fn disk_and_partition(
    name: &str,
    prefix: &str,
    max_disk: u32,
    max_partition: u32,
) -> Option<(u32, u32)> {
    let rest = name.strip_prefix(prefix)?;
    let nr_letters = rest
        .find(|c: char| !c.is_ascii_lowercase())
        .unwrap_or(rest.len());
    let (letters, digits) = (rest.get(..nr_letters)?, rest.get(nr_letters..)?);
    if letters.is_empty() || letters.len() > 5 || digits.starts_with('0') {
        return None;
    }
    let disk = letters
        .bytes()
        .fold(0, |disk, letter| disk * 26 + u32::from(letter - b'a') + 1)
        - 1;
    let partition = if digits.is_empty() {
        0
    } else {
        u32::try_from(number::parse_digits(digits, 10)?).ok()?
    };
    (disk <= max_disk && partition <= max_partition).then_some((disk, partition))
}

#[cfg(test)]
mod tests {
    use super::{Vdev, xvd_name};

    #[test]
    fn names_of_numbers_are_those_that_were_parsed() {
        for name in [
            "xvda", "xvda1", "xvdp15", "xvda16", "xvdq", "xvdaa", "xvdzz255",
        ] {
            let number = Vdev::parse(name).unwrap().number;
            assert_eq!(xvd_name(number).as_deref(), Some(name));
        }
        for name in ["hda", "sdb2", "7"] {
            assert_eq!(xvd_name(Vdev::parse(name).unwrap().number), None, "{name}");
        }
    }

    #[test]
    fn numbers_are_those_of_xen_vbd_interface() {
        for (name, number) in [
            ("xvda", 51712),
            ("xvda1", 51713),
            ("xvdp15", 51967),
            ("xvda16", (1 << 28) | 16),
            ("xvdq", (1 << 28) | (16 << 8)),
            ("xvdaa", (1 << 28) | (26 << 8)),
            ("d0p0", 51712),
            ("d16p1", (1 << 28) | (16 << 8) | 1),
            ("hda", 768),
            ("hdb3", 835),
            ("hdc", 5632),
            ("hdd", 5696),
            ("sda", 2048),
            ("sdb2", 2066),
            ("51712", 51712),
            ("0xca00", 51712),
        ] {
            assert_eq!(Vdev::parse(name).unwrap().number, number, "{name}");
        }
    }

    #[test]
    fn refuses_what_names_no_disk() {
        for name in [
            "",
            "xvd",
            "xvda01",
            "xvda256",
            "hde",
            "hda64",
            "sdq",
            "sda16",
            "vda",
            "hdA",
            "xvdbbbbbb",
            "2147483648",
            "-1",
            "d1",
            "dp",
            "xvda1x",
            "d99999999p1",
            "xvda ",
            "hda:cdrom",
        ] {
            assert_eq!(Vdev::parse(name), None, "{name}");
        }
    }
}
