//! The arguments of QEMU.

use std::path::Path;

use os_port::{FILES_MAX, FIRST_FILE};

use crate::host::dom0::{Program, QemuId};

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

/// The number of a file that QEMU is given, counted from 0. No two QEMUs of a domain have the same: each looks at all of the domain's
/// disks, and opens only those whose number it knows. So only a domain's first QEMU gets several files.
fn number_of_file(qemu: QemuId, index: usize) -> usize {
    match qemu.number {
        0 => index + 1,
        number => FILES_MAX + usize::from(number),
    }
}

/// The path by which QEMU opens a file that it was given, counted from 0. QEMU itself knows it (`monitor/fds.c`).
pub fn path_of_file(qemu: QemuId, index: usize) -> String {
    format!("/dev/fdset/{}", number_of_file(qemu, index))
}

/// User and group of a QEMU, as an option names them.
fn user_and_group(qemu: QemuId) -> String {
    let uid = qemu.user();
    format!("{uid}:{uid}")
}

/// Whether the arguments of a process say that it becomes the user of this QEMU.
pub(super) fn becomes(program: &Program, qemu: QemuId) -> bool {
    let user = user_and_group(qemu);
    let both = program.option("-run-with");
    let of_both = both.and_then(|both| both.rsplit_once("user="));
    program.option("-runas") == Some(&user) || of_both.is_some_and(|(_, one)| one == user)
}

/// The arguments of a QEMU that serves devices of a domain.
pub(super) fn arguments(
    qemu: QemuId,
    cage: &Path,
    (nr_files, terminals): (usize, &[String]),
    confinement: Confinement,
) -> Vec<String> {
    let domid = qemu.domid;
    let number = domid.to_string();
    let name = match qemu.number {
        0 => format!("domain-{domid}"),
        later => format!("domain-{domid}-{later}"),
    };
    let (user, cage) = (user_and_group(qemu), cage.display().to_string());
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
        all.push(format!("fd={file},set={}", number_of_file(qemu, index)));
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
    use xen_port::DomId;

    fn line(confinement: Confinement) -> String {
        let given = (2, &["libxl-channel1".to_owned()][..]);
        let qemu = QemuId::first(DomId(7));
        arguments(qemu, Path::new("/dev/xyl/qemu"), given, confinement).join(" ")
    }

    #[test]
    fn a_later_qemu_of_a_domain_has_its_own_name_user_and_file() {
        let qemu = QemuId {
            domid: DomId(7),
            number: 2,
        };
        let cage = Path::new("/dev/xyl/qemu");
        let line = arguments(qemu, cage, (1, &[]), Confinement::Options).join(" ");
        for part in [
            "-name domain-7-2 ",
            "-runas 1900131079:1900131079 ",
            "-add-fd fd=4,set=34",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert_eq!(path_of_file(qemu, 0), "/dev/fdset/34");
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
