//! The first bytes of an image: whether it is of the configured format, and needs no other file.
//!
//! The format is never guessed. An image that names another file would have QEMU open what a guest has chosen, so it is refused.
//!
//! Facts: `docs/interop/qcow2.txt` of QEMU; the specification of VHD 1.0.

use os_port::OpenFile;

use crate::EngineError;
use crate::error::DeviceError;
use crate::vm::disk::{Disk, ImageFormat};

/// Size of VHD's footer, in bytes. It is a sector.
const FOOTER_BYTES: u64 = 512;
/// VHD's disk types: of a whole disk, of one that grows, and of one that has a parent.
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;
/// qcow2's extension of its head that has bitmaps.
const BITMAPS: u32 = 0x2385_2875;
/// The most extensions that are looked at. QEMU writes five kinds, each once.
const EXTENSIONS_MAX: usize = 32;
/// Size of the head of a qcow2 image of version 2, in bytes.
const HEAD_OF_V2_BYTES: u64 = 72;
/// qcow2's bit of an incompatible feature: the data is in another file.
const EXTERNAL_DATA: u64 = 4;

/// Refuses an image of another format than the disk's, and one that names another file.
///
/// # Errors
/// [`DeviceError::WrongFormat`], [`DeviceError::Unsupported`], and that of a file that cannot be read.
pub(super) fn check(device: &str, disk: &Disk, file: &OpenFile) -> Result<(), EngineError> {
    let path = &disk.target;
    let read = |offset| -> Result<[u8; FOOTER_BYTES as usize], EngineError> {
        let mut bytes = [0; FOOTER_BYTES as usize];
        file.read_at(offset, &mut bytes)
            .map_err(|source| EngineError::io("read", path, source))?;
        Ok(bytes)
    };
    let found = match disk.format {
        ImageFormat::Raw => Found::Whole,
        ImageFormat::Qcow2 => match qcow2(&read(0)?) {
            Found::Whole if has_bitmaps(&read(0)?, &read)? => Found::Bitmaps,
            found => found,
        },
        ImageFormat::Vhd => {
            let last = file.facts().size_bytes.saturating_sub(FOOTER_BYTES);
            vhd(&read(0)?, &read(last)?)
        }
    };
    match found {
        Found::Whole => Ok(()),
        Found::Other => Err(DeviceError::WrongFormat {
            device: device.to_owned(),
            path: path.clone(),
            format: disk.format.word(),
        }
        .into()),
        Found::Part => {
            let what = format!(
                "{device}: {} needs another file that it names (a backing file or a data file), which Xyl does not let QEMU open: make it whole with `qemu-img convert`",
                path.display()
            );
            Err(DeviceError::Unsupported { what }.into())
        }
        Found::Bitmaps => {
            let what = format!(
                "{device}: {} has bitmaps of changes, which Xyl does not let QEMU load: `qemu-img bitmap --remove` removes one",
                path.display()
            );
            Err(DeviceError::Unsupported { what }.into())
        }
    }
}

/// The kind of an image, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// An image of the format.
    Whole,
    /// An image of the format that names another file.
    Part,
    /// A whole image with bitmaps. QEMU loads them all, however many there are.
    Bitmaps,
    /// Something else than that.
    Other,
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_be_bytes(bytes))
}

fn qcow2(head: &[u8]) -> Found {
    let version = number(head, 4);
    if !head.starts_with(b"QFI\xfb") || !matches!(version, Some(2 | 3)) {
        return Found::Other;
    }
    let features = if version == Some(3) {
        long(head, 72)
    } else {
        Some(0)
    };
    let is_part = long(head, 8) != Some(0) || features.is_none_or(|bits| bits & EXTERNAL_DATA != 0);
    if is_part { Found::Part } else { Found::Whole }
}

/// Whether a qcow2 image has bitmaps, or more extensions than QEMU writes. They follow the head: type, length, and data up to a multiple
/// of 8 bytes. The type 0 is the last.
fn has_bitmaps(
    head: &[u8],
    read: &dyn Fn(u64) -> Result<[u8; FOOTER_BYTES as usize], EngineError>,
) -> Result<bool, EngineError> {
    let mut at = match number(head, 4) {
        Some(3) => number(head, 100).unwrap_or(0).into(),
        _ => HEAD_OF_V2_BYTES,
    };
    for _ in 0..EXTENSIONS_MAX {
        let extension = read(at)?;
        match number(&extension, 0) {
            Some(BITMAPS) => return Ok(true),
            None | Some(0) => return Ok(false),
            Some(_) => {}
        }
        let length = u64::from(number(&extension, 4).unwrap_or(0));
        at += 8 + length.next_multiple_of(8);
    }
    Ok(true)
}

