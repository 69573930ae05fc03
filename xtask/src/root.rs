//! Roots: the disk, the kernels and the first stage that a boot needs, built once from Debian's packages.
//!
//! A root's name is a hash of all its inputs, so it is built again only after a change. If two clones need the same
//! root at the same time, one builds it under a lock and the other waits. A root is built in its own folder and
//! renamed when it is complete, so no process sees an incomplete one.

use crate::error::{Result, at};
use crate::process::{as_root, check_interrupt, remove_tree, run_quietly, step};
use crate::{boot, places, setup, xen_source};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The Xen releases that the lab knows, each in the Debian suite that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Xen {
    /// Xen 4.17, from Debian 12 (bookworm).
    #[value(name = "4.17")]
    V4_17,
    /// Xen 4.20, from Debian 13 (trixie).
    #[value(name = "4.20")]
    V4_20,
    /// Xen 4.17 built with CONFIG_PV32 from Debian's source, with all the rest of Debian 12: runs bare 32-bit PV guests.
    #[value(name = "4.17-pv32")]
    V4_17Pv32,
    /// Xen 4.17, on a machine with an IOMMU and PCI devices that guests can get.
    #[value(name = "4.17-iommu")]
    V4_17Iommu,
    /// Xen 4.20, on a machine with an IOMMU and PCI devices that guests can get.
    #[value(name = "4.20-iommu")]
    V4_20Iommu,
}

impl Xen {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4_17 => "4.17",
            Self::V4_20 => "4.20",
            Self::V4_17Pv32 => "4.17-pv32",
            Self::V4_17Iommu => "4.17-iommu",
            Self::V4_20Iommu => "4.20-iommu",
        }
    }

    /// Xen's release, such as `4.17`.
    pub fn version(self) -> &'static str {
        match self {
            Self::V4_17 | Self::V4_17Pv32 | Self::V4_17Iommu => "4.17",
            Self::V4_20 | Self::V4_20Iommu => "4.20",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::V4_17 | Self::V4_17Pv32 | Self::V4_17Iommu => "bookworm",
            Self::V4_20 | Self::V4_20Iommu => "trixie",
        }
    }

    /// Whether the machine has an IOMMU.
    pub fn has_iommu(self) -> bool {
        matches!(self, Self::V4_17Iommu | Self::V4_20Iommu)
    }
}

/// A root on disk, whole and unchanging.
pub struct Root {
    dir: PathBuf,
    guest: PathBuf,
    /// A Xen of our own in the place of Debian's.
    own_xen: Option<PathBuf>,
}

impl Root {
    /// Xen, unpacked: a multiboot ELF.
    pub fn xen(&self) -> PathBuf {
        self.own_xen.clone().unwrap_or_else(|| self.dir.join("xen"))
    }

    /// dom0's kernel, unpacked.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// The first stage of dom0.
    pub fn initrd(&self) -> PathBuf {
        self.dir.join("initrd")
    }

    /// dom0's disk. Boots change it only in a snapshot.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("root.img")
    }

    /// The disk of a Debian 12 guest: a partition table, ext4, and all that boots from it.
    pub fn guest_disk(&self) -> PathBuf {
        self.guest.join("disk.img")
    }
}

/// Finds the root for this Xen, or builds it (about two minutes, the packages come from the machine's Debian mirror).
pub fn ensure(xen: Xen) -> Result<Root> {
    let own_xen = match xen {
        Xen::V4_17Pv32 => Some(own_xen()?),
        Xen::V4_17 | Xen::V4_20 | Xen::V4_17Iommu | Xen::V4_20Iommu => None,
    };
    Ok(Root {
        dir: built(&Recipe::dom0(xen))?,
        guest: built(&Recipe::guest())?,
        own_xen,
    })
}

/// The folder with what the recipe makes. Builds it if needed.
fn built(recipe: &Recipe) -> Result<PathBuf> {
    let roots = places::roots()?;
    fs::create_dir_all(&roots).map_err(at("make", &roots))?;
    let name = format!("{}-{}", recipe.name, recipe.inputs_hash()?);
    let dir = roots.join(&name);
    let _lock;
    if !dir.exists() {
        _lock = lock(&roots)?;
        if !dir.exists() {
            build(recipe, &roots, &name)?;
        }
    }
    Ok(dir)
}

