//! Finds, lists and renames domains. The commands and most operations use it.
//!
//! A list costs one hypercall and one batch of xenstore reads for the names. There is no request for each single
//! domain.

use std::collections::BTreeSet;
use std::path::Path as FilePath;
use std::str::FromStr;
use std::time::Duration;

use os_port::{Files, Lock};
use serde_json::{Value, json};
use uuid::Uuid;
use xen_port::{CpuPool, DomId, DomainInfo, Hypervisor, SchedulerParams};
use xenstore::{Batch, Path, Tree};
use xl_cfg::types::VmName;

use crate::error::RequestError;
pub use crate::host::NO_NAME;
use crate::vm::names::{self, NameIndex};
pub use crate::vm::paths::uuid_text;
pub(crate) use crate::vm::paths::{has_vm_part, home, vm_path};
use crate::vm::{userdata, without_domain};
use crate::{EngineError, Host};

/// Time limit for another process to release a name.
const NAME_LIMIT: Duration = Duration::from_secs(1);

/// A domain as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainRef {
    /// Domid of the domain.
    Number(u64),
    /// By its name.
    Name(String),
    /// By its UUID.
    Uuid([u8; 16]),
}

impl DomainRef {
    /// Parses a user's text. Digits alone are a number, `uuid=...` and `uuid:...` a UUID, all else a name.
    pub fn parse(text: &str) -> DomainRef {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return DomainRef::Number(text.parse().unwrap_or(u64::MAX));
        }
        let uuid = text
            .strip_prefix("uuid=")
            .or_else(|| text.strip_prefix("uuid:"));
        match uuid.and_then(|uuid| Uuid::try_parse(uuid).ok()) {
            Some(uuid) => DomainRef::Uuid(uuid.into_bytes()),
            None => DomainRef::Name(text.to_owned()),
        }
    }
}

/// A domain that was found.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Xen's information about the domain.
    pub info: DomainInfo,
    /// Name of the domain, if the look-up needed names.
    pub name: Option<String>,
}

/// Returns all domains, ordered by domid.
pub fn list(hv: &dyn Hypervisor) -> Result<Vec<DomainInfo>, EngineError> {
    Ok(hv.domain_list()?)
}

/// Finds the domain that `asked` means.
pub fn find(
    hv: &dyn Hypervisor,
    store: &mut impl Tree,
    index: &NameIndex,
    asked: &DomainRef,
) -> Result<Domain, EngineError> {
    match asked {
        DomainRef::Number(number) => find_number(hv, *number),
        DomainRef::Uuid(handle) => find_uuid(hv, *handle),
        DomainRef::Name(name) => find_name(hv, store, index, name),
    }
}

/// Finds the domain with this domid.
pub fn find_number(hv: &dyn Hypervisor, number: u64) -> Result<Domain, EngineError> {
    let info = match u16::try_from(number) {
        Ok(domid) if domid < DomId::FIRST_RESERVED => hv.domain_info(DomId(domid))?,
        _ => None,
    };
    info.map(|info| Domain { info, name: None })
        .ok_or_else(|| EngineError::NoSuchDomain(number.to_string()))
}

/// Whether a domain has run. An undo or a recovery must not destroy such a domain, whatever its journal contains.
pub(crate) fn has_run(info: &DomainInfo) -> bool {
    !info.flags.paused || info.cpu_time_ns > 0
}

/// Finds a VM's domain that is not dying. A handle of zeros belongs to no VM, because several domains may have it.
pub(crate) fn living(hv: &dyn Hypervisor, handle: [u8; 16]) -> Result<Option<DomId>, EngineError> {
    if handle == [0; 16] {
        return Ok(None);
    }
    let lives = |info: &&DomainInfo| info.handle == handle && !info.flags.dying;
    Ok(list(hv)?.iter().find(lives).map(|info| info.domid))
}

/// Finds the domain with this UUID. A living one has priority over a dying one of the same VM.
pub fn find_uuid(hv: &dyn Hypervisor, handle: [u8; 16]) -> Result<Domain, EngineError> {
    let found = list(hv)?.into_iter().filter(|info| info.handle == handle);
    found
        .min_by_key(|info| (info.flags.dying, info.domid))
        .map(|info| Domain { info, name: None })
        .ok_or_else(|| EngineError::NoSuchDomain(format!("uuid={}", uuid_text(&handle))))
}

