//! Admission: asks the host's policy whether a guest may start, and how. Creates, restarts and adoptions call it.
//!
//! The policy decides about the open kernel image from which the domain is built. It trusts neither the configuration
//! nor a path that is opened again, so nothing can change between decision and start. A refusal comes before anything
//! is built. The decision and its reasons are stored with the VM, for `xyl explain`.
//!
//! The host's audit is made only if the policy has a rule about the guest's type. Its facts are gathered once for
//! each boot of the host. A fact that cannot be gathered is unknown, and the rules say what follows.
//!
//! A bare 32-bit PV kernel is built only if the decision about this image allows it ([`Decision::is_bare_pv32`]). The
//! builder's `allow_bare_pv32` comes from nothing else.

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
use crate::vm::cpuid::hidden_mitigations;
use crate::vm::spec::{Shim, VmSpec};
use crate::{Dirs, EngineError, Host};

/// Version of the record's format.
const VERSION: u32 = 1;
/// Maximum number of bytes that are read of a record.
const RECORD_MAX_BYTES: u64 = 64 << 10;
/// Name of PV GRUB in its ELF notes.
const GRUB: &str = "GRUB";
/// Name of Xen's interface for bare 32-bit PV guests, in its capabilities.
const PV32: &str = "xen-3.0-x86_32p";

/// A decision, as stored with the VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the format: 1.
    pub version: u32,
    /// Time of the decision, in seconds since 1970.
    pub decided_s: u64,
    /// Path of the kernel that the decision is about.
    pub kernel: PathBuf,
    /// Kind of the kernel image.
    pub image: ImageKind,
    /// Whether the kernel is a boot loader. The kernel that it loads later is unknown.
    pub is_boot_loader: bool,
    /// `pvshim` of the configuration.
    pub pvshim: Option<bool>,
    /// Path of the shim, if the guest runs in one.
    pub shim: Option<PathBuf>,
    /// Settings of the guest outside Xen's security support.
    #[serde(default)]
    pub unsupported: Vec<UnsupportedSetting>,
    /// Names of the CPU features against speculative execution that `cpuid` hides from the guest.
    #[serde(default)]
    pub hidden_mitigations: Vec<String>,
    /// The decision with its reasons.
    pub decision: Decision,
}

impl Record {
    /// Asks the present policy about the same guest, on the host as it is now.
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
            hidden_mitigations: self.hidden_mitigations.clone(),
            ..request(Operation::Create, self.image, self.pvshim, shim)
        };
        let policy = policy(files, dirs)?;
        let audit = match hv.phys_info() {
            Ok(physical) => audit(hv, files, dirs, &physical, &policy, &request)?,
            Err(_) => None,
        };
        Ok(admit(&policy, audit.as_ref(), &request))
    }

    /// Whether the later decision `now` has a different outcome.
    pub fn is_otherwise(&self, now: &Decision) -> bool {
        (self.decision.outcome, self.decision.guest) != (now.outcome, now.guest)
    }

    /// A sentence about the part of the guest that cannot be checked.
    pub fn unseen(&self) -> Option<&'static str> {
        self.is_boot_loader.then_some(
            "the kernel is a boot loader: what it loads later is not seen; its width is, for a PV domain keeps the width that it started with",
        )
    }
}

/// A guest that the policy lets start.
pub(crate) struct Admitted {
    /// The decision, for the VM's record.
    pub record: Record,
    /// The shim, if the guest starts in one.
    pub shim: Option<ShimImage>,
}

/// Asks the host's policy about a create or a restart. If the policy demands the shim and the configuration does not,
/// changes `spec` to a domain with the shim.
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
    let pvshim = wish(spec);
    let first = of_spec(
        spec,
        request(operation, image, pvshim, ShimState::NotLooked),
    );
    let asks = |shim| Request {
        shim,
        ..first.clone()
    };
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
        return Err(not_admitted(kernel, &decision, &policy, &first));
    }
    report(&decision, notice);
    let record = Record {
        version: VERSION,
        decided_s: seconds(host.clock.calendar()),
        kernel: kernel.path().to_owned(),
        image,
        is_boot_loader: is_boot_loader(kernel),
        pvshim,
        shim: shim.as_ref().map(|shim| shim.image.path().to_owned()),
        unsupported: first.unsupported,
        hidden_mitigations: first.hidden_mitigations,
        decision,
    };
    Ok(Admitted { record, shim })
}

