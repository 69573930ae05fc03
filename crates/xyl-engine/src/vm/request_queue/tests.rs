//! Files of the queue that a process has left unfinished, and replies that cannot be read.

use os_port::mem::VirtualClock;
use std::rc::Rc;
use xen_sim::model::Model;
use xenstore::mem::MemStore;

use super::*;

const VM: Uuid = Uuid::from_bytes([7; 16]);

struct Place {
    host: Host,
    _folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let store = MemStore::new().client(0).unwrap();
        let dirs = Dirs::below(folder.path());
        let mut host = Host::new(Box::new(Model::new(64)), store, dirs);
        host.clock = Rc::new(VirtualClock::new());
        Place {
            host,
            _folder: folder,
        }
    }

    fn queue(&self) -> RequestQueue<'_> {
        RequestQueue::of(&self.host, VM)
    }

    fn write(&self, path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect()
    }
}

fn id(nr: u64) -> RequestId {
    RequestId::new(nr, [0; 16])
}

#[test]
fn an_unfinished_request_of_an_earlier_process_with_the_same_pid_is_left_over() {
    let place = Place::new();
    let own = ProcessId::own(&*place.host.process);
    let earlier = ProcessId {
        started_ticks: own.started_ticks.map(|ticks| ticks - 1),
        ..own
    };
    let of_pid = ProcessId {
        started_ticks: None,
        ..own
    };
    for (writer, is_writing) in [(earlier, false), (own, true), (of_pid, true)] {
        let name = unfinished_name(id(1), writer);
        let path = place.host.dirs.requests(VM).join(&name);
        place.write(&path, "{");
        let process = &*place.host.process;
        let is_added = place.queue().is_being_added_to(process).unwrap();
        assert_eq!(is_added, is_writing, "{name}");
        place.queue().remove_unfinished(process).unwrap();
        assert_eq!(path.exists(), is_writing, "{name}");
        let _ = std::fs::remove_file(path);
    }
}

#[test]
fn a_damaged_reply_is_moved_and_one_of_a_later_version_stays() {
    let place = Place::new();
    let (damaged, later) = (id(1), id(2));
    place.write(&place.queue().reply_path(damaged), "no reply");
    place.write(&place.queue().reply_path(later), "{\"version\": 99}");
    remove_old_replies(&place.host, None).unwrap();
    let name = format!("{VM}.{damaged}.json");
    let aside = place.host.dirs.damaged().join(&name);
    assert_eq!(std::fs::read_to_string(aside).unwrap(), "no reply");
    assert_eq!(vm_of_reply(&name), Some(VM));
    let left = Place::names_in(&place.host.dirs.replies());
    assert_eq!(left, [format!("{VM}.{later}.json")]);
}

#[test]
fn a_damaged_reply_that_is_fetched_is_moved() {
    let place = Place::new();
    place.write(&place.queue().reply_path(id(1)), "no reply");
    let fetched = place.queue().fetch(id(1));
    assert!(
        matches!(fetched, Err(EngineError::Request(_))),
        "{fetched:?}"
    );
    assert_eq!(Place::names_in(&place.host.dirs.damaged()).len(), 1);
    assert_eq!(place.queue().fetch(id(1)).unwrap(), None);
    place.write(&place.queue().reply_path(id(2)), "{\"version\": 99}");
    assert!(place.queue().fetch(id(2)).is_err());
    assert!(place.queue().reply_path(id(2)).exists());
}

#[test]
fn a_fetched_reply_takes_a_request_with_it_whose_monitor_died_before_it_removed_that() {
    let place = Place::new();
    let queue = place.queue();
    for asker in [
        Asker::Process {
            pid: 1,
            started_ticks: None,
        },
        Asker::Remote {
            name: "api".to_owned(),
        },
    ] {
        place.write(&queue.started_path(id(1)), "{}");
        let reply = Reply::new(id(1), VM, 0, Ok(xyl_api::Done::Plain)).to(asker);
        queue.reply(&reply).unwrap();
        assert_eq!(queue.fetch(id(1)).unwrap(), Some(reply));
        assert!(!queue.started_path(id(1)).exists());
    }
}

#[test]
fn names_of_replies_are_recognised() {
    let name = |end: &str| format!("{VM}.{}{end}", id(1));
    for (text, is_reply) in [
        (name(".json"), true),
        (name(".fetched.json"), true),
        (name(".new"), false),
        (VM.to_string(), false),
        ("x.json".to_owned(), false),
    ] {
        assert_eq!(vm_of_reply(&text).is_some(), is_reply, "{text}");
    }
}