/// The Xen that is built here, from source.
fn own_xen() -> Result<PathBuf> {
    let xens = places::xens()?;
    fs::create_dir_all(&xens).map_err(at("make", &xens))?;
    let _lock = lock(&xens)?;
    xen_source::ensure(&xens)
}

/// Removes all roots, and what killed runs have left. Boots under way are not disturbed: they have their files open.
pub fn clean() -> Result<()> {
    let roots = places::roots()?;
    for folder in [roots.clone(), places::xens()?] {
        if folder.exists() {
            let _lock = lock(&folder)?;
            remove_tree(&folder)?;
        }
    }
    boot::remove_dead_runs(&places::runs()?);
    println!("removed {}", roots.display());
    Ok(())
}

/// The recipe of a Debian tree, and of the files that its script makes.
struct Recipe {
    /// Start of the folder's name.
    name: &'static str,
    /// Description for the reader of the output.
    title: String,
    suite: &'static str,
    packages: Vec<String>,
    /// Options of mmdebstrap besides the usual ones.
    options: &'static [&'static str],
    /// The folder below lab/ that has `finish.sh`.
    scripts: &'static str,
}

impl Recipe {
    /// The recipe of dom0's root.
    fn dom0(xen: Xen) -> Self {
        let version = xen.version();
        let mut packages = vec![
            format!("xen-hypervisor-{version}-amd64"),
            format!("xen-utils-{version}"),
        ];
        packages.extend(words(
            "xen-utils-common xenstore-utils qemu-system-xen seabios grub-xen-bin grub-xen-host linux-image-amd64 kexec-tools \
             bridge-utils iproute2 busybox-static kmod procps udev systemd python3 util-linux e2fsprogs cpio zstd xz-utils strace",
        ));
        Self {
            name: xen.suite(),
            title: format!("root for Xen {} from Debian {}", xen.name(), xen.suite()),
            suite: xen.suite(),
            packages,
            // The lab has an initrd of its own; Debian's would cost half a minute.
            options: &["--essential-hook=mkdir -p \"$1/etc/initramfs-tools\" && \
                 echo update_initramfs=no >\"$1/etc/initramfs-tools/update-initramfs.conf\""],
            scripts: "root",
        }
    }

    /// The recipe of the disk of a Debian 12 guest.
    fn guest() -> Self {
        Self {
            name: "guest",
            title: "disk of the Debian 12 guest".to_owned(),
            suite: Xen::V4_17.suite(),
            packages: words(
                "linux-image-amd64 initramfs-tools zstd systemd-sysv udev kmod iproute2 iputils-ping",
            ),
            // As small as `MODULES=dep` makes it on a Xen guest: the emulation reads and unpacks it at each boot.
            options: &[
                "--essential-hook=mkdir -p \"$1/etc/initramfs-tools/conf.d\" && \
                 echo MODULES=list >\"$1/etc/initramfs-tools/conf.d/lab\" && \
                 printf 'xen-blkfront\\next4\\n' >\"$1/etc/initramfs-tools/modules\"",
            ],
            scripts: "guest-disk",
        }
    }

    /// Options of mmdebstrap, without those of this machine (folders, mirrors, proxies).
    fn bootstrap_options(&self) -> Vec<String> {
        let mut options: Vec<String> = [
            "--mode=root",
            "--variant=minbase",
            "--format=directory",
            "--aptopt=Acquire::Languages \"none\"",
            "--aptopt=Acquire::Retries \"3\"",
        ]
        .iter()
        .chain(self.options)
        .chain(&["--dpkgopt=force-confold"])
        .map(|&option| option.to_owned())
        .collect();
        for unread in ["doc", "man", "locale", "info"] {
            options.push(format!("--dpkgopt=path-exclude=/usr/share/{unread}/*"));
        }
        options.push(format!("--include={}", self.packages.join(",")));
        options
    }

    /// The folder of its scripts.
    fn scripts(&self) -> PathBuf {
        places::lab().join(self.scripts)
    }

