//! The domains there are: listing, looking up, naming.
//!
//! A list costs one hypercall, and one batch of xenstore reads for the names: never a request for
//! each domain.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path as FilePath;
use std::str::FromStr;

use serde_json::{Value, json};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, Hypervisor, SchedulerParams};
use xenstore::{Batch, Client, Path, Tree};

use crate::control_error::ControlError;
use crate::{EngineError, userdata};

/// What stands in a table for the name of a domain that xenstore does not know, as in xl's.
pub const NO_NAME: &str = "(null)";

/// Largest libxl record that is read, in bytes. Those of xl are a few KiB.
const RECORD_MAX: u64 = 1 << 20;

/// How an operator names a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainRef {
    /// By its number.
    Number(u64),
    /// By its name.
    Name(String),
    /// By its UUID.
    Uuid([u8; 16]),
}

impl DomainRef {
    /// Digits alone are a number, `uuid=...` and `uuid:...` a UUID, all else a name.
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

/// A UUID's 16 bytes in the usual form.
pub fn uuid_text(handle: &[u8; 16]) -> String {
    Uuid::from_bytes(*handle).hyphenated().to_string()
}

/// A domain that was asked for.
#[derive(Clone, Debug)]
pub struct Domain {
    /// What Xen knows of it.
    pub info: DomainInfo,
    /// Its name, where the look-up needed one.
    pub name: Option<String>,
}

/// All domains, in the order of their numbers.
pub fn list(hv: &dyn Hypervisor) -> Result<Vec<DomainInfo>, EngineError> {
    Ok(hv.domain_list()?)
}

/// Finds the domain with a number.
pub fn find_number(hv: &dyn Hypervisor, number: u64) -> Result<Domain, EngineError> {
    let info = match u16::try_from(number) {
        Ok(domid) if domid < DomId::FIRST_RESERVED => hv.domain_info(DomId(domid))?,
        _ => None,
    };
    info.map(|info| Domain { info, name: None })
        .ok_or_else(|| EngineError::NoSuchDomain(number.to_string()))
}

/// Finds the domain with a UUID.
pub fn find_uuid(hv: &dyn Hypervisor, handle: [u8; 16]) -> Result<Domain, EngineError> {
    list(hv)?
        .into_iter()
        .find(|info| info.handle == handle)
        .map(|info| Domain { info, name: None })
        .ok_or_else(|| EngineError::NoSuchDomain(format!("uuid={}", uuid_text(&handle))))
}

/// Finds the domain with a name. Of several, which should not be, the one with the lowest number.
pub fn find_name(
    hv: &dyn Hypervisor,
    store: &mut impl Tree,
    name: &str,
) -> Result<Domain, EngineError> {
    let infos = list(hv)?;
    let names = names(store, &infos)?;
    infos
        .into_iter()
        .zip(names)
        .find(|(_, known)| known.as_deref() == Some(name))
        .map(|(info, name)| Domain { info, name })
        .ok_or_else(|| EngineError::NoSuchDomain(name.to_owned()))
}

/// The names of domains, in the order given; `None` for one that xenstore does not know.
pub fn names(
    store: &mut impl Tree,
    infos: &[DomainInfo],
) -> Result<Vec<Option<String>>, EngineError> {
    read_each(store, infos, "name")
}

/// Those of the domains that are stub domains: device models of other domains.
pub fn stub_domains(
    store: &mut impl Tree,
    infos: &[DomainInfo],
) -> Result<BTreeSet<DomId>, EngineError> {
    let targets = read_each(store, infos, "target")?;
    Ok(infos
        .iter()
        .zip(targets)
        .filter_map(|(info, target)| target.map(|_| info.domid))
        .collect())
}

/// When each domain was started, in seconds since 1970, where that was recorded.
pub fn start_times(
    store: &mut impl Tree,
    infos: &[DomainInfo],
) -> Result<Vec<Option<u64>>, EngineError> {
    let mut batch = Batch::new();
    let indices: Vec<Option<usize>> = read_each(store, infos, "vm")?
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

/// One node of each domain's home, in one batch.
fn read_each(
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

/// A path below a domain's home in xenstore.
pub(crate) fn home(domid: DomId, relative: &str) -> Result<Path, EngineError> {
    Ok(Path::domain(domid.0)
        .join(relative)
        .map_err(xenstore::Error::from)?)
}

/// A path below a VM's own part of xenstore.
pub(crate) fn vm_path(info: &DomainInfo, relative: &str) -> Result<Path, EngineError> {
    let text = format!("/vm/{}/{relative}", uuid_text(&info.handle));
    Ok(Path::new(&text).map_err(xenstore::Error::from)?)
}

/// Gives a domain another name, unless another domain has it.
pub fn rename(
    hv: &dyn Hypervisor,
    store: &mut Client,
    info: &DomainInfo,
    new_name: &str,
) -> Result<(), EngineError> {
    if new_name.is_empty() || new_name.chars().any(char::is_control) {
        return Err(ControlError::BadName(new_name.to_owned()).into());
    }
    let infos = list(hv)?;
    store.try_transaction(|transaction| {
        let names = names(transaction, &infos)?;
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
        batch.write(&vm_path(info, "name")?, new_name.as_bytes());
        transaction.run(&batch)?;
        Ok(())
    })
}

/// A domain's configuration as `xl list -l` shows it: libxl's record, with what may have changed
/// since it was written taken from Xen and xenstore.
pub fn configuration(
    hv: &dyn Hypervisor,
    store: &mut impl Tree,
    xen_lib: &FilePath,
    info: &DomainInfo,
) -> Result<Value, EngineError> {
    let uuid = uuid_text(&info.handle);
    let mut config = read_record(&userdata::path(xen_lib, info.domid, &uuid))?;
    let live = Live::read(store, info)?;
    let c_info = object(&mut config, "c_info");
    if let Some(name) = live.name {
        c_info["name"] = name.into();
    }
    // libxl leaves out what is at its default, such as domain 0's UUID of zeros.
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
    if let Some(share) = share(hv, info)? {
        b_info["sched_params"] = share;
    }
    Ok(config)
}

/// The object under a key, made where it is missing or something else.
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

fn read_record(path: &FilePath) -> Result<Value, EngineError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(RECORD_MAX + 1).read_to_end(&mut text))
        .map_err(|source| EngineError::io("read", path, source))?;
    let bad = |what: String| EngineError::Record {
        path: path.to_owned(),
        what,
    };
    if text.len() as u64 > RECORD_MAX {
        return Err(bad(format!(
            "longer than {RECORD_MAX} bytes: not a record of libxl"
        )));
    }
    // libxl ends the text with the NUL of a C string.
    let text = text.strip_suffix(b"\0").unwrap_or(&text);
    serde_json::from_slice(text).map_err(|error| bad(format!("not JSON: {error}")))
}

/// What changes while a domain runs.
struct Live {
    name: Option<String>,
    target_kib: Option<u64>,
    max_kib: Option<u64>,
    videoram_kib: u64,
}

impl Live {
    fn read(store: &mut impl Tree, info: &DomainInfo) -> Result<Live, EngineError> {
        let mut batch = Batch::new();
        let name = batch.read_opt(&home(info.domid, "name")?);
        let target = batch.read_opt(&home(info.domid, "memory/target")?);
        let max = batch.read_opt(&home(info.domid, "memory/static-max")?);
        let videoram = batch.read_opt(&home(info.domid, "memory/videoram")?);
        let replies = store.run(&batch)?;
        let number = |index| {
            replies
                .value(index)
                .and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse().ok())
        };
        Ok(Live {
            name: replies
                .value(name)
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
            target_kib: number(target),
            max_kib: number(max),
            videoram_kib: number(videoram).unwrap_or(0),
        })
    }
}

/// A domain's share of the CPUs as libxl writes it; `None` under a scheduler without shares.
fn share(hv: &dyn Hypervisor, info: &DomainInfo) -> Result<Option<Value>, EngineError> {
    let pools = hv.cpu_pools()?;
    let Some(pool) = pools.iter().find(|pool| pool.id == info.cpupool) else {
        return Ok(None);
    };
    let name = pool.scheduler.name();
    Ok(match hv.scheduler_params(info.domid, pool.scheduler) {
        Ok(SchedulerParams::Credit { weight, cap } | SchedulerParams::Credit2 { weight, cap }) => {
            Some(json!({"sched": name, "weight": weight, "cap": cap}))
        }
        Err(_) => None,
    })
}
