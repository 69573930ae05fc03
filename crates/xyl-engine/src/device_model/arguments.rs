//! The arguments of QEMU.

use std::path::Path;

use os_port::FIRST_FILE;

use super::commands::{self, number_of_file};
use super::{Display, Request};
use crate::host::dom0::{Program, QemuId};

/// Arguments with which a QEMU that knows `-run-with user=` ends without an error (QEMU 9.1 and later).
pub(super) const PROBE: [&str; 3] = ["-run-with", "chroot=/,user=1:1", "-version"];
/// Name of the VNC password among QEMU's secrets.
const SECRET: &str = "vnc-password";
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
    request: &Request<'_>,
    cage: &Path,
    confinement: Confinement,
) -> Vec<String> {
    let qemu = request.qemu;
    let domid = qemu.domid;
    let number = domid.to_string();
    let name = match qemu.number {
        0 => format!("domain-{domid}"),
        later => format!("domain-{domid}-{later}"),
    };
    let mut words = vec!["-xen-domid", &number, "-xen-attach", "-name", &name];
    words.extend(["-nodefaults", "-no-user-config", "-display", "none"]);
    words.extend(["-monitor", "none", "-serial", "none", "-parallel", "none"]);
    let mut all: Vec<String> = words.into_iter().map(str::to_owned).collect();
    all.extend(confining(qemu, cage, confinement));
    all.extend(["-machine", "xenpv", "-m", MEMORY_MIB].map(str::to_owned));
    let nr_files = request.files.len();
    all.extend(of_files(0..nr_files));
    if nr_files > 0 {
        all.extend(commands::arguments());
    }
    // QEMU opens a terminal when it reads this, before it confines itself.
    for name in request.terminals {
        all.push("-chardev".to_owned());
        all.push(format!("pty,id={name}"));
    }
    for ((name, _), index) in request.sockets.iter().zip(nr_files..) {
        let file = descriptor(index);
        all.push("-chardev".to_owned());
        all.push(format!("socket,id={name},fd={file},server=on,wait=off"));
    }
    let display = request.display.into_iter();
    let nr_files = nr_files + request.sockets.len();
    all.extend(display.flat_map(|display| of_display(display, nr_files)));
    all
}

/// The options that name QEMU its user and its folder.
pub(super) fn confining(qemu: QemuId, cage: &Path, confinement: Confinement) -> Vec<String> {
    let (user, cage) = (user_and_group(qemu), cage.display().to_string());
    match confinement {
        Confinement::Options => vec!["-chroot".to_owned(), cage, "-runas".to_owned(), user],
        Confinement::RunWith => {
            vec!["-run-with".to_owned(), format!("chroot={cage},user={user}")]
        }
    }
}

/// The options by which QEMU opens files that it was given, counted from 0.
pub(super) fn of_files(indices: core::ops::Range<usize>) -> Vec<String> {
    let option = |index: usize| {
        let (file, number) = (descriptor(index), number_of_file(index));
        ["-add-fd".to_owned(), format!("fd={file},set={number}")]
    };
    indices.flat_map(option).collect()
}

/// The descriptor of a file that QEMU gets, counted from 0.
pub(super) fn descriptor(index: usize) -> usize {
    FIRST_FILE as usize + index
}

/// The arguments for a display. QEMU reads the password and opens its socket when it reads them, before it confines itself.
pub(super) fn of_display(display: &Display, nr_files: usize) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(listening) = &display.listening {
        let mut server = format!("{}:{}", listening.address, listening.display);
        if listening.password.is_some() {
            let file = descriptor(nr_files);
            all.push("-object".to_owned());
            all.push(format!("secret,id={SECRET},file=/proc/self/fd/{file}"));
            server.push_str(&format!(",password-secret={SECRET}"));
        }
        all.extend(["-vnc".to_owned(), server]);
    }
    if let Some(keymap) = &display.keymap {
        all.extend(["-k".to_owned(), keymap.clone()]);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use os_port::OpenFile;
    use xen_port::DomId;

    use super::super::Listening;
    use super::*;

    fn line(confinement: Confinement) -> String {
        let file = in_memory();
        let request = Request {
            qemu: QemuId::first(DomId(7)),
            device: "disk `xvda`",
            drives: &[],
            files: &[&file, &file],
            terminals: &["libxl-channel1".to_owned()],
            sockets: &[("libxl-channel2".to_owned(), in_memory())],
            display: None,
            machine: None,
        };
        arguments(&request, Path::new("/dev/xyl/qemu"), confinement).join(" ")
    }

    fn in_memory() -> OpenFile {
        let files = os_port::mem::MemFiles::default();
        let files = files.of(&os_port::mem::Life::new(1));
        os_port::Files::keep_in_memory(&files, "x", b"secret").unwrap()
    }

    #[test]
    fn a_later_qemu_of_a_domain_has_its_own_name_and_user() {
        let qemu = QemuId {
            domid: DomId(7),
            number: 2,
        };
        let file = in_memory();
        let request = Request {
            qemu,
            device: "disk `xvda`",
            drives: &[],
            files: &[&file],
            terminals: &[],
            sockets: &[],
            display: None,
            machine: None,
        };
        let cage = Path::new("/dev/xyl/qemu");
        let line = arguments(&request, cage, Confinement::Options).join(" ");
        for part in [
            "-name domain-7-2 ",
            "-runas 1900131079:1900131079 ",
            "-add-fd fd=4,set=1 ",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn a_password_is_in_no_argument() {
        let listening = |password| Listening {
            address: Ipv4Addr::LOCALHOST,
            display: 3,
            password,
        };
        let words = |password, keymap| {
            let display = Display {
                listening: Some(listening(password)),
                keymap,
            };
            of_display(&display, 2).join(" ")
        };
        assert_eq!(words(None, None), "-vnc 127.0.0.1:3");
        assert_eq!(
            words(Some(in_memory()), Some("de".to_owned())),
            "-object secret,id=vnc-password,file=/proc/self/fd/6 -vnc 127.0.0.1:3,password-secret=vnc-password -k de"
        );
    }

    #[test]
    fn qemu_gets_these_arguments() {
        let first = "-xen-domid 7 -xen-attach -name domain-7 -nodefaults -no-user-config -display none \
            -monitor none -serial none -parallel none";
        let last = "-machine xenpv -m 32 -add-fd fd=4,set=1 -add-fd fd=5,set=2 -chardev stdio,id=xyl,signal=off -mon chardev=xyl,mode=control -chardev pty,id=libxl-channel1 -chardev socket,id=libxl-channel2,fd=6,server=on,wait=off";
        let of_7_2 = "-chroot /dev/xyl/qemu -runas 1900000007:1900000007";
        let of_10_0 = "-run-with chroot=/dev/xyl/qemu,user=1900000007:1900000007";
        let wanted = |confined: &str| format!("{first} {confined} {last}");
        assert_eq!(line(Confinement::Options), wanted(of_7_2));
        assert_eq!(line(Confinement::RunWith), wanted(of_10_0));
    }
}
