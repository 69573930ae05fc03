//! Boot loaders of domain 0 (`bootloader`), such as pygrub: programs that find a guest's kernel on the guest's disk.
//!
//! The disk is the guest's, so what reads it may be taken over. It runs without rights, in a root of its own, and ends after
//! two minutes ([`os_port::Spawn::extract`]). It gets the disk to read, and leaves files in a folder that only this run has.
//! Its answer names some of these. Nothing else of the answer is a path here: a name that is none of them is refused.
//!
//! A monitor that has given up its rights has a child run it, as for hot-plug scripts ([`check_launch`]).
//!
//! Each start of the VM runs it: the guest may have a new kernel.
//!
//! Facts: `libxl_bootloader.c`, `tools/pygrub/src/pygrub`.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use os_port::{
    ANSWER_INSIDE, DISK_INSIDE, Ended, Extracted, Extraction, Files, Launch, OUTPUT_INSIDE,
    Opening, SYSTEM_FOLDERS,
};
use xen_image::{Image, Module};

use crate::config::firmware::places_of_program;
use crate::config::loader;
use crate::device;
use crate::device::script::{end_of, words_of};
use crate::error::BootLoaderError;
use crate::vm::disk::{Disk, ImageFormat};
use crate::vm::spec::{BootLoader, VmSpec};
use crate::{Cancel, EngineError, Host};

/// Longest time that a boot loader has, in seconds, as in libxl (`LIBXL_BOOTLOADER_TIMEOUT`).
const LIMIT_S: u64 = 120;
/// Largest answer in bytes: two paths, and a command line.
const ANSWER_MAX_BYTES: u64 = 8192;
/// Longest command line that is taken from a disk, in bytes. Linux takes 2047 on x86.
const CMDLINE_MAX_BYTES: usize = 4096;
/// The most arguments in `bootloader_args`, and their bytes.
const ARGUMENTS_MAX: usize = 32;
const ARGUMENTS_MAX_BYTES: usize = 8192;
/// The most lines of a boot loader's output that an error shows.
const LINES_MAX: usize = 2;
/// Number of bytes in a KiB.
const KIB: u64 = 1024;

/// The files that a boot loader has found on a guest's disk.
pub(crate) struct Found {
    pub kernel: Image,
    pub ramdisk: Option<Module>,
    /// The command line of the kernel.
    pub cmdline: String,
}

/// The reason why a boot loader cannot read a VM's disk; `None` where it can.
pub(crate) fn why_not(disks: &[Disk], arguments: &[String]) -> Option<String> {
    let Some(disk) = disks.first() else {
        return Some("a boot loader reads the guest's first disk, and `disk` has none".to_owned());
    };
    if disk.is_cdrom {
        return Some(format!(
            "a boot loader reads the guest's first disk, and `{}` is a CD drive: write the disk with the kernel first",
            disk.vdev
        ));
    }
    if let Some(backend) = &disk.backend {
        return Some(format!(
            "a boot loader of domain 0 reads the guest's first disk, and `{}` is in the driver domain {backend}: let GRUB run in the guest (docs/boot-from-disk.md)",
            disk.vdev
        ));
    }
    if disk.format != ImageFormat::Raw {
        return Some(format!(
            "a boot loader reads raw disks alone, and `{}` is {}: let GRUB run in the guest (docs/boot-from-disk.md), or convert the image with `qemu-img convert -O raw`",
            disk.vdev,
            disk.format.word()
        ));
    }
    let nr_bytes: usize = arguments.iter().map(String::len).sum();
    (arguments.len() > ARGUMENTS_MAX || nr_bytes > ARGUMENTS_MAX_BYTES).then(|| {
        format!(
            "a boot loader gets {ARGUMENTS_MAX} arguments of {ARGUMENTS_MAX_BYTES} bytes together at most"
        )
    })
}

