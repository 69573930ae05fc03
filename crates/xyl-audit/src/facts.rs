//! The facts about a host, each with its source.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use os_port::Files;
use serde::{Deserialize, Serialize};
use xen_port::{
    CpuPolicy, CpuTopology, Errno, HostCpuPolicy, HostFeatureset, HvError, Hypervisor, PhysInfo,
};

use crate::audit::CoreSharing;
use crate::boot_log::BootLog;
use crate::cpu::{self, CpuId, Vendor};

/// Folder in which domain 0's kernel reports its view of the CPU's weaknesses.
pub const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";

const CPUINFO: &str = "/proc/cpuinfo";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Changes whenever the kept file would be misread.
const FORMAT: u32 = 3;
/// Largest kept file that is read, in bytes.
const KEPT_MAX_BYTES: u64 = 1 << 20;

/// All facts about a host. `xyl audit` keeps the facts of a boot in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The format of the kept file.
    pub format: u32,
    /// Which boot of the host this was.
    pub boot_id: Option<String>,
    /// Version, build and command line of Xen.
    pub xen: XenFacts,
    /// Features of the host; `None` if Xen did not report them.
    pub abilities: Option<Abilities>,
    /// The CPU type; `None` if no source reports it.
    pub cpu: Option<Sourced<CpuId>>,
    /// Features of the CPU, by Xen's raw CPU policy.
    pub raw: Option<Vec<String>>,
    /// Features that Xen uses, by its host CPU policy.
    pub host: Option<Vec<String>>,
    /// Feature words of the host's featureset.
    pub featureset: Option<Vec<u32>>,
    /// Whether `MSR_ARCH_CAPABILITIES` is available.
    pub arch_caps: ArchCaps,
    /// Revision of the microcode.
    pub microcode: Option<Sourced<u32>>,
    /// Xen's boot log.
    pub log: BootLog,
    /// Vulnerabilities as domain 0's kernel reports them. It sees a virtual CPU, so they do not describe Xen.
    pub dom0_view: BTreeMap<String, String>,
    /// Which program serves xenstore; `None` if no process, or several, could be it.
    pub xenstored: Option<Sourced<StoreDaemon>>,
    /// Unit of scheduling: `cpu`, `core` or `socket`.
    pub granularity: Option<Sourced<String>>,
    /// Whether two online CPUs are threads of one core.
    pub has_siblings: Option<bool>,
    /// Sources that did not answer, and why.
    pub missing: Vec<String>,
    /// Whether one of them may answer when it is asked again: such facts are not kept.
    #[serde(skip)]
    pub is_passing: bool,
}

/// A program that serves xenstore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreDaemon {
    /// xenstored, written in C.
    C,
    /// oxenstored, written in OCaml.
    Ocaml,
}

impl StoreDaemon {
    /// The program of a process's name, as `/proc/PID/comm` has it.
    fn of_name(name: &str) -> Option<StoreDaemon> {
        match name {
            "xenstored" => Some(StoreDaemon::C),
            "oxenstored" => Some(StoreDaemon::Ocaml),
            _ => None,
        }
    }
}

/// A value and its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sourced<T> {
    /// The value of the fact.
    pub value: T,
    /// Name of the source, such as [`BOOT_LOG`].
    pub source: String,
}

impl<T> Sourced<T> {
    pub(crate) fn new(value: T, source: &str) -> Sourced<T> {
        Sourced {
            value,
            source: source.to_owned(),
        }
    }
}

/// Xen, by `XENVER_*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XenFacts {
    /// Major and minor number.
    pub version: Option<(u16, u16)>,
    /// The rest of the version, such as `.7`.
    pub extra: String,
    /// Changeset; often empty in a distribution's build.
    pub changeset: String,
    /// Guest types that Xen can run, as `xl info` prints them.
    pub capabilities: String,
    /// Xen's command line, without built-in options.
    pub command_line: String,
    /// Name and version of the compiler.
    pub compiler: String,
    /// Date of the compilation, as text.
    pub compile_date: String,
    /// Build id in hexadecimal; empty if Xen has none.
    pub build_id: String,
}

/// Abilities, by `XEN_SYSCTL_physinfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// PVH and HVM guests can run.
    pub hvm: bool,
    /// PV guests can run.
    pub pv: bool,
    /// The CPU has hardware-assisted paging (HAP).
    pub hap: bool,
    /// Xen supports shadow paging.
    pub shadow: bool,
    /// Threads of the first CPU's core that are online.
    pub threads_per_core: u32,
    /// CPUs that are online.
    pub nr_cpus: u32,
}