/// Finds the domain with this name. If several have it, which is an error elsewhere, the one with the lowest domid.
pub fn find_name(
    hv: &dyn Hypervisor,
    store: &mut impl Tree,
    index: &NameIndex,
    name: &str,
) -> Result<Domain, EngineError> {
    let infos = list(hv)?;
    let names = names::of(store, index, &infos)?;
    if let Some(domain) = named(&infos, names, name)
        && names::read(store, std::slice::from_ref(&domain.info))? == [Some(name.to_owned())]
    {
        return Ok(domain);
    }
    // The index may be behind. So all names are read from xenstore before the search fails.
    let names = names::read(store, &infos)?;
    named(&infos, names.clone(), name)
        .or_else(|| of_open_operation(index, &infos, &names, name))
        .ok_or_else(|| EngineError::NoSuchDomain(name.to_owned()))
}

/// A domain whose nodes a destroy has removed, and that has not ended: its VM's journal still says the name. Only the journals of
/// domains without a name are read.
fn of_open_operation(
    index: &NameIndex,
    infos: &[DomainInfo],
    names: &[Option<String>],
    name: &str,
) -> Option<Domain> {
    let mut nameless = infos.iter().zip(names).filter(|(_, known)| known.is_none());
    let (info, _) =
        nameless.find(|(info, _)| index.has_open_operation(Uuid::from_bytes(info.handle), name))?;
    Some(Domain {
        info: info.clone(),
        name: Some(name.to_owned()),
    })
}

fn named(infos: &[DomainInfo], names: Vec<Option<String>>, name: &str) -> Option<Domain> {
    infos
        .iter()
        .zip(names)
        .find(|(_, known)| known.as_deref() == Some(name))
        .map(|(info, name)| Domain {
            info: info.clone(),
            name,
        })
}

/// The stub domains among these domains: device models of other domains.
pub fn stub_domains(
    store: &mut impl Tree,
    infos: &[DomainInfo],
) -> Result<BTreeSet<DomId>, EngineError> {
    let targets = names::read_each(store, infos, "target")?;
    Ok(infos
        .iter()
        .zip(targets)
        .filter_map(|(info, target)| target.map(|_| info.domid))
        .collect())
}

/// Memory target of each domain in KiB, video memory included. `None` if no toolstack recorded it.
pub fn memory_targets_kib(
    store: &mut impl Tree,
    infos: &[DomainInfo],
) -> Result<Vec<Option<u64>>, EngineError> {
    let targets = names::read_each(store, infos, "memory/target")?;
    let number = |target: Option<String>| target.and_then(|text| text.parse().ok());
    Ok(targets.into_iter().map(number).collect())
}

/// Start time of each domain in seconds since 1970. `None` if no toolstack recorded it.
pub fn start_times(
    store: &mut impl Tree,
    infos: &[DomainInfo],
) -> Result<Vec<Option<u64>>, EngineError> {
    let mut batch = Batch::new();
    let indices: Vec<Option<usize>> = names::read_each(store, infos, "vm")?
        .iter()
        .map(|vm| {
            let start_time = Path::new(vm.as_ref()?).ok()?.join("start_time").ok()?;
            Some(batch.read_opt(&start_time))
        })
        .collect();
    let replies = store.run(&batch)?;
    let number = |bytes: &[u8]| u64::from_str(&decimal_part(bytes)).ok();
    Ok(indices
        .into_iter()
        .map(|index| replies.value(index?).and_then(number))
        .collect())
}

/// xl writes the seconds with a fraction.
fn decimal_part(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .map(|byte| char::from(*byte))
        .collect()
}

/// Locks a name against other processes until its new domain has it in xenstore.
pub(crate) fn reserve_name(host: &Host, name: &str) -> Result<Box<dyn Lock>, EngineError> {
    // A process that looks for leftovers holds the lock only briefly.
    reserve_name_within(host, name, NAME_LIMIT)
}

