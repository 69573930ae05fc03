//! Domains' names, which live in xenstore, and an index of them.
//!
//! xenstored takes time for each request, and the more the more domains there are: a host with hundreds
//! of them would pay for all their names at each list and each create. So the process that watches
//! over a VM keeps its name in one file, `/run/xyl/names`, too: it puts it there when its watch on the
//! name's node stands, and again whenever the node changes, whoever changed it. An entry counts
//! while that process lives and the domain is still the one it speaks of; all other names are read
//! from xenstore. So the index saves requests and decides nothing by itself: a name that `xl rename`
//! changes is the new one as soon as its watcher has been woken.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use os_port::{Clock, Files, Process, list_if_there};
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

/// Largest index that is read, in bytes: room for more domains than Xen can have.
const INDEX_MAX_BYTES: u64 = 8 << 20;
/// From this size on, an index is looked at for lines that have had their day, in bytes.
const TIDY_FROM_BYTES: usize = 64 << 10;
/// How long another process may take to put a name in.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// Which names new VMs may have on this host, by its policy.
///
/// # Errors
/// The policy cannot be read, or is none.
pub fn rule(files: &dyn Files, dirs: &Dirs) -> Result<NameRule, EngineError> {
    Ok(match Policy::load(files, &dirs.policy)?.names {
        NamesAllowed::Strict => NameRule::Strict,
        NamesAllowed::Any => NameRule::Any,
    })
}

/// The names of domains, in the order given, as xenstore knows them, in one batch of requests; `None`
/// for a domain that it does not know.
pub fn read(
    store: &mut impl Tree,
    infos: &[DomainInfo],
) -> Result<Vec<Option<String>>, EngineError> {
    read_each(store, infos, "name")
}

/// The names of domains, in the order given: from the index, and from xenstore where it has none.
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

/// A domain's name as the host's files have it: the index, or else libxl's record, which a rename may have left behind.
/// For journals alone, for which xenstored is not asked. Nothing where no file tells.
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

/// The first of the domains that has the name, by xenstore alone: whether a name is free is decided by this, and the index
/// may be behind where a monitor is stopped or busy.
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

/// One node of each domain's home, in one batch.
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

/// The file with the names of domains that are watched over: lines of `DOMID UUID PID NAME`, the last
/// one of a domain being the one that counts. A name of nothing takes the earlier ones back.
#[derive(Clone, Copy)]
pub struct NameIndex<'h> {
    files: &'h dyn Files,
    clock: &'h dyn Clock,
    process: &'h dyn Process,
    dirs: &'h Dirs,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    domid: DomId,
    uuid: Uuid,
    /// Who watches over the name.
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

    /// The VM of this name on which an operation is open, by the VMs' journals. Its domain may have lost its name in
    /// xenstore to that operation.
    pub(crate) fn open_operation_on(&self, name: &str) -> Option<Uuid> {
        let vms = list_if_there(self.files, &self.dirs.vms_run()).ok()?;
        let mut uuids = vms.iter().filter_map(|vm| Uuid::try_parse(vm).ok());
        uuids.find(|uuid| {
            let contents = xyl_saga::load(self.files, &self.dirs.journal(*uuid));
            let past = contents.as_ref().map(Past::of).unwrap_or_default();
            past.under_way().is_some_and(|open| open.begin.name == name)
        })
    }

    /// Puts a domain's name in, as long as the calling process lives; a name of nothing takes it out.
    pub fn put(&self, domid: DomId, uuid: Uuid, name: &str) -> Result<(), EngineError> {
        let path = self.path();
        let failed = |source| EngineError::io("write", &path, source);
        let deadline = self.clock.now() + LOCK_LIMIT;
        let lock = self
            .files
            .lock(&path.with_extension("lock"), Some(deadline));
        // Without the lock nothing is lost but time: the name is read from xenstore.
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

    /// The names that count, in the order of the domains.
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

    /// The whole index. One that cannot be read is as good as an empty one.
    fn text(&self) -> String {
        let bytes = self.files.read(&self.path(), INDEX_MAX_BYTES);
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    /// Leaves the lines that count still, once there are many. The lock is held.
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
    /// A line with its end: one without is still being written.
    fn parse(line: &str) -> Option<Entry> {
        let mut words = line.strip_suffix('\n')?.splitn(4, ' ');
        Some(Entry {
            domid: DomId(words.next()?.parse().ok()?),
            uuid: Uuid::from_str(words.next()?).ok()?,
            watcher: words.next()?.parse().ok()?,
            name: words.next()?.to_owned(),
        })
    }

    /// A name that is no text of one line is left to xenstore.
    fn line(&self) -> String {
        let name = if self.name.chars().any(char::is_control) {
            ""
        } else {
            &self.name
        };
        format!("{} {} {} {name}\n", self.domid, self.uuid, self.watcher)
    }

    /// The last entry of each domain, unless that takes the name back.
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
    /// What a search for a domain needs: the hypervisor, xenstore, and the index of the names in it.
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
        // The monitor is stopped, and has not seen the new name.
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
        // Another domain has got the number; the name was taken back; it cannot stand in a line.
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
