//! Commands to a QEMU (QMP), by which it opens the images of disks and serves them.
//!
//! They go to its standard input once it has confined itself: it has no right any more when it reads an image. Nothing but Xyl's process
//! writes there, and the input ends when QEMU serves its devices. Its replies come with its errors, of which the start is kept. A QEMU that
//! an image has taken over can write there what it wants, so little is looked for: lines that are replies to commands, good or bad. The
//! nodes of the backends must say, too, that a disk is served.
//!
//! Facts: `qapi/block-core.json`, `qapi/qdev.json` and `hw/block/xen-block.c` of QEMU.

use serde_json::{Value as Json, json};

/// Name of the monitor's channel in QEMU.
const CHANNEL: &str = "xyl";
/// Number of commands for a disk.
const NR_COMMANDS: usize = 3;

/// A disk that a QEMU is to serve, of an image that it has as an open file.
#[derive(Clone, Debug)]
pub struct Drive {
    /// The disk in words. A reply names it.
    pub what: String,
    /// Name of the disk as the guest sees it, such as `xvda`.
    pub vdev: String,
    /// QEMU's driver for the format.
    pub format: &'static str,
    /// Whether the image is a block device.
    pub is_on_device: bool,
    /// Whether the guest may write to it.
    pub is_writable: bool,
    /// Whether the guest sees a CD drive.
    pub is_cdrom: bool,
    /// Whether the guest may discard blocks.
    pub may_discard: bool,
    /// Whether QEMU uses no cache of domain 0.
    pub is_direct: bool,
}

/// The arguments of a QEMU that takes commands.
pub(super) fn arguments() -> [String; 4] {
    [
        "-chardev".to_owned(),
        format!("stdio,id={CHANNEL},signal=off"),
        "-mon".to_owned(),
        format!("chardev={CHANNEL},mode=control"),
    ]
}

/// The path by which QEMU opens a file that it was given, counted from 0. It knows it without a file system (`monitor/fds.c`).
pub(super) fn path_of_file(index: usize) -> String {
    format!("/dev/fdset/{}", number_of_file(index))
}

/// The number of a file that QEMU is given, counted from 0.
pub(super) fn number_of_file(index: usize) -> usize {
    index + 1
}

/// The commands to serve these disks. File `n` that QEMU has is the image of disk `n`.
pub(super) fn serve(drives: &[Drive]) -> String {
    let begin = json!({ "execute": "qmp_capabilities" });
    let all = drives.iter().enumerate();
    let all = all.flat_map(|(index, drive)| drive.commands(index));
    let lines = [begin].into_iter().chain(all);
    lines.map(|command| format!("{command}\n")).collect()
}

impl Drive {
    /// QEMU makes a thread for the disk, opens the image, and makes the device. It refuses each one that needs a refused one.
    fn commands(&self, index: usize) -> [Json; NR_COMMANDS] {
        let Drive { what, vdev, .. } = self;
        let (thread, image) = (format!("thread-{vdev}"), format!("image-{vdev}"));
        let mut node = self.image(index);
        set(&mut node, "node-name", json!(image));
        let driver = match self.is_cdrom {
            true => "xen-cdrom",
            false => "xen-disk",
        };
        let thread_of_disk = json!({ "qom-type": "iothread", "id": thread });
        let device = json!({ "driver": driver, "vdev": vdev, "drive": image, "iothread": thread });
        [
            ("object-add", thread_of_disk),
            ("blockdev-add", node),
            ("device_add", device),
        ]
        .map(|(name, arguments)| json!({ "execute": name, "arguments": arguments, "id": what }))
    }

    /// The image as QEMU opens it. Another QEMU has it never at the same time: it is locked as a whole, and QEMU's own locks would need
    /// its path.
    fn image(&self, index: usize) -> Json {
        let read_only = !self.is_writable;
        let discard = match self.may_discard {
            true => "unmap",
            false => "ignore",
        };
        let driver = match self.is_on_device {
            true => "host_device",
            false => "file",
        };
        let mut file = json!({
            "driver": driver,
            "filename": path_of_file(index),
            "read-only": read_only,
            "discard": discard,
            "locking": "off",
        });
        if self.is_direct {
            set(&mut file, "cache", json!({ "direct": true }));
            set(&mut file, "aio", json!("native"));
        }
        let mut image = json!({
            "driver": self.format,
            "read-only": read_only,
            "discard": discard,
            "file": file,
        });
        // The header may have got a backing file since it was checked.
        if self.format == "qcow2" {
            set(&mut image, "backing", Json::Null);
        }
        image
    }
}

fn set(object: &mut Json, name: &str, value: Json) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

/// A command that QEMU has refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The disk of the command, in words.
    pub what: String,
    /// QEMU's own words.
    pub cause: String,
}