/// QEMU takes an image for one that grows if its start is a footer. A guest writes the start of a fixed one, and nothing behind its end: so
/// both must say the same.
fn vhd(first: &[u8], last: &[u8]) -> Found {
    match (vhd_type(first), vhd_type(last)) {
        (None, Some(FIXED)) | (Some(DYNAMIC), Some(DYNAMIC)) => Found::Whole,
        (Some(DIFFERENCING), _) | (_, Some(DIFFERENCING)) => Found::Part,
        _ => Found::Other,
    }
}

/// The type of the disk that a footer names; `None` for bytes that are no footer.
fn vhd_type(footer: &[u8]) -> Option<u32> {
    let is_footer = footer.starts_with(b"conectix");
    number(footer, 60).filter(|_| is_footer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut all = vec![0; 512];
        for (at, part) in parts {
            all[*at..*at + part.len()].copy_from_slice(part);
        }
        all
    }

    #[test]
    fn an_image_is_of_its_format_and_needs_no_other_file() {
        let magic = (0, &b"QFI\xfb"[..]);
        let (v2, v3) = ((4, &[0, 0, 0, 2][..]), (4, &[0, 0, 0, 3][..]));
        assert_eq!(qcow2(&bytes(&[magic, v2])), Found::Whole);
        assert_eq!(qcow2(&bytes(&[magic, v3])), Found::Whole);
        assert_eq!(qcow2(&bytes(&[magic, v3, (79, &[4])])), Found::Part);
        assert_eq!(qcow2(&bytes(&[magic, v2, (79, &[4])])), Found::Whole);
        assert_eq!(qcow2(&bytes(&[magic, v3, (15, &[1])])), Found::Part);
        assert_eq!(qcow2(&bytes(&[magic])), Found::Other);
        assert_eq!(qcow2(&bytes(&[v3])), Found::Other);
        assert_eq!(qcow2(b"QFI\xfb"), Found::Other);
        let cookie = (0, &b"conectix"[..]);
        let footer = |kind: u8| bytes(&[cookie, (63, &[kind])]);
        let none = bytes(&[]);
        for (first, last, found) in [
            (none.clone(), footer(2), Found::Whole),
            (footer(3), footer(3), Found::Whole),
            (footer(4), footer(4), Found::Part),
            (none.clone(), footer(4), Found::Part),
            (none.clone(), none.clone(), Found::Other),
            (none.clone(), footer(3), Found::Other),
            (footer(3), none, Found::Other),
            // A guest has written the start of its fixed disk.
            (footer(3), footer(2), Found::Other),
            (footer(2), footer(2), Found::Other),
        ] {
            assert_eq!(vhd(&first, &last), found);
        }
    }

    #[test]
    fn bitmaps_are_found_among_the_extensions_of_an_image() {
        let v3 = [(4, &[0, 0, 0, 3][..]), (103, &[104][..])];
        let features = [0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 3];
        let bitmaps = [0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24];
        let is_found = |parts: &[(usize, &[u8])]| {
            let mut image = bytes(parts);
            image.resize(8192, 0);
            let read = |at: u64| {
                let at = usize::try_from(at).unwrap();
                Ok(image[at..at + 512].try_into().unwrap())
            };
            has_bitmaps(&image[..512], &read).unwrap()
        };
        let [version, length] = v3;
        assert!(!is_found(&[version, length]));
        assert!(!is_found(&[version, length, (104, &features)]));
        assert!(is_found(&[version, length, (104, &bitmaps)]));
        assert!(is_found(&[
            version,
            length,
            (104, &features),
            (120, &bitmaps)
        ]));
        assert!(is_found(&[(4, &[0, 0, 0, 2]), (72, &bitmaps)]));
        // Extensions without end.
        let empty: Vec<u8> = [0, 0, 0, 1, 0, 0, 0, 0].repeat(48);
        assert!(is_found(&[version, length, (104, &empty)]));
    }
}