/// Path of the program that `bootloader` names. `release` is the running Xen's major and minor version. A name is looked for
/// in Xen's folders, then in those of the system's programs.
///
/// # Errors
/// [`BootLoaderError::NotFound`], [`BootLoaderError::Untrusted`].
pub(crate) fn find(
    files: &dyn Files,
    usr: &Path,
    release: Option<(u16, u16)>,
    program: &str,
) -> Result<PathBuf, EngineError> {
    let looked_at = match program.contains('/') {
        true => vec![PathBuf::from(program)],
        false => {
            let root = usr.parent().unwrap_or(Path::new("/"));
            let system = SYSTEM_FOLDERS.map(|folder| folder.trim_start_matches('/'));
            let system = system.map(|folder| root.join(folder).join(program));
            let mut places = places_of_program(usr, release, program);
            places.extend(system);
            places
        }
    };
    for path in &looked_at {
        match files.open(path, &Opening::program()) {
            Ok(_) => return Ok(path.clone()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => {
                let path = path.clone();
                return Err(BootLoaderError::Untrusted { path, source }.into());
            }
        }
    }
    let program = program.to_owned();
    Err(BootLoaderError::NotFound { program, looked_at }.into())
}

/// Refuses a program that root alone could not have chosen, for a child that runs boot loaders for this process.
///
/// # Errors
/// That of a file that is no program of root's.
pub fn check_launch(files: &dyn Files, launch: &Launch) -> std::io::Result<()> {
    files.open(launch.program(), &Opening::program()).map(drop)
}

/// Refuses a process that can run no boot loader for this VM.
///
/// # Errors
/// [`BootLoaderError::NoRight`].
pub(crate) fn check_right(host: &Host, spec: &VmSpec) -> Result<(), EngineError> {
    match spec.boot_loader.is_none() || host.process.may_run_scripts() {
        true => Ok(()),
        false => Err(BootLoaderError::NoRight.into()),
    }
}

/// Runs the boot loader of a VM on its first disk, whose earlier users have let it go.
///
/// # Errors
/// [`BootLoaderError`], [`EngineError::Cancelled`]; those of the disk, and of a kernel or ramdisk that is no valid one.
pub(crate) fn run(
    host: &Host,
    spec: &VmSpec,
    boot_loader: &BootLoader,
    cancel: &Cancel,
) -> Result<Found, EngineError> {
    check_right(host, spec)?;
    // Without it the folders of other installations are left.
    let version = host.hv.version().ok();
    let release = version.map(|version| (version.major, version.minor));
    let program = find(&*host.files, &host.dirs.usr, release, &boot_loader.program)?;
    let disk = device::open_first_disk(host, spec)?;
    let run = Run {
        program,
        disk: disk.path().to_owned(),
    };
    let launch = Launch::new(&run.program).map_err(|source| run.not_run(source))?;
    let launch = launch.args(arguments(spec, boot_loader));
    let extracted = host.spawn.extract(&Extraction {
        launch: &launch,
        disk: &disk,
        limit: Duration::from_secs(LIMIT_S),
        is_cancelled: &|| cancel.is_requested(),
    });
    let extracted = extracted.map_err(|source| run.not_run(source))?;
    if extracted.ended.code != Some(0) {
        return Err(run.failed(why(&extracted.ended)).into());
    }
    run.load(host, spec, extracted)
}

/// The arguments, as libxl gives them to a confined boot loader. Kernel, ramdisk and command line of the configuration are wishes.
fn arguments(spec: &VmSpec, boot_loader: &BootLoader) -> Vec<String> {
    let path = |path: &Path| Some(path.to_str()?.to_owned()).filter(|path| !path.is_empty());
    let wishes = [
        ("kernel", path(&spec.kernel)),
        ("ramdisk", spec.ramdisk.as_deref().and_then(path)),
        ("args", spec.cmdline.clone()),
    ];
    let wishes = wishes
        .into_iter()
        .filter_map(|(name, value)| Some(format!("--{name}={}", value?)));
    let own = [
        "--quiet".to_owned(),
        format!("--output={ANSWER_INSIDE}"),
        "--output-format=simple0".to_owned(),
        format!("--output-directory={OUTPUT_INSIDE}"),
    ];
    let given = boot_loader.arguments.iter().cloned();
    let disk = [DISK_INSIDE.to_owned()];
    wishes.chain(own).chain(given).chain(disk).collect()
}

/// The end of a boot loader, and its last words: Python writes the cause last.
fn why(ended: &Ended) -> String {
    let said = String::from_utf8_lossy(&ended.errors);
    let mut lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = lines.split_off(lines.len().saturating_sub(LINES_MAX));
    let said = words_of(last.join("\n").as_bytes()).map(|said| format!("; it says: {said}"));
    format!("{}{}", end_of(ended), said.unwrap_or_default())
}

/// A run of a boot loader.
struct Run {
    program: PathBuf,
    /// Path of the disk.
    disk: PathBuf,
}

impl Run {
    fn not_run(&self, source: std::io::Error) -> EngineError {
        let (program, disk) = (self.program.clone(), self.disk.clone());
        match source.kind() {
            ErrorKind::Interrupted => EngineError::Cancelled,
            // The child that runs boot loaders for this process is gone.
            ErrorKind::BrokenPipe => BootLoaderError::NoRight.into(),
            ErrorKind::TimedOut => {
                let why = format!("has not ended within {LIMIT_S} s, and was killed");
                self.failed(why).into()
            }
            _ => BootLoaderError::NotRun {
                program,
                disk,
                source,
            }
            .into(),
        }
    }

    fn failed(&self, why: String) -> BootLoaderError {
        let (program, disk) = (self.program.clone(), self.disk.clone());
        BootLoaderError::Failed { program, disk, why }
    }

    fn refused(&self, what: String) -> EngineError {
        let (program, disk) = (self.program.clone(), self.disk.clone());
        BootLoaderError::Answer {
            program,
            disk,
            what,
        }
        .into()
    }

    /// Reads the answer, and loads the files that it names.
    fn load(
        &self,
        host: &Host,
        spec: &VmSpec,
        mut extracted: Extracted,
    ) -> Result<Found, EngineError> {
        let mut take = |name: &str| {
            let mut files = extracted.files.iter();
            let at = files.position(|(found, _)| found == name)?;
            Some(extracted.files.swap_remove(at).1)
        };
        let name = name_in_output(ANSWER_INSIDE).unwrap_or_default();
        let answer = take(&name).ok_or_else(|| {
            self.refused("it has removed the file for it, or left too many files".to_owned())
        })?;
        let mut bytes = Vec::new();
        answer
            .take(ANSWER_MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| EngineError::io("read", Path::new(ANSWER_INSIDE), source))?;
        let answer = Answer::parse(&bytes).map_err(|what| self.refused(what))?;
        let missing =
            |what: &str| self.refused(format!("it has no file of the {what} that it names"));
        let kernel = take(&answer.kernel).ok_or_else(|| missing("kernel"))?;
        let kernel = loader(&host.dirs).load_file(&self.label("kernel"), kernel)?;
        let ramdisk = match &answer.ramdisk {
            Some(name) => {
                let file = take(name).ok_or_else(|| missing("ramdisk"))?;
                let max_bytes = spec.max_kib.saturating_mul(KIB);
                Some(Module::of_file(&self.label("ramdisk"), file, max_bytes)?)
            }
            None => None,
        };
        Ok(Found {
            kernel,
            ramdisk,
            cmdline: answer.cmdline,
        })
    }

    /// The path of such a file for messages and the VM's record.
    fn label(&self, what: &str) -> PathBuf {
        let name = self.program.file_name().unwrap_or_default();
        let (name, disk) = (name.to_string_lossy(), self.disk.display());
        PathBuf::from(format!("{disk} ({what} found by {name})"))
    }
}

/// A boot loader's answer in the format `simple0`: items, each with a NUL after it, of a word, a space and a value. A later item
/// of the same word replaces an earlier one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    /// Name of the kernel's file in the folder for output.
    kernel: String,
    /// Name of the ramdisk's file there.
    ramdisk: Option<String>,
    cmdline: String,
}