impl From<&PhysInfo> for Abilities {
    fn from(info: &PhysInfo) -> Abilities {
        Abilities {
            hvm: info.caps.hvm,
            pv: info.caps.pv,
            hap: info.caps.hap,
            shadow: info.caps.shadow,
            threads_per_core: info.threads_per_core,
            nr_cpus: info.nr_cpus,
        }
    }
}

/// Availability of `MSR_ARCH_CAPABILITIES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArchCaps {
    /// The CPU has no such register.
    Absent,
    /// The facts contain its value.
    Read,
    /// No source was asked.
    #[default]
    NotRead,
}

/// The answer to a yes-or-no question, or unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Yes, by this source.
    Yes(&'static str),
    /// No, by this source.
    No(&'static str),
    /// No source reports it.
    Unknown,
}

impl Known {
    /// Whether it is known to be so.
    #[must_use]
    pub fn is_yes(self) -> bool {
        matches!(self, Known::Yes(_))
    }

    /// Whether it is known not to be so.
    #[must_use]
    pub fn is_no(self) -> bool {
        matches!(self, Known::No(_))
    }
}

/// Name of a source: Xen's boot log.
pub const BOOT_LOG: &str = "boot log";
/// Name of a source: Xen's CPU policies.
pub const CPU_POLICY: &str = "CPU policy";
/// Name of a source: Xen's command line.
pub const COMMAND_LINE: &str = "command line";
/// Name of a source: a capability in Xen's physinfo.
pub const CAPABILITY: &str = "capability";
/// Name of a source: the kernel of domain 0.
pub const DOM0: &str = "domain 0's kernel";
/// Name of a source: the processes of domain 0.
pub const PROCESSES: &str = "processes of domain 0";
/// Name of a source: Xen's physinfo.
pub const PHYSINFO: &str = "physinfo";

/// Features that all of 4.17 to 4.22 print in the block if the CPU has them. If they are missing there, the CPU has
/// not got them.
const ALWAYS_PRINTED: &[&str] = &[
    "RDCL_NO",
    "SKIP_L1DFL",
    "SSB_NO",
    "MDS_NO",
    "TAA_NO",
    "RSBA",
    "IBPB",
    "IBRS",
    "STIBP",
    "SSBD",
    "L1D_FLUSH",
    "MD_CLEAR",
    "SRBDS_CTRL",
    "TSX_CTRL",
];

impl Facts {
    /// Reads all sources. Failures are recorded in [`Facts::missing`].
    #[must_use]
    pub fn gather(hv: &dyn Hypervisor, files: &dyn Files) -> Facts {
        let mut facts = Facts {
            format: FORMAT,
            boot_id: boot_id(files),
            ..Facts::default()
        };
        facts.ask_xen(hv);
        facts.ask_topology(hv);
        facts.ask_policies(hv);
        facts.ask_log(hv);
        facts.ask_dom0(files);
        facts.conclude();
        facts
    }

    /// The stored facts of this boot, or new ones, which are then stored.
    ///
    /// Command line, changeset and CPU are fixed until the next boot, after which `/run` is empty. CPUs can go
    /// offline and online (`xen-hptool`). `physical`, which the caller has just read, shows that; then the threads
    /// are read again. Only [`Facts::renew`] notices microcode that was loaded late. Live patches are not among the
    /// facts.
    #[must_use]
    pub fn of_this_boot(
        hv: &dyn Hypervisor,
        files: &dyn Files,
        run: &Path,
        physical: &PhysInfo,
    ) -> Facts {
        let Some(mut facts) = Facts::kept(files, run) else {
            return Facts::renew(hv, files, run);
        };
        let abilities = Abilities::from(physical);
        if facts.abilities != Some(abilities) {
            facts.abilities = Some(abilities);
            facts.ask_topology(hv);
            facts.keep(files, run);
        }
        facts
    }

    /// New facts, kept for [`Facts::of_this_boot`].
    #[must_use]
    pub fn renew(hv: &dyn Hypervisor, files: &dyn Files, run: &Path) -> Facts {
        let facts = Facts::gather(hv, files);
        facts.keep(files, run);
        facts
    }

    /// The facts kept from this boot of the host, if there are any; Xen is not asked.
    #[must_use]
    pub fn kept(files: &dyn Files, run: &Path) -> Option<Facts> {
        let bytes = files.read(&kept_path(run), KEPT_MAX_BYTES).ok()?;
        let facts: Facts = serde_json::from_slice(&bytes).ok()?;
        let same = facts.format == FORMAT && facts.boot_id.is_some();
        (same && facts.boot_id == boot_id(files)).then_some(facts)
    }

    /// Stores the facts. After an error the next caller gathers them again.
    fn keep(&self, files: &dyn Files, run: &Path) {
        if !self.is_passing && self.boot_id.is_some() {
            let _ = self.write(files, run);
        }
    }

    /// A file of two writers at once is no facts or those of one of them, and a later writer's takes the place of one that
    /// a dead writer has left.
    fn write(&self, files: &dyn Files, run: &Path) -> io::Result<()> {
        let path = kept_path(run);
        let new = path.with_extension("new");
        files.create_folder(run)?;
        files.write(&new, &serde_json::to_vec(self)?)?;
        files.rename(&new, &path)
    }

    /// Notes that a source did not answer.
    fn miss(&mut self, what: &str, error: &HvError) {
        self.is_passing |= is_passing(error);
        self.missing.push(format!("{what}: {error}"));
    }

    fn ask_topology(&mut self, hv: &dyn Hypervisor) {
        self.has_siblings = match hv.cpu_topology() {
            Ok(cpus) => self.siblings_among(&cpus),
            Err(error) => {
                self.miss("CPU topology", &error);
                None
            }
        };
    }

    fn ask_xen(&mut self, hv: &dyn Hypervisor) {
        match hv.version() {
            Ok(version) => {
                self.xen = XenFacts {
                    version: Some((version.major, version.minor)),
                    extra: version.extra,
                    changeset: version.changeset,
                    capabilities: version.capabilities,
                    command_line: version.command_line,
                    compiler: version.compiler,
                    compile_date: version.compile_date,
                    build_id: version.build_id,
                }
            }
            Err(error) => self.miss("Xen's version", &error),
        }
        match hv.phys_info() {
            Ok(info) => self.abilities = Some(Abilities::from(&info)),
            Err(error) => self.miss(PHYSINFO, &error),
        }
    }

    fn ask_policies(&mut self, hv: &dyn Hypervisor) {
        let raw = hv.host_cpu_policy(HostCpuPolicy::Raw);
        let host = hv.host_cpu_policy(HostCpuPolicy::Host);
        match (&raw, &host) {
            (Ok(raw), Ok(host)) => self.take_policies(raw, host),
            (Err(error), _) | (_, Err(error)) => {
                self.miss(CPU_POLICY, error);
            }
        }
        match hv.cpu_featureset(HostFeatureset::Host) {
            Ok(words) => self.featureset = Some(words),
            Err(error) => self.miss("featureset", &error),
        }
    }

    /// Reads the CPU from its raw policy, and the features that Xen uses from the host's.
    pub fn take_policies(&mut self, raw: &CpuPolicy, host: &CpuPolicy) {
        self.cpu = cpu::identify(raw).map(|cpu| Sourced::new(cpu, CPU_POLICY));
        let mut features = cpu::features(raw);
        // Older Xen does not put the register into the raw policy, but into the host's.
        let has = |policy: &CpuPolicy| {
            policy
                .msrs
                .iter()
                .any(|msr| msr.index == 0x10a && msr.value != 0)
        };
        self.arch_caps = if !features.iter().any(|name| name == "ARCH_CAPS") {
            ArchCaps::Absent
        } else if has(raw) || has(host) {
            ArchCaps::Read
        } else {
            ArchCaps::NotRead
        };
        let host = cpu::features(host);
        features.sort();
        self.raw = Some(features);
        self.host = Some(host);
    }

    fn ask_log(&mut self, hv: &dyn Hypervisor) {
        match hv.console_ring(false) {
            Ok(log) => self.take_log(&log),
            Err(error) => self.miss(BOOT_LOG, &error),
        }
    }

    /// Reads the boot log.
    pub fn take_log(&mut self, log: &[u8]) {
        self.log = BootLog::parse(log);
        if !self.log.has_block {
            self.missing.push(format!(
                "{BOOT_LOG}: the block \"Speculative mitigation facilities\" is not in the ring: it was cleared, or has wrapped (boot with a larger `conring_size=`)"
            ));
        }
    }

    fn ask_dom0(&mut self, files: &dyn Files) {
        if let Some(text) = small_file(files, Path::new(CPUINFO)) {
            self.take_cpuinfo(&text);
        }
        match files.list(Path::new(VULNERABILITIES)) {
            Ok(names) => {
                for name in names.into_iter().take(64) {
                    if let Some(text) = small_file(files, &Path::new(VULNERABILITIES).join(&name)) {
                        self.dom0_view.insert(name, text.trim().to_owned());
                    }
                }
            }
            Err(error) => self.missing.push(format!("{VULNERABILITIES}: {error}")),
        }
        self.xenstored = store_daemon(files).map(|daemon| Sourced::new(daemon, PROCESSES));
    }

    /// Adds the facts of `/proc/cpuinfo`.
    fn take_cpuinfo(&mut self, text: &str) {
        let value = |name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            })
        };
        let number = |name: &str| value(name).and_then(|text| text.parse::<u32>().ok());
        if self.cpu.is_none()
            && let (Some(vendor), Some(family), Some(model), Some(stepping)) = (
                value("vendor_id"),
                number("cpu family"),
                number("model"),
                number("stepping"),
            )
        {
            let vendor = Vendor::from_word(&vendor);
            let cpu = CpuId {
                vendor,
                family,
                model,
                stepping,
            };
            self.cpu = Some(Sourced::new(cpu, CPUINFO));
        }
        let revision = value("microcode")
            .and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        // A virtual CPU's is 0 or all ones.
        if let Some(revision) = revision.filter(|value| !matches!(*value, 0 | u32::MAX)) {
            self.microcode = Some(Sourced::new(revision, CPUINFO));
        }
    }

    fn conclude(&mut self) {
        if self.cpu.is_none() {
            self.cpu = self.log.cpu.map(|cpu| Sourced::new(cpu, BOOT_LOG));
        }
        if let Some(revision) = self.log.microcode {
            self.microcode
                .get_or_insert(Sourced::new(revision, BOOT_LOG));
        }
        let logged = self.log.granularity.clone();
        self.granularity = logged
            .map(|word| Sourced::new(word, BOOT_LOG))
            .or_else(|| Some(Sourced::new(self.option("sched-gran")?, COMMAND_LINE)));
    }

    /// Facts from a boot log alone.
    #[must_use]
    pub fn of_log(log: &[u8]) -> Facts {
        let mut facts = Facts::default();
        facts.take_log(log);
        facts.conclude();
        facts
    }

    /// The last value of an option on Xen's command line; of one without a value nothing.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<String> {
        self.xen
            .command_line
            .split_whitespace()
            .filter_map(|word| {
                let (key, value) = word.split_once('=').unwrap_or((word, ""));
                match key.strip_prefix("no-") {
                    Some(key) if key == name => Some("no".to_owned()),
                    _ => (key == name).then(|| value.to_owned()),
                }
            })
            .next_back()
    }

    /// All values of an option that can be given several times, comma separated parts apart.
    #[must_use]
    pub fn option_parts(&self, name: &str) -> Vec<String> {
        self.xen
            .command_line
            .split_whitespace()
            .filter_map(|word| word.split_once('=').filter(|(key, _)| *key == name))
            .flat_map(|(_, value)| value.split(','))
            .map(str::to_owned)
            .collect()
    }

    /// Whether the CPU has a feature, by Xen's name for it.
    #[must_use]
    pub fn feature(&self, name: &str) -> Known {
        let listed = |list: &Option<Vec<String>>| {
            list.as_ref()
                .is_some_and(|list| list.iter().any(|other| other == name))
        };
        if listed(&self.raw) || listed(&self.host) {
            return Known::Yes(CPU_POLICY);
        }
        // The name of the same mitigation in older releases of Xen.
        let old_name = match name {
            "EIBRS" => "IBRS_ALL",
            "IBRS" | "IBPB" => "IBRS/IBPB",
            other => other,
        };
        let logged = |list: &Option<Vec<String>>| {
            list.as_ref()
                .is_some_and(|list| list.iter().any(|other| other == name || other == old_name))
        };
        if logged(&self.log.hints) || logged(&self.log.features) {
            return Known::Yes(BOOT_LOG);
        }
        let in_register = cpu::is_in_arch_caps(name);
        if self.raw.is_some() && (!in_register || self.arch_caps != ArchCaps::NotRead) {
            return Known::No(CPU_POLICY);
        }
        if self.log.hints.is_some() && self.log.features.is_some() && ALWAYS_PRINTED.contains(&name)
        {
            return Known::No(BOOT_LOG);
        }
        Known::Unknown
    }

    /// Manufacturer of the CPU.
    #[must_use]
    pub fn vendor(&self) -> Option<Vendor> {
        self.cpu.as_ref().map(|cpu| cpu.value.vendor)
    }

    /// Whether domain 0's kernel counts the CPU as not affected by something, by the name of its file.
    #[must_use]
    pub fn dom0_says_not_affected(&self, name: &str) -> bool {
        self.dom0_view
            .get(name)
            .is_some_and(|text| text == "Not affected")
    }

    /// Whether two threads of one core are online. Xen lists all present CPUs, including those that `smt=0` keeps
    /// offline (`cpu_present` in `xen/common/sysctl.c`). It reports only the number of online ones.
    fn siblings_among(&self, present: &[CpuTopology]) -> Option<bool> {
        let mut cores: Vec<(u32, u32)> = present
            .iter()
            .filter_map(|cpu| cpu.location)
            .map(|(core, socket, _)| (core, socket))
            .collect();
        let nr_present = cores.len();
        cores.sort_unstable();
        cores.dedup();
        if cores.len() == nr_present {
            return Some(false);
        }
        let online = self.abilities?;
        let nr_cores = u32::try_from(cores.len()).unwrap_or(u32::MAX);
        if online.nr_cpus > nr_cores || online.threads_per_core > 1 {
            return Some(true);
        }
        // CPUs can go offline at run time in any order: a whole core, while another keeps both threads.
        let is_smt_off = self.option("smt").is_some_and(|value| is_no(&value));
        is_smt_off.then_some(false)
    }

    /// Whether guests of different owners may run on one core's threads.
    #[must_use]
    pub fn core_sharing(&self) -> CoreSharing {
        let granularity = self.granularity.as_ref().map(|word| word.value.as_str());
        match (self.has_siblings, granularity) {
            (Some(false), _) | (_, Some("core" | "socket")) => CoreSharing::No,
            // By default, the scheduler assigns single CPUs.
            (Some(true), Some("cpu") | None) => CoreSharing::Yes,
            _ => CoreSharing::Unknown,
        }
    }

    /// Whether bare 32-bit PV guests can run at all.
    #[must_use]
    pub fn has_pv32(&self) -> Known {
        if self.xen.capabilities.is_empty() {
            return Known::Unknown;
        }
        let has = self
            .xen
            .capabilities
            .split_whitespace()
            .any(|word| word == "xen-3.0-x86_32p");
        if has {
            Known::Yes(CAPABILITY)
        } else {
            Known::No(CAPABILITY)
        }
    }
}