/// Asks the policy about a running guest of another toolstack, for an adoption. Xen reports what it is, because its
/// file may have changed since.
pub(crate) fn ask_of_running(
    host: &Host,
    info: &DomainInfo,
    spec: &VmSpec,
) -> Result<Record, EngineError> {
    let image = running_image(&*host.hv, info)?;
    ask_of_begun(host, Operation::Adopt, image, spec)
}

/// Asks the policy about a saved guest, for a restore. Its image says what it is.
pub(crate) fn ask_of_saved(
    host: &Host,
    is_pv32: bool,
    spec: &VmSpec,
) -> Result<Record, EngineError> {
    let image = match spec.kind {
        GuestKind::Pv if is_pv32 => ImageKind::Pv32,
        GuestKind::Pv => ImageKind::Pv64,
        GuestKind::Pvh => ImageKind::Pvh,
        GuestKind::Hvm => ImageKind::Hvm,
    };
    ask_of_begun(host, Operation::Restore, image, spec)
}

/// Asks the policy about a guest that has begun its life elsewhere as such an image.
fn ask_of_begun(
    host: &Host,
    operation: Operation,
    image: ImageKind,
    spec: &VmSpec,
) -> Result<Record, EngineError> {
    let (files, dirs) = (&*host.files, &host.dirs);
    let kernel = loader(dirs).load(&spec.kernel).ok();
    let policy = policy(files, dirs)?;
    let shims = KnownShims::new(dirs, &policy);
    let is_pv = matches!(image, ImageKind::Pv64 | ImageKind::Pv32);
    let image = match &spec.shim {
        // Only the shim is seen from outside, which is not a PV guest.
        Some(shim) if !is_pv && shims.have(shim) => pv_kind_of_file(kernel.as_ref()),
        _ => image,
    };
    let pvshim = wish(spec);
    let request = of_spec(spec, request(operation, image, pvshim, ShimState::Ready));
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
        decision: admit(&policy, audit.as_ref(), &request),
        unsupported: request.unsupported,
        hidden_mitigations: request.hidden_mitigations,
    })
}

/// Kind of a running domain's image, as Xen reports it.
fn running_image(hv: &dyn Hypervisor, info: &DomainInfo) -> Result<ImageKind, EngineError> {
    Ok(match info.kind() {
        GuestKind::Pv if hv.address_size_bits(info.domid)? == 32 => ImageKind::Pv32,
        GuestKind::Pv => ImageKind::Pv64,
        GuestKind::Pvh => ImageKind::Pvh,
        GuestKind::Hvm => ImageKind::Hvm,
    })
}

/// Width of the kernel in a shim, from its file. If the file does not show it, assumes 32 bits, the higher risk.
fn pv_kind_of_file(kernel: Option<&Image>) -> ImageKind {
    let width = kernel.and_then(|kernel| Some(kernel.pv().ok()?.width));
    match width {
        Some(PvWidth::Bits64) => ImageKind::Pv64,
        Some(PvWidth::Bits32 { .. }) | None => ImageKind::Pv32,
    }
}

/// Type of a running guest of any toolstack.
///
/// `is_bare_pv32` comes from Xen ([`bare_pv32`]). `config` is libxl's record; without it a device model counts as one
/// with all rights on the host. The image at `pvshim_path` counts as a shim only if `shims` has it.
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