impl Answer {
    /// Parses an answer, or says what is wrong with it.
    fn parse(bytes: &[u8]) -> Result<Answer, String> {
        if bytes.len() as u64 > ANSWER_MAX_BYTES {
            return Err(format!("it is larger than {ANSWER_MAX_BYTES} bytes"));
        }
        let mut answer = Answer::default();
        for item in bytes
            .split(|byte| *byte == 0)
            .filter(|item| !item.is_empty())
        {
            let item = std::str::from_utf8(item).map_err(|_| "it is no text".to_owned())?;
            let (word, value) = item
                .split_once(|character: char| character.is_ascii_whitespace())
                .unwrap_or((item, ""));
            let value = value.trim_start();
            match word {
                "kernel" => answer.kernel = name_in_output(value)?,
                "ramdisk" => answer.ramdisk = Some(name_in_output(value)?),
                "args" => answer.cmdline = cmdline(value)?,
                // libxl passes over others, too.
                _ => {}
            }
        }
        match answer.kernel.is_empty() {
            true => Err("it names no kernel".to_owned()),
            false => Ok(answer),
        }
    }
}

/// The name of a file in the folder for output. Any other path is refused.
fn name_in_output(path: &str) -> Result<String, String> {
    let name = path.strip_prefix(OUTPUT_INSIDE);
    let name = name.and_then(|name| name.strip_prefix('/'));
    match name.filter(|name| !name.is_empty() && !name.contains('/')) {
        Some(name) => Ok(name.to_owned()),
        None => Err("it names a file outside of the folder for output".to_owned()),
    }
}

