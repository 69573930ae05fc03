//! Whether a guest may start here, by the host's policy, and how.
//!
//! The policy is asked of the kernel image that is open and that the domain will be made from, never of the
//! configuration's word and never of a path that is opened again: nothing can change between the look and the start. A
//! refusal comes before anything is built. The decision and its reasons are kept with the VM, for `xyl explain`.
//!
//! The host's audit is asked only where the policy has a rule about the guest's type, and rests on facts that are gathered
//! once for each boot of the host. What cannot be gathered is unknown, and rules say what that means.
//!
//! A 32-bit PV kernel is built bare only where the decision about the image in hand says so ([`Decision::is_bare_pv32`]): it is
//! the one thing that the builder's `allow_bare_pv32` is made from, and without that the builder refuses such a kernel, whatever
//! has gone before.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use os_port::Files;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xen_image::{Image, PvWidth};
use xen_port::{DomId, DomainInfo, Errno, GuestKind, Hypervisor, PhysInfo};
use xyl_audit::admit::{needs_advisories, needs_host, refused_settings};
use xyl_audit::{
    Audit, DeviceModel, Operation, Policy, Request, Shim as ShimState, ShimSettings,
    UnsupportedSetting, admit, host,
};
pub use xyl_audit::{Decision, GuestType, ImageKind, Outcome};

use crate::Notice;
use crate::config::loader;
use crate::config::shim::{self, KnownShims, ShimError, ShimImage};
use crate::error::list_paths;
use crate::vm::spec::{Shim, VmSpec};
use crate::{Dirs, EngineError, Host};

/// The format's number.
const VERSION: u32 = 1;
/// Largest record that is read back, in bytes.
const RECORD_MAX_BYTES: u64 = 64 << 10;
/// What PV GRUB calls itself in its ELF notes.
const GRUB: &str = "GRUB";
/// The word in Xen's capabilities for bare 32-bit PV guests.
const PV32: &str = "xen-3.0-x86_32p";

/// A decision, as it is kept with the VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The format: 1.
    pub version: u32,
    /// When it was decided, in seconds since 1970.
    pub decided_s: u64,
    /// The kernel that was looked at, and loaded.
    pub kernel: PathBuf,
    /// What it is.
    pub image: ImageKind,
    /// Whether the kernel is a boot loader: what it loads later is not seen.
    pub is_boot_loader: bool,
    /// `pvshim` of the configuration.
    pub pvshim: Option<bool>,
    /// The shim that it runs in.
    pub shim: Option<PathBuf>,
    /// Its settings outside Xen's security support.
    #[serde(default)]
    pub unsupported: Vec<UnsupportedSetting>,
    /// What was decided.
    pub decision: Decision,
}

impl Record {
    /// What the policy of now says of the same guest, on the host as it is now.
    pub fn decide_again(
        &self,
        hv: &dyn Hypervisor,
        files: &dyn Files,
        dirs: &Dirs,
    ) -> Result<Decision, EngineError> {
        let shim = match self.shim {
            Some(_) => ShimState::Ready,
            None => ShimState::NotLooked,
        };
        let request = Request {
            unsupported: self.unsupported.clone(),
            ..request(Operation::Create, self.image, self.pvshim, shim)
        };
        let policy = policy(files, dirs)?;
        let audit = match hv.phys_info() {
            Ok(physical) => audit(hv, files, dirs, &physical, &policy, &request)?,
            Err(_) => None,
        };
        Ok(admit(&policy, audit.as_ref(), &request))
    }

    /// Whether `now`, a later decision about the same guest, has another end.
    pub fn is_otherwise(&self, now: &Decision) -> bool {
        (self.decision.outcome, self.decision.guest) != (now.outcome, now.guest)
    }

    /// What cannot be seen of the guest.
    pub fn unseen(&self) -> Option<&'static str> {
        self.is_boot_loader.then_some(
            "the kernel is a boot loader: what it loads later is not seen; its width is, for a PV domain keeps the width that it started with",
        )
    }
}

/// A guest that may start.
pub(crate) struct Admitted {
    /// The decision with its reasons, for the VM's record.
    pub record: Record,
    /// The shim that it starts in.
    pub shim: Option<ShimImage>,
}

