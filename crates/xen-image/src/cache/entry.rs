//! An entry of the cache: a page of header, then the unpacked image.
//!
//! A complete entry gets its name by a rename, so no process sees an incomplete one. It is not synced, because on a
//! slow disk that takes longer than unpacking. So after a power loss an entry may have its name and length, and wrong
//! bytes. Therefore the header contains the boot in which the entry was written or last verified. In the same boot it
//! is trusted. In a later boot its checksum is computed once, and the header is updated.
//!
//! The checksum protects against damage, not against attacks: an attacker who can write the entry can write the
//! checksum too. The directory's permissions protect against attacks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use super::ENTRY_SUFFIX;
use crate::bytes::{array_at, u32_at, u64_at};
use crate::source::Source;

/// The header's size: a page, so that the image starts on one.
pub(super) const HEADER_BYTES: u64 = 4096;

const MAGIC: [u8; 8] = *b"XYLKERN\x01";
const IMAGE_BYTES_AT: usize = 8;
const IMAGE_CRC_AT: usize = 16;
const BOOT_ID_AT: usize = 20;
const BOOT_ID_BYTES: usize = 36;
const HEADER_CRC_AT: usize = BOOT_ID_AT + BOOT_ID_BYTES;
const FIELDS_BYTES: usize = HEADER_CRC_AT + 4;

/// Number of bytes that are read or written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The hash of a packed file, by which its unpacked image is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContentHash(String);

impl ContentHash {
    pub(crate) fn of(packed: &[u8]) -> Self {
        Self(
            Sha256::digest(packed)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        )
    }

    pub(super) fn file_name(&self) -> String {
        format!("{}{ENTRY_SUFFIX}", self.0)
    }
}

/// Random identifier of this boot. Empty if the kernel has none; then no entry is of this boot.
pub(super) fn boot_id() -> String {
    let found = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    found.trim().chars().take(BOOT_ID_BYTES).collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) image_bytes: u64,
    image_crc: u32,
    /// The boot in which it was written or last verified, filled up with zeros.
    boot_id: [u8; BOOT_ID_BYTES],
}

impl Header {
    /// The header of an entry that is `file_bytes` long, or `None` if it is not one in order.
    pub(super) fn read(file: &File, file_bytes: u64) -> Option<Self> {
        let mut bytes = [0; FIELDS_BYTES];
        file.read_exact_at(&mut bytes, 0).ok()?;
        let stated_crc = u32_at(&bytes, HEADER_CRC_AT)?;
        let header = Self {
            image_bytes: u64_at(&bytes, IMAGE_BYTES_AT)?,
            image_crc: u32_at(&bytes, IMAGE_CRC_AT)?,
            boot_id: array_at(&bytes, BOOT_ID_AT)?,
        };
        let whole = HEADER_BYTES.checked_add(header.image_bytes) == Some(file_bytes);
        let in_order = bytes.starts_with(&MAGIC) && header_crc(&bytes) == stated_crc;
        (whole && in_order).then_some(header)
    }

    pub(super) fn is_of_boot(&self, boot_id: &str) -> bool {
        !boot_id.is_empty() && self.boot_id == padded(boot_id)
    }

    /// Whether the image's checksum is right: `Some` if so.
    pub(super) fn verify(&self, file: &File) -> Option<()> {
        let mut crc = crc32fast::Hasher::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut offset = 0;
        while offset < self.image_bytes {
            let left = usize::try_from(self.image_bytes - offset).unwrap_or(usize::MAX);
            let part = chunk.get_mut(..left.min(CHUNK_BYTES))?;
            file.read_exact_at(part, HEADER_BYTES + offset).ok()?;
            crc.update(part);
            offset += part.len() as u64;
        }
        (crc.finalize() == self.image_crc).then_some(())
    }

    /// Writes this header with another boot's identifier.
    pub(super) fn write_stamped(&self, file: &File, boot_id: &str) {
        // A stamp that is not there, or half there, makes the next lookup verify or miss.
        let _ = file.write_all_at(&self.fields(boot_id), 0);
    }

    /// The header page of an entry that is written now.
    pub(super) fn to_bytes(&self, boot_id: &str) -> Vec<u8> {
        let mut page = self.fields(boot_id);
        page.resize(usize::try_from(HEADER_BYTES).unwrap_or_default(), 0);
        page
    }

    fn fields(&self, boot_id: &str) -> Vec<u8> {
        let mut fields = Vec::with_capacity(FIELDS_BYTES);
        fields.extend(MAGIC);
        fields.extend(self.image_bytes.to_le_bytes());
        fields.extend(self.image_crc.to_le_bytes());
        fields.extend(padded(boot_id));
        fields.extend(header_crc(&fields).to_le_bytes());
        fields
    }
}

/// Writes an entry, the image first: its checksum is in the header.
pub(super) fn write(file: &File, image: &Source, boot_id: &str) -> io::Result<()> {
    let mut crc = crc32fast::Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    while offset < image.len() {
        let left = usize::try_from(image.len() - offset).unwrap_or(usize::MAX);
        let part = chunk.get_mut(..left.min(CHUNK_BYTES)).unwrap_or_default();
        image.read_at(offset, part)?;
        crc.update(part);
        file.write_all_at(part, HEADER_BYTES + offset)?;
        offset += part.len() as u64;
    }
    let header = Header {
        image_bytes: image.len(),
        image_crc: crc.finalize(),
        boot_id: [0; BOOT_ID_BYTES],
    };
    file.write_all_at(&header.to_bytes(boot_id), 0)
}

fn header_crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes.get(..HEADER_CRC_AT).unwrap_or_default())
}

fn padded(boot_id: &str) -> [u8; BOOT_ID_BYTES] {
    let mut padded = [0; BOOT_ID_BYTES];
    for (to, from) in padded.iter_mut().zip(boot_id.bytes()) {
        *to = from;
    }
    padded
}