/// A command line that a guest's disk has: printable text of a limited length.
fn cmdline(text: &str) -> Result<String, String> {
    let is_printable = text
        .bytes()
        .all(|byte| (b' '..=b'~').contains(&byte) || byte == b'\t');
    match (text.len() <= CMDLINE_MAX_BYTES, is_printable) {
        (true, true) => Ok(text.to_owned()),
        (false, _) => Err(format!(
            "the command line has more than {CMDLINE_MAX_BYTES} bytes"
        )),
        (_, false) => Err("the command line has characters that cannot be printed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_files_of_its_folder_alone() {
        let good = b"kernel /output/boot_kernel.x\0ramdisk /output/r\0args root=/dev/xvda1 ro\0\0";
        let answer = Answer::parse(good).unwrap();
        assert_eq!(
            answer,
            Answer {
                kernel: "boot_kernel.x".to_owned(),
                ramdisk: Some("r".to_owned()),
                cmdline: "root=/dev/xvda1 ro".to_owned(),
            }
        );
        assert_eq!(
            Answer::parse(b"kernel /output/a\0kernel /output/b")
                .unwrap()
                .kernel,
            "b"
        );
        let long = format!(
            "kernel /output/k\0args {}\0",
            "a".repeat(CMDLINE_MAX_BYTES + 1)
        );
        let large = vec![b'a'; 8193];
        for wrong in [
            b"".as_slice(),
            b"\0\0",
            b"args x\0",
            b"kernel /etc/shadow\0",
            b"kernel /output/../etc/shadow\0",
            b"kernel /output/\0",
            b"kernel /outputs\0",
            b"kernel output/k\0",
            b"kernel /output/a/b\0",
            b"kernel\0",
            b"kernel /output/k\0ramdisk /proc/self/mem\0",
            b"kernel /output/k\0args a\x1b[2J\0",
            b"kernel /output/k\0args a\nb\0",
            b"kernel /output/\xff\0",
            long.as_bytes(),
            &large,
        ] {
            assert!(Answer::parse(wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn a_boot_loader_is_looked_for_in_xens_folders_first() {
        use std::os::unix::fs::PermissionsExt;

        let root = tempfile::tempdir().unwrap();
        let usr = root.path().join("usr");
        let put = |path: &str| {
            let path = usr.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, b"#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            path
        };
        let files = &os_port::SystemFiles;
        let release = Some((4, 17));
        let error = find(files, &usr, release, "pygrub").unwrap_err();
        let EngineError::BootLoader(BootLoaderError::NotFound { looked_at, .. }) = error else {
            panic!("{error}");
        };
        assert_eq!(looked_at.len(), 9);
        assert!(looked_at.iter().all(|path| path.starts_with(root.path())));
        for place in [
            "bin/pygrub",
            "lib/xen/bin/pygrub",
            "lib/xen-4.17/bin/pygrub",
        ] {
            let path = put(place);
            assert_eq!(find(files, &usr, release, "pygrub").unwrap(), path);
            let path = path.to_str().unwrap();
            assert_eq!(find(files, &usr, None, path).unwrap(), Path::new(path));
        }
        // One that others can change is no reason to take another one.
        let own = usr.join("lib/xen-4.17/bin/pygrub");
        std::fs::set_permissions(&own, PermissionsExt::from_mode(0o777)).unwrap();
        let error = find(files, &usr, release, "pygrub").unwrap_err();
        let is_untrusted = |error| {
            matches!(
                error,
                EngineError::BootLoader(BootLoaderError::Untrusted { .. })
            )
        };
        assert!(is_untrusted(error));
        let error = find(files, &usr, release, "no/such/loader").unwrap_err();
        assert!(matches!(
            error,
            EngineError::BootLoader(BootLoaderError::NotFound { .. })
        ));
    }
}
