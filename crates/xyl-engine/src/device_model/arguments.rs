//! The arguments of QEMU.

use std::path::Path;

use os_port::FIRST_FILE;
use xen_port::DomId;

use crate::host::dom0::QEMU_USERS_FROM;

/// Arguments with which a QEMU that knows `-run-with user=` ends without an error (QEMU 9.1 and later).
pub(super) const PROBE: [&str; 3] = ["-run-with", "chroot=/,user=1:1", "-version"];
/// Memory of the machine that QEMU believes to have, in MiB. It allocates none of it.
const MEMORY_MIB: &str = "32";

/// The options that name QEMU its user and its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confinement {
    /// `-runas` and `-chroot`, up to QEMU 8.
    Options,
    /// `-run-with`, since QEMU 9.1.
    RunWith,
}

impl Confinement {
    /// The word in the note about a binary.
    pub fn word(self) -> &'static str {
        match self {
            Confinement::Options => "options",
            Confinement::RunWith => "run-with",
        }
    }

    /// The one with this word.
    pub fn find(word: &str) -> Option<Confinement> {
        let all = [Confinement::Options, Confinement::RunWith];
        all.into_iter().find(|one| one.word() == word)
    }
}

/// The path by which QEMU opens a file that it was given, counted from 0. QEMU itself knows it (`monitor/fds.c`).
pub fn path_of_file(index: usize) -> String {
    format!("/dev/fdset/{}", index + 1)
}

/// The user of a domain's QEMU.
pub(super) fn user(domid: DomId) -> u32 {
    QEMU_USERS_FROM.saturating_add(domid.0.into())
}

/// The arguments of a QEMU that serves devices of a domain.
pub(super) fn arguments(
    domid: DomId,
    cage: &Path,
    (nr_files, terminals): (usize, &[String]),
    confinement: Confinement,
) -> Vec<String> {
    let (number, name) = (domid.to_string(), format!("domain-{domid}"));
    let uid = user(domid);
    let (user, cage) = (format!("{uid}:{uid}"), cage.display().to_string());
    let together = format!("chroot={cage},user={user}");
    let mut words = vec!["-xen-domid", &number, "-xen-attach", "-name", &name];
    words.extend(["-nodefaults", "-no-user-config", "-display", "none"]);
    words.extend(["-monitor", "none", "-serial", "none", "-parallel", "none"]);
    match confinement {
        Confinement::Options => words.extend(["-chroot", &cage, "-runas", &user]),
        Confinement::RunWith => words.extend(["-run-with", &together]),
    }
    words.extend(["-machine", "xenpv", "-m", MEMORY_MIB]);
    let mut all: Vec<String> = words.into_iter().map(str::to_owned).collect();
    for index in 0..nr_files {
        let file = FIRST_FILE as usize + index;
        all.push("-add-fd".to_owned());
        all.push(format!("fd={file},set={}", index + 1));
    }
    // QEMU opens a terminal when it reads this, before it confines itself.
    for name in terminals {
        all.push("-chardev".to_owned());
        all.push(format!("pty,id={name}"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(confinement: Confinement) -> String {
        let given = (2, &["libxl-channel1".to_owned()][..]);
        arguments(DomId(7), Path::new("/dev/xyl/qemu"), given, confinement).join(" ")
    }

    #[test]
    fn qemu_gets_these_arguments() {
        let first = "-xen-domid 7 -xen-attach -name domain-7 -nodefaults -no-user-config -display none \
            -monitor none -serial none -parallel none";
        let last = "-machine xenpv -m 32 -add-fd fd=4,set=1 -add-fd fd=5,set=2 -chardev pty,id=libxl-channel1";
        let of_7_2 = "-chroot /dev/xyl/qemu -runas 1900000007:1900000007";
        let of_10_0 = "-run-with chroot=/dev/xyl/qemu,user=1900000007:1900000007";
        let wanted = |confined: &str| format!("{first} {confined} {last}");
        assert_eq!(line(Confinement::Options), wanted(of_7_2));
        assert_eq!(line(Confinement::RunWith), wanted(of_10_0));
    }
}