/// Like [`reserve_name`], with a time limit for another process to release the name.
pub(crate) fn reserve_name_within(
    host: &Host,
    name: &str,
    limit: Duration,
) -> Result<Box<dyn Lock>, EngineError> {
    let path = host.dirs.name_lock(name);
    let deadline = host.clock.now() + limit;
    let lock = host
        .files
        .lock(&path, Some(deadline))
        .map_err(|source| EngineError::io("lock", &path, source))?;
    lock.ok_or_else(|| EngineError::NameBusy {
        name: name.to_owned(),
    })
}

/// Refuses a name that another domain has than `own`, or another VM than `handle` that waits for its next domain. A domain that
/// Xen is still freeing has none.
pub(crate) fn refuse_taken_name(
    host: &mut Host,
    name: &str,
    own: DomId,
    handle: &[u8; 16],
) -> Result<(), EngineError> {
    let mut others = list(&*host.hv)?;
    without_domain::refuse_its_name(&host.records(), &others, name, handle)?;
    others.retain(|info| info.domid != own && !info.flags.dying);
    match names::find(&mut host.store, &others, name)? {
        Some(domid) => Err(EngineError::NameTaken {
            name: name.to_owned(),
            domid,
        }),
        None => Ok(()),
    }
}

fn refuse_bad_name(host: &Host, name: &str) -> Result<(), EngineError> {
    let rule = names::rule(&*host.files, &host.dirs)?;
    VmName::parse(name, rule).map_err(RequestError::from)?;
    Ok(())
}

/// Checks whether [`rename`] would refuse the name. Another process may still take it before the rename.
pub(crate) fn check_rename(
    host: &mut Host,
    info: &DomainInfo,
    new_name: &str,
) -> Result<(), EngineError> {
    refuse_bad_name(host, new_name)?;
    refuse_taken_name(host, new_name, info.domid, &info.handle)
}

/// Gives a domain another name, unless another domain has it.
pub fn rename(host: &mut Host, info: &DomainInfo, new_name: &str) -> Result<(), EngineError> {
    refuse_bad_name(host, new_name)?;
    let _name = reserve_name(host, new_name)?;
    let mut infos = list(&*host.hv)?;
    without_domain::refuse_its_name(&host.records(), &infos, new_name, &info.handle)?;
    // The name of a dying domain is free.
    infos.retain(|info| !info.flags.dying);
    host.store.try_transaction(|transaction| {
        refuse_removed(&*host.hv, transaction, info)?;
        let names = names::read(transaction, &infos)?;
        let taken = |(other, name): &(&DomainInfo, Option<String>)| {
            other.domid != info.domid && name.as_deref() == Some(new_name)
        };
        if let Some((other, _)) = infos.iter().zip(names).find(taken) {
            return Err(EngineError::NameTaken {
                name: new_name.to_owned(),
                domid: other.domid,
            });
        }
        let mut batch = Batch::new();
        batch.write(&home(info.domid, "name")?, new_name.as_bytes());
        if has_vm_part(info) {
            batch.write(&vm_path(info, "name")?, new_name.as_bytes());
        }
        transaction.run(&batch)?;
        Ok(())
    })
}

/// Fails if the domain was removed meanwhile. It runs inside the transaction that writes the name, so the domain
/// cannot vanish before the commit. Nodes of a removed domain would stay, or belong to a later domain.
fn refuse_removed(
    hv: &dyn Hypervisor,
    store: &mut impl Tree,
    info: &DomainInfo,
) -> Result<(), EngineError> {
    let now = hv.domain_info(info.domid)?;
    let is_same = now.is_some_and(|now| now.handle == info.handle);
    match is_same && store.exists(&Path::domain(info.domid.0))? {
        true => Ok(()),
        false => Err(EngineError::NoSuchDomain(info.domid.to_string())),
    }
}

/// A domain's configuration as `xl list -l` shows it: libxl's record, updated with values from Xen and xenstore that
/// may have changed since. `records` is where libxl's records are: the disk and its folder.
pub fn configuration(
    hv: &dyn Hypervisor,
    store: &mut impl Tree,
    records: (&dyn Files, &FilePath),
    info: &DomainInfo,
) -> Result<Value, EngineError> {
    let pools = hv.cpu_pools()?;
    let live = Live::read(store, std::slice::from_ref(info))?.pop();
    configured(hv, &pools, records, info, live.unwrap_or_default())
}

