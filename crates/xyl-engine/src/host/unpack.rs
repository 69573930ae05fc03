//! Unpacks kernels in a child process without rights, one at a time on a host. `config::boot_files` uses it.
//!
//! A packed kernel may come from a guest's disk, and decompressors are the largest part of the code that reads it.
//! The child ([`xen_sys::compute`]) has no privcmd, no xenstore, no files and no rights. It writes the unpacked
//! kernel into a file in memory. Its answer has 128 bytes, which are parsed as untrusted input. A child is started
//! only for a kernel that the cache does not have.
//!
//! A few hundred bytes can unpack to half a GiB. So only one process of a host unpacks at a time, and it may use half
//! of the host's available memory.

use std::any::Any;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use os_port::{Files, SystemFiles};
use xen_image::{Compression, Limits, Malformed, Unpack, Unpacked};
use xen_sys::{ComputeLimits, compute};

use super::dirs::Dirs;

/// Time limit of the wait for another process that unpacks.
const TURN_LIMIT: Duration = Duration::from_secs(300);
/// Limit of the time for unpacking, and of its CPU time, in seconds.
const TIME_LIMIT_S: u64 = 120;
/// Maximum memory of a decompressor besides its window: its tables, and a part of its output.
const TABLES_MAX_BYTES: u64 = 64 << 20;
/// File with the kernel's memory statistics, and the line with the available memory.
const MEMORY: (&str, &str) = ("/proc/meminfo", "MemAvailable:");

/// Unpacks kernels in a child process.
#[derive(Debug)]
pub struct Confined {
    /// Lock that only one process of the host holds.
    lock: PathBuf,
}

impl Confined {
    /// Creates the unpacker of a host with these folders.
    pub fn new(dirs: &Dirs) -> Confined {
        Confined {
            lock: dirs.run.join("unpacking"),
        }
    }
}

impl Unpack for Confined {
    fn wait_for_turn(&self) -> io::Result<Box<dyn Any>> {
        let deadline = Instant::now() + TURN_LIMIT;
        match SystemFiles.lock(&self.lock, Some(deadline)) {
            Ok(Some(lock)) => Ok(Box::new(lock)),
            Ok(None) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "another process has been unpacking kernels for {} s: `fuser {}` names it",
                    TURN_LIMIT.as_secs(),
                    self.lock.display()
                ),
            )),
            // A user without rights, who may only check configurations.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Box::new(())),
            Err(error) => Err(error),
        }
    }

    fn unpack(
        &self,
        format: Compression,
        packed: &[u8],
        limits: &Limits,
    ) -> Result<Unpacked, Malformed> {
        let failed = |source| Malformed::NotUnpacked { format, source };
        let to_spare_bytes = available_bytes().map_err(failed)? / 2;
        let within = Limits {
            decompressed_max_bytes: limits.decompressed_max_bytes.min(to_spare_bytes),
            window_max_bytes: limits.window_max_bytes.min(to_spare_bytes),
            ..*limits
        };
        let most = ComputeLimits {
            memory_max_bytes: within.window_max_bytes.saturating_add(TABLES_MAX_BYTES),
            // The decompressor reports the size at which it stopped.
            output_max_bytes: within
                .decompressed_max_bytes
                .saturating_add(TABLES_MAX_BYTES),
            cpu_max_s: TIME_LIMIT_S,
            wait_limit: Duration::from_secs(TIME_LIMIT_S),
        };
        let computed = compute(&most, |output: &mut dyn Write| {
            Answer::of(&format.decompress_to(packed, &within, output)).to_bytes()
        });
        let computed = computed.map_err(failed)?;
        let answer = Answer::from_bytes(&computed.answer);
        match answer.outcome(format, &within) {
            Ok(len_bytes) if len_bytes == computed.output_bytes => Ok(Unpacked::File {
                file: computed.output,
                len_bytes,
            }),
            Ok(_) => Err(failed(io::ErrorKind::InvalidData.into())),
            // The limit came from the host's memory, so the host is the cause.
            Err(
                Malformed::DecompressedTooLarge { max_bytes, .. }
                | Malformed::WindowTooLarge { max_bytes, .. },
            ) if max_bytes == to_spare_bytes => Err(Malformed::OutOfMemory { format }),
            Err(malformed) => Err(malformed),
        }
    }
}

/// Memory that programs can still allocate without swapping, in bytes (proc(5)).
fn available_bytes() -> io::Result<u64> {
    let (path, key) = MEMORY;
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib.saturating_mul(1024))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Length of an answer: kind, number and text.
const ANSWER_BYTES: usize = 128;
const VALUE_AT: usize = 8;
const TEXT_AT: usize = 16;

/// The child's answer. A hostile kernel may control all of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    kind: u8,
    /// A number of bytes.
    value: u64,
    /// Error text in printable ASCII.
    text: String,
}

const UNPACKED: u8 = 1;
const PACKED_TOO_LARGE: u8 = 2;
const TOO_LARGE: u8 = 3;
const WINDOW_TOO_LARGE: u8 = 4;
const OUT_OF_MEMORY: u8 = 5;
const CORRUPT: u8 = 6;
const OTHER: u8 = 7;

