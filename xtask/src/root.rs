//! Roots: the disk, the kernels and the first stage that a boot needs, built once from Debian's packages.
//!
//! A root is named by a hash of all that it is made from, so it is built again only when that changes. Two clones may
//! ask for the same root at once: one builds under a lock, the other waits and then finds it. A root is built in a
//! folder of its own and renamed when it is whole, so nobody ever sees half of one.

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
}

impl Xen {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4_17 => "4.17",
            Self::V4_20 => "4.20",
            Self::V4_17Pv32 => "4.17-pv32",
        }
    }

    /// Xen's release, such as `4.17`.
    pub fn version(self) -> &'static str {
        match self {
            Self::V4_17 | Self::V4_17Pv32 => "4.17",
            Self::V4_20 => "4.20",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::V4_17 | Self::V4_17Pv32 => "bookworm",
            Self::V4_20 => "trixie",
        }
    }
}

/// A root on disk, whole and unchanging.
pub struct Root {
    dir: PathBuf,
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
}

/// Finds the root for this Xen, or builds it (about two minutes, the packages come from the machine's Debian mirror).
pub fn ensure(xen: Xen) -> Result<Root> {
    let roots = places::roots()?;
    fs::create_dir_all(&roots).map_err(at("make", &roots))?;
    let name = format!("{}-{}", xen.suite(), inputs_hash(xen)?);
    let dir = roots.join(&name);
    let _lock;
    if !dir.exists() {
        _lock = lock(&roots)?;
        if !dir.exists() {
            build(xen, &roots, &name)?;
        }
    }
    let own_xen = match xen {
        Xen::V4_17Pv32 => Some(own_xen()?),
        Xen::V4_17 | Xen::V4_20 => None,
    };
    Ok(Root { dir, own_xen })
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

fn packages(xen: Xen) -> Vec<String> {
    let version = xen.version();
    let mut packages = vec![
        format!("xen-hypervisor-{version}-amd64"),
        format!("xen-utils-{version}"),
    ];
    packages.extend(
        "xen-utils-common xenstore-utils qemu-system-xen seabios grub-xen-bin linux-image-amd64 kexec-tools \
         bridge-utils iproute2 busybox-static kmod procps udev systemd python3 util-linux e2fsprogs cpio zstd xz-utils strace"
            .split_whitespace()
            .map(str::to_owned),
    );
    packages
}

/// The hash of everything that a root is made from, as 16 hex digits. Debian's newer package versions are no input:
/// `lab clean` asks for them.
fn inputs_hash(xen: Xen) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(xen.suite());
    hash.update(bootstrap_options(xen).join(" "));
    let scripts = places::lab().join("root");
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

/// Builds the root under the lock. So a half-built one is left from an earlier run, and is removed.
fn build(xen: Xen, roots: &Path, name: &str) -> Result<()> {
    setup::ensure()?;
    let building = roots.join("building");
    let made = step(
        &format!(
            "build the root for Xen {} from Debian {}",
            xen.name(),
            xen.suite()
        ),
        || {
            remove_tree(&building)?;
            fs::create_dir_all(building.join("out")).map_err(at("make", building.join("out")))?;
            bootstrap(xen, &building)?;
            finish(&building)?;
            let out = building.join("out");
            let done = roots.join(name);
            fs::rename(&out, &done).map_err(at("rename", &out))
        },
    );
    remove_tree(&building)?;
    made
}

/// Options of mmdebstrap, without those of this machine (folders, mirrors, proxies).
fn bootstrap_options(xen: Xen) -> Vec<String> {
    let mut options: Vec<String> = [
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        "--aptopt=Acquire::Languages \"none\"",
        "--aptopt=Acquire::Retries \"3\"",
        // The lab has an initrd of its own; Debian's would cost half a minute.
        "--essential-hook=mkdir -p \"$1/etc/initramfs-tools\" && \
         echo update_initramfs=no >\"$1/etc/initramfs-tools/update-initramfs.conf\"",
        "--dpkgopt=force-confold",
    ]
    .map(str::to_owned)
    .into();
    for unread in ["doc", "man", "locale", "info"] {
        options.push(format!("--dpkgopt=path-exclude=/usr/share/{unread}/*"));
    }
    options.push(format!("--include={}", packages(xen).join(",")));
    options
}

/// Unpacks and configures the packages into `building/tree`.
fn bootstrap(xen: Xen, building: &Path) -> Result<()> {
    let sources = building.join("sources.list");
    fs::write(&sources, sources_list(xen.suite())?).map_err(at("write", &sources))?;
    let mut command = as_root("mmdebstrap")?;
    command.args(bootstrap_options(xen));
    for option in proxy_options() {
        command.arg(format!("--aptopt={option}"));
    }
    command.arg("").arg(building.join("tree")).arg(&sources);
    run_quietly(&mut command).map(drop)
}

/// Makes `building/out` from `building/tree`.
fn finish(building: &Path) -> Result<()> {
    let mut command = as_root("sh")?;
    command.arg(places::lab().join("root/finish.sh"));
    command.arg(building.join("tree")).arg(building.join("out"));
    run_quietly(&mut command).map(drop)
}

/// Whose signatures count.
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
