//! The identity of a file, to recognise an unchanged file without reading all of it.
//!
//! On a mounted file system, device, inode, size and both times identify a version of a file: no user can set the
//! time of the last status change. Two file system images with fixed times can agree in all of them. So the first and
//! last bytes count too; a kernel has its version and build date in the first.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime};

use super::IDENTITY_PREFIX;

/// Number of bytes from each end of the file that the identity includes.
const SAMPLE_BYTES: usize = 16 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    size_bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
    sample_crc: u32,
}

impl Identity {
    pub(crate) fn of(file: &File, metadata: &Metadata) -> io::Result<Self> {
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            sample_crc: sample_crc(file, metadata.len())?,
        })
    }

    pub(super) fn link_name(&self) -> String {
        let Self {
            device,
            inode,
            size_bytes,
            modified_ns,
            changed_ns,
            sample_crc,
        } = self;
        format!(
            "{IDENTITY_PREFIX}{device:x}-{inode:x}-{size_bytes:x}-{modified_ns}-{changed_ns}-{sample_crc:08x}"
        )
    }

    /// Whether the file was last changed so long ago that another change would show in its times.
    pub(super) fn is_settled(&self, settle: Duration) -> bool {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let age_ns = now.as_nanos().cast_signed() - self.changed_ns;
        age_ns >= settle.as_nanos().cast_signed()
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

fn sample_crc(file: &File, size_bytes: u64) -> io::Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    let len = usize::try_from(size_bytes)
        .unwrap_or(usize::MAX)
        .min(SAMPLE_BYTES);
    let mut sample = vec![0; len];
    for offset in [0, size_bytes.saturating_sub(len as u64)] {
        file.read_exact_at(&mut sample, offset)?;
        crc.update(&sample);
    }
    Ok(crc.finalize())
}