fn kept_path(run: &Path) -> PathBuf {
    run.join("host-facts.json")
}

/// Whether a later try may succeed.
fn is_passing(error: &HvError) -> bool {
    let passing = [
        Errno::EINTR,
        Errno::EAGAIN,
        Errno::EBUSY,
        Errno::ENOMEM,
        Errno::EFAULT,
    ];
    matches!(error, HvError::Call { errno, .. } if passing.contains(errno))
}

/// Whether a word switches something off, as Xen reads it (`parse_bool`).
pub(crate) fn is_no(word: &str) -> bool {
    matches!(word, "no" | "off" | "false" | "0" | "disable")
}

fn boot_id(files: &dyn Files) -> Option<String> {
    small_file(files, Path::new(BOOT_ID)).map(|text| text.trim().to_owned())
}

/// The program that serves xenstore: the one of root's processes that has such a name. Another user's process can take any
/// name. With xenstored in a domain of its own there is none, and then it is not known.
fn store_daemon(files: &dyn Files) -> Option<StoreDaemon> {
    let proc = Path::new("/proc");
    let mut found = None;
    for pid in os_port::list_if_there(files, proc).ok()? {
        if pid.parse::<u32>().is_err() {
            continue;
        }
        let name = small_file(files, &proc.join(&pid).join("comm"));
        let Some(daemon) = name.and_then(|name| StoreDaemon::of_name(name.trim())) else {
            continue;
        };
        let status = small_file(files, &proc.join(&pid).join("status")).unwrap_or_default();
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        if !uids.is_some_and(|uids| uids.split_whitespace().eq(["0"; 4])) {
            continue;
        }
        if found.is_some_and(|other| other != daemon) {
            return None;
        }
        found = Some(daemon);
    }
    found
}