/// Asks the policy of the host, for a create or a restart. Where the guest is to run in the shim though its
/// configuration does not say so, `spec` becomes that of a domain with the shim.
pub(crate) fn ask(
    host: &Host,
    operation: Operation,
    physical: &PhysInfo,
    spec: &mut VmSpec,
    kernel: &Image,
    notice: &mut dyn FnMut(Notice<'_>),
) -> Result<Admitted, EngineError> {
    let policy = policy(&*host.files, &host.dirs)?;
    let image = image_kind(spec, kernel, &KnownShims::new(&host.dirs, &policy))?;
    let (pvshim, unsupported) = (wish(spec), unsupported_settings(spec));
    let asks = |shim| Request {
        unsupported: unsupported.clone(),
        ..request(operation, image, pvshim, shim)
    };
    let first = asks(ShimState::NotLooked);
    let audit = audit(
        &*host.hv,
        &*host.files,
        &host.dirs,
        physical,
        &policy,
        &first,
    )?;
    let mut decision = admit(&policy, audit.as_ref(), &first);
    let mut shim = None;
    if decision.outcome == Outcome::ConvertToShim {
        let converted = in_shim(spec, &policy.shim);
        let state = match shim::ready(host, physical, &converted, kernel) {
            Ok(ready) => {
                shim = Some(ready);
                ShimState::Ready
            }
            Err(error) => state_of(error, &policy.shim)?,
        };
        decision = admit(&policy, audit.as_ref(), &asks(state));
        *spec = converted;
    } else if decision.outcome == Outcome::Allow && spec.shim.is_some() {
        shim = Some(shim::ready(host, physical, spec, kernel)?);
    }
    if decision.outcome == Outcome::Refuse {
        return Err(EngineError::NotAdmitted {
            kernel: kernel.path().to_owned(),
            line: decision.line(),
            settings: refused_settings(&policy, &first),
        });
    }
    tell(&decision, notice);
    let record = Record {
        version: VERSION,
        decided_s: seconds(host.clock.calendar()),
        kernel: kernel.path().to_owned(),
        image,
        is_boot_loader: is_boot_loader(kernel),
        pvshim,
        shim: shim.as_ref().map(|shim| shim.image.path().to_owned()),
        unsupported,
        decision,
    };
    Ok(Admitted { record, shim })
}

/// Asks the policy about a guest that another toolstack has started, and that is to become ours. What it is, Xen says: the
/// file that it was started from may be another one by now.
pub(crate) fn ask_of_running(
    host: &Host,
    info: &DomainInfo,
    spec: &VmSpec,
) -> Result<Record, EngineError> {
    let (files, dirs) = (&*host.files, &host.dirs);
    let kernel = loader(dirs).load(&spec.kernel).ok();
    let policy = policy(files, dirs)?;
    let shims = KnownShims::new(dirs, &policy);
    let image = match &spec.shim {
        // Xen sees the shim alone, which is never a PV guest.
        Some(shim) if info.kind() != GuestKind::Pv && shims.have(shim) => {
            pv_kind_of_file(kernel.as_ref())
        }
        _ => running_image(&*host.hv, info)?,
    };
    let (pvshim, unsupported) = (wish(spec), unsupported_settings(spec));
    let request = Request {
        unsupported: unsupported.clone(),
        ..request(Operation::Adopt, image, pvshim, ShimState::Ready)
    };
    let physical = host.hv.phys_info()?;
    let audit = audit(&*host.hv, files, dirs, &physical, &policy, &request)?;
    Ok(Record {
        version: VERSION,
        decided_s: seconds(host.clock.calendar()),
        kernel: spec.kernel.clone(),
        image,
        is_boot_loader: kernel.as_ref().is_some_and(is_boot_loader),
        pvshim,
        shim: spec.shim.as_ref().and_then(|shim| shim.path.clone()),
        unsupported,
        decision: admit(&policy, audit.as_ref(), &request),
    })
}

/// What a running domain is, by Xen's word.
fn running_image(hv: &dyn Hypervisor, info: &DomainInfo) -> Result<ImageKind, EngineError> {
    Ok(match info.kind() {
        GuestKind::Pv if hv.address_size_bits(info.domid)? == 32 => ImageKind::Pv32,
        GuestKind::Pv => ImageKind::Pv64,
        GuestKind::Pvh => ImageKind::Pvh,
        GuestKind::Hvm => ImageKind::Hvm,
    })
}

/// The width of the kernel that a guest in the shim was started from; where the file tells nothing, the riskier one.
fn pv_kind_of_file(kernel: Option<&Image>) -> ImageKind {
    let width = kernel.and_then(|kernel| Some(kernel.pv().ok()?.width));
    match width {
        Some(PvWidth::Bits64) => ImageKind::Pv64,
        Some(PvWidth::Bits32 { .. }) | None => ImageKind::Pv32,
    }
}

/// The type of guest that a running domain is, whichever toolstack has started it. `is_bare_pv32` is Xen's word
/// ([`bare_pv32`]), `config` libxl's record, without which a device model counts as one with its rights over the host.
/// What runs at a `pvshim_path` is a shim only if it is one of `shims`.
pub fn running_type(
    info: &DomainInfo,
    is_bare_pv32: bool,
    config: Option<&Value>,
    shims: &KnownShims,
) -> GuestType {
    let built = config.and_then(|config| config.get("b_info"));
    let says = |member: Option<&Value>| {
        member.is_some_and(|value| *value == Value::Bool(true) || value.as_str() == Some("True"))
    };
    let is_set = |key: &str| says(built.and_then(|built| built.get(key)));
    let pvh = built.and_then(|built| built.get("type.pvh"));
    let pvshim = pvh.and_then(|pvh| pvh.get("pvshim"));
    let path = pvh.and_then(|pvh| pvh.get("pvshim_path")?.as_str());
    let is_known = path.is_none_or(|path| shims.has(Path::new(path)));
    match info.kind() {
        GuestKind::Pv if is_bare_pv32 => GuestType::Pv32,
        GuestKind::Pv => GuestType::Pv64,
        GuestKind::Pvh if says(pvshim) && is_known => GuestType::PvShim,
        GuestKind::Pvh => GuestType::Pvh,
        GuestKind::Hvm if is_set("dm_restrict") || is_set("device_model_stubdomain") => {
            GuestType::Hvm
        }
        GuestKind::Hvm => GuestType::HvmOpenDm,
    }
}

/// What the policy says of a running guest of this type about which nothing was decided: another toolstack has started it.
pub fn decide_running(
    hv: &dyn Hypervisor,
    files: &dyn Files,
    dirs: &Dirs,
    guest: GuestType,
) -> Result<Decision, EngineError> {
    let (image, device_model) = match guest {
        GuestType::Pv64 => (ImageKind::Pv64, DeviceModel::None),
        // The width of a kernel in the shim is not known: the riskier one.
        GuestType::Pv32 | GuestType::PvShim => (ImageKind::Pv32, DeviceModel::None),
        GuestType::Pvh => (ImageKind::Pvh, DeviceModel::None),
        GuestType::Hvm => (ImageKind::Hvm, DeviceModel::Confined),
        GuestType::HvmOpenDm => (ImageKind::Hvm, DeviceModel::Open),
    };
    let pvshim = (guest == GuestType::PvShim).then_some(true);
    let request = Request {
        device_model,
        ..request(Operation::Adopt, image, pvshim, ShimState::Ready)
    };
    let policy = policy(files, dirs)?;
    let physical = hv.phys_info()?;
    let audit = audit(hv, files, dirs, &physical, &policy, &request)?;
    Ok(admit(&policy, audit.as_ref(), &request))
}

/// Which of these domains are bare 32-bit PV guests, whichever toolstack has started them. On a host that cannot run any
/// that is known without a look at each.
pub fn bare_pv32(hv: &dyn Hypervisor, infos: &[DomainInfo]) -> Result<Vec<DomId>, EngineError> {
    let is_pv = |info: &&DomainInfo| info.domid != DomId::ZERO && info.kind() == GuestKind::Pv;
    let pv: Vec<&DomainInfo> = infos.iter().filter(is_pv).collect();
    let mut found = Vec::new();
    if pv.is_empty() || !runs_pv32(hv)? {
        return Ok(found);
    }
    for info in pv {
        match hv.address_size_bits(info.domid) {
            Ok(32) => found.push(info.domid),
            Ok(_) => {}
            // It has gone meanwhile.
            Err(error) if error.is(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Whether this Xen runs bare 32-bit PV guests at all: asked before anything is built.
pub(crate) fn check_runs_pv32(hv: &dyn Hypervisor) -> Result<(), EngineError> {
    match runs_pv32(hv)? {
        true => Ok(()),
        false => Err(EngineError::NoPv32),
    }
}

fn runs_pv32(hv: &dyn Hypervisor) -> Result<bool, EngineError> {
    let capabilities = hv.capabilities()?;
    Ok(capabilities
        .split_ascii_whitespace()
        .any(|word| word == PV32))
}

/// What the policy would say of a kernel, and the VM as it would be started then, without a question to Xen: of the host's
/// facts those kept from an earlier look count, and a shim is taken to be there.
pub(crate) fn preview(
    files: &dyn Files,
    dirs: &Dirs,
    spec: &VmSpec,
    kernel: &Image,
) -> Result<(Decision, VmSpec), EngineError> {
    let policy = policy(files, dirs)?;
    let image = image_kind(spec, kernel, &KnownShims::new(dirs, &policy))?;
    let request = Request {
        unsupported: unsupported_settings(spec),
        ..request(Operation::Create, image, wish(spec), ShimState::NotLooked)
    };
    let audit = match needs_host(&policy, &request) {
        true => host::kept_audit(files, &dirs.run, needs_advisories(&policy, &request))?,
        false => None,
    };
    let decision = admit(&policy, audit.as_ref(), &request);
    let started = match decision.outcome {
        Outcome::ConvertToShim => in_shim(spec, &policy.shim),
        Outcome::Allow | Outcome::Refuse => spec.clone(),
    };
    Ok((decision, started))
}

/// The host's audit, if the policy needs it for this guest.
fn audit(
    hv: &dyn Hypervisor,
    files: &dyn Files,
    dirs: &Dirs,
    physical: &PhysInfo,
    policy: &Policy,
    request: &Request,
) -> Result<Option<Audit>, EngineError> {
    if !needs_host(policy, request) {
        return Ok(None);
    }
    let with_advisories = needs_advisories(policy, request);
    Ok(Some(host::audit(
        hv,
        files,
        &dirs.run,
        physical,
        with_advisories,
    )?))
}

fn request(
    operation: Operation,
    image: ImageKind,
    pvshim: Option<bool>,
    shim: ShimState,
) -> Request {
    Request {
        image,
        operation,
        pvshim,
        device_model: DeviceModel::None,
        shim,
        unsupported: Vec::new(),
    }
}

fn policy(files: &dyn Files, dirs: &Dirs) -> Result<Policy, EngineError> {
    Ok(Policy::load(files, &dirs.policy)?)
}

/// What the image is, started the way that this domain starts it. Linux can be started as PV and as PVH. A domain whose shim
/// is not one of the host's starts that image, whatever it is: a PVH guest.
fn image_kind(spec: &VmSpec, kernel: &Image, shims: &KnownShims) -> Result<ImageKind, EngineError> {
    let is_pv = match &spec.shim {
        Some(shim) => shims.have(shim),
        None => spec.kind == GuestKind::Pv,
    };
    if !is_pv {
        return Ok(ImageKind::Pvh);
    }
    Ok(match kernel.pv()?.width {
        PvWidth::Bits64 => ImageKind::Pv64,
        PvWidth::Bits32 { .. } => ImageKind::Pv32,
    })
}

/// The settings of a VM that Xen has no security support for.
fn unsupported_settings(spec: &VmSpec) -> Vec<UnsupportedSetting> {
    let set = [
        (UnsupportedSetting::NestedHvm, spec.nested_virt),
        (UnsupportedSetting::MsrRelaxed, spec.msr_relaxed),
        (
            UnsupportedSetting::VmtraceBufKb,
            spec.vmtrace_size_bytes > 0,
        ),
    ];
    set.into_iter()
        .filter_map(|(setting, is_set)| is_set.then_some(setting))
        .collect()
}

/// What the configuration says of the shim.
fn wish(spec: &VmSpec) -> Option<bool> {
    match spec.shim {
        Some(_) => Some(true),
        None => spec.wants_bare.then_some(false),
    }
}

/// The same VM, in the policy's shim.
fn in_shim(spec: &VmSpec, settings: &ShimSettings) -> VmSpec {
    VmSpec {
        kind: GuestKind::Pvh,
        shim: Some(Shim {
            path: settings.path.clone(),
            cmdline: None,
            extra: settings.extra.clone(),
        }),
        ..spec.clone()
    }
}

/// Why the shim cannot be used, for the policy to put into words; other errors stay what they are.
fn state_of(error: EngineError, settings: &ShimSettings) -> Result<ShimState, EngineError> {
    let text = |path: &Path| path.display().to_string();
    match error {
        EngineError::Shim(ShimError::NoHardwareVirtualisation) => Ok(ShimState::NoHvm),
        EngineError::Shim(ShimError::NotFound { looked_at }) => Ok(ShimState::NoBinary {
            path: list_paths(&looked_at),
        }),
        EngineError::Shim(ShimError::WithoutPv32 { shim, .. }) => {
            Ok(ShimState::No32BitPv { path: text(&shim) })
        }
        EngineError::Image(error) => match &settings.path {
            Some(path) => Ok(ShimState::Unfit {
                path: text(path),
                what: error.to_string(),
            }),
            None => Err(error.into()),
        },
        other => Err(other),
    }
}

/// A guest that runs in another way than its configuration says is told of, and what the policy warns of.
pub(crate) fn tell(decision: &Decision, notice: &mut dyn FnMut(Notice<'_>)) {
    if decision.outcome == Outcome::ConvertToShim {
        notice(Notice::Warning(&decision.line()));
    }
    for warning in &decision.warnings {
        notice(Notice::Warning(warning));
    }
}

fn is_boot_loader(kernel: &Image) -> bool {
    let notes = kernel.notes();
    notes.and_then(|notes| notes.guest_os.as_deref()) == Some(GRUB)
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// The record's path.
pub fn path(dirs: &Dirs, uuid: &str) -> PathBuf {
    dirs.vm(uuid).join("admission.json")
}

/// Writes the record beside the VM's configuration, whole or not at all. It outlives a power cut.
pub(crate) fn write(
    files: &dyn Files,
    dirs: &Dirs,
    uuid: &str,
    record: &Record,
) -> Result<(), EngineError> {
    let path = path(dirs, uuid);
    let bytes = serde_json::to_vec_pretty(record).map_err(|error| EngineError::Record {
        path: path.clone(),
        what: error.to_string(),
    })?;
    Ok(os_port::write_durably(
        files,
        &path.with_extension("new"),
        &path,
        &bytes,
    )?)
}

/// The VM's record; `None` where there is none, as for a domain of another toolstack.
pub fn read(files: &dyn Files, dirs: &Dirs, uuid: &str) -> Result<Option<Record>, EngineError> {
    let path = path(dirs, uuid);
    let bytes = match files.read(&path, RECORD_MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EngineError::io("read", &path, source)),
    };
    let record = serde_json::from_slice(&bytes).map_err(|error| EngineError::Record {
        path,
        what: error.to_string(),
    })?;
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use xen_port::VersionInfo;
    use xen_sim::model::Model;

    use super::*;
    use crate::testing::pv_request;
    use crate::vm::domains;

    fn version(capabilities: &str) -> VersionInfo {
        VersionInfo {
            capabilities: capabilities.to_owned(),
            ..VersionInfo::default()
        }
    }

    #[test]
    fn a_bare_32_bit_guest_is_found_by_xens_word() {
        let hv = Model::new(64);
        let domid = hv.create_domain(&pv_request([1; 16])).unwrap();
        hv.create_domain(&pv_request([2; 16])).unwrap();
        hv.make_32_bit(domid);
        let infos = domains::list(&hv).unwrap();
        hv.set_version(version("xen-3.0-x86_64 xen-3.0-x86_32p hvm-3.0-x86_32"));
        assert_eq!(bare_pv32(&hv, &infos).unwrap(), [domid]);
        // Xen says that there can be none: nothing is asked of each.
        hv.set_version(version("xen-3.0-x86_64 hvm-3.0-x86_32p"));
        hv.forget_calls();
        assert!(bare_pv32(&hv, &infos).unwrap().is_empty());
        assert_eq!(hv.calls().len(), 1);
        assert!(bare_pv32(&hv, &infos[..0]).unwrap().is_empty());
    }

    #[test]
    fn a_running_guest_is_of_the_type_that_xen_and_libxls_record_say() {
        let of = |kind: GuestKind, pv32: bool, built: Value| {
            let hv = Model::new(64);
            let request = xen_port::CreateDomain {
                kind,
                ..pv_request([1; 16])
            };
            let domid = hv.create_domain(&request).unwrap();
            let info = hv.domain_info(domid).unwrap().unwrap();
            let shims = KnownShims::new(&Dirs::below(Path::new("/")), &Policy::default());
            running_type(&info, pv32, Some(&json!({ "b_info": built })), &shims)
        };
        let nothing = || json!({});
        assert_eq!(of(GuestKind::Pv, false, nothing()), GuestType::Pv64);
        assert_eq!(of(GuestKind::Pv, true, nothing()), GuestType::Pv32);
        assert_eq!(of(GuestKind::Pvh, false, nothing()), GuestType::Pvh);
        let shim = json!({"type.pvh": {"pvshim": "True"}});
        assert_eq!(of(GuestKind::Pvh, false, shim), GuestType::PvShim);
        let other = json!({"type.pvh": {"pvshim": "True", "pvshim_path": "/tmp/xen-shim"}});
        assert_eq!(of(GuestKind::Pvh, false, other), GuestType::Pvh);
        assert_eq!(of(GuestKind::Hvm, false, nothing()), GuestType::HvmOpenDm);
        let confined = json!({"dm_restrict": "True"});
        assert_eq!(of(GuestKind::Hvm, false, confined), GuestType::Hvm);
    }
}
