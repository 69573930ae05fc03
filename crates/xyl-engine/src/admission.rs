//! Whether a guest may start here, by the host's policy, and how.
//!
//! The policy is asked of the kernel image that is open and that the domain will be made from, never of the
//! configuration's word and never of a path that is opened again: nothing can change between the look and the start. A
//! refusal comes before anything is built. The decision and its reasons are kept with the VM, for `xyl explain`.
//!
//! The host's audit is asked only where the policy has a rule about the guest's type, and rests on facts that are gathered
//! once for each boot of the host. What cannot be gathered is unknown, and rules say what that means.
//!
//! A 32-bit PV kernel is not built bare at all: `xen-build` cannot, so no policy, configuration or fault of this module
//! leads to one.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use os_port::Files;
use serde::{Deserialize, Serialize};
use xen_image::{Image, PvWidth};
use xen_port::{GuestKind, Hypervisor, PhysInfo};
use xyl_audit::admit::{needs_advisories, needs_host};
use xyl_audit::{Audit, DeviceModel, Operation, Policy, Request, Shim as ShimState, admit, host};
pub use xyl_audit::{Decision, GuestType, ImageKind, Outcome};

use crate::create::Notice;
use crate::record::write_whole;
use crate::shim::{self, ShimError, ShimImage};
use crate::spec::{Shim, VmSpec};
use crate::{Dirs, EngineError, Host};

/// The format's number.
const VERSION: u32 = 1;
/// Largest record that is read back, in bytes.
const RECORD_MAX_BYTES: u64 = 64 << 10;
/// What PV GRUB calls itself in its ELF notes.
const GRUB: &str = "GRUB";

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
        let request = request(self.image, self.pvshim, shim);
        let policy = policy(files, dirs)?;
        let audit = match hv.phys_info() {
            Ok(physical) => audit(hv, files, dirs, &physical, &policy, &request)?,
            Err(_) => None,
        };
        Ok(admit(&policy, audit.as_ref(), &request))
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
    /// The decision.
    pub record: Record,
    /// The shim that it starts in.
    pub shim: Option<ShimImage>,
}

/// Asks the policy of the host. Where the guest is to run in the shim though its configuration does not say so,
/// `spec` becomes that of a domain with the shim.
pub(crate) fn ask(
    host: &Host,
    physical: &PhysInfo,
    spec: &mut VmSpec,
    kernel: &Image,
    notice: &mut dyn FnMut(Notice<'_>),
) -> Result<Admitted, EngineError> {
    let policy = policy(&*host.files, &host.dirs)?;
    let image = image_kind(spec, kernel)?;
    let pvshim = wish(spec);
    let first = request(image, pvshim, ShimState::NotLooked);
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
        let converted = in_shim(spec);
        let state = match shim::ready(host, physical, &converted, kernel) {
            Ok(ready) => {
                shim = Some(ready);
                ShimState::Ready
            }
            Err(error) => state_of(error)?,
        };
        decision = admit(&policy, audit.as_ref(), &request(image, pvshim, state));
        *spec = converted;
    } else if decision.outcome == Outcome::Allow && spec.shim.is_some() {
        shim = Some(shim::ready(host, physical, spec, kernel)?);
    }
    if decision.outcome == Outcome::Refuse {
        return Err(EngineError::NotAdmitted {
            kernel: kernel.path().to_owned(),
            line: decision.line(),
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
        decision,
    };
    Ok(Admitted { record, shim })
}

/// What the policy would say of a configuration, without a question to Xen: of the host's facts those kept from an earlier
/// look count, and a shim is taken to be there. `None` where the kernel cannot be read or is none for this type, which a
/// create says better.
pub fn preview(
    files: &dyn Files,
    dirs: &Dirs,
    spec: &VmSpec,
) -> Result<Option<Decision>, EngineError> {
    let policy = policy(files, dirs)?;
    let Ok(kernel) = crate::images::loader(dirs).load(&spec.kernel) else {
        return Ok(None);
    };
    let Ok(image) = image_kind(spec, &kernel) else {
        return Ok(None);
    };
    let request = request(image, wish(spec), ShimState::NotLooked);
    let audit = match needs_host(&policy, &request) {
        true => host::kept_audit(files, &dirs.run, needs_advisories(&policy, &request))?,
        false => None,
    };
    Ok(Some(admit(&policy, audit.as_ref(), &request)))
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

fn request(image: ImageKind, pvshim: Option<bool>, shim: ShimState) -> Request {
    Request {
        image,
        operation: Operation::Create,
        pvshim,
        device_model: DeviceModel::None,
        shim,
    }
}

fn policy(files: &dyn Files, dirs: &Dirs) -> Result<Policy, EngineError> {
    Ok(Policy::load(files, &dirs.policy)?)
}

/// What the image is, started the way that this domain starts it. Linux can be started as PV and as PVH.
fn image_kind(spec: &VmSpec, kernel: &Image) -> Result<ImageKind, EngineError> {
    if spec.kind != GuestKind::Pv && spec.shim.is_none() {
        return Ok(ImageKind::Pvh);
    }
    Ok(match kernel.pv()?.width {
        PvWidth::Bits64 => ImageKind::Pv64,
        PvWidth::Bits32 { .. } => ImageKind::Pv32,
    })
}

/// What the configuration says of the shim.
fn wish(spec: &VmSpec) -> Option<bool> {
    match spec.shim {
        Some(_) => Some(true),
        None => spec.wants_bare.then_some(false),
    }
}

/// The same VM, in the usual shim.
fn in_shim(spec: &VmSpec) -> VmSpec {
    VmSpec {
        kind: GuestKind::Pvh,
        shim: Some(Shim::default()),
        ..spec.clone()
    }
}

/// Why the shim cannot be used, for the policy to put into words; other errors stay what they are.
fn state_of(error: EngineError) -> Result<ShimState, EngineError> {
    let text = |path: &Path| path.display().to_string();
    match error {
        EngineError::Shim(ShimError::NoHardwareVirtualisation) => Ok(ShimState::NoHvm),
        EngineError::Shim(ShimError::NotFound { looked_at }) => Ok(ShimState::NoBinary {
            path: shim::list(&looked_at),
        }),
        EngineError::Shim(ShimError::WithoutPv32 { shim, .. }) => {
            Ok(ShimState::No32BitPv { path: text(&shim) })
        }
        other => Err(other),
    }
}

/// A guest that runs in another way than its configuration says is told of, and what the policy warns of.
fn tell(decision: &Decision, notice: &mut dyn FnMut(Notice<'_>)) {
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

/// Writes the record beside the VM's configuration, whole or not at all.
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
    write_whole(files, &path.with_extension("new"), &path, &bytes)
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
