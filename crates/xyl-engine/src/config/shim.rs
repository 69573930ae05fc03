//! The PV shim: a small Xen that runs as a PVH guest, with a PV kernel inside. Create and restart use this module.
//!
//! The domain starts the shim. The guest's kernel is the shim's first module, with the guest's command line, and the
//! ramdisk is the second. The shim passes console, xenstore, event channels, grants and the guest's shutdown on to
//! Xen. It returns and takes memory as the guest balloons. The shim's own memory is part of the domain's memory.
//!
//! The shim gets the kernel unpacked, although it could unpack it. So the checked kernel is the one that runs, and
//! the cache of unpacked kernels is used.
//!
//! Facts: `tools/libs/light/libxl_create.c` and `libxl_dom.c`, `xen/arch/x86/pv/shim.c` and `dom0_build.c`, 4.17 to
//! 4.22.

use std::path::{Path, PathBuf};

use os_port::Files;
use xen_image::{Error as ImageError, Image, Loader, PaeMode, PvWidth};
use xen_port::PhysInfo;
use xyl_audit::Policy;

use crate::config::firmware::{FOLDERS, places};
use crate::config::loader;
pub use crate::error::ShimError;
use crate::vm::spec::{Shim, VmSpec};
use crate::{Dirs, EngineError, Host};

/// File name of the shim in Xen's firmware folder.
const NAME: &str = "xen-shim";
/// Text in binaries of Xen that can run 32-bit PV kernels: the name of that interface.
const SAYS_PV32: [&[u8]; 2] = [b"xen-3.0-x86_32p", b"xen-%d.%d-x86_32p"];
/// Text in binaries of Xen that cannot: the error message for a 32-bit kernel.
const SAYS_NO_PV32: &[u8] = b"CONFIG_PV32 missing";
/// Maximum length of a PV guest's command line in bytes, without the final NUL. The shim would cut off the rest.
const GUEST_CMDLINE_BYTES: usize = 1023;
/// Memory that a shim uses itself: this many KiB, and a fraction of the memory above that. Measured: 22.2 MiB of 64,
/// 24.2 MiB of 400 (Xen 4.17).
const OWN_KIB: u64 = 22 << 10;
const OWN_PART: u64 = 128;
/// Minimum memory of a guest's first page tables, in KiB.
const LEAST_TABLES_KIB: u64 = 512;
/// Number of CPUs that a shim is usually built for (`CONFIG_NR_CPUS` of Xen's `pvshim_defconfig`).
const USUAL_CPUS: u32 = 32;

/// Whether a shim runs 32-bit PV kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunsPv32 {
    /// The binary contains the text of support.
    Yes,
    /// The binary contains the text without support.
    No,
    /// The binary contains neither text, so it is not a known Xen.
    Unknown,
}

/// An open shim.
pub(crate) struct ShimImage {
    /// The parsed image of the shim.
    pub image: Image,
    /// Warnings about properties that could not be checked.
    pub warnings: Vec<String>,
}

impl ShimImage {
    fn new(image: Image) -> ShimImage {
        let warnings = Vec::new();
        ShimImage { image, warnings }
    }

    /// Searches the shim's bytes for the texts.
    fn runs_pv32(&self) -> Result<RunsPv32, ImageError> {
        if self.image.contains(SAYS_NO_PV32)? {
            return Ok(RunsPv32::No);
        }
        for word in SAYS_PV32 {
            if self.image.contains(word)? {
                return Ok(RunsPv32::Yes);
            }
        }
        Ok(RunsPv32::Unknown)
    }
}

/// Opens the shim, and checks that it can run the guest's kernel on this host.
pub(crate) fn ready(
    host: &Host,
    physical: &PhysInfo,
    spec: &VmSpec,
    kernel: &Image,
) -> Result<ShimImage, EngineError> {
    if !physical.caps.hvm {
        return Err(ShimError::NoHardwareVirtualisation.into());
    }
    let wanted = spec.shim.clone().unwrap_or_default();
    let mut shim = load(host, &wanted, &loader(&host.dirs))?;
    shim.warnings = check(spec, kernel, &shim)?;
    Ok(shim)
}

/// Opens and checks the shim at the configuration's `pvshim_path`, as [`ready`] does. `None` without such a path.
pub(crate) fn named(
    spec: &VmSpec,
    kernel: &Image,
    loader: &Loader,
) -> Result<Option<ShimImage>, EngineError> {
    let Some(path) = spec.shim.as_ref().and_then(|shim| shim.path.as_ref()) else {
        return Ok(None);
    };
    let mut shim = ShimImage::new(loader.load(path)?);
    shim.warnings = check(spec, kernel, &shim)?;
    Ok(Some(shim))
}

