//! Names of domains in xenstore, and an index of them on disk.
//!
//! With hundreds of domains, reading all names from xenstored slows down each list and each create. So a VM's monitor
//! also writes the domain's name to the file `/run/xyl/names`. It does so after it has set a watch on the name's
//! node, and again after each change of the node by any program.
//!
//! An entry is valid while the monitor lives and the domid belongs to the same UUID. All other names are read from
//! xenstore. The index only saves requests. After `xl rename`, it has the new name as soon as the monitor has handled
//! the watch event.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use os_port::{Clock, Files, Process};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, Hypervisor};
use xenstore::{Batch, Client, Tree};
use xl_cfg::types::NameRule;
use xyl_audit::Policy;
use xyl_audit::policy::NamesAllowed;
use xyl_saga::Past;

use crate::vm::paths::{home, uuid_text};
use crate::vm::userdata;
use crate::{Dirs, EngineError, Host};

/// Maximum number of bytes that are read of the index: room for more domains than Xen can have.
const INDEX_MAX_BYTES: u64 = 8 << 20;
/// Size in bytes from which an index is compacted.
const TIDY_FROM_BYTES: usize = 64 << 10;
/// Time limit for another process that writes to the index.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// The rule of the host's policy for names of new VMs.
///
/// # Errors
/// The policy cannot be read or is invalid.
pub fn rule(files: &dyn Files, dirs: &Dirs) -> Result<NameRule, EngineError> {
    Ok(match Policy::load(files, &dirs.policy)?.names {
        NamesAllowed::Strict => NameRule::Strict,
        NamesAllowed::Any => NameRule::Any,
    })
}

/// Reads names from xenstore in one batch, in the order of `infos`. `None` for a domain without a name.
pub fn read(
    store: &mut impl Tree,
    infos: &[DomainInfo],
) -> Result<Vec<Option<String>>, EngineError> {
    read_each(store, infos, "name")
}

/// Names in the order of `infos`: from the index, or else from xenstore.
pub fn of(
    store: &mut impl Tree,
    index: &NameIndex,
    infos: &[DomainInfo],
) -> Result<Vec<Option<String>>, EngineError> {
    let mut names = index.names(infos);
    let unknown: Vec<DomainInfo> = infos
        .iter()
        .zip(&names)
        .filter(|(_, name)| name.is_none())
        .map(|(info, _)| info.clone())
        .collect();
    if unknown.is_empty() {
        return Ok(names);
    }
    let mut found = read(store, &unknown)?.into_iter();
    for name in names.iter_mut().filter(|name| name.is_none()) {
        *name = found.next().flatten();
    }
    Ok(names)
}

/// Name of a domain from the host's files: the index, or libxl's record, which may be older than a rename.
///
/// Only journals use it, because it makes no request to xenstored. Empty if no file has a name.
pub(crate) fn on_disk(host: &Host, info: &DomainInfo) -> String {
    let index = NameIndex::new(&*host.files, &*host.clock, &*host.process, &host.dirs);
    let indexed = index.names(std::slice::from_ref(info)).pop().flatten();
    indexed.or_else(|| recorded(host, info)).unwrap_or_default()
}

fn recorded(host: &Host, info: &DomainInfo) -> Option<String> {
    let uuid = uuid_text(&info.handle);
    let read = userdata::read_json(&*host.files, &host.dirs.xen_lib, info.domid, &uuid);
    let record = read.ok()?;
    Some(record.get("c_info")?.get("name")?.as_str()?.to_owned())
}

/// Finds the first domain with the name, from xenstore alone. The index cannot decide whether a name is free, because
/// a stopped or busy monitor has not updated it.
pub fn find(
    store: &mut impl Tree,
    infos: &[DomainInfo],
    name: &str,
) -> Result<Option<DomId>, EngineError> {
    let names = read(store, infos)?;
    let found = infos
        .iter()
        .zip(names)
        .find(|(_, known)| known.as_deref() == Some(name));
    Ok(found.map(|(info, _)| info.domid))
}

/// Reads one node of each domain's home, in one batch.
pub(crate) fn read_each(
    store: &mut impl Tree,
    infos: &[DomainInfo],
    node: &str,
) -> Result<Vec<Option<String>>, EngineError> {
    let mut batch = Batch::new();
    let mut indices = Vec::with_capacity(infos.len());
    for info in infos {
        indices.push(batch.read_opt(&home(info.domid, node)?));
    }
    let replies = store.run(&batch)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(indices
        .into_iter()
        .map(|index| replies.value(index).map(text))
        .collect())
}

/// The index: a file with lines of `DOMID UUID PID NAME` for supervised domains. The last line of a domain is valid.
/// A line with an empty name deletes the domain's entry.
#[derive(Clone, Copy)]
pub struct NameIndex<'h> {
    files: &'h dyn Files,
    clock: &'h dyn Clock,
    process: &'h dyn Process,
    dirs: &'h Dirs,
}

/// One line of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    domid: DomId,
    uuid: Uuid,
    /// Process ID of the monitor that keeps the name up to date.
    watcher: u32,
    name: String,
}