impl Answer {
    fn of(outcome: &Result<u64, Malformed>) -> Answer {
        let (kind, value, text) = match outcome {
            Ok(len_bytes) => (UNPACKED, *len_bytes, String::new()),
            Err(Malformed::CompressedTooLarge { size_bytes, .. }) => {
                (PACKED_TOO_LARGE, *size_bytes, String::new())
            }
            Err(Malformed::DecompressedTooLarge { .. }) => (TOO_LARGE, 0, String::new()),
            Err(Malformed::WindowTooLarge { .. }) => (WINDOW_TOO_LARGE, 0, String::new()),
            Err(Malformed::OutOfMemory { .. }) => (OUT_OF_MEMORY, 0, String::new()),
            Err(Malformed::Corrupt { reason, .. }) => (CORRUPT, 0, reason.clone()),
            Err(Malformed::NotUnpacked { source, .. }) => (OTHER, 0, source.to_string()),
            Err(other) => (OTHER, 0, other.to_string()),
        };
        Answer { kind, value, text }
    }

    fn to_bytes(&self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        let (kind, value) = ([self.kind], self.value.to_le_bytes());
        let parts = [
            (0, kind.as_slice()),
            (VALUE_AT, &value),
            (TEXT_AT, self.text.as_bytes()),
        ];
        for (at, part) in parts {
            let room = bytes.get_mut(at..).unwrap_or_default();
            room.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; ANSWER_BYTES]) -> Answer {
        let [kind, ..] = *bytes;
        let value = bytes
            .get(VALUE_AT..TEXT_AT)
            .and_then(|value| value.try_into().ok());
        let text = bytes.get(TEXT_AT..).unwrap_or_default();
        let printable = text.iter().filter(|byte| (b' '..=b'~').contains(*byte));
        Answer {
            kind,
            value: u64::from_le_bytes(value.unwrap_or_default()),
            text: printable.map(|byte| char::from(*byte)).collect(),
        }
    }

    /// Converts the answer to a result, for data of this format under these limits.
    fn outcome(self, format: Compression, limits: &Limits) -> Result<u64, Malformed> {
        let Answer { kind, value, text } = self;
        Err(match kind {
            UNPACKED => return Ok(value),
            PACKED_TOO_LARGE => Malformed::CompressedTooLarge {
                size_bytes: value,
                max_bytes: limits.compressed_max_bytes,
            },
            TOO_LARGE => Malformed::DecompressedTooLarge {
                format,
                max_bytes: limits.decompressed_max_bytes,
            },
            WINDOW_TOO_LARGE => Malformed::WindowTooLarge {
                format,
                max_bytes: limits.window_max_bytes,
            },
            OUT_OF_MEMORY => Malformed::OutOfMemory { format },
            CORRUPT => Malformed::Corrupt {
                format,
                reason: text,
            },
            _ => Malformed::NotUnpacked {
                format,
                source: io::Error::other(text),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// A number of zero bytes, compressed by gzip.
    fn packed(len_bytes: usize) -> Vec<u8> {
        let mut packed = Vec::new();
        let mut packer = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
        packer.write_all(&vec![0; len_bytes]).unwrap();
        packer.finish().unwrap();
        packed
    }

    fn confined(root: &tempfile::TempDir) -> Confined {
        Confined::new(&Dirs::below(root.path()))
    }

    fn unpack(packed: &[u8], limits: &Limits) -> Result<Unpacked, Malformed> {
        let root = tempfile::tempdir().unwrap();
        confined(&root).unpack(Compression::Gzip, packed, limits)
    }

    #[test]
    fn what_is_unpacked_takes_no_memory_of_this_process() {
        let most_kib = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            line.unwrap()
                .trim()
                .strip_suffix(" kB")
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        const LEN_BYTES: usize = 200 << 20;
        let packed = packed(LEN_BYTES);
        // Resets the peak memory, which compressing has raised.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = most_kib();
        let Unpacked::File { file, len_bytes } = unpack(&packed, &Limits::default()).unwrap()
        else {
            panic!("not a file");
        };
        assert_eq!(len_bytes, LEN_BYTES as u64);
        assert!(most_kib() < before + (64 << 10));
        let mut last = [1; 8];
        file.read_exact_at(&mut last, len_bytes - 8).unwrap();
        assert_eq!(last, [0; 8]);
    }

    #[test]
    fn what_is_wrong_is_said_as_without_a_child() {
        let (good, limits) = (packed(1 << 20), Limits::default());
        let small = Limits {
            decompressed_max_bytes: 1 << 16,
            ..limits
        };
        let cut = &good[..good.len() / 2];
        for (packed, limits) in [(&good[..], &small), (cut, &limits)] {
            let inside = Compression::Gzip.decompress(packed, limits).unwrap_err();
            let outside = unpack(packed, limits).unwrap_err();
            assert_eq!(inside.to_string(), outside.to_string());
        }
    }

    #[test]
    fn an_answer_is_read_as_hostile_bytes_are() {
        let limits = Limits::default();
        let outcome = |bytes: [u8; ANSWER_BYTES]| {
            Answer::from_bytes(&bytes).outcome(Compression::Xz, &limits)
        };
        assert_eq!(outcome(Answer::of(&Ok(7)).to_bytes()).unwrap(), 7);
        for kind in [0, OTHER, 8, 255] {
            let mut bytes = [b'\x1b'; ANSWER_BYTES];
            bytes[0] = kind;
            let refused = outcome(bytes).unwrap_err();
            assert!(matches!(&refused, Malformed::NotUnpacked { .. }));
            assert!(!refused.to_string().contains('\x1b'));
        }
        let long = Answer {
            kind: CORRUPT,
            value: 0,
            text: "x".repeat(1000),
        };
        let read = Answer::from_bytes(&long.to_bytes());
        assert_eq!(read.text.len(), ANSWER_BYTES - TEXT_AT);
    }

    #[test]
    fn one_unpacks_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let confined = confined(&root);
        let turn = confined.wait_for_turn().unwrap();
        assert!(SystemFiles.is_locked(&confined.lock).unwrap());
        drop(turn);
        assert!(!confined.lock.exists());
    }
}