    /// The hash of everything that it is made from, as 16 hex digits. Debian's newer package versions are no input:
    /// `lab clean` asks for them.
    fn inputs_hash(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(self.suite);
        hash.update(self.bootstrap_options().join(" "));
        let scripts = self.scripts();
        let mut files: Vec<PathBuf> = fs::read_dir(&scripts)
            .map_err(at("read", &scripts))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .collect();
        files.sort();
        for file in files {
            let content = fs::read(&file).map_err(at("read", &file))?;
            hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(content);
        }
        Ok(hash
            .finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Locks the folder of the roots. Another process that builds or removes roots waits here.
fn lock(roots: &Path) -> Result<File> {
    let path = roots.with_extension("lock");
    let file = File::create(&path).map_err(at("make", &path))?;
    let mut told = false;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            // Polled, so that a signal ends the wait.
            Err(rustix::io::Errno::WOULDBLOCK) => {
                if !told {
                    eprintln!(
                        "waiting for another clone that builds a root ({})",
                        path.display()
                    );
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(errno) => return Err(at("lock", &path)(errno.into())),
        }
        check_interrupt()?;
    }
}

/// Builds under the lock. So a half-built one is left from an earlier run, and is removed.
fn build(recipe: &Recipe, roots: &Path, name: &str) -> Result<()> {
    setup::ensure()?;
    let building = roots.join("building");
    let made = step(&format!("build the {}", recipe.title), || {
        remove_tree(&building)?;
        fs::create_dir_all(building.join("out")).map_err(at("make", building.join("out")))?;
        bootstrap(recipe, &building)?;
        finish(recipe, &building)?;
        let out = building.join("out");
        let done = roots.join(name);
        fs::rename(&out, &done).map_err(at("rename", &out))
    });
    remove_tree(&building)?;
    made
}

/// Unpacks and configures the packages into `building/tree`.
fn bootstrap(recipe: &Recipe, building: &Path) -> Result<()> {
    let sources = building.join("sources.list");
    fs::write(&sources, sources_list(recipe.suite)?).map_err(at("write", &sources))?;
    let mut command = as_root("mmdebstrap")?;
    command.args(recipe.bootstrap_options());
    for option in proxy_options() {
        command.arg(format!("--aptopt={option}"));
    }
    command.arg("").arg(building.join("tree")).arg(&sources);
    run_quietly(&mut command).map(drop)
}

/// Makes `building/out` from `building/tree`.
fn finish(recipe: &Recipe, building: &Path) -> Result<()> {
    let mut command = as_root("sh")?;
    command.arg(recipe.scripts().join("finish.sh"));
    command.arg(building.join("tree")).arg(building.join("out"));
    run_quietly(&mut command).map(drop)
}

/// Keyring with the accepted signatures.
const SIGNED_BY: &str = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";

/// The suite and its updates, from the mirrors that this machine uses, signed by Debian's keys.
fn sources_list(suite: &str) -> Result<String> {
    let debian = mirror("debian")?;
    let security = mirror("debian-security")?;
    Ok(format!(
        "deb {SIGNED_BY} {debian} {suite} main\n\
         deb {SIGNED_BY} {debian} {suite}-updates main\n\
         deb {SIGNED_BY} {security} {suite}-security main\n"
    ))
}

/// The sources of the suite itself.
pub fn source_line(xen: Xen) -> Result<String> {
    let (debian, suite) = (mirror("debian")?, xen.suite());
    Ok(format!("deb-src {SIGNED_BY} {debian} {suite} main\n"))
}

/// This machine's mirror of `archive` (`debian`, `debian-security`), else Debian's own.
fn mirror(archive: &str) -> Result<String> {
    let end = format!("/{archive}");
    let uris = mirror_uris()?;
    let own = uris
        .into_iter()
        .find(|uri| uri.trim_end_matches('/').ends_with(&end));
    Ok(own.unwrap_or_else(|| format!("http://deb.debian.org/{archive}")))
}

/// The repositories that this machine's apt is set up with.
fn mirror_uris() -> Result<Vec<String>> {
    let listed =
        run_quietly(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// The proxies that this machine's apt is set up with, as apt options.
fn proxy_options() -> Vec<String> {
    let dump = Command::new("apt-config").arg("dump").output();
    let dump = dump.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&dump)
        .lines()
        .filter(|line| line.starts_with("Acquire::http") && line.contains("::Proxy"))
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect()
}
