//! A virtual disk of a VM, decided: what Xyl can serve and nothing else.

use std::path::PathBuf;

use xl_cfg::types::{self, DiskBackend, DiskFormat, Vdev};

use crate::vm::paths::whole_path;
use crate::vm::words::{backend_of, refuse_word, script_path};

/// A disk that domain 0's kernel (blkback), QEMU (qdisk) or a driver domain serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Path of the image or of the block device. A driver domain has it, or its script knows what it means.
    pub target: PathBuf,
    /// The disk as the guest sees it.
    pub vdev: Vdev,
    /// Format of the image. Nothing looks for another one in its contents.
    pub format: ImageFormat,
    /// The program that serves it.
    pub server: Server,
    /// Access of the guest to the disk.
    pub access: Access,
    /// Whether the guest sees a CD drive.
    pub is_cdrom: bool,
    /// Whether the guest may discard blocks; `None` for yes where it may write.
    pub discard: Option<bool>,
    /// The configuration says that O_DIRECT needs no workaround. blkback needs none in any case, and QEMU uses it then.
    pub direct_io_safe: bool,
    /// Whether the guest is to trust its backend; `None` for yes if that is in domain 0.
    pub trusted: Option<bool>,
    /// The domain that serves it, by its name; `None` for domain 0.
    pub backend: Option<String>,
    /// The script of a driver domain that makes the block device; `None` for Xen's script `block`.
    pub script: Option<String>,
}

/// Format of a disk's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// The bytes of the disk.
    Raw,
    /// QEMU's format of version 2 or 3.
    Qcow2,
    /// Virtual PC's format, fixed or dynamic.
    Vhd,
}

impl ImageFormat {
    /// The word in xl.cfg, and in libxl's record.
    pub fn word(self) -> &'static str {
        match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Vhd => "vhd",
        }
    }

    /// QEMU's driver for it.
    pub fn driver_of_qemu(self) -> &'static str {
        match self {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Vhd => "vpc",
        }
    }

    /// The word before the path in the node `params` of QEMU's backend.
    pub fn word_of_qemu(self) -> &'static str {
        match self {
            ImageFormat::Raw => "aio",
            other => other.word(),
        }
    }

    /// The format with this word in xl.cfg.
    pub fn find(word: &str) -> Option<ImageFormat> {
        let all = [ImageFormat::Raw, ImageFormat::Qcow2, ImageFormat::Vhd];
        all.into_iter().find(|format| format.word() == word)
    }
}

/// The program that serves a disk to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Domain 0's kernel (blkback).
    Kernel,
    /// A QEMU of the VM (qdisk).
    Qemu,
}

impl Server {
    /// The word of `backendtype=` in xl.cfg, and in libxl's record.
    pub fn word(self) -> &'static str {
        match self {
            Server::Kernel => "phy",
            Server::Qemu => "qdisk",
        }
    }
}

/// Access of a guest to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It only reads.
    Read,
    /// It writes, and the disk has no other user.
    Write,
    /// It writes, and others may use the disk at the same time (`w!`).
    WriteShared,
}

impl Disk {
    /// The disk of a configuration; else why Xyl cannot serve it.
    ///
    /// # Errors
    /// A text that names what the disk needs and what to do instead.
    pub fn of_config(disk: &types::Disk) -> Result<Disk, String> {
        let named = |why| format!("disk `{}`: {why}", disk.vdev);
        let backend = backend_of(disk.backend.as_deref()).map_err(named)?;
        let script = disk.script.as_deref().map(script_path).transpose();
        match why_not(disk, backend.is_some()) {
            Some(why) => Err(named(why)),
            None => Ok(Disk {
                target: target_of(disk, backend.is_some()),
                vdev: disk.vdev.clone(),
                format: format_of(disk).unwrap_or(ImageFormat::Raw),
                server: server_of(disk),
                access: match (disk.writable, disk.shared) {
                    (false, _) => Access::Read,
                    (true, false) => Access::Write,
                    (true, true) => Access::WriteShared,
                },
                is_cdrom: disk.cdrom,
                discard: disk.discard,
                direct_io_safe: disk.direct_io_safe,
                trusted: disk.trusted,
                script: script.map_err(named)?,
                backend,
            }),
        }
    }