/// Opens the configured shim, or else the first one in Xen's installation folders.
fn load(host: &Host, shim: &Shim, loader: &Loader) -> Result<ShimImage, EngineError> {
    if let Some(path) = &shim.path {
        let image = loader.load(path)?;
        return Ok(ShimImage::new(image));
    }
    let version = host.hv.version()?;
    let release = Some((version.major, version.minor));
    let looked_at = places(&host.dirs.usr, release, NAME);
    for path in &looked_at {
        match loader.load(path) {
            Err(ImageError::Missing { .. }) => {}
            found => return Ok(ShimImage::new(found?)),
        }
    }
    Err(ShimError::NotFound { looked_at }.into())
}

/// The images that count as shims: those in Xen's installation folders, and the policy's.
///
/// Any other image at `pvshim_path` is an ordinary PVH guest, because nothing is known about it.
pub struct KnownShims {
    usr: PathBuf,
    of_policy: Option<PathBuf>,
}

impl KnownShims {
    /// The shims of this host.
    #[must_use]
    pub fn new(dirs: &Dirs, policy: &Policy) -> KnownShims {
        KnownShims {
            usr: dirs.usr.clone(),
            of_policy: policy.shim.path.clone(),
        }
    }

    /// The shims of this host, with the policy read from its file.
    ///
    /// # Errors
    /// The policy cannot be read or is invalid.
    pub fn of_host(files: &dyn Files, dirs: &Dirs) -> Result<KnownShims, EngineError> {
        Ok(KnownShims::new(dirs, &Policy::load(files, &dirs.policy)?))
    }

    /// Whether the image at the path is a shim. Paths are compared literally; links are not followed.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        self.of_policy.as_deref() == Some(path) || self.is_installed(path)
    }

    /// Whether a VM's shim is one of these. Without a path, it is the host's.
    pub(crate) fn have(&self, shim: &Shim) -> bool {
        shim.path.as_ref().is_none_or(|path| self.has(path))
    }

    fn is_installed(&self, path: &Path) -> bool {
        let folder = path
            .strip_prefix(&self.usr)
            .ok()
            .filter(|path| path.file_name().is_some_and(|name| name == NAME))
            .and_then(|path| path.parent()?.to_str());
        folder.is_some_and(|folder| FOLDERS.contains(&folder) || is_of_a_release(folder))
    }
}

/// Whether the folder is of the form `lib/xen-4.17/boot`.
fn is_of_a_release(folder: &str) -> bool {
    let release = folder
        .strip_prefix("lib/xen-")
        .and_then(|rest| rest.strip_suffix("/boot"));
    release.is_some_and(|release| {
        !release.is_empty() && release.chars().all(|c| c.is_ascii_digit() || c == '.')
    })
}

/// Checks that the shim can run the guest's kernel. Returns warnings for properties that cannot be checked.
fn check(spec: &VmSpec, kernel: &Image, shim: &ShimImage) -> Result<Vec<String>, EngineError> {
    let mut warnings = Vec::new();
    if let PvWidth::Bits32 { pae } = kernel.pv()?.width {
        warnings.extend(check_pv32(spec, kernel, pae, shim)?);
    }
    if spec.max_vcpus > USUAL_CPUS {
        warnings.push(format!(
            "a PV shim is usually built for {USUAL_CPUS} CPUs: of {} vCPUs the guest may see fewer",
            spec.max_vcpus
        ));
    }
    Ok(warnings)
}

/// Refuses a command line of the guest's kernel that the shim would cut off.
pub(crate) fn check_cmdline(cmdline: &str) -> Result<(), EngineError> {
    let (len, max) = (cmdline.len(), GUEST_CMDLINE_BYTES);
    match len <= max {
        true => Ok(()),
        false => Err(ShimError::CommandLineTooLong { len, max }.into()),
    }
}

/// Warns if the shim may lack memory for its guest. Then it reports that only on the console, and crashes.
///
/// The memory that it needs depends on how it finds its memory, so this is only a warning.
pub(crate) fn warn_of_memory(
    spec: &VmSpec,
    kernel: &Image,
    modules_bytes: u64,
) -> Result<Option<String>, EngineError> {
    let own_kib = OWN_KIB + spec.target_kib / OWN_PART;
    let wanted_kib = memory_for(own_kib, kernel.pv()?.paddr.end, modules_bytes);
    Ok((spec.target_kib < wanted_kib).then(|| {
        format!(
            "the PV shim takes about {} of the domain's {} MiB for itself: if the guest does not start, set `memory` to {} or more",
            own_kib >> 10,
            spec.target_kib >> 10,
            wanted_kib.div_ceil(1024)
        )
    }))
}

/// Memory that is certainly enough, in KiB.
///
/// The guest starts in one block with kernel (up to `kernel_end`), ramdisk and tables. Its size is a power of two, at
/// a multiple of its size. It must not overlap the shim's memory, or the modules at the end.
fn memory_for(own_kib: u64, kernel_end: u64, modules_bytes: u64) -> u64 {
    let start_kib = kernel_end.saturating_add(modules_bytes / 8) / 1024;
    let block_kib = start_kib
        .saturating_add(LEAST_TABLES_KIB)
        .next_power_of_two();
    own_kib.next_multiple_of(block_kib) + block_kib + modules_bytes.div_ceil(1024)
}