fn small_file(files: &dyn Files, path: &Path) -> Option<String> {
    let bytes = files.read(path, 4 << 20).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_command_line(text: &str) -> Facts {
        let mut facts = Facts::default();
        facts.xen.command_line = text.to_owned();
        facts
    }

    #[test]
    fn options_are_read_as_xen_reads_them() {
        let facts = with_command_line("xpti=no smt spec-ctrl=no,ibrs=1 spec-ctrl=rsb xpti=dom0");
        assert_eq!(facts.option("xpti").as_deref(), Some("dom0"));
        assert_eq!(facts.option("smt").as_deref(), Some(""));
        assert_eq!(facts.option("pv"), None);
        assert_eq!(facts.option_parts("spec-ctrl"), ["no", "ibrs=1", "rsb"]);
        let facts = with_command_line("smt no-smt");
        assert_eq!(facts.option("smt").as_deref(), Some("no"));
        let facts = with_command_line("no-smt smt=1");
        assert_eq!(facts.option("smt").as_deref(), Some("1"));
    }

    #[test]
    fn absent_is_no_only_where_the_source_would_tell() {
        let log = b"(XEN) Booting\n(XEN) Speculative mitigation facilities:\n(XEN)   Hardware hints: RDCL_NO\n(XEN)   Hardware features: IBPB\n";
        let mut facts = Facts::of_log(log);
        assert_eq!(facts.feature("RDCL_NO"), Known::Yes(BOOT_LOG));
        assert_eq!(facts.feature("MDS_NO"), Known::No(BOOT_LOG));
        assert_eq!(facts.feature("ITS_NO"), Known::Unknown, "no Xen prints it");
        assert_eq!(
            facts.feature("TSA_SQ_NO"),
            Known::Unknown,
            "not all Xen print it"
        );
        facts.raw = Some(Vec::new());
        assert_eq!(facts.feature("TSA_SQ_NO"), Known::No(CPU_POLICY));
        assert_eq!(
            facts.feature("ITS_NO"),
            Known::Unknown,
            "the register was not read"
        );
        facts.arch_caps = ArchCaps::Absent;
        assert_eq!(facts.feature("ITS_NO"), Known::No(CPU_POLICY));
    }

    #[test]
    fn threads_share_a_core_unless_something_says_otherwise() {
        let mut facts = with_command_line("");
        assert_eq!(facts.core_sharing(), CoreSharing::Unknown);
        let at = |core, socket| CpuTopology {
            location: Some((core, socket, 0)),
        };
        let absent = CpuTopology { location: None };
        let mut sharing = |command_line: &str, nr_cpus, threads_per_core, present: &[_]| {
            facts.xen.command_line = command_line.to_owned();
            facts.abilities = Some(Abilities {
                nr_cpus,
                threads_per_core,
                hvm: true,
                pv: true,
                hap: true,
                shadow: false,
            });
            facts.has_siblings = facts.siblings_among(present);
            facts.core_sharing()
        };
        let single = [at(0, 0), absent, at(1, 0), at(0, 1)];
        assert_eq!(sharing("", 3, 1, &single), CoreSharing::No);
        // The first core's second thread is absent, another core's is not.
        let mixed = [at(0, 0), absent, at(1, 0), at(1, 0)];
        assert_eq!(sharing("", 3, 1, &mixed), CoreSharing::Yes);
        let double = [at(0, 0), at(0, 0), at(1, 0), at(1, 0)];
        assert_eq!(sharing("", 4, 2, &double), CoreSharing::Yes);
        // The second threads are parked; switched on at run time; some CPUs taken offline by hand.
        assert_eq!(sharing("smt=0", 2, 1, &double), CoreSharing::No);
        assert_eq!(sharing("smt=off", 4, 2, &double), CoreSharing::Yes);
        assert_eq!(sharing("", 2, 2, &double), CoreSharing::Yes);
        assert_eq!(sharing("", 2, 1, &double), CoreSharing::Unknown);
        facts.granularity = Some(Sourced::new("core".to_owned(), COMMAND_LINE));
        assert_eq!(facts.core_sharing(), CoreSharing::No);
    }
}
