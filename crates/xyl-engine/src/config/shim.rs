//! The PV shim: a small Xen that runs as a PVH guest, and a PV kernel in it.
//!
//! The shim is what the domain starts; the guest's kernel is its first module, with the guest's command line, and the
//! ramdisk the second. The shim passes console, xenstore, event channels, grants and the guest's shutdown on to Xen, and
//! gives memory back and takes it again as the guest balloons. Its own memory comes out of the domain's.
//!
//! The kernel is handed over unpacked, though the shim could unpack it: what was checked is what runs, and the cache of
//! unpacked kernels serves here too.
//!
//! Facts: `tools/libs/light/libxl_create.c` and `libxl_dom.c`, `xen/arch/x86/pv/shim.c` and `dom0_build.c`, 4.17 to 4.22.

use std::path::{Path, PathBuf};

use os_port::Files;
use xen_image::{Error as ImageError, Image, Loader, PaeMode, PvWidth};
use xen_port::PhysInfo;
use xyl_audit::Policy;

use crate::config::loader;
pub use crate::error::ShimError;
use crate::vm::spec::{Shim, VmSpec};
use crate::{Dirs, EngineError, Host};

/// The shim's name in Xen's firmware folder.
const NAME: &str = "xen-shim";
/// Folders below /usr where distributions and Xen's own installation have it.
const FOLDERS: [&str; 4] = [
    "lib/xen/boot",
    "libexec/xen/boot",
    "local/lib/xen/boot",
    "local/libexec/xen/boot",
];
/// What Xen's binaries say that can run 32-bit PV kernels: the name of that interface. It is compiled in with them.
const SAYS_PV32: [&[u8]; 2] = [b"xen-3.0-x86_32p", b"xen-%d.%d-x86_32p"];
/// What they say that cannot: the message for a 32-bit kernel.
const SAYS_NO_PV32: &[u8] = b"CONFIG_PV32 missing";
/// The longest command line of a PV guest, without the zero byte that ends it; the shim would cut off the rest.
const GUEST_CMDLINE_BYTES: usize = 1023;
/// What a shim takes for itself of a domain's memory, in KiB; and of what is above that, one part in this many.
/// Measured: 22.2 MiB of 64, 24.2 MiB of 400 (Xen 4.17).
const OWN_KIB: u64 = 22 << 10;
const OWN_PART: u64 = 128;
/// The least that a guest's first tables take.
const LEAST_TABLES_KIB: u64 = 512;
/// CPUs that a shim is built for (`CONFIG_NR_CPUS` of Xen's `pvshim_defconfig`).
const USUAL_CPUS: u32 = 32;

/// Whether a shim runs 32-bit PV kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunsPv32 {
    /// It says that it does.
    Yes,
    /// It says that it does not.
    No,
    /// It says neither: not a Xen that is known.
    Unknown,
}

/// A shim, opened.
pub(crate) struct ShimImage {
    /// The parsed image of the shim.
    pub image: Image,
    /// What cannot be told of it.
    pub warnings: Vec<String>,
}

impl ShimImage {
    fn new(image: Image) -> ShimImage {
        let warnings = Vec::new();
        ShimImage { image, warnings }
    }

    /// What the shim's own bytes say.
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

/// Opens the shim, and checks that it can run the guest's kernel here.
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

/// The shim that the configuration names by its path, if it does, opened and checked as [`ready`] does.
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

/// Opens the shim that the configuration names, or else the first that is found where Xen's tools install it.
fn load(host: &Host, shim: &Shim, loader: &Loader) -> Result<ShimImage, EngineError> {
    if let Some(path) = &shim.path {
        let image = loader.load(path)?;
        return Ok(ShimImage::new(image));
    }
    let version = host.hv.version()?;
    let looked_at = places(&host.dirs.usr, version.major, version.minor);
    for path in &looked_at {
        match loader.load(path) {
            Err(ImageError::Missing { .. }) => {}
            found => return Ok(ShimImage::new(found?)),
        }
    }
    Err(ShimError::NotFound { looked_at }.into())
}

/// Where a shim may be: Debian's folder of that release of Xen first, then [`FOLDERS`].
fn places(usr: &Path, major: u16, minor: u16) -> Vec<PathBuf> {
    let own = format!("lib/xen-{major}.{minor}/boot");
    let folders = [own.as_str()].into_iter().chain(FOLDERS);
    folders.map(|folder| usr.join(folder).join(NAME)).collect()
}

/// The images that count as shims: those where Xen's tools install them, and the policy's. Any other image that a
/// configuration names with `pvshim_path` is a PVH guest like others, for only its author knows what it does.
pub struct KnownShims {
    usr: PathBuf,
    of_policy: Option<PathBuf>,
}

impl KnownShims {
    /// Those of this host.
    #[must_use]
    pub fn new(dirs: &Dirs, policy: &Policy) -> KnownShims {
        KnownShims {
            usr: dirs.usr.clone(),
            of_policy: policy.shim.path.clone(),
        }
    }

    /// The same, with the policy read from its file.
    ///
    /// # Errors
    /// The policy cannot be read, or is none.
    pub fn of_host(files: &dyn Files, dirs: &Dirs) -> Result<KnownShims, EngineError> {
        Ok(KnownShims::new(dirs, &Policy::load(files, &dirs.policy)?))
    }

    /// Whether the image at a path is one. The path is taken letter by letter: no link is followed.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        self.of_policy.as_deref() == Some(path) || self.is_installed(path)
    }

    /// Whether a VM's shim is one. Without a path it is the host's.
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

/// `lib/xen-4.17/boot` and the like.
fn is_of_a_release(folder: &str) -> bool {
    let release = folder
        .strip_prefix("lib/xen-")
        .and_then(|rest| rest.strip_suffix("/boot"));
    release.is_some_and(|release| {
        !release.is_empty() && release.chars().all(|c| c.is_ascii_digit() || c == '.')
    })
}

/// Checks that the shim can run the guest's kernel. What cannot be told comes back as warnings.
fn check(spec: &VmSpec, kernel: &Image, shim: &ShimImage) -> Result<Vec<String>, EngineError> {
    let mut warnings = Vec::new();
    let cmdline = spec.cmdline.as_deref().unwrap_or("");
    if cmdline.len() > GUEST_CMDLINE_BYTES {
        let len = cmdline.len();
        return Err(ShimError::CommandLineTooLong {
            len,
            max: GUEST_CMDLINE_BYTES,
        }
        .into());
    }
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

/// A shim that has no room for its guest says so on the console alone, and crashes. How much room is needed depends on
/// how the shim finds its memory, so this is no more than a warning.
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

/// KiB that do for sure: the guest's start (its kernel up to `kernel_end`, a ramdisk and tables) is one block of a power of
/// two, at a multiple of its size, that neither the shim's own memory nor the modules, at the end, may touch.
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

/// The word of a shim's command line that switches 32-bit PV off: `pv=` with `no-32` or `32=0`, unless a later one
/// switches it on again.
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
        // GRUB: 32 MiB are too little, 64 do. Debian's Linux: 300 are too little, 400 do.
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
        let places = places(Path::new("/usr"), 4, 17);
        assert_eq!(
            places.first().unwrap(),
            Path::new("/usr/lib/xen-4.17/boot/xen-shim")
        );
        assert!(places.contains(&PathBuf::from("/usr/libexec/xen/boot/xen-shim")));
        let text = ShimError::NotFound { looked_at: places }.to_string();
        assert!(text.contains("/usr/local/lib/xen/boot/xen-shim"), "{text}");
    }
}