fn check_pv32(
    spec: &VmSpec,
    kernel: &Image,
    pae: PaeMode,
    shim: &ShimImage,
) -> Result<Option<String>, EngineError> {
    let kernel = kernel.path().to_owned();
    if pae == PaeMode::No {
        return Err(ShimError::NoPae { kernel }.into());
    }
    let cmdline = spec.shim.as_ref().map(Shim::command_line);
    if let Some(word) = cmdline.as_deref().and_then(word_against_pv32) {
        let word = word.to_owned();
        return Err(ShimError::Pv32SwitchedOff { kernel, word }.into());
    }
    let path = shim.image.path();
    match shim.runs_pv32()? {
        RunsPv32::Yes => Ok(None),
        RunsPv32::No => Err(ShimError::WithoutPv32 {
            kernel,
            shim: path.to_owned(),
        }
        .into()),
        RunsPv32::Unknown => Ok(Some(format!(
            "{} does not say whether it runs 32-bit PV kernels: if it does not, the guest crashes at once",
            path.display()
        ))),
    }
}

/// The option of a shim's command line that disables 32-bit PV: `pv=` with `no-32` or `32=0`, unless a later option
/// enables it again.
fn word_against_pv32(cmdline: &str) -> Option<&str> {
    let mut against = None;
    for word in cmdline.split_ascii_whitespace() {
        let Some(items) = word.strip_prefix("pv=") else {
            continue;
        };
        for item in items.split(',') {
            match item {
                "no-32" | "32=0" | "32=no" | "32=off" | "32=false" | "32=disable" => {
                    against = Some(word);
                }
                "32" | "32=1" | "32=yes" | "32=on" | "32=true" | "32=enable" => against = None,
                _ => {}
            }
        }
    }
    against
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_switch_32_bit_pv_off_are_found() {
        for (cmdline, wanted) in [
            (crate::vm::spec::DEFAULT_SHIM_CMDLINE, None),
            ("pv-shim pv=no-32", Some("pv=no-32")),
            ("pv=32=off console=xen", Some("pv=32=off")),
            ("pv=no-32 pv=32", None),
            ("pv=32 pv=no-32", Some("pv=no-32")),
            ("spec-ctrl=no pv=x,no-32", Some("pv=x,no-32")),
            ("dom0=pv", None),
        ] {
            assert_eq!(word_against_pv32(cmdline), wanted, "{cmdline}");
        }
    }

    #[test]
    fn memory_that_was_seen_to_do_or_not_is_told_apart() {
        let wanted_mib = |own_mib: u64, kernel_end: u64, modules_mib: u64| {
            memory_for(own_mib << 10, kernel_end, modules_mib << 20) / 1024
        };
        // GRUB: 32 MiB are too few, 64 suffice. Debian's Linux: 300 are too few, 400 suffice.
        assert!((33..=64).contains(&wanted_mib(22, 0x44_8bb0, 1)));
        assert!((301..=400).contains(&wanted_mib(24, 0x4a0_0000, 65)));
    }

    #[test]
    fn a_shim_is_one_of_the_hosts_or_of_the_policys() {
        let policy = "version = 1\n[shim]\npath = \"/opt/shim\"\n";
        let policy = Policy::parse(policy, "policy.toml").unwrap();
        let shims = KnownShims::new(&Dirs::below(Path::new("/")), &policy);
        for known in [
            "/usr/lib/xen-4.17/boot/xen-shim",
            "/usr/lib/xen/boot/xen-shim",
            "/usr/local/libexec/xen/boot/xen-shim",
            "/opt/shim",
        ] {
            assert!(shims.has(Path::new(known)), "{known}");
        }
        for other in [
            "/tmp/xen-shim",
            "/usr/lib/xen/boot/../../../../tmp/xen-shim",
            "/usr/lib/xen/boot/hvmloader",
            "/usr/lib/xen-/boot/xen-shim",
            "/usr/lib/xen-x/../boot/xen-shim",
            "/opt/shim2",
        ] {
            assert!(!shims.has(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn the_folder_of_the_running_release_comes_first() {
        let places = places(Path::new("/usr"), Some((4, 17)), NAME);
        assert_eq!(
            places.first().unwrap(),
            Path::new("/usr/lib/xen-4.17/boot/xen-shim")
        );
        assert!(places.contains(&PathBuf::from("/usr/libexec/xen/boot/xen-shim")));
        let text = ShimError::NotFound { looked_at: places }.to_string();
        assert!(text.contains("/usr/local/lib/xen/boot/xen-shim"), "{text}");
    }
}
