//! The handle on Xen. It finds the release of the hypervisor, and encodes domctl and sysctl for it.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use xen_abi::domctl::{self, Domctl};
use xen_abi::sysctl::{self, Sysctl};
use xen_abi::xen::{DOMID_INVALID, HYPERVISOR_DOMCTL, HYPERVISOR_SYSCTL, HYPERVISOR_XEN_VERSION};
use xen_abi::{Release, version};
use xen_port::{DomId, Errno, HvError, Result};
use zerocopy::{Immutable, IntoBytes};

use crate::privcmd::{Call, Privcmd, Site, Stats};

/// The real hypervisor. Cheap to share: every method takes `&self`, and hypercalls of one handle take turns.
///
/// # Which interface version
/// Xen answers `EACCES` to a domctl or sysctl of any version but its own. [`open`](Self::open) asks Xen for its release (one
/// hypercall) and expects that release's versions. Where the first such call is refused, the versions of the other known
/// releases are tried, with calls that do nothing: `getvcpuinfo` of `DOMID_INVALID`, which Xen refuses with another error once the version
/// is right and before it looks at permissions or at any domain; and `sched_id`. What was found is kept for the life of the handle.
#[derive(Debug)]
pub struct Xen {
    pub(crate) privcmd: Privcmd,
    /// Major and minor number of Xen's version.
    pub(crate) number: (u16, u16),
    /// Index in [`Release::ALL`] of the release whose domctl layouts Xen takes.
    release: AtomicU8,
    sysctl_version: AtomicU32,
}

/// The reasons why an attempt at a hypercall failed.
pub(crate) enum Failure {
    /// Xen answered with an error number.
    Xen(Errno),
    /// The hypercall could not be made, or its answer is invalid.
    Other(HvError),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Xen(errno)
    }
}

impl From<HvError> for Failure {
    fn from(error: HvError) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    /// The error of a call at `site`.
    pub(crate) fn at(self, site: Site) -> HvError {
        match self {
            Self::Xen(errno) => site.error(errno),
            Self::Other(error) => error,
        }
    }
}

impl Xen {
    /// Opens the drivers and asks Xen for its release: one hypercall.
    ///
    /// # Errors
    /// [`HvError::NotXen`] without Xen or its driver, [`HvError::Permission`] without the right to use it,
    /// [`HvError::UnknownVersion`] for a Xen whose interfaces are not known.
    pub fn open() -> Result<Self> {
        let privcmd = Privcmd::open()?;
        let number = xen_version(&privcmd)?;
        let expected = Release::from_version(number.0, number.1);
        // An unknown release may still speak a known interface: the newest one is the best guess.
        let xen = Self::new(privcmd, number, expected.unwrap_or(Release::V4_22));
        if expected.is_err() {
            xen.settle_domctl()?;
        }
        Ok(xen)
    }

    /// Opens the device in a domain whose kernel or Xen lets no hypercall through, such as a driver domain, and makes none. Requests
    /// made later fail.
    ///
    /// # Errors
    /// The device cannot be opened.
    pub fn open_in_guest() -> Result<Self> {
        let release = Release::V4_22;
        Ok(Self::new(Privcmd::open()?, (0, 0), release))
    }

    /// Like [`open`](Self::open), but expects the interface versions of `release`. It is for tests of the search for
    /// the right versions.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    #[doc(hidden)]
    pub fn open_expecting(release: Release) -> Result<Self> {
        let privcmd = Privcmd::open()?;
        let number = xen_version(&privcmd)?;
        Ok(Self::new(privcmd, number, release))
    }

    fn new(privcmd: Privcmd, number: (u16, u16), expected: Release) -> Self {
        Self {
            privcmd,
            number,
            release: AtomicU8::new(expected as u8),
            sysctl_version: AtomicU32::new(expected.interface().sysctl),
        }
    }

    /// The release whose layouts Xen takes.
    pub fn release(&self) -> Release {
        let index = usize::from(self.release.load(Ordering::Relaxed));
        Release::ALL.get(index).copied().unwrap_or(Release::V4_22)
    }