/// Asks the policy about a running guest without a stored decision, because another toolstack has started it.
pub fn decide_running(
    hv: &dyn Hypervisor,
    files: &dyn Files,
    dirs: &Dirs,
    guest: GuestType,
) -> Result<Decision, EngineError> {
    let (image, device_model) = match guest {
        GuestType::Pv64 => (ImageKind::Pv64, DeviceModel::None),
        // The width of a kernel in the shim is unknown, so the higher risk is assumed.
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

/// The bare 32-bit PV guests among these domains, of any toolstack. If this Xen cannot run any, no domain is checked.
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
            // The domain has ended meanwhile.
            Err(error) if error.is(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Fails if this Xen runs no bare 32-bit PV guests. Called before anything is built.
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

/// The policy's decision for a dry run, without requests to Xen. Returns the VM as it would start.
///
/// It uses stored facts of the host, and assumes that a shim exists.
pub(crate) fn preview(
    files: &dyn Files,
    dirs: &Dirs,
    spec: &VmSpec,
    kernel: &Image,
) -> Result<(Decision, VmSpec), EngineError> {
    let policy = policy(files, dirs)?;
    let image = image_kind(spec, kernel, &KnownShims::new(dirs, &policy))?;
    let request = request(Operation::Create, image, wish(spec), ShimState::NotLooked);
    let request = of_spec(spec, request);
    let audit = match needs_host(&policy, &request) {
        true => host::kept_audit(files, &dirs.run, needs_advisories(&policy, &request))?,
        false => None,
    };
    let decision = admit(&policy, audit.as_ref(), &request);
    let started = match decision.outcome {
        Outcome::ConvertToShim => in_shim(spec, &policy.shim),
        Outcome::Allow => spec.clone(),
        Outcome::Refuse => return Err(not_admitted(kernel, &decision, &policy, &request)),
    };
    Ok((decision, started))
}

/// The error for a guest that the policy refuses.
fn not_admitted(
    kernel: &Image,
    decision: &Decision,
    policy: &Policy,
    request: &Request,
) -> EngineError {
    EngineError::NotAdmitted {
        kernel: kernel.path().to_owned(),
        line: decision.line(),
        settings: refused_settings(policy, request),
    }
}

/// Audits the host, if the policy has a rule about this guest.
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
        // Xyl starts no other device model than one that is confined.
        device_model: match image {
            ImageKind::Hvm => DeviceModel::Confined,
            _ => DeviceModel::None,
        },
        shim,
        unsupported: Vec::new(),
        hidden_mitigations: Vec::new(),
    }
}

/// The request with the settings of a VM that the policy judges.
fn of_spec(spec: &VmSpec, request: Request) -> Request {
    Request {
        unsupported: unsupported_settings(spec),
        hidden_mitigations: hidden_mitigations(&spec.cpuid),
        ..request
    }
}

fn policy(files: &dyn Files, dirs: &Dirs) -> Result<Policy, EngineError> {
    Ok(Policy::load(files, &dirs.policy)?)
}

/// Kind of the image, as this domain starts it. Linux can start as PV and as PVH. A domain with a shim that is not
/// the host's starts that image as a PVH guest.
fn image_kind(spec: &VmSpec, kernel: &Image, shims: &KnownShims) -> Result<ImageKind, EngineError> {
    let is_pv = match &spec.shim {
        Some(shim) => shims.have(shim),
        None => spec.kind == GuestKind::Pv,
    };
    if !is_pv {
        return Ok(match spec.kind {
            GuestKind::Hvm => ImageKind::Hvm,
            _ => ImageKind::Pvh,
        });
    }
    Ok(match kernel.pv()?.width {
        PvWidth::Bits64 => ImageKind::Pv64,
        PvWidth::Bits32 { .. } => ImageKind::Pv32,
    })
}

/// The settings of a VM that Xen's security support does not cover.
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

/// The configuration's `pvshim`: `None` if it is not set.
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

/// Converts an error about the shim to its state, so that the policy can explain it. Other errors are returned.
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

/// Reports a guest that runs differently from its configuration, and the policy's warnings.
pub(crate) fn report(decision: &Decision, notice: &mut dyn FnMut(Notice<'_>)) {
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

/// Path of a VM's stored decision.
pub fn path(dirs: &Dirs, uuid: &str) -> PathBuf {
    dirs.vm(uuid).join("admission.json")
}

/// Writes the decision beside the VM's configuration, atomically. It survives a power cut.
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

/// Reads a VM's stored decision. `None` if there is none, as for a domain of another toolstack.
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
        // Xen's capabilities exclude such guests, so no domain is checked.
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