impl<'h> NameIndex<'h> {
    /// The index of a host with these folders.
    pub fn new(
        files: &'h dyn Files,
        clock: &'h dyn Clock,
        process: &'h dyn Process,
        dirs: &'h Dirs,
    ) -> NameIndex<'h> {
        NameIndex {
            files,
            clock,
            process,
            dirs,
        }
    }

    /// Whether an operation is open on a VM of this name and UUID, by the VM's journal. Its domain may have lost its name in
    /// xenstore to that operation.
    pub(crate) fn has_open_operation(&self, uuid: Uuid, name: &str) -> bool {
        let contents = xyl_saga::load(self.files, &self.dirs.journal(uuid));
        let past = contents.as_ref().map(Past::of).unwrap_or_default();
        past.under_way().is_some_and(|open| open.begin.name == name)
    }

    /// Writes a domain's name, valid while the calling process lives. An empty name deletes the entry.
    pub fn put(&self, domid: DomId, uuid: Uuid, name: &str) -> Result<(), EngineError> {
        let path = self.path();
        let failed = |source| EngineError::io("write", &path, source);
        let deadline = self.clock.now() + LOCK_LIMIT;
        let lock = self
            .files
            .lock(&path.with_extension("lock"), Some(deadline));
        // Without the lock the entry is not written. Then the name is read from xenstore.
        let Some(_lock) = lock.map_err(failed)? else {
            return Ok(());
        };
        let line = Entry {
            domid,
            uuid,
            watcher: self.process.id(),
            name: name.to_owned(),
        }
        .line();
        let mut file = self.files.append_to(&path).map_err(failed)?;
        file.append(line.as_bytes()).map_err(failed)?;
        self.tidy()
    }

    fn path(&self) -> PathBuf {
        self.dirs.run.join("names")
    }

    /// The valid names, in the order of `infos`.
    fn names(&self, infos: &[DomainInfo]) -> Vec<Option<String>> {
        let mut entries = Entry::last_of_each(&self.text());
        infos
            .iter()
            .map(|info| {
                let entry = entries.remove(&info.domid)?;
                let counts = entry.uuid.as_bytes() == &info.handle && self.is_watched(&entry);
                counts.then_some(entry.name)
            })
            .collect()
    }

    /// Text of the index. Empty if it cannot be read.
    fn text(&self) -> String {
        let bytes = self.files.read(&self.path(), INDEX_MAX_BYTES);
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    /// Removes lines that are no longer valid from a large index. The caller holds the lock.
    fn tidy(&self) -> Result<(), EngineError> {
        let text = self.text();
        if text.len() < TIDY_FROM_BYTES {
            return Ok(());
        }
        self.rewrite(&text)
    }

    fn rewrite(&self, text: &str) -> Result<(), EngineError> {
        let entries = Entry::last_of_each(text);
        let lines: String = entries
            .values()
            .filter(|entry| self.is_watched(entry))
            .map(Entry::line)
            .collect();
        let (path, new) = (self.path(), self.path().with_extension("new"));
        self.files
            .write(&new, lines.as_bytes())
            .and_then(|()| self.files.rename(&new, &path))
            .map_err(|source| EngineError::io("write", &path, source))
    }

    fn is_watched(&self, entry: &Entry) -> bool {
        self.process.is_running(entry.watcher)
    }
}

impl Entry {
    /// Parses a line with its newline. A line without one is still being written.
    fn parse(line: &str) -> Option<Entry> {
        let mut words = line.strip_suffix('\n')?.splitn(4, ' ');
        Some(Entry {
            domid: DomId(words.next()?.parse().ok()?),
            uuid: Uuid::from_str(words.next()?).ok()?,
            watcher: words.next()?.parse().ok()?,
            name: words.next()?.to_owned(),
        })
    }

    /// Formats the line. A name with a newline is written as empty, so that xenstore is asked.
    fn line(&self) -> String {
        let name = if self.name.chars().any(char::is_control) {
            ""
        } else {
            &self.name
        };
        format!("{} {} {} {name}\n", self.domid, self.uuid, self.watcher)
    }

    /// The last entry of each domain, without deleted ones.
    fn last_of_each(text: &str) -> HashMap<DomId, Entry> {
        let mut entries: HashMap<DomId, Entry> = text
            .split_inclusive('\n')
            .filter_map(Entry::parse)
            .map(|entry| (entry.domid, entry))
            .collect();
        entries.retain(|_, entry| !entry.name.is_empty());
        entries
    }
}