    /// The counters of this handle.
    pub fn stats(&self) -> Stats {
        self.privcmd.stats()
    }

    /// Runs a domctl. `attempt` builds it for a given release. If Xen turns out to be another release, runs it again
    /// for that.
    pub(crate) fn with_release<T>(
        &self,
        site: Site,
        attempt: impl Fn(Release) -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        let release = self.release();
        match attempt(release) {
            Err(Failure::Xen(Errno::EACCES)) if self.settle_domctl()? != release => {
                attempt(self.release())
            }
            outcome => outcome,
        }
        .map_err(|failure| failure.at(site))
    }

    /// Runs a sysctl. `attempt` gets the interface version.
    pub(crate) fn with_sysctl_version<T>(
        &self,
        site: Site,
        attempt: impl Fn(u32) -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        let version = self.sysctl_version.load(Ordering::Relaxed);
        match attempt(version) {
            Err(Failure::Xen(Errno::EACCES)) => match self.settle_sysctl()? {
                Some(other) if other != version => attempt(other),
                _ => Err(Failure::Xen(Errno::EACCES)),
            },
            outcome => outcome,
        }
        .map_err(|failure| failure.at(site))
    }

    /// A domctl whose payload holds no address; the whole call as Xen left it.
    pub(crate) fn domctl<T: Plain>(
        &self,
        op: &'static str,
        cmd: u32,
        domid: DomId,
        payload: &T,
    ) -> Result<Domctl> {
        self.with_release(Site::domain(op, domid), |release| {
            let domctl = Domctl::new(release.interface().domctl, cmd, domid.0, payload);
            self.run_domctl(self.privcmd.call(0)?, &domctl)
        })
    }

    /// A domctl, whose payload holds no address, on its own.
    pub(crate) fn run_plain(&self, domctl: &Domctl) -> std::result::Result<Domctl, Failure> {
        self.run_domctl(self.privcmd.call(0)?, domctl)
    }

    fn run_domctl(
        &self,
        mut call: Call<'_>,
        domctl: &Domctl,
    ) -> std::result::Result<Domctl, Failure> {
        let op = call.put(domctl)?;
        // SAFETY: the only address is `op`, one domctl; callers give payloads without addresses.
        unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
        Ok(call.get(&op)?)
    }

    /// A sysctl whose payload holds no address; the whole call as Xen left it.
    pub(crate) fn sysctl<T: Plain>(
        &self,
        op: &'static str,
        cmd: u32,
        payload: &T,
    ) -> Result<Sysctl> {
        self.with_sysctl_version(Site::host(op), |version| {
            self.run_sysctl(&Sysctl::new(version, cmd, payload))
        })
    }

    /// A sysctl without an address that Xen uses. The whole call as Xen left it.
    pub(crate) fn run_sysctl(&self, sysctl: &Sysctl) -> std::result::Result<Sysctl, Failure> {
        let mut call = self.privcmd.call(0)?;
        let op = call.put(sysctl)?;
        // SAFETY: the only address is `op`, one sysctl; callers give payloads without addresses.
        unsafe { call.run(HYPERVISOR_SYSCTL, &[op.address()]) }?;
        Ok(call.get(&op)?)
    }

    /// Finds the release whose domctls Xen takes, beginning with the one expected, and keeps it.
    fn settle_domctl(&self) -> Result<Release> {
        let expected = self.release();
        for release in candidates(expected, |release| release.interface().domctl) {
            if !self.refuses_domctl(release)? {
                self.release.store(release as u8, Ordering::Relaxed);
                return Ok(release);
            }
        }
        Err(self.unknown_version("domctl", |release| release.interface().domctl))
    }

    fn refuses_domctl(&self, release: Release) -> Result<bool> {
        let nobody = domctl::VcpuInfo {
            vcpu: 0,
            online: 0,
            blocked: 0,
            running: 0,
            pad: 0,
            cpu_time: 0,
            cpu: 0,
            pad2: 0,
        };
        let probe = Domctl::new(
            release.interface().domctl,
            domctl::GET_VCPU_INFO,
            DOMID_INVALID,
            &nobody,
        );
        match self.run_plain(&probe) {
            Err(Failure::Other(error)) => Err(error),
            Err(Failure::Xen(errno)) => Ok(errno == Errno::EACCES),
            Ok(_) => Ok(false),
        }
    }