/// The configurations of several domains, in the given order, with one batch of xenstore reads and one read of the
/// pools. A domain without libxl's record has an error in its place.
///
/// # Errors
/// Those of xenstore and Xen.
pub fn configurations(
    hv: &dyn Hypervisor,
    store: &mut impl Tree,
    records: (&dyn Files, &FilePath),
    infos: &[DomainInfo],
) -> Result<Vec<Result<Value, EngineError>>, EngineError> {
    let pools = hv.cpu_pools()?;
    let lives = Live::read(store, infos)?;
    Ok(infos
        .iter()
        .zip(lives)
        .map(|(info, live)| configured(hv, &pools, records, info, live))
        .collect())
}

fn configured(
    hv: &dyn Hypervisor,
    pools: &[CpuPool],
    records: (&dyn Files, &FilePath),
    info: &DomainInfo,
    live: Live,
) -> Result<Value, EngineError> {
    let uuid = uuid_text(&info.handle);
    let mut config = libxl_record(records, info)?;
    let c_info = object(&mut config, "c_info");
    if let Some(name) = live.name {
        c_info["name"] = name.into();
    }
    // libxl omits defaults, such as domain 0's UUID of zeros.
    if info.handle != [0; 16] {
        c_info["uuid"] = uuid.into();
    }
    let b_info = object(&mut config, "b_info");
    if let Some(target_kib) = live.target_kib {
        b_info["target_memkb"] = (target_kib + live.videoram_kib).into();
    }
    if let Some(max_kib) = live.max_kib {
        b_info["max_memkb"] = max_kib.into();
    }
    if let Some(share) = share(hv, pools, info) {
        b_info["sched_params"] = share;
    }
    Ok(config)
}

/// The object under a key. It replaces a missing or different value.
fn object<'a>(config: &'a mut Value, key: &str) -> &'a mut Value {
    if !config.is_object() {
        *config = json!({});
    }
    let member = &mut config[key];
    if !member.is_object() {
        *member = json!({});
    }
    member
}

/// Reads libxl's record of a domain, without updates.
pub fn libxl_record(
    (files, xen_lib): (&dyn Files, &FilePath),
    info: &DomainInfo,
) -> Result<Value, EngineError> {
    let uuid = uuid_text(&info.handle);
    read_record(files, &userdata::json_path(xen_lib, info.domid, &uuid))
}

fn read_record(files: &dyn Files, path: &FilePath) -> Result<Value, EngineError> {
    let bad = |what: String| EngineError::Record {
        path: path.to_owned(),
        what,
    };
    let text = match files.read(path, userdata::RECORD_MAX_BYTES) {
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
            return Err(bad(format!(
                "longer than {} bytes: not a record of libxl",
                userdata::RECORD_MAX_BYTES
            )));
        }
        read => read.map_err(|source| EngineError::io("read", path, source))?,
    };
    userdata::decode_json(&text).map_err(|error| bad(format!("not JSON: {error}")))
}

/// Values that change while a domain runs.
#[derive(Default)]
struct Live {
    name: Option<String>,
    target_kib: Option<u64>,
    max_kib: Option<u64>,
    videoram_kib: u64,
}