    /// The disk as xl.cfg says it, with the target last, since that may contain commas.
    pub fn cfg_text(&self) -> String {
        let mut parts = vec![
            format!("vdev={}", self.vdev),
            format!("access={}", self.access.word()),
            format!("format={}", self.format.word()),
        ];
        if self.server == Server::Qemu && self.format == ImageFormat::Raw {
            parts.push(format!("backendtype={}", self.server.word()));
        }
        let mut flag = |is_set: bool, word: &str| {
            if is_set {
                parts.push(word.to_owned());
            }
        };
        flag(self.is_cdrom, "cdrom");
        flag(self.direct_io_safe, "direct-io-safe");
        flag(self.discard == Some(true), "discard");
        flag(self.discard == Some(false), "no-discard");
        flag(self.trusted == Some(true), "trusted");
        flag(self.trusted == Some(false), "untrusted");
        for (key, word) in [("backend", &self.backend), ("script", &self.script)] {
            parts.extend(word.iter().map(|word| format!("{key}={word}")));
        }
        parts.push(format!("target={}", self.target.display()));
        parts.join(",")
    }

    /// The image as the toolstack's copy has it: its path, and for QEMU the format before it.
    pub fn params(&self) -> String {
        let path = self.target.display();
        match self.server {
            Server::Kernel => path.to_string(),
            Server::Qemu => format!("{}:{path}", self.format.word_of_qemu()),
        }
    }

    /// Whether the guest may write to it.
    pub fn is_writable(&self) -> bool {
        self.access != Access::Read
    }

    /// Whether the guest may discard blocks.
    pub fn may_discard(&self) -> bool {
        self.discard.unwrap_or(self.is_writable())
    }

    /// Whether the guest is to trust its backend. A driver domain's is not trusted unless the configuration says so.
    pub fn is_trusted(&self) -> bool {
        self.trusted.unwrap_or(self.backend.is_none())
    }
}

impl Access {
    /// The word in xl.cfg.
    pub fn word(self) -> &'static str {
        match self {
            Access::Read => "ro",
            Access::Write => "rw",
            Access::WriteShared => "w!",
        }
    }
}

/// The format of a disk, if Xyl can serve it.
fn format_of(disk: &types::Disk) -> Option<ImageFormat> {
    match disk.format {
        DiskFormat::Raw => Some(ImageFormat::Raw),
        DiskFormat::Qcow2 => Some(ImageFormat::Qcow2),
        DiskFormat::Vhd => Some(ImageFormat::Vhd),
        _ => None,
    }
}

/// The program that serves a disk: the kernel unless the format or the configuration needs QEMU, as in libxl.
fn server_of(disk: &types::Disk) -> Server {
    match disk.backend_type {
        Some(DiskBackend::Qdisk) => Server::Qemu,
        None if disk.format != DiskFormat::Raw => Server::Qemu,
        _ => Server::Kernel,
    }
}

/// The target of a disk. The folder of this process means nothing to another domain.
fn target_of(disk: &types::Disk, is_elsewhere: bool) -> PathBuf {
    let target = disk.target.as_deref().unwrap_or("");
    match is_elsewhere {
        true => PathBuf::from(target),
        false => whole_path(target),
    }
}

/// Reason why Xyl cannot have a driver domain serve a disk.
fn why_not_elsewhere(disk: &types::Disk) -> Option<String> {
    if server_of(disk) == Server::Qemu {
        return Some(
            "a QEMU in a driver domain is not supported by Xyl: write format=raw, and take backendtype out"
                .to_owned(),
        );
    }
    refuse_word(("script", disk.script.as_deref())).err()
}