    /// Finds the sysctl version that Xen accepts and keeps it. `None` if Xen refuses all, which means missing
    /// permission on a known release.
    fn settle_sysctl(&self) -> Result<Option<u32>> {
        for release in candidates(self.release(), |release| release.interface().sysctl) {
            let version = release.interface().sysctl;
            match self.run_sysctl(&Sysctl::new(
                version,
                sysctl::SCHED_ID,
                &sysctl::SchedId { sched_id: 0 },
            )) {
                Err(Failure::Other(error)) => return Err(error),
                Err(Failure::Xen(Errno::EACCES)) => {}
                _ => {
                    self.sysctl_version.store(version, Ordering::Relaxed);
                    return Ok(Some(version));
                }
            }
        }
        match Release::from_version(self.number.0, self.number.1) {
            Ok(_) => Ok(None),
            Err(_) => Err(self.unknown_version("sysctl", |release| release.interface().sysctl)),
        }
    }

    fn unknown_version(&self, interface: &'static str, version: fn(Release) -> u32) -> HvError {
        let known = Release::ALL.map(|release| format!("{:#x} of Xen {release}", version(release)));
        HvError::UnknownVersion {
            xen: format!("{}.{}", self.number.0, self.number.1),
            interface,
            known: known.join(", "),
        }
    }
}

/// `expected`, then the other releases from the newest on, one for each interface version.
fn candidates(expected: Release, version: fn(Release) -> u32) -> Vec<Release> {
    let mut candidates = vec![expected];
    for release in Release::ALL.into_iter().rev() {
        if candidates
            .iter()
            .all(|candidate| version(*candidate) != version(release))
        {
            candidates.push(release);
        }
    }
    candidates
}

fn xen_version(privcmd: &Privcmd) -> Result<(u16, u16)> {
    let mut call = privcmd.call(0)?;
    // SAFETY: XENVER_version takes no address.
    let answer = unsafe { call.run(HYPERVISOR_XEN_VERSION, &[version::VERSION.into()]) };
    let number = answer.map_err(|errno| Site::host("XENVER_version").error(errno))?;
    Ok(((number >> 16) as u16, number as u16))
}

/// A payload without addresses: Xen reads and writes nothing but the call itself.
pub(crate) trait Plain: IntoBytes + Immutable {}

macro_rules! plain {
    ($($payload:ty),* $(,)?) => { $(impl Plain for $payload {})* };
}

plain!(
    (),
    domctl::AddressSize,
    domctl::AssignDevice,
    domctl::DomainInfo,
    domctl::ExtVcpuContext,
    domctl::HypercallInit,
    domctl::IomemPermission,
    domctl::IoportPermission,
    domctl::IrqPermission,
    domctl::MaxMem,
    domctl::MaxVcpus,
    domctl::PagingMempool,
    domctl::SchedulerOp,
    domctl::SendTrigger,
    domctl::SetDomainHandle,
    domctl::SetTimeOffset,
    domctl::TscInfo,
    domctl::VcpuInfo,
    crate::state::ExtendedBytes,
    sysctl::PhysInfo,
    sysctl::SchedId,
    sysctl::SchedulerOp,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Xen>();
        shared::<crate::ForeignMemory>();
        shared::<crate::EventChannels>();
    }

    #[test]
    fn each_interface_version_is_tried_once_the_expected_first() {
        let tried = candidates(Release::V4_17, |release| release.interface().domctl);
        let versions: Vec<u32> = tried
            .iter()
            .map(|release| release.interface().domctl)
            .collect();
        assert_eq!(versions, [0x15, 0x18, 0x17, 0x16]);
        let tried = candidates(Release::V4_20, |release| release.interface().sysctl);
        assert_eq!(tried, [Release::V4_20, Release::V4_22]);
    }
}