impl Host {
    /// The parts that a search for a domain needs: the hypervisor, xenstore, and the name index.
    pub fn directory(&mut self) -> (&dyn Hypervisor, &mut Client, NameIndex<'_>) {
        let index = NameIndex::new(&*self.files, &*self.clock, &*self.process, &self.dirs);
        (&*self.hv, &mut self.store, index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use os_port::{SystemClock, SystemFiles, SystemProcess};
    use xen_sim::model::Model;
    use xenstore::mem::MemStore;

    const UUID: Uuid = Uuid::from_bytes([7; 16]);

    fn info(domid: u16, handle: Uuid) -> DomainInfo {
        DomainInfo {
            domid: DomId(domid),
            handle: *handle.as_bytes(),
            ..DomainInfo::default()
        }
    }

    struct Folder {
        _root: tempfile::TempDir,
        dirs: Dirs,
    }

    impl Folder {
        fn new() -> Folder {
            let root = tempfile::tempdir().unwrap();
            let dirs = Dirs::below(root.path());
            Folder { _root: root, dirs }
        }

        fn index(&self) -> NameIndex<'_> {
            NameIndex::new(&SystemFiles, &SystemClock, &SystemProcess, &self.dirs)
        }

        fn append(&self, bytes: &[u8]) {
            let path = self.index().path();
            SystemFiles.create_folder(path.parent().unwrap()).unwrap();
            SystemFiles.append_to(&path).unwrap().append(bytes).unwrap();
        }
    }

    #[test]
    fn a_watched_name_costs_no_request() {
        let folder = Folder::new();
        let index = folder.index();
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        index.put(DomId(3), UUID, "old").unwrap();
        index.put(DomId(3), UUID, "web server").unwrap();
        let infos = [info(3, UUID)];
        let names = of(&mut client, &index, &infos).unwrap();
        assert_eq!(names, [Some("web server".to_owned())]);
        assert_eq!(client.stats().requests, 0);
    }

    #[test]
    fn an_index_that_is_behind_decides_nothing() {
        let folder = Folder::new();
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        // The monitor is stopped, so the index still has the old name.
        folder.index().put(DomId(3), UUID, "old").unwrap();
        let path = home(DomId(3), "name").unwrap();
        client.write(&path, b"new").unwrap();
        let infos = [info(3, UUID)];
        assert_eq!(find(&mut client, &infos, "old").unwrap(), None);
        assert_eq!(find(&mut client, &infos, "new").unwrap(), Some(DomId(3)));
    }

    #[test]
    fn other_names_are_read_from_xenstore() {
        let folder = Folder::new();
        let index = folder.index();
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        for domid in 1..=4 {
            let path = home(DomId(domid), "name").unwrap();
            client.write(&path, format!("n{domid}").as_bytes()).unwrap();
        }
        index.put(DomId(1), UUID, "watched").unwrap();
        // The domid belongs to another VM; the entry was deleted; the name does not fit in a line.
        index.put(DomId(2), Uuid::from_bytes([8; 16]), "b").unwrap();
        index.put(DomId(3), UUID, "c").unwrap();
        index.put(DomId(3), UUID, "").unwrap();
        index.put(DomId(4), UUID, "d\n4 x").unwrap();
        let before = client.stats().requests;
        let infos = [1, 2, 3, 4].map(|domid| info(domid, UUID));
        let names = of(&mut client, &index, &infos).unwrap();
        let texts: Vec<&str> = names.iter().flatten().map(String::as_str).collect();
        assert_eq!(texts, ["watched", "n2", "n3", "n4"]);
        assert_eq!(client.stats().requests - before, 3);
    }

    #[test]
    fn the_entry_of_a_dead_watcher_does_not_count() {
        let folder = Folder::new();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let line = format!("5 {UUID} {} stale\n6 {UUID} 1 torn", child.id());
        folder.append(line.as_bytes());
        let infos = [info(5, UUID), info(6, UUID)];
        assert_eq!(folder.index().names(&infos), [None, None]);
    }

    #[test]
    fn a_journal_has_the_name_from_the_files() {
        let folder = Folder::new();
        let store = MemStore::new().client(0).unwrap();
        let host = Host::new(Box::new(Model::new(64)), store, folder.dirs.clone());
        let info = info(4, UUID);
        assert_eq!(on_disk(&host, &info), "");
        let path = userdata::json_path(&folder.dirs.xen_lib, info.domid, &UUID.to_string());
        SystemFiles.create_folder(path.parent().unwrap()).unwrap();
        for (record, wanted) in [
            ("{", ""),
            ("{\"c_info\": {\"name\": \"of xyl\"}}", "of xyl"),
            ("{\"c_info\": {\"name\": \"of xl\"}}\0", "of xl"),
        ] {
            std::fs::write(&path, record).unwrap();
            assert_eq!(on_disk(&host, &info), wanted);
        }
        folder.index().put(info.domid, UUID, "renamed").unwrap();
        assert_eq!(on_disk(&host, &info), "renamed");
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        let folder = Folder::new();
        assert_eq!(folder.index().names(&[info(1, UUID)]), [None]);
        folder.append(b"\xff\xfe\n1\n1 2 3 4\n\n -1 x\n");
        assert_eq!(folder.index().names(&[info(1, UUID)]), [None]);
    }

    #[test]
    fn old_lines_are_tidied_away() {
        let folder = Folder::new();
        let index = folder.index();
        let name = "n".repeat(1000);
        for _ in 0..200 {
            index.put(DomId(1), UUID, &name).unwrap();
        }
        index.put(DomId(2), UUID, "other").unwrap();
        assert!(index.text().len() <= TIDY_FROM_BYTES + 2000);
        let names = index.names(&[info(1, UUID), info(2, UUID)]);
        assert_eq!(names, [Some(name), Some("other".to_owned())]);
    }
}