/// Whether QEMU has carried out all commands for a disk, by what it has said.
pub fn has_served(said: &[u8], what: &str) -> bool {
    let said = String::from_utf8_lossy(said);
    let is_good = |reply: &Json| {
        reply.get("return").is_some() && reply.get("id").and_then(Json::as_str) == Some(what)
    };
    let replies = said.lines().filter_map(reply);
    replies.filter(is_good).count() >= NR_COMMANDS
}

/// The first command that QEMU has refused, by what it has said.
pub fn refusal(said: &[u8]) -> Option<Refusal> {
    let said = String::from_utf8_lossy(said);
    let mut refusals = said.lines().filter_map(|line| {
        let reply = reply(line)?;
        Some(Refusal {
            what: printable(reply.get("id")?.as_str()?),
            cause: cause(&reply)?,
        })
    });
    refusals.next()
}

/// A line of what QEMU has said, for people; `None` for a reply that says nothing.
pub(super) fn words(line: &str) -> Option<String> {
    let words = match reply(line) {
        Some(reply) => cause(&reply)?,
        None => printable(line),
    };
    Some(words).filter(|words| !words.is_empty())
}

/// The reply to a command, or an event; `None` for another line.
fn reply(line: &str) -> Option<Json> {
    let reply: Json = serde_json::from_str(line).ok()?;
    Some(reply).filter(Json::is_object)
}

fn cause(reply: &Json) -> Option<String> {
    Some(printable(reply.get("error")?.get("desc")?.as_str()?))
}

fn printable(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive() -> Drive {
        Drive {
            what: "disk `xvdb`".to_owned(),
            vdev: "xvdb".to_owned(),
            format: "qcow2",
            is_on_device: false,
            is_writable: true,
            is_cdrom: false,
            may_discard: true,
            is_direct: false,
        }
    }

    fn lines(drives: &[Drive]) -> Vec<Json> {
        let text = serve(drives);
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn qemu_opens_an_image_as_the_guest_may_use_it() {
        let all = lines(&[drive(), drive()]);
        assert_eq!(all.len(), 7);
        assert_eq!(all[0]["execute"], "qmp_capabilities");
        let [image, device] = [&all[5], &all[6]].map(|command| &command["arguments"]);
        assert_eq!(image["file"]["filename"], "/dev/fdset/2");
        assert_eq!(image["file"]["driver"], "file");
        assert_eq!(
            (&image["read-only"], &image["discard"]),
            (&json!(false), &json!("unmap"))
        );
        assert_eq!(image["file"].get("aio"), None);
        assert_eq!(image.get("backing"), Some(&Json::Null));
        assert_eq!(
            (&device["driver"], &device["vdev"]),
            (&json!("xen-disk"), &json!("xvdb"))
        );
        assert_eq!(device["drive"], image["node-name"]);
    }

    #[test]
    fn a_read_only_image_is_so_at_both_layers() {
        let all = lines(&[Drive {
            is_on_device: true,
            is_writable: false,
            is_cdrom: true,
            may_discard: false,
            is_direct: true,
            ..drive()
        }]);
        let image = &all[2]["arguments"];
        for layer in [image, &image["file"]] {
            assert_eq!(layer["read-only"], true);
            assert_eq!(layer["discard"], "ignore");
        }
        assert_eq!(image["file"]["driver"], "host_device");
        assert_eq!(image["file"]["cache"]["direct"], true);
        assert_eq!(all[3]["arguments"]["driver"], "xen-cdrom");
    }

    #[test]
    fn a_disk_is_served_once_each_of_its_commands_is_carried_out() {
        let reply = "{\"return\": {}, \"id\": \"a\"}\n";
        let other = "{\"return\": {}, \"id\": \"b\"}\nnoise\n";
        assert!(!has_served((reply.repeat(2) + other).as_bytes(), "a"));
        assert!(has_served(
            (reply.repeat(2) + other + reply).as_bytes(),
            "a"
        ));
    }

    #[test]
    fn the_error_of_a_command_is_found_and_nothing_else() {
        let good = r#"{"QMP": {"version": {}}}
            {"return": {}, "id": "a"}
            {"timestamp": {}, "event": "X"}
            qemu: warning: {"error": 1}
            {"error": {"desc": 7}, "id": "a"}
            {"error"#;
        assert_eq!(refusal(good.as_bytes()), None);
        let bad = format!(
            "{good}\n{}",
            r#"{"id": "disk `a`", "error": {"class": "G", "desc": "not\u001b this"}}"#
        );
        let found = Refusal {
            what: "disk `a`".to_owned(),
            cause: "not this".to_owned(),
        };
        assert_eq!(refusal(bad.as_bytes()), Some(found));
        let nested = "[".repeat(5000);
        assert_eq!(refusal(nested.as_bytes()), None);
        assert_eq!(words(r#"{"return": {}}"#), None);
        assert_eq!(words(" why\r"), Some("why".to_owned()));
    }
}