impl Live {
    /// Reads the values of each domain, in one batch.
    fn read(store: &mut impl Tree, infos: &[DomainInfo]) -> Result<Vec<Live>, EngineError> {
        let mut batch = Batch::new();
        let mut indices = Vec::with_capacity(infos.len());
        for info in infos {
            let mut read = |node| Ok::<_, EngineError>(batch.read_opt(&home(info.domid, node)?));
            indices.push((
                read("name")?,
                read("memory/target")?,
                read("memory/static-max")?,
                read("memory/videoram")?,
            ));
        }
        let replies = store.run(&batch)?;
        let text = |index| {
            let bytes: &[u8] = replies.value(index)?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let number = |index| text(index)?.parse().ok();
        Ok(indices
            .into_iter()
            .map(|(name, target, max, videoram)| Live {
                name: text(name),
                target_kib: number(target),
                max_kib: number(max),
                videoram_kib: number(videoram).unwrap_or(0),
            })
            .collect())
    }
}

/// A domain's CPU share as libxl writes it. `None` if the scheduler has no shares.
fn share(hv: &dyn Hypervisor, pools: &[CpuPool], info: &DomainInfo) -> Option<Value> {
    let pool = pools.iter().find(|pool| pool.id == info.cpupool)?;
    let name = pool.scheduler.name();
    match hv.scheduler_params(info.domid, pool.scheduler) {
        Ok(SchedulerParams::Credit { weight, cap } | SchedulerParams::Credit2 { weight, cap }) => {
            Some(json!({"sched": name, "weight": weight, "cap": cap}))
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use xen_sim::model::Model;
    use xenstore::mem::MemStore;

    use super::*;
    use crate::Dirs;
    use crate::testing::pv_request;
    use os_port::{SystemClock, SystemFiles, SystemProcess};

    /// A host with two domains, `web` and one without a name.
    fn host() -> (Model, MemStore, DomId, DomId) {
        let hv = Model::new(64);
        let web = hv.create_domain(&pv_request([1; 16])).unwrap();
        let nameless = hv.create_domain(&pv_request([2; 16])).unwrap();
        let store = MemStore::new();
        let mut client = store.client(0).unwrap();
        client.write(&home(web, "name").unwrap(), b"web").unwrap();
        client.mkdir(&Path::domain(nameless.0)).unwrap();
        (hv, store, web, nameless)
    }

    #[test]
    fn digits_are_a_number_and_uuids_are_told() {
        assert_eq!(DomainRef::parse("12"), DomainRef::Number(12));
        assert_eq!(DomainRef::parse("12a"), DomainRef::Name("12a".to_owned()));
        assert_eq!(DomainRef::parse(""), DomainRef::Name(String::new()));
        let uuid = uuid_text(&[1; 16]);
        assert_eq!(
            DomainRef::parse(&format!("uuid={uuid}")),
            DomainRef::Uuid([1; 16])
        );
        assert_eq!(
            DomainRef::parse("uuid=no"),
            DomainRef::Name("uuid=no".to_owned())
        );
        assert_eq!(
            DomainRef::parse("99999999999999999999999"),
            DomainRef::Number(u64::MAX)
        );
    }

    #[test]
    fn domains_are_found_by_name_number_and_uuid() {
        let (hv, store, web, nameless) = host();
        let mut client = store.client(0).unwrap();
        let dirs = Dirs::below(FilePath::new("/nowhere"));
        let index = NameIndex::new(&SystemFiles, &SystemClock, &SystemProcess, &dirs);
        let mut find = |text: &str| {
            super::find(&hv, &mut client, &index, &DomainRef::parse(text))
                .map(|domain| domain.info.domid)
        };
        assert_eq!(find("web").unwrap(), web);
        assert_eq!(find(&web.to_string()).unwrap(), web);
        assert_eq!(
            find(&format!("uuid={}", uuid_text(&[2; 16]))).unwrap(),
            nameless
        );
        for absent in [
            "nobody",
            "77",
            "65535",
            "99999999999",
            "uuid=00000000000000000000000000000000",
        ] {
            assert!(
                matches!(find(absent), Err(EngineError::NoSuchDomain(_))),
                "{absent}"
            );
        }
    }

    #[test]
    fn names_cost_one_round_trip() {
        let (hv, store, _, _) = host();
        let mut client = store.client(0).unwrap();
        let names = names::read(&mut client, &list(&hv).unwrap()).unwrap();
        assert_eq!(names, [Some("web".to_owned()), None]);
        assert_eq!(client.stats().round_trips, 1);
    }

    #[test]
    fn a_name_that_is_taken_or_unfit_is_refused() {
        let (hv, store, web, nameless) = host();
        let info = |domid| hv.domain_info(domid).unwrap().unwrap();
        let (of_web, of_nameless) = (info(web), info(nameless));
        let folder = tempfile::tempdir().unwrap();
        let dirs = crate::Dirs::below(folder.path());
        let policy = dirs.policy.clone();
        let mut host = Host::new(Box::new(hv), store.client(0).unwrap(), dirs);
        let mut rename = |info: &DomainInfo, name: &str| super::rename(&mut host, info, name);

        let taken = rename(&of_nameless, "web").unwrap_err();
        assert!(matches!(taken, EngineError::NameTaken { domid, .. } if domid == web));
        let long = "x".repeat(201);
        for unfit in ["", "a\nb", "a/b", "..", "17", "uuid=x", "a b", "-x", &long] {
            let error = rename(&of_nameless, unfit).unwrap_err();
            assert!(
                matches!(error, EngineError::Control(RequestError::BadName(_))),
                "{unfit:?}: {error}"
            );
        }
        std::fs::create_dir_all(policy.parent().unwrap()).unwrap();
        std::fs::write(&policy, "version = 1\n[names]\nallow = \"any\"\n").unwrap();
        rename(&of_nameless, "my guest").unwrap();
        assert!(rename(&of_nameless, "a/b").is_err());
        rename(&of_nameless, "db").unwrap();
        rename(&of_web, "web").unwrap();

        let reserved = reserve_name(&host, "new").unwrap();
        let busy = super::rename(&mut host, &of_web, "new").unwrap_err();
        assert!(matches!(busy, EngineError::NameBusy { .. }));
        drop(reserved);
        let mut client = store.client(0).unwrap();
        let mut read = |path: Path| client.read_text(&path).unwrap();
        assert_eq!(read(home(nameless, "name").unwrap()), "db");
        assert_eq!(read(vm_path(&of_nameless, "name").unwrap()), "db");
        assert_eq!(read(home(web, "name").unwrap()), "web");
    }

    #[test]
    fn starts_and_stub_domains_are_read_where_they_are_recorded() {
        let (hv, store, web, nameless) = host();
        let mut client = store.client(0).unwrap();
        let vm = format!("/vm/{}", uuid_text(&[1; 16]));
        client
            .write(&home(web, "vm").unwrap(), vm.as_bytes())
            .unwrap();
        client
            .write(
                &Path::new(&format!("{vm}/start_time")).unwrap(),
                b"1700000000.25",
            )
            .unwrap();
        client
            .write(&home(nameless, "vm").unwrap(), b"no path!")
            .unwrap();
        client
            .write(&home(nameless, "target").unwrap(), b"1")
            .unwrap();
        let infos = list(&hv).unwrap();
        assert_eq!(
            start_times(&mut client, &infos).unwrap(),
            [Some(1_700_000_000), None]
        );
        assert_eq!(
            stub_domains(&mut client, &infos).unwrap(),
            [nameless].into()
        );
    }

    #[test]
    fn a_record_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        std::fs::write(&path, b"{\"c_info\": {}}\0").unwrap();
        assert_eq!(
            read_record(&SystemFiles, &path).unwrap(),
            json!({"c_info": {}})
        );
        // The second one would be JSON, if it were shorter.
        let mut long = vec![b' '; userdata::RECORD_MAX_BYTES as usize];
        long.extend(b"{}");
        for bytes in [b"not json".to_vec(), long] {
            std::fs::write(&path, bytes).unwrap();
            let error = read_record(&SystemFiles, &path).unwrap_err();
            assert!(matches!(error, EngineError::Record { .. }), "{error}");
        }
    }

    #[test]
    fn a_domain_without_a_uuid_gets_no_nodes_of_one() {
        let hv = Model::new(64);
        let domid = hv.create_domain(&pv_request([0; 16])).unwrap();
        let info = hv.domain_info(domid).unwrap().unwrap();
        let store = MemStore::new();
        let folder = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(folder.path());
        let mut host = Host::new(Box::new(hv), store.client(0).unwrap(), dirs);
        host.store.mkdir(&Path::domain(domid.0)).unwrap();
        rename(&mut host, &info, "new").unwrap();
        let name = host.store.read_text(&home(domid, "name").unwrap());
        assert_eq!(name.unwrap(), "new");
        let vm = Path::new("/vm").unwrap();
        assert!(host.store.directory(&vm).is_err());
    }
}