/// Reason why Xyl cannot serve a disk; `None` where it can.
fn why_not(disk: &types::Disk, is_elsewhere: bool) -> Option<String> {
    if disk.target.is_none() {
        return Some(
            "an empty CD drive is of no use without the devices of an HVM guest: name a disc, or take the drive out"
                .to_owned(),
        );
    }
    if format_of(disk).is_none() {
        return Some(format!(
            "the format {} is not supported by Xyl: convert the image with `qemu-img convert -O qcow2`",
            disk.format
        ));
    }
    let is_served = |kind: &DiskBackend| matches!(kind, DiskBackend::Phy | DiskBackend::Qdisk);
    if let Some(backend) = disk.backend_type.filter(|kind| !is_served(kind)) {
        return Some(format!(
            "backendtype={backend} is not supported by Xyl yet: take it out, and domain 0's kernel or QEMU serves the disk"
        ));
    }
    if disk.backend_type == Some(DiskBackend::Phy) && disk.format != DiskFormat::Raw {
        return Some(format!(
            "backendtype=phy serves raw images alone, and this one is {}: take it out, and QEMU serves the disk",
            disk.format
        ));
    }
    if is_elsewhere && let Some(why) = why_not_elsewhere(disk) {
        return Some(why);
    }
    if let Some(script) = disk.script.as_ref().filter(|_| !is_elsewhere) {
        return Some(format!(
            "script={script} is not supported by Xyl yet: name the block device that the script would make"
        ));
    }
    let is_virtio = disk.specification == Some(types::DiskSpecification::Virtio);
    if is_virtio || disk.grant_usage.is_some() {
        return Some("virtio disks are not supported by Xyl yet".to_owned());
    }
    (disk.colo != types::DiskColo::default()).then(|| "COLO is not supported by Xyl".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(spec: &str) -> Result<Disk, String> {
        let text = format!("name = 'g'\nkernel = '/k'\ntype = 'pvh'\ndisk = [ '{spec}' ]\n");
        let source = xl_cfg::Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
        let config = xl_cfg::parse::<&str>(source, &[]).unwrap();
        Disk::of_config(&config.domain.disks[0])
    }

    #[test]
    fn what_blkback_can_serve_is_taken_as_it_was_asked_for() {
        let plain = disk("/dev/vg/x,raw,xvda,rw").unwrap();
        assert_eq!(plain.target, PathBuf::from("/dev/vg/x"));
        assert_eq!((plain.vdev.number, plain.access), (51712, Access::Write));
        assert!(plain.may_discard() && plain.is_trusted() && !plain.is_cdrom);
        let read = disk("/x,,xvdb,ro,untrusted,backendtype=phy,backend=0").unwrap();
        assert_eq!(read.access, Access::Read);
        assert!(!read.may_discard() && !read.is_trusted());
        assert_eq!(disk("/x,,xvda,w!").unwrap().access, Access::WriteShared);
        assert!(!disk("/x,,xvda,w,no-discard").unwrap().may_discard());
        assert!(disk("/x.iso,,hdc,cdrom").unwrap().is_cdrom);
    }

    #[test]
    fn its_text_makes_the_same_disk_again() {
        for spec in [
            "/dev/vg/x,raw,xvda,rw",
            "/x,,xvdb,ro,untrusted,no-discard",
            "vdev=xvdc,access=w!,discard,trusted,direct-io-safe,target=/a,b=c",
            "/x.iso,,hdc,cdrom",
            "/x,qcow2,xvda",
            "/x,vhd,xvda,rw,direct-io-safe",
            "/x,qcow2,xvda,ro",
            "/x,raw,xvda,backendtype=qdisk",
            "vdev=xvda,backend=store,script=block-iscsi,target=iqn=a",
            "x,raw,xvda,backend=7,trusted",
        ] {
            let first = disk(spec).unwrap();
            assert_eq!(disk(&first.cfg_text()).unwrap(), first, "{spec}");
        }
    }

    /// The driver domain's name for it is not known here.
    #[test]
    fn the_target_of_a_driver_domain_stays_as_it_was_written() {
        let elsewhere = disk("x,raw,xvda,backend=store").unwrap();
        assert_eq!(elsewhere.target, PathBuf::from("x"));
        assert_eq!(elsewhere.backend.as_deref(), Some("store"));
        assert!(!elsewhere.is_trusted());
        let here = disk("/x,raw,xvda,backend=Domain-0").unwrap();
        assert_eq!(here.backend, None);
        assert!(here.is_trusted());
    }

    #[test]
    fn qemu_serves_what_the_kernel_cannot() {
        for (spec, format, server) in [
            ("/x,raw,xvda", ImageFormat::Raw, Server::Kernel),
            (
                "/x,raw,xvda,backendtype=qdisk",
                ImageFormat::Raw,
                Server::Qemu,
            ),
            ("/x,qcow2,xvda", ImageFormat::Qcow2, Server::Qemu),
            ("/x,vhd,xvda", ImageFormat::Vhd, Server::Qemu),
        ] {
            let disk = disk(spec).unwrap();
            assert_eq!((disk.format, disk.server), (format, server), "{spec}");
        }
        assert_eq!(disk("/x,qcow2,xvda").unwrap().params(), "qcow2:/x");
        let raw = disk("/x,raw,xvda,backendtype=qdisk").unwrap();
        assert_eq!(raw.params(), "aio:/x");
    }

    #[test]
    fn what_needs_another_backend_is_refused_by_its_name() {
        for (spec, word) in [
            ("/x,qed,xvda", "qed"),
            ("/x,qcow,xvda", "qcow"),
            ("/x,qcow2,xvda,backendtype=phy", "qcow2"),
            ("/x,raw,xvda,backend=a/b", "backend=a/b"),
            ("/x,qcow2,xvda,backend=store", "QEMU"),
            ("vdev=xvda,backend=store,script=a$b,target=x", "script=a$b"),
            ("vdev=xvda,script=block-nbd,target=x", "script=block-nbd"),
            ("/x,raw,xvda,specification=virtio", "virtio"),
            ("vdev=hdc,cdrom", "empty"),
        ] {
            let why = disk(spec).unwrap_err();
            assert!(why.contains(word), "{spec}: {why}");
        }
    }
}
