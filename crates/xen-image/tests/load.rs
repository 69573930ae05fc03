//! Files: what may be loaded, what the messages say, and the cache of unpacked kernels.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::any::Any;
use std::cell::Cell;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use common::{bzimage, linux, pack, padded_linux};
use tempfile::TempDir;
use xen_image::{
    Cache, CacheError, CacheFolder, CacheOptions, Compression, Error, Image, Limits, Loader,
    Malformed, Module, Origin, SegmentBytes, Unpack, Unpacked,
};

const STORED: Origin = Origin::Unpacked { not_cached: None };

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn with(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A loader with a cache that knows a file by its identity from the first time on.
    fn loader(&self) -> Loader {
        self.loader_with(CacheOptions {
            settle_ms: 0,
            ..CacheOptions::default()
        })
    }

    fn loader_with(&self, options: CacheOptions) -> Loader {
        Loader {
            cache: Some(CacheFolder {
                path: self.path("cache"),
                options,
            }),
            ..Loader::default()
        }
    }

    fn cached(&self, suffix: &str) -> Vec<PathBuf> {
        let listed = fs::read_dir(self.path("cache"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path());
        listed
            .filter(|path| path.to_str().unwrap().ends_with(suffix))
            .collect()
    }

    fn entries(&self) -> Vec<PathBuf> {
        self.cached(".kernel")
            .into_iter()
            .filter(|path| !path.is_symlink())
            .collect()
    }

    fn links(&self) -> usize {
        self.cached("")
            .iter()
            .filter(|path| path.is_symlink())
            .count()
    }
}

fn first_segment(image: &Image) -> Vec<u8> {
    let segment = image.segments()[0];
    let mut bytes = vec![0; segment.mem_size as usize];
    image.read_segment_into(&segment, 0, &mut bytes).unwrap();
    bytes
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[test]
fn a_plain_kernel_is_read_from_its_file() {
    let files = Files::new();
    let path = files.with("vmlinux", &linux());
    let image = files.loader().load(&path).unwrap();
    assert_eq!(*image.origin(), Origin::Plain);
    assert_eq!(image.path(), path);
    assert!(first_segment(&image).starts_with(b"the first segment's bytes"));
    assert!(files.cached("").is_empty());
}

#[test]
fn a_file_that_shrinks_gives_an_error() {
    let files = Files::new();
    let path = files.with("vmlinux", &linux());
    let image = Loader::default().load(&path).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(64)
        .unwrap();
    let error = image
        .read_segment_into(&image.segments()[0], 0, &mut [0; 16])
        .unwrap_err();
    assert!(
        matches!(&error, Error::Read { path: named, .. } if *named == path),
        "{error}"
    );
}

#[test]
fn a_link_to_a_kernel_is_followed() {
    let files = Files::new();
    files.with("vmlinuz-6.1", &bzimage(Compression::Xz, &linux()));
    symlink("vmlinuz-6.1", files.path("vmlinuz")).unwrap();
    assert!(Loader::default().load(&files.path("vmlinuz")).is_ok());
}

#[test]
fn files_that_are_no_kernels_are_told_apart() {
    let files = Files::new();
    let load = |path: &Path| Loader::default().load(path).unwrap_err();
    assert!(matches!(
        load(&files.path("missing")),
        Error::Missing { .. }
    ));
    assert!(matches!(
        load(&files.path("missing/kernel")),
        Error::Missing { .. }
    ));
    assert!(matches!(
        load(files.0.path()),
        Error::NotAFile {
            found: "a directory",
            ..
        }
    ));
    assert!(matches!(
        load(Path::new("/dev/null")),
        Error::NotAFile {
            found: "a character device",
            ..
        }
    ));
    assert!(matches!(
        load(&files.with("empty", b"")),
        Error::Empty { .. }
    ));
    let text = files.with("text", b"kernel");
    let error = load(&text);
    assert!(matches!(error, Error::Malformed { .. }));
    assert!(
        error.to_string().contains(text.to_str().unwrap()),
        "{error}"
    );
    let file_as_directory = load(&text.join("kernel"));
    assert!(
        matches!(file_as_directory, Error::Open { .. }),
        "{file_as_directory}"
    );
    let listener = std::os::unix::net::UnixListener::bind(files.path("socket")).unwrap();
    assert!(matches!(
        load(&files.path("socket")),
        Error::NotAFile { .. }
    ));
    drop(listener);
}

#[test]
fn a_pipe_is_not_waited_for() {
    let files = Files::new();
    let path = files.path("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    assert!(matches!(
        Loader::default().load(&path),
        Err(Error::NotAFile {
            found: "a pipe",
            ..
        })
    ));
}

#[test]
fn a_file_that_may_not_be_read_is_told_as_such() {
    let files = Files::new();
    let path = files.with("secret", &linux());
    fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
    match Loader::default().load(&path) {
        Err(error) => assert!(matches!(error, Error::Denied { .. }), "{error}"),
        Ok(_) => assert!(is_root()),
    }
}

#[test]
fn files_over_the_limits_are_refused_unread() {
    let files = Files::new();
    let limits = Limits {
        compressed_max_bytes: 1 << 20,
        decompressed_max_bytes: 2 << 20,
        ..Limits::default()
    };
    let loader = Loader {
        limits,
        cache: None,
        ..Loader::default()
    };
    // Sparse: read, it would be all there.
    let sparse = |name: &str, start: &[u8], len: u64| {
        let path = files.with(name, start);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(len)
            .unwrap();
        path
    };
    let packed = sparse("packed", &[0x1f, 0x8b], (1 << 20) + 1);
    assert!(matches!(
        loader.load(&packed),
        Err(Error::TooLarge {
            max_bytes: 0x10_0000,
            ..
        })
    ));
    let plain = sparse("plain", b"\x7fELF", (2 << 20) + 1);
    assert!(matches!(
        loader.load(&plain),
        Err(Error::TooLarge {
            max_bytes: 0x20_0000,
            ..
        })
    ));
    let endless = sparse("endless", b"\x7fELF", 1 << 40);
    assert!(matches!(loader.load(&endless), Err(Error::TooLarge { .. })));
}

#[test]
fn a_module_is_read_at_any_place() {
    let files = Files::new();
    let path = files.with("initrd", b"0123456789");
    let module = Module::open(&path, 10).unwrap();
    assert_eq!((module.size_bytes(), module.path()), (10, path.as_path()));
    let mut buffer = [0; 3];
    module.read_into(7, &mut buffer).unwrap();
    assert_eq!(&buffer, b"789");
    assert!(module.read_into(8, &mut buffer).is_err());
    assert!(module.read_into(u64::MAX, &mut buffer).is_err());
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(5)
        .unwrap();
    assert!(module.read_into(4, &mut buffer).is_err());
    assert!(matches!(
        Module::open(&files.path("missing"), 10),
        Err(Error::Missing { .. })
    ));
    assert!(matches!(
        Module::open(&files.with("big", b"12345678901"), 10),
        Err(Error::TooLarge { .. })
    ));
    assert!(matches!(
        Module::open(&files.with("none", b""), 10),
        Err(Error::Empty { .. })
    ));
}

#[test]
fn the_second_load_comes_from_the_cache() {
    let files = Files::new();
    let path = files.with("vmlinuz", &bzimage(Compression::Zstd, &linux()));
    let first = files.loader().load(&path).unwrap();
    assert_eq!(*first.origin(), STORED);
    let second = files.loader().load(&path).unwrap();
    assert_eq!(*second.origin(), Origin::CachedByIdentity);
    assert_eq!(second.segments(), first.segments());
    assert_eq!(second.notes(), first.notes());
    assert_eq!(second.size_bytes(), first.size_bytes());
    assert_eq!(first_segment(&second), first_segment(&first));
    assert_eq!(second.path(), path);
    assert_eq!((files.entries().len(), files.links()), (1, 1));
    let mode = fs::metadata(files.path("cache")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_copy_is_known_by_its_content() {
    let files = Files::new();
    let packed = bzimage(Compression::Gzip, &linux());
    files.loader().load(&files.with("one", &packed)).unwrap();
    let copy = files.with("two", &packed);
    assert_eq!(
        *files.loader().load(&copy).unwrap().origin(),
        Origin::CachedByContent
    );
    assert_eq!(
        *files.loader().load(&copy).unwrap().origin(),
        Origin::CachedByIdentity
    );
    assert_eq!(files.entries().len(), 1);
}

#[test]
fn a_changed_file_is_another_kernel() {
    let files = Files::new();
    let path = files.with("vmlinuz", &pack(Compression::Gzip, &linux()));
    files.loader().load(&path).unwrap();
    fs::write(&path, pack(Compression::Gzip, &padded_linux(100))).unwrap();
    let changed = files.loader().load(&path).unwrap();
    assert_eq!(*changed.origin(), STORED);
    assert_eq!(changed.segments().len(), 3);
}

#[test]
fn a_file_that_just_changed_is_not_known_by_its_identity() {
    let files = Files::new();
    let path = files.with("vmlinuz", &pack(Compression::Gzip, &linux()));
    let loader = files.loader_with(CacheOptions {
        settle_ms: 3_600_000,
        ..CacheOptions::default()
    });
    loader.load(&path).unwrap();
    assert_eq!(files.links(), 0);
    assert_eq!(
        *loader.load(&path).unwrap().origin(),
        Origin::CachedByContent
    );
}

#[test]
fn a_file_with_the_same_times_and_size_but_another_start_is_another() {
    // The link says that this file was seen; then its start changes, and the link's name no more fits.
    let files = Files::new();
    let path = files.with("vmlinuz", &pack(Compression::Lz4Legacy, &linux()));
    files.loader().load(&path).unwrap();
    let link = files
        .cached("")
        .into_iter()
        .find(|path| path.is_symlink())
        .unwrap();
    let name = link.file_name().unwrap().to_str().unwrap();
    let (times, sample) = name.rsplit_once('-').unwrap();
    assert_eq!(sample.len(), 8);
    fs::rename(&link, link.with_file_name(format!("{times}-00000000"))).unwrap();
    assert_eq!(
        *files.loader().load(&path).unwrap().origin(),
        Origin::CachedByContent
    );
}

/// Damages the cache's one entry, and checks that it is unpacked anew and then found again.
fn recovers_from(damage: impl Fn(&Path)) {
    let files = Files::new();
    let path = files.with("vmlinuz", &bzimage(Compression::Bzip2, &linux()));
    files.loader().load(&path).unwrap();
    damage(&files.entries()[0]);
    let again = files.loader().load(&path).unwrap();
    assert_eq!(*again.origin(), STORED);
    assert!(first_segment(&again).starts_with(b"the first segment's bytes"));
    assert_eq!(
        *files.loader().load(&path).unwrap().origin(),
        Origin::CachedByIdentity
    );
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, offset)
        .unwrap();
}

const BOOT_ID_AT: usize = 20;
const HEADER_CRC_AT: usize = 56;

/// Makes an entry look as if it was written in an earlier boot of the host.
fn of_earlier_boot(path: &Path) {
    let mut header = fs::read(path).unwrap()[..HEADER_CRC_AT].to_vec();
    header[BOOT_ID_AT..HEADER_CRC_AT].fill(b'0');
    let crc = crc32fast::hash(&header);
    header.extend(crc.to_le_bytes());
    overwrite(path, 0, &header);
}

#[test]
fn damaged_entries_are_unpacked_anew() {
    recovers_from(|entry| {
        File::options()
            .write(true)
            .open(entry)
            .unwrap()
            .set_len(5000)
            .unwrap()
    });
    recovers_from(|entry| {
        File::options()
            .write(true)
            .open(entry)
            .unwrap()
            .set_len(10)
            .unwrap()
    });
    recovers_from(|entry| {
        let len = fs::metadata(entry).unwrap().len();
        File::options()
            .write(true)
            .open(entry)
            .unwrap()
            .set_len(len + 1)
            .unwrap();
    });
    recovers_from(|entry| overwrite(entry, 0, b"other"));
    recovers_from(|entry| overwrite(entry, 9, &[0xff]));
    // The start of the image: no ELF any more.
    recovers_from(|entry| overwrite(entry, 4096, &[0; 64]));
    recovers_from(|entry| fs::remove_file(entry).unwrap());
    // Written by others, or writable for them.
    recovers_from(|entry| fs::set_permissions(entry, Permissions::from_mode(0o666)).unwrap());
    // Not a file.
    recovers_from(|entry| {
        fs::rename(entry, entry.with_extension("moved")).unwrap();
        symlink("/dev/zero", entry).unwrap();
    });
}

#[test]
fn what_a_power_loss_took_is_found_out_in_the_next_boot() {
    // Zeros amid the image, which nothing but the checksum tells.
    recovers_from(|entry| {
        overwrite(entry, 4096 + 600, &[0; 16]);
        of_earlier_boot(entry);
    });
}

#[test]
fn a_whole_entry_of_an_earlier_boot_is_verified_once() {
    let files = Files::new();
    let path = files.with("vmlinuz", &bzimage(Compression::Bzip2, &linux()));
    files.loader().load(&path).unwrap();
    let entry = &files.entries()[0];
    let written = fs::read(entry).unwrap();
    of_earlier_boot(entry);
    assert_eq!(
        *files.loader().load(&path).unwrap().origin(),
        Origin::CachedByIdentity
    );
    assert_eq!(
        fs::read(entry).unwrap(),
        written,
        "the header has this boot again"
    );
}

#[test]
fn an_entry_over_the_limits_is_not_used() {
    let files = Files::new();
    let path = files.with("vmlinuz", &pack(Compression::Gzip, &padded_linux(10_000)));
    files.loader().load(&path).unwrap();
    let strict = Loader {
        limits: Limits {
            decompressed_max_bytes: 5000,
            ..Limits::default()
        },
        ..files.loader()
    };
    assert!(matches!(strict.load(&path), Err(Error::Malformed { .. })));
}

#[test]
fn what_is_no_kernel_is_not_kept() {
    let files = Files::new();
    let loader = files.loader();
    assert!(
        loader
            .load(&files.with("text", &pack(Compression::Gzip, b"text")))
            .is_err()
    );
    assert!(
        loader
            .load(&files.with("broken", &pack(Compression::Gzip, &linux()[..200])))
            .is_err()
    );
    assert!(files.cached("").is_empty());
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let files = Files::new();
    for mode in [0o770, 0o707, 0o1777] {
        let path = files.path(&format!("{mode:o}"));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = Cache::open(&path, CacheOptions::default()).unwrap_err();
        assert!(matches!(error, CacheError::NotPrivate { .. }), "{error}");
        assert!(
            error.to_string().contains(&format!("{mode:04o}")),
            "{error}"
        );
    }
    if is_root() {
        let path = files.path("theirs");
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        let error = Cache::open(&path, CacheOptions::default()).unwrap_err();
        assert!(
            matches!(error, CacheError::NotPrivate { uid: 12345, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_cache_that_cannot_be_made_is_an_error_of_its_own() {
    let files = Files::new();
    let file = files.with("file", b"x");
    for path in [file.clone(), file.join("cache")] {
        let error = Cache::open(&path, CacheOptions::default()).unwrap_err();
        assert!(matches!(error, CacheError::Open { .. }), "{error}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_to_is_a_message() {
    let files = Files::new();
    let path = files.with("vmlinuz", &pack(Compression::Gzip, &linux()));
    let loader = files.loader();
    files.with("cache", b"no directory");
    let image = loader.load(&path).unwrap();
    match image.origin() {
        Origin::Unpacked {
            not_cached: Some(message),
        } => assert!(message.contains("cache"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(first_segment(&image).starts_with(b"the first segment's bytes"));
}

#[test]
fn a_cache_stays_within_its_size() {
    let files = Files::new();
    let kernel_bytes = 4096 + padded_linux(50_000).len() as u64;
    let options = CacheOptions {
        max_bytes: 2 * kernel_bytes + 4096,
        settle_ms: 0,
    };
    let loader = files.loader_with(options);
    let kernels: Vec<PathBuf> = (0..3)
        .map(|index| {
            files.with(
                &format!("{index}"),
                &pack(Compression::Gzip, &padded_linux(50_000 + index)),
            )
        })
        .collect();
    let origin = |index: usize| loader.load(&kernels[index]).unwrap().origin().clone();
    let age = |index: usize, seconds: u64| {
        let image = loader.load(&kernels[index]).unwrap();
        let size = image.size_bytes() + 4096;
        let entry = files
            .entries()
            .into_iter()
            .find(|path| fs::metadata(path).unwrap().len() == size)
            .unwrap();
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
        File::options()
            .write(true)
            .open(entry)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    assert_eq!((origin(0), origin(1)), (STORED, STORED));
    age(0, 200);
    age(1, 100);
    // Using the older one makes it the younger one.
    assert_eq!(origin(0), Origin::CachedByIdentity);
    assert_eq!(origin(2), STORED);
    assert_eq!(files.entries().len(), 2);
    assert_eq!(origin(0), Origin::CachedByIdentity);
    assert_eq!(origin(1), STORED);
    // The next time, links that lead nowhere are gone too.
    assert!(files.links() <= 3);
}

#[test]
fn an_image_larger_than_the_cache_is_a_message() {
    let files = Files::new();
    let path = files.with("vmlinuz", &pack(Compression::Gzip, &padded_linux(50_000)));
    let loader = files.loader_with(CacheOptions {
        max_bytes: 10_000,
        settle_ms: 0,
    });
    match loader.load(&path).unwrap().origin() {
        Origin::Unpacked {
            not_cached: Some(message),
        } => assert!(message.contains("10000"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(files.cached("").is_empty());
}

#[test]
fn what_a_killed_writer_left_is_removed_after_a_while() {
    let files = Files::new();
    let loader = files.loader();
    Cache::open(&files.path("cache"), CacheOptions::default()).unwrap();
    let (old, new) = (files.path("cache/tmp-1-2-3"), files.path("cache/tmp-4-5-6"));
    fs::write(&old, b"half").unwrap();
    fs::write(&new, b"half").unwrap();
    let time = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(time)
        .unwrap();
    loader
        .load(&files.with("vmlinuz", &pack(Compression::Gzip, &linux())))
        .unwrap();
    assert!(!old.exists() && new.exists());
}

#[test]
fn many_processes_at_once_all_get_their_kernel() {
    let files = Files::new();
    let path = files.with(
        "vmlinuz",
        &bzimage(Compression::Gzip, &padded_linux(200_000)),
    );
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let image = files.loader().load(&path).unwrap();
                assert!(first_segment(&image).starts_with(b"the first segment's bytes"));
            });
        }
    });
    assert_eq!(
        (files.entries().len(), files.links(), files.cached("").len()),
        (1, 1, 2)
    );
}

#[test]
fn an_image_is_handed_on_whole_and_searched_to_its_end() {
    let files = Files::new();
    let mut elf = linux();
    // Over the end of the first piece that is searched.
    elf.resize((1 << 20) + 10, 0);
    elf.truncate((1 << 20) - 4);
    elf.extend(b"a text to find");
    let plain = Loader::default().load(&files.with("plain", &elf)).unwrap();
    let packed = files.with("packed", &pack(Compression::Gzip, &elf));
    let packed = Loader::default().load(&packed).unwrap();
    for image in [&plain, &packed] {
        assert_eq!(image.size_bytes(), elf.len() as u64);
        assert!(image.contains(b"a text to find").unwrap());
        assert!(image.contains(b"\x7fELF").unwrap());
        assert!(!image.contains(b"a text to find.").unwrap());
    }
    assert!(matches!(
        plain.bytes(),
        SegmentBytes::File { offset: 0, .. }
    ));
    let SegmentBytes::Memory(bytes) = packed.bytes() else {
        panic!("it was unpacked into memory")
    };
    assert_eq!(bytes, elf);
}

/// Unpacks into files, and counts how often.
#[derive(Debug, Default)]
struct Counted {
    turns: Cell<usize>,
    layers: Cell<usize>,
}

impl Unpack for Counted {
    fn wait_for_turn(&self) -> std::io::Result<Box<dyn Any>> {
        self.turns.set(self.turns.get() + 1);
        Ok(Box::new(()))
    }

    fn unpack(
        &self,
        format: Compression,
        packed: &[u8],
        limits: &Limits,
    ) -> Result<Unpacked, Malformed> {
        self.layers.set(self.layers.get() + 1);
        let mut file = tempfile::tempfile().unwrap();
        let len_bytes = format.decompress_to(packed, limits, &mut file)?;
        Ok(Unpacked::File { file, len_bytes })
    }
}

#[test]
fn only_what_the_cache_has_not_is_unpacked() {
    let files = Files::new();
    let counted = Rc::new(Counted::default());
    let mut loader = files.loader();
    loader.unpack = Rc::<Counted>::clone(&counted);
    let counts = || (counted.turns.get(), counted.layers.get());
    // Packed twice, and from files that are none of this process's memory.
    let packed = pack(Compression::Gzip, &pack(Compression::Xz, &linux()));
    let path = files.with("vmlinuz", &packed);
    let image = loader.load(&path).unwrap();
    assert_eq!(counts(), (1, 2));
    assert!(first_segment(&image).starts_with(b"the first segment's bytes"));
    for name in ["vmlinuz", "copy"] {
        let image = loader.load(&files.with(name, &packed)).unwrap();
        assert!(first_segment(&image).starts_with(b"the first segment's bytes"));
    }
    loader.load(&files.with("vmlinux", &linux())).unwrap();
    assert_eq!(counts(), (1, 2));
}

#[test]
fn what_another_process_has_unpacked_meanwhile_is_not_unpacked_again() {
    /// Another process unpacks while this one waits for its turn.
    #[derive(Debug)]
    struct Late(Loader, PathBuf);
    impl Unpack for Late {
        fn wait_for_turn(&self) -> std::io::Result<Box<dyn Any>> {
            self.0.load(&self.1).unwrap();
            Ok(Box::new(()))
        }
        fn unpack(&self, _: Compression, _: &[u8], _: &Limits) -> Result<Unpacked, Malformed> {
            panic!("unpacked again");
        }
    }
    let files = Files::new();
    let path = files.with("vmlinuz", &pack(Compression::Gzip, &linux()));
    let mut loader = files.loader();
    loader.unpack = Rc::new(Late(files.loader(), path.clone()));
    let image = loader.load(&path).unwrap();
    assert_eq!(*image.origin(), Origin::CachedByContent);
}
